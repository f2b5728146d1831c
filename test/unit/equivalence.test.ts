import fc from "fast-check";

import { cloudOnly, cloudRule, groupRules } from "../../components/cloud/groupRules";
import type { CloudRule } from "../../components/cloud/reach";
import { undeclared, type Twins } from "../../components/equivalence";
import { readHostOptions, type HostOptions } from "../../components/host/hostOptions";
import { ruleset } from "../../components/host/ruleset";
import { parseCidr, print, type Cidr } from "../../components/policy/cidr";
import { Faults } from "../../components/policy/faults";
import { readPolicy, rules, type PolicyArgs } from "../../components/policy/policy";
import { edgyPolicyArgs, hostOptions, policyArgs } from "./arbitraries";

jest.setTimeout(3_600_000);

function twins(args: PolicyArgs, options: HostOptions = {}, prefixLists = false): Twins {
  const faults = new Faults();
  const policy = readPolicy(args, "", { any: true }, faults);
  const settings = readHostOptions(options, "", faults);
  expect(faults.list).toEqual([]);
  const all = rules(policy);
  return {
    rulesets: { 4: ruleset(all, 4, "o", settings), 6: ruleset(all, 6, "o", settings) },
    settings,
    sshPorts: policy.sshPorts,
    groupRules: groupRules(all, { prefixLists }).map(cloudRule),
    outbound: all.filter(({ direction }) => direction === "out"),
    cloudOnly: Object.keys(cloudOnly(policy)),
  };
}

const all = process.env.MAILFW_ALL === "1";

test("host and group of any policy are equal, but for the declared residue", () => {
  fc.assert(
    fc.property(fc.oneof(policyArgs, edgyPolicyArgs), hostOptions, fc.boolean(), (args, options, prefixLists) => {
      expect(undeclared(twins(args, options, prefixLists))).toEqual([]);
    }),
    { numRuns: all ? 10_000 : 200 },
  );
});

/** One bit wider, and one bit narrower. */
function resized(text: string): [string, string][] {
  const { family, first, prefix } = parseCidr(text) as Cidr;
  const width = family === 4 ? 32 : 128;
  const host = BigInt(width - prefix + 1);
  return [
    ["wider", `${print(family, (first >> host) << host)}/${prefix - 1}`],
    ...(prefix < width ? [["narrower", `${print(family, first)}/${prefix + 1}`] as [string, string]] : []),
  ];
}

/** Each way to make another line of a ruleset's line. */
function otherLines(line: string): [string, string][] {
  const replaced = (how: string, from: RegExp, to: (...found: string[]) => string): [string, string][] =>
    from.test(line) ? [[how, line.replace(from, to)]] : [];
  return [
    ...[...line.matchAll(/(?<= -[sd] )(?!::ffff:0|255)\S+/g)].flatMap(([cidr]) =>
      resized(cidr).map(([how, to]): [string, string] => [how, line.replace(cidr, to)]),
    ),
    ...replaced("without a source", / -s \S+/, () => ""),
    ...replaced("other port", /(?<=(?:port|sport) )\d+/, (port) => `${Number(port) + 1}`),
    ...replaced("other type", /(?<=-type )\d+/, (type) => `${Number(type) + 1}`),
    ...replaced("other protocol", /-p (tcp|udp)\b(?: -m \1\b)?/, (_, name) => {
      const other = name === "tcp" ? "udp" : "tcp";
      return `-p ${other} -m ${other}`;
    }),
    ...replaced("other interface", /(?<=-[io] )[a-z]+/, (name) => `x${name}`),
    ...replaced("other state", /--ctstate RELATED,ESTABLISHED/, () => "--ctstate NEW,RELATED,ESTABLISHED"),
    ...replaced("other state", /--ctstate INVALID/, () => "--ctstate NEW"),
    ...replaced("all destinations", / -m addrtype ! --dst-type LOCAL/, () => ""),
    ...replaced("negated", / -(?=[sipd] )/, () => " ! -"),
    ...(["ACCEPT", "DROP", "RETURN", "MAILFW-OPEN", "MAILFW-DROP"] as const).flatMap((target) =>
      line.endsWith(`-j ${target}`) ? [] : replaced(`-j ${target} instead`, /(?<=-j )\S+$/, () => target),
    ),
    ...replaced("accepts instead", /(?<=-j )(LOG|REJECT).*$/, () => "ACCEPT"),
  ];
}

/** Mutations that change nothing that is admitted, and why. */
const harmless: readonly RegExp[] = [
  /^twice: /,
  // Two neighbours that do the same, or of which no packet meets both otherwise than in the end.
  /^after the next: (?!.* -A MAILFW-IN -(i lo|s (127\.0\.0\.0\/8|::1\/128)|m addrtype|i eth0 -j MAILFW-OPEN))/,
  // Before the last rule of this chain, only how a packet is dropped is decided: refused, logged, or silently.
  /: -A MAILFW-DROP (?!-j DROP$)/,
  /^-j DROP instead: .* -j MAILFW-DROP$/,
  /^-j MAILFW-DROP instead: .* -j DROP$/,
  /"owner .*"$/,
  // What belongs to no connection asked for no port, so the list of services drops it, too; unlike an error about a flow, it is no news.
  /^(dropped|-j MAILFW-OPEN instead): .* --ctstate INVALID -j DROP$/,
  // No policy opens these types, so the list of services drops them, too.
  /^-j MAILFW-OPEN instead: .*-type (4|5|137) -j DROP$/,
];

/** Whether the proof finds fault, as it does with chains that no kernel takes. */
function found(mutated: Twins): boolean {
  try {
    return undeclared(mutated).length > 0;
  } catch (error) {
    expect((error as Error).message).toMatch(/leads back to itself/);
    return true;
  }
}

// A sample of them, unless MAILFW_ALL=1.
describe("every mutation of one rule is found, or changes nothing that is admitted", () => {
  const original = twins(
    {
      egress: { relay: ["198.51.100.24/29"] },
      services: { submissions: ["public"], imap: ["10.20.0.0/16", "fd12::/48"], imaps: ["10.20.0.0/16"] },
      ssh: ["203.0.112.0/24", "2001:db8:112::/48"],
      sshPorts: [22, 2222],
      ports: { wireguard: { protocol: "udp", port: 51820, from: ["public"] } },
    },
    { trustedNetworks: ["10.8.0.0/24", "fd08::/64"], trustedInterfaces: ["wg0"], externalInterface: "eth0" },
  );

  test.each([4, 6] as const)("of the IPv%i rules on the host", (family) => {
    const lines = original.rulesets[family].split("\n");
    const isRule = (line: string | undefined) => line?.startsWith("-A ") === true;
    const chain = (line: string) => line.split(" ")[1];
    const mutants = lines.flatMap((line, i): [string, string[]][] => {
      const next = lines[i + 1]!;
      if (!isRule(line)) return [];
      return [
        [`dropped: ${line}`, lines.toSpliced(i, 1)],
        [`twice: ${line}`, lines.toSpliced(i, 0, line)],
        ...(isRule(next) && chain(next) === chain(line)
          ? ([[`after the next: ${line}`, lines.with(i, next).with(i + 1, line)]] as [string, string[]][])
          : []),
        ...otherLines(line).map(([how, other]): [string, string[]] => [`${how}: ${line}`, lines.with(i, other)]),
      ];
    });
    expect(mutants.length).toBeGreaterThan(400);
    const survivors = mutants
      .filter((_, i) => all || i % 10 === 0)
      .filter(
        ([, mutated]) => !found({ ...original, rulesets: { ...original.rulesets, [family]: mutated.join("\n") } }),
      )
      .map(([name]) => name);
    expect(survivors.filter((name) => !harmless.some((known) => known.test(name)))).toEqual([]);
    // Each reason is one that is needed.
    if (all) expect(harmless.filter((known) => !survivors.some((name) => known.test(name)))).toEqual([]);
  });

  test("of the group's rules", () => {
    const { groupRules } = original;
    const mutants = groupRules.flatMap((rule, i): [string, CloudRule[]][] => {
      const other = (how: string, change: Partial<CloudRule>): [string, CloudRule[]] => [
        `${how}: ${JSON.stringify(rule)}`,
        groupRules.with(i, { ...rule, ...change }),
      ];
      const [source] = rule.networks!;
      const family = source!.includes(":") ? 6 : 4;
      return [
        [`dropped: ${JSON.stringify(rule)}`, groupRules.toSpliced(i, 1)],
        ...(source!.endsWith("/0")
          ? [other("narrower", { networks: [family === 4 ? "128.0.0.0/1" : "8000::/1"] })]
          : resized(source!).map(([how, to]) => other(how, { networks: [to] }))),
        other("other family", { networks: [family === 4 ? "::/0" : "0.0.0.0/0"] }),
        other("other direction", { direction: rule.direction === "ingress" ? "egress" : "ingress" }),
        other("unknown source", { networks: undefined }),
        ...(rule.ipProtocol === "-1"
          ? []
          : [
              other("other port", { fromPort: rule.fromPort! + 1, toPort: rule.toPort === -1 ? -1 : rule.toPort! + 1 }),
              other("wider ports", {
                toPort: rule.toPort === -1 ? -1 : rule.toPort! + 1,
                fromPort: rule.fromPort! - 1,
              }),
              ...(rule.toPort === -1 ? [other("one code", { toPort: 0 })] : []),
              other("all protocols", { ipProtocol: "-1" }),
              other("other protocol", { ipProtocol: rule.ipProtocol === "tcp" ? "udp" : "tcp" }),
            ]),
      ];
    });
    expect(mutants.length).toBeGreaterThan(200);
    const survivors = mutants
      .filter((_, i) => all || i % 5 === 0)
      .filter(([, mutated]) => !found({ ...original, groupRules: mutated }));
    expect(survivors.map(([name]) => name)).toEqual([]);
  });
});
