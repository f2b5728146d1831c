import type * as pulumi from "@pulumi/pulumi";

import { exposure } from "./policy/exposure";
import type { Policy, PolicyArgs } from "./policy/policy";

/**
 * The policies that `MailFirewall`s have declared. Their children share them. A map beside the class, because a private field
 * would become an output in the schema of the multi-language package.
 */
export const declared = new WeakMap<
  pulumi.Resource,
  { readonly name: string; readonly policy: Required<PolicyArgs> }
>();

/**
 * The part of a component's inputs that shows its policy in a preview: service → who can reach it. Empty below a `MailFirewall`,
 * which shows it already; every changed line would stand there again for each host.
 */
export function policyInputs(policy: Policy, opts: pulumi.ComponentResourceOptions | undefined) {
  return opts?.parent && declared.has(opts.parent) ? {} : { exposure: exposure(policy) };
}
