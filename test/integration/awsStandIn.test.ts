import { writeFileSync } from "node:fs";
import { startEc2, type Ec2 } from "../sandbox/ec2";
import { AwsStandIn } from "../sandbox/providers/aws";

const UNKNOWN = "04da6b54-80e4-46f7-96ec-b56ff0331ba9";
const urn = (type: string, name: string) =>
  `urn:pulumi:test::mail-firewall::mail-firewall:index:MailFirewall$${type}::${name}`;
const GROUP = urn("aws:ec2/securityGroup:SecurityGroup", "mail");
const IN = urn("aws:vpc/securityGroupIngressRule:SecurityGroupIngressRule", "mail-in");
const OUT = urn("aws:vpc/securityGroupEgressRule:SecurityGroupEgressRule", "mail-out");
const ATTACHMENT = urn(
  "aws:ec2/networkInterfaceSecurityGroupAttachment:NetworkInterfaceSecurityGroupAttachment",
  "mail-eni",
);
const LIST = urn("aws:ec2/managedPrefixList:ManagedPrefixList", "offices");

let ec2: Ec2;
let vpcId: string;
let aws: AwsStandIn;
const before = { ...process.env };
const restore = () => {
  for (const name of Object.keys(process.env)) delete process.env[name];
  Object.assign(process.env, before);
};

beforeAll(async () => {
  ec2 = await startEc2();
  vpcId = await ec2.createVpc();
}, 60_000);
afterAll(async () => {
  restore();
  await ec2.close();
});
beforeEach(() => {
  restore();
  Object.assign(process.env, ec2.env);
  aws = new AwsStandIn();
  writeFileSync(ec2.env.MAILFW_EC2_LOG!, "");
});

/** What the engine does: check, then create what check gave back. */
async function make(at: string, props: object, olds = {}) {
  const { inputs, failures } = await aws.check(at, olds, props);
  if (failures?.length) throw new Error(failures.map((f) => `${f.property}: ${f.reason}`).join("\n"));
  return aws.create(at, inputs);
}
const group = async (props: object = {}) => (await make(GROUP, { vpcId, ...props })).id;
const rule = (securityGroupId: string, props: object = {}) => ({
  securityGroupId,
  ipProtocol: "tcp",
  fromPort: 993,
  toPort: 993,
  cidrIpv4: "0.0.0.0/0",
  ...props,
});
async function refused(at: string, props: object): Promise<string> {
  const { failures } = await aws.check(at, {}, props);
  return (failures ?? []).map((f) => `${f.property}: ${f.reason}`).join("\n");
}
/** Replaces the live rule as the engine does. */
async function change(at: string, made: { id: string; outs: object }, props: object) {
  const { inputs } = await aws.check(at, made.outs, props);
  return { diff: await aws.diff(made.id, at, made.outs, inputs), inputs: inputs as object };
}

describe("a security group", () => {
  it("is created with tags and without AWS's default egress", async () => {
    const { id, outs } = await make(GROUP, { vpcId, tags: { Name: "mail" } });
    expect(outs).toEqual({
      arn: `arn:aws:ec2:eu-central-1:123456789012:security-group/${id}`,
      description: "Managed by Pulumi",
      egress: [],
      ingress: [],
      name: expect.stringMatching(/^mail-[0-9a-f]{7}$/) as string,
      namePrefix: "",
      ownerId: "123456789012",
      region: "eu-central-1",
      revokeRulesOnDelete: false,
      tags: { Name: "mail" },
      tagsAll: { Name: "mail" },
      vpcId,
    });
    expect(await ec2.rules(id)).toEqual([]);
    expect(ec2.calls()).toEqual([
      "CreateSecurityGroup",
      "DescribeSecurityGroups",
      "RevokeSecurityGroupEgress",
      "RevokeSecurityGroupEgress",
      "DescribeSecurityGroups",
    ]);
    expect(await ec2.securityGroups(vpcId)).toContainEqual({
      id,
      name: outs.name as string,
      description: "Managed by Pulumi",
      tags: { Name: "mail" },
    });
    await aws.delete(id, GROUP, outs);
  });

  it("lives in a VPC without IPv6, too", async () => {
    const { Vpc } = await ec2.client.createVpc({ CidrBlock: "10.1.0.0/16" });
    expect(await ec2.rules(await group({ vpcId: Vpc!.VpcId }))).toEqual([]);
  });

  it("keeps its automatic name over updates, and gets a new one when it is replaced", async () => {
    const first = (await aws.check(GROUP, {}, { vpcId })).inputs as Record<string, unknown>;
    expect(first.__defaults).toEqual(["name", "description", "revokeRulesOnDelete"]);
    const second = (await aws.check(GROUP, first, { vpcId })).inputs as Record<string, unknown>;
    expect(second).toEqual(first);
    const third = (await aws.check(GROUP, {}, { vpcId })).inputs as Record<string, unknown>;
    expect(third.name).not.toBe(first.name);
    const prefixed = (await aws.check(GROUP, first, { vpcId, namePrefix: "mx-" })).inputs as Record<string, unknown>;
    expect(prefixed.name).toBeUndefined();
    expect((await aws.create(GROUP, prefixed)).outs).toMatchObject({
      namePrefix: "mx-",
      name: expect.stringMatching(/^mx-\d{18}[0-9a-f]{8}$/) as string,
    });
  });

  it("is replaced for name, prefix, description, VPC and region; deleted first only with a name of its own", async () => {
    const made = await make(GROUP, { vpcId });
    for (const [props, replaces] of [
      [{ vpcId, description: "other" }, ["description"]],
      [{ vpcId: "vpc-2" }, ["vpcId"]],
      [{ vpcId: UNKNOWN }, ["vpcId"]],
      [{ vpcId, namePrefix: "x" }, ["namePrefix"]],
      [{ vpcId, region: "eu-west-1" }, ["region"]],
    ] as const) {
      const { inputs } = await aws.check(GROUP, { ...made.outs, __defaults: ["name"] }, props);
      const diff = await aws.diff(made.id, GROUP, made.outs, inputs);
      expect(diff).toEqual({ changes: true, replaces, deleteBeforeReplace: false });
    }
    const named = (await aws.check(GROUP, {}, { vpcId, name: "own" })).inputs as object;
    expect(await aws.diff(made.id, GROUP, made.outs, named)).toEqual({
      changes: true,
      replaces: ["name"],
      deleteBeforeReplace: true,
    });
    expect(
      (await change(GROUP, { ...made, outs: { ...made.outs, __defaults: ["name"] } }, { vpcId })).diff.changes,
    ).toBe(false);
  });

  it("is updated in place for tags, default tags included", async () => {
    aws.configure({ region: "eu-central-1", defaultTags: JSON.stringify({ tags: { team: "post" } }) });
    const made = await make(GROUP, { vpcId, tags: { Name: "mail", gone: "x" } });
    expect(made.outs).toMatchObject({
      tags: { Name: "mail", gone: "x" },
      tagsAll: { team: "post", Name: "mail", gone: "x" },
    });
    const old = { ...made.outs, __defaults: ["name"] };
    const { inputs: news } = await aws.check(GROUP, old, { vpcId, tags: { Name: "m" } });
    expect(await aws.diff(made.id, GROUP, made.outs, news)).toMatchObject({ changes: true, replaces: [] });
    const preview = await aws.update(made.id, GROUP, made.outs, news, true);
    expect(preview.outs).toMatchObject({ arn: made.outs.arn as string, tagsAll: { team: "post", Name: "m" } });
    const { outs } = await aws.update(made.id, GROUP, made.outs, news);
    expect(outs).toMatchObject({ tags: { Name: "m" }, tagsAll: { team: "post", Name: "m" } });
    const live = (await ec2.securityGroups(vpcId)).find((g) => g.id === made.id);
    expect(live?.tags).toEqual({ team: "post", Name: "m" });
  });

  it("shows the rules of rule resources after a refresh, and is gone when it is gone", async () => {
    const made = await make(GROUP, { vpcId });
    for (const props of [{}, { cidrIpv4: undefined, cidrIpv6: "::/0" }, { description: "d" }])
      await make(IN, rule(made.id, { ...props, ...("description" in props && { cidrIpv4: "192.0.2.0/24" }) }));
    const base = { fromPort: 993, toPort: 993, protocol: "tcp", prefixListIds: [], securityGroups: [], self: false };
    const { props, inputs } = await aws.read(made.id, GROUP, made.outs, { vpcId, description: "Managed by Pulumi" });
    expect(props.ingress).toEqual([
      { ...base, description: "", cidrBlocks: ["0.0.0.0/0"], ipv6CidrBlocks: ["::/0"] },
      { ...base, description: "d", cidrBlocks: ["192.0.2.0/24"], ipv6CidrBlocks: [] },
    ]);
    expect(inputs).toEqual({ vpcId, description: "Managed by Pulumi" });
    await aws.delete(made.id, GROUP, made.outs);
    expect(await aws.read(made.id, GROUP, made.outs)).toEqual({ id: "", props: {} });
    await aws.delete(made.id, GROUP, made.outs); // already gone: no error
  });

  it.each([{ ingress: [] }, { egress: [{}] }])("has no rules inside of it: %j", async (inline) => {
    await expect(make(GROUP, { vpcId, ...inline })).rejects.toThrow(
      "the sandbox's stand-in for the aws provider has no inline rules",
    );
  });

  it("cannot be deleted while a network interface or another group's rule uses it", async () => {
    const [id, other] = [await group(), await group()];
    const used = await ec2.attach(id);
    const inUse = `api error DependencyViolation: resource ${id} has a dependent object`;
    await expect(aws.delete(id, GROUP, { vpcId })).rejects.toThrow(inUse);
    await used.detach();
    const reference = rule(other, { cidrIpv4: undefined, referencedSecurityGroupId: id });
    const made = await make(IN, reference);
    await expect(aws.delete(id, GROUP, { vpcId })).rejects.toThrow(inUse);
    await aws.delete(made.id, IN, made.outs);
    await aws.delete(id, GROUP, { vpcId });
  });

  it.each([
    [{ revokeRulesOnDelete: true }, "has no revokeRulesOnDelete"],
    [{ nam: "x" }, 'nam: unknown property: aws:ec2/securityGroup:SecurityGroup has no input "nam"'],
    [{ arn: "x" }, "arn: unknown property"], // an output
    [{ name: "sg-mail" }, "name: cannot begin with sg-"],
    [{ name: "n".repeat(256) }, "name: expected length to be in the range (0 - 255), got 256"],
    [{ name: "a", namePrefix: "b" }, "name: conflicts with namePrefix"],
    [{ description: "d".repeat(256) }, "description: expected length to be in the range (0 - 255), got 256"],
    [{ description: 3 }, "description: expected a string, got 3"],
  ])("is refused in the preview: %j", async (props, message) => {
    expect(await refused(GROUP, { vpcId, ...props })).toContain(message);
  });

  it.each([
    [{ description: "mail → world" }, "api error InvalidParameterValue: Invalid security group description."],
    [{ name: "Mäil" }, "api error InvalidParameterValue: Invalid security group name."],
    [{ description: "" }, "api error MissingParameter"],
    [{ name: "default" }, "api error InvalidGroup.Duplicate"],
  ])("is refused by AWS, so only in `up`: %j", async (props, message) => {
    expect(await refused(GROUP, { vpcId, ...props })).toBe("");
    await expect(group(props)).rejects.toThrow(message);
  });
});

describe("a rule", () => {
  it("is created with one permission and its tags, over both families and directions", async () => {
    const id = await group();
    const { id: ruleId, outs } = await make(IN, rule(id, { description: "imaps: public", tags: { a: "b" } }));
    expect(outs).toEqual({
      ...rule(id, { description: "imaps: public", tags: { a: "b" } }),
      arn: `arn:aws:ec2:eu-central-1:123456789012:security-group-rule/${ruleId}`,
      region: "eu-central-1",
      securityGroupRuleId: ruleId,
      tagsAll: { a: "b" },
    });
    expect(ruleId).toMatch(/^sgr-/);
    await make(IN, rule(id, { cidrIpv4: undefined, cidrIpv6: "::/0" }));
    await make(IN, rule(id, { cidrIpv4: undefined, referencedSecurityGroupId: id, description: "self" }));
    await make(IN, rule(id, { ipProtocol: "icmp", fromPort: 3, toPort: 4 }));
    await make(
      IN,
      rule(id, { ipProtocol: "icmpv6", fromPort: undefined, toPort: undefined, cidrIpv4: undefined, cidrIpv6: "::/0" }),
    );
    await make(IN, rule(id, { ipProtocol: "58", fromPort: 2, toPort: 0, cidrIpv4: undefined, cidrIpv6: "::/0" }));
    await make(OUT, { securityGroupId: id, ipProtocol: "-1", cidrIpv6: "::/0", description: "all" });
    expect(await ec2.rules(id)).toEqual([
      { direction: "egress", protocol: "-1", source: "::/0", description: "all" },
      { direction: "ingress", protocol: "icmp", fromPort: 3, toPort: 4, source: "0.0.0.0/0" },
      { direction: "ingress", protocol: "icmpv6", fromPort: -1, toPort: -1, source: "::/0" },
      { direction: "ingress", protocol: "icmpv6", fromPort: 2, toPort: 0, source: "::/0" },
      {
        direction: "ingress",
        protocol: "tcp",
        fromPort: 993,
        toPort: 993,
        source: "0.0.0.0/0",
        description: "imaps: public",
      },
      { direction: "ingress", protocol: "tcp", fromPort: 993, toPort: 993, source: "::/0" },
      { direction: "ingress", protocol: "tcp", fromPort: 993, toPort: 993, source: id, description: "self" },
    ]);
  });

  it.each([
    ["IPv4", IN, {}, { cidrIpv4: "198.51.100.0/24" }, { fromPort: 25, toPort: 26 }],
    [
      "IPv6",
      IN,
      { cidrIpv4: undefined, cidrIpv6: "::/0" },
      { cidrIpv6: "2001:db8::/32" },
      { fromPort: 25, toPort: 26 },
    ],
    [
      "everything",
      OUT,
      { ipProtocol: "-1", fromPort: undefined, toPort: undefined, cidrIpv4: undefined, cidrIpv6: "::/0" },
      { cidrIpv6: "2001:db8::/32" },
      { description: "d" },
    ],
  ])(
    "is updated in place (%s): source, ports, description, tags; then nothing differs",
    async (_, at, first, ...changes) => {
      const id = await group();
      let props: object = rule(id, { description: "before", ...first });
      let made = await make(at, props);
      for (const next of [...changes, { description: "after" }, { description: undefined }, { tags: { a: "b" } }]) {
        props = { ...props, ...next };
        const { diff, inputs } = await change(at, made, props);
        expect(diff).toEqual({ changes: true, replaces: [], deleteBeforeReplace: false });
        made = { id: made.id, outs: (await aws.update(made.id, at, made.outs, inputs)).outs };
        const live = await aws.read(made.id, at, made.outs, inputs);
        expect(live).toEqual({ id: made.id, props: made.outs, inputs });
        expect((await change(at, { id: made.id, outs: live.props }, props)).diff.changes).toBe(false);
      }
      expect(await ec2.rules(id)).toHaveLength(1);
      expect(ec2.calls()).toContain("ModifySecurityGroupRules");
      expect(ec2.calls().filter((c) => /^Authorize|^RevokeSecurityGroupIngress/.test(c))).toHaveLength(1);
    },
  );

  it("is replaced when its group or the kind of its source changes", async () => {
    const made = await make(IN, rule("x", { securityGroupId: await group() }));
    const id = made.outs.securityGroupId as string;
    expect((await change(IN, made, rule(UNKNOWN))).diff).toMatchObject({
      changes: true,
      replaces: ["securityGroupId"],
    });
    expect((await change(IN, made, rule(id, { cidrIpv4: undefined, cidrIpv6: "::/0" }))).diff).toMatchObject({
      replaces: ["cidrIpv4", "cidrIpv6"],
    });
    expect((await change(IN, made, rule(id, { region: "eu-west-1" }))).diff).toMatchObject({ replaces: ["region"] });
    expect((await change(IN, made, rule(id, { ipProtocol: "6" }))).diff).toMatchObject({
      changes: false,
      replaces: [],
    });
  });

  it("shows drift on refresh, and is gone when it is revoked", async () => {
    const id = await group();
    const made = await make(IN, rule(id, { description: "ours" }));
    const { inputs } = await change(IN, made, rule(id, { description: "ours" }));
    const drifted = { IpProtocol: "tcp", FromPort: 1, ToPort: 9, CidrIpv4: "0.0.0.0/0", Description: "theirs" };
    await ec2.client.modifySecurityGroupRules({
      GroupId: id,
      SecurityGroupRules: [{ SecurityGroupRuleId: made.id, SecurityGroupRule: drifted }],
    });
    const live = await aws.read(made.id, IN, made.outs, inputs);
    expect(live.props).toMatchObject({ fromPort: 1, toPort: 9, description: "theirs" });
    expect(live.inputs).toMatchObject({ fromPort: 1, toPort: 9, description: "theirs" });
    expect((await aws.diff(made.id, IN, live.props, inputs)).changes).toBe(true);
    await ec2.client.revokeSecurityGroupIngress({ GroupId: id, SecurityGroupRuleIds: [made.id] });
    expect((await aws.read(made.id, IN, made.outs)).id).toBe("");
    await aws.delete(made.id, IN, made.outs);
    expect((await aws.read(made.id, OUT, made.outs)).id).toBe("");
  });

  it.each([
    [{ cidrIpv4: "10.1.2.3/16" }, 'cidrIpv4: "10.1.2.3/16" is not a valid IPv4 CIDR block: it has host bits'],
    [{ cidrIpv4: "010.0.0.0/8" }, 'cidrIpv4: "010.0.0.0/8" is not a valid CIDR block'],
    [{ cidrIpv4: "10.0.0.0/33" }, "is not a valid CIDR block"],
    [{ cidrIpv4: "10.0.0.0" }, "is not a valid CIDR block"],
    [{ cidrIpv4: "::/0" }, 'cidrIpv4: "::/0" is not a valid IPv4 CIDR block'],
    [{ cidrIpv4: undefined, cidrIpv6: "0.0.0.0/0" }, 'cidrIpv6: "0.0.0.0/0" is not a valid IPv6 CIDR block'],
    [{ cidrIpv4: undefined, cidrIpv6: "2001:db8::1/32" }, "it has host bits"],
    [{ cidrIpv4: undefined, cidrIpv6: "2001:DB8::/32" }, 'AWS would give it back as "2001:db8::/32"'],
    [{ cidrIpv4: undefined, cidrIpv6: "2001:db8:0::/32" }, 'AWS would give it back as "2001:db8::/32"'],
    [{ cidrIpv4: undefined, cidrIpv6: "::ffff:1.2.3.4/128" }, "is not a valid IPv6 CIDR block"],
    [{ cidrIpv4: undefined, cidrIpv6: "fe80::%eth0/64" }, "is not a valid CIDR block"],
    [{ cidrIpv6: "::/0" }, "exactly one of cidrIpv4, cidrIpv6, prefixListId, referencedSecurityGroupId must be given"],
    [{ cidrIpv4: undefined }, "exactly one of"],
    [{ fromPort: 70000 }, "fromPort: value must be between -1 and 65535, got: 70000"],
    [{ toPort: -2 }, "toPort: value must be between -1 and 65535, got: -2"],
    [{ toPort: "993" }, 'toPort: expected an integer, got "993"'],
    [
      { protocol: "tcp" },
      'protocol: unknown property: aws:vpc/securityGroupIngressRule:SecurityGroupIngressRule has no input "protocol"',
    ],
    [{ cidrBlocks: [] }, "cidrBlocks: unknown property"],
    [{ securityGroupRuleId: "sgr-1" }, "securityGroupRuleId: unknown property"],
    [{ ipProtocol: undefined }, "ipProtocol: missing required property"],
    [{ securityGroupId: undefined }, "securityGroupId: missing required property"],
  ])("is refused in the preview: %j", async (props, message) => {
    expect(await refused(IN, rule("sg-1", props))).toContain(message);
  });

  it.each([
    [{ fromPort: 26, toPort: 25 }, "Invalid value '26-25' for portRange"],
    [{ fromPort: undefined, toPort: undefined }, "Must specify both from and to ports with TCP."],
    [{ toPort: undefined }, "Must specify both from and to ports with TCP."],
    [{ ipProtocol: "udp", fromPort: -1, toPort: -1 }, "TCP/UDP port (-1) out of range"],
    [{ ipProtocol: "-1" }, "Ports cannot be given with protocol -1"],
    [{ ipProtocol: "tpc" }, "Invalid value 'tpc' for IP protocol. Unknown protocol."],
    [{ ipProtocol: "icmp", fromPort: 256, toPort: 0 }, "ICMP type or code (256) out of range"],
    [{ ipProtocol: "icmp", fromPort: -1, toPort: 4 }, "ICMP code (4) without an ICMP type"],
    [{ ipProtocol: "icmpv6", fromPort: -1, toPort: -1 }, "icmpv6 with a CIDR of the other family"],
    [{ description: "d".repeat(256) }, "Invalid rule description."],
    [{ description: "imaps → all" }, "Invalid rule description."],
    [{ description: "it's" }, "Invalid rule description."],
    [{ description: "a & b" }, "Invalid rule description."],
  ])("is refused by AWS, so only in `up`: %j, on create and on update", async (props, message) => {
    const id = await group();
    expect(await refused(IN, rule(id, props))).toBe("");
    const api = "api error InvalidParameterValue: ";
    await expect(make(IN, rule(id, props))).rejects.toThrow(message);
    await expect(make(IN, rule(id, props))).rejects.toThrow(
      `creating VPC Security Group Rule: operation error EC2: AuthorizeSecurityGroupIngress, ${api}`,
    );
    const made = await make(IN, rule(id));
    await expect(aws.update(made.id, IN, made.outs, rule(id, props))).rejects.toThrow(message);
    expect(await ec2.rules(id)).toHaveLength(1);
  });

  it("takes every character that AWS takes", async () => {
    const description = "a-zA-Z0-9 ._-:/()#,@[]+=;{}!$*".padEnd(255, "x");
    const id = await group({ description });
    await make(IN, rule(id, { description }));
    expect((await ec2.rules(id))[0]!.description).toBe(description);
  });

  it("cannot stand twice in a group, whatever its description, also as the result of an update", async () => {
    const id = await group();
    const duplicate = "api error InvalidPermission.Duplicate";
    for (const source of [
      {},
      { cidrIpv4: undefined, cidrIpv6: "::/0" },
      { cidrIpv4: undefined, referencedSecurityGroupId: id },
    ]) {
      await make(IN, rule(id, { ...source, description: "one" }));
      await expect(make(IN, rule(id, { ...source, description: "two", ipProtocol: "6" }))).rejects.toThrow(duplicate);
      const other = await make(IN, rule(id, { ...source, fromPort: 25 }));
      await expect(aws.update(other.id, IN, other.outs, rule(id, source))).rejects.toThrow(
        `updating VPC Security Group Rule (${other.id}): operation error EC2: ModifySecurityGroupRules, ${duplicate}`,
      );
      await make(OUT, rule(id, source)); // the other direction is another rule
    }
  });

  it("fits 60 times in each direction and family, and not once more", async () => {
    const id = await group();
    const numbers = [...Array(60).keys()];
    const v4 = (n: number) => rule(id, { cidrIpv4: `192.0.2.${n}/32` });
    const v6 = (n: number) =>
      rule(id, { cidrIpv4: undefined, cidrIpv6: n ? `2001:db8::${n.toString(16)}/128` : "::/0" });
    await Promise.all([IN, OUT].flatMap((at) => numbers.flatMap((n) => [make(at, v4(n)), make(at, v6(n))])));
    expect(await ec2.rules(id)).toHaveLength(240);
    for (const at of [IN, OUT])
      for (const one of [v4, v6])
        await expect(make(at, one(60))).rejects.toThrow("api error RulesPerSecurityGroupLimitExceeded");
    const reference = rule(id, { cidrIpv4: undefined, referencedSecurityGroupId: id });
    await expect(make(IN, reference)).rejects.toThrow("RulesPerSecurityGroupLimitExceeded"); // counts in both families
    expect(await ec2.rules(id)).toHaveLength(240);
  }, 60_000);

  it("never lets parallel rules over the quota", async () => {
    const id = await group();
    const made = await Promise.allSettled(
      [...Array(80).keys()].map((n) => make(IN, rule(id, { cidrIpv4: `192.0.2.${n}/32` }))),
    );
    expect(made.filter((m) => m.status === "fulfilled")).toHaveLength(60);
    expect(await ec2.rules(id)).toHaveLength(60);
  }, 60_000);

  it("is refused for a group that is not there", async () => {
    await expect(make(IN, rule("sg-00000000000000000"))).rejects.toThrow("api error InvalidGroup.NotFound");
    const list = rule(await group(), { cidrIpv4: undefined, prefixListId: "pl-00000000" });
    await expect(make(IN, list)).rejects.toThrow("api error InvalidPrefixListID.NotFound");
  });
});

describe("a managed prefix list", () => {
  const offices = { addressFamily: "IPv4", maxEntries: 50, entries: [{ cidr: "192.0.2.0/24", description: "hq" }] };

  it("counts with its MaxEntries against the quota of its family", async () => {
    const list = await make(LIST, offices);
    expect(list.outs).toMatchObject({ ...offices, version: 1, name: expect.stringMatching(/^offices-/) as string });
    const id = await group();
    await make(IN, rule(id, { cidrIpv4: undefined, prefixListId: list.id, description: "offices" }));
    for (let n = 0; n < 10; n++) await make(IN, rule(id, { cidrIpv4: `192.0.2.${n}/32` }));
    await expect(make(IN, rule(id))).rejects.toThrow("RulesPerSecurityGroupLimitExceeded");
    await make(IN, rule(id, { cidrIpv4: undefined, cidrIpv6: "::/0" }));
    expect(await ec2.rules(id)).toContainEqual(expect.objectContaining({ source: list.id, description: "offices" }));
    expect((await aws.read(list.id, LIST, list.outs)).props).toEqual(list.outs);
    await aws.delete(list.id, LIST, list.outs);
    expect((await aws.read(list.id, LIST, list.outs)).id).toBe("");
  });

  it.each([
    [{ entries: [{ cidr: "::/0" }] }, "entries"],
    [{ addressFamily: "ipv4" }, "addressFamily"],
    [{ maxEntries: undefined }, "maxEntries: missing required property"],
  ])("is refused in the preview: %j", async (props, message) => {
    expect(await refused(LIST, { ...offices, ...props })).toContain(message);
  });

  it("has no more entries than it may", async () => {
    await expect(
      make(LIST, { ...offices, maxEntries: 1, entries: [{ cidr: "192.0.2.0/24" }, { cidr: "198.51.100.0/24" }] }),
    ).rejects.toThrow("PrefixListMaxEntriesExceeded");
  });
});

describe("a managed prefix list that changes", () => {
  const entry = (n: number) => ({ cidr: `192.0.2.${n}/32` });
  const some = (count: number) => ({
    addressFamily: "IPv4",
    maxEntries: count,
    entries: [...Array(count).keys()].map(entry),
  });
  const live = async (id: string) => {
    const { props } = await aws.read(id, LIST);
    const { maxEntries: size, version, entries } = props as { maxEntries: number; version: number; entries: object[] };
    return { size, version, entries: entries.length };
  };

  it.each([
    ["grows before it gets more entries", some(2), some(5), 2, { size: 5, version: 2, entries: 5 }],
    ["shrinks after it has lost some", some(5), some(2), 2, { size: 2, version: 2, entries: 2 }],
    [
      "swaps entries in one call",
      some(2),
      { ...some(2), entries: [entry(1), entry(7)] },
      1,
      { size: 2, version: 2, entries: 2 },
    ],
    ["takes another name", some(2), { ...some(2), name: "offices" }, 1, { size: 2, version: 1, entries: 2 }],
    ["has nothing to do", some(2), some(2), 0, { size: 2, version: 1, entries: 2 }],
  ])("%s, in place", async (_, olds, news, calls, expected) => {
    const made = await make(LIST, olds);
    const { inputs, diff } = await change(LIST, made, { name: made.outs.name as string, ...news });
    expect(diff).toMatchObject({ changes: calls > 0, replaces: [] });
    writeFileSync(ec2.env.MAILFW_EC2_LOG!, "");
    const { outs } = await aws.update(made.id, LIST, made.outs, inputs);
    expect(ec2.calls().filter((call) => call.startsWith("Modify"))).toHaveLength(calls);
    expect(await live(made.id)).toEqual(expected);
    expect(outs).toMatchObject({ ...news, version: expected.version });
  });

  it("is previewed with a version that is known, unless its entries change", async () => {
    const made = await make(LIST, some(2));
    const preview = async (news: object) =>
      (await aws.update(made.id, LIST, made.outs, news, true)).outs.version as number | string;
    expect(await preview({ ...some(2), tags: { a: "b" } })).toBe(1);
    expect(await preview(some(3))).toBe(UNKNOWN);
  });

  it("refuses to be changed from a version that is no more", async () => {
    const made = await make(LIST, some(2));
    await aws.update(made.id, LIST, made.outs, { ...made.outs, ...some(1) });
    await expect(aws.update(made.id, LIST, made.outs, { ...made.outs, ...some(3) })).rejects.toThrow(
      "api error PrefixListVersionMismatch: The prefix list has the incorrect version number.",
    );
  });

  it("fails at first where only the description of an entry changes, like the real provider", async () => {
    const made = await make(LIST, some(2));
    const described = { ...some(2), entries: [entry(0), { ...entry(1), description: "hq" }] };
    await expect(aws.update(made.id, LIST, made.outs, { ...made.outs, ...described })).rejects.toThrow(
      "PrefixListVersionMismatch",
    );
  });

  it("cannot grow beyond the quota of a group that refers to it", async () => {
    const id = await group();
    const made = await make(LIST, some(20));
    for (const port of [143, 993, 995]) {
      const ports = { fromPort: port, toPort: port };
      await make(IN, rule(id, { ...ports, cidrIpv4: undefined, prefixListId: made.id }));
    }
    await expect(aws.update(made.id, LIST, made.outs, { ...made.outs, ...some(21) })).rejects.toThrow(
      "RulesPerSecurityGroupLimitExceeded",
    );
    expect(await live(made.id)).toEqual({ size: 20, version: 1, entries: 20 });
  });

  it("is replaced for another family", async () => {
    const made = await make(LIST, some(1));
    const { diff } = await change(LIST, made, { addressFamily: "IPv6", maxEntries: 1, entries: [{ cidr: "::/0" }] });
    expect(diff.replaces).toEqual(["addressFamily"]);
  });
});

describe("an attachment to a network interface", () => {
  const groupsOf = async (eni: string) => {
    const { NetworkInterfaces } = await ec2.client.describeNetworkInterfaces({ NetworkInterfaceIds: [eni] });
    return NetworkInterfaces![0]!.Groups!.map(({ GroupId }) => GroupId).sort();
  };

  it("adds the group to those that are there, and takes it away again", async () => {
    const [own, first, second] = [await group(), await group(), await group()];
    const { id: eni, ...attached } = await ec2.attach(own);
    const made = await Promise.all(
      [first, second].map((securityGroupId) => make(ATTACHMENT, { networkInterfaceId: eni, securityGroupId })),
    );
    expect(made[0]).toEqual({
      id: `${first}_${eni}`,
      outs: { networkInterfaceId: eni, securityGroupId: first, region: "eu-central-1" },
    });
    expect(await groupsOf(eni)).toEqual([own, first, second].sort());
    expect((await aws.read(made[0]!.id, ATTACHMENT, made[0]!.outs)).props).toEqual(made[0]!.outs);
    expect((await aws.read(`${eni}_${first}`, ATTACHMENT)).props).toEqual(made[0]!.outs); // as it is imported
    await expect(make(ATTACHMENT, { networkInterfaceId: eni, securityGroupId: first })).rejects.toThrow(
      `EC2 Security Group (${first}) already attached to EC2 Network Interface (${eni})`,
    );
    await Promise.all(made.map(({ id, outs }) => aws.delete(id, ATTACHMENT, outs)));
    expect(await groupsOf(eni)).toEqual([own]);
    expect((await aws.read(made[0]!.id, ATTACHMENT, made[0]!.outs)).id).toBe("");
    await attached.detach();
    await aws.delete(made[0]!.id, ATTACHMENT, made[0]!.outs); // an interface that is gone has no groups
  });

  it("cannot be taken away as the last", async () => {
    const own = await group();
    const { id: eni, ...attached } = await ec2.attach(own);
    await expect(
      aws.delete(`${own}_${eni}`, ATTACHMENT, { networkInterfaceId: eni, securityGroupId: own }),
    ).rejects.toThrow("api error InvalidParameterCombination: No attributes specified.");
    await attached.detach();
  });

  it("is replaced for another interface, group or region", async () => {
    const made = {
      id: "sg-1_eni-1",
      outs: { networkInterfaceId: "eni-1", securityGroupId: "sg-1", region: "eu-central-1" },
    };
    expect((await change(ATTACHMENT, made, made.outs)).diff).toMatchObject({ changes: false, replaces: [] });
    for (const [property, value] of [
      ["networkInterfaceId", "eni-2"],
      ["securityGroupId", UNKNOWN],
      ["region", "eu-west-1"],
    ] as const) {
      const { diff } = await change(ATTACHMENT, made, { ...made.outs, [property]: value });
      expect(diff).toMatchObject({ changes: true, replaces: [property] });
    }
  });
});

describe("a preview", () => {
  it("creates nothing and leaves unknown what AWS decides", async () => {
    const { inputs } = await aws.check(GROUP, {}, { vpcId: UNKNOWN, tags: { a: "b" } });
    const { id, outs } = await aws.create(GROUP, inputs, true);
    expect(id).toBe("");
    expect(outs).toMatchObject({
      arn: UNKNOWN,
      ownerId: UNKNOWN,
      vpcId: UNKNOWN,
      tagsAll: { a: "b" },
      region: "eu-central-1",
    });
    expect(outs.name).toMatch(/^mail-/);
    expect(ec2.calls()).toEqual([]);
  });

  it("takes unknown inputs and does not validate them", async () => {
    const unknown = rule(UNKNOWN, { cidrIpv4: UNKNOWN, fromPort: UNKNOWN, toPort: UNKNOWN, description: UNKNOWN });
    expect(await refused(IN, unknown)).toBe("");
    const { id, outs } = await aws.create(IN, unknown, true);
    expect(id).toBe("");
    expect(outs).toEqual({ ...unknown, arn: UNKNOWN, securityGroupRuleId: UNKNOWN, tagsAll: {} });
    expect(await refused(IN, { ...unknown, cidrIpv6: "::/0" })).toContain("exactly one of"); // two are given all the same
  });

  it("updates to known outputs", async () => {
    const made = await make(IN, rule(await group()));
    const news = { ...made.outs, arn: undefined, securityGroupRuleId: undefined, tagsAll: undefined, toPort: 995 };
    const calls = ec2.calls().length;
    const { outs } = await aws.update(made.id, IN, made.outs, JSON.parse(JSON.stringify(news)) as object, true);
    expect(outs).toEqual({ ...made.outs, toPort: 995 });
    expect(ec2.calls()).toHaveLength(calls);
  });
});

describe("the provider", () => {
  it("refuses what it does not have", async () => {
    const bucket = urn("aws:s3/bucket:Bucket", "b");
    const message = "the sandbox's stand-in for the aws provider has no aws:s3/bucket:Bucket";
    await expect(make(bucket, {})).rejects.toThrow(message);
    await expect(aws.create(bucket, {})).rejects.toThrow(message);
    await expect(aws.delete("x", bucket, {})).rejects.toThrow(message);
  });

  it.each([
    [{ regoin: "eu-west-1" }, 'the aws provider has no option "regoin"'],
    [{ assumeRoles: "[]" }, 'stand-in for the aws provider has no provider option "assumeRoles"'],
  ])("refuses the option %j", (config, message) => {
    expect(() => aws.configure(config)).toThrow(message);
  });

  it("takes region, endpoint and credentials from its options", async () => {
    aws.configure({
      region: "us-east-1",
      accessKey: "a",
      secretKey: "b",
      endpoints: JSON.stringify([{ ec2: ec2.endpoint }]),
      skipCredentialsValidation: "false",
    });
    const { inputs } = await aws.check(IN, {}, rule("sg-1"));
    expect(inputs).toMatchObject({ region: "us-east-1" });
    delete process.env.AWS_ENDPOINT_URL;
    const { outs } = await make(GROUP, {});
    expect(outs).toMatchObject({ region: "us-east-1", arn: expect.stringContaining(":us-east-1:") as string });
  });
});

describe("the emulator", () => {
  it("says what went wrong when it cannot start, and leaves nothing behind", async () => {
    process.env.MAILFW_MOTO_SERVER = "/nonexistent/moto_server";
    await expect(startEc2()).rejects.toThrow("the EC2 emulator (/nonexistent/moto_server) could not be started");
    process.env.MAILFW_MOTO_SERVER = "/bin/ls";
    await expect(startEc2()).rejects.toThrow(/could not be started: ended with 2, its output:\n.*ls: /s);
  });
});

describe("what stands around a group", () => {
  const types = {
    vpc: "aws:ec2/vpc:Vpc",
    gateway: "aws:ec2/internetGateway:InternetGateway",
    subnet: "aws:ec2/subnet:Subnet",
    instance: "aws:ec2/instance:Instance",
    eip: "aws:ec2/eip:Eip",
  };
  const at = (type: keyof typeof types) => `urn:pulumi:s::p::${types[type]}::one`;
  const made = new Map<string, { id: string; outs: Record<string, unknown> }>();
  const id = (type: keyof typeof types) => made.get(type)!.id;
  const create = async (type: keyof typeof types, inputs: object) => void made.set(type, await make(at(type), inputs));
  const remove = (type: keyof typeof types) => aws.delete(id(type), at(type), made.get(type)!.outs);

  it("goes in the order in which one stands on the other, and in no other", async () => {
    await create("vpc", { cidrBlock: "10.1.0.0/16" });
    await create("gateway", { vpcId: id("vpc") });
    await create("subnet", { vpcId: id("vpc"), cidrBlock: "10.1.0.0/24" });
    const groupId = await group({ vpcId: id("vpc") });
    await create("instance", { ami: "ami-1", subnetId: id("subnet"), vpcSecurityGroupIds: [groupId], userData: "#!" });
    ec2.offerAddress("198.51.100.77");
    await create("eip", { instance: id("instance") });
    expect(made.get("eip")!.outs).toMatchObject({ publicIp: "198.51.100.77" });

    await expect(remove("gateway")).rejects.toThrow("it has some mapped public addresses: ['198.51.100.77']");
    await expect(remove("subnet")).rejects.toThrow("has dependencies and cannot be deleted");
    await expect(aws.delete(groupId, GROUP, { vpcId: id("vpc") })).rejects.toThrow("has a dependent object");
    await remove("eip");
    await remove("instance");
    await aws.delete(groupId, GROUP, { vpcId: id("vpc") });
    await expect(remove("vpc")).rejects.toThrow("cannot be deleted");
    for (const type of ["subnet", "gateway", "vpc"] as const) await remove(type);
  });

  it("is replaced where it cannot change, and an address moves in place", async () => {
    const diff = (type: keyof typeof types, olds: object, news: object) => aws.diff("", at(type), olds, news);
    expect(await diff("instance", { ami: "ami-1" }, { ami: "ami-2" })).toMatchObject({ replaces: ["ami"] });
    await expect(diff("instance", { userData: "a" }, { userData: "b" })).rejects.toThrow(
      "stops and starts no instance",
    );
    expect(await diff("eip", { instance: "i-1" }, { instance: "i-2" })).toMatchObject({ changes: true, replaces: [] });
    expect(
      await diff(
        "subnet",
        { cidrBlock: "10.0.0.0/24", availabilityZone: "eu-central-1a" },
        { cidrBlock: "10.0.0.0/24" },
      ),
    ).toMatchObject({ changes: false });
    await expect(aws.read("vpc-1", at("vpc"))).rejects.toThrow("cannot read a aws:ec2/vpc:Vpc: no refresh, no import");
  });
});
