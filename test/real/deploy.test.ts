// A deployment by the real engine to a mail server as an administrator left it, from the first `up` to `destroy`.
import { operatorKey } from "../sandbox/host";
import { startClient, startWatch, type Client } from "../sandbox/probe";
import { deliverMail, startRealHost, type RealHost } from "../sandbox/realHost";
import { startStack, type Stack } from "../sandbox/stack";
import { command, succeeded } from "../integration/example";
import {
  away,
  configFor,
  expectClosed,
  filters,
  must,
  openPorts,
  releases,
  ssh,
  subjects,
  until,
  verdicts,
  watchedPorts,
  type Source,
} from "./mail";

jest.setTimeout(240_000);

const stranger: Source = ["192.0.2.170", "2001:db8:170::1"];
const attacker: Source = ["192.0.2.171", "2001:db8:170::2"];

describe.each(releases)("on a real %s with ufw, fail2ban, Postfix and Dovecot", (release) => {
  let host: RealHost, client: Client, other: Client, stack: Stack;
  let mails = 0;

  // Of ufw, all that a person or a boot could tell from before.
  const ufw = async () => ({
    rules: await filters(host),
    files: await must(
      host,
      "cat /etc/ufw/ufw.conf /etc/default/ufw /etc/ufw/*.rules; stat -c '%a %U:%G %n' /etc/ufw/*",
    ),
    units: await must(host, "systemctl is-enabled ufw; systemctl is-active ufw; ufw status verbose"),
  });
  let ufwBefore: Awaited<ReturnType<typeof ufw>>;

  const mailWorks = async () => {
    for (const family of [4, 6] as const) {
      await deliverMail(client, host, { subject: `mail ${++mails}`, family });
      expect(await subjects(host, client, mails, family)).toEqual(
        Array.from({ length: mails }, (_, i) => `mail ${i + 1}`),
      );
    }
  };
  const asDeployed = async () => {
    const { code, stdout } = await host.run(`${command} status`);
    expect([code, stdout.split("\n")[0]]).toEqual([
      0,
      expect.stringMatching(/^rules [0-9a-f]{12} of .*: as deployed$/),
    ]);
  };

  beforeAll(async () => {
    [host, client, other, stack] = await Promise.all([
      startRealHost({ release }),
      startClient([...stranger]),
      startClient([...attacker]),
      startStack({ privateKey: operatorKey.privateKey }),
    ]);
    stack.configure(configFor(host));
    ufwBefore = await ufw();
  });
  afterAll(async () => {
    await Promise.all([host?.close(), client?.close(), other?.close()]);
    stack?.remove();
  });

  test("up: mail works and all else is shut, during it and after it, over both families", async () => {
    expect(ufwBefore.units).toMatch(/^enabled\nactive\nStatus: active\n/);
    expect(await openPorts(host, client, stranger)).toEqual([22, 25, 993, 3306]);
    const watch = await startWatch(client, stranger, host, { 143: 5, 25: 50 });
    succeeded(await stack.up("--skip-preview"));
    const watched = await watch.stop();
    expect(watched.filter(({ port, open, refused }) => port === 143 && open.length + refused.length > 0)).toEqual([]);
    expect(watched.map(({ port, open }) => [port, open.length > 10])).toEqual([
      [25, true],
      [143, false],
      [25, true],
      [143, false],
    ]);
    expect(await openPorts(host, client, stranger)).toEqual([25, 993]);
    await mailWorks();
  });

  test("up: ufw is off for good, and our unit and files are as they should be", async () => {
    expect(await must(host, "ufw status; grep ENABLED /etc/ufw/ufw.conf")).toBe("Status: inactive\nENABLED=no\n");
    expect(await must(host, "systemctl is-enabled mail-firewall; systemctl is-active mail-firewall")).toBe(
      "enabled\nactive\n",
    );
    const files = ["/etc/mail-firewall", "/etc/mail-firewall/rules.v4", "/etc/mail-firewall/rules.v6", command];
    expect(await must(host, `stat -c '%a %U:%G' ${files.join(" ")}`)).toBe(
      "700 root:root\n600 root:root\n600 root:root\n744 root:root\n",
    );
    await asDeployed();
    expect(succeeded(await stack.preview("--expect-no-changes"))).toContain("unchanged");
    expect(await must(host, "systemctl list-units --all --plain --no-legend 'mail-firewall-rollback-*'")).toBe("");
  });

  test("fail2ban bans who fails to log in, and nobody else; our rules stay as they are", async () => {
    const watcher = {
      ...configFor(host),
      ssh: ["203.0.113.0/24", "2001:db8:113::/48", "192.0.2.170/31", "2001:db8:170::/48"],
    };
    stack.configure(watcher);
    succeeded(await stack.up("--skip-preview"));
    for (const [address, source] of [
      [host.address4, attacker[0]],
      [host.address6, attacker[1]],
    ] as const) {
      for (let times = 0; times < 3; times++) {
        expect((await ssh(host, `mallory@${address}`, "true", other)).stderr).toContain("Permission denied");
      }
      await until(async () => (await must(host, "fail2ban-client status sshd")).includes(source), 10);
    }
    expect(await verdicts(host, other, attacker, 22)).toEqual(["refused", "refused"]);
    expect(await verdicts(host, other, attacker, 25)).toEqual(["open", "open"]);
    expect(await verdicts(host, client, stranger, 22)).toEqual(["open", "open"]);
    await asDeployed();
    succeeded(await stack.up("--skip-preview", "--refresh")); // nothing of the ban is taken for a change, or undone
    expect(await verdicts(host, other, attacker, 22)).toEqual(["refused", "refused"]);
    await must(host, `fail2ban-client set sshd unbanip ${attacker.join(" ")}`);
    expect(await verdicts(host, other, attacker, 22)).toEqual(["open", "open"]);
    stack.configure(configFor(host));
    succeeded(await stack.up("--skip-preview"));
    await asDeployed();
  });

  test("a reboot: no closed port ever answers, from the first moment on, and mail works again", async () => {
    const watch = await startWatch(client, stranger, host, watchedPorts);
    const from = Date.now();
    await host.reboot();
    const until = Date.now();
    const watched = await watch.stop();
    expectClosed(watched, await away(host));
    for (const { open, refused } of watched.filter(({ port }) => port === 25)) {
      // Silent while the host was away, and back before the boot had ended.
      const answers = [...open, ...refused].sort((a, b) => a - b);
      const back = answers.find((at, i) => i > 0 && at - answers[i - 1]! > 400);
      expect(back).toBeGreaterThan(from);
      expect(back).toBeLessThan(until);
    }
    await mailWorks();
    await asDeployed();
    expect(await must(host, "journalctl -b -u mail-firewall -o cat")).toMatch(/^restored [0-9a-f]{12}$/m);
    expect(await must(host, "systemctl is-active mail-firewall; systemctl is-system-running; ufw status")).toBe(
      "active\nrunning\nStatus: inactive\n",
    );
    expect(await openPorts(host, client, stranger)).toEqual([25, 993]);
  });

  test("destroy gives ufw back exactly as it was, and never opens the host in between", async () => {
    const watch = await startWatch(client, stranger, host, { 143: 5, 25: 50 });
    succeeded(await stack.destroy());
    const watched = await watch.stop();
    expect(watched.filter(({ port, open, refused }) => port === 143 && open.length + refused.length > 0)).toEqual([]);
    for (const { port, open } of watched) if (port === 25) expect(open.length).toBeGreaterThan(10);
    const after = await ufw();
    expect(after.units).toBe(ufwBefore.units);
    expect(after.files).toBe(ufwBefore.files);
    expect(after.rules).toBe(ufwBefore.rules);
    expect(await openPorts(host, client, stranger)).toEqual([22, 25, 993, 3306]);
    const left = "/etc/mail-firewall /run/mail-firewall /usr/local/sbin /etc/systemd/system";
    expect((await host.run(`find ${left} -name '*mail-firewall*'`)).stdout).toBe("");
  });

  test("after one more reboot ufw is there, and nothing of ours", async () => {
    await host.reboot();
    expect(await ufw()).toEqual(ufwBefore);
    expect(
      await must(host, "systemctl list-unit-files --no-legend 'mail-firewall*'; iptables-save; ip6tables-save"),
    ).not.toMatch(/mail-firewall|MAILFW/);
    expect(await openPorts(host, client, stranger)).toEqual([22, 25, 993, 3306]);
  });
});
