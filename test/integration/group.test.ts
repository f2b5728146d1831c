// The security group by all its options, through the real engine, against the EC2 emulator.
import { mkdtempSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";

import { documented } from "../documented";
import { startEc2, type Ec2 } from "../sandbox/ec2";
import { startStack, type Config, type Stack } from "../sandbox/stack";
import { failed, policy, succeeded } from "./example";

jest.setTimeout(180_000);

let ec2: Ec2, vpcId: string;
const stacks: Stack[] = [];

beforeAll(async () => {
  ec2 = await startEc2();
  vpcId = await ec2.createVpc();
});
afterAll(async () => {
  await ec2?.close();
  for (const stack of stacks) stack.remove();
});

const base = { "aws:region": "eu-central-1", ssh: policy.ssh };

async function started(config: Config): Promise<Stack> {
  const stack = await startStack({ env: ec2.env });
  stacks.push(stack);
  stack.configure({ ...base, ...config });
  return stack;
}

/** Deploys, and what was called on the way; reading left out. */
async function called(stack: Stack, config: Config): Promise<string[]> {
  stack.configure({ ...base, ...config });
  const before = ec2.calls().length;
  succeeded(await stack.up("--skip-preview"));
  return ec2
    .calls()
    .slice(before)
    .filter((call) => !/^(Describe|Get)/.test(call));
}

const groupOf = async (stack: Stack) => (await stack.outputs()).securityGroupId as string;

/** Rules as direction, protocol, port and source, a prefix list as its networks. */
async function admitted(id: string): Promise<string[]> {
  const found: string[] = [];
  for (const { direction, protocol, fromPort, source } of await ec2.rules(id)) {
    const entries = source.startsWith("pl-")
      ? (await ec2.client.getManagedPrefixListEntries({ PrefixListId: source })).Entries!.map(({ Cidr }) => Cidr)
      : [source];
    for (const network of entries) found.push([direction, protocol, fromPort ?? "*", network].join(" "));
  }
  return found.sort();
}

const offices = ["192.0.2.0/24", "198.51.100.0/24", "2001:db8:1::/48", "2001:db8:2::/48"];

test("egress: restricted and opened again; new rules come before the old ones go", async () => {
  const stack = await started({});
  await called(stack, { aws: { vpcId } });
  const id = await groupOf(stack);
  const outbound = async () => (await admitted(id)).filter((rule) => rule.startsWith("egress"));
  const open = ["egress -1 * 0.0.0.0/0", "egress -1 * ::/0"];
  expect(await outbound()).toEqual(open);

  const both = (what: string) => [`egress ${what} 0.0.0.0/0`, `egress ${what} ::/0`];
  const beside = [
    ...["tcp 53", "tcp 80", "tcp 443", "udp 53", "udp 123"].flatMap(both),
    ...[3, 8, 11, 12].map((type) => `egress icmp ${type} 0.0.0.0/0`),
    ...[1, 2, 3, 4, 128].map((type) => `egress icmpv6 ${type} ::/0`),
  ];
  const calls = await called(stack, { aws: { vpcId }, egress: "mail" });
  expect(calls).toEqual([
    ...Array<string>(21).fill("AuthorizeSecurityGroupEgress"),
    ...Array<string>(2).fill("RevokeSecurityGroupEgress"),
  ]);
  expect(await outbound()).toEqual([...beside, ...both("tcp 25")].sort());
  expect((await stack.outputs()).cloudOnly).toHaveProperty("outbound traffic");

  await called(stack, { aws: { vpcId }, egress: { relay: ["203.0.113.25/32"] } });
  expect(await outbound()).toEqual(
    [...beside, ...[465, 587].map((port) => `egress tcp ${port} 203.0.113.25/32`)].sort(),
  );

  await called(stack, { aws: { vpcId }, egress: "open" });
  expect(await outbound()).toEqual(open);
  succeeded(await stack.destroy());
});

test("prefix lists: entries change in place, and no rule is without what old and new policy admit", async () => {
  const stack = await started({});
  const aws = { vpcId, prefixLists: true, tags: { owner: "mail-team" } };
  const lists = async () =>
    (await ec2.client.describeManagedPrefixLists({})).PrefixLists!.filter(
      ({ PrefixListName, State }) => PrefixListName!.startsWith("mail-") && State !== "delete-complete",
    );
  const sharedBy = (...services: string[]) =>
    Object.fromEntries(services.map((service) => [service, offices])) as Record<string, string[]>;

  // SSH has one network of each family, and no list.
  const first = await called(stack, { services: sharedBy("imap", "imaps", "pop3s"), aws });
  expect(first.filter((call) => call === "CreateManagedPrefixList")).toHaveLength(2);
  const id = await groupOf(stack);
  const before = await lists();
  for (const { Tags } of before) expect(Tags).toEqual([{ Key: "owner", Value: "mail-team" }]);
  expect((await ec2.rules(id)).filter(({ source }) => source.startsWith("pl-"))).toHaveLength(6);
  const plain = await started({ services: sharedBy("imap", "imaps", "pop3s"), aws: { vpcId } });
  succeeded(await plain.up("--skip-preview"));
  expect(await admitted(id)).toEqual(await admitted(await groupOf(plain)));

  // One network more, for all: the list of its family grows in place, and nothing else is touched.
  const more = [...offices, "203.0.113.64/26"];
  expect(await called(stack, { services: { imap: more, imaps: more, pop3s: more }, aws })).toEqual([
    "ModifyManagedPrefixList", // its size
    "ModifyManagedPrefixList", // its entries
  ]);
  expect((await lists()).map(({ PrefixListId }) => PrefixListId).sort()).toEqual(
    before.map(({ PrefixListId }) => PrefixListId).sort(),
  );
  expect((await admitted(id)).filter((rule) => rule.endsWith("203.0.113.64/26"))).toHaveLength(3);

  // It goes from imap, after which the list is named: the others move to a list of their own before it does.
  expect(await called(stack, { services: { imap: offices, imaps: more, pop3s: more }, aws })).toEqual([
    "CreateManagedPrefixList",
    "ModifySecurityGroupRules",
    "ModifySecurityGroupRules",
    "ModifyManagedPrefixList",
    "ModifyManagedPrefixList",
  ]);
  const imaps = (await admitted(id)).filter((rule) => rule.startsWith("ingress tcp 993 "));
  expect(imaps).toEqual([...more].map((network) => `ingress tcp 993 ${network}`).sort());

  // One office is left for pop3s: a rule of its own comes first.
  const one = { services: { imap: ["192.0.2.0/24", "203.0.113.64/26"], imaps: more, pop3s: ["192.0.2.0/24"] }, aws };
  const last = await called(stack, one);
  expect(last.indexOf("AuthorizeSecurityGroupIngress")).toBeLessThan(last.indexOf("ModifyManagedPrefixList"));
  expect(last.lastIndexOf("AuthorizeSecurityGroupIngress")).toBeLessThan(last.indexOf("RevokeSecurityGroupIngress"));
  expect((await admitted(id)).filter((rule) => rule.startsWith("ingress tcp 995 "))).toEqual([
    "ingress tcp 995 192.0.2.0/24",
  ]);
  expect(succeeded(await stack.preview("--diff"))).not.toMatch(/^ +[~+-] /m);
  succeeded(await stack.destroy());
  expect(await lists()).toEqual([]);
});

test("attachTo: the interface gets the group when all rules are there, and loses it before they go", async () => {
  const [own] = (await ec2.client.describeSecurityGroups({ Filters: [{ Name: "vpc-id", Values: [vpcId] }] }))
    .SecurityGroups!;
  const { id: eni, ...attached } = await ec2.attach(own!.GroupId!);
  const groups = async () =>
    (await ec2.client.describeNetworkInterfaces({ NetworkInterfaceIds: [eni] }))
      .NetworkInterfaces![0]!.Groups!.map(({ GroupId }) => GroupId)
      .sort();
  const stack = await started({});
  const calls = await called(stack, { aws: { vpcId, attachTo: [eni], region: "eu-central-1" } });
  expect(calls.at(-1)).toBe("ModifyNetworkInterfaceAttribute");
  const id = await groupOf(stack);
  expect(await groups()).toEqual([own!.GroupId, id].sort());

  const before = ec2.calls().length;
  succeeded(await stack.destroy());
  const gone = ec2.calls().slice(before);
  expect(gone.indexOf("ModifyNetworkInterfaceAttribute")).toBeLessThan(gone.indexOf("RevokeSecurityGroupIngress"));
  expect(await groups()).toEqual([own!.GroupId]);
  await attached.detach();
});

test("a group that exists gets the rules, and is still there when they are gone", async () => {
  const { GroupId: id } = await ec2.client.createSecurityGroup({
    ...{ GroupName: "older", Description: "made by hand", VpcId: vpcId },
  });
  const smtp = { IpProtocol: "tcp", FromPort: 25, ToPort: 25, IpRanges: [{ CidrIp: "0.0.0.0/0", Description: "mx" }] };
  const echo = { IpProtocol: "icmp", FromPort: 8, ToPort: -1, IpRanges: [{ CidrIp: "0.0.0.0/0" }] };
  const database = { IpProtocol: "tcp", FromPort: 3306, ToPort: 3307, IpRanges: [{ CidrIp: "10.0.0.0/8" }] };
  await ec2.client.authorizeSecurityGroupIngress({ GroupId: id, IpPermissions: [smtp, echo, database] });
  const before = await ec2.client.describeSecurityGroupRules({ Filters: [{ Name: "group-id", Values: [id!] }] });
  const file = join(mkdtempSync(join(tmpdir(), "group-")), "rules.json");
  writeFileSync(file, JSON.stringify(before));
  const stack = await started({ aws: { securityGroupId: id } });
  const adopt = documented("README.md", "mail-firewall import --group-rules FILE --stack prod", {
    "mail-firewall ": `node ${resolve("dist/cli/main.js")} `,
    FILE: file,
    prod: "test",
  });
  const imports = () => stack.shell(adopt);

  // Nothing has been deployed: it says what to do, which makes no rule.
  const [, first] = /let (pulumi up .*) make it/.exec(failed(await imports()))!;
  succeeded(await stack.shell(`${first} --skip-preview`));
  expect(await admitted(id!)).toHaveLength(5);

  const output = succeeded(await imports());
  const commands = output.split("\n").filter((line) => line.startsWith("pulumi import "));
  expect(commands).toHaveLength(4); // smtp, echo, and AWS's own two of what may be sent
  expect(output).toMatch(
    /^# not in the policy, and stays as it is: sgr-[0-9a-f]+: ingress tcp\/3306-3307 from 10\.0\.0\.0\/8$/m,
  );
  for (const command of commands) succeeded(await stack.shell(command));
  expect(succeeded(await imports())).not.toContain("pulumi import");

  const calls = await called(stack, { aws: { securityGroupId: id } });
  expect(new Set(calls)).toEqual(new Set(["AuthorizeSecurityGroupIngress", "ModifySecurityGroupRules"]));
  expect(await groupOf(stack)).toBe(id);
  expect(succeeded(await stack.preview("--diff"))).not.toMatch(/^ +[~+-] /m);
  const after = await ec2.client.describeSecurityGroupRules({ Filters: [{ Name: "group-id", Values: [id!] }] });
  const ids = (found: typeof before) => found.SecurityGroupRules!.map((rule) => rule.SecurityGroupRuleId);
  expect(ids(after)).toEqual(expect.arrayContaining(ids(before)));
  succeeded(await stack.destroy());
  expect(await admitted(id!)).toEqual(["ingress tcp 3306 10.0.0.0/8"]);
});
