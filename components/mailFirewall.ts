import * as pulumi from "@pulumi/pulumi";

import { cloudOnly, cloudRule, groupRules } from "./cloud/groupRules";
import { awsKeys, checkAws, MailSecurityGroup, type AwsArgs } from "./cloud/securityGroup";
import { declared, policyInputs, warn, type Declaration } from "./declared";
import { undeclared } from "./equivalence";
import { logIn } from "./host/connection";
import { checkReachable, readNamedHost, type HostArgs } from "./host/hostArgs";
import { HostFirewall } from "./host/hostFirewall";
import { hostOptionKeys, readHostOptions, type HostOptions, type HostSettings } from "./host/hostOptions";
import { checkPlace, placeOf } from "./host/places";
import { checkPrivateKey } from "./host/privateKey";
import { hostOnly, otherwise } from "./host/residue";
import { ruleset } from "./host/ruleset";
import { exposure } from "./policy/exposure";
import { Faults, isRecord, join, report, show } from "./policy/faults";
import { readPolicy, rules, type Policy, type PolicyArgs } from "./policy/policy";
import { speak } from "./spoken";

/** The arguments of a {@link MailFirewall}. */
export interface MailFirewallArgs extends PolicyArgs {
  /** The hosts that get the firewall, by a name of their own: at most 63 of a-z, 0-9, dots and hyphens. */
  hosts?: Record<string, HostArgs>;
  /** Options for all hosts; what a host says itself wins. */
  host?: HostOptions;
  /**
   * Changes all hosts at the same time. By default they change one after the other, each only after the one before it has
   * confirmed, so that a change that goes wrong stops at the first. Defaults to false.
   */
  hostsAtOnce?: boolean;
  /**
   * Private key for all hosts that bring none of their own, as the text of an OpenSSH or PEM file. Defaults to the keys of the
   * running SSH agent.
   */
  sshPrivateKey?: pulumi.Input<string>;
  /** Passphrase of `sshPrivateKey`, where it has one. */
  sshPrivateKeyPassword?: pulumi.Input<string>;
  /** Where the security group goes, and how it is made. Without it, there is none. */
  aws?: AwsArgs;
}

export const firewallKeys = [
  "services",
  "ssh",
  "ports",
  "egress",
  "host",
  "hosts",
  "hostsAtOnce",
  "sshPrivateKey",
  "sshPrivateKeyPassword",
  "aws",
] as const;

/** The firewall of a mail server: one policy, enforced by its hosts and by an AWS security group. */
export class MailFirewall extends pulumi.ComponentResource {
  /** Service → who can reach it, such as `imaps` → `tcp/993: public`. */
  public readonly exposure: pulumi.Output<Record<string, string>>;
  /** The security group's id; known in previews, and not there before all of its rules. Undefined without `aws`. */
  public readonly securityGroupId: pulumi.Output<string> | undefined;
  /**
   * Host → its status and the fingerprint of the rules that its kernel holds; the hosts of `args.hosts`. Of one that was added
   * later, read its `status`.
   */
  public readonly hosts: pulumi.Output<Record<string, string>>;
  /** What only the hosts enforce, each with the reason; where a host of `args.hosts` differs, below `name: `. */
  public readonly hostOnly: pulumi.Output<Record<string, string>>;
  /** What only the security group enforces, and AWS by itself, each with the reason. Empty without `aws`. */
  public readonly cloudOnly: pulumi.Output<Record<string, string>>;

  /**
   * @param name Unique in the stack; all resources below are named after it.
   * @param args The policy, the hosts, and the VPC.
   * @param opts Pulumi's own options, such as `providers`.
   * @throws a RunError that names all faults of `args`, or says where hosts and group would differ.
   */
  constructor(name: string, args: MailFirewallArgs, opts?: pulumi.ComponentResourceOptions) {
    const faults = new Faults();
    faults.unknownKeys(args, ["sshPorts", ...firewallKeys], "");
    const { policy, settings, hostSettings } = readFirewall(args, "", faults);
    if (isRecord(args.hosts)) {
      for (const [key, host] of Object.entries(args.hosts)) checkPlace(host, join(join("hosts", key), "host"), faults);
    }
    if (faults.list.length > 0) throw new pulumi.RunError(report(`MailFirewall "${name}"`, faults.list));
    if (args.aws) for (const one of [settings, ...Object.values(hostSettings)]) prove(name, policy, one, args.aws);
    const inputs = policyInputs(policy, opts);
    super("mail-firewall:index:MailFirewall", name, inputs, opts);
    warn(this, policy, args.aws !== undefined, opts);

    const { services = {}, ssh, ports = {}, egress = { mode: "open" }, hosts = {}, hostsAtOnce = false, aws } = args;
    // Copies: whoever changes the originals later must not change what addHost deploys.
    const policyArgs = structuredClone({ services, ssh, ports, egress, sshPorts: [...policy.sshPorts] });
    const { sshPrivateKey: privateKey, sshPrivateKeyPassword: privateKeyPassword } = args;
    const host = structuredClone(args.host ?? {});
    declared.set(this, {
      name,
      args: policyArgs,
      host,
      settings,
      policy,
      logIn: logIn({ privateKey, privateKeyPassword }, {}),
      aws,
      hosts: Object.keys(hosts).map((key) => `${name}-${key}`),
      hostsAtOnce,
      latest: undefined,
      behind: new Map(),
    });

    const group = aws && new MailSecurityGroup(name, { ...policyArgs, ...aws }, { parent: this });
    // By name, as the order of a map should mean nothing.
    const sorted = Object.entries(hosts).sort(([a], [b]) => (a < b ? -1 : 1));
    const deployed = sorted.map(([key, hostArgs]) => [key, deploy(this, key, hostArgs)] as const);

    this.exposure = pulumi.output(exposure(policy));
    this.securityGroupId = group?.securityGroupId;
    this.hosts = pulumi.output(Object.fromEntries(deployed.map(([key, { status }]) => [key, status])));
    const onlyHosts = hostOnlyOf(settings, hostSettings);
    this.hostOnly = pulumi.output(onlyHosts);
    this.cloudOnly = pulumi.output(aws ? cloudOnly(policy) : {});
    this.registerOutputs({
      exposure: this.exposure,
      securityGroupId: this.securityGroupId,
      hosts: this.hosts,
      hostOnly: this.hostOnly,
      cloudOnly: this.cloudOnly,
    });
    if (inputs.exposure) {
      speak(this, name, {
        policy,
        hostOnly: onlyHosts,
        parts: { hosts: Object.keys(hosts), group: group !== undefined },
      });
    }
  }

  /**
   * Deploys the same policy to one more host, such as an instance that is known only after the group exists.
   *
   * The host must answer when it is deployed to: dialled are three attempts, within a second where they are refused. A new machine
   * needs longer, so let the host depend on a command that waits for it. What depends on the firewall does not wait for hosts that are
   * added, so the instance may. What should follow this host depends on what this returns. The host follows those that were declared
   * before it, unless `hostsAtOnce` is set.
   *
   * @param name The host's name, unique in this firewall, as one of `hosts`.
   * @param args How the host is reached. Its `sshPorts` must be among the firewall's, because the group is decided already.
   * @param opts Pulumi's own options for the host's component.
   * @throws a RunError that names all faults of `args`.
   */
  public addHost(name: string, args: HostArgs, opts?: pulumi.ComponentResourceOptions): HostFirewall {
    const host = deploy(this, name, args, opts);
    notAwaited(this, host);
    return host;
  }
}

/** A host of a firewall, after those that were declared before it. */
function deploy(
  component: MailFirewall,
  name: string,
  args: HostArgs,
  opts?: pulumi.ComponentResourceOptions,
): HostFirewall {
  const firewall = declared.get(component)!;
  const faults = new Faults();
  const { sshPorts } = firewall.policy;
  for (const port of readNamedHost(name, args, "", faults).filter((kept) => !sshPorts.includes(kept))) {
    const all = [...sshPorts, port].join(", ");
    faults.add("sshPorts", `${port} is not among the firewall's own; give MailFirewall sshPorts: [${all}]`);
  }
  const settings = isRecord(args) ? readHostOptions(args, "", faults, firewall.settings) : firewall.settings;
  checkReachable(args.host, firewall.policy.ssh, "", faults);
  checkPlace(args, "host", faults);
  if (faults.list.length > 0) throw new pulumi.RunError(report(`${firewall.name}.addHost("${name}")`, faults.list));
  if (firewall.aws) prove(firewall.name, firewall.policy, settings, firewall.aws);
  const own = Object.fromEntries(Object.entries(args).filter(([, value]) => value !== undefined)) as HostArgs;
  const before = firewall.hostsAtOnce ? behindBastion(firewall, args).at(-mostBehindBastion) : firewall.latest;
  const host = new HostFirewall(
    `${firewall.name}-${name}`,
    { ...firewall.host, ...own, ...logIn(args, firewall.logIn), ...firewall.args },
    pulumi.mergeOptions({ parent: component, dependsOn: before }, opts),
  );
  firewall.latest = host;
  behindBastion(firewall, args).push(host);
  return host;
}

/**
 * How many hosts behind one bastion change at the same time. An sshd refuses connections at random where more than ten wait for their
 * log-in (MaxStartups 10:30:100).
 */
const mostBehindBastion = 8;

/** The hosts of a firewall that are reached through the same bastion, in their order; none without a bastion. */
function behindBastion({ behind }: Declaration, { bastion }: HostArgs): pulumi.Resource[] {
  if (bastion === undefined) return [];
  const key = placeOf(bastion) ?? bastion.host; // an output is itself
  const hosts = behind.get(key) ?? [];
  behind.set(key, hosts);
  return hosts;
}

/**
 * `dependsOn` a component waits for all of its children (@pulumi/pulumi, runtime/dependsOn.ts). A host that is added later may well
 * be an instance that depends on the firewall, and each would wait for the other. The SDK has no option for a child that nobody waits
 * for; where it keeps its children elsewhere, such a program ends with Pulumi's error about promises that are still active.
 */
function notAwaited(component: pulumi.ComponentResource, child: pulumi.Resource): void {
  (component as unknown as { __childResources?: Set<pulumi.Resource> }).__childResources?.delete(child);
}

/** Of each policy, the rules that have been held against its group: hosts with equal options have equal rules. */
const proven = new WeakMap<Policy, Set<string>>();

/**
 * Holds the rules that a host will get against those that the security group will get.
 *
 * @throws a RunError that says what they would admit otherwise than each other, beyond the declared residue.
 */
function prove(name: string, policy: Policy, settings: HostSettings, { prefixLists }: AwsArgs): void {
  const all = rules(policy);
  const rulesets = { 4: ruleset(all, 4, name, settings), 6: ruleset(all, 6, name, settings) };
  const equal = proven.get(policy) ?? new Set();
  proven.set(policy, equal);
  if (equal.has(rulesets[4] + rulesets[6])) return;
  const found = undeclared({
    rulesets,
    settings,
    sshPorts: policy.sshPorts,
    groupRules: groupRules(all, { prefixLists }).map(cloudRule),
    outbound: all.filter(({ direction }) => direction === "out"),
    cloudOnly: Object.keys(cloudOnly(policy)),
  });
  if (found.length === 0) {
    equal.add(rulesets[4] + rulesets[6]);
    return;
  }
  throw new pulumi.RunError(
    [
      `MailFirewall "${name}": its hosts and its security group would differ, which is a fault of mail-firewall; nothing was touched`,
      ...found.map((line) => `  ${line}`),
    ].join("\n"),
  );
}

/** What all hosts enforce by the common settings, and what single hosts enforce otherwise. */
function hostOnlyOf(settings: HostSettings, hosts: Readonly<Record<string, HostSettings>>): Record<string, string> {
  const common = hostOnly(settings);
  const others = Object.entries(hosts).flatMap(([name, its]) => {
    const own = Object.entries(otherwise(common, hostOnly(its)));
    return own.map(([key, text]) => [`${name}: ${key}`, text] as const);
  });
  return { ...common, ...Object.fromEntries(others) };
}

/** All that is decided about a firewall. */
interface Firewall {
  readonly policy: Policy;
  /** Of all hosts that say nothing else. */
  readonly settings: HostSettings;
  readonly hostSettings: Readonly<Record<string, HostSettings>>;
}

/**
 * Reads all of a firewall's declaration; whatever is wrong with it is added to `faults`.
 *
 * @param at where it stands, for the paths of faults: "" in code, `mail-firewall:` in stack config.
 */
export function readFirewall(args: MailFirewallArgs, at: string, faults: Faults): Firewall {
  const {
    host: common = {},
    hosts = {},
    hostsAtOnce,
    sshPrivateKey,
    sshPrivateKeyPassword,
    aws,
  } = args as unknown as Record<string, unknown>;
  if (isRecord(common)) faults.unknownKeys(common, hostOptionKeys, join(at, "host"));
  const settings = readHostOptions(common, join(at, "host"), faults);
  const hostSettings: Record<string, HostSettings> = {};
  const sshPorts: number[] = [];
  if (!isRecord(hosts)) {
    faults.add(
      join(at, "hosts"),
      `${show(hosts)} is not a map; write mx1: { host: 198.51.100.10, hostKey: "ssh-ed25519 AAAA..." }`,
    );
  }
  if (hostsAtOnce !== undefined && typeof hostsAtOnce !== "boolean") {
    faults.add(join(at, "hostsAtOnce"), `${show(hostsAtOnce)} is neither true nor false`);
  }
  const entries = isRecord(hosts) ? Object.entries(hosts) : [];
  const places = new Map<string, string>();
  for (const [name, host] of entries) {
    const where = join(join(at, "hosts"), name);
    sshPorts.push(...readNamedHost(name, host, where, faults));
    if (!isRecord(host)) continue;
    hostSettings[name] = readHostOptions(host, where, faults, settings);
    const place = placeOf(host);
    if (place === undefined) continue;
    const twin = places.get(place);
    if (twin !== undefined) faults.add(join(where, "host"), `${show(host.host)} is also ${twin}; delete one`);
    places.set(place, name);
  }
  checkPrivateKey(sshPrivateKey, sshPrivateKeyPassword, join(at, "sshPrivateKey"), faults);
  const policy = readPolicy(args, at, { any: entries.length > 0, sshPorts }, faults);
  for (const [name, host] of entries) {
    if (isRecord(host)) checkReachable(host.host, policy.ssh, join(join(at, "hosts"), name), faults);
  }
  if (aws !== undefined) {
    if (isRecord(aws)) faults.unknownKeys(aws, awsKeys, join(at, "aws"));
    checkAws(aws, join(at, "aws"), policy, faults);
  }
  if (isRecord(hosts) && entries.length === 0 && aws === undefined) {
    faults.add(
      join(at, "hosts"),
      `is missing, and so is "aws": add hosts to protect, or aws: { vpcId: vpc-... } for a security group, or both`,
    );
  }
  return { policy, settings, hostSettings };
}
