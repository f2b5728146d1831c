import { execFileSync } from "node:child_process";
import {
  chmodSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";

import { Agents } from "../../cli/agents";
import { askHost, readReport } from "../../cli/ask";
import { printable, printableJson, printableLines } from "../../cli/printable";
import { deployedHosts, type State } from "../../cli/state";

type Resource = NonNullable<State["deployment"]["resources"]>[number];

/** As `pulumi stack export --show-secrets` writes a secret. */
const secret = (value: unknown) => ({
  "4dabf18193072939515e22adb298388d": "1b47061264138c4ac30d75fd1eb44270",
  plaintext: JSON.stringify(value),
});
const urn = (types: string, name: string) => `urn:pulumi:prod::mail-firewall::${types}::${name}`;
const hostType = "mail-firewall:index:MailFirewall$mail-firewall:index:HostFirewall";
const commandOf = (host: string, verb: string, inputs: Record<string, unknown>, more: object = {}): Resource => ({
  urn: urn(`${hostType}$command:remote:Command`, `${host}-${verb}`),
  type: "command:remote:Command",
  parent: urn(hostType, host),
  inputs,
  ...more,
});
const applied = (host: string, stdin: unknown, connection: unknown, more: object = {}) =>
  commandOf(host, "apply", { create: "/usr/local/sbin/mail-firewall apply", stdin, connection }, more);
const stateOf = (...resources: Resource[]): State => ({ deployment: { resources } });

const connection = { host: "198.51.100.10", port: 22, user: "root", hostKey: "ssh-ed25519 AAAA" };

test("a state without resources has deployed to no host", () => {
  expect(deployedHosts({ deployment: {} })).toEqual([]);
  expect(deployedHosts(stateOf())).toEqual([]);
});

test("hosts come by name, each with its own rules and its connection in plain", () => {
  const key = '-----BEGIN OPENSSH PRIVATE KEY-----\n"\\\n-----END OPENSSH PRIVATE KEY-----\n';
  expect(
    deployedHosts(
      stateOf(
        applied("mail-mx2", "# IPv4 2", { ...connection, privateKey: secret(key), privateKeyPassword: secret("hush") }),
        applied("mail-mx1", "# IPv4 1", secret({ ...connection, proxy: { ...connection, privateKey: secret(key) } })),
      ),
    ),
  ).toEqual([
    {
      name: "mail-mx1",
      rulesets: "# IPv4 1",
      connection: { ...connection, proxy: { ...connection, privateKey: key } },
    },
    {
      name: "mail-mx2",
      rulesets: "# IPv4 2",
      connection: { ...connection, privateKey: key, privateKeyPassword: "hush" },
    },
  ]);
});

test("rules that are secret, because a network in them was, are read too", () => {
  expect(deployedHosts(stateOf(applied("mx1", secret("# IPv4"), connection)))).toMatchObject([{ rulesets: "# IPv4" }]);
});

test("what is pending deletion is not what was deployed", () => {
  expect(
    deployedHosts(
      stateOf(
        applied("mx1", "old", { ...connection, host: "198.51.100.9" }, { delete: true }),
        applied("mx1", "new", connection),
        applied("mx2", "old", connection, { delete: true }),
      ),
    ),
  ).toEqual([{ name: "mx1", connection, rulesets: "new" }]);
});

test.each<[string, Resource]>([
  ["the other commands of a host", commandOf("mx1", "confirm", { stdin: "applied 12", connection })],
  [
    "somebody else's command of the same name",
    {
      ...applied("mx1", "x", connection),
      urn: urn("command:remote:Command", "mx1-apply"),
      parent: urn("pulumi:pulumi:Stack", "mx1"),
    },
  ],
  ["a command without a parent", { urn: urn("command:remote:Command", "mx1-apply"), type: "command:remote:Command" }],
  [
    "somebody else's command below a host",
    { ...applied("mx1", "x", connection), urn: urn(`${hostType}$command:remote:Command`, "mx2-apply") },
  ],
  ["another type of the same name", { ...applied("mx1", "x", connection), type: "command:local:Command" }],
  ["the host itself", { urn: urn(hostType, "mx1-apply"), type: "mail-firewall:index:HostFirewall" }],
])("%s is no host", (_, resource) => {
  expect(deployedHosts(stateOf(resource))).toEqual([]);
});

test.each(["a::b-apply", "$(touch x)", "mx 'one'", "a$b"])("a host's name may be any text: %s", (name) => {
  expect(deployedHosts(stateOf(applied(name, "x", connection)))).toMatchObject([{ name }]);
});

describe("what a host answers", () => {
  const report = { rules: "12ab", owner: "o", differences: [{ kind: "rules", text: "IPv4: missing" }], notices: [] };
  test("is its last line", () => {
    expect(readReport(`${JSON.stringify(report)}\n`)).toEqual(report);
    expect(readReport(`Welcome to mx1!\n${JSON.stringify(report)}\n`)).toEqual(report);
  });
  test.each([
    "",
    "null",
    "[]",
    "{}",
    "3",
    '"x"',
    "<html>",
    '{"error":"x"}',
    JSON.stringify({ ...report, notices: [null] }),
  ])("or else is not a report: %s", (text) => expect(readReport(text)).toBeUndefined());
});

test("of findings only what is known is kept: what a host adds may be nested too deep to be printed", () => {
  const deep = `${"[".repeat(100_000)}${"]".repeat(100_000)}`;
  const text = `{"rules":"12ab","owner":"o","notices":[],"differences":[{"kind":"rules","text":"x","more":${deep}}]}`;
  expect(readReport(text)).toMatchObject({ differences: [{ kind: "rules", text: "x" }] });
  expect(() => JSON.stringify(readReport(text))).not.toThrow();
});

describe("what a host says reaches the terminal as text only", () => {
  test.each([
    ["a\\u{1b}]0;title\\u{7}b", "a\u001b]0;title\u0007b"],
    ["\\u{9b}2J", "\u009b2J"],
    ["one\\u{a}two\\u{d}", "one\ntwo\r"],
    ["\\u{202e}abc\\u{2028}\\u{200b}\\u{d800}", "\u202eabc\u2028\u200b\ud800"],
    ["\\u{e0041}", "\u{e0041}"],
    ["grüße 你好 😀 \\", "grüße 你好 😀 \\"],
  ])("%s", (expected, text) => expect(printable(text)).toBe(expected));

  test("a line of it is never at the left margin, where lines about other hosts begin", () => {
    expect(printableLines("mx1: no\r\nmx2: as deployed\n\u001b[A")).toBe("mx1: no\n  mx2: as deployed\n  \\u{1b}[A");
  });

  test("in JSON, too, which stays what it was", () => {
    const value = { mx1: { text: "\u001b[A\n\u009b2J\u202e\u{e0041}\ud800 ü" } };
    expect(printableJson(value)).toMatch(/^[\n\x20-\x7eü]*$/);
    expect(JSON.parse(printableJson(value))).toEqual(value);
  });
});

describe("asking a host", () => {
  let folder: string, agents: Agents;
  const path = process.env.PATH;
  beforeEach(() => {
    folder = mkdtempSync(join(tmpdir(), "ask-"));
    mkdirSync(join(folder, "bin"));
    mkdirSync(join(folder, "scratch"));
    agents = new Agents(join(folder, "scratch"));
    process.env.PATH = `${join(folder, "bin")}:${path}`;
  });
  afterEach(() => {
    agents.close();
    process.env.PATH = path;
    rmSync(folder, { recursive: true, force: true });
  });

  /** Puts a script in the place of OpenSSH's client. */
  function ssh(script: string): void {
    const file = join(folder, "bin", "ssh");
    writeFileSync(file, `#!/bin/sh\n${script}\n`);
    chmodSync(file, 0o755);
  }
  const ask = (more: object = {}) =>
    askHost(
      { name: "mx1", connection: { ...connection, ...more }, rulesets: "" },
      { scratch: join(folder, "scratch"), agents, signal: new AbortController().signal },
    );
  function keygen(...options: string[]): string {
    const file = join(folder, "key");
    execFileSync("ssh-keygen", ["-q", "-t", "ed25519", "-f", file, ...options]);
    return readFileSync(file, "utf8");
  }
  /** Says what the client would log in with. */
  const listKeys =
    'for word; do case $word in IdentityAgent=*) export SSH_AUTH_SOCK="${word#*=}" ;; esac; done; ssh-add -l >&2; exit 9';

  test.each(["", ">&2"])("one that never stops talking is cut off (yes %s)", async (to) => {
    ssh(`echo $$ >'${folder}/pid'; exec yes ${to}`);
    expect(await ask()).toEqual({ error: "cannot say how it is: it answers with more than 4 MiB" });
    expect(existsSync(`/proc/${readFileSync(join(folder, "pid"), "utf8").trim()}/exe`)).toBe(false);
  });

  test("only one host key counts: OpenSSH would also take what follows it", async () => {
    ssh(`touch '${folder}/started'`);
    const hostKey = "ssh-ed25519 AAAA\n* ssh-ed25519 BBBB";
    const error = "cannot be asked: its hostKey is more than one line; write one key";
    expect(await ask({ hostKey })).toEqual({ error });
    expect(await ask({ hostKey: hostKey.replace("\n", "\r") })).toEqual({ error });
    expect(await ask({ proxy: { ...connection, hostKey } })).toEqual({ error });
    expect(existsSync(join(folder, "started"))).toBe(false);
    expect(await ask({ hostKey: "ssh-ed25519 AAAA\r\n" })).toEqual({ error: "cannot say how it is: exit code 0" });
  });

  test("a key is in an agent, and in no file; the agent has no other, and ends with us", async () => {
    ssh(listKeys);
    const privateKey = keygen("-N", "", "-C", "plain");
    const report = await ask({ privateKey });
    expect(report).toEqual({
      error: expect.stringMatching(/^cannot say how it is: 256 .* plain \(ED25519\)$/) as string,
    });
    expect(await ask({ privateKey })).toEqual(report);
    const scratch = join(folder, "scratch");
    const sockets = () => readdirSync(scratch).filter((name) => name.startsWith("agent"));
    expect(sockets()).toEqual(["agent0"]);
    const files = execFileSync("find", [scratch, "-type", "f", "-exec", "cat", "{}", "+"], { encoding: "utf8" });
    for (const line of privateKey.trim().split("\n")) expect(files).not.toContain(line);
    agents.close();
    while (sockets().length > 0) await sleep(20); // which the agent removes at its end
  });

  test("a key with CRLF line ends, or without the last one, is what it is with LF", async () => {
    ssh(listKeys);
    const key = keygen("-N", "", "-C", "plain");
    const has = { error: expect.stringContaining("plain (ED25519)") as string };
    expect(await ask({ privateKey: key.replaceAll("\n", "\r\n") })).toEqual(has);
    expect(await ask({ privateKey: key.trim() })).toEqual(has);
  });

  test("a key with a passphrase, the right one or not; and what is no key", async () => {
    ssh(listKeys);
    const privateKey = keygen("-N", "it's 100 % ü", "-C", "locked", "-a", "1");
    const has = { error: expect.stringContaining("locked (ED25519)") as string };
    expect(await ask({ privateKey, privateKeyPassword: "it's 100 % ü" })).toEqual(has);
    const cannot = { error: expect.stringMatching(/^cannot be asked: the private key cannot be used: /) as string };
    expect(await ask({ privateKey, privateKeyPassword: "wrong" })).toEqual(cannot);
    expect(await ask({ privateKey })).toEqual(cannot);
    expect(await ask({ privateKey: "x" })).toEqual(cannot);
  });
});
