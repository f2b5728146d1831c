// Rules of other programs, in the shapes that public dumps of real hosts have: a file each in corpus/. Over each of them the policy
// is deployed and removed. The world must find open what the policy opens, and nothing else; their rules stay as they are; `status`
// says the truth.
//
// A file begins with a comment that says what host has the shape, and with what is known of it (Shape below). The sections are loaded in
// this order: `## net` (see `build`), `## ipset`, `## iptables`, `## other backend` (iptables-restore of the backend that the host does
// not use), `## nft`, and `## run`, which is a shell script. One text is of both families: `{IPv4|IPv6}` is a choice, a line that
// begins with `4: ` or `6: ` is of one family, HOST4 and HOST6 are the addresses of the host.
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";

import { agent, execute, python, startMailHost, type MailHost } from "../sandbox/host";
import { probe, startClient, type Client, type Probe } from "../sandbox/probe";
import { command, everyCase, expectedRulesets, install } from "./example";

jest.setTimeout(120_000);

type Backend = "nft" | "legacy";
const families = [4, 6] as const;
type Family = (typeof families)[number];

/** What the policy opens to everyone, as "protocol/port"; something listens there. */
const open = ["tcp/25", "tcp/443", "tcp/465", "udp/51820"];
/** What it does not open, though something listens there. */
const closed = ["tcp/21", "tcp/22", "tcp/80", "tcp/143", "tcp/587", "tcp/3306", "tcp/8080", "udp/5353"];

/** Who asks, by the addresses in both families. The files name those of `banned`. */
const people = {
  stranger: ["192.0.2.200", "2001:db8:190::200"],
  banned: ["192.0.2.201", "2001:db8:190::201"],
  operator: ["203.0.113.200", "2001:db8:113::200"],
} as const;
type Person = keyof typeof people;

// --- The files

interface Shape {
  /** Ports that these rules themselves make reachable; "direct" ones at the address of a container. */
  readonly published: string[];
  readonly direct: string[];
  /** Ports at which these rules refuse the banned client. */
  readonly banned: string[];
  /** Open services that stay shut, because something shuts them that is not ours; `difference` is how status names it. */
  readonly shut: string[];
  readonly difference: RegExp | undefined;
  /** What apply says of rules that cannot be read. */
  readonly refused: RegExp | undefined;
  /** The backends of iptables with which a host can have the shape. */
  readonly backends: readonly Backend[];
  readonly sections: ReadonlyMap<string, string>;
}

const folder = join(__dirname, "corpus");
const names = readdirSync(folder)
  .filter((file) => file.endsWith(".rules"))
  .map((file) => file.replace(".rules", ""));

function read(name: string): Shape {
  const [head, ...parts] = readFileSync(join(folder, `${name}.rules`), "utf8").split(/^## /m);
  const sections = new Map(
    parts.map((part) => [part.slice(0, part.indexOf("\n")), part.slice(part.indexOf("\n") + 1)]),
  );
  const fields = new Map([...head!.matchAll(/^([a-z]+): (.*)$/gm)].map(([, key, value]) => [key!, value!] as const));
  const list = (key: string) =>
    (fields.get(key)?.split(" ") ?? []).map((port) => (/^\d+$/.test(port) ? `tcp/${port}` : port));
  const pattern = (key: string) => (fields.has(key) ? new RegExp(fields.get(key)!, "i") : undefined);
  const known = {
    fields: ["published", "direct", "banned", "shut", "difference", "refused", "backend"],
    sections: ["net", "ipset", "iptables", "other backend", "nft", "run"],
  };
  expect(known.fields).toEqual(expect.arrayContaining([...fields.keys()]));
  expect(known.sections).toEqual(expect.arrayContaining([...sections.keys()]));
  return {
    published: list("published"),
    direct: list("direct"),
    banned: list("banned"),
    shut: list("shut"),
    difference: pattern("difference"),
    refused: pattern("refused"),
    backends: fields.has("backend")
      ? [fields.get("backend") as Backend]
      : sections.has("iptables")
        ? ["nft", "legacy"]
        : ["nft"],
    sections,
  };
}

/** A text for one family. */
const forFamily = (text: string, family: Family): string =>
  text
    .replace(/^([46]): (.*\n)/gm, (_, only: string, line: string) => (only === `${family}` ? line : ""))
    .replace(/\{([^{}|\n]*)\|([^{}|\n]*)\}/g, (_, four: string, six: string) => (family === 4 ? four : six));

/** A text for both at once; one that offers no choice is of both already. */
const forBoth = (text: string): string[] => {
  const texts = families.map((family) => forFamily(text, family));
  return texts[0] === texts[1] ? [text] : texts;
};

// --- The host

const tools = { 4: "iptables", 6: "ip6tables" };
const otherOf = (backend: Backend): Backend => (backend === "nft" ? "legacy" : "nft");

async function must(host: MailHost, shell: string, stdin?: string): Promise<string> {
  const { code, stdout, stderr } = await host.run(shell, stdin);
  if (code !== 0) throw new Error(`${shell.slice(0, 60)}: ${stderr.trim() || `exit code ${code}`}`);
  return stdout;
}

/**
 * Interfaces and containers: `interface NAME [ADDRESS/n…]`, which is a bridge whatever it is on the host that it comes from, and
 * `container BRIDGE IPv4 IPv6 PORT…`, which answers there.
 */
async function build(host: MailHost, text: string): Promise<void> {
  const script = [
    "set -e",
    "for file in ipv4/ip_forward ipv6/conf/all/forwarding; do echo 1 >/proc/sys/net/$file; done",
    // A neighbour can be asked for only from a link-local address that has been tried out, which takes seconds.
    "echo 0 >/proc/sys/net/ipv6/conf/default/accept_dad",
    "cat >/run/agent.py",
  ];
  let count = 0;
  for (const [kind, name, ...rest] of text
    .split("\n")
    .filter(Boolean)
    .map((line) => line.split(" "))) {
    const give = (address: string) => `ip address add ${address} dev ${name}${address.includes(":") ? " nodad" : ""}`;
    if (kind === "container") {
      const [four, six, ...ports] = rest;
      const inside = `container${++count}`;
      const listen = JSON.stringify({ tcp: ports.map(Number), udp: [] });
      script.push(
        `ip netns add ${inside}`,
        `ip netns exec ${inside} sh -c 'echo 0 >/proc/sys/net/ipv6/conf/default/accept_dad'`,
        `ip link add veth${count} type veth peer name eth0 netns ${inside}`,
        `ip link set veth${count} master ${name} up`,
        `ip -n ${inside} link set lo up; ip -n ${inside} link set eth0 up`,
        `ip -n ${inside} address add ${four}/24 dev eth0; ip -n ${inside} address add ${six}/64 dev eth0 nodad`,
        `for gate in $(ip -o address show dev ${name} scope global | sed -E 's/.* inet6? ([^/]*).*/\\1/'); do ip -n ${inside} route add default via $gate; done`,
        `ip netns exec ${inside} ${python} /run/agent.py listen '${listen}' </dev/null >/run/${inside}.log 2>&1 &`,
      );
    } else {
      script.push(`ip link add name ${name} type bridge`, `ip link set ${name} up`, ...rest.map(give));
    }
  }
  for (; count > 0; count--) script.push(`until [ -s /run/container${count}.log ]; do sleep 0.01; done`);
  await must(host, script.join("\n"), readFileSync(agent, "utf8"));
}

/** Brings the shape into the kernel of a host. */
async function load(host: MailHost, { sections }: Shape, backend: Backend): Promise<void> {
  const text = (section: string) =>
    (sections.get(section) ?? "").replaceAll("HOST4", host.address4).replaceAll("HOST6", host.address6);
  if (sections.has("net")) await build(host, text("net"));
  if (sections.has("ipset")) await must(host, "ipset restore", forBoth(text("ipset")).join(""));
  for (const family of families) {
    if (sections.has("iptables")) await must(host, `${tools[family]}-restore`, forFamily(text("iptables"), family));
    if (sections.has("other backend"))
      await must(host, `${tools[family]}-${otherOf(backend)}-restore`, forFamily(text("other backend"), family));
  }
  for (const part of forBoth(text("nft"))) if (part) await must(host, "nft -f -", part);
  for (const part of forBoth(text("run"))) if (part) await must(host, `set -e\n${part}`);
}

/** All that the kernel holds: both families, both backends, native tables, sets. */
async function kernel(host: MailHost): Promise<string> {
  // iptables-legacy-save would make tables where nobody has any.
  return must(
    host,
    `for tool in iptables ip6tables; do
      echo "# $tool"; $tool-nft-save; names=/proc/net/$(echo $tool | cut -d t -f 1)_tables_names
      if grep -q . $names 2>/dev/null; then echo "# $tool-legacy"; $tool-legacy-save; fi
    done
    echo "# nft"; nft --stateless list ruleset; echo "# ipset"; ipset save`,
  );
}

/** Ours is every chain MAILFW*, and every jump to one. It is the only thing that this test knows of how the script goes about it. */
const isOurs = (line: string) =>
  /^:MAILFW|^-A MAILFW|^-A .* -[jg] MAILFW|^\tchain MAILFW|\b(?:jump|goto) MAILFW|mail_firewall/.test(
    line.replace(/"(?:[^"\\]|\\.)*"/g, ""), // a comment may say anything
  );

/** What of {@link kernel} is not ours. An empty table is nobody's: iptables makes them in passing, and has no word that removes one. */
function foreign(text: string): string {
  const [saved, native, sets] = text.split(/^(?=# (?:nft|ipset)$)/m);
  const without = (part: string) =>
    part
      .split("\n")
      .filter((line) => !isOurs(line))
      .join("\n");
  const tables = without(saved!.replace(/^# (?:Generated|Completed).*\n/gm, "").replace(/ \[\d+:\d+\]$/gm, "")).replace(
    /^\*.*\n(?::\S+ ACCEPT\n)*COMMIT\n/gm,
    "",
  );
  const chains = native!
    .replace(/^# Warning.*\n/gm, "")
    .replace(/^\tchain (?:.*) \{\n[^]*?\n?\t\}\n/gm, (chain) => (isOurs(chain.split("\n")[0]!) ? "" : without(chain)))
    .replace(/^\tchain .* \{\n\t\ttype \w+ hook \w+ priority \w+; policy accept;\n\t\}\n/gm, "")
    .replace(/\n\n+/g, "\n")
    .replace(/^table .*\{\n\}\n/gm, "");
  return [tables, chains, sets].join("");
}

/** What has come and gone, each line with the table that it is of. */
function changes(before: string, after: string): string[] {
  if (before === after) return [];
  const located = (text: string) => {
    let tool = "";
    let table = "";
    return text.split("\n").map((line) => {
      if (line.startsWith("# ")) [tool, table] = [line.slice(2), ""];
      if (/^\*|^table /.test(line)) table = ` ${line.replace(/^\*| \{$/g, "")}`;
      return `${tool}${table}: ${line.trim()}`;
    });
  };
  const minus = (lines: string[], others: string[]) => {
    const left = [...others];
    return lines.filter((line) => {
      const at = left.indexOf(line);
      if (at >= 0) left.splice(at, 1);
      return at < 0;
    });
  };
  const [old, now] = [located(before), located(after)];
  const lines = [
    ...minus(old, now).map((line) => `gone from ${line}`),
    ...minus(now, old).map((line) => `new in ${line}`),
  ];
  return lines.length > 0 ? lines : ["the same lines in another order"];
}

// --- What the world sees

interface Question {
  readonly who: Person;
  /** "protocol/port". */
  readonly what: string;
  /** The addresses of a container, where its address is asked instead of the host's. */
  readonly at?: readonly [string, string];
}

let client: Client;
beforeAll(async () => {
  client = await startClient(Object.values(people).flat());
});
afterAll(() => client?.close());

/** The answers to each question over IPv4 and IPv6. */
async function ask(host: MailHost, questions: Question[], timeoutMs?: number): Promise<string[][]> {
  const probes = questions.flatMap(({ who, what, at }) =>
    families.map((family, i): Probe => {
      const [protocol, port] = what.split("/") as ["tcp" | "udp", string];
      const target = at?.[i] ?? (family === 4 ? host.address4 : host.address6);
      return { source: people[who][i]!, target, protocol, port: Number(port) };
    }),
  );
  const verdicts = await probe(client, probes, { timeoutMs });
  return questions.map((_, i) => verdicts.slice(2 * i, 2 * i + 2));
}

/** Which of the answers are not as expected. What should be open and is shut is asked again, with patience: machines may be busy. */
async function unexpected(host: MailHost, expected: readonly (readonly [Question, boolean])[]): Promise<string[]> {
  const judge = async (part: typeof expected, timeoutMs?: number) => {
    const answers = await ask(
      host,
      part.map(([question]) => question),
      timeoutMs,
    );
    return part.map((one, i) => ({
      one,
      answers: answers[i]!,
      good: answers[i]!.every((answer) => (answer === "open") === one[1]),
    }));
  };
  const wrong = (await judge(expected)).filter(({ good }) => !good);
  const again = wrong.filter(({ one }) => one[1]).map(({ one }) => one);
  const still = again.length > 0 ? (await judge(again, 3000)).filter(({ good }) => !good) : [];
  return [...still, ...wrong.filter(({ one }) => !one[1])].map(
    ({ one: [{ who, what, at }], answers }) =>
      `${what}${at ? " of the container" : ""} to the ${who} is ${answers[0]} over IPv4, ${answers[1]} over IPv6`,
  );
}

// --- The test

/** All that is wrong, in words. */
async function examine(shape: Shape, backend: Backend): Promise<string[]> {
  const host = await startMailHost({ backend });
  try {
    await load(host, shape, backend);
    await install(host);
    const run = (verb: string, stdin = "") => host.run(`${command} ${verb}`, stdin);
    const before = await kernel(host);
    if (before.split("\n").some(isOurs)) throw new Error("the shape has chains of ours");
    const wrong: string[] = [];

    if (shape.refused) {
      const { code, stdout, stderr } = await run("apply", expectedRulesets("mail-firewall/test/mx1"));
      if (code === 0) wrong.push(`apply succeeds: ${stdout}`);
      if (!shape.refused.test(stderr)) wrong.push(`apply does not name it: ${stderr}`);
      const after = await kernel(host);
      const strip = (text: string) => text.replace(/^# (Generated|Completed).*\n/gm, "").replace(/\[\d+:\d+\]/g, "");
      wrong.push(...changes(strip(before), strip(after)).map((line) => `after a refused apply: ${line}`));
      return wrong;
    }

    // What these rules do by themselves; without it, a port that is shut later would prove nothing.
    const containers = [...(shape.sections.get("net") ?? "").matchAll(/^container \S+ (\S+) (\S+)/gm)];
    const direct = containers
      .slice(0, 1)
      .flatMap(([, four, six]) => shape.direct.map((what): Question => ({ who: "stranger", what, at: [four!, six!] })));
    for (const [, four, six] of direct.length > 0 ? containers : []) {
      const routes = [
        `route replace ${four} via ${host.address4} dev eth0 onlink`,
        `route replace ${six} via ${host.address6} dev eth0 onlink`,
      ];
      await execute("nsenter", ["-t", `${client.pid}`, "--net", "ip", "-batch", "-"], routes.join("\n"));
    }
    const own = [
      ...[...shape.published.map((what): Question => ({ who: "stranger", what })), ...direct].map(
        (question) => [question, true] as const,
      ),
      ...shape.banned.map((what) => [{ who: "banned", what }, false] as const),
    ];
    const not = await unexpected(host, own);
    if (not.length > 0) throw new Error(`the rules do not do what their file says: ${not.join("; ")}`);

    const applied = await run("apply", expectedRulesets("mail-firewall/test/mx1"));
    if (applied.code !== 0) return [`apply: ${applied.stderr}`];
    const confirmed = await run("confirm", applied.stdout);
    if (confirmed.code !== 0 || confirmed.stdout !== "confirmed\n") return [`confirm: ${confirmed.stderr}`];

    const shut = [...closed, ...shape.published].filter((what) => !open.includes(what));
    const expected: [Question, boolean][] = [
      ...open.map((what): [Question, boolean] => [{ who: "stranger", what }, !shape.shut.includes(what)]),
      ...[...new Set(shut)].map((what): [Question, boolean] => [{ who: "stranger", what }, false]),
      ...direct.map((question): [Question, boolean] => [question, false]),
      ...shape.banned.map((what): [Question, boolean] => [{ who: "banned", what }, false]),
      [{ who: "operator", what: "tcp/22" }, true],
    ];
    const [there, seen, status] = await Promise.all([kernel(host), unexpected(host, expected), run("status --json")]);
    wrong.push(...seen.map((text) => `deployed: ${text}`));
    wrong.push(...changes(foreign(before), foreign(there)).map((line) => `deployed: ${line}`));
    try {
      const { differences } = JSON.parse(status.stdout) as { differences: { text: string }[] };
      const texts = differences.map(({ text }) => text);
      if (!shape.difference) wrong.push(...texts.map((text) => `status: ${text}`));
      else if (!texts.some((text) => shape.difference!.test(text)))
        wrong.push(`status does not say ${shape.difference}, but ${JSON.stringify(texts)}`);
      if (status.code !== (shape.difference ? 3 : 0)) wrong.push(`status: exit code ${status.code}`);
    } catch (error) {
      wrong.push(`status: ${String(error)} ${status.stderr}`);
    }

    const removed = await run("remove");
    if (removed.code !== 0) wrong.push(`remove: ${removed.stderr}`);
    const [after, again] = await Promise.all([kernel(host), unexpected(host, own)]);
    wrong.push(
      ...after
        .split("\n")
        .filter(isOurs)
        .map((line) => `left behind: ${line}`),
    );
    wrong.push(...changes(foreign(before), foreign(after)).map((line) => `removed: ${line}`));
    wrong.push(...again.map((text) => `removed: ${text}`));
    return wrong;
  } finally {
    await host.close();
  }
}

/** `make test` takes those that differ most from each other, by turns over either backend. */
const sample = [
  "docker-20",
  "fail2ban-ipset",
  "docker-29-nftables",
  "rh-firewall",
  "comments",
  "netbird",
  "redirects",
  "nftables-conf",
  "policy-drop-stateless",
  "synproxy",
];

const rows = (everyCase ? names : sample).flatMap((name, i) => {
  const { backends } = read(name);
  return (everyCase ? backends : [backends[i % backends.length]!]).map((backend): [string, Backend] => [name, backend]);
});

test.each(rows)("%s, iptables-%s", async (name, backend) => {
  expect(await examine(read(name), backend)).toEqual([]);
});
