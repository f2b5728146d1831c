import { last, print, type Cidr, type Family } from "./cidr";

/** From the first to the last, both included. */
export type Span<T> = readonly [T, T];

/**
 * Packets that begin something: a box in the space of family, protocol, port and address. Sets of packets are lists of
 * regions; everything here is exact, because both sides of a comparison are constant between their own boundaries.
 */
export interface Region {
  readonly family: Family;
  /** Protocol numbers of IP, 0 to 255 (IANA Protocol Numbers). */
  readonly protocols: Span<number>;
  /** Destination ports of TCP and UDP; of ICMP and ICMPv6, 256 times the type, and the code. Of other protocols, all. */
  readonly ports: Span<number>;
  /** Where it comes from; of outbound traffic, where it goes. */
  readonly addresses: Span<bigint>;
}

export const protocolNumbers = { icmp: 1, tcp: 6, udp: 17, icmpv6: 58 } as const;

export const allProtocols: Span<number> = [0, 255];
export const allPorts: Span<number> = [0, 65535];
export const allAddresses = { 4: [0n, (1n << 32n) - 1n], 6: [0n, (1n << 128n) - 1n] } as const satisfies Record<
  Family,
  Span<bigint>
>;

/** Everything over one family. */
export function everything(family: Family): Region {
  return { family, protocols: allProtocols, ports: allPorts, addresses: allAddresses[family] };
}

/** One protocol, by its number or name. */
export function protocol(name: keyof typeof protocolNumbers | number): Span<number> {
  const number = typeof name === "number" ? name : protocolNumbers[name];
  return [number, number];
}

/** An ICMP type, with one code or any. */
export function icmpPorts(type: number, code?: number): Span<number> {
  return code === undefined ? [256 * type, 256 * type + 255] : [256 * type + code, 256 * type + code];
}

/**
 * Cuts all that the regions cover at every boundary of any of them, so that each of the regions holds a cell wholly or not at
 * all. Cells come in order, and do not overlap.
 */
export function* cells(regions: readonly Region[]): Generator<Region> {
  for (const [cell] of covered(regions)) yield cell;
}

/** The {@link cells}, each with the regions that hold it: one set, which changes when you ask for the next cell. */
export function* covered<R extends Region>(regions: readonly R[]): Generator<readonly [Region, ReadonlySet<R>]> {
  for (const family of [4, 6] as const) {
    const ours = regions.filter((region) => region.family === family);
    for (const [protocols, those] of slices(ours, (region) => region.protocols)) {
      for (const [ports, them] of slices(those, (region) => region.ports)) {
        for (const [addresses, here] of slices(them, (region) => region.addresses)) {
          yield [{ family, protocols, ports, addresses }, here];
        }
      }
    }
  }
}

/** The slices along one axis that any region holds, each with those that do. One sweep, from the first boundary to the last. */
function* slices<T extends number | bigint, R extends Region>(
  regions: Iterable<R>,
  axis: (region: R) => Span<T>,
): Generator<readonly [Span<T>, ReadonlySet<R>]> {
  const all = [...regions];
  const here = new Set<R>();
  if (all.length === 1) yield [axis(all[0]!), here.add(all[0]!)];
  if (all.length < 2) return;
  // Where the i-th begins, and behind where it ends: numbers 2i and 2i + 1.
  const at = all.flatMap((region) => [axis(region)[0], after(axis(region)[1])]);
  const order = at.map((_, i) => i).sort((a, b) => (at[a]! < at[b]! ? -1 : at[a]! > at[b]! ? 1 : 0));
  for (let i = 0; i + 1 < order.length; i++) {
    const [boundary, next] = [order[i]!, order[i + 1]!];
    if (boundary % 2 === 0) here.add(all[boundary >> 1]!);
    else here.delete(all[boundary >> 1]!);
    if (at[boundary] !== at[next] && here.size > 0) yield [[at[boundary]!, before(at[next]!)], here];
  }
}

const after = <T extends number | bigint>(value: T) =>
  (typeof value === "bigint" ? value + 1n : Number(value) + 1) as T;
const before = <T extends number | bigint>(value: T) =>
  (typeof value === "bigint" ? value - 1n : Number(value) - 1) as T;

/** Whether one region holds all of another. */
export function holds(outer: Region, inner: Region): boolean {
  const around = <T extends number | bigint>(a: Span<T>, b: Span<T>) => a[0] <= b[0] && b[1] <= a[1];
  return (
    outer.family === inner.family &&
    around(outer.protocols, inner.protocols) &&
    around(outer.ports, inner.ports) &&
    around(outer.addresses, inner.addresses)
  );
}

/** Whether any packet is in both regions. */
export function meets(a: Region, b: Region): boolean {
  const overlap = <T extends number | bigint>(one: Span<T>, other: Span<T>) => one[0] <= other[1] && other[0] <= one[1];
  return (
    a.family === b.family &&
    overlap(a.protocols, b.protocols) &&
    overlap(a.ports, b.ports) &&
    overlap(a.addresses, b.addresses)
  );
}

/** What is in `a` and not in `b`. */
export function without(a: readonly Region[], b: readonly Region[]): Region[] {
  return select([a, b], (inA, inB) => inA && !inB);
}

/** What is in both. */
export function both(a: readonly Region[], b: readonly Region[]): Region[] {
  return select([a, b], (inA, inB) => inA && inB);
}

/** The same set in the one form that all lists of the same packets have: no overlaps, nothing that could be joined, in order. */
export function merged(regions: readonly Region[]): Region[] {
  return select([regions], (inside) => inside);
}

/** The packets for which a predicate holds, which is told of each set whether they are in it. */
function select(sets: readonly (readonly Region[])[], wanted: (a: boolean, b: boolean) => boolean): Region[] {
  const found: Region[] = [];
  let last: Region | undefined;
  for (const [cell, here] of covered(sets.flatMap((regions, set) => regions.map((one) => ({ ...one, set }))))) {
    let [inA, inB] = [false, false];
    for (const { set } of here) {
      if (set === 0) inA = true;
      else inB = true;
    }
    if (!wanted(inA, inB)) continue;
    // What follows in the same column is the same column.
    const follows =
      last &&
      last.protocols === cell.protocols &&
      last.ports === cell.ports &&
      last.addresses[1] + 1n === cell.addresses[0];
    if (follows) found.pop();
    last = follows ? { ...cell, addresses: [last!.addresses[0], cell.addresses[1]] } : cell;
    found.push(last);
  }
  return joined(found);
}

/**
 * Joins some of the {@link cells} of a partition, in their order, along each axis in turn: neighbours that differ in nothing
 * else. A column of addresses, and a plane of ports and addresses, is joined as a whole or not at all, so that the form does not
 * depend on the partition.
 */
export function joined(parts: readonly Region[]): Region[] {
  const columns = group(parts, (one) => [one.family, ...one.protocols, ...one.ports].join()).map((column) =>
    join(
      column.map((one) => [one]),
      (one) => one.addresses,
      (one, addresses) => ({ ...one, addresses }),
    ).flat(),
  );
  const planes = group(columns, ([one]) => [one!.family, ...one!.protocols].join()).map((plane) =>
    join(
      plane,
      (one) => one.ports,
      (one, ports) => ({ ...one, ports }),
    ).flat(),
  );
  return group(planes, ([one]) => `${one!.family}`).flatMap((space) =>
    join(
      space,
      (one) => one.protocols,
      (one, protocols) => ({ ...one, protocols }),
    ).flat(),
  );
}

function group<T>(items: readonly T[], key: (item: T) => string): T[][] {
  const groups = new Map<string, T[]>();
  for (const item of items) {
    const name = key(item);
    const found = groups.get(name);
    if (found) found.push(item);
    else groups.set(name, [item]);
  }
  return [...groups.values()];
}

/** Joins lists of regions that follow upon each other along an axis, and are alike but for it. */
function join<T extends number | bigint>(
  lists: readonly (readonly Region[])[],
  axis: (region: Region) => Span<T>,
  at: (region: Region, span: Span<T>) => Region,
): Region[][] {
  const found: Region[][] = [];
  let neighbour: readonly Region[] | undefined;
  for (const list of lists) {
    const [from, to] = axis(list[0]!);
    const goesOn =
      neighbour?.length === list.length &&
      after(axis(neighbour[0]!)[1]) === from &&
      neighbour.every((one, i) => equal(at(one, axis(list[0]!)), list[i]!));
    if (goesOn) found.push(found.pop()!.map((one) => at(one, [axis(one)[0], to])));
    else found.push([...list]);
    neighbour = list;
  }
  return found;
}

function equal(a: Region, b: Region): boolean {
  return holds(a, b) && holds(b, a);
}

/** The networks that make up a span of addresses, the fewest there are, in order. */
export function* networks(family: Family, [first, last]: Span<bigint>): Generator<string> {
  const width = family === 4 ? 32 : 128;
  for (let at = first; at <= last;) {
    let size = at === 0n ? 1n << BigInt(width) : at & -at;
    while (at + size - 1n > last) size >>= 1n;
    yield `${print(family, at)}/${width + 1 - size.toString(2).length}`;
    at += size;
  }
}

/** A span of addresses as a person reads it: its networks, or, where these would be many, its ends. */
function span(family: Family, addresses: Span<bigint>): string[] {
  if (addresses[0] === 0n && addresses[1] === allAddresses[family][1]) return [`everyone over IPv${family}`];
  const found: string[] = [];
  for (const network of networks(family, addresses)) {
    if (found.push(network) > 4) return [addresses.map((address) => print(family, address)).join(" to ")];
  }
  return found;
}

/** A network as the addresses of a region. */
export function addressesOf(cidr: Cidr): Span<bigint> {
  return [cidr.first, last(cidr)];
}

/** `tcp/993`, `udp/60000-61000`, `icmp type 8`, `everything`: the protocols and ports of a region. */
export function describe({ family, protocols, ports }: Region): string {
  const [first, last] = protocols;
  if (first !== last) {
    return first === 0 && last === 255 ? "everything" : `protocols ${first}-${last}`;
  }
  const name = Object.entries(protocolNumbers).find(([, number]) => number === first)?.[0] ?? `protocol ${first}`;
  if (ports[0] === 0 && ports[1] === 65535) return name;
  const isIcmp = first === (family === 4 ? protocolNumbers.icmp : protocolNumbers.icmpv6);
  if (!isIcmp) return `${name}/${ports[0] === ports[1] ? ports[0] : ports.join("-")}`;
  const [type, lastType] = [ports[0] >> 8, ports[1] >> 8];
  if (type !== lastType) return `${name} types ${type}-${lastType}`;
  const [code, lastCode] = [ports[0] & 255, ports[1] & 255];
  if (code === 0 && lastCode === 255) return `${name} type ${type}`;
  return `${name} type ${type} code ${code === lastCode ? code : `${code}-${lastCode}`}`;
}

/** A set of packets as a person reads it, one line for each protocol and port: `tcp/993 from 10.0.0.0/8, fd12::/48`. */
export function lines(regions: readonly Region[]): string[] {
  const found = new Map<string, string[]>();
  for (const one of merged(regions)) {
    const key = describe(one);
    const before = found.get(key);
    if (before) before.push(...span(one.family, one.addresses));
    else found.set(key, span(one.family, one.addresses));
  }
  return [...found].map(([what, from]) => `${what} from ${from.join(", ")}`);
}
