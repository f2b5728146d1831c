import { spawn } from "node:child_process";
import { mkdtempSync, writeFileSync } from "node:fs";
import { join } from "node:path";

import type { Connection, DeployedHost } from "./state";

interface Finding {
  readonly kind: string;
  readonly text: string;
}

/** What a host says of itself, or why it could not be asked. */
export type Report =
  | { readonly rules: string; readonly owner: string; readonly differences: Finding[]; readonly notices: Finding[] }
  | { readonly error: string };

/** Seconds for a host to answer, from the dial on. */
const patience = 60;

/**
 * Runs `mail-firewall status` on a host with OpenSSH's client.
 *
 * @param scratch a folder that only this user can read, for the keys.
 */
export function askHost(host: DeployedHost, scratch: string): Promise<Report> {
  const { connection } = host;
  const sudo = connection.user === "root" ? "" : "sudo -n ";
  const { options, env } = sshOptions(connection, join(mkdtempSync(join(scratch, "host-")), "host"));
  const command = `${sudo}/usr/local/sbin/mail-firewall status --json --deployed`;
  return new Promise((resolve) => {
    const ssh = spawn("ssh", [...options, "--", connection.host, command], {
      env: { ...process.env, ...env },
      timeout: patience * 1000,
    });
    const output = { stdout: "", stderr: "" };
    for (const stream of ["stdout", "stderr"] as const) {
      ssh[stream].setEncoding("utf8").on("data", (text: string) => (output[stream] += text));
    }
    ssh.stdin.on("error", () => {}).end(host.rulesets); // a host that does not know the command reads nothing
    ssh.on("error", ({ message }) => resolve({ error: `cannot be asked: ${message}` }));
    ssh.on("close", (code, signal) => {
      const said = code === 0 || code === 3 ? readReport(output.stdout) : undefined;
      const why = output.stderr.trim() || output.stdout.trim().slice(0, 200) || `exit code ${code}`;
      if (signal) resolve({ error: `cannot be asked: no answer in ${patience} s` });
      else resolve(said ?? { error: code === 255 ? `cannot be reached: ${why}` : `cannot say how it is: ${why}` });
    });
  });
}

/** The report at the end of what a host has said; its shell may have said something before, and something else may have answered. */
export function readReport(text: string): Report | undefined {
  let report: unknown;
  try {
    report = JSON.parse(text.trim().split("\n").at(-1)!);
  } catch {
    return undefined;
  }
  const { rules, owner, differences, notices } = (report ?? {}) as Record<string, unknown>;
  const areFindings = (list: unknown): list is Finding[] =>
    Array.isArray(list) &&
    list.every((one: Finding | null) => typeof one?.kind === "string" && typeof one.text === "string");
  return typeof rules === "string" && typeof owner === "string" && areFindings(differences) && areFindings(notices)
    ? { rules, owner, differences, notices }
    : undefined;
}

/** OpenSSH's options for a connection; what must stand in a file goes to files that begin with `path`. */
function sshOptions(connection: Connection, path: string): { options: string[]; env: Record<string, string> } {
  const { host, port, user, hostKey, privateKey, privateKeyPassword, agentSocketPath, proxy } = connection;
  const file = (name: string, text: string, mode = 0o600) => {
    writeFileSync(`${path}.${name}`, text, { mode });
    return `${path}.${name}`;
  };
  // Nothing of the operator's own configuration: this is how the deployment connects.
  const options = ["-F", "none", "-T", "-p", `${port}`, "-l", user];
  const set = (name: string, value: string) => options.push("-o", `${name}=${value}`);
  set("ConnectTimeout", "10");
  set("ServerAliveInterval", "10");
  set("LogLevel", "ERROR");
  set("GlobalKnownHostsFile", "/dev/null");
  if (hostKey === undefined) {
    set("StrictHostKeyChecking", "no");
    set("UserKnownHostsFile", "/dev/null"); // "none" would be the name of a file before OpenSSH 8.5
  } else {
    set("StrictHostKeyChecking", "yes");
    set("HostKeyAlias", "deployed");
    set("UserKnownHostsFile", file("known_hosts", `deployed ${hostKey.trim()}\n`));
    set("HostKeyAlgorithms", hostKey.trim().split(" ")[0]!);
  }
  let env: Record<string, string> = {};
  if (privateKey !== undefined) {
    set("IdentitiesOnly", "yes");
    set("IdentityFile", file("key", `${privateKey.trim()}\n`));
  } else {
    set("IdentityFile", "none");
  }
  if (agentSocketPath !== undefined) set("IdentityAgent", agentSocketPath);
  if (privateKeyPassword === undefined) {
    set("BatchMode", "yes");
  } else {
    set("PasswordAuthentication", "no");
    set("KbdInteractiveAuthentication", "no");
    env = {
      SSH_ASKPASS: file("askpass", `#!/bin/sh\ncat '${file("passphrase", privateKeyPassword)}'\n`, 0o700),
      SSH_ASKPASS_REQUIRE: "force",
    };
  }
  if (proxy !== undefined) {
    const through = sshOptions(proxy, `${path}.bastion`);
    const variables = Object.entries(through.env).map(([name, value]) => `${name}=${quote(value)}`);
    const words = [...through.options, "-W", `${host.includes(":") ? `[${host}]` : host}:${port}`, "--", proxy.host];
    set("ProxyCommand", ["env", ...variables, "ssh", ...words.map(quote)].join(" ").replaceAll("%", "%%"));
  }
  return { options, env };
}

/** A word for a shell. */
export const quote = (word: string) => `'${word.replaceAll("'", `'\\''`)}'`;
