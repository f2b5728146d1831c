import { execFileSync } from "node:child_process";
import { copyFileSync, existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

test("a checkout on Windows has the scripts with LF line ends, and binary files as they are", () => {
  const checkout = mkdtempSync(join(tmpdir(), "checkout-"));
  try {
    // Nothing of a Git that runs these tests from a hook, nor of the user's own settings.
    const env = { PATH: process.env.PATH, HOME: checkout };
    const git = (...args: string[]) =>
      execFileSync("git", ["-c", "core.autocrlf=true", ...args], { cwd: checkout, env });
    const script = readFileSync("components/host/script/head.sh", "utf8");
    const binary = Buffer.from("\0\r\n\n\r\n");
    if (existsSync(".gitattributes")) copyFileSync(".gitattributes", join(checkout, ".gitattributes"));
    writeFileSync(join(checkout, "mail-firewall.sh"), script);
    writeFileSync(join(checkout, "binary"), binary);
    git("init", "--quiet");
    git("add", ".");
    for (const file of ["mail-firewall.sh", "binary"]) rmSync(join(checkout, file));
    git("checkout-index", "--all");
    expect(readFileSync(join(checkout, "mail-firewall.sh"), "utf8")).toBe(script);
    expect(readFileSync(join(checkout, "binary"))).toEqual(binary);
  } finally {
    rmSync(checkout, { recursive: true, force: true });
  }
});
