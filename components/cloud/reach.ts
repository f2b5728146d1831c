import { parseCidr, type Cidr, type Family } from "../policy/cidr";
import {
  addressesOf,
  allAddresses,
  allPorts,
  allProtocols,
  icmpPorts,
  merged,
  protocol,
  protocolNumbers,
  type Region,
  type Span,
} from "../policy/regions";

/** A rule as AWS has it: what the arguments of a rule resource say, and what `aws ec2 describe-security-group-rules` prints. */
export interface CloudRule {
  readonly direction: "ingress" | "egress";
  /** `tcp`, `udp`, `icmp`, `icmpv6`, a protocol number, or `-1`: all. */
  readonly ipProtocol: string;
  /** The first port; of ICMP, the type, -1 for all. Without meaning for other protocols. */
  readonly fromPort?: number | undefined;
  /** The last port; of ICMP, the code, -1 for all. */
  readonly toPort?: number | undefined;
  /** The networks of its source, or of its destination: one, or those of a prefix list. Undefined: others than networks. */
  readonly networks?: readonly string[] | undefined;
}

/** What a group admits: `surely`, and `perhaps`, where a source is another group or a prefix list that nobody looked up. */
export interface CloudReach {
  readonly surely: readonly Region[];
  /** All of `surely`, too. */
  readonly perhaps: readonly Region[];
}

/**
 * What the rules of a security group admit in one direction: all that any of them names.
 *
 * Source: Amazon EC2 API, IpPermission.
 *
 * @throws an Error that names what is no protocol, port or network of AWS.
 */
export function reach(rules: readonly CloudRule[], direction: CloudRule["direction"]): CloudReach {
  const ours = rules.filter((rule) => rule.direction === direction);
  const known = ours.flatMap((rule) => (rule.networks ?? []).map((text) => region(rule, network(text))));
  const unknown = ours
    .filter((rule) => rule.networks === undefined)
    .flatMap((rule) => ([4, 6] as const).map((family) => region(rule, { family, addresses: allAddresses[family] })));
  return { surely: merged(known), perhaps: merged([...known, ...unknown]) };
}

interface Network {
  readonly family: Family;
  readonly addresses: Span<bigint>;
}

function network(text: string): Network {
  const cidr: Cidr | string = parseCidr(text);
  if (typeof cidr === "string") throw new Error(`a rule of the security group: "${text}" ${cidr}`);
  return { family: cidr.family, addresses: addressesOf(cidr) };
}

function region({ ipProtocol, fromPort, toPort }: CloudRule, source: Network): Region {
  if (ipProtocol === "-1") return { ...source, protocols: allProtocols, ports: allPorts };
  const number = Object.hasOwn(protocolNumbers, ipProtocol)
    ? protocolNumbers[ipProtocol as keyof typeof protocolNumbers]
    : Number(ipProtocol);
  if (!Number.isInteger(number) || number < 0 || number > 255) {
    throw new Error(`a rule of the security group: "${ipProtocol}" is no protocol`);
  }
  return { ...source, protocols: protocol(number), ports: portsOf(number, fromPort, toPort) };
}

function portsOf(number: number, from: number | undefined, to: number | undefined): Span<number> {
  if (number === protocolNumbers.icmp || number === protocolNumbers.icmpv6) {
    if (from === undefined || from === -1) return allPorts;
    return icmpPorts(from, to === undefined || to === -1 ? undefined : to);
  }
  if (number !== protocolNumbers.tcp && number !== protocolNumbers.udp) return allPorts;
  if (from === undefined || to === undefined || from === -1) return allPorts;
  return [from, to];
}

/**
 * The rules that `aws ec2 describe-security-group-rules --output json` printed.
 *
 * @param prefixLists the networks of managed prefix lists, by their ids.
 * @throws an Error where the text is something else.
 */
export function parseGroupRules(
  json: string,
  prefixLists: Readonly<Record<string, readonly string[]>> = {},
): CloudRule[] {
  const { SecurityGroupRules: rules } = JSON.parse(json) as { SecurityGroupRules?: Record<string, unknown>[] };
  if (!Array.isArray(rules)) {
    throw new Error('there are no "SecurityGroupRules"; this is no output of aws ec2 describe-security-group-rules');
  }
  return rules.map((rule) => {
    const { IsEgress, IpProtocol, FromPort, ToPort, CidrIpv4, CidrIpv6, PrefixListId } = rule as {
      IsEgress?: boolean;
      IpProtocol?: string;
      FromPort?: number;
      ToPort?: number;
      CidrIpv4?: string;
      CidrIpv6?: string;
      PrefixListId?: string;
    };
    const cidr = CidrIpv4 ?? CidrIpv6;
    return {
      direction: IsEgress ? "egress" : "ingress",
      ipProtocol: IpProtocol ?? "",
      fromPort: FromPort,
      toPort: ToPort,
      networks: cidr !== undefined ? [cidr] : PrefixListId === undefined ? undefined : prefixLists[PrefixListId],
    };
  });
}
