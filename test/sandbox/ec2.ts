import { spawn } from "node:child_process";
import {
  appendFileSync,
  closeSync,
  existsSync,
  mkdtempSync,
  openSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { EC2, type SecurityGroupRule } from "@aws-sdk/client-ec2";
import { Route53 } from "@aws-sdk/client-route-53";

/** One rule of a security group without its random ids, so that whole lists can be compared. */
export interface Ec2Rule {
  direction: "ingress" | "egress";
  protocol: string;
  fromPort?: number; // ICMP: the type
  toPort?: number; // ICMP: the code
  source: string; // CIDR, sg-… or pl-…
  description?: string;
}

export interface Ec2Group {
  id: string;
  name: string;
  description: string;
  tags: Record<string, string>;
}

/** A call of the stand-in, when it was asked or when it was answered. */
export interface Ec2Request {
  call: string;
  /** As the AWS SDK takes it. */
  input: Record<string, unknown>;
  answered: boolean;
}

/** An EC2 API of one's own: moto, made as strict as AWS where it is kinder. */
export interface Ec2 {
  endpoint: string;
  /** What a process needs to use it, also with the real provider instead of the stand-in. */
  env: Record<string, string>;
  /** To look, or to change something behind Pulumi's back. Its calls are not in `calls()`. */
  client: EC2;
  /** A VPC with an IPv6 block. */
  createVpc(): Promise<string>;
  /** All groups of a VPC but AWS's own `default`, sorted by name. */
  securityGroups(vpcId: string): Promise<Ec2Group[]>;
  rules(groupId: string): Promise<Ec2Rule[]>;
  /** The API calls of the stand-in so far, in order. The real provider leaves no trace here. */
  calls(): string[];
  /** The same with what was asked, and once more where it was answered, unless by an error. */
  requests(): Ec2Request[];
  /** The next elastic IP, in place of one that leads nowhere. */
  offerAddress(address: string): void;
  /** A hosted zone of Route 53. */
  createZone(domain: string): Promise<string>;
  /** `name type value`, of all but those that a zone has of itself. */
  records(zoneId: string): Promise<string[]>;
  /** A network interface that uses the group. */
  attach(groupId: string): Promise<{ id: string; detach(): Promise<void> }>;
  close(): Promise<void>;
}

const REGION = "eu-central-1";
const READY = "mailfw: moto patched";

/**
 * What depends on the state of a group is decided by the server, so it is put right there: one lock, no races between the
 * engine's parallel calls, and right for the real provider too. Python loads `sitecustomize` before moto. Quotas: AWS docs
 * "Amazon VPC quotas"; the rest is what moto 5.2.3 was seen to do differently.
 */
const PATCH = `
import functools, os, shutil, sys, threading
import moto.ec2.models.security_groups as m
from moto.ec2.models.elastic_ip_addresses import ElasticAddressBackend as addresses
from moto.ec2.models.instances import Instance
from moto.ec2.models.internet_gateways import InternetGatewayBackend as gateways
from moto.ec2.models.subnets import SubnetBackend as subnets
import moto.ec2.responses.vpcs as responses
from moto.ec2.exceptions import DependencyViolationError, EC2ClientError

LOCK, LIMIT, ADDRESSES = threading.RLock(), 60, os.path.join(os.path.dirname(__file__), "addresses")
Rule, Backend = m.SecurityGroupRule, m.SecurityGroupBackend
rule_init = Rule.__init__

def init(self, backend, protocol, group_id, from_port, to_port, ip_range, source_group=None, prefix_list_id=None, **kw):
    protocol = {"58": "icmpv6"}.get(protocol, protocol)
    if protocol not in ("tcp", "udp", "6", "17", "icmp", "1"):  # others may come without ports: moto's int(None)
        from_port, to_port = (-1 if p is None else p for p in (from_port, to_port))
    rule_init(self, backend, protocol, group_id, from_port, to_port, ip_range, source_group, prefix_list_id, **kw)
    self.list_description = (prefix_list_id or {}).get("Description")

def key(rule):  # AWS's own uniqueness: a description does not make another rule
    ports = () if rule.ip_protocol == "-1" else (rule.from_port, rule.to_port)
    source = [rule.ip_range.get("CidrIp"), rule.ip_range.get("CidrIpv6"), rule.source_group.get("GroupId")]
    return (rule.ip_protocol, ports, *source, rule.prefix_list_id)

def weights(backend, rule):  # (IPv4, IPv6): quotas are per family; a prefix list counts as its MaxEntries
    if rule.prefix_list_id:
        pl = backend.managed_prefix_lists[rule.prefix_list_id]
        n = int(pl.max_entries or (55 if "cloudfront" in pl.prefix_list_name else 10))  # AWS-managed lists: their weight
        return (n, 0) if pl.address_family == "IPv4" else (0, n)
    return (0 if "CidrIpv6" in rule.ip_range else 1, 0 if "CidrIp" in rule.ip_range else 1)

def locked(name, wrapper=lambda original, *a, **kw: original(*a, **kw)):
    original = getattr(Backend, name)
    @functools.wraps(original)
    def inner(*a, **kw):
        with LOCK:
            return wrapper(original, *a, **kw)
    setattr(Backend, name, inner)

def known_lists(self, lists):
    for pl in lists or []:
        if pl["PrefixListId"] not in self.managed_prefix_lists:
            message = "The prefix list ID '%s' does not exist" % pl["PrefixListId"]
            raise EC2ClientError("InvalidPrefixListID.NotFound", message)

def too_many(backend, rules):
    return any(sum(family) > LIMIT for family in zip(*(weights(backend, r) for r in rules)))

def authorize(original, self, **kw):
    known_lists(self, kw.get("prefix_list_ids"))
    added, group = original(self, **kw)
    rules = group.egress_rules if added and added[0].is_egress else group.ingress_rules
    if too_many(self, rules):
        rules[:] = [r for r in rules if not any(r is a for a in added)]
        raise m.RulesPerSecurityGroupLimitExceededError()
    return added, group

def revoke(original, self, **kw):
    try:
        return original(self, **kw)
    except m.InvalidPermissionNotFoundError:
        if not kw.get("security_rule_ids"):
            raise
        raise m.InvalidSecurityGroupRuleIdNotFoundError(kw["security_rule_ids"][0])

# moto's own changes IPv4 rules only and silently leaves the others, refuses protocol -1, accepts duplicates
def modify(original, self, group_id, rules):
    group = self.get_security_group_by_name_or_id(group_id)
    if group is None:
        raise m.InvalidSecurityGroupNotFoundError(group_id)
    for rule_id, new in rules.items():
        old = group.get_rule(rule_id)
        if old is None:
            raise m.InvalidSecurityGroupRuleIdNotFoundError(rule_id)
        text = {"Description": new["Description"]} if "Description" in new else {}
        pick = lambda ours, theirs: [{**text, ours: new[theirs]}] if theirs in new else []
        ranges = pick("CidrIp", "CidrIpv4") + pick("CidrIpv6", "CidrIpv6")
        groups = self._add_source_group(pick("GroupId", "ReferencedGroupId"), None)
        lists = pick("PrefixListId", "PrefixListId")
        known_lists(self, lists)
        ports = (new.get("FromPort"), new.get("ToPort"))
        made = list(self._iterate_security_rules(new["IpProtocol"], group.id, *ports, ranges, groups, lists, old.is_egress))
        if len(made) != 1 or [x is None for x in key(made[0])] != [x is None for x in key(old)]:
            raise m.InvalidParameterValue("Invalid rule type for security group rule '%s'." % rule_id)
        siblings = group.egress_rules if old.is_egress else group.ingress_rules
        if any(r is not old and r == made[0] for r in siblings):
            raise m.InvalidPermissionDuplicateError()
        for name in ("ip_protocol", "from_port", "to_port", "ip_range", "source_group", "prefix_list_id", "list_description"):
            setattr(old, name, getattr(made[0], name))

# moto's own knows no MaxEntries, keeps no name, takes any version. Words: tf #26034, #43528, vpc_managed_prefix_list.go
def modify_list(self):
    get, number, backend = self._get_param, self._get_int_param, self.ec2_backend
    adds, size, refuse = get("AddEntries", []), number("MaxEntries"), EC2ClientError
    removes = [entry["Cidr"] for entry in get("RemoveEntries", [])]
    known_lists(backend, [{"PrefixListId": get("PrefixListId")}])
    with LOCK:
        pl = backend.managed_prefix_lists[get("PrefixListId")]
        before, entries = int(pl.max_entries), pl.entries.get(pl.version, [])
        if adds or removes:
            if size is not None:
                raise refuse("InvalidParameterCombination", "You cannot modify the entries and the maximum entries for the "
                    "prefix list in the same request.")
            if number("CurrentVersion") != pl.version:
                raise refuse("PrefixListVersionMismatch", "The prefix list has the incorrect version number.")
            for entry in adds:
                if entry["Cidr"] in removes:
                    raise refuse("InvalidParameterValue", "Request cannot contain Cidr %s in both AddPrefixListEntries "
                        "and RemovePrefixListEntries" % entry["Cidr"])
            entries = [e for e in entries if e["Cidr"] not in removes + [a["Cidr"] for a in adds]] + adds
        if len(entries) > (before if size is None else size):
            raise refuse("PrefixListMaxEntriesExceeded", "You've reached the maximum number of entries for the prefix list.")
        pl.max_entries = before if size is None else size
        groups = [group for vpc in backend.groups.values() for group in vpc.values()]
        if any(too_many(backend, rules) for g in groups for rules in (g.ingress_rules, g.egress_rules)):
            pl.max_entries = before  # AWS says so in the list's StateMessage, modify-failed, a little later
            raise m.RulesPerSecurityGroupLimitExceededError()
        if adds or removes:
            pl.version += 1
            pl.entries[pl.version] = entries
        pl.prefix_list_name = get("PrefixListName") or pl.prefix_list_name
        pl.state = "modify-complete"
        return responses.ActionResult({"PrefixList": pl})

def delete(original, self, name=None, group_id=None):
    attached = any(g.id == group_id for eni in self.enis.values() for g in eni.group_set)
    others = [g for vpc in self.groups.values() for g in vpc.values() if g.id != group_id]
    named = any(r.source_group.get("GroupId") == group_id for g in others for r in g.ingress_rules + g.egress_rules)
    if attached or named:
        raise DependencyViolationError("resource %s has a dependent object" % group_id)
    return original(self, name, group_id)

Rule.__init__, Rule.__eq__ = init, lambda self, other: key(self) == key(other)
Rule.description = property(
    lambda self: self.ip_range.get("Description") or self.source_group.get("Description") or self.list_description)
Rule.group_owner_id = property(lambda self: self.ec2_backend.account_id)
Backend._verify_group_will_respect_rule_count_limit = lambda *a, **kw: None  # counted both families together
for direction in ("ingress", "egress"):
    locked("authorize_security_group_" + direction, authorize)
    locked("revoke_security_group_" + direction, revoke)
responses.VPCs.modify_managed_prefix_list = modify_list
locked("modify_security_group_rules", modify)
locked("delete_security_group", delete)
locked("create_security_group")

# Around a group: AWS lets nothing go that something else stands on. moto's own order of a VPC's end is kept
def refuse(what, why):
    if why:
        raise DependencyViolationError("%s has dependencies and cannot be deleted: %s" % (what, why))

detach_internet_gateway, delete_subnet = gateways.detach_internet_gateway, subnets.delete_subnet

def detach(self, internet_gateway_id, vpc_id):
    mapped = [a.public_ip for a in self.addresses if a.eni and a.eni.subnet.vpc_id == vpc_id]
    refuse("Network %s" % vpc_id, mapped and "it has some mapped public addresses: %s" % mapped)
    return detach_internet_gateway(self, internet_gateway_id, vpc_id)

def delete_empty_subnet(self, subnet_id):
    refuse("The subnet '%s'" % subnet_id, [eni.id for eni in self.enis.values() if eni.subnet.id == subnet_id])
    return delete_subnet(self, subnet_id)

def allocate(self, domain, address=None, tags=None):
    if not address and os.path.exists(ADDRESSES):
        with LOCK:
            address, _, rest = open(ADDRESSES).read().partition("\\n")
            open(ADDRESSES, "w").write(rest)
    return allocate_address(self, domain, address or None, tags)

allocate_address, addresses.allocate_address = addresses.allocate_address, allocate
def terminate(self):  # the interface that an instance was started with ends with it; moto keeps it
    for nic in self.nics.values():
        nic.delete_on_termination = True
    return terminate_instance(self)

terminate_instance, Instance.terminate = Instance.terminate, terminate
gateways.detach_internet_gateway, subnets.delete_subnet = detach, delete_empty_subnet

def end_with_parent():  # stdin is a pipe from it and ends however it dies
    sys.stdin.buffer.read()
    shutil.rmtree(os.path.dirname(__file__), ignore_errors=True)
    os._exit(0)

threading.Thread(target=end_with_parent, daemon=True).start()
print("${READY}", file=sys.stderr, flush=True)
`;

export async function startEc2(): Promise<Ec2> {
  const command = process.env.MAILFW_MOTO_SERVER ?? "moto_server";
  const dir = mkdtempSync(join(tmpdir(), "mailfw-ec2-"));
  const [output, callLog] = [join(dir, "output"), join(dir, "calls")];
  writeFileSync(join(dir, "sitecustomize.py"), PATCH);
  const fd = openSync(output, "w");
  const env = { ...process.env, PYTHONPATH: dir, PYTHONDONTWRITEBYTECODE: "1", MOTO_EC2_LOAD_DEFAULT_AMIS: "false" };
  // Port 0: the system picks a free one, and no one else can take it before moto does.
  const server = spawn(command, ["-H", "127.0.0.1", "-p", "0"], { env, stdio: ["pipe", fd, fd] });
  closeSync(fd);
  let failure = "";
  server.on("error", (e) => (failure = e.message));
  const ended = new Promise<void>((resolve) => {
    server.on("exit", (code, signal) => resolve(void (failure ||= `ended with ${signal ?? code}`)));
    server.on("error", () => resolve());
  });
  server.unref(); // neither it nor the pipe keeps the parent running
  (server.stdin as unknown as { unref?: () => void }).unref?.();
  const clear = () => {
    server.kill("SIGKILL");
    rmSync(dir, { recursive: true, force: true });
  };
  process.once("exit", clear);

  const close = async () => {
    process.removeListener("exit", clear);
    server.ref(); // or Node ends here, with nothing left to wait for
    clear();
    await ended;
  };
  const text = () => readFileSync(output, "utf8");
  const give = async (why: string): Promise<never> => {
    const said = text().trim();
    await close();
    throw new Error(`the EC2 emulator (${command}) ${why}${said && `, its output:\n${said}`}`);
  };

  let endpoint: string | undefined;
  const deadline = Date.now() + 60_000;
  while (!endpoint) {
    await sleep(20);
    if (failure) return give(`could not be started: ${failure}`);
    if (Date.now() > deadline) return give("did not answer within 60 s");
    endpoint = /Running on (http:\/\/127\.0\.0\.1:\d+)/.exec(text())?.[1];
  }
  if (!text().includes(READY)) return give("runs without the patch of test/sandbox/ec2.ts (is it moto 5.2.3?)");

  process.env.AWS_SDK_JS_NODE_VERSION_SUPPORT_WARNING_DISABLED ??= "true";
  const credentials = { accessKeyId: "testing", secretAccessKey: "testing" };
  const client = new EC2({ region: REGION, endpoint, credentials });
  const dns = new Route53({ region: REGION, endpoint, credentials });
  await client.describeSecurityGroups({}).catch((e: unknown) => give(`does not answer: ${String(e)}`));

  const requests = () => {
    const lines = existsSync(callLog) ? readFileSync(callLog, "utf8").split("\n").filter(Boolean) : [];
    return lines.map((line) => JSON.parse(line) as Ec2Request);
  };
  const subnets = new Map<string, string>();
  return {
    endpoint,
    env: {
      AWS_ENDPOINT_URL: endpoint,
      AWS_ACCESS_KEY_ID: credentials.accessKeyId,
      AWS_SECRET_ACCESS_KEY: credentials.secretAccessKey,
      AWS_REGION: REGION,
      AWS_EC2_METADATA_DISABLED: "true",
      AWS_SKIP_METADATA_API_CHECK: "true",
      AWS_SKIP_CREDENTIALS_VALIDATION: "true",
      AWS_SDK_JS_NODE_VERSION_SUPPORT_WARNING_DISABLED: "true",
      MAILFW_EC2_LOG: callLog,
    },
    client,
    async createVpc() {
      const { Vpc } = await client.createVpc({ CidrBlock: "10.0.0.0/16", AmazonProvidedIpv6CidrBlock: true });
      return Vpc!.VpcId!;
    },
    async securityGroups(vpcId) {
      const { SecurityGroups } = await client.describeSecurityGroups({
        Filters: [{ Name: "vpc-id", Values: [vpcId] }],
      });
      return (SecurityGroups ?? [])
        .map((g) => ({ id: g.GroupId!, name: g.GroupName!, description: g.Description!, tags: tagsOf(g.Tags) }))
        .filter((g) => g.name !== "default")
        .sort((a, b) => (a.name < b.name ? -1 : 1));
    },
    async rules(groupId) {
      const filter = { Filters: [{ Name: "group-id", Values: [groupId] }] };
      const { SecurityGroupRules } = await client.describeSecurityGroupRules(filter);
      return (SecurityGroupRules ?? []).map(plain).sort((a, b) => (sortKey(a) < sortKey(b) ? -1 : 1));
    },
    calls: () =>
      requests()
        .filter(({ answered }) => !answered)
        .map(({ call }) => call),
    requests,
    offerAddress: (address) => appendFileSync(join(dir, "addresses"), `${address}\n`),
    async createZone(domain) {
      const { HostedZone } = await dns.createHostedZone({ Name: domain, CallerReference: domain });
      return HostedZone!.Id!.replace("/hostedzone/", "");
    },
    async records(HostedZoneId) {
      const { ResourceRecordSets } = await dns.listResourceRecordSets({ HostedZoneId });
      const lines = ResourceRecordSets!.flatMap(({ Name, Type, ResourceRecords }) =>
        ResourceRecords!.map(({ Value }) => `${Name} ${Type} ${Value}`),
      );
      return lines.filter((line) => !/ (NS|SOA) /.test(line)).sort();
    },
    async attach(groupId) {
      const { SecurityGroups } = await client.describeSecurityGroups({ GroupIds: [groupId] });
      const vpcId = SecurityGroups![0]!.VpcId!;
      if (!subnets.has(vpcId)) {
        const { Subnet } = await client.createSubnet({ VpcId: vpcId, CidrBlock: "10.0.0.0/24" });
        subnets.set(vpcId, Subnet!.SubnetId!);
      }
      const made = await client.createNetworkInterface({ SubnetId: subnets.get(vpcId), Groups: [groupId] });
      const id = made.NetworkInterface!.NetworkInterfaceId!;
      return { id, detach: async () => void (await client.deleteNetworkInterface({ NetworkInterfaceId: id })) };
    },
    close: async () => {
      client.destroy();
      dns.destroy();
      await close();
    },
  };
}

const tagsOf = (tags: { Key?: string; Value?: string }[] = []) =>
  Object.fromEntries(tags.map((t) => [t.Key!, t.Value!]));

function plain(rule: SecurityGroupRule): Ec2Rule {
  const ports = rule.IpProtocol === "-1" ? {} : { fromPort: rule.FromPort!, toPort: rule.ToPort! };
  return {
    direction: rule.IsEgress ? "egress" : "ingress",
    protocol: rule.IpProtocol!,
    ...ports,
    source: (rule.CidrIpv4 ?? rule.CidrIpv6 ?? rule.ReferencedGroupInfo?.GroupId ?? rule.PrefixListId)!,
    ...(rule.Description === undefined ? {} : { description: rule.Description }),
  };
}

const padded = (port = -1) => String(port + 1).padStart(5, "0");
const sortKey = (r: Ec2Rule) => [r.direction, r.protocol, padded(r.fromPort), padded(r.toPort), r.source].join(" ");
