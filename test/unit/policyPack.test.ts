// The policy pack's decisions, on the resources of stacks as the engine hands them over.
import { groupRegions, policies, type StackResource } from "../../policy-pack/policies";

const urn = (type: string, name: string) => `urn:pulumi:prod::mail::${type}::${name}`;
const firewallType = "mail-firewall:index:MailFirewall";
const hostType = `${firewallType}$mail-firewall:index:HostFirewall`;
const groupType = `${firewallType}$mail-firewall:index:MailSecurityGroup`;
const ruleType = "aws:vpc/securityGroupIngressRule:SecurityGroupIngressRule";

function resource(
  type: string,
  name: string,
  props: Record<string, unknown> = {},
  dependencies: string[] = [],
): StackResource {
  return { urn: urn(type, name), name, props, dependencies };
}

const firewall = (exposure: Record<string, string>) => resource(firewallType, "mail", { exposure });
const rule = (props: Record<string, unknown>, dependencies: string[] = []) =>
  resource(ruleType, "legacy", { ipProtocol: "tcp", ...props }, dependencies);
const olderRule = (props: Record<string, unknown>, dependencies: string[] = []) =>
  resource(
    "aws:ec2/securityGroupRule:SecurityGroupRule",
    "legacy",
    { type: "ingress", protocol: "tcp", ...props },
    dependencies,
  );
const group = urn(`${groupType}$aws:ec2/securityGroup:SecurityGroup`, "mail");
const instance = (name: string, dependencies = [group]) =>
  resource("aws:ec2/instance:Instance", name, {}, dependencies);
const install = (connection: unknown, dependencies: string[] = []) =>
  resource(`${hostType}$command:remote:Command`, "mail-mx1-install", { connection }, dependencies);

/** As @pulumi/policy has it in a preview. */
const unknown = (props: Record<string, unknown>) =>
  new Proxy(props, {
    get: (target, key) => {
      if (key in target) return target[key as string];
      throw new Error(`${String(key)} can't be known during preview`);
    },
  });

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
    ["a rule of which nothing is known", { ...rule({}), props: unknown({}) }, []],
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
  for (const other of [{}, ingress({ fromPort: 22, toPort: 22, cidrBlocks: ["203.0.113.0/24"] }), unknown({})])
    expect(judged(type, other)).toEqual([]);
  expect(judged("aws:ec2/instance:Instance", ingress({ fromPort: 22, toPort: 22, cidrBlocks: ["0.0.0.0/0"] }))).toEqual(
    [],
  );
});

test("a host is deployed to an instance by its address, too", () => {
  const eip = resource("aws:ec2/eip:Eip", "mx2", {}, [urn("aws:ec2/instance:Instance", "mx2")]);
  const behind = install({}, [eip.urn]);
  expect(find("mail-hosts-have-a-firewall", instance("mx2"), eip, behind)).toEqual([]);
  expect(find("mail-hosts-have-a-firewall", instance("mx2"), instance("mx3"), eip, behind)).toEqual([
    expect.stringContaining("mx3 is in a security group") as string,
  ]);
});

test("mail-hosts-have-a-firewall", () => {
  const bare = instance("mx1");
  const other = instance("web", []);
  const message =
    'mx1: mx1 is in a security group for mail and has no firewall of its own; add it: firewall.addHost("mx1", ...)';
  expect(
    find(
      "mail-hosts-have-a-firewall",
      bare,
      other,
      instance("mx2"),
      install({}, [urn("aws:ec2/instance:Instance", "mx2")]),
    ),
  ).toEqual([message]);
});

test("no-rules-beside-the-policy", () => {
  const own = resource(`${groupType}$${ruleType}`, "own", {}, [group]);
  expect(find("no-rules-beside-the-policy", olderRule({}, [group]))).toHaveLength(1);
  expect(find("no-rules-beside-the-policy", rule({}, [group]), own, { ...rule({}), name: "elsewhere" })).toEqual([
    'legacy: legacy opens more than the policy of the group says; put it into the policy ("ports"), or into another group',
  ]);
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
