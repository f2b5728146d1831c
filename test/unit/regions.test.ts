import fc from "fast-check";

import { parseCidr, type Cidr, type Family } from "../../components/policy/cidr";
import {
  addressesOf,
  allAddresses,
  both,
  cells,
  describe as name,
  everything,
  holds,
  icmpPorts,
  lines,
  merged,
  networks,
  protocol,
  without,
  type Region,
} from "../../components/policy/regions";

/** Few values, so that regions meet, touch and overlap. */
const span = (values: number[]) =>
  fc
    .tuple(fc.constantFrom(...values), fc.constantFrom(...values))
    .map(([a, b]) => [Math.min(a, b), Math.max(a, b)] as const);
const region: fc.Arbitrary<Region> = fc.record({
  family: fc.constantFrom<Family>(4, 6),
  protocols: span([0, 5, 6, 7, 255]),
  ports: span([0, 24, 25, 26, 65535]),
  addresses: span([0, 1, 2, 3, 10]).map(([a, b]) => [BigInt(a), BigInt(b)] as const),
});
const set = fc.array(region, { maxLength: 6 });
const packets = [4, 6].flatMap((family) =>
  [0, 5, 6, 7, 100].flatMap((proto) =>
    [0, 24, 25, 26, 27].flatMap((port) =>
      [0n, 1n, 2n, 3n, 4n, 10n, 11n].map((address) => ({ family, proto, port, address })),
    ),
  ),
);
const has = (regions: readonly Region[], { family, proto, port, address }: (typeof packets)[number]) =>
  regions.some(
    (one) =>
      one.family === family &&
      one.protocols[0] <= proto &&
      proto <= one.protocols[1] &&
      one.ports[0] <= port &&
      port <= one.ports[1] &&
      one.addresses[0] <= address &&
      address <= one.addresses[1],
  );

const tcp = (port: number, cidr: string): Region => {
  const network = parseCidr(cidr) as Cidr;
  return { family: network.family, protocols: protocol("tcp"), ports: [port, port], addresses: addressesOf(network) };
};

test("set operations agree with membership, packet by packet", () => {
  fc.assert(
    fc.property(set, set, (a, b) => {
      const inside = (regions: readonly Region[]) => packets.map((packet) => has(regions, packet));
      const [inA, inB] = [inside(a), inside(b)];
      expect(inside(without(a, b))).toEqual(inA.map((is, i) => is && !inB[i]));
      expect(inside(both(a, b))).toEqual(inA.map((is, i) => is && inB[i]));
      expect(inside(merged(a))).toEqual(inA);
    }),
  );
});

test("cells do not overlap, and every region holds a cell wholly or not at all", () => {
  fc.assert(
    fc.property(set, (regions) => {
      const found = [...cells(regions)];
      expect(packets.map((packet) => found.filter((cell) => has([cell], packet)).length)).toEqual(
        packets.map((packet) => (has(regions, packet) ? 1 : 0)),
      );
      for (const cell of found) {
        const wholly = regions.map((one) => holds(one, cell));
        expect(regions.map((one) => both([one], [cell]).length > 0)).toEqual(wholly);
      }
    }),
  );
});

test("the same packets are the same list, however they were said", () => {
  fc.assert(
    fc.property(set, set, (a, b) => {
      expect(merged([...without(a, b), ...both(b, a)])).toEqual(merged([...a].reverse()));
    }),
  );
});

test("networks make up a span: all of it, nothing else, in as few as can be", () => {
  const address = (text: string) => addressesOf(parseCidr(`${text}/32`) as Cidr)[0];
  const lines = (first: string, last: string) => [...networks(4, [address(first), address(last)])];
  expect(lines("10.0.0.0", "10.0.0.255")).toEqual(["10.0.0.0/24"]);
  expect(lines("10.0.0.1", "10.0.0.6")).toEqual(["10.0.0.1/32", "10.0.0.2/31", "10.0.0.4/31", "10.0.0.6/32"]);
  expect(lines("0.0.0.0", "255.255.255.255")).toEqual(["0.0.0.0/0"]);
  expect([...networks(6, [1n, allAddresses[6][1]])]).toHaveLength(128);
  fc.assert(
    fc.property(fc.bigInt(0n, 5000n), fc.bigInt(0n, 5000n), (a, b) => {
      const [first, end] = a < b ? [a, b] : [b, a];
      let next = first;
      for (const text of networks(4, [first, end])) {
        const cidr = addressesOf(parseCidr(text) as Cidr);
        expect(cidr[0]).toBe(next);
        next = cidr[1] + 1n;
      }
      expect(next).toBe(end + 1n);
    }),
  );
});

test("sets in words", () => {
  expect(lines([])).toEqual([]);
  expect(lines([everything(4), everything(6)])).toEqual(["everything from everyone over IPv4, everyone over IPv6"]);
  expect(
    lines([tcp(993, "10.0.0.0/9"), tcp(993, "10.128.0.0/9"), tcp(993, "fd12::/48"), tcp(143, "0.0.0.0/0")]),
  ).toEqual(["tcp/143 from everyone over IPv4", "tcp/993 from 10.0.0.0/8, fd12::/48"]);
  const of = (family: Family, number: Parameters<typeof protocol>[0], ports: readonly [number, number]) =>
    name({ family, protocols: protocol(number), ports, addresses: [0n, 0n] });
  expect([
    of(4, "tcp", [0, 65535]),
    of(4, "udp", [60000, 61000]),
    of(4, "icmp", icmpPorts(8)),
    of(6, "icmpv6", icmpPorts(1, 4)),
    of(6, "icmpv6", [256 * 3, 256 * 5 + 255]),
    of(4, 50, [0, 65535]),
    name({ ...everything(4), protocols: [7, 16] }),
  ]).toEqual([
    "tcp",
    "udp/60000-61000",
    "icmp type 8",
    "icmpv6 type 1 code 4",
    "icmpv6 types 3-5",
    "protocol 50",
    "protocols 7-16",
  ]);
});
