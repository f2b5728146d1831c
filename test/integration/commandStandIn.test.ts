/**
 * The stand-in for the command provider, in process, against a tiny SSH server: what the integration tests rely on. The
 * texts are the real provider's, seen when both were run side by side.
 */
import { execFileSync, spawn } from "node:child_process";
import * as fs from "node:fs";
import * as net from "node:net";
import { tmpdir } from "node:os";
import * as path from "node:path";
import { PropertyDiff } from "@pulumi/pulumi/proto/provider_pb";
import { Server, utils, type Connection } from "ssh2";
import { CommandProvider, type Props } from "../sandbox/providers/command";

const URN = "urn:pulumi:s::p::command:remote:Command::mx";
const UNKNOWN = "04da6b54-80e4-46f7-96ec-b56ff0331ba9";
const SECRET = { "4dabf18193072939515e22adb298388d": "1b47061264138c4ac30d75fd1eb44270" };
const secret = (value: unknown): Props => ({ ...SECRET, value });
const { ADD, ADD_REPLACE, DELETE, DELETE_REPLACE, UPDATE } = PropertyDiff.Kind;

const hostKey = utils.generateKeyPairSync("ed25519");
const otherKey = utils.generateKeyPairSync("ed25519");
const userKey = utils.generateKeyPairSync("ed25519");

let server: Server;
let port: number;
let dials: number;
let ran: { command: string; stdin: string; env: Record<string, string> }[];
let acceptEnv: boolean;
/** What the next commands do, by their text; others succeed and print nothing. */
let commands: Record<string, { out?: string; err?: string; code?: number; signal?: string; hangUp?: boolean }>;
const peers = new Set<Connection>();

beforeAll(async () => {
  server = new Server({ hostKeys: [hostKey.private] }, (peer) => {
    dials++;
    peers.add(peer);
    peer.on("error", () => undefined);
    peer.on("authentication", (ctx) => {
      const authorized = utils.parseKey(userKey.public);
      if (authorized instanceof Error) throw authorized;
      if (ctx.method === "publickey" && ctx.key.data.equals(authorized.getPublicSSH())) ctx.accept();
      else if (ctx.method === "password" && ctx.password === "right") ctx.accept();
      else ctx.reject(["publickey", "password"]);
    });
    peer.on("tcpip", (accept, reject, { destIP, destPort }) => {
      const socket = net.connect(destPort, destIP);
      socket.once("error", () => reject());
      socket.once("connect", () => {
        const stream = accept();
        stream.pipe(socket).pipe(stream);
        for (const end of [stream, socket]) end.on("error", () => undefined).on("close", () => socket.destroy());
      });
    });
    peer.on("session", (accept) => {
      const session = accept();
      const env: Record<string, string> = {};
      session.on("env", (yes, no, info) => {
        const { key, val } = info;
        if (acceptEnv) env[key] = val;
        (acceptEnv ? yes : no)();
      });
      session.on("exec", (yes, _no, { command }) => {
        const { out = "", err = "", code = 0, signal, hangUp } = commands[command] ?? {};
        const channel = yes();
        let stdin = "";
        channel.on("data", (chunk: Buffer) => (stdin += chunk.toString()));
        channel.on("end", () => {
          ran.push({ command, stdin, env });
          if (hangUp) return void peer.end();
          channel.stderr.write(err);
          channel.write(out);
          if (signal === undefined) channel.exit(code);
          else channel.exit(signal, false, "");
          channel.end();
        });
      });
    });
  });
  await new Promise<void>((done) => server.listen(0, "127.0.0.1", done));
  port = (server.address() as { port: number }).port;
});
afterAll(() => new Promise<void>((done) => server.close(() => done())));

let provider: CommandProvider;
let logged: string[];
beforeEach(() => {
  dials = 0;
  ran = [];
  acceptEnv = false;
  commands = {};
  logged = [];
  provider = new CommandProvider((_urn, severity, text, ephemeral) =>
    logged.push(`${["debug", "info", "warning", "error"][severity]}${ephemeral ? "" : "!"} ${text}`),
  );
});
afterEach(() => {
  provider.close();
  for (const peer of peers) peer.end();
  peers.clear();
});

const connection = (more: Props = {}): Props => ({
  host: "127.0.0.1",
  port,
  user: "admin",
  privateKey: userKey.private,
  hostKey: hostKey.public,
  dialErrorLimit: 0,
  ...more,
});
/** Inputs as the engine passes them on: checked. */
function checked(inputs: Props): Props {
  const result = provider.check(URN, { connection: connection(), ...inputs });
  expect(result.failures).toEqual([]);
  return result.inputs;
}
const create = async (inputs: Props) => (await provider.create(URN, checked(inputs), false)).outs;

describe("check", () => {
  it("completes a connection and hides it, and nothing else", () => {
    const { inputs } = provider.check(URN, {
      connection: { host: "h", password: "p", proxy: { host: "j" } },
      stdin: "x",
    });
    const defaults = { user: "root", port: 22, dialErrorLimit: 10, perDialTimeout: 15 };
    expect(inputs).toEqual({
      connection: secret({ host: "h", password: secret("p"), ...defaults, proxy: { host: "j", ...defaults } }),
      stdin: "x",
    });
  });
  it("leaves an unknown connection unknown", () => {
    expect(checked({ connection: secret(UNKNOWN) }).connection).toEqual(secret(UNKNOWN));
  });
  it("refuses what the real schema does not have, by name", () => {
    const { failures } = provider.check(URN, {
      connection: { host: "h", bogus: 1, proxy: { host: "j", proxy: {} } },
      creat: "x",
      stdin: 5,
      triggers: "now",
      environment: { A: true },
    });
    expect(failures.map((f) => `${f.property}: ${f.reason}`)).toEqual([
      "triggers: Field 'triggers' on 'remote.CommandInputs' must be a '[]interface {}'; got 'string' instead",
      "stdin: Field 'stdin' on 'remote.CommandInputs' must be a 'string'; got 'float64' instead",
      "connection: An error occurred decoding 'CommandInputs.connection': 2 failures decoding:" +
        "\n\tproxy: An error occurred decoding 'Connection.proxy': 1 failures decoding:" +
        "\n\tproxy: Unrecognized field 'proxy' on 'remote.ProxyConnection'" +
        "\n\tbogus: Unrecognized field 'bogus' on 'remote.Connection'",
      "environment[A] value: Field 'environment[A] value' on 'remote.CommandInputs' must be a 'string'; got 'bool' instead",
      "creat: Unrecognized field 'creat' on 'remote.CommandInputs'",
    ]);
  });
  it("misses a connection and a host", () => {
    expect(provider.check(URN, {}).failures).toEqual([
      { property: "connection", reason: "Missing required field 'connection' on 'remote.CommandInputs'" },
    ]);
    expect(provider.check(URN, { connection: {} }).failures[0]?.reason).toContain("Missing required field 'host'");
  });
  it("has only remote.Command", () => {
    const urn = "urn:pulumi:s::p::mail-firewall:index:HostFirewall$command:remote:CopyToRemote::x";
    expect(() => provider.check(urn, {})).toThrow(
      "stand-in for the command provider has no command:remote:CopyToRemote",
    );
  });
  it("knows exactly the inputs of the installed SDK", () => {
    const sdk = path.dirname(require.resolve("@pulumi/command/package.json"));
    const constructorText = fs.readFileSync(path.join(sdk, "remote/command.js"), "utf8");
    const inputs = [...constructorText.matchAll(/resourceInputs\["(\w+)"\] = .*args/g)].map((m) => m[1] ?? "");
    const types = fs.readFileSync(path.join(sdk, "types/input.d.ts"), "utf8");
    const fields = (name: string): string[] => {
      const body = types.split(`interface ${name} {`)[1]?.split("\n    }")[0] ?? "";
      return [...body.matchAll(/^ {8}(\w+)\??:/gm)].map((m) => m[1] ?? "");
    };
    const mentioned = (props: Props) =>
      provider.check(URN, props).failures.filter((f) => f.reason.includes("Unrecognized"));
    const nulls = (names: string[]): Props => Object.fromEntries(names.map((name) => [name, null]));
    expect(inputs).toHaveLength(9);
    expect(fields("ConnectionArgs")).toHaveLength(11);
    expect(fields("ProxyConnectionArgs")).toHaveLength(10);
    expect(mentioned(nulls(inputs))).toEqual([]);
    const proxy = { ...nulls(fields("ProxyConnectionArgs")), host: "j" };
    expect(mentioned({ connection: { ...nulls(fields("ConnectionArgs")), host: "h", proxy } })).toEqual([]);
  });
});

describe("diff", () => {
  it("updates on any change and replaces on triggers only", () => {
    const old = { create: "a", stdin: "1", delete: "d", triggers: ["x"], connection: secret({ host: "h" }) };
    const changes = provider.diff(old, {
      create: "b",
      stdin: secret("1"),
      logging: "none",
      connection: secret({ host: "h" }),
    });
    expect([...changes]).toEqual([
      ["create", UPDATE],
      ["stdin", UPDATE],
      ["delete", DELETE],
      ["triggers", DELETE_REPLACE],
      ["logging", ADD],
    ]);
    // One trigger that changes: an update here, and a replacement by the SDK's `replaceOnChanges`.
    expect([...provider.diff({ triggers: [1, { a: 1 }] }, { triggers: [2, { a: 2 }, 3] })]).toEqual([
      ["triggers[0]", UPDATE],
      ["triggers[1].a", UPDATE],
      ["triggers[2]", ADD],
    ]);
    expect([...provider.diff({}, { triggers: [2] })]).toEqual([["triggers", ADD_REPLACE]]);
    expect(provider.diff(old, { ...old }).size).toBe(0);
  });
  it("takes an unknown for a change, and an unknown secret for none", () => {
    expect([...provider.diff({ stdin: "1" }, { stdin: UNKNOWN })]).toEqual([["stdin", UPDATE]]);
    expect(provider.diff({ connection: secret({ host: "h" }) }, { connection: secret(UNKNOWN) }).size).toBe(0);
  });
});

describe("preview", () => {
  it("of a create: outputs unknown, nothing dialled", async () => {
    const { outs } = await provider.create(URN, checked({ create: "x" }), true);
    expect(outs).toMatchObject({ create: "x", stdout: UNKNOWN, stderr: UNKNOWN });
    expect(dials).toBe(0);
  });
  it("of an update: outputs unknown if an input that was there changes, and as they were if one is only added", async () => {
    const state = { ...checked({ create: "x", stdin: "1" }), stdout: "o", stderr: "e" };
    const preview = (news: Props) => provider.update(URN, state, checked(news), true);
    expect(await preview({ create: "x", stdin: "2" })).toMatchObject({ stdout: UNKNOWN, stderr: UNKNOWN, stdin: "2" });
    expect(await preview({ create: "x" })).toMatchObject({ stdout: UNKNOWN });
    expect(await preview({ create: "x", stdin: UNKNOWN })).toMatchObject({ stdout: UNKNOWN });
    expect(await preview({ create: "x", stdin: "1", update: "y" })).toMatchObject({ stdout: "o", stderr: "e" });
    expect(dials).toBe(0);
  });
});

describe("create, update, delete", () => {
  it("run the verb that is set, each with the same stdin", async () => {
    const state = await create({ create: "c", stdin: "in\n" });
    await provider.update(URN, state, checked({ create: "c2", stdin: "in2" }), false);
    await provider.update(URN, state, checked({ create: "c2", update: "u" }), false);
    await provider.delete(URN, { ...state, delete: "d" });
    expect(ran.map(({ command, stdin }) => [command, stdin])).toEqual([
      ["c", "in\n"],
      ["c2", "in2"],
      ["u", ""],
      ["d", "in\n"],
    ]);
  });
  it("run nothing without a verb, and keep the outputs", async () => {
    expect(await create({ update: "u" })).toMatchObject({ stdout: "", stderr: "" });
    const state = { ...checked({}), stdout: "o", stderr: "e" };
    expect(await provider.update(URN, state, checked({ stdin: "x" }), false)).toMatchObject({
      stdout: "o",
      stderr: "e",
    });
    await provider.delete(URN, state);
    expect(dials).toBe(0);
  });
  it("give an id made of the name, and take one newline off each output", async () => {
    commands.c = { out: "a\n\n", err: "b" };
    const { id, outs } = await provider.create(URN, checked({ create: "c" }), false);
    expect(id).toMatch(/^mx[0-9a-f]{8}$/);
    expect(outs).toMatchObject({ create: "c", stdout: "a\n", stderr: "b" });
  });
  it("keep a secret stdin secret, and stdout plain", async () => {
    commands.c = { out: "o" };
    expect(await create({ create: "c", stdin: secret("s") })).toMatchObject({ stdin: secret("s"), stdout: "o" });
    expect(ran[0]?.stdin).toBe("s");
  });
  it("connect with the connection of the state when they delete", async () => {
    const state = {
      ...checked({ connection: connection({ hostKey: otherKey.public }), delete: "d" }),
      stdout: "",
      stderr: "",
    };
    await expect(provider.delete(URN, state)).rejects.toThrow("host key mismatch");
  });
  it.each([
    [{ code: 3, err: "no\n" }, 'Process exited with status 3: running "a \\"b\\"\\n":\nno\n'],
    [{ signal: "TERM" }, 'Process exited with status 143 from signal TERM: running "a \\"b\\"\\n":\n'],
    [{ hangUp: true }, 'wait: remote command exited without exit status or exit signal: running "a \\"b\\"\\n":\n'],
  ])("fail as the real one does: %j", async (outcome, text) => {
    commands['a "b"\n'] = outcome;
    await expect(create({ create: 'a "b"\n' })).rejects.toThrow(new Error(text));
  });
});

describe("environment", () => {
  it("is set when the server takes it", async () => {
    acceptEnv = true;
    commands.c = { out: "o\n" };
    const state = await create({ create: "c", environment: { A: "1" } });
    await provider.update(URN, state, checked({ create: "c", stdin: "x" }), false);
    await provider.update(URN, state, checked({ create: "c", addPreviousOutputInEnv: false }), false);
    expect(ran.map((r) => r.env)).toEqual([{ A: "1" }, { PULUMI_COMMAND_STDOUT: "o" }, {}]);
  });
  it("is fatal when refused", async () => {
    const text = 'could not set environment variable "A": ssh: setenv failed';
    await expect(create({ create: "c", environment: { A: "1" } })).rejects.toThrow(text);
    expect(logged).toEqual([expect.stringContaining("error! Unable to set 'A'. This only works if your SSH server")]);
    expect(ran).toEqual([]);
  });
  it("warns when only the previous output is refused", async () => {
    const state = { ...checked({ create: "c" }), stdout: "o", stderr: "e" };
    await provider.update(URN, state, checked({ create: "c" }), false);
    expect(logged.map((line) => line.slice(0, 46))).toEqual([
      "warning! Unable to set 'PULUMI_COMMAND_STDOUT'",
      "warning! Unable to set 'PULUMI_COMMAND_STDERR'",
    ]);
    expect(ran).toHaveLength(1);
  });
});

describe("logging", () => {
  it.each([
    [undefined, ["info e1", "info o1", "info o2"]],
    ["stdoutAndStderr", ["info e1", "info o1", "info o2"]],
    ["stdout", ["info o1", "info o2"]],
    ["stderr", ["info e1"]],
    ["none", []],
  ])("%s", async (logging, lines) => {
    commands.c = { err: "e1\n", out: "o1\r\no2" };
    await create({ create: "c", ...(logging && { logging }) });
    expect(logged.sort()).toEqual(lines);
  });
  it("names the hang of the real one on a long line, and takes it where nothing is logged", async () => {
    commands.c = { out: "x".repeat(65_536) };
    await expect(create({ create: "c" })).rejects.toThrow("the real command provider hangs");
    expect((await create({ create: "c", logging: "none" })).stdout).toHaveLength(65_536);
    commands.c = { out: `${"x".repeat(65_535)}\n` };
    expect((await create({ create: "c" })).stdout).toHaveLength(65_535);
  });
});

describe("connection", () => {
  const failing = (more: Props) => create({ create: "c", connection: connection(more) });
  const none = "ssh: handshake failed: ssh: unable to authenticate, attempted methods";

  it("pins the host key, and ignores it if there is none", async () => {
    await failing({ hostKey: `# ours\n${hostKey.public} comment\n` });
    await failing({ hostKey: undefined });
    expect(ran).toHaveLength(2);
    await expect(failing({ hostKey: otherKey.public })).rejects.toThrow(
      new Error("after 0 failed attempts: ssh: handshake failed: ssh: host key mismatch"),
    );
  });
  it("pins the algorithm with the key", async () => {
    const rsa = utils.generateKeyPairSync("rsa", { bits: 2048 }).public;
    await expect(failing({ hostKey: rsa })).rejects.toThrow(
      "ssh: no common algorithm for host key; we offered: [ssh-rsa], peer offered: [ssh-ed25519]",
    );
  });
  it.each([
    ["nonsense", ""],
    ["", ""],
    ["ssh-ed25519 AAAA", "; last parsing error for ignored line: ssh: short read"],
    ["ssh-ed25519 !!!!", "; last parsing error for ignored line: illegal base64 data at input byte 0"],
  ])("refuses the host key %j without dialling", async (key, more) => {
    const text = `failed to parse host key: ssh: no key found${more}`;
    await expect(failing({ hostKey: key, dialErrorLimit: 5 })).rejects.toThrow(new Error(text));
    expect(dials).toBe(0);
  });
  it("retries a refused key as often as it is told, and dials once more", async () => {
    await expect(failing({ privateKey: otherKey.private, dialErrorLimit: 2 })).rejects.toThrow(
      new Error(`after 2 failed attempts: ${none} [none publickey], no supported methods remain`),
    );
    expect(dials).toBe(3);
    expect(logged).toEqual(["info Dial 1/2 failed: retrying", "info Dial 2/2 failed: retrying"]);
  });
  it("authenticates with a password", async () => {
    await failing({ privateKey: undefined, password: "right" });
    await expect(failing({ privateKey: undefined, password: "wrong" })).rejects.toThrow(`${none} [none password],`);
    await expect(failing({ privateKey: undefined })).rejects.toThrow(`${none} [none],`);
  });
  it("reads an encrypted key, and fails at once on one that it cannot read", async () => {
    const privateKey = utils.generateKeyPairSync("ed25519", {
      cipher: "aes256-ctr",
      rounds: 4,
      passphrase: "pp",
    }).private;
    const limit = { dialErrorLimit: 5 };
    await expect(failing({ privateKey, privateKeyPassword: "pp" })).rejects.toThrow(none);
    dials = 0;
    await expect(failing({ privateKey, ...limit })).rejects.toThrow("ssh: this private key is passphrase protected");
    await expect(failing({ privateKey, privateKeyPassword: "x", ...limit })).rejects.toThrow(
      "x509: decryption password",
    );
    await expect(failing({ privateKeyPassword: "x", ...limit })).rejects.toThrow("ssh: key is not password protected");
    await expect(failing({ privateKey: "x", ...limit })).rejects.toThrow(new Error("ssh: no key found"));
    await expect(failing({ agentSocketPath: "/nowhere", ...limit })).rejects.toThrow(
      new Error("dial unix /nowhere: connect: no such file or directory"),
    );
    expect(dials).toBe(0);
  });
  it("says where nobody listens", async () => {
    await expect(failing({ port: 1 })).rejects.toThrow("dial tcp 127.0.0.1:1: connect: connection refused");
  });
  it("retries for ever with -1, until it is cancelled", async () => {
    const result = failing({ port: 1, dialErrorLimit: -1 });
    setTimeout(() => provider.cancel(), 300);
    await expect(result).rejects.toThrow("context canceled");
    expect(logged.slice(0, 2)).toEqual(["info Dial 1/inf failed: retrying", "info Dial 2/inf failed: retrying"]);
  });
});

describe("private keys of ssh-keygen", () => {
  let folder: string;
  beforeAll(() => (folder = fs.mkdtempSync(path.join(tmpdir(), "keys-"))));
  afterAll(() => fs.rmSync(folder, { recursive: true, force: true }));
  const keygen = (passphrase: string, options: string): string => {
    const file = path.join(folder, "key");
    fs.rmSync(file, { force: true });
    execFileSync("ssh-keygen", ["-q", "-N", passphrase, "-f", file, ...options.split(" ")]);
    return fs.readFileSync(file, "utf8");
  };

  const locked = "ssh: this private key is passphrase protected";
  const wrong = "x509: decryption password incorrect";
  const notLocked = "ssh: not an encrypted key";
  const unknown = (cipher: string) => `ssh: unknown cipher "${cipher}", only supports "aes256-ctr" or "aes256-cbc"`;
  const unsupported = 'ssh: unsupported key type "ENCRYPTED PRIVATE KEY"';
  // x/crypto v0.48.0 was asked the same: without a passphrase, with "hushed", with another. "" is a key that it takes.
  it.each([
    ["", "-t ed25519", "", "ssh: key is not password protected", "ssh: key is not password protected"],
    ["hushed", "-t ed25519 -a 1", locked, "", wrong],
    ["hushed", "-t ed25519 -a 1 -Z aes256-cbc", locked, "", wrong],
    ["hushed", "-t ed25519 -a 1 -Z aes128-ctr", locked, unknown("aes128-ctr"), unknown("aes128-ctr")],
    ["", "-t rsa -b 2048 -m PEM", "", notLocked, notLocked],
    ["hushed", "-t rsa -b 2048 -m PEM", locked, "", wrong],
    ["hushed", "-t ecdsa -m PEM", locked, "", wrong],
    ["", "-t rsa -b 2048 -m PKCS8", "", notLocked, notLocked],
    ["", "-t ecdsa -m PKCS8", "", notLocked, notLocked],
    ["hushed", "-t rsa -b 2048 -m PKCS8", unsupported, notLocked, notLocked],
  ])("with passphrase %j, %s", async (passphrase, options, without, right, other) => {
    const privateKey = keygen(passphrase, options);
    const cases = [
      [undefined, without],
      ["hushed", right],
      ["other", other],
    ] as const;
    for (const [privateKeyPassword, expected] of cases) {
      const more = { privateKey, ...(privateKeyPassword !== undefined && { privateKeyPassword }) };
      await expect(create({ create: "c", connection: connection(more) })).rejects.toThrow(
        expected === "" ? "ssh: unable to authenticate" : new Error(expected),
      );
    }
  });
  it("that are cut off are none", async () => {
    const privateKey = keygen("", "-t ed25519").slice(0, -20);
    await expect(create({ create: "c", connection: connection({ privateKey }) })).rejects.toThrow(
      new Error("ssh: no key found"),
    );
  });
});

describe("an agent", () => {
  const { SSH_AUTH_SOCK } = process.env;
  let socket: string, end: () => void;
  beforeAll(async () => {
    const folder = fs.mkdtempSync(path.join(tmpdir(), "agent-"));
    socket = path.join(folder, "socket");
    const agent = spawn("ssh-agent", ["-D", "-a", socket], { stdio: "ignore" });
    end = () => agent.kill();
    while (!fs.existsSync(socket)) await new Promise((done) => setTimeout(done, 20));
    execFileSync("ssh-add", ["-q", "-"], {
      input: userKey.private,
      stdio: ["pipe", "ignore", "ignore"],
      env: { ...process.env, SSH_AUTH_SOCK: socket },
    });
  });
  afterAll(() => end());
  afterEach(() => {
    if (SSH_AUTH_SOCK === undefined) delete process.env.SSH_AUTH_SOCK;
    else process.env.SSH_AUTH_SOCK = SSH_AUTH_SOCK;
  });
  const logIn = (more: Props) => create({ create: "c", connection: connection({ privateKey: undefined, ...more }) });

  it("logs in, at the socket that is given, or at that of the environment", async () => {
    process.env.SSH_AUTH_SOCK = "/nowhere";
    await logIn({ agentSocketPath: socket });
    process.env.SSH_AUTH_SOCK = socket;
    await logIn({});
    expect(ran).toHaveLength(2);
  });
  it("is none where the environment's is empty", async () => {
    process.env.SSH_AUTH_SOCK = "";
    await expect(logIn({})).rejects.toThrow("attempted methods [none], no supported methods remain");
  });
  it("must be there even beside a key, and is then not asked", async () => {
    process.env.SSH_AUTH_SOCK = "/nowhere";
    await expect(create({ create: "c" })).rejects.toThrow(
      new Error("dial unix /nowhere: connect: no such file or directory"),
    );
    process.env.SSH_AUTH_SOCK = socket;
    await expect(logIn({ privateKey: otherKey.private })).rejects.toThrow("attempted methods [none publickey]");
  });
});

describe("proxy", () => {
  const through = (proxy: Props, more: Props = {}) =>
    create({ create: "c", connection: connection({ ...more, proxy: connection(proxy) }) });
  const failure = (limit: number, text: string) => new Error(`proxy: after ${limit} failed attempts: ${text}`);

  it("forwards, over a connection and a log-in of its own", async () => {
    await through({ privateKey: undefined, password: "right" });
    expect(ran.map(({ command }) => command)).toEqual(["c"]);
    expect(dials).toBe(2);
  });
  it("is pinned by its own host key, and retried by its own limit", async () => {
    await expect(through({ hostKey: otherKey.public, dialErrorLimit: 1 })).rejects.toThrow(
      failure(1, "ssh: handshake failed: ssh: host key mismatch"),
    );
    expect(dials).toBe(2);
    expect(logged).toEqual(["info Dial proxy 1/1 failed: retrying"]);
  });
  it("that cannot be logged in to, or read, or dialled", async () => {
    await expect(through({ privateKey: otherKey.private })).rejects.toThrow(
      failure(
        0,
        "ssh: handshake failed: ssh: unable to authenticate, attempted methods [none publickey], no supported methods remain",
      ),
    );
    await expect(through({ privateKeyPassword: "x" })).rejects.toThrow(
      new Error("proxy: ssh: key is not password protected"),
    );
    await expect(through({ agentSocketPath: "/nowhere" })).rejects.toThrow(
      new Error("proxy: dial unix /nowhere: connect: no such file or directory"),
    );
    await expect(through({ port: 1 })).rejects.toThrow(failure(0, "dial tcp 127.0.0.1:1: connect: connection refused"));
  });
  it("that cannot reach the host", async () => {
    await expect(through({}, { port: 1, dialErrorLimit: 1 })).rejects.toThrow(
      /^proxy: after 1 failed attempts: ssh: rejected: /,
    );
    expect(logged).toEqual(["info Dial from proxy 1/1 failed: retrying"]);
  });
  it("before a host with another key: only without retries does the error tell", async () => {
    await expect(through({}, { hostKey: otherKey.public })).rejects.toThrow(
      failure(0, "ssh: handshake failed: ssh: host key mismatch"),
    );
    await expect(through({}, { hostKey: otherKey.public, dialErrorLimit: 1 })).rejects.toThrow(
      failure(1, "ssh: handshake failed: EOF"),
    );
  });
});
