// What reviewers read, from the real engine: each preview is compared with a text under previews/, which a person has read.
// After a change that is meant, write them anew with MAILFW_PREVIEWS=write, and read the difference.
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

import { parse } from "yaml";

import { startEc2, type Ec2 } from "../sandbox/ec2";
import { operatorKey, startMailHost, type MailHost } from "../sandbox/host";
import { startStack, type Config, type Run, type Stack } from "../sandbox/stack";
import { everyCase, policy, succeeded } from "./example";

jest.setTimeout(120_000);

/** So many that they stand one a line. */
const many = ["a", "b", "c", "d", "e"].map((digit) => `2001:db8:1234:5${digit}00::/56`);

const writing = process.env.MAILFW_PREVIEWS === "write";

/** Of a host that is not there. */
const otherKey = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHyrmZFHMFmhYYIcPPRxUWkWDKZUzpP2PYRkVfTzWlrk";

let ec2: Ec2, mx1: MailHost, mx2: MailHost, stack: Stack;
let config: Config;
let normal: [RegExp, string][];

beforeAll(async () => {
  [ec2, mx1, mx2] = await Promise.all([startEc2(), startMailHost(), startMailHost()]);
  const vpcId = await ec2.createVpc();
  stack = await startStack({ privateKey: operatorKey.privateKey, env: ec2.env });
  config = {
    "aws:region": "eu-central-1",
    ...policy,
    services: { ...policy.services, sieve: many },
    hosts: {
      mx1: { host: mx1.address4, hostKey: mx1.hostKey },
      mx2: { host: mx2.address6, hostKey: mx2.hostKey, user: "admin" },
    },
    aws: { vpcId },
  };
  const exactly = (text: string) => new RegExp(text.replaceAll(".", "\\."), "g");
  normal = [
    [exactly(mx1.address4), "198.51.100.1"],
    [exactly(mx2.address6), "2001:db8:51::2"],
    [exactly(vpcId), "vpc-ID"],
    [/\bsg(r?)-[0-9a-f]{8,}/g, "sg$1-ID"],
    [/\b[0-9a-f]{12}-[0-9a-f]{8}\b/g, "FINGERPRINT-NONCE"],
    [/(confirmed) [0-9a-f]{12}\b/g, "$1 FINGERPRINT"],
    [/^ *\[(id|provider)=.*\n/gm, ""],
    [/\[urn=urn:pulumi:test::mail-firewall::.*?([^$:]+::[^:]+)\]/g, "[urn=…$1]"],
  ];
});
afterAll(async () => {
  await Promise.all([ec2?.close(), mx1?.close(), mx2?.close()]);
  stack?.remove();
});

/**
 * A preview without what differs from run to run: ids, nonces, and the order of resources that wait for nothing. What is on
 * standard error comes first; a terminal shows it beside the component.
 */
function readable(run: Run): string {
  succeeded(run);
  const text = normal.reduce((text, [from, to]) => text.replace(from, to), ordered(run.stdout));
  return `${run.stderr}${text}`.trimEnd();
}

/** Rows and blocks of resources by name; of the rows of one, which is printed again with everything new, the last. */
function ordered(text: string): string {
  const end = /^( *--outputs:--|(Diagnostics|Outputs|Resources):)$/m.exec(text)!.index;
  const lines = text.slice(0, end).split("\n");
  const found = new Map<string, string[]>();
  let block = found.set("", []).get("")!;
  for (const line of lines.filter((line) => line !== "")) {
    const row = /^ [-+~ ] {2}(\S+:\S+) (\S+)/.exec(line);
    if (row) found.set(`${row[2]} ${row[1]}`, (block = []));
    if (/^ *([-+~] )?\S+:\S+: \(\w+\)$/.test(line)) block = [];
    const urn = /^ *\[urn=urn:pulumi:.*?::.*?::(.*)::(.*)\]$/.exec(line);
    // A parent before its children.
    if (urn) found.set(urn[1] === "pulumi:pulumi:Stack" ? " " : `${urn[1]!.replaceAll("$", " ")}\t${urn[2]}`, block);
    block.push(line);
  }
  const sorted = [...found].sort(([a], [b]) => (a < b ? -1 : 1)).flatMap(([, block]) => block);
  return [...sorted, text.slice(end)].join("\n");
}

async function previews(name: string, ...ways: ("--diff" | "")[]): Promise<void> {
  const file = join(__dirname, "previews", `${name}.txt`);
  const heading = (way: string) => `$ pulumi preview ${way}`.trimEnd();
  // Each way of a sample, and of the others the one that shows more.
  const taken = everyCase || writing || name === "a service made public" ? ways : ways.slice(-1);
  const found: string[] = [];
  for (const way of taken) {
    const run = await stack.preview(...(way === "" ? [] : [way]));
    found.push(heading(way), readable(run), "");
  }
  const text = found.join("\n");
  if (writing) {
    mkdirSync(join(__dirname, "previews"), { recursive: true });
    writeFileSync(file, text);
  }
  const sections = readFileSync(file, "utf8").split(/\n(?=\$ pulumi)/);
  const expected = sections.filter((section) => taken.some((way) => section.startsWith(`${heading(way)}\n`)));
  expect(text).toBe(expected.join("\n"));
}

test("the first deployment", async () => {
  stack.configure(config);
  await previews("first deployment", "");
});

describe("of a stack that is deployed", () => {
  beforeAll(async () => {
    stack.configure(config);
    succeeded(await stack.up("--skip-preview"));
  });

  const services = { ...policy.services, sieve: many };

  const changes: [string, () => Config, ("--diff" | "")[]][] = [
    ["a service made public", () => ({ services: { ...services, imaps: "public" } }), ["", "--diff"]],
    ["a network added", () => ({ services: { ...services, imap: [...services.imap, "10.9.0.0/16"] } }), ["", "--diff"]],
    ["a network removed", () => ({ services: { ...services, imap: ["10.20.0.0/16"] } }), ["--diff"]],
    ["a service closed", () => ({ services: { ...services, https: "closed" } }), ["--diff"]],
    [
      "config shuffled",
      () => ({
        services: {
          ...{ sieve: [...many].reverse(), imap: [...services.imap].reverse() },
          ...{ https: services.https, smtps: services.submissions },
        },
        ssh: [...policy.ssh].reverse(),
      }),
      ["", "--diff"],
    ],
    [
      "a host added",
      () => ({ hosts: { ...(config.hosts as object), mx3: { host: "192.0.2.3", hostKey: otherKey } } }),
      ["", "--diff"],
    ],
    ["a host removed", () => ({ hosts: { mx1: (config.hosts as Record<string, unknown>).mx1 } }), ["", "--diff"]],
    [
      "a host with another address",
      () => ({ hosts: { ...(config.hosts as object), mx1: { host: "192.0.2.4", hostKey: mx1.hostKey } } }),
      ["--diff"],
    ],
    ["other admins", () => ({ ssh: ["203.0.113.0/25", "198.51.100.128/25", policy.ssh[1]] }), ["", "--diff"]],
    ["a trusted network", () => ({ host: { trustedNetworks: ["10.8.0.0/24"] } }), ["--diff"]],
    [
      "one of many networks added",
      () => ({ services: { ...services, sieve: [...many, "fd12::/48"] } }),
      ["", "--diff"],
    ],
  ];
  // Every second one, unless MAILFW_ALL=1.
  const sample = changes.filter((_, i) => everyCase || writing || i % 2 === 0);
  test.each(sample)("%s", async (name, change, ways) => {
    stack.configure({ ...config, ...change() });
    await previews(name, ...ways);
  });

  test("the workflow of pull requests separates the words from the resources, and tells a failure", async () => {
    const workflow = parse(readFileSync(".github/workflows/preview.yml", "utf8")) as {
      jobs: { preview: { steps: { id?: string; run?: string }[] } };
    };
    const { run } = workflow.jobs.preview.steps.find(({ id }) => id === "preview")!;
    const folder = mkdtempSync(join(tmpdir(), "runner-"));
    const review = async () => {
      const environment = [`RUNNER_TEMP=${folder}`, `GITHUB_OUTPUT=${folder}/output`, "STACK=test"];
      const ended = await stack.execute("env", ...environment, "bash", "-e", "-c", run!);
      const [words, diff, output] = ["words", "diff", "output"].map((name) =>
        readFileSync(join(folder, name), "utf8"),
      ) as [string, string, string];
      expect(ended).toMatchObject({ code: 0, stdout: words + diff, stderr: "" });
      rmSync(join(folder, "output"));
      return { words, diff, output };
    };

    stack.configure({ ...config, services: { ...services, imaps: "public" } });
    const { words, diff, output } = await review();
    expect(words).toBe("mail: imaps (tcp/993): now reachable from everywhere, IPv4 and IPv6\n");
    expect(diff).toMatch(/~ imaps +: "tcp\/993: closed" => "tcp\/993: public"[^]*Resources:/);
    expect(output).toBe("failed=\n");
    for (const line of operatorKey.privateKey.split("\n").filter((part) => part.length > 20)) {
      expect(words + diff).not.toContain(line);
    }

    stack.configure({ ...config, services: { impas: "public" } });
    const failed = await review();
    expect(failed.words + failed.diff).toContain('unknown service; did you mean "imaps"?');
    expect(failed.output).toBe("failed=yes\n");
    rmSync(folder, { recursive: true });
  });

  test("an update that failed, which leaves no outputs", async () => {
    const state = await stack.export();
    const edited = structuredClone(state);
    const firewall = edited.deployment.resources!.find(({ type }) => type === "mail-firewall:index:MailFirewall")!;
    delete firewall.outputs;
    await stack.import(edited);
    stack.configure(config);
    await previews("after an update that failed", "");
    await stack.import(state);
  });

  test("a rename in the catalogue", async () => {
    const state = await stack.export();
    const edited = JSON.stringify(state).replaceAll("mail from other servers", "what other servers send");
    await stack.import(JSON.parse(edited) as typeof state);
    stack.configure(config);
    await previews("a description of the catalogue renamed", "", "--diff");
    await stack.import(state);
  });
});

test("an update can be held to a plan, in which is the engine's own provider that the preview has asked", async () => {
  const group = await startStack({ env: ec2.env });
  group.configure({ "aws:region": "eu-central-1", ...policy, aws: config.aws });
  succeeded(await group.up("--skip-preview"));
  const state = await group.export();
  const others = state.deployment.resources!.filter(({ type }) => type !== "pulumi:providers:pulumi");
  expect(others).toHaveLength(state.deployment.resources!.length - 1);
  await group.import({ ...state, deployment: { ...state.deployment, resources: others } });
  const folder = mkdtempSync(join(tmpdir(), "plan-"));
  succeeded(await group.preview("--expect-no-changes", "--save-plan", join(folder, "plan")));
  succeeded(await group.up("--skip-preview", "--plan", join(folder, "plan")));
  rmSync(folder, { recursive: true });
  group.remove();
});
