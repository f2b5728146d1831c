import fc from "fast-check";

import { compareCidr, contains, last, parseAddress, parseCidr, print, type Cidr } from "../../components/policy/cidr";
import { cidrText } from "./arbitraries";

const parsed = (text: string) => parseCidr(text) as Cidr;

test.each([
  ["0.0.0.0/0", "0.0.0.0/0"],
  ["203.0.113.5/32", "203.0.113.5/32"],
  ["10.20.0.0/16", "10.20.0.0/16"],
  ["::/0", "::/0"],
  ["FD12:0:0::/48", "fd12::/48"],
  ["2001:DB8:0:0:1:0:0:1/128", "2001:db8::1:0:0:1/128"],
  ["2001:0:0:1:0:0:0:1/128", "2001:0:0:1::1/128"],
  ["2001:db8:0:1:1:1:1:1/128", "2001:db8:0:1:1:1:1:1/128"],
  ["1:0:0:0:0:0:0:0/16", "1::/16"],
  ["::1/128", "::1/128"],
  ["64:ff9b::192.0.2.0/120", "64:ff9b::c000:200/120"],
  ["1:2:3:4:5:6:7::/112", "1:2:3:4:5:6:7:0/112"],
])("reads %s as %s", (text, canonical) => {
  expect(parsed(text).text).toBe(canonical);
});

test.each([
  ["", 'is not a CIDR; write a network such as "10.20.0.0/16" or "fd12::/48"'],
  ["public", 'is not a CIDR; write a network such as "10.20.0.0/16" or "fd12::/48"'],
  ["010.0.0.0/8", 'is not a CIDR; write a network such as "10.20.0.0/16" or "fd12::/48"'],
  ["0x0a.0.0.0/8", 'is not a CIDR; write a network such as "10.20.0.0/16" or "fd12::/48"'],
  ["10.1/16", 'is not a CIDR; write a network such as "10.20.0.0/16" or "fd12::/48"'],
  [" 10.0.0.0/8", 'is not a CIDR; write a network such as "10.20.0.0/16" or "fd12::/48"'],
  ["fe80::%eth0/64", 'is not a CIDR; write a network such as "10.20.0.0/16" or "fd12::/48"'],
  ["10.0.0.0/8/8", 'is not a CIDR; write a network such as "10.20.0.0/16" or "fd12::/48"'],
  ["10.0.0.1", "has no prefix length; write 10.0.0.1/32 for one address"],
  ["fd12::1", "has no prefix length; write fd12::1/128 for one address"],
  ["10.0.0.0/", 'is not a CIDR; write a network such as "10.20.0.0/16" or "fd12::/48"'],
  ["10.0.0.0/33", "has a prefix length above 32, the most that IPv4 has"],
  ["10.0.0.0/64", "has a prefix length above 32, the most that IPv4 has"],
  ["fd12::/129", "has a prefix length above 128, the most that IPv6 has"],
  ["10.0.0.0/08", 'is not a CIDR; write a network such as "10.20.0.0/16" or "fd12::/48"'],
  ["10.0.0.0/-1", 'is not a CIDR; write a network such as "10.20.0.0/16" or "fd12::/48"'],
  ["10.20.0.1/16", "has host bits set; write 10.20.0.0/16"],
  ["fd12::1/48", "has host bits set; write fd12::/48"],
  ["::ffff:10.1.2.3/120", "is an IPv4-mapped IPv6 address; write 10.1.2.0/24"],
  ["::ffff:0:0/96", "is an IPv4-mapped IPv6 address; write 0.0.0.0/0"],
  ["::ffff:10.0.0.0/90", "is an IPv4-mapped IPv6 address; write an IPv4 network"],
  ["::ffff:10.1.2.0/120", "is an IPv4-mapped IPv6 address; write 10.1.2.0/24"],
])("refuses %j", (text, problem) => {
  expect(parseCidr(text)).toBe(problem);
});

test("prints IPv6 as the WHATWG URL standard does, which follows RFC 5952", () => {
  fc.assert(
    fc.property(fc.array(fc.constantFrom("0", "1", "ff", "abcd"), { minLength: 8, maxLength: 8 }), (groups) => {
      const number = groups.reduce((sum, group) => (sum << 16n) | BigInt(`0x${group}`), 0n);
      expect(`[${print(6, number)}]`).toBe(new URL(`http://[${groups.join(":")}]/`).hostname);
    }),
  );
});

test("reads back what it prints, with its first and last address inside", () => {
  fc.assert(
    fc.property(cidrText, (text) => {
      const cidr = parsed(text);
      expect(cidr.text).toBe(text);
      expect(parsed(`${print(cidr.family, cidr.first)}/${cidr.family === 4 ? 32 : 128}`).first).toBe(cidr.first);
      expect(contains(cidr, parsed(`${print(cidr.family, last(cidr))}/${cidr.family === 4 ? 32 : 128}`))).toBe(true);
    }),
  );
});

test("two networks are apart or one holds the other, and the order of networks is total", () => {
  fc.assert(
    fc.property(cidrText, cidrText, (a, b) => {
      const [x, y] = [parsed(a), parsed(b)];
      const overlap = x.family === y.family && x.first <= last(y) && y.first <= last(x);
      expect(contains(x, y) || contains(y, x)).toBe(overlap);
      expect(Math.sign(compareCidr(x, y))).toBe(-Math.sign(compareCidr(y, x)) + 0);
      expect(compareCidr(x, y) === 0).toBe(a === b);
    }),
  );
});

test.each([
  ["198.51.100.10", "198.51.100.10/32"],
  ["2001:DB8:0::10", "2001:db8::10/128"],
])("reads the address %s as %s", (text, canonical) => {
  expect(parseAddress(text)).toEqual(parsed(canonical));
});

test.each([
  ...["", "010.0.0.1", "0x0a.0.0.1", "10.1", " 10.0.0.1", "10.0.0.1 ", "fe80::1%eth0", "mx1.example.org"].map(
    (text) => [text, 'is no address; write an address such as "192.0.2.25" or "2001:db8::25"'],
  ),
  ["10.0.0.1/32", 'is a network; write an address such as "192.0.2.25" or "2001:db8::25"'],
  ["::ffff:10.0.0.1", "is an IPv4-mapped IPv6 address; write 10.0.0.1"],
])("refuses the address %j", (text, problem) => {
  expect(parseAddress(text)).toBe(problem);
});
