// The documents: what they link to is there, and their commands are those that the tests run.
import { spawnSync } from "node:child_process";
import { readFileSync } from "node:fs";
import { dirname, join } from "node:path/posix";

import { notRun, readDocument, tracked, type Document } from "../documented";

const files = new Set(tracked());
const folders = new Set([...files].flatMap(above));
function above(path: string): string[] {
  const folder = dirname(path);
  return folder === "." ? [] : [folder, ...above(folder)];
}

const documents = new Map(
  [...files].filter((name) => name.endsWith(".md")).map((name) => [name, readDocument(readFileSync(name, "utf8"))]),
);

/** What is wrong with where a document links to, and with the files that it names. */
function broken(name: string, { links, code }: Document): string[] {
  const wrongLinks = links.filter((link) => {
    if (/^(?:https?|mailto):/.test(link)) return false;
    const [path = "", anchor] = decodeURI(link).split("#");
    const target = path === "" ? name : join(dirname(name), path);
    if (anchor !== undefined) return !documents.get(target)?.anchors.has(anchor);
    return !files.has(target) && !folders.has(target.replace(/\/$/, ""));
  });
  const own = [...folders].filter((folder) => !folder.includes("/")).join("|");
  const path = new RegExp(`^(?:${own.replaceAll(".", "\\.")})/[\\w./-]*[\\w/]$`);
  const wrongFiles = code.filter(
    (part) => path.test(part) && !files.has(part) && !folders.has(part.replace(/\/$/, "")),
  );
  return [...wrongLinks, ...wrongFiles];
}

test.each([...documents])("%s links to nothing that is not there", (name, document) => {
  expect(broken(name, document)).toEqual([]);
});

test("finds links and names that lead nowhere", () => {
  const text = `
# Two words, \`code\` & a [link](#two-words-code--a-link)
## Twice
## Twice
<a id="here"></a>[a](#here) [b](#twice-1) [c](../README.md#license) [d](../examples/) [e](https://example.com/gone)
[f](#twice-2) [g](../README.md#licence) [h](../gone.md) [i](ruleset.md#gone) [j](../LICENSE#gone) ![k](gone.png)
\`test/unit/docs.test.ts\` \`test/unit/gone.test.ts\` \`components/policy\` \`components/gone\` [l](../.cache)
`;
  const document = readDocument(text);
  documents.set("docs/example.md", document);
  expect(broken("docs/example.md", document)).toEqual([
    ...[
      "#twice-2",
      "../README.md#licence",
      "../gone.md",
      "ruleset.md#gone",
      "../LICENSE#gone",
      "gone.png",
      "../.cache",
    ],
    ...["test/unit/gone.test.ts", "components/gone"],
  ]);
  documents.delete("docs/example.md");
});

test("finds commands in blocks and in sentences", () => {
  const text = `
\`\`\`sh
npm ci   # a comment's words
pulumi config set key 'a # b' \\
  --path # more

# alone
\`\`\`
Run \`make test\`, \`FOO=1 make\n lint\`; not \`make\`, \`ssh:\` or \`iptables-restore --noflush\`.
\`\`\`ts
make();
\`\`\`
`;
  expect(readDocument(text).commands.map(({ text: command, inBlock }) => [command, inBlock])).toEqual([
    ["npm ci", true],
    ["pulumi config set key 'a # b' --path", true],
    ["make test", false],
    ["FOO=1 make lint", false],
  ]);
});

describe("commands", () => {
  const call = /\bdocumented(?:In\(\s*"([^"]+)"|\(\s*"[^"]+",\s*("(?:[^"\\]|\\.)*")|(?:In)?\()/g;
  const calls = [...files]
    .filter((name) => /^test\/.*\.ts$/.test(name) && name !== "test/unit/docs.test.ts")
    .flatMap((name) => [
      ...readFileSync(name, "utf8")
        .replace(/^\s*(?:\/\/|\*).*/gm, "")
        .matchAll(call),
    ]);
  const single = calls.flatMap(([, , command]) => (command === undefined ? [] : [JSON.parse(command) as string]));
  const inWholes = calls.flatMap(([, file]) => (file === undefined ? [] : documents.get(file)!.commands));
  const tested = new Set([...single, ...inWholes.flatMap(({ text, inBlock }) => (inBlock ? [text] : []))]);
  const all = [...documents.values()].flatMap(({ commands }) => commands);
  const whole = [...Object.keys(notRun), ...tested];

  test("each is run by a test, or says why not", () => {
    const missing = all.filter(({ text, inBlock }) => {
      // In a sentence the beginning of a command is its name.
      return !whole.some((one) => one === text || (!inBlock && one.replace(/^npx /, "").startsWith(`${text} `)));
    });
    expect(missing.map(({ text }) => text)).toEqual([]);
  });

  test("tests name theirs by literals", () => {
    const others = calls.filter(([, file, command]) => file === undefined && command === undefined);
    expect(others).toHaveLength(2); // where they are defined
  });

  test("what is not run stands in a document, and is not run", () => {
    const stale = Object.keys(notRun).filter((text) => !all.some((command) => command.text === text));
    expect(stale).toEqual([]);
    expect(single.filter((text) => text in notRun)).toEqual([]);
  });

  test.each(Object.keys(notRun).filter((text) => /\bmake /.test(text)))("%s is there", (command) => {
    // Without these two: make runs a recipe that calls make, lint's, with -n, too.
    const { status, stdout } = spawnSync("sh", ["-c", `LC_ALL=C ${command} -n -o setup -o lint`], { encoding: "utf8" });
    expect(status).toBe(0);
    expect(stdout).not.toContain("Nothing to be done"); // as of a folder of that name
  });
});
