// Rules that stay in force on a host that lives: packages of other firewalls are upgraded, their services are restarted, somebody flushes
// everything, the network is up before anything else at boot. A knocker asks closed ports all the while.
import { command, install } from "../integration/example";
import { startClient, startWatch, type Client, type Watched } from "../sandbox/probe";
import { externalInterface, startRealHost, type RealHost } from "../sandbox/realHost";
import { deploy, filters, must, openPorts, releases, rulesFor, until, type Source } from "./mail";

jest.setTimeout(300_000);

const stranger: Source = ["192.0.2.181", "2001:db8:181::1"];

/** As Docker has them; a firewall that goes must leave them alone. */
const containers = `*nat
:DOCKER - [0:0]
-A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER
-A DOCKER ! -i docker0 -p tcp -m tcp --dport 8081 -j DNAT --to-destination 172.17.0.2:80
COMMIT
*filter
:DOCKER - [0:0]
:ts-input - [0:0]
-A INPUT -j ts-input
-A FORWARD -o docker0 -j DOCKER
-A DOCKER -d 172.17.0.2/32 ! -i docker0 -o docker0 -p tcp -m tcp --dport 80 -j ACCEPT
-A ts-input -i tailscale0 -j ACCEPT
COMMIT
`;

/** What a package's own script does when the package is upgraded. */
const upgraded = (name: string) =>
  `DEBIAN_FRONTEND=noninteractive DPKG_MAINTSCRIPT_PACKAGE=${name} DPKG_MAINTSCRIPT_NAME=postinst /var/lib/dpkg/info/${name}.postinst configure $(dpkg-query -W -f '\${Version}' ${name}) </dev/null`;
const installed = (name: string) => `DEBIAN_FRONTEND=noninteractive dpkg --install /var/lib/others/${name}/*.deb`;
const withoutUfw = "DEBIAN_FRONTEND=noninteractive dpkg --purge ufw && systemctl restart fail2ban";

const others: [string, { setUp: string; upgrade: string; restart: string; back: string }][] = [
  [
    "firewalld",
    {
      setUp: `${withoutUfw}; ${installed("firewalld")} && systemctl enable --now firewalld && until firewall-cmd --state; do sleep 0.2; done
        firewall-cmd --permanent --add-port 25/tcp; firewall-cmd --permanent --add-port 22/tcp; firewall-cmd --reload`,
      upgrade: installed("firewalld"),
      restart: "systemctl restart firewalld; firewall-cmd --state; systemctl start firewalld",
      back: "firewalld",
    },
  ],
  [
    "nftables",
    {
      setUp: `${withoutUfw}; printf 'flush ruleset\\ntable inet host-firewall {\\n chain input { type filter hook input priority 0; policy accept; tcp dport 143 drop; }\\n}\\n' >/etc/nftables.conf; systemctl enable --now nftables`,
      upgrade: upgraded("nftables"),
      restart: "systemctl restart nftables; systemctl stop nftables; systemctl reload nftables",
      back: "nftables",
    },
  ],
  [
    "netfilter-persistent",
    {
      setUp: `${withoutUfw}; ${installed("iptables-persistent")}; printf '*filter\\n-A INPUT -p tcp --dport 143 -j DROP\\nCOMMIT\\n' | tee /etc/iptables/rules.v4 >/etc/iptables/rules.v6
        systemctl enable netfilter-persistent; systemctl restart netfilter-persistent`,
      upgrade: installed("iptables-persistent"),
      restart:
        "systemctl restart netfilter-persistent; systemctl restart iptables; systemctl stop netfilter-persistent",
      back: "netfilter-persistent",
    },
  ],
  [
    "ufw that manages the built-in chains",
    {
      setUp: "sed -i 's/^MANAGE_BUILTINS=.*/MANAGE_BUILTINS=yes/' /etc/default/ufw; ufw --force enable",
      upgrade: upgraded("ufw"),
      restart: "systemctl restart ufw; systemctl stop ufw; ufw reload",
      back: "ufw",
    },
  ],
];

/** No closed port has answered, and somebody did look. */
function expectSilent(watched: Watched[]): void {
  for (const { target, port, open, refused, sent } of watched) {
    if (port === 25) expect({ target, answered: open.length > 0 }).toEqual({ target, answered: true });
    else {
      expect({ target, port, open, refused }).toEqual({ target, port, open: [], refused: [] });
      expect(sent).toBeGreaterThan(100);
    }
  }
}

describe.each(releases)("a real %s", (release) => {
  describe.each(others)("with %s", (_, { setUp, upgrade, restart, back }) => {
    let host: RealHost, client: Client;
    beforeAll(async () => {
      [host, client] = await Promise.all([startRealHost({ release }), startClient([...stranger])]);
      await must(host, setUp);
      await install(host);
      await host.reboot();
      // A port that is shut before, whatever firewalld answers to it.
      await must(
        host,
        "systemctl stop dovecot; iptables -t raw -A PREROUTING -p tcp --dport 143 -j DROP; ip6tables -t raw -A PREROUTING -p tcp --dport 143 -j DROP; systemctl start dovecot",
      );
    });
    afterAll(async () => void (await Promise.all([host?.close(), client?.close()])));

    const isLive = async () => (await host.run(`${command} status`)).code === 0;

    test("no closed port ever answers through deployment, upgrade and restart; chains of others stay", async () => {
      if (back !== "ufw") await must(host, "iptables-restore --noflush", containers);
      const foreign = async () =>
        (await filters(host))
          .split("\n")
          .filter((line) => /DOCKER|ts-input/.test(line) && !/^-A (INPUT|FORWARD)/.test(line));
      const before = await foreign();

      const deployment = await startWatch(client, stranger, host, { 143: 5, 25: 50 });
      await must(host, "true");
      const applied = await must(host, `${command} apply --rollback 60`, rulesFor());
      await must(host, "iptables -t raw -F; ip6tables -t raw -F"); // from here on 143 is ours
      expect(await must(host, `${command} confirm`, applied)).toBe("confirmed\n");
      expect(await foreign()).toEqual(before);
      expect(await openPorts(host, client, stranger)).toEqual([25, 993]);
      expectSilent(await deployment.stop());

      const life = await startWatch(client, stranger, host, { 143: 5, 3306: 5, 25: 50 });
      await host.run(upgrade);
      await host.run(restart);
      await deploy(host, rulesFor(["smtp"]));
      await deploy(host);
      expectSilent(await life.stop());
      expect(await host.run(`${command} status`)).toMatchObject({
        code: 0,
        stdout: expect.stringContaining("as deployed") as string,
      });
      await host.reboot();
      expect(await openPorts(host, client, stranger)).toEqual([25, 993]);
      expect(await isLive()).toBe(true);
    });

    test("is given back", async () => {
      expect(await must(host, `${command} remove`)).toBe("removed\n");
      expect(await must(host, `${back === "ufw" ? "ufw status" : `systemctl is-enabled ${back}`}`)).toMatch(
        /^(enabled|Status: active)/,
      );
      expect((await host.run("ls /etc/systemd/system | grep mail-firewall")).stdout).toBe("");
    });
  });

  describe("whatever flushes", () => {
    let host: RealHost, client: Client;
    beforeAll(async () => {
      [host, client] = await Promise.all([startRealHost({ release }), startClient([...stranger])]);
      await install(host);
      await deploy(host);
      await until(isLive, 20); // the watch has just been started
    });
    afterAll(async () => void (await Promise.all([host?.close(), client?.close()])));

    const isLive = async () => (await host.run(`${command} status`)).code === 0;

    test.each([
      "nft flush ruleset",
      "iptables -t mangle -F; ip6tables -t mangle -F",
      "iptables -F; iptables -X; ip6tables -F",
      "printf '*mangle\\nCOMMIT\\n*filter\\n:INPUT ACCEPT\\nCOMMIT\\n' | tee /tmp/old | iptables-restore; ip6tables-restore </tmp/old",
      "iptables -t mangle -I INPUT -j ACCEPT",
    ])("%s: our rules are back within a minute, and the journal says so", async (flush) => {
      expect(await isLive()).toBe(true);
      await must(host, flush);
      const said = async () => await must(host, "journalctl -q -u mail-firewall-watch --since -60s -o cat");
      await until(isLive, 60);
      expect(await said()).toContain("somebody has changed our rules or taken them away");
      expect(await openPorts(host, client, stranger)).toEqual([25, 993]);
      await must(host, "iptables -t mangle -D INPUT -j ACCEPT 2>/dev/null || :");
    });

    test("a pause ends by itself", async () => {
      await must(host, `${command} pause 1`);
      expect(await openPorts(host, client, stranger)).toEqual([22, 25, 143, 993, 3306]);
      await until(isLive, 90);
      expect(await openPorts(host, client, stranger)).toEqual([25, 993]);
    });

    test("a network that is up before everything, as from an initramfs, and a socket on a closed port: nobody gets in", async () => {
      const unit = `[Unit]
DefaultDependencies=no
Before=mail-firewall.service
[Service]
Type=oneshot
ExecStart=/bin/sh -c 'ip link set ${externalInterface} up; ip address add ${host.address4}/32 dev ${externalInterface}; ip address add ${host.address6}/128 dev ${externalInterface} nodad; ip route add 0.0.0.0/0 dev ${externalInterface}; ip -6 route add ::/0 dev ${externalInterface}'
[Install]
WantedBy=sysinit.target
`;
      await must(host, "cat >/etc/systemd/system/early-network.service; systemctl enable early-network", unit);
      for (let boot = 0; boot < 3; boot++) {
        const watch = await startWatch(client, stranger, host, { 3306: 5, 143: 5, 25: 50 });
        await host.reboot();
        const watched = await watch.stop();
        expect(watched.filter(({ port, open }) => port !== 25 && open.length > 0)).toEqual([]);
      }
      const order = await must(
        host,
        "systemctl show -p Before mail-firewall; journalctl -b -q -o cat | grep -ci 'ordering cycle' || :",
      );
      expect(order).toMatch(/sysinit\.target/);
      expect(order).toMatch(/\n0\n$/);
    });
  });
});
