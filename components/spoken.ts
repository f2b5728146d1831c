import * as pulumi from "@pulumi/pulumi";

import { defaultSettings } from "./host/hostOptions";
import { hostOnly as hostOnlyOf } from "./host/ruleset";
import { changes, hostChanges, reachable } from "./policy/changes";
import { exposed, readExposure } from "./policy/exposure";
import { isRecord } from "./policy/faults";
import type { Policy } from "./policy/policy";

/** What a component shows; it registers `exposure`, of the policy, and `hostOnly` as outputs, and finds them there next time. */
interface Shown {
  readonly policy?: Policy;
  readonly hostOnly?: Readonly<Record<string, string>>;
}

/**
 * Says in words what changes, in a preview: under "Diagnostics", where nothing is cut, and with `--diff` on standard error.
 *
 * Only in a preview. In the update that follows, the former outputs are gone from the state as soon as the component's
 * registration is written to it, and all has been said.
 */
export function speak(component: pulumi.Resource, name: string, shown: Shown): void {
  if (!pulumi.runtime.isDryRun() || (!shown.policy && !shown.hostOnly)) return;
  const outputs = formerOutputs();
  void component.urn.apply(async (urn) => {
    const former = await outputs;
    if (!former) return;
    const said = sentences(former[urn]?.outputs, urn in former, shown).map((one) => `${name}: ${one}`);
    if (said.length > 0) await pulumi.log.info(said.join("\n"), component);
  });
}

type Former = Record<string, { outputs?: Record<string, unknown> }>;

/**
 * The outputs of all resources of this stack, as the last update has left them. A component is not told what it was, but the
 * engine's built-in provider, behind `StackReference`, knows the stack's own state, too. It hands over all of it, secrets
 * included, which this program has in its config; the caller reads its own `exposure` and `hostOnly`, and drops the rest.
 *
 * @returns undefined where it cannot be had: an engine or a mock that does not know it, a backend that denies it. A preview is
 * worth more than its words.
 */
async function formerOutputs(): Promise<Former | undefined> {
  try {
    const stackName = [pulumi.getOrganization(), pulumi.getProject(), pulumi.getStack()].join("/");
    const answer: unknown = await pulumi.runtime.invoke("pulumi:pulumi:readStackResourceOutputs", { stackName });
    return isRecord(answer) && isRecord(answer.outputs) ? (answer.outputs as Former) : undefined;
  } catch (error) {
    await pulumi.log.debug(`mail-firewall: what the stack was before is not known: ${String(error)}`);
    return undefined;
  }
}

function sentences(former: Record<string, unknown> | undefined, exists: boolean, shown: Shown): string[] {
  const { policy, hostOnly = {} } = shown;
  const formerHosts = isTexts(former?.hostOnly) ? former.hostOnly : undefined;
  const hosts = hostChanges(formerHosts, hostOnly, hostOnlyOf(defaultSettings));
  if (!policy) return hosts;
  const before = readExposure(former?.exposure);
  if (before) {
    const said = [...changes(before, exposed(policy)), ...hosts];
    return said.length > 0 ? said : ["no change in what is reachable"];
  }
  const unknown =
    "the state does not say what was reachable before (an update that failed, or another version); what will be:";
  return [...(exists ? [unknown] : []), ...reachable(exposed(policy)), ...hosts];
}

function isTexts(value: unknown): value is Record<string, string> {
  return isRecord(value) && Object.values(value).every((text) => typeof text === "string");
}
