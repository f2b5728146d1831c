// What the tests on real hosts deploy, and how they look at a host.
import { writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";

import { rulesets } from "../../components/host/ruleset";
import { Faults } from "../../components/policy/faults";
import { readPolicy, rules } from "../../components/policy/policy";
import { execute, operatorKey, type Result } from "../sandbox/host";
import { probe, type Client, type Verdict, type Watched } from "../sandbox/probe";
import { command } from "../integration/example";
import { readMail, type RealHost, type Release } from "../sandbox/realHost";
import type { Config } from "../sandbox/stack";

export const releases = (process.env.RELEASES ?? "bookworm").split(" ") as Release[];

/** Over IPv4 and over IPv6. */
export type Source = readonly [string, string];

/** Of each of these something listens on a real host; no policy here names them. */
export const closed = [143, 3306];

export const policy = {
  services: { smtp: "public", imaps: "public" },
  ssh: ["203.0.113.0/24", "2001:db8:113::/48"],
};

export const configFor = (host: RealHost, options: Config = {}): Config => ({
  ...policy,
  hosts: { mx1: { host: host.address4, hostKey: host.hostKey } },
  host: { rollbackSeconds: 20, ...options },
});

/** The rules of `policy`, or of one with other public services. */
export function rulesFor(services: string[] = ["smtp", "imaps"], owner = "mail-firewall/test/mx1"): string {
  const open = Object.fromEntries(services.map((name) => [name, ["public"]]));
  return rulesets(rules(readPolicy({ ...policy, services: open }, "", { any: true }, new Faults())), owner);
}

export async function must(host: RealHost, command: string, stdin?: string): Promise<string> {
  const { code, stdout, stderr } = await host.run(command, stdin);
  if (code !== 0) throw new Error(`${command}: exit code ${code}\n${stdout}${stderr}`);
  return stdout;
}

export async function deploy(host: RealHost, text = rulesFor()): Promise<void> {
  const applied = await must(host, `${command} apply --rollback 60`, text);
  expect(await must(host, `${command} confirm`, applied)).toBe("confirmed\n");
}

/** All rules of both families, in every table of iptables that is more than empty; without counters. */
export async function filters(host: RealHost): Promise<string> {
  const text = await must(host, "iptables-save; ip6tables-save");
  return text
    .replace(/^#.*\n/gm, "")
    .replace(/^(:.*) \[\d+:\d+\]$/gm, "$1")
    .replace(/^\*\w+\n(:\w+ ACCEPT\n)*COMMIT\n/gm, "");
}

/** What of a port one sees from a source, over both families. */
export async function verdicts(host: RealHost, client: Client, [v4, v6]: Source, port: number): Promise<Verdict[]> {
  return probe(client, [
    { source: v4, target: host.address4, protocol: "tcp", port },
    { source: v6, target: host.address6, protocol: "tcp", port },
  ]);
}

/** Which of the ports that a real host listens on are open, over both families alike. */
export async function openPorts(host: RealHost, client: Client, source: Source): Promise<number[]> {
  const open: number[] = [];
  for (const port of [22, 25, 143, 993, 3306]) {
    const [v4, v6] = await verdicts(host, client, source, port);
    if (v4 !== v6) throw new Error(`${port} is ${v4} over IPv4 and ${v6} over IPv6`);
    if (v4 === "open") open.push(port);
  }
  return open;
}

export async function subjects(host: RealHost, client: Client, expected: number, family: 4 | 6): Promise<string[]> {
  for (let tries = 0; ; tries++) {
    const found = await readMail(client, host, { family });
    if (found.length >= expected || tries === 50) return found;
    await sleep(100);
  }
}

/** As a person does; `from`: another client than the operator. */
export function ssh(host: RealHost, destination: string, command: string, from?: Client, stdin = ""): Promise<Result> {
  const knownHosts = join(tmpdir(), `known-hosts-${process.pid}`);
  writeFileSync(knownHosts, `${host.address4},${host.address6} ${host.hostKey}\n`);
  const options = [
    "BatchMode=yes",
    "StrictHostKeyChecking=yes",
    `UserKnownHostsFile=${knownHosts}`,
    "ConnectTimeout=5",
  ];
  const flags = options.flatMap((option) => ["-o", option]);
  const line = ["ssh", "-F", "none", "-i", operatorKey.file, ...flags, destination, command];
  return execute("nsenter", [`--net=/proc/${from?.pid ?? "self"}/ns/net`, ...line], stdin);
}

export async function until(what: () => Promise<boolean>, seconds: number): Promise<void> {
  for (const end = Date.now() + seconds * 1000; !(await what()); await sleep(100)) {
    if (Date.now() > end) throw new Error(`not within ${seconds} s`);
  }
}

/**
 * When, in the course of the last reboot, there was no machine: between the last word of the old boot's journal and the first of
 * the new one's. A network namespace that ends loses its rules before its interface, and for a moment refuses every connection.
 */
export async function away(host: RealHost): Promise<[number, number]> {
  const times = await must(host, "journalctl -b -1 -o short-unix -n 1 -q; journalctl -b -o short-unix -q | head -n 1");
  const [from, until] = times.trim().split("\n");
  return [parseFloat(from!) * 1000, parseFloat(until!) * 1000];
}

/**
 * That no closed port has ever answered while it was watched, and that somebody did watch: port 25 has answered, over both.
 *
 * @param gone what {@link away} says; nothing may have accepted a connection even then.
 */
export function expectClosed(watched: Watched[], gone: [number, number]): void {
  const [from, until] = gone;
  const answered = watched.map(({ target, port, open, refused }) => ({
    target,
    port,
    answered: [...open, ...refused.filter((at) => at < from || at > until)],
  }));
  expect(answered.filter(({ port, answered }) => closed.includes(port) && answered.length > 0)).toEqual([]);
  expect(answered.filter(({ port, answered }) => port === 25 && answered.length === 0)).toEqual([]);
  const knocks = watched.filter(({ port }) => closed.includes(port));
  expect(knocks.map(({ port }) => port)).toEqual([...closed, ...closed]);
  for (const { sent } of knocks) expect(sent).toBeGreaterThan(100);
}

/** Every few milliseconds; port 25 less often, for Postfix has work with each. */
export const watchedPorts = { ...Object.fromEntries(closed.map((port) => [port, 5])), 25: 50 };
