import fc from "fast-check";

import { hostWarnings, readHostOptions, type HostOptions } from "../../components/host/hostOptions";
import { hostOnly } from "../../components/host/residue";
import { ruleset, rulesets } from "../../components/host/ruleset";
import type { Family } from "../../components/policy/cidr";
import { Faults } from "../../components/policy/faults";
import { readPolicy, rules, type PolicyArgs } from "../../components/policy/policy";
import { hostOptions, policyArgs, shuffled } from "./arbitraries";

function rulesOf(args: PolicyArgs) {
  return rules(readPolicy(args, "", { any: true }, new Faults()));
}

function settingsOf(options: HostOptions) {
  const faults = new Faults();
  const settings = readHostOptions(options, "", faults);
  expect(faults.list).toEqual([]);
  return settings;
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
    "*mangle",
    ":MAILFW-DROP - [0:0]",
    ":MAILFW-FWD - [0:0]",
    ":MAILFW-IN - [0:0]",
    ":MAILFW-OPEN - [0:0]",
    "-A MAILFW-DROP -p tcp -m multiport --dports 135,139,445 -j DROP",
    "-A MAILFW-DROP -p udp -m multiport --dports 67,68,137,138 -j DROP",
    '-A MAILFW-DROP -m limit --limit 3/min --limit-burst 10 -j LOG --log-prefix "mail-firewall: " --log-level 6',
    "-A MAILFW-DROP -j DROP",
    "-A MAILFW-FWD -m conntrack --ctstate RELATED,ESTABLISHED -j RETURN",
    "-A MAILFW-FWD -i docker+ -j RETURN",
    "-A MAILFW-FWD -i br-+ -j RETURN",
    "-A MAILFW-FWD -i podman+ -j RETURN",
    "-A MAILFW-FWD -i cni+ -j RETURN",
    "-A MAILFW-FWD -i lxdbr+ -j RETURN",
    "-A MAILFW-FWD -i incusbr+ -j RETURN",
    "-A MAILFW-FWD -s 203.0.113.0/24 -p tcp -m conntrack --ctorigdstport 22 -m comment --comment ssh -j RETURN",
    "-A MAILFW-FWD -s 203.0.113.0/24 -p tcp -m conntrack --ctorigdstport 2222 -m comment --comment ssh -j RETURN",
    "-A MAILFW-FWD -m conntrack --ctstate DNAT -j MAILFW-OPEN",
    "-A MAILFW-FWD -o docker+ -j MAILFW-OPEN",
    "-A MAILFW-FWD -o br-+ -j MAILFW-OPEN",
    "-A MAILFW-FWD -o podman+ -j MAILFW-OPEN",
    "-A MAILFW-FWD -o cni+ -j MAILFW-OPEN",
    "-A MAILFW-FWD -o lxdbr+ -j MAILFW-OPEN",
    "-A MAILFW-FWD -o incusbr+ -j MAILFW-OPEN",
    '-A MAILFW-IN -m comment --comment "owner mail-firewall/prod/mail-mx1"',
    "-A MAILFW-IN -s 203.0.113.0/24 -p tcp -m tcp --dport 22 -m comment --comment ssh -j RETURN",
    "-A MAILFW-IN -s 203.0.113.0/24 -p tcp -m tcp --dport 2222 -m comment --comment ssh -j RETURN",
    "-A MAILFW-IN -i lo -j RETURN",
    "-A MAILFW-IN -s 127.0.0.0/8 -j DROP",
    "-A MAILFW-IN -p icmp -m icmp --icmp-type 4 -j DROP",
    "-A MAILFW-IN -p icmp -m icmp --icmp-type 5 -j DROP",
    "-A MAILFW-IN -m conntrack --ctstate RELATED,ESTABLISHED -j RETURN",
    "-A MAILFW-IN -p icmp -m icmp --icmp-type 3 -j RETURN",
    "-A MAILFW-IN -p icmp -m icmp --icmp-type 8 -j RETURN",
    "-A MAILFW-IN -p icmp -m icmp --icmp-type 11 -j RETURN",
    "-A MAILFW-IN -p icmp -m icmp --icmp-type 12 -j RETURN",
    "-A MAILFW-IN -d 255.255.255.255/32 -p udp -m udp --sport 67 --dport 68 -j RETURN",
    "-A MAILFW-IN -m conntrack --ctstate INVALID -j DROP",
    "-A MAILFW-IN -m addrtype ! --dst-type LOCAL -j DROP",
    "-A MAILFW-IN -j MAILFW-OPEN",
    "-A MAILFW-OPEN -p tcp -m conntrack --ctorigdstport 25 -m comment --comment smtp -j RETURN",
    "-A MAILFW-OPEN -s 10.20.0.0/16 -p tcp -m conntrack --ctorigdstport 143 -m comment --comment imap -j RETURN",
    "-A MAILFW-OPEN -p tcp -m conntrack --ctorigdstport 465 -m comment --comment submissions -j RETURN",
    "-A MAILFW-OPEN -p udp -m conntrack --ctorigdstport 51820 -m comment --comment wireguard -j RETURN",
    "-A MAILFW-OPEN -j MAILFW-DROP",
    "COMMIT",
    "*filter",
    ":MAILFW-ACCEPT - [0:0]",
    ":MAILFW-OUT - [0:0]",
    "-A MAILFW-ACCEPT -j ACCEPT",
    "-A MAILFW-OUT -d 203.0.113.0/24 -p tcp -m tcp --sport 22 -m comment --comment ssh -j ACCEPT",
    "-A MAILFW-OUT -d 203.0.113.0/24 -p tcp -m tcp --sport 2222 -m comment --comment ssh -j ACCEPT",
    "COMMIT",
    "",
  ]);
});

test("the IPv6 ruleset, line by line", () => {
  expect(ruleset(example, 6, owner).split("\n")).toEqual([
    "*mangle",
    ":MAILFW-DROP - [0:0]",
    ":MAILFW-FWD - [0:0]",
    ":MAILFW-IN - [0:0]",
    ":MAILFW-OPEN - [0:0]",
    "-A MAILFW-DROP -p tcp -m multiport --dports 135,139,445 -j DROP",
    "-A MAILFW-DROP -p udp -m multiport --dports 67,68,137,138 -j DROP",
    '-A MAILFW-DROP -m limit --limit 3/min --limit-burst 10 -j LOG --log-prefix "mail-firewall: " --log-level 6',
    "-A MAILFW-DROP -j DROP",
    "-A MAILFW-FWD -m conntrack --ctstate RELATED,ESTABLISHED -j RETURN",
    "-A MAILFW-FWD -i docker+ -j RETURN",
    "-A MAILFW-FWD -i br-+ -j RETURN",
    "-A MAILFW-FWD -i podman+ -j RETURN",
    "-A MAILFW-FWD -i cni+ -j RETURN",
    "-A MAILFW-FWD -i lxdbr+ -j RETURN",
    "-A MAILFW-FWD -i incusbr+ -j RETURN",
    "-A MAILFW-FWD -s 2001:db8:113::/48 -p tcp -m conntrack --ctorigdstport 22 -m comment --comment ssh -j RETURN",
    "-A MAILFW-FWD -s 2001:db8:113::/48 -p tcp -m conntrack --ctorigdstport 2222 -m comment --comment ssh -j RETURN",
    "-A MAILFW-FWD -m conntrack --ctstate DNAT -j MAILFW-OPEN",
    "-A MAILFW-FWD -o docker+ -j MAILFW-OPEN",
    "-A MAILFW-FWD -o br-+ -j MAILFW-OPEN",
    "-A MAILFW-FWD -o podman+ -j MAILFW-OPEN",
    "-A MAILFW-FWD -o cni+ -j MAILFW-OPEN",
    "-A MAILFW-FWD -o lxdbr+ -j MAILFW-OPEN",
    "-A MAILFW-FWD -o incusbr+ -j MAILFW-OPEN",
    '-A MAILFW-IN -m comment --comment "owner mail-firewall/prod/mail-mx1"',
    "-A MAILFW-IN -s 2001:db8:113::/48 -p tcp -m tcp --dport 22 -m comment --comment ssh -j RETURN",
    "-A MAILFW-IN -s 2001:db8:113::/48 -p tcp -m tcp --dport 2222 -m comment --comment ssh -j RETURN",
    "-A MAILFW-IN -i lo -j RETURN",
    "-A MAILFW-IN -s ::1/128 -j DROP",
    "-A MAILFW-IN -s ::ffff:0.0.0.0/96 -j DROP",
    "-A MAILFW-IN -p ipv6-icmp -m icmp6 --icmpv6-type 137 -j DROP",
    "-A MAILFW-IN -m conntrack --ctstate RELATED,ESTABLISHED -j RETURN",
    "-A MAILFW-IN -p ipv6-icmp -m icmp6 --icmpv6-type 1 -j RETURN",
    "-A MAILFW-IN -p ipv6-icmp -m icmp6 --icmpv6-type 2 -j RETURN",
    "-A MAILFW-IN -p ipv6-icmp -m icmp6 --icmpv6-type 3 -j RETURN",
    "-A MAILFW-IN -p ipv6-icmp -m icmp6 --icmpv6-type 4 -j RETURN",
    "-A MAILFW-IN -p ipv6-icmp -m icmp6 --icmpv6-type 128 -j RETURN",
    "-A MAILFW-IN -s fe80::/10 -p ipv6-icmp -m icmp6 --icmpv6-type 130 -j RETURN",
    "-A MAILFW-IN -s fe80::/10 -p ipv6-icmp -m icmp6 --icmpv6-type 131 -j RETURN",
    "-A MAILFW-IN -s fe80::/10 -p ipv6-icmp -m icmp6 --icmpv6-type 132 -j RETURN",
    "-A MAILFW-IN -s fe80::/10 -p ipv6-icmp -m icmp6 --icmpv6-type 143 -j RETURN",
    "-A MAILFW-IN -p ipv6-icmp -m icmp6 --icmpv6-type 133 -m hl --hl-eq 255 -j RETURN",
    "-A MAILFW-IN -p ipv6-icmp -m icmp6 --icmpv6-type 134 -m hl --hl-eq 255 -j RETURN",
    "-A MAILFW-IN -p ipv6-icmp -m icmp6 --icmpv6-type 135 -m hl --hl-eq 255 -j RETURN",
    "-A MAILFW-IN -p ipv6-icmp -m icmp6 --icmpv6-type 136 -m hl --hl-eq 255 -j RETURN",
    "-A MAILFW-IN -s fe80::/10 -p udp -m udp --sport 547 --dport 546 -j RETURN",
    "-A MAILFW-IN -m conntrack --ctstate INVALID -j DROP",
    "-A MAILFW-IN -m addrtype ! --dst-type LOCAL -j DROP",
    "-A MAILFW-IN -j MAILFW-OPEN",
    "-A MAILFW-OPEN -p tcp -m conntrack --ctorigdstport 25 -m comment --comment smtp -j RETURN",
    "-A MAILFW-OPEN -s fd12::/48 -p tcp -m conntrack --ctorigdstport 143 -m comment --comment imap -j RETURN",
    "-A MAILFW-OPEN -p tcp -m conntrack --ctorigdstport 465 -m comment --comment submissions -j RETURN",
    "-A MAILFW-OPEN -p udp -m conntrack --ctorigdstport 51820 -m comment --comment wireguard -j RETURN",
    "-A MAILFW-OPEN -j MAILFW-DROP",
    "COMMIT",
    "*filter",
    ":MAILFW-ACCEPT - [0:0]",
    ":MAILFW-OUT - [0:0]",
    "-A MAILFW-ACCEPT -j ACCEPT",
    "-A MAILFW-OUT -d 2001:db8:113::/48 -p tcp -m tcp --sport 22 -m comment --comment ssh -j ACCEPT",
    "-A MAILFW-OUT -d 2001:db8:113::/48 -p tcp -m tcp --sport 2222 -m comment --comment ssh -j ACCEPT",
    "COMMIT",
    "",
  ]);
});

/** The lines of a ruleset that the options change: each with `+` or `-`. */
function changed(options: HostOptions, family: Family = 4): string[] {
  const before = ruleset(example, family, owner).split("\n");
  const after = ruleset(example, family, owner, settingsOf(options)).split("\n");
  return [
    ...before.filter((line) => !after.includes(line)).map((line) => `- ${line}`),
    ...after.filter((line) => !before.includes(line)).map((line) => `+ ${line}`),
  ].map((line) => line.replace("-A MAILFW-", ""));
}

/** The ways to the services of the host and of containers, as they are without options. */
const toContainers = [
  "-m conntrack --ctstate DNAT",
  ...["docker+", "br-+", "podman+", "cni+", "lxdbr+", "incusbr+"].map((bridge) => `-o ${bridge}`),
];
const everyWay = [...toContainers.map((match) => `- FWD ${match} -j MAILFW-OPEN`), "- IN -j MAILFW-OPEN"];
const noOtherWay = toContainers.map((match) => `+ FWD ${match} -j MAILFW-DROP`);
const through = (name: string) =>
  toContainers.flatMap((match) => [`+ FWD -i ${name} ${match} -j MAILFW-OPEN`, `+ FWD -i ${name} ${match} -j RETURN`]);

test.each<[string, HostOptions, Family, string[]]>([
  ["nothing", {}, 4, []],
  [
    "an external interface",
    { externalInterface: "eth0" },
    4,
    [
      ...everyWay,
      ...through("eth0"),
      ...noOtherWay,
      "+ IN -i eth0 -j MAILFW-OPEN",
      "+ IN -i eth0 -j RETURN",
      "+ IN -j MAILFW-DROP",
    ],
  ],
  [
    "an external interface by pattern, IPv6",
    { externalInterface: "ppp+" },
    6,
    [
      ...everyWay,
      ...through("ppp+"),
      ...noOtherWay,
      "+ IN -i ppp+ -j MAILFW-OPEN",
      "+ IN -i ppp+ -j RETURN",
      "+ IN -j MAILFW-DROP",
    ],
  ],
  [
    "external addresses",
    { externalAddress: ["198.51.100.11", "2001:db8:51::10", "198.51.100.10"] },
    4,
    [
      ...everyWay,
      "+ FWD -m conntrack --ctstate DNAT --ctorigdst 198.51.100.10 -j MAILFW-OPEN",
      "+ FWD -m conntrack --ctstate DNAT --ctorigdst 198.51.100.10 -j RETURN",
      "+ FWD -m conntrack --ctstate DNAT --ctorigdst 198.51.100.11 -j MAILFW-OPEN",
      "+ FWD -m conntrack --ctstate DNAT --ctorigdst 198.51.100.11 -j RETURN",
      ...noOtherWay,
      "+ IN -m conntrack --ctorigdst 198.51.100.10 -j MAILFW-OPEN",
      "+ IN -m conntrack --ctorigdst 198.51.100.10 -j RETURN",
      "+ IN -m conntrack --ctorigdst 198.51.100.11 -j MAILFW-OPEN",
      "+ IN -m conntrack --ctorigdst 198.51.100.11 -j RETURN",
      "+ IN -j MAILFW-DROP",
    ],
  ],
  [
    "an external address on an external interface: the form of the source page",
    { externalInterface: "eth0", externalAddress: ["2001:DB8:51:0::10"] },
    6,
    [
      ...everyWay,
      "+ FWD -i eth0 -m conntrack --ctstate DNAT --ctorigdst 2001:db8:51::10 -j MAILFW-OPEN",
      "+ FWD -i eth0 -m conntrack --ctstate DNAT --ctorigdst 2001:db8:51::10 -j RETURN",
      ...noOtherWay,
      "+ IN -i eth0 -m conntrack --ctorigdst 2001:db8:51::10 -j MAILFW-OPEN",
      "+ IN -i eth0 -m conntrack --ctorigdst 2001:db8:51::10 -j RETURN",
      "+ IN -j MAILFW-DROP",
    ],
  ],
  [
    "an external address of the other family: no way in, and nothing empty",
    { externalInterface: "eth0", externalAddress: ["2001:db8:51::10"] },
    4,
    [...everyWay, ...noOtherWay, "+ IN -j MAILFW-DROP"],
  ],
  [
    "trusted interfaces and networks",
    { trustedInterfaces: ["wg0", "br-+"], trustedNetworks: ["fd12::/48", "10.8.0.0/24"] },
    4,
    [
      "+ FWD -i wg0 -j RETURN",
      "+ FWD -s 10.8.0.0/24 -j RETURN",
      "+ IN -i br-+ -j RETURN",
      "+ IN -i wg0 -j RETURN",
      "+ IN -s 10.8.0.0/24 -j RETURN",
    ],
  ],
  [
    "trusted interfaces and networks, IPv6",
    { trustedInterfaces: ["wg0"], trustedNetworks: ["fd12::/48", "10.8.0.0/24"] },
    6,
    ["+ FWD -i wg0 -j RETURN", "+ FWD -s fd12::/48 -j RETURN", "+ IN -i wg0 -j RETURN", "+ IN -s fd12::/48 -j RETURN"],
  ],
  [
    "a trusted network that is forged on the external interface",
    { externalInterface: "eth0", trustedNetworks: ["10.8.0.0/24"] },
    4,
    [
      ...everyWay,
      "+ FWD -s 10.8.0.0/24 ! -i eth0 -j RETURN",
      ...through("eth0"),
      ...noOtherWay,
      "+ IN -s 10.8.0.0/24 -i eth0 -j DROP",
      "+ IN -s 10.8.0.0/24 -j RETURN",
      "+ IN -i eth0 -j MAILFW-OPEN",
      "+ IN -i eth0 -j RETURN",
      "+ IN -j MAILFW-DROP",
    ],
  ],
  [
    "another rate of logging",
    { logging: "1/day" },
    4,
    [
      '- DROP -m limit --limit 3/min --limit-burst 10 -j LOG --log-prefix "mail-firewall: " --log-level 6',
      '+ DROP -m limit --limit 1/day --limit-burst 1 -j LOG --log-prefix "mail-firewall: " --log-level 6',
    ],
  ],
  [
    "no logging: what is never logged needs no rule",
    { logging: "off", noLog: ["tcp/23"] },
    4,
    [
      "- DROP -p tcp -m multiport --dports 135,139,445 -j DROP",
      "- DROP -p udp -m multiport --dports 67,68,137,138 -j DROP",
      '- DROP -m limit --limit 3/min --limit-burst 10 -j LOG --log-prefix "mail-firewall: " --log-level 6',
    ],
  ],
  [
    "ports that are never logged, one of them already among the fixed ones",
    { noLog: ["udp/1900", "tcp/3389", "tcp/445", "tcp/23"] },
    4,
    [
      "- DROP -p tcp -m multiport --dports 135,139,445 -j DROP",
      "- DROP -p udp -m multiport --dports 67,68,137,138 -j DROP",
      "+ DROP -p tcp -m multiport --dports 23,135,139,445,3389 -j DROP",
      "+ DROP -p udp -m multiport --dports 67,68,137,138,1900 -j DROP",
    ],
  ],
  [
    "more ports that are never logged than one rule takes",
    { noLog: Array.from({ length: 13 }, (_, i) => `tcp/${1000 + i}`) },
    4,
    [
      "- DROP -p tcp -m multiport --dports 135,139,445 -j DROP",
      "+ DROP -p tcp -m multiport --dports 135,139,445,1000,1001,1002,1003,1004,1005,1006,1007,1008,1009,1010,1011 -j DROP",
      "+ DROP -p tcp -m multiport --dports 1012 -j DROP",
    ],
  ],
  ["what the rules are not about", { rollbackSeconds: 10, takeOver: true, onDestroy: "keep", abandon: true }, 4, []],
])("options change exactly these lines: %s", (_, options, family, expected) => {
  expect(changed(options, family)).toEqual(expected);
});

test("all options at once stand in this order", () => {
  const options = {
    externalInterface: "eth0",
    externalAddress: ["198.51.100.10"],
    trustedInterfaces: ["wg0"],
    trustedNetworks: ["10.8.0.0/24"],
  };
  const lines = ruleset(example, 4, owner, settingsOf(options)).split("\n");
  const from = lines.indexOf("-A MAILFW-IN -d 255.255.255.255/32 -p udp -m udp --sport 67 --dport 68 -j RETURN");
  expect(lines.slice(from + 1, from + 8)).toEqual([
    "-A MAILFW-IN -s 10.8.0.0/24 -i eth0 -j DROP",
    "-A MAILFW-IN -i wg0 -j RETURN",
    "-A MAILFW-IN -s 10.8.0.0/24 -j RETURN",
    "-A MAILFW-IN -m conntrack --ctstate INVALID -j DROP",
    "-A MAILFW-IN -m addrtype ! --dst-type LOCAL -j DROP",
    "-A MAILFW-IN -i eth0 -m conntrack --ctorigdst 198.51.100.10 -j MAILFW-OPEN",
    "-A MAILFW-IN -i eth0 -m conntrack --ctorigdst 198.51.100.10 -j RETURN",
  ]);
});

const family = fc.constantFrom(4 as const, 6 as const);

test("every ruleset keeps SSH first, drops last, and fits a preview, which cuts lines at 150 characters", () => {
  fc.assert(
    fc.property(policyArgs, family, hostOptions, (args, family, options) => {
      const lines = ruleset(rulesOf(args), family, owner, settingsOf(options)).split("\n");
      const inbound = lines.filter((line) => line.startsWith("-A MAILFW-IN "));
      const ssh = inbound.filter((line) => line.includes("--comment ssh "));
      expect(inbound.slice(1, 1 + ssh.length)).toEqual(ssh);
      // No state, no interface, no address of the host: nothing that may be wrong, or change.
      for (const line of ssh)
        expect(line).toMatch(/^-A MAILFW-IN (-s \S+ )?-p tcp -m tcp --dport 22 -m comment --comment ssh -j RETURN$/);
      // What the list gives back has been named; at its end, and beside it, everything else is dropped.
      const limited = inbound.at(-1) === "-A MAILFW-IN -j MAILFW-DROP";
      expect(limited).toBe(options.externalInterface !== undefined || options.externalAddress !== undefined);
      if (!limited) expect(inbound.at(-1)).toBe("-A MAILFW-IN -j MAILFW-OPEN");
      const open = lines.filter((line) => line.startsWith("-A MAILFW-OPEN "));
      expect(open.at(-1)).toBe("-A MAILFW-OPEN -j MAILFW-DROP");
      expect(open.slice(0, -1).every((line) => / --ctorigdstport \d+ .* -j RETURN$/.test(line))).toBe(true);
      expect(lines.filter((line) => line.startsWith("-A MAILFW-DROP ")).at(-1)).toBe("-A MAILFW-DROP -j DROP");
      expect(Math.max(...lines.map((line) => line.length))).toBeLessThan(150);
      // In mangle nothing is accepted, so that whoever refuses is still asked; what filter accepts has been judged there.
      expect(lines.filter((line) => line.endsWith("-j ACCEPT") && !line.startsWith("-A MAILFW-OUT "))).toEqual([
        "-A MAILFW-ACCEPT -j ACCEPT",
      ]);
      const all = lines.filter((line) => line.startsWith("-A "));
      expect(new Set(all).size).toBe(all.length);
      expect(lines.filter((line) => / {2}|undefined/.test(line))).toEqual([]);
    }),
  );
});

test("whatever the options, one more service for everyone is one more line a family", () => {
  fc.assert(
    fc.property(policyArgs, family, hostOptions, (args, family, options) => {
      const text = (imaps: string[]) =>
        ruleset(rulesOf({ ...args, services: { ...args.services, imaps } }), family, owner, settingsOf(options)).split(
          "\n",
        );
      const [before, after] = [text(["closed"]), text(["public"])];
      const more = after.filter((line) => !before.includes(line));
      expect(more).toHaveLength(1);
      expect(after.filter((line) => !more.includes(line))).toEqual(before);
    }),
  );
});

test("the order in which options are written changes nothing", () => {
  fc.assert(
    fc.property(hostOptions, fc.infiniteStream(fc.double({ min: 0, max: 1, noNaN: true })), (options, randoms) => {
      const again = shuffled(options, () => randoms.next().value as number);
      expect(rulesets(example, owner, settingsOf(again))).toBe(rulesets(example, owner, settingsOf(options)));
      expect(hostOnly(settingsOf(again))).toEqual(hostOnly(settingsOf(options)));
    }),
  );
});

test("the longest line that a policy and options can make fits a preview", () => {
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
  const settings = settingsOf({
    externalInterface: "15-characters_x",
    externalAddress: ["2001:db8:1111:2222:3333:4444:5555:6666"],
    noLog: Array.from({ length: 15 }, (_, i) => `udp/${65000 + i}`),
  });
  expect(
    Math.max(
      ...rulesets(longest, owner, settings)
        .split("\n")
        .map((line) => line.length),
    ),
  ).toBe(149);
});

test("both families, as the script on the host reads them", () => {
  expect(rulesets(example, owner)).toBe(
    `# IPv4\n${ruleset(example, 4, owner)}# IPv6\n${ruleset(example, 6, owner)}# end\n`,
  );
});

test("an owner may be any text, and its comment stays one word", () => {
  const text = rulesets(example, 'p/s/a "b"\n-A MAILFW-IN -j ACCEPT');
  expect(text.match(/"owner .*"$/gm)).toEqual(Array(2).fill('"owner p/s/a%20%22b%22%0A-A%20MAILFW-IN%20-j%20ACCEPT"'));
});

test.each<[HostOptions, Record<string, string>]>([
  [{}, {}],
  [{ logging: "off" }, {}],
  [
    { externalInterface: "eth0", externalAddress: ["2001:db8:51::10", "198.51.100.10"] },
    {
      "external interface": "services only through eth0: a security group knows no names of interfaces",
      "external address":
        "services only at 198.51.100.10, 2001:db8:51::10: a security group covers all addresses of an interface",
    },
  ],
  [
    { trustedInterfaces: ["wg0", "br-+"], trustedNetworks: ["fd12::/48", "10.8.0.0/24"] },
    {
      "trusted interfaces": "all accepted through br-+, wg0: tunnels and bridges are the host's own",
      "trusted networks": "all accepted from 10.8.0.0/24, fd12::/48: the group admits only what the policy names",
    },
  ],
])("what only the host enforces with %j", (options, expected) => {
  const always = {
    loopback: "accepted: it never leaves the host",
    "invalid or spoofed packets":
      "dropped: a security group knows no connection-tracking state INVALID, and no loopback",
    "misleading ICMP":
      "dropped: redirects and source quench, which a security group admits with the connection that they are about",
    "neighbour discovery and DHCP":
      "accepted from neighbours, of DHCP over IPv4 only broadcasts: a VPC answers both itself, which no security group filters",
    "broadcast and multicast": "dropped: a VPC delivers neither to a service",
    ...(options.logging !== "off" && { logging: "3/min of the dropped packets: AWS has VPC flow logs" }),
  };
  expect(hostOnly(settingsOf(options))).toEqual({ ...always, ...expected });
});

test.each<[HostOptions, string[]]>([
  [{ externalAddress: ["198.51.100.10", "2001:db8:51::10"], trustedNetworks: ["10.8.0.0/24", "fd12::/48"] }, []],
  [{ externalAddress: ["198.51.100.10"] }, ["externalAddress names no IPv6 address: no service is reached over IPv6"]],
  [
    { externalAddress: ["2001:db8:51::10"] },
    ["externalAddress names no IPv4 address: no service is reached over IPv4"],
  ],
  [
    { trustedNetworks: ["203.0.113.0/24", "10.0.0.0/7", "10.8.0.0/24", "2001:db8::/32"] },
    ["trustedNetworks holds public addresses, to which every port is open: 10.0.0.0/7, 203.0.113.0/24, 2001:db8::/32"],
  ],
])("what a careful reader is told about %j", (options, expected) => {
  const faults = new Faults();
  expect(hostWarnings(readHostOptions(options, "", faults), example)).toEqual(expected);
});

test("a family that no service uses needs no address", () => {
  const onlyIPv4 = rulesOf({ services: { smtp: ["0.0.0.0/0"] }, ssh: ["public"] });
  expect(hostWarnings(settingsOf({ externalAddress: ["198.51.100.10"] }), onlyIPv4)).toEqual([]);
});

test("every rate of logging is written as iptables prints it", () => {
  const printed = (logging: string) => settingsOf({ logging }).logging;
  const table = { "60/min": "1/sec", "90/min": "90/min", "60/hour": "1/min", "24/day": "1/hour", "100/day": "100/day" };
  expect(Object.keys(table).map(printed)).toEqual(Object.values(table));
  for (const unit of ["sec", "min", "hour", "day"]) {
    for (let count = 1; count <= 100; count++) {
      const once = printed(`${count}/${unit}`);
      expect(printed(once)).toBe(once);
    }
  }
});

test("what a host says itself wins over what is said for all, also where it says none", () => {
  const faults = new Faults();
  const common = settingsOf({ externalInterface: "eth0", trustedInterfaces: ["wg0"], rollbackSeconds: 120 });
  const own = readHostOptions(
    { trustedInterfaces: [], logging: "off", takeOver: true, noLog: undefined },
    "",
    faults,
    common,
  );
  expect(faults.list).toEqual([]);
  expect(own).toEqual({ ...common, trustedInterfaces: [], logging: "off", takeOver: true });
});
