// Throw-away mail hosts on the sandbox's bridge. Runs inside enter.sh.
import { execFileSync, spawn, type ChildProcessWithoutNullStreams } from "node:child_process";
import { createHash } from "node:crypto";
import { appendFileSync, cpSync, existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, statSync } from "node:fs";
import type { Socket } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";

import { madeOnce } from "./madeOnce";

/** A throw-away mail host: its own network, mount, UTS and pid namespaces, a real sshd, real iptables, IPv4 and IPv6. */
export interface MailHost {
  readonly name: string;
  readonly address4: string;
  readonly address6: string;
  readonly sshPort: number;
  /** "ssh-ed25519 AAAA…" */
  readonly hostKey: string;
  /** Its pid 1, as the sandbox sees it: `nsenter -t`, /proc/PID/root. */
  readonly pid: number;
  /** As root inside, via nsenter, without SSH. */
  run(command: string, stdin?: string): Promise<Result>;
  /** All tables in `iptables-save` form, without comment lines, packet counters zero. */
  save(family: 4 | 6): Promise<string>;
  /** TCP connections that sshd has seen so far: a probe of its port is one too. */
  connections(): number;
  /** Ends everything on the host, and the host. */
  close(): Promise<void>;
}

export interface MailHostOptions {
  name?: string;
  backend?: "nft" | "legacy";
  sshPort?: number;
  /** Ports that answer, on both families; instead of `defaultListen`. TCP and UDP both echo. */
  listen?: { tcp: number[]; udp: number[] };
  /** A folder with programs that only this host has: it is laid over /usr. */
  usr?: string;
  /** Where it is, of {@link takeNumber}, which stays taken when it ends. */
  place?: Place;
  /** The private key of its sshd, in place of one of its own. */
  hostKey?: string;
  /** Who may log in, in place of the operator. */
  authorizedKey?: string;
}

export interface Result {
  code: number;
  stdout: string;
  stderr: string;
}

/** Mail ports, and some that nobody names in a policy: a shut port then means that the firewall dropped the packet. */
export const defaultListen = {
  tcp: [25, 80, 110, 143, 443, 465, 587, 993, 995, 4190, 21, 3306, 8080],
  udp: [51820, 5353],
};

/** What the operator logs in with, as root and as admin on every host: one key for all processes of a sandbox. */
export const operatorKey = makeKey();

interface OperatorKey {
  readonly privateKey: string;
  readonly publicKey: string;
  readonly file: string;
  /** The folder in which it is `.ssh/id_ed25519`. */
  readonly home: string;
}

function makeKey(): OperatorKey {
  // Also the first thing that fails where this module is used on the machine itself.
  // Not os.networkInterfaces(), which leaves out a bridge that nothing is plugged into.
  if (!readFileSync("/proc/net/if_inet6", "utf8").includes("20010db8011300000000000000000001")) {
    throw new Error("no sandbox here: run this through test/sandbox/enter.sh");
  }
  const common = madeOnce("operator", (folder) => {
    execFileSync("ssh-keygen", ["-q", "-t", "ed25519", "-N", "", "-C", "operator", "-f", join(folder, "id_ed25519")]);
  });
  const home = mkdtempSync(join(tmpdir(), "operator-"));
  cpSync(common, join(home, ".ssh"), { recursive: true });
  const file = join(home, ".ssh", "id_ed25519");
  return { privateKey: readFileSync(file, "utf8"), publicKey: readFileSync(`${file}.pub`, "utf8").trim(), file, home };
}

/** Debian's own Python: what comes first in PATH may be a slow wrapper, or lie in a home that a host does not see. */
export const python = existsSync("/usr/bin/python3") ? "/usr/bin/python3" : "python3";
export const agent = join(__dirname, "agent.py");

export const systemPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/** Runs a program to its end. A failure to start it is an error, its exit code is not. */
export function execute(file: string, args: string[], stdin = "", env = process.env): Promise<Result> {
  return new Promise((resolve, reject) => {
    const child = spawn(file, args, { stdio: "pipe", env, cwd: "/" });
    const output = { stdout: "", stderr: "" };
    for (const stream of ["stdout", "stderr"] as const) {
      child[stream].setEncoding("utf8").on("data", (text: string) => (output[stream] += text));
    }
    child.on("error", reject).on("close", (code) => resolve({ code: code ?? 255, ...output }));
    child.stdin.on("error", () => {}).end(stdin); // the program may well end without having read it
  });
}

async function mustRun(file: string, args: string[], stdin?: string): Promise<void> {
  const { code, stderr } = await execute(file, args, stdin);
  if (code !== 0) throw new Error(`${file} ${args.join(" ")}: ${stderr.trim() || `exit code ${code}`}`);
}

/** However often it is called: a second `close` must not release what somebody else has taken since. */
export function once(action: () => Promise<void>): () => Promise<void> {
  let result: Promise<void> | undefined;
  return () => (result ??= action());
}

/** A machine on the bridge. `pid` is a process of its own in its namespaces, which end with it. */
export interface Machine {
  readonly pid: number;
  /** Waits for a line of output; if the machine ends or stays silent instead, the error says why. */
  line(): Promise<string>;
  /** From here on it does not keep this process from ending: a failed test that closes nothing must not hang Jest. */
  started(): void;
  close(): Promise<void>;
}

// Starts every script: its first line of output is its pid as the sandbox knows it.
const prologue = `set -eu
read -r pid _ </proc/self/stat
echo "$pid"
`;

// Without the kernel's limits on ICMP errors, each of many probes sees a REJECT.
const machinePrologue = `echo 0 >/proc/sys/net/ipv4/icmp_ratemask
echo >/proc/sys/net/ipv6/icmp/ratemask
`;

/** A machine with a network of its own. */
export interface NetworkMachine extends Machine {
  /** Runs commands of `ip` in its network, one a line. */
  configure(commands: string[]): Promise<void>;
}

/** Always the same for an address: when it moves to the next machine, what its neighbours remember stays true. */
export const macOf = (address: string): string =>
  ["02", ...createHash("sha256").update(address).digest("hex").match(/../g)!.slice(0, 5)].join(":");

/** Whether a child keeps this process from ending. */
export function holdOpen(child: ChildProcessWithoutNullStreams, hold: boolean): void {
  const pipes = [child.stdin, child.stdout, child.stderr] as Socket[];
  for (const handle of [child, ...pipes]) handle[hold ? "ref" : "unref"]();
}

/**
 * Starts `sh` in fresh namespaces. It lives until `close`, or until this process ends: the script's last command reads
 * stdin up to its end.
 */
export async function startScript(
  title: string,
  namespaces: string[],
  script: string,
  env: Record<string, string> = {},
): Promise<Machine> {
  const child = spawn("unshare", [...namespaces, "--", "sh", "-c", prologue + script], {
    stdio: "pipe",
    env: { PATH: systemPath, ...env },
    cwd: "/",
    detached: true, // Ctrl-C is for the operator, who may have something to finish on the host
  });
  let complaints = "";
  child.stderr.setEncoding("utf8").on("data", (text: string) => (complaints += text));
  child.stdin.on("error", () => {});
  const ended = new Promise<void>((resolve, reject) => child.on("error", reject).on("close", () => resolve()));
  const lines = createInterface({ input: child.stdout })[Symbol.asyncIterator]();

  const line = async (): Promise<string> => {
    const timer = setTimeout(() => child.kill("SIGKILL"), 15_000);
    const next = await lines.next();
    clearTimeout(timer);
    if (!next.done) return next.value;
    await ended;
    throw new Error(`${title} did not start: ${complaints.trim() || "no word from it in 15 s"}`);
  };

  const pid = Number(await line());
  const close = once(async () => {
    holdOpen(child, true);
    try {
      process.kill(pid, "SIGKILL");
    } catch {
      // It has ended already.
    }
    await ended;
  });
  return { pid, line, close, started: () => holdOpen(child, false) };
}

/** An address of a machine, in the words of `ip`. */
export const assign = (address: string) =>
  `address add ${address}${address.includes(":") ? "/128 nodad" : "/32"} dev eth0`;

/** The same with a network of its own: these addresses on eth0, and everything on-link. */
export async function startMachine(
  title: string,
  addresses: string[],
  namespaces: string[],
  script: string,
  env: Record<string, string> = {},
): Promise<NetworkMachine> {
  const machine = await startScript(title, namespaces, machinePrologue + script, env);
  const { pid } = machine;
  const port = `port${pid}`;
  const configure = (commands: string[]) =>
    mustRun("nsenter", ["-t", `${pid}`, "--net", "ip", "-batch", "-"], commands.join("\n"));
  const close = once(async () => {
    await machine.close();
    await execute("ip", ["link", "delete", port]); // the kernel would do it too, a little later
  });
  try {
    const wire = [
      `link add ${port} type veth peer name eth0 address ${macOf(addresses[0] ?? port)} netns ${pid}`,
      `link set ${port} master br0 up`,
    ];
    await mustRun("ip", ["-batch", "-"], wire.join("\n"));
    await configure([
      "link set lo up",
      "link set eth0 up",
      ...addresses.map(assign),
      "route add 0.0.0.0/0 dev eth0",
      "route add ::/0 dev eth0",
    ]);
  } catch (error) {
    await close();
    throw error;
  }
  return { ...machine, configure, close };
}

const sshdLog = "/var/log/sshd.log";

// Runs as pid 1 of a host. Whatever it and the host's users write to lies in tmpfs, and ends with the mount namespace.
const hostScript = `
fail() { echo "$*" >&2; exit 1; }
for tool in sshd ssh-keygen sudo "iptables-$BACKEND" "ip6tables-$BACKEND" "$PYTHON"; do
  command -v "$tool" >/dev/null || fail "$tool is missing: apt-get install openssh-server sudo iptables python3"
done
exec 4<"$AGENT" # before its folder is hidden
mount -t proc proc /proc
mount -t sysfs sysfs /sys
echo "$NAME" >/proc/sys/kernel/hostname

mount -t tmpfs -o mode=755 host /run
for dir in etc usr var; do
  mkdir -p "/run/$dir/upper" "/run/$dir/work"
  lower=/$dir
  if [ "$dir" = usr ] && [ -n "$USR" ]; then lower=$USR:/usr; fi
  mount -t overlay -o "lowerdir=$lower,upperdir=/run/$dir/upper,workdir=/run/$dir/work" "host-$dir" "/$dir"
done
mount -t tmpfs -o mode=755 host /run # hides the overlays' own folders
# The machine may have firewalls of its own, ours among them. A host has none.
rm -rf /etc/mail-firewall /usr/local/sbin/mail-firewall /etc/systemd/system/mail-firewall* /etc/rc.local /etc/ufw /etc/default/ufw \
  /etc/nftables.conf /etc/firewalld /etc/fail2ban /etc/ppp /etc/NetworkManager /etc/networkd-dispatcher
mount -t tmpfs -o mode=1777 host /tmp
mount -t tmpfs -o mode=700 host /root
mount -t tmpfs -o mode=755 host /home
mkdir -p /run/lock /run/sshd

for tool in iptables ip6tables; do
  for part in "" -save -restore; do ln -sf "/usr/sbin/$tool-$BACKEND$part" "/etc/alternatives/$tool$part"; done
done

sed -i -e '/^admin:/d' -e 's|^root:.*|root:x:0:0:root:/root:/bin/bash|' /etc/passwd
sed -i -e '/^admin:/d' -e 's|^root:[^:]*:|root:*:|' /etc/shadow # "*": no password, but not locked
sed -i -e '/^admin:/d' /etc/group
echo 'admin:x:4000:4000::/home/admin:/bin/bash' >>/etc/passwd
echo 'admin:*:19000:0:99999:7:::' >>/etc/shadow
echo 'admin:x:4000:' >>/etc/group
mkdir -m 700 /home/admin
chown 4000:4000 /home/admin
echo 'admin ALL=(ALL:ALL) NOPASSWD: ALL' >/etc/sudoers.d/admin
chmod 440 /etc/sudoers.d/admin
echo "$ADDRESS4 $NAME" >>/etc/hosts # sudo looks itself up

rm -f /etc/ssh/ssh_host_*
if [ -n "$HOST_KEY" ]; then
  (umask 077; printf '%s' "$HOST_KEY" >/etc/ssh/ssh_host_ed25519_key)
  ssh-keygen -y -f /etc/ssh/ssh_host_ed25519_key >/etc/ssh/ssh_host_ed25519_key.pub
else
  ssh-keygen -q -t ed25519 -N "" -C "$NAME" -f /etc/ssh/ssh_host_ed25519_key
fi
echo "$OPERATOR_KEY" >/etc/ssh/operator_keys
cat >/etc/ssh/sshd_config <<END
Port $SSH_PORT
HostKey /etc/ssh/ssh_host_ed25519_key
AuthorizedKeysFile /etc/ssh/operator_keys
PermitRootLogin prohibit-password
PasswordAuthentication no
KbdInteractiveAuthentication no
UsePAM no
UseDNS no
PrintMotd no
LogLevel VERBOSE
MaxStartups 1000
MaxSessions 100
PidFile /run/sshd.pid
Subsystem sftp internal-sftp
END
# Probes connect and say nothing, for which newer versions would shut the prober out.
if sshd -t -o PerSourcePenalties=no 2>/dev/null; then echo "PerSourcePenalties no" >>/etc/ssh/sshd_config; fi

"$(command -v sshd)" -D -E ${sshdLog} &
sshd=$!
"$PYTHON" - listen "$LISTEN" <&4 >/run/listeners.log &
listeners=$!
exec 4<&-
until [ -s /run/sshd.pid ] && [ -s /run/listeners.log ]; do
  kill -0 "$sshd" || { cat ${sshdLog} >&2; fail "sshd has ended"; }
  kill -0 "$listeners" || fail "the listeners have ended"
  sleep 0.01
done
echo ready
cat >/dev/null # until the starter closes stdin or ends; meanwhile the shell reaps orphans
`;

export interface Place {
  readonly number: number;
  readonly address4: string;
  readonly address6: string;
  readonly release: () => void;
}

/**
 * 198.51.100.N and 2001:db8:51::N. A folder per N in $TMPDIR makes it unique among the sandbox's processes. They take turns, by the size
 * of a file, so that the address of a host that has gone is nobody else's for long: a test may look whether it is.
 */
export function takeNumber(): Place {
  for (let tries = 0; tries < 254; tries++) {
    const turns = join(tmpdir(), "mail-host-turns");
    appendFileSync(turns, ".");
    const number = (statSync(turns).size % 254) + 1;
    try {
      const folder = join(tmpdir(), `mail-host-${number}`);
      mkdirSync(folder);
      return {
        number,
        address4: `198.51.100.${number}`,
        address6: `2001:db8:51::${number}`,
        release: () => rmSync(folder, { recursive: true, force: true }),
      };
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== "EEXIST") throw error;
    }
  }
  throw new Error("254 mail hosts are running: close some");
}

/**
 * A host's `save`, by its `run`: the tables by name, without those that hold nothing. Whoever has once loaded a table leaves it there.
 */
export const saver =
  (run: MailHost["run"]): MailHost["save"] =>
  async (family) => {
    const { code, stdout, stderr } = await run(`${family === 4 ? "iptables" : "ip6tables"}-save`);
    if (code !== 0) throw new Error(`iptables-save: ${stderr}`);
    const tables = stdout
      .replace(/^#.*\n/gm, "")
      .replace(/^(:.*) \[\d+:\d+\]$/gm, "$1 [0:0]")
      .split(/(?<=^COMMIT\n)/m)
      .filter((table) => !/^\*\w+\n(:[A-Z]+ ACCEPT \[0:0\]\n)*COMMIT\n$/.test(table));
    return tables.sort().join("");
  };

export async function startMailHost(options: MailHostOptions = {}): Promise<MailHost> {
  const { number, address4, address6, release } = options.place ?? takeNumber();
  const name = options.name ?? `mx${number}`;
  const sshPort = options.sshPort ?? 22;
  const listen = options.listen ?? defaultListen;

  let machine: Machine | undefined;
  const close = once(async () => {
    await machine?.close();
    if (!options.place) release();
  });
  try {
    machine = await startMachine(
      `mail host ${name}`,
      [address4, address6],
      ["--net", "--mount", "--uts", "--pid", "--fork", "--kill-child"],
      hostScript,
      {
        NAME: name,
        BACKEND: options.backend ?? "nft",
        ADDRESS4: address4,
        SSH_PORT: `${sshPort}`,
        OPERATOR_KEY: options.authorizedKey ?? operatorKey.publicKey,
        HOST_KEY: options.hostKey ?? "",
        PYTHON: python,
        AGENT: agent,
        USR: options.usr ?? "",
        LISTEN: JSON.stringify({ tcp: listen.tcp.filter((port) => port !== sshPort), udp: listen.udp }),
      },
    );
    await machine.line(); // "ready"
    machine.started();
  } catch (error) {
    await close();
    throw error;
  }

  const { pid } = machine;
  const inside = (path: string): string => readFileSync(`/proc/${pid}/root${path}`, "utf8");
  const run = (command: string, stdin?: string): Promise<Result> =>
    execute("nsenter", ["-t", `${pid}`, "--net", "--mount", "--uts", "--pid", "--", "sh", "-c", command], stdin, {
      PATH: systemPath,
      HOME: "/root",
    });
  return {
    name,
    address4,
    address6,
    sshPort,
    hostKey: inside("/etc/ssh/ssh_host_ed25519_key.pub").split(" ").slice(0, 2).join(" "),
    pid,
    run,
    save: saver(run),
    connections: () => inside(sshdLog).match(/^Connection from /gm)?.length ?? 0,
    close,
  };
}
