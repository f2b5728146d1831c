import { readFileSync } from "node:fs";
import { join } from "node:path";

import { Command, type CommandArgs } from "@pulumi/command/remote/command";
import * as pulumi from "@pulumi/pulumi";

import { policyInputs, warn } from "../declared";
import { Faults, report } from "../policy/faults";
import { policyKeys, readPolicy, rules, type Policy, type PolicyArgs } from "../policy/policy";
import { checkReachable, hostKeys, readHost, type HostArgs } from "./hostArgs";
import { hostWarnings, readHostOptions, type HostSettings } from "./hostOptions";
import { rulesets } from "./ruleset";

const script = readFileSync(join(__dirname, "mail-firewall.sh"), "utf8");

/** The arguments of a {@link HostFirewall}. */
export interface HostFirewallArgs extends PolicyArgs, HostArgs {}

/** The firewall of one host: iptables rules for IPv4 and IPv6, deployed over SSH. */
export class HostFirewall extends pulumi.ComponentResource {
  /** `applied` and the fingerprint of the rules that the host's kernel holds. */
  public readonly status: pulumi.Output<string>;

  /**
   * @param name The _unique_ name of this component.
   * @param args The policy, and how the host is reached.
   * @param opts A bag of options that control this component's behavior.
   */
  constructor(name: string, args: HostFirewallArgs, opts?: pulumi.ComponentResourceOptions) {
    const { policy, settings } = readHostFirewall(name, args);
    super("mail-firewall:index:HostFirewall", name, { host: args.host, ...policyInputs(policy, opts) }, opts);
    warn(this, policy, opts);
    for (const warning of hostWarnings(settings, rules(policy))) void pulumi.log.warn(warning, this);

    // Nothing but known fields, and none that was not given: the provider prints unknown ones, and hides all of it in a diff.
    const connection: CommandArgs["connection"] = {
      host: args.host,
      port: args.port ?? 22,
      user: args.user ?? "root",
      hostKey: args.hostKey,
      ...(args.privateKey === undefined ? {} : { privateKey: args.privateKey }),
      // Every attempt counts for whoever bans addresses after failed logins, and a wrong key is retried like a lost packet.
      dialErrorLimit: 2,
      perDialTimeout: 10,
    };
    const sudo = connection.user === "root" ? "" : "sudo -n ";
    const remote = { connection, addPreviousOutputInEnv: false, logging: "stderr" } as const;

    const install = new Command(
      `${name}-install`,
      {
        ...remote,
        create: `${sudo}sh -c '${installScript}'`,
        delete: `${sudo}${scriptPath} uninstall`,
        stdin: script,
      },
      { parent: this },
    );
    const apply = new Command(
      `${name}-apply`,
      {
        ...remote,
        create: `${sudo}${scriptPath} apply`,
        delete: `${sudo}${scriptPath} remove --owned`,
        stdin: rulesets(rules(policy), `${pulumi.getProject()}/${pulumi.getStack()}/${name}`, settings),
      },
      // Otherwise the old command's `delete` would take away what the new one has just loaded.
      { parent: this, dependsOn: install, deleteBeforeReplace: true },
    );

    this.status = apply.stdout;
    this.registerOutputs({ status: this.status });
  }
}

const scriptPath = "/usr/local/sbin/mail-firewall";

// The last line proves that the script arrived whole; the rename, that nobody ever runs half of it.
const installScript = [
  "set -e; umask 077",
  `f=${scriptPath}`,
  "cat >$f.new",
  'test "$(tail -n 1 $f.new)" = "# end of mail-firewall" || { rm -f $f.new; exit 1; }',
  "chown root:root $f.new; chmod 0744 $f.new; mv -f $f.new $f",
].join("; ");

function readHostFirewall(name: string, args: HostFirewallArgs): { policy: Policy; settings: HostSettings } {
  const faults = new Faults();
  faults.unknownKeys(args, [...policyKeys, ...hostKeys], "");
  const sshPorts = readHost(args, "", faults);
  const settings = readHostOptions(args, "", faults);
  const policy = readPolicy({ ...args, sshPorts: [] }, "", { any: true, sshPorts }, faults);
  checkReachable(args.host, policy.ssh, "", faults);
  if (faults.list.length > 0) throw new pulumi.RunError(report(`HostFirewall "${name}"`, faults.list));
  return { policy, settings };
}
