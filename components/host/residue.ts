import { parseCidr, type Cidr, type Family } from "../policy/cidr";
import { addressesOf, allAddresses, allPorts, everything, icmpPorts, protocol, type Region } from "../policy/regions";
import type { HostSettings } from "./hostOptions";

/** What a host enforces and a security group cannot say. */
export interface Residue {
  /** What it is, and why the group has no part in it. */
  readonly reason: string;
  /** What the host refuses though the policy names it, or admits though it does not. */
  readonly regions?: readonly Region[];
  /** What it admits on a condition that no rule of a group could name, in the words of iptables. */
  readonly perhaps?: readonly Conditional[];
  /** The same of what is sent by broadcast. */
  readonly byBroadcast?: readonly Conditional[];
}

interface Conditional {
  readonly region: Region;
  readonly when: string;
}

/** The names of all residues. One that is not declared must not be there: `components/equivalence.ts` finds it. */
export type ResidueName =
  | "loopback"
  | "invalid or spoofed packets"
  | "misleading ICMP"
  | "neighbour discovery and DHCP"
  | "broadcast and multicast"
  | "logging"
  | "external interface"
  | "external address"
  | "trusted interfaces"
  | "trusted networks";

/** What the rules of {@link ruleset} do beside the policy. */
export function residue(settings: HostSettings): Partial<Record<ResidueName, Residue>> {
  const { externalInterface, externalAddress, trustedInterfaces, trustedNetworks, logging } = settings;
  const list = (networks: readonly Cidr[]) => networks.map((network) => network.text).join(", ");
  const hosts = (networks: readonly Cidr[]) => list(networks).replace(/\/(32|128)\b/g, "");
  return {
    loopback: { reason: "accepted: it never leaves the host" },
    "invalid or spoofed packets": {
      reason: "dropped: a security group knows no connection-tracking state INVALID, and no loopback",
      regions: [...from("127.0.0.0/8", "::1/128"), mapped],
    },
    "misleading ICMP": {
      reason:
        "dropped: redirects and source quench, which a security group admits with the connection that they are about",
      regions: [
        ...[4, 5].map((type) => ({ ...everything(4), protocols: protocol("icmp"), ports: icmpPorts(type) })),
        { ...everything(6), protocols: protocol("icmpv6"), ports: icmpPorts(137) },
      ],
    },
    "neighbour discovery and DHCP": {
      reason:
        "accepted from neighbours, of DHCP over IPv4 only broadcasts: a VPC answers both itself, which no security group filters",
      regions: linkLocal([130, 131, 132, 143].map((type) => ["icmpv6", icmpPorts(type)])),
      perhaps: [
        ...[133, 134, 135, 136].map((type) => ({
          region: {
            family: 6,
            protocols: protocol("icmpv6"),
            ports: icmpPorts(type),
            addresses: allAddresses[6],
          } as const,
          when: "--hl-eq 255",
        })),
        ...linkLocal([["udp", [546, 546]]]).map((region) => ({ region, when: "--sport 547" })),
      ],
      byBroadcast: [{ region: { ...everything(4), protocols: protocol("udp"), ports: [68, 68] }, when: "--sport 67" }],
    },
    "broadcast and multicast": { reason: "dropped: a VPC delivers neither to a service" },
    ...(logging !== "off" && { logging: { reason: `${logging} of the dropped packets: AWS has VPC flow logs` } }),
    ...(externalInterface && {
      "external interface": {
        reason: `services only through ${externalInterface}: a security group knows no names of interfaces`,
      },
    }),
    ...(externalAddress && {
      "external address": {
        reason: `services only at ${hosts(externalAddress)}: a security group covers all addresses of an interface`,
      },
    }),
    ...(trustedInterfaces.length > 0 && {
      "trusted interfaces": {
        reason: `all accepted through ${trustedInterfaces.join(", ")}: tunnels and bridges are the host's own`,
      },
    }),
    ...(trustedNetworks.length > 0 && {
      "trusted networks": {
        reason: `all accepted from ${list(trustedNetworks)}: the group admits only what the policy names`,
        regions: from(...trustedNetworks.map(({ text }) => text)),
      },
    }),
  };
}

/** Name → reason, as the output of a deployment. */
export function hostOnly(settings: HostSettings): Record<string, string> {
  return Object.fromEntries(Object.entries(residue(settings)).map(([name, { reason }]) => [name, reason]));
}

/** IPv4-mapped addresses, of which no packet may come (RFC 6890); as a network they have no text here. */
const mapped: Region = { ...everything(6), addresses: [0xffff_0000_0000n, 0xffff_ffff_ffffn] };

/** All that comes from networks. */
function from(...networks: string[]): Region[] {
  return networks.map((text) => {
    const cidr = parseCidr(text) as Cidr;
    return { family: cidr.family, protocols: [0, 255], ports: allPorts, addresses: addressesOf(cidr) };
  });
}

/** What neighbours say from their link-local addresses. */
function linkLocal(what: readonly (readonly ["icmpv6" | "udp", Region["ports"]])[]): Region[] {
  const family: Family = 6;
  const addresses = addressesOf(parseCidr("fe80::/10") as Cidr);
  return what.map(([name, ports]) => ({ family, protocols: protocol(name), ports, addresses }));
}

/** What a host enforces otherwise than is common. */
export function otherwise(
  common: Readonly<Record<string, string>>,
  own: Readonly<Record<string, string>>,
): Record<string, string> {
  const keys = [...new Set([...Object.keys(common), ...Object.keys(own)])].filter((key) => own[key] !== common[key]);
  return Object.fromEntries(keys.map((key) => [key, own[key] ?? "not on this host"]));
}
