// The documents of this repository, as tests read them: where they link to, and the commands that they tell a user to run.
import { execFileSync } from "node:child_process";
import { readFileSync } from "node:fs";

import MarkdownIt from "markdown-it";

export interface Command {
  readonly text: string;
  /** Whether it stands in a block, to be typed as it is; otherwise in a sentence, which may only name it. */
  readonly inBlock: boolean;
}

export interface Document {
  readonly links: readonly string[];
  /** What a link to it may have behind its `#`. */
  readonly anchors: ReadonlySet<string>;
  /** What stands between backticks in its sentences. */
  readonly code: readonly string[];
  readonly commands: readonly Command[];
}

/** All files that git tracks. */
export const tracked = (): string[] =>
  // Whoever owns them: `sudo make test` reads somebody else's.
  execFileSync("git", ["-c", "safe.directory=*", "ls-files", "-z"], { encoding: "utf8" }).split("\0").filter(Boolean);

/** What begins a command in a sentence; there it has at least one more word. */
const program = /^(?:[A-Z_]+=\S+ )*(?:aws|mail-firewall|make|npm|npx|pulumi|ssh|ssh-keygen|visudo) /;

export function readDocument(text: string): Document {
  const links: string[] = [];
  const anchors = new Set<string>();
  const code: string[] = [];
  const commands: Command[] = [];
  const tokens = new MarkdownIt({ html: true }).parse(text, {});
  for (const [i, { type, info, content, children }] of tokens.entries()) {
    if (type === "fence" && /^(sh|bash|shell|console)\b/.test(info)) {
      commands.push(...commandsOf(content).map((command) => ({ text: command, inBlock: true })));
    }
    if (type === "html_block") for (const id of idsIn(content)) anchors.add(id);
    if (type !== "inline") continue;
    for (const token of children!) {
      const to = token.attrGet("href") ?? token.attrGet("src");
      if (to !== null) links.push(to);
      if (token.type === "html_inline") for (const id of idsIn(token.content)) anchors.add(id);
      if (token.type === "code_inline") code.push(token.content.replace(/\s+/g, " "));
    }
    if (tokens[i - 1]?.type === "heading_open") {
      const said = children!.filter(({ type: part }) => part === "text" || part === "code_inline");
      anchors.add(unused(slug(said.map((part) => part.content).join("")), anchors));
    }
  }
  const inSentences = code.filter((part) => program.test(part)).map((part) => ({ text: part, inBlock: false }));
  return { links, anchors, code, commands: [...commands, ...inSentences] };
}

const idsIn = (html: string) => [...html.matchAll(/\b(?:id|name)="([^"]+)"/g)].map(([, id]) => id!);

/** As GitHub makes the anchor of a heading; of two that are alike, the later one gets a number. */
const slug = (heading: string) =>
  heading
    .toLowerCase()
    .replace(/[^\p{L}\p{M}\p{N}\p{Pc} -]/gu, "")
    .replaceAll(" ", "-");

function unused(name: string, taken: ReadonlySet<string>): string {
  let number = 0;
  const numbered = () => (number === 0 ? name : `${name}-${number}`);
  while (taken.has(numbered())) number++;
  return numbered();
}

/** The commands of a block: one a line, unless that is continued, and without comments. */
function commandsOf(block: string): string[] {
  const lines = block.replace(/\\\n\s*/g, "").split("\n");
  return lines.map((line) => /^(?:"[^"]*"|'[^']*'|[^"'#]|(?<=\S)#)*/.exec(line)![0].trim()).filter(Boolean);
}

/**
 * A command of a document, which must be there word for word: the test runs what a user reads. test/unit/docs.test.ts finds the calls
 * by their text, so both names are literals.
 *
 * @param instead what the sandbox has in place of words of the command, such as the address of a host.
 */
export function documented(file: string, command: string, instead: Record<string, string> = {}): string {
  const { commands } = readDocument(readFileSync(file, "utf8"));
  if (!commands.some(({ text }) => text === command)) throw new Error(`${file} does not say: ${command}`);
  return put([command], instead)[0]!;
}

/** All commands of the blocks of a document, as {@link documented}, in their order. */
export function documentedIn(file: string, instead: Record<string, string> = {}): string[] {
  const { commands } = readDocument(readFileSync(file, "utf8"));
  return put(
    commands.filter(({ text, inBlock }) => inBlock && !(text in notRun)).map(({ text }) => text),
    instead,
  );
}

/** The commands that no test runs as they are, and why. */
export const notRun: Readonly<Record<string, string>> = {
  "make test": "it runs these tests",
  "make test-all": "it runs these tests, with all of their cases",
  "make test-real": "it boots machines, which is for `make test-all`; the tests of it are its own",
  "make mutation": "it runs the unit tests for half an hour",
  "make demo": "it enters the sandbox, in which the tests are already; .github/workflows/test.yml runs it",
  "make bench": "it measures times, which need a machine that does nothing else",
  "MAILFW_RECORD_STATE=1 make test-integration NAME=upgrade": "it writes what the tests of a release are held to",
  "aws ec2 describe-security-group-rules --filters Name=group-id,Values=sg-… > rules.json":
    "Amazon's program; test/integration/group.test.ts asks by its SDK, which answers the same",
  "npm ci": "needs a registry, which the sandbox cannot reach; tools/setup.sh runs it",
  "npm install": "needs a registry; tools/setup.sh consumer installs the package, as npm packs it, with its peers",
  "npm install mail-firewall @pulumi/pulumi @pulumi/command @pulumi/aws": "as npm install",
  "npm install mail-firewall @pulumi/policy": "as npm install",
  "pulumi install": "needs Pulumi's registry, of which the README warns",
};

function put(commands: readonly string[], instead: Record<string, string>): string[] {
  const words = Object.keys(instead);
  const unknown = words.find((word) => !commands.some((command) => command.includes(word)));
  if (unknown !== undefined) throw new Error(`no ${unknown} in: ${commands.join("; ")}`);
  if (words.length === 0) return [...commands];
  const empty = words.find((word) => /^[\s:]*$/.test(instead[word]!));
  if (empty !== undefined) throw new Error(`${empty} would not be run at all`);
  // All at once: what is put in for one may look like another.
  const any = new RegExp(words.map((word) => word.replace(/[^\w\s]/g, "\\$&")).join("|"), "g");
  return commands.map((command) => command.replace(any, (word) => instead[word]!));
}
