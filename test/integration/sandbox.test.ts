// The sandbox itself: what a test of the firewall may rely on. Runs inside test/sandbox/enter.sh.
import { existsSync, readdirSync, readFileSync, readlinkSync, writeFileSync } from "node:fs";
import { networkInterfaces, tmpdir } from "node:os";
import { join } from "node:path";
import {
  defaultListen,
  execute,
  operatorKey,
  startMailHost,
  takeNumber,
  type MailHost,
  type Result,
} from "../sandbox/host";
import { ping, probe, startClient, type Client, type Probe } from "../sandbox/probe";

const source4 = "192.0.2.10";
const source6 = "2001:db8:9::10";
let host: MailHost;
let client: Client;

beforeAll(async () => {
  [host, client] = await Promise.all([startMailHost(), startClient([source4, source6])]);
});
afterAll(() => Promise.all([host?.close(), client?.close()]));
afterEach(async () => {
  await host.run("iptables -F; ip6tables -F");
});

/** A probe over each family. */
const both = (port: number, protocol: "tcp" | "udp" = "tcp", to: MailHost = host): Probe[] => [
  { source: source4, target: to.address4, protocol, port },
  { source: source6, target: to.address6, protocol, port },
];
const everyPort = (to: MailHost = host): Probe[] => [
  ...[to.sshPort, ...defaultListen.tcp].flatMap((port) => both(port, "tcp", to)),
  ...defaultListen.udp.flatMap((port) => both(port, "udp", to)),
];

function ssh(user: string, to: MailHost, command: string, hostKey = to.hostKey): Promise<Result> {
  const knownHosts = join(tmpdir(), `known-hosts-${process.pid}`);
  writeFileSync(knownHosts, `[${to.address4}]:${to.sshPort},${to.address4} ${hostKey}\n`);
  const options = [
    "StrictHostKeyChecking=yes",
    `UserKnownHostsFile=${knownHosts}`,
    "BatchMode=yes",
    "ConnectTimeout=5",
  ];
  return execute("ssh", [
    ...["-F", "none", "-i", operatorKey.file, "-p", `${to.sshPort}`],
    ...options.flatMap((option) => ["-o", option]),
    `${user}@${to.address4}`,
    command,
  ]);
}

describe("a fresh host", () => {
  test("has none of the firewalls that the machine has", async () => {
    // The sandbox has a mount namespace of its own: the machine does not see this.
    const files = ["mail-firewall/rules.v4", "ufw/ufw.conf", "nftables.conf", "ppp/ip-up.d/mail-firewall", "rc.local"];
    const make = files
      .map((file) => `mkdir -p "$(dirname /etc/${file})" && echo ENABLED=yes >/etc/${file}`)
      .join(" && ");
    const folder = join(tmpdir(), "machine");
    const overlay = `mkdir -p ${folder}/upper ${folder}/work && mount -t overlay -o lowerdir=/etc,upperdir=${folder}/upper,workdir=${folder}/work machine /etc`;
    expect(await execute("sh", ["-c", `${overlay} && ${make}`])).toMatchObject({ code: 0, stderr: "" });
    try {
      const fresh = await startMailHost();
      try {
        expect((await fresh.run(`cd /etc && ls -d ${files.join(" ")}`)).stdout).toBe("");
      } finally {
        await fresh.close();
      }
    } finally {
      expect(await execute("umount", ["--lazy", "/etc"])).toMatchObject({ code: 0 });
    }
  });

  test("answers on every port, over both families", async () => {
    const probes = everyPort();
    expect(probes).toHaveLength(2 * (1 + defaultListen.tcp.length + defaultListen.udp.length));
    expect(await probe(client, probes)).toEqual(probes.map(() => "open"));
  });

  test("answers to ping, over both families", async () => {
    expect(await ping(client, source4, host.address4)).toBe(true);
    expect(await ping(client, source6, host.address6)).toBe(true);
  });

  test("refuses where nothing listens", async () => {
    expect(await probe(client, [...both(9), ...both(9, "udp")])).toEqual(Array(4).fill("refused"));
  });

  test("has an empty filter table", async () => {
    expect((await host.save(4)).replace(/^(\*filter|:.*|COMMIT)\n/gm, "")).toBe("");
    expect((await host.save(6)).replace(/^(\*filter|:.*|COMMIT)\n/gm, "")).toBe("");
  });
});

describe("verdicts", () => {
  test("a dropped port is shut, and no other, in this family only", async () => {
    await host.run("iptables -A INPUT -p tcp --dport 143 -j DROP");
    const probes = everyPort();
    const expected = probes.map((p) => (p.port === 143 && p.target === host.address4 ? "shut" : "open"));
    expect(await probe(client, probes)).toEqual(expected);
  });

  test("a rejected port is refused, in each way there is, for each of many probes", async () => {
    await host.run(`
      iptables -A INPUT -p tcp --dport 110 -j REJECT
      ip6tables -A INPUT -p tcp --dport 110 -j REJECT
      iptables -A INPUT -p tcp --dport 143 -j REJECT --reject-with tcp-reset
      ip6tables -A INPUT -p tcp --dport 143 -j REJECT --reject-with tcp-reset
      iptables -A INPUT -p tcp --dport 80 -j REJECT --reject-with icmp-admin-prohibited
      ip6tables -A INPUT -p tcp --dport 80 -j REJECT --reject-with icmp6-adm-prohibited
      iptables -A INPUT -p udp --dport 5353 -j REJECT
      ip6tables -A INPUT -p udp --dport 5353 -j REJECT`);
    const probes = Array(25)
      .fill([...both(110), ...both(143), ...both(80), ...both(5353, "udp")])
      .flat() as Probe[];
    expect(await probe(client, probes)).toEqual(probes.map(() => "refused"));
    expect(await probe(client, both(993))).toEqual(["open", "open"]);
  });

  test("a source is told from another", async () => {
    const other = await startClient(["192.0.2.11", "192.0.2.12"]);
    await host.run("iptables -A INPUT -s 192.0.2.11 -p udp --dport 5353 -j DROP");
    const probes = ["192.0.2.11", "192.0.2.12"].map((source) => ({ ...both(5353, "udp")[0]!, source }));
    expect(await probe(other, probes)).toEqual(["shut", "open"]);
    expect(await probe(client, both(5353, "udp"))).toEqual(["open", "open"]);
    await other.close();
  });

  test("a dropped ping is not answered", async () => {
    await host.run("iptables -A INPUT -p icmp -j DROP");
    expect(await ping(client, source4, host.address4)).toBe(false);
    expect(await ping(client, source6, host.address6)).toBe(true);
  });

  test("400 probes at once take about the time-out", async () => {
    await host.run("iptables -A INPUT -p tcp --dport 143 -j DROP");
    const probes = Array.from({ length: 200 }).flatMap(() => both(143));
    const start = Date.now();
    expect(await probe(client, probes)).toEqual(probes.map((p) => (p.target === host.address4 ? "shut" : "open")));
    expect(Date.now() - start).toBeLessThan(2500);
  });

  test("a probe from an address that the client does not have is an error", async () => {
    const foreign = { ...both(25)[0]!, source: "192.0.2.99" };
    await expect(probe(client, [foreign])).rejects.toThrow("cannot bind 192.0.2.99");
  });
});

describe("ssh", () => {
  test("lets the operator in as root and as admin with sudo, with the host key pinned, and counts connections", async () => {
    const before = host.connections();
    expect(await ssh("root", host, "id -u; hostname; pwd")).toEqual({
      code: 0,
      stdout: `0\n${host.name}\n/root\n`,
      stderr: "",
    });
    expect(host.connections()).toBe(before + 1);
    expect(await ssh("admin", host, "id -un; sudo -n id -u")).toEqual({ code: 0, stdout: "admin\n0\n", stderr: "" });
    expect(host.connections()).toBe(before + 2);
  });

  test("a wrong host key ends the connection", async () => {
    const other = await startMailHost({ listen: { tcp: [], udp: [] } });
    const { code, stderr } = await ssh("root", host, "true", other.hostKey);
    expect(code).toBe(255);
    expect(stderr).toContain("Host key verification failed");
    await other.close();
  });

  test("on another port", async () => {
    const other = await startMailHost({ sshPort: 2222, listen: { tcp: [], udp: [] } });
    expect(await ssh("root", other, "true")).toMatchObject({ code: 0, stderr: "" });
    expect(await probe(client, both(22, "tcp", other))).toEqual(["refused", "refused"]);
    await other.close();
  });
});

describe("run and save", () => {
  test("run passes stdin, output, errors and the exit code", async () => {
    expect(await host.run("cat; echo oops >&2; exit 3", "in")).toEqual({ code: 3, stdout: "in", stderr: "oops\n" });
  });

  test("save prints rules and zero counters, without comments", async () => {
    await host.run("iptables -A INPUT -p tcp --dport 143 -j DROP; ip6tables -A INPUT -p tcp --dport 110 -j DROP");
    await probe(client, both(143));
    expect(await host.save(4)).toBe(`*filter
:INPUT ACCEPT [0:0]
:FORWARD ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
-A INPUT -p tcp -m tcp --dport 143 -j DROP
COMMIT
`);
    expect(await host.save(6)).toContain("-A INPUT -p tcp -m tcp --dport 110 -j DROP\n");
  });
});

describe("separation", () => {
  test("two hosts have their own rules, files, names and keys", async () => {
    const other = await startMailHost({ name: "relay" });
    await other.run("iptables -P INPUT DROP; echo hers >/etc/note");
    expect(await probe(client, [...both(25), both(25, "tcp", other)[0]!])).toEqual(["open", "open", "shut"]);
    expect(await host.run("cat /etc/note")).toMatchObject({ code: 1 });
    expect((await other.run("hostname")).stdout).toBe("relay\n");
    expect(other.hostKey).not.toBe(host.hostKey);
    await other.close();
  });

  test("a host's files are not the machine's", async () => {
    const files = [
      "/etc/mail-firewall/rules.v4",
      "/usr/local/sbin/mail-firewall",
      "/run/mail-firewall.lock",
      "/var/lib/mail-firewall",
      "/tmp/mail-firewall-test",
      "/root/mail-firewall-test",
    ];
    const { code } = await host.run(
      `set -e; mkdir -p /etc/mail-firewall; for file in ${files.join(" ")}; do echo x >$file; done`,
    );
    expect(code).toBe(0);
    expect(files.filter((file) => existsSync(file))).toEqual([]);
    expect((await host.run(`cat ${files.join(" ")}`)).stdout).toBe("x\n".repeat(files.length));
    expect(readFileSync("/etc/passwd", "utf8")).not.toContain("/home/admin:/bin/bash");
  });

  test.each(["nft", "legacy"] as const)("the %s backend is what it claims to be", async (backend) => {
    const other = await startMailHost({ backend, listen: { tcp: [143], udp: [] } });
    const mode = backend === "nft" ? "(nf_tables)" : "(legacy)";
    for (const tool of ["iptables", "iptables-save", "iptables-restore", "ip6tables", "ip6tables-save"]) {
      expect((await other.run(`${tool} -V`)).stdout).toContain(mode);
      expect((await other.run(`/usr/sbin/${tool} -V`)).stdout).toContain(mode);
    }
    expect((await ssh("admin", other, "sudo iptables -A INPUT -p tcp --dport 143 -j DROP")).code).toBe(0);
    expect(await probe(client, both(143, "tcp", other))).toEqual(["shut", "open"]);
    expect(await other.save(4)).toContain("-A INPUT -p tcp -m tcp --dport 143 -j DROP\n");
    await other.close();
  });
});

describe("life and death", () => {
  // Other test files may use the sandbox at the same time, so each looks for its own remains only.
  const processes = (about: (pid: string) => boolean): string[] =>
    readdirSync("/proc").filter((pid) => {
      try {
        return /^\d+$/.test(pid) && about(pid);
      } catch {
        return false; // it has just ended
      }
    });

  test("close leaves no process, namespace or wire, not even of a daemon", async () => {
    const other = await startMailHost();
    const { stdout } = await other.run("readlink /proc/1/ns/net /proc/1/ns/mnt /proc/1/ns/uts /proc/1/ns/pid");
    const namespaces = stdout.trim().split("\n");
    expect(namespaces).toHaveLength(4);
    const inside = (pid: string): boolean =>
      ["net", "mnt", "uts", "pid"].some((kind) => namespaces.includes(readlinkSync(`/proc/${pid}/ns/${kind}`)));
    const wire = `port${other.pid}`;
    const claim = join(tmpdir(), `mail-host-${other.address4.split(".")[3]}`);

    await other.run("setsid -f sh -c 'trap \"\" HUP TERM INT; sleep 1000; true' >/dev/null 2>&1 </dev/null");
    expect((await other.run("pgrep -f 'sleep 1000'")).code).toBe(0);
    const inhabitants = processes(inside);
    expect(inhabitants.length).toBeGreaterThanOrEqual(5); // init, cat, sshd, listeners, daemon
    expect(networkInterfaces()).toHaveProperty(wire);
    expect(existsSync(claim)).toBe(true);

    await other.close();
    await other.close(); // twice does no harm
    // By process, as the kernel gives a namespace's number to the next one at once.
    expect(inhabitants.filter((pid) => existsSync(`/proc/${pid}`))).toEqual([]);
    expect(networkInterfaces()).not.toHaveProperty(wire);
    expect(existsSync(claim)).toBe(false);
  });

  test("an address can move to another client at once, over both families", async () => {
    for (let round = 0; round < 4; round++) {
      const mover = await startClient(["192.0.2.20", "2001:db8:9::20"]);
      const probes = both(25).map((p, family) => ({ ...p, source: ["192.0.2.20", "2001:db8:9::20"][family]! }));
      expect(await probe(mover, probes)).toEqual(["open", "open"]);
      await mover.close();
    }
  });

  test("so can an address of a host: nobody keeps talking to the old one", async () => {
    const place = takeNumber();
    for (let round = 0; round < 3; round++) {
      const other = await startMailHost({ place, listen: { tcp: [25], udp: [] } });
      expect(other.address4).toBe(place.address4);
      expect(await probe(client, both(25, "tcp", other))).toEqual(["open", "open"]);
      await other.close();
    }
    place.release();
  });

  test("two clients with one address are an error", async () => {
    await expect(startClient(["192.0.2.30", source4])).rejects.toThrow(`${source4} belongs to another client`);
    await (await startClient(["192.0.2.30"])).close();
  });

  test("six hosts at once get different addresses, each in about a second", async () => {
    const start = Date.now();
    const hosts = await Promise.all(Array.from({ length: 6 }, () => startMailHost()));
    expect(Date.now() - start).toBeLessThan(6_000);
    expect(new Set(hosts.map((h) => h.address4)).size).toBe(6);
    expect(new Set(hosts.map((h) => h.address6)).size).toBe(6);
    expect(
      await probe(
        client,
        hosts.flatMap((h) => both(993, "tcp", h)),
      ),
    ).toEqual(Array(12).fill("open"));
    await Promise.all(hosts.map((h) => h.close()));
  });

  test("a host that does not come up says why, and leaves nothing", async () => {
    const name = `stillborn-${process.pid}`;
    const ofIt = (pid: string): boolean => readFileSync(`/proc/${pid}/environ`, "utf8").includes(`NAME=${name}\0`);
    await expect(startMailHost({ name, sshPort: 70000 })).rejects.toThrow(/did not start[^]*[Bb]ad(ly)? .*port/);
    const twice = { tcp: [25, 25], udp: [] };
    await expect(startMailHost({ name, listen: twice })).rejects.toThrow(/did not start[^]*port 25/);
    expect(processes(ofIt)).toEqual([]);
  });
});
