// Other firewalls that a host may have: found, stopped within the window, off after a confirm, and given back. ufw: deploy.test.ts
import { command, install } from "../integration/example";
import { startClient, startWatch, type Client } from "../sandbox/probe";
import { startRealHost, type RealHost } from "../sandbox/realHost";
import { deploy, filters, must, openPorts, releases, rulesFor, until, type Source } from "./mail";

jest.setTimeout(240_000);

const stranger: Source = ["192.0.2.172", "2001:db8:172::1"];

const packages = (name: string) => `DEBIAN_FRONTEND=noninteractive dpkg --install /var/lib/others/${name}/*.deb`;
const withoutUfw = "DEBIAN_FRONTEND=noninteractive dpkg --purge ufw && systemctl restart fail2ban";

/** A table of its own, as in the example that Debian installs, and one that is included. */
const nftablesConf = `#!/usr/sbin/nft -f
flush ruleset
include "/etc/nftables.d/*.conf"
table inet filter {
	set friends {
		type ipv4_addr
		flags interval
		elements = { 203.0.113.0/24 }
	}
	chain input {
		type filter hook input priority filter; policy accept;
		tcp dport { 993, 3306 } counter drop
		ip saddr @friends accept
	}
}
`;
const included = `table ip6 more {
	chain input {
		type filter hook input priority 5; policy accept;
		tcp dport 143 drop
	}
}
table ip more {
	chain input {
		type filter hook input priority 5; policy accept;
		tcp dport 143 drop
	}
}
`;
const saved = (family: 4 | 6) => `*filter
:INPUT DROP [0:0]
:FORWARD DROP [0:0]
:OUTPUT ACCEPT [0:0]
-A INPUT -i lo -j ACCEPT
-A INPUT -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A INPUT -p ${family === 4 ? "icmp" : "ipv6-icmp"} -j ACCEPT
-A INPUT -p tcp -m multiport --dports 22,25,3306 -j ACCEPT
COMMIT
`;

/** Each with what it leaves open. */
const others: [string, { units: string[]; open: number[]; setUp: string }][] = [
  [
    "firewalld",
    {
      units: ["firewalld"],
      open: [22, 25, 3306],
      setUp: `${withoutUfw}; ${packages("firewalld")} && systemctl enable --now firewalld &&
        for port in 22 25 3306; do firewall-cmd --permanent --add-port $port/tcp; done && firewall-cmd --reload && systemctl restart fail2ban`,
    },
  ],
  [
    "nftables",
    {
      units: ["nftables"],
      open: [22, 25],
      setUp: `${withoutUfw}; mkdir /etc/nftables.d; printf '%s' '${included}' >/etc/nftables.d/more.conf
        printf '%s' '${nftablesConf}' >/etc/nftables.conf; systemctl enable --now nftables`,
    },
  ],
  [
    "netfilter-persistent",
    {
      units: ["netfilter-persistent"],
      open: [22, 25, 3306],
      setUp: `${withoutUfw}; ${packages("iptables-persistent")}
        printf '%s' '${saved(4)}' >/etc/iptables/rules.v4; printf '%s' '${saved(6)}' >/etc/iptables/rules.v6
        systemctl enable netfilter-persistent; systemctl restart netfilter-persistent fail2ban`,
    },
  ],
];

describe.each(releases)("a real %s", (release) => {
  describe.each(others)("with %s", (name, { units, open, setUp }) => {
    let host: RealHost, client: Client;
    let before: Awaited<ReturnType<typeof state>>;

    const unitFiles = () =>
      must(host, `for unit in ${units.join(" ")} fail2ban; do systemctl is-enabled $unit || :; done`);
    const state = async () => ({
      rules: await filters(host),
      // Whatever iptables knows is above.
      tables: (
        await must(
          host,
          "for t in $(nft list tables | sort | sed 's/^table //; s/ /:/' | grep -vE '^(ip|ip6):(filter|nat|mangle|raw|security)$'); do nft list table ${t%%:*} ${t#*:}; done",
        )
      ).replace(/packets \d+ bytes \d+/g, "packets 0 bytes 0"),
      units: await unitFiles(),
    });
    const isActive = async (unit: string) => (await host.run(`systemctl is-active ${unit}`)).stdout.trim();
    const status = async () => {
      const { code, stdout } = await host.run(`${command} status`);
      return [code, stdout.split("\n").filter((line) => !line.startsWith("  notice"))];
    };
    const asDeployed = [0, [expect.stringMatching(/: as deployed$/), ""]];
    const atWork = async () => {
      expect(await openPorts(host, client, stranger)).toEqual(open);
      expect(await state()).toEqual(before);
    };
    const ours = async () => {
      expect(await openPorts(host, client, stranger)).toEqual([25, 993]);
      expect(await status()).toEqual(asDeployed);
      expect(await isActive("fail2ban")).toBe("active");
    };

    beforeAll(async () => {
      [host, client] = await Promise.all([startRealHost({ release }), startClient([...stranger])]);
      await must(host, setUp);
      await install(host);
      await host.reboot(); // as every host was once, with all of its own
      before = await state();
    });
    afterAll(async () => void (await Promise.all([host?.close(), client?.close()])));

    test("is at work, and found", async () => {
      expect(before.units).toBe("enabled\n".repeat(units.length + 1));
      await atWork();
      const { stdout } = await host.run(`${command} status`);
      expect(stdout).toContain(`${name} is on beside our rules\n`);
      for (const unit of units) expect(await isActive(unit)).toBe("active");
      expect(await isActive("fail2ban")).toBe("active");
    });

    test("comes back as it was when no confirm arrives", async () => {
      await must(host, `${command} apply --rollback 10`, rulesFor());
      expect(await openPorts(host, client, stranger)).toEqual([25, 993]);
      expect(await isActive("fail2ban")).toBe("active");
      await until(async () => (await host.run("ls /run/mail-firewall/pending")).code !== 0, 20);
      await atWork();
      expect(await isActive("fail2ban")).toBe("active");
    });

    test("comes back with a reboot within the window", async () => {
      await must(host, `${command} apply --rollback 600`, rulesFor());
      expect(await openPorts(host, client, stranger)).toEqual([25, 993]);
      await host.reboot();
      await atWork();
    });

    test("is off after a confirm, now and after a reboot", async () => {
      await deploy(host);
      await ours();
      await must(host, `${command} apply`, rulesFor()); // the same once more
      expect((await host.run("ls /run/mail-firewall/pending")).code).not.toBe(0);
      await deploy(host, rulesFor(["smtp"]));
      await deploy(host);
      await ours();
    });

    // netfilter-persistent is not at work once it has loaded its rules.
    if (name !== "netfilter-persistent")
      test("is back when it was started by hand and no confirm arrives, whatever was applied in between", async () => {
        const onBesideOurs = async () => (await host.run(`${command} status`)).stdout.includes(`${name} is on beside`);
        await must(host, `systemctl unmask ${name}; systemctl restart ${name}`); // which flushes ours, too
        expect(await onBesideOurs()).toBe(true);
        await must(host, `${command} apply --rollback 600`, rulesFor(["smtp"]));
        await must(host, `${command} apply --rollback 10`, rulesFor()); // those that are confirmed
        expect(await onBesideOurs()).toBe(false);
        await until(async () => (await host.run("ls /run/mail-firewall/pending")).code !== 0, 30);
        expect(await onBesideOurs()).toBe(true);
        await deploy(host);
        await ours();
      });

    test.each(["before a reboot", "after one"])("is given back by remove, %s; the host is never open", async (when) => {
      if (when === "after one") {
        await deploy(host);
        await host.reboot();
        await ours();
        for (const unit of units) expect(await isActive(unit)).toBe("inactive");
      }
      const watch = await startWatch(client, stranger, host, { 143: 2, 25: 50 });
      expect(await must(host, `${command} remove`)).toBe("removed\n");
      const watched = await watch.stop();
      const silent = name === "firewalld" ? ("open" as const) : undefined; // firewalld's own answer is to refuse
      for (const { target, port, open: accepted, refused } of watched) {
        if (port === 25) expect(accepted.length).toBeGreaterThan(2);
        else
          expect({ target, accepted, refused: silent ? [] : refused }).toEqual({ target, accepted: [], refused: [] });
      }
      await atWork();
      expect(await isActive("fail2ban")).toBe("active");
      await host.reboot();
      await atWork();
      for (const unit of units) expect(await isActive(unit)).toBe("active");
      expect(await isActive("fail2ban")).toBe("active");
    });
  });
});
