import { groupUrn, planImport, readLiveRules, type LiveRule } from "../../cli/groupImport";
import { declaredGroup } from "../../cli/stackConfig";
import type { State } from "../../cli/state";
import { groupRules, type GroupRule } from "../../components/cloud/groupRules";
import { Faults } from "../../components/policy/faults";
import { readPolicy, rules } from "../../components/policy/policy";

const urn =
  "urn:pulumi:prod::mail-firewall::mail-firewall:index:MailFirewall$mail-firewall:index:MailSecurityGroup::mail";
const groupId = "sg-0abc";
const policy = { services: { imap: ["10.20.0.0/16", "10.30.0.0/16", "fd12::/48"] }, ssh: ["203.0.113.0/24"] };
const wantedWith = (prefixLists: boolean) =>
  groupRules(rules(readPolicy(policy, "", { any: false }, new Faults())), { prefixLists });
const none: State = { deployment: {} };

/** As AWS has a rule: every number is there, -1 where none was given. */
function live(rule: GroupRule, id: string): LiveRule {
  const { ipProtocol, fromPort, toPort, ...more } = rule.args;
  return {
    ...{ SecurityGroupRuleId: id, GroupId: groupId, IsEgress: rule.direction === "egress", IpProtocol: ipProtocol },
    ...{ FromPort: fromPort ?? -1, ToPort: toPort ?? -1, Description: more.description },
    ...(more.cidrIpv4 !== undefined && { CidrIpv4: more.cidrIpv4 }),
    ...(more.cidrIpv6 !== undefined && { CidrIpv6: more.cidrIpv6 }),
  };
}

test("each rule of the policy that is there is imported under its name, below its group", () => {
  const wanted = wantedWith(false);
  const { commands, others } = planImport(
    wanted.map((rule, i) => ({ ...live(rule, `sgr-${i}`), Description: "of other times" })),
    wanted,
    urn,
    none,
  );
  expect(others).toEqual([]);
  expect(commands).toEqual(
    wanted.map(({ name, direction }, i) => {
      const kind = direction === "ingress" ? "Ingress" : "Egress";
      return (
        `pulumi import aws:vpc/securityGroup${kind}Rule:SecurityGroup${kind}Rule 'mail-${name}' sgr-${i} ` +
        `--parent 'mail=${urn}' --protect=false --generate-code=false --yes`
      );
    }),
  );
});

test("a rule that is in the state already is left alone", () => {
  const wanted = wantedWith(false);
  const state = { deployment: { resources: [{ urn: "", type: "", id: "sgr-1" }] } };
  const plan = planImport([live(wanted[0]!, "sgr-1"), live(wanted[1]!, "sgr-2")], wanted, urn, state);
  expect(plan.commands.map((line) => / (sgr-\d+) /.exec(line)![1])).toEqual(["sgr-2"]);
  expect(plan.others).toEqual([]);
});

const imap = {
  ...live(
    wantedWith(false).find(({ name }) => name === "ingress-tcp-143-10.20.0.0/16")!,
    "sgr-1",
  ),
  Description: undefined,
} as unknown as LiveRule;
const elsewhere = { ...imap, CidrIpv4: undefined } as unknown as LiveRule;

test.each<[string, LiveRule, string]>([
  ["another port", { ...imap, FromPort: 110, ToPort: 110 }, "sgr-1: ingress tcp/110 from 10.20.0.0/16"],
  ["a range of ports", { ...imap, ToPort: 993 }, "sgr-1: ingress tcp/143-993 from 10.20.0.0/16"],
  ["another protocol", { ...imap, IpProtocol: "udp" }, "sgr-1: ingress udp/143 from 10.20.0.0/16"],
  ["all protocols", { ...imap, IpProtocol: "-1", FromPort: -1 }, "sgr-1: ingress all from 10.20.0.0/16"],
  ["the other direction", { ...imap, IsEgress: true }, "sgr-1: egress tcp/143 to 10.20.0.0/16"],
  ["a wider network", { ...imap, CidrIpv4: "10.0.0.0/8" }, "sgr-1: ingress tcp/143 from 10.0.0.0/8"],
  ["a group", { ...elsewhere, ReferencedGroupInfo: { GroupId: "sg-1" } }, "sgr-1: ingress tcp/143 from sg-1"],
  ["a list", { ...elsewhere, PrefixListId: "pl-1" }, "sgr-1: ingress tcp/143 from pl-1"],
  [
    "a description that is for terminals",
    { ...imap, FromPort: 1, Description: "\u001b[31mred\nline" },
    "sgr-1: ingress tcp/1-143 from 10.20.0.0/16 (?[31mred?line)",
  ],
])("a rule with %s is named, and not imported", (_, rule, expected) => {
  expect(planImport([imap], wantedWith(false), urn, none).commands).toHaveLength(1);
  expect(planImport([rule], wantedWith(false), urn, none)).toEqual({ commands: [], others: [expected] });
});

test("where the policy wants a prefix list, no rule stands for it", () => {
  expect(planImport([imap], wantedWith(true), urn, none).others).toHaveLength(1);
});

test("a file of no rules, or of another group's, is refused", () => {
  expect(readLiveRules(JSON.stringify({ SecurityGroupRules: [imap] }), groupId)).toEqual([imap]);
  expect(() => readLiveRules("{}", groupId)).toThrow(
    "no SecurityGroupRules in this file; make it with aws ec2 describe-security-group-rules --filters Name=group-id,Values=sg-0abc",
  );
  expect(() => readLiveRules(JSON.stringify({ SecurityGroupRules: [imap] }), "sg-1")).toThrow(
    "this file has rules of sg-0abc, and the stack's aws.securityGroupId is sg-1",
  );
  const hostile = { ...imap, SecurityGroupRuleId: "sgr-1; reboot" };
  expect(() => readLiveRules(JSON.stringify({ SecurityGroupRules: [hostile] }), groupId)).toThrow(
    '"sgr-1; reboot" in this file is not the id of a rule',
  );
});

test("the group is found in the state by its type and name", () => {
  const type = "mail-firewall:index:MailSecurityGroup";
  const state = {
    deployment: {
      resources: [
        { urn: urn.replace(/mail$/, "webmail"), type },
        { urn, type },
      ],
    },
  };
  expect(groupUrn(state, "mail")).toBe(urn);
  expect(groupUrn(state, "ail")).toBeUndefined();
  expect(groupUrn(none, "mail")).toBeUndefined();
});

describe("the stack's configuration", () => {
  const config = (aws: object) =>
    JSON.stringify({
      "aws:region": { value: "eu-central-1", secret: false },
      "mail-firewall:services": { value: '{"imap":["10.20.0.0/16"]}', objectValue: {}, secret: false },
      "mail-firewall:ssh": { value: '["203.0.113.0/24"]', secret: false },
      "mail-firewall:sshPrivateKey": { secret: true },
      "mail-firewall:aws": { value: JSON.stringify(aws), secret: false },
    });

  test("says which group it adopts, and which rules it wants there", () => {
    const { id, rules } = declaredGroup(config({ securityGroupId: groupId, prefixLists: true }));
    expect(id).toBe(groupId);
    expect(rules.map(({ name }) => name)).toContain("ingress-tcp-143-10.20.0.0/16");
  });

  test("is refused where it makes a group of its own, or is wrong", () => {
    expect(() => declaredGroup(config({ vpcId: "vpc-0abc" }))).toThrow(
      "this stack adopts no group; write its id into its config: mail-firewall:aws: { securityGroupId: sg-... }",
    );
    expect(() => declaredGroup(config({ securityGroupId: "mail" }))).toThrow("stack config: 1 fault");
  });
});
