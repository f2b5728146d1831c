import * as pulumi from "@pulumi/pulumi";

import type { AwsArgs } from "./cloud/securityGroup";
import type { LogIn } from "./host/connection";
import type { HostOptions, HostSettings } from "./host/hostOptions";
import { hostOnly, otherwise } from "./host/residue";
import { exposure } from "./policy/exposure";
import { warnings, type Policy, type PolicyArgs } from "./policy/policy";

export interface Declaration {
  readonly name: string;
  readonly args: Required<PolicyArgs>;
  readonly host: HostOptions;
  readonly settings: HostSettings;
  readonly policy: Policy;
  readonly logIn: LogIn;
  /** Where there is a security group, with which every host must agree. */
  readonly aws: AwsArgs | undefined;
  /** The names that the components of its own hosts have: where they differ, its output `hostOnly` says so. */
  readonly hosts: readonly string[];
  readonly hostsAtOnce: boolean;
  /** The host that was declared last, after which the next one changes. */
  latest: pulumi.Resource | undefined;
  /** The hosts behind each bastion, by its place, in their order. */
  readonly behind: Map<unknown, pulumi.Resource[]>;
}

/**
 * What `MailFirewall`s have declared, for their children. A map beside the class, because a private field would become an
 * output in the schema of the multi-language package.
 */
export const declared = new WeakMap<pulumi.Resource, Declaration>();

/**
 * The part of a component's inputs that shows its policy in a preview: service → who can reach it. Empty below a `MailFirewall`
 * that shows the same already; every changed line would stand there again for each host.
 */
export function policyInputs(policy: Policy, opts: pulumi.ComponentResourceOptions | undefined) {
  return showsPolicy(policy, opts) ? { exposure: exposure(policy) } : {};
}

/** What a host enforces that a security group cannot say, as far as no `MailFirewall` above says it; undefined if that says all. */
export function hostOnlyBeside(
  name: string,
  settings: HostSettings,
  policy: Policy,
  opts: pulumi.ComponentResourceOptions | undefined,
): Record<string, string> | undefined {
  const above = opts?.parent && declared.get(opts.parent);
  if (!above || showsPolicy(policy, opts)) return hostOnly(settings);
  return above.hosts.includes(name) ? undefined : otherwise(hostOnly(above.settings), hostOnly(settings));
}

/**
 * Says what is unusual about a policy, where it is shown.
 *
 * @param group whether the component has a security group.
 */
export function warn(
  component: pulumi.Resource,
  policy: Policy,
  group: boolean,
  opts: pulumi.ComponentResourceOptions | undefined,
) {
  if (!showsPolicy(policy, opts)) return;
  for (const warning of warnings(policy, group)) void pulumi.log.warn(warning, component);
}

function showsPolicy(policy: Policy, opts: pulumi.ComponentResourceOptions | undefined): boolean {
  const above = opts?.parent && declared.get(opts.parent);
  return !above || JSON.stringify(exposure(above.policy)) !== JSON.stringify(exposure(policy));
}
