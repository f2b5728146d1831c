// The policy that the tests deploy, by the engine or by the script alone, and what must then be live.
import { spawnSync } from "node:child_process";
import { copyFileSync, mkdirSync, writeFileSync } from "node:fs";
import { join, resolve } from "node:path";

import { rulesets } from "../../components/host/ruleset";
import { scriptText } from "../../components/host/script";
import { Faults } from "../../components/policy/faults";
import { readPolicy, rules } from "../../components/policy/policy";
import { operatorKey, type MailHost } from "../sandbox/host";
import type { Run, State } from "../sandbox/stack";

export const policy = {
  services: { submissions: "public", https: "public", imap: ["10.20.0.0/16", "fd12::/48"] },
  ssh: ["203.0.113.0/24", "2001:db8:113::/48"],
  ports: { wireguard: { protocol: "udp", port: 51820, from: "public" } },
};

/** The text that a host must hold for `policy`, with these services beside its own. */
export function expectedRulesets(owner: string, services: Record<string, string[]> = {}): string {
  return rulesets(
    rules(
      readPolicy(
        {
          services: { submissions: ["public"], https: ["public"], imap: policy.services.imap, ...services },
          ssh: policy.ssh,
          ports: { wireguard: { protocol: "udp", port: 51820, from: ["public"] } },
        },
        "",
        { any: true },
        new Faults(),
      ),
    ),
    owner,
  );
}

export const none = "# IPv4\n# IPv6\n# end\n";

/** Pulumi brings its YAML language host, and tools/setup.sh builds it where only the engine is here, with Go. */
export const hasYaml = spawnSync("sh", ["-c", "command -v pulumi-language-yaml"]).status === 0;

/** `make test` takes a sample; `make test-all` every case. */
export const everyCase = process.env.MAILFW_ALL === "1";
/** A test of a case that is much like others. */
export const sampledTest: Pick<jest.It, "each"> & ((name: string, run: jest.ProvidesCallback) => void) = everyCase
  ? test
  : test.skip;

/** Of cases that are much alike, `make test` takes the first ones. */
export const sampled = <T>(count: number, cases: readonly T[]): T[] => cases.slice(0, everyCase ? undefined : count);

/** A test with either backend of iptables, of what is much alike in both: `make test` takes iptables-nft alone. */
export const alikeTest = (backend: "nft" | "legacy"): typeof sampledTest => (backend === "legacy" ? sampledTest : test);

/** Where the script stands on a host. */
export const command = "/usr/local/sbin/mail-firewall";
export { scriptText as script } from "../../components/host/script";

/** The script on a host without the engine. */
export async function install(host: Pick<MailHost, "run">, text = scriptText): Promise<void> {
  expect(await host.run(`cat >${command}; chmod 0744 ${command}`, text)).toMatchObject({ code: 0 });
}

/** Our part of a host's live rules, in the form of {@link rulesets}. */
export async function live(host: Pick<MailHost, "save">): Promise<string> {
  const part = async (family: 4 | 6) => {
    const saved = await host.save(family);
    return ["mangle", "filter"].flatMap((table) => {
      const lines = new RegExp(`^\\*${table}\n([^]*?)^COMMIT$`, "m").exec(saved)?.[1]?.split("\n") ?? [];
      const ours = lines.filter((line) => /^(:MAILFW|-A MAILFW)/.test(line));
      return ours.length > 0 ? [`*${table}`, ...ours, "COMMIT"] : [];
    });
  };
  return ["# IPv4", ...(await part(4)), "# IPv6", ...(await part(6)), "# end", ""].join("\n");
}

const { MAILFW_PYTHON_VENV: venv, MAILFW_PYTHON_LIBRARY: library, PATH } = process.env;

/** What `pulumi package add` installs for a user, by tools/setup.sh; undefined where there is no language host for Python. The one
 * that can be built here knows no `virtualenv`: it runs the Python of one that is activated. */
export const python =
  venv && library ? { venv, env: { PYTHONPATH: library, MYPYPATH: library, PATH: `${venv}/bin:${PATH}` } } : undefined;

/** A test in a language of which this machine may have no host; where it has none, the name says that nothing was tested. */
export function testIn(language: string, there: boolean, name: string, run: jest.ProvidesCallback): void {
  if (there) test(name, run);
  else test.skip(`${name}: NOT TESTED, because this machine has no ${language} language host`, run);
}

/** Nothing of the operator's private key is in the state, nor of any other. */
export function expectNoKey(state: State): void {
  const text = JSON.stringify(state);
  for (const line of operatorKey.privateKey.split("\n").filter((part) => part.length > 20))
    expect(text).not.toContain(line);
  expect(text).not.toContain("PRIVATE KEY");
}

/** The folder of the policy pack, as npm installs it (tools/setup.sh consumer). */
export function policyPack(): string {
  const installed = resolve(".cache/consumer/node_modules/mail-firewall/dist");
  const pack = join(installed, "policy-pack");
  const runtime = process.env.MAILFW_POLICY_RUNTIME;
  if (runtime === undefined) return pack;
  // The language host is too old to start packs, and leaves it to a program that tools/setup.sh has made.
  const other = join(installed, `policy-pack-${runtime}`);
  mkdirSync(other, { recursive: true });
  writeFileSync(join(other, "PulumiPolicy.yaml"), `runtime: ${runtime}\n`);
  copyFileSync(join(pack, "package.json"), join(other, "package.json"));
  writeFileSync(join(other, "index.js"), 'require("../policy-pack");\n');
  return other;
}

export function succeeded(run: Pick<Run, "code" | "output">): string {
  if (run.code !== 0) throw new Error(`exit code ${run.code}\n${run.output}`);
  return run.output;
}

export function failed(run: Run): string {
  if (run.code === 0) throw new Error(`should have failed\n${run.output}`);
  return run.output;
}
