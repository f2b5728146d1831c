import * as pulumi from "@pulumi/pulumi";

import { firewallKeys, readFirewall, type MailFirewallArgs } from "../components/mailFirewall";
import { Faults, isRecord, join, report, show } from "../components/policy/faults";

/** The configuration of one stack, as Pulumi hands it to the program: `namespace:key` → text, JSON where it is structured. */
export interface StackConfig {
  readonly values: Readonly<Record<string, string>>;
  /** The keys whose values are encrypted in the file. */
  readonly secretKeys: readonly string[];
  /** What answers at the socket of an SSH agent, by default the one of SSH_AUTH_SOCK. */
  readonly sshAgent: (socket?: string) => SshAgent;
}

/** `ready`, or what is wrong with it: no socket, none that answers there, one without keys. */
export type SshAgent = "ready" | "none" | "silent" | "empty";

const namespace = "mail-firewall:";
const secretKeys = ["sshPrivateKey", "sshPrivateKeyPassword"];

/**
 * Reads `stacks/Pulumi.<stack>.yaml`.
 *
 * @throws a RunError that names every fault by its path, its value, and what would be right.
 */
export function readConfig(config: StackConfig): MailFirewallArgs {
  const faults = new Faults();
  const at = (key: string) => join(namespace, key);
  const entries = Object.entries(config.values)
    .filter(([key]) => key.startsWith(namespace))
    .map(([key, text]) => [key.slice(namespace.length), text] as const)
    .filter(([key, text]) => !(key === "ssh" && text === "")); // the default of Pulumi.yaml
  for (const key of Object.keys(config.values)) {
    const name = key.slice(0, key.indexOf(":") + 1);
    if (name !== namespace && name.replace(/[-_]/g, "").toLowerCase() === namespace.replace("-", "")) {
      faults.add(key, `is of another namespace, which nobody reads; write ${namespace}${key.slice(name.length)}`);
    }
  }
  const dotted = entries.filter(([key]) =>
    firewallKeys.some((known) => key.startsWith(`${known}.`) || key.startsWith(`${known}[`)),
  );
  for (const [key] of dotted) {
    faults.add(at(key), `was set without --path; pulumi config rm '${key}', and set it again with --path`);
  }
  const others = entries.filter((entry) => !dotted.includes(entry));
  faults.unknownKeys(Object.fromEntries(others), firewallKeys, namespace);

  const values = Object.fromEntries(
    entries.map(([key, text]) => [key, secretKeys.includes(key) ? text : structured(text)]),
  );
  for (const [key] of entries) {
    if (!secretKeys.includes(key) && config.secretKeys.includes(at(key))) {
      faults.add(
        at(key),
        "is encrypted, but previews show it; store it in plain: secrets are only sshPrivateKey and its password",
      );
      delete values[key]; // a fault inside would show what it holds
    }
  }
  if (faults.list.length > 0 && Object.keys(values).length < entries.length) throw error(faults);
  for (const [key, source] of [
    ["sshPrivateKey", " <KEYFILE"],
    ["sshPrivateKeyPassword", ""],
  ] as const) {
    if (values[key] === undefined || config.secretKeys.includes(at(key))) continue;
    faults.add(at(key), `is stored in plain text; store it with pulumi config set --secret ${key}${source}`);
  }
  const args = {
    ...values,
    ...("services" in values && {
      services: mapValues(values.services, at("services"), (v, p) => sources(v, p, faults)),
    }),
    ...("ssh" in values && { ssh: sources(values.ssh, at("ssh"), faults) }),
    ...("ports" in values && {
      ports: mapValues(values.ports, at("ports"), (entry, path) =>
        isRecord(entry) ? { ...entry, from: sources(entry.from, join(path, "from"), faults) } : entry,
      ),
    }),
    ...("egress" in values && { egress: egress(values.egress, at("egress"), faults) }),
    ...("hosts" in values && {
      hosts: mapValues(values.hosts, at("hosts"), (host, path) => withoutKey(host, path, faults)),
    }),
  } as unknown as MailFirewallArgs;
  readFirewall(args, namespace, faults);
  checkAgents(args, config, faults);
  if (faults.list.length > 0) throw error(faults);
  return args;
}

function error(faults: Faults): Error {
  return new pulumi.RunError(report("stack config", faults.list));
}

/** The provider dials an agent even where it has a key, and of one that is gone it only says that the connection was refused. */
function checkAgents({ hosts, sshPrivateKey }: MailFirewallArgs, config: StackConfig, faults: Faults): void {
  const sockets = new Map<string | undefined, string>();
  for (const [name, host] of isRecord(hosts) ? Object.entries<unknown>(hosts) : []) {
    const socket = isRecord(host) ? host.agentSocketPath : undefined;
    if (socket === undefined) sockets.set(undefined, "SSH_AUTH_SOCK");
    else if (typeof socket === "string" && socket.startsWith("/")) {
      sockets.set(socket, join(join(join(namespace, "hosts"), name), "agentSocketPath"));
    }
  }
  for (const [socket, path] of sockets) {
    const agent = config.sshAgent(socket);
    if (agent === "silent") {
      faults.add(path, `no SSH agent answers there; start one, or ${socket === undefined ? "unset" : "delete"} it`);
    } else if (sshPrivateKey === undefined && agent !== "ready") {
      const problem =
        agent === "none" ? "no SSH agent runs (SSH_AUTH_SOCK): start one" : "the SSH agent has no key: add one";
      faults.add(
        join(namespace, "sshPrivateKey"),
        `is missing, and ${problem}, or pulumi config set --secret sshPrivateKey <KEYFILE`,
      );
    }
  }
}

/** Who may reach something, as YAML says it (`public`, `closed`, or a list of networks), as the component takes it. */
function sources(value: unknown, path: string, faults: Faults): unknown {
  if (value === undefined) return undefined;
  if (value === "public" || value === "closed") return [value];
  if (Array.isArray(value)) {
    // As the component would take it, `[public]` is right; in YAML there is one way to write it.
    if (value.length !== 1 || (value[0] !== "public" && value[0] !== "closed")) return value;
    faults.add(`${path}[0]`, `"${value[0]}" is not a network; write "${value[0]}" without the list`);
    return value;
  }
  faults.add(path, `${show(value)} is none of "public", "closed" and a list of networks such as ["10.20.0.0/16"]`);
  return ["public"]; // of which nothing more can be said
}

/** What may be sent, as YAML says it (`open`, `mail`, or a map with the relay), as the component takes it. */
function egress(value: unknown, path: string, faults: Faults): unknown {
  if (value === "open" || value === "mail") return { mode: value };
  if (isRecord(value)) return value.relay === "public" ? { ...value, relay: [value.relay] } : value;
  faults.add(path, `${show(value)} is none of "open", "mail" and a relay such as { relay: ["198.51.100.7/32"] }`);
  return undefined;
}

/** In code a host may bring a key of its own, from a secret; a stack file has one place for a key, and it is encrypted. */
function withoutKey(host: unknown, path: string, faults: Faults): unknown {
  if (!isRecord(host)) return host;
  const rest = { ...host };
  for (const [key, stored] of [
    ["privateKey", "sshPrivateKey <KEYFILE"],
    ["privateKeyPassword", "sshPrivateKeyPassword"],
  ] as const) {
    if (!(key in host)) continue;
    faults.add(join(path, key), `has no place here; store it with pulumi config set --secret ${stored}`);
    delete rest[key];
  }
  return "bastion" in host ? { ...rest, bastion: withoutKey(host.bastion, join(path, "bastion"), faults) } : rest;
}

function mapValues(value: unknown, path: string, change: (entry: unknown, path: string) => unknown): unknown {
  if (!isRecord(value)) return value;
  return Object.fromEntries(Object.entries(value).map(([key, entry]) => [key, change(entry, join(path, key))]));
}

/** Pulumi stores maps and lists as JSON, and words as they are. */
function structured(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return text;
  }
}
