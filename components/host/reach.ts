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
  /** Where it comes in; "" is an interface that no rule names. Undefined: unknown, and so is what rules say about it. */
  readonly in?: string;
  /** Where it goes out; as `in`. */
  readonly out?: string;
  /** Its state in connection tracking. */
  readonly state: "NEW" | "ESTABLISHED" | "RELATED" | "INVALID" | "UNTRACKED";
  /** Whether it is for an address of the host, not for a broadcast or multicast address. */
  readonly local: boolean;
  /** The address that it was sent to, as the network of it alone. Undefined: unknown. */
  readonly to?: Cidr | undefined;
  /** Whether its destination has been turned around, to the port of a container. Ports are those that were asked for. */
  readonly published?: boolean;
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
  readonly ports: Match<number> | undefined;
  readonly addresses: Match<bigint> | undefined;
  readonly asks: readonly ((arrival: Arrival) => Answer)[];
  readonly target: string | undefined;
  /** A goto: what comes back from the target has come back from this chain. */
  readonly final: boolean;
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
  let protocols: Rule["protocols"], ports: Rule["ports"], addresses: Rule["addresses"];
  let target: string | undefined;
  let final = false;
  const asks: Rule["asks"][number][] = [];
  for (let i = 0; i < words.length;) {
    const negated = words[i] === "!";
    if (negated) i++;
    const option = words[i++]!;
    const values = words.slice(i, i + (arity[option] ?? valuesOf(words.slice(i))));
    i += values.length;
    const value = values[0] ?? "";
    const ask = (answer: (arrival: Arrival) => Answer) =>
      asks.push((arrival) => (negated ? not(answer(arrival)) : answer(arrival)));
    const unknown = () => ask(() => undefined);

    if (option === "-j" || option === "-g") {
      target = value;
      final = option === "-g";
      break; // what follows belongs to the target
    } else if (option === "-p") {
      const spans = protocolsOf(value);
      if (spans) protocols = { spans, negated };
      else unknown();
    } else if (option === "-s") {
      const network = networkOf(value, family);
      if (network && !addresses) addresses = { spans: [network], negated };
      else unknown();
    } else if (option === "-d" || option === "--ctorigdst") {
      const network = networkOf(value, family);
      // After a packet has been turned around, -d is where to.
      const turned = option === "-d";
      ask(({ to, published }) =>
        !network || !to || (turned && published) ? undefined : network[0] <= to.first && to.first <= network[1],
      );
    } else if (option === "-i" || option === "-o") {
      ask((arrival) => isNamed(option === "-i" ? arrival.in : arrival.out, value));
    } else if (["--dport", "--dports", "--ctorigdstport"].includes(option)) {
      const spans = value.split(",").map(portsOf);
      const asked = option === "--ctorigdstport";
      if (ports || spans.includes(undefined)) unknown();
      else {
        ports = { spans: spans as Span<number>[], negated };
        // Behind a packet that is not tracked there is no connection to be asked; one that was turned around has another port.
        asks.push(({ state, published }) => (asked ? state !== "UNTRACKED" : published ? undefined : true));
        protocols ??= { spans: [protocol("tcp"), protocol("udp")], negated: false };
      }
    } else if (option === "--icmp-type" || option === "--icmpv6-type") {
      const [, type, code] = /^(\d+)(?:\/(\d+))?$/.exec(value) ?? [];
      if (value === "any" && !negated) continue;
      if (type === undefined || ports) unknown();
      else ports = { spans: [icmpPorts(Number(type), code === undefined ? undefined : Number(code))], negated };
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
  return { protocols, ports, addresses, asks, target, final };
}

/** How many words belong to an option that is known here: a comment may be any word, "-j" too. */
const arity: Readonly<Record<string, number>> = {
  ...Object.fromEntries(
    [
      ...["-p", "-s", "-d", "-i", "-o", "-m", "-j", "-g", "--dport", "--dports", "--icmp-type", "--icmpv6-type"],
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
  if (name === undefined) return undefined;
  return pattern.endsWith("+") ? name.startsWith(pattern.slice(0, -1)) && name !== "" : name === pattern;
}

function not(answer: Answer): Answer {
  return answer === undefined ? undefined : !answer;
}

function includes<T extends number | bigint>(match: Match<T> | undefined, [first]: Span<T>): boolean {
  return !match || match.spans.some(([from, to]) => from <= first && first <= to) !== match.negated;
}

/** What may become of a packet: it is accepted, it is dropped, it comes back from the chain to whoever called it. */
interface Fate {
  accept: boolean;
  drop: boolean;
  back: boolean;
}

/** Targets after which the next rule is asked. */
const goesOn = [
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
];

/**
 * What gets through a chain, as far as its own rules decide: what they hand back to whoever called it gets through too.
 *
 * @throws an Error where the ruleset has no such chain.
 */
export function reach(ruleset: Ruleset, chain: string, arrival: Arrival): Reach {
  const verdict = judge(ruleset, chain, arrival);
  const judged = [...cells(ruleset.boundaries)].map((cell) => ({ cell, ...verdict(cell) }));
  const those = (wanted: "surely" | "perhaps") => joined(judged.filter((one) => one[wanted]).map(({ cell }) => cell));
  return { surely: those("surely"), perhaps: those("perhaps") };
}

/**
 * Whether the packets of a cell get through a chain, surely or perhaps; see {@link reach}. A cell must lie on one side of each
 * of the ruleset's boundaries.
 */
export function judge(
  ruleset: Ruleset,
  chain: string,
  arrival: Arrival,
): (cell: Region) => { surely: boolean; perhaps: boolean } {
  // What does not depend on the packet is asked once.
  const decided = new Map(
    [...ruleset.chains].map(([name, { policy, rules }]) => [
      name,
      { policy, rules: rules.flatMap(forArrival(arrival)) },
    ]),
  );
  const walk = (name: string, cell: Region): Fate => {
    const found = decided.get(name);
    if (!found) throw new Error(`there is no chain ${name}`);
    const fate: Fate = { accept: false, drop: false, back: false };
    for (const { rule, certain } of found.rules) {
      const { protocols, ports, addresses, target, final } = rule;
      if (!includes(protocols, cell.protocols) || !includes(ports, cell.ports) || !includes(addresses, cell.addresses))
        continue;
      if (target === undefined || goesOn.includes(target)) continue;
      if (target === "ACCEPT") fate.accept = true;
      else if (target === "DROP" || target === "REJECT") fate.drop = true;
      else if (target === "RETURN") fate.back = true;
      else if (decided.has(target)) {
        const there = walk(target, cell);
        fate.accept ||= there.accept;
        fate.drop ||= there.drop;
        if (there.back && final) fate.back = true;
        if (there.back && !final) continue;
      } else {
        fate.accept = fate.drop = true; // nobody knows
        continue;
      }
      if (certain) return fate;
    }
    if (found.policy === "ACCEPT") fate.accept = true;
    else if (found.policy === "DROP") fate.drop = true;
    else fate.back = true;
    return fate;
  };
  return (cell) => {
    const { accept, drop, back } = walk(chain, cell);
    return { surely: !drop, perhaps: accept || back };
  };
}

function forArrival(arrival: Arrival) {
  return (rule: Rule): { rule: Rule; certain: boolean }[] => {
    const answers = rule.asks.map((ask) => ask(arrival));
    return answers.includes(false) ? [] : [{ rule, certain: !answers.includes(undefined) }];
  };
}

/** Regions at whose boundaries a rule may change its mind. */
function boundaries({ protocols, ports, addresses }: Rule, family: Family): Region[] {
  const along = <T>(match: Match<T> | undefined, all: Span<T>) =>
    match ? [...match.spans, ...(match.negated ? [all] : [])] : [all];
  return along(protocols, allProtocols).flatMap((protocolSpan) =>
    along(ports, allPorts).flatMap((portSpan) =>
      along<bigint>(addresses, allAddresses[family]).map((addressSpan) => ({
        family,
        protocols: protocolSpan,
        ports: portSpan,
        addresses: addressSpan,
      })),
    ),
  );
}
