import fc from "fast-check";

import { hostOnly } from "../../components/host/residue";
import { defaultSettings } from "../../components/host/hostOptions";
import { changes, hostChanges, reachable } from "../../components/policy/changes";
import { parseCidr, type Cidr } from "../../components/policy/cidr";
import { exposed, exposure, readExposure } from "../../components/policy/exposure";
import { Faults } from "../../components/policy/faults";
import { readPolicy, type Policy, type PolicyArgs } from "../../components/policy/policy";
import { addressesOf, merged, protocol, without, type Region } from "../../components/policy/regions";
import { policyArgs, shuffled } from "./arbitraries";

const read = (args: Partial<PolicyArgs>): Policy => {
  const faults = new Faults();
  const policy = readPolicy({ ssh: ["203.0.113.0/24"], ...args }, "", { any: false }, faults);
  expect(faults.list).toEqual([]);
  return policy;
};
const said = (before: Partial<PolicyArgs>, after: Partial<PolicyArgs>) =>
  changes(exposed(read(before)), exposed(read(after)));
const imap = (...sources: string[]) => ({ services: { imap: sources } });

describe("a change in words", () => {
  const all = "everywhere, IPv4 and IPv6";
  test.each<[string, string[], string[], string[]]>([
    ["opened", ["closed"], ["public"], [`now reachable from ${all}`]],
    ["opened to networks", ["closed"], ["10.20.0.0/16", "fd12::/48"], ["now reachable from 10.20.0.0/16, fd12::/48"]],
    ["closed", ["public"], ["closed"], ["no longer reachable from anywhere (closed)"]],
    [
      "closed to networks",
      ["fd12::/48", "10.20.0.0/16"],
      ["closed"],
      ["no longer reachable from 10.20.0.0/16, fd12::/48 (closed)"],
    ],
    ["one network more", ["10.20.0.0/16"], ["10.20.0.0/16", "10.9.0.0/16"], ["now reachable also from 10.9.0.0/16"]],
    ["one less", ["10.20.0.0/16", "fd12::/48"], ["10.20.0.0/16"], ["no longer reachable from fd12::/48"]],
    [
      "others",
      ["10.20.0.0/16"],
      ["192.168.0.0/16"],
      ["now reachable from 192.168.0.0/16", "no longer reachable from 10.20.0.0/16"],
    ],
    ["the same in two halves", ["10.0.0.0/9", "10.128.0.0/9"], ["10.0.0.0/8"], []],
    ["everywhere in halves", ["0.0.0.0/1", "128.0.0.0/1", "::/0"], ["public"], []],
    [
      "from networks to everywhere in halves",
      ["10.20.0.0/16"],
      ["0.0.0.0/1", "128.0.0.0/1", "::/0"],
      [`now reachable from ${all} (until now only from 10.20.0.0/16)`],
    ],
    ["twice as wide", ["10.0.0.0/9"], ["10.0.0.0/8"], ["now reachable also from 10.128.0.0/9"]],
    ["half as wide", ["10.0.0.0/8"], ["10.0.0.0/9"], ["no longer reachable from 10.128.0.0/9"]],
    [
      "much wider",
      ["10.20.0.0/16"],
      ["10.0.0.0/8", "192.168.0.0/16"],
      ["now reachable also from all of 10.0.0.0/8 (until now only from 10.20.0.0/16 of it), 192.168.0.0/16"],
    ],
    [
      "much narrower",
      ["10.0.0.0/8", "192.168.0.0/16"],
      ["10.20.0.0/16"],
      ["no longer reachable from 10.0.0.0/8 (except 10.20.0.0/16), 192.168.0.0/16"],
    ],
    [
      "from networks to public",
      ["10.20.0.0/16", "fd12::/48"],
      ["public"],
      [`now reachable from ${all} (until now only from 10.20.0.0/16, fd12::/48)`],
    ],
    [
      "from public to networks",
      ["public"],
      ["10.20.0.0/16"],
      [`now reachable only from 10.20.0.0/16 (until now from ${all})`],
    ],
    ["one family to both", ["0.0.0.0/0"], ["public"], ["now reachable also from everywhere over IPv6"]],
    ["both to one", ["public"], ["::/0"], ["no longer reachable from anywhere over IPv4"]],
    [
      "networks to one family",
      ["10.20.0.0/16", "fd12::/48"],
      ["0.0.0.0/0"],
      [
        "now reachable also from everywhere over IPv4 (until now only from 10.20.0.0/16 of it)",
        "no longer reachable from fd12::/48",
      ],
    ],
    [
      "one family to networks",
      ["0.0.0.0/0"],
      ["10.20.0.0/16"],
      ["no longer reachable from anywhere over IPv4 (except 10.20.0.0/16)"],
    ],
  ])("%s", (_, before, after, expected) => {
    expect(said(imap(...before), imap(...after))).toEqual(expected.map((words) => `imap (tcp/143): ${words}`));
  });

  test("what becomes reachable comes first: from everywhere before networks, and SSH before the others", () => {
    const before = { services: { imaps: ["public"], pop3: ["10.1.0.0/16"], sieve: ["10.1.0.0/16"] } };
    const after = {
      services: { pop3: ["10.2.0.0/16"], https: ["public"], submission: ["public"] },
      ssh: ["203.0.113.0/24", "198.51.100.0/24"],
      ports: { wireguard: { protocol: "udp", port: 51820, from: ["public"] } },
    };
    const forth = [
      "https (tcp/443): now reachable from everywhere, IPv4 and IPv6",
      "submission (tcp/587): now reachable from everywhere, IPv4 and IPv6",
      "wireguard (udp/51820): now reachable from everywhere, IPv4 and IPv6",
      "ssh (tcp/22): now reachable also from 198.51.100.0/24",
      "pop3 (tcp/110): now reachable from 10.2.0.0/16",
      "imaps (tcp/993): no longer reachable from anywhere (closed)",
      "pop3 (tcp/110): no longer reachable from 10.1.0.0/16",
      "sieve (tcp/4190): no longer reachable from 10.1.0.0/16 (closed)",
    ];
    expect(said(before, after)).toEqual(forth);
    expect(said({ ...before, ssh: ["public"] }, { ...after, ssh: ["10.0.0.0/8"] }).slice(-4)[0]).toBe(
      "ssh (tcp/22): now reachable only from 10.0.0.0/8 (until now from everywhere, IPv4 and IPv6)",
    );
    expect(said({ sshPorts: [2222] }, { sshPorts: [2222], ssh: ["public"], services: { http: ["public"] } })[0]).toBe(
      "ssh (tcp/2222): now reachable from everywhere, IPv4 and IPv6 (until now only from 203.0.113.0/24)",
    );
  });

  test("another port of SSH is open, and the former one is not", () => {
    expect(said({}, { sshPorts: [2222] })).toEqual([
      "ssh (tcp/2222): now reachable from 203.0.113.0/24",
      "ssh (tcp/22): no longer reachable from 203.0.113.0/24 (closed)",
    ]);
    expect(said({ sshPorts: [22, 2222] }, { sshPorts: [2222, 22], ssh: ["203.0.113.0/25"] })).toEqual([
      "ssh (tcp/22, tcp/2222): no longer reachable from 203.0.113.128/25",
    ]);
  });

  test("another name for a port changes nothing, another protocol does", () => {
    const ports = (name: string, protocol = "udp") => ({
      ports: { [name]: { protocol, port: 51820, from: ["public"] } },
    });
    expect(said(ports("wireguard"), ports("vpn"))).toEqual([]);
    expect(said(ports("wireguard"), ports("vpn", "tcp"))).toEqual([
      "vpn (tcp/51820): now reachable from everywhere, IPv4 and IPv6",
      "wireguard (udp/51820): no longer reachable from anywhere (closed)",
    ]);
  });

  test("a beginning is told in neutral words", () => {
    const policy = read({ services: { imap: ["10.20.0.0/16", "fd12::/48"], imaps: ["::/0"] }, sshPorts: [22, 2222] });
    expect(reachable(exposed(policy))).toEqual([
      "smtp (tcp/25): reachable from everywhere, IPv4 and IPv6",
      "imaps (tcp/993): reachable from everywhere over IPv6",
      "ssh (tcp/22, tcp/2222): reachable from 203.0.113.0/24",
      "imap (tcp/143): reachable from 10.20.0.0/16, fd12::/48",
    ]);
  });
});

type Doors = Record<string, Region[]>;

/** The reachable packets of a policy, by port. */
function doors(policy: Policy): Doors {
  const found: Doors = {};
  for (const { protocol, ports, sources } of exposed(policy)) {
    for (const port of ports) found[`${protocol}/${port}`] = regions(sources.map(({ text }) => text));
  }
  return found;
}

function regions(networks: readonly string[]): Region[] {
  return networks.map((text) => {
    const cidr = parseCidr(text) as Cidr;
    return { family: cidr.family, protocols: protocol("tcp"), ports: [0, 0], addresses: addressesOf(cidr) };
  });
}

/** Networks in a sentence, without their parentheses. */
function named(words: string): Region[] {
  return regions(
    words.split(", ").flatMap((term) => {
      if (/^(everywhere|anywhere)$/.test(term)) return ["0.0.0.0/0", "::/0"];
      if (term === "IPv4 and IPv6") return [];
      if (/where over IPv4$/.test(term)) return ["0.0.0.0/0"];
      if (/where over IPv6$/.test(term)) return ["::/0"];
      return [term.replace("all of ", "")];
    }),
  );
}

/** What a sentence says, by another reader than the one that wrote it: the packets that it names, gained or lost. */
function understood(sentence: string): { ports: string[]; gain: boolean; set: Region[] } {
  const [, ports, words] = /^\S+ \((.*?)\): (.*)$/.exec(sentence)!;
  const whole =
    /^now reachable from (.*) \(until now only from ([^)]*[^t])\)$/.exec(words!) ?? // not "of it"
    /^now reachable only from (.*) \(until now from (.*)\)$/.exec(words!);
  if (whole && !words!.includes(" of it)")) {
    const [is, was] = [named(whole[1]!), named(whole[2]!)];
    const gain = !words!.startsWith("now reachable only");
    return { ports: ports!.split(", "), gain, set: gain ? without(is, was) : without(was, is) };
  }
  const [, verb, list] = /^(now reachable (?:also )?|no longer reachable )from (.*?)(?: \(closed\))?$/.exec(words!)!;
  // A list of terms, each of which may exclude in parentheses what was reachable already, or still is.
  const terms = list!.match(/[^,(]+(?:, IPv4 and IPv6)?(?: ?\([^)]*\))?/g)!;
  const set = terms.flatMap((term) => {
    const [, outer, rest] = /^\s*(.*?)(?: \((?:until now only from|except) (.*?)(?: of it)?\))?$/.exec(term)!;
    return without(named(outer!), rest === undefined ? [] : named(rest));
  });
  return { ports: ports!.split(", "), gain: verb!.startsWith("now"), set };
}

/** Another policy, and one that resembles it, so that they often have services and networks in common. */
const related = fc
  .tuple(policyArgs, policyArgs, fc.boolean())
  .map(([a, b, near]): [PolicyArgs, PolicyArgs] => [
    a,
    near ? { ...a, services: { ...a.services, ...b.services } } : b,
  ]);
/** Sources that overlap each other in every way. */
const overlapping = fc
  .constantFrom(
    ["0.0.0.0/0"],
    ["0.0.0.0/1", "128.0.0.0/1"],
    ["10.0.0.0/8"],
    ["10.0.0.0/9", "10.128.0.0/9"],
    ["10.0.0.0/9"],
    ["10.20.0.0/16", "10.40.0.0/16"],
    ["10.20.30.0/24"],
    [],
  )
  .chain((v4) =>
    fc
      .constantFrom(["::/0"], ["fd12::/48"], ["fd00::/8"], [])
      .map((v6) => (v4.length + v6.length ? [...v4, ...v6] : ["closed"])),
  );

test("the sentences are none if the sets are equal, and otherwise name exactly the difference", () => {
  const pair = fc.oneof(
    related,
    fc.tuple(overlapping, overlapping).map((sources): [PolicyArgs, PolicyArgs] => {
      const [a, b] = sources.map((imap) => ({ services: { imap }, ssh: ["closed"] }));
      return [a!, b!];
    }),
  );
  fc.assert(
    fc.property(pair, ([before, after]) => {
      const [was, is] = [doors(read(before)), doors(read(after))];
      const found = { true: {} as Doors, false: {} as Doors };
      for (const sentence of said(before, after)) {
        const { ports, gain, set } = understood(sentence);
        for (const port of ports) {
          expect(found[`${gain}`]).not.toHaveProperty([port]);
          expect(set).not.toEqual([]);
          found[`${gain}`][port] = set;
        }
      }
      for (const port of new Set([...Object.keys(was), ...Object.keys(is)])) {
        expect(merged(found.true[port] ?? [])).toEqual(without(is[port] ?? [], was[port] ?? []));
        expect(merged(found.false[port] ?? [])).toEqual(without(was[port] ?? [], is[port] ?? []));
      }
    }),
  );
});

test("the order in which a policy is written changes no sentence", () => {
  fc.assert(
    fc.property(
      policyArgs,
      policyArgs,
      fc.infiniteStream(fc.double({ min: 0, max: 1, noNaN: true })),
      (a, b, random) => {
        const next = () => random.next().value as number;
        expect(said(shuffled(a, next), shuffled(b, next))).toEqual(said(a, b));
      },
    ),
  );
});

describe("an exposure read back", () => {
  test("is what was printed", () => {
    fc.assert(
      fc.property(policyArgs, (args) => {
        const policy = read(args);
        expect(readExposure(exposure(policy))).toEqual(exposed(policy));
      }),
    );
  });

  const many = Array.from({ length: 40 }, (_, i) => `10.${i}.0.0/16`);
  test("has one network a line where they are many, so that one more is one line more", () => {
    const short = exposure(read(imap(...many.slice(0, 8)))).imap!;
    expect(short).toBe(`tcp/143: ${many.slice(0, 8).join(", ")}`);
    expect(short.length).toBeLessThanOrEqual(120);
    const long = exposure(read(imap(...many, "fd12::/48"))).imap!;
    expect(long).toBe(`tcp/143:\n${many.join("\n")}\nfd12::/48\n`);
    for (const policy of [read(imap(...many)), read(imap(...many.slice(0, 8)))]) {
      expect(readExposure(exposure(policy))).toEqual(exposed(policy));
    }
    expect(readExposure({ imap: `tcp/143: ${many.join(", ")}` })).toEqual(
      exposed(read(imap(...many))).filter(({ name }) => name === "imap"),
    );
  });

  test("reads the first port and the last", () => {
    expect(readExposure({ a: "tcp/1: closed", b: "udp/65535: closed" })).toHaveLength(2);
  });

  test.each<[string, unknown]>([
    ["nothing", undefined],
    ["text", "tcp/143: public"],
    ["a list", ["tcp/143: public"]],
    ["a value that is no text", { imap: ["tcp/143: public"] }],
    ["no protocol", { imap: "143: public" }],
    ["a protocol that is unknown", { imap: "sctp/143: public" }],
    ["a range of ports", { imap: "tcp/143-150: public" }],
    ["port 0", { imap: "tcp/0: public" }],
    ["a port that there is not", { imap: "tcp/65536: public" }],
    ["an empty port", { imap: "tcp/22,: public" }],
    ["no sources", { imap: "tcp/143: " }],
    ["a word of another version", { imap: "tcp/143: from relays" }],
    ["a word among networks", { imap: "tcp/143: 10.0.0.0/8, public" }],
    ["host bits", { imap: "tcp/143: 10.0.0.1/8" }],
    ["words before", { imap: "only tcp/143: public" }],
    ["words behind", { imap: "tcp/143: public (except 10.0.0.0/8)" }],
    ["a line break behind", { imap: "tcp/143: public\n" }],
    ["a line without its end", { imap: "tcp/143:\n10.0.0.0/8" }],
    ["a port twice", { imap: "tcp/143: public", other: "tcp/143: closed" }],
    ["one line that is strange", { imap: "tcp/143: public", imaps: "?" }],
  ])("is refused as a whole: %s", (_, texts) => {
    expect(readExposure(texts)).toBeUndefined();
  });
});

describe("what only hosts enforce", () => {
  const usual = hostOnly(defaultSettings);
  const trusted = {
    ...usual,
    "trusted networks": "all accepted from 10.8.0.0/24: the group admits only what is named",
  };
  test.each<[string, Record<string, string> | undefined, Record<string, string>, string[]]>([
    ["the same", usual, usual, []],
    ["another reason", { ident: "refused: because" }, { ident: "refused: for another reason" }, []],
    ["more", usual, trusted, ["only on hosts, now trusted networks: all accepted from 10.8.0.0/24"]],
    ["less", trusted, usual, ["only on hosts, no longer trusted networks: all accepted from 10.8.0.0/24"]],
    [
      "other",
      { "mx1: logging": "3/min of the dropped packets: AWS has flow logs" },
      { "mx1: logging": "not on this host" },
      ["only on hosts, now mx1: logging: not on this host (until now 3/min of the dropped packets)"],
    ],
    ["at the beginning", undefined, trusted, ["only on hosts, trusted networks: all accepted from 10.8.0.0/24"]],
    ["at the beginning, as usual", undefined, usual, []],
    ["at the beginning, less than usual", undefined, {}, []],
  ])("%s", (_, before, after, expected) => {
    expect(hostChanges(before, after, usual)).toEqual(expected);
  });
});
