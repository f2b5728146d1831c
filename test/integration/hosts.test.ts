// The script on hosts as they are: without IPv6, with a full disk, with rc.local, with busybox, with hooks, with a run that hangs.
import { setTimeout as sleep } from "node:timers/promises";

import { readHostOptions } from "../../components/host/hostOptions";
import { rulesets } from "../../components/host/ruleset";
import { Faults } from "../../components/policy/faults";
import { readPolicy, rules } from "../../components/policy/policy";
import { startMailHost, type MailHost } from "../sandbox/host";
import { command, expectedRulesets, install, live, none, sampled } from "./example";

jest.setTimeout(120_000);

const owner = "mail-firewall/test/mx1";
const older = expectedRulesets(owner);
const newer = expectedRulesets(owner, { imaps: ["public"] });

let host: MailHost;
beforeEach(async () => {
  host = await startMailHost({ listen: { tcp: [993], udp: [] } });
  await install(host);
});
afterEach(async () => host?.close());

const firewall = (args: string, stdin = "") => host.run(`${command} ${args}`, stdin);
async function must(command: string, stdin?: string): Promise<string> {
  const { code, stdout, stderr } = await host.run(command, stdin);
  if (code !== 0) throw new Error(`${command}: exit code ${code}\n${stderr}`);
  return stdout;
}
async function applied(text: string, options = ""): Promise<string> {
  const { code, stdout, stderr } = await firewall(`apply ${options}`, text);
  expect({ code, stderr }).toMatchObject({ code: 0 });
  return stdout;
}
async function deploy(text: string): Promise<void> {
  expect(await firewall("confirm", await applied(text))).toMatchObject({ code: 0, stdout: "confirmed\n" });
}
async function wentBack(to: string): Promise<void> {
  while ((await host.run("test -e /run/mail-firewall/pending")).code === 0) await sleep(100);
  expect(await live(host)).toBe(to);
}
const status = async () => {
  const { code, stdout } = await firewall("status --json --deployed", older);
  return { code, ...(JSON.parse(stdout) as Record<"differences" | "notices", { kind: string; text: string }[]>) };
};

describe("IPv6", () => {
  test("that the kernel does not have: IPv4 alone is deployed, loaded at boot and removed, and status says so", async () => {
    const port = "read -r range </proc/sys/net/ipv4/ip_local_port_range; mount -t tmpfs none /proc/sys/net";
    await must(`${port}; mkdir /proc/sys/net/ipv4; echo "$range" >/proc/sys/net/ipv4/ip_local_port_range`);
    await must("rm /etc/alternatives/ip6tables* /usr/sbin/ip6tables*");
    const v4 = async () =>
      (await host.save(4))
        .match(/^(:MAILFW|-A MAILFW).*\n/gm)
        ?.sort()
        .join("") ?? "";
    const expected = older
      .slice(0, older.indexOf("# IPv6"))
      .match(/^(:MAILFW|-A MAILFW).*\n/gm)!
      .sort()
      .join("");
    await deploy(older);
    expect(await v4()).toBe(expected);
    const { code, notices } = await status();
    expect(code).toBe(0);
    expect(notices).toContainEqual({
      kind: "families",
      text: "the kernel has no IPv6: only the IPv4 rules are loaded",
    });
    await must("iptables -t mangle -F MAILFW-IN");
    expect(await firewall("restore")).toMatchObject({ code: 0 });
    expect(await v4()).toBe(expected);
    await applied(newer, "--rollback 1");
    expect(await v4()).not.toBe(expected);
    while ((await host.run("test -e /run/mail-firewall/pending")).code === 0) await sleep(100);
    expect(await v4()).toBe(expected);
    expect(await firewall("remove")).toMatchObject({ code: 0, stdout: "removed\n" });
    expect(await v4()).toBe("");
  });

  test("that the kernel has, and status does not mention", async () => {
    await deploy(older);
    expect((await status()).notices.filter(({ kind }) => kind === "families")).toEqual([]);
  });

  test("without its tools: an error, and nothing is changed", async () => {
    const before = await host.save(4);
    await must("rm /etc/alternatives/ip6tables*");
    expect(await firewall("apply", older)).toEqual({
      code: 1,
      stdout: "",
      stderr:
        "mail-firewall: missing: ip6tables ip6tables-save ip6tables-restore; apt-get install iptables\nmail-firewall: nothing was changed\n",
    });
    expect(await host.save(4)).toBe(before);
  });
});

describe("a confirm that cannot be kept", () => {
  test.each<[string, string, string]>([
    ["/etc has become read-only", "", "mount -o remount,ro /etc"],
    [
      "/etc has become full",
      "mkdir -m 700 /etc/mail-firewall; mount -t tmpfs -o size=96k small /etc/mail-firewall",
      "dd if=/dev/zero of=/etc/mail-firewall/full bs=4k 2>/dev/null; true",
    ],
  ])("%s: an error, the host goes back, and can be deployed to later", async (_, prepare, spoil) => {
    await must(prepare);
    await deploy(older);
    const token = await applied(newer, "--rollback 5");
    await must(spoil);
    const { code, stdout, stderr } = await firewall("confirm", token);
    expect({ code, stdout }).toEqual({ code: 1, stdout: "" });
    expect(stderr).toContain(
      "mail-firewall: /etc/mail-firewall cannot be written; is the disk full, or read-only? The host goes back to the rules before\n",
    );
    expect(await live(host)).toBe(newer);
    await wentBack(older);
    await must("mount -o remount,rw /etc; rm -f /etc/mail-firewall/full");
    expect(await firewall("restore")).toMatchObject({ code: 0 });
    expect(await live(host)).toBe(older);
    await deploy(newer);
    expect(await firewall("status")).toMatchObject({ code: 0 });
  });

  test("rc.local survives a full disk, and so does the host", async () => {
    await must("mkdir /mnt/small; mount -t tmpfs -o size=16k small /mnt/small");
    const mine = `#!/bin/sh\n# ${"-".repeat(4070)}\n`; // with one more line it takes a second page
    await must("cat >/mnt/small/rc.local; chmod 755 /mnt/small/rc.local", mine);
    await must("ln -s /mnt/small/rc.local /etc/rc.local; head -c 12288 /dev/zero >/mnt/small/full");
    const token = await applied(older, "--rollback 3");
    const { code, stderr } = await firewall("confirm", token);
    expect({ code, stderr }).toMatchObject({ code: 1 });
    expect(stderr).toContain("mail-firewall: /etc/rc.local cannot be written\n");
    expect(await must("cat /mnt/small/rc.local; ls -A /mnt/small")).toBe(`${mine}full\nrc.local\n`);
    await must("rm /mnt/small/full");
    // The rules themselves were kept: the timer does the rest.
    while ((await host.run("test -e /run/mail-firewall/pending")).code === 0) await sleep(100);
    expect(await live(host)).toBe(older);
    expect(await must("cat /etc/rc.local; test -L /etc/rc.local")).toContain("mail-firewall restore");
  });
});

const line = `${command} restore || : # mail-firewall\n`;

const bootScripts: [string, string, string][] = [
  ["as Debian had it", "#!/bin/sh -e\n# comment\nexit 0\n", `#!/bin/sh -e\n${line}# comment\nexit 0\n`],
  ["with a shebang alone", "#!/bin/sh\n", `#!/bin/sh\n${line}`],
  ["without a shebang", "# mine\necho boot\n", `${line}# mine\necho boot\n`],
  ["with one line", "exit 0\n", `${line}exit 0\n`],
  ["empty", "", line],
];
test.each(sampled(3, bootScripts))(
  "rc.local %s: one line, which loads the rules; remove takes it away again",
  async (_, before, expected) => {
    await must("cat >/etc/rc.local; chmod 0751 /etc/rc.local; chown admin /etc/rc.local", before);
    const mode = () => must("stat -c '%a %U' /etc/rc.local; ls /etc/rc.local*");
    await deploy(older);
    await deploy(newer);
    await deploy(older);
    expect(await must("cat /etc/rc.local")).toBe(expected);
    expect(await mode()).toBe("751 admin\n/etc/rc.local\n");
    expect((await status()).code).toBe(0);
    await must("iptables -F; ip6tables -F; sh -c /etc/rc.local");
    expect(await live(host)).toBe(older);
    expect(await firewall("remove")).toMatchObject({ code: 0 });
    expect(await must("cat /etc/rc.local")).toBe(before);
    expect(await mode()).toBe("751 admin\n/etc/rc.local\n");
  },
);

test("an rc.local that is not executable is none, and is left alone", async () => {
  await must("echo '#!/bin/sh' >/etc/rc.local; chmod 0644 /etc/rc.local");
  const { stderr } = await firewall("confirm", await applied(older));
  expect(stderr).toContain("after a reboot nothing loads the rules");
  expect(await must("cat /etc/rc.local")).toBe("#!/bin/sh\n");
});

test("busybox for everything that it has: the whole cycle, as with Debian's own programs", async () => {
  await deploy(older);
  const expected = await status();
  const files = () => must("cd /etc/mail-firewall; cat rules.v4 rules.v6; cut -d - -f 1 token");
  const kept = await files();
  expect(await firewall("remove")).toMatchObject({ code: 0 });

  // First in the script's own PATH; and /bin/sh itself. What Debian's busybox lacks (flock, diff) stays Debian's.
  await must(
    "cp /bin/busybox /usr/sbin/; for applet in $(busybox --list); do ln -sf busybox /usr/sbin/$applet; done; ln -sf ../sbin/busybox /usr/bin/sh",
  );
  expect(
    await must("PATH=/usr/sbin:/usr/bin; for name in sh awk sed grep cmp sha256sum; do readlink $(which $name); done"),
  ).toBe("busybox\n".repeat(6));
  await must("printf '#!/bin/sh\\nexit 0\\n' >/etc/rc.local; chmod 755 /etc/rc.local");
  await must("iptables -N f2b-sshd; iptables -A INPUT -j f2b-sshd; iptables -A INPUT -p tcp --dport 3306 -j ACCEPT");
  const before = [await host.save(4), await host.save(6)];
  await applied(newer, "--rollback 1");
  await wentBack(none);
  await deploy(older);
  expect(await live(host)).toBe(older);
  expect(await files()).toBe(kept);
  expect(await must("iptables -S INPUT")).toBe(
    "-P INPUT ACCEPT\n-A INPUT -j f2b-sshd\n-A INPUT -p tcp -m tcp --dport 3306 -j ACCEPT\n-A INPUT -j MAILFW-ACCEPT\n",
  );
  const found = await status();
  const without = (kind: string, list: { kind: string }[]) => list.filter((one) => one.kind !== kind);
  expect(found).toMatchObject({ code: 0, differences: [] });
  expect(without("shadowed", found.notices)).toEqual(without("boot", expected.notices));
  expect(without("unused", found.notices)).not.toEqual(found.notices);
  await must("iptables -t mangle -D MAILFW-DROP -j DROP");
  expect(await status()).toMatchObject({
    code: 3,
    differences: [{ kind: "rules", text: "IPv4: missing: -A MAILFW-DROP -j DROP" }],
  });
  expect(await firewall("restore")).toMatchObject({ code: 0, stdout: expect.stringMatching(/^restored /) as string });
  expect(await live(host)).toBe(older);
  await applied(newer, "--rollback 1");
  await wentBack(older);
  expect(await firewall("apply", newer.slice(0, -30))).toMatchObject({ code: 1 });
  expect(await firewall("remove --owned", older)).toMatchObject({ code: 0, stdout: "removed\n" });
  expect([await host.save(4), await host.save(6)]).toEqual(before);
  expect(await must("cat /etc/rc.local")).toBe("#!/bin/sh\nexit 0\n");
  expect(await firewall("uninstall")).toMatchObject({ code: 0, stdout: "uninstalled\n" });
});

test.each(
  sampled(1, [
    ["br-ext", "0.0.0.0/0"],
    ["docker7", "::/0"],
  ]),
)(
  "a default route by %s, to %s: apply and status warn that it has the name of a bridge of containers",
  async (name, world) => {
    const text = `the default route leaves by ${name}, which is taken for a bridge of containers: to all behind it, published ports are open`;
    expect(await firewall("apply", older)).toMatchObject({ stderr: "" });
    expect((await status()).notices.filter(({ kind }) => kind === "outward")).toEqual([]);
    await must(`ip link add ${name} type bridge; ip link set ${name} up; ip route add ${world} dev ${name} metric 5`);
    expect(await firewall("apply", older)).toMatchObject({ code: 0, stderr: `mail-firewall: ${text}\n` });
    expect((await status()).notices).toContainEqual({ kind: "outward", text });
  },
);

describe("one machine under two names of a stack", () => {
  const [one, two] = ["mail-firewall/test/mail-mx1", "mail-firewall/test/mail-mx2"];
  const textOf = (name: string, services = {}) => expectedRulesets(name, services);

  test("is refused once both are confirmed; when one goes, the other keeps rules; when both have gone, none are left", async () => {
    await deploy(textOf(one));
    await deploy(textOf(two)); // as a new name, it is welcome
    expect(await firewall("apply", textOf(one, { imaps: ["public"] }))).toEqual({
      code: 1,
      stdout: "",
      stderr:
        `mail-firewall: this machine is both ${one} and ${two}, which undo each other; delete one of the two hosts. ` +
        `If ${two} is gone already, set takeOver: true for one pulumi up\nmail-firewall: nothing was changed\n`,
    });
    expect(await live(host)).toBe(textOf(two));
    const { notices } = JSON.parse((await firewall("status --json")).stdout) as Awaited<ReturnType<typeof status>>;
    expect(notices).toContainEqual({
      kind: "claims",
      text: `this machine is also ${one} of the same stack: delete one of the two, or, if ${one} is gone, deploy once with takeOver: true`,
    });
    expect(await firewall("remove --owned", textOf(two))).toMatchObject({
      code: 0,
      stdout: `kept: this machine is also ${one}; by hand: ${command} remove\n`,
    });
    expect(await live(host)).toBe(textOf(two));
    await deploy(textOf(one, { imaps: ["public"] }));
    expect(await firewall("remove --owned", textOf(one, { imaps: ["public"] }))).toMatchObject({ stdout: "removed\n" });
    expect(await live(host)).toBe(none);
  });

  const attempts: [string, () => Promise<void>][] = [
    [
      "after a first attempt that went back",
      async () => {
        await applied(textOf(two), "--rollback 1");
        await wentBack(textOf(one));
      },
    ],
    [
      "after a first attempt whose confirm was refused",
      async () => expect(await firewall("confirm", "applied 0123456789ab-01234567")).toMatchObject({ code: 1 }),
    ],
    ["without an interruption", () => Promise.resolve()],
  ];
  test.each(sampled(1, attempts))("is a new name of it where the old one goes: %s", async (_, before) => {
    await deploy(textOf(one));
    await before();
    await deploy(textOf(two));
    expect(await firewall("remove --owned", textOf(one))).toMatchObject({
      stdout: `kept: the owner is now ${two}; by hand: ${command} remove\n`,
    });
    await deploy(textOf(two, { imaps: ["public"] }));
    // And back again.
    await deploy(textOf(one));
    expect(await firewall("remove --owned", textOf(two, { imaps: ["public"] }))).toMatchObject({ code: 0 });
    expect(await firewall("remove --owned", textOf(one))).toMatchObject({ stdout: "removed\n" });
  });

  test("takeOver ends what a name claims that is gone without a word", async () => {
    await deploy(textOf(one));
    await deploy(textOf(two));
    expect(await firewall("apply", textOf(one))).toMatchObject({ code: 1 });
    const token = await applied(textOf(one), "--take-over");
    expect(await firewall("confirm", token)).toMatchObject({ code: 0 });
    await deploy(textOf(one, { imaps: ["public"] }));
    expect(await firewall("remove --owned", textOf(one, { imaps: ["public"] }))).toMatchObject({ stdout: "removed\n" });
  });
});

describe("the same names in two backends of Pulumi", () => {
  test("whoever did not deploy what is there removes nothing", async () => {
    await deploy(older);
    await deploy(newer);
    expect(await firewall("remove --owned", older)).toMatchObject({
      code: 0,
      stdout: `kept: others were deployed here since, by the same name; by hand: ${command} remove\n`,
    });
    expect(await live(host)).toBe(newer);
    expect(await firewall("remove --owned", newer)).toMatchObject({ stdout: "removed\n" });
  });

  test("rules that were never confirmed do not stand in the way of a destroy", async () => {
    await deploy(older);
    await applied(newer, "--rollback 1");
    await wentBack(older);
    expect(await firewall("remove --owned", newer)).toMatchObject({ stdout: "removed\n" });
    expect(await live(host)).toBe(none);
  });
});

test.each([
  ["quotes and a command", `it's "mine" $(touch /tmp/x) \`touch /tmp/x\`; reboot`],
  ["lines", "a\n-A INPUT -j ACCEPT\nCOMMIT"],
  ["nothing in ASCII", "\u202e\u00e9\ud83d\ude00"],
  ["the longest name", "x".repeat(249 - "mail-firewall/test/".length)],
])("an owner with %s loads, is read back, and does nothing else", async (_, name) => {
  const before = await must("iptables -S INPUT; ip6tables -S INPUT; ls -A /tmp");
  const text = expectedRulesets(`mail-firewall/test/${name}`);
  await deploy(text);
  expect(await live(host)).toBe(text);
  expect(await firewall("remove --owned", older)).toMatchObject({ stdout: expect.stringMatching(/^kept: /) as string });
  expect(await firewall("remove --owned", text)).toMatchObject({ stdout: "removed\n" });
  expect(await must("iptables -S INPUT; ip6tables -S INPUT; ls -A /tmp")).toBe(before);
});

test("hooks load rules that name an address again when a connection comes up; without an address there are none", async () => {
  const folders = [
    "/etc/ppp/ip-up.d",
    "/etc/ppp/ipv6-up.d",
    "/etc/NetworkManager/dispatcher.d",
    "/etc/networkd-dispatcher/routable.d",
  ];
  await must(`mkdir -p ${folders.slice(0, 3).join(" ")}; rm -rf ${folders[3]}`); // who has one of them need not have all
  const hooks = () =>
    must(`find ${folders.join(" ")} -name '*mail-firewall' -printf '%p %m %U\\n' 2>/dev/null | sort; true`);
  const faults = new Faults();
  const policy = readPolicy({ services: {}, ssh: ["203.0.113.0/24"] }, "", { any: true }, faults);
  const textOf = (externalAddress: string[]) =>
    rulesets(rules(policy), owner, readHostOptions({ externalAddress }, "", faults));
  await deploy(older);
  expect(await hooks()).toBe("");
  for (const address of [host.address4, host.address6]) {
    const text = textOf([address]);
    await deploy(text);
    expect(await hooks()).toBe(
      "/etc/NetworkManager/dispatcher.d/50-mail-firewall 755 0\n/etc/ppp/ip-up.d/mail-firewall 755 0\n/etc/ppp/ipv6-up.d/mail-firewall 755 0\n",
    );
    await must("iptables -t mangle -F MAILFW-OPEN");
    await must("/etc/ppp/ip-up.d/mail-firewall ppp0 /dev/ppp 0 192.0.2.1 192.0.2.2");
    expect(await live(host)).toBe(text);
  }
  await deploy(older);
  expect(await hooks()).toBe("");
  await deploy(textOf([host.address4]));
  expect(await firewall("remove")).toMatchObject({ code: 0 });
  expect(await hooks()).toBe("");
});

test("a run that hangs: the next one says so after a while, and changes nothing; status goes on", async () => {
  await deploy(older);
  const before = [await host.save(4), await host.save(6)];
  await must("setsid flock /run/mail-firewall/lock sleep 1000 </dev/null >/dev/null 2>&1 & sleep 0.2");
  const apply = firewall("apply", newer);
  expect(await firewall("status")).toMatchObject({ code: 0 });
  expect(await apply).toEqual({
    code: 1,
    stdout: "",
    stderr: "mail-firewall: another run of it has not ended in 30 s; nothing was changed\n",
  });
  expect([await host.save(4), await host.save(6)]).toEqual(before);
  await must("kill $(pidof sleep)");
  await deploy(newer);
});
