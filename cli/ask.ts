import { spawn } from "node:child_process";
import { mkdtempSync, writeFileSync } from "node:fs";
import { join } from "node:path";

import type { Agents } from "./agents";
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

/** Characters that a host may say. A report has some hundred for each difference. */
const limit = 4 * 1024 * 1024;

/** What all hosts are asked with. */
export interface Means {
  /** A folder that only this user can read, for files that OpenSSH reads. None of them has a secret. */
  readonly scratch: string;
  readonly agents: Agents;
  /** Ends what is still running. */
  readonly signal: AbortSignal;
}

/** Runs `mail-firewall status` on a host with OpenSSH's client. */
export async function askHost(host: DeployedHost, means: Means): Promise<Report> {
  const { connection } = host;
  const sudo = connection.user === "root" ? "" : "sudo -n ";
  const command = `${sudo}/usr/local/sbin/mail-firewall status --json --deployed`;
  let options: string[];
  try {
    options = await sshOptions(connection, join(mkdtempSync(join(means.scratch, "host-")), "host"), means.agents);
  } catch (error) {
    return { error: `cannot be asked: ${(error as Error).message}` };
  }
  return new Promise((resolve) => {
    const ssh = spawn("ssh", [...options, "--", connection.host, command], {
      env: process.env, // in a test that of Jest, which is another one than the default
      timeout: patience * 1000,
      signal: means.signal,
    });
    const output = { stdout: "", stderr: "" };
    let size = 0;
    for (const stream of ["stdout", "stderr"] as const) {
      ssh[stream].setEncoding("utf8").on("data", (text: string) => {
        size += text.length;
        if (size <= limit) {
          output[stream] += text;
        } else {
          ssh.kill("SIGKILL");
          ssh.stdout.destroy();
          ssh.stderr.destroy();
        }
      });
    }
    ssh.stdin.on("error", () => {}).end(host.rulesets); // a host that does not know the command reads nothing
    ssh.on("error", ({ message }) => resolve({ error: `cannot be asked: ${message}` }));
    ssh.on("close", (code, signal) => {
      const said = code === 0 || code === 3 ? readReport(output.stdout) : undefined;
      const why = output.stderr.trim().slice(0, 2000) || output.stdout.trim().slice(0, 200) || `exit code ${code}`;
      if (size > limit)
        resolve({ error: `cannot say how it is: it answers with more than ${limit / 1024 / 1024} MiB` });
      else if (signal) resolve({ error: `cannot be asked: no answer in ${patience} s` });
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
    ? { rules, owner, differences: differences.map(finding), notices: notices.map(finding) }
    : undefined;
}

/** A finding without whatever else the host put there, which may be nested too deep to be printed. */
const finding = ({ kind, text }: Finding): Finding => ({ kind, text });

/** OpenSSH's options for a connection. What must stand in a file goes to files that begin with `path`. */
async function sshOptions(connection: Connection, path: string, agents: Agents): Promise<string[]> {
  const { host, port, user, hostKey, privateKey, privateKeyPassword, agentSocketPath, proxy } = connection;
  // Nothing of the operator's own configuration: this is how the deployment connects.
  const options = ["-F", "none", "-T", "-p", `${port}`, "-l", user];
  const set = (name: string, value: string) => options.push("-o", `${name}=${value}`);
  set("BatchMode", "yes");
  set("ConnectTimeout", "10");
  set("ServerAliveInterval", "10");
  set("LogLevel", "ERROR");
  set("GlobalKnownHostsFile", "/dev/null");
  if (hostKey === undefined) {
    set("StrictHostKeyChecking", "no");
    set("UserKnownHostsFile", "/dev/null"); // "none" would be the name of a file before OpenSSH 8.5
  } else {
    const key = hostKey.trim();
    // The deployment took the first line alone. OpenSSH would take the others, too, each for the hosts that it names itself.
    if (/[\r\n]/.test(key)) throw new Error("its hostKey is more than one line; write one key");
    const knownHosts = `${path}.known_hosts`;
    writeFileSync(knownHosts, `deployed ${key}\n`, { mode: 0o600 });
    set("StrictHostKeyChecking", "yes");
    set("HostKeyAlias", "deployed");
    set("UserKnownHostsFile", knownHosts);
    set("HostKeyAlgorithms", key.split(" ")[0]!);
  }
  set("IdentityFile", "none");
  const socket = privateKey === undefined ? agentSocketPath : await agents.socketOf(privateKey, privateKeyPassword);
  if (socket !== undefined) set("IdentityAgent", socket);
  if (proxy !== undefined) {
    const through = await sshOptions(proxy, `${path}.bastion`, agents);
    const words = [...through, "-W", `${host.includes(":") ? `[${host}]` : host}:${port}`, "--", proxy.host];
    set("ProxyCommand", ["ssh", ...words.map(quote)].join(" ").replaceAll("%", "%%"));
  }
  return options;
}

/** A word for a shell. */
export const quote = (word: string) => `'${word.replaceAll("'", `'\\''`)}'`;
