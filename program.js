// What Pulumi runs: index.ts, compiled. Pulumi could compile it itself, on every run, and that would be most of a preview's
// time. Here it is compiled when a source, a dependency or the compiler's settings changed; a type error stops the run.
//
// `node program.js` compiles, if needed, and does nothing else.
const { createHash } = require("node:crypto");
const fs = require("node:fs");
const path = require("node:path");

const out = path.join(__dirname, "dist");
const stamp = path.join(out, ".sources.sha256");

function sources(directory) {
  return fs.readdirSync(path.join(__dirname, directory), { withFileTypes: true }).flatMap((entry) => {
    const name = path.join(directory, entry.name);
    if (entry.isDirectory()) return sources(name);
    return /\.(ts|sh)$/.test(name) ? [name] : [];
  });
}

function compile() {
  const files = ["index.ts", ...sources("components"), ...sources("stacks")].sort();
  const hash = createHash("sha256");
  for (const file of [...files, "tsconfig.json", "package-lock.json"]) {
    hash.update(file).update(fs.readFileSync(path.join(__dirname, file)));
  }
  const now = hash.digest("hex");
  if (fs.existsSync(stamp) && fs.readFileSync(stamp, "utf8") === now) return;

  const tsc = require.resolve("typescript/bin/tsc");
  const { status, stdout } = require("node:child_process").spawnSync(
    process.execPath,
    [tsc, "-p", __dirname, "--pretty", "false"],
    {
      encoding: "utf8",
    },
  );
  if (status !== 0) throw new Error(`the program does not compile:\n${stdout}`);
  for (const file of files.filter((name) => name.endsWith(".sh"))) {
    fs.copyFileSync(path.join(__dirname, file), path.join(out, file));
  }
  fs.writeFileSync(stamp, now);
}

compile();
if (require.main !== module) module.exports = require("./dist/index.js");
