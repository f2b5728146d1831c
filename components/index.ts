export { MailSecurityGroup, type AwsArgs, type MailSecurityGroupArgs } from "./cloud/securityGroup";
export { compareLive, type Live } from "./compare";
export type { BastionArgs, HostArgs } from "./host/hostArgs";
export type { HostOptions } from "./host/hostOptions";
export { HostFirewall, type HostFirewallArgs } from "./host/hostFirewall";
export { MailFirewall, type MailFirewallArgs } from "./mailFirewall";
export { exposureReadme } from "./policy/picture";
export type { EgressArgs, PolicyArgs, PortArgs } from "./policy/policy";
