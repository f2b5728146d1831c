// The part of the host's script that knows how iptables-save writes rules: text in, answers out, without root and without a kernel.
import { spawnSync } from "node:child_process";
import { join } from "node:path";

const parts = join("components", "host", "script");

/** What shell commands print that use the functions of a part. */
function shell(part: string, commands: string, stdin = ""): string {
  const script = `set -eu; families='4 6'; dir=$(mktemp -d); trap 'rm -rf "$dir"' EXIT; . ./${join(parts, `${part}.sh`)}; ${commands}`;
  const { status, stdout, stderr } = spawnSync("sh", ["-c", script], { input: stdin, encoding: "utf8" });
  expect({ status, stderr }).toEqual({ status: 0, stderr: "" });
  return stdout;
}

describe("fate: what becomes of an ordinary stranger", () => {
  const fate = (rules: string[], hook = "INPUT") => {
    const chains = [...new Set(rules.map((rule) => rule.split(" ")[0]!))].filter((name) => name !== hook);
    const text = [
      "*filter",
      `:${hook} ACCEPT [0:0]`,
      ...chains.map((name) => `:${name} - [0:0]`),
      ...rules.map((rule) => `-A ${rule}`),
      "COMMIT",
      "",
    ];
    const out = shell(
      "rules",
      `joined | fate ${hook} 'tcp/22 tcp/25 tcp/443 udp/51820' 'eth0 ppp0 ' '198.51.100.1/32'`,
      text.join("\n"),
    );
    return out
      .trim()
      .split("\n")
      .filter((line) => !line.startsWith("rules "));
  };

  const end = "-j REJECT --reject-with icmp-port-unreachable";
  test.each<[string, string[], string[]]>([
    ["no rules", [], []],
    ["a ban by address", ["INPUT -s 192.0.2.1/32 -j DROP"], ["may refuse 1"]],
    ["everyone but a network", ["INPUT ! -s 10.0.0.0/8 -p tcp -m tcp --dport 25 -j DROP"], ["refuses 1 tcp/25"]],
    ["a ban by set", ["INPUT -p tcp -m set --match-set bad src -j DROP"], ["may refuse 1"]],
    ["a limit of connections", ["INPUT -p tcp -m connlimit --connlimit-above 9 -j REJECT"], ["may refuse 1"]],
    ["a closed port", ["INPUT -p tcp -m tcp --dport 3306 -j DROP"], ["may refuse 1"]],
    ["an open port", ["INPUT -p tcp -m tcp --dport 443 -j DROP"], ["refuses 1 tcp/443"]],
    ["a range with one", ["INPUT -p udp -m multiport --dports 53,51000:52000 -j DROP"], ["refuses 1 udp/51820"]],
    ["all but some ports", ["INPUT -p tcp -m multiport ! --dports 22,25 -j DROP"], ["refuses 1 tcp/443"]],
    ["another protocol", ["INPUT -p icmp -j DROP"], ["may refuse 1"]],
    ["packets that belong to nothing", ["INPUT -m conntrack --ctstate INVALID -j DROP"], ["invalid 1"]],
    [
      "the same before a ban",
      ["INPUT -m state --state INVALID -j DROP", "INPUT -s 192.0.2.1/32 -j DROP", "INPUT -j ACCEPT"],
      ["may refuse 2"],
    ],
    [
      "the same behind a ban, before what refuses the rest",
      ["INPUT -s 192.0.2.1/32 -j DROP", "INPUT -m state --state INVALID -j DROP", "INPUT -j DROP"],
      ["refuses 3 tcp/22", "refuses 3 tcp/25", "refuses 3 tcp/443", "refuses 3 udp/51820", "may refuse 1", "invalid 2"],
    ],
    ["all but what is known", ["INPUT -p udp -m conntrack --ctstate INVALID,UNTRACKED -j DROP"], ["may refuse 1"]],
    ["new ones that are no SYN", ["INPUT -p tcp -m tcp ! --tcp-flags FIN,SYN,RST,ACK SYN -j DROP"], ["may refuse 1"]],
    ["odd flags", ["INPUT -p tcp -m tcp --tcp-flags FIN,SYN FIN,SYN -j DROP"], ["may refuse 1"]],
    ["another interface", ["INPUT -i wg0 -j DROP"], ["may refuse 1"]],
    ["all but loopback", ["INPUT ! -i lo -p udp -j DROP"], ["refuses 1 udp/51820"]],
    ["a pattern that fits", ["INPUT -i ppp+ -p udp -j DROP"], ["refuses 1 udp/51820"]],
    ["broadcasts", ["INPUT -m addrtype --dst-type BROADCAST -j DROP"], ["may refuse 1"]],
    ["a container's address", ["INPUT -d 172.17.0.2/32 ! -i docker0 -j DROP"], ["may refuse 1"]],
    ["our address", ["INPUT -d 198.51.100.1/32 -p tcp -m tcp --dport 25 -j DROP"], ["refuses 1 tcp/25"]],
    ["multicast", ["INPUT -d 224.0.0.0/4 -j DROP"], ["may refuse 1"]],
    [
      "a last REJECT",
      ["INPUT -p tcp -m multiport --dports 22,25,443 -j ACCEPT", "INPUT -s 192.0.2.1/32 -j DROP", `INPUT ${end}`],
      ["refuses 3 udp/51820", "may refuse 2"],
    ],
    [
      "a chain with accepts and a last REJECT",
      [
        "INPUT -j f2b-sshd",
        "f2b-sshd -s 192.0.2.1/32 -j REJECT",
        "INPUT -j RH",
        "RH -p tcp -m tcp --dport 22 -j ACCEPT",
        `RH ${end}`,
      ],
      ["refuses 2 tcp/25", "refuses 2 tcp/443", "refuses 2 udp/51820", "may refuse 1"],
    ],
    [
      "a goto, from which nothing comes back",
      ["INPUT -p udp -g HOLE", "HOLE -p tcp -j DROP", "INPUT -p udp -j DROP"],
      ["may refuse 2"],
    ],
    ["a comment that looks like a rule", ['INPUT -m comment --comment "x -j DROP" -j ACCEPT'], []],
    ["a comment of two lines", ['INPUT -m comment --comment "x\n-A INPUT -j DROP" -j ACCEPT'], []],
    ["connection tracking taken away", ["INPUT -p tcp -m tcp --dport 25 -j CT --notrack"], ["untracked 1 tcp/25"]],
    [
      "who hands packets to a program",
      ["INPUT -p tcp -j NFQUEUE --queue-num 0", "INPUT -j DROP"],
      ["refuses 2 udp/51820", "may refuse 1"],
    ],
    [
      "ours among others",
      ["INPUT -s 192.0.2.1/32 -j DROP", "INPUT -j MAILFW-ACCEPT", "INPUT -p tcp -j MAILFW-X", "INPUT -j DROP"],
      [
        "ours 1 MAILFW-ACCEPT",
        "refuses 2 tcp/22",
        "refuses 2 tcp/25",
        "refuses 2 tcp/443",
        "refuses 2 udp/51820",
        "may refuse 1",
      ],
    ],
  ])("%s", (_, rules, expected) => {
    expect(fate(rules).map((line) => line.replace(/ -A .*/, ""))).toEqual(expected);
  });

  test("twenty thousand bans are read in seconds", () => {
    const bans = Array.from({ length: 20_000 }, (_, i) => `INPUT -s 10.${i >> 8}.${i & 255}.1/32 -j DROP`);
    const start = Date.now();
    expect(fate([...bans, "INPUT -j DROP"])).toContain("may refuse 20000");
    expect(Date.now() - start).toBeLessThan(15_000);
  });
});

test.each<[string, string[], boolean]>([
  ["192.0.2.1", ["192.0.2.0/24"], true],
  ["192.0.3.0", ["192.0.2.0/24"], false],
  ["192.0.1.255", ["192.0.2.0/24", "10.0.0.0/8"], false],
  ["10.255.255.255", ["192.0.2.0/24", "10.0.0.0/8"], true],
  ["192.0.2.129", ["192.0.2.128/25"], true],
  ["192.0.2.127", ["192.0.2.128/25"], false],
  ["203.0.113.7", ["everyone"], true],
  ["203.0.113.7", ["::/0"], false],
  ["2001:db8::1", ["0.0.0.0/0"], false],
  ["2001:db8::1", ["2001:db8::/32"], true],
  ["2001:db8:ffff:ffff:ffff:ffff:ffff:ffff", ["2001:db8::/32"], true],
  ["2001:db9::", ["2001:db8::/32"], false],
  ["::1", ["::/127"], true],
  ["::2", ["::/127"], false],
  ["fe80::1:2:3", ["fe80::/10"], true],
  ["fec0::", ["fe80::/10"], false],
  ["2001:db8::", ["2001:db8::/128"], true],
  ["1:2:3:4:5:6:7:8", ["1:2:3:4:5:6:7::/112"], true],
])("inside: %s in %j: %j", (address, networks, expected) => {
  const answer = shell(
    "rules",
    `if inside ${address}; then echo true; else echo false; fi`,
    `${networks.join("\n")}\n`,
  );
  expect(answer.trim()).toBe(`${expected}`);
});

test("published: where nat turns the ports that are open", () => {
  const nat = [
    ":DOCKER - [0:0]",
    "-A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER",
    "-A DOCKER ! -i docker0 -p tcp -m tcp --dport 443 -j DNAT --to-destination 172.17.0.2:8443",
    "-A DOCKER ! -i docker0 -p tcp -m tcp --dport 25 -j DNAT --to-destination 172.17.0.3",
    "-A DOCKER ! -i docker0 -p tcp -m tcp --dport 3306 -j DNAT --to-destination 172.17.0.4:3306",
    "-A DOCKER -d 127.0.0.1/32 ! -i docker0 -p udp -m udp --dport 443 -j DNAT --to-destination [fd00::2]:8443",
  ];
  expect(shell("rules", "published 'tcp/25 tcp/443 udp/443 '", `${nat.join("\n")}\n`)).toBe(
    "tcp/25 tcp/25\ntcp/443 tcp/8443\nudp/443 udp/8443\n",
  );
});

test("fate behind NAT: what ufw-docker leaves when ufw is off", () => {
  const filter = [
    ...[":FORWARD DROP [0:0]", ":DOCKER-USER - [0:0]", ":ufw-user-forward - [0:0]", ":ufw-docker-logging-deny - [0:0]"],
    "-A FORWARD -j DOCKER-USER",
    "-A FORWARD -o docker0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
    "-A DOCKER-USER -j ufw-user-forward",
    "-A DOCKER-USER -s 172.16.0.0/12 -j RETURN",
    "-A DOCKER-USER -d 172.16.0.0/12 -p tcp -m tcp --tcp-flags FIN,SYN,RST,ACK SYN -j ufw-docker-logging-deny",
    "-A DOCKER-USER -j RETURN",
    "-A ufw-user-forward -d 172.17.0.5/32 -p tcp -m tcp --dport 587 -j ACCEPT",
    "-A ufw-docker-logging-deny -m limit --limit 3/min --limit-burst 10 -j LOG",
    "-A ufw-docker-logging-deny -j DROP",
  ];
  const out = shell("rules", "joined | fate FORWARD 'tcp/8443 tcp/587' 'eth0 ' '*'", `${filter.join("\n")}\n`);
  expect(out.split("\n")).toContain("refuses 1 tcp/8443 -A FORWARD -j DOCKER-USER");
  expect(out).not.toContain("tcp/587");
});

describe("named_tables: the tables that a host's own nftables.conf makes", () => {
  test.each<[string, string, string[]]>([
    [
      "any legal name",
      "table inet host-firewall {\n}\ntable ip filter-in.v2 { }\n",
      ["inet host-firewall", "ip filter-in.v2"],
    ],
    ["no family", "flush ruleset\ntable mine {\n", ["ip mine"]],
    ["added", "add table ip6 other\nadd table inet filter {\n", ["inet filter", "ip6 other"]],
    ["those of iptables", "table ip nat {\n}\ntable inet nat {\n}\n", ["inet nat"]],
  ])("%s", (_, text, expected) => {
    expect(shell("others", "named_tables", text).trim().split("\n")).toEqual(expected);
  });
});
