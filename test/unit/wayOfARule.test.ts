// docs/way-of-a-rule.md: what each step makes of the line that it begins with.
import { readFileSync } from "node:fs";

import { parse } from "yaml";

import { groupRules } from "../../components/cloud/groupRules";
import { defaultSettings } from "../../components/host/hostOptions";
import { ruleset } from "../../components/host/ruleset";
import { changes } from "../../components/policy/changes";
import { exposed, exposure } from "../../components/policy/exposure";
import { Faults } from "../../components/policy/faults";
import { readPolicy, rules } from "../../components/policy/policy";
import { readConfig } from "../../stacks/config";
import { good } from "./wrongConfigs";

const blocks = [...readFileSync("docs/way-of-a-rule.md", "utf8").matchAll(/^ {3}```\w*\n(.*?)^ {3}```$/gms)].map(
  ([, text]) => text!.replace(/^ {3}/gm, ""),
);

const policyOf = (services: unknown) => {
  const config = { services, ssh: good.ssh, hosts: good.hosts };
  const entries = Object.entries(config).map(
    ([key, value]) => [`mail-firewall:${key}`, JSON.stringify(value)] as const,
  );
  const args = readConfig({ values: Object.fromEntries(entries), secretKeys: [], sshAgent: () => "ready" });
  return readPolicy(args, "", { any: true, sshPorts: [22] }, new Faults());
};

test("each step of it", () => {
  const [yaml, said, atoms, host, cloud, words] = blocks;
  const policy = policyOf((parse(yaml!) as Record<string, unknown>)["mail-firewall:services"]);
  const lines = (found: string[]) => found.map((line) => `${line}\n`).join("");

  expect(lines([`imaps: ${exposure(policy).imaps}`])).toBe(said);

  const all = rules(policy);
  const imaps = all.filter(({ service }) => service === "imaps");
  expect(
    lines(
      imaps.map(
        ({ direction, protocol, port, source, service, reason }) =>
          `${direction} ${protocol} ${port} from ${source.text} (${service}: ${reason})`,
      ),
    ),
  ).toBe(atoms);

  for (const family of [4, 6] as const) {
    const text = ruleset(all, family, "mail-firewall/prod/mail-mx1", defaultSettings);
    expect(lines(text.split("\n").filter((line) => line.includes("imaps")))).toBe(host);
  }

  expect(
    lines(
      groupRules(all)
        .filter(({ name }) => name.includes("993"))
        .map(({ name, args: { ipProtocol, fromPort, toPort, cidrIpv4, cidrIpv6, description } }) => {
          return `${name}: ${ipProtocol} ${fromPort}-${toPort} ${cidrIpv4 ?? cidrIpv6} "${description}"`;
        }),
    ),
  ).toBe(cloud);

  expect(lines(changes(exposed(policyOf({})), exposed(policy)))).toBe(words);
  expect(blocks).toHaveLength(6);
});
