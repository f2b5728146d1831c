// Rules of other programs beside ours: they stay byte for byte, and do their work, through everything that the script does.
import { setTimeout as sleep } from "node:timers/promises";

import { startMailHost, type MailHost } from "../sandbox/host";
import { probe, startClient, type Client, type Probe } from "../sandbox/probe";
import { command, expectedRulesets, install, live, none, sampled, script } from "./example";

jest.setTimeout(300_000);

const all = process.env.MAILFW_ALL === "1";
const owner = "mail-firewall/test/mx1";
const older = expectedRulesets(owner);
const newer = expectedRulesets(owner, { imaps: ["public"] });

/** Who meets whose rules; the last number of an address of either family. */
const people = {
  anyone: 190,
  fail2ban: 191,
  mailcow: 192,
  nftFail2ban: 193,
  mangle: 194,
  nat: 195,
  otherBackend: 196,
} as const;
type Person = keyof typeof people;
const addressOf = (person: Person, family: 4 | 6) => `${family === 4 ? "192.0.2." : "2001:db8:190::"}${people[person]}`;
const tailscaler = "100.64.0.190"; // Tailscale's own network, from outside of its interface

/** Captured on hosts with fail2ban, Tailscale and mailcow in Docker; the addresses are those of {@link people}. */
function captured(family: 4 | 6): string {
  const address = (person: Person) => `${addressOf(person, family)}/${family === 4 ? 32 : 128}`;
  const reject = family === 4 ? "icmp-port-unreachable" : "icmp6-port-unreachable";
  const only4 = (line: string) => (family === 4 ? [line] : []);
  return [
    "*mangle",
    `-A PREROUTING -s ${address("mangle")} -j DROP`,
    "COMMIT",
    "*nat",
    `-A PREROUTING -s ${address("nat")} -p tcp -m tcp --dport 25 -j REDIRECT --to-ports 9`,
    "COMMIT",
    "*filter",
    ...["DOCKER-USER", "MAILCOW", "f2b-postfix", "ts-forward", "ts-input"].map((chain) => `:${chain} - [0:0]`),
    "-A INPUT -p tcp -m multiport --dports 25,465,587 -j f2b-postfix",
    "-A INPUT -j ts-input",
    "-A INPUT -j MAILCOW",
    "-A FORWARD -j MAILCOW",
    "-A FORWARD -j DOCKER-USER",
    "-A FORWARD -j ts-forward",
    "-A DOCKER-USER -j RETURN",
    `-A MAILCOW -s ${address("mailcow")} -j REJECT --reject-with ${reject}`,
    "-A MAILCOW ! -i br-mailcow -o br-mailcow -p tcp -m multiport --dports 3306,6379,8983,12345 -j DROP",
    `-A f2b-postfix -s ${address("fail2ban")} -j REJECT --reject-with ${reject}`,
    "-A f2b-postfix -j RETURN",
    "-A ts-forward -i tailscale0 -j MARK --set-xmark 0x40000/0xff0000",
    "-A ts-forward -m mark --mark 0x40000/0xff0000 -j ACCEPT",
    ...only4("-A ts-forward -s 100.64.0.0/10 -o tailscale0 -j DROP"),
    "-A ts-forward -o tailscale0 -j ACCEPT",
    ...only4("-A ts-input -s 100.115.92.0/23 ! -i tailscale0 -j RETURN"),
    ...only4("-A ts-input -s 100.64.0.0/10 ! -i tailscale0 -j DROP"),
    "-A ts-input -i tailscale0 -j ACCEPT",
    "COMMIT",
    "",
  ].join("\n");
}

/** As fail2ban's action nftables makes it. */
const nftFail2ban = `table inet f2b-table {
  set addr-set-postfix { type ipv4_addr; elements = { ${addressOf("nftFail2ban", 4)} } }
  set addr6-set-postfix { type ipv6_addr; elements = { ${addressOf("nftFail2ban", 6)} } }
  chain f2b-chain {
    type filter hook input priority filter - 1; policy accept;
    tcp dport { 25, 465, 587 } ip saddr @addr-set-postfix reject with icmp port-unreachable
    tcp dport { 25, 465, 587 } ip6 saddr @addr6-set-postfix reject with icmpv6 port-unreachable
  }
}
`;

const tools = [
  [4, "iptables"],
  [6, "ip6tables"],
] as const;

describe.each([
  ["nft", "legacy"],
  ["legacy", "nft"],
] as const)("with iptables-%s", (backend, otherBackend) => {
  let host: MailHost, client: Client;
  beforeAll(async () => {
    const everyone = (Object.keys(people) as Person[]).flatMap((one) => [addressOf(one, 4), addressOf(one, 6)]);
    client = await startClient([...everyone, tailscaler]);
  });
  afterAll(() => client?.close());
  beforeEach(async () => {
    host = await startMailHost({ backend });
    await install(host);
  });
  afterEach(() => host?.close());

  const run = (verb: string, stdin = "") => host.run(`${command} ${verb}`, stdin);
  const must = async (shell: string, stdin = "") => {
    const { code, stdout, stderr } = await host.run(shell, stdin);
    if (code !== 0) throw new Error(`${shell}: ${stderr}`);
    return stdout;
  };
  const apply = async (text: string, options = "") => {
    const applied = await run(`apply ${options}`, text);
    expect(applied).toMatchObject({ code: 0 });
    expect(await live(host)).toBe(text);
    return applied;
  };
  const confirm = async ({ stdout }: { stdout: string }) =>
    expect(await run("confirm", stdout)).toMatchObject({ code: 0, stdout: "confirmed\n" });
  const hook = async (tool: string, chain: string) =>
    (await must(`${tool} -S ${chain}`)).split("\n").filter((line) => line.startsWith("-A"));
  const question = (source: string, port: number): Probe => ({
    source,
    target: source.includes(":") ? host.address6 : host.address4,
    protocol: "tcp",
    port,
  });
  /** The answers that both families give to the same questions. */
  const ask = async (...questions: [Person, number][]) => {
    const families = await Promise.all(
      tools.map(([family]) =>
        probe(
          client,
          questions.map(([person, port]) => question(addressOf(person, family), port)),
        ),
      ),
    );
    // Over IPv6 a REJECT of everything also rejects neighbour discovery, so that no answer comes.
    const answers = families.map((verdicts) =>
      verdicts.map((verdict, i) => (questions[i]![0] === "mailcow" && verdict === "shut" ? "refused" : verdict)),
    );
    expect(answers[1]).toEqual(answers[0]);
    return answers[0]!;
  };

  /** Whatever is not ours, as it is printed, counters aside. */
  async function theirs(): Promise<string> {
    const saved = await must(
      [
        ...tools.flatMap(([, tool]) => [`${tool}-save`, `${tool}-${otherBackend}-save`]),
        "nft list table inet f2b-table",
      ].join(" && "),
    );
    return saved
      .replace(/^#.*\n/gm, "")
      .replace(/ \[\d+:\d+\]$/gm, "")
      .replace(/^(:MAILFW-|-A MAILFW-).*\n/gm, "")
      .replace(/^-A \w+ -j MAILFW-\w+\n/gm, "");
  }

  test("they stay byte for byte and effective through apply, confirm, rollback, restore and remove", async () => {
    for (const [family, tool] of tools) {
      await must(`${tool}-restore --noflush`, captured(family));
      const drop = `*filter\n-A INPUT -s ${addressOf("otherBackend", family)} -j DROP\nCOMMIT\n`;
      await must(`${tool}-${otherBackend}-restore --noflush`, drop);
    }
    await must("nft -f -", nftFail2ban);
    const before = await theirs();
    for (const line of [captured(4), captured(6)].flatMap((text) => text.match(/^-A .*/gm)!))
      expect(before).toContain(line);

    const places = async (chain: string) =>
      Promise.all(tools.map(async ([, tool]) => (await hook(tool, chain)).indexOf(`-A ${chain} -j MAILCOW`)));
    const placesBefore = [await places("INPUT"), await places("FORWARD")];
    expect(placesBefore).toEqual([
      [2, 2],
      [0, 0],
    ]);

    let banned = [0, 0];
    const check = async (ours: string) => {
      expect(await live(host)).toBe(ours);
      expect(await theirs()).toBe(before);
      expect([await places("INPUT"), await places("FORWARD")]).toEqual(placesBefore);
      for (const [, tool] of tools) {
        expect(await hook(tool, "DOCKER-USER")).toEqual(["-A DOCKER-USER -j RETURN"]);
      }
      expect(
        await ask(
          ["anyone", 25],
          ["fail2ban", 25],
          ["fail2ban", 443],
          ["mailcow", 443],
          ["nftFail2ban", 25],
          ["nftFail2ban", 443],
          ["mangle", 443],
          ["nat", 25],
          ["nat", 443],
          ["otherBackend", 443],
          ["anyone", 3306],
        ),
      ).toEqual([
        "open",
        "refused",
        "open",
        "refused",
        "refused",
        "open",
        "shut",
        "refused",
        "open",
        "shut",
        ours === none ? "open" : "shut",
      ]);
      expect(await probe(client, [question(tailscaler, 25)])).toEqual(["shut"]);
      // Their counters go on too: bans are counted by them.
      const counted = await Promise.all(
        tools.map(async ([, tool]) =>
          Number((await must(`${tool} -nvxL f2b-postfix`)).split("\n")[2]!.trim().split(" ")[0]),
        ),
      );
      counted.forEach((count, i) => expect(count).toBeGreaterThan(banned[i]!));
      banned = counted;
    };

    await check(none);
    const applied = await apply(older);
    await check(older);
    await confirm(applied);
    await check(older);
    const second = await apply(newer, "--rollback 600");
    await check(newer);
    expect(await run(`rollback ${second.stdout.replace("applied ", "").trim()}`)).toMatchObject({ code: 0 });
    await check(older);
    expect(await run("restore")).toMatchObject({ code: 0 });
    await check(older);
    expect(await run("remove")).toMatchObject({ code: 0 });
    await check(none);
  });

  const strays = [
    ["an old ACCEPT opens nothing", "-p tcp -m tcp --dport 3306 -j ACCEPT"],
    ["an ACCEPT of everything opens nothing", "-j ACCEPT"],
    ["an ACCEPT of what goes on opens nothing", "-m conntrack --ctstate NEW,RELATED,ESTABLISHED -j ACCEPT"],
    ["a REJECT of the rest hides nothing", "-j REJECT"],
    ["a DROP of the rest hides nothing", "-j DROP"],
    ["a DROP of a port that we open hides nothing", "-p tcp -m tcp --dport 25 -j DROP"],
  ].filter((_, i) => all || i % 2 === (backend === "nft" ? 0 : 1)) as [string, string][];
  test.each(strays)("in INPUT, %s", async (_, rule) => {
    for (const [, tool] of tools) await must(`${tool} -A INPUT ${rule}`);
    const applied = await apply(older);
    expect(applied.stderr).toBe("");
    await confirm(applied);
    expect(await ask(["anyone", 25], ["anyone", 443], ["anyone", 3306])).toEqual(["open", "open", "shut"]);
    const { stdout } = await run("status");
    const shadowed = /never reached while our rules are there: IPv[46]: INPUT/.test(stdout);
    expect(shadowed).toBe(!rule.includes("ACCEPT"));
  });

  const [bans4, bans6] = ["bans", "bans6"];
  const sets = `ipset create ${bans4} hash:net; ipset create ${bans6} hash:net family inet6; ipset add ${bans4} ${addressOf("fail2ban", 4)}; ipset add ${bans6} ${addressOf("fail2ban", 6)}`;
  const bans: [string, (tool: string, family: 4 | 6) => string][] = [
    [
      "an ipset",
      (tool, family) => `${tool} -I INPUT -p tcp -m set --match-set ${family === 4 ? bans4 : bans6} src -j REJECT`,
    ],
    ["an address", (tool, family) => `${tool} -A INPUT -s ${addressOf("fail2ban", family)} -j DROP`],
    [
      "a chain",
      (tool, family) =>
        `${tool} -N f2b && ${tool} -A f2b -s ${addressOf("fail2ban", family)} -j DROP && ${tool} -A INPUT -j f2b`,
    ],
  ];
  test.each(sampled(backend === "nft" ? 3 : 1, bans))(
    "a ban by %s stays effective, whether it was there before or comes after us",
    async (_, ban) => {
      await must(sets);
      const banned = async () => {
        const [open, refused] = await ask(["anyone", 25], ["fail2ban", 25]);
        expect([open, refused === "open"]).toEqual(["open", false]);
      };
      for (const [family, tool] of tools) await must(ban(tool, family));
      await confirm(await apply(older));
      await banned();
      // fail2ban starts again, and puts its rules where it likes.
      for (const [family, tool] of tools) {
        await must(
          `${tool} -S INPUT | sed -n 's/^-A \\(INPUT .*\\(set\\|-s\\|f2b\\)\\)/-D \\1/p' | while read -r rule; do ${tool} $rule; done; ${tool} -F f2b 2>/dev/null; ${tool} -X f2b 2>/dev/null; true`,
        );
        await must(ban(tool, family));
      }
      expect((await run("watch --once")).code).toBe(0);
      await banned();
      await confirm(await apply(newer));
      await banned();
    },
  );
});

// iptables-legacy has one lock for all its users, and iptables-nft none.
describe("with the lock of iptables-legacy held by someone", () => {
  let host: MailHost;
  // The script's own patience is for MAILFW_ALL=1.
  const patience = all ? 10 : 2;
  const patient = script.replace(" -w 10 ", ` -w ${patience} `);
  beforeEach(async () => {
    expect(script).toContain(" -w 10 ");
    host = await startMailHost({ backend: "legacy" });
    await install(host, patient);
  });
  afterEach(() => host?.close());

  const run = (verb: string, stdin = "") => host.run(`${command} ${verb}`, stdin);
  const hold = async (seconds: number) => {
    await host.run(`setsid flock /run/xtables.lock sh -c 'echo >/tmp/held; sleep ${seconds}' >/dev/null 2>&1 &`);
    while ((await host.run("[ -e /tmp/held ] && rm /tmp/held")).code !== 0) await sleep(20);
  };
  const settled = async (limit: number) => {
    for (const end = Date.now() + limit * 1000; (await host.run("cat /run/mail-firewall/pending")).code === 0;) {
      if (Date.now() > end) throw new Error(`still pending after ${limit} s`);
      await sleep(100);
    }
  };
  const deploy = async (text: string) => {
    const { stdout } = await run("apply", text);
    expect(await run("confirm", stdout)).toMatchObject({ code: 0, stdout: "confirmed\n" });
  };

  test("for a while: apply waits, and succeeds", async () => {
    const held = patience * 0.8;
    await hold(held);
    const started = Date.now();
    expect(await run("apply", older)).toMatchObject({ code: 0, stdout: expect.stringMatching(/^applied /) as string });
    expect(Date.now() - started).toBeGreaterThan(held * 900);
    expect(await live(host)).toBe(older);
  });

  const states: [string, string][] = [
    ["the confirmed ones", older],
    ["none", none],
  ];
  test.each(sampled(1, states))(
    "for too long: an error that says why, the rules stay %s, and the host does not forget to go back",
    async (_, there) => {
      if (there !== none) await deploy(there);
      await hold(patience * 6);
      const { code, stdout, stderr } = await run("apply --rollback 20", newer);
      expect({ code, stdout }).toEqual({ code: 1, stdout: "" });
      expect(stderr).toContain("xtables lock");
      expect(stderr).toContain("the kernel refused the IPv4 rules");
      expect(await live(host)).toBe(there);
      await settled(patience * 6 + 40);
      expect(await live(host)).toBe(there);
      await host.run("flock /run/xtables.lock true");
      await deploy(newer);
      expect(await live(host)).toBe(newer);
    },
  );

  test("when the timer goes off: it goes back as soon as it can", async () => {
    await deploy(older);
    expect(await run("apply --rollback 1", newer)).toMatchObject({ code: 0 });
    expect(await live(host)).toBe(newer);
    await hold(1 + patience * 1.5);
    await settled(patience * 4 + 20);
    expect(await live(host)).toBe(older);
  });
});
