import { ManagedPrefixList } from "@pulumi/aws/ec2/managedPrefixList";
import { NetworkInterfaceSecurityGroupAttachment } from "@pulumi/aws/ec2/networkInterfaceSecurityGroupAttachment";
import { SecurityGroup } from "@pulumi/aws/ec2/securityGroup";
import { SecurityGroupEgressRule } from "@pulumi/aws/vpc/securityGroupEgressRule";
import { SecurityGroupIngressRule } from "@pulumi/aws/vpc/securityGroupIngressRule";
import * as pulumi from "@pulumi/pulumi";

import { policyInputs, warn } from "../declared";
import { Faults, isPlain, isRecord, join, report, show } from "../policy/faults";
import { policyKeys, readPolicy, rules, type Policy, type PolicyArgs } from "../policy/policy";
import { speak } from "../spoken";
import { checkQuota, groupRules, highestQuota, quota, type GroupRule } from "./groupRules";

/** Where the security group goes, and how it is made. */
export interface AwsArgs {
  /**
   * The VPC of a group of its own, `vpc-0123456789abcdef0`. Changing it replaces the group. Either this or `securityGroupId` is
   * required.
   */
  vpcId?: pulumi.Input<string>;
  /**
   * A group that exists, in place of one of its own: the rules are put into it. What others have put there stays, and stays open;
   * a rule that is there already must be imported, or AWS refuses it as a duplicate (`mail-firewall import`).
   */
  securityGroupId?: pulumi.Input<string>;
  /**
   * Network interfaces that get the group beside those they have, `eni-0123456789abcdef0`, as plain values, because their
   * resources are named after them. What the other groups of an interface admit stays admitted.
   */
  attachTo?: string[];
  /**
   * One rule for a list of networks (two or more of one family), which services with the same networks share. It saves no
   * quota: AWS counts a list as its networks. Defaults to false.
   */
  prefixLists?: boolean;
  /**
   * The account's quota of rules per group, direction and family, from 1 to 1000. Defaults to 60, as AWS has it (Amazon VPC
   * quotas, "Inbound or outbound rules per security group").
   */
  rulesPerGroup?: number;
  /** The region of all of this, such as `eu-central-1`. Defaults to the provider's; changing it replaces the group. */
  region?: pulumi.Input<string>;
  /** Tags of the group, where it is one of its own, and of prefix lists; at most 50 (Amazon EC2 User Guide, "Tag restrictions"). */
  tags?: Record<string, pulumi.Input<string>>;
}

export const awsKeys = [
  "vpcId",
  "securityGroupId",
  "attachTo",
  "prefixLists",
  "rulesPerGroup",
  "region",
  "tags",
] as const;

/** Adds what is wrong with where a group goes, and with the number of its rules, to `faults`. */
export function checkAws(value: unknown, at: string, policy: Policy, faults: Faults): void {
  if (!isRecord(value)) {
    faults.add(at, `${show(value)} is not a map; write { vpcId: vpc-0123456789abcdef0 }`);
    return;
  }
  const { vpcId, securityGroupId, attachTo, prefixLists, rulesPerGroup, tags } = value;
  const fault = (key: string, problem: string) => faults.add(join(at, key), problem);
  const text = (key: string, form: RegExp, problem: string) => {
    const given = value[key];
    if (given === undefined || !isPlain(given) || (typeof given === "string" && form.test(given))) return;
    fault(key, `${show(given)} is not ${problem}`);
  };

  const limit = rulesPerGroup ?? quota;
  if (typeof limit !== "number" || !Number.isInteger(limit) || limit < 1 || limit > highestQuota) {
    fault("rulesPerGroup", `${show(limit)} is not a quota of rules; write a whole number from 1 to ${highestQuota}`);
  } else {
    const found = groupRules(rules(policy), { prefixLists: prefixLists === true });
    checkQuota(found, limit, at === "" ? "services" : at, faults);
  }
  if (vpcId === undefined && securityGroupId === undefined) {
    fault("vpcId", "is missing; write the id of the VPC, such as vpc-0123456789abcdef0");
  } else if (vpcId !== undefined && securityGroupId !== undefined) {
    fault("vpcId", "stands beside securityGroupId, a group that is in a VPC already; delete one");
  }
  text("vpcId", /^vpc-[0-9a-f]+$/, "the id of a VPC; write one such as vpc-0123456789abcdef0");
  text("securityGroupId", /^sg-[0-9a-f]+$/, "the id of a security group; write one such as sg-0123456789abcdef0");
  text("region", /^[a-z]+(-[a-z]+)+-[0-9]+$/, "a region; write one such as eu-central-1");
  if (prefixLists !== undefined && typeof prefixLists !== "boolean") {
    fault("prefixLists", `${show(prefixLists)} is neither true nor false`);
  }
  if (attachTo !== undefined) checkInterfaces(attachTo, join(at, "attachTo"), faults);
  if (tags !== undefined) checkTags(tags, join(at, "tags"), faults);
}

function checkInterfaces(value: unknown, path: string, faults: Faults): void {
  if (!Array.isArray(value)) {
    faults.add(
      path,
      `${show(value)} is not a list; write the ids of network interfaces, such as [eni-0123456789abcdef0]`,
    );
    return;
  }
  (value as unknown[]).forEach((item, i) => {
    if (typeof item !== "string" || !/^eni-[0-9a-f]+$/.test(item)) {
      const plain = isPlain(item) ? "" : ' in plain; an interface of the same program takes "securityGroupId" itself';
      faults.add(
        `${path}[${i}]`,
        `${show(item)} is not the id of a network interface${plain}; write one such as eni-0123456789abcdef0`,
      );
    } else if (value.indexOf(item) < i) faults.add(`${path}[${i}]`, `${show(item)} is listed twice; delete one`);
  });
}

/** Source: Amazon EC2 User Guide, "Tag restrictions". */
function checkTags(value: unknown, path: string, faults: Faults): void {
  if (!isRecord(value)) {
    faults.add(path, `${show(value)} is not a map; write { owner: mail-team }`);
    return;
  }
  const entries = Object.entries(value);
  if (entries.length > 50) faults.add(path, `has ${entries.length} tags, and AWS takes 50; delete some`);
  for (const [key, tag] of entries) {
    const where = join(path, key);
    if (key === "" || key.length > 128) faults.add(where, "is not a key of a tag; use 1 to 128 characters");
    if (/^aws:/i.test(key)) faults.add(where, 'begins with "aws:", which is reserved; use another key');
    if (isPlain(tag) && typeof tag !== "string") {
      faults.add(where, `${show(tag)} is not text; write ${JSON.stringify(String(tag))}`);
    } else if (typeof tag === "string" && tag.length > 256) {
      faults.add(where, `has ${tag.length} characters, and AWS takes 256; shorten it`);
    }
  }
}

/** The arguments of a {@link MailSecurityGroup}. */
export interface MailSecurityGroupArgs extends PolicyArgs, AwsArgs {}

/** The firewall in the cloud: an AWS security group that admits what the policy admits. */
export class MailSecurityGroup extends pulumi.ComponentResource {
  /** The group's id. Whatever uses it waits until all rules are there, so that nothing starts behind an empty group. */
  public readonly securityGroupId: pulumi.Output<string>;
  /** Service → who can reach it, such as `imaps` → `tcp/993: public`. Undefined where a `MailFirewall` above says it. */
  public readonly exposure: pulumi.Output<Record<string, string>> | undefined;

  /**
   * @param name Unique in the stack; the group and its rules are named after it.
   * @param args The policy, and the VPC.
   * @param opts Pulumi's own options; `provider` is AWS's.
   * @throws a RunError that names all faults of `args`.
   */
  constructor(name: string, args: MailSecurityGroupArgs, opts?: pulumi.ComponentResourceOptions) {
    const policy = readGroupPolicy(name, args);
    const inputs = policyInputs(policy, opts);
    super("mail-firewall:index:MailSecurityGroup", name, inputs, opts);
    warn(this, policy, true, opts);

    const place = args.region === undefined ? {} : { region: args.region };
    // On the group and on lists, never on rules: a preview shows a change of a rule's tags as an update without any change
    // (pulumi-aws #6602).
    const tagged = { ...place, ...(args.tags !== undefined && { tags: args.tags }) };
    // Without a name, so that a replacement can be created before the old group goes; the description never changes, because
    // AWS cannot change it; rules stand alone, because inline ones are revoked before their successors are authorized.
    const groupId =
      args.securityGroupId ??
      new SecurityGroup(name, { description: "Mail server firewall", vpcId: args.vpcId, ...tagged }, { parent: this })
        .id;
    const ruleIn = (
      { name: tuple, direction, args: rule }: GroupRule,
      list: { prefixListId?: pulumi.Input<string> },
    ) => {
      const Rule = direction === "ingress" ? SecurityGroupIngressRule : SecurityGroupEgressRule;
      return new Rule(`${name}-${tuple}`, { securityGroupId: groupId, ...rule, ...list, ...place }, { parent: this });
    };

    const found = groupRules(rules(policy), { prefixLists: args.prefixLists === true });
    const made = found.filter(({ list }) => list === undefined).map((rule) => ruleIn(rule, {}));
    // A list is named after the first rule that refers to it, so a rule that ceases to share it goes to a later one, or to a
    // rule of its own. Those come first, or the old list would for a moment lack what that rule should still let in. What is
    // deleted, Pulumi deletes last: a rule that goes for good still lets in what its list gains in the same update.
    for (const list of [...new Set(found.flatMap(({ list }) => list ?? []))].reverse()) {
      const { entries, ...more } = list.args;
      const { id: prefixListId } = new ManagedPrefixList(
        `${name}-${list.name}`,
        { ...more, entries: [...entries], ...tagged },
        { parent: this, dependsOn: [...made] },
      );
      made.push(...found.filter((rule) => rule.list === list).map((rule) => ruleIn(rule, { prefixListId })));
    }

    // URNs, not ids: they are known in a preview, so that a new rule does not preview as a replacement of what uses the group.
    this.securityGroupId = pulumi.all([groupId, pulumi.all(made.map((rule) => rule.urn))]).apply(([id]) => id);
    for (const networkInterfaceId of args.attachTo ?? []) {
      new NetworkInterfaceSecurityGroupAttachment(
        `${name}-${networkInterfaceId}`,
        { networkInterfaceId, securityGroupId: this.securityGroupId, ...place },
        { parent: this },
      );
    }
    this.exposure = inputs.exposure && pulumi.output(inputs.exposure);
    this.registerOutputs({
      securityGroupId: this.securityGroupId,
      ...(inputs.exposure && { exposure: this.exposure }),
    });
    if (inputs.exposure) speak(this, name, { policy });
  }
}

function readGroupPolicy(name: string, args: MailSecurityGroupArgs): Policy {
  const faults = new Faults();
  faults.unknownKeys(args, [...policyKeys, ...awsKeys], "");
  const policy = readPolicy(args, "", { any: false }, faults);
  checkAws(args, "", policy, faults);
  if (faults.list.length > 0) throw new pulumi.RunError(report(`MailSecurityGroup "${name}"`, faults.list));
  return policy;
}
