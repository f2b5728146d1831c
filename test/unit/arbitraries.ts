import fc from "fast-check";

import type { HostOptions } from "../../components/host/hostOptions";
import { contains, last, parseCidr, print, type Cidr, type Family } from "../../components/policy/cidr";
import type { EgressArgs, PolicyArgs } from "../../components/policy/policy";
import { serviceNames } from "../../components/policy/services";

function network(family: Family, bits: number): fc.Arbitrary<string> {
  return fc
    .tuple(fc.bigInt(0n, (1n << BigInt(bits)) - 1n), fc.integer({ min: 0, max: bits }))
    .map(([address, prefix]) => {
      const host = BigInt(bits - prefix);
      const first = (address >> host) << host;
      // IPv4-mapped addresses are refused, so they are not networks of ours.
      return family === 6 && first >> 32n === 0xffffn ? `::1:0:0/96` : `${print(family, first)}/${prefix}`;
    });
}

/** A network in canonical form. */
export const cidrText = fc.oneof(network(4, 32), network(6, 128));

/** Networks of which none lies inside another: all of one length a family. */
const networks = fc
  .tuple(fc.uniqueArray(fc.nat(255), { maxLength: 3 }), fc.uniqueArray(fc.nat(0xffff), { maxLength: 3 }))
  .map(([v4, v6]) => [...v4.map((n) => `10.${n}.0.0/16`), ...v6.map((n) => `fd12:0:${n.toString(16)}::/48`)])
  .map((list) => list.map((text) => text.replace("fd12:0:0::", "fd12::")));

/**
 * Networks that begin or end where others do, or one address beside it: of each other, of loopback, of link-local addresses, of
 * all addresses.
 */
const edges = fc
  .shuffledSubarray(
    [
      ...["10.0.0.0/8", "11.0.0.0/8", "126.0.0.0/8", "127.0.0.0/8", "128.0.0.0/1", "0.0.0.0/1", "0.0.0.0/0"],
      ...["fd00::/8", "fc00::/8", "fe80::/10", "fec0::/10", "::1/128", "::2/127", "8000::/1", "::/0"],
    ].flatMap((text) => [text, ...beside(text)]),
    { maxLength: 6 },
  )
  .map(apart);

/** The first and the last address of a network, and those before and behind it. */
function beside(text: string): string[] {
  const cidr = parseCidr(text) as Cidr;
  const width = cidr.family === 4 ? 32 : 128;
  return [cidr.first - 1n, cidr.first, last(cidr), last(cidr) + 1n]
    .filter((address) => address >= 0n && address < 1n << BigInt(width))
    .map((address) => `${print(cidr.family, address)}/${width}`);
}

/** Without those that overlap one before them. */
function apart(texts: string[]): string[] {
  const found: Cidr[] = [];
  for (const cidr of texts.map((text) => parseCidr(text) as Cidr)) {
    if (!found.some((one) => contains(one, cidr) || contains(cidr, one))) found.push(cidr);
  }
  return found.map(({ text }) => text);
}

const sourcesOf = (some: fc.Arbitrary<string[]>): fc.Arbitrary<string[]> =>
  fc.oneof(
    fc.constantFrom("public", "closed").map((word) => [word]),
    some.filter((list) => list.length > 0),
  );

export const sources = sourcesOf(networks);

const egressOf = (some: fc.Arbitrary<string[]>): fc.Arbitrary<EgressArgs> =>
  fc.oneof(
    fc.constantFrom("open", "mail").map((mode) => ({ mode })),
    sourcesOf(some)
      .filter(([first]) => first !== "closed")
      .map((relay) => ({ relay })),
  );

const policyOf = (some: fc.Arbitrary<string[]>): fc.Arbitrary<PolicyArgs> =>
  fc.record({
    egress: egressOf(some),
    services: fc.dictionary(fc.constantFrom(...serviceNames), sourcesOf(some), { noNullPrototype: true }),
    ssh: some.filter((list) => list.length > 0),
    ports: fc
      .uniqueArray(fc.integer({ min: 10_000, max: 60_000 }), { maxLength: 3 })
      .chain((ports) =>
        fc.tuple(
          ...ports.map((port) =>
            fc.record({ protocol: fc.constantFrom("tcp", "udp"), port: fc.constant(port), from: sourcesOf(some) }),
          ),
        ),
      )
      .map((ports) => Object.fromEntries(ports.map((port) => [`p${port.port}`, port]))),
  });

/** A valid policy. */
export const policyArgs = policyOf(networks);

/** A valid policy whose sources meet at their edges. */
export const edgyPolicyArgs = policyOf(edges);

const hostAddress = fc.oneof(
  fc.nat(255).map((n) => `198.51.100.${n}`),
  fc.bigInt(0n, (1n << 96n) - 1n).map((n) => print(6, (0x2001_0db8n << 96n) + n)),
);

/** Valid options of a host. */
export const hostOptions: fc.Arbitrary<HostOptions> = fc.record(
  {
    externalInterface: fc.constantFrom("eth0", "ppp+", "enp0s31f6", "15-characters_x", "vlan.100"),
    externalAddress: fc.uniqueArray(hostAddress, { minLength: 1, maxLength: 4 }),
    trustedInterfaces: fc.uniqueArray(fc.constantFrom("wg0", "tailscale0", "br-+", "15.character-s+"), {
      maxLength: 4,
    }),
    trustedNetworks: networks,
    logging: fc.oneof(
      fc.constant("off"),
      fc
        .tuple(fc.integer({ min: 1, max: 100 }), fc.constantFrom("sec", "min", "hour", "day"))
        .map((rate) => rate.join("/")),
    ),
    noLog: fc.uniqueArray(
      fc.tuple(fc.constantFrom("tcp", "udp"), fc.integer({ min: 1, max: 65535 })).map((port) => port.join("/")),
      { maxLength: 40 },
    ),
  },
  { requiredKeys: [], noNullPrototype: true },
);

/** The same value with the keys of its maps, and the elements of its lists, in another order. */
export function shuffled<T>(value: T, random: () => number): T {
  if (Array.isArray(value))
    return reorder(
      value.map((item: unknown) => shuffled(item, random)),
      random,
    ) as T;
  if (typeof value !== "object" || value === null) return value;
  const entries = Object.entries(value).map(([key, entry]) => [key, shuffled(entry as unknown, random)] as const);
  return Object.fromEntries(reorder(entries, random)) as T;
}

function reorder<T>(items: T[], random: () => number): T[] {
  return items
    .map((item) => ({ item, at: random() }))
    .sort((a, b) => a.at - b.at)
    .map(({ item }) => item);
}
