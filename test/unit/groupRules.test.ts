import fc from "fast-check";

import { checkQuota, cloudOnly, groupRules, type GroupRule } from "../../components/cloud/groupRules";
import { Faults } from "../../components/policy/faults";
import { readPolicy, rules, type PolicyArgs } from "../../components/policy/policy";
import { policyArgs } from "./arbitraries";

const policyOf = (args: PolicyArgs) => readPolicy(args, "", { any: false }, new Faults());
const rulesOf = (args: PolicyArgs) => rules(policyOf(args));

test("the rules of a security group, one by one", () => {
  const found = groupRules(
    rulesOf({
      services: { imap: ["10.20.0.0/16", "fd12::/48"] },
      ssh: ["closed"],
      ports: { wireguard: { protocol: "udp", port: 51820, from: ["2001:db8::1/128"] } },
    }),
  );
  const everywhere4 = { cidrIpv4: "0.0.0.0/0" };
  const everywhere6 = { cidrIpv6: "::/0" };
  const tcp = (port: number) => ({ ipProtocol: "tcp", fromPort: port, toPort: port });
  const icmp = (type: number) => ({ ipProtocol: "icmp", fromPort: type, toPort: -1, ...everywhere4 });
  const icmp6 = (type: number) => ({ ipProtocol: "icmpv6", fromPort: type, toPort: -1, ...everywhere6 });
  const smtp = "smtp: mail from other servers";
  const imap = "imap: read mail, plaintext or STARTTLS";
  const egress = "egress: deliver mail, resolve names, fetch updates";
  expect(found.map(({ name, args }) => [name, args])).toEqual([
    ["ingress-tcp-25-anywhere-ipv4", { ...tcp(25), ...everywhere4, description: smtp }],
    ["ingress-tcp-25-anywhere-ipv6", { ...tcp(25), ...everywhere6, description: smtp }],
    ["ingress-tcp-143-10.20.0.0/16", { ...tcp(143), cidrIpv4: "10.20.0.0/16", description: imap }],
    ["ingress-tcp-143-fd12--/48", { ...tcp(143), cidrIpv6: "fd12::/48", description: imap }],
    [
      "ingress-udp-51820-2001-db8--1/128",
      {
        ipProtocol: "udp",
        fromPort: 51820,
        toPort: 51820,
        cidrIpv6: "2001:db8::1/128",
        description: "wireguard: other port of the host",
      },
    ],
    ["ingress-icmp-3-anywhere-ipv4", { ...icmp(3), description: "icmp: destination unreachable" }],
    ["ingress-icmp-8-anywhere-ipv4", { ...icmp(8), description: "icmp: echo request" }],
    ["ingress-icmp-11-anywhere-ipv4", { ...icmp(11), description: "icmp: time exceeded" }],
    ["ingress-icmp-12-anywhere-ipv4", { ...icmp(12), description: "icmp: parameter problem" }],
    ["ingress-icmpv6-1-anywhere-ipv6", { ...icmp6(1), description: "icmpv6: destination unreachable" }],
    ["ingress-icmpv6-2-anywhere-ipv6", { ...icmp6(2), description: "icmpv6: packet too big" }],
    ["ingress-icmpv6-3-anywhere-ipv6", { ...icmp6(3), description: "icmpv6: time exceeded" }],
    ["ingress-icmpv6-4-anywhere-ipv6", { ...icmp6(4), description: "icmpv6: parameter problem" }],
    ["ingress-icmpv6-128-anywhere-ipv6", { ...icmp6(128), description: "icmpv6: echo request" }],
    ["egress-all-anywhere-ipv4", { ipProtocol: "-1", ...everywhere4, description: egress }],
    ["egress-all-anywhere-ipv6", { ipProtocol: "-1", ...everywhere6, description: egress }],
  ]);
  expect(found.map(({ direction }) => direction)).toEqual([...Array<string>(14).fill("ingress"), "egress", "egress"]);
});

test("names are unique, without the separator of URNs, and descriptions are such as AWS takes", () => {
  fc.assert(
    fc.property(policyArgs, (args) => {
      const found = groupRules(rulesOf(args));
      expect(new Set(found.map(({ name }) => name)).size).toBe(found.length);
      for (const { name, args: rule } of found) {
        expect(name).not.toContain("::");
        // Amazon EC2 API, IpRange: Description.
        expect(rule.description).toMatch(/^[a-zA-Z0-9. _\-:/()#,@[\]+=&;{}!$*]{1,255}$/);
        expect([rule.cidrIpv4, rule.cidrIpv6].filter((cidr) => cidr !== undefined)).toHaveLength(1);
      }
    }),
  );
});

/** What a rule admits, source by source: direction, protocol, ports, network. */
const atoms = ({ direction, args, list }: GroupRule) =>
  (list ? list.args.entries.map(({ cidr }) => cidr) : [args.cidrIpv4 ?? args.cidrIpv6]).map((source) =>
    [direction, args.ipProtocol, args.fromPort, args.toPort, source].join(),
  );

describe("with prefix lists", () => {
  const offices = ["192.0.2.0/24", "198.51.100.0/24", "2001:db8:1::/48", "2001:db8:2::/48"];
  const withLists = (args: Partial<PolicyArgs>) =>
    groupRules(rulesOf({ ssh: ["203.0.113.0/24"], ...args }), { prefixLists: true });
  const listed = (args: Partial<PolicyArgs>) =>
    withLists(args).flatMap(({ name, list }) =>
      list ? [[name, list.name, list.args.entries.map(({ cidr }) => cidr).join()]] : [],
    );

  test("a service has one rule a family, and services with the same networks share their list", () => {
    expect(
      listed({ services: { imaps: [...offices].reverse(), imap: offices, pop3: ["192.0.2.0/24", "2001:db8::/48"] } }),
    ).toEqual([
      ["ingress-tcp-143-networks-ipv4", "ingress-tcp-143-networks-ipv4", "192.0.2.0/24,198.51.100.0/24"],
      ["ingress-tcp-143-networks-ipv6", "ingress-tcp-143-networks-ipv6", "2001:db8:1::/48,2001:db8:2::/48"],
      ["ingress-tcp-993-networks-ipv4", "ingress-tcp-143-networks-ipv4", "192.0.2.0/24,198.51.100.0/24"],
      ["ingress-tcp-993-networks-ipv6", "ingress-tcp-143-networks-ipv6", "2001:db8:1::/48,2001:db8:2::/48"],
    ]);
  });

  test("one network more changes the list, and neither a name nor a rule", () => {
    const before = withLists({ services: { imaps: offices } });
    const after = withLists({ services: { imaps: [...offices, "10.0.0.0/8"] } });
    expect(after.map(({ name, args }) => [name, args])).toEqual(before.map(({ name, args }) => [name, args]));
    expect(after.map(({ list }) => list?.name)).toEqual(before.map(({ list }) => list?.name));
    expect(after.find(({ list }) => list)!.list!.args).toEqual({
      addressFamily: "IPv4",
      entries: [{ cidr: "10.0.0.0/8" }, { cidr: "192.0.2.0/24" }, { cidr: "198.51.100.0/24" }],
      maxEntries: 3,
    });
  });

  test("the rule of a list has no other source, and the description of its service", () => {
    const [rule] = withLists({ services: { imaps: offices } }).filter(({ list }) => list);
    const description = "imaps: read mail over TLS";
    expect(rule!.args).toEqual({ ipProtocol: "tcp", fromPort: 993, toPort: 993, description });
  });

  test("relays and services may share one, too", () => {
    expect(
      listed({ services: { imap: offices.slice(0, 2) }, egress: { relay: offices.slice(0, 2) } }).map(
        ([name, list]) => [name, list],
      ),
    ).toEqual([
      ["ingress-tcp-143-networks-ipv4", "ingress-tcp-143-networks-ipv4"],
      ["egress-tcp-465-networks-ipv4", "ingress-tcp-143-networks-ipv4"],
      ["egress-tcp-587-networks-ipv4", "ingress-tcp-143-networks-ipv4"],
    ]);
  });

  test("a group admits the same, with the same weight, under unique names", () => {
    fc.assert(
      fc.property(policyArgs, (args) => {
        const plain = groupRules(rulesOf(args));
        const found = groupRules(rulesOf(args), { prefixLists: true });
        expect(found.flatMap(atoms).sort()).toEqual(plain.flatMap(atoms).sort());
        expect(new Set(found.map(({ name }) => name)).size).toBe(found.length);
        for (const { name, args: rule, list } of found) {
          expect(name).not.toContain("::");
          expect([rule.cidrIpv4, rule.cidrIpv6, list].filter((source) => source !== undefined)).toHaveLength(1);
          if (list) expect(list.args.entries.length).toBeGreaterThanOrEqual(2);
        }
        // Equal lists are one object, and so one resource; different ones have different names.
        const lists = new Set(found.flatMap(({ list }) => list ?? []));
        expect(new Set([...lists].map(({ args }) => JSON.stringify(args))).size).toBe(lists.size);
        expect(new Set([...lists].map(({ name }) => name)).size).toBe(lists.size);
      }),
    );
  });
});

const raise = (count: number) =>
  `, or have AWS raise "Inbound or outbound rules per security group" and write rulesPerGroup: ${count}`;

test.each([
  [52, 60, ""],
  [53, 60, `61 inbound IPv4 rules, and a security group takes 60; name fewer or wider networks${raise(61)}`],
  [53, 61, ""],
  [92, 99, `100 inbound IPv4 rules, and a security group takes 99; name fewer or wider networks${raise(100)}`],
  [993, 1000, "1001 inbound IPv4 rules, and a security group takes 1000; name fewer or wider networks"],
])("with %i networks of one family a group is within a quota of %i, or it is a fault", (count, limit, expected) => {
  const networks = Array.from({ length: count }, (_, i) => `10.${i >> 8}.${i & 255}.0/24`);
  // Beside them: smtp, SSH from three networks, four of ICMP.
  const found = rulesOf({
    services: { imaps: networks },
    ssh: ["192.0.2.0/24", "198.51.100.0/24", "203.0.113.0/24"],
  });
  for (const prefixLists of [false, true]) {
    const faults = new Faults();
    checkQuota(groupRules(found, { prefixLists }), limit, "services", faults);
    expect(faults.list.map(({ path, problem }) => `${path}: ${problem}`)).toEqual(
      expected === "" ? [] : [`services: makes ${expected}`],
    );
  }
});

test("the quota counts each direction and family by itself", () => {
  const faults = new Faults();
  const relay = Array.from({ length: 30 }, (_, i) => `2001:db8:${(i + 1).toString(16)}::/48`);
  checkQuota(groupRules(rulesOf({ ssh: ["closed"], egress: { relay } })), 60, "aws", faults);
  // Of each of two ports 30, and the ten of DNS, HTTP, HTTPS, NTP and ICMPv6.
  expect(faults.list.map(({ problem }) => problem)).toEqual([
    `makes 70 outbound IPv6 rules, and a security group takes 60; name fewer or wider networks${raise(70)}`,
  ]);
});

describe("what only the cloud does", () => {
  const throttled = { "outbound mail": "tcp/25 is throttled by AWS, by account and region, until you ask for more" };
  const traffic = (mail: string) => ({
    "outbound traffic": `only ${mail}, DNS, NTP, HTTP, HTTPS and ICMP: a host does not restrict what it sends`,
  });
  const idle = (services: string) => ({
    "idle connections": `${services}: tracked, so forgotten after 350 s on Nitro v6; IDLE must notify sooner`,
  });
  test.each<[Partial<PolicyArgs>, Record<string, string>]>([
    [{}, throttled],
    [{ services: { imaps: ["public"], pop3: ["10.0.0.0/8"] } }, throttled],
    [{ services: { imaps: ["public"], imap: ["10.0.0.0/8"] } }, { ...throttled, ...idle("imap") }],
    [{ services: { imaps: ["0.0.0.0/0"] } }, { ...throttled, ...idle("imaps") }],
    [
      { services: { imaps: ["public"], imap: ["public"] }, egress: { mode: "mail" } },
      { ...traffic("mail (tcp/25)"), ...throttled, ...idle("imap, imaps") },
    ],
    [
      { egress: { relay: ["198.51.100.7/32", "2001:db8::7/128"] } },
      traffic("submission (tcp/465, tcp/587) to 198.51.100.7/32, 2001:db8::7/128"),
    ],
    [{ egress: { relay: ["public"] } }, traffic("submission (tcp/465, tcp/587) to public")],
  ])("with %j", (args, expected) => {
    expect(cloudOnly(policyOf({ ssh: ["closed"], ...args }))).toEqual(expected);
  });
});
