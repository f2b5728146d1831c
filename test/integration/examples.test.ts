// Each example, as its README says: deployed, probed from outside, and destroyed.
import { cpSync, mkdtempSync, symlinkSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";

import { documented, documentedIn } from "../documented";
import { bootInstance } from "../sandbox/boot";
import { startEc2, type Ec2 } from "../sandbox/ec2";
import { operatorKey, startMailHost, takeNumber, type MailHost } from "../sandbox/host";
import { probe, type Verdict } from "../sandbox/probe";
import { startStack, type Stack, type StackOptions } from "../sandbox/stack";
import { everyCase, expectNoKey, hasYaml, live, none, policy, python, sampledTest, succeeded, testIn } from "./example";

jest.setTimeout(180_000);

const hosts: MailHost[] = [];
const stacks: Stack[] = [];
let ec2: Ec2;

beforeAll(async () => {
  ec2 = await startEc2();
});
afterAll(async () => {
  await Promise.all([ec2?.close(), ...hosts.map((host) => host.close())]);
  for (const stack of stacks) stack.remove();
});

async function startHost(): Promise<MailHost> {
  const host = await startMailHost();
  hosts.push(host);
  return host;
}

/**
 * An example with the package as npm installs it, and with what else its user would have installed (tools/setup.sh consumer), made by
 * the commands of its README.
 */
async function start(
  name: string,
  commands: string[],
  options: StackOptions = {},
  installed: Record<string, string> = {},
) {
  const project = mkdtempSync(join(tmpdir(), `${name}-`));
  cpSync(join("examples", name), project, { recursive: true });
  const links = { node_modules: resolve(".cache/consumer/node_modules"), ...installed };
  for (const [link, target] of Object.entries(links)) symlinkSync(target, join(project, link));
  const env = { ...options.env, HOME: operatorKey.home };
  const stack = await startStack({ project, uninitialized: true, name: "prod", ...options, env });
  stacks.push(stack);
  let output = "";
  for (const line of commands) output += succeeded(await stack.shell(line));
  return { stack, output };
}

const up = { "pulumi up": "pulumi up --skip-preview" };
const key = (name: string, host: MailHost) => ({ [`${name} "ssh-ed25519 AAAA…"`]: `${name} "${host.hostKey}"` });

/** What a packet meets that comes from another host, or from the operator. */
const reach = (target: MailHost, ports: number[], from?: MailHost): Promise<Verdict[]> =>
  probe(
    { pid: from?.pid ?? process.pid },
    ports.map((port) => ({
      source: from?.address4 ?? "203.0.113.1",
      target: target.address4,
      protocol: "tcp" as const,
      port,
    })),
  );

test("vps", async () => {
  const host = await startHost();
  const { stack } = await start(
    "vps",
    documentedIn("examples/vps/README.md", { ...up, "198.51.100.10": host.address4 }),
  );
  expect(await reach(host, [22, 25, 465, 993, 443, 143])).toEqual(["open", "open", "open", "open", "open", "shut"]);
  if (everyCase) succeeded(await stack.preview("--expect-no-changes"));
  const status = await stack.shell(documented("README.md", "npx mail-firewall status --stack prod"));
  expect(succeeded(status)).toMatch(/^mail-mx1: as deployed \(rules [0-9a-f]{12}\)$/m);
  succeeded(await stack.destroy());
  expect(await live(host)).toBe(none);
});

sampledTest("fleet", async () => {
  const [mx1, mx2, imap] = await Promise.all([startHost(), startHost(), startHost()]);
  const commands = documentedIn("examples/fleet/README.md", {
    ...up,
    ...{ "198.51.100.11": mx1.address4, "198.51.100.12": mx2.address4, "198.51.100.20": imap.address4 },
    ...key("exchangers.mx1.hostKey", mx1),
    ...key("exchangers.mx2.hostKey", mx2),
    ...key("mailboxes.hostKey", imap),
  });
  const { stack } = await start("fleet", commands);
  for (const mx of [mx1, mx2]) expect(await reach(mx, [22, 25, 993])).toEqual(["open", "open", "shut"]);
  // What depends on a firewall waits for the hosts that it was declared with.
  const { resources = [] } = (await stack.export()).deployment;
  const after = resources.find(({ urn }) => urn.endsWith("MailFirewall::imap"))!.dependencies!;
  for (const name of ["mx-mx1-reconfirm", "mx-mx2-reconfirm"])
    expect(after).toContainEqual(expect.stringMatching(new RegExp(`::${name}$`)));
  expect(await reach(imap, [22, 25, 465, 993, 143])).toEqual(["open", "shut", "open", "open", "shut"]);
  expect(await reach(imap, [22, 25, 993], mx2)).toEqual(["shut", "open", "open"]);
  succeeded(await stack.destroy());
  for (const host of [mx1, mx2, imap]) expect(await live(host)).toBe(none);
});

sampledTest("database: the group of another stack", async () => {
  const vpcId = await ec2.createVpc();
  const mail = await startStack({ name: "prod", env: ec2.env });
  stacks.push(mail);
  mail.configure({ "aws:region": "eu-central-1", ...policy, aws: { vpcId } });
  succeeded(await mail.up("--skip-preview"));
  const commands = documentedIn("examples/database/README.md", { ...up, "vpc-0123456789abcdef0": vpcId });
  const { stack } = await start("database", commands, { env: ec2.env, beside: mail });
  const { securityGroupId } = await mail.outputs();
  const { securityGroupId: database } = await stack.outputs();
  expect((await ec2.rules(database as string)).filter(({ direction }) => direction === "ingress")).toEqual([
    expect.objectContaining({ fromPort: 5432, toPort: 5432, source: securityGroupId }),
  ]);
  succeeded(await stack.destroy());
  succeeded(await mail.destroy());
});

test("ec2: with its network, its address and its names", async () => {
  const zoneId = await ec2.createZone("example.org");
  const vpcs = async () => (await ec2.client.describeVpcs({})).Vpcs!.map(({ VpcId }) => VpcId);
  const others = await vpcs();
  const place = takeNumber();
  ec2.offerAddress(place.address4);

  const commands = documentedIn("examples/ec2/README.md", { ...up, Z0123456789ABCDEFGHIJ: zoneId });
  const [host, { stack }] = await Promise.all([bootInstance(ec2, place), start("ec2", commands, { env: ec2.env })]);
  hosts.push(host);
  // The group was complete before there was an instance.
  const asked = ec2.requests();
  const at = (call: string, answered: boolean) =>
    asked.map((one) => one.call === call && one.answered === answered).lastIndexOf(true);
  expect(at("AuthorizeSecurityGroupIngress", true)).toBeLessThan(at("RunInstances", false));
  expect(await reach(host, [22, 25, 465, 993, 443, 143])).toEqual(["open", "open", "open", "open", "shut", "shut"]);
  expect(await ec2.records(zoneId)).toEqual([
    "example.org. MX 10 mx1.example.org.",
    'example.org. TXT "v=spf1 mx -all"',
    `mx1.example.org. A ${place.address4}`,
  ]);
  if (everyCase) succeeded(await stack.preview("--expect-no-changes"));
  expectNoKey(await stack.export());

  const before = host.connections();
  succeeded(await stack.destroy());
  expect(host.connections()).toBe(before); // deletedWith
  expect(await vpcs()).toEqual(others);
  expect(await ec2.records(zoneId)).toEqual([]);
});

testIn("YAML", hasYaml, "yaml", async () => {
  const host = await startHost();
  const here = { "198.51.100.10": host.address4, ...key("hostKey", host) };
  const { stack, output } = await start("yaml", documentedIn("examples/yaml/README.md", here));
  expect(output).toContain("imaps (tcp/993): reachable from everywhere");
  expect(await stack.outputs()).toMatchObject({ exposure: { imaps: "tcp/993: public" } });
  expect(await reach(host, [22, 25, 465, 993, 143])).toEqual(["open", "open", "open", "open", "shut"]);
  succeeded(await stack.destroy());
  expect(await live(host)).toBe(none);
});

testIn("Python", python !== undefined, "python", async () => {
  const { venv, env } = python!;
  const host = await startHost();
  const all = documentedIn("examples/python/README.md", {
    "198.51.100.10": host.address4,
    ...(everyCase ? {} : up),
  });
  // That needs PyPI, and a newer language host than can be built here: tools/setup.sh has generated the library. consumer.test.ts runs it
  // in a project in YAML.
  const commands = all.filter((line) => !line.startsWith("pulumi package add "));
  expect(commands).toHaveLength(all.length - 1);
  const { stack, output } = await start("python", commands, { env }, { venv });
  if (everyCase) expect(output).toContain("imaps (tcp/993): reachable from everywhere");
  expect(await stack.outputs()).toEqual({
    exposure: expect.objectContaining({ imaps: "tcp/993: public", wireguard: "udp/51820: public" }) as object,
    hosts: { mx1: expect.stringMatching(/^confirmed /) as string },
  });
  expect(await reach(host, [22, 25, 465, 993, 143])).toEqual(["open", "open", "open", "open", "shut"]);
  expectNoKey(await stack.export());
  succeeded(await stack.destroy());
  expect(await live(host)).toBe(none);
});
