import type { Family } from "../policy/cidr";
import {
  allAddresses,
  allPorts,
  allProtocols,
  cells,
  everything,
  joined,
  type Region,
  type Span,
} from "../policy/regions";
import {
  hasConnection,
  type Arrival,
  type Chain,
  type Chains,
  type Match,
  type Rule,
  type Ruleset,
  type Table,
} from "./iptablesSave";

/** What gets through: in any case, and perhaps, where rules depend on something else than an {@link Arrival} tells. */
export interface Reach {
  readonly surely: readonly Region[];
  /** All of `surely`, too. */
  readonly perhaps: readonly Region[];
}

/** What may become of a packet in a chain. */
export interface Fate {
  readonly accept: boolean;
  readonly drop: boolean;
  /** It comes back to whoever called the chain. */
  readonly back: boolean;
  /** NAT gives it another port of the host. */
  readonly redirect: boolean;
  /** NAT gives it another destination, on the host or elsewhere. */
  readonly turn: boolean;
  /** Connection tracking knows of it. */
  readonly tracked: boolean;
  /** Connection tracking leaves it out. */
  readonly untracked: boolean;
  /** On what that depends, in the words of the rules; empty where it depends on nothing. */
  readonly conditions: ReadonlySet<string>;
}

/** A hook that a packet comes to, or a chain that others call. */
export type Place = readonly [Table, string];

/** Everything, and the regions at whose boundaries, and nowhere else, what some chains lead to may tell packets apart. */
export function boundariesOf({ family, tables }: Ruleset, places: readonly Place[]): Region[] {
  const rules = places.flatMap(([table, name]) => [...(reached(tables.get(table), name)?.values() ?? [])].flat());
  return [everything(family), ...rules.flatMap((rule) => boundaries(rule, family))];
}

/** Regions at whose boundaries a rule may change its mind. */
function boundaries(rule: Rule, family: Family): Region[] {
  const along = <T>(all: Span<T>, ...matches: (Match<T> | undefined)[]) => {
    const asked = matches.filter((match) => match !== undefined);
    return asked.length === 0 ? [all] : asked.flatMap(({ spans, negated }) => [...spans, ...(negated ? [all] : [])]);
  };
  const { protocols, ports, askedPorts, types, sourcePorts, sources, destinations } = rule;
  return along(allProtocols, protocols).flatMap((protocolSpan) =>
    along(allPorts, ports, askedPorts, types, sourcePorts).flatMap((portSpan) =>
      along<bigint>(allAddresses[family], sources, destinations).map((addressSpan) => ({
        family,
        protocols: protocolSpan,
        ports: portSpan,
        addresses: addressSpan,
      })),
    ),
  );
}

/**
 * The rules of a chain and of all chains that it leads to, by chain, those that are called before those that call them; undefined if
 * it is not there.
 *
 * @throws an Error where one of them leads back to itself.
 */
function reached(chains: Chains | undefined, first: string): Map<string, readonly Rule[]> | undefined {
  if (!chains?.has(first)) return undefined;
  const found = new Map<string, readonly Rule[]>();
  const begun = new Set<string>();
  const stack = [{ name: first, ends: false }];
  for (let top = stack.pop(); top; top = stack.pop()) {
    const { name, ends } = top;
    const { rules } = chains.get(name)!;
    if (ends) found.set(name, rules);
    else if (begun.has(name)) {
      if (!found.has(name)) throw new Error(`chain ${name} leads back to itself; no kernel takes that`);
    } else {
      begun.add(name);
      stack.push({ name, ends: true });
      for (const target of new Set(rules.map((rule) => rule.target))) {
        if (target !== undefined && chains.has(target)) stack.push({ name: target, ends: false });
      }
    }
  }
  return found;
}

/**
 * What becomes of packets in a chain of a table. The cell of packets that the answer is asked for must lie on one side of each of the
 * {@link boundariesOf} that chain. A table that there is not, or a hook without rules, has nothing against anybody.
 *
 * @returns the same function for all arrivals of which the rules ask the same, and equal fates as the same object.
 * @throws an Error where the chain leads back to itself.
 */
export function judge(ruleset: Ruleset, table: Table, chain: string, arrival: Arrival): (cell: Region) => Fate {
  const column = columns(ruleset, [table, chain], arrival);
  const before = judges.get(column);
  if (before) return before;
  let last: Column | undefined;
  let at = 0;
  const fate = ({ protocols, ports, addresses }: Region) => {
    const here = column(protocols[0], ports[0]);
    if (here !== last) at = 0;
    last = here;
    // Cells come in order, so the next is mostly this one or its neighbour.
    const begins = (i: number) => i === 0 || here[i]!.from <= addresses[0];
    while (!begins(at)) at >>= 1;
    while (at + 1 < here.length && begins(at + 1)) at++;
    return here[at]!.fate;
  };
  judges.set(column, fate);
  return fate;
}
const judges = new WeakMap<Columns, (cell: Region) => Fate>();

/** What becomes of packets of one protocol to one port, by where they come from: each piece reaches to where the next begins. */
type Column = readonly { readonly from: bigint; readonly fate: Fate }[];

/** The column of any protocol and port. */
type Columns = (protocol: number, port: number) => Column;

/** A rule that an arrival may meet: what remains to be asked of the packet. */
interface Decided {
  readonly rule: Rule;
  readonly ports: readonly Match<number>[];
  readonly addresses: Match<bigint> | undefined;
  /** What nobody knows whether it holds. */
  readonly conditions: readonly string[];
  /** The numbers of the cuts between which its addresses lie. */
  readonly pieces: [number, number][];
}

/** What the places of a ruleset do, by what remains to be asked of the packets there. */
const known = new WeakMap<Ruleset, Map<string, Columns>>();

/** What packets of an arrival meet in a place. */
function columns(ruleset: Ruleset, [table, hook]: Place, arrival: Arrival): Columns {
  const chains = ruleset.tables.get(table);
  const rules = reached(chains, hook);
  if (!chains || !rules) return nowhere;
  const decided = new Map<string, readonly Decided[]>();
  const called = new Set([hook]);
  for (const [name, those] of [...rules].reverse()) {
    if (!called.has(name)) continue;
    const here: Decided[] = [];
    for (const rule of those) {
      const one = decide(rule, arrival, ruleset.family);
      if (one) here.push(one);
      if (one && isLast(one, table, chains)) break;
    }
    for (const { rule } of here) if (rule.target !== undefined) called.add(rule.target);
    decided.set(name, here);
  }
  const key = JSON.stringify([table, hook, ...[...decided].map(([name, those]) => [name, those.map(remains)])]);
  const before = known.get(ruleset) ?? new Map<string, Columns>();
  known.set(ruleset, before);
  const found = before.get(key) ?? columnsOf(ruleset.family, chains, table, hook, new Map([...decided].reverse()));
  before.set(key, found);
  return found;
}

/** All that makes a difference to a packet, once its arrival is known. */
function remains({ rule, ports, addresses, conditions }: Decided): unknown[] {
  const { protocols, target, final, untracks } = rule;
  return [target, final, untracks, protocols?.text, addresses?.text, ports.map(({ text }) => text), conditions];
}

/** Whether no packet gets further in its chain. */
function isLast({ rule, ports, addresses, conditions }: Decided, table: Table, chains: Chains): boolean {
  const { target, final, untracks, protocols } = rule;
  if (target === undefined || protocols || addresses || ports.length > 0 || conditions.length > 0) return false;
  if (chains.has(target)) return final;
  const own = effect(target, untracks, table);
  return own !== nothing && own !== unknown && !untracks;
}

/**
 * For each protocol and port, the rules that are about it are asked once, along all addresses together: a piece of the addresses is left
 * alone once a rule has decided about it, and a chain is asked once, however many rules call it. Ports about which the same rules are
 * have the same column.
 *
 * @param decided the rules of each chain, those that are called before those that call them.
 */
function columnsOf(
  family: Family,
  chains: Chains,
  table: Table,
  hook: string,
  rules: ReadonlyMap<string, readonly Decided[]>,
): Columns {
  const words = new Conditions();
  const fates = new Map<number, Fate>();
  const decided = [...rules].map(([name, those]) => [name, those.map(prepare)] as const);
  const all = decided.flatMap(([, those]) => those);
  const cuts = number(all, family);
  const numbers = new Map(all.map((one, i) => [one, i]));
  const byProtocol = new Map<number, [string, Prepared[]][]>();
  const byPort = new Map<number, Column>();
  const byRules = new Map<string, Column>();
  return (protocol: number, port: number): Column => {
    const key = protocol * 65536 + port;
    let column = byPort.get(key);
    if (!column) {
      const relevant = about(protocol, port);
      const same = [...relevant.values()].map((those) => those.map((one) => numbers.get(one)).join()).join(";");
      column = byRules.get(same) ?? sweep(relevant);
      byRules.set(same, column);
      byPort.set(key, column);
    }
    return column;
  };

  function prepare(one: Decided): Prepared {
    const { rule, ports, conditions, pieces } = one;
    const { target, final, untracks } = rule;
    const called = target !== undefined && chains.has(target) ? target : undefined;
    const own = target === undefined ? nothing : called === undefined ? effect(target, untracks, table) : undefined;
    const extra = words.of(own === unknown ? [...conditions, `-j ${target}`] : conditions);
    const returns = called === undefined ? untracks || own === unknown : !final;
    return { rule, ports, addresses: one.addresses, conditions, pieces, called, own, extra, returns, surely: conditions.length === 0 }; // prettier-ignore
  }

  /** The rules that this protocol and port meet, of the chains to which rules of these lead. */
  function about(protocol: number, port: number): Map<string, Prepared[]> {
    let those = byProtocol.get(protocol);
    if (!those) {
      those = decided.map(([name, all]) => [name, all.filter(({ rule }) => includes(rule.protocols, protocol))]);
      byProtocol.set(protocol, those);
    }
    const found = new Map<string, Prepared[]>();
    const called = new Set([hook]);
    // Those that call come after those that are called.
    for (let i = those.length - 1; i >= 0; i--) {
      const [name, all] = those[i]!;
      if (!called.has(name)) continue;
      const here = all.filter(({ ports }) => ports.every((match) => includes(match, port)));
      for (const one of here) if (one.called !== undefined) called.add(one.called);
      found.set(name, here);
    }
    return new Map([...found].reverse());
  }

  function sweep(relevant: ReadonlyMap<string, readonly Prepared[]>): Column {
    const used = new Uint8Array(cuts.length + 1);
    used[0] = 1;
    for (const those of relevant.values()) {
      for (const { pieces } of those) for (const [from, to] of pieces) used[from] = used[to] = 1;
    }
    // The numbers of the cuts among those that are used.
    const froms: bigint[] = [];
    const local = new Int32Array(cuts.length + 1);
    for (let i = 0; i <= cuts.length; i++) {
      local[i] = froms.length;
      if (used[i] === 1 && i < cuts.length) froms.push(cuts[i]!);
    }
    const codes = new Map<string, Float64Array>();
    for (const [name, those] of relevant) codes.set(name, through(chains.get(name)!.policy, those, codes, local));
    const column: { from: bigint; fate: Fate }[] = [];
    let last: number | undefined;
    codes.get(hook)!.forEach((code, i) => {
      if (code !== last) {
        const fate = fates.get(code) ?? decode(code, words);
        fates.set(code, fate);
        column.push({ from: froms[i]!, fate });
      }
      last = code;
    });
    return column;
  }

  /** @param codes the fates in the chains that these rules may call. */
  function through(
    policy: Chain["policy"],
    those: readonly Prepared[],
    codes: ReadonlyMap<string, Float64Array>,
    local: Int32Array,
  ): Float64Array {
    const size = local.at(-1)!;
    const found = new Float64Array(size).fill(Bit.tracked);
    const alive = new Alive(size);
    for (const { called, own, extra, returns, surely, pieces } of those) {
      if (own === nothing) continue;
      const there = called === undefined ? undefined : codes.get(called)!;
      for (const [from, to] of pieces) {
        const end = local[to]!;
        for (let i = alive.from(local[from]!); i < end; i = alive.from(i + 1)) {
          const code = there ? there[i]! : own!;
          const bits = bitsOf(code);
          const goesOn = returns && (bits & Bit.back) !== 0;
          if (goesOn && (bits & ~(Bit.back | Bit.tracked)) === 0) continue; // it has come back as it was
          found[i] = combined(found[i]!, code, extra, surely, returns);
          if (surely && !goesOn) alive.end(i);
        }
      }
    }
    for (let i = alive.from(0); i < size; i = alive.from(i + 1)) found[i] = withBits(found[i]!, Bit.back);
    return policy === "-" ? found : found.map((code) => ended(code, policy));
  }

  /** @param returns whether what comes back from there goes on here. */
  function combined(here: number, there: number, extra: number, surely: boolean, returns: boolean): number {
    const [before, what] = [bitsOf(here), bitsOf(there)];
    let bits = before | (what & (returns ? Bit.ends : Bit.ends | Bit.back)) | (what & Bit.untracked);
    // It is tracked no longer, if nothing has been decided about it while it was.
    if (surely && (what & Bit.tracked) === 0 && (before & (Bit.ends | Bit.back)) === 0) bits &= ~Bit.tracked;
    return encode(bits, words.union(conditionsOf(here), words.union(conditionsOf(there), extra)));
  }
}

/** What is still undecided among numbered pieces: the ends of runs of what is decided, each found in nearly one step. */
class Alive {
  private readonly next: Int32Array;

  constructor(size: number) {
    this.next = new Int32Array(size + 1);
    for (let i = 0; i <= size; i++) this.next[i] = i;
  }

  /** The first from here. */
  from(i: number): number {
    const { next } = this;
    while (next[i] !== i) i = next[i] = next[next[i]!]!;
    return i;
  }

  end(i: number): void {
    this.next[i] = i + 1;
  }
}

/** A decided rule, and what its target does. */
interface Prepared extends Decided {
  /** The chain that it calls. */
  readonly called: string | undefined;
  /** The fate of what its target is, if that is no chain. */
  readonly own: number | undefined;
  /** The number of its conditions. */
  readonly extra: number;
  /** Whether the next rule is asked about what comes back. */
  readonly returns: boolean;
  readonly surely: boolean;
}

/** A fate in one number: what may happen, and the number of a set of conditions. */
const Bit = {
  accept: 1,
  drop: 2,
  redirect: 4,
  turn: 8,
  /** All of these. */
  ends: 15,
  back: 16,
  tracked: 32,
  untracked: 64,
} as const;
const bitsOf = (code: number) => code % 128;
const conditionsOf = (code: number) => Math.floor(code / 128);
const encode = (bits: number, conditions: number) => conditions * 128 + bits;
const withBits = (code: number, bits: number) => code - bitsOf(code) + (bitsOf(code) | bits);

function decode(code: number, words: Conditions): Fate {
  const has = (bit: number) => (bitsOf(code) & bit) !== 0;
  return {
    accept: has(Bit.accept),
    drop: has(Bit.drop),
    back: has(Bit.back),
    redirect: has(Bit.redirect),
    turn: has(Bit.turn),
    tracked: has(Bit.tracked),
    untracked: has(Bit.untracked),
    conditions: words.get(conditionsOf(code)),
  };
}

/** What has nothing against anybody. */
const nobody: Column = [
  {
    from: 0n,
    fate: {
      ...{ accept: true, drop: false, back: false, redirect: false, turn: false, tracked: true, untracked: false },
      conditions: new Set(),
    },
  },
];

const nowhere: Columns = () => nobody;

/** Sets of conditions, numbered; 0 is the empty one. Of more than {@link most}, nobody asks which they are. */
class Conditions {
  private readonly sets: ReadonlySet<string>[] = [new Set()];
  private readonly numbers = new Map<string, number>([["", 0]]);
  private readonly unions = new Map<string, number>();

  get(number: number): ReadonlySet<string> {
    return this.sets[number]!;
  }

  of(words: readonly string[]): number {
    if (words.length === 0) return 0;
    const sorted = [...new Set(words)].sort();
    const few = sorted.length > most || sorted[0] === "…" ? ["…"] : sorted;
    const key = few.join("\n");
    const before = this.numbers.get(key);
    if (before !== undefined) return before;
    this.numbers.set(key, this.sets.length);
    return this.sets.push(new Set(few)) - 1;
  }

  union(a: number, b: number): number {
    if (a === b || b === 0) return a;
    if (a === 0) return b;
    const key = `${a} ${b}`;
    let found = this.unions.get(key);
    if (found === undefined) {
      const [first, second] = [this.get(a), this.get(b)];
      found = first.has("…") ? a : second.has("…") ? b : this.of([...first, ...second]);
      this.unions.set(key, found);
    }
    return found;
  }
}
const most = 16;

/** Nobody knows what becomes of a packet, or whether it goes on. */
const unknown = Bit.ends | Bit.back | Bit.tracked | Bit.untracked;

/** A rule whose target leaves the packet alone. */
const nothing = 0;

/** What a target does that is not a chain. */
function effect(target: string, untracks: boolean, table: Table): number {
  if (untracks) return Bit.back | Bit.untracked;
  if (target === "ACCEPT") return Bit.accept | Bit.tracked;
  if (target === "DROP" || target === "REJECT") return Bit.drop | Bit.tracked;
  if (target === "RETURN") return Bit.back | Bit.tracked;
  if (leavesAlone.includes(target)) return nothing;
  if (table === "nat" && target === "REDIRECT") return Bit.redirect | Bit.tracked;
  if (table === "nat" && ["DNAT", "NETMAP"].includes(target)) return Bit.turn | Bit.tracked;
  return unknown;
}

/** Targets after which the next rule is asked. */
const leavesAlone = [
  ...["LOG", "NFLOG", "ULOG", "MARK", "CONNMARK", "TRACE", "SET", "TCPMSS", "AUDIT", "CHECKSUM", "DSCP", "TOS", "CT"],
];

/** Nobody has called a chain that has a policy: what would come back from it meets that. */
function ended(code: number, policy: Chain["policy"]): number {
  const bits = bitsOf(code);
  if ((bits & Bit.back) === 0) return code;
  const met = policy === "ACCEPT" ? Bit.accept : policy === "DROP" ? Bit.drop : Bit.accept | Bit.drop;
  return code - bits + ((bits & ~Bit.back) | met);
}

/** Numbers the addresses at which rules may change their mind, and tells each rule which are its own. */
function number(decided: readonly Decided[], family: Family): bigint[] {
  const [first, last] = allAddresses[family];
  const ends: { at: bigint; piece: [number, number]; end: 0 | 1 }[] = [];
  for (const { addresses, pieces } of decided) {
    for (const [from, to] of addresses ? spansOf(addresses, family) : [[first, last] as const]) {
      const piece: [number, number] = [0, 0];
      pieces.push(piece);
      ends.push({ at: from, piece, end: 0 }, { at: to + 1n, piece, end: 1 });
    }
  }
  ends.sort((a, b) => (a.at < b.at ? -1 : a.at > b.at ? 1 : 0));
  const cuts: bigint[] = [first];
  for (const { at, piece, end } of ends) {
    if (at !== cuts.at(-1)) cuts.push(at);
    piece[end] = cuts.length - 1;
  }
  if (cuts.at(-1) === last + 1n) cuts.pop(); // its number remains the end of what reaches so far
  return cuts;
}

/** The spans of a match, in order: if it is negated, those between. */
function spansOf({ spans, negated }: Match<bigint>, family: Family): readonly Span<bigint>[] {
  if (!negated) return spans;
  let [from] = allAddresses[family] as Span<bigint>;
  const found: Span<bigint>[] = [];
  for (const [first, last] of [...spans].sort(([a], [b]) => (a < b ? -1 : 1))) {
    if (from < first) found.push([from, first - 1n]);
    if (last >= from) from = last + 1n;
  }
  if (from <= allAddresses[family][1]) found.push([from, allAddresses[family][1]]);
  return found;
}

function includes<T extends number | bigint>(match: Match<T> | undefined, value: T): boolean {
  return !match || match.spans.some(([from, to]) => from <= value && value <= to) !== match.negated;
}

/** A rule that an arrival may meet, if it may, with what remains to be asked of the packet. */
function decide(rule: Rule, arrival: Arrival, family: Family): Decided | undefined {
  const { to, now, published, answer } = arrival;
  const questions = rule.asks.map(({ text, of }) => ({ text, answer: of(arrival) }));
  const ask = (match: Match<number> | Match<bigint>, answer: boolean | undefined) =>
    questions.push({ text: match.text, answer });
  const ports: Match<number>[] = rule.types && !answer ? [rule.types] : [];
  if (rule.types && answer) ask(rule.types, undefined);

  const [theirs, others] = answer ? [rule.destinations, rule.sources] : [rule.sources, rule.destinations];
  if (others) {
    // Once NAT has changed it, its destination is another.
    const destination = answer ? undefined : published ? now?.address : to;
    ask(others, destination ? includes(others, destination.first) : isGroup(others, family, arrival));
  }
  const [own, other] = answer ? [rule.sourcePorts, rule.ports] : [rule.ports, rule.sourcePorts];
  if (other) ask(other, undefined);
  if (own) {
    if (!published) ports.push(own);
    else {
      const answers = new Set(now?.ports.map((port) => includes(own, port)));
      ask(own, answers.size === 1 ? answers.has(true) : undefined);
    }
  }
  if (rule.askedPorts) {
    if (answer) ask(rule.askedPorts, undefined);
    else if (!hasConnection(arrival)) ask(rule.askedPorts, rule.unconnected);
    else ports.push(rule.askedPorts);
  }
  if (questions.some((one) => one.answer === false)) return undefined;
  const conditions = questions.filter((one) => one.answer === undefined).map(({ text }) => text);
  return { rule, ports, addresses: theirs, conditions, pieces: [] };
}

/** Whether a packet to an address of the host, whichever that is, meets a rule about addresses that no host has. */
function isGroup({ spans, negated }: Match<bigint>, family: Family, { local }: Arrival): boolean | undefined {
  const nobodys = spans.every(
    ([first, last]) =>
    noHosts[family].some(([from, to]) => from <= first && last <= to), // prettier-ignore
  );
  return local && nobodys ? negated : undefined;
}

/** Addresses of groups and of broadcasts. */
const noHosts: Readonly<Record<Family, readonly Span<bigint>[]>> = {
  4: [
    [0xe000_0000n, 0xefff_ffffn],
    [0xffff_ffffn, 0xffff_ffffn],
  ],
  6: [[0xff00n << 112n, allAddresses[6][1]]],
};

const steps = (hook: string): Place[] => (["mangle", "filter", "security"] as const).map((table) => [table, hook]);
const [toHost, onward] = [steps("INPUT"), steps("FORWARD")];
const rawHook: Place = ["raw", "PREROUTING"];
const mangleHook: Place = ["mangle", "PREROUTING"];
const natHook: Place = ["nat", "PREROUTING"];

/**
 * What reaches a service of the host, or of a container on it, through all tables in the order in which a packet meets them
 * (netfilter's priorities: raw, mangle, nat, filter, security). What NAT sends elsewhere is let through only if FORWARD does so.
 */
export function admitted(ruleset: Ruleset, arrival: Arrival): Reach {
  const along = (places: readonly Place[], how: Arrival) => {
    const all = places.map((place) => columns(ruleset, place, how));
    return (protocol: number, port: number) => all.map((one) => one(protocol, port));
  };
  const turned: Arrival = { ...arrival, published: true, now: destinations(ruleset) };
  const begins = along([rawHook, mangleHook, natHook], arrival);
  const stays = along(toHost, arrival);
  const redirected = along(toHost, turned);
  const forwarded = along(onward, { ...turned, local: false });
  const untracked = along([mangleHook, ...toHost], { ...arrival, state: "UNTRACKED" });

  const [surely, perhaps]: [Region[], Region[]] = [[], []];
  const places = [rawHook, mangleHook, natHook, ...toHost, ...onward];
  const planes = boundariesOf(ruleset, places).map((one) => ({ ...one, addresses: allAddresses[one.family] }));
  for (const plane of cells(unique(planes))) {
    const at = [plane.protocols[0], plane.ports[0]] as const;
    const first = begins(...at);
    // Most packets go one way only.
    const may = (wanted: (fate: Fate) => boolean, way: typeof stays) =>
      first.some((column) => column.some(({ fate }) => wanted(fate))) ? way(...at) : [];
    const ways = [
      first,
      stays(...at),
      may(({ redirect, turn }) => redirect || turn, redirected),
      may(({ turn }) => turn, forwarded),
      may((fate) => fate.untracked, untracked),
    ];
    const pieces = zip(ways.flat());
    pieces.forEach(([from, fates], i) => {
      const end = (pieces[i + 1]?.[0] ?? allAddresses[plane.family][1] + 1n) - 1n;
      const one = { ...plane, addresses: [from, end] as const };
      const is = whole(ways.map((way) => fates.splice(0, way.length)) as unknown as Ways);
      if (is.surely) surely.push(one);
      if (is.perhaps) perhaps.push(one);
    });
  }
  return { surely: joined(surely), perhaps: joined(perhaps) };
}

type Ways = readonly [readonly [Fate, Fate, Fate], ...Fate[][]];

/** What the ways that a packet may take come to together. */
function whole([[raw, mangle, nat], stays, redirected, forwarded, untracked]: Ways) {
  const through = (fates: readonly Fate[]) => ({
    surely: fates.every(({ drop }) => !drop),
    perhaps: fates.every(({ accept }) => accept),
  });
  const ways = [
    ...(raw.tracked && nat.accept ? [through([mangle, ...stays!])] : []),
    ...(raw.tracked && (nat.redirect || nat.turn) ? [through([mangle, ...redirected!])] : []),
    ...(raw.tracked && nat.turn ? [through([mangle, ...forwarded!])] : []),
    ...(raw.untracked ? [through(untracked!)] : []),
  ];
  return {
    surely: !raw.drop && !nat.drop && ways.every(({ surely }) => surely),
    perhaps: raw.accept && ways.some(({ perhaps }) => perhaps),
  };
}

/** The ports to which NAT turns packets, if all rules that may do so name one. */
function destinations({ tables }: Ruleset): Arrival["now"] {
  const chains = tables.get("nat");
  const rules = [...(reached(chains, natHook[1])?.values() ?? [])].flat();
  const turning = rules.filter(
    ({ target }) =>
      target !== undefined &&
      !chains!.has(target) &&
      !leavesAlone.includes(target) &&
      effect(target, false, "nat") & (Bit.redirect | Bit.turn),
  );
  const ports = turning.map(({ turnsTo }) => turnsTo);
  return ports.includes(undefined) ? undefined : { ports: [...new Set(ports as number[])] };
}

function unique(regions: readonly Region[]): Region[] {
  return [...new Map(regions.map((one) => [[...one.protocols, ...one.ports].join(), one])).values()];
}

/** Several columns as one, cut where any of them is. */
function zip(several: readonly Column[]): [bigint, Fate[]][] {
  const starts = [...new Set(several.flatMap((column) => column.map(({ from }) => from)))].sort((a, b) =>
    a < b ? -1 : 1,
  );
  const at = several.map(() => 0);
  return starts.map((from) => [
    from,
    several.map((column, i) => {
      while (column[at[i]! + 1] && column[at[i]! + 1]!.from <= from) at[i]!++;
      return column[at[i]!]!.fate;
    }),
  ]);
}
