import { execFileSync, spawnSync } from "node:child_process";
import {
  copyFileSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  utimesSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

jest.setTimeout(60_000);

let project: string;

beforeEach(() => {
  project = mkdtempSync(join(tmpdir(), "program-"));
  for (const folder of ["cli", "components", "plugin", "policy-pack", "stacks"]) mkdirSync(join(project, folder));
  for (const file of ["program.js", "package-lock.json"]) copyFileSync(file, join(project, file));
  // The types of Node are most of what the compiler would read.
  write("tsconfig.json", readFileSync("tsconfig.json", "utf8").replace('["node"]', '["./console"]'));
  write("console.d.ts", "declare const console: { log(...what: unknown[]): void; error(what: unknown): void };");
  symlinkSync(join(process.cwd(), "node_modules"), join(project, "node_modules"));
  write("components/index.ts", "export {};");
  for (const main of ["cli/main.ts", "plugin/main.ts", "policy-pack/index.ts"]) write(main, "export {};");
});
afterEach(() => rmSync(project, { recursive: true, force: true }));

const write = (file: string, text: string) => writeFileSync(join(project, file), text);
const compile = () => spawnSync("node", ["program.js"], { cwd: project, encoding: "utf8" });
/** Runs the program as Pulumi does, as a module of another one. */
const run = () =>
  execFileSync("node", ["-e", 'require("./program.js")'], { cwd: project, encoding: "utf8", stdio: "pipe" });

test("a type error stops the run, and what was compiled in between never runs", () => {
  const good = "console.log(993 satisfies number);";
  write("index.ts", good);
  expect(run()).toBe("993\n");
  write("index.ts", "console.log(994 satisfies string);");
  expect(() => run()).toThrow(/the program does not compile:\nindex\.ts\(1,17\): error TS1360/);
  expect(compile()).toMatchObject({ status: 1, stdout: "", stderr: expect.stringContaining("error TS1360") as string });
  write("index.ts", good);
  expect(run()).toBe("993\n");
});

test("a change of any source is compiled, and nothing is compiled twice", () => {
  write("index.ts", 'import { port } from "./components/port"; console.log(port);');
  write("components/port.ts", "export const port = 143;");
  expect(run()).toBe("143\n");
  write("components/port.ts", "export const port = 993;");
  expect(run()).toBe("993\n");
  // No compiler, and it still runs.
  rmSync(join(project, "node_modules"));
  expect(() => run()).toThrow(/Cannot find module '@pulumi\/pulumi/);
  mkdirSync(join(project, "node_modules"));
  symlinkSync(join(process.cwd(), "node_modules/@pulumi"), join(project, "node_modules/@pulumi"));
  expect(run()).toBe("993\n");
});

test("a dist that Git tracks is refused, though its stamp is right, and runs again when it is taken out", () => {
  write("index.ts", "console.log(993);");
  expect(run()).toBe("993\n");
  write("dist/index.js", 'console.log("not in the sources");');
  expect(run()).toBe("not in the sources\n"); // as whoever can write to it may
  // Nothing of a Git that runs these tests from a hook.
  const options = { cwd: project, env: { PATH: process.env.PATH, HOME: project } };
  const git = (...args: string[]) => execFileSync("git", args, options);
  git("init", "--quiet");
  expect(run()).toBe("not in the sources\n");
  git("add", "dist");
  expect(() => run()).toThrow(/dist\/ is tracked by Git, and would run in place of the sources/);
  const { status, stderr } = compile();
  expect(status).toBe(1);
  execFileSync("sh", ["-c", stderr.trim().split("\n").at(-1)!], options);
  expect(run()).toBe("993\n");
});

test("what interrupted runs have left is deleted, and nothing else beside dist", () => {
  write("index.ts", "console.log(993);");
  const day = new Date(Date.now() - 86_400_000);
  const others = ["dist.backup", "dist.1", ".dist", ".dist.new", ".dist.1.new.old", ".dist.mine.new"];
  for (const folder of [...others, ".dist.1.new", ".dist.2.new"]) mkdirSync(join(project, folder));
  for (const file of ["dist.tar.gz", ".dist.3.new"]) write(file, "");
  for (const name of [...others, ".dist.1.new", "dist.tar.gz", ".dist.3.new"])
    utimesSync(join(project, name), day, day);
  expect(run()).toBe("993\n");
  const left = readdirSync(project).filter((name) => name.includes("dist"));
  expect(left.sort()).toEqual(["dist", "dist.tar.gz", ".dist.2.new", ".dist.3.new", ...others].sort());
});

test("what the SDK loads only on demand is not loaded, and works when it is asked for", () => {
  write(
    "index.ts",
    `import * as pulumi from "@pulumi/pulumi";
     const loaded = (name: string) => Object.keys(require.cache).some((file) => file.includes(name));
     const names = ["/@npmcli/arborist/lib/arborist/", "/typescript/lib/typescript.js", "/automation/localWorkspace.js"];
     console.log(names.map(loaded).join());
     console.log(typeof pulumi.automation.LocalWorkspace.createOrSelectStack, "LocalWorkspace" in pulumi.automation);
     pulumi.runtime.serializeFunction(() => 993).then(({ text }) => console.log(text.includes("993")), console.error);`,
  );
  expect(run()).toBe("false,false,false\nfunction true\ntrue\n");
});
