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
  /** Whether its destination has been turned around, to the port of a container. Ports are those that were asked for. */
  readonly published?: boolean;
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

/** The chains of the table `filter` of one family. */
export interface Ruleset {
  readonly family: Family;
  readonly chains: ReadonlyMap<string, { readonly policy: string; readonly rules: readonly Rule[] }>;
  /** At their boundaries, and nowhere else, the rules may tell packets apart. */
  readonly boundaries: readonly Region[];
}

/**
 * Reads the table `filter` in an `iptables-save` or `ip6tables-save` text, anybody's rules included. A match that is not known
 * here is one of which nobody knows whether it holds, so that nothing is taken for open or shut that may be otherwise.
 *
 * @throws an Error that names the line which is not of that form.
 */
export function parseRuleset(text: string, family: Family): Ruleset {
  const chains = new Map<string, { policy: string; rules: Rule[] }>();
  let table = "";
  text.split("\n").forEach((line, i) => {
    if (line.startsWith("*")) table = line.slice(1).trim();
    if (table !== "filter" || /^\s*(#|$|\*|COMMIT)/.test(line)) return;
    const declared = /^:(\S+) (\S+)/.exec(line);
    if (declared) {
      chains.set(declared[1]!, { policy: declared[2]!, rules: [] });
      return;
    }
    const [append, chain, ...words] = tokens(line.replace(/^\[\d+:\d+\] /, ""));
    const found = append === "-A" && chain !== undefined ? chains.get(chain) : undefined;
    if (!found) throw new Error(`line ${i + 1} is not one of iptables-save: ${line}`);
    found.rules.push(parseRule(words, family));
  });
  if (chains.size === 0) throw new Error('there is no table "filter"; this is no output of iptables-save');
  const rules = [...chains.values()].flatMap((chain) => chain.rules);
  return { family, chains, boundaries: [everything(family), ...rules.flatMap((rule) => boundaries(rule, family))] };
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
    const negated = words[i] === "!";
    if (negated) i++;
    const option = words[i++]!;
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
      break; // what follows belongs to the target
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
      if (spans.includes(undefined) || (isSource ? sourcePorts : ports)) unknown();
      else {
        const found = { spans: spans as Span<number>[], negated, text };
        if (isSource) sourcePorts = found;
        else ports = found;
        protocols ??= { spans: [protocol("tcp"), protocol("udp")], negated: false };
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
      ask(({ local }) => (value === "LOCAL" ? local : local ? false : undefined));
    } else if (option === "--tcp-flags" && values.join(" ") === "FIN,SYN,RST,ACK SYN") {
      ask(({ state }) => (state === "NEW" ? true : undefined)); // what begins a connection
    } else if (option === "-f") {
      ask(() => false); // the second and later fragments
    } else if (option === "-m") {
      // The options of these are above, and they ask nothing by themselves.
      if (!noQuestion.includes(value)) unknown();
    } else if (option !== "--comment") unknown();
  }
  return { protocols, ports, sourcePorts, sources, destinations, asks, target, final };
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
  const cidr = parseCidr(text.includes("/") ? text : `${text}/${family === 4 ? 32 : 128}`);
  return typeof cidr === "string" ? undefined : addressesOf(cidr);
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
  /** On what that depends, in the words of the rules; empty where it depends on nothing. */
  readonly conditions: Set<string>;
}

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
 * What gets through a chain, as far as its own rules decide: what they hand back to whoever called it gets through too.
 *
 * @throws an Error where the ruleset has no such chain.
 */
export function reach(ruleset: Ruleset, chain: string, arrival: Arrival): Reach {
  const fate = judge(ruleset, chain, arrival);
  const judged = [...cells(ruleset.boundaries)].map((cell) => ({ cell, fate: fate(cell) }));
  return {
    surely: joined(judged.filter(({ fate }) => !fate.drop).map(({ cell }) => cell)),
    perhaps: joined(judged.filter(({ fate }) => fate.accept || fate.back).map(({ cell }) => cell)),
  };
}

/** What becomes of the packets of a cell in a chain. A cell must lie on one side of each of the ruleset's boundaries. */
export function judge(ruleset: Ruleset, chain: string, arrival: Arrival): (cell: Region) => Fate {
  // What does not depend on the packet is asked once.
  const decided = new Map(
    [...ruleset.chains].map(([name, { policy, rules }]) => [
      name,
      { policy, rules: rules.flatMap((rule) => decide(rule, arrival)) },
    ]),
  );
  const walk = (name: string, cell: Region, depth = 0): Fate => {
    const found = decided.get(name);
    if (!found) throw new Error(`there is no chain ${name}`);
    if (depth > decided.size) throw new Error(`chain ${name} leads back to itself; no kernel takes that`);
    const fate: Fate = { accept: false, drop: false, back: false, conditions: new Set() };
    for (const { rule, ports, addresses, conditions } of found.rules) {
      const { protocols, target, final } = rule;
      if (!includes(protocols, cell.protocols) || !includes(ports, cell.ports) || !includes(addresses, cell.addresses))
        continue;
      if (target === undefined || goesOn.includes(target)) continue;
      for (const condition of conditions) fate.conditions.add(condition);
      if (target === "ACCEPT") fate.accept = true;
      else if (target === "DROP" || target === "REJECT") fate.drop = true;
      else if (target === "RETURN") fate.back = true;
      else if (decided.has(target)) {
        const there = walk(target, cell, depth + 1);
        fate.accept ||= there.accept;
        fate.drop ||= there.drop;
        for (const condition of there.conditions) fate.conditions.add(condition);
        if (there.back && final) fate.back = true;
        if (there.back && !final) continue;
      } else {
        fate.accept = fate.drop = true; // nobody knows
        fate.conditions.add(`-j ${target}`);
        continue;
      }
      if (conditions.length === 0) return ended(fate, found.policy);
    }
    return ended({ ...fate, back: true }, found.policy);
  };
  return (cell) => walk(chain, cell);
}

/** Nobody has called a chain that has a policy: what would come back from it meets that. */
function ended(fate: Fate, policy: string): Fate {
  if (!fate.back || policy === "-") return fate;
  return { ...fate, back: false, [policy === "ACCEPT" ? "accept" : "drop"]: true };
}

/** A rule that an arrival may meet, if it may, with what remains to be asked of the packet, and on which conditions. */
function decide(rule: Rule, arrival: Arrival) {
  const { to, state, published, answer } = arrival;
  const [addresses, others] = answer ? [rule.destinations, rule.sources] : [rule.sources, rule.destinations];
  const [ports, unknownPorts] = answer ? [rule.sourcePorts, rule.ports] : [rule.ports, rule.sourcePorts];
  const asked = rule.asks.map(({ text, of }) => ({ text, answer: of(arrival) }));
  // Once a packet has been turned around, its destination is another.
  if (others) {
    asked.push({ text: "an address", answer: to && !published ? includes(others, [to.first, to.first]) : undefined });
  }
  if (unknownPorts) asked.push({ text: unknownPorts.text, answer: undefined });
  if (ports?.text.includes("--ctorigdstport")) {
    // Behind a packet that is not tracked there is no connection to be asked.
    if (state === "UNTRACKED") asked.push({ text: ports.text, answer: false });
  } else if (ports && published) asked.push({ text: ports.text, answer: undefined });
  if (asked.some((one) => one.answer === false)) return [];
  return [
    { rule, ports, addresses, conditions: asked.filter((one) => one.answer === undefined).map(({ text }) => text) },
  ];
}

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
