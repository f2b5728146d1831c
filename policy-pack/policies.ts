import { reach, type CloudRule } from "../components/cloud/reach";
import { readExposure, type Exposed } from "../components/policy/exposure";
import { isRecord } from "../components/policy/faults";
import { addressesOf, allAddresses, protocol, without, type Region } from "../components/policy/regions";
import { catalogue } from "../components/policy/services";

/** A resource of a stack, as far as these policies look at it. */
export interface StackResource {
  readonly urn: string;
  readonly name: string;
  /** Its outputs, or in a preview what is known of them; to read what is not known throws. */
  readonly props: Readonly<Record<string, unknown>>;
  /** What each of its properties depends on, by URN. */
  readonly propertyDependencies: Readonly<Record<string, readonly string[]>>;
}

export interface Finding {
  /** Whose fault it is. */
  readonly urn: string;
  readonly message: string;
}

export interface StackPolicy {
  readonly name: string;
  readonly description: string;
  /** What happens unless the user says otherwise (`--policy-pack-config`): `mandatory` stops a deployment. */
  readonly enforcementLevel: "advisory" | "mandatory";
  readonly find: (resources: readonly StackResource[]) => Finding[];
  /**
   * What is wrong with the rules that are written inside of a security group, which its inputs alone tell: its outputs have those of
   * other resources, too, as they were after the last update.
   */
  readonly findInGroup?: (rules: readonly Region[]) => string[];
}

const types = {
  host: "mail-firewall:index:HostFirewall",
  group: "mail-firewall:index:MailSecurityGroup",
  command: "command:remote:Command",
  ingressRule: "aws:vpc/securityGroupIngressRule:SecurityGroupIngressRule",
  olderRule: "aws:ec2/securityGroupRule:SecurityGroupRule",
  groups: ["aws:ec2/securityGroup:SecurityGroup", "aws:ec2/defaultSecurityGroup:DefaultSecurityGroup"],
  instance: "aws:ec2/instance:Instance",
};

/** `urn:pulumi:stack::project::parent$type::name`: the types of a resource's parents, and at the end its own. */
const typesOf = ({ urn }: { urn: string }) => urn.split("::")[2]!.split("$");
const isA = (type: string) => (resource: StackResource) => typesOf(resource).at(-1) === type;
const isUnder = (type: string) => (resource: { urn: string }) => typesOf(resource).slice(0, -1).includes(type);

/** A property; undefined as long as it is not known. */
function known<T>(read: () => T): T | undefined {
  try {
    return read();
  } catch {
    return undefined;
  }
}

/** Whether everyone reaches a port over one of the families. */
function isOpenToAll(regions: readonly Region[], port: number): boolean {
  return ([4, 6] as const).some((family) => {
    const all = { family, protocols: protocol("tcp"), ports: [port, port], addresses: allAddresses[family] } as const;
    return without([all], regions).length === 0;
  });
}

function regionsOf(exposed: readonly Exposed[]): Region[] {
  return exposed.flatMap((one) =>
    one.ports.flatMap((port) =>
      one.sources.map((source) => ({
        family: source.family,
        protocols: protocol(one.protocol),
        ports: [port, port] as const,
        addresses: addressesOf(source),
      })),
    ),
  );
}

type Props = StackResource["props"];

const isIngressRule = (resource: StackResource) =>
  isA(types.ingressRule)(resource) ||
  (isA(types.olderRule)(resource) && known(() => resource.props.type) === "ingress");

/** The elements of a list that are known. */
function elements(read: () => unknown): unknown[] {
  const list = known(read);
  if (!Array.isArray(list)) return [];
  return Array.from({ length: list.length }, (_, i) => known(() => list[i] as unknown)).filter(
    (one) => one !== undefined,
  );
}

/** What a rule surely admits that is none of the components', in the words of any of AWS's resources. */
function ruleRegions(props: Props): readonly Region[] {
  const protocol_ = known(() => (props.ipProtocol ?? props.protocol) as string | number | undefined);
  const [fromPort, toPort] = [known(() => props.fromPort as number), known(() => props.toPort as number)];
  const cidrs = ["cidrIpv4", "cidrIpv6"].map((key) => known(() => props[key]));
  const lists = ["cidrBlocks", "ipv6CidrBlocks"].flatMap((key) => elements(() => props[key]));
  const networks = [...cidrs, ...lists].filter((one): one is string => typeof one === "string");
  const ipProtocol = String(protocol_).toLowerCase().replace(/^all$/, "-1"); // aws.ec2.ProtocolType
  if (protocol_ === undefined || (ipProtocol !== "-1" && (fromPort === undefined || toPort === undefined))) return [];
  return networks.flatMap((network) => {
    const rule: CloudRule = { direction: "ingress", ipProtocol, fromPort, toPort, networks: [network] };
    return known(() => reach([rule], "ingress").surely) ?? []; // AWS takes networks with host bits
  });
}

/** What the rules admit that are written inside of a security group. None for any other resource. */
export function groupRegions(type: string, props: Props): readonly Region[] {
  const rules = types.groups.includes(type) ? elements(() => props.ingress) : [];
  return rules.flatMap((rule) => (isRecord(rule) ? ruleRegions(rule) : []));
}

/** What each component, and each rule of a security group beside them, opens, with the port of SSH. */
function openings(resources: readonly StackResource[]): { urn: string; regions: readonly Region[]; ssh: number[] }[] {
  return resources.flatMap((resource) => {
    const exposed = readExposure(known(() => resource.props.exposure));
    if (exposed) {
      const ssh = exposed.filter(({ name }) => name === "ssh").flatMap(({ ports }) => ports);
      return [{ urn: resource.urn, regions: regionsOf(exposed), ssh }];
    }
    if (!isIngressRule(resource) || isUnder(types.group)(resource)) return [];
    return [{ urn: resource.urn, regions: ruleRegions(resource.props), ssh: [22] }];
  });
}

const plaintext = (regions: readonly Region[]) =>
  (["imap", "pop3"] as const)
    .filter((name) => isOpenToAll(regions, catalogue[name].port))
    .map(
      (name) =>
        `${name} (tcp/${catalogue[name].port}) is open to everyone; open ${name}s instead, or name the networks`,
    );

const publicSsh = (regions: readonly Region[], ports: readonly number[]) =>
  ports
    .filter((port) => isOpenToAll(regions, port))
    .map((port) => `ssh (tcp/${port}) is open to everyone; name the networks you work from`);

/** Whether a property of a resource is from what a component of this type has made. */
const isFrom = (type: string, { propertyDependencies }: StackResource, ...properties: string[]) =>
  properties.some((property) => propertyDependencies[property]?.some((urn) => isUnder(type)({ urn })));

/**
 * The instances that a host's firewall is deployed to: by their id, where it was given, or else by the address, which may be a
 * resource of its own.
 */
function deployedTo(resources: readonly StackResource[]): Set<string> {
  const byUrn = new Map(resources.map((resource) => [resource.urn, resource]));
  const found = new Set<string>();
  const follow = (urns: readonly string[]) => {
    for (const next of urns.map((urn) => byUrn.get(urn))) {
      if (!next || found.has(next.urn)) continue;
      found.add(next.urn);
      if (!isA(types.instance)(next)) follow(Object.values(next.propertyDependencies).flat());
    }
  };
  for (const { propertyDependencies } of resources.filter(isUnder(types.host))) {
    const { create = [], connection = [] } = propertyDependencies;
    follow(create.length > 0 ? create : connection);
  }
  return found;
}

export const policies: readonly StackPolicy[] = [
  {
    name: "no-public-plaintext-mail",
    description: "IMAP and POP3 on the ports that begin in plaintext are not open to everyone.",
    enforcementLevel: "mandatory",
    find: (resources) =>
      openings(resources).flatMap(({ urn, regions }) => plaintext(regions).map((message) => ({ urn, message }))),
    findInGroup: plaintext,
  },
  {
    name: "no-public-ssh",
    description: "SSH is not open to everyone.",
    enforcementLevel: "mandatory",
    find: (resources) =>
      openings(resources).flatMap(({ urn, regions, ssh }) =>
        publicSsh(regions, ssh).map((message) => ({ urn, message })),
      ),
    findInGroup: (regions) => publicSsh(regions, [22]),
  },
  {
    name: "mail-hosts-have-a-firewall",
    description: "An instance in a security group for mail has a firewall of its own, too.",
    enforcementLevel: "mandatory",
    find: (resources) => {
      const protected_ = deployedTo(resources);
      return resources
        .filter(isA(types.instance))
        .filter((instance) => isFrom(types.group, instance, "vpcSecurityGroupIds", "securityGroups"))
        .filter(({ urn }) => !protected_.has(urn))
        .map(({ urn, name }) => ({
          urn,
          message: `${name} is in a security group for mail and has no firewall of its own; add it: firewall.addHost("${name}", ...)`,
        }));
    },
  },
  {
    name: "no-rules-beside-the-policy",
    description: "Nothing else puts rules into a security group for mail.",
    enforcementLevel: "advisory",
    find: (resources) =>
      resources
        .filter(isIngressRule)
        .filter((rule) => !isUnder(types.group)(rule))
        .filter((rule) => isFrom(types.group, rule, "securityGroupId"))
        .map(({ urn, name }) => ({
          urn,
          message: `${name} opens more than the policy of the group says; put it into the policy ("ports"), or into another group`,
        })),
  },
  {
    name: "host-keys-are-checked",
    description: "Commands for a host go to the host with the key that was written down.",
    enforcementLevel: "mandatory",
    find: (resources) =>
      resources
        .filter((resource) => isA(types.command)(resource) && resource.name.endsWith("-install"))
        .filter(isUnder(types.host))
        .flatMap(({ urn, props }) =>
          (["connection", "proxy"] as const).flatMap((end) => {
            const connection = known(() => props.connection);
            const to = known(() => (end === "proxy" && isRecord(connection) ? connection.proxy : connection));
            if (!isRecord(to) || known(() => "hostKey" in to && to.hostKey !== "") !== false) return [];
            const whose = end === "proxy" ? "the bastion's key" : "the host's key";
            return [{ urn, message: `${whose} is not checked (insecureIgnoreHostKey); write down its hostKey` }];
          }),
        ),
  },
];
