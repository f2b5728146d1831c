import fc from "fast-check";

import { cloudRule, groupRules } from "../../components/cloud/groupRules";
import { undeclared, type Twins } from "../../components/equivalence";
import { readHostOptions, type HostOptions } from "../../components/host/hostOptions";
import { ruleset } from "../../components/host/ruleset";
import { Faults } from "../../components/policy/faults";
import { readPolicy, rules, type PolicyArgs } from "../../components/policy/policy";
import { hostOptions, policyArgs } from "./arbitraries";

function twins(args: PolicyArgs, options: HostOptions = {}): Twins {
  const faults = new Faults();
  const policy = readPolicy(args, "", { any: true }, faults);
  const settings = readHostOptions(options, "", faults);
  const all = rules(policy);
  return {
    rulesets: { 4: ruleset(all, 4, "o", settings), 6: ruleset(all, 6, "o", settings) },
    settings,
    sshPorts: policy.sshPorts,
    groupRules: groupRules(all).map(cloudRule),
    cloudOnly: [],
  };
}

test("host and group of any policy are equal, but for the declared residue", () => {
  fc.assert(
    fc.property(policyArgs, hostOptions, (args, options) => {
      expect(undeclared(twins(args, options))).toEqual([]);
    }),
    { numRuns: process.env.MAILFW_ALL === "1" ? 10_000 : 300 },
  );
});
