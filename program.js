// What Pulumi runs: index.ts, compiled. Pulumi could compile it itself, on every run, and that would be most of a preview's
// time. Here it is compiled when a source, a dependency or the compiler's settings changed; a type error stops the run.
//
// `node program.js` compiles, if needed, and does nothing else. `make bench` measures what all of this brings.
const { createHash } = require("node:crypto");
const fs = require("node:fs");
const { Module, createRequire } = require("node:module");
const path = require("node:path");

const out = path.join(__dirname, "dist");
const stamp = path.join(out, ".sources.sha256");

function sources(directory) {
  return fs.readdirSync(path.join(__dirname, directory), { withFileTypes: true }).flatMap((entry) => {
    const name = path.join(directory, entry.name);
    if (entry.isDirectory()) return sources(name);
    return /\.(ts|sh|json)$|PulumiPolicy\.yaml$/.test(name) ? [name] : [];
  });
}

/** Says what is wrong with a dist/ that Git tracks: nobody reviews it, and with a forged stamp it would run in place of the sources. */
function complainOfTracked() {
  if (!fs.existsSync(out)) return undefined;
  // A checkout may belong to another user, as it does in containers. Git runs no program of the checkout to answer this.
  const git = ["-c", "safe.directory=*", "-c", "core.fsmonitor=false", "ls-files", "--", ":(icase)dist"];
  const { status, stdout } = require("node:child_process").spawnSync("git", git, { cwd: __dirname, encoding: "utf8" });
  if (status !== 0 || stdout === "") return undefined; // also where there is no Git, or no checkout
  return `dist/ is tracked by Git, and would run in place of the sources; take it out, and it is compiled anew:
  git rm -r -f --quiet --cached dist && rm -r dist`;
}

/** Brings dist/ up to date; returns a complaint if that cannot be done. */
function compile() {
  const complaint = complainOfTracked();
  if (complaint) return complaint;
  const folders = ["cli", "components", "plugin", "policy-pack", "stacks"];
  const files = ["index.ts", ...folders.flatMap(sources)].sort();
  const hash = createHash("sha256");
  for (const file of [...files, "tsconfig.json", "package-lock.json"]) {
    hash.update(file).update(fs.readFileSync(path.join(__dirname, file)));
  }
  const now = hash.digest("hex");
  if (fs.existsSync(stamp) && fs.readFileSync(stamp, "utf8") === now) return undefined;

  // Aside, and renamed when it is complete: nothing that was rejected is ever run, nor anything half written.
  const aside = path.join(__dirname, `.dist.${process.pid}.new`);
  for (const entry of fs.readdirSync(__dirname, { withFileTypes: true })) {
    if (!entry.isDirectory() || !/^\.dist\.\d+\.new$/.test(entry.name)) continue;
    const old = path.join(__dirname, entry.name); // of a run that was killed, or that is at it right now
    const since = fs.statSync(old, { throwIfNoEntry: false })?.mtimeMs ?? Date.now();
    if (Date.now() - since > 600_000) fs.rmSync(old, { recursive: true, force: true });
  }
  const arguments_ = [require.resolve("typescript/bin/tsc"), "-p", __dirname, "--outDir", aside, "--pretty", "false"];
  const tsc = require("node:child_process").spawnSync(process.execPath, arguments_, { encoding: "utf8" });
  if (tsc.status !== 0) {
    fs.rmSync(aside, { recursive: true, force: true });
    return `the program does not compile:\n${tsc.stdout}${tsc.stderr}${tsc.signal ?? ""}`.trimEnd();
  }
  for (const file of files.filter((name) => !name.endsWith(".ts"))) {
    fs.mkdirSync(path.dirname(path.join(aside, file)), { recursive: true });
    fs.copyFileSync(path.join(__dirname, file), path.join(aside, file));
  }
  fs.writeFileSync(path.join(aside, path.basename(stamp)), now);
  fs.rmSync(out, { recursive: true, force: true });
  fs.renameSync(aside, out);
  return undefined;
}

/**
 * Makes a module wait for its first use. @pulumi/pulumi always loads what few programs use: npm's dependency solver and
 * TypeScript (to pack functions for dynamic providers) and the Automation API, together half of all modules and most of the
 * time. They still work. Where a version of the SDK has them elsewhere, nothing happens.
 */
function loadOnDemand(resolve, name) {
  let file;
  try {
    file = resolve(name);
  } catch {
    return;
  }
  if (file in require.cache) return;
  let real;
  const load = () => {
    if (real === undefined) {
      delete require.cache[file];
      real = require(file);
    }
    return real;
  };
  const waiting = new Module(file, module);
  waiting.loaded = true;
  waiting.exports = new Proxy(
    {},
    {
      get: (_, key) => (key === "__esModule" ? true : load()[key]), // true, or `import *` would copy it, and so load it
      has: (_, key) => key in load(),
      ownKeys: () => Reflect.ownKeys(load()),
      getOwnPropertyDescriptor: (_, key) => {
        const property = Object.getOwnPropertyDescriptor(load(), key);
        return property && { ...property, configurable: true };
      },
    },
  );
  require.cache[file] = waiting;
}

/**
 * Pulumi keeps a stack trace with every promise, and finding the line of the TypeScript source for each of their frames takes
 * longer than all that this program does. Only the trace of an error that nobody caught is ever read.
 */
function mapStackTracesLate() {
  const { prepareStackTrace } = Error;
  Error.prepareStackTrace = undefined;
  for (const event of ["uncaughtException", "unhandledRejection"]) {
    process.prependListener(event, () => (Error.prepareStackTrace = prepareStackTrace));
  }
}

const complaint = compile();
if (require.main === module) {
  if (complaint) console.error(complaint);
  process.exitCode = complaint ? 1 : 0;
} else {
  if (complaint) {
    const { RunError } = require("@pulumi/pulumi/errors"); // which Pulumi prints without a stack trace
    throw new RunError(complaint);
  }
  const sdk = createRequire(require.resolve("@pulumi/pulumi/package.json"));
  for (const name of ["@npmcli/arborist", "./typescript-shim", "./automation"]) loadOnDemand(sdk.resolve, name);
  mapStackTracesLate();
  module.exports = require("./dist/index.js");
}
