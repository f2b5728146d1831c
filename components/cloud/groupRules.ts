import type { Cidr, Family } from "../policy/cidr";
import type { Faults } from "../policy/faults";
import { isPublic, text, type Policy, type Rule } from "../policy/policy";
import type { CloudRule } from "./reach";

/**
 * What only the cloud does, be it the group or AWS by itself, each with its reason. It is an output and no log line:
 * shown when the group is created and when it changes, and silent in the previews between.
 *
 * - Outbound traffic: an egress that is not open.
 * - Outbound mail: "Amazon EC2 restricts traffic on port 25 of all instances by default"; a form lifts that for an
 *   account in a region. Source: Amazon EC2 User Guide, "Amazon EC2 service quotas".
 * - Idle connections: a flow is not tracked where its rule names everyone and the other direction lets all pass; one
 *   that is tracked is forgotten after 350 s of silence on Nitro v6 instances, elsewhere after 5 days. Source: Amazon
 *   EC2 User Guide, "Security group connection tracking". A client in IMAP IDLE may be silent for 29 minutes (RFC
 *   2177); Dovecot says something every 2 (imap_idle_notify_interval).
 */
export function cloudOnly({ services, egress }: Policy): Record<string, string> {
  const restricted = egress.mode !== "open";
  const relayed = egress.relay.length > 0;
  const mail = relayed ? `submission (tcp/465, tcp/587) to ${text(egress.relay)}` : "mail (tcp/25)";
  const tracked = (["imap", "imaps"] as const).filter(
    (name) => services[name].length > 0 && (restricted || !isPublic(services[name])),
  );
  return {
    ...(restricted && {
      "outbound traffic": `only ${mail}, DNS, NTP, HTTP, HTTPS and ICMP: a host does not restrict what it sends`,
    }),
    ...(!relayed && { "outbound mail": "tcp/25 is throttled by AWS, by account and region, until you ask for more" }),
    ...(tracked.length > 0 && {
      "idle connections": `${tracked.join(", ")}: tracked, so forgotten after 350 s on Nitro v6; IDLE must notify sooner`,
    }),
  };
}

/** Networks of one family under one id, which several rules may name as their source. */
export interface PrefixList {
  /** The logical name: that of the first rule that refers to it. Its networks may change without it. */
  readonly name: string;
  /** The arguments of an `aws.ec2.ManagedPrefixList`. */
  readonly args: {
    readonly addressFamily: "IPv4" | "IPv6";
    /**
     * Without descriptions: the provider cannot change one (terraform-provider-aws #43528), and one list has several
     * services.
     */
    readonly entries: readonly { readonly cidr: string }[];
    /**
     * As many as there are entries: this number, not the entries, is the weight of a rule that refers to the list, so
     * that each spare one would cost a rule in every one of them. It grows and shrinks in place like the entries, and
     * what it grows to is checked before. Source: Amazon VPC User Guide, "Customer-managed prefix lists", and quotas.
     */
    readonly maxEntries: number;
  };
}

/** The arguments of one `aws.vpc.SecurityGroupIngressRule` or `SecurityGroupEgressRule`. */
export interface GroupRule {
  /**
   * The logical name, made of the tuple by which AWS tells rules apart (direction, protocol, ports, source) and of
   * nothing else: Pulumi creates before it deletes, so a rule under a new name with the old content would be refused as
   * a duplicate.
   */
  readonly name: string;
  readonly direction: "ingress" | "egress";
  readonly args: {
    readonly ipProtocol: string;
    /** Port, or ICMP type; left out where the protocol is `-1`, all. */
    readonly fromPort?: number;
    /** Port, or ICMP code; -1 is any code. */
    readonly toPort?: number;
    readonly cidrIpv4?: string;
    readonly cidrIpv6?: string;
    readonly description: string;
  };
  /**
   * The source, where it is no CIDR: the rule's `prefixListId` is the id of this list. Rules that share one hold the
   * same object.
   */
  readonly list?: PrefixList;
}

/**
 * Rules per direction and family of one security group: AWS's default quota, counted for IPv4 and IPv6 apart; a prefix
 * list counts as its `maxEntries`.
 *
 * Source: Amazon VPC quotas, "Inbound or outbound rules per security group".
 */
export const quota = 60;

/**
 * The most that AWS raises the quota to: it, times the groups of a network interface, cannot exceed this. Source: the
 * same.
 */
export const highestQuota = 1000;

/**
 * The rules of a policy as a security group takes them: one source each, or, with `prefixLists`, one list of sources
 * where there are two networks or more of one family. Services with the same networks share their list.
 */
export function groupRules(rules: readonly Rule[], { prefixLists = false } = {}): GroupRule[] {
  if (!prefixLists) return rules.map((rule) => groupRule(rule));
  const doors = new Map<string, Rule[]>();
  for (const rule of rules) {
    const door = `${tuple(rule, `ipv${rule.family}`)}`;
    doors.set(door, [...(doors.get(door) ?? []), rule]);
  }
  const lists = new Map<string, PrefixList>();
  return [...doors.values()].flatMap((same) => {
    const [first] = same as [Rule, ...Rule[]];
    if (same.length === 1) return groupRule(first);
    const networks = same.map(({ source }) => source.text);
    const name = tuple(first, `networks-ipv${first.family}`);
    const list = lists.get(networks.join()) ?? prefixList(name, first.family, networks);
    lists.set(networks.join(), list);
    return { ...groupRule(first), name, args: commonArgs(first), list };
  });
}

/** A rule as AWS will have it, read from its arguments. */
export function cloudRule({ direction, args, list }: GroupRule): CloudRule {
  const network = args.cidrIpv4 ?? args.cidrIpv6;
  const networks = list ? list.args.entries.map(({ cidr }) => cidr) : network === undefined ? undefined : [network];
  return { ...args, direction, networks };
}

function groupRule(rule: Rule): GroupRule {
  return {
    name: tuple(rule, sourceName(rule.source)),
    direction: directionOf(rule),
    args: { ...commonArgs(rule), [rule.family === 4 ? "cidrIpv4" : "cidrIpv6"]: rule.source.text },
  };
}

/** All arguments but the source. */
function commonArgs({ protocol, port, icmpType, service, reason }: Rule): GroupRule["args"] {
  const ports =
    port !== undefined
      ? { fromPort: port, toPort: port }
      : icmpType !== undefined
        ? { fromPort: icmpType, toPort: -1 }
        : {};
  return { ipProtocol: protocol === "all" ? "-1" : protocol, ...ports, description: `${service}: ${reason}` };
}

function prefixList(name: string, family: Family, networks: readonly string[]): PrefixList {
  const entries = networks.map((cidr) => ({ cidr }));
  return { name, args: { addressFamily: family === 4 ? "IPv4" : "IPv6", entries, maxEntries: entries.length } };
}

const directionOf = (rule: Rule) => (rule.direction === "in" ? "ingress" : "egress");

function tuple(rule: Rule, source: string): string {
  return [directionOf(rule), rule.protocol, rule.port ?? rule.icmpType, source]
    .filter((part) => part !== undefined)
    .join("-");
}

/** A network in a logical name: as the AWS console says it, and without the `::` that separates the parts of a URN. */
function sourceName(source: Cidr): string {
  return source.prefix === 0 ? `anywhere-ipv${source.family}` : source.text.replaceAll(":", "-");
}

/**
 * Adds a fault for each direction and family that has more rules than the group takes.
 *
 * @param limit the quota of the account.
 */
export function checkQuota(found: readonly GroupRule[], limit: number, path: string, faults: Faults): void {
  for (const direction of ["ingress", "egress"] as const) {
    for (const family of ["IPv4", "IPv6"] as const) {
      const weights = found
        .filter((rule) => rule.direction === direction && familyOf(rule) === family)
        .map(({ list }) => list?.args.maxEntries ?? 1);
      const count = weights.reduce((sum, weight) => sum + weight, 0);
      if (count <= limit) continue;
      const bound = direction === "ingress" ? "inbound" : "outbound";
      const raise = `, or have AWS raise "Inbound or outbound rules per security group" and write rulesPerGroup: ${count}`;
      faults.add(
        path,
        `makes ${count} ${bound} ${family} rules, and a security group takes ${limit}; ` +
          `name fewer or wider networks${count > highestQuota ? "" : raise}`,
      );
    }
  }
}

function familyOf({ args, list }: GroupRule): "IPv4" | "IPv6" {
  return list?.args.addressFamily ?? (args.cidrIpv4 === undefined ? "IPv6" : "IPv4");
}
