// The real mail host itself: what a drill on it may rely on. Runs inside test/sandbox/enter.sh.
import { existsSync, readdirSync, readlinkSync, writeFileSync } from "node:fs";
import { networkInterfaces, tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout } from "node:timers/promises";
import { execute, operatorKey, type Result } from "../sandbox/host";
import { probe, startClient, type Client, type Verdict } from "../sandbox/probe";
import { deliverMail, readMail, startRealHost, type RealHost, type Release } from "../sandbox/realHost";

const releases = (process.env.RELEASES ?? "bookworm").split(" ") as Release[];

const stranger = { 4: "192.0.2.150", 6: "2001:db8:150::1" };
const attacker = { 4: "192.0.2.151", 6: "2001:db8:150::2" };
type Addresses = typeof stranger;

describe.each(releases)("a real %s", (release) => {
  let host: RealHost;
  let client: Client;
  let other: Client;

  beforeAll(async () => {
    [host, client, other] = await Promise.all([
      startRealHost({ release, banSeconds: 500 }),
      startClient(Object.values(stranger)),
      startClient(Object.values(attacker)),
    ]);
  }, 150_000);
  afterAll(() => Promise.all([host?.close(), client?.close(), other?.close()]));

  const output = async (command: string): Promise<string> => (await host.run(command)).stdout.trim();

  const verdicts = (from: Client, source: Addresses, port: number): Promise<Verdict[]> =>
    probe(from, [
      { source: source[4], target: host.address4, protocol: "tcp", port },
      { source: source[6], target: host.address6, protocol: "tcp", port },
    ]);

  /** `inside`: the network namespace of this process. */
  function ssh(destination: string, command: string, inside: number | "self" = "self"): Promise<Result> {
    const knownHosts = join(tmpdir(), `known-hosts-${process.pid}`);
    writeFileSync(knownHosts, `${host.address4},${host.address6} ${host.hostKey}\n`);
    const options = [
      "BatchMode=yes",
      "StrictHostKeyChecking=yes",
      `UserKnownHostsFile=${knownHosts}`,
      "ConnectTimeout=5",
    ];
    return execute("nsenter", [
      `--net=/proc/${inside}/ns/net`,
      ...["ssh", "-F", "none", "-i", operatorKey.file],
      ...options.flatMap((option) => ["-o", option]),
      destination,
      command,
    ]);
  }

  async function subjects(expected: number): Promise<string[]> {
    for (let tries = 0; tries < 50; tries++) {
      const found = await readMail(client, host);
      if (found.length >= expected) return found;
      await setTimeout(100);
    }
    throw new Error(`there are not ${expected} messages`);
  }

  test("has booted the release with systemd, and every unit is up", async () => {
    expect(await output("systemctl is-system-running")).toBe("running");
    expect(await output("cat /proc/1/comm; hostname; . /etc/os-release; echo $VERSION_CODENAME")).toBe(
      `systemd\n${host.name}\n${release}`,
    );
    expect(await output("systemctl is-active ssh ufw fail2ban postfix dovecot systemd-networkd | sort -u")).toBe(
      "active",
    );
    expect(host.bootSeconds).toBeGreaterThan(0.5);
    expect(await host.run("cat; exit 3", "in")).toEqual({ code: 3, stdout: "in", stderr: "" });
  });

  test("lets the operator in as root, and as admin with sudo, over both families", async () => {
    for (const address of [host.address4, host.address6]) {
      expect(await ssh(`root@${address}`, "id -u")).toMatchObject({ code: 0, stdout: "0\n" });
      expect(await ssh(`admin@${address}`, "id -un; sudo -n id -u")).toMatchObject({ code: 0, stdout: "admin\n0\n" });
    }
  });

  test("has ufw as an administrator set it up: in the kernel, and for packets", async () => {
    expect(await output("ufw status | head -n 1")).toBe("Status: active");
    for (const family of [4, 6] as const) {
      const rules = await host.save(family);
      const chain = `ufw${family === 6 ? "6" : ""}`;
      expect(rules).toContain(":INPUT DROP [0:0]\n");
      expect(rules).toContain(`-A INPUT -j ${chain}-before-input\n`);
      expect(rules.match(new RegExp(`^-A ${chain}-user-input .*--dport \\d+`, "gm"))).toEqual(
        [22, 25, 993, 3306].map((port) => `-A ${chain}-user-input -p tcp -m tcp --dport ${port}`),
      );
    }
    for (const port of [22, 25, 993, 3306])
      expect([port, ...(await verdicts(client, stranger, port))]).toEqual([port, "open", "open"]);
    expect(await output("ss -Htln 'sport = :143' | wc -l")).toBe("2"); // it is ufw that shuts it
    expect(await verdicts(client, stranger, 143)).toEqual(["shut", "shut"]);
  });

  test("fail2ban bans who fails to log in, and nobody else", async () => {
    expect(await output("fail2ban-client get sshd bantime")).toBe("500");
    for (const address of [host.address4, host.address6]) {
      expect(await verdicts(other, attacker, 22)).toContain("open");
      for (let times = 0; times < 3; times++) {
        expect((await ssh(`mallory@${address}`, "true", other.pid)).stderr).toContain("Permission denied");
      }
      const source = address === host.address4 ? attacker[4] : attacker[6];
      const banned = async (): Promise<boolean> => (await output("fail2ban-client status sshd")).includes(source);
      for (let tries = 0; tries < 100 && !(await banned()); tries++) await setTimeout(100);
      expect(await banned()).toBe(true);
    }
    expect(await verdicts(other, attacker, 22)).toEqual(["refused", "refused"]);
    expect(await verdicts(other, attacker, 25)).toEqual(["open", "open"]);
    expect(await verdicts(client, stranger, 22)).toEqual(["open", "open"]);
    await host.run(`fail2ban-client set sshd unbanip ${attacker[4]} ${attacker[6]}`);
    expect(await verdicts(other, attacker, 22)).toEqual(["open", "open"]);
  }, 60_000);

  test("takes mail for bob on port 25, and lets him read it over imaps, over both families", async () => {
    await deliverMail(client, host, { subject: "over IPv4" });
    expect(await subjects(1)).toEqual(["over IPv4"]);
    await deliverMail(client, host, { subject: "over IPv6", family: 6 });
    expect(await subjects(2)).toEqual(["over IPv4", "over IPv6"]);
    expect(await readMail(client, host, { family: 6 })).toEqual(["over IPv4", "over IPv6"]);
  });

  test("mail that a firewall drops is an error", async () => {
    await host.run("iptables -I INPUT -p tcp -m multiport --dports 25,993 -j DROP");
    await expect(deliverMail(client, host, { timeoutMs: 500 })).rejects.toThrow(/^deliver: .*timed out/);
    await expect(readMail(client, host, { timeoutMs: 500 })).rejects.toThrow(/^read: .*timed out/);
    await host.run("iptables -D INPUT -p tcp -m multiport --dports 25,993 -j DROP");
  });

  test("comes back from a reboot with what was written to its disk, and not with what was only in its kernel", async () => {
    const { pid } = host;
    const ids = (): Promise<string> => output("cat /etc/machine-id /proc/sys/kernel/random/boot_id");
    const [machineId, bootId] = (await ids()).split("\n");
    await host.run("echo kept >/etc/note; echo kept >/home/admin/note; iptables -N LOST; systemctl disable ufw");
    await host.reboot();
    expect(host.pid).not.toBe(pid);
    expect(existsSync(`/proc/${pid}`)).toBe(false);
    expect(await output("cat /etc/note /home/admin/note")).toBe("kept\nkept");
    expect(await ids()).toMatch(new RegExp(`^${machineId}\n(?!${bootId})`));
    expect(await output("journalctl -b -1 -u ssh | wc -l")).not.toBe("0");
    expect(await host.save(4)).not.toMatch(/LOST|ufw/);
    expect(await ssh(`admin@${host.address4}`, "sudo -n id -u")).toMatchObject({ code: 0, stdout: "0\n" });
    expect(await verdicts(client, stranger, 143)).toEqual(["open", "open"]);
    expect((await subjects(2)).length).toBe(2);
  }, 150_000);

  test("close leaves no process, wire, control group or claim, and the image as it was", async () => {
    const number = host.address4.split(".")[3]!;
    const group = `${process.env.SANDBOX_GROUP}/host-${number}`;
    const claim = join(tmpdir(), `mail-host-${number}`);
    const network = readlinkSync(`/proc/${host.pid}/ns/net`);
    const inhabitants = readdirSync("/proc").filter((pid) => {
      try {
        return /^\d+$/.test(pid) && readlinkSync(`/proc/${pid}/ns/net`) === network;
      } catch {
        return false; // it has just ended
      }
    });
    expect(inhabitants.length).toBeGreaterThan(10);
    expect(networkInterfaces()).toHaveProperty(`vb-host${number}`);
    expect([group, claim].filter((path) => !existsSync(path))).toEqual([]);

    await host.close();
    await host.close(); // twice does no harm
    expect(inhabitants.filter((pid) => existsSync(`/proc/${pid}`))).toEqual([]);
    expect(networkInterfaces()).not.toHaveProperty(`vb-host${number}`);
    expect([group, claim].filter((path) => existsSync(path))).toEqual([]);

    const next = await startRealHost({ release });
    expect((await next.run("cat /etc/note")).code).toBe(1);
    expect(next.hostKey).not.toBe(host.hostKey);
    await next.close();
  }, 150_000);
});
