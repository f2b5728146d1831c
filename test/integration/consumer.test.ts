// The package as npm packs it, in projects of its users: what they write deploys, in each kind of program that Pulumi runs.
import { execFileSync, execSync, spawnSync } from "node:child_process";
import { mkdtempSync, readFileSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";

import { documented } from "../documented";
import { operatorKey, startMailHost, type MailHost } from "../sandbox/host";
import { probe } from "../sandbox/probe";
import { startStack, type Stack } from "../sandbox/stack";
import { hasYaml, live, none, python, succeeded, testIn } from "./example";

jest.setTimeout(120_000);

const installed = resolve(".cache/consumer/node_modules"); // tools/setup.sh consumer

const commonjs = `
const pulumi = require("@pulumi/pulumi");
const { MailFirewall } = require("mail-firewall");
`;
const esm = `
import * as pulumi from "@pulumi/pulumi";
import { MailFirewall } from "mail-firewall";
`;
const body = `
const config = new pulumi.Config();
const firewall = new MailFirewall("mail", {
  services: { imaps: ["public"] },
  ssh: ["203.0.113.0/24", "2001:db8:113::/48"],
  sshPrivateKey: config.requireSecret("sshPrivateKey"),
  hosts: { mx1: { host: config.require("host"), hostKey: config.require("hostKey") } },
});
`;
// With types: these are errors if the declarations are not found, or do not say what the component has.
const typed = `${body}
export const exposure: pulumi.Output<Record<string, string>> = firewall.exposure;
// @ts-expect-error services are a map
void (() => new MailFirewall("wrong", { services: ["imaps"], ssh: ["public"] }));
`;

interface Kind {
  files: Record<string, string>;
  main: string;
  /** In package.json. */
  type: "commonjs" | "module";
  typescript: boolean;
  /** Compiles it first, to what `type` says. */
  tsc?: true;
}

const kinds: [string, Kind][] = [
  [
    "CommonJS",
    {
      files: { "index.js": `${commonjs}${body}exports.exposure = firewall.exposure;` },
      main: "index.js",
      type: "commonjs",
      typescript: false,
    },
  ],
  [
    "ESM",
    {
      files: { "index.js": `${esm}${body}export const exposure = firewall.exposure;` },
      main: "index.js",
      type: "module",
      typescript: false,
    },
  ],
  [
    "TypeScript, which Pulumi compiles",
    { files: { "index.ts": esm + typed }, main: "index.ts", type: "commonjs", typescript: true },
  ],
  [
    "TypeScript, compiled to CommonJS",
    { files: { "index.ts": esm + typed }, main: "bin/index.js", type: "commonjs", typescript: false, tsc: true },
  ],
  [
    "TypeScript, compiled to ESM",
    { files: { "index.ts": esm + typed }, main: "bin/index.js", type: "module", typescript: false, tsc: true },
  ],
];

// The one that most have, unless MAILFW_ALL=1.
const sample = kinds.filter(([name]) => process.env.MAILFW_ALL === "1" || name === "TypeScript, which Pulumi compiles");

describe("a program of ten lines that uses the installed package", () => {
  let host: MailHost;
  const stacks: Stack[] = [];

  beforeAll(async () => {
    host = await startMailHost();
  });
  afterAll(async () => {
    await host?.close();
    for (const stack of stacks) stack.remove();
  });

  test.each(sample)("%s: previews, deploys, and is destroyed", async (_, { files, main, type, typescript, tsc }) => {
    const project = mkdtempSync(join(tmpdir(), "consumer-"));
    const write = (name: string, text: string) => writeFileSync(join(project, name), text);
    symlinkSync(installed, join(project, "node_modules"));
    write("package.json", JSON.stringify({ name: "consumer", type, main }));
    write(
      "Pulumi.yaml",
      `name: consumer\nruntime: { name: nodejs, options: { typescript: ${typescript} } }\nmain: ${main}\n`,
    );
    for (const [name, text] of Object.entries(files)) write(name, text);
    if (tsc) {
      const options = ["--strict", "--skipLibCheck", "--target", "ES2022", "--module", "Node16", "--outDir", "bin"];
      execFileSync("node", [join(installed, "typescript/bin/tsc"), ...options, "index.ts"], { cwd: project });
    }
    const stack = await startStack({ privateKey: operatorKey.privateKey, project });
    stacks.push(stack);
    stack.configure({ host: host.address4, hostKey: host.hostKey });

    const preview = succeeded(await stack.preview());
    expect(preview).toContain("imaps (tcp/993): reachable from everywhere");
    succeeded(await stack.up("--skip-preview"));
    expect(await stack.outputs()).toMatchObject({ exposure: { imaps: "tcp/993: public", imap: "tcp/143: closed" } });
    const to = { source: "203.0.113.1", target: host.address4, protocol: "tcp" } as const;
    const seen = await probe(
      { pid: process.pid },
      [993, 143].map((port) => ({ ...to, port })),
    );
    expect(seen).toEqual(["open", "shut"]);
    succeeded(await stack.destroy());
    expect(await live(host)).toBe(none);
  });

  test("the plugin for other languages serves the schema that is checked in", async () => {
    const stack = await startStack();
    stacks.push(stack);
    const plugin = join(installed, ".bin/pulumi-resource-mail-firewall");
    const served = await stack.pulumi("package", "get-schema", plugin);
    expect(JSON.parse(succeeded({ ...served, output: served.stdout }))).toEqual(
      JSON.parse(readFileSync("plugin/schema.json", "utf8")),
    );
  });

  testIn("Python", python !== undefined, "the library for Python names, types and hides what it should", () => {
    const { env, venv } = python!;
    const run = (file: string, ...args: string[]) => {
      const options = { encoding: "utf8", env: { ...process.env, ...env } } as const;
      const { status, stdout, stderr } = spawnSync(join(venv, "bin", file), args, options);
      succeeded({ code: status ?? 255, output: stdout + stderr });
      return stdout;
    };
    const program = "test/integration/library.py";
    run("mypy", "--warn-unused-ignores", "--cache-dir", ".cache/mypy", program, "examples/python/__main__.py");
    const port = { protocol: "tcp", port: 1, from: ["public"] };
    // How Pulumi marks a secret.
    const secret = { "4dabf18193072939515e22adb298388d": "1b47061264138c4ac30d75fd1eb44270" };
    expect(JSON.parse(run("python3", program))).toEqual({
      services: { hosts_at_once: ["public"] },
      ports: { host_key: port, hostKey: port },
      ssh: ["public"],
      sshPrivateKey: { ...secret, value: "key" },
      hosts: { host_key: { host: "h", hostKey: "k", bastion: { host: "b", hostKey: "k" } } },
      hostsAtOnce: true,
      host: { rollbackSeconds: 60 },
      aws: { vpcId: "vpc", tags: { host_key: "1", hostKey: "2" } },
    });
  });

  testIn("YAML", hasYaml, "adding it to a project", async () => {
    const project = mkdtempSync(join(tmpdir(), "consumer-"));
    symlinkSync(installed, join(project, "node_modules"));
    writeFileSync(join(project, "Pulumi.yaml"), "name: consumer\nruntime: yaml\n");
    const stack = await startStack({ project, uninitialized: true });
    stacks.push(stack);
    const add = documented("README.md", "pulumi package add node_modules/mail-firewall/dist/plugin/schema.json");
    expect(succeeded(await stack.shell(add))).toContain("Successfully generated an SDK for the mail-firewall package");
  });
  test("what is in it, and how small it is", () => {
    const [{ files, size, unpackedSize }] = JSON.parse(
      execSync(`${documented("README.md", "npm pack")} --dry-run --ignore-scripts --json --offline`, {
        encoding: "utf8",
      }),
    ) as [{ files: { path: string }[]; size: number; unpackedSize: number }];
    const paths = files.map(({ path }) => path);
    // The command line reads this repository's stack config: its reader is there, no stack is.
    for (const path of paths) {
      expect(path).toMatch(
        /^(README\.md|LICENSE|CHANGELOG\.md|package\.json|dist\/(components|cli|plugin|policy-pack)\/.*|dist\/stacks\/(config|sshAgent)\..*)$/,
      );
    }
    for (const path of paths.filter((name) => name.endsWith(".js"))) {
      expect(paths).toEqual(expect.arrayContaining([path.replace(/js$/, "d.ts"), `${path}.map`]));
      const map = JSON.parse(readFileSync(`${path}.map`, "utf8")) as { sourcesContent?: string[] };
      expect(map.sourcesContent?.[0]).toMatch(/\S/); // or a debugger has nothing to show
    }
    expect(size).toBeLessThan(300_000);
    expect(unpackedSize).toBeLessThan(1_200_000);
  });
});
