import { isIP } from "node:net";

import type * as pulumi from "@pulumi/pulumi";

import { isPlain, isRecord, join, show, type Faults } from "../policy/faults";
import { readPort, readSshPort, readSshPorts, type Sources } from "../policy/policy";
import { hostOptionKeys, type HostOptions } from "./hostOptions";
import { checkPrivateKey } from "./privateKey";

/** How a host is reached over SSH, and what its firewall does besides the policy. */
export interface HostArgs extends HostOptions {
  /** Name or address to dial. An address is of a family that the policy's `ssh` sources have, too. */
  host: pulumi.Input<string>;
  /** Port to dial. Defaults to 22. */
  port?: number;
  /** User to log in as; any but root needs `sudo` without a password. Defaults to `root`. */
  user?: string;
  /**
   * The host's public key, `ssh-ed25519 AAAA…`, as in its `/etc/ssh/ssh_host_ed25519_key.pub`. A host with another key is refused,
   * so that nobody in between is given root's commands. Required, unless `insecureIgnoreHostKey` is set.
   */
  hostKey?: pulumi.Input<string>;
  /**
   * Takes whoever answers for the host, instead of `hostKey`, for a host whose key cannot be known. Every preview warns of it.
   * Defaults to false.
   */
  insecureIgnoreHostKey?: boolean;
  /** Private key to log in with, as the text of an OpenSSH or PEM file. Defaults to the keys of the running SSH agent. */
  privateKey?: pulumi.Input<string>;
  /** Passphrase of `privateKey`, where it has one. Only keys in OpenSSH's own format or PEM can have one. */
  privateKeyPassword?: pulumi.Input<string>;
  /**
   * Socket of the SSH agent, on each machine that deploys. Defaults to the one of `SSH_AUTH_SOCK`. It must answer even where
   * there is a `privateKey`, which is then used alone.
   */
  agentSocketPath?: pulumi.Input<string>;
  /** Host to jump from (OpenSSH's ProxyJump), which must be among the policy's `ssh` sources. Defaults to a direct connection. */
  bastion?: BastionArgs;
  /**
   * Ports on which the host's sshd listens, to be kept open for the policy's `ssh` sources. Defaults to `port`; it differs where
   * a router forwards another port.
   */
  sshPorts?: number[];
  /**
   * What names the machine behind `host`, such as the id of an instance whose address stays when it is replaced. When it changes, all
   * is deployed again, to the new machine. Defaults to none: another machine at the same address is taken for the same.
   */
  instanceId?: pulumi.Input<string>;
}

/** How a bastion is reached over SSH. Its sshd must forward TCP connections; no command runs there. */
export interface BastionArgs {
  /** Name or address to dial. */
  host: pulumi.Input<string>;
  /** Port to dial. Defaults to 22. */
  port?: number;
  /** User to log in as. Defaults to `root`. */
  user?: string;
  /** The bastion's public key, as of a host. Required, unless `insecureIgnoreHostKey` is set. */
  hostKey?: pulumi.Input<string>;
  /** Takes whoever answers for the bastion, as of a host. Defaults to false. */
  insecureIgnoreHostKey?: boolean;
  /** Private key to log in with. Defaults to that of the host behind it. */
  privateKey?: pulumi.Input<string>;
  /** Passphrase of `privateKey`, where it has one. */
  privateKeyPassword?: pulumi.Input<string>;
}

const bastionKeys = [
  "host",
  "port",
  "user",
  "hostKey",
  "insecureIgnoreHostKey",
  "privateKey",
  "privateKeyPassword",
] as const;

export const hostKeys = [
  ...bastionKeys,
  "agentSocketPath",
  "bastion",
  "sshPorts",
  "instanceId",
  ...hostOptionKeys,
] as const;

/**
 * Reads a host below a name of its own; whatever is wrong with it is added to `faults`.
 *
 * @returns the ports of its sshd.
 */
export function readNamedHost(name: string, value: unknown, at: string, faults: Faults): number[] {
  if (!/^[a-z0-9](?:[a-z0-9.-]{0,61}[a-z0-9])?$/.test(name)) {
    faults.add(at || "name", "is not a name for a host; use a-z, 0-9, dots and hyphens");
  }
  if (isRecord(value)) faults.unknownKeys(value, hostKeys, at);
  return readHost(value, at, faults);
}

/**
 * Adds what is wrong with a host to `faults`. Values that are known only during deployment are left to SSH.
 *
 * @returns the ports of its sshd.
 */
export function readHost(value: unknown, at: string, faults: Faults): number[] {
  if (!isRecord(value)) {
    faults.add(
      at,
      `${show(value)} is not a map; write { host: 198.51.100.10, user: admin, hostKey: "ssh-ed25519 AAAA..." }`,
    );
    return [];
  }
  const { port = 22, agentSocketPath, bastion, sshPorts, instanceId } = value;
  checkEndpoint(value, at, faults);
  if (instanceId !== undefined && isPlain(instanceId) && !isInstanceId(instanceId)) {
    const right = "use 1 to 256 letters, digits and . _ : / @ + = -";
    faults.add(join(at, "instanceId"), `${show(instanceId)} is not an id; ${right}`);
  }
  if (agentSocketPath !== undefined && isPlain(agentSocketPath) && !isAbsolutePath(agentSocketPath)) {
    faults.add(
      join(at, "agentSocketPath"),
      `${show(agentSocketPath)} is not the absolute path of a socket; write what echo $SSH_AUTH_SOCK prints`,
    );
  }
  if (bastion !== undefined) checkBastion(bastion, join(at, "bastion"), faults);
  if (sshPorts === undefined) {
    const dialled = readSshPort(port, join(at, "port"), faults);
    return dialled === undefined ? [] : [dialled];
  }
  readPort(port, join(at, "port"), faults);
  const kept = readSshPorts(sshPorts, join(at, "sshPorts"), faults);
  if (Array.isArray(sshPorts) && sshPorts.length === 0) {
    faults.add(join(at, "sshPorts"), "is an empty list; write the ports that sshd listens on, such as [22]");
  }
  return kept;
}

function checkBastion(value: unknown, at: string, faults: Faults): void {
  if (!isRecord(value)) {
    faults.add(
      at,
      `${show(value)} is not a map; write { host: 198.51.100.1, user: jump, hostKey: "ssh-ed25519 AAAA..." }`,
    );
    return;
  }
  faults.unknownKeys(value, bastionKeys, at);
  checkEndpoint(value, at, faults);
  readPort(value.port ?? 22, join(at, "port"), faults);
}

/** What a host and a bastion have in common, but for the port. */
function checkEndpoint(value: Record<string, unknown>, at: string, faults: Faults): void {
  const { host, user, hostKey, insecureIgnoreHostKey: ignore, privateKey, privateKeyPassword } = value;
  if (host === undefined) faults.add(join(at, "host"), "is missing; write the name or address to dial");
  else if (isPlain(host) && !isHost(host)) {
    faults.add(join(at, "host"), `${show(host)} is not a host name or address; write it without user and port`);
  }
  if (user !== undefined && !(typeof user === "string" && /^[A-Za-z_][A-Za-z0-9_.@-]{0,63}$/.test(user))) {
    faults.add(join(at, "user"), `${show(user)} is not a user name; use letters, digits and _ . @ -`);
  }
  if (ignore !== undefined && typeof ignore !== "boolean") {
    faults.add(join(at, "insecureIgnoreHostKey"), `${show(ignore)} is neither true nor false`);
  } else if (ignore && hostKey !== undefined) {
    faults.add(join(at, "insecureIgnoreHostKey"), "stands beside a hostKey, which would not be checked; delete one");
  }
  if (hostKey === undefined) {
    if (!ignore)
      faults.add(join(at, "hostKey"), "is missing; write the line of the host's /etc/ssh/ssh_host_ed25519_key.pub");
  } else if (isPlain(hostKey)) {
    const problem = hostKeyProblem(hostKey);
    if (problem) faults.add(join(at, "hostKey"), `${show(hostKey)} ${problem}`);
  }
  checkPrivateKey(privateKey, privateKeyPassword, join(at, "privateKey"), faults);
}

const isInstanceId = (value: unknown) => typeof value === "string" && value === instanceWord(value) && value !== "";

/** An instance's id as a word that every shell takes as it is. */
export function instanceWord(id: string): string {
  return id.replace(/[^A-Za-z0-9._:/@+=-]/g, "_").slice(0, 256);
}

/** Adds a fault if rules with these SSH sources would lock out whoever dials the host. */
export function checkReachable(host: unknown, ssh: Sources, at: string, faults: Faults): void {
  const family = typeof host === "string" ? isIP(host) : 0;
  if (family === 0 || ssh.length === 0 || ssh.some((source) => source.family === family)) return;
  faults.add(
    join(at, "host"),
    `${show(host)} is dialled over IPv${family}, and "ssh" names no IPv${family} network; add yours`,
  );
}

function isHost(value: unknown): boolean {
  if (typeof value !== "string" || value.length > 253) return false;
  if (/(?:^|\.)\d+\.?$/.test(value)) return isIP(value) === 4; // no top-level domain is a number
  const label = "[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?";
  return (
    new RegExp(`^${label}(?:\\.${label})*\\.?$`).test(value) || (/^[0-9A-Fa-f:.]+$/.test(value) && isIP(value) === 6)
  );
}

function isAbsolutePath(value: unknown): boolean {
  return typeof value === "string" && value.startsWith("/") && !/[^\x20-\x7e]/.test(value);
}

function hostKeyProblem(value: unknown): string | undefined {
  const right = 'write "ssh-ed25519 AAAA...", the line of the host\'s /etc/ssh/ssh_host_ed25519_key.pub';
  const types = /^(ssh-ed25519|ecdsa-sha2-nistp(?:256|384|521))$/;
  if (typeof value !== "string") return `is not text; ${right}`;
  if (/[\r\n]/.test(value.trim())) return `is more than one line; ${right}`;
  const [type = "", key = ""] = value.trim().split(/ +/);
  // The provider asks for exactly the algorithm that the key names, and no current sshd signs with SHA-1, which is ssh-rsa.
  if (type === "ssh-rsa") return `is an RSA key, which the SSH client cannot check; ${right}`;
  if (!types.test(type)) {
    return types.test(key)
      ? `is a line of known_hosts; delete the host at its beginning`
      : `is not a host key; ${right}`;
  }
  const fields = keyFields(key);
  return fields?.[0] === type && fields.length === (type === "ssh-ed25519" ? 2 : 3)
    ? undefined
    : `is damaged: what follows "${type}" is not such a key; copy it again`;
}

/** The fields of a public key (RFC 4253 §6.6: each with its length in front), unless it is cut off. */
function keyFields(base64: string): string[] | undefined {
  if (!/^[A-Za-z0-9+/]+={0,2}$/.test(base64)) return undefined;
  const bytes = Buffer.from(base64, "base64");
  const fields: string[] = [];
  let at = 0;
  while (at < bytes.length) {
    if (at + 4 > bytes.length) return undefined;
    const end = at + 4 + bytes.readUInt32BE(at);
    if (end > bytes.length) return undefined;
    fields.push(bytes.toString("latin1", at + 4, end));
    at = end;
  }
  return fields.length > 1 ? fields : undefined;
}
