import { distance } from "fastest-levenshtein";

/** One thing that is wrong in a declaration: where it stands, and what would be right. */
export interface Fault {
  /** As the user wrote it: `services.imap[1]`, or `mail-firewall:services.imap[1]` when it came from stack config. */
  readonly path: string;
  /** One sentence, with the offending value and what would be right. */
  readonly problem: string;
}

/** Collects faults, so that a user sees all of them at once. */
export class Faults {
  readonly list: Fault[] = [];

  add(path: string, problem: string): void {
    this.list.push({ path, problem });
  }

  /** Reports every key of `value` that is not among `known`, with the nearest known one. */
  unknownKeys(value: object, known: readonly string[], path: string): void {
    for (const key of Object.keys(value)) {
      if (!known.includes(key)) this.add(join(path, key), `unknown key${didYouMean(key, known)}`);
    }
  }
}

/** `parent.key`, quoted where the key is not a plain word; a config namespace such as `mail-firewall:` takes no dot. */
export function join(parent: string, key: string): string {
  const name = /^[\w-]+$/.test(key) ? key : `[${show(key)}]`;
  return parent === "" || parent.endsWith(":") || name.startsWith("[") ? parent + name : `${parent}.${name}`;
}

/** A value as an error message may carry it: on one line, in printable ASCII, and of at most so many characters. */
export function show(value: unknown, most = 60): string {
  if (typeof value === "object" && value !== null && !Array.isArray(value) && !isRecord(value)) {
    return `a value of type ${value.constructor.name}`; // an output, a promise, a Map
  }
  const json = JSON.stringify(value) ?? String(value);
  if (json.includes("PRIVATE KEY")) return "(a private key)";
  const text = json.replace(/[^\x20-\x7e]/g, (c) => `\\u${c.charCodeAt(0).toString(16).padStart(4, "0")}`);
  return text.length > most ? `${text.slice(0, most - 3)}...` : text;
}

/** `; did you mean "imaps"?` for the nearest name, of equals the one of the same length; otherwise the whole choice. */
export function didYouMean(word: string, known: readonly string[]): string {
  const far = (name: string) => distance(word.toLowerCase(), name) + Math.abs(word.length - name.length) / 100;
  const best = [...known].sort((a, b) => far(a) - far(b))[0];
  return best !== undefined && distance(word.toLowerCase(), best) <= (word.length < 5 ? 1 : 2)
    ? `; did you mean "${best}"?`
    : `; known are ${known.join(", ")}`;
}

/** A plain object, as YAML, JSON and literals make it; no list, no instance of a class such as an output. */
export function isRecord(value: unknown): value is Record<string, unknown> {
  if (typeof value !== "object" || value === null) return false;
  const prototype: unknown = Object.getPrototypeOf(value);
  // Compared by what it lacks, because tests and embedders run programs in realms with an Object.prototype of their own.
  return prototype === null || Object.getPrototypeOf(prototype) === null;
}

/** A value that is there already, not a promise or output of one. */
export function isPlain(value: unknown): boolean {
  return typeof value !== "object" || value === null || Array.isArray(value);
}

/** The text of an error that reports all faults, one a line. */
export function report(subject: string, faults: readonly Fault[]): string {
  const count = faults.length === 1 ? "1 fault" : `${faults.length} faults`;
  return [`${subject}: ${count}; nothing was touched`, ...faults.map((f) => `  ${f.path}: ${f.problem}`)].join("\n");
}
