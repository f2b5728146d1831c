import { parseCidr, type Cidr, type Family } from "../policy/cidr";
import {
  addressesOf,
  allAddresses,
  allPorts,
  allProtocols,
  cells,
  everything,
  icmpPorts,
  joined,
  protocol,
  protocolNumbers,
  type Region,
  type Span,
} from "../policy/regions";

/** What a rule may ask of a packet besides its family, protocol, port and address. */
export interface Arrival {
  /**
   * Where it comes in; "" is an interface that no rule names. Undefined: unknown, and so is what rules say about it, but that it is
   * not loopback.
   */
  readonly in?: string | undefined;
  /** Where it goes out; as `in`. */
  readonly out?: string | undefined;
  /** Its state in connection tracking. */
  readonly state: "NEW" | "ESTABLISHED" | "RELATED" | "INVALID" | "UNTRACKED";
  /** Whether it is for an address of the host, not for a broadcast or multicast address. */
  readonly local: boolean;
  /** The address that it was sent to, as the network of it alone. Undefined: unknown. */
  readonly to?: Cidr | undefined;
  /** Whether NAT has given it another destination, such as the port of a container. Ports are those that the client asked for. */
  readonly published?: boolean;
  /** With `published`: the destination that it has now. Undefined: unknown. */
  readonly now?: { readonly address: Cidr; readonly port: number } | undefined;
  /** Whether it is the answer of a service: then its ports are those of the service, and its addresses those of the client. */
  readonly answer?: boolean;
}

/** What gets through: in any case, and perhaps, where rules depend on something else than an {@link Arrival} tells. */
export interface Reach {
  readonly surely: readonly Region[];
  /** All of `surely`, too. */
  readonly perhaps: readonly Region[];
}

/** Yes, no, or undefined: that depends. */
type Answer = boolean | undefined;

interface Rule {
  readonly family: Family;
  readonly protocols: Match<number> | undefined;
  /** The ports that it goes to, or that its client asked for; or ICMP types. */
  readonly ports: Ports | undefined;
  readonly sourcePorts: Ports | undefined;
  readonly sources: Match<bigint> | undefined;
  readonly destinations: Match<bigint> | undefined;
  readonly asks: readonly Ask[];
  readonly target: string | undefined;
  /** A goto: what comes back from the target has come back from this chain. */
  readonly final: boolean;
}

interface Ports extends Match<number> {
  /** The question in the rule's own words. */
  readonly text: string;
}

/** What else a rule asks, in its own words. */
interface Ask {
  readonly text: string;
  readonly of: (arrival: Arrival) => Answer;
}

/** One of the spans, or, negated, none of them. */
interface Match<T> {
  readonly spans: readonly Span<T>[];
  readonly negated: boolean;
}

export type Table = "raw" | "mangle" | "nat" | "filter" | "security";

interface Chain {
  /** `ACCEPT` or `DROP`; `-` where another chain must call this one. */
  readonly policy: string;
  readonly rules: readonly Rule[];
}

type Chains = ReadonlyMap<string, Chain>;

/** The rules of one family, by table and chain. */
export interface Ruleset {
  readonly family: Family;
  readonly tables: ReadonlyMap<string, Chains>;
}

/**
 * Reads an `iptables-save` or `ip6tables-save` text, anybody's rules included. A match that is not known here is one of which nobody
 * knows whether it holds, so that nothing is taken for open or shut that may be otherwise. The text of a host without rules is empty.
 *
 * @throws an Error that names the line which is not of that form, or the table that iptables-save cannot show.
 */
export function parseRuleset(text: string, family: Family): Ruleset {
  const tables = new Map<string, Map<string, { policy: string; rules: Rule[] }>>();
  let chains: Map<string, { policy: string; rules: Rule[] }> | undefined;
  for (const { line, number } of logicalLines(text)) {
    const incompatible = /^# Table [`'"]?(\w+)'? is incompatible/.exec(line);
    if (incompatible) {
      throw new Error(
        `line ${number}: the table ${incompatible[1]} holds rules of nft's own, which iptables-save cannot show`,
      );
    }
    if (/^\s*(#|$|COMMIT)/.test(line)) continue;
    if (line.startsWith("*")) {
      const name = line.slice(1).trim();
      if (tables.has(name))
        throw new Error(`line ${number}: the table ${name} a second time; these are the rules of two hosts`);
      chains = new Map<string, { policy: string; rules: Rule[] }>();
      tables.set(name, chains);
      continue;
    }
    const declared = /^:(\S+) (\S+)/.exec(line);
    if (declared && chains) {
      chains.set(declared[1]!, { policy: declared[2]!, rules: [] });
      continue;
    }
    const [append, chain, ...words] = tokens(line.replace(/^\[\d+:\d+\] /, ""));
    const found = append === "-A" && chain !== undefined ? chains?.get(chain) : undefined;
    if (!found) throw new Error(`line ${number} is not one of iptables-save: ${line}`);
    found.rules.push(parseRule(words, family));
  }
  return { family, tables };
}

/** Lines, but for those that end inside of a quoted comment: they go on in the next. */
function logicalLines(text: string): { line: string; number: number }[] {
  const found: { line: string; number: number }[] = [];
  let open = false;
  text.split("\n").forEach((line, i) => {
    if (open) found.at(-1)!.line += `\n${line}`;
    else found.push({ line, number: i + 1 });
    if (!line.startsWith("#")) open = open !== (line.replace(/\\./g, "").split('"').length % 2 === 0);
  });
  return found;
}

/** Everything, and the regions at whose boundaries, and nowhere else, what some chains lead to may tell packets apart. */
export function boundariesOf({ family, tables }: Ruleset, hooks: readonly (readonly [Table, string])[]): Region[] {
  const found: Region[] = [everything(family)];
  for (const [table, hook] of hooks) {
    const chains: Chains = tables.get(table) ?? new Map();
    const reached = new Set<string>();
    const queue = [hook];
    for (let name = queue.pop(); name !== undefined; name = queue.pop()) {
      if (reached.has(name)) continue;
      reached.add(name);
      for (const rule of chains.get(name)?.rules ?? []) {
        found.push(...boundaries(rule, family));
        if (rule.target !== undefined && chains.has(rule.target)) queue.push(rule.target);
      }
    }
  }
  return found;
}

/** Words of a line as the shell's `read` would split it: iptables-save quotes and escapes comments. */
function tokens(line: string): string[] {
  return [...line.matchAll(/"((?:[^"\\]|\\.)*)"|(\S+)/g)].map(
    (match) => match[1]?.replace(/\\(.)/g, "$1") ?? match[2]!,
  );
}

function parseRule(words: readonly string[], family: Family): Rule {
  let protocols: Rule["protocols"], ports: Rule["ports"], sourcePorts: Rule["sourcePorts"];
  let sources: Rule["sources"], destinations: Rule["destinations"];
  let target: string | undefined;
  let final = false;
  const asks: Ask[] = [];
  for (let i = 0; i < words.length;) {
    const start = i;
    let negated = words[i] === "!";
    if (negated) i++;
    const option = words[i++]!;
    // As iptables before 1.4 wrote it.
    if (words[i] === "!" && arity[option] === 1) {
      negated = !negated;
      i++;
    }
    const values = words.slice(i, i + (arity[option] ?? valuesOf(words.slice(i))));
    i += values.length;
    const value = values[0] ?? "";
    const text = words.slice(start, i).join(" ");
    const ask = (answer: (arrival: Arrival) => Answer) =>
      asks.push({ text, of: (arrival) => (negated ? not(answer(arrival)) : answer(arrival)) });
    const unknown = () => ask(() => undefined);

    if (option === "-j" || option === "-g") {
      target = value;
      final = option === "-g";
      // What follows belongs to the target; iptables-save prints no match there, but takes one.
      if (words.slice(i).some((word) => ["!", "-p", "-s", "-d", "-i", "-o", "-m"].includes(word))) unknown();
      break;
    } else if (option === "-p") {
      const spans = protocolsOf(value);
      if (spans) protocols = { spans, negated };
      else unknown();
    } else if (option === "-s" || option === "-d") {
      const network = networkOf(value, family);
      if (!network) unknown();
      else if (option === "-s") sources = { spans: [network], negated };
      else destinations = { spans: [network], negated };
    } else if (option === "--ctorigdst") {
      const network = networkOf(value, family);
      ask(({ to }) => network && to && within(network, to.first));
    } else if (option === "-i" || option === "-o") {
      ask((arrival) => isNamed(option === "-i" ? arrival.in : arrival.out, value));
    } else if (["--dport", "--dports", "--sport", "--sports", "--ctorigdstport"].includes(option)) {
      const spans = value.split(",").map(portsOf);
      const isSource = option.startsWith("--sport");
      if (spans.includes(undefined) || (isSource ? sourcePorts : ports) || !protocols) unknown();
      else {
        const found = { spans: spans as Span<number>[], negated, text };
        if (isSource) sourcePorts = found;
        else ports = found;
      }
    } else if (option === "--icmp-type" || option === "--icmpv6-type") {
      const [, type, code] = /^(\d+)(?:\/(\d+))?$/.exec(value) ?? [];
      if (value === "any" && !negated) continue;
      if (type === undefined || ports) unknown();
      else ports = { spans: [icmpPorts(Number(type), code === undefined ? undefined : Number(code))], negated, text };
    } else if (option === "--ctstate" || option === "--state") {
      const states = value.split(",");
      ask(({ state, published }) => {
        if (states.includes(state) || (states.includes("DNAT") && published === true)) return true;
        return states.includes("SNAT") ? undefined : false;
      });
    } else if (option === "--dst-type") {
      const types = value.split(",");
      // Over IPv6, a local address is a unicast one as well.
      const others = types.filter((type) => type !== "LOCAL" && (family === 4 || type !== "UNICAST"));
      ask(({ local }) => {
        if (local && types.includes("LOCAL")) return true;
        return (local ? others.length === types.length : others.length === 0 && types.includes("LOCAL"))
          ? false
          : undefined;
      });
    } else if (option === "--tcp-flags" && values.join(" ") === "FIN,SYN,RST,ACK SYN") {
      ask(({ state }) => (state === "NEW" ? true : undefined)); // what begins a connection
    } else if (option === "-f") {
      ask(() => false); // the second and later fragments
    } else if (option === "-m") {
      // The options of these are above, and they ask nothing by themselves.
      if (!noQuestion.includes(value)) unknown();
    } else if (option !== "--comment") unknown();
  }
  return { family, protocols, ports, sourcePorts, sources, destinations, asks, target, final };
}

/** How many words belong to an option that is known here: a comment may be any word, "-j" too. */
const arity: Readonly<Record<string, number>> = {
  ...Object.fromEntries(
    [
      ...[
        "-p",
        "-s",
        "-d",
        "-i",
        "-o",
        "-m",
        "-j",
        "-g",
        "--dport",
        "--dports",
        "--sport",
        "--sports",
        "--icmp-type",
        "--icmpv6-type",
      ],
      ...["--ctstate", "--state", "--ctorigdst", "--ctorigdstport", "--dst-type", "--comment"],
    ].map((option) => [option, 1]),
  ),
  "--tcp-flags": 2,
  "-f": 0,
};

/** How many of another: up to the next. */
function valuesOf(words: readonly string[]): number {
  const next = words.findIndex((word) => word === "!" || /^--?[a-z]/i.test(word));
  return next < 0 ? words.length : next;
}

const noQuestion = [
  "tcp",
  "udp",
  "icmp",
  "icmp6",
  "conntrack",
  "state",
  "comment",
  "multiport",
  "addrtype",
  "limit",
  "hl",
];

/** As iptables-save names them, from /etc/protocols. */
const protocolNames: Readonly<Record<string, number>> = {
  ...protocolNumbers,
  ...{ "ipv6-icmp": 58, igmp: 2, gre: 47, esp: 50, ah: 51, ospf: 89, vrrp: 112, sctp: 132, udplite: 136 },
};

function protocolsOf(text: string): Span<number>[] | undefined {
  if (text === "all" || text === "0") return [allProtocols];
  const number = Object.hasOwn(protocolNames, text)
    ? protocolNames[text]!
    : /^\d+$/.test(text)
      ? Number(text)
      : undefined;
  return number === undefined ? undefined : [protocol(number)];
}

function networkOf(text: string, family: Family): Span<bigint> | undefined {
  const whole = text.includes("/") ? text : `${text}/${family === 4 ? 32 : 128}`;
  // In a policy, IPv4-mapped addresses are a mistake; in rules they are networks like any.
  const mapped = /^::ffff:([0-9.]+)\/(9[6-9]|1[01]\d|12[0-8])$/.exec(whole);
  const cidr = parseCidr(mapped ? `${mapped[1]}/${Number(mapped[2]) - 96}` : whole);
  if (typeof cidr === "string" || cidr.family !== (mapped ? 4 : family)) return undefined;
  const [first, last] = addressesOf(cidr);
  const base = mapped ? 0xffff_0000_0000n : 0n;
  return [base + first, base + last];
}

function portsOf(text: string): Span<number> | undefined {
  const [, first, last] = /^(\d+)(?::(\d+))?$/.exec(text) ?? [];
  return first === undefined ? undefined : [Number(first), Number(last ?? first)];
}

/** Whether an interface has a name, or one that begins so where the pattern ends with `+`. */
function isNamed(name: string | undefined, pattern: string): Answer {
  if (pattern === "+") return true;
  if (name === undefined) return pattern === "lo" ? false : undefined;
  return pattern.endsWith("+") ? name.startsWith(pattern.slice(0, -1)) && name !== "" : name === pattern;
}

function not(answer: Answer): Answer {
  return answer === undefined ? undefined : !answer;
}

function within([first, last]: Span<bigint>, address: bigint): boolean {
  return first <= address && address <= last;
}

function includes<T extends number | bigint>(match: Match<T> | undefined, [first]: Span<T>): boolean {
  return !match || match.spans.some(([from, to]) => from <= first && first <= to) !== match.negated;
}

/** What may become of a packet: it is accepted, it is dropped, it comes back from the chain to whoever called it. */
export interface Fate {
  accept: boolean;
  drop: boolean;
  back: boolean;
  /** Whether NAT may give it another destination. */
  turn: boolean;
  /** On what that depends, in the words of the rules; empty where it depends on nothing. */
  readonly conditions: ReadonlySet<string>;
}

const none: ReadonlySet<string> = new Set();

/** Targets of the table `nat` that give a packet another destination. */
const turns = ["DNAT", "REDIRECT", "NETMAP"];

/** Targets after which the next rule is asked. */
const goesOn = [
  ...[
    "LOG",
    "NFLOG",
    "ULOG",
    "MARK",
    "CONNMARK",
    "TRACE",
    "SET",
    "TCPMSS",
    "AUDIT",
    "CHECKSUM",
    "DSCP",
    "TOS",
    "NOTRACK",
    "CT",
  ],
];

/**
 * What becomes of the packets of a cell in a chain of a table. A cell must lie on one side of each of its {@link boundariesOf}.
 * A table that there is not, or a chain without rules, has nothing against anybody.
 *
 * @throws an Error where the chain leads back to itself.
 */
export function judge({ tables }: Ruleset, table: Table, chain: string, arrival: Arrival): (cell: Region) => Fate {
  const chains: Chains = tables.get(table) ?? new Map();
  // What does not depend on the packet is asked once, of the chains that a packet comes to.
  const decided = new Map<string, ReturnType<typeof decide>>();
  const rulesOf = (name: string) => {
    let found = decided.get(name);
    if (!found) decided.set(name, (found = chains.get(name)!.rules.flatMap((rule) => decide(rule, arrival))));
    return found;
  };
  // However often a chain is called, the same becomes of a cell.
  const known = new Map<string, Fate>();
  const inside = new Set<string>();
  return (cell) => {
    if (!chains.has(chain)) return { accept: true, drop: false, back: false, turn: false, conditions: none };
    known.clear();
    inside.clear();
    return walk(chain, cell);
  };

  function walk(name: string, cell: Region): Fate {
    const before = known.get(name);
    if (before) return before;
    if (inside.has(name)) throw new Error(`chain ${name} leads back to itself; no kernel takes that`);
    inside.add(name);
    const fate = through(name, cell);
    inside.delete(name);
    known.set(name, fate);
    return fate;
  }

  function through(name: string, cell: Region): Fate {
    const fate = { accept: false, drop: false, back: false, turn: false, conditions: none };
    const depends = (conditions: Iterable<string>) => {
      for (const condition of conditions) fate.conditions = new Set([...fate.conditions, condition]);
    };
    const { policy } = chains.get(name)!;
    for (const { rule, ports, addresses, conditions } of rulesOf(name)) {
      const { protocols, target, final } = rule;
      if (!includes(protocols, cell.protocols) || !includes(ports, cell.ports) || !includes(addresses, cell.addresses))
        continue;
      if (target === undefined || goesOn.includes(target)) continue;
      depends(conditions);
      if (target === "ACCEPT") fate.accept = true;
      else if (target === "DROP" || target === "REJECT") fate.drop = true;
      else if (target === "RETURN") fate.back = true;
      else if (table === "nat" && turns.includes(target)) fate.turn = true;
      else if (chains.has(target)) {
        const there = walk(target, cell);
        fate.accept ||= there.accept;
        fate.drop ||= there.drop;
        fate.turn ||= there.turn;
        depends(there.conditions);
        if (there.back && final) fate.back = true;
        if (there.back && !final) continue;
      } else {
        fate.accept = fate.drop = true; // nobody knows
        depends([`-j ${target}`]);
        continue;
      }
      if (conditions.length === 0) return ended(fate, policy);
    }
    return ended({ ...fate, back: true }, policy);
  }
}

/** Nobody has called a chain that has a policy: what would come back from it meets that. */
function ended(fate: Fate, policy: string): Fate {
  if (!fate.back || policy === "-") return fate;
  return { ...fate, back: false, [policy === "ACCEPT" ? "accept" : "drop"]: true };
}

/**
 * What reaches a service of the host, or of a container on it, through all tables in the order in which a packet meets them
 * (netfilter's priorities: raw, mangle, nat, filter, security).
 */
export function admitted(ruleset: Ruleset, arrival: Arrival): Reach {
  const steps = (hook: string, tables: readonly Table[]) => tables.map((table) => [table, hook] as const);
  const before = steps("PREROUTING", ["raw", "mangle", "nat"]);
  const toHost = steps("INPUT", ["mangle", "filter", "security"]);
  const onward = steps("FORWARD", ["mangle", "filter", "security"]);
  const judges = (hooks: readonly (readonly [Table, string])[], how: Arrival) =>
    hooks.map(([table, hook]) => judge(ruleset, table, hook, how));
  const turned: Arrival = { ...arrival, published: true };
  const [first, here, turnedHere, forwarded] = [
    judges(before, arrival),
    judges(toHost, arrival),
    judges(toHost, turned),
    judges(onward, { ...turned, local: false }),
  ];
  const along = (fates: readonly Fate[]) => ({
    surely: fates.every(({ drop }) => !drop),
    perhaps: fates.every(({ accept }) => accept),
  });

  const judged = [...cells(boundariesOf(ruleset, [...before, ...toHost, ...onward]))].map((cell) => {
    const fates = first.map((one) => one(cell));
    // In nat, nothing is dropped: what no rule turns around goes on as it is.
    const { turn, accept } = fates[2]!;
    const start = along([...fates.slice(0, 2)]);
    const ways = [
      ...(accept ? [along(here.map((one) => one(cell)))] : []),
      ...(turn ? [turnedHere, forwarded].map((those) => along(those.map((one) => one(cell)))) : []),
    ];
    return {
      cell,
      surely: start.surely && ways.every(({ surely }) => surely),
      perhaps: start.perhaps && ways.some(({ perhaps }) => perhaps),
    };
  });
  return {
    surely: joined(judged.filter(({ surely }) => surely).map(({ cell }) => cell)),
    perhaps: joined(judged.filter(({ perhaps }) => perhaps).map(({ cell }) => cell)),
  };
}

/** A rule that an arrival may meet, if it may, with what remains to be asked of the packet, and on which conditions. */
function decide(rule: Rule, arrival: Arrival) {
  const { to, now, state, local, published, answer } = arrival;
  const [addresses, others] = answer ? [rule.destinations, rule.sources] : [rule.sources, rule.destinations];
  const [ports, unknownPorts] = answer ? [rule.sourcePorts, rule.ports] : [rule.ports, rule.sourcePorts];
  const asked = rule.asks.map(({ text, of }) => ({ text, answer: of(arrival) }));
  // Once a packet has been turned around, its destination is another.
  const destination = published ? now?.address : to;
  if (others) {
    asked.push({
      text: "an address",
      answer: destination
        ? includes(others, [destination.first, destination.first])
        : local && !others.negated && others.spans.every(([first]) => first >= groups[rule.family])
          ? false
          : undefined,
    });
  }
  if (unknownPorts) asked.push({ text: unknownPorts.text, answer: undefined });
  let asks = ports;
  if (ports?.text.includes("--ctorigdstport")) {
    // Behind a packet that is not tracked there is no connection to be asked.
    if (state === "UNTRACKED") asked.push({ text: ports.text, answer: false });
  } else if (ports && published) {
    asked.push({ text: ports.text, answer: now && includes(ports, [now.port, now.port]) });
    if (now) asks = undefined; // it has been asked
  }
  if (asked.some((one) => one.answer === false)) return [];
  return [
    {
      rule,
      ports: asks,
      addresses,
      conditions: asked.filter((one) => one.answer === undefined).map(({ text }) => text),
    },
  ];
}

/** From here on, addresses are those of groups, of broadcasts, and reserved ones: no host has one. */
const groups = { 4: 0xe000_0000n, 6: 0xff00n << 112n } as const;

/** Regions at whose boundaries a rule may change its mind. */
function boundaries({ protocols, ports, sourcePorts, sources, destinations }: Rule, family: Family): Region[] {
  const along = <T>(all: Span<T>, ...matches: (Match<T> | undefined)[]) =>
    matches.flatMap((match) => (match ? [...match.spans, ...(match.negated ? [all] : [])] : [all]));
  return along(allProtocols, protocols).flatMap((protocolSpan) =>
    along(allPorts, ports, sourcePorts).flatMap((portSpan) =>
      along<bigint>(allAddresses[family], sources, destinations).map((addressSpan) => ({
        family,
        protocols: protocolSpan,
        ports: portSpan,
        addresses: addressSpan,
      })),
    ),
  );
}
