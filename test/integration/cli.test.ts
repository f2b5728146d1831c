// `mail-firewall status`, as an operator runs it: against a stack of the real engine, and real hosts.
import { execFileSync, execSync, spawn, spawnSync, type ChildProcess } from "node:child_process";
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";

import { documented } from "../documented";
import { execute, operatorKey, startMailHost, type MailHost } from "../sandbox/host";
import { startStack, type Config, type Run, type Stack, type StackOptions } from "../sandbox/stack";
import { policy, sampledTest, succeeded } from "./example";

jest.setTimeout(180_000);

const cli = resolve("dist/cli/main.js");
const folder = mkdtempSync(join(tmpdir(), "cli-"));
const hosts: MailHost[] = [];
const stacks: Stack[] = [];
const agents: ChildProcess[] = [];
afterAll(async () => {
  await Promise.all(hosts.map((host) => host.close()));
  for (const stack of stacks) stack.remove();
  for (const agent of agents) agent.kill();
});

async function startHost(): Promise<MailHost> {
  const host = await startMailHost({ listen: { tcp: [993], udp: [] } });
  hosts.push(host);
  return host;
}

/** Where the tool's own files go, which it must not leave behind. */
const scratch = join(folder, "tmp");
mkdirSync(scratch);
const secrets = (privateKey = operatorKey.privateKey) => privateKey.split("\n").slice(1, -2);

async function deployed(config: Config, options: StackOptions = operatorKey, password?: string): Promise<Stack> {
  const stack = await startStack({ ...options, env: { ...options.env, TMPDIR: scratch } });
  stacks.push(stack);
  stack.configure({ ...policy, ...config });
  if (password !== undefined) {
    const set = documented("README.md", "pulumi config set --secret sshPrivateKeyPassword");
    succeeded(await stack.shell(set, password));
  }
  succeeded(await stack.up("--skip-preview"));
  return stack;
}

const at = (host: MailHost, more: Config = {}) => ({ host: host.address4, hostKey: host.hostKey, ...more });

/** Runs the tool; nothing secret comes out, and nothing is left. */
const status = (stack: Stack, ...args: string[]) => discreet(stack.execute("node", cli, "status", ...args));
async function discreet(running: Promise<Run>) {
  const run = await running;
  for (const secret of ["open sesame", ...secrets()]) expect(run.output).not.toContain(secret);
  expect(readdirSync(scratch).filter((name) => name.startsWith("mail-firewall"))).toEqual([]);
  return run;
}
/** The part of the output that is JSON, without the progress on stderr. */
const json = (output: string) =>
  JSON.parse(output.slice(output.indexOf("{"))) as Record<string, Record<string, unknown>>;

/** Makes its sshd answer with another host key. */
async function otherHostKey(host: MailHost): Promise<void> {
  await host.run("ssh-keygen -q -t ed25519 -N '' -f /etc/ssh/other");
  await setHostKey(host, "/etc/ssh/other");
}
const ownHostKey = (host: MailHost) => setHostKey(host, "/etc/ssh/ssh_host_ed25519_key");
async function setHostKey(host: MailHost, file: string): Promise<void> {
  await host.run(`sed -i 's,^HostKey.*,HostKey ${file},' /etc/ssh/sshd_config; kill -HUP "$(cat /run/sshd.pid)"`);
  const { stdout } = await host.run(`cut -d ' ' -f 2 ${file}.pub`);
  while (!(await execute("ssh-keyscan", [host.address4])).stdout.includes(stdout.trim())) await sleep(50);
}

describe("a stack with two hosts", () => {
  let mx1: MailHost, mx2: MailHost, stack: Stack;
  beforeAll(async () => {
    [mx1, mx2] = await Promise.all([startHost(), startHost()]);
    stack = await deployed({ hosts: { mx1: at(mx1), mx2: at(mx2, { user: "admin" }) } });
  });

  const everything = (host: MailHost) =>
    host.run(
      "iptables-save; ip6tables-save; cat /proc/net/ip*_tables_names; find /etc /run /tmp /root /usr/local -ls | grep -v -e sudo/ts -e ' /tmp$'; cat /etc/mail-firewall/*",
    );
  const withoutDates = (text: string) => text.replace(/^#.*\n|\[\d+:\d+\]/gm, "");

  test("as deployed: exit code 0, a line as each answers; nothing is changed on a host", async () => {
    const before = [await everything(mx1), await everything(mx2)].map(({ stdout }) => withoutDates(stdout));
    const line = documented("README.md", "make status STACK=prod", { prod: "test" });
    const { code, output } = await discreet(stack.shell(line));
    expect({ code, output }).toMatchObject({ code: 0 });
    expect(output).toMatch(/^mail-mx1: as deployed \(rules [0-9a-f]{12}\)$/m);
    expect(output).toMatch(/^mail-mx2: as deployed \(rules [0-9a-f]{12}\)$/m);
    expect(output).toContain("mail-firewall: mail-mx1 answered\n");
    expect([await everything(mx1), await everything(mx2)].map(({ stdout }) => withoutDates(stdout))).toEqual(before);
  });

  test("one differs: exit code 3, and in which way; as JSON, too; the other alone is as deployed", async () => {
    await mx2.run("iptables -t mangle -D MAILFW-DROP -j DROP");
    const { code, output } = await status(stack);
    expect(code).toBe(3);
    expect(output).toMatch(/^mail-mx1: as deployed/m);
    expect(output).toMatch(
      /^mail-mx2: not as deployed \(rules [0-9a-f]{12}\)\n {2}IPv4: missing: -A MAILFW-DROP -j DROP$/m,
    );

    const asJson = await status(stack, "--json");
    expect(asJson.code).toBe(3);
    expect(json(asJson.output)).toMatchObject({
      "mail-mx1": { owner: "mail-firewall/test/mail-mx1", differences: [] },
      "mail-mx2": { differences: [{ kind: "rules", text: "IPv4: missing: -A MAILFW-DROP -j DROP" }] },
    });

    const one = await status(stack, "mail-mx1");
    expect(one.code).toBe(0);
    expect(one.output).not.toContain("mail-mx2");
    await mx2.run("iptables -t mangle -A MAILFW-DROP -j DROP");
  });

  test("rules that the stack deployed, and the host replaced by other ones of its own, differ", async () => {
    const state = await stack.export();
    const other = state.deployment.resources!.find(({ urn }) => urn.endsWith("mail-mx1-apply"))!;
    other.inputs!.stdin = (other.inputs!.stdin as string).replaceAll("dstport 443", "dstport 8443");
    const before = await stack.export();
    await stack.import(state);
    const { code, output } = await status(stack, "mail-mx1");
    await stack.import(before);
    expect(code).toBe(3);
    expect(output).toContain("the rules in /etc/mail-firewall are not those that were deployed");
  });

  test.each<[string, string[], number, string]>([
    [
      "an unknown host",
      ["mx9", "mail-mx1"],
      1,
      "mail-firewall: no host mx9 in this stack; it has mail-mx1, mail-mx2\n",
    ],
    ["an unknown option", ["--frobnicate"], 64, "Unknown option '--frobnicate'"],
    ["an option without its value", ["--stack"], 64, "argument missing"],
    ["a stack that is not there", ["--stack", "ghost"], 1, "no stack named 'ghost' found"],
  ])("%s: an error, and no host is asked", async (_, args, code, words) => {
    const connections = [mx1.connections(), mx2.connections()];
    const run = await status(stack, ...args);
    expect(run).toMatchObject({ code, output: expect.stringContaining(words) as string });
    expect([mx1.connections(), mx2.connections()]).toEqual(connections);
  });

  test("no verb, another one: how it is used", async () => {
    for (const args of [[], ["frobnicate"], ["--help"]]) {
      const { code, output } = await stack.execute("node", cli, ...args);
      expect(code).toBe(args[0] === "--help" ? 0 : 64);
      expect(output).toContain("usage: mail-firewall status [--stack NAME]");
    }
  });

  test("compare: what a host and a group admit, from what both print", async () => {
    const project = join(folder, "compare");
    mkdirSync(project);
    symlinkSync(resolve(".cache/consumer/node_modules"), join(project, "node_modules"));
    const files = { iptables: join(project, "v4"), ip6tables: join(project, "v6"), group: join(project, "rules.json") };
    const ssh = `ssh -i ${operatorKey.file} -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null admin@`;
    const save = documented("README.md", "ssh mx1 sudo iptables-save > v4; ssh mx1 sudo ip6tables-save > v6", {
      "ssh mx1": ssh + mx1.address4,
    });
    execSync(save, { cwd: project, stdio: "pipe" });
    const rules = [25, 143, 443, 465].map((port) => ({
      IpProtocol: "tcp",
      FromPort: port,
      ToPort: port,
      CidrIpv4: "0.0.0.0/0",
    }));
    writeFileSync(files.group, JSON.stringify({ SecurityGroupRules: rules }));
    const options = ["--iptables", files.iptables, "--group-rules", files.group];
    const compare = (...more: string[]) => stack.execute("node", cli, "compare", ...options, ...more);
    const found = await compare("--interface", "eth0");
    expect(found.code).toBe(3);
    expect(found.output).toContain("only the host admits tcp/22 from 203.0.113.0/24\n");
    expect(found.output).toContain("only the host admits udp/51820 from 0.0.0.0 to 126.255.255.255, 128.0.0.0/1\n");
    expect(found.output).toContain("only the group admits tcp/143 from");
    expect(found.output).not.toMatch(/tcp\/(25|443|465)|IPv6/);
    const command = documented(
      "README.md",
      "npx mail-firewall compare --iptables v4 --ip6tables v6 --group-rules rules.json --interface eth0",
    );
    expect(spawnSync("sh", ["-c", command], { cwd: project, encoding: "utf8" })).toMatchObject({
      status: 3,
      stdout: expect.stringContaining(
        "only the host admits tcp/25 from ::/128, ::2 to ::fffe:ffff:ffff, ::1:0:0:0 to ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff\n",
      ) as string,
    });
    expect(await compare("--ip6tables", files.group)).toMatchObject({
      code: 1,
      output: expect.stringContaining("line 1 is not one of iptables-save") as string,
    });
    expect((await stack.execute("node", cli, "compare", "--iptables", files.iptables)).code).toBe(64);
  });

  test.each([
    ["INT", 130],
    ["KILL", 137],
  ])("ended by SIG%s: no key is left behind, as there never was a file with one", async (signal, expected) => {
    // A host that takes the connection and says nothing.
    await mx2.run("kill -STOP $(cat /run/sshd.pid)");
    const { code, output } = await stack.execute(
      "sh",
      "-c",
      `node "$0" status mail-mx2 & sleep 6; pgrep -fa "ssh-agent -a $TMPDIR"; cat "$TMPDIR"/mail-firewall-*/host-*/*
        find "$TMPDIR" -type f -exec grep -lF -e "$1" -e PRIVATE {} +
        kill -${signal} $!; wait $! 2>/dev/null`,
      cli,
      secrets().at(-1)!,
    );
    await mx2.run("kill -CONT $(cat /run/sshd.pid)");
    expect(output).toMatch(/^\d+ ssh-agent -a \S+\/agent0 /m);
    expect(output).toMatch(/^deployed ssh-ed25519 /m);
    expect(output.split("\n").filter((line) => line.startsWith(scratch))).toEqual([]);
    expect(code).toBe(expected);
    if (signal === "INT") expect(readdirSync(scratch)).toEqual([]);
    for (const name of readdirSync(scratch)) rmSync(join(scratch, name), { recursive: true, force: true });
    while ((await execute("pgrep", ["-f", `ssh-agent -a ${scratch}`])).code === 0) await sleep(50);
  });

  test("when nobody reads on, it ends without a word about that, and leaves nothing", async () => {
    const run = (line: string) => discreet(stack.execute("sh", "-c", line, cli, join(folder, "errors")));
    const { output } = await run('{ node "$0" status 2>"$1"; echo $? >&2; } | true; cat "$1"');
    expect(output.replace(/^mail-firewall: mail-mx\d answered\n/gm, "")).toBe("1\n");
    expect(await run('{ node "$0" status 2>&1; echo $? >&3; } 3>&2 | true')).toMatchObject({ output: "1\n" });
    while ((await execute("pgrep", ["-f", `ssh-agent -a ${scratch}`])).code === 0) await sleep(50);
  });

  test("a host that says anything: not too much, nothing to the terminal, and the others are reported", async () => {
    await mx1.run("mv /usr/local/sbin/mail-firewall /root");
    const says = async (script: string, ...args: string[]) => {
      await mx1.run("cd /usr/local/sbin; cat >mail-firewall; chmod +x mail-firewall", `#!/bin/sh\n${script}\n`);
      return status(stack, ...args);
    };

    const endless = await says("head -c 1500000000 /dev/zero | tr '\\0' x");
    expect(endless.code).toBe(1);
    expect(endless.stdout).toMatch(
      /^mail-mx1: cannot say how it is: it answers with more than 4 MiB\nmail-mx2: as dep/,
    );
    expect((await says("head -c 1500000000 /dev/zero >&2")).stdout).toBe(endless.stdout);

    const hostile = await says("printf '\\033]0;x\\007oops\\n\\302\\2332Jmail-mx2: not as deployed\\n' >&2; exit 1");
    expect(hostile.code).toBe(1);
    expect(hostile.output).not.toMatch(/[^\n\x20-\x7e]/);
    expect(hostile.stdout).toContain(
      "mail-mx1: cannot say how it is: \\u{1b}]0;x\\u{7}oops\n  \\u{9b}2Jmail-mx2: not as deployed\nmail-mx2: as deployed (",
    );

    const differences = [{ kind: "x", text: "a\nmail-mx2:\u009b" }];
    const report = { rules: "\u001b[A", owner: "o", differences, notices: [] };
    const lie = `cat <<'END'\n${JSON.stringify(report)}\nEND\nexit 3`;
    const words = await says(lie);
    expect(words.code).toBe(3);
    expect(words.stdout).toContain(
      "mail-mx1: not as deployed (rules \\u{1b}[A)\n  a\\u{a}mail-mx2:\\u{9b}\nmail-mx2: as deployed (",
    );
    const inJson = await says(lie, "--json");
    expect(inJson.output).not.toMatch(/[^\n\x20-\x7e]/);
    expect(json(inJson.stdout)).toMatchObject({ "mail-mx1": report });
    await mx1.run("mv /root/mail-firewall /usr/local/sbin");
  });

  test("a host key of two lines, as an output may be: the deployment took the first one, and no other lets anybody answer", async () => {
    const before = await stack.export();
    const state = JSON.parse(
      (await stack.execute("pulumi", "stack", "export", "--show-secrets")).stdout,
    ) as typeof before;
    await otherHostKey(mx1);
    const { stdout } = await mx1.run("cut -d ' ' -f 1,2 /etc/ssh/other.pub");
    const { inputs } = state.deployment.resources!.find(({ urn }) => urn.endsWith("mail-mx1-apply"))!;
    const secret = inputs!.connection as { plaintext: string };
    const connection = JSON.parse(secret.plaintext) as object;
    secret.plaintext = JSON.stringify({ ...connection, hostKey: `${mx1.hostKey}\n* ${stdout}` });
    await stack.import(state);
    const { code, output } = await status(stack, "mail-mx1");
    await stack.import(before);
    await ownHostKey(mx1);
    expect(output).toContain("mail-mx1: cannot be asked: its hostKey is more than one line; write one key\n");
    expect(code).toBe(1);
  });

  test("a host that answers with another key is not asked; the others are", async () => {
    await otherHostKey(mx1);
    const { code, output } = await status(stack);
    await ownHostKey(mx1);
    expect(code).toBe(1);
    expect(output).toMatch(/^mail-mx1: cannot be reached: .*\n[^]*Host key verification failed/m);
    expect(output).toMatch(/^mail-mx2: as deployed/m);
  });

  test("a host without its script, one whose user has lost sudo, one that is gone: exit code 1, and the others are reported", async () => {
    await mx1.run("mv /usr/local/sbin/mail-firewall /root");
    await mx2.run("mv /etc/sudoers.d/admin /root");
    const { code, output } = await status(stack);
    expect(code).toBe(1);
    expect(output).toMatch(/^mail-mx1: cannot say how it is: .*mail-firewall: No such file or directory$/m);
    expect(output).toMatch(/^mail-mx2: cannot say how it is: sudo: a password is required$/m);
    await mx1.run("mv /root/mail-firewall /usr/local/sbin");
    await mx2.close();
    const gone = await status(stack, "--json");
    expect(gone.code).toBe(1);
    expect(json(gone.output)).toMatchObject({
      "mail-mx1": { differences: [] },
      "mail-mx2": {
        error: expect.stringMatching(
          /^cannot be reached: ssh: connect to host .*(No route to host|Connection timed out)/,
        ) as string,
      },
    });
  });
});

describe("it logs in as the deployment does", () => {
  let host: MailHost, bastion: MailHost;
  beforeAll(async () => {
    [host, bastion] = await Promise.all([startHost(), startHost()]);
  });
  const locked = (passphrase: string) => {
    const file = join(mkdtempSync(join(folder, "key-")), "id_ed25519");
    execFileSync("cp", [operatorKey.file, file]);
    execFileSync("ssh-keygen", ["-q", "-p", "-P", "", "-N", passphrase, "-f", file]);
    return readFileSync(file, "utf8");
  };
  const behind = () => ({
    ssh: [`${bastion.address4}/32`, `${bastion.address6}/128`],
    hosts: { mx1: at(host, { bastion: { host: bastion.address4, user: "admin", hostKey: bastion.hostKey } }) },
  });

  test("with a key that has a passphrase, through a bastion that is the only way", async () => {
    const stack = await deployed(behind(), { privateKey: locked("open sesame") }, "open sesame");
    expect(await status(stack)).toMatchObject({ code: 0 });
    await otherHostKey(bastion);
    const { code, output } = await status(stack);
    await ownHostKey(bastion);
    expect(code).toBe(1);
    expect(output).toMatch(/^mail-mx1: cannot be reached: [^]*Host key verification failed/m);
  });

  sampledTest(
    "to an IPv6 address behind a bastion, with a plain key, and none of the two host keys checked",
    async () => {
      const stack = await deployed({
        ...behind(),
        hosts: {
          mx1: {
            host: host.address6,
            insecureIgnoreHostKey: true,
            bastion: { host: bastion.address6, insecureIgnoreHostKey: true },
          },
        },
      });
      expect(await status(stack)).toMatchObject({ code: 0 });
    },
  );

  sampledTest("with an agent's key, where there is no other", async () => {
    const socket = join(folder, "agent");
    agents.push(spawn("ssh-agent", ["-D", "-a", socket], { stdio: "ignore" }));
    while (!existsSync(socket)) await sleep(20);
    const env = { SSH_AUTH_SOCK: socket };
    execFileSync("ssh-add", ["-q", operatorKey.file], { env: { ...process.env, ...env } });
    const stack = await deployed({ hosts: { mx1: at(host) } }, { env });
    expect(await status(stack)).toMatchObject({ code: 0 });
    execFileSync("ssh-add", ["-q", "-D"], { env: { ...process.env, ...env } });
    const { code, output } = await status(stack);
    expect(code).toBe(1);
    expect(output).toMatch(/^mail-mx1: cannot be reached: .*Permission denied \(publickey\)/m);
  });

  sampledTest("with a key whose line ends are CRLF", async () => {
    const stack = await deployed(
      { hosts: { mx1: at(host) } },
      { privateKey: operatorKey.privateKey.replaceAll("\n", "\r\n") },
    );
    expect(await status(stack)).toMatchObject({ code: 0 });
  });

  sampledTest("whatever stands in the operator's own ~/.ssh", async () => {
    const home = mkdtempSync(join(folder, "home-"));
    mkdirSync(join(home, ".ssh"), { mode: 0o700 });
    writeFileSync(join(home, ".ssh", "config"), "Host *\n  ProxyCommand false\n  Port 9\n");
    const stack = await deployed({ hosts: { mx1: at(host) } }, { ...operatorKey, env: { HOME: home } });
    expect(await status(stack)).toMatchObject({ code: 0 });
  });
});

test("a stack that has deployed to no host", async () => {
  const stack = await startStack(operatorKey);
  stacks.push(stack);
  expect(await status(stack)).toMatchObject({
    code: 1,
    output: expect.stringContaining("this stack has deployed to no host") as string,
  });
});
