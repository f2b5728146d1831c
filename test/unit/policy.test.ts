import fc from "fast-check";

import { rulesets } from "../../components/host/ruleset";
import { exposure } from "../../components/policy/exposure";
import { Faults } from "../../components/policy/faults";
import { readPolicy, rules, warnings, type EgressArgs, type PolicyArgs } from "../../components/policy/policy";
import { aliases, catalogue, groups, serviceNames } from "../../components/policy/services";
import { policyArgs, shuffled } from "./arbitraries";

function read(args: Partial<PolicyArgs>) {
  const faults = new Faults();
  const policy = readPolicy({ ssh: ["203.0.113.0/24"], ...args }, "", { any: true }, faults);
  expect(faults.list).toEqual([]);
  return policy;
}

test("the catalogue is the one of the contract", () => {
  expect(Object.fromEntries(serviceNames.map((name) => [name, catalogue[name].port]))).toEqual({
    smtp: 25,
    http: 80,
    pop3: 110,
    imap: 143,
    https: 443,
    submissions: 465,
    submission: 587,
    imaps: 993,
    pop3s: 995,
    sieve: 4190,
  });
  expect(aliases).toEqual({ smtps: "submissions" });
  expect(groups).toEqual({
    plain: ["imap", "pop3"],
    secured: ["submissions", "imaps", "pop3s"],
    web: ["http", "https"],
  });
});

test("the exposure shows every service, in the order of ports, with SSH and other ports behind", () => {
  const policy = read({
    services: { web: ["public"], http: ["closed"], smtps: ["public"], imap: ["fd12::/48", "10.20.0.0/16"] },
    ports: { wireguard: { protocol: "udp", port: 51820, from: ["public"] } },
    sshPorts: [2222, 22],
  });
  expect(Object.entries(exposure(policy))).toEqual([
    ["smtp", "tcp/25: public"],
    ["http", "tcp/80: closed"],
    ["pop3", "tcp/110: closed"],
    ["imap", "tcp/143: 10.20.0.0/16, fd12::/48"],
    ["https", "tcp/443: public"],
    ["submissions", "tcp/465: public"],
    ["submission", "tcp/587: closed"],
    ["imaps", "tcp/993: closed"],
    ["pop3s", "tcp/995: closed"],
    ["sieve", "tcp/4190: closed"],
    ["ssh", "tcp/22,2222: 203.0.113.0/24"],
    ["wireguard", "udp/51820: public"],
  ]);
});

test.each<[string, Partial<PolicyArgs>, string, string]>([
  ["smtp is public when nobody names it", {}, "smtp", "tcp/25: public"],
  ["smtp can be closed", { services: { smtp: ["closed"] } }, "smtp", "tcp/25: closed"],
  ["everything else is closed", {}, "imaps", "tcp/993: closed"],
  [
    "a service wins over its group, whichever comes first",
    { services: { imap: ["closed"], plain: ["public"] } },
    "imap",
    "tcp/143: closed",
  ],
  ["a group stands for its services", { services: { plain: ["public"] } }, "pop3", "tcp/110: public"],
  [
    "an alias wins over its service's group",
    { services: { secured: ["public"], smtps: ["closed"] } },
    "submissions",
    "tcp/465: closed",
  ],
  [
    "both networks of everything are public",
    { services: { imaps: ["::/0", "0.0.0.0/0"] } },
    "imaps",
    "tcp/993: public",
  ],
  ["one network of everything is not", { services: { imaps: ["0.0.0.0/0"] } }, "imaps", "tcp/993: 0.0.0.0/0"],
])("%s", (_, args, service, text) => {
  expect(exposure(read(args))[service]).toBe(text);
});

test("a policy becomes one rule for each service and source, in the order of ports", () => {
  const found = rules(read({ services: { imap: ["10.20.0.0/16", "fd12::/48"] }, sshPorts: [2222] }));
  expect(found.map((r) => [r.direction, r.family, r.protocol, r.port ?? r.icmpType, r.source.text, r.service])).toEqual(
    [
      ["in", 4, "tcp", 25, "0.0.0.0/0", "smtp"],
      ["in", 6, "tcp", 25, "::/0", "smtp"],
      ["in", 4, "tcp", 143, "10.20.0.0/16", "imap"],
      ["in", 6, "tcp", 143, "fd12::/48", "imap"],
      ["in", 4, "tcp", 2222, "203.0.113.0/24", "ssh"],
      ["in", 4, "icmp", 3, "0.0.0.0/0", "icmp"],
      ["in", 4, "icmp", 8, "0.0.0.0/0", "icmp"],
      ["in", 4, "icmp", 11, "0.0.0.0/0", "icmp"],
      ["in", 4, "icmp", 12, "0.0.0.0/0", "icmp"],
      ["in", 6, "icmpv6", 1, "::/0", "icmpv6"],
      ["in", 6, "icmpv6", 2, "::/0", "icmpv6"],
      ["in", 6, "icmpv6", 3, "::/0", "icmpv6"],
      ["in", 6, "icmpv6", 4, "::/0", "icmpv6"],
      ["in", 6, "icmpv6", 128, "::/0", "icmpv6"],
      ["out", 4, "all", undefined, "0.0.0.0/0", "egress"],
      ["out", 6, "all", undefined, "::/0", "egress"],
    ],
  );
});

test("the order in which a policy is written changes nothing", () => {
  fc.assert(
    fc.property(policyArgs, fc.infiniteStream(fc.double({ min: 0, max: 1, noNaN: true })), (args, stream) => {
      const again = read(shuffled(args, () => stream.next().value as number));
      expect(rules(again)).toEqual(rules(read(args)));
      expect(JSON.stringify(exposure(again))).toBe(JSON.stringify(exposure(read(args))));
    }),
  );
});

test("no two rules of a policy admit the same", () => {
  fc.assert(
    fc.property(policyArgs, (args) => {
      const tuples = rules(read(args)).map((r) => [r.direction, r.protocol, r.port, r.icmpType, r.source.text].join());
      expect(new Set(tuples).size).toBe(tuples.length);
    }),
  );
});

test.each<[Partial<PolicyArgs>, string[]]>([
  [{ services: { imaps: ["public"] } }, []],
  [{ services: { smtp: ["closed"] } }, ["smtp (tcp/25) is closed: this host receives no mail from other servers"]],
  [
    { services: { smtp: ["192.0.2.0/24"] } },
    ["smtp (tcp/25) is open only to 192.0.2.0/24: other servers cannot deliver here directly"],
  ],
  [{ ssh: ["public"] }, ["ssh is public: everyone may try passwords and keys; name the networks you work from"]],
  [{ ssh: ["0.0.0.0/0"] }, ["ssh is public: everyone may try passwords and keys; name the networks you work from"]],
  [{ services: { imaps: ["0.0.0.0/0"] } }, ["imaps is public over IPv4 only"]],
  [{ services: { smtp: ["::/0"] } }, ["smtp is public over IPv6 only"]],
  [{ ports: { vpn: { protocol: "udp", port: 1194, from: ["::/0"] } } }, ["vpn is public over IPv6 only"]],
  [{ egress: { mode: "mail" } }, []],
])("warns about %j", (args, expected) => {
  expect(warnings(read(args), true)).toEqual(expected);
});

test.each<[EgressArgs | undefined, boolean]>([
  [undefined, false],
  [{ mode: "open" }, false],
  [{ mode: "mail" }, true],
  [{ relay: ["198.51.100.7/32"] }, true],
])("without a security group, egress %j has an effect or is warned about", (egress, warned) => {
  expect(warnings(read(egress ? { egress } : {}), false)).toEqual(
    warned
      ? [
          "egress has no effect here: hosts do not restrict what they send, only a security group does; add one, or delete egress",
        ]
      : [],
  );
});

/** What may be sent: protocol, port or ICMP type, and the networks. */
function outbound(egress: EgressArgs | undefined): Record<string, string[]> {
  const found: Record<string, string[]> = {};
  for (const rule of rules(read(egress ? { egress } : {}))) {
    if (rule.direction === "in") continue;
    const where = [rule.protocol, rule.port ?? rule.icmpType].filter((part) => part !== undefined).join("/");
    (found[where] ??= []).push(rule.source.text);
  }
  return found;
}

const world = ["0.0.0.0/0", "::/0"];
const beside = {
  ...Object.fromEntries(["tcp/53", "udp/53", "tcp/80", "udp/123", "tcp/443"].map((where) => [where, world])),
  ...Object.fromEntries([3, 8, 11, 12].map((type) => [`icmp/${type}`, ["0.0.0.0/0"]])),
  ...Object.fromEntries([1, 2, 3, 4, 128].map((type) => [`icmpv6/${type}`, ["::/0"]])),
};

test.each<[EgressArgs | undefined, Record<string, string[]>]>([
  [undefined, { all: world }],
  [{ mode: "open" }, { all: world }],
  [{ mode: "mail" }, { "tcp/25": world, ...beside }],
  [
    { relay: ["2001:db8:7::/48", "198.51.100.7/32"] },
    { "tcp/465": ["198.51.100.7/32", "2001:db8:7::/48"], "tcp/587": ["198.51.100.7/32", "2001:db8:7::/48"], ...beside },
  ],
  [
    { mode: "mail", relay: ["198.51.100.7/32"] },
    { "tcp/465": ["198.51.100.7/32"], "tcp/587": ["198.51.100.7/32"], ...beside },
  ],
  [{ relay: ["public"] }, { "tcp/465": world, "tcp/587": world, ...beside }],
])("with egress %j a server may send exactly this", (egress, expected) => {
  expect(outbound(egress)).toEqual(expected);
});

test("egress changes nothing on hosts", () => {
  fc.assert(
    fc.property(policyArgs, ({ egress, ...args }) => {
      expect(rulesets(rules(read({ ...args, egress: egress! })), "p/s/n")).toBe(rulesets(rules(read(args)), "p/s/n"));
    }),
  );
});

test.each<[unknown, string[]]>([
  ["mail", ['egress: "mail" is not a map; write { mode: "mail" } or { relay: ["198.51.100.7/32"] }']],
  [{}, ['egress: says nothing; write { mode: "mail" } or { relay: ["198.51.100.7/32"] }']],
  [{ mode: "opn" }, ['egress.mode: "opn" is not a mode; did you mean "open"?']],
  [{ mode: ["mail"] }, ['egress.mode: ["mail"] is not a mode; known are open, mail']],
  [{ mod: "mail", mode: "mail" }, ['egress.mod: unknown key; did you mean "mode"?']],
])("refuses egress %j", (egress, expected) => {
  const faults = new Faults();
  readPolicy({ ssh: ["closed"], egress } as PolicyArgs, "", { any: false }, faults);
  expect(faults.list.map(({ path, problem }) => `${path}: ${problem}`)).toEqual(expected);
});

test("rules come in the order of ports, then protocols, then sources, whatever they are for", () => {
  const policy = read({
    services: { imaps: ["fd12::/48", "10.20.0.0/16", "10.0.0.0/16"], smtp: ["closed"] },
    sshPorts: [2222],
    ports: {
      alt: { protocol: "tcp", port: 2525, from: ["public"] },
      quic: { protocol: "udp", port: 993, from: ["public"] }, // beside imaps, which is tcp
      early: { protocol: "tcp", port: 100, from: ["192.0.2.0/24"] },
      late: { protocol: "udp", port: 2222, from: ["192.0.2.0/24"] }, // beside ssh
    },
  });
  const inbound = rules(policy).filter(({ direction, port }) => direction === "in" && port !== undefined);
  expect(
    inbound.map((rule) => `${rule.protocol}/${rule.port} ${rule.source.text} ${rule.service}: ${rule.reason}`),
  ).toEqual([
    "tcp/100 192.0.2.0/24 early: other port of the host",
    "tcp/993 10.0.0.0/16 imaps: read mail over TLS",
    "tcp/993 10.20.0.0/16 imaps: read mail over TLS",
    "tcp/993 fd12::/48 imaps: read mail over TLS",
    "udp/993 0.0.0.0/0 quic: other port of the host",
    "udp/993 ::/0 quic: other port of the host",
    "tcp/2222 203.0.113.0/24 ssh: administration",
    "udp/2222 192.0.2.0/24 late: other port of the host",
    "tcp/2525 0.0.0.0/0 alt: other port of the host",
    "tcp/2525 ::/0 alt: other port of the host",
  ]);
});

test.each<[EgressArgs, string[]]>([
  [{ mode: "mail" }, ["tcp/25 0.0.0.0/0: deliver mail", "tcp/25 ::/0: deliver mail"]],
  [
    { relay: ["198.51.100.7/32", "2001:db8::7/128"] },
    ["465", "587"].flatMap((port) =>
      ["198.51.100.7/32", "2001:db8::7/128"].map((to) => `tcp/${port} ${to}: hand mail to the relay`),
    ),
  ],
])("what %j lets the server send, beside ICMP", (egress, mail) => {
  const out = rules(read({ egress })).filter(({ direction, port }) => direction === "out" && port !== undefined);
  const everywhere = (port: string, reason: string) => ["0.0.0.0/0", "::/0"].map((to) => `${port} ${to}: ${reason}`);
  expect(out.map(({ protocol, port, source, reason }) => `${protocol}/${port} ${source.text}: ${reason}`)).toEqual([
    ...mail,
    ...everywhere("tcp/53", "resolve names, long answers"),
    ...everywhere("udp/53", "resolve names"),
    ...everywhere("tcp/80", "certificates, updates, blocklists"),
    ...everywhere("udp/123", "set the clock"),
    ...everywhere("tcp/443", "certificates, updates, blocklists"),
  ]);
  const icmp = rules(read({ egress })).filter(
    ({ direction, icmpType }) => direction === "out" && icmpType !== undefined,
  );
  expect(icmp).toHaveLength(9);
});

test.each([
  [["0.0.0.0/0"], "0.0.0.0/0"],
  [["0.0.0.0/0", "::/0"], "public"],
  [["0.0.0.0/0", "fd12::/48"], "0.0.0.0/0, fd12::/48"],
])("%j is said as %s", (from, said) => {
  expect(exposure(read({ services: { pop3: from } })).pop3).toBe(`tcp/110: ${said}`);
});

test.each([
  ...["ssh", "icmp", "icmpv6", "egress", "smtps", "web"].map((name) => [
    name,
    [`ports.${name}: is a name of its own here; write it under "${name === "ssh" ? "ssh" : "services"}"`],
  ]),
  ["abcdefghijklmno", []],
  [
    "abcdefghijklmnop",
    ["ports.abcdefghijklmnop: is not a service name; use at most 15 of a-z, 0-9 and single hyphens, a letter first"],
  ],
  [
    "ab-cd-ef-gh-ij-k",
    ["ports.ab-cd-ef-gh-ij-k: is not a service name; use at most 15 of a-z, 0-9 and single hyphens, a letter first"],
  ],
] as [string, string[]][])("a port named %s", (name, expected) => {
  const faults = new Faults();
  const ports = { [name]: { protocol: "tcp", port: 2525, from: ["public"] } };
  readPolicy({ ssh: ["203.0.113.0/24"], ports }, "", { any: true }, faults);
  expect(faults.list.map(({ path, problem }) => `${path}: ${problem}`)).toEqual(expected);
});
