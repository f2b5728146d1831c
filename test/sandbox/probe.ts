// What the outside world sees of a mail host. Runs inside enter.sh.
import { spawn } from "node:child_process";
import { once as event } from "node:events";
import { mkdirSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";

import { agent, assign, execute, holdOpen, macOf, once, python, startMachine, type MailHost } from "./host";

/** Whatever has a network. */
export interface Machine {
  /** A process in its network namespace: `nsenter -t PID --net ssh …` dials from there. */
  readonly pid: number;
}

export interface Client extends Machine {
  /** Takes more addresses, besides those that it has. */
  take(addresses: string[]): Promise<void>;
  close(): Promise<void>;
}

export interface Probe {
  source: string;
  target: string;
  protocol: "tcp" | "udp";
  port: number;
}

/** `open`: answered. `shut`: nothing came back in time. `refused`: a reset or an ICMP unreachable came back. */
export type Verdict = "open" | "shut" | "refused";

/** A machine of the outside world with these source addresses (any number, both families). */
export async function startClient(addresses: string[]): Promise<Client> {
  const claims = [claim(addresses)];
  const release = () => claims.forEach((give) => give());
  try {
    // The new namespace's first program is the client, and only waits for the end of this process, or of close().
    const machine = await startMachine("client", addresses, ["--net"], "exec cat >/dev/null");
    machine.started();
    const close = once(async () => {
      await machine.close();
      release();
    });
    const take = async (more: string[]) => {
      claims.push(claim(more));
      await machine.configure(more.map(assign));
    };
    return { pid: machine.pid, take, close };
  } catch (error) {
    release();
    throw error;
  }
}

/** Two machines with one address would take each other's answers. Jest's workers share the sandbox, so this is on disk. */
function claim(addresses: string[]): () => void {
  const claimed: string[] = [];
  const release = (): void => claimed.forEach((folder) => rmSync(folder, { recursive: true, force: true }));
  for (const address of addresses) {
    const folder = join(tmpdir(), `client-${address}`);
    try {
      mkdirSync(folder);
    } catch (error) {
      release();
      if ((error as NodeJS.ErrnoException).code !== "EEXIST") throw error;
      throw new Error(`${address} belongs to another client in this sandbox: close it, or use another address`);
    }
    claimed.push(folder);
  }
  return release;
}

/** All probes at once; the verdicts in their order. */
export async function probe(
  client: Machine,
  probes: Probe[],
  { timeoutMs = 700 }: { timeoutMs?: number } = {},
): Promise<Verdict[]> {
  return (await ask(client, "probe", timeoutMs, probes)) as Verdict[];
}

/** Does the target answer an ICMP echo request? */
export async function ping(
  client: Machine,
  source: string,
  target: string,
  { timeoutMs = 700 }: { timeoutMs?: number } = {},
): Promise<boolean> {
  return (await ask(client, "ping", timeoutMs, { source, target })) as boolean;
}

export interface Forgery {
  /** The address that the packets claim to come from. */
  source: string;
  target: string;
  /** UDP port at the target. */
  port: number;
  count: number;
}

/** What became of the connections to one port, at an address of a host. */
export interface Watched {
  target: string;
  port: number;
  /** Connections attempted, and the longest time between two, in milliseconds. */
  sent: number;
  pauseMs: number;
  /** When packets came back that accept a connection, or refuse it (a reset, ICMP), in milliseconds since 1970. */
  open: number[];
  refused: number[];
}

/**
 * Tries to connect to ports of a host at both addresses, from two addresses of the client, until `stop`, and looks at the packets
 * that come back: what is answered for but a moment is seen. Goes on while the host is away.
 *
 * @param ports each with the time between two attempts, in milliseconds.
 */
export async function startWatch(
  client: Machine,
  [source4, source6]: readonly [string, string],
  host: Pick<MailHost, "address4" | "address6">,
  ports: Record<number, number>,
): Promise<{ stop(): Promise<Watched[]> }> {
  const inside = ["-t", `${client.pid}`, "--net"];
  const ends = [
    [source4, host.address4],
    [source6, host.address6],
  ] as const;
  for (const [, target] of ends) {
    // Otherwise the kernel would ask for a host that was away only once a second.
    const neighbour = [
      "neighbour",
      "replace",
      target,
      "lladdr",
      macOf(host.address4),
      "dev",
      "eth0",
      "nud",
      "permanent",
    ];
    const { code, stderr } = await execute("nsenter", [...inside, "ip", ...neighbour]);
    if (code !== 0) throw new Error(`watch: ${stderr.trim()}`);
  }
  const orders = ends.flatMap(([source, target]) =>
    Object.entries(ports).map(([port, everyMs]) => ({ source, target, port: Number(port), everyMs })),
  );
  const child = spawn("nsenter", [...inside, python, agent, "watch", JSON.stringify(orders)], { stdio: "pipe" });
  const lines = createInterface({ input: child.stdout })[Symbol.asyncIterator]();
  let complaints = "";
  child.stderr.setEncoding("utf8").on("data", (text: string) => (complaints += text));
  const line = async (): Promise<string> => {
    const next = await lines.next();
    if (next.done) throw new Error(`watch: ${complaints.trim()}`);
    return next.value;
  };
  await line(); // "watching"
  holdOpen(child, false);
  return {
    stop: async () => {
      holdOpen(child, true);
      child.stdin.end();
      const found = JSON.parse(await line()) as Omit<Watched, "target" | "port">[];
      return found.map((one, i) => ({ target: orders[i]!.target, port: orders[i]!.port, ...one }));
    },
  };
}

let lastPort = 20_000;

/** Sends UDP packets with a source that the client need not have, each call from another port: a flow of its own. */
export async function forge(client: Machine, forgery: Forgery): Promise<void> {
  await ask(client, "forge", 0, { ...forgery, sourcePort: ++lastPort });
}

/** What a client has from a mail host at the same time, for as long as it lasts. Rates: datagrams a second; half as many of the rest. */
export interface Flow {
  source: string;
  target: string;
  rate: number;
  /** A port that echoes numbered datagrams. */
  udp?: number;
  /** A port to which new connections are opened. */
  connect?: number;
  /** Ports with one connection that lives on and says something after each pause, in seconds, and at the end. */
  sessions?: Record<number, number>;
  /** Closed ports that are knocked at. */
  closed?: { tcp: number; udp: number };
}

/** Each pair: what was asked, and what came back. */
export interface FlowReport {
  datagrams: [number, number];
  connections: [number, number];
  /** Milliseconds; a lost SYN is sent again after 1,000. */
  slowest: number;
  sessions: Record<number, [number, number]>;
  knocks: number;
  /** Knocks at a TCP port that were answered. */
  leaks: number;
}

/** From now until `end`, which returns a report for each flow. */
export const startFlows = (client: Machine, flows: Flow[]) =>
  startVerb<FlowReport[]>(client.pid, ["flow"], [...flows.map((flow) => JSON.stringify(flow)), "", ""].join("\n"));

/** Listens on a mail host, and says nothing to anyone; `end` returns how many came, by "protocol/port". */
export const startCounter = (host: { pid: number }, ports: { tcp: number[]; udp: number[] }) =>
  startVerb<Record<string, number>>(host.pid, ["count", JSON.stringify(ports)], "");

async function startVerb<T>(pid: number, words: string[], input: string): Promise<{ end(): Promise<T> }> {
  const child = spawn("nsenter", ["-t", `${pid}`, "--net", python, agent, ...words], { stdio: "pipe" });
  const output = { stdout: "", stderr: "" };
  for (const stream of ["stdout", "stderr"] as const) {
    child[stream].setEncoding("utf8").on("data", (text: string) => (output[stream] += text));
  }
  const closed = event(child, "close");
  child.stdin.on("error", () => {}).write(input);
  await Promise.race([event(child.stdout, "data"), closed]);
  return {
    end: async () => {
      child.stdin.end();
      await closed;
      if (child.exitCode !== 0) throw new Error(`${words[0]}: ${output.stderr.trim()}`);
      return JSON.parse(output.stdout.slice(output.stdout.indexOf("\n"))) as T;
    },
  };
}

/** A verb of agent.py, from the client. */
export async function ask(client: Machine, verb: string, timeoutMs: number, question: unknown): Promise<unknown> {
  const command = ["-t", `${client.pid}`, "--net", python, agent, verb, `${timeoutMs}`];
  const { code, stdout, stderr } = await execute("nsenter", command, JSON.stringify(question));
  if (code !== 0) throw new Error(`${verb}: ${stderr.trim()}`);
  return JSON.parse(stdout);
}
