import fc from "fast-check";

import { checkQuota, groupRules } from "../../components/cloud/groupRules";
import { Faults } from "../../components/policy/faults";
import { readPolicy, rules, type PolicyArgs } from "../../components/policy/policy";
import { policyArgs } from "./arbitraries";

function rulesOf(args: PolicyArgs) {
  return rules(readPolicy(args, "", { any: false }, new Faults()));
}

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

test.each([
  [52, []],
  [53, ["services: makes 61 inbound IPv4 rules, and a security group takes 60; name fewer or wider networks"]],
])("with %i networks of one family a group is within its quota, or it is a fault", (count, expected) => {
  const networks = Array.from({ length: count }, (_, i) => `10.${i}.0.0/16`);
  const faults = new Faults();
  // Beside them: smtp, SSH from three networks, four of ICMP.
  checkQuota(
    rulesOf({ services: { imaps: networks }, ssh: ["192.0.2.0/24", "198.51.100.0/24", "203.0.113.0/24"] }),
    "services",
    faults,
  );
  expect(faults.list.map(({ path, problem }) => `${path}: ${problem}`)).toEqual(expected);
});
