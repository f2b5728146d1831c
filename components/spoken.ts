import * as pulumi from "@pulumi/pulumi";

import { defaultSettings } from "./host/hostOptions";
import { hostOnly as hostOnlyOf } from "./host/residue";
import { changes, hostChanges, reachable } from "./policy/changes";
import { exposed, readExposure } from "./policy/exposure";
import { isRecord } from "./policy/faults";
import type { Policy } from "./policy/policy";

/**
 * What a component shows. It registers the same as outputs (`exposure`, of the policy, `hostOnly`, and of the parts `hosts` and
 * `securityGroupId`), and finds them there next time.
 */
interface Shown {
  readonly policy?: Policy;
  readonly hostOnly?: Readonly<Record<string, string>>;
  /** The hosts, and whether there is a security group, of a firewall that has several parts. */
  readonly parts?: { readonly hosts: readonly string[]; readonly group: boolean };
}

/**
 * Says in words what changes, in a preview: under "Diagnostics", where nothing is cut, and with `--diff` on standard error.
 *
 * Only in a preview: in the update that follows, the former outputs are gone from the state as soon as the component's
 * registration is written to it, and all has been said. It asks there, too, because the engine makes a default provider to
 * answer, which `pulumi up --plan` would miss.
 */
export function speak(component: pulumi.Resource, name: string, shown: Shown): void {
  if (!shown.policy && !shown.hostOnly) return;
  const outputs = formerOutputs();
  void component.urn.apply(async (urn) => {
    const former = await outputs;
    if (!former || !pulumi.runtime.isDryRun()) return;
    const said = sentences(former[urn]?.outputs, urn in former, shown).map((one) => `${name}: ${one}`);
    if (said.length > 0) await pulumi.log.info(said.join("\n"), component);
  });
}

type Former = Record<string, { outputs?: Record<string, unknown> }>;

/**
 * The outputs of all resources of this stack, as the last update has left them. A component is not told what it was, but the
 * engine's built-in provider, behind `StackReference`, knows the stack's own state, too. It hands over all of it, secrets
 * included, which this program has in its config; the caller reads the outputs of its own that it shows, and drops the rest.
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
  const { policy, hostOnly = {}, parts } = shown;
  const formerHosts = isTexts(former?.hostOnly) ? former.hostOnly : undefined;
  const hosts = hostChanges(formerHosts, hostOnly, hostOnlyOf(defaultSettings));
  if (!policy) return hosts;
  const before = readExposure(former?.exposure);
  if (before) {
    const [were, are] = [formerParts(former!), parts ? partsOf(parts) : []];
    const said = [
      // First, because all that such a host serves may become reachable.
      ...were
        .filter((part) => parts && !are.includes(part))
        .map((part) => `${part} is no longer part of this firewall`),
      ...changes(before, exposed(policy)),
      ...are.filter((part) => !were.includes(part)).map((part) => `${part} is now part of this firewall`),
      ...hosts,
    ];
    return said.length > 0 ? said : ["no change in what is reachable"];
  }
  const unknown =
    "the state does not say what was reachable before (an update that failed, or another version); what will be:";
  return [...(exists ? [unknown] : []), ...reachable(exposed(policy)), ...hosts];
}

function formerParts({ hosts, securityGroupId }: Record<string, unknown>): string[] {
  return partsOf({ hosts: isRecord(hosts) ? Object.keys(hosts) : [], group: securityGroupId !== undefined });
}

function partsOf({ hosts, group }: { hosts: readonly string[]; group: boolean }): string[] {
  return [...hosts.map((name) => `host ${name}`).sort(), ...(group ? ["the security group"] : [])];
}

function isTexts(value: unknown): value is Record<string, string> {
  return isRecord(value) && Object.values(value).every((text) => typeof text === "string");
}
