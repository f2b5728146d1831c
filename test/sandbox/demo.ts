// `make demo`: the main job on a throw-away mail host and an EC2 emulator, probed from outside. Runs inside enter.sh.
import { stringify } from "yaml";

import { contains, parseCidr, type Cidr } from "../../components/policy/cidr";
import { serviceNames, catalogue } from "../../components/policy/services";
import { startEc2, type Ec2Rule } from "./ec2";
import { tcpPorts, udpPorts } from "./expect";
import { operatorKey, startMailHost } from "./host";
import { probe, startClient, type Client } from "./probe";
import { startStack, type Config, type Run } from "./stack";

/** Who looks at the host from outside, over both families. */
const people = {
  stranger: ["192.0.2.10", "2001:db8:2::10"],
  colleague: ["10.20.0.5", "fd12::5"],
} as const;

const services: Config = { submissions: "public", https: "public", imap: ["10.20.0.0/16", "fd12::/48"] };

/** What they must find open, written out by hand. */
const before = {
  stranger: ["tcp/25", "tcp/443", "tcp/465", "udp/51820"],
  colleague: ["tcp/25", "tcp/143", "tcp/443", "tcp/465", "udp/51820"],
};
const after = {
  stranger: [...before.stranger, "tcp/993"],
  colleague: [...before.colleague, "tcp/993"],
};

const times: [string, number][] = [];
let disagreed = 0;

async function step<T>(title: string, work: () => Promise<T>): Promise<T> {
  console.log(`\n== ${title}`);
  const started = process.hrtime.bigint();
  const result = await work();
  times.push([title, Number(process.hrtime.bigint() - started) / 1e9]);
  return result;
}

/** What Pulumi says, as it says it. */
function print(text: string): void {
  process.stdout.write(text);
}

function succeeded(run: Run): string {
  if (run.code !== 0) throw new Error(`pulumi failed with exit code ${run.code}, see above`);
  return run.output;
}

/** Probes every port from everywhere, asks the security group the same, and prints what does not agree with `expected`. */
async function look(
  target: { 4: string; 6: string },
  clients: Record<keyof typeof people, Client>,
  group: Ec2Rule[],
  expected: Record<keyof typeof people, string[]>,
): Promise<void> {
  const ports = [
    ...[...tcpPorts].sort((a, b) => a - b).map((port) => ({ protocol: "tcp" as const, port })),
    ...udpPorts.map((port) => ({ protocol: "udp" as const, port })),
  ];
  const rows = ports.map(({ protocol, port }) => [
    `${protocol}/${port}`,
    serviceNames.find((name) => protocol === "tcp" && catalogue[name].port === port) ?? (port === 22 ? "ssh" : ""),
  ]);
  let probes = 0;
  for (const person of ["stranger", "colleague"] as const) {
    for (const [i, source] of people[person].entries()) {
      const to = i === 0 ? target[4] : target[6];
      const verdicts = await probe(
        clients[person],
        ports.map((port) => ({ source, target: to, ...port })),
      );
      for (const [row, verdict] of verdicts.entries()) {
        const { protocol, port } = ports[row]!;
        const cloud = admits(group, protocol, port, source) ? "open" : "shut";
        const right = expected[person].includes(`${protocol}/${port}`) ? "open" : "shut";
        probes++;
        if (verdict === right && cloud === right) rows[row]!.push(verdict === "open" ? "open" : "-");
        else {
          disagreed++;
          rows[row]!.push(`host ${verdict}, group ${cloud}; should be ${right}`);
        }
      }
    }
  }
  const head = ["port", "service", ...Object.entries(people).flatMap(([who]) => [`${who} IPv4`, `${who} IPv6`])];
  for (const row of [head, ...rows])
    console.log(`  ${row.map((cell, i) => cell.padEnd(i < 2 ? 13 : 16)).join("")}`.trimEnd());
  console.log(
    `  ${probes} probes ("-" is shut: no answer at all), each compared with what was declared and with the security group`,
  );
}

/** Whether a group admits a packet: a security group is a set of permissions, in no order. */
function admits(group: Ec2Rule[], protocol: string, port: number, source: string): boolean {
  const packet = parseCidr(`${source}/${source.includes(":") ? 128 : 32}`) as Cidr;
  return group.some(
    (rule) =>
      rule.direction === "ingress" &&
      rule.protocol === protocol &&
      rule.fromPort! <= port &&
      port <= rule.toPort! &&
      contains(parseCidr(rule.source) as Cidr, packet),
  );
}

async function main(): Promise<void> {
  console.log(
    "A mail host of its own (sshd, iptables, every mail port listening), an EC2 API, and two people outside,",
  );
  console.log("in namespaces of which nothing survives this run. This process is the operator, 203.0.113.1.");

  const [host, ec2, stranger, colleague] = await step("start the mail host and the EC2 emulator", () =>
    Promise.all([
      startMailHost({ name: "mx1" }),
      startEc2(),
      startClient([...people.stranger]),
      startClient([...people.colleague]),
    ]),
  );
  const clients = { stranger, colleague };
  const target = { 4: host.address4, 6: host.address6 };
  const vpcId = await ec2.createVpc();
  const untouched = [await host.save(4), await host.save(6)];
  const rulesNow = async () => {
    const [group] = await ec2.securityGroups(vpcId);
    return group ? ec2.rules(group.id) : [];
  };

  const stack = await step("create a stack", () =>
    startStack({ privateKey: operatorKey.privateKey, env: ec2.env, onOutput: print }),
  );
  const config: Config = {
    "aws:region": "eu-central-1",
    services,
    ssh: ["203.0.113.0/24", "2001:db8:113::/48"],
    ports: { wireguard: { protocol: "udp", port: 51820, from: "public" } },
    hosts: { mx1: { host: host.address4, user: "admin", hostKey: host.hostKey } },
    aws: { vpcId },
  };
  stack.configure(config);
  console.log(`\n== what is declared\n${stringify({ services, ssh: config.ssh, ports: config.ports })}`);

  await step("pulumi preview", async () => succeeded(await stack.preview()));
  await step("pulumi up", async () => succeeded(await stack.up("--skip-preview")));
  await step("probe every port from outside", async () => look(target, clients, await rulesNow(), before));

  stack.configure({ ...config, services: { ...services, imaps: "public" } });
  await step("change one line, `imaps: public`, and see what a reviewer sees: pulumi preview --diff", async () =>
    succeeded(await stack.preview("--diff")),
  );
  await step("pulumi up, again", async () => succeeded(await stack.up("--skip-preview")));
  await step("probe every port from outside, again", async () => look(target, clients, await rulesNow(), after));

  await step("pulumi destroy", async () => succeeded(await stack.destroy("--skip-preview")));
  const left = [await host.save(4), await host.save(6)];
  const clean = left.every((text, i) => text === untouched[i]) && (await ec2.securityGroups(vpcId)).length === 0;
  console.log(clean ? "The host and the VPC are as they were." : `Something is left behind:\n${left.join("")}`);

  await Promise.all([host.close(), ec2.close(), stranger.close(), colleague.close()]);
  stack.remove();

  console.log("\n== times");
  for (const [title, seconds] of times) console.log(`  ${seconds.toFixed(1).padStart(5)} s  ${title}`);
  console.log(disagreed === 0 && clean ? "\nEvery probe agreed." : `\n${disagreed} probes did not agree.`);
  process.exitCode = disagreed === 0 && clean ? 0 : 1;
}

process.exitCode = 1; // until the last probe has agreed
main().catch((error: unknown) => {
  console.error(`\ndemo: ${error instanceof Error ? error.message : String(error)}`);
});
