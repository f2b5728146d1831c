import { parseCidr, type Cidr, type Family } from "../policy/cidr";
import { addressesOf, allProtocols, icmpPorts, protocol, protocolNumbers, type Span } from "../policy/regions";

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
  /** With `published`: the destination that it has now, with one of these ports. Undefined: unknown. */
  readonly now?: { readonly address?: Cidr; readonly ports: readonly number[] } | undefined;
  /** Whether it is the answer of a service: then its ports are those of the service, and its addresses those of the client. */
  readonly answer?: boolean;
}

/** Yes, no, or undefined: that depends. */
export type Answer = boolean | undefined;

/** One of the spans, or, negated, none of them. */
export interface Match<T> {
  readonly spans: readonly Span<T>[];
  readonly negated: boolean;
  /** The question in the rule's own words. */
  readonly text: string;
}

/** What else a rule asks, in its own words. */
export interface Ask {
  readonly text: string;
  readonly of: (arrival: Arrival) => Answer;
}

export interface Rule {
  readonly protocols?: Match<number>;
  /** The ports that it goes to now. */
  readonly ports?: Match<number>;
  /** The ports that its client asked for. */
  readonly askedPorts?: Match<number>;
  /** ICMP types and codes. */
  readonly types?: Match<number>;
  readonly sourcePorts?: Match<number>;
  readonly sources?: Match<bigint>;
  readonly destinations?: Match<bigint>;
  readonly asks: readonly Ask[];
  /** What `-m conntrack` says of a packet without a connection, besides what `--ctstate` says. */
  readonly unconnected: Answer;
  readonly target: string | undefined;
  /** A goto: what comes back from the target has come back from this chain. */
  readonly final: boolean;
  /** The port to which NAT turns what it matches; undefined: it does not, or nobody knows to which. */
  readonly turnsTo: number | undefined;
  /** Whether connection tracking leaves out what it matches. */
  readonly untracks: boolean;
}

const tableNames = ["raw", "mangle", "nat", "filter", "security"] as const;
export type Table = (typeof tableNames)[number];

export interface Chain {
  /** `ACCEPT` or `DROP`; `-` where another chain must call this one. */
  readonly policy: string;
  readonly rules: readonly Rule[];
}

export type Chains = ReadonlyMap<string, Chain>;

/** The rules of one family, by table and chain. */
export interface Ruleset {
  readonly family: Family;
  readonly tables: ReadonlyMap<Table, Chains>;
}

/**
 * Reads an `iptables-save` or `ip6tables-save` text, anybody's rules included. A match that is not known here is one of which nobody
 * knows whether it holds, so that nothing is taken for open or shut that may be otherwise. The text of a host without rules is empty.
 *
 * @throws an Error that names the line which is not of that form, or which says that there are rules that the text does not hold.
 */
export function parseRuleset(text: string, family: Family): Ruleset {
  const tables = new Map<Table, Map<string, { policy: string; rules: Rule[] }>>();
  let table: Table | undefined;
  for (const { line, number } of logicalLines(text)) {
    const wrong = (what: string) => new Error(`line ${number}${what}`);
    const [, incompatible] = /^# Table [`'"]?(\w+)'? is incompatible/.exec(line) ?? [];
    if (incompatible) {
      throw wrong(
        `: the table ${incompatible} cannot be read: it holds rules of nft's own, which iptables-save does not show`,
      );
    }
    const [, legacy] = /^# Warning: (\S+) tables present/.exec(line) ?? [];
    if (legacy) throw wrong(`: the rules of ${legacy} cannot be read: they are not in this text, and decide, too`);
    if (/^\s*(#|$)/.test(line)) continue;
    if (line.startsWith("*")) {
      const name = tableNames.find((one) => one === line.slice(1).trim());
      if (!name || table) throw wrong(` is not one of iptables-save: ${line}`);
      if (tables.has(name)) throw wrong(`: the table ${name} a second time; these are the rules of two hosts`);
      tables.set((table = name), new Map());
      continue;
    }
    const chains = table && tables.get(table);
    if (chains && line.trim() === "COMMIT") {
      table = undefined;
      continue;
    }
    const [, declared, policy] = /^:(\S+) (\S+)/.exec(line) ?? [];
    if (chains && declared !== undefined && !chains.has(declared)) {
      chains.set(declared, { policy: policy!, rules: [] });
      continue;
    }
    const [append, chain, ...words] = wordsOf(line.replace(/^\[\d+:\d+\] /, ""));
    const found = append?.text === "-A" && chain ? chains?.get(chain.text) : undefined;
    if (!found) throw wrong(` is not one of iptables-save: ${line}`);
    found.rules.push(parseRule(words, family, (name) => chains!.has(name)));
  }
  if (table) throw new Error(`the text ends before the table ${table} does`);
  return { family, tables };
}

/** Lines, but for those that end inside of a quoted comment: they go on in the next. */
function logicalLines(text: string): { line: string; number: number }[] {
  const found: { line: string; number: number }[] = [];
  let open = false;
  text.split("\n").forEach((line, i) => {
    if (open) found.at(-1)!.line += `\n${line}`;
    else found.push({ line, number: i + 1 });
    if (open || !line.startsWith("#")) open = open !== (line.replace(/\\./g, "").split('"').length % 2 === 0);
  });
  if (open) throw new Error(`line ${found.at(-1)!.number} has a quotation mark that nothing closes`);
  return found;
}

/** A word of a line. One in quotation marks is never an option. */
interface Word {
  readonly text: string;
  readonly quoted: boolean;
}

/** Words of a line as iptables-restore splits it: iptables-save quotes and escapes comments. */
function wordsOf(line: string): Word[] {
  return [...line.matchAll(/"([^"\\]*(?:\\[^][^"\\]*)*)"|(\S+)/g)].map(([, quoted, plain]) =>
    quoted === undefined ? { text: plain!, quoted: false } : { text: quoted.replace(/\\([^])/g, "$1"), quoted: true },
  );
}

type Draft = { -readonly [K in keyof Rule]: Rule[K] } & { asks: Ask[]; states: number; conntracks: number };

interface Said {
  readonly value: string;
  readonly values: readonly string[];
  readonly negated: boolean;
  /** The whole of it, in the rule's own words. */
  readonly text: string;
  readonly family: Family;
}

function parseRule(words: readonly Word[], family: Family, isChain: (name: string) => boolean): Rule {
  const draft: Draft = {
    ...{ asks: [], unconnected: false, target: undefined, final: false, turnsTo: undefined, untracks: false },
    ...{ states: 0, conntracks: 0 },
  };
  const rest = split(words);
  for (let i = 0; i < rest.length;) {
    const start = i;
    let negated = isWord(rest[i], "!");
    if (negated) i++;
    const option = rest[i++];
    const name = option && !option.quoted ? canonical(option.text) : "";
    const known = Object.hasOwn(options, name) ? options[name] : undefined;
    // As iptables before 1.4 wrote it: -i ! lo.
    if (known && isWord(rest[i], "!")) {
      negated = !negated;
      i++;
    }
    const values = rest.slice(i, i + (known ? known.words : valuesOf(rest, i))).map((word) => word.text);
    i += values.length;
    const said = () => rest.slice(start, i).map((word) => word.text).join(" "); // prettier-ignore
    const unknown = () => draft.asks.push({ text: said(), of: () => undefined });
    if (name === "-j" || name === "-g") {
      draft.target = rest[i++]?.text;
      draft.final = name === "-g";
      const more = rest.slice(i);
      if (!areOptionsOf(draft.target, more, draft.final || isChain(draft.target ?? ""))) {
        i = rest.length;
        unknown();
      }
      draft.turnsTo = turnedTo(more);
      draft.untracks = draft.target === "NOTRACK" || more.some((word) => isWord(word, "--notrack"));
      break;
    }
    const value = values[0] ?? "";
    if (!known || values.length < known.words || !known.read(draft, { value, values, negated, text: said(), family })) {
      unknown();
    }
  }
  // Without a connection, only a match that asks for the state as well can hold (xt_conntrack.c).
  draft.unconnected = draft.conntracks > 1 ? undefined : draft.states > 0;
  return draft;
}

/** What follows a target belongs to it. iptables-save prints no match there, but iptables-restore takes one. */
function areOptionsOf(target: string | undefined, words: readonly Word[], isChain: boolean): boolean {
  if (target === undefined) return false;
  if (isChain || ["ACCEPT", "DROP", "RETURN"].includes(target)) return words.length === 0;
  return !words.some(({ text, quoted }) => !quoted && (text === "!" || Object.hasOwn(options, canonical(text))));
}

/** One port, as DNAT and REDIRECT name it. */
function turnedTo(words: readonly Word[]): number | undefined {
  const text = words.map((word) => word.text).join(" ");
  const [, destination, ports] =
    /^--to-(?:destination (?:[\d.-]+|\[[^\]]*\]):(\d{1,5})|ports (\d{1,5}))(?: --random| --persistent)*$/.exec(text) ??
    [];
  const port = destination ?? ports;
  return port === undefined ? undefined : Number(port);
}

function isWord(word: Word | undefined, text: string): boolean {
  return word !== undefined && !word.quoted && word.text === text;
}

/** How many words belong to an option that nobody knows here: those up to the next. */
function valuesOf(words: readonly Word[], from: number): number {
  const next = words.findIndex((word, i) => i >= from && !word.quoted && /^(!$|--?[a-z])/i.test(word.text));
  return (next < 0 ? words.length : next) - from;
}

/** `-ptcp` is `-p tcp`. What is a value here by its place comes out wrong, and is then unknown. */
function split(words: readonly Word[]): Word[] {
  return words.flatMap((word, i) => {
    const [, option, value] = /^(-[psdiojgm])(?=[^-])(.+)$/.exec(word.text) ?? [];
    if (option === undefined || word.quoted || isWord(words[i - 1], "--comment")) return [word];
    return [option, value!].map((text) => ({ text, quoted: false }));
  });
}

/** Long names, which people write and iptables-save does not. */
const aliases: Readonly<Record<string, string>> = {
  ...Object.fromEntries(["--j", "--ju", "--jum", "--jump"].map((name) => [name, "-j"])),
  ...Object.fromEntries(["--g", "--go", "--got", "--goto"].map((name) => [name, "-g"])),
  ...{ "--protocol": "-p", "--proto": "-p", "--match": "-m", "--in-interface": "-i", "--out-interface": "-o" },
  ...{ "--source": "-s", "--src": "-s", "--destination": "-d", "--dst": "-d" },
  ...{ "--destination-port": "--dport", "--destination-ports": "--dports" },
  ...{ "--source-port": "--sport", "--source-ports": "--sports" },
};

function canonical(name: string): string {
  return Object.hasOwn(aliases, name) ? aliases[name]! : name;
}

interface Option {
  /** How many words it takes: a comment may be any word, `-j` too. */
  readonly words: number;
  /** @returns whether it has understood. What it has not is a condition of which nobody knows whether it holds. */
  readonly read: (rule: Draft, said: Said) => boolean;
}

const options: Readonly<Record<string, Option>> = {
  "-p": one((rule, { value, negated, text }) => once(rule, "protocols", protocolsOf(value), negated, text)),
  "-s": one((rule, said) => once(rule, "sources", networksOf(said), said.negated, said.text)),
  "-d": one((rule, said) => once(rule, "destinations", networksOf(said), said.negated, said.text)),
  "-i": one((rule, said) => asks(rule, said, (arrival) => isNamed(arrival.in, said.value))),
  "-o": one((rule, said) => asks(rule, said, (arrival) => isNamed(arrival.out, said.value))),
  "--dport": ported("ports", 1),
  "--dports": ported("ports", 15),
  "--sport": ported("sourcePorts", 1),
  "--sports": ported("sourcePorts", 15),
  "--ctorigdstport": ported("askedPorts", 1),
  "--ctorigdst": one((rule, said) => {
    const [network] = networksOf(said) ?? [];
    if (!network) return false;
    rule.asks.push({
      text: said.text,
      of: (arrival) => {
        if (!hasConnection(arrival)) return rule.unconnected;
        return arrival.to && within(network, arrival.to.first) !== said.negated;
      },
    });
    return true;
  }),
  "--icmp-type": typed(4),
  "--icmpv6-type": typed(6),
  "--ctstate": one((rule, said) => {
    rule.states++;
    return stateOf(rule, said, ["SNAT", "DNAT"]);
  }),
  "--state": one((rule, said) => stateOf(rule, said, [])),
  "--dst-type": one((rule, said) => {
    const types = said.value.split(",");
    if (!types.every((type) => addressTypes.includes(type))) return false;
    return asks(rule, said, ({ local }) => (said.family === 4 ? isOfType4(local, types) : isOfType6(local, types)));
  }),
  "--tcp-flags": {
    words: 2,
    read: (rule, said) => {
      if (said.values.join(" ") !== "FIN,SYN,RST,ACK SYN") return false;
      return asks(rule, said, ({ state }) => (state === "NEW" ? true : undefined)); // what begins a connection
    },
  },
  // The second and later fragments, which connection tracking puts together before.
  "-f": {
    words: 0,
    read: (rule, said) => asks(rule, said, ({ state }) => (state === "UNTRACKED" ? undefined : false)),
  },
  "-m": one((rule, { value, negated }) => {
    if (value === "conntrack") rule.conntracks++;
    return noQuestion.includes(value) && !negated;
  }),
  "--comment": one((_, { negated }) => !negated),
  // Read where they stand, because what follows them is no match.
  "-j": { words: 0, read: () => false },
  "-g": { words: 0, read: () => false },
};

/** Modules that ask nothing by themselves, and whose options are above, or are conditions. */
const noQuestion = [
  ...["tcp", "udp", "icmp", "icmp6", "conntrack", "state", "comment", "multiport", "addrtype", "limit", "hl"],
];

function one(read: Option["read"]): Option {
  return { words: 1, read };
}

function asks(rule: Draft, { text, negated }: Said, of: Ask["of"]): boolean {
  const not = (answer: Answer): Answer => (answer === undefined ? undefined : !answer);
  rule.asks.push({ text, of: (arrival) => (negated ? not(of(arrival)) : of(arrival)) });
  return true;
}

type Axis = "protocols" | "ports" | "askedPorts" | "types" | "sourcePorts" | "sources" | "destinations";

/** Nothing says twice where along an axis a packet must be: of the second, nobody here knows what it means. */
function once(
  rule: Draft,
  axis: Axis,
  spans: readonly Span<never>[] | readonly Span<number>[] | readonly Span<bigint>[] | undefined,
  negated: boolean,
  text: string,
): boolean {
  if (!spans || rule[axis]) return false;
  Object.assign(rule, { [axis]: { spans, negated, text } });
  return true;
}

/** A question about ports, of a protocol that has some; `-m multiport` takes 15. */
function ported(axis: Axis, most: number): Option {
  return one((rule, { value, negated, text }) => {
    const spans = value.split(",").map(portsOf);
    if (spans.length > most || spans.includes(undefined)) return false;
    return isProtocol(rule, withPorts) && once(rule, axis, spans as Span<number>[], negated, text);
  });
}

/** A question about ICMP types, of that family's ICMP. */
function typed(family: Family): Option {
  return one((rule, said) => {
    if (!isProtocol(rule, [protocolNumbers[family === 4 ? "icmp" : "icmpv6"]])) return false;
    if (said.value === "any") return !said.negated;
    const [, type, code] = /^(\d+)(?:\/(\d+))?$/.exec(said.value) ?? [];
    // To the kernel, type 255 of IPv4 is any type.
    if (type === undefined || Number(type) > 254 || Number(code ?? 0) > 255) return false;
    const span = icmpPorts(Number(type), code === undefined ? undefined : Number(code));
    return once(rule, "types", [span], said.negated, said.text);
  });
}

function isProtocol({ protocols }: Draft, numbers: readonly number[]): boolean {
  return protocols !== undefined && !protocols.negated && numbers.includes(protocols.spans[0]![0]);
}

/** TCP, UDP, DCCP, SCTP and UDP-Lite. */
const withPorts = [protocolNumbers.tcp, protocolNumbers.udp, 33, 132, 136];

function stateOf(rule: Draft, said: Said, more: readonly string[]): boolean {
  const states = said.value.split(",");
  const known = ["NEW", "ESTABLISHED", "RELATED", "INVALID", "UNTRACKED", ...more];
  if (!states.every((state) => known.includes(state))) return false;
  return asks(rule, said, (arrival) => {
    if (states.includes(arrival.state) || (states.includes("DNAT") && arrival.published === true)) return true;
    return states.includes("SNAT") && hasConnection(arrival) ? undefined : false;
  });
}

/** What is not tracked, or no part of any connection, has none to be asked about. */
export function hasConnection({ state }: Arrival): boolean {
  return state !== "UNTRACKED" && state !== "INVALID";
}

const addressTypes = [
  ...["UNSPEC", "UNICAST", "LOCAL", "BROADCAST", "ANYCAST", "MULTICAST"],
  ...["BLACKHOLE", "UNREACHABLE", "PROHIBIT", "THROW", "NAT", "XRESOLVE"],
];

/** Over IPv4, an address has one type, and the rule asks for any of these. */
function isOfType4(local: boolean, types: readonly string[]): Answer {
  if (local) return types.includes("LOCAL");
  return types.every((type) => type === "LOCAL") ? false : undefined;
}

/** Over IPv6, it must be unicast, multicast or unspecified as well where the rule says so (xt_addrtype.c). */
function isOfType6(local: boolean, types: readonly string[]): Answer {
  if (!local) return types.every((type) => ["LOCAL", "UNICAST", "MULTICAST"].includes(type)) && types.includes("LOCAL") ? false : undefined; // prettier-ignore
  if (types.includes("MULTICAST") || types.includes("UNSPEC")) return false;
  return types.includes("LOCAL") || types.every((type) => type === "UNICAST") ? true : undefined;
}

/** As iptables-save names them, from /etc/protocols. */
const protocolNames: Readonly<Record<string, number>> = {
  ...protocolNumbers,
  ...{ "ipv6-icmp": 58, igmp: 2, gre: 47, esp: 50, ah: 51, ospf: 89, vrrp: 112, sctp: 132, udplite: 136 },
};

function protocolsOf(text: string): Span<number>[] | undefined {
  if (text === "all" || text === "0") return [allProtocols];
  if (Object.hasOwn(protocolNames, text)) return [protocol(protocolNames[text]!)];
  return /^\d{1,3}$/.test(text) && Number(text) <= 255 ? [protocol(Number(text))] : undefined;
}

function networksOf({ value, family }: Said): Span<bigint>[] | undefined {
  const whole = value.includes("/") ? value : `${value}/${family === 4 ? 32 : 128}`;
  // In a policy, IPv4-mapped addresses are a mistake; in rules they are networks like any.
  const mapped = /^::ffff:([0-9.]+)\/(9[6-9]|1[01]\d|12[0-8])$/.exec(whole);
  const cidr = parseCidr(mapped ? `${mapped[1]}/${Number(mapped[2]) - 96}` : whole);
  if (typeof cidr === "string" || cidr.family !== (mapped ? 4 : family) || (mapped && family === 4)) return undefined;
  const [first, last] = addressesOf(cidr);
  const base = mapped ? 0xffff_0000_0000n : 0n;
  return [[base + first, base + last]];
}

function portsOf(text: string): Span<number> | undefined {
  const [, first, last = first] = /^(\d{1,5})(?::(\d{1,5}))?$/.exec(text) ?? [];
  if (first === undefined || Number(first) > Number(last) || Number(last) > 65535) return undefined;
  return [Number(first), Number(last)];
}

/** Whether an interface has a name, or one that begins so where the pattern ends with `+`. */
function isNamed(name: string | undefined, pattern: string): Answer {
  if (pattern === "+") return true;
  if (name === undefined) return pattern === "lo" ? false : undefined;
  return pattern.endsWith("+") ? name.startsWith(pattern.slice(0, -1)) && name !== "" : name === pattern;
}

function within([first, last]: Span<bigint>, address: bigint): boolean {
  return first <= address && address <= last;
}
