// A stack of this project, run by the real engine against a state of its own.
import { execFileSync, spawn } from "node:child_process";
import { createHash } from "node:crypto";
import {
  copyFileSync,
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

import { parse, stringify } from "yaml";

import { madeOnce } from "./madeOnce";

/** What a Pulumi command printed, and how it ended. */
export interface Run {
  readonly code: number;
  /** Both streams, as a person at a terminal without colours reads them. */
  readonly output: string;
  readonly stdout: string;
  readonly stderr: string;
  readonly seconds: number;
}

/** Stack configuration as in `stacks/Pulumi.<stack>.yaml`; a key without a namespace is one of the project. */
export type Config = Record<string, unknown>;

export interface Stack {
  /** Writes the stack's file; keys that were stored encrypted stay. */
  configure(config: Config): void;
  /** Runs `pulumi ARGS…` on this stack and waits for its end. */
  pulumi(...args: string[]): Promise<Run>;
  preview(...args: string[]): Promise<Run>;
  up(...args: string[]): Promise<Run>;
  refresh(...args: string[]): Promise<Run>;
  destroy(...args: string[]): Promise<Run>;
  outputs(): Promise<Record<string, unknown>>;
  /** Runs any other program where `pulumi` would work on this stack. */
  execute(file: string, ...args: string[]): Promise<Run>;
  /** Runs a line as a person types it at a shell there, who says yes to all that Pulumi asks. */
  shell(line: string, stdin?: string): Promise<Run>;
  /** Starts `pulumi ARGS…`; `kill` ends it at once, as `kill -9` does. */
  start(...args: string[]): { readonly ended: Promise<Run>; kill(): void };
  /** Makes a state, such as an edited export, the stack's own. */
  import(state: State): Promise<void>;
  /** The state, as `pulumi stack export` prints it. */
  export(): Promise<State>;
  remove(): void;
  /** The folder with its state. */
  readonly state: string;
}

export interface State {
  deployment: {
    resources?: {
      urn: string;
      type: string;
      parent?: string;
      dependencies?: string[];
      inputs?: Record<string, unknown>;
      outputs?: Record<string, unknown>;
    }[];
  };
}

export interface StackOptions {
  /** The private key to store, encrypted, as `sshPrivateKey`. */
  privateKey?: string;
  /** Leaves it to a `pulumi stack init` of the test to make the stack. */
  uninitialized?: true;
  /** More environment for Pulumi and the provider plugins. */
  env?: Record<string, string>;
  /** Is given every output as it comes. */
  onOutput?: (text: string) => void;
  /** Its name. Defaults to `test`. */
  name?: string;
  /** The folder of another project, whose name is the namespace of its keys. Defaults to this repository, by links, so that no file
   * of a test gets into it. */
  project?: string;
  /** Keeps its state where this one has its own, so that one can refer to the other. */
  beside?: Stack;
}

interface Settings {
  config?: Config;
}

interface Manifest {
  name: string;
  stackConfigDir?: string;
}

const program = ["Pulumi.yaml", "program.js", "package.json", "node_modules"];
/** What `make status` needs, too; without package-lock.json it never installs anything. */
const status = ["Makefile", "tools", "dist"];

const root = join(__dirname, __filename.endsWith(".ts") ? "../.." : "../../../..");

/** What Pulumi writes for a new stack, by one run for all of them: to derive the key for its secrets takes a second. */
function newStack(project: string, name: string, privateKey: string | undefined): { state: string; settings: string } {
  const of = createHash("sha256").update([project, name, privateKey].join("\0")).digest("hex");
  const folder = madeOnce(`new-stack-${of.slice(0, 16)}`, (folder) => {
    mkdirSync(join(folder, "state"));
    writeFileSync(join(folder, "Pulumi.yaml"), stringify({ name: project, runtime: "nodejs" }));
    const env = { ...process.env, PULUMI_BACKEND_URL: `file://${join(folder, "state")}`, PULUMI_CONFIG_PASSPHRASE };
    const pulumi = (args: string[], input = "") =>
      execFileSync("pulumi", ["--non-interactive", ...args], { cwd: folder, env, input, stdio: "pipe" });
    pulumi(["stack", "init", name]);
    if (privateKey === undefined) return;
    pulumi(["config", "set", "--stack", name, "--secret", `${project}:sshPrivateKey`], privateKey);
  });
  return { state: join(folder, "state"), settings: join(folder, `Pulumi.${name}.yaml`) };
}

const PULUMI_CONFIG_PASSPHRASE = "sandbox";

/** Starts a stack that has never been deployed. */
export function startStack({
  privateKey,
  uninitialized,
  env = {},
  name = "test",
  project,
  beside,
  onOutput,
}: StackOptions = {}): Promise<Stack> {
  const folder = mkdtempSync(join(tmpdir(), "stack-"));
  const work = project ?? join(folder, "project");
  const state = beside?.state ?? join(folder, "state");
  mkdirSync(state, { recursive: true });
  if (!project) {
    mkdirSync(join(work, "stacks"), { recursive: true });
    for (const name of [...program, ...status]) symlinkSync(join(root, name), join(work, name));
  }
  const { name: namespace, stackConfigDir = "." } = parse(readFileSync(join(work, "Pulumi.yaml"), "utf8")) as Manifest;
  const file = join(work, stackConfigDir, `Pulumi.${name}.yaml`);
  const environment = {
    ...process.env,
    PULUMI_BACKEND_URL: `file://${state}`,
    PULUMI_CONFIG_PASSPHRASE,
    PULUMI_STACK: name,
    PULUMI_SKIP_UPDATE_CHECK: "true",
    PULUMI_DISABLE_AUTOMATIC_PLUGIN_ACQUISITION: "true",
    GOGC: "400", // of a process that is over in seconds, a third of the time would go into collecting garbage
    SSH_AUTH_SOCK: undefined,
    ...env,
  };

  const start = (file: string, args: string[], stdin = "", env: NodeJS.ProcessEnv = environment) => {
    const started = process.hrtime.bigint();
    const child = spawn(file, args, { cwd: work, env, stdio: ["pipe", "pipe", "pipe"] });
    const ended = new Promise<Run>((resolve, reject) => {
      const seen = { output: "", stdout: "", stderr: "" };
      for (const stream of ["stdout", "stderr"] as const) {
        child[stream].setEncoding("utf8").on("data", (text: string) => {
          seen.output += text;
          seen[stream] += text;
          onOutput?.(text);
        });
      }
      child.stdin.end(stdin);
      child.on("error", reject).on("close", (code) => {
        resolve({ code: code ?? 255, ...seen, seconds: Number(process.hrtime.bigint() - started) / 1e9 });
      });
    });
    return { ended, kill: () => void child.kill("SIGKILL") };
  };
  const pulumi = (args: string[]) => ["--non-interactive", "--color", "never", ...args];
  const run = (args: string[], stdin?: string) => start("pulumi", pulumi(args), stdin).ended;
  const mustRun = async (args: string[], stdin?: string) => {
    const ended = await run(args, stdin);
    if (ended.code !== 0) throw new Error(`pulumi ${args.join(" ")}: exit code ${ended.code}\n${ended.output}`);
    return ended.output;
  };

  const secrets: Config = {}; // as they are in the file, encrypted
  if (uninitialized) {
    if (privateKey !== undefined) throw new Error("there is no stack yet whose secret the key could be");
  } else {
    const { state: empty, settings } = newStack(namespace, name, privateKey);
    cpSync(empty, state, { recursive: true });
    copyFileSync(settings, file);
  }

  return Promise.resolve({
    state,
    pulumi: (...args) => run(args),
    configure: (config) => {
      const named = Object.fromEntries(
        Object.entries(config).map(([key, value]) => [key.includes(":") ? key : `${namespace}:${key}`, value]),
      );
      const { config: old = {}, ...rest } = parse(existsSync(file) ? readFileSync(file, "utf8") : "{}") as Settings;
      const secret = (value: unknown) => typeof value === "object" && value !== null && "secure" in value;
      for (const [key, value] of Object.entries(old)) if (secret(value)) secrets[key] = value;
      writeFileSync(file, stringify({ ...rest, config: { ...secrets, ...named } }));
    },
    preview: (...args) => run(["preview", "--suppress-progress", ...args]),
    up: (...args) => run(["up", "--yes", "--suppress-progress", ...args]),
    refresh: (...args) => run(["refresh", "--yes", "--suppress-progress", ...args]),
    destroy: (...args) => run(["destroy", "--yes", "--suppress-progress", ...args]),
    outputs: async () => JSON.parse(await mustRun(["stack", "output", "--json"])) as Record<string, unknown>,
    export: async () => JSON.parse(await mustRun(["stack", "export"])) as State,
    execute: (file, ...args) => start(file, args).ended,
    shell: (line, stdin) =>
      start("sh", ["-c", line], stdin, { ...environment, PULUMI_SKIP_CONFIRMATIONS: "true" }).ended,
    start: (...args) => start("pulumi", pulumi(args)),
    import: async (state) => void (await mustRun(["stack", "import"], JSON.stringify(state))),
    remove: () => rmSync(folder, { recursive: true, force: true }),
  });
}
