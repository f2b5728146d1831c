import { parseGroupRules, reach as cloudReach } from "./cloud/reach";
import { defaultSettings } from "./host/hostOptions";
import { parseRuleset, type Arrival } from "./host/iptablesSave";
import { admitted, type Reach } from "./host/reach";
import { residue } from "./host/residue";
import type { Family } from "./policy/cidr";
import { lines, meets, without, type Region } from "./policy/regions";

/** What is really there, as the host and AWS print it. */
export interface Live {
  /** The output of `iptables-save`. */
  readonly iptables: string;
  /** The output of `ip6tables-save`. Without it, IPv6 is not compared. */
  readonly ip6tables?: string | undefined;
  /** The output of `aws ec2 describe-security-group-rules`, as JSON. */
  readonly groupRules: string;
  /** The networks of managed prefix lists, by their ids. Those of a list that is not here are taken for unknown. */
  readonly prefixLists?: Readonly<Record<string, readonly string[]>> | undefined;
  /** The interface of the host behind which the world lies. Without it, what is admitted through one only counts as perhaps. */
  readonly interface?: string | undefined;
}

/**
 * Compares what a live host admits of new connections, through all rules that it has, with what a live security group admits.
 * Left out is what neither can be blamed for: spoofed loopback addresses, neighbour discovery, and DHCP.
 *
 * @param live what both print.
 * @returns a line for each difference, such as `only the host admits tcp/3306 from everyone over IPv4`; none if there is none.
 * @throws an Error that says which of the texts is none of that program's.
 */
export function compareLive(live: Live): string[] {
  const arrival: Arrival = { in: live.interface, state: "NEW", local: true };
  const families: readonly [Family, string | undefined][] = [
    [4, live.iptables],
    [6, live.ip6tables],
  ];
  const groupRules = parseGroupRules(live.groupRules, live.prefixLists);
  return families.flatMap(([family, text]) => {
    if (text === undefined) return [];
    const group = cloudReach(groupRules, "ingress");
    const ours = (reach: Reach): Reach => ({
      surely: reach.surely.filter((region) => region.family === family),
      perhaps: reach.perhaps.filter((region) => region.family === family),
    });
    return compare(admitted(parseRuleset(text, family), arrival), ours(group), ["the host", "the group"]);
  });
}

/** Compares any two reaches; what they are called stands in the lines. */
export function compare(a: Reach, b: Reach, [first, second]: readonly [string, string]): string[] {
  const declared = residue(defaultSettings);
  const link = declared["neighbour discovery and DHCP"];
  const ignored = [
    ...(declared["invalid or spoofed packets"]?.regions ?? []),
    ...(link?.regions ?? []),
    ...(link?.perhaps ?? []).map(({ region }) => region),
  ];
  // Left out only where nothing else differs: "everyone" is easier to read than all but loopback.
  const notable = (regions: Region[]) =>
    regions.filter((region) => {
      const near = ignored.filter((one) => meets(one, region));
      return near.length === 0 || without([region], near).length > 0;
    });
  const only = (name: string, one: Reach, other: Reach) => {
    const surely = without(one.surely, other.perhaps);
    // One of the two is not sure: of what only one of them knows, the other may say the same.
    const perhaps = without(one.perhaps, [...other.surely, ...surely]);
    return [
      ...lines(notable(surely)).map((line) => `only ${name} admits ${line}`),
      ...lines(notable(perhaps)).map((line) => `perhaps only ${name} admits ${line}`),
    ];
  };
  return [...only(first, a, b), ...only(second, b, a)];
}
