// The policy pack's decisions, on the resources of stacks as the engine hands them over.
import { groupRegions, policies, type StackResource } from "../../policy-pack/policies";

/** What policies are given: to read what is not known throws. Pulumi's own, whose types it keeps to itself. */
const {
  unknownCheckingProxy: inPreview,
  unknownStringValue,
  unknownNumberValue,
} = jest.requireActual<{
  unknownCheckingProxy: (props: object) => Record<string, unknown>;
  unknownStringValue: string;
  unknownNumberValue: string;
}>("@pulumi/policy/proxy");

const urn = (type: string, name: string) => `urn:pulumi:prod::mail::${type}::${name}`;
const firewallType = "mail-firewall:index:MailFirewall";
const hostType = `${firewallType}$mail-firewall:index:HostFirewall`;
const groupType = `${firewallType}$mail-firewall:index:MailSecurityGroup`;
const ruleType = "aws:vpc/securityGroupIngressRule:SecurityGroupIngressRule";

function resource(
  type: string,
  name: string,
  props: Record<string, unknown> = {},
  propertyDependencies: Record<string, string[]> = {},
): StackResource {
  return { urn: urn(type, name), name, props: inPreview(props), propertyDependencies };
}

const firewall = (exposure: Record<string, string>) => resource(firewallType, "mail", { exposure });
const rule = (props: Record<string, unknown>, from: Record<string, string[]> = {}) =>
  resource(ruleType, "legacy", { ipProtocol: "tcp", ...props }, from);
const olderRule = (props: Record<string, unknown>, from: Record<string, string[]> = {}) =>
  resource(
    "aws:ec2/securityGroupRule:SecurityGroupRule",
    "legacy",
    { type: "ingress", protocol: "tcp", ...props },
    from,
  );
const group = urn(`${groupType}$aws:ec2/securityGroup:SecurityGroup`, "mail");
const instanceType = "aws:ec2/instance:Instance";
const instance = (name: string, from: Record<string, string[]> = { vpcSecurityGroupIds: [group] }) =>
  resource(instanceType, name, {}, from);
const install = (connection: unknown, from: Record<string, string[]> = {}) =>
  resource(`${hostType}$command:remote:Command`, "mail-mx1-install", { connection }, from);

const find = (policy: string, ...resources: StackResource[]) =>
  policies
    .find(({ name }) => name === policy)!
    .find(resources)
    .map(({ urn, message }) => `${urn.split("::").at(-1)}: ${message}`);

test("there are five, and all but one stop a deployment", () => {
  expect(policies.map(({ name, enforcementLevel }) => [name, enforcementLevel])).toEqual([
    ["no-public-plaintext-mail", "mandatory"],
    ["no-public-ssh", "mandatory"],
    ["mail-hosts-have-a-firewall", "mandatory"],
    ["no-rules-beside-the-policy", "advisory"],
    ["host-keys-are-checked", "mandatory"],
  ]);
});

describe("no-public-plaintext-mail", () => {
  const all = (...resources: StackResource[]) => find("no-public-plaintext-mail", ...resources);
  const imap = "mail: imap (tcp/143) is open to everyone; open imaps instead, or name the networks";

  test.each<[string, StackResource, string[]]>([
    ["a public service", firewall({ imap: "tcp/143: public" }), [imap]],
    ["everyone in two halves", firewall({ imap: "tcp/143: 0.0.0.0/1, 128.0.0.0/1" }), [imap]],
    ["everyone over IPv6", firewall({ imap: "tcp/143: 10.0.0.0/8, ::/0" }), [imap]],
    [
      "POP3, whatever the name of the port",
      firewall({ old: "tcp/110: public" }),
      ["mail: pop3 (tcp/110) is open to everyone; open pop3s instead, or name the networks"],
    ],
    ["a network", firewall({ imap: "tcp/143: 10.20.0.0/16" }), []],
    ["half of the world", firewall({ imap: "tcp/143: 0.0.0.0/1" }), []],
    ["TLS", firewall({ imaps: "tcp/993: public", pop3s: "tcp/995: public", imap: "tcp/143: closed" }), []],
    [
      "a rule of any group",
      rule({ fromPort: 100, toPort: 200, cidrIpv4: "0.0.0.0/0" }),
      [
        imap.replace("mail:", "legacy:"),
        "legacy: pop3 (tcp/110) is open to everyone; open pop3s instead, or name the networks",
      ],
    ],
    [
      "a rule for all protocols",
      rule({ ipProtocol: "-1", cidrIpv6: "::/0" }),
      [
        imap.replace("mail:", "legacy:"),
        "legacy: pop3 (tcp/110) is open to everyone; open pop3s instead, or name the networks",
      ],
    ],
    ["a rule for another port", rule({ fromPort: 993, toPort: 993, cidrIpv4: "0.0.0.0/0" }), []],
    ["a rule for another group", rule({ fromPort: 143, toPort: 143, referencedSecurityGroupId: "sg-0" }), []],
    ["a rule whose network has host bits", rule({ fromPort: 143, toPort: 143, cidrIpv4: "10.0.0.1/8" }), []],
    [
      "a rule of the older kind",
      olderRule({ fromPort: 143, toPort: 143, cidrBlocks: ["10.0.0.0/8"], ipv6CidrBlocks: ["::/0"] }),
      [imap.replace("mail:", "legacy:")],
    ],
    ["one for what goes out", olderRule({ type: "egress", fromPort: 143, toPort: 143, cidrBlocks: ["0.0.0.0/0"] }), []],
    [
      "a rule of which a network is known",
      olderRule({ fromPort: 143, toPort: 143, cidrBlocks: [unknownStringValue, "0.0.0.0/0"] }),
      [imap.replace("mail:", "legacy:")],
    ],
    ["one of which the port is not", rule({ fromPort: unknownNumberValue, toPort: 143, cidrIpv4: "0.0.0.0/0" }), []],
    ["one of which the network is not", rule({ fromPort: 143, toPort: 143, cidrIpv4: unknownStringValue }), []],
    ...["all", "ALL", "-1"].map((protocol): [string, StackResource, string[]] => [
      `a rule for the protocol ${protocol}`,
      olderRule({ protocol, fromPort: 0, toPort: 0, cidrBlocks: ["0.0.0.0/0"] }),
      [
        imap.replace("mail:", "legacy:"),
        "legacy: pop3 (tcp/110) is open to everyone; open pop3s instead, or name the networks",
      ],
    ]),
    [
      "TCP in capitals",
      olderRule({ protocol: "TCP", fromPort: 143, toPort: 143, cidrBlocks: ["::/0"] }),
      [imap.replace("mail:", "legacy:")],
    ],
  ])("%s", (_, one, expected) => expect(all(one)).toEqual(expected));

  test("the component says it, and not each of its rules again", () => {
    const own = resource(`${groupType}$${ruleType}`, "mail-ingress-tcp-143-anywhere-ipv4", {
      ipProtocol: "tcp",
      fromPort: 143,
      toPort: 143,
      cidrIpv4: "0.0.0.0/0",
    });
    expect(all(firewall({ imap: "tcp/143: public" }), own)).toEqual([imap]);
  });
});

describe("no-public-ssh", () => {
  test.each<[string, StackResource, string[]]>([
    [
      "public",
      firewall({ ssh: "tcp/22: public" }),
      ["mail: ssh (tcp/22) is open to everyone; name the networks you work from"],
    ],
    [
      "on ports of its own",
      firewall({ ssh: "tcp/22,2222: public" }),
      [22, 2222].map((port) => `mail: ssh (tcp/${port}) is open to everyone; name the networks you work from`),
    ],
    ["networks", firewall({ ssh: "tcp/22: 203.0.113.0/24" }), []],
    [
      "a rule of any group",
      rule({ fromPort: 22, toPort: 22, cidrIpv4: "0.0.0.0/0" }),
      ["legacy: ssh (tcp/22) is open to everyone; name the networks you work from"],
    ],
  ])("%s", (_, one, expected) => expect(find("no-public-ssh", one)).toEqual(expected));
});

test("rules inside of a group are judged by its inputs", () => {
  const judged = (type: string, props: Record<string, unknown>) =>
    policies.flatMap(({ findInGroup }) => findInGroup?.(groupRegions(type, props)) ?? []);
  const type = "aws:ec2/securityGroup:SecurityGroup";
  const ingress = (rule: object) => ({ ingress: [{ protocol: "tcp", ...rule }] });
  const imap = "imap (tcp/143) is open to everyone; open imaps instead, or name the networks";
  const ssh = "ssh (tcp/22) is open to everyone; name the networks you work from";
  expect(judged(type, ingress({ fromPort: 143, toPort: 143, cidrBlocks: ["0.0.0.0/0"] }))).toEqual([imap]);
  expect(judged(type, ingress({ fromPort: 22, toPort: 22, ipv6CidrBlocks: ["::/0"] }))).toEqual([ssh]);
  expect(
    judged(
      "aws:ec2/defaultSecurityGroup:DefaultSecurityGroup",
      ingress({ fromPort: 22, toPort: 143, cidrBlocks: ["0.0.0.0/0"] }),
    ),
  ).toEqual([imap, "pop3 (tcp/110) is open to everyone; open pop3s instead, or name the networks", ssh]);
  const unknown = inPreview({ ingress: [unknownStringValue, { fromPort: 22, cidrBlocks: [unknownStringValue] }] });
  for (const other of [{}, ingress({ fromPort: 22, toPort: 22, cidrBlocks: ["203.0.113.0/24"] }), unknown])
    expect(judged(type, other)).toEqual([]);
  expect(judged("aws:ec2/instance:Instance", ingress({ fromPort: 22, toPort: 22, cidrBlocks: ["0.0.0.0/0"] }))).toEqual(
    [],
  );
});

describe("mail-hosts-have-a-firewall", () => {
  const bare = (...resources: StackResource[]) => find("mail-hosts-have-a-firewall", ...resources);
  const message = (name: string) =>
    `${name}: ${name} is in a security group for mail and has no firewall of its own; add it: firewall.addHost("${name}", ...)`;
  const [mx1, mx2] = ["mx1", "mx2"].map((name) => urn(instanceType, name)) as [string, string];
  const eip = resource("aws:ec2/eip:Eip", "mx1", {}, { instance: [mx1] });

  test("one that is not deployed to is found; one in another group is not, whatever it waits for", () => {
    expect(bare(instance("mx1"), instance("web", { tags: [group] }), instance("old", {}))).toEqual([message("mx1")]);
  });
  test("deployed to by its own address, by an elastic one, or by its id", () => {
    expect(bare(instance("mx1"), install({}, { connection: [mx1] }))).toEqual([]);
    expect(bare(instance("mx1"), eip, install({}, { connection: [eip.urn] }))).toEqual([]);
    expect(bare(instance("mx1"), install({}, { create: [mx1] }))).toEqual([]);
  });
  test("the id says which, where the address leads over another", () => {
    const behind = install({}, { connection: [mx2, eip.urn], create: [mx1] });
    expect(bare(instance("mx1"), instance("mx2"), eip, behind)).toEqual([message("mx2")]);
  });
});

test("no-rules-beside-the-policy", () => {
  const of = { securityGroupId: [group] };
  const own = resource(`${groupType}$${ruleType}`, "own", {}, of);
  const elsewhere = rule({}, { referencedSecurityGroupId: [group] });
  const message =
    'legacy: legacy opens more than the policy of the group says; put it into the policy ("ports"), or into another group';
  expect(find("no-rules-beside-the-policy", rule({}, of), own, elsewhere)).toEqual([message]);
  expect(find("no-rules-beside-the-policy", olderRule({}, of))).toEqual([message]);
});

test.each<[string, unknown, string[]]>([
  ["a key", { host: "mx1", hostKey: "ssh-ed25519 AAAA" }, []],
  [
    "no key",
    { host: "mx1" },
    ["mail-mx1-install: the host's key is not checked (insecureIgnoreHostKey); write down its hostKey"],
  ],
  [
    "a bastion without one",
    { host: "mx1", hostKey: "ssh-ed25519 AAAA", proxy: { host: "jump" } },
    ["mail-mx1-install: the bastion's key is not checked (insecureIgnoreHostKey); write down its hostKey"],
  ],
  ["nothing known", undefined, []],
])("host-keys-are-checked: %s", (_, connection, expected) => {
  expect(find("host-keys-are-checked", install(connection))).toEqual(expected);
});
