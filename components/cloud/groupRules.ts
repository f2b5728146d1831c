import type { Cidr } from "../policy/cidr";
import type { Faults } from "../policy/faults";
import type { Rule } from "../policy/policy";
import type { CloudRule } from "./reach";

/** What a security group enforces and the host does not, each with its reason. Nothing yet: every group rule has its twin. */
export const cloudOnly: Readonly<Record<string, string>> = {};

/** The arguments of one `aws.vpc.SecurityGroupIngressRule` or `SecurityGroupEgressRule`. */
export interface GroupRule {
  /**
   * The logical name, made of the tuple by which AWS tells rules apart (direction, protocol, ports, source) and of nothing
   * else: Pulumi creates before it deletes, so a rule under a new name with the old content would be refused as a duplicate.
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
}

/**
 * Rules per direction and family of one security group: AWS's default quota, counted for IPv4 and IPv6 apart.
 *
 * Source: Amazon VPC quotas, "Inbound or outbound rules per security group".
 */
export const quota = 60;

/** The rules of a policy as a security group takes them, one source each. */
export function groupRules(rules: readonly Rule[]): GroupRule[] {
  return rules.map((rule) => {
    const direction = rule.direction === "in" ? "ingress" : "egress";
    const ports =
      rule.port !== undefined
        ? { fromPort: rule.port, toPort: rule.port }
        : rule.icmpType !== undefined
          ? { fromPort: rule.icmpType, toPort: -1 }
          : {};
    return {
      name: [direction, rule.protocol, rule.port ?? rule.icmpType, sourceName(rule.source)]
        .filter((part) => part !== undefined)
        .join("-"),
      direction,
      args: {
        ipProtocol: rule.protocol === "all" ? "-1" : rule.protocol,
        ...ports,
        [rule.family === 4 ? "cidrIpv4" : "cidrIpv6"]: rule.source.text,
        description: `${rule.service}: ${rule.reason}`,
      },
    };
  });
}

/** A rule as AWS will have it, read from its arguments. */
export function cloudRule({ direction, args }: GroupRule): CloudRule {
  const network = args.cidrIpv4 ?? args.cidrIpv6;
  return { ...args, direction, networks: network === undefined ? undefined : [network] };
}

/** A network in a logical name: as the AWS console says it, and without the `::` that separates the parts of a URN. */
function sourceName(source: Cidr): string {
  return source.prefix === 0 ? `anywhere-ipv${source.family}` : source.text.replaceAll(":", "-");
}

/** Adds a fault for each direction and family that has more rules than AWS takes. */
export function checkQuota(rules: readonly Rule[], path: string, faults: Faults): void {
  for (const direction of ["in", "out"] as const) {
    for (const family of [4, 6] as const) {
      const count = rules.filter((rule) => rule.direction === direction && rule.family === family).length;
      if (count <= quota) continue;
      faults.add(
        path,
        `makes ${count} ${direction}bound IPv${family} rules, and a security group takes ${quota}; name fewer or wider networks`,
      );
    }
  }
}
