// Whether what the script says is so: it looks at what the kernel holds, refuses what would shut its user out, goes back in time and to
// exactly what was there, whatever hangs or has changed meanwhile.
import { setTimeout as sleep } from "node:timers/promises";

import { readHostOptions, type HostOptions } from "../../components/host/hostOptions";
import { rulesets } from "../../components/host/ruleset";
import { Faults } from "../../components/policy/faults";
import { readPolicy, rules, type PolicyArgs } from "../../components/policy/policy";
import { startMailHost, type MailHost } from "../sandbox/host";
import { probe, startClient, type Client } from "../sandbox/probe";
import { command, expectedRulesets, install, live, none } from "./example";

jest.setTimeout(120_000);

const owner = "mail-firewall/test/mx1";
const older = expectedRulesets(owner);
const newer = expectedRulesets(owner, { imaps: ["public"] });

const textOf = (args: PolicyArgs, options: HostOptions = {}) => {
  const faults = new Faults();
  const text = rulesets(
    rules(readPolicy(args, "", { any: true }, faults)),
    owner,
    readHostOptions(options, "", faults),
  );
  expect(faults.list).toEqual([]);
  return text;
};

let host: MailHost;
const start = async (backend: "nft" | "legacy" = "nft") => {
  host = await startMailHost({ backend });
  await install(host);
};
afterEach(() => host?.close());

const must = async (shell: string, stdin = "") => {
  const run = await host.run(shell, stdin);
  if (run.code !== 0) throw new Error(`${shell}: exit code ${run.code}\n${run.stdout}${run.stderr}`);
  return run.stdout;
};
const run = (verb: string, stdin = "") => host.run(`${command} ${verb}`, stdin);
const apply = (text: string, options = "") => must(`${command} apply ${options}`, text);
const confirm = async (token: string) => expect(await run("confirm", token)).toMatchObject({ stdout: "confirmed\n" });
const deploy = async (text: string) => confirm(await apply(text));
const rollback = (token: string) => must(`${command} rollback ${token.replace("applied ", "").trim()}`);
const everything = async () => [await host.save(4), await host.save(6)].join("");
const untilLive = async (text: string, seconds: number) => {
  for (const end = Date.now() + seconds * 1000; Date.now() < end; await sleep(250)) {
    if ((await live(host)) === text) return;
  }
  expect(await live(host)).toBe(text);
};
/** What the script says of the host; its exit code agrees. */
const differences = async () => {
  const { code, stdout } = await run("status --json");
  const { differences: found } = JSON.parse(stdout) as { differences: { kind: string; text: string }[] };
  expect(code).toBe(found.length > 0 ? 3 : 0);
  return found.map(({ text }) => text);
};

describe("what cannot be read is an error, never an absence", () => {
  const native = 'nft add rule ip filter INPUT oifname "wt0" ct state established,related accept';
  const make = "iptables -A INPUT -j ACCEPT && iptables -D INPUT -j ACCEPT";

  test("rules of nft's own in a table of iptables: apply refuses before anything is touched", async () => {
    await start();
    await must(`${make} && ${native}`);
    const before = await must("nft list ruleset");
    for (const text of [older, newer]) {
      expect(await run("apply", text)).toMatchObject({
        code: 1,
        stdout: "",
        stderr: expect.stringMatching(
          /the IPv4 rules of table filter cannot be read: .*nft list table ip filter\)\n.*nothing was changed/,
        ) as string,
      });
    }
    expect(await must("nft list ruleset")).toBe(before);
  });

  test("the same after a deployment: status and the watch say so, and nothing is piled up", async () => {
    await start();
    await deploy(older);
    await must(native);
    const before = await must("nft list ruleset");
    for (const verb of ["status", "status --json", "restore", "watch --once", "remove"]) {
      const said = await run(verb);
      expect([verb, said.code > 0 || verb === "watch --once", said.stderr]).toEqual([
        verb,
        true,
        expect.stringContaining("cannot be read"),
      ]);
    }
    expect((await must("nft list ruleset")).replace(/packets \d+ bytes \d+/g, "")).toBe(
      before.replace(/packets \d+ bytes \d+/g, ""),
    );
  });
});

describe("nobody is shut out without a word", () => {
  const connection = (client: string, port = 22) => `SSH_CONNECTION="${client} 50000 198.51.100.1 ${port}"`;
  const networks: PolicyArgs = { ssh: ["203.0.113.0/24", "2001:db8:113::/48"] };

  test.each<[string, PolicyArgs, HostOptions, string, string]>([
    [
      "an address that is not among the sources",
      networks,
      {},
      "192.0.2.5",
      'you come from 192.0.2.5, and SSH is open to 203.0.113.0/24. Add "192.0.2.5/32"',
    ],
    ["the address before a network", networks, {}, "203.0.112.255", 'Add "203.0.112.255/32"'],
    ["the address behind it", networks, {}, "203.0.114.0", 'Add "203.0.114.0/32"'],
    ["another IPv6 network", networks, {}, "2001:db8:114::1", 'Add "2001:db8:114::1/128"'],
    ["IPv6, where only IPv4 is open", { ssh: ["0.0.0.0/0"] }, {}, "2001:db8:113::1", "SSH is open to nobody over IPv6"],
    ["inside of it", networks, {}, "203.0.113.255", ""],
    ["inside of the IPv6 network", networks, {}, "2001:db8:113:ffff::1", ""],
    ["anywhere", { ssh: ["public"] }, {}, "192.0.2.5", ""],
    ["a trusted network", networks, { trustedNetworks: ["10.8.0.0/24"] }, "10.8.0.77", ""],
    ["a link-local address with its zone", { ssh: ["fe80::/10"] }, {}, "fe80::1%eth0", ""],
  ])("%s", async (_, args, options, client, problem) => {
    await start();
    const before = await everything();
    const text = textOf(args, options);
    // As root; and as a user, whose sudo leaves the variable out.
    for (const shell of [
      `env ${connection(client)} ${command} apply`,
      `su admin -s /bin/sh -c '${connection(client)} sh -c "sudo -n ${command} apply; exit \\$?"'`,
    ]) {
      const applied = await host.run(shell, text);
      if (problem === "") {
        expect(applied).toMatchObject({ code: 0, stdout: expect.stringMatching(/^applied /) as string });
      } else {
        expect(applied).toMatchObject({ code: 1, stdout: "" });
        expect(applied.stderr).toContain(`the rules would shut you out: `);
        expect(applied.stderr).toContain(problem);
        expect(await everything()).toBe(before);
      }
    }
  });

  test("a port of sshd that the rules do not keep open", async () => {
    await start();
    const applied = await host.run(`env ${connection("203.0.113.1", 2222)} ${command} apply`, older);
    expect(applied.stderr).toContain("you have come in by port 2222, and they keep 22 open for SSH");
    expect(await live(host)).toBe(none);
  });

  test.each<[string, HostOptions, string]>([
    ["an interface that there is not", { externalInterface: "ens3" }, "no interface of this host is ens3"],
    ["another spelling of one", { externalInterface: "ETH0" }, "it has eth0"],
    ["a pattern that none fits", { externalInterface: "ppp+" }, "no interface of this host is ppp+"],
    ["an address of somebody else", { externalAddress: ["192.0.2.200"] }, "does not have the address 192.0.2.200"],
    ["an IPv6 address of somebody else", { externalAddress: ["2001:db8::7"] }, "does not have the address 2001:db8::7"],
  ])("%s is refused", async (_, options, problem) => {
    await start();
    const applied = await run("apply", textOf({ ssh: ["public"] }, options));
    expect(applied).toMatchObject({ code: 1, stdout: "" });
    expect(applied.stderr).toContain(problem);
    expect(applied.stderr).toContain(
      options.externalInterface ? "it has eth0 lo" : problem.includes(":") ? host.address6 : host.address4,
    );
    expect(await live(host)).toBe(none);
  });

  test("an address that goes later is named by status", async () => {
    await start();
    await must("ip address add 192.0.2.200/32 dev eth0");
    await deploy(textOf({ ssh: ["public"] }, { externalAddress: ["192.0.2.200"] }));
    expect(await differences()).toEqual([]);
    await must("ip address delete 192.0.2.200/32 dev eth0");
    expect(await differences()).toEqual([
      expect.stringContaining("this host does not have the address 192.0.2.200 (externalAddress)") as string,
    ]);
  });

  // Each is what stands in /etc/ssh; sshd itself says what it means.
  test.each([
    "Port 2222",
    "PORT 2222",
    "port\t2222",
    'Port "2222"',
    "Port 2222 # not 22",
    "   Port=2222",
    "ListenAddress 0.0.0.0:2222",
    "Include /etc/ssh/more.conf",
  ])("where all rules are lost, SSH stays open at the port of: %s", async (line) => {
    await start();
    await deploy(textOf({ ssh: ["public"] }));
    await must("sed -i '/^Port/d' /etc/ssh/sshd_config && cat >>/etc/ssh/sshd_config", `${line}\n`);
    await must("echo 'Port 2222' >/etc/ssh/more.conf");
    await must("for file in $(ls /etc/mail-firewall/*.v? /etc/mail-firewall/*/*.v? 2>/dev/null); do echo >$file; done");
    await must("iptables -t mangle -F; iptables -t mangle -X; iptables -F; iptables -X");
    expect(await run("restore")).toMatchObject({ code: 1 });
    expect(await live(host)).toContain("-A MAILFW-IN -p tcp -m tcp --dport 2222 -m comment --comment ssh -j RETURN");
    expect(await live(host)).toMatch(/-A MAILFW-IN -j DROP\n/);
  });
});

describe("back in time, and to exactly what was there", () => {
  const both = (line: string) => `iptables ${line} && ip6tables ${line}`;
  test.each<[string, string]>([
    ["a jump taken out", both("-t mangle -D INPUT -j MAILFW-IN")],
    ["an ACCEPT before ours", both("-t mangle -I INPUT -p tcp --dport 22 -j ACCEPT")],
    ["a rule of ours changed", both("-t mangle -I MAILFW-IN 2 -p tcp --dport 2200 -j RETURN")],
    ["ours taken out of filter", both("-F MAILFW-ACCEPT")],
  ])("%s by an operator who had been shut out is so again after a rollback", async (_, rescue) => {
    await start();
    await deploy(older);
    await must(rescue);
    const before = await everything();
    const token = await apply(newer);
    expect(await live(host)).toBe(newer);
    expect(await rollback(token)).toBe("the rules before are live again\n");
    expect(await everything()).toBe(before);
  });

  test("the stop of another firewall hangs: the host is back all the same", async () => {
    await start();
    await deploy(older);
    await must("mkdir -p /etc/ufw /usr/libexec/ufw; echo ENABLED=yes >/etc/ufw/ufw.conf");
    await must("cat >/usr/libexec/ufw/ufw-init; chmod +x /usr/libexec/ufw/ufw-init", "#!/bin/sh\nsleep 600\n");
    const applied = run("apply --rollback 3", newer);
    await untilLive(newer, 10);
    await untilLive(older, 12);
    expect(await applied).toMatchObject({ stdout: "" });
    await must("echo ENABLED=no >/etc/ufw/ufw.conf");
    await deploy(newer);
  });

  test("an apply that is stopped in the middle: the host is back all the same", async () => {
    await start();
    await deploy(older);
    await must("mkdir -p /etc/ufw /usr/libexec/ufw; echo ENABLED=yes >/etc/ufw/ufw.conf");
    const stop = "#!/bin/sh\nkill -STOP $PPID\nsleep 1\n";
    await must("cat >/usr/libexec/ufw/ufw-init; chmod +x /usr/libexec/ufw/ufw-init", stop);
    const applied = run("apply --rollback 3", newer);
    await untilLive(newer, 10);
    await untilLive(older, 12);
    expect((await applied).code).not.toBe(0);
  });

  test("somebody flushes inside of the window, and restore runs: what waits for its confirm is live", async () => {
    await start();
    await deploy(older);
    const token = await apply(newer);
    await must(both("-t mangle -F"));
    expect(await run("restore")).toMatchObject({ code: 0 });
    expect(await live(host)).toBe(newer);
    await confirm(token);
  });

  test("where /run outlives a boot, what waited before it does not count", async () => {
    await start();
    await deploy(older);
    await apply(newer, "--rollback 600");
    // As after the boot: the kernel has nothing, and another id.
    await must(
      both("-t mangle -F; iptables -F") + "; echo 00000000-0000-0000-0000-000000000000 >/run/mail-firewall/boot",
    );
    expect(await run("restore")).toMatchObject({ code: 0, stdout: expect.stringMatching(/^restored /) as string });
    expect(await live(host)).toBe(older);
    expect((await host.run("cat /run/mail-firewall/pending")).code).not.toBe(0);
  });
});

describe("each family by itself at the boot", () => {
  const spoil = (family: 4 | 6, folder = "") =>
    `cd /etc/mail-firewall/${folder} && sed -i 's/^-A MAILFW-DROP -j DROP$/-A MAILFW-DROP -j NOSUCH/' rules.v${family} && sha256sum rules.v4 rules.v6 token >SHA256SUMS`;
  const half = (text: string, family: 4 | 6) => (family === 4 ? text.split("# IPv6")[0]! : text.split("# IPv6")[1]!);
  const flush =
    "for tool in iptables ip6tables; do for table in mangle filter; do $tool -t $table -F; $tool -t $table -X; done; done";

  test.each([4, 6] as const)("IPv%i refused: the other family is not touched", async (family) => {
    const other = family === 4 ? 6 : 4;
    await start();
    await deploy(older);
    await deploy(newer);
    await must(spoil(family));
    await must(flush);
    const restored = await run("restore");
    expect(restored).toMatchObject({ code: 1, stdout: "" });
    expect(restored.stderr).toContain(`IPv${family}: those before them are live`);
    expect(half(await live(host), other)).toBe(half(newer, other));
    expect(half(await live(host), family)).toBe(half(older, family));

    await must(spoil(family, "last"));
    await must(flush);
    const emergency = await run("restore");
    expect(emergency.code).toBe(1);
    expect(emergency.stderr).toContain(`IPv${family}: only SSH is open now`);
    expect(half(await live(host), other)).toBe(half(newer, other));
    expect(half(await live(host), family)).toMatch(/-A MAILFW-IN -j DROP\n/);
    // The watch does not try again and again what the kernel refuses.
    const before = await everything();
    expect(await run("watch --once")).toEqual({ code: 0, stdout: "", stderr: "" });
    expect(await everything()).toBe(before);
  });
});

describe.each([
  ["nft", "legacy"],
  ["legacy", "nft"],
] as const)("the backend is switched from iptables-%s to %s", (first, second) => {
  const use = (backend: string) =>
    `for tool in iptables ip6tables; do for part in "" -save -restore; do ln -sf /usr/sbin/$tool-${backend}$part /etc/alternatives/$tool$part; done; done`;
  const left = async () =>
    (await must(`iptables-${first}-save; ip6tables-${first}-save`)).match(/^.*MAILFW.*$/gm) ?? [];

  test("between deployments: status names it, the next apply moves all, remove leaves nothing in either", async () => {
    await start(first);
    await deploy(older);
    await must(use(second));
    expect(await differences()).toContain(
      `IPv4: rules of ours are in the other backend of iptables, too (iptables-${first}-save)`,
    );
    await deploy(newer);
    expect(await left()).toEqual([]);
    expect(await live(host)).toBe(newer);
    expect(await differences()).toEqual([]);
    await must(use(first));
    expect(await run("remove")).toMatchObject({ code: 0, stdout: "removed\n" });
    expect(await left()).toEqual([]);
    expect(await must(`iptables-${second}-save; ip6tables-${second}-save`)).not.toContain("MAILFW");
  });

  test("inside of the window: the way back moves all, too", async () => {
    await start(first);
    await deploy(older);
    const token = await apply(newer);
    await must(use(second));
    await rollback(token);
    expect(await live(host)).toBe(older);
    expect(await left()).toEqual([]);
  });
});

describe("judged by what the client asked for", () => {
  let client: Client;
  const [client4, client6] = ["192.0.2.230", "2001:db8:230::1"] as const;
  beforeAll(async () => {
    client = await startClient([client4, client6]);
  });
  afterAll(() => client?.close());

  const verdict = async (target: string, port: number) =>
    (await probe(client, [{ source: target.includes(":") ? client6 : client4, target, protocol: "tcp", port }]))[0];

  test("a redirect from a port of another address than the policy names, and from closed ports", async () => {
    await start();
    const [second4, second6] = ["192.0.2.231", "2001:db8:231::1"];
    await must(`ip address add ${second4}/32 dev eth0; ip address add ${second6}/128 dev eth0 nodad preferred_lft 0`);
    for (const tool of ["iptables", "ip6tables"]) {
      for (const [from, to] of [
        [25, 465],
        [8080, 465],
        [443, 3306],
      ]) {
        await must(`${tool} -t nat -A PREROUTING -p tcp --dport ${from} -j REDIRECT --to-ports ${to}`);
      }
    }
    const { address4, address6 } = host;
    await deploy(
      textOf(
        { ssh: ["public"], services: { submissions: ["public"], https: ["public"] } },
        { externalAddress: [address4, address6] },
      ),
    );
    for (const address of [address4, address6]) {
      expect([await verdict(address, 25), await verdict(address, 443), await verdict(address, 465)]).toEqual([
        "open",
        "open",
        "open",
      ]);
      expect([await verdict(address, 8080), await verdict(address, 3306)]).toEqual(["shut", "shut"]);
    }
    for (const address of [second4, second6]) {
      for (const port of [25, 443, 465, 8080]) expect(await verdict(address, port)).toBe("shut");
    }
  });
});

test("all that is missing is named at once, with the line that installs it, and what never was installed can be removed", async () => {
  await start();
  await must(
    "rm -f $(command -v setsid) $(command -v flock) /etc/alternatives/iptables-save /etc/alternatives/ip6tables-restore",
  );
  expect(await run("apply", older)).toEqual({
    code: 1,
    stdout: "",
    stderr: `mail-firewall: missing: iptables-save ip6tables-restore; apt-get install iptables
mail-firewall: missing: flock setsid; apt-get install util-linux
mail-firewall: nothing was changed
`,
  });
  expect(await run("remove --owned", older)).toMatchObject({ code: 0, stdout: "removed\n" });
  expect(await run("uninstall")).toMatchObject({ code: 0, stdout: "uninstalled\n" });
  expect((await host.run(`ls ${command} /etc/mail-firewall /run/mail-firewall`)).stdout).toBe("");
});
