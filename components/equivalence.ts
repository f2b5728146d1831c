import { reach as cloudReach, type CloudRule } from "./cloud/reach";
import { addressesOf, type HostSettings } from "./host/hostOptions";
import { parseRuleset, type Arrival, type Table } from "./host/iptablesSave";
import { boundariesOf, judge, type Fate } from "./host/reach";
import { residue } from "./host/residue";
import { parseAddress, type Cidr, type Family } from "./policy/cidr";
import type { Rule } from "./policy/policy";
import {
  addressesOf as addressesOfNetwork,
  allPorts,
  allProtocols,
  covered,
  everything,
  icmpPorts,
  lines,
  protocol,
  without,
  type Region,
} from "./policy/regions";

/** The two enforcement points, as they will be: what reaches a host's standard input, and the arguments of a group's rules. */
export interface Twins {
  /** The `iptables-restore` text of each family. */
  readonly rulesets: Readonly<Record<Family, string>>;
  readonly settings: HostSettings;
  readonly sshPorts: readonly number[];
  readonly groupRules: readonly CloudRule[];
  /** What the policy lets out. */
  readonly outbound: readonly Rule[];
  /** Names of what only the group enforces. */
  readonly cloudOnly: readonly string[];
}

/**
 * Holds a host's rules against those of the security group: for each way in which a packet may come, the host admits what the
 * group admits, but for the declared residue; and the residue is there. Decided exactly, for all packets.
 *
 * What is compared are the artefacts, parsed back, not the policy that both were made of.
 *
 * @returns a line for each difference that nobody has declared; none if host and group are equal.
 */
export function undeclared(twins: Twins): string[] {
  const inbound = cloudReach(twins.groupRules, "ingress");
  const outbound = cloudReach(twins.groupRules, "egress");
  const sent = twins.outbound.map(regionOf);
  const held = without([everything(4), everything(6)], sent);
  return [
    ...([4, 6] as const).flatMap((family) => differences(twins, family, inbound.surely)),
    ...lines(without(inbound.perhaps, inbound.surely)).map((line) => `perhaps only the group admits ${line}`),
    ...lines(without(outbound.perhaps, sent)).map((line) => `the policy does not let out ${line}`),
    ...lines(without(sent, outbound.surely)).map((line) => `the group does not let out ${line}`),
    ...(twins.cloudOnly.includes("outbound traffic") ? [] : lines(held).map((line) => `only the host sends ${line}`)),
  ];
}

function regionOf({ family, protocol: name, port, icmpType, source }: Rule): Region {
  return {
    family,
    protocols: name === "all" ? allProtocols : protocol(name),
    ports: port !== undefined ? [port, port] : icmpType !== undefined ? icmpPorts(icmpType) : allPorts,
    addresses: addressesOfNetwork(source),
  };
}

function differences(twins: Twins, family: Family, group: readonly Region[]): string[] {
  const ruleset = parseRuleset(twins.rulesets[family], family);
  const chains = Object.entries(places) as [Chain, (typeof places)[Chain]][];
  const absent = chains.filter(([chain, { table }]) => !ruleset.tables.get(table)?.has(chain));
  if (absent.length > 0) return absent.map(([chain, { table }]) => `IPv${family}: no chain ${chain} in ${table}`);
  // Each of these cells is wholly admitted by the host or not at all, and so by the group, and so declared.
  const boundaries = boundariesOf(
    ruleset,
    chains.map(([chain, { table }]) => [table, chain] as const),
  );
  const link = residue(twins.settings)["neighbour discovery and DHCP"];
  const conditions = [...(link?.perhaps ?? []), ...(link?.byBroadcast ?? [])];
  const named: [string, readonly Region[]][] = Object.entries(regionsOf(twins, family, group));
  const whens = [...new Set(conditions.map(({ when }) => when))].map((when) => {
    const those = conditions.filter((one) => one.when === when && one.region.family === family);
    return [when, those.map(({ region }) => region)] as const;
  });
  const { partition, sets } = cut(boundaries, new Map([...named, ...whens]));
  const declared = whens.map(([when]) => [when, sets.get(when)!] as const);
  const fates = new Map<(cell: Region) => Fate, ReadonlyMap<Fate, Cells>>();
  return arrivals(twins, family, (name) => sets.get(name)!).flatMap(
    ({ name, chain, arrival, surely, perhaps = surely, only = sets.get("all")! }) => {
      const { table, ends } = places[chain];
      const fate = judge(ruleset, table, chain, arrival);
      const found = new Map<string, Cells>();
      for (const [real, cells] of remembered(fates, fate, () => grouped(partition, fate))) {
        const here = cells & only;
        const wanted = [
          [here & ~perhaps, undefined] as const,
          [here & surely, []] as const,
          ...byConditions(here & perhaps & ~surely, declared),
        ];
        for (const [those, conditions] of wanted) {
          const kind = those === 0n ? undefined : difference(real, conditions, ends);
          if (kind !== undefined) found.set(kind, (found.get(kind) ?? 0n) | those);
        }
      }
      return [...found].flatMap(([kind, cells]) =>
        lines(pick(partition, cells)).map((line) => `IPv${family}, ${name}: ${kind} ${line}`),
      );
    },
  );
}

/** Some cells of a partition: a bit for each, the highest for the first. */
type Cells = bigint;

function cellsOf(isIn: readonly boolean[]): Cells {
  return BigInt(`0b0${isIn.map(Number).join("")}`);
}

function pick(partition: readonly Region[], cells: Cells): Region[] {
  const bits = cells.toString(2).padStart(partition.length, "0");
  return partition.filter((_, i) => bits[i] === "1");
}

/** Cuts everything at all boundaries, those of the named sets included, and says which cells each of these holds. */
function cut(boundaries: readonly Region[], named: ReadonlyMap<string, readonly Region[]>) {
  const tagged: (Region & { readonly set?: boolean[] })[] = [...boundaries];
  const isIn = new Map<string, boolean[]>();
  for (const [name, regions] of named) {
    const set: boolean[] = [];
    isIn.set(name, set);
    tagged.push(...regions.map((region) => ({ ...region, set })));
  }
  const partition: Region[] = [];
  for (const [cell, here] of covered(tagged)) {
    for (const set of isIn.values()) set.push(false);
    for (const { set } of here) if (set) set[partition.length] = true;
    partition.push(cell);
  }
  return { partition, sets: new Map([...isIn].map(([name, set]) => [name, cellsOf(set)])) };
}

/** The cells of each fate. */
function grouped(partition: readonly Region[], fate: (cell: Region) => Fate): ReadonlyMap<Fate, Cells> {
  const all = partition.map(fate);
  return new Map([...new Set(all)].map((one) => [one, cellsOf(all.map((other) => other === one))]));
}

function remembered<K, V>(map: Map<K, V>, key: K, make: () => V): V {
  const found = map.get(key) ?? make();
  map.set(key, found);
  return found;
}

/** Splits cells by the conditions that are declared for them. */
function byConditions(cells: Cells, declared: readonly (readonly [string, Cells])[]): [Cells, string[]][] {
  let parts: [Cells, string[]][] = [[cells, []]];
  for (const [when, those] of declared) {
    parts = parts.flatMap(([part, whens]): typeof parts => [
      [part & those, [...whens, when]],
      [part & ~those, whens],
    ]);
    parts = parts.filter(([part]) => part !== 0n);
  }
  return parts;
}

type End = "accept" | "drop" | "back";

/**
 * Where our chains stand, and what admitting a packet is there, and what not. In `mangle` it is RETURN that admits, for after it others
 * are still asked. What `filter` accepts has been judged before; what goes out is not ours to drop.
 */
const places: Readonly<Record<Chain, { table: Table; ends: readonly [End, End] }>> = {
  "MAILFW-IN": { table: "mangle", ends: ["back", "drop"] },
  "MAILFW-FWD": { table: "mangle", ends: ["back", "drop"] },
  "MAILFW-ACCEPT": { table: "filter", ends: ["accept", "drop"] },
  "MAILFW-OUT": { table: "filter", ends: ["accept", "back"] },
};

/** @param wanted on which conditions a packet must get through, none if in any case; undefined: it must not. */
function difference(
  real: Fate,
  wanted: readonly string[] | undefined,
  [yes, no]: readonly [End, End],
): string | undefined {
  const other = (["accept", "drop", "back"] as const).find((end) => end !== yes && end !== no)!;
  if (real[other]) return other === "accept" ? "only the host admits" : "other rules than ours decide about";
  if (!wanted) return real[yes] ? `${real[no] ? "perhaps " : ""}only the host admits` : undefined;
  if (!real[yes]) return "the host does not admit";
  if (!real[no] && wanted.length === 0) return undefined;
  const conditions = real[no] ? [...real.conditions].sort().join(", ") : "";
  if (conditions === [...wanted].sort().join(", ")) return undefined;
  return conditions === "" ? "the host admits in any case" : `the host admits only if ${conditions}:`;
}

/** What the group admits, and what the residue names. */
function regionsOf({ settings, sshPorts }: Twins, family: Family, group: readonly Region[]) {
  const declared = residue(settings);
  const ours = (regions: readonly Region[] | undefined) => (regions ?? []).filter((one) => one.family === family);
  const all = everything(family);
  const link = declared["neighbour discovery and DHCP"];
  return {
    all: [all],
    admitted: ours(group),
    sshPorts: sshPorts.map((port): Region => ({ ...all, protocols: protocol("tcp"), ports: [port, port] })),
    icmp: [{ ...all, protocols: protocol(family === 4 ? "icmp" : "icmpv6") }],
    link: ours(link?.regions),
    linkPerhaps: ours(link?.perhaps?.map(({ region }) => region)),
    byBroadcast: ours(link?.byBroadcast?.map(({ region }) => region)),
    misleading: ours(declared["misleading ICMP"]?.regions),
    ported: [
      { ...all, protocols: protocol("tcp") },
      { ...all, protocols: protocol("udp") },
    ],
    trusted: ours(declared["trusted networks"]?.regions),
    spoofed: ours(declared["invalid or spoofed packets"]?.regions),
  };
}

type Chain = "MAILFW-IN" | "MAILFW-FWD" | "MAILFW-ACCEPT" | "MAILFW-OUT";

/** One way in which packets come to a host, and what of them must get through. */
interface Expectation {
  readonly name: string;
  readonly chain: Chain;
  readonly arrival: Arrival;
  readonly surely: Cells;
  /** Defaults to `surely`. */
  readonly perhaps?: Cells;
  /** The packets that can come so; by default all. */
  readonly only?: Cells;
}

/** Every way that makes a difference to our rules. */
function arrivals(
  { settings }: Twins,
  family: Family,
  cells: (name: keyof ReturnType<typeof regionsOf>) => Cells,
): Expectation[] {
  const [all, trusted, link] = [cells("all"), cells("trusted"), cells("link")];
  const none: Cells = 0n;
  const never = cells("spoofed") | cells("misleading");
  const ssh = cells("admitted") & cells("sshPorts");
  const icmp = cells("admitted") & cells("icmp");
  const services = cells("admitted") & ~(ssh | icmp);

  // An interface "" is one that no rule names; a pattern stands for one of its names.
  const outside = settings.externalInterface?.replace("+", "0") ?? "";
  const named = settings.externalInterface !== undefined;
  // From the outside a trusted network is forged, where it is known which side that is.
  const [fromOutside, forged] = named ? [none, trusted] : [trusted, none];
  const elsewhere = parseAddress(family === 4 ? "0.0.0.0" : "::") as Cidr; // an address that no host has
  const broadcast = parseAddress(family === 4 ? "255.255.255.255" : "ff02::1") as Cidr;
  const addresses = addressesOf(settings, family);
  const asked = addresses ?? [elsewhere];

  const packet: Arrival = { in: outside, state: "NEW", local: true, to: asked[0] ?? elsewhere };
  // To the host. Whatever else is configured, SSH comes first; then what is spoofed is dropped.
  const input = (name: string, more: Partial<Arrival>, admitted: Cells, also = none): Expectation => ({
    name,
    chain: "MAILFW-IN",
    arrival: { ...packet, ...more },
    surely: ssh | ((icmp | link | admitted) & ~never),
    perhaps: ssh | ((icmp | link | cells("linkPerhaps") | also | admitted) & ~never),
  });
  // To the host by a redirect, from whatever port and address the client asked for: to a port that nobody names here.
  const redirected = (name: string, more: Partial<Arrival>, admitted: Cells): Expectation => ({
    name,
    chain: "MAILFW-IN",
    arrival: { ...packet, published: true, now: { address: elsewhere, ports: [1] }, ...more },
    surely: admitted & ~never,
    only: cells("ported"),
  });
  // To containers.
  const forward = (name: string, more: Partial<Arrival>, admitted: Cells): Expectation => ({
    name,
    chain: "MAILFW-FWD",
    arrival: { ...packet, out: "", local: false, ...more },
    surely: ssh | admitted,
  });
  return [
    ...asked.flatMap((to) => [
      input("new connections", { to }, fromOutside | (services & ~forged)),
      redirected("new connections to redirected ports", { to }, fromOutside | (services & ~forged)),
      forward("new connections to published ports", { to, published: true }, fromOutside | services),
    ]),
    ...(addresses
      ? [
          input("new connections to other addresses", { to: elsewhere }, fromOutside),
          redirected("new connections to ports redirected elsewhere", { to: elsewhere }, fromOutside),
          forward("new connections to ports published elsewhere", { to: elsewhere, published: true }, fromOutside),
        ]
      : []),
    ...(named
      ? [
          input("new connections through other interfaces", { in: "" }, trusted),
          forward("new connections through other interfaces to published ports", { in: "", published: true }, trusted),
        ]
      : []),
    ...["docker0", "br-0", "podman1", "cni0", "lxdbr0", "incusbr0"].flatMap((bridge) => [
      forward(
        `new connections straight to ${bridge}`,
        { out: bridge },
        addresses ? fromOutside : fromOutside | services,
      ),
      ...(named
        ? [forward(`new connections through other interfaces straight to ${bridge}`, { in: "", out: bridge }, trusted)]
        : []),
      forward(`connections from ${bridge} to the world`, { in: bridge }, all),
      forward(`connections from ${bridge} to other containers`, { in: bridge, out: "br-1" }, all),
      forward(`connections from ${bridge} to published ports`, { in: bridge, published: true }, all),
    ]),
    ...settings.trustedInterfaces.flatMap((pattern) => [
      input(`new connections through ${pattern}`, { in: pattern.replace("+", "0") }, all),
      forward(
        `new connections through ${pattern} to published ports`,
        { in: pattern.replace("+", "0"), published: true },
        all,
      ),
    ]),
    forward("routed packets", {}, all),
    ...(["ESTABLISHED", "RELATED"] as const).flatMap((state) => [
      input(`${state} packets`, { state }, all),
      forward(`${state} packets to containers`, { state, published: true }, all),
    ]),
    input("INVALID packets", { state: "INVALID" }, fromOutside),
    input("untracked packets", { state: "UNTRACKED" }, fromOutside),
    input("multicast", { local: false }, fromOutside),
    input("broadcast", { local: false, to: broadcast }, fromOutside, cells("byBroadcast")),
    { name: "loopback", chain: "MAILFW-IN", arrival: { ...packet, in: "lo" }, surely: all },
    { name: "what was judged before", chain: "MAILFW-ACCEPT", arrival: packet, surely: all },
    // Of what goes out, only sshd's answers are ours to decide; the rest comes back from our chain.
    {
      name: "answers of sshd",
      chain: "MAILFW-OUT",
      arrival: { in: "", out: outside, state: "UNTRACKED", local: false, answer: true },
      surely: ssh,
    },
  ];
}
