/**
 * A mail server's firewall, as components of Pulumi. All are [component resources](https://www.pulumi.com/docs/iac/concepts/components/).
 *
 * Arguments are plain values, so that every preview knows every rule, but for those whose type is `Input`: these may be outputs
 * of other resources. What is wrong with them is one `RunError` with a line for each fault, before anything is touched.
 *
 * @packageDocumentation
 */
export { MailSecurityGroup, type AwsArgs, type MailSecurityGroupArgs } from "./cloud/securityGroup";
export { compareLive, type Live } from "./compare";
export type { BastionArgs, HostArgs } from "./host/hostArgs";
export type { HostOptions } from "./host/hostOptions";
export { HostFirewall, type HostFirewallArgs } from "./host/hostFirewall";
export { MailFirewall, type MailFirewallArgs } from "./mailFirewall";
export { exposureReadme } from "./policy/picture";
export type { EgressArgs, PolicyArgs, PortArgs } from "./policy/policy";
