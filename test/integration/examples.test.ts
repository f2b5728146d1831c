// Each example, as its README says: deployed, probed from outside, and destroyed.
import { execFileSync, spawnSync } from "node:child_process";
import { cpSync, mkdtempSync, readFileSync, symlinkSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";

import { bootInstance } from "../sandbox/boot";
import { startEc2, type Ec2 } from "../sandbox/ec2";
import { operatorKey, startMailHost, takeNumber, type MailHost } from "../sandbox/host";
import { probe, type Verdict } from "../sandbox/probe";
import { startStack, type Config, type Stack, type StackOptions } from "../sandbox/stack";
import { expectNoKey, live, none, policy, python, succeeded, testIn } from "./example";

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

/** An example with the package as npm installs it, and with what else its user would have installed (tools/setup.sh consumer). */
async function start(
  name: string,
  config: Config,
  options: StackOptions = {},
  installed: Record<string, string> = {},
): Promise<Stack> {
  const project = mkdtempSync(join(tmpdir(), `${name}-`));
  cpSync(join("examples", name), project, { recursive: true });
  const links = { node_modules: resolve(".cache/consumer/node_modules"), ...installed };
  for (const [link, target] of Object.entries(links)) symlinkSync(target, join(project, link));
  const stack = await startStack({ project, ...options });
  stacks.push(stack);
  stack.configure(config);
  return stack;
}

const ssh = ["203.0.113.0/24"];
const at = (host: MailHost) => ({ host: host.address4, hostKey: host.hostKey });

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
  const stack = await start("vps", { ...at(host), ssh }, operatorKey);
  succeeded(await stack.up("--skip-preview"));
  expect(await reach(host, [22, 25, 465, 993, 443, 143])).toEqual(["open", "open", "open", "open", "open", "shut"]);
  succeeded(await stack.preview("--expect-no-changes"));
  succeeded(await stack.destroy());
  expect(await live(host)).toBe(none);
});

test("fleet", async () => {
  const [mx1, mx2, imap] = await Promise.all([startHost(), startHost(), startHost()]);
  const config = { ssh, exchangers: { mx1: at(mx1), mx2: at(mx2) }, mailboxes: at(imap) };
  const stack = await start("fleet", config, operatorKey);
  succeeded(await stack.up("--skip-preview"));
  for (const mx of [mx1, mx2]) expect(await reach(mx, [22, 25, 993])).toEqual(["open", "open", "shut"]);
  expect(await reach(imap, [22, 25, 465, 993, 143])).toEqual(["open", "shut", "open", "open", "shut"]);
  expect(await reach(imap, [22, 25, 993], mx2)).toEqual(["shut", "open", "open"]);
  succeeded(await stack.destroy());
  for (const host of [mx1, mx2, imap]) expect(await live(host)).toBe(none);
});

test("database: the group of another stack", async () => {
  const vpcId = await ec2.createVpc();
  const mail = await startStack({ env: ec2.env });
  stacks.push(mail);
  mail.configure({ "aws:region": "eu-central-1", ...policy, aws: { vpcId } });
  succeeded(await mail.up("--skip-preview"));
  const config = { "aws:region": "eu-central-1", vpcId, mailStack: "organization/mail-firewall/test" };
  const stack = await start("database", config, { env: ec2.env, beside: mail });
  succeeded(await stack.up("--skip-preview"));
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
  const key = join(mkdtempSync(join(tmpdir(), "host-key-")), "host_key");
  execFileSync("ssh-keygen", ["-q", "-t", "ed25519", "-N", "", "-C", "mx1", "-f", key]);
  const stack = await start(
    "ec2",
    {
      "aws:region": "eu-central-1",
      domain: "example.org",
      zoneId,
      ami: "ami-0123456789abcdef0",
      ssh,
      sshPublicKey: operatorKey.publicKey,
      hostKey: readFileSync(`${key}.pub`, "utf8").split(" ").slice(0, 2).join(" "),
    },
    { ...operatorKey, env: ec2.env },
  );
  const set = await stack.execute("sh", "-c", `pulumi config set --secret hostPrivateKey <${key}`);
  expect(set.code).toBe(0);
  const vpcs = async () => (await ec2.client.describeVpcs({})).Vpcs!.map(({ VpcId }) => VpcId);
  const others = await vpcs();
  const place = takeNumber();
  ec2.offerAddress(place.address4);

  const [host, up] = await Promise.all([bootInstance(ec2, place), stack.up("--skip-preview")]);
  hosts.push(host);
  succeeded(up);
  // The group was complete before there was an instance, and no name led to it before it had its address.
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
  succeeded(await stack.preview("--expect-no-changes"));
  expect(JSON.stringify(await stack.export())).not.toContain(readFileSync(key, "utf8").split("\n")[2]);

  const before = host.connections();
  succeeded(await stack.destroy());
  expect(host.connections()).toBe(before); // deletedWith
  expect(await vpcs()).toEqual(others);
  expect(await ec2.records(zoneId)).toEqual([]);
});

// Pulumi brings it, and tools/setup.sh builds it where only the engine is here, with Go.
const hasYaml = spawnSync("sh", ["-c", "command -v pulumi-language-yaml"]).status === 0;

testIn("YAML", hasYaml, "yaml", async () => {
  const host = await startHost();
  const stack = await start("yaml", at(host), operatorKey);
  expect(succeeded(await stack.preview())).toContain("imaps (tcp/993): reachable from everywhere");
  succeeded(await stack.up("--skip-preview"));
  expect(await stack.outputs()).toMatchObject({ exposure: { imaps: "tcp/993: public" } });
  expect(await reach(host, [22, 25, 465, 993, 143])).toEqual(["open", "open", "open", "open", "shut"]);
  succeeded(await stack.destroy());
  expect(await live(host)).toBe(none);
});

testIn("Python", python !== undefined, "python", async () => {
  const { venv, env } = python!;
  const host = await startHost();
  const stack = await start("python", { ...at(host), ssh }, { ...operatorKey, env }, { venv });
  if (process.env.MAILFW_ALL === "1")
    expect(succeeded(await stack.preview())).toContain("imaps (tcp/993): reachable from everywhere");
  succeeded(await stack.up("--skip-preview"));
  expect(await stack.outputs()).toEqual({
    exposure: expect.objectContaining({ imaps: "tcp/993: public", wireguard: "udp/51820: public" }) as object,
    hosts: { mx1: expect.stringMatching(/^confirmed /) as string },
  });
  expect(await reach(host, [22, 25, 465, 993, 143])).toEqual(["open", "open", "open", "open", "shut"]);
  expectNoKey(await stack.export());
  succeeded(await stack.destroy());
  expect(await live(host)).toBe(none);
});
