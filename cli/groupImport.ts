import type { GroupRule } from "../components/cloud/groupRules";
import { quote } from "./ask";
import type { State } from "./state";

/**
 * The part of a rule that is read here. Source: Amazon EC2 API reference, SecurityGroupRule, as `aws ec2
 * describe-security-group-rules` prints it.
 */
export interface LiveRule {
  SecurityGroupRuleId: string;
  GroupId: string;
  IsEgress: boolean;
  IpProtocol: string;
  /** -1 where the protocol, or its ICMP type or code, is any. */
  FromPort?: number;
  ToPort?: number;
  CidrIpv4?: string;
  CidrIpv6?: string;
  PrefixListId?: string;
  ReferencedGroupInfo?: { GroupId?: string };
  Description?: string;
}

export interface ImportPlan {
  /** One `pulumi import` for each rule that is there, is wanted, and is in nobody's state yet. */
  readonly commands: readonly string[];
  /** The rules that are there and that the policy does not want, one a line. */
  readonly others: readonly string[];
}

/** Reads what `aws ec2 describe-security-group-rules` has printed, which is of one group. */
export function readLiveRules(text: string, groupId: string): LiveRule[] {
  const { SecurityGroupRules: rules } = JSON.parse(text) as { SecurityGroupRules?: LiveRule[] };
  if (!Array.isArray(rules)) {
    throw new Error(
      `no SecurityGroupRules in this file; make it with aws ec2 describe-security-group-rules --filters Name=group-id,Values=${groupId}`,
    );
  }
  const other = rules.find((rule) => rule.GroupId !== groupId);
  if (other)
    throw new Error(`this file has rules of ${other.GroupId}, and the stack's aws.securityGroupId is ${groupId}`);
  const odd = rules.find((rule) => !/^sgr-[0-9a-f]+$/.test(rule.SecurityGroupRuleId));
  if (odd) throw new Error(`${JSON.stringify(odd.SecurityGroupRuleId)} in this file is not the id of a rule`);
  return rules;
}

/** The URN of the `MailSecurityGroup` of this name in a state. */
export function groupUrn({ deployment: { resources = [] } }: State, name: string): string | undefined {
  const type = "mail-firewall:index:MailSecurityGroup";
  return resources.find((one) => one.type === type && one.urn.endsWith(`${type}::${name}`))?.urn;
}

/**
 * What adopts the rules of a group that exists.
 *
 * A rule whose source is a prefix list is never adopted: which list that is, no policy says.
 *
 * @param urn of the `MailSecurityGroup` that adopts them.
 */
export function planImport(
  live: readonly LiveRule[],
  wanted: readonly GroupRule[],
  urn: string,
  state: State,
): ImportPlan {
  const group = urn.split("::").slice(3).join("::");
  const ours = new Map(wanted.filter(({ list }) => list === undefined).map((rule) => [tuple(rule), rule]));
  const known = new Set((state.deployment.resources ?? []).map(({ id }) => id));
  const commands: string[] = [];
  const others: string[] = [];
  for (const rule of live) {
    const { SecurityGroupRuleId: id, IsEgress, IpProtocol, FromPort, ToPort, Description } = rule;
    const source = rule.CidrIpv4 ?? rule.CidrIpv6 ?? rule.PrefixListId ?? rule.ReferencedGroupInfo?.GroupId;
    const direction = IsEgress ? "egress" : "ingress";
    const ports = IpProtocol === "-1" ? [] : [FromPort, ToPort];
    const match = ours.get(JSON.stringify([direction, IpProtocol, ...ports, source]));
    if (match && known.has(id)) continue;
    if (!match) {
      const what = IpProtocol === "-1" ? "all" : `${IpProtocol}/${[...new Set([FromPort, ToPort])].join("-")}`;
      const said = Description === undefined ? "" : ` (${Description})`;
      others.push(
        `${id}: ${direction} ${what} ${IsEgress ? "to" : "from"} ${source}${said}`.replace(/[^\x20-\x7e]/g, "?"),
      );
      continue;
    }
    const kind = IsEgress ? "EgressRule" : "IngressRule";
    commands.push(
      `pulumi import aws:vpc/securityGroup${kind}:SecurityGroup${kind} ${quote(`${group}-${match.name}`)} ${id} ` +
        `--parent ${quote(`${group}=${urn}`)} --protect=false --generate-code=false --yes`,
    );
  }
  return { commands, others };
}

/** That by which AWS tells rules apart. */
function tuple({ direction, args: { ipProtocol, fromPort, toPort, cidrIpv4, cidrIpv6 } }: GroupRule): string {
  const ports = ipProtocol === "-1" ? [] : [fromPort, toPort];
  return JSON.stringify([direction, ipProtocol, ...ports, cidrIpv4 ?? cidrIpv6]);
}
