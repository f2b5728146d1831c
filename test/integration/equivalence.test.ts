// The proof that host and group are equal, held against packets: what a kernel does with them, and what the EC2 API says
// of the group. 300 random policies with MAILFW_ALL=1, otherwise 12.
import fc from "fast-check";

import { cloudOnly, cloudRule, groupRules, quota, type GroupRule } from "../../components/cloud/groupRules";
import { parseGroupRules, reach } from "../../components/cloud/reach";
import { undeclared } from "../../components/equivalence";
import { defaultSettings } from "../../components/host/hostOptions";
import { parseRuleset } from "../../components/host/iptablesSave";
import { judge } from "../../components/host/reach";
import { ruleset } from "../../components/host/ruleset";
import { last, parseAddress, print, type Cidr, type Family } from "../../components/policy/cidr";
import { Faults } from "../../components/policy/faults";
import { readPolicy, rules, type Policy, type PolicyArgs, type Sources } from "../../components/policy/policy";
import { holds, protocol, type Region } from "../../components/policy/regions";
import { catalogue, serviceNames } from "../../components/policy/services";
import { startEc2, type Ec2 } from "../sandbox/ec2";
import { startMailHost, type MailHost } from "../sandbox/host";
import { probe, startClient, type Client, type Probe } from "../sandbox/probe";
import { edgyPolicyArgs, policyArgs } from "../unit/arbitraries";
import { command, install } from "./example";

const all = process.env.MAILFW_ALL === "1";
jest.setTimeout(all ? 3_600_000 : 180_000);

/** A policy, and what both sides are made of: the text for a host's kernel, the arguments of a group's rules. */
interface Twins {
  readonly policy: Policy;
  readonly texts: Readonly<Record<Family, string>>;
  readonly groupRules: readonly GroupRule[];
}

function twinsOf(args: PolicyArgs): Twins {
  const faults = new Faults();
  const policy = readPolicy(args, "", { any: true }, faults);
  expect(faults.list).toEqual([]);
  const atoms = rules(policy);
  return { policy, texts: { 4: ruleset(atoms, 4, "o"), 6: ruleset(atoms, 6, "o") }, groupRules: groupRules(atoms) };
}

/** What the proof says about them. */
const differences = ({ policy, texts, groupRules }: Twins) =>
  undeclared({
    rulesets: texts,
    settings: defaultSettings,
    sshPorts: policy.sshPorts,
    groupRules: groupRules.map(cloudRule),
    outbound: rules(policy).filter(({ direction }) => direction === "out"),
    cloudOnly: Object.keys(cloudOnly(policy)),
  });

/** Within the quota of 60 rules a direction and family; a deployment refuses others. */
const fits = ({ groupRules }: Twins) =>
  (["ingress", "egress"] as const).every((direction) =>
    (["cidrIpv4", "cidrIpv6"] as const).every(
      (source) =>
        groupRules.filter((rule) => rule.direction === direction && rule.args[source] !== undefined).length <= quota,
    ),
  );

/**
 * What no packet from another machine can have as its source: "this network", loopback, link-local addresses (which are
 * only a neighbour's), multicast, reserved and broadcast addresses; the unspecified address and IPv4 addresses within
 * IPv6 (RFC 4291 §2.5.5). And the hosts' own network.
 */
const noSource = [
  ...["0.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "224.0.0.0/3", "198.51.100.0/24"],
  ...["::/96", "::ffff:0:0/96", "fe80::/10", "ff00::/8", "2001:db8:51::/48"],
];

/** The addresses at both sides of both ends of networks, in order, each once, without {@link noSource}. */
function edges(networks: Sources): string[] {
  const found = networks.flatMap((network) =>
    [network.first - 1n, network.first, last(network), last(network) + 1n]
      .filter((address) => address >= 0n && address < 1n << (network.family === 4 ? 32n : 128n))
      .map((address) => print(network.family, address)),
  );
  return [...new Set(found)].filter((address) => !noSource.some((network) => inside(address, network)));
}

// The client's own addresses, which no policy names: a policy that is open to all, or to nobody, has no edges.
const own = ["192.0.2.140", "2001:db8:140::1"];

type Packet = Omit<Probe, "target">;

/**
 * To each port of a policy, open or closed, from each edge of its networks and from some edges of the other ports'; to
 * the ports beside it, and over the other protocol, from a few.
 */
function packetsOf({ services, ssh, sshPorts, ports }: Policy): Packet[] {
  const named = [
    ...serviceNames.map((name) => ({ protocol: "tcp" as const, port: catalogue[name].port, from: services[name] })),
    ...sshPorts.map((port) => ({ protocol: "tcp" as const, port, from: ssh })),
    ...Object.values(ports),
  ];
  const everywhere = edges(named.flatMap(({ from }) => from));
  const found = named.flatMap(({ protocol, port, from }, i): Packet[] => {
    const theirs = edges(from);
    const others = everywhere.filter((_, j) => (i + j) % Math.ceil(everywhere.length / 8) === 0);
    const few = [...own, ...theirs.filter((_, j) => (i + j) % Math.ceil(theirs.length / 4) === 0)];
    return [
      ...[...theirs, ...others, ...own].map((source) => ({ source, protocol, port })),
      ...few.flatMap((source) => [
        ...[port - 1, port + 1].map((port) => ({ source, protocol, port })),
        { source, protocol: protocol === "tcp" ? ("udp" as const) : ("tcp" as const), port },
      ]),
    ];
  });
  return [...new Map(found.map((packet) => [name(packet), packet])).values()];
}

const name = ({ source, protocol, port }: Packet) => `${protocol}/${port} from ${source}`;
const familyOf = (address: string): Family => (address.includes(":") ? 6 : 4);

/** An address as text of 32 or 128 binary digits: the code under test reckons with numbers. */
function digits(address: string): string {
  if (!address.includes(":"))
    return address
      .split(".")
      .map((part) => binary(parseInt(part, 10), 8))
      .join("");
  const [head, tail] = address.split("::").map((half) => half.split(":").filter((part) => part !== ""));
  const missing = tail ? Array<string>(8 - head!.length - tail.length).fill("0") : [];
  return [...head!, ...missing, ...(tail ?? [])].map((part) => binary(parseInt(part, 16), 16)).join("");
}
const binary = (number: number, length: number) => number.toString(2).padStart(length, "0");

function inside(address: string, network: string): boolean {
  const [first, length] = network.split("/") as [string, string];
  const prefix = (text: string) => digits(text).slice(0, Number(length));
  return familyOf(address) === familyOf(first) && prefix(address) === prefix(first);
}

/** Of a rule of TCP or UDP. */
interface DescribedRule {
  IsEgress: boolean;
  IpProtocol: string;
  FromPort: number;
  ToPort: number;
  CidrIpv4?: string;
  CidrIpv6?: string;
}

/** What a group says about a packet, by what the API printed and first principles, without any code of the proof. */
function admits(rules: readonly DescribedRule[], { source, protocol, port }: Packet): boolean {
  return rules.some(
    ({ IsEgress, IpProtocol, FromPort, ToPort, CidrIpv4, CidrIpv6 }) =>
      !IsEgress &&
      IpProtocol === protocol &&
      FromPort <= port &&
      port <= ToPort &&
      inside(source, (CidrIpv4 ?? CidrIpv6)!),
  );
}

/** What each of the four says about a packet: whether it gets in. */
interface Verdicts {
  readonly packet: Packet;
  readonly kernel: boolean;
  readonly host: boolean;
  readonly api: boolean;
  readonly group: boolean;
}

let ec2: Ec2, vpcId: string, client: Client;
const hosts = {} as Record<"nft" | "legacy", MailHost>;

beforeAll(async () => {
  // Nobody listens but sshd: the kernel refuses what the firewall admitted, and what was dropped stays silent.
  const listen = { tcp: [], udp: [] };
  [ec2, client, hosts.nft, hosts.legacy] = await Promise.all([
    startEc2(),
    startClient(own),
    startMailHost({ backend: "nft", listen }),
    startMailHost({ backend: "legacy", listen }),
  ]);
  vpcId = await ec2.createVpc();
  for (const host of Object.values(hosts)) {
    await install(host);
    // The client is the way to the world: hosts need not look for each of its addresses.
    const routes = own.flatMap((router) => {
      const family = familyOf(router);
      return [
        `ip -${family} route delete default`,
        `ip -${family} route add ${router} dev eth0`,
        `ip -${family} route add default via ${router}`,
      ];
    });
    expect(await host.run(["set -e", ...routes].join("\n"))).toMatchObject({ code: 0, stderr: "" });
  }
});
afterAll(() => Promise.all([ec2?.close(), client?.close(), hosts.nft?.close(), hosts.legacy?.close()]));

async function load(host: MailHost, texts: Twins["texts"]): Promise<void> {
  const applied = await host.run(`${command} apply`, `# IPv4\n${texts[4]}# IPv6\n${texts[6]}# end\n`);
  expect(applied).toMatchObject({ code: 0, stderr: "" });
  expect(await host.run(`${command} confirm`, applied.stdout)).toMatchObject({ code: 0, stdout: "confirmed\n" });
}

/** A group with these rules, as `aws ec2 describe-security-group-rules` prints them. */
async function described(groupRules: readonly GroupRule[]): Promise<string> {
  const { client } = ec2;
  const { GroupId } = await client.createSecurityGroup({ GroupName: "policy", Description: "policy", VpcId: vpcId });
  const permissions = (direction: GroupRule["direction"]) =>
    groupRules
      .filter((rule) => rule.direction === direction)
      .map(({ args: { ipProtocol, fromPort, toPort, cidrIpv4, cidrIpv6, description: Description } }) => ({
        IpProtocol: ipProtocol,
        FromPort: fromPort,
        ToPort: toPort,
        ...(cidrIpv4 !== undefined && { IpRanges: [{ CidrIp: cidrIpv4, Description }] }),
        ...(cidrIpv6 !== undefined && { Ipv6Ranges: [{ CidrIpv6: cidrIpv6, Description }] }),
      }));
  try {
    // Every group is born with it.
    const everyone = { IpRanges: [{ CidrIp: "0.0.0.0/0" }], Ipv6Ranges: [{ CidrIpv6: "::/0" }] };
    await client.revokeSecurityGroupEgress({ GroupId, IpPermissions: [{ IpProtocol: "-1", ...everyone }] });
    // What is let out does not matter to what comes in, but it is in the list that is read back.
    const egress = permissions("egress");
    if (egress.length > 0) await client.authorizeSecurityGroupEgress({ GroupId, IpPermissions: egress });
    await client.authorizeSecurityGroupIngress({ GroupId, IpPermissions: permissions("ingress") });
    const filter = { Filters: [{ Name: "group-id", Values: [GroupId!] }] };
    const { SecurityGroupRules } = await client.describeSecurityGroupRules(filter);
    expect(SecurityGroupRules).toHaveLength(groupRules.length);
    return JSON.stringify({ SecurityGroupRules });
  } finally {
    await client.deleteSecurityGroup({ GroupId });
  }
}

const taken = new Set(own);

/** Loads both sides, and asks all four about packets. */
async function ask(host: MailHost, { texts, groupRules }: Twins, packets: readonly Packet[]): Promise<Verdicts[]> {
  const fresh = [...new Set(packets.map(({ source }) => source))].filter((source) => !taken.has(source));
  fresh.forEach((source) => taken.add(source));
  const [json] = await Promise.all([described(groupRules), load(host, texts), client.take(fresh)]);

  const targets = { 4: host.address4, 6: host.address6 };
  const fates = ([4, 6] as const).map((family) => {
    const to = parseAddress(targets[family]) as Cidr;
    return judge(parseRuleset(texts[family], family), "mangle", "MAILFW-IN", {
      in: "eth0",
      state: "NEW",
      local: true,
      to,
    });
  });
  const group = reach(parseGroupRules(json), "ingress").surely;
  const { SecurityGroupRules } = JSON.parse(json) as { SecurityGroupRules: DescribedRule[] };
  const probes = packets.map((packet) => ({ ...packet, target: targets[familyOf(packet.source)] }));
  const kernel = (await probe(client, probes, { timeoutMs: 300 })).map((verdict) => verdict !== "shut");
  const others = packets.map((packet) => {
    const { first } = parseAddress(packet.source) as Cidr;
    const family = familyOf(packet.source);
    const cell: Region = {
      family,
      protocols: protocol(packet.protocol),
      ports: [packet.port, packet.port],
      addresses: [first, first],
    };
    const { back: accept, drop } = fates[family === 4 ? 0 : 1]!(cell);
    expect(accept).toBe(!drop); // it depends on nothing
    return {
      packet,
      host: accept,
      group: group.some((one) => holds(one, cell)),
      api: admits(SecurityGroupRules, packet),
    };
  });
  // Silence is a matter of patience: a kernel whose rules should have let it answer is given more time.
  const doubted = packets.flatMap((_, i) => (others[i]!.host && !kernel[i] ? [i] : []));
  const again =
    doubted.length === 0
      ? []
      : await probe(
          client,
          doubted.map((i) => probes[i]!),
          { timeoutMs: 3000 },
        );
  doubted.forEach((i, j) => (kernel[i] = again[j] !== "shut"));
  return others.map((one, i) => ({ ...one, kernel: kernel[i]! }));
}

/** Packets of which one of these thinks otherwise than the first, in words. */
const disagreements = (verdicts: readonly Verdicts[], first: keyof Verdicts, ...those: (keyof Verdicts)[]) =>
  verdicts
    .filter((one) => those.some((that) => one[that] !== one[first]))
    .map(({ packet, ...rest }) => `${name(packet)}: ${JSON.stringify(rest)}`);

const policies = fc
  .oneof(policyArgs, edgyPolicyArgs)
  .map((args) => ({ args, twins: twinsOf(args) }))
  .filter(({ twins }) => fits(twins));

test.each(["nft", "legacy"] as const)(
  "iptables-%s, the group and the proof agree about every packet of random policies",
  async (backend) => {
    const seen = { admitted: 0, dropped: 0 };
    await fc.assert(
      fc.asyncProperty(policies, async ({ twins }) => {
        expect(differences(twins)).toEqual([]);
        const verdicts = await ask(hosts[backend], twins, packetsOf(twins.policy));
        expect(disagreements(verdicts, "kernel", "host", "api", "group")).toEqual([]);
        for (const { kernel } of verdicts) seen[kernel ? "admitted" : "dropped"]++;
      }),
      { numRuns: all ? 150 : 6, endOnFailure: true },
    );
    // Enough of both, so that agreement means something.
    expect(Math.min(seen.admitted, seen.dropped)).toBeGreaterThan(all ? 1_000 : 20);
  },
);

const example = twinsOf({
  services: { imap: ["10.140.0.0/16", "fd14::/48"], imaps: ["public"], pop3s: ["10.142.0.0/15"] },
  ssh: ["10.144.0.0/24", "fd14:0:1::/48"],
  ports: { wireguard: { protocol: "udp", port: 51820, from: ["10.140.0.0/16"] } },
});

/** One rule's text, changed on one side. */
const onHost = (family: Family, from: string | RegExp, to: string) => (): Twins => {
  const text = example.texts[family].replace(from, to);
  expect(text).not.toBe(example.texts[family]);
  return { ...example, texts: { ...example.texts, [family]: text } };
};
const inGroup = (name: string, change: Partial<GroupRule["args"]> | undefined) => (): Twins => {
  const i = example.groupRules.findIndex((rule) => rule.name === name);
  const rule = example.groupRules[i]!;
  return {
    ...example,
    groupRules: change
      ? example.groupRules.with(i, { ...rule, args: { ...rule.args, ...change } })
      : example.groupRules.toSpliced(i, 1),
  };
};

describe("what the proof says of one changed rule shows in packets", () => {
  test.each<[string, "found" | "harmless", () => Twins]>([
    ["a source one bit wider", "found", onHost(4, "-s 10.140.0.0/16 -p tcp", "-s 10.140.0.0/15 -p tcp")],
    ["a source one bit narrower", "found", onHost(6, "-s fd14::/48", "-s fd14::/49")],
    ["another port", "found", onHost(4, "--ctorigdstport 993", "--ctorigdstport 994")],
    [
      "another protocol",
      "found",
      onHost(4, "-p udp -m conntrack --ctorigdstport 51820", "-p tcp -m conntrack --ctorigdstport 51820"),
    ],
    ["a rule less", "found", onHost(6, /^-A MAILFW-IN .*--comment ssh -j RETURN\n/m, "")],
    ["a drop in place of a return", "found", onHost(4, /(?<=MAILFW-IN .*--comment ssh -j )RETURN/, "DROP")],
    ["nothing dropped", "found", onHost(6, "-A MAILFW-DROP -j DROP", "-A MAILFW-DROP -j RETURN")],
    [
      "the order of two that admit",
      "harmless",
      onHost(4, /^(-A MAILFW-OPEN .*\n)(-A MAILFW-OPEN .* -j RETURN\n)/m, "$2$1"),
    ],
    ["a rule twice", "harmless", onHost(6, /^(-A MAILFW-OPEN .*\n)/m, "$1$1")],
    ["nothing logged", "harmless", onHost(4, /^.* -j LOG .*\n/m, "")],
    [
      "a group's source one bit wider",
      "found",
      inGroup("ingress-tcp-995-10.142.0.0/15", { cidrIpv4: "10.140.0.0/14" }),
    ],
    ["a group's ports, one more", "found", inGroup("ingress-tcp-143-fd14--/48", { toPort: 144 })],
    ["a group's rule less", "found", inGroup("ingress-tcp-993-anywhere-ipv6", undefined)],
    ["a group's description", "harmless", inGroup("ingress-tcp-993-anywhere-ipv6", { description: "imaps" })],
  ])("%s: %s", async (_, verdict, mutated) => {
    const differs = verdict === "found";
    const twins = mutated();
    expect(differences(twins).length > 0).toBe(differs);
    const verdicts = await ask(hosts.nft, twins, packetsOf(example.policy));
    // Each side is still what its artefact says.
    expect(disagreements(verdicts, "kernel", "host")).toEqual([]);
    expect(disagreements(verdicts, "api", "group")).toEqual([]);
    expect(disagreements(verdicts, "kernel", "group").length > 0).toBe(differs);
  });
});
