import { isIP } from "node:net";

export type Family = 4 | 6;

/** A network, canonical: no host bits, IPv6 in the form of RFC 5952. */
export interface Cidr {
  readonly family: Family;
  /** The lowest address, as a number of 32 or 128 bits. */
  readonly first: bigint;
  /** Length of the prefix in bits. */
  readonly prefix: number;
  /** `10.20.0.0/16`, `fd12::/48` */
  readonly text: string;
}

const bits = { 4: 32, 6: 128 } as const;

/**
 * Reads a network strictly.
 *
 * Octal, hexadecimal and short IPv4 forms, white space, zones, host bits and IPv4-mapped IPv6 are refused: libraries and
 * tools disagree about what they mean, and a firewall must not open what its author did not write.
 *
 * @returns the network, or a sentence that says what is wrong and what would be right.
 */
export function parseCidr(text: string): Cidr | string {
  const match = /^([^/]+)\/(0|[1-9]\d{0,2})$/.exec(text);
  const address = match?.[1] ?? text;
  const family = address.includes("%") ? 0 : isIP(address);
  if (family !== 4 && family !== 6) return 'is not a CIDR; write a network such as "10.20.0.0/16" or "fd12::/48"';
  if (!match) return `has no prefix length; write ${text}/${bits[family]} for one address`;
  const prefix = Number(match[2]);
  if (prefix > bits[family]) return `has a prefix length above ${bits[family]}, the most that IPv${family} has`;
  const number = family === 4 ? parse4(address) : parse6(address);
  const first = lowest(number, family, prefix);
  const canonical = `${print(family, first)}/${prefix}`;
  if (family === 6 && number >> 32n === 0xffffn) {
    const ipv4 = prefix < 96 ? "an IPv4 network" : `${print(4, first & 0xffff_ffffn)}/${prefix - 96}`;
    return `is an IPv4-mapped IPv6 address; write ${ipv4}`;
  }
  if (first !== number) return `has host bits set; write ${canonical}`;
  return { family, first, prefix, text: canonical };
}

/**
 * Reads one address, as strictly as {@link parseCidr}.
 *
 * @returns the network of this address alone, or a sentence that says what is wrong and what would be right.
 */
export function parseAddress(text: string): Cidr | string {
  const family = text.includes("%") ? 0 : isIP(text);
  if (family !== 4 && family !== 6) {
    return `is ${text.includes("/") ? "a network" : "no address"}; write an address such as "192.0.2.25" or "2001:db8::25"`;
  }
  const cidr = parseCidr(`${text}/${bits[family]}`);
  return typeof cidr === "string" ? cidr.replace(/\/\d+$/, "") : cidr;
}

/** The highest address of a network. */
export function last(cidr: Cidr): bigint {
  return cidr.first + (1n << BigInt(bits[cidr.family] - cidr.prefix)) - 1n;
}

/** Whether `inner` lies wholly inside `outer`. */
export function contains(outer: Cidr, inner: Cidr): boolean {
  return outer.family === inner.family && outer.first <= inner.first && last(inner) <= last(outer);
}

/** IPv4 before IPv6, then by address, then the wider network first: the order of everything that is rendered. */
export function compareCidr(a: Cidr, b: Cidr): number {
  if (a.family !== b.family) return a.family - b.family;
  if (a.first !== b.first) return a.first < b.first ? -1 : 1;
  return a.prefix - b.prefix;
}

/** An address in its canonical form; IPv6 as RFC 5952 §4 asks. */
export function print(family: Family, address: bigint): string {
  if (family === 4) return [24n, 16n, 8n, 0n].map((shift) => String((address >> shift) & 0xffn)).join(".");
  const groups = Array.from({ length: 8 }, (_, i) => Number((address >> BigInt(16 * (7 - i))) & 0xffffn).toString(16));
  // The longest run of two or more zero groups, the first of equals, becomes `::`.
  const runs = [...groups.join(":").matchAll(/(?<![0-9a-f])0(?::0)+(?![0-9a-f])/g)];
  const longest = runs.sort((a, b) => b[0].length - a[0].length)[0];
  if (!longest) return groups.join(":");
  const joined = groups.join(":");
  const head = joined.slice(0, longest.index).replace(/:$/, "");
  const tail = joined.slice(longest.index + longest[0].length).replace(/^:/, "");
  return `${head}::${tail}`;
}

function lowest(address: bigint, family: Family, prefix: number): bigint {
  const host = BigInt(bits[family] - prefix);
  return (address >> host) << host;
}

function parse4(text: string): bigint {
  return text.split(".").reduce((sum, octet) => (sum << 8n) | BigInt(octet), 0n);
}

/** Takes what `isIP` accepted as IPv6, so it need not check the form again. */
function parse6(text: string): bigint {
  const dotted = /^(.*:)(\d+\.\d+\.\d+\.\d+)$/.exec(text);
  if (dotted) {
    const low = parse4(dotted[2] as string);
    return parse6(`${dotted[1]}${(low >> 16n).toString(16)}:${(low & 0xffffn).toString(16)}`);
  }
  const [head = "", tail] = text.split("::");
  const left = head === "" ? [] : head.split(":");
  const right = tail === undefined || tail === "" ? [] : tail.split(":");
  const groups = [...left, ...Array<string>(8 - left.length - right.length).fill("0"), ...right];
  return groups.reduce((sum, group) => (sum << 16n) | BigInt(`0x${group}`), 0n);
}
