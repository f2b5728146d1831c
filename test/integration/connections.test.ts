/**
 * Every way to reach a host over SSH, by `pulumi up` against real sshd's: with the right log-in the rules are live, with a
 * wrong one the error says what to do, and nothing is touched.
 */
import { execFileSync, spawn, type ChildProcess } from "node:child_process";
import { existsSync, mkdtempSync, readFileSync, renameSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

import { documented, readDocument } from "../documented";
import { operatorKey, startMailHost, type MailHost } from "../sandbox/host";
import { probe, type Verdict } from "../sandbox/probe";
import { startStack, type Config, type Stack } from "../sandbox/stack";
import { expectedRulesets, failed, live, policy, sampled, sampledTest, succeeded } from "./example";

jest.setTimeout(120_000);

const folder = mkdtempSync(join(tmpdir(), "connections-"));
const stacks: Stack[] = [];
const hosts: MailHost[] = [];
const agents: ChildProcess[] = [];

afterAll(async () => {
  await Promise.all(hosts.map((host) => host.close()));
  for (const stack of stacks) stack.remove();
  for (const agent of agents) agent.kill();
});

async function startHost(...options: Parameters<typeof startMailHost>): Promise<MailHost> {
  const host = await startMailHost(...options);
  hosts.push(host);
  return host;
}

interface LogIn {
  privateKey?: string | undefined;
  password?: string;
  /** Value of SSH_AUTH_SOCK. */
  agent?: string;
}

async function started(config: Config, { privateKey, password, agent }: LogIn = operatorKey): Promise<Stack> {
  const stack = await startStack({
    ...(privateKey !== undefined && { privateKey }),
    ...(agent !== undefined && { env: { SSH_AUTH_SOCK: agent } }),
  });
  stacks.push(stack);
  stack.configure({ ...policy, ...config });
  if (password !== undefined) {
    const set = documented("README.md", "pulumi config set --secret sshPrivateKeyPassword");
    succeeded(await stack.shell(set, password));
  }
  return stack;
}

const owner = "mail-firewall/test/mail-mx1";
const placeOf = (host: MailHost) => ({ host: host.address4, port: host.sshPort, hostKey: host.hostKey });
const direct = (host: MailHost) => ({ hosts: { mx1: placeOf(host) } });

async function deploys(stack: Stack, host: MailHost): Promise<void> {
  succeeded(await stack.up("--skip-preview"));
  expect(await live(host)).toBe(expectedRulesets(owner));
}

async function destroys(stack: Stack, host: MailHost): Promise<void> {
  succeeded(await stack.destroy());
  expect(await untouched(host)).toBe(true);
}

/** Neither rules nor script of ours. */
async function untouched(host: MailHost): Promise<boolean> {
  const saved = (await host.save(4)) + (await host.save(6));
  return !saved.includes("MAILFW") && (await host.run("test -e /usr/local/sbin/mail-firewall")).code === 1;
}

/** What a packet from this process, the operator, meets. */
async function dial(host: MailHost, ...ports: number[]): Promise<Verdict[]> {
  const from = { pid: process.pid };
  const to = { source: "203.0.113.1", target: host.address4, protocol: "tcp" } as const;
  return probe(
    from,
    ports.map((port) => ({ ...to, port })),
  );
}

/** Where the connections came from that a host's sshd has seen. */
async function dialledFrom(host: MailHost): Promise<string[]> {
  const { stdout } = await host.run(
    "sed -n 's/^Connection from \\([^ ]*\\) port .*/\\1/p' /var/log/sshd.log | sort -u",
  );
  return stdout.trim().split("\n").filter(Boolean);
}

/** The operator's key, protected by a passphrase. */
function lockedKey(passphrase: string): { privateKey: string; file: string } {
  const file = join(mkdtempSync(join(folder, "key-")), "id_ed25519");
  execFileSync("cp", [operatorKey.file, file]);
  execFileSync("ssh-keygen", ["-q", "-p", "-P", "", "-N", passphrase, "-f", file]);
  return { privateKey: readFileSync(file, "utf8"), file };
}

/** A real ssh-agent, with the operator's key, if it is given its passphrase. */
async function startAgent(key?: { file: string; passphrase: string }): Promise<string> {
  const socket = join(mkdtempSync(join(folder, "agent-")), "socket");
  const agent = spawn("ssh-agent", ["-D", "-a", socket], { stdio: "ignore" });
  agents.push(agent);
  while (!existsSync(socket)) await new Promise((done) => setTimeout(done, 20));
  if (key) {
    const ask = join(folder, "askpass");
    execFileSync("sh", ["-c", `printf '#!/bin/sh\\necho "$PASSPHRASE"\\n' >"$0" && chmod 700 "$0"`, ask]);
    execFileSync("ssh-add", ["-q", key.file], {
      env: {
        ...process.env,
        SSH_AUTH_SOCK: socket,
        SSH_ASKPASS: ask,
        SSH_ASKPASS_REQUIRE: "force",
        PASSPHRASE: key.passphrase,
      },
    });
  }
  return socket;
}

describe("ports", () => {
  test("several SSH ports stay reachable, and each is as good to deploy over", async () => {
    const host = await startHost();
    await host.run('echo "Port 2222" >>/etc/ssh/sshd_config; kill -HUP "$(cat /run/sshd.pid)"');
    while ((await dial(host, 2222))[0] !== "open") await new Promise((done) => setTimeout(done, 50));
    const place = { ...placeOf(host), sshPorts: [22, 2222] };
    const stack = await started({ hosts: { mx1: place } });
    succeeded(await stack.up("--skip-preview"));
    expect(await dial(host, 22, 2222, 3306)).toEqual(["open", "open", "shut"]);
    stack.configure({ ...policy, services: {}, hosts: { mx1: { ...place, port: 2222 } } });
    succeeded(await stack.up("--skip-preview"));
    expect(await dial(host, 22, 2222, 443)).toEqual(["open", "open", "shut"]);
  });

  sampledTest("the host's address of the other family is as good", async () => {
    const host = await startHost({ sshPort: 2222 });
    const stack = await started({ hosts: { mx1: { ...placeOf(host), host: host.address6 } } });
    succeeded(await stack.up("--skip-preview"));
    expect(await dial(host, 2222, 22)).toEqual(["open", "shut"]);
    expect(await dialledFrom(host)).toContain("2001:db8:113::1");
    succeeded(await stack.destroy());
  });
});

describe("a bastion", () => {
  let host: MailHost, bastion: MailHost;
  beforeAll(async () => {
    [host, bastion] = await Promise.all([startHost(), startHost({ sshPort: 2222 })]);
  });
  const jump = () => ({ ...placeOf(bastion), user: "admin" });
  /** A policy whose `ssh` names nobody but the bastion. */
  const behind = (more: object = {}, of: object = {}): Config => ({
    ssh: [`${bastion.address4}/32`, `${bastion.address6}/128`],
    hosts: { mx1: { ...placeOf(host), bastion: { ...jump(), ...of }, ...more } },
  });

  test("is the only way to the host: deployed, changed and destroyed through it", async () => {
    const stack = await started(behind());
    succeeded(await stack.up("--skip-preview"));
    expect(await dial(host, 22, 443)).toEqual(["shut", "open"]);
    expect(await dial(bastion, 2222)).toEqual(["open"]);
    stack.configure({ ...policy, ...behind(), services: {} });
    succeeded(await stack.up("--skip-preview"));
    expect(await dial(host, 22, 443)).toEqual(["shut", "shut"]);
    succeeded(await stack.destroy());
    expect(await untouched(host)).toBe(true);
    expect(await dialledFrom(host)).toEqual([bastion.address4]);
    expect(await untouched(bastion)).toBe(true);
  });

  sampledTest("leads to an IPv6 address, with an encrypted key for both", async () => {
    const { privateKey } = lockedKey("open sesame");
    const stack = await started(behind({ host: host.address6 }), { privateKey, password: "open sesame" });
    succeeded(await stack.up("--skip-preview"));
    expect(await dialledFrom(host)).toContain(bastion.address6);
    succeeded(await stack.destroy());
  });

  sampledTest("and the agent serves for both", async () => {
    const agent = await startAgent({ file: lockedKey("hushed").file, passphrase: "hushed" });
    const stack = await started(behind({}, { user: "nobody" }), { agent }); // who has no shell
    succeeded(await stack.up("--skip-preview"));
    succeeded(await stack.destroy());
  });

  test.each(
    sampled<[string, () => Config, RegExp]>(1, [
      [
        "with another key than the declared one",
        () => behind({}, { hostKey: host.hostKey }),
        /proxy: after 2 failed attempts: ssh: handshake failed: ssh: host key mismatch/,
      ],
      [
        "before a host with another key than the declared one",
        () => behind({ hostKey: bastion.hostKey }),
        /proxy: after 0 failed attempts: ssh: handshake failed: ssh: host key mismatch/,
      ],
      [
        "that is not there",
        () => behind({}, { port: 2223 }),
        /proxy: after 2 failed attempts: dial tcp 198\.51\.100\.\d+:2223: connect: connection refused/,
      ],
      [
        "that does not know the user",
        () => behind({}, { user: "ghost" }),
        /proxy: after 2 failed attempts: ssh: handshake failed: ssh: unable to authenticate/,
      ],
      [
        "before a port on which nobody listens",
        () => behind({ port: 2224 }),
        /proxy: after 0 failed attempts: ssh: rejected: connect failed \(Connection refused\)/,
      ],
    ]),
  )("%s: refused, and nothing is touched", async (_, config, expected) => {
    const stack = await started(config());
    expect(failed(await stack.up("--skip-preview"))).toMatch(expected);
    expect(await untouched(host)).toBe(true);
  });
});

describe("a key with a passphrase", () => {
  let host: MailHost;
  beforeAll(async () => (host = await startHost()));

  test("and the passphrase beside it, neither of which is stored or shown", async () => {
    const { privateKey } = lockedKey("open sesame");
    const stack = await started(direct(host), { privateKey, password: "open sesame" });
    const output = succeeded(await stack.up("--diff", "--show-full-output"));
    expect(await live(host)).toBe(expectedRulesets(owner));
    const state = JSON.stringify(await stack.export());
    for (const secret of ["open sesame", privateKey.split("\n")[2]!]) {
      expect(output).not.toContain(secret);
      expect(state).not.toContain(secret);
    }
  });

  test.each(
    sampled<[string, string | undefined, string, string]>(1, [
      [
        "a wrong one",
        "open sesam",
        "open sesame",
        "mail-firewall:sshPrivateKeyPassword: is not the passphrase of the key; ssh-keygen -y -f KEYFILE tells whether it is",
      ],
      [
        "none",
        undefined,
        "open sesame",
        "mail-firewall:sshPrivateKey: is protected by a passphrase; give that as sshPrivateKeyPassword, or use an SSH agent",
      ],
      [
        "one for a key without",
        "open sesame",
        "",
        "mail-firewall:sshPrivateKeyPassword: is given, but the key is not protected by one; delete it",
      ],
    ]),
  )("%s: an error that says what to do, before a connection", async (_, given, right, expected) => {
    const privateKey = right === "" ? operatorKey.privateKey : lockedKey(right).privateKey;
    const stack = await started(direct(host), { privateKey, ...(given !== undefined && { password: given }) });
    const connections = host.connections();
    const output = failed(await stack.up());
    expect(output).toContain(expected);
    if (given !== undefined) expect(output).not.toContain(given);
    expect(host.connections()).toBe(connections);
  });

  test("stored in plain text: refused, and not shown", async () => {
    const stack = await started({ ...direct(host), sshPrivateKeyPassword: "open sesame" });
    const output = failed(await stack.up("--skip-preview"));
    expect(output).toContain("mail-firewall:sshPrivateKeyPassword: is stored in plain text");
    expect(output).not.toContain("open sesame");
  });
});

describe("an SSH agent", () => {
  let host: MailHost, full: string;
  beforeAll(async () => {
    host = await startHost();
    full = await startAgent({ file: lockedKey("open sesame").file, passphrase: "open sesame" });
  });

  test("of SSH_AUTH_SOCK", async () => deploys(await started(direct(host), { agent: full }), host));

  sampledTest("at a host's own socket", async () => {
    const config = { hosts: { mx1: { ...placeOf(host), agentSocketPath: full } } };
    await deploys(await started(config, {}), host);
  });

  test("that has ended, and left its socket: an error that says what to do, with a key and without", async () => {
    const socket = await startAgent();
    renameSync(socket, `${socket}.kept`);
    const agent = agents.pop()!;
    const ended = new Promise((done) => agent.on("close", done));
    agent.kill();
    await ended;
    renameSync(`${socket}.kept`, socket);
    const connections = host.connections();
    for (const privateKey of sampled(1, [operatorKey.privateKey, undefined])) {
      const stack = await started(direct(host), { agent: socket, privateKey });
      expect(failed(await stack.up("--skip-preview"))).toContain(
        "  SSH_AUTH_SOCK: no SSH agent answers there; start one, or unset it",
      );
      stack.configure({ ...policy, hosts: { mx1: { ...placeOf(host), agentSocketPath: socket } } });
      expect(failed(await stack.up("--skip-preview"))).toContain(
        "  mail-firewall:hosts.mx1.agentSocketPath: no SSH agent answers there; start one, or delete it",
      );
    }
    expect(host.connections()).toBe(connections);
  });

  test("without a key: an error that says what to do; with a configured key it does not matter", async () => {
    const agent = await startAgent();
    const stack = await started(direct(host), { agent });
    expect(failed(await stack.up())).toContain(
      "mail-firewall:sshPrivateKey: is missing, and the SSH agent has no key: add one, or pulumi config set",
    );
    await deploys(await started(direct(host), { agent, privateKey: operatorKey.privateKey }), host);
  });
});

describe("a host key that is not checked", () => {
  test("each preview and each up warn of it by name; the rules are live", async () => {
    const [host, bastion] = await Promise.all([startHost(), startHost()]);
    const unknown = (of: MailHost) => ({ host: of.address4, insecureIgnoreHostKey: true });
    const stack = await started({
      ssh: [`${bastion.address4}/32`],
      hosts: { mx1: { ...unknown(host), bastion: unknown(bastion) } },
    });
    for (const run of [() => stack.preview(), () => stack.up("--skip-preview")]) {
      const output = succeeded(await run());
      expect(output).toContain(`warning: mail-mx1: the host key of ${host.address4} is not checked`);
      expect(output).toContain(`warning: mail-mx1: the host key of its bastion ${bastion.address4} is not checked`);
    }
    expect(await dial(host, 443, 22)).toEqual(["open", "shut"]);
  });
});

test("a shell that prints: only the script's own line counts", async () => {
  const host = await startHost();
  await host.run("echo 'echo hello; echo hello >&2' >~/.bashrc");
  const stack = await started({ hosts: { mx1: placeOf(host) } });
  await deploys(stack, host);
  await destroys(stack, host);
});

describe("a user who is not root", () => {
  /** What is said where sudo does not let the user in, and what then suffices. */
  const line = "admin ALL=(root) NOPASSWD: /bin/sh, /usr/local/sbin/mail-firewall";
  const advice = `\n    mail-firewall: admin needs sudo without a password; add to sudoers (visudo): ${line}`;
  const file = "/etc/sudoers.d/mail-firewall";
  const sudoers = async (host: MailHost, text: string) => {
    const write = `rm -f /etc/sudoers.d/admin; umask 337; cat >${file}; visudo -cq`;
    expect(await host.run(write, `${text}\n`)).toMatchObject({ code: 0 });
  };
  const asAdmin = (host: MailHost) => started({ hosts: { mx1: { ...placeOf(host), user: "admin" } } });

  sampledTest("with sudo for everything", async () => {
    const host = await startHost();
    await deploys(await asAdmin(host), host);
  });

  test.each(
    sampled<[string, (host: MailHost) => Promise<unknown>, RegExp]>(1, [
      [
        "whose sudo asks for a password",
        (host) => sudoers(host, "admin ALL=(ALL:ALL) ALL"),
        /sudo: a password is required/,
      ],
      [
        "whose sudo asks for none only for something else",
        (host) => sudoers(host, "admin ALL=(ALL:ALL) ALL\nadmin ALL=(root) NOPASSWD: /usr/bin/apt-get"),
        /sudo: a password is required/,
      ],
      ["without any right to sudo", (host) => sudoers(host, "# nobody"), /sudo: a password is required/],
      [
        "with no right to sudo, and no password to be asked for",
        (host) => sudoers(host, "Defaults !authenticate"),
        /admin is not in the sudoers file|admin may not run sudo/,
      ],
      ["on a host without sudo", (host) => host.run('rm "$(command -v sudo)"'), /sudo: not found/],
      [
        "whose sudo asks for a terminal",
        (host) => sudoers(host, "admin ALL=(ALL:ALL) NOPASSWD: ALL\nDefaults:admin requiretty"),
        /sudo: sorry, you must have a tty to run sudo/,
      ],
    ]),
  )(
    "%s: an error with the cause, with the line for sudoers where that helps, and nothing is touched",
    async (_, prepare, expected) => {
      const host = await startHost();
      await prepare(host);
      const stack = await asAdmin(host);
      const output = failed(await stack.up("--skip-preview"));
      expect(output).toMatch(expected);
      expect(output.includes(advice)).toBe(!/tty|not found/.test(expected.source));
      expect(await untouched(host)).toBe(true);
    },
  );

  test("with nothing but the line that is advised: deploys, changes and destroys", async () => {
    const host = await startHost();
    expect(readDocument(readFileSync("README.md", "utf8")).code).toContain(line);
    await sudoers(host, "# nobody");
    // An editor is given the file as its last argument.
    await host.run("cat >/tmp/editor; chmod +x /tmp/editor", `#!/bin/bash\necho "${line}" >"\${@: -1}"\n`);
    const visudo = documented("README.md", "visudo -f /etc/sudoers.d/mail-firewall");
    expect(await host.run(`EDITOR=/tmp/editor ${visudo}`)).toMatchObject({ code: 0 });
    expect(await host.run(`cat ${file}`)).toMatchObject({ stdout: `${line}\n` });
    const stack = await asAdmin(host);
    succeeded(await stack.up("--skip-preview"));
    expect(await live(host)).toBe(expectedRulesets(owner));
    stack.configure({ ...policy, services: {}, hosts: { mx1: { ...placeOf(host), user: "admin" } } });
    succeeded(await stack.up("--skip-preview"));
    expect(await dial(host, 443)).toEqual(["shut"]);

    // What fails for another reason is not blamed on sudo; what fails later for sudo's sake says so in sudo's own words.
    const wrong = { ...placeOf(host), user: "admin", sshPorts: [2022] };
    stack.configure({ ...policy, hosts: { mx1: wrong } });
    const output = failed(await stack.up("--skip-preview"));
    expect(output).toContain("nothing listens on the ports that the rules keep open for SSH");
    expect(output).not.toContain(advice);
    await sudoers(host, "admin ALL=(ALL:ALL) ALL");
    expect(failed(await stack.destroy())).toContain("sudo: a password is required");
    expect(await live(host)).not.toBe("");

    await sudoers(host, line);
    succeeded(await stack.destroy());
    expect(await untouched(host)).toBe(true);
  });
});
