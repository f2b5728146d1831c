// Real mail hosts on the sandbox's bridge: a Debian that boots with systemd, as an administrator left it (tools/host-image.sh).
// Runs inside enter.sh.
import { execFileSync } from "node:child_process";
import { randomBytes } from "node:crypto";
import { readFileSync } from "node:fs";
import { connect } from "node:net";
import { join } from "node:path";
import { setTimeout } from "node:timers/promises";
import { execute, macOf, once, operatorKey, saver, startScript, systemPath, takeNumber } from "./host";
import type { MailHost, Machine, Result } from "./host";
import { ask, type Client } from "./probe";

export type Release = "bullseye" | "bookworm" | "trixie";

export interface RealHostOptions {
  /** Default: bookworm. */
  release?: Release;
  name?: string;
  /** How long fail2ban's jail sshd bans an address after three failed logins. Default: 600. */
  banSeconds?: number;
}

/**
 * A booted Debian with its own sshd, ufw (default deny; OpenSSH, 25, 993 and 3306 allowed), fail2ban, Postfix for bob on 25,
 * Dovecot on 993 and, shut by ufw, on 143, and an echo on 3306. root and admin (sudo without a password) log in with
 * `operatorKey`. What is written to its disk outlives `reboot`, and ends with `close`.
 */
export interface RealHost extends Omit<MailHost, "connections"> {
  /** Its systemd, as the sandbox sees it. Another one after `reboot`. */
  readonly pid: number;
  /** From the start until sshd answered and systemd had started everything. */
  readonly bootSeconds: number;
  /** By `systemctl reboot`. Returns when sshd answers the operator again and systemd has started everything. */
  reboot(): Promise<void>;
}

/** The local user who gets mail. The password is also in tools/host-image.sh. */
export const mailbox = { user: "bob", password: "secret", address: "bob@example.org" };

const bootTimeout = 120_000;

/** The interface to the outside world on a real host, as systemd-nspawn calls it. */
export const externalInterface = "host0";

// What is each host's own. /run is hidden first: systemd-nspawn keeps its locks there. Nothing else of the machine is written to.
const script = `
mount -t proc proc /proc
mkdir "$GROUP"
echo 0 >"$GROUP/cgroup.procs"
mount -t tmpfs -o mode=755 host /run
cd /run
mkdir image upper work root
mount --bind "$IMAGE" image
mount -t overlay -o lowerdir=image,upperdir=upper,workdir=work host root

echo "$NAME" >root/etc/hostname
echo "$ADDRESS4 $NAME" >>root/etc/hosts
echo "$MACHINE_ID" >root/etc/machine-id
ssh-keygen -q -t ed25519 -N "" -C "$NAME" -f root/etc/ssh/ssh_host_ed25519_key
for home in root/root root/home/admin; do
  mkdir -p -m 700 "$home/.ssh"
  echo "$OPERATOR_KEY" >"$home/.ssh/authorized_keys"
  chown -R --reference "$home" "$home/.ssh"
done
printf '[DEFAULT]\\nbantime = %s\\n' "$BAN_SECONDS" >root/etc/fail2ban/jail.d/zz-bantime.local
# Read before systemd's own 80-container-host0.network.
cat >root/etc/systemd/network/10-${externalInterface}.network <<END
[Match]
Name=${externalInterface}
[Link]
MACAddress=$MAC
[Network]
IPv6AcceptRA=no
[Address]
Address=$ADDRESS4/32
[Address]
Address=$ADDRESS6/128
DuplicateAddressDetection=none
[Route]
Destination=0.0.0.0/0
Scope=link
[Route]
Destination=::/0
END

while
  code=0
  # A host that reboots ends with 133: with --keep-unit its starter is to start it again.
  systemd-nspawn --quiet --boot --directory=/run/root --machine="$MACHINE" --network-bridge=br0 --register=no --keep-unit \\
    --settings=no --link-journal=no --resolv-conf=off --timezone=off --console=pipe </dev/null >>console.log 2>&1 || code=$?
  [ "$code" = 133 ]
do :; done &
echo ready
cat >/dev/null # until the starter closes stdin or ends
`;

export async function startRealHost(options: RealHostOptions = {}): Promise<RealHost> {
  const from = Date.now();
  if (!process.env.SANDBOX_GROUP)
    throw new Error("systemd cannot boot here: this machine mounts no cgroup2 in the sandbox");
  const image = findImage(options.release ?? "bookworm");
  const { number, address4, address6, release } = takeNumber();
  const name = options.name ?? `mx${number}`;
  const group = `${process.env.SANDBOX_GROUP}/host-${number}`;

  let machine: Machine | undefined;
  const close = once(async () => {
    await machine?.close();
    await execute("find", [group, "-depth", "-type", "d", "-delete"]);
    release();
  });
  try {
    machine = await startScript(`real host ${name}`, ["--mount", "--pid", "--fork", "--kill-child"], script, {
      IMAGE: image,
      GROUP: group,
      NAME: name,
      MACHINE: `host${number}`, // also in its wire's name, vb-hostN
      MACHINE_ID: randomBytes(16).toString("hex"),
      MAC: macOf(address4),
      ADDRESS4: address4,
      ADDRESS6: address6,
      OPERATOR_KEY: operatorKey.publicKey,
      BAN_SECONDS: `${options.banSeconds ?? 600}`,
    });
    await machine.line(); // "ready"
    machine.started();
    const starter = machine.pid;
    const file = (path: string): string => readFileSync(`/proc/${starter}/root/run/${path}`, "utf8");

    let pid = 0;
    const run = (command: string, stdin?: string): Promise<Result> =>
      execute("nsenter", ["-t", `${pid}`, "--all", "--", "sh", "-c", command], stdin, {
        PATH: systemPath,
        HOME: "/root",
      });

    const booted = async (previous: number): Promise<void> => {
      const deadline = Date.now() + bootTimeout;
      const attempt = async (what: string, done: () => Promise<boolean>): Promise<void> => {
        while (!(await done())) {
          if (Date.now() > deadline)
            throw new Error(`real host ${name}: ${what}; its console:\n${file("console.log")}`);
          await setTimeout(50);
        }
      };
      await attempt("no systemd", async () => {
        const found = await findInit(starter);
        if (found === undefined || found === previous) return false;
        pid = found;
        return true;
      });
      await attempt("the boot does not end", async () => {
        const { stdout } = await run("exec timeout 30 systemctl is-system-running --wait");
        return ["running", "degraded"].includes(stdout.trim());
      });
      await attempt("sshd does not answer the operator", () => answers(address4, 22, /^SSH-/));
    };
    await booted(0);

    return {
      name,
      address4,
      address6,
      sshPort: 22,
      hostKey: file("root/etc/ssh/ssh_host_ed25519_key.pub").split(" ").slice(0, 2).join(" "),
      get pid() {
        return pid;
      },
      bootSeconds: (Date.now() - from) / 1000,
      run,
      save: saver(run),
      reboot: async () => {
        const previous = pid;
        await run("systemctl reboot"); // which may end before it has told how it went
        await booted(previous);
      },
      close,
    };
  } catch (error) {
    await close();
    throw error;
  }
}

function findImage(release: Release): string {
  const tool = join(__dirname, "../../tools/host-image.sh");
  return execFileSync(tool, ["--find", release], { encoding: "utf8", stdio: ["ignore", "pipe", "inherit"] }).trim();
}

/** The systemd that the starter's systemd-nspawn runs. */
async function findInit(starter: number): Promise<number | undefined> {
  const { stdout } = await execute("ps", ["-e", "-o", "pid=,ppid=,comm="]);
  const rows = stdout
    .trim()
    .split("\n")
    .map((row) => row.trim().split(/\s+/));
  const child = (parent: string | undefined, command: string): string | undefined =>
    rows.find(([, ppid, comm]) => ppid === parent && comm === command)?.[0];
  const init = child(child(child(`${starter}`, "sh"), "systemd-nspawn"), "systemd");
  return init === undefined ? undefined : Number(init);
}

/** Does something at this address and port begin to speak like this? */
function answers(address: string, port: number, greeting: RegExp): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect({ host: address, port, timeout: 1000 });
    const answer = (value: boolean): void => {
      socket.destroy();
      resolve(value);
    };
    socket.on("data", (data) => answer(greeting.test(data.toString("latin1"))));
    for (const event of ["error", "timeout", "end"]) socket.on(event, () => answer(false));
  });
}

/** Delivers a message to bob, over port 25. An error says what the host, or the network, answered. */
export async function deliverMail(
  client: Client,
  host: Pick<MailHost, "address4" | "address6">,
  { subject = "hello", family = 4, timeoutMs = 5000 }: { subject?: string; family?: 4 | 6; timeoutMs?: number } = {},
): Promise<void> {
  const target = family === 4 ? host.address4 : host.address6;
  const message = `From: sender@example.net\r\nTo: ${mailbox.address}\r\nSubject: ${subject}\r\n\r\nHello, Bob.\r\n`;
  await ask(client, "deliver", timeoutMs, { target, recipient: mailbox.address, message });
}

/** The subjects of what bob has in his inbox, the oldest first, over imaps. */
export async function readMail(
  client: Client,
  host: Pick<MailHost, "address4" | "address6">,
  { family = 4, timeoutMs = 5000 }: { family?: 4 | 6; timeoutMs?: number } = {},
): Promise<string[]> {
  const target = family === 4 ? host.address4 : host.address6;
  const messages = (await ask(client, "read", timeoutMs, { target, ...mailbox })) as string[];
  return messages.map((message) => /^Subject: (.*?)\r?$/m.exec(message)?.[1] ?? "");
}
