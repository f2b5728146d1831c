// What a reboot, the timer and damaged files make of a deployment on a host with ufw, and what starts sshd or a connection.
import { operatorKey } from "../sandbox/host";
import { startClient, startWatch, type Client } from "../sandbox/probe";
import { startRealHost, type RealHost } from "../sandbox/realHost";
import { startStack } from "../sandbox/stack";
import { command, install, succeeded } from "../integration/example";
import {
  away,
  configFor,
  deploy,
  expectClosed,
  must,
  openPorts,
  policy,
  releases,
  rulesFor,
  ssh,
  until,
  watchedPorts,
  type Source,
} from "./mail";

jest.setTimeout(240_000);

const stranger: Source = ["192.0.2.174", "2001:db8:174::1"];
const etc = "/etc/mail-firewall";

describe.each(releases)("on a real %s", (release) => {
  let host: RealHost, client: Client;
  beforeEach(async () => {
    [host, client] = await Promise.all([startRealHost({ release }), startClient([...stranger])]);
    await install(host);
  });
  afterEach(async () => void (await Promise.all([host?.close(), client?.close()])));

  const pending = async () => (await host.run("cat /run/mail-firewall/pending")).stdout.split(" ")[0]!;
  const reachable = async () => {
    expect(await ssh(host, `root@${host.address4}`, "id -u")).toMatchObject({ code: 0, stdout: "0\n" });
    expect(await ssh(host, `root@${host.address6}`, "id -u")).toMatchObject({ code: 0, stdout: "0\n" });
  };
  const ufwStatus = async () => (await must(host, "ufw status")).split("\n")[0];
  const withUfw = async () => {
    expect(await ufwStatus()).toBe("Status: active");
    expect(await openPorts(host, client, stranger)).toEqual([22, 25, 993, 3306]);
    expect(await must(host, "iptables-save; ip6tables-save")).not.toContain("MAILFW");
  };

  test("a reboot within the window: what was confirmed is there, first ufw, then the rules before; up converges", async () => {
    await must(host, `${command} apply --rollback 600`, rulesFor());
    expect(await openPorts(host, client, stranger)).toEqual([25, 993]);
    await host.reboot();
    await withUfw();
    await reachable();

    const stack = await startStack({ privateKey: operatorKey.privateKey });
    try {
      stack.configure(configFor(host));
      succeeded(await stack.up("--skip-preview"));
      expect(await openPorts(host, client, stranger)).toEqual([25, 993]);

      stack.configure({ ...configFor(host), services: { ...policy.services, imap: "public" } });
      const up = stack.start("up", "--yes", "--skip-preview", "--suppress-progress");
      await until(async () => (await pending()) !== "", 60);
      up.kill();
      await up.ended;
      expect(await openPorts(host, client, stranger)).toEqual([25, 143, 993]);
      await host.reboot();
      expect(await openPorts(host, client, stranger)).toEqual([25, 993]);
      await reachable();
      expect(await host.run(`${command} status`)).toMatchObject({ code: 0 });
      succeeded(await stack.pulumi("cancel", "--yes"));
      succeeded(await stack.up("--skip-preview"));
      expect(await openPorts(host, client, stranger)).toEqual([25, 143, 993]);
    } finally {
      stack.remove();
    }
  });

  test.each(["root", "admin"])(
    "the timer takes the host back in time after %s's session was killed, whatever the clock says",
    async (user) => {
      await must(
        host,
        "mkdir -p /etc/systemd/logind.conf.d; printf '[Login]\\nKillUserProcesses=yes\\n' >/etc/systemd/logind.conf.d/kill.conf; systemctl restart systemd-logind",
      );
      const from = Date.now();
      const sudo = user === "root" ? "" : "sudo -n ";
      const session = ssh(
        host,
        `${user}@${host.address4}`,
        `${sudo}${command} apply --rollback 10; sleep 600`,
        undefined,
        rulesFor(),
      );
      await until(async () => (await pending()) !== "", 30);
      const token = await pending();
      await until(async () => (await host.run("flock -n /run/mail-firewall/lock true")).code === 0, 10);
      expect(await openPorts(host, client, stranger)).toEqual([25, 993]);
      await must(
        host,
        `loginctl terminate-user ${user} || :; pkill -9 -u ${user} -x sleep || :; pkill -9 -x sleep || :`,
      );
      expect((await session).code).not.toBe(0);

      const timer = `mail-firewall-rollback-${token.split("-")[1]}.timer`;
      const shown = await must(
        host,
        `systemctl show -p TimersMonotonic -p TimersCalendar -p AccuracyUSec -p ActiveState ${timer}`,
      );
      expect(shown).toMatch(/^TimersMonotonic=\{ OnActiveUSec=10s ; /m);
      expect(shown).not.toMatch(/^TimersCalendar=./m);
      expect(shown).toMatch(/^AccuracyUSec=100ms$/m);
      expect(shown).toMatch(/^ActiveState=active$/m);

      await until(async () => (await pending()) === "", 20);
      const took = (Date.now() - from) / 1000;
      expect(took).toBeGreaterThan(10);
      expect(took).toBeLessThan(18);
      await withUfw();
    },
  );

  test("damaged files: the boot falls back, says so, and leaves SSH open and closed ports shut", async () => {
    await deploy(host, rulesFor(["smtp"]));
    await deploy(host);
    await must(host, `cp -a ${etc} /root/good`);
    const boots = async (damage: string, open: number[], said: RegExp) => {
      await must(host, `rm -rf ${etc}; cp -a /root/good ${etc}; cd ${etc}; ${damage}`);
      const watch = await startWatch(client, stranger, host, watchedPorts);
      await host.reboot();
      const watched = await watch.stop();
      const failed = (await host.run("systemctl is-failed mail-firewall")).stdout.trim();
      const journal = await must(host, "journalctl -b -u mail-firewall -o cat");
      expect([damage, failed, await openPorts(host, client, stranger)]).toEqual([damage, "failed", open]);
      expect(journal).toMatch(said);
      if (open.includes(25)) expectClosed(watched, await away(host));
      else expect(watched.filter(({ port, open: accepted }) => port !== 25 && accepted.length > 0)).toEqual([]);
      await reachable();
      expect(await host.run(`${command} status`)).toMatchObject({ code: 3 });
    };
    const before = /those before them are live: [0-9a-f]{12}/;
    await boots("truncate -s 300 rules.v4", [25], before);
    await boots("printf X | dd of=rules.v6 bs=1 seek=400 conv=notrunc", [25], before);
    await boots(": >rules.v4", [25], before);
    await boots("rm rules.v6 SHA256SUMS", [25], before);
    await boots(": >rules.v4; : >last/rules.v6", [22], /only SSH is open now/);
    await boots("rm -rf last; for file in rules.* token SHA256SUMS; do : >$file; done", [22], /only SSH is open now/);

    await deploy(host); // and mends it
    await host.reboot();
    expect(await openPorts(host, client, stranger)).toEqual([25, 993]);
    expect(await host.run(`${command} status`)).toMatchObject({ code: 0 });
  });

  test("sshd that a socket starts is deployed to, and found after a reboot", async () => {
    await must(host, "systemctl disable --now ssh.service; systemctl enable --now ssh.socket");
    expect(await must(host, "systemctl is-active ssh.socket; ss -Hltnp 'sport = :22'")).toMatch(/^active\n(?!.*sshd)/);
    const stack = await startStack({ privateKey: operatorKey.privateKey });
    try {
      stack.configure(configFor(host));
      succeeded(await stack.up("--skip-preview"));
      await host.reboot();
      expect(await openPorts(host, client, stranger)).toEqual([25, 993]);
      await reachable();
      succeeded(await stack.destroy());
      await withUfw();
    } finally {
      stack.remove();
    }
  });

  test("hooks of ppp, NetworkManager and networkd-dispatcher are there only with a fixed address, and go again", async () => {
    const folders = [
      "/etc/ppp/ip-up.d",
      "/etc/ppp/ipv6-up.d",
      "/etc/NetworkManager/dispatcher.d",
      "/etc/networkd-dispatcher/routable.d",
    ];
    await must(host, `mkdir -p ${folders.join(" ")}`);
    const hooks = async () =>
      (
        await must(host, `find ${folders.join(" ")} -name '*mail-firewall' -printf '%m %u:%g %p\\n' | sort -k 3`)
      ).trim();
    const stack = await startStack({ privateKey: operatorKey.privateKey });
    try {
      stack.configure(configFor(host));
      succeeded(await stack.up("--skip-preview"));
      expect(await hooks()).toBe("");
      stack.configure(configFor(host, { externalAddress: [host.address4, host.address6] }));
      succeeded(await stack.up("--skip-preview"));
      expect(await hooks()).toBe(
        [
          "755 root:root /etc/NetworkManager/dispatcher.d/50-mail-firewall",
          "755 root:root /etc/networkd-dispatcher/routable.d/50-mail-firewall",
          "755 root:root /etc/ppp/ip-up.d/mail-firewall",
          "755 root:root /etc/ppp/ipv6-up.d/mail-firewall",
        ].join("\n"),
      );
      await must(host, "iptables -t mangle -F MAILFW-IN"); // whatever the connection's coming did to them
      expect(await must(host, "/etc/ppp/ip-up.d/mail-firewall ppp0")).toMatch(/^restored /);
      expect(await openPorts(host, client, stranger)).toEqual([25, 993]);
      stack.configure(configFor(host));
      succeeded(await stack.up("--skip-preview"));
      expect(await hooks()).toBe("");
      stack.configure(configFor(host, { externalAddress: [host.address4, host.address6] }));
      succeeded(await stack.up("--skip-preview"));
      succeeded(await stack.destroy());
      expect(await hooks()).toBe("");
    } finally {
      stack.remove();
    }
  });
});
