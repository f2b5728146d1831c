import { isIP } from "node:net";

import type * as pulumi from "@pulumi/pulumi";

import { isPlain, isRecord, join, show, type Faults } from "../policy/faults";
import { readPort, readSshPort, readSshPorts, type Sources } from "../policy/policy";
import { hostOptionKeys, type HostOptions } from "./hostOptions";

/** How a host is reached over SSH, and what its firewall does besides the policy. */
export interface HostArgs extends HostOptions {
  /** Name or address to dial. */
  host: pulumi.Input<string>;
  /** Port to dial. Defaults to 22. */
  port?: number;
  /** User to log in as; any but root needs `sudo` without a password. Defaults to `root`. */
  user?: string;
  /**
   * The host's public key, `ssh-ed25519 AAAA…`, as in its /etc/ssh/ssh_host_ed25519_key.pub. A host with another key is refused,
   * so that nobody in between is given root's commands.
   */
  hostKey: pulumi.Input<string>;
  /** Private key to log in with, as the text of an OpenSSH or PEM file. Defaults to the keys of the running SSH agent. */
  privateKey?: pulumi.Input<string>;
  /**
   * Ports on which the host's sshd listens, to be kept open for the policy's `ssh` sources. Defaults to `port`; it differs where
   * a router forwards another port.
   */
  sshPorts?: number[];
}

export const hostKeys = ["host", "port", "user", "hostKey", "privateKey", "sshPorts", ...hostOptionKeys] as const;

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
  const { host, port = 22, user, hostKey, privateKey, sshPorts } = value;
  if (host === undefined) faults.add(join(at, "host"), "is missing; write the name or address to dial");
  else if (isPlain(host) && !isHost(host)) {
    faults.add(join(at, "host"), `${show(host)} is not a host name or address; write it without user and port`);
  }
  if (user !== undefined && !(typeof user === "string" && /^[A-Za-z_][A-Za-z0-9_.@-]{0,63}$/.test(user))) {
    faults.add(join(at, "user"), `${show(user)} is not a user name; use letters, digits and _ . @ -`);
  }
  if (hostKey === undefined) {
    faults.add(join(at, "hostKey"), "is missing; write the line of the host's /etc/ssh/ssh_host_ed25519_key.pub");
  } else if (isPlain(hostKey)) {
    const problem = hostKeyProblem(hostKey);
    if (problem) faults.add(join(at, "hostKey"), `${show(hostKey)} ${problem}`);
  }
  if (privateKey !== undefined && isPlain(privateKey)) checkPrivateKey(privateKey, join(at, "privateKey"), faults);
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

/** Adds a fault if rules with these SSH sources would lock out whoever dials the host. */
export function checkReachable(host: unknown, ssh: Sources, at: string, faults: Faults): void {
  const family = typeof host === "string" ? isIP(host) : 0;
  if (family === 0 || ssh.length === 0 || ssh.some((source) => source.family === family)) return;
  faults.add(
    join(at, "host"),
    `${show(host)} is dialled over IPv${family}, and "ssh" names no IPv${family} network; add yours`,
  );
}

/** Never shows the value. */
export function checkPrivateKey(value: unknown, path: string, faults: Faults): void {
  const text = typeof value === "string" ? value.trim() : "";
  if (/^-----BEGIN [A-Z0-9 ]*PRIVATE KEY-----\r?\n/.test(text)) {
    if (hasPassphrase(text)) {
      faults.add(
        path,
        "is protected by a passphrase, and nobody could type it; use a key without one, or an SSH agent",
      );
    }
    return;
  }
  faults.add(path, 'is not a private key; write the text of the key file, from "-----BEGIN" to the last line');
}

/** PEM says it in words (RFC 1421, PKCS #8), OpenSSH's own format by the name of the cipher that stands first in it. */
function hasPassphrase(text: string): boolean {
  if (/^-----BEGIN ENCRYPTED |^Proc-Type: 4,ENCRYPTED/m.test(text)) return true;
  const bytes = Buffer.from(text.replace(/^-----.*$/gm, ""), "base64");
  const magic = "openssh-key-v1\0";
  if (bytes.toString("latin1", 0, magic.length) !== magic || bytes.length < magic.length + 8) return false;
  const length = bytes.readUInt32BE(magic.length);
  return bytes.toString("latin1", magic.length + 4, magic.length + 4 + length) !== "none";
}

function isHost(value: unknown): boolean {
  if (typeof value !== "string" || value.length > 253) return false;
  if (/(?:^|\.)\d+\.?$/.test(value)) return isIP(value) === 4; // no top-level domain is a number
  const label = "[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?";
  return (
    new RegExp(`^${label}(?:\\.${label})*\\.?$`).test(value) || (/^[0-9A-Fa-f:.]+$/.test(value) && isIP(value) === 6)
  );
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
