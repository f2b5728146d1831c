import { SecurityGroup } from "@pulumi/aws/ec2/securityGroup";
import { SecurityGroupEgressRule } from "@pulumi/aws/vpc/securityGroupEgressRule";
import { SecurityGroupIngressRule } from "@pulumi/aws/vpc/securityGroupIngressRule";
import * as pulumi from "@pulumi/pulumi";

import { policyInputs, warn } from "../declared";
import { Faults, isPlain, isRecord, join, report, show } from "../policy/faults";
import { policyKeys, readPolicy, rules, type Policy, type PolicyArgs } from "../policy/policy";
import { speak } from "../spoken";
import { checkQuota, groupRules } from "./groupRules";

/** Where the security group goes. */
export interface AwsArgs {
  /** The VPC, `vpc-0123456789abcdef0`. Changing it replaces the group. */
  vpcId: pulumi.Input<string>;
}

export const awsKeys = ["vpcId"] as const;

/** Adds what is wrong with where a group goes, and with the number of its rules, to `faults`. */
export function checkAws(value: unknown, at: string, policy: Policy, faults: Faults): void {
  if (!isRecord(value)) {
    faults.add(at, `${show(value)} is not a map; write { vpcId: vpc-0123456789abcdef0 }`);
    return;
  }
  checkQuota(rules(policy), at === "" ? "services" : at, faults);
  const { vpcId } = value;
  const path = join(at, "vpcId");
  if (vpcId === undefined) faults.add(path, "is missing; write the id of the VPC, such as vpc-0123456789abcdef0");
  else if (isPlain(vpcId) && !(typeof vpcId === "string" && /^vpc-[0-9a-f]+$/.test(vpcId))) {
    faults.add(path, `${show(vpcId)} is not the id of a VPC; write one such as vpc-0123456789abcdef0`);
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
   * @param name The _unique_ name of this component.
   * @param args The policy, and the VPC.
   * @param opts A bag of options that control this component's behavior.
   */
  constructor(name: string, args: MailSecurityGroupArgs, opts?: pulumi.ComponentResourceOptions) {
    const policy = readGroupPolicy(name, args);
    const inputs = policyInputs(policy, opts);
    super("mail-firewall:index:MailSecurityGroup", name, inputs, opts);
    warn(this, policy, opts);

    // Without a name, so that a replacement can be created before the old group goes; the description never changes, because
    // AWS cannot change it; rules stand alone, because inline ones are revoked before their successors are authorized.
    const group = new SecurityGroup(name, { description: "Mail server firewall", vpcId: args.vpcId }, { parent: this });
    const groupRuleResources = groupRules(rules(policy)).map(({ name: tuple, direction, args: rule }) => {
      const Rule = direction === "ingress" ? SecurityGroupIngressRule : SecurityGroupEgressRule;
      return new Rule(`${name}-${tuple}`, { securityGroupId: group.id, ...rule }, { parent: this });
    });

    // URNs, not ids: they are known in a preview, so that a new rule does not preview as a replacement of what uses the group.
    this.securityGroupId = pulumi
      .all([group.id, pulumi.all(groupRuleResources.map((rule) => rule.urn))])
      .apply(([id]) => id);
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
