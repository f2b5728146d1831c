// What must agree before .github/workflows/release.yml publishes a version: node .github/release.js TAG OWNER/NAME
const fs = require("node:fs");

/**
 * Says what does not agree, a line each.
 *
 * @param tag the git tag of the release, such as v0.1.0.
 * @param repository owner/name, as GitHub has it.
 * @param read the text of a file; undefined if there is none.
 */
function faults(tag, repository, read) {
  const json = (file) => JSON.parse(read(file));
  const manifest = json("package.json");
  const { version } = manifest;
  const found = [];
  if (tag !== `v${version}`) found.push(`the tag is ${tag}, and package.json has version ${version}`);
  for (const file of ["package-lock.json", "policy-pack/package.json", "plugin/schema.json"]) {
    const other = json(file).version;
    if (other !== version) found.push(`${file} has version ${other}, and package.json ${version}`);
  }
  const heading = `## [${version}] - `;
  const dated = read("CHANGELOG.md")
    .split("\n")
    .some((line) => line.startsWith(heading) && /^\d{4}-\d\d-\d\d$/.test(line.slice(heading.length)));
  if (!dated) found.push(`CHANGELOG.md has no section "${heading}YYYY-MM-DD"`);
  const state = `test/integration/states/${version}.json`;
  if (read(state) === undefined) found.push(`${state} is missing; CHANGELOG.md says how to write it`);
  // npm refuses a provenance that names another repository.
  const url = `git+https://github.com/${repository}.git`;
  if (manifest.repository?.url !== url) {
    found.push(`package.json lacks "repository": { "type": "git", "url": "${url}" }`);
  }
  return found;
}

if (require.main === module) {
  const [tag, repository] = process.argv.slice(2);
  const found = faults(tag, repository, (file) => (fs.existsSync(file) ? fs.readFileSync(file, "utf8") : undefined));
  for (const line of found) console.log(`::error::${line}`);
  process.exitCode = found.length > 0 ? 1 : 0;
}
module.exports = { faults };
