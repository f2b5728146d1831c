#!/usr/bin/env node
// `mail-firewall status`: asks every host of a stack how it differs from what was deployed to it.
// `mail-firewall import`: says how a stack adopts the rules of a security group that exists.
// `mail-firewall compare`: says what a live host admits and a live security group does not, or the other way round.
// None of them changes anything.
import { spawn, spawnSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";

import { Agents } from "./agents";
import { askHost, type Report } from "./ask";
import { groupUrn, planImport, readLiveRules } from "./groupImport";
import { printable, printableJson, printableLines } from "./printable";
import { deployedHosts, type State } from "./state";

const usage = `usage: mail-firewall status [--stack NAME] [--cwd FOLDER] [--json] [HOST...]
       mail-firewall import --group-rules FILE [--name mail] [--stack NAME] [--cwd FOLDER]
       mail-firewall compare --iptables FILE [--ip6tables FILE] --group-rules FILE [--prefix-lists FILE] [--interface NAME]

status reads the stack's state (pulumi stack export --show-secrets), and runs mail-firewall status over SSH on each host,
or on those that are named. Needs pulumi and OpenSSH's ssh (8.4 or newer).

import prints the commands by which the stack adopts the rules of the group in its aws.securityGroupId, and names those that
its policy does not want. FILE is what aws ec2 describe-security-group-rules --filters Name=group-id,Values=sg-... prints.

compare says what new connections a host admits and a group does not, and the other way round. Its files are what iptables-save
and ip6tables-save print on the host, and aws ec2 describe-security-group-rules, and, where the group names prefix lists, a
JSON map of their ids to lists of networks. NAME is the host's interface to the world.

Exit code of status and compare 0: all is as deployed, or alike; 3: something differs; 1: it could not be told; 64: this text`;

async function main(): Promise<number> {
  const { values, positionals } = parseArgs({
    options: {
      stack: { type: "string", short: "s" },
      cwd: { type: "string", short: "C" },
      json: { type: "boolean", default: false },
      "group-rules": { type: "string" },
      iptables: { type: "string" },
      ip6tables: { type: "string" },
      "prefix-lists": { type: "string" },
      interface: { type: "string" },
      name: { type: "string", default: "mail" },
      help: { type: "boolean", short: "h", default: false },
    },
    allowPositionals: true,
  });
  const [verb, ...wanted] = positionals;
  if (values.help) {
    console.log(usage);
    return 0;
  }
  if (verb === "import" && values["group-rules"] !== undefined && wanted.length === 0) {
    return printImports(values["group-rules"], values.name, values);
  }
  if (
    verb === "compare" &&
    values.iptables !== undefined &&
    values["group-rules"] !== undefined &&
    wanted.length === 0
  ) {
    return printDifferences({ ...values, iptables: values.iptables, groupRules: values["group-rules"] });
  }
  if (verb !== "status") {
    console.error(usage);
    return 64;
  }

  const hosts = deployedHosts(await exportState(values, true));
  const unknown = wanted.filter((name) => !hosts.some((host) => host.name === name));
  const known = hosts.map(({ name }) => name).join(", ");
  if (unknown.length > 0) throw new Error(`no host ${unknown.join(", ")} in this stack; it has ${known || "none"}`);
  if (hosts.length === 0) throw new Error("this stack has deployed to no host");
  if (spawnSync("ssh", ["-V"]).error) throw new Error("OpenSSH's ssh is missing");

  const asked = hosts.filter(({ name }) => wanted.length === 0 || wanted.includes(name));
  const scratch = mkdtempSync(join(temporary(), "mail-firewall-"));
  const agents = new Agents(scratch);
  const end = new AbortController();
  const clean = () => {
    end.abort();
    agents.close();
    rmSync(scratch, { recursive: true, force: true });
  };
  process.once("exit", clean); // which also comes after an error that nobody caught
  for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"] as const) {
    process.once(signal, () => {
      clean();
      process.kill(process.pid, signal); // whose handler is gone now
    });
  }
  try {
    const reports = await inTurns(asked, 8, async (host) => {
      const report = await askHost(host, { scratch, agents, signal: end.signal });
      if (asked.length > 1)
        console.error(`mail-firewall: ${host.name} ${"error" in report ? "did not answer" : "answered"}`);
      return [host.name, report] as const;
    });
    console.log(values.json ? printableJson(Object.fromEntries(reports)) : reports.map(inWords).join("\n"));
    const all = reports.map(([, report]) => report);
    if (all.some((report) => "error" in report)) return 1;
    return all.some((report) => "differences" in report && report.differences.length > 0) ? 3 : 0;
  } finally {
    clean();
  }
}

/** `Promise.all`, with at most `width` at a time: a bastion's sshd drops connections when more than 10 log in (MaxStartups). */
async function inTurns<T, R>(items: readonly T[], width: number, action: (item: T) => Promise<R>): Promise<R[]> {
  const results: R[] = [];
  const queue = items.entries();
  const work = async () => {
    for (const [i, item] of queue) results[i] = await action(item);
  };
  await Promise.all(Array.from({ length: width }, work));
  return results;
}

/** The folder for temporary files, unless a socket in it would have too long a name for the kernel (104 bytes on macOS). */
const temporary = () => (tmpdir().length > 60 ? "/tmp" : tmpdir());

/** A host may say anything, and the operator's terminal must obey none of it. */
function inWords([name, report]: readonly [string, Report]): string {
  if ("error" in report) return printableLines(`${name}: ${report.error}`);
  const { rules, differences, notices } = report;
  return [
    `${name}: ${differences.length > 0 ? "not as deployed" : "as deployed"} (rules ${rules})`,
    ...differences.map(({ text }) => `  ${text}`),
    ...notices.map(({ text }) => `  notice: ${text}`),
  ]
    .map(printable)
    .join("\n");
}

async function printImports(file: string, name: string, at: Place): Promise<number> {
  // Only here: it loads the components, which `status` has no use for.
  const { declaredGroup } = await import("./stackConfig.js");
  const { id, rules } = declaredGroup(await pulumi(["config", "--json"], at, "the configuration of the stack"));
  const live = readLiveRules(readFileSync(file, "utf8"), id);
  const state = await exportState(at, false);
  const urn = groupUrn(state, name);
  if (urn === undefined) {
    throw new Error(
      `no MailSecurityGroup "${name}" in this stack; let pulumi up --target '**::${name}' make it, which makes no rules`,
    );
  }
  const { commands, others } = planImport(live, rules, urn, state);
  for (const line of commands) console.log(line);
  for (const line of others) console.log(`# not in the policy, and stays as it is: ${line}`);
  return 0;
}

interface Files {
  readonly iptables: string;
  readonly ip6tables?: string | undefined;
  readonly groupRules: string;
  readonly "prefix-lists"?: string | undefined;
  readonly interface?: string | undefined;
}

async function printDifferences(files: Files): Promise<number> {
  const { compareLive } = await import("../components/compare.js");
  const text = (file: string | undefined) => (file === undefined ? undefined : readFileSync(file, "utf8"));
  const prefixLists = text(files["prefix-lists"]);
  const found = compareLive({
    iptables: readFileSync(files.iptables, "utf8"),
    ip6tables: text(files.ip6tables),
    groupRules: readFileSync(files.groupRules, "utf8"),
    prefixLists: prefixLists === undefined ? undefined : (JSON.parse(prefixLists) as Record<string, string[]>),
    interface: files.interface,
  });
  console.log(found.length > 0 ? found.join("\n") : "host and group admit the same");
  return found.length > 0 ? 3 : 0;
}

interface Place {
  readonly stack?: string | undefined;
  readonly cwd?: string | undefined;
}

/** Secrets are the keys to log in with. They go nowhere but into the memory of agents. */
async function exportState(at: Place, secrets: boolean): Promise<State> {
  const text = await pulumi(["stack", "export", ...(secrets ? ["--show-secrets"] : [])], at, "the state of the stack");
  try {
    return JSON.parse(text) as State;
  } catch {
    throw new Error("the state of the stack is no JSON"); // the error itself would show a part of the text, which has secrets
  }
}

/** What Pulumi prints. */
function pulumi(args: readonly string[], { stack, cwd }: Place, what: string): Promise<string> {
  const options = [...(stack === undefined ? [] : ["--stack", stack]), ...(cwd === undefined ? [] : ["--cwd", cwd])];
  return new Promise((resolve, reject) => {
    const child = spawn("pulumi", [...args, "--non-interactive", ...options], { stdio: ["ignore", "pipe", "inherit"] });
    let text = "";
    child.stdout.setEncoding("utf8").on("data", (part: string) => (text += part));
    child.on("error", (error) => reject(new Error(`pulumi could not be started: ${error.message}`)));
    child.on("close", (code) => {
      if (code === 0) resolve(text);
      else reject(new Error(`${what} could not be read (above)`));
    });
  });
}

// Whoever reads the output may stop early, as `head` does.
for (const stream of [process.stdout, process.stderr]) {
  stream.on("error", ({ code, message }: NodeJS.ErrnoException) => {
    if (code !== "EPIPE") console.error(`mail-firewall: the output cannot be written: ${message}`);
    process.exit(1);
  });
}

main().then(
  (code) => (process.exitCode = code),
  (error: Error & { code?: string }) => {
    console.error(`mail-firewall: ${error.message.split("\n").map(printable).join("\n")}`);
    process.exitCode = error.code?.startsWith("ERR_PARSE_ARGS") ? 64 : 1;
  },
);
