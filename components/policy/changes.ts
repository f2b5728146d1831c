import { contains, type Cidr, type Family } from "./cidr";
import type { Exposed } from "./exposure";
import { everyone, type Sources } from "./policy";
import { addressesOf, allPorts, both, everything, networks, protocol, without, type Region } from "./regions";

/** Who may reach one port, by whatever name. */
interface Door {
  readonly name: string;
  readonly protocol: "tcp" | "udp";
  readonly port: number;
  readonly sources: Sources;
}

/** What is said of one or more ports of a service. */
interface Sentence {
  readonly name: string;
  readonly doors: readonly Door[];
  /** Whether it is about everyone, at least over one family. */
  readonly everyone: boolean;
  readonly words: string;
}

/**
 * What a change makes reachable, and then what it makes unreachable, in sentences; none where the same packets pass. Exact: what
 * they name is the difference of the two sets, whatever it is that was written differently.
 *
 * Each half begins with what is open to everyone, and there with SSH; then the order is that of ports.
 */
export function changes(before: readonly Exposed[], after: readonly Exposed[]): string[] {
  const [was, is] = [doorsOf(before), doorsOf(after)];
  const pairs = [...new Set([...was.keys(), ...is.keys()])].map((key) => {
    const door = (is.get(key) ?? was.get(key))!;
    return { door, was: whole(was.get(key)?.sources ?? []), is: whole(is.get(key)?.sources ?? []) };
  });
  return [gained, lost].flatMap((difference) =>
    told(pairs.flatMap(({ door, was, is }) => sentence(door, difference(was, is)))),
  );
}

/** What can be reached, where nothing is known of what could be before. */
export function reachable(after: readonly Exposed[]): string[] {
  const doors = [...doorsOf(after).values()].filter(({ sources }) => sources.length > 0);
  return told(
    doors.flatMap((door) => {
      const sources = whole(door.sources);
      return sentence(door, {
        everyone: sources.some(isEveryone),
        words: `reachable from ${list(sources.map(from))}`,
      });
    }),
  );
}

/**
 * What changes of that which only hosts enforce, as `hostOnly` says it. The reasons behind it are no change.
 *
 * @param before undefined where it is not known; then what is there beside `usual` is named, in neutral words.
 */
export function hostChanges(
  before: Readonly<Record<string, string>> | undefined,
  after: Readonly<Record<string, string>>,
  usual: Readonly<Record<string, string>>,
): string[] {
  const what = (texts: Readonly<Record<string, string>>, key: string) => texts[key]?.split(": ")[0];
  return [...new Set([...Object.keys(after), ...Object.keys(before ?? {})])].flatMap((key) => {
    const [was, is] = [what(before ?? usual, key), what(after, key)];
    if (was === is) return [];
    if (is === undefined) return [`only on hosts, no longer ${key}: ${was}`];
    if (!before) return [`only on hosts, ${key}: ${is}`];
    return [`only on hosts, now ${key}: ${is}${was === undefined ? "" : ` (until now ${was})`}`];
  });
}

function doorsOf(exposed: readonly Exposed[]): Map<string, Door> {
  const doors = exposed.flatMap(({ ports, ...one }) => ports.map((port): Door => ({ ...one, port })));
  return new Map(doors.map((door) => [at(door), door]));
}

const at = ({ protocol, port }: Door) => `${protocol}/${port}`;

type Difference = Pick<Sentence, "everyone" | "words"> | undefined;

/** What is in `is` and was not, network by network as they are written. */
function gained(was: Sources, is: Sources): Difference {
  const parts = is.flatMap((network) => part(network, was));
  if (parts.length === 0) return undefined;
  const toEveryone = parts.some(({ network }) => isEveryone(network));
  if (is.every(isEveryone) && is.length === 2 && !was.some(isEveryone)) {
    const until = was.length === 0 ? "" : ` (until now only from ${list(was.map(from))})`;
    return { everyone: true, words: `now reachable from ${list(is.map(from))}${until}` };
  }
  const also = is.some((network) => meeting(network, was).length > 0) ? "also " : "";
  const terms = parts.map(({ network, pieces, rest }) => {
    if (pieces) return pieces.join(", ");
    const until = rest.length === 0 ? "" : ` (until now only from ${rest.join(", ")} of it)`;
    return `${rest.length === 0 || isEveryone(network) ? "" : "all of "}${from(network)}${until}`;
  });
  return { everyone: toEveryone, words: `now reachable ${also}from ${list(terms)}` };
}

/** What was in `was` and no longer is. */
function lost(was: Sources, is: Sources): Difference {
  const parts = was.flatMap((network) => part(network, is));
  if (parts.length === 0) return undefined;
  const ofEveryone = parts.some(({ network }) => isEveryone(network));
  if (was.every(isEveryone) && was.length === 2 && is.length > 0 && !is.some(isEveryone)) {
    return {
      everyone: true,
      words: `now reachable only from ${list(is.map(from))} (until now from ${list(was.map(from))})`,
    };
  }
  const terms = parts.map(({ network, pieces, rest }) => {
    if (pieces) return pieces.join(", ");
    const except = rest.length === 0 ? "" : ` (except ${rest.join(", ")})`;
    return `${from(network).replace("everywhere", "anywhere")}${except}`;
  });
  const closed = is.length === 0 ? " (closed)" : "";
  return { everyone: ofEveryone, words: `no longer reachable from ${list(terms)}${closed}` };
}

/**
 * What of a network is not among others: all of it; the pieces, where they are few; else all but the rest that is among them.
 */
function part(network: Cidr, others: Sources): { network: Cidr; pieces?: string[]; rest: string[] }[] {
  const [one, them] = [regions([network]), regions(meeting(network, others))];
  const pieces = texts(without(one, them));
  const rest = texts(both(one, them));
  if (pieces.length === 0) return [];
  return [rest.length === 0 || pieces.length > rest.length + 1 ? { network, rest } : { network, pieces, rest }];
}

/** Of networks, those that have an address in common with one: networks lie apart, or one in the other. */
const meeting = (network: Cidr, others: Sources) =>
  others.filter((other) => contains(network, other) || contains(other, network));

const texts = (set: readonly Region[]) => set.flatMap(({ family, addresses }) => [...networks(family, addresses)]);

/** Addresses only: both sides of a comparison are about one port. */
function regions(sources: Sources): Region[] {
  return sources.map((source) => ({
    family: source.family,
    protocols: protocol("tcp"),
    ports: allPorts,
    addresses: addressesOf(source),
  }));
}

/** The same sources; where they make up all of a family, however that is written, as one network. */
function whole(sources: Sources): Sources {
  const ofFamily = (family: Family) => sources.filter((source) => source.family === family);
  return everyone.flatMap((all) => {
    const rest = without([{ ...everything(all.family), protocols: protocol("tcp") }], regions(ofFamily(all.family)));
    return rest.length === 0 ? [all] : ofFamily(all.family);
  });
}

const isEveryone = (network: Cidr) => network.prefix === 0;

const from = (network: Cidr) => (isEveryone(network) ? `everywhere over IPv${network.family}` : network.text);

/** Both families of everywhere are said in one. */
function list(terms: readonly string[]): string {
  return terms
    .join(", ")
    .replace("everywhere over IPv4, everywhere over IPv6", "everywhere, IPv4 and IPv6")
    .replace("anywhere over IPv4, anywhere over IPv6", "anywhere");
}

function sentence(door: Door, difference: Difference): Sentence[] {
  return difference ? [{ name: door.name, doors: [door], ...difference }] : [];
}

/** In order, and ports of one service of which the same is to be said, such as SSH's, together. */
function told(sentences: readonly Sentence[]): string[] {
  const rank = ({ name, everyone, doors: [door] }: Sentence) => [
    everyone ? 0 : 1,
    name === "ssh" ? 0 : 1,
    door!.port,
    door!.protocol === "tcp" ? 0 : 1,
  ];
  const ordered = [...sentences].sort((a, b) => {
    const [first, second] = [rank(a), rank(b)];
    return first.map((value, i) => value - second[i]!).find((value) => value !== 0) ?? 0;
  });
  const joined = new Map<string, Sentence>();
  for (const one of ordered) {
    const key = `${one.name} ${one.words}`;
    const twin = joined.get(key);
    joined.set(key, twin ? { ...twin, doors: [...twin.doors, ...one.doors] } : one);
  }
  return [...joined.values()].map(({ name, doors, words }) => `${name} (${doors.map(at).join(", ")}): ${words}`);
}
