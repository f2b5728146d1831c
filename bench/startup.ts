// How long `pulumi preview` of the dev stack takes, beside the same of an empty TypeScript program, in pairs that alternate.
//
//     . .cache/env.sh; node .cache/sandbox/bench/startup.js [PAIRS] [PAIRS WITH COLD FILE CACHES]
import { execFileSync } from "node:child_process";
import { mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

import { parse } from "yaml";

import { startStack, type Config, type Stack } from "../test/sandbox/stack";

const root = join(__dirname, "../../..");

/** What `pulumi new typescript` writes, and a program that does nothing. */
const emptyProject = {
  "Pulumi.yaml": `name: empty
runtime:
  name: nodejs
  options:
    packagemanager: npm
stackConfigDir: stacks
`,
  "package.json": JSON.stringify({ name: "empty", main: "index.ts" }),
  "tsconfig.json": JSON.stringify({
    compilerOptions: {
      strict: true,
      outDir: "bin",
      target: "es2020",
      module: "nodenext",
      moduleResolution: "nodenext",
      sourceMap: true,
      experimentalDecorators: true,
      pretty: true,
      noFallthroughCasesInSwitch: true,
      noImplicitReturns: true,
      forceConsistentCasingInFileNames: true,
      // Without this it would read the types of our test tools, which a new project does not have.
      types: ["node"],
    },
    files: ["index.ts"],
  }),
  "index.ts": 'import * as pulumi from "@pulumi/pulumi";\n',
};

/** The dev stack, without what is encrypted in it: its passphrase is not ours. */
function devConfig(): Config {
  const { config } = parse(readFileSync(join(root, "stacks/Pulumi.dev.yaml"), "utf8")) as { config: Config };
  return Object.fromEntries(
    Object.entries({ ...config, ...offline }).filter(([, value]) => !Object.hasOwn(Object(value) as object, "secure")),
  );
}

/** So that the real provider, where there is one, asks AWS for nothing. */
const offline = {
  "aws:accessKey": "bench",
  "aws:secretKey": "bench",
  "aws:skipCredentialsValidation": true,
  "aws:skipRequestingAccountId": true,
  "aws:skipMetadataApiCheck": true,
};

async function preview(stack: Stack): Promise<number> {
  const { code, output, seconds } = await stack.preview();
  if (code !== 0) throw new Error(`pulumi preview: exit code ${code}\n${output}`);
  return seconds;
}

type Pair = Record<"dev" | "empty", number>;

/** Previews both stacks `count` times; every other pair the other way round. */
async function pairs(count: number, stacks: Record<keyof Pair, Stack>, prepare: () => void): Promise<Pair[]> {
  const measured: Pair[] = [];
  for (let index = 0; index < count; index++) {
    const pair: Pair = { dev: 0, empty: 0 };
    for (const name of index % 2 === 0 ? (["empty", "dev"] as const) : (["dev", "empty"] as const)) {
      prepare();
      pair[name] = await preview(stacks[name]);
    }
    measured.push(pair);
    console.error(`  pair ${index + 1}/${count}: empty ${pair.empty.toFixed(2)} s, dev ${pair.dev.toFixed(2)} s`);
  }
  return measured;
}

function dropFileCaches(): void {
  execFileSync("sync");
  writeFileSync("/proc/sys/vm/drop_caches", "3");
}

/** `median (min–max)`, with two decimals. */
function spread(values: number[]): string {
  const sorted = [...values].sort((a, b) => a - b);
  const median = (sorted[(sorted.length - 1) >> 1]! + sorted[sorted.length >> 1]!) / 2;
  return `${median.toFixed(2)} (${sorted[0]!.toFixed(2)}–${sorted.at(-1)!.toFixed(2)})`;
}

const line = (...columns: string[]) => columns.map((text) => text.padEnd(20)).join("");

function row(name: string, measured: Pair[], goal: string): string {
  return line(
    name,
    spread(measured.map(({ empty }) => empty)),
    spread(measured.map(({ dev }) => dev)),
    spread(measured.map(({ dev, empty }) => dev / empty)),
    goal,
  );
}

/** The stand-ins are scripts, the real providers are programs. */
function provider(name: string): string {
  const { version } = JSON.parse(readFileSync(join(root, `node_modules/@pulumi/${name}/package.json`), "utf8")) as {
    version: string;
  };
  const file = join(process.env.PULUMI_HOME!, "plugins", `resource-${name}-v${version}`, `pulumi-resource-${name}`);
  return `${name} ${version} (${readFileSync(file).toString("latin1", 0, 2) === "#!" ? "stand-in" : "real"})`;
}

async function main(warm: number, cold: number): Promise<void> {
  const folder = mkdtempSync(join(tmpdir(), "startup-"));
  const started: Stack[] = [];
  try {
    mkdirSync(join(folder, "stacks"));
    for (const [name, text] of Object.entries(emptyProject)) writeFileSync(join(folder, name), text);
    symlinkSync(join(root, "node_modules"), join(folder, "node_modules"));
    const env = { TMPDIR: folder }; // where ts-node keeps what it compiled
    const dev = await startStack({ env });
    started.push(dev);
    const empty = await startStack({ env, project: folder });
    started.push(empty);
    dev.configure(devConfig());

    const engine = (await dev.pulumi("version")).output.trim();
    console.log(`Pulumi ${engine}, Node ${process.version}, providers: ${["aws", "command"].map(provider).join(", ")}`);
    await pairs(1, { dev, empty }, () => undefined); // compiles the program and fills the file caches; not counted
    const rows: string[] = [];
    if (warm > 0) rows.push(row("warm", await pairs(warm, { dev, empty }, () => undefined), "1.20"));
    if (cold > 0) {
      try {
        dropFileCaches();
        rows.push(row("cold file caches", await pairs(cold, { dev, empty }, dropFileCaches), "1.50"));
      } catch (error) {
        if (!(error instanceof Error && "syscall" in error)) throw error;
        rows.push(`cold file caches: not measured, they cannot be dropped here (${error.message})`);
      }
    }
    console.log(line("preview, median", "empty program, s", "dev stack, s", "ratio, by pairs", "goal"));
    console.log(rows.join("\n"));
  } finally {
    for (const stack of started) stack.remove();
    rmSync(folder, { recursive: true, force: true });
  }
}

const [warm = "7", cold = "4"] = process.argv.slice(2);
main(Number(warm), Number(cold)).catch((error: unknown) => {
  console.error(error);
  process.exitCode = 1;
});
