/* eslint-disable @typescript-eslint/no-explicit-any, @typescript-eslint/no-unsafe-assignment, @typescript-eslint/no-unsafe-argument -- property bags of the engine */
import { randomBytes } from "node:crypto";
import { appendFileSync, readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { isIP, isIPv4, isIPv6 } from "node:net";
import { dirname, join } from "node:path";
import type * as Sdk from "@aws-sdk/client-ec2";
import type * as Dns from "@aws-sdk/client-route-53";
import type * as Messages from "@pulumi/pulumi/proto/provider_pb";
import type { CheckFailure, DiffResult, Provider } from "@pulumi/pulumi/provider/provider";
import type { Struct as Struct_ } from "google-protobuf/google/protobuf/struct_pb";

import { network } from "./network";

/**
 * A stand-in for the aws provider (plugin `resource-aws`) where plugins cannot be downloaded: the resources this project
 * uses, over any EC2 API (AWS_ENDPOINT_URL), with the real provider's checks in `check` (so: in previews) and AWS's own in
 * create and update (so: only in `up`). What depends on the state of a group (duplicates, quotas, groups in use) is
 * refused by the server: see ../ec2.ts. "tf" in comments is hashicorp/terraform-provider-aws, internal/service/ec2/.
 */
const STAND_IN = "the sandbox's stand-in for the aws provider";
const UNKNOWN = "04da6b54-80e4-46f7-96ec-b56ff0331ba9"; // `unknownValue` of @pulumi/pulumi/runtime/rpc
const SECRET = "4dabf18193072939515e22adb298388d"; // `specialSigKey` there
const load = createRequire(__filename); // `import` would load the AWS SDK at start: 0.2 s that a preview does not need

type Props = Record<string, any>;
type Tags = Record<string, string>;
type Rule = Props & { securityGroupId: string; ipProtocol: string };

const known = (v: unknown) => v !== undefined && v !== null && v !== UNKNOWN;
const given = (v: unknown) => v !== undefined && v !== null;
const same = (a: unknown, b: unknown) => JSON.stringify(sorted(a)) === JSON.stringify(sorted(b));
const compact = (p: Props): Props => Object.fromEntries(Object.entries(p).filter(([, v]) => given(v)));
const sorted = (v: unknown): unknown =>
  v && typeof v === "object" && !Array.isArray(v) ? Object.fromEntries(Object.entries(v).sort()) : (v ?? null);

// --- What the real schema has, read from the installed SDK

interface Schema {
  inputs: string[];
  required: string[];
}

function schemaOf(file: string): Schema {
  const text = readFileSync(join(dirname(load.resolve("@pulumi/aws/package.json")), `${file}.js`), "utf8");
  const args = text.slice(Math.max(0, text.indexOf("const args = argsOrState"))); // before it: `get`, which takes outputs
  const all = (pattern: RegExp) => [...args.matchAll(pattern)].map((m) => m[1]!);
  const inputs = all(/resourceInputs\["(\w+)"\] = (?!undefined \/\*out\*\/)/g);
  if (!inputs.length) throw new Error(`${STAND_IN} cannot read the properties of @pulumi/aws/${file}.js`);
  return { inputs, required: all(/Missing required property '(\w+)'/g) };
}

const GROUP = "aws:ec2/securityGroup:SecurityGroup";
const INGRESS = "aws:vpc/securityGroupIngressRule:SecurityGroupIngressRule";
const EGRESS = "aws:vpc/securityGroupEgressRule:SecurityGroupEgressRule";
const LIST = "aws:ec2/managedPrefixList:ManagedPrefixList";
const ATTACHMENT = "aws:ec2/networkInterfaceSecurityGroupAttachment:NetworkInterfaceSecurityGroupAttachment";
const schemas = new Map<string, Schema>();

function schema(type: string): Schema {
  if (![GROUP, INGRESS, EGRESS, LIST, ATTACHMENT].includes(type) && !network[type])
    throw new Error(`${STAND_IN} has no ${type}`);
  const file = /^aws:(.*):/.exec(type)![1]!;
  return schemas.get(type) ?? schemas.set(type, schemaOf(file)).get(type)!;
}

const typeOf = (urn: string) => urn.split("::")[2]!.split("$").pop()!;
const nameOf = (urn: string) => urn.split("::").slice(3).join("::");

// --- CIDRs, on purpose not with the code under test

/** RFC 5952, as AWS prints IPv6 addresses. */
const canonical = (v6: string) => new URL(`http://[${v6}]/`).hostname.slice(1, -1);

function bitsOf(address: string): bigint {
  if (isIPv4(address)) return address.split(".").reduce((n, octet) => (n << 8n) | BigInt(octet), 0n);
  const [head, tail] = canonical(address)
    .split("::")
    .map((half) => half.split(":").filter(Boolean));
  const groups = [...head!, ...Array<string>(8 - head!.length - (tail?.length ?? 0)).fill("0"), ...(tail ?? [])];
  return groups.reduce((n, group) => (n << 16n) | BigInt(`0x${group}`), 0n);
}

/** tf internal/verify/validate.go ValidateIPv4CIDRBlock, ValidateIPv6CIDRBlock, with their words. */
function cidrFault(cidr: string, family: 4 | 6): string | undefined {
  const [, address = "", length = ""] = /^([^/%]+)\/(0|[1-9]\d*)$/.exec(cidr) ?? [];
  const width = isIPv4(address) ? 32 : 128;
  if (!isIP(address) || Number(length) > width) return `"${cidr}" is not a valid CIDR block`;
  const mapped = isIPv6(address) && bitsOf(address) >> 32n === 0xffffn; // Go takes ::ffff:1.2.3.4 for IPv4
  if (isIPv4(address) !== (family === 4) || mapped) return `"${cidr}" is not a valid IPv${family} CIDR block`;
  if (bitsOf(address) & ((1n << BigInt(width - Number(length))) - 1n))
    return `"${cidr}" is not a valid IPv${family} CIDR block: it has host bits`;
  // The real provider accepts other spellings, AWS gives its own back, and every later preview shows a change.
  if (family === 6 && canonical(address) !== address)
    return `"${cidr}": AWS would give it back as "${canonical(address)}/${length}", a change in every later preview`;
  return undefined;
}

// --- The real provider's checks of one resource, in the words of its schema

const SOURCES = ["cidrIpv4", "cidrIpv6", "prefixListId", "referencedSecurityGroupId"];
const RULE_FIELDS = [...SOURCES, "description", "fromPort", "ipProtocol", "toPort"];
type Fault = (property: string, reason: string) => void;

/** tf vpc_security_group.go: the schema. A name that is not the provider's own begins a delete-before-replace. */
function checkGroup(p: Props, fault: Fault) {
  if (p.revokeRulesOnDelete) fault("revokeRulesOnDelete", `${STAND_IN} has no revokeRulesOnDelete`);
  if (given(p.name) && given(p.namePrefix)) fault("name", "conflicts with namePrefix");
  for (const [property, longest] of Object.entries({ name: 255, namePrefix: 229, description: 255 })) {
    const value: unknown = p[property];
    if (typeof value !== "string" || !known(value)) continue;
    if (value.length > longest)
      fault(property, `expected length to be in the range (0 - ${longest}), got ${value.length}`);
    if (property !== "description" && value.startsWith("sg-")) fault(property, "cannot begin with sg-");
  }
}

/** tf vpc_security_group_ingress_rule.go: Schema and ConfigValidators. The description has no validator there. */
function checkRule(p: Props, fault: Fault) {
  const set = SOURCES.filter((s) => given(p[s]));
  if (set.length !== 1) fault(set[1] ?? SOURCES[0]!, `exactly one of ${SOURCES.join(", ")} must be given`);
  for (const [property, family] of [["cidrIpv4", 4] as const, ["cidrIpv6", 6] as const]) {
    const reason = known(p[property]) && cidrFault(String(p[property]), family);
    if (reason) fault(property, reason);
  }
  for (const property of ["fromPort", "toPort"]) {
    const port: unknown = p[property];
    if (!known(port)) continue;
    if (!Number.isInteger(port)) fault(property, `expected an integer, got ${JSON.stringify(port)}`);
    else if ((port as number) < -1 || (port as number) > 65535)
      fault(property, `value must be between -1 and 65535, got: ${String(port)}`);
  }
}

/** tf vpc_managed_prefix_list.go. Minimal. */
function checkList(p: Props, fault: Fault) {
  const entries = Array.isArray(p.entries) ? (p.entries as Props[]) : [];
  if (known(p.addressFamily) && !["IPv4", "IPv6"].includes(String(p.addressFamily)))
    fault("addressFamily", 'expected one of ["IPv4" "IPv6"]');
  else
    for (const { cidr } of entries.filter((e) => known(e.cidr))) {
      const reason = cidrFault(String(cidr), p.addressFamily === "IPv6" ? 6 : 4);
      if (reason) fault("entries", reason);
    }
  if (typeof p.maxEntries === "number" && p.maxEntries < 1) fault("maxEntries", "expected to be at least 1");
}

// --- AWS's own refusals: in `up` only, as with the real provider

class AwsError extends Error {
  constructor(code: string, message: string) {
    super(message);
    this.name = code;
  }
}

const invalid = (message: string) => new AwsError("InvalidParameterValue", message);

/**
 * The characters of the VPC user guide, "Security group rules"; the API reference (IpRange) has `&` too, so that one who
 * keeps to these is safe with both. Both allow 255.
 */
function refuseText(what: string, text: unknown) {
  if (typeof text === "string" && !/^[a-zA-Z0-9 ._\-:/()#,@[\]+=;{}!$*]{0,255}$/.test(text))
    throw invalid(
      `Invalid ${what}. Valid ${what}s are strings less than 256 characters from the following set: ` +
        "a-zA-Z0-9 ._-:/()#,@[]+=;{}!$*",
    );
}

/** IANA numbers and names that AWS takes for the same (tf protocolForValue; AWS gives the name back). */
function protocolOf(v: unknown): string {
  const names: Tags = { "1": "icmp", "6": "tcp", "17": "udp", "58": "icmpv6", all: "-1" };
  const lower = String(v).toLowerCase();
  return names[lower] ?? lower;
}

/** EC2 API reference: IpPermission, SecurityGroupRuleRequest. moto takes all of these. */
function refuseRule(rule: Rule) {
  const protocol = protocolOf(rule.ipProtocol);
  const { fromPort: from, toPort: to } = rule as { fromPort?: number; toPort?: number };
  refuseText("rule description", rule.description);
  if (!/^(tcp|udp|icmp|icmpv6|-1)$/.test(protocol) && !(/^\d+$/.test(protocol) && Number(protocol) < 256))
    throw invalid(`Invalid value '${rule.ipProtocol}' for IP protocol. Unknown protocol.`);
  if (protocol === "-1") {
    // AWS ignores the ports on create, then the real provider sees a change for ever and its update fails (tf #30035).
    if (given(from) || given(to)) throw invalid("Invalid value for portRange. Ports cannot be given with protocol -1.");
    return;
  }
  if (given(from) !== given(to) || (!given(from) && /^(tcp|udp|icmp)$/.test(protocol)))
    throw invalid(`Invalid value for portRange. Must specify both from and to ports with ${protocol.toUpperCase()}.`);
  if (from === undefined || to === undefined) return; // "For icmpv6, the port range is optional"
  if (protocol === "tcp" || protocol === "udp") {
    for (const port of [from, to]) if (port < 0) throw invalid(`TCP/UDP port (${port}) out of range`);
    if (from > to) throw invalid(`Invalid value '${from}-${to}' for portRange: the first port is above the last.`);
  } else if (protocol.startsWith("icmp")) {
    // Type and code, -1 is any: "If you specify all ICMP types, you must specify all ICMP codes."
    for (const n of [from, to]) if (n > 255) throw invalid(`ICMP type or code (${n}) out of range`);
    if (from === -1 && to !== -1) throw invalid(`ICMP code (${to}) without an ICMP type.`);
    if (given(protocol === "icmp" ? rule.cidrIpv6 : rule.cidrIpv4))
      throw invalid(`${protocol} with a CIDR of the other family matches nothing.`); // AWS: not documented; never meant
  }
}

/** "creating VPC Security Group Rule: operation error EC2: AuthorizeSecurityGroupIngress, api error X.Y: …" */
function explain(what: string, action: string, error: unknown): Error {
  const { name, message } = error as Error;
  return new Error(`${what}: operation error EC2: ${action}, api error ${name}: ${message}`);
}

const GONE = [
  "InvalidGroup.NotFound",
  "InvalidSecurityGroupRuleId.NotFound",
  "InvalidPrefixListID.NotFound",
  "InvalidNetworkInterfaceID.NotFound",
];
const codeIs = (error: unknown, ...codes: string[]) => codes.includes((error as Error).name);
const toAws = (tags: Tags) => Object.entries(tags).map(([Key, Value]) => ({ Key, Value }));
const fromAws = (tags: Sdk.Tag[] = []): Tags => Object.fromEntries(tags.map((t) => [t.Key!, t.Value ?? ""]));
const tagSpec = (type: Sdk.ResourceType, tags: Tags) =>
  Object.keys(tags).length ? { TagSpecifications: [{ ResourceType: type, Tags: toAws(tags) }] } : {};

// --- The provider

/** Provider options that are honoured, and those that change nothing here. Others are refused. */
const OPTIONS = ["region", "accessKey", "secretKey", "token", "defaultTags", "endpoints"];
const NO_EFFECT =
  /^(skip.*|maxRetries|retryMode|userAgents|tokenBucketRateLimiterCapacity|version|pluginDownloadURL|__.*)$/;

export class AwsStandIn implements Provider {
  readonly version = (load("@pulumi/aws/package.json") as { version: string }).version;
  private config: Props = {};
  private readonly clients = new Map<string, Sdk.EC2>();
  private readonly turns = new Map<string, Promise<void>>();

  checkConfig(config: Props): CheckFailure[] {
    const { inputs } = schemaOf("provider");
    return Object.entries(config).flatMap(([property, value]) => {
      if (NO_EFFECT.test(property) || !given(value)) return [];
      if (!inputs.includes(property)) return [{ property, reason: `the aws provider has no option "${property}"` }];
      return OPTIONS.includes(property)
        ? []
        : [{ property, reason: `${STAND_IN} has no provider option "${property}"` }];
    });
  }

  configure(config: Props) {
    for (const { reason } of this.checkConfig(config)) throw new Error(reason);
    this.config = config;
  }

  private get region(): string {
    const region = (this.config.region ?? process.env.AWS_REGION ?? process.env.AWS_DEFAULT_REGION) as
      string | undefined;
    if (!region) throw new Error("invalid AWS Region: set aws:region or AWS_REGION");
    return region;
  }

  /** Objects in the provider's options arrive as JSON (provider.js). */
  private option<T>(name: string): T | undefined {
    const value: unknown = this.config[name];
    return (typeof value === "string" ? JSON.parse(value) : value) as T | undefined;
  }

  private client(region: string = this.region): Sdk.EC2 {
    const existing = this.clients.get(region);
    if (existing) return existing;
    process.env.AWS_SDK_JS_NODE_VERSION_SUPPORT_WARNING_DISABLED ??= "true"; // stderr of a plugin ends in the preview
    const { EC2 } = load("@aws-sdk/client-ec2") as typeof Sdk;
    const { accessKey: accessKeyId, secretKey: secretAccessKey, token: sessionToken } = this.config;
    const endpoint = this.option<{ ec2?: string }[]>("endpoints")?.find((e) => e.ec2)?.ec2;
    const credentials = accessKeyId && secretAccessKey ? { accessKeyId, secretAccessKey, sessionToken } : undefined;
    const client = new EC2({ region, ...(endpoint && { endpoint }), ...(credentials && { credentials }) });
    client.middlewareStack.add(
      (next, context) => async (args) => {
        const log = process.env.MAILFW_EC2_LOG;
        const request = { call: context.commandName?.replace(/Command$/, ""), input: args.input };
        const write = (answered: boolean) =>
          log && appendFileSync(log, `${JSON.stringify({ ...request, answered })}\n`);
        write(false);
        const answer = await next(args);
        write(true);
        return answer;
      },
      { step: "initialize" },
    );
    this.clients.set(region, client);
    return client;
  }

  private clientsFor(props: Props, tags: Tags) {
    const { Route53 } = load("@aws-sdk/client-route-53") as typeof Dns;
    const region = (props.region as string | undefined) ?? this.region;
    return {
      ec2: this.client(region),
      dns: new Route53({ region }),
      tags: (type: Sdk.ResourceType) => tagSpec(type, tags),
    };
  }

  private tagsAll(inputs: Props): Tags | typeof UNKNOWN {
    const own = (inputs.tags ?? {}) as Tags | typeof UNKNOWN;
    return own === UNKNOWN ? own : { ...this.option<{ tags?: Tags }>("defaultTags")?.tags, ...own };
  }

  check(urn: string, olds: Props, news: Props): Promise<{ inputs: Props; failures: CheckFailure[] }> {
    const type = typeOf(urn);
    const { inputs: names, required } = schema(type);
    const inputs: Props = compact(news);
    const failures: CheckFailure[] = [];
    const fault: Fault = (property, reason) => void failures.push({ property, reason });
    for (const name of Object.keys(inputs).filter((n) => !n.startsWith("__"))) {
      if (!names.includes(name)) fault(name, `unknown property: ${type} has no input "${name}"`);
      else if (
        !network[type] &&
        /Ids?$|^cidr|^description$|^name|^ipProtocol$|^region$/.test(name) &&
        typeof inputs[name] !== "string"
      )
        fault(name, `expected a string, got ${JSON.stringify(inputs[name])}`);
    }
    for (const name of required.filter((r) => !given(inputs[r]))) fault(name, "missing required property");
    if (type !== ATTACHMENT && !network[type])
      (type === GROUP ? checkGroup : type === LIST ? checkList : checkRule)(inputs, fault);

    // pulumi-aws provider/region.go applyRegion
    inputs.region ??= this.region;
    if (type === GROUP || type === LIST) {
      // pulumi-terraform-bridge pkg/tfbridge/schema.go "default values": __defaults says which inputs are not the user's
      const defaults: string[] = [];
      const fill = (property: string, value: string | boolean) => {
        if (given(inputs[property])) return;
        const before = ((olds?.__defaults ?? []) as string[]).includes(property);
        inputs[property] = before ? (olds[property] as unknown) : value;
        defaults.push(property);
      };
      // pulumi-aws provider/autonaming.go: the logical name, "-", 7 hex digits
      if (!given(inputs.namePrefix)) fill("name", `${nameOf(urn)}-${randomBytes(4).toString("hex").slice(0, 7)}`);
      if (type === GROUP) fill("description", "Managed by Pulumi");
      if (type === GROUP) fill("revokeRulesOnDelete", false);
      inputs.__defaults = defaults;
    }
    return Promise.resolve({ inputs, failures });
  }

  diff(_id: string, urn: string, olds: Props, news: Props): Promise<DiffResult> {
    const type = typeOf(urn);
    const differs = (property: string) => !same(olds[property], news[property]);
    // Optional and computed: nothing given is no change
    const named = (properties: string[]) => properties.filter((p) => given(news[p]) && differs(p));
    let replaces: string[];
    let changes =
      type !== ATTACHMENT && (!same(olds.tags ?? {}, news.tags ?? {}) || !same(olds.tagsAll ?? {}, this.tagsAll(news)));
    if (type === GROUP) {
      replaces = named(["name", "namePrefix", "description", "vpcId", "region"]);
      changes ||= differs("revokeRulesOnDelete");
    } else if (type === LIST) {
      replaces = named(["addressFamily", "region"]);
      changes ||= differs("name") || differs("maxEntries") || !same(listEntries(olds), listEntries(news));
    } else if (network[type]) {
      const { computed, inPlace = [], refuse } = network[type];
      const changed = schema(type).inputs.filter(
        (p) => !/^tags$|^region$/.test(p) && differs(p) && (given(news[p]) || !computed.includes(p)),
      );
      const refused = refuse?.(changed, news);
      if (refused) return Promise.reject(new Error(`${STAND_IN} ${refused}`));
      replaces = changed.filter((p) => !inPlace.includes(p));
      changes ||= changed.length > 0;
    } else if (type === ATTACHMENT) {
      replaces = named(["networkInterfaceId", "securityGroupId", "region"]);
    } else {
      replaces = [...(differs("securityGroupId") ? ["securityGroupId"] : []), ...named(["region"])];
      // tf ModifyPlan: "When you modify a rule, you cannot change the rule's source type."
      const [before, after] = [olds, news].map((p) => SOURCES.find((s) => given(p[s])));
      if (before !== after) replaces.push(...[before, after].filter((s) => s !== undefined));
      changes ||= RULE_FIELDS.some((f) =>
        f === "ipProtocol" ? protocolOf(olds[f]) !== protocolOf(news[f]) : differs(f),
      );
    }
    // pulumi-terraform-bridge nameRequiresDeleteBeforeReplace: two things cannot have one explicit name
    const explicit = given(news.name) && !((news.__defaults ?? []) as string[]).includes("name");
    const deleteBeforeReplace = replaces.length > 0 && explicit;
    return Promise.resolve({ changes: changes || replaces.length > 0, replaces, deleteBeforeReplace });
  }

  async create(urn: string, inputs: Props, preview = false): Promise<{ id: string; outs: Props }> {
    const type = typeOf(urn);
    schema(type);
    if (type === ATTACHMENT) return preview ? { id: "", outs: inputs } : this.attach(inputs);
    const tagsAll = this.tagsAll(inputs);
    if (preview) {
      const computed = {
        [GROUP]: ["name", "namePrefix", "vpcId", "ownerId", "ingress", "egress"],
        [LIST]: ["ownerId", "version"],
      }[type] ??
        network[type]?.computed ?? ["securityGroupRuleId"];
      const unknown = Object.fromEntries(["arn", ...computed].map((property) => [property, UNKNOWN]));
      return { id: "", outs: { ...unknown, ...inputs, tagsAll } };
    }
    if (type === GROUP) return this.createGroup(inputs, tagsAll as Tags);
    if (type === LIST) return this.createList(inputs, tagsAll as Tags);
    if (network[type]) {
      const { id, outs } = await network[type].create(inputs, this.clientsFor(inputs, tagsAll as Tags));
      return { id, outs: { ...inputs, ...outs, tagsAll } };
    }

    const rule = inputs as Rule;
    const egress = type === EGRESS;
    const action = egress ? "AuthorizeSecurityGroupEgress" : "AuthorizeSecurityGroupIngress";
    try {
      refuseRule(rule);
      const request = {
        GroupId: rule.securityGroupId,
        IpPermissions: [permission(rule)],
        ...tagSpec("security-group-rule", tagsAll as Tags),
      };
      const client = this.client(rule.region);
      const made = await (egress
        ? client.authorizeSecurityGroupEgress(request)
        : client.authorizeSecurityGroupIngress(request));
      const { SecurityGroupRuleId: id, GroupOwnerId: owner } = made.SecurityGroupRules![0]!;
      const arn = ruleArn(rule.region, owner, id!);
      return { id: id!, outs: { ...inputs, arn, securityGroupRuleId: id, tagsAll } };
    } catch (error) {
      throw explain("creating VPC Security Group Rule", action, error);
    }
  }

  /** tf vpc_security_group.go resourceSecurityGroupCreate */
  private async createGroup(inputs: Props, tagsAll: Tags) {
    const { namePrefix, description, vpcId, region, ingress, egress } = inputs;
    if (given(ingress) || given(egress))
      throw new Error(`${STAND_IN} has no inline rules: use SecurityGroup{Ingress,Egress}Rule`);
    const name = (inputs.name as string | undefined) ?? namePrefix + uniqueSuffix();
    const client = this.client(region);
    const { GroupId: id } = await (async () => {
      refuseText("security group name", name);
      refuseText("security group description", description);
      const spec = tagSpec("security-group", tagsAll);
      return client.createSecurityGroup({ GroupName: name, Description: description, VpcId: vpcId, ...spec });
    })().catch((error: unknown) => {
      throw explain(`creating Security Group (${name})`, "CreateSecurityGroup", error);
    });
    try {
      await client.describeSecurityGroups({ GroupIds: [id!] });
      // "AWS defaults all Security Groups to have an ALLOW ALL egress rule. Here we revoke that rule"
      for (const range of [{ IpRanges: [{ CidrIp: "0.0.0.0/0" }] }, { Ipv6Ranges: [{ CidrIpv6: "::/0" }] }]) {
        const everything = { IpProtocol: "-1", FromPort: 0, ToPort: 0, ...range };
        await client.revokeSecurityGroupEgress({ GroupId: id, IpPermissions: [everything] }).catch((error: unknown) => {
          const noIpv6 = "Ipv6Ranges" in range && codeIs(error, "InvalidPermission.NotFound", "InvalidParameterValue");
          if (!noIpv6) throw explain(`revoking default egress rule for ${id}`, "RevokeSecurityGroupEgress", error);
        });
      }
      const { props } = await this.read(id!, `::::${GROUP}::`, inputs);
      return { id: id!, outs: props };
    } catch (error) {
      // The group exists: the engine keeps it as failed, so that nothing is lost
      throw Object.assign(error as Error, { id, properties: inputs, reasons: [(error as Error).message] });
    }
  }

  async update(id: string, urn: string, olds: Props, news: Props, preview = false): Promise<{ outs: Props }> {
    const type = typeOf(urn);
    const tagsAll = this.tagsAll(news);
    // What stays as it is stays known: all computed outputs but the list's version
    const { inputs } = schema(type);
    const keep = Object.fromEntries(
      Object.entries(olds).filter(([k]) => !inputs.includes(k) || /^(ingress|egress|vpcId|name|namePrefix)$/.test(k)),
    );
    const outs = { ...keep, ...news, tagsAll };
    const otherEntries = type === LIST && !same(listEntries(olds), listEntries(news));
    if (preview) return { outs: otherEntries ? { ...outs, version: UNKNOWN } : outs };
    const client = this.client(news.region);
    if (network[type]) {
      const clients = this.clientsFor(news, tagsAll as Tags);
      const moved = schema(type).inputs.some((p) => network[type]!.inPlace?.includes(p) && !same(olds[p], news[p]));
      if (moved) Object.assign(outs, await network[type].update!(id, news, olds, clients));
    }
    if (type === LIST) {
      await changeList(client, id, olds, news).catch((error: unknown) => {
        throw explain(`updating EC2 Managed Prefix List (${id})`, "ModifyManagedPrefixList", error);
      });
    }
    if (type !== LIST && type !== GROUP && RULE_FIELDS.some((f) => !same(olds[f], news[f]))) {
      const rule = news as Rule;
      try {
        refuseRule(rule);
        const changed = [{ SecurityGroupRuleId: id, SecurityGroupRule: wholeRule(rule) }];
        await client.modifySecurityGroupRules({ GroupId: rule.securityGroupId, SecurityGroupRules: changed });
      } catch (error) {
        throw explain(`updating VPC Security Group Rule (${id})`, "ModifySecurityGroupRules", error);
      }
    }
    await this.retag(client, id, (olds.tagsAll ?? {}) as Tags, tagsAll as Tags);
    return { outs: type === GROUP || type === LIST ? (await this.read(id, urn, outs)).props : outs };
  }

  private async retag(client: Sdk.EC2, id: string, before: Tags, after: Tags) {
    const gone = Object.keys(before).filter((k) => !(k in after));
    const changed = Object.fromEntries(Object.entries(after).filter(([k, v]) => before[k] !== v));
    if (gone.length) await client.deleteTags({ Resources: [id], Tags: gone.map((Key) => ({ Key })) });
    if (Object.keys(changed).length) await client.createTags({ Resources: [id], Tags: toAws(changed) });
  }

  /** The live state; gone is an empty id. `oldInputs` become inputs again with what is live (the bridge does the same). */
  async read(
    id: string,
    urn: string,
    olds: Props = {},
    oldInputs?: Props,
  ): Promise<{ id: string; props: Props; inputs?: Props }> {
    const type = typeOf(urn);
    const { inputs: names } = schema(type);
    if (network[type]) throw new Error(`${STAND_IN} cannot read a ${type}: no refresh, no import`);
    const region = (olds.region as string | undefined) ?? this.region;
    const client = this.client(region);
    const live = await (
      type === ATTACHMENT
        ? readAttachment(client, id)
        : type === GROUP
          ? readGroup(client, id)
          : type === LIST
            ? readList(client, id)
            : readRule(client, id, type === EGRESS, olds)
    ).catch((error: unknown) => {
      if (codeIs(error, ...GONE)) return undefined;
      throw explain(`reading ${type} (${id})`, "Describe", error);
    });
    if (!live) return { id: "", props: {} };
    const { allTags, ...state } = live as Props & { allTags?: Tags };
    const defaults = this.option<{ tags?: Tags }>("defaultTags")?.tags ?? {};
    const mine = (olds.tags ?? {}) as Tags;
    const tags = Object.fromEntries(Object.entries(allTags ?? {}).filter(([k, v]) => k in mine || defaults[k] !== v));
    const noTags = !Object.keys(tags).length && !given(olds.tags); // none planned and none found is none, not {}
    const kept =
      type === GROUP ? { revokeRulesOnDelete: (olds.revokeRulesOnDelete as boolean | undefined) ?? false } : {};
    const props = compact({ ...kept, ...state, region, tags: noTags ? undefined : tags, tagsAll: allTags });
    const imported = !oldInputs || !Object.keys(oldInputs).length;
    const inputs = Object.fromEntries(
      Object.entries({ ...props, __defaults: oldInputs?.__defaults as unknown })
        .filter(([k, v]) => given(v) && (k === "__defaults" || (names.includes(k) && !/^(in|e)gress$/.test(k))))
        .filter(([k]) => imported || k in oldInputs),
    );
    return { id, props, inputs };
  }

  async delete(id: string, urn: string, props: Props): Promise<void> {
    const type = typeOf(urn);
    schema(type);
    const client = this.client(props.region);
    if (type === ATTACHMENT) return this.detach(id, props);
    if (network[type]) return void (await network[type].delete(id, props, this.clientsFor(props, {})));
    const action = type === GROUP ? "DeleteSecurityGroup" : type === LIST ? "DeleteManagedPrefixList" : "Revoke";
    try {
      if (type === GROUP) {
        // tf deleteLingeringENIs asks first, then tries for 15 minutes; here it fails at once
        const filter = { Filters: [{ Name: "group-id", Values: [id] }] };
        const { NetworkInterfaces } = await client.describeNetworkInterfaces(filter);
        if (NetworkInterfaces?.length)
          throw new AwsError("DependencyViolation", `resource ${id} has a dependent object`);
        await client.deleteSecurityGroup({ GroupId: id });
      } else if (type === LIST) await client.deleteManagedPrefixList({ PrefixListId: id });
      else {
        const request = { GroupId: (props as Rule).securityGroupId, SecurityGroupRuleIds: [id] };
        await (type === EGRESS
          ? client.revokeSecurityGroupEgress(request)
          : client.revokeSecurityGroupIngress(request));
      }
    } catch (error) {
      if (!codeIs(error, ...GONE)) throw explain(`deleting ${type} (${id})`, action, error);
    }
  }

  /** tf vpc_network_interface_sg_attachment.go: there is no call for one group, only for all of an interface. */
  private async attach(inputs: Props) {
    const { networkInterfaceId: eni, securityGroupId: group, region } = inputs;
    const client = this.client(region);
    await this.alone(eni, async () => {
      const groups = await groupsOf(client, eni);
      if (groups.includes(group))
        throw new Error(`EC2 Security Group (${group}) already attached to EC2 Network Interface (${eni})`);
      await client.modifyNetworkInterfaceAttribute({ NetworkInterfaceId: eni, Groups: [group!, ...groups] });
    }).catch((error: unknown) => {
      throw explain(`modifying EC2 Network Interface (${eni})`, "ModifyNetworkInterfaceAttribute", error);
    });
    return { id: `${group}_${eni}`, outs: inputs };
  }

  private async detach(id: string, props: Props) {
    const { networkInterfaceId: eni, securityGroupId: group, region } = props;
    const client = this.client(region);
    await this.alone(eni, async () => {
      const Groups = (await groupsOf(client, eni)).filter((one) => one !== group);
      // moto would keep the last one silently
      if (!Groups.length) throw new AwsError("InvalidParameterCombination", "No attributes specified.");
      await client.modifyNetworkInterfaceAttribute({ NetworkInterfaceId: eni, Groups });
    }).catch((error: unknown) => {
      if (!codeIs(error, ...GONE)) throw explain(`deleting ${ATTACHMENT} (${id})`, "ModifyNetworkInterface", error);
    });
  }

  /** tf conns.GlobalMutexKV: what is read, changed and written back must not change in between. */
  private async alone(key: string, action: () => Promise<void>): Promise<void> {
    const turn = (this.turns.get(key) ?? Promise.resolve()).then(action);
    this.turns.set(
      key,
      turn.catch(() => {}),
    );
    return turn;
  }

  private async createList(inputs: Props, tagsAll: Tags) {
    const { name, addressFamily, region } = inputs;
    const Entries = listEntries(inputs).map((e) => ({ Cidr: e.cidr, Description: e.description }));
    try {
      if (Entries.length > Number(inputs.maxEntries))
        throw new AwsError("PrefixListMaxEntriesExceeded", `${Entries.length} entries, ${inputs.maxEntries} allowed`);
      const request = { PrefixListName: name, AddressFamily: addressFamily, MaxEntries: inputs.maxEntries, Entries };
      const spec = tagSpec("prefix-list", tagsAll);
      const { PrefixList } = await this.client(region).createManagedPrefixList({ ...request, ...spec });
      const id = PrefixList!.PrefixListId!;
      return { id, outs: (await this.read(id, `::::${LIST}::`, inputs)).props };
    } catch (error) {
      throw explain(`creating EC2 Managed Prefix List (${name})`, "CreateManagedPrefixList", error);
    }
  }
}

/** tf vpc_security_group_ingress_rule.go expandIPPermission */
function permission(rule: Rule): Sdk.IpPermission {
  const { cidrIpv4, cidrIpv6, prefixListId, referencedSecurityGroupId: group, description: Description } = rule as Tags;
  const [GroupId, UserId] = (group ?? "").split("/").reverse();
  return {
    IpProtocol: rule.ipProtocol,
    FromPort: rule.fromPort,
    ToPort: rule.toPort,
    ...(given(cidrIpv4) && { IpRanges: [{ CidrIp: cidrIpv4, Description }] }),
    ...(given(cidrIpv6) && { Ipv6Ranges: [{ CidrIpv6: cidrIpv6, Description }] }),
    ...(given(prefixListId) && { PrefixListIds: [{ PrefixListId: prefixListId, Description }] }),
    ...(given(group) && { UserIdGroupPairs: [{ GroupId, UserId, Description }] }),
  };
}

/** tf expandSecurityGroupRuleRequest: a change always sends the whole rule, an account before the group's id too */
function wholeRule(rule: Rule): Sdk.SecurityGroupRuleRequest {
  const { cidrIpv4: CidrIpv4, cidrIpv6: CidrIpv6, prefixListId: PrefixListId, description: Description } = rule;
  const { referencedSecurityGroupId: ReferencedGroupId, ipProtocol: IpProtocol, fromPort, toPort } = rule;
  const source = { CidrIpv4, CidrIpv6, PrefixListId, ReferencedGroupId };
  return { ...source, Description, IpProtocol, FromPort: fromPort, ToPort: toPort };
}

const ruleArn = (region: string, owner = "", id: string) => `arn:aws:ec2:${region}:${owner}:security-group-rule/${id}`;
/** terraform-plugin-sdk helper/id: a time stamp and a counter, 26 digits */
const uniqueSuffix = () => new Date().toISOString().replace(/\D/g, "").padEnd(18, "0") + randomBytes(4).toString("hex");
const listEntries = (p: Props) =>
  ((p.entries ?? []) as Tags[]).map((e) => compact(e)).sort((a, b) => (a.cidr! < b.cidr! ? -1 : 1));

/** tf securityGroupRuleResource.Read: one call for each rule */
async function readRule(client: Sdk.EC2, id: string, egress: boolean, olds: Props): Promise<Props | undefined> {
  const { SecurityGroupRules } = await client.describeSecurityGroupRules({ SecurityGroupRuleIds: [id] });
  const rule = SecurityGroupRules?.find((r) => r.IsEgress === egress);
  if (!rule) return undefined;
  // "If planned from_port or to_port are null and values of -1 are returned, propagate null."
  const port = (live: number | undefined, planned: unknown) => (live === -1 && !given(planned) ? undefined : live);
  const sameProtocol = protocolOf(olds.ipProtocol) === rule.IpProtocol;
  return {
    arn: ruleArn(await client.config.region(), rule.GroupOwnerId, id),
    cidrIpv4: rule.CidrIpv4,
    cidrIpv6: rule.CidrIpv6,
    prefixListId: rule.PrefixListId,
    referencedSecurityGroupId: rule.ReferencedGroupInfo?.GroupId,
    description: rule.Description,
    fromPort: port(rule.FromPort, olds.fromPort),
    toPort: port(rule.ToPort, olds.toPort),
    ipProtocol: sameProtocol ? (olds.ipProtocol as string) : rule.IpProtocol,
    securityGroupId: rule.GroupId,
    securityGroupRuleId: id,
    allTags: fromAws(rule.Tags),
  };
}

async function readGroup(client: Sdk.EC2, id: string): Promise<Props> {
  const { SecurityGroups } = await client.describeSecurityGroups({ GroupIds: [id] });
  const group = SecurityGroups![0]!;
  return {
    arn: `arn:aws:ec2:${await client.config.region()}:${group.OwnerId}:security-group/${id}`,
    description: group.Description,
    name: group.GroupName,
    namePrefix: /^(.*)\d{18}[0-9a-f]{8}$/.exec(group.GroupName!)?.[1] ?? "",
    ownerId: group.OwnerId,
    vpcId: group.VpcId,
    ingress: gather(id, group.IpPermissions),
    egress: gather(id, group.IpPermissionsEgress),
    allTags: fromAws(group.Tags),
  };
}

/**
 * tf securityGroupIPPermGather: the group's outputs `ingress` and `egress` hold the rules of the rule resources too, so a
 * refresh after a change of rules reports the group as changed, like the real provider.
 */
function gather(groupId: string, permissions: Sdk.IpPermission[] = []) {
  const rules = new Map<
    string,
    Props & Record<"cidrBlocks" | "ipv6CidrBlocks" | "prefixListIds" | "securityGroups", string[]>
  >();
  for (const { IpProtocol: protocol, FromPort: fromPort = 0, ToPort: toPort = 0, ...p } of permissions) {
    const rule = (description = "") => {
      const key = JSON.stringify([protocol, fromPort, toPort, description]);
      const empty = { cidrBlocks: [], ipv6CidrBlocks: [], prefixListIds: [], securityGroups: [], self: false };
      return rules.get(key) ?? rules.set(key, { ...empty, description, protocol, fromPort, toPort }).get(key)!;
    };
    for (const r of p.IpRanges ?? []) rule(r.Description).cidrBlocks.push(r.CidrIp!);
    for (const r of p.Ipv6Ranges ?? []) rule(r.Description).ipv6CidrBlocks.push(r.CidrIpv6!);
    for (const r of p.PrefixListIds ?? []) rule(r.Description).prefixListIds.push(r.PrefixListId!);
    for (const r of p.UserIdGroupPairs ?? [])
      if (r.GroupId === groupId) Object.assign(rule(r.Description), { self: true });
      else rule(r.Description).securityGroups.push(r.GroupId!);
  }
  return [...rules.entries()].sort(([a], [b]) => (a < b ? -1 : 1)).map(([, rule]) => rule);
}

async function groupsOf(client: Sdk.EC2, eni: string): Promise<string[]> {
  const { NetworkInterfaces } = await client.describeNetworkInterfaces({ NetworkInterfaceIds: [eni] });
  return NetworkInterfaces![0]!.Groups!.map((group) => group.GroupId!);
}

async function readAttachment(client: Sdk.EC2, id: string): Promise<Props | undefined> {
  const [securityGroupId = "", networkInterfaceId = ""] = id.split("_").sort().reverse(); // an import has them the other way
  const attached = (await groupsOf(client, networkInterfaceId)).includes(securityGroupId);
  return attached ? { networkInterfaceId, securityGroupId } : undefined;
}

/**
 * tf resourceManagedPrefixListUpdate: the size and the entries cannot change in one call, so the list grows before, and shrinks
 * after. For a changed description the entry is taken out first, and then the version that it was taken out of is named again,
 * which AWS refuses: a bug (tf #43528).
 */
async function changeList(client: Sdk.EC2, id: string, olds: Props, news: Props): Promise<void> {
  const [before, after] = [listEntries(olds), listEntries(news)];
  const without = (some: Tags[], others: Tags[]) => some.filter((e) => !others.some((o) => same(e, o)));
  const added = without(after, before);
  const removed = without(before, after);
  const described = removed.filter((e) => added.some((a) => a.cidr === e.cidr));
  const cidrs = (entries: Tags[]) => (entries.length ? entries.map((e) => ({ Cidr: e.cidr! })) : undefined);
  const adds = added.map((e) => ({ Cidr: e.cidr!, Description: e.description }));
  const size = Number(news.maxEntries);
  const resize = () => client.modifyManagedPrefixList({ PrefixListId: id, MaxEntries: size });
  const CurrentVersion = olds.version as number | undefined;

  if (size > Number(olds.maxEntries)) await resize();
  if (described.length)
    await client.modifyManagedPrefixList({ PrefixListId: id, CurrentVersion, RemoveEntries: cidrs(described) });
  if (added.length || removed.length || olds.name !== news.name) {
    const entries = { AddEntries: adds.length ? adds : undefined, RemoveEntries: cidrs(without(removed, described)) };
    const version = added.length || removed.length ? { CurrentVersion } : {};
    await client.modifyManagedPrefixList({
      PrefixListId: id,
      PrefixListName: news.name as string,
      ...version,
      ...entries,
    });
  }
  if (size < Number(olds.maxEntries)) await resize();
}

async function readList(client: Sdk.EC2, id: string): Promise<Props | undefined> {
  const { PrefixLists } = await client.describeManagedPrefixLists({ PrefixListIds: [id] });
  const list = PrefixLists?.find((l) => l.State !== "delete-complete");
  if (!list) return undefined;
  const { Entries } = await client.getManagedPrefixListEntries({ PrefixListId: id });
  return {
    arn: list.PrefixListArn,
    name: list.PrefixListName,
    addressFamily: list.AddressFamily,
    maxEntries: list.MaxEntries,
    version: list.Version,
    ownerId: list.OwnerId,
    entries: listEntries({ entries: Entries?.map((e) => ({ cidr: e.Cidr, description: e.Description })) }),
    allTags: fromAws(list.Tags),
  };
}

// --- As a plugin

type Call<Request> = { request: Request };
type Reply<Response> = (error: Error | null | undefined, response?: Response) => void;
type Handler = (this: { provider: Provider }, call: Call<never>, reply: Reply<never>) => Promise<void>;

/**
 * `provider.main` of the Node.js SDK knows neither the provider's options nor previews (the engine then makes up outputs),
 * so the methods of its server that have to do with them are put in front of it.
 */
function serve(standIn: AwsStandIn) {
  const { main } = load("@pulumi/pulumi/provider/server") as { main: (p: Provider, args: string[]) => Promise<void> };
  const inSdk = createRequire(load.resolve("@pulumi/pulumi/package.json"));
  const messages = inSdk("./proto/provider_pb.js") as typeof Messages;
  const { Struct } = inSdk("google-protobuf/google/protobuf/struct_pb.js") as { Struct: typeof Struct_ };
  const grpc = inSdk("@grpc/grpc-js") as {
    Server: { prototype: { addService(service: unknown, server: Props): void } };
  };
  const plain = (struct?: Struct_): Props =>
    Object.fromEntries(
      Object.entries((struct?.toJavaScript() ?? {}) as Record<string, Props | undefined>).map(([k, v]) => [
        k,
        v?.[SECRET] ? (v.value as unknown) : v,
      ]),
    );

  const checkConfig = ({ request }: Call<Messages.CheckRequest>, reply: Reply<Messages.CheckResponse>) => {
    const response = new messages.CheckResponse();
    response.setInputs(request.getNews());
    for (const { property, reason } of standIn.checkConfig(plain(request.getNews()))) {
      const failure = response.addFailures();
      failure.setProperty(property);
      failure.setReason(reason);
    }
    reply(null, response);
  };
  const configure = ({ request }: Call<Messages.ConfigureRequest>, reply: Reply<Messages.ConfigureResponse>) => {
    try {
      standIn.configure(plain(request.getArgs()));
    } catch (error) {
      return reply(error as Error);
    }
    const response = new messages.ConfigureResponse();
    response.setSupportspreview(true);
    response.setAcceptsecrets(false); // the engine hands over plain values and marks the outputs of secret inputs itself
    reply(null, response);
  };
  const inputsOf = (request: Messages.ReadRequest) => request.getInputs()?.toJavaScript();
  const forCall = ({ request }: Call<unknown>): Provider => ({
    create: (urn, inputs: Props) => standIn.create(urn, inputs, (request as Messages.CreateRequest).getPreview()),
    update: (id, urn, olds: Props, news: Props) =>
      standIn.update(id, urn, olds, news, (request as Messages.UpdateRequest).getPreview()),
    read: (id, urn, props: Props) => standIn.read(id, urn, props, inputsOf(request as Messages.ReadRequest)),
  });

  const prototype = grpc.Server.prototype;
  const addService = prototype.addService; // eslint-disable-line @typescript-eslint/unbound-method -- called with `this`
  prototype.addService = function (service, server) {
    for (const method of ["create", "update", "read"]) {
      const original = server[method] as Handler;
      server[method] = (call: Call<never>, reply: Reply<never>) => {
        const request = call.request as Messages.ReadRequest;
        if (method === "read" && !request.getProperties()) request.setProperties(new Struct()); // an import has none
        return original.call({ provider: forCall(call) }, call, reply);
      };
    }
    addService.call(this, service, Object.assign(server, { checkConfig, configure }));
  };
  return main(standIn, process.argv.slice(2));
}

if (require.main === module) void serve(new AwsStandIn());
