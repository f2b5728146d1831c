import { groupRules, type GroupRule } from "../components/cloud/groupRules";
import { readFirewall } from "../components/mailFirewall";
import { Faults } from "../components/policy/faults";
import { rules } from "../components/policy/policy";
import { readConfig } from "../stacks/config";

/**
 * The group that a stack adopts, and the rules that it wants there.
 *
 * @param text what `pulumi config --json` prints; the secrets, which it leaves out, are not needed.
 */
export function declaredGroup(text: string): { id: string; rules: GroupRule[] } {
  const config = JSON.parse(text) as Record<string, { value?: string; secret?: boolean }>;
  const plain = Object.entries(config).filter(([, { value, secret }]) => value !== undefined && !secret);
  const args = readConfig({
    values: Object.fromEntries(plain.map(([key, { value }]) => [key, value!])),
    secretKeys: [],
    sshAgent: () => "ready", // nobody is dialled
  });
  const id = args.aws?.securityGroupId;
  if (typeof id !== "string") {
    throw new Error(
      "this stack adopts no group; write its id into its config: mail-firewall:aws: { securityGroupId: sg-... }",
    );
  }
  const { policy } = readFirewall(args, "", new Faults());
  return { id, rules: groupRules(rules(policy), { prefixLists: args.aws?.prefixLists === true }) };
}
