// Mail flows while the rules are loaded anew, time after time: no packet is lost, and none gets in that should not. 1,000 times
// with MAILFW_ALL=1, otherwise 8. The naive way, one iptables command after the other, is measured too: it does both.
import { setTimeout as sleep } from "node:timers/promises";

import { execute, startMailHost, type MailHost } from "../sandbox/host";
import { startClient, startCounter, startFlows, type Client, type Flow } from "../sandbox/probe";
import { alikeTest, command, expectedRulesets, install, live } from "./example";

jest.setTimeout(3_600_000);

const times = process.env.MAILFW_ALL === "1" ? 1000 : 8;
const owner = "mail-firewall/test/mx1";
// Both let in what flows.
const policies = [{ imaps: ["public"] }, { imaps: ["public"], pop3s: ["public"], sieve: ["192.0.2.0/24"] }].map(
  (services) => expectedRulesets(owner, services as Record<string, string[]>),
);
const closed = { tcp: 3306, udp: 5353 };
const rate = 400;

describe.each([
  ["nft", 197],
  ["legacy", 198],
] as const)("with iptables-%s", (backend, number) => {
  let host: MailHost, customer: Client, stranger: Client;
  const customers = [`192.0.2.${number}`, `2001:db8:171::${number}`];
  const strangers = [`192.0.2.${number + 10}`, `2001:db8:181::${number}`];

  beforeAll(async () => {
    [host, customer, stranger] = await Promise.all([
      startMailHost({ backend, listen: { tcp: [25, 443, 993], udp: [51820] } }),
      startClient(customers),
      startClient(strangers),
    ]);
    await install(host);
  });
  afterAll(() => Promise.all([host?.close(), customer?.close(), stranger?.close()]));

  /** By the kernel's counters: packets that TCP sent again, and datagrams for which a socket had no room. */
  async function counters(pid: number) {
    const { stdout } = await execute("nsenter", ["-t", `${pid}`, "--net", "cat", "/proc/net/snmp", "/proc/net/snmp6"]);
    const found: Record<string, number> = {};
    const lines = stdout.split("\n");
    lines.forEach((line, i) => {
      const [name, ...fields] = line.split(/\s+/);
      if (name === lines[i + 1]?.split(" ")[0]) {
        const values = lines[i + 1]!.split(" ").slice(1);
        fields.forEach((field, j) => (found[`${name}${field}`] ??= Number(values[j])));
      } else if (name!.startsWith("Udp6")) found[name!] = Number(fields[0]);
    });
    return {
      resent: found["Tcp:RetransSegs"]!,
      noRoom:
        found["Udp:RcvbufErrors"]! + found.Udp6RcvbufErrors! + found["Udp:SndbufErrors"]! + found.Udp6SndbufErrors!,
    };
  }

  async function measure(change: () => Promise<void>) {
    const flows = (sources: string[], more: Partial<Flow>): Flow[] =>
      sources.map((source) => ({
        source,
        target: source.includes(":") ? host.address6 : host.address4,
        rate: 1.25 * rate, // a busy machine must still send what is asked for below
        ...more,
      }));
    const machines = [customer, host];
    const before = await Promise.all(machines.map(({ pid }) => counters(pid)));
    const counter = await startCounter(host, { tcp: [closed.tcp], udp: [closed.udp] });
    const [customs, knocks] = await Promise.all([
      // 25 talks, 993 idles and then speaks, as IDLE does.
      startFlows(customer, flows(customers, { udp: 51820, connect: 443, sessions: { 25: 0.05, 993: 3 } })),
      startFlows(stranger, flows(strangers, { closed })),
    ]);
    let reports, knocked, received, seconds;
    const started = Date.now();
    try {
      await change();
    } finally {
      seconds = (Date.now() - started) / 1000;
      [reports, knocked] = await Promise.all([customs.end(), knocks.end()]);
      received = await counter.end();
    }
    const after = await Promise.all(machines.map(({ pid }) => counters(pid)));
    const sum = (numbers: number[]) => numbers.reduce((a, b) => a + b, 0);
    const grown = (name: "resent" | "noRoom") => sum(after.map((value, i) => value[name] - before[i]![name]));
    return {
      seconds,
      sent: sum(reports.map(({ datagrams }) => datagrams[0])),
      lost: sum(reports.map(({ datagrams }) => datagrams[0] - datagrams[1])),
      opened: sum(reports.map(({ connections }) => connections[0])),
      unopened: sum(reports.map(({ connections }) => connections[0] - connections[1])),
      slowest: Math.max(...reports.map(({ slowest }) => slowest)),
      sessions: reports.map(({ sessions }) => sessions),
      resent: grown("resent"),
      noRoom: grown("noRoom"),
      knocked: sum(knocked.map(({ knocks }) => knocks)),
      leaked: sum(knocked.map(({ leaks }) => leaks)) + sum(Object.values(received)),
    };
  }
  type Measured = Awaited<ReturnType<typeof measure>>;

  /** Enough was asked for the answer to mean something. */
  function expectTraffic({ seconds, sent, opened, knocked, sessions }: Measured) {
    expect(sent).toBeGreaterThan(seconds * rate);
    expect(opened).toBeGreaterThan((seconds * rate) / 2);
    expect(knocked).toBeGreaterThan(seconds * rate);
    for (const { 25: smtp, 993: imaps } of sessions) {
      expect(smtp![0]).toBeGreaterThan(seconds * 5);
      expect(imaps![0]).toBeGreaterThan(1);
    }
  }

  function expectNoLoss(measured: Measured) {
    expectTraffic(measured);
    const { lost, unopened, resent, noRoom, leaked } = measured;
    expect({ lost, unopened, resent, noRoom, leaked }).toEqual({
      lost: 0,
      unopened: 0,
      resent: 0,
      noRoom: 0,
      leaked: 0,
    });
    expect(measured.slowest).toBeLessThan(900); // by the clock of a busy machine; `resent` says it exactly
    for (const words of measured.sessions.flatMap((sessions) => Object.values(sessions)))
      expect(words[1]).toBe(words[0]);
  }

  const deploy = async (text: string) => {
    const applied = await host.run(`${command} apply`, text);
    expect(applied).toMatchObject({ code: 0, stderr: "" });
    const confirmed = await host.run(`${command} confirm`, applied.stdout);
    expect(confirmed).toMatchObject({ code: 0, stdout: "confirmed\n" });
  };

  test("nothing is lost while nothing is loaded: the measurement itself loses none", async () => {
    await deploy(policies[0]!);
    expectNoLoss(await measure(() => sleep(1000)));
  });

  test(`${times} times applied, one policy after the other or the same again: nothing lost, nothing let in`, async () => {
    const at = (i: number) => policies[Math.ceil(i / 3) % 2]!;
    const measured = await measure(async () => {
      for (let i = 1; i <= times; i++) {
        if (at(i) !== at(i - 1)) await deploy(at(i));
        else expect(await host.run(`${command} apply`, at(i))).toMatchObject({ code: 0, stderr: "" });
      }
    });
    expectNoLoss(measured);
    expect(await live(host)).toBe(at(times));
  });

  // What the HOWTOs do: first all goes, then rule by rule comes back.
  const naive = (policy: "DROP" | "ACCEPT") =>
    ["iptables", "ip6tables"]
      .map((tool) =>
        [
          `-P INPUT ${policy}`,
          "-F INPUT",
          "-A INPUT -i lo -j ACCEPT",
          `-A INPUT -p ${tool === "iptables" ? "icmp" : "ipv6-icmp"} -j ACCEPT`,
          "-A INPUT -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
          ...[22, 25, 443, 465, 587, 993].map((port) => `-A INPUT -p tcp --dport ${port} -j ACCEPT`),
          "-A INPUT -p udp --dport 51820 -j ACCEPT",
          "-A INPUT -j DROP",
        ]
          .map((rule) => `${tool} -w ${rule}`)
          .join("\n"),
      )
      .join("\n");

  alikeTest(backend).each(["DROP", "ACCEPT"] as const)(
    "one command after the other, behind the policy %s: loss or leaks, and the measurement sees them",
    async (policy) => {
      await host.run(`${command} remove`);
      expect(await host.run(naive(policy))).toMatchObject({ code: 0, stderr: "" });
      const measured = await measure(async () => {
        for (let i = 0; i < 5; i++) expect(await host.run(naive(policy))).toMatchObject({ code: 0, stderr: "" });
      });
      expectTraffic(measured);
      expect(measured.noRoom).toBe(0);
      if (policy === "DROP") {
        expect(measured.lost).toBeGreaterThan(0);
        expect(measured.resent).toBeGreaterThan(0);
      } else expect(measured.leaked).toBeGreaterThan(0);
    },
  );
});
