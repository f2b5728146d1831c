// The SSH session over which the rules are applied for the first time lives on. Connection tracking begins only with the first
// rule that asks for it, so to the kernel that session is one in mid-stream, of which it has not seen the beginning.
import { spawn } from "node:child_process";
import { once } from "node:events";
import { setTimeout as sleep } from "node:timers/promises";

import { operatorKey, startMailHost, type MailHost } from "../sandbox/host";
import { command, expectedRulesets, install, live } from "./example";

jest.setTimeout(600_000);

const all = process.env.MAILFW_ALL === "1";
const text = expectedRulesets("mail-firewall/test/mx1");

type Speaker = "client" | "server";
const combinations = ([4, 6] as const).flatMap((family) =>
  (["client", "server"] as Speaker[]).map((first) => ({ family, first })),
);

/** A shell on the host over a real SSH session, which says nothing by itself: no keep-alives, no terminal. */
async function open(host: MailHost, family: 4 | 6, patience: number) {
  const ssh = spawn(
    "ssh",
    [
      ...["-T", "-i", operatorKey.file, "-p", `${host.sshPort}`, "-o", "BatchMode=yes", "-o", "ConnectTimeout=5"],
      ...["-o", "UserKnownHostsFile=/dev/null", "-o", "StrictHostKeyChecking=no", "-o", "LogLevel=ERROR"],
      ...["-o", "ServerAliveInterval=0", "-o", "TCPKeepAlive=no"],
      `root@${family === 4 ? host.address4 : host.address6}`,
      "sh",
    ],
    { stdio: "pipe" },
  );
  let output = "";
  ssh.stdout.setEncoding("utf8").on("data", (part: string) => (output += part));
  ssh.stdin.on("error", () => {});
  const say = (line: string) => ssh.stdin.write(`${line}\n`);
  /** Whether the session brings this word, within seconds: in time for retransmits. */
  const hears = async (word: RegExp, limit = patience) => {
    for (const end = Date.now() + limit * 1000; !word.test(output); await sleep(20)) if (Date.now() > end) return false;
    return true;
  };
  say("echo begun");
  expect(await hears(/begun/, 10)).toBe(true);
  return {
    say,
    hears,
    close: async () => {
      ssh.kill("SIGKILL");
      if (ssh.exitCode === null && ssh.signalCode === null) await once(ssh, "close");
    },
  };
}

/** What the host has from somebody else before the rules are applied, and when: as it stood, or loaded in mid-session. */
interface Setting {
  before?: string;
  during?: string;
}
const both = (...rules: string[]) =>
  ["iptables", "ip6tables"].flatMap((tool) => rules.map((rule) => `${tool} ${rule}`)).join(" && ");
const strict = "echo 0 >/proc/sys/net/netfilter/nf_conntrack_tcp_loose";
const onlyKnown = both(
  "-A OUTPUT -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
  "-A OUTPUT -p tcp --dport 25 -j ACCEPT",
  // Without its neighbours nothing speaks IPv6 at all.
  "-A OUTPUT -p icmp -j ACCEPT",
  "-A OUTPUT -p ipv6-icmp -j ACCEPT",
  "-A OUTPUT -j DROP",
);
const settings: [string, Setting][] = [
  ["nothing else", {}],
  ["tcp_loose off", { before: strict }],
  ["an OUTPUT that passes only what is known", { during: onlyKnown }],
  ["the same with tcp_loose off", { before: strict, during: onlyKnown }],
  [
    "the same by its policy",
    { before: strict, during: `${onlyKnown} && ${both("-D OUTPUT -j DROP", "-P OUTPUT DROP")}` },
  ],
  ["the same, since before the session", { before: `${strict} && ${onlyKnown}` }],
  [
    "the same, in a chain of its own",
    {
      before: `${strict} && ${both("-N egress")} && ${onlyKnown.replaceAll("OUTPUT", "egress")} && ${both("-A OUTPUT -j egress")}`,
    },
  ],
  [
    "a drop of INVALID packets both ways, with tcp_loose off",
    {
      before: strict,
      during: both(
        "-A INPUT -m conntrack --ctstate INVALID -j DROP",
        "-A OUTPUT -m conntrack --ctstate INVALID -j DROP",
      ),
    },
  ],
];

/** Applies over a session, while another of the other family stays open; whether each talks both ways afterwards. */
async function survives(
  backend: "nft" | "legacy",
  setting: Setting,
  { family, first }: (typeof combinations)[number],
  rules: string,
  patience = 8,
) {
  const host = await startMailHost({ backend, listen: { tcp: [], udp: [] } });
  const sessions: Awaited<ReturnType<typeof open>>[] = [];
  try {
    await install(host);
    await host.run("cat >/tmp/rules", rules);
    if (setting.before) expect(await host.run(setting.before)).toMatchObject({ code: 0 });
    for (const one of [family, family === 4 ? 6 : 4] as const) sessions.push(await open(host, one, patience));
    const [session, other] = sessions as [(typeof sessions)[0], (typeof sessions)[0]];
    // No word of the host before the client's next, if the client is to be the first.
    const quiet = first === "client" ? ">/tmp/applied 2>&1" : "2>&1 | tee /tmp/applied";
    session.say(`{ ${setting.during ?? ":"}; ${command} apply </tmp/rules; } ${quiet}; : >/tmp/done`);
    for (const end = Date.now() + 20_000; (await host.run("[ -e /tmp/done ]")).code !== 0; await sleep(50)) {
      if (Date.now() > end) throw new Error(`apply does not end: ${(await host.run("cat /tmp/applied")).stdout}`);
    }
    expect((await host.run("cat /tmp/applied")).stdout).toMatch(/^applied [0-9a-f-]{21}\n$/m);
    expect(await live(host)).toBe(rules);
    if (first === "server" && !(await session.hears(/^applied /m))) return "cut";
    // Each waits for the other: the host's second word comes by itself.
    for (const [i, one] of [session, other, session].entries()) {
      one.say(`echo heard ${i}; sleep 0.1; echo more ${i}`);
      for (const word of ["heard", "more"]) {
        if (!(await one.hears(new RegExp(`^${word} ${i}$`, "m")))) return "cut";
      }
    }
    return "lives";
  } finally {
    await Promise.all(sessions.map((one) => one.close()));
    await host.close();
  }
}

describe.each(["nft", "legacy"] as const)("with iptables-%s", (backend) => {
  // Otherwise every second setting, the other backend's being the others, each with either family and either speaker.
  const sample = settings.filter((_, i) => all || i % 2 === (backend === "nft" ? 0 : 1));
  test.each(sample)("with %s, the sessions of both families live on", async (name, setting) => {
    const at = settings.findIndex(([other]) => other === name) >> 1;
    const chosen = all ? combinations : [combinations[at % 2]!, combinations[3 - (at % 2)]!];
    const results = await Promise.all(chosen.map((one) => survives(backend, setting, one, text)));
    expect(chosen.map((one, i) => ({ ...one, session: results[i] }))).toEqual(
      chosen.map((one) => ({ ...one, session: "lives" })),
    );
  });

  // What the first rules of ours are for. Without them each of these sessions is cut.
  test("rules that ask connection tracking about SSH cut the session, and the test sees it", async () => {
    // The rule as it is comes too late: behind the drop of what is INVALID.
    const tracked = text.replace(
      /^((-A MAILFW-IN .*-p tcp )(-m tcp --dport 22 .*)\n)([^]*?--ctstate INVALID -j DROP\n)/gm,
      "$2-m conntrack --ctstate NEW $3\n$4$1",
    );
    const unanswered = text.replace(/^-A MAILFW-OUT .*\n/gm, "");
    expect(new Set([text, tracked, unanswered]).size).toBe(3);
    const known = settings[3]![1];
    expect(
      await Promise.all([
        survives(backend, { before: strict }, { family: 4, first: "client" }, tracked, 3),
        survives(backend, { before: strict }, { family: 6, first: "server" }, tracked, 3),
        survives(backend, known, { family: 4, first: "server" }, unanswered, 3),
        survives(backend, known, { family: 6, first: "client" }, unanswered, 3),
      ]),
    ).toEqual(["cut", "cut", "cut", "cut"]);
  });
});
