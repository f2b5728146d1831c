// What must agree in a release, as .github/workflows/release.yml asks.
import { spawnSync } from "node:child_process";
import { existsSync, readFileSync } from "node:fs";

import { parse } from "yaml";

type Read = (file: string) => string | undefined;
const { faults } = jest.requireActual<{ faults: (tag: string, repository: string, read: Read) => string[] }>(
  "../../.github/release.js",
);

interface Manifest {
  version: string;
  repository?: { type: string; url: string };
}
const real: Read = (file) => (existsSync(file) ? readFileSync(file, "utf8") : undefined);
const manifest = JSON.parse(real("package.json")!) as Manifest;
const { version } = manifest;
const tag = `v${version}`;

/** This tree with what only a release has. */
const repository = { type: "git", url: "git+https://github.com/owner/name.git" };
const released: Record<string, string> = {
  "package.json": JSON.stringify({ ...manifest, repository }),
  "CHANGELOG.md": `# Changelog\n\n## [${version}] - 2026-11-23\n`,
};
const having = (files: Record<string, string | undefined>) => {
  const all = { ...released, ...files };
  return faults(tag, "owner/name", (file) => (file in all ? all[file] : real(file)));
};

test("this tree agrees with itself", () => {
  expect(having({})).toEqual([]);
});

const other = JSON.stringify({ version: "9.9.9" });

test.each<[string, Record<string, string | undefined>, string[]]>([
  ["a lock file of another version", { "package-lock.json": other }, ["package-lock.json has version 9.9.9"]],
  ["a policy pack of another version", { "policy-pack/package.json": other }, ["policy-pack/package.json has version"]],
  ["a schema of another version", { "plugin/schema.json": other }, ["plugin/schema.json has version 9.9.9"]],
  [
    "no section",
    { "CHANGELOG.md": "## [Unreleased]\n" },
    [`CHANGELOG.md has no section "## [${version}] - YYYY-MM-DD"`],
  ],
  ["a section without a date", { "CHANGELOG.md": `## [${version}]\n` }, ["CHANGELOG.md has no section"]],
  ["no state", { [`test/integration/states/${version}.json`]: undefined }, [`${version}.json is missing`]],
  ["no repository", { "package.json": JSON.stringify({ version }) }, ['package.json lacks "repository"']],
  [
    "another repository",
    {
      "package.json": JSON.stringify({ version, repository: { ...repository, url: "git+https://github.com/a/b.git" } }),
    },
    ['package.json lacks "repository": { "type": "git", "url": "git+https://github.com/owner/name.git" }'],
  ],
  [
    "another version in package.json",
    { "package.json": JSON.stringify({ version: "9.9.9", repository }) },
    [
      `the tag is ${tag}, and package.json has version 9.9.9`,
      `package-lock.json has version ${version}`,
      `policy-pack/package.json has version ${version}`,
      `plugin/schema.json has version ${version}`,
      'CHANGELOG.md has no section "## [9.9.9] - YYYY-MM-DD"',
      "test/integration/states/9.9.9.json is missing",
    ],
  ],
])("%s", (_, files, expected) => {
  expect(having(files)).toEqual(expected.map((text) => expect.stringContaining(text) as string));
});

test("the workflow stops at the wrong tag", () => {
  interface Workflow {
    jobs: Record<string, { needs?: string | string[]; steps?: { run?: string }[] }>;
  }
  const { jobs } = parse(readFileSync(".github/workflows/release.yml", "utf8")) as Workflow;
  const [line] = jobs.check!.steps!.flatMap(({ run }) => run ?? []);
  const env = { ...process.env, GITHUB_REF_NAME: "v9.9.9", GITHUB_REPOSITORY: "owner/name" };
  const { status, stdout } = spawnSync("sh", ["-c", line!], { env, encoding: "utf8" });
  expect(status).toBe(1);
  expect(stdout).toContain(`::error::the tag is v9.9.9, and package.json has version ${version}\n`);
  // All that publishes comes after it, and after the tests.
  expect([jobs.test!.needs, jobs.pack!.needs, jobs.publish!.needs]).toEqual(["check", "check", ["test", "pack"]]);
});
