import { Command } from "@pulumi/command/remote/command";
import * as pulumi from "@pulumi/pulumi";

import { hostOnlyBeside, policyInputs, warn } from "../declared";
import { Faults, report } from "../policy/faults";
import { policyKeys, readPolicy, rules, type Policy, type PolicyArgs } from "../policy/policy";
import { speak } from "../spoken";
import { applied, confirmed, said } from "./answers";
import { connection, connectionWarnings } from "./connection";
import { checkReachable, hostKeys, instanceWord, readHost, type HostArgs } from "./hostArgs";
import { defaultSettings, hostWarnings, readHostOptions, type HostSettings } from "./hostOptions";
import { checkPlace, takePlace } from "./places";
import { fitsOwner, rulesets } from "./ruleset";
import { scriptText } from "./script";

/** The arguments of a {@link HostFirewall}. */
export interface HostFirewallArgs extends PolicyArgs, HostArgs {}

/** The firewall of one host: iptables rules for IPv4 and IPv6, deployed over SSH. */
export class HostFirewall extends pulumi.ComponentResource {
  /** `confirmed` and the fingerprint of the rules that the host's kernel holds, and loads at boot. */
  public readonly status: pulumi.Output<string>;
  /** Service → who can reach it, such as `imaps` → `tcp/993: public`. Undefined where a `MailFirewall` above says it. */
  public readonly exposure: pulumi.Output<Record<string, string>> | undefined;
  /** What a security group cannot say of what the host enforces, each with the reason, as far as no `MailFirewall` says it. */
  public readonly hostOnly: pulumi.Output<Record<string, string>> | undefined;

  /**
   * @param name Unique in the stack; the host knows by it, and by project and stack, to whom it belongs.
   * @param args The policy, and how the host is reached.
   * @param opts Pulumi's own options.
   * @throws a RunError that names all faults of `args`.
   */
  constructor(name: string, args: HostFirewallArgs, opts?: pulumi.ComponentResourceOptions) {
    const { policy, settings } = readHostFirewall(name, args);
    const { exposure } = policyInputs(policy, opts);
    super("mail-firewall:index:HostFirewall", name, { host: args.host, ...(exposure && { exposure }) }, opts);
    warn(this, policy, false, opts);
    for (const warning of hostWarnings(settings, rules(policy))) void pulumi.log.warn(warning, this);

    for (const warning of connectionWarnings(name, args)) void pulumi.log.warn(warning, this);
    const twin = takePlace(name, args);
    if (twin !== undefined) void pulumi.log.warn(twin, this);

    const isRoot = (args.user ?? "root") === "root";
    const sudo = isRoot ? "" : "sudo -n ";
    const script = `${sudo}${scriptPath}`;
    const remote = {
      connection: connection(args, settings.rollbackSeconds),
      addPreviousOutputInEnv: false,
      logging: "stderr",
    } as const;

    const options = { parent: this, retainOnDelete: settings.abandon };

    const install = new Command(
      `${name}-install`,
      {
        ...remote,
        create: onInstance(args, `${isRoot ? "" : asRoot}sh -c '${installScript}'`),
        delete: `${sudo}${ifInstalled("uninstall")}`,
        stdin: scriptText,
      },
      options,
    );
    const apply = new Command(
      `${name}-apply`,
      {
        ...remote,
        create: onInstance(args, [script, "apply", ...applyOptions(settings)].join(" "), "--instance"),
        delete: `${sudo}${ifInstalled("remove --owned")}`,
        stdin: rulesets(rules(policy), ownerOf(name), settings),
      },
      // Otherwise the old command's `delete` would take away what the new one has just loaded.
      { ...options, dependsOn: install, deleteBeforeReplace: true },
    );
    const where = `${args.user ?? "root"}@${typeof args.host === "string" ? args.host : name}`;
    const told = (done: pulumi.Output<string>, ...forms: RegExp[]) =>
      done.apply((text) => {
        const answer = said(text, forms, where, name);
        if (answer instanceof Error) throw new pulumi.RunError(answer.message);
        return answer;
      });
    const token = told(apply.stdout, applied);
    // A new connection, through the new rules: the only proof that they let one in. Without it the host goes back by itself.
    const confirm = new Command(`${name}-confirm`, { ...remote, create: `${script} confirm`, stdin: token }, options);
    // Where the host had gone back before it could be confirmed, as after an interrupted `up`, confirm applies again, and only
    // one more new connection can confirm that. Otherwise confirm says nothing but `confirmed`, and this one has nothing to do;
    // a preview, which cannot know what it will say, would show a change each time.
    const reconfirm = new Command(
      `${name}-reconfirm`,
      {
        ...remote,
        create: `${script} confirm --again`,
        stdin: told(confirm.stdout, confirmed, applied),
      },
      { ...options, ignoreChanges: pulumi.runtime.isDryRun() ? ["stdin"] : [] },
    );

    this.status = pulumi.interpolate`${told(reconfirm.stdout, confirmed)} ${token.apply(fingerprint)}`;
    const hostOnly = hostOnlyBeside(name, settings, policy, opts);
    this.exposure = exposure && pulumi.output(exposure);
    this.hostOnly = hostOnly && pulumi.output(hostOnly);
    this.registerOutputs({
      status: this.status,
      ...(exposure && { exposure: this.exposure }),
      ...(hostOnly && { hostOnly: this.hostOnly }),
    });
    speak(this, name, { ...(exposure && { policy }), ...(hostOnly && { hostOnly }) });
  }
}

const scriptPath = "/usr/local/sbin/mail-firewall";

/** A verb of the script, which whoever never got it need not run. */
const ifInstalled = (verb: string) => `sh -c 'test ! -e ${scriptPath} || exec ${scriptPath} ${verb}'`;

// For the first command that needs root. sudo says "a password is required" whatever it misses, so that the line for sudoers is added;
// but not where it names another cause.
const asRoot =
  `sh -c 'sudo -n "$@" || { c=$?; case $(LC_ALL=C sudo -n sh -c : 2>&1) in *password*|*sudoers*|*"not allowed"*|*"may not run"*) ` +
  `echo "mail-firewall: $(id -un) needs sudo without a password; add to sudoers (visudo): ` +
  `$(id -un) ALL=(root) NOPASSWD: /bin/sh, ${scriptPath}" >&2; esac; exit $c; }' - `;

// The last line proves that the script arrived whole; the rename, that nobody ever runs half of it.
const installScript = [
  "set -e; umask 077",
  `f=${scriptPath}`,
  "cat >$f.new",
  'test "$(tail -n 1 $f.new)" = "# end of mail-firewall" || { rm -f $f.new; exit 1; }',
  "chown root:root $f.new; chmod 0744 $f.new; mv -f $f.new $f",
].join("; ");

/** A command that is another one for another machine. An id that is known only now is too late to refuse. */
function onInstance({ instanceId }: HostArgs, command: string, option?: string): pulumi.Input<string> {
  if (instanceId === undefined) return command;
  return pulumi.output(instanceId).apply((id) => [command, ...(option ? [option] : []), instanceWord(id)].join(" "));
}

const ownerOf = (name: string) => `${pulumi.getProject()}/${pulumi.getStack()}/${name}`;

/** From `applied FINGERPRINT-NONCE`; the nonce makes each run of apply one that must be confirmed. */
function fingerprint(applied: string): string {
  return applied.replace(/^applied |-.*$/g, "");
}

/** What differs from the defaults of the script, so that the command is the same for nearly all. */
function applyOptions({ rollbackSeconds, takeOver, onDestroy }: HostSettings): string[] {
  return [
    ...(rollbackSeconds === defaultSettings.rollbackSeconds ? [] : [`--rollback ${rollbackSeconds}`]),
    ...(takeOver ? ["--take-over"] : []),
    ...(onDestroy === "keep" ? ["--keep"] : []),
  ];
}

function readHostFirewall(name: string, args: HostFirewallArgs): { policy: Policy; settings: HostSettings } {
  const faults = new Faults();
  faults.unknownKeys(args, [...policyKeys, ...hostKeys], "");
  const sshPorts = readHost(args, "", faults);
  const settings = readHostOptions(args, "", faults);
  const policy = readPolicy({ ...args, sshPorts: [] }, "", { any: true, sshPorts }, faults);
  checkReachable(args.host, policy.ssh, "", faults);
  checkPlace(args, "host", faults);
  if (!fitsOwner(ownerOf(name))) faults.add("name", "is too long to be marked as the owner's on the host; shorten it");
  if (faults.list.length > 0) throw new pulumi.RunError(report(`HostFirewall "${name}"`, faults.list));
  return { policy, settings };
}
