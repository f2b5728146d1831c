import { readFileSync } from "node:fs";

import { Command } from "@pulumi/command/remote/command";

const manifest = JSON.parse(readFileSync("package.json", "utf8")) as Record<string, Record<string, string>>;

test("@pulumi/command is the line of 1.2, not npm's `latest` 4.5.0, an old accident without host keys", () => {
  expect(manifest.peerDependencies!["@pulumi/command"]).toBe("^1.2.1");
  const { version } = JSON.parse(readFileSync("node_modules/@pulumi/command/package.json", "utf8")) as {
    version: string;
  };
  expect(version).toMatch(/^1\.2\.\d+$/);
  expect(readFileSync("node_modules/@pulumi/command/types/input.d.ts", "utf8")).toContain("hostKey?:");
  expect(Command).toBeDefined();
});

test("what a consumer brings along are peers, open above", () => {
  expect(manifest.peerDependencies).toEqual({
    "@pulumi/aws": "^7.0.0",
    "@pulumi/command": "^1.2.1",
    "@pulumi/policy": "^1.15.0", // only for who uses the policy pack
    "@pulumi/pulumi": "^3.202.0",
  });
  expect(manifest.peerDependenciesMeta).toEqual({ "@pulumi/policy": { optional: true } });
  expect(Object.keys(manifest.dependencies!)).toEqual(["bcrypt-pbkdf", "fastest-levenshtein"]);
});
