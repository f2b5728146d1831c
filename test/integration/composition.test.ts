// The component inside of another one, in a stack with a network, an instance and an address of its own: Pulumi's options do what they
// do elsewhere, and nothing waits for what waits for it.
import { mkdtempSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";

import { bootInstance } from "../sandbox/boot";
import { startEc2, type Ec2 } from "../sandbox/ec2";
import { operatorKey, startMailHost, takeNumber, type MailHost } from "../sandbox/host";
import { startStack, type Config, type Stack } from "../sandbox/stack";
import { failed, live, policyPack, sampledTest, succeeded } from "./example";

jest.setTimeout(180_000);

const program = `
const aws = require("@pulumi/aws");
const command = require("@pulumi/command");
const pulumi = require("@pulumi/pulumi");
const { MailFirewall } = require("mail-firewall");

const config = new pulumi.Config();

class MailServer extends pulumi.ComponentResource {
  constructor(name, opts) {
    super("example:index:MailServer", name, {}, opts);
    const parent = this;
    const vpc = new aws.ec2.Vpc(name, { cidrBlock: "10.0.0.0/16" }, { parent });
    const gateway = new aws.ec2.InternetGateway(name, { vpcId: vpc.id }, { parent });
    const subnet = new aws.ec2.Subnet(name, { vpcId: vpc.id, cidrBlock: "10.0.0.0/24" }, { parent });
    const privateKey = config.requireSecret("sshPrivateKey");
    const firewall = new MailFirewall(
      config.require("firewall"),
      { services: { imaps: ["public"] }, ssh: ["203.0.113.0/24"], sshPrivateKey: privateKey, aws: { vpcId: vpc.id } },
      {
        parent,
        protect: config.getBoolean("protect"),
        providers: [new aws.Provider("elsewhere", { region: "eu-central-1" })],
        aliases: config.getObject("aliases"),
        transforms: [({ type, props, opts }) =>
          type.startsWith("aws:") ? { props: { ...props, tags: { team: "mail" } }, opts } : undefined],
      },
    );
    const instance = new aws.ec2.Instance(
      "mx1",
      {
        ami: config.require("ami"),
        instanceType: "t4g.small",
        subnetId: subnet.id,
        vpcSecurityGroupIds: [firewall.securityGroupId],
        userData: config.requireSecret("userData"),
      },
      { parent, dependsOn: firewall },
    );
    const address = new aws.ec2.Eip("mx1", { instance: instance.id }, { parent, dependsOn: gateway });
    const host = { host: address.publicIp, hostKey: config.require("hostKey") };
    const booted = new command.remote.Command(
      "booted",
      { connection: { ...host, privateKey, dialErrorLimit: 60 }, create: "true", triggers: [instance.id] },
      { parent },
    );
    new aws.ec2.SecurityGroup("legacy", {
      vpcId: vpc.id,
      ingress: config.getObject("ingress"),
    }, { parent });
    if (!config.getBoolean("bare")) firewall.addHost(
      "mx1",
      { ...host, instanceId: instance.id },
      { dependsOn: booted, retainOnDelete: config.getBoolean("retainOnDelete") },
    );
  }
}
new MailServer("server");
`;

let ec2: Ec2;
let stack: Stack;
let host: MailHost;
const place = takeNumber();
const keys = { privateKey: "", publicKey: "" };
const config = (changes: Config) => ({
  "aws:region": "eu-central-1",
  firewall: "mail",
  hostKey: keys.publicKey,
  ...changes,
});

beforeAll(async () => {
  ec2 = await startEc2();
  const other = await startMailHost(); // whose key will do
  keys.publicKey = other.hostKey;
  keys.privateKey = (await other.run("cat /etc/ssh/ssh_host_ed25519_key")).stdout;
  await other.close();
  const project = mkdtempSync(join(tmpdir(), "composition-"));
  writeFileSync(
    join(project, "Pulumi.yaml"),
    "name: composition\nruntime: { name: nodejs, options: { typescript: false } }\n",
  );
  writeFileSync(join(project, "package.json"), JSON.stringify({ name: "composition", main: "index.js" }));
  writeFileSync(join(project, "index.js"), program);
  symlinkSync(resolve(".cache/consumer/node_modules"), join(project, "node_modules"));
  stack = await startStack({ project, ...operatorKey, env: ec2.env });
});
afterAll(async () => {
  await Promise.all([ec2?.close(), host?.close()]);
  place.release();
  stack?.remove();
});

interface Resource {
  urn: string;
  type: string;
  provider?: string;
  protect?: boolean;
  retainOnDelete?: boolean;
  inputs: Record<string, unknown>;
}

/** `name` of each resource of a type → the resource. */
async function resources(type: string): Promise<Map<string, Resource>> {
  const all = ((await stack.export()).deployment.resources ?? []) as Resource[];
  return new Map(all.filter((one) => one.type === type).map((one) => [one.urn.split("::").pop()!, one]));
}

const commands = ["mail-mx1-install", "mail-mx1-apply", "mail-mx1-confirm", "mail-mx1-reconfirm"];
const userData = () =>
  `#cloud-config\n${JSON.stringify({
    ssh_keys: { ed25519_private: keys.privateKey },
    ssh_authorized_keys: [operatorKey.publicKey],
  })}`;

/** Deploys what the stack now is, on an instance that was not there before. */
async function up(changes: Config, before?: string): Promise<void> {
  stack.configure(config({ userData: userData(), ...changes }));
  const ended = stack.up("--skip-preview");
  const booted = bootInstance(ec2, place, before);
  [host] = await Promise.all([booted, ended]);
  succeeded(await ended);
}

async function instanceId(): Promise<string> {
  const { Addresses } = await ec2.client.describeAddresses({ PublicIps: [place.address4] });
  return Addresses![0]!.InstanceId!;
}

test("an instance that depends on the whole firewall, whose host it then is", async () => {
  ec2.offerAddress(place.address4);
  await up({ ami: "ami-1", protect: true });
  expect(await live(host)).toContain("--ctorigdstport 993");
});

test("providers, protect and transforms reach what the firewall makes", async () => {
  expect((await resources("aws:ec2/securityGroup:SecurityGroup")).get("mail")).toMatchObject({
    protect: true,
    provider: expect.stringContaining("::elsewhere::") as string,
  });
  const rules = [...(await resources("aws:vpc/securityGroupIngressRule:SecurityGroupIngressRule")).values()];
  expect(rules.length).toBeGreaterThan(10);
  for (const rule of rules) expect(rule).toMatchObject({ protect: true, inputs: { tags: { team: "mail" } } });
  const made = await resources("command:remote:Command");
  for (const name of commands) expect(made.get(name)).toMatchObject({ protect: true });
  expect(made.get("booted")).not.toMatchObject({ protect: true });

  const before = await live(host);
  expect(failed(await stack.destroy())).toContain("cannot be deleted");
  expect(await live(host)).toBe(before);
});

test("another name, with an alias: only the owner's name on the host changes", async () => {
  stack.configure(config({ userData: userData(), ami: "ami-1", firewall: "edge", aliases: [{ name: "mail" }] }));
  const { stdout } = await stack.preview("--json", "--policy-pack", policyPack());
  const { steps } = JSON.parse(stdout) as { steps: { op: string; urn: string }[] };
  const changed = steps.filter(({ op }) => op !== "same").map(({ op, urn }) => `${op} ${urn.split("::").pop()!}`);
  expect(changed).toEqual(["update edge-mx1-apply", "update edge-mx1-confirm"]);
});

test("a new instance behind the same address gets the firewall; without a log-in where it is to stay", async () => {
  const [old, before] = [host, await instanceId()];
  const moved = up({ ami: "ami-2", retainOnDelete: true }, before);
  await old.close(); // what is at the address is the new machine
  await moved;
  expect(await instanceId()).not.toBe(before);
  expect(await live(host)).toContain("--ctorigdstport 993");
  const made = await resources("command:remote:Command");
  for (const name of commands) expect(made.get(name)).toMatchObject({ retainOnDelete: true });

  const [rules, connections] = [await live(host), host.connections()];
  succeeded(await stack.destroy());
  expect(host.connections()).toBe(connections);
  expect(await live(host)).toBe(rules);
});

sampledTest.each<[string, Config, string]>([
  [
    "an instance without a firewall",
    { bare: true },
    "mx1 is in a security group for mail and has no firewall of its own",
  ],
  [
    "rules inside of a group",
    { ingress: [{ protocol: "tcp", fromPort: 22, toPort: 22, cidrBlocks: ["0.0.0.0/0"] }] },
    "ssh (tcp/22) is open to everyone; name the networks you work from",
  ],
])("the policy pack sees %s", async (_, changes, expected) => {
  stack.configure(config({ userData: userData(), ami: "ami-1", ...changes }));
  expect(failed(await stack.preview("--policy-pack", policyPack()))).toContain(expected);
});
