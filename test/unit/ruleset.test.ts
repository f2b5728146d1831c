import fc from "fast-check";

import { ruleset, rulesets } from "../../components/host/ruleset";
import { Faults } from "../../components/policy/faults";
import { readPolicy, rules, type PolicyArgs } from "../../components/policy/policy";
import { policyArgs } from "./arbitraries";

function rulesOf(args: PolicyArgs) {
  return rules(readPolicy(args, "", { any: true }, new Faults()));
}

const owner = "mail-firewall/prod/mail-mx1";

const example = rulesOf({
  services: { submissions: ["public"], imap: ["10.20.0.0/16", "fd12::/48"] },
  ssh: ["203.0.113.0/24", "2001:db8:113::/48"],
  sshPorts: [22, 2222],
  ports: { wireguard: { protocol: "udp", port: 51820, from: ["public"] } },
});

test("the IPv4 ruleset, line by line", () => {
  expect(ruleset(example, 4, owner).split("\n")).toEqual([
    "*filter",
    ":MAILFW-FWD - [0:0]",
    ":MAILFW-IN - [0:0]",
    ":MAILFW-OPEN - [0:0]",
    ":MAILFW-OUT - [0:0]",
    "-A MAILFW-FWD -m conntrack --ctstate RELATED,ESTABLISHED -j RETURN",
    "-A MAILFW-FWD -i docker+ -j RETURN",
    "-A MAILFW-FWD -i br-+ -j RETURN",
    "-A MAILFW-FWD -s 203.0.113.0/24 -p tcp -m conntrack --ctorigdstport 22 -m comment --comment ssh -j RETURN",
    "-A MAILFW-FWD -s 203.0.113.0/24 -p tcp -m conntrack --ctorigdstport 2222 -m comment --comment ssh -j RETURN",
    "-A MAILFW-FWD -m conntrack --ctstate DNAT -j MAILFW-OPEN",
    "-A MAILFW-FWD -o docker+ -j MAILFW-OPEN",
    "-A MAILFW-FWD -o br-+ -j MAILFW-OPEN",
    '-A MAILFW-IN -m comment --comment "owner mail-firewall/prod/mail-mx1"',
    "-A MAILFW-IN -s 203.0.113.0/24 -p tcp -m tcp --dport 22 -m comment --comment ssh -j ACCEPT",
    "-A MAILFW-IN -s 203.0.113.0/24 -p tcp -m tcp --dport 2222 -m comment --comment ssh -j ACCEPT",
    "-A MAILFW-IN -i lo -j ACCEPT",
    "-A MAILFW-IN -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
    "-A MAILFW-IN -p icmp -m icmp --icmp-type 3 -j ACCEPT",
    "-A MAILFW-IN -p icmp -m icmp --icmp-type 8 -j ACCEPT",
    "-A MAILFW-IN -p icmp -m icmp --icmp-type 11 -j ACCEPT",
    "-A MAILFW-IN -p icmp -m icmp --icmp-type 12 -j ACCEPT",
    "-A MAILFW-IN -p udp -m udp --sport 67 --dport 68 -j ACCEPT",
    "-A MAILFW-IN -m conntrack --ctstate INVALID -j DROP",
    "-A MAILFW-IN -m addrtype ! --dst-type LOCAL -j DROP",
    "-A MAILFW-IN -j MAILFW-OPEN",
    "-A MAILFW-IN -j ACCEPT",
    "-A MAILFW-OPEN -p tcp -m conntrack --ctorigdstport 25 -m comment --comment smtp -j RETURN",
    "-A MAILFW-OPEN -s 10.20.0.0/16 -p tcp -m conntrack --ctorigdstport 143 -m comment --comment imap -j RETURN",
    "-A MAILFW-OPEN -p tcp -m conntrack --ctorigdstport 465 -m comment --comment submissions -j RETURN",
    "-A MAILFW-OPEN -p udp -m conntrack --ctorigdstport 51820 -m comment --comment wireguard -j RETURN",
    '-A MAILFW-OPEN -m limit --limit 3/min --limit-burst 10 -j LOG --log-prefix "mail-firewall: " --log-level 6',
    "-A MAILFW-OPEN -j DROP",
    "-A MAILFW-OUT -d 203.0.113.0/24 -p tcp -m tcp --sport 22 -m comment --comment ssh -j ACCEPT",
    "-A MAILFW-OUT -d 203.0.113.0/24 -p tcp -m tcp --sport 2222 -m comment --comment ssh -j ACCEPT",
    "COMMIT",
    "",
  ]);
});

test("the IPv6 ruleset, line by line", () => {
  expect(ruleset(example, 6, owner).split("\n")).toEqual([
    "*filter",
    ":MAILFW-FWD - [0:0]",
    ":MAILFW-IN - [0:0]",
    ":MAILFW-OPEN - [0:0]",
    ":MAILFW-OUT - [0:0]",
    "-A MAILFW-FWD -m conntrack --ctstate RELATED,ESTABLISHED -j RETURN",
    "-A MAILFW-FWD -i docker+ -j RETURN",
    "-A MAILFW-FWD -i br-+ -j RETURN",
    "-A MAILFW-FWD -s 2001:db8:113::/48 -p tcp -m conntrack --ctorigdstport 22 -m comment --comment ssh -j RETURN",
    "-A MAILFW-FWD -s 2001:db8:113::/48 -p tcp -m conntrack --ctorigdstport 2222 -m comment --comment ssh -j RETURN",
    "-A MAILFW-FWD -m conntrack --ctstate DNAT -j MAILFW-OPEN",
    "-A MAILFW-FWD -o docker+ -j MAILFW-OPEN",
    "-A MAILFW-FWD -o br-+ -j MAILFW-OPEN",
    '-A MAILFW-IN -m comment --comment "owner mail-firewall/prod/mail-mx1"',
    "-A MAILFW-IN -s 2001:db8:113::/48 -p tcp -m tcp --dport 22 -m comment --comment ssh -j ACCEPT",
    "-A MAILFW-IN -s 2001:db8:113::/48 -p tcp -m tcp --dport 2222 -m comment --comment ssh -j ACCEPT",
    "-A MAILFW-IN -i lo -j ACCEPT",
    "-A MAILFW-IN -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
    ...[1, 2, 3, 4, 128].map((type) => `-A MAILFW-IN -p ipv6-icmp -m icmp6 --icmpv6-type ${type} -j ACCEPT`),
    "-A MAILFW-IN -s fe80::/10 -p ipv6-icmp -m icmp6 --icmpv6-type 130 -j ACCEPT",
    "-A MAILFW-IN -s fe80::/10 -p ipv6-icmp -m icmp6 --icmpv6-type 131 -j ACCEPT",
    "-A MAILFW-IN -s fe80::/10 -p ipv6-icmp -m icmp6 --icmpv6-type 132 -j ACCEPT",
    "-A MAILFW-IN -s fe80::/10 -p ipv6-icmp -m icmp6 --icmpv6-type 143 -j ACCEPT",
    "-A MAILFW-IN -p ipv6-icmp -m icmp6 --icmpv6-type 133 -m hl --hl-eq 255 -j ACCEPT",
    "-A MAILFW-IN -p ipv6-icmp -m icmp6 --icmpv6-type 134 -m hl --hl-eq 255 -j ACCEPT",
    "-A MAILFW-IN -p ipv6-icmp -m icmp6 --icmpv6-type 135 -m hl --hl-eq 255 -j ACCEPT",
    "-A MAILFW-IN -p ipv6-icmp -m icmp6 --icmpv6-type 136 -m hl --hl-eq 255 -j ACCEPT",
    "-A MAILFW-IN -s fe80::/10 -p udp -m udp --sport 547 --dport 546 -j ACCEPT",
    "-A MAILFW-IN -m conntrack --ctstate INVALID -j DROP",
    "-A MAILFW-IN -m addrtype ! --dst-type LOCAL -j DROP",
    "-A MAILFW-IN -j MAILFW-OPEN",
    "-A MAILFW-IN -j ACCEPT",
    "-A MAILFW-OPEN -p tcp -m conntrack --ctorigdstport 25 -m comment --comment smtp -j RETURN",
    "-A MAILFW-OPEN -s fd12::/48 -p tcp -m conntrack --ctorigdstport 143 -m comment --comment imap -j RETURN",
    "-A MAILFW-OPEN -p tcp -m conntrack --ctorigdstport 465 -m comment --comment submissions -j RETURN",
    "-A MAILFW-OPEN -p udp -m conntrack --ctorigdstport 51820 -m comment --comment wireguard -j RETURN",
    '-A MAILFW-OPEN -m limit --limit 3/min --limit-burst 10 -j LOG --log-prefix "mail-firewall: " --log-level 6',
    "-A MAILFW-OPEN -j DROP",
    "-A MAILFW-OUT -d 2001:db8:113::/48 -p tcp -m tcp --sport 22 -m comment --comment ssh -j ACCEPT",
    "-A MAILFW-OUT -d 2001:db8:113::/48 -p tcp -m tcp --sport 2222 -m comment --comment ssh -j ACCEPT",
    "COMMIT",
    "",
  ]);
});

test("every ruleset keeps SSH first, drops last, and fits a preview, which cuts lines at 150 characters", () => {
  fc.assert(
    fc.property(policyArgs, fc.constantFrom(4 as const, 6 as const), (args, family) => {
      const lines = ruleset(rulesOf(args), family, owner).split("\n");
      const inbound = lines.filter((line) => line.startsWith("-A MAILFW-IN "));
      const lastSsh = inbound.findLastIndex((line) => line.includes("--comment ssh "));
      expect(
        inbound.slice(1, lastSsh + 1).every((line) => line.includes("--comment ssh ") && !line.includes("state")),
      ).toBe(true);
      // Both ways, what comes back from the list has been named; at its end everything else is dropped.
      expect(inbound.slice(-2)).toEqual(["-A MAILFW-IN -j MAILFW-OPEN", "-A MAILFW-IN -j ACCEPT"]);
      expect(lines).toContain("-A MAILFW-FWD -m conntrack --ctstate DNAT -j MAILFW-OPEN");
      const open = lines.filter((line) => line.startsWith("-A MAILFW-OPEN "));
      expect(open.at(-1)).toBe("-A MAILFW-OPEN -j DROP");
      expect(open.slice(0, -2).every((line) => / --ctorigdstport \d+ .* -j RETURN$/.test(line))).toBe(true);
      expect(Math.max(...lines.map((line) => line.length))).toBeLessThan(150);
      expect(new Set(lines).size).toBe(lines.length);
    }),
  );
});

test("the longest line that a policy can make fits a preview", () => {
  const longest = rulesOf({
    ssh: ["2001:db8:1111:2222:3333:4444:5555:6666/128"],
    sshPorts: [65535],
    ports: {
      "a-name-of-15-ch": { protocol: "tcp", port: 65534, from: ["2001:db8:1111:2222:3333:4444:5555:6666/128"] },
    },
  });
  expect(
    Math.max(
      ...rulesets(longest, owner)
        .split("\n")
        .map((line) => line.length),
    ),
  ).toBe(149);
});

test("both families, as the script on the host reads them", () => {
  expect(rulesets(example, owner)).toBe(`# IPv4\n${ruleset(example, 4, owner)}# IPv6\n${ruleset(example, 6, owner)}`);
});

test("an owner may be any text, and its comment stays one word", () => {
  const text = rulesets(example, 'p/s/a "b"\n-A MAILFW-IN -j ACCEPT');
  expect(text.match(/"owner .*"$/gm)).toEqual(Array(2).fill('"owner p/s/a%20%22b%22%0A-A%20MAILFW-IN%20-j%20ACCEPT"'));
});
