/**
 * Stand-in for the `pulumi-command` provider v1.2.1, for machines where Pulumi's plugins cannot be downloaded. Only
 * `remote.Command`. What it does, refuses and says was taken from the real one's source; the file is named beside each
 * part (github.com/pulumi/pulumi-command, below `provider/pkg/provider/remote/`; "infer" is pulumi-go-provider v1.3.0,
 * the library that serves it). Run against the real one, with the same programs and sshd, its previews, errors, log lines
 * and state were the same to the letter.
 *
 * It answers the engine's gRPC itself: `pulumi.provider.main` does not tell a provider that it is in a preview, hides the
 * old inputs, knows no detailed diff, prints stack traces, and takes twice as long to start.
 */
import * as crypto from "node:crypto";
import * as dns from "node:dns";
import * as net from "node:net";
import * as os from "node:os";
import type { Duplex } from "node:stream";
import * as timers from "node:timers/promises";
import * as util from "node:util";
import * as grpc from "@grpc/grpc-js";
import { EngineClient } from "@pulumi/pulumi/proto/engine_grpc_pb";
import { LogRequest, LogSeverity } from "@pulumi/pulumi/proto/engine_pb";
import { PluginInfo } from "@pulumi/pulumi/proto/plugin_pb";
import { ResourceProviderService } from "@pulumi/pulumi/proto/provider_grpc_pb";
import * as rpc from "@pulumi/pulumi/proto/provider_pb";
import { Empty } from "google-protobuf/google/protobuf/empty_pb";
import { Struct, type JavaScriptValue } from "google-protobuf/google/protobuf/struct_pb";
import type * as SSH from "ssh2";

// ssh2 takes 40 ms to load, and a preview never connects.
// eslint-disable-next-line @typescript-eslint/no-require-imports
const ssh2 = (): typeof SSH => require("ssh2") as typeof SSH;

export type Props = Record<string, unknown>;
export type Log = (urn: string, severity: LogSeverity, message: string, ephemeral: boolean) => void;
interface Output {
  stdout: string;
  stderr: string;
}
interface Endpoint {
  host: string;
  user: string;
  port: number;
  password?: string;
  privateKey?: string;
  privateKeyPassword?: string;
  agentSocketPath?: string;
  hostKey?: string;
  dialErrorLimit?: number;
  perDialTimeout: number;
  proxy?: Endpoint;
}
interface Command {
  connection: Endpoint;
  create?: string;
  update?: string;
  delete?: string;
  stdin?: string;
  logging?: string;
  environment?: Record<string, string>;
  addPreviousOutputInEnv?: boolean;
}

// ---- Inputs: common/inputs.go, command.go, connection.go, proxyConnection.go. Field order and Go types as declared there.

const BASE = {
  user: "string",
  password: "string",
  host: "string",
  port: "float64",
  privateKey: "string",
  privateKeyPassword: "string",
  agentSocketPath: "string",
  dialErrorLimit: "int",
  perDialTimeout: "int",
  hostKey: "string",
};
const STRUCTS: Record<string, Record<string, string>> = {
  CommandInputs: {
    triggers: "[]interface {}",
    create: "string",
    update: "string",
    delete: "string",
    stdin: "string",
    logging: "remote.Logging", // its values are not checked: what is not one of the four logs nothing
    connection: "remote.Connection",
    environment: "map[string]string",
    addPreviousOutputInEnv: "bool", // "defaults to true" where it is used, not here
  },
  Connection: { ...BASE, proxy: "remote.ProxyConnection" },
  ProxyConnection: BASE,
};
/** What the two other Go types look like as they arrive. */
const WIRE: Record<string, string> = { int: "float64", "remote.Logging": "string" };
const REQUIRED = ["connection", "host"];
const DEFAULTS = { user: "root", port: 22, dialErrorLimit: 10, perDialTimeout: 15 };
const SECRET_FIELDS = ["password", "privateKey", "privateKeyPassword"];

const UNKNOWN = "04da6b54-80e4-46f7-96ec-b56ff0331ba9";
const SIGNATURE = "4dabf18193072939515e22adb298388d";
const SECRET = "1b47061264138c4ac30d75fd1eb44270";

const isObject = (v: unknown): v is Props => typeof v === "object" && v !== null && !Array.isArray(v);
const isSecret = (v: unknown): v is Props => isObject(v) && v[SIGNATURE] === SECRET;
const secret = (value: unknown): unknown => (isSecret(value) ? value : { [SIGNATURE]: SECRET, value });
const bare = (v: unknown): unknown => (isSecret(v) ? bare(v.value) : v);
const present = (o: Props): Props => Object.fromEntries(Object.entries(o).filter(([, v]) => v !== null));

function reveal(wrapped: unknown): unknown {
  const v = bare(wrapped);
  if (Array.isArray(v)) return v.map(reveal);
  return isObject(v) ? Object.fromEntries(Object.entries(v).map(([key, inner]) => [key, reveal(inner)])) : v;
}

function goType(v: unknown): string {
  if (Array.isArray(v)) return "[]interface {}";
  if (isObject(v)) return "map[string]interface {}";
  return { number: "float64", boolean: "bool" }[typeof v as string] ?? typeof v;
}

/** What infer's decoding (infer/resource.go `decodeCheckingMapErrors`, sdk mapper_decode.go) finds wrong, in its words. */
function faults(struct: string, props: Props): rpc.CheckFailure.AsObject[] {
  const found: rpc.CheckFailure.AsObject[] = [];
  const add = (property: string, reason: string) => found.push({ property, reason });
  const wrong = (key: string, type: string, v: unknown) =>
    add(key, `Field '${key}' on 'remote.${struct}' must be a '${type}'; got '${goType(v)}' instead`);
  const fields = STRUCTS[struct] ?? {};
  for (const [key, type] of Object.entries(fields)) {
    const value = bare(props[key]);
    if (value === undefined || value === null) {
      if (REQUIRED.includes(key)) add(key, `Missing required field '${key}' on 'remote.${struct}'`);
    } else if (value === UNKNOWN) {
      continue;
    } else if (type.endsWith("Connection")) {
      if (!isObject(value)) {
        wrong(key, type, value);
        continue;
      }
      const inner = faults(type.replace("remote.", ""), value).map((f) => `\n\t${f.property}: ${f.reason}`);
      const text = `An error occurred decoding '${struct}.${key}': ${inner.length} failures decoding:${inner.join("")}`;
      if (inner.length > 0) add(key, text);
    } else if (type === "map[string]string" && isObject(value)) {
      const bad = Object.entries(value).find(([, v]) => typeof bare(v) !== "string");
      if (bad) wrong(`${key}[${bad[0]}] value`, "string", bare(bad[1]));
    } else if (goType(value) !== (WIRE[type] ?? type)) {
      wrong(key, type, value);
    }
  }
  for (const key of Object.keys(props))
    if (!(key in fields)) add(key, `Unrecognized field '${key}' on 'remote.${struct}'`);
  return found;
}

/** infer/apply_defaults.go and apply_secrets.go, on a connection and on its proxy. Unknown ones stay as they are. */
function complete(connection: unknown): unknown {
  const fields = bare(connection);
  if (!isObject(fields)) return connection;
  const done: Props = { ...DEFAULTS, ...present(fields) };
  for (const key of SECRET_FIELDS) if (key in done) done[key] = secret(done[key]);
  if ("proxy" in done) done.proxy = complete(done.proxy);
  return isSecret(connection) ? secret(done) : done;
}

// ---- The provider: commandController.go, and infer/resource.go around it.

export class CommandProvider {
  private readonly stop = new AbortController();
  private readonly clients: SSH.Client[] = [];

  constructor(private readonly log: Log = () => undefined) {}

  check(urn: string, news: Props): { inputs: Props; failures: rpc.CheckFailure.AsObject[] } {
    const type = urn.split("::")[2]?.split("$").pop();
    if (type !== "command:remote:Command")
      throw new Error(`the sandbox's stand-in for the command provider has no ${type}, only command:remote:Command`);
    const failures = faults("CommandInputs", news);
    if (failures.length > 0) return { inputs: news, failures };
    return { inputs: { ...present(news), connection: secret(complete(news.connection)) }, failures };
  }

  /**
   * infer/resource.go `diff`: every change is an update. `triggers` replace when they come or go; that they replace when one
   * of them changes is the SDK's doing (`replaceOnChanges: ["triggers[*]"]`). Secrets are compared whole.
   */
  diff(oldInputs: Props, news: Props): Map<string, rpc.PropertyDiff.Kind> {
    const { ADD, DELETE, UPDATE } = rpc.PropertyDiff.Kind;
    const changes = new Map<string, rpc.PropertyDiff.Kind>();
    const compare = (path: string, old: unknown, now: unknown) => {
      if (util.isDeepStrictEqual(old, now) || path === "version" || path.startsWith("__")) return;
      if (Array.isArray(old) && Array.isArray(now)) {
        for (let i = 0; i < Math.max(old.length, now.length); i++) compare(`${path}[${i}]`, old[i], now[i]);
      } else if (isObject(old) && isObject(now) && !(SIGNATURE in old) && !(SIGNATURE in now)) {
        for (const key of new Set([...Object.keys(old), ...Object.keys(now)])) {
          // An unknown secret is taken for unchanged: a host whose address is to change previews as "same".
          if (key in old && isSecret(now[key]) && bare(now[key]) === UNKNOWN) continue;
          const step = /^\w+$/.test(key) ? `.${key}` : `[${JSON.stringify(key)}]`;
          compare(path === "" ? key : path + step, old[key], now[key]);
        }
      } else {
        const kind = old === undefined ? ADD : now === undefined ? DELETE : UPDATE;
        changes.set(path, path === "triggers" ? kind + 1 : kind); // each kind's replacing twin is the next number
      }
    };
    compare("", oldInputs, news);
    return changes;
  }

  async create(urn: string, inputs: Props, preview: boolean): Promise<{ id: string; outs: Props }> {
    const id = urn.slice(urn.lastIndexOf("::") + 2) + crypto.randomBytes(4).toString("hex");
    if (preview) return { id, outs: { ...inputs, stdout: UNKNOWN, stderr: UNKNOWN } };
    return { id, outs: { ...inputs, ...(await this.run(urn, inputs, ["create"], { stdout: "", stderr: "" })) } };
  }

  async update(urn: string, state: Props, news: Props, preview: boolean): Promise<Props> {
    const old = previous(state);
    if (!preview) return { ...news, ...(await this.run(urn, news, ["update", "create"], old)) };
    // infer/resource.go `markComputed`: outputs are unknown if an input that the state already had changes or is unknown.
    // An input that is merely added leaves them as they were, whatever the update will print.
    const changed = Object.keys(STRUCTS.CommandInputs ?? {}).some(
      (key) => bare(news[key]) === UNKNOWN || (key in state && !util.isDeepStrictEqual(news[key], state[key])),
    );
    return { ...news, ...(changed ? { stdout: UNKNOWN, stderr: UNKNOWN } : old) };
  }

  async delete(urn: string, state: Props): Promise<void> {
    await this.run(urn, state, ["delete"], previous(state));
  }

  /** Ends the wait between dials; running commands go on (cancel middleware of pulumi-go-provider). */
  cancel(): void {
    this.stop.abort();
  }

  /** For tests. The real provider never closes a connection: they end with its process. */
  close(): void {
    for (const client of this.clients) client.end();
  }

  /** commandOutputs.go `run`, with the first of the verbs that is set. */
  private async run(
    urn: string,
    props: Props,
    verbs: ("create" | "update" | "delete")[],
    old: Output,
  ): Promise<Output> {
    const args = reveal(props) as Command;
    const command = verbs.map((verb) => args[verb]).find((text) => text !== undefined);
    if (command === undefined) return old;
    const client = await this.dial(urn, args.connection);
    const session = await openSession(client);
    try {
      const refused = (key: string, severity: LogSeverity) => {
        this.log(urn, severity, `Unable to set '${key}'. ${SETENV_HINT}`, false);
        return new Error(`could not set environment variable ${quote(key)}: ssh: setenv failed`);
      };
      for (const [key, value] of Object.entries(args.environment ?? {}))
        if (!(await setenv(session, key, value))) throw refused(key, LogSeverity.ERROR);
      for (const key of args.addPreviousOutputInEnv === false ? [] : (["stdout", "stderr"] as const)) {
        const name = `PULUMI_COMMAND_${key.toUpperCase()}`;
        if (old[key] !== "" && !(await setenv(session, name, old[key]))) refused(name, LogSeverity.WARNING);
      }
      return await execute(session, command, args, (line) => this.log(urn, LogSeverity.INFO, line, true));
    } finally {
      session.close();
    }
  }

  /** connection.go `Dial`. */
  private async dial(urn: string, target: Endpoint): Promise<SSH.Client> {
    const keep = (client: SSH.Client) => (this.clients.push(client), client);
    const login = await logIn(target);
    const { proxy } = target;
    if (!proxy) return keep(await this.retry(urn, "Dial", target, async () => handshake(await connect(target), login)));
    try {
      const proxyLogin = await logIn(proxy);
      const first = async () => handshake(await connect(proxy), proxyLogin);
      const jump = keep(await this.retry(urn, "Dial proxy", proxy, first));
      const stream = await this.retry(urn, "Dial from proxy", target, () => forward(jump, target));
      let spent = false;
      const second = () => {
        // The real one retries on the very stream that its first failure closed.
        if (spent) throw new Error("ssh: handshake failed: EOF");
        spent = true;
        return handshake(stream, login);
      };
      return keep(await this.retry(urn, "Dial", target, second));
    } catch (error) {
      throw new Error(`proxy: ${message(error)}`);
    }
  }

  /** connection.go `dialWithRetry`: every error is retried, and a limit of 2 means three dials. Delays: sdk retry/until.go. */
  private async retry<T>(urn: string, what: string, to: Endpoint, attempt: () => Promise<T>): Promise<T> {
    const limit = to.dialErrorLimit ?? DEFAULTS.dialErrorLimit;
    for (let tried = 0, delay = 100; ; tried++, delay = Math.min(delay * 1.5, 5000)) {
      try {
        return await attempt();
      } catch (error) {
        if (limit > -1 && tried + 1 > limit) throw new Error(`after ${tried} failed attempts: ${message(error)}`);
      }
      const text = `${what} ${tried + 1}/${limit === -1 ? "inf" : limit} failed: retrying`;
      this.log(urn, LogSeverity.INFO, text, true);
      await timers.setTimeout(delay, undefined, { signal: this.stop.signal }).catch(() => {
        throw new Error("context canceled");
      });
    }
  }
}

const message = (error: unknown): string => (error instanceof Error ? error.message : String(error));
const previous = (state: Props): Output => reveal({ stdout: state.stdout ?? "", stderr: state.stderr ?? "" }) as Output;
const SETENV_HINT = `This only works if your SSH server is configured to accept
	these variables via AcceptEnv. Alternatively, if a Bash-like shell runs the command on the remote host, you could
	prefix the command itself with the variables in the form 'VAR=value command'`;

/** Go's %q. */
function quote(text: string): string {
  const named: Record<string, string> = { "\x07": "\\a", "\b": "\\b", "\f": "\\f", "\n": "\\n", "\r": "\\r" };
  Object.assign(named, { "\t": "\\t", "\v": "\\v", '"': '\\"', "\\": "\\\\" });
  const code = (c: string) => c.charCodeAt(0).toString(16);
  const escaped = text.replace(/[\x00-\x1f"\\\x7f]/g, (c) => named[c] ?? `\\x${code(c).padStart(2, "0")}`);
  return `"${escaped.replace(/[\x80-\xa0\xad\u2028\u2029\ufeff]/g, (c) => `\\u${code(c).padStart(4, "0")}`)}"`;
}

// ---- Connections: connection.go, golang.org/x/crypto/ssh.

/** A socket error in Go's words, which are libuv's except for one. */
function socketError(error: NodeJS.ErrnoException): string {
  const text = util.getSystemErrorMap().get(error.errno ?? 0)?.[1] ?? error.message;
  return error.code === "EHOSTUNREACH" ? "no route to host" : text;
}
const address = (host: string, port: number): string => `${net.isIPv6(host) ? `[${host}]` : host}:${port}`;

/** Go's net.DialTimeout. perDialTimeout ends here: a peer that accepts and then says nothing holds the provider for ever. */
function connect(to: Endpoint): Promise<net.Socket> {
  return new Promise((resolve, reject) => {
    const fail = (text: string) => {
      socket.destroy();
      reject(new Error(`dial tcp${text}`));
    };
    let ip = to.host;
    const socket = net.connect({ host: to.host, port: to.port, noDelay: true });
    const timer =
      to.perDialTimeout > 0 &&
      setTimeout(() => fail(` ${address(ip, to.port)}: i/o timeout`), to.perDialTimeout * 1000);
    socket.on("lookup", (_error, found) => (ip = found ?? ip));
    socket.once("error", (error: NodeJS.ErrnoException) => {
      clearTimeout(timer || undefined);
      const first = (error instanceof AggregateError ? error.errors[0] : error) as NodeJS.ErrnoException;
      if (first.syscall === "getaddrinfo") fail(`: lookup ${to.host} on ${dns.getServers()[0]}:53: no such host`);
      else fail(` ${address(ip, to.port)}: connect: ${socketError(first)}`);
    });
    socket.once("connect", () => {
      clearTimeout(timer || undefined);
      // Go probes an idle connection after 15 s, nine times, every 15 s; libuv ten times, every second.
      socket.setKeepAlive(true, 140_000);
      resolve(socket);
    });
  });
}

function forward(through: SSH.Client, to: Endpoint): Promise<Duplex> {
  return new Promise((resolve, reject) =>
    through.forwardOut("0.0.0.0", 0, to.host, to.port, (error, stream) =>
      error ? reject(new Error(rejection(error))) : resolve(stream),
    ),
  );
}

/** One of Go's auth methods: what is sent, and the name by which a server offers it and Go uses it once. */
type Method = { name: SSH.AuthenticationType; auth: SSH.AnyAuthMethod };
interface Login {
  username: string;
  methods: Method[];
  hostKey: { type: string; blob: Buffer } | undefined;
}

/** connection.go `SSHConfig`: its errors are not retried. */
async function logIn(to: Endpoint): Promise<Login> {
  const hostKey = to.hostKey === undefined ? undefined : parseHostKey(to.hostKey);
  const { user: username, password, privateKey } = to;
  const methods: Method[] = [];
  if (privateKey !== undefined) {
    const key = parsePrivateKey(privateKey, to.privateKeyPassword);
    methods.push({ name: "publickey", auth: { type: "publickey", username, key } });
  }
  if (password !== undefined) {
    methods.push({ name: "password", auth: { type: "password", username, password } });
    const prompt: SSH.KeyboardInteractiveAuthMethod["prompt"] = (_name, _text, _language, questions, answer) =>
      answer(questions.map(() => password));
    methods.push({ name: "keyboard-interactive", auth: { type: "keyboard-interactive", username, prompt } });
  }
  const agent = to.agentSocketPath ?? (process.env.SSH_AUTH_SOCK || undefined);
  if (agent !== undefined) {
    await new Promise<void>((resolve, reject) => {
      const probe = net.connect(agent, () => (probe.destroy(), resolve()));
      probe.on("error", (error) => reject(new Error(`dial unix ${agent}: connect: ${socketError(error)}`)));
    });
    // Go uses only the first method of a name: beside a private key the agent is never asked.
    methods.push({ name: "publickey", auth: { type: "agent", username, agent } });
  }
  return { username, methods, hostKey };
}

/** ssh.NewClientConn, its order of authentication (client_auth.go), and its errors in Go's words. */
function handshake(sock: Duplex, { username, methods, hostKey }: Login): Promise<SSH.Client> {
  const tried: string[] = [];
  let current: Method | undefined;
  let offered = "";
  const { localAddress, localPort, remoteAddress, remotePort } = sock as net.Socket; // gone after an error
  const ends = `${localAddress}:${localPort}->${remoteAddress}:${remotePort}`;
  const authHandler: SSH.AuthHandlerMiddleware = (left, partial, next) => {
    if (current && !partial && !tried.includes(current.name)) tried.push(current.name);
    current = current
      ? methods.find((m) => !tried.includes(m.name) && left.includes(m.name))
      : { name: "none", auth: { type: "none", username } };
    next(current?.auth ?? (false as unknown as SSH.AnyAuthMethod));
  };
  const inGo = (error: Error & { level?: string; code?: string | number; errno?: number }): string => {
    if (error.level === "client-authentication") {
      // A server that refuses without a question: Go names the packet, if no method is left.
      if (tried.at(-1) === "keyboard-interactive") return "ssh: unexpected message type 51 (expected 60)";
      return `ssh: unable to authenticate, attempted methods [${tried.join(" ")}], no supported methods remain`;
    }
    if (error.message.startsWith("Host denied")) return "ssh: host key mismatch";
    if (error.message.includes("no matching host key format"))
      return `ssh: no common algorithm for host key; we offered: [${hostKey?.type}], peer offered: [${offered}]`;
    if (typeof error.code === "number") return `ssh: disconnect, reason ${error.code}: ${error.message}`;
    if (error.errno === undefined) return error.message;
    return `read tcp ${ends}: read: ${socketError(error as NodeJS.ErrnoException)}`;
  };
  return new Promise((resolve, reject) => {
    const fail = (reason: string) => {
      reject(new Error(`ssh: handshake failed: ${reason}`));
      sock.destroy();
    };
    const client = new (ssh2().Client)();
    client.once("ready", () => resolve(client));
    client.once("close", () => fail("EOF"));
    // Stays after the handshake, so that a lost connection does not end the process: the session sees its channel close.
    client.on("error", (error) => {
      if (error.level === "agent") return; // ssh2 goes on to the next method
      fail(error.message === "Connection lost before handshake" ? "EOF" : inGo(error));
    });
    try {
      client.connect({
        sock,
        username,
        authHandler,
        readyTimeout: 0,
        ...(hostKey && { algorithms: { serverHostKey: [hostKey.type as SSH.ServerHostKeyAlgorithm] } }),
        ...(hostKey && { hostVerifier: (key: Buffer) => key.equals(hostKey.blob) }),
        debug: (line) => {
          offered = /\(remote\) Host key format: (\S*)/.exec(line)?.[1]?.replaceAll(",", " ") ?? offered;
        },
      });
    } catch (error) {
      fail(message(error));
    }
  });
}

/** ssh.ParsePrivateKey and ParsePrivateKeyWithPassphrase. Ed25519 keys in PKCS#8 are beyond ssh2, PuTTY's beyond Go. */
function parsePrivateKey(pem: string, passphrase: string | undefined): SSH.ParsedKey {
  const { parseKey } = ssh2().utils;
  const [, type, body = ""] = /-----BEGIN ([A-Z ]*)-----\r?\n([\s\S]*?)-----END \1-----/.exec(pem) ?? [];
  if (type === undefined) throw new Error("ssh: no key found");
  const openSsh = type === "OPENSSH PRIVATE KEY";
  if (passphrase !== undefined && !openSsh && !body.includes("ENCRYPTED")) throw new Error("ssh: not an encrypted key");
  if (type === "ENCRYPTED PRIVATE KEY") throw new Error(`ssh: unsupported key type "${type}"`);
  const plain = parseKey(type === "PRIVATE KEY" ? traditional(pem) : pem);
  if (passphrase === undefined) {
    if (!(plain instanceof Error)) return plain;
    const locked = plain.message.includes("passphrase");
    throw new Error(`ssh: ${locked ? "this private key is passphrase protected" : plain.message}`);
  }
  if (!(plain instanceof Error)) throw new Error("ssh: key is not password protected");
  const bytes = Buffer.from(body, "base64");
  const name = openSsh ? bytes.toString("latin1", 19, 19 + bytes.readUInt32BE(15)) : "";
  if (openSsh && name !== "aes256-ctr" && name !== "aes256-cbc")
    throw new Error(`ssh: unknown cipher "${name}", only supports "aes256-ctr" or "aes256-cbc"`);
  const key = parseKey(pem, passphrase);
  if (key instanceof Error) throw new Error("x509: decryption password incorrect");
  return key;
}

/** PKCS#8 as the older forms, which ssh2 reads. */
function traditional(pem: string): string {
  const key = crypto.createPrivateKey(pem);
  const type = ({ rsa: "pkcs1", ec: "sec1" } as const)[key.asymmetricKeyType as string];
  return type ? (key.export({ type, format: "pem" }) as string) : pem;
}

/** ssh.ParseAuthorizedKey: the first line that holds a key, after options or not (so a known_hosts line will do, too). */
function parseHostKey(text: string): { type: string; blob: Buffer } {
  let last = "";
  for (const line of text.split("\n").map((l) => l.split("\r")[0]?.trim() ?? "")) {
    if (line === "" || line.startsWith("#")) continue;
    const afterOptions = /^(?:"(?:\\"|[^"])*"|[^\s"])+[ \t]+(.*)$/.exec(line)?.[1];
    for (const form of [line, afterOptions ?? ""]) {
      const encoded = /^\S+[ \t]+(\S+)/.exec(form)?.[1];
      if (encoded === undefined) continue;
      const illegal = encoded.search(/[^A-Za-z0-9+/=]/);
      const blob = Buffer.from(encoded, "base64");
      const type = blob.length < 4 ? "" : blob.toString("utf8", 4, 4 + blob.readUInt32BE(0));
      const cut = encoded.length % 4;
      if (illegal >= 0) last = `illegal base64 data at input byte ${illegal}`;
      else if (cut > 0) last = `illegal base64 data at input byte ${encoded.length - cut}`;
      else if (!(ssh2().utils.parseKey(`${type} ${encoded}`) instanceof Error)) return { type, blob };
      else last = /^((ssh|ecdsa)-[a-z0-9-]+)?$/.test(type) ? "ssh: short read" : `ssh: unknown key algorithm: ${type}`;
    }
  }
  const detail = last && `; last parsing error for ignored line: ${last}`;
  throw new Error(`failed to parse host key: ssh: no key found${detail}`);
}

// ---- Sessions: commandOutputs.go, util/util.go, logging.go, x/crypto/ssh/session.go.

/** ssh2 sends `setenv` without asking for an answer, and the answer matters: so the session is opened by its inner parts. */
type Session = SSH.ClientChannel & {
  _callbacks: ((failed: boolean | Error) => void)[];
  _client: Internals;
  outgoing: { id: number };
  allowHalfOpen: boolean;
};
interface Internals {
  _chanMgr: { add(opened: (error: Error | undefined, session: Session) => void): number };
  _protocol: {
    session(id: number, window: number, packet: number): void;
    env(id: number, key: string, value: string, wantReply: boolean): void;
    exec(id: number, command: string, wantReply: boolean): void;
  };
}

const REASONS = ["", "administratively prohibited", "connect failed", "unknown channel type", "resource shortage"];
function rejection(error: Error & { reason?: number }): string {
  if (error.reason === undefined) return "EOF"; // the connection is gone
  return `ssh: rejected: ${REASONS[error.reason]} (${error.message.replace(/^\(SSH\) Channel open failure: /, "")})`;
}

function openSession(client: SSH.Client): Promise<Session> {
  const { _chanMgr, _protocol } = client as unknown as Internals;
  return new Promise((resolve, reject) => {
    const opened = (error: Error | undefined, session: Session) =>
      error ? reject(new Error(rejection(error))) : resolve(session);
    _protocol.session(_chanMgr.add(Object.assign(opened, { type: "session" })), 2 ** 21, 2 ** 15); // as in its Channel.js
  });
}

function request(session: Session, send: (to: Internals["_protocol"], id: number) => void): Promise<boolean> {
  return new Promise((resolve, reject) => {
    session._callbacks.push((failed) => (failed instanceof Error ? reject(new Error("EOF")) : resolve(!failed)));
    send(session._client._protocol, session.outgoing.id);
  });
}
const setenv = (session: Session, key: string, value: string): Promise<boolean> =>
  request(session, (to, id) => to.env(id, key, value, true));

const MAX_LINE = 64 * 1024; // bufio.MaxScanTokenSize
const WINDOW = 2 ** 21; // OpenSSH's, channels.h CHAN_SES_WINDOW_DEFAULT
const TOO_LONG = "the real command provider hangs for ever on a line of output over 64 KiB, unless `logging` is none";

async function execute(session: Session, command: string, args: Command, log: (line: string) => void): Promise<Output> {
  const chunks = { stdout: [] as Buffer[], stderr: [] as Buffer[], both: [] as Buffer[] };
  let line = Buffer.alloc(0);
  const ended = new Promise<string>((resolve, reject) => {
    const collect = (from: "stdout" | "stderr") => (chunk: Buffer) => {
      chunks[from].push(chunk);
      chunks.both.push(chunk);
      if (![undefined, from, "stdoutAndStderr"].includes(args.logging)) return;
      line = Buffer.concat([line, chunk]); // one pipe for both, as in the real one
      for (let end: number; (end = line.indexOf(10)) >= 0 && end < MAX_LINE; line = line.subarray(end + 1))
        log(line.toString("utf8", 0, end).replace(/\r$/, ""));
      if (line.length >= MAX_LINE) reject(new Error(TOO_LONG));
    };
    session.on("data", collect("stdout"));
    session.stderr.on("data", collect("stderr"));
    session.on("error", () => undefined); // writing stdin to a command that has already ended
    let end = "wait: remote command exited without exit status or exit signal";
    session.once("exit", (code: number | null, signal?: string, _core?: unknown, reason?: string) => {
      const name = signal?.replace("SIG", "");
      const status = code ?? 128 + (os.constants.signals[signal as NodeJS.Signals] ?? 0);
      end = code === 0 ? "" : `Process exited with status ${status}${name ? ` from signal ${name}` : ""}`;
      if (reason) end += `. Reason was: ${reason}`;
    });
    // A command that ended well, before it took all of a stdin larger than SSH's window, fails for that. The real one has
    // sent a smaller one long before; here the news that the command runs may come together with that of its end.
    const unsent = () => Buffer.byteLength(args.stdin ?? "") > WINDOW && !session.writableFinished;
    session.once("close", () => resolve(end === "" && unsent() ? "EOF" : end));
  });
  ended.catch(() => undefined); // it may fail before it is waited for
  session.allowHalfOpen = true;
  const started = await request(session, (to, id) => to.exec(id, command, true)).catch(() => false);
  if (started) session.end(args.stdin ?? "");
  const error = started ? await ended : `ssh: command ${command} failed`;
  if (line.length > 0) log(line.toString());
  const text = (of: keyof typeof chunks) => Buffer.concat(chunks[of]).toString();
  if (error !== "") throw new Error(`${error}: running ${quote(command)}:\n${text("both")}`);
  return { stdout: text("stdout").replace(/\n$/, ""), stderr: text("stderr").replace(/\n$/, "") };
}

// ---- The server.

function serve(): void {
  const engineAddress = process.argv.slice(2).find((arg) => !arg.startsWith("-"));
  const engine = engineAddress ? new EngineClient(engineAddress, grpc.credentials.createInsecure()) : undefined;
  let logged: Promise<void> = Promise.resolve();
  const provider = new CommandProvider((urn, severity, text, ephemeral) => {
    const entry = new LogRequest().setUrn(urn).setSeverity(severity).setMessage(text).setEphemeral(ephemeral);
    logged = logged.then(() => new Promise((done) => (engine ? engine.log(entry, () => done()) : done())));
  });
  const props = (struct: Struct | undefined): Props => struct?.toJavaScript() ?? {};
  const struct = (o: Props): Struct => Struct.fromJavaScript(o as Record<string, JavaScriptValue>);
  const unary =
    <In, Out>(answer: (request: In) => Out | Promise<Out>): grpc.handleUnaryCall<In, Out> =>
    (call, done) =>
      void (async () => answer(call.request))()
        .finally(() => logged)
        .then((response) => done(null, response))
        .catch((error: unknown) => done({ code: grpc.status.UNKNOWN, details: message(error) }));

  const server = new grpc.Server({ "grpc.max_receive_message_length": -1, "grpc.max_send_message_length": -1 });
  server.addService(ResourceProviderService, {
    getPluginInfo: unary(() => new PluginInfo().setVersion("1.2.1")),
    getSchema: unary(() => new rpc.GetSchemaResponse().setSchema('{"name":"command","version":"1.2.1"}')),
    configure: unary(() =>
      new rpc.ConfigureResponse().setAcceptsecrets(true).setSupportspreview(true).setAcceptresources(true),
    ),
    invoke: unary((r: rpc.InvokeRequest) => {
      throw new Error(`the sandbox's stand-in for the command provider has no ${r.getTok()}`);
    }),
    check: unary((r: rpc.CheckRequest) => {
      const { inputs, failures } = provider.check(r.getUrn(), props(r.getNews()));
      const list = failures.map((f) => new rpc.CheckFailure().setProperty(f.property).setReason(f.reason));
      return new rpc.CheckResponse().setInputs(struct(inputs)).setFailuresList(list);
    }),
    diff: unary((r: rpc.DiffRequest) => {
      const changes = provider.diff(props(r.getOldInputs()), props(r.getNews()));
      const { DIFF_SOME, DIFF_NONE } = rpc.DiffResponse.DiffChanges;
      const response = new rpc.DiffResponse().setHasdetaileddiff(true);
      response.setChanges(changes.size > 0 ? DIFF_SOME : DIFF_NONE);
      response.setDiffsList([...new Set([...changes.keys()].map((path) => path.split(/[.[]/)[0] ?? path))]);
      response.setReplacesList(changes.has("triggers") ? ["triggers"] : []);
      for (const [path, kind] of changes) response.getDetaileddiffMap().set(path, new rpc.PropertyDiff().setKind(kind));
      return response;
    }),
    create: unary(async (r: rpc.CreateRequest) => {
      const { id, outs } = await provider.create(r.getUrn(), props(r.getProperties()), r.getPreview());
      return new rpc.CreateResponse().setId(id).setProperties(struct(outs));
    }),
    // The real one has no Read: a refresh gives back what it was given.
    read: unary((r: rpc.ReadRequest) =>
      new rpc.ReadResponse().setId(r.getId()).setProperties(r.getProperties()).setInputs(r.getInputs()),
    ),
    update: unary(async (r: rpc.UpdateRequest) => {
      const outs = await provider.update(r.getUrn(), props(r.getOlds()), props(r.getNews()), r.getPreview());
      return new rpc.UpdateResponse().setProperties(struct(outs));
    }),
    delete: unary(async (r: rpc.DeleteRequest) => {
      await provider.delete(r.getUrn(), props(r.getProperties()));
      return new Empty();
    }),
    cancel: unary(() => (provider.cancel(), new Empty())),
  });
  server.bindAsync("127.0.0.1:0", grpc.ServerCredentials.createInsecure(), (error, port) => {
    if (error) throw error;
    console.log(String(port)); // how the engine learns the port
  });
  // As the real one, it outlives an engine that was killed by up to five minutes (sdk rpcutil/healthcheck.go).
  const parent = process.ppid;
  setInterval(() => process.ppid === parent || process.exit(1), 300_000).unref();
}

if (require.main === module) serve();
