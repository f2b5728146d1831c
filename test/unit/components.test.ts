import * as aws from "@pulumi/aws";
import * as command from "@pulumi/command";
import * as pulumi from "@pulumi/pulumi";
import type { MockMonitor } from "@pulumi/pulumi/runtime/mocks";

import { HostFirewall, MailFirewall, MailSecurityGroup, type HostArgs, type MailFirewallArgs } from "../../components";
import { groupRules } from "../../components/cloud/groupRules";
import { defaultSettings, readHostOptions, type HostOptions } from "../../components/host/hostOptions";
import * as residues from "../../components/host/residue";
import { hostOnly } from "../../components/host/residue";
import { rulesets } from "../../components/host/ruleset";
import { Faults } from "../../components/policy/faults";
import { readPolicy, rules, type PolicyArgs } from "../../components/policy/policy";
import { withoutStacks } from "./withoutStacks";

const hostKey = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHyrmZFHMFmhYYIcPPRxUWkWDKZUzpP2PYRkVfTzWlrk";
const privateKey = "-----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNzaC1rZXktdjEAAAAA\n-----END OPENSSH PRIVATE KEY-----\n";
const policy: PolicyArgs = { services: { imaps: ["public"] }, ssh: ["203.0.113.0/24"] };
const mx1: HostArgs = { host: "198.51.100.10", hostKey };
const mx2: HostArgs = { host: "198.51.100.11", hostKey: hostKey.replace("AAIHy", "AAIHz") };
const vpcId = "vpc-0abc";

const kinds: Record<string, string> = {
  "mail-firewall:index:MailFirewall": "MailFirewall",
  "mail-firewall:index:HostFirewall": "HostFirewall",
  "mail-firewall:index:MailSecurityGroup": "MailSecurityGroup",
  "aws:ec2/securityGroup:SecurityGroup": "SecurityGroup",
  "aws:ec2/managedPrefixList:ManagedPrefixList": "PrefixList",
  "aws:ec2/networkInterfaceSecurityGroupAttachment:NetworkInterfaceSecurityGroupAttachment": "Attachment",
  "aws:vpc/securityGroupIngressRule:SecurityGroupIngressRule": "IngressRule",
  "aws:vpc/securityGroupEgressRule:SecurityGroupEgressRule": "EgressRule",
  "command:remote:Command": "Command",
  "pulumi:providers:aws": "Provider",
  "pulumi:providers:command": "Provider",
};

interface Seen {
  /** The kinds of the parent (mocks know no more of the chain) and of the resource, and its name. */
  where: string;
  inputs: Record<string, unknown>;
  /** The URN of its explicit provider, or "". */
  provider: string;
}

/** Runs a program against mocks; what it registered, in order, and what it logged. */
async function run<T>(
  program: () => T,
  {
    preview = false,
    exists = [] as string[],
    state = undefined as ((args: Record<string, unknown>) => Record<string, unknown>) | undefined,
  } = {},
) {
  const seen: pulumi.runtime.MockResourceArgs[] = [];
  await pulumi.runtime.setMocks(
    {
      newResource: (args) => {
        if (!(args.type in kinds)) throw new Error(`no mock for ${args.type}`);
        seen.push(args);
        if (args.type === "command:remote:Command") {
          return {
            id: args.name,
            state: { stdout: args.name.endsWith("-apply") ? "applied 0123456789ab-0123abcd" : "confirmed" },
          };
        }
        const known = !preview || exists.includes(kinds[args.type]!);
        return { id: known ? `${args.name}-id` : undefined, state: args.inputs as object };
      },
      call: ({ token, inputs }) => {
        if (token === "pulumi:pulumi:readStackResourceOutputs" && state) return state(inputs as object as never);
        throw new Error(`no mock for ${token}`);
      },
    },
    "mail-firewall",
    "test",
    preview,
    "organization",
  );
  const said: string[] = [];
  const info = jest.spyOn(pulumi.log, "info").mockImplementation((message) => {
    said.push(message);
    return Promise.resolve();
  });
  const warned: string[] = [];
  const warn = jest.spyOn(pulumi.log, "warn").mockImplementation((message) => {
    warned.push(message);
    return Promise.resolve();
  });
  try {
    const result = await withoutStacks(async () => {
      const made = program();
      await pulumi.runtime.disconnect();
      return made;
    });
    const monitor = pulumi.runtime.getMonitor() as unknown as MockMonitor;
    const urns = [...monitor.getRegisteredResources().values()].map(({ urn }) => urn);
    const resources = seen.map(({ type, name, inputs, provider = "" }): Seen => {
      const chain = urns
        .map((urn) => urn.split("::"))
        .find((parts) => parts[3] === name && parts[2]?.split("$").at(-1) === type);
      const types = chain?.[2]?.split("$").filter((part) => part !== "pulumi:pulumi:Stack") ?? [];
      return {
        where: `${types.map((part) => kinds[part] ?? part).join(" > ")} ${name}`,
        inputs: inputs as Record<string, unknown>,
        provider,
      };
    });
    return { result, resources, warned, said };
  } finally {
    info.mockRestore();
    warn.mockRestore();
  }
}

/** The plain value of an output, and whether it is secret and known. */
async function resolve<T>(output: pulumi.Output<T>) {
  const inside = output as unknown as {
    promise(withUnknowns?: boolean): Promise<T>;
    isKnown: Promise<boolean>;
    isSecret: Promise<boolean>;
  };
  return { value: await inside.promise(), known: await inside.isKnown, secret: await inside.isSecret };
}

const secretSignature = "4dabf18193072939515e22adb298388d";
const isSecret = (value: unknown) => typeof value === "object" && value !== null && secretSignature in value;
const plain = (value: unknown) => (isSecret(value) ? (value as unknown as { value: unknown }).value : value);

function rulesOf(args: PolicyArgs) {
  return rules(readPolicy(args, "", { any: false }, new Faults()));
}

function groupResources(chain: string, name: string, args: PolicyArgs): string[] {
  return [
    `${chain} > SecurityGroup ${name}`,
    ...groupRules(rulesOf(args)).map(
      (rule) => `${chain} > ${rule.direction === "ingress" ? "IngressRule" : "EgressRule"} ${name}-${rule.name}`,
    ),
  ];
}

const where = (resources: Seen[]) => resources.map((resource) => resource.where).sort();
const inputsOf = (resources: Seen[], name: string) => resources.find((resource) => resource.where === name)!.inputs;

describe("MailFirewall", () => {
  test("registers exactly its group, the group's rules and four commands a host, each under its parent", async () => {
    const { resources, warned } = await run(
      () => new MailFirewall("mail", { ...policy, hosts: { mx1, mx2 }, aws: { vpcId } }),
    );
    expect(where(resources)).toEqual(
      [
        "MailFirewall mail",
        "MailFirewall > MailSecurityGroup mail",
        ...groupResources("MailSecurityGroup", "mail", policy),
        "MailFirewall > HostFirewall mail-mx1",
        "HostFirewall > Command mail-mx1-install",
        "HostFirewall > Command mail-mx1-apply",
        "HostFirewall > Command mail-mx1-confirm",
        "HostFirewall > Command mail-mx1-reconfirm",
        "MailFirewall > HostFirewall mail-mx2",
        "HostFirewall > Command mail-mx2-install",
        "HostFirewall > Command mail-mx2-apply",
        "HostFirewall > Command mail-mx2-confirm",
        "HostFirewall > Command mail-mx2-reconfirm",
      ].sort(),
    );
    expect(warned).toEqual([]);
  });

  test("shows the policy once, keyed by service, and nothing else of its arguments", async () => {
    const { resources } = await run(
      () =>
        new MailFirewall("mail", {
          ...policy,
          hosts: { mx1 },
          aws: { vpcId },
          sshPrivateKey: pulumi.secret(privateKey),
        }),
    );
    expect(inputsOf(resources, "MailFirewall mail")).toEqual({
      exposure: {
        smtp: "tcp/25: public",
        http: "tcp/80: closed",
        pop3: "tcp/110: closed",
        imap: "tcp/143: closed",
        https: "tcp/443: closed",
        submissions: "tcp/465: closed",
        submission: "tcp/587: closed",
        imaps: "tcp/993: public",
        pop3s: "tcp/995: closed",
        sieve: "tcp/4190: closed",
        ssh: "tcp/22: 203.0.113.0/24",
      },
    });
    expect(inputsOf(resources, "MailFirewall > MailSecurityGroup mail")).toEqual({});
    expect(inputsOf(resources, "MailFirewall > HostFirewall mail-mx1")).toEqual({ host: "198.51.100.10" });
  });

  test.each<[string, Partial<MailFirewallArgs>, Record<string, unknown>]>([
    [
      "hosts and a group",
      { hosts: { mx1 }, aws: { vpcId } },
      {
        hosts: { mx1: "confirmed 0123456789ab" },
        securityGroupId: "mail-id",
        hostOnly: 6,
        cloudOnly: ["outbound mail"],
      },
    ],
    [
      "hosts alone",
      { hosts: { mx1 } },
      { hosts: { mx1: "confirmed 0123456789ab" }, securityGroupId: undefined, hostOnly: 6, cloudOnly: [] },
    ],
    [
      "a group alone",
      { aws: { vpcId } },
      { hosts: {}, securityGroupId: "mail-id", hostOnly: 6, cloudOnly: ["outbound mail"] },
    ],
    [
      "a group that restricts what hosts do not",
      { aws: { vpcId }, hosts: { mx1 }, egress: { relay: ["198.51.100.7/32"] } },
      {
        hosts: { mx1: "confirmed 0123456789ab" },
        securityGroupId: "mail-id",
        hostOnly: 6,
        cloudOnly: ["outbound traffic", "idle connections"],
      },
    ],
  ])("has the outputs of the contract with %s", async (_, args, expected) => {
    const { result } = await run(() => new MailFirewall("mail", { ...policy, ...args }));
    expect((await resolve(result.hosts)).value).toEqual(expected.hosts);
    expect(result.securityGroupId && (await resolve(result.securityGroupId)).value).toEqual(expected.securityGroupId);
    expect((await resolve(result.exposure)).value).toHaveProperty("imaps", "tcp/993: public");
    expect(Object.keys((await resolve(result.hostOnly)).value)).toHaveLength(expected.hostOnly as number);
    expect(Object.keys((await resolve(result.cloudOnly)).value)).toEqual(expected.cloudOnly);
    for (const output of [result.hosts, result.exposure, result.hostOnly, result.cloudOnly]) {
      expect(await resolve(output as pulumi.Output<unknown>)).toMatchObject({ known: true, secret: false });
    }
  });

  test("keeps the SSH ports of all hosts open, on every host and in the group", async () => {
    const { resources } = await run(
      () =>
        new MailFirewall("mail", {
          ...policy,
          hosts: { a: { ...mx1, port: 2222 }, b: { ...mx1, host: "198.51.100.11", sshPorts: [22] } },
          aws: { vpcId },
        }),
    );
    const expected = { ...policy, sshPorts: [22, 2222] };
    expect(where(resources)).toEqual(expect.arrayContaining(groupResources("MailSecurityGroup", "mail", expected)));
    for (const name of ["mail-a", "mail-b"]) {
      expect(inputsOf(resources, `HostFirewall > Command ${name}-apply`).stdin).toBe(
        rulesets(rulesOf(expected), `mail-firewall/test/${name}`),
      );
    }
  });

  test("addHost deploys the same policy to one more host, below the firewall", async () => {
    const { resources } = await run(() => {
      const firewall = new MailFirewall("mail", { ...policy, aws: { vpcId } });
      return firewall.addHost("mx1", { host: pulumi.output("198.51.100.10"), hostKey: pulumi.output(hostKey) });
    });
    expect(where(resources)).toEqual(
      [
        "MailFirewall mail",
        "MailFirewall > MailSecurityGroup mail",
        ...groupResources("MailSecurityGroup", "mail", policy),
        "MailFirewall > HostFirewall mail-mx1",
        "HostFirewall > Command mail-mx1-install",
        "HostFirewall > Command mail-mx1-apply",
        "HostFirewall > Command mail-mx1-confirm",
        "HostFirewall > Command mail-mx1-reconfirm",
      ].sort(),
    );
    expect(inputsOf(resources, "HostFirewall > Command mail-mx1-apply").stdin).toBe(
      rulesets(rulesOf(policy), "mail-firewall/test/mail-mx1"),
    );
  });

  test("addHost refuses a host whose sshd the group would hide", async () => {
    await run(() => {
      const firewall = new MailFirewall("mail", { ...policy, aws: { vpcId } });
      expect(() => firewall.addHost("mx1", { ...mx1, port: 2222 })).toThrow(
        'mail.addHost("mx1"): 1 fault; nothing was touched\n' +
          "  sshPorts: 2222 is not among the firewall's own; give MailFirewall sshPorts: [22, 2222]",
      );
    });
  });

  test("addHost reports all faults of a host at once", async () => {
    await run(() => {
      const firewall = new MailFirewall("mail", { ...policy, aws: { vpcId } });
      const attempt = () => firewall.addHost("Bad Name::x", { ...mx1, port: 2222, hostkey: 1 } as never);
      expect(attempt).toThrow(/3 faults[\s\S]*not a name for a host[\s\S]*hostkey: unknown key[\s\S]*sshPorts: 2222/);
    });
  });

  test("says what is unusual about a policy", async () => {
    const { warned } = await run(
      () => new MailFirewall("mail", { services: { smtp: ["closed"] }, ssh: ["public"], aws: { vpcId } }),
    );
    expect(warned).toEqual([
      "smtp (tcp/25) is closed: this host receives no mail from other servers",
      "ssh is public: everyone may try passwords and keys; name the networks you work from",
    ]);
  });
});

describe("egress", () => {
  const egress = { mode: "mail" };
  const noEffect =
    "egress has no effect here: hosts do not restrict what they send, only a security group does; add one, or delete egress";

  test("is the group's, of a firewall as of one alone", async () => {
    for (const create of [
      (): unknown => new MailFirewall("mail", { ...policy, egress, aws: { vpcId }, hosts: { mx1 } }),
      () => new MailSecurityGroup("mail", { ...policy, egress, vpcId }),
    ]) {
      const { resources, warned } = await run(create);
      expect(where(resources)).toEqual(
        expect.arrayContaining(groupResources("MailSecurityGroup", "mail", { ...policy, egress })),
      );
      expect(where(resources).filter((one) => one.includes("EgressRule")).length).toBe(21);
      expect(warned).toEqual([]);
    }
  });

  test.each<[string, () => unknown]>([
    ["firewall", () => new MailFirewall("mail", { ...policy, egress, hosts: { mx1, mx2 } })],
    ["host", () => new HostFirewall("mx1", { ...policy, egress, ...mx1 })],
  ])("a %s without a group says once that it has no effect", async (_, create) => {
    expect((await run(create)).warned).toEqual([noEffect]);
  });
});

describe("HostFirewall", () => {
  const commands = ["install", "apply", "confirm", "reconfirm"];

  test("is complete alone, and then shows its policy itself", async () => {
    const { result, resources } = await run(() => new HostFirewall("mx1", { ...policy, ...mx1 }));
    expect(where(resources)).toEqual(
      ["HostFirewall mx1", ...commands.map((verb) => `HostFirewall > Command mx1-${verb}`)].sort(),
    );
    expect(inputsOf(resources, "HostFirewall mx1")).toMatchObject({
      host: "198.51.100.10",
      exposure: { imaps: "tcp/993: public" },
    });
    expect(await resolve(result.status)).toEqual({ value: "confirmed 0123456789ab", known: true, secret: false });
  });

  test("gives its commands exactly these inputs, of which only the connection is secret", async () => {
    const { resources } = await run(
      () =>
        new HostFirewall("mx1", {
          ...policy,
          ...mx1,
          user: "admin",
          port: 2222,
          privateKey: pulumi.secret(privateKey),
        }),
    );
    for (const verb of commands) {
      const { connection, ...rest } = inputsOf(resources, `HostFirewall > Command mx1-${verb}`);
      expect(isSecret(connection)).toBe(true);
      const fields = plain(connection) as Record<string, unknown>;
      expect(Object.fromEntries(Object.entries(fields).map(([key, value]) => [key, plain(value)]))).toEqual({
        host: "198.51.100.10",
        port: 2222,
        user: "admin",
        hostKey,
        privateKey,
        dialErrorLimit: 2,
        perDialTimeout: 10,
      });
      expect(JSON.stringify(rest)).not.toContain(secretSignature);
      // No triggers, which would replace: the old command's `delete` would remove the rules that the new one has just loaded.
      const removes = verb === "install" || verb === "apply" ? ["delete"] : [];
      expect(Object.keys(rest).sort()).toEqual(
        ["addPreviousOutputInEnv", "create", ...removes, "logging", "stdin"].sort(),
      );
      expect(rest).toMatchObject({ addPreviousOutputInEnv: false, logging: "stderr" });
    }
    expect(inputsOf(resources, "HostFirewall > Command mx1-apply")).toMatchObject({
      stdin: rulesets(rulesOf({ ...policy, sshPorts: [2222] }), "mail-firewall/test/mx1"),
    });
  });

  test("the commands hold nothing of the policy or the host, which stand on standard input", async () => {
    const texts = async (args: Partial<HostArgs & PolicyArgs>) => {
      const { resources } = await run(() => new HostFirewall("mx1", { ...policy, ...mx1, ...args }));
      return resources.map(({ inputs }) => [inputs.create, inputs.delete]);
    };
    expect(await texts({ services: { plain: ["10.0.0.0/8"] }, ssh: ["public"], host: "mx9", sshPorts: [99] })).toEqual(
      await texts({}),
    );
  });

  test("another machine at the same address is another command, for all that it must be given", async () => {
    const texts = async (instanceId?: pulumi.Input<string>) => {
      const { resources } = await run(
        () => new HostFirewall("mx1", { ...policy, ...mx1, ...(instanceId && { instanceId }) }),
      );
      const create = (verb: string) => inputsOf(resources, `HostFirewall > Command mx1-${verb}`).create as string;
      return commands.map(create);
    };
    const [install, apply, ...others] = await texts();
    for (const id of ["i-0abc", pulumi.output("i-0abc")]) {
      // confirm follows what apply says, which is never the same.
      expect(await texts(id)).toEqual([`${install} i-0abc`, `${apply} --instance i-0abc`, ...others]);
    }
    expect(await texts(pulumi.output("i-1;$(x)"))).toEqual([
      `${install} i-1___x_`,
      `${apply} --instance i-1___x_`,
      ...others,
    ]);
  });

  // The texts are part of users' state: a new one makes every host's command run again.
  test.each([
    ["root", "", ""],
    [
      "admin",
      "sudo -n ",
      `sh -c 'sudo -n "$@" || { c=$?; case $(LC_ALL=C sudo -n sh -c : 2>&1) in *password*|*sudoers*|*"not allowed"*|*"may not run"*) ` +
        'echo "mail-firewall: $(id -un) needs sudo without a password; add to sudoers (visudo): ' +
        `$(id -un) ALL=(root) NOPASSWD: /bin/sh, /usr/local/sbin/mail-firewall" >&2; esac; exit $c; }' - `,
    ],
  ])("runs exactly these commands as %s", async (user, sudo, first) => {
    const { resources } = await run(() => new HostFirewall("mx1", { ...policy, ...mx1, user }));
    expect(inputsOf(resources, "HostFirewall > Command mx1-install")).toMatchObject({
      create:
        `${first}sh -c 'set -e; umask 077; f=/usr/local/sbin/mail-firewall; cat >$f.new; ` +
        'test "$(tail -n 1 $f.new)" = "# end of mail-firewall" || { rm -f $f.new; exit 1; }; ' +
        "chown root:root $f.new; chmod 0744 $f.new; mv -f $f.new $f'",
      delete: `${sudo}sh -c 'test ! -e /usr/local/sbin/mail-firewall || exec /usr/local/sbin/mail-firewall uninstall'`,
    });
    expect(inputsOf(resources, "HostFirewall > Command mx1-apply")).toMatchObject({
      create: `${sudo}/usr/local/sbin/mail-firewall apply`,
      delete: `${sudo}sh -c 'test ! -e /usr/local/sbin/mail-firewall || exec /usr/local/sbin/mail-firewall remove --owned'`,
    });
    expect(inputsOf(resources, "HostFirewall > Command mx1-confirm")).toMatchObject({
      create: `${sudo}/usr/local/sbin/mail-firewall confirm`,
      stdin: "applied 0123456789ab-0123abcd",
    });
    expect(inputsOf(resources, "HostFirewall > Command mx1-reconfirm")).toMatchObject({
      create: `${sudo}/usr/local/sbin/mail-firewall confirm --again`,
      stdin: "confirmed",
    });
  });
});

describe("one machine under two names", () => {
  const firewall = (name: string, hosts: Record<string, HostArgs>) => new MailFirewall(name, { ...policy, hosts });

  test.each<[string, () => unknown, string]>([
    [
      "in a firewall",
      () => firewall("mail", { mx1, mx2: { ...mx1, user: "admin" } }),
      'MailFirewall "mail": 1 fault; nothing was touched\n  hosts.mx2.host: "198.51.100.10" is also mx1; delete one',
    ],
    [
      "in two firewalls",
      () => [firewall("a", { mx1 }), firewall("b", { mx2, mx: mx1 })],
      'MailFirewall "b": 1 fault; nothing was touched\n  hosts.mx.host: "198.51.100.10" is also HostFirewall "a-mx1"; delete one',
    ],
    [
      "added later",
      () => firewall("a", { mx1 }).addHost("mx2", mx1),
      'a.addHost("mx2"): 1 fault; nothing was touched\n  host: "198.51.100.10" is also HostFirewall "a-mx1"; delete one',
    ],
    [
      "alone",
      () => [new HostFirewall("a", { ...policy, ...mx1 }), new HostFirewall("b", { ...policy, ...mx1 })],
      'HostFirewall "b": 1 fault; nothing was touched\n  host: "198.51.100.10" is also HostFirewall "a"; delete one',
    ],
  ])("is refused %s", async (_, create, expected) => {
    await run(() => {
      expect(create).toThrow(expected);
    });
  });

  test("is no fault in another run of the program, on another port, or behind another bastion", async () => {
    await run(() => firewall("mail", { mx1 }));
    const { warned } = await run(() =>
      firewall("mail", {
        ...{ mx1, mx2: { ...mx2, host: mx1.host, port: 2222 } },
        mx3: { host: mx1.host, insecureIgnoreHostKey: true, bastion: { host: "jump", hostKey } },
      }),
    );
    expect(warned.filter((text) => text.includes("same"))).toEqual([]);
  });

  test("that only the host key tells is warned of, because clones have one key, too", async () => {
    const { warned } = await run(() => firewall("mail", { mx1, mx2: { ...mx2, hostKey: `${hostKey} root@mx1` } }));
    expect(warned).toEqual([expect.stringMatching(/^mail-mx2 has the same host key as mail-mx1\. If the two are one/)]);
  });
});

describe("hosts that change at once", () => {
  test("wait for each other only behind one bastion, eight at a time", async () => {
    const { resources } = await run(() => {
      const firewall = new MailFirewall("mail", { ...policy, aws: { vpcId }, hostsAtOnce: true });
      const add = (name: string, more: Partial<HostArgs>) =>
        firewall.addHost(name, { host: name, insecureIgnoreHostKey: true, ...more });
      for (let i = 0; i < 10; i++) add(`m${i}`, { bastion: { host: i % 2 ? "jump" : "JUMP.", hostKey } });
      add("direct", {});
    });
    const names = resources.map(({ where }) => where.split(" ").at(-1)!);
    const [first, last] = ["mail-m0-install", "mail-m0-reconfirm"].map((name) => names.indexOf(name)) as [
      number,
      number,
    ];
    expect(first).toBeGreaterThan(-1);
    const begun = (name: string) => names.indexOf(`mail-${name}-install`);
    for (const free of ["m1", "m7", "direct"]) expect(begun(free)).toBeLessThan(last);
    for (const waiting of ["m8", "m9"]) expect(begun(waiting)).toBeGreaterThan(last);
  });
});

describe("ways to log in", () => {
  const loginsOf = (resources: Seen[], name: string) => {
    const open = (value: unknown): unknown => {
      const inner = plain(value);
      if (typeof inner !== "object" || inner === null) return inner;
      return Object.fromEntries(Object.entries(inner).map(([key, field]) => [key, open(field)]));
    };
    return open(inputsOf(resources, `HostFirewall > Command ${name}-apply`).connection) as Record<string, unknown>;
  };

  test("a host that has none of its own gets the stack's, each key with its passphrase, and so does its bastion", async () => {
    const own = privateKey.replace("b3Bl", "b3Bm");
    const bastion = { host: "jump", hostKey };
    const { resources } = await run(
      () =>
        new MailFirewall("mail", {
          ...policy,
          hosts: { mx1: { ...mx1, bastion }, mx2: { ...mx1, host: "mx2", privateKey: own, bastion } },
          sshPrivateKey: pulumi.secret(privateKey),
          sshPrivateKeyPassword: pulumi.secret("hush"),
        }),
    );
    const common = { user: "root", port: 22, hostKey, perDialTimeout: 10 };
    const logIn = { privateKey, privateKeyPassword: "hush" };
    expect(loginsOf(resources, "mail-mx1")).toEqual({
      ...{ ...common, ...logIn, host: "198.51.100.10", dialErrorLimit: 0 },
      proxy: { ...common, ...logIn, host: "jump", dialErrorLimit: 2 },
    });
    expect(loginsOf(resources, "mail-mx2")).toEqual({
      ...{ ...common, privateKey: own, host: "mx2", dialErrorLimit: 0 },
      proxy: { ...common, privateKey: own, host: "jump", dialErrorLimit: 2 },
    });
  });

  test("a bastion's own key is not opened with the host's passphrase, and its agent is the host's", async () => {
    const { resources } = await run(
      () =>
        new HostFirewall("mx1", {
          ...{ ...policy, ...mx1, agentSocketPath: "/run/agent" },
          ...{ privateKey: pulumi.secret(privateKey), privateKeyPassword: pulumi.secret("hush") },
          bastion: { host: "jump", port: 2222, user: "jump", insecureIgnoreHostKey: true, privateKey },
        }),
    );
    expect(loginsOf(resources, "mx1").proxy).toEqual({
      ...{ host: "jump", port: 2222, user: "jump", privateKey, agentSocketPath: "/run/agent" },
      ...{ dialErrorLimit: 2, perDialTimeout: 10 },
    });
    expect(loginsOf(resources, "mx1")).toMatchObject({ agentSocketPath: "/run/agent", privateKeyPassword: "hush" });
  });

  test("a host key that is not checked is warned of, by the host's name and address", async () => {
    const unknown = { host: mx1.host, insecureIgnoreHostKey: true };
    const end = "is not checked (insecureIgnoreHostKey): whoever answers in its place is taken for it";
    const { warned } = await run(() => {
      const firewall = new MailFirewall("mail", { ...policy, hosts: { mx1: unknown } });
      firewall.addHost("mx2", { ...mx1, bastion: { ...unknown, host: pulumi.output("jump") } });
      firewall.addHost("mx3", { ...mx2, insecureIgnoreHostKey: false });
    });
    expect(warned).toEqual([
      `mail-mx1: the host key of 198.51.100.10 ${end}`,
      `mail-mx2: the host key of its bastion (an address that is not known yet) ${end}`,
    ]);
  });

  test("in code a key may stand at the host and at its bastion, and is checked there", async () => {
    await run(() => {
      const create = () =>
        new HostFirewall("x", {
          ...{ ...policy, ...mx1, privateKeyPassword: "hush" },
          bastion: { host: "jump", hostKey, privateKey, privateKeyPassword: "hush" },
        });
      expect(create).toThrow(
        "2 faults; nothing was touched\n" +
          "  privateKeyPassword: is there without its key; add that, or delete it\n" +
          "  bastion.privateKeyPassword: is given, but the key is not protected by one; delete it",
      );
    });
  });
});

describe("options and neighbours", () => {
  test("a component's parent and the providers that it is given reach its children", async () => {
    const { resources } = await run(() => {
      const parent = new MailFirewall("outer", { ...policy, aws: { vpcId } });
      const provider = new aws.Provider("elsewhere", { region: "eu-west-1" });
      return new MailFirewall("inner", { ...policy, aws: { vpcId } }, { parent, providers: { aws: provider } });
    });
    expect(where(resources)).toContain("MailFirewall > MailFirewall inner");
    const providers = new Map(resources.map((resource) => [resource.where, resource.provider]));
    expect(providers.get("MailSecurityGroup > SecurityGroup inner")).toContain("::elsewhere::");
    expect(providers.get("MailSecurityGroup > IngressRule inner-ingress-tcp-993-anywhere-ipv4")).toContain(
      "::elsewhere::",
    );
    expect(providers.get("MailSecurityGroup > SecurityGroup outer")).toBe("");
  });

  describe("nothing waits for itself, however it is combined", () => {
    const declare = (more: object = {}) => new MailFirewall("mail", { ...policy, ...more, aws: { vpcId } });
    const machine = (opts: pulumi.CustomResourceOptions, name = "mx1") => {
      const { arn } = new aws.ec2.SecurityGroup(name, { vpcId }, opts); // for an instance
      return { ...mx1, host: arn.apply(() => "198.51.100.10") };
    };

    test.each<[string, number, () => void]>([
      [
        "an instance that depends on the firewall",
        1,
        () => {
          const firewall = declare();
          firewall.addHost("mx1", machine({ dependsOn: firewall }));
        },
      ],
      [
        "an instance below the firewall, and a host that depends on it",
        1,
        () => {
          const firewall = declare();
          firewall.addHost("mx1", machine({ parent: firewall }), { dependsOn: firewall });
        },
      ],
      [
        "an instance that depends on a firewall with hosts, and on the host before it",
        3,
        () => {
          const firewall = declare({ hosts: { mx0: mx1 } });
          const first = firewall.addHost("mx1", machine({ dependsOn: firewall }));
          firewall.addHost("mx2", machine({ dependsOn: [firewall, first] }, "mx2"));
        },
      ],
      [
        "at once, a host whose address comes after the host that is declared after it",
        2,
        () => {
          const firewall = declare({ hostsAtOnce: true });
          let found: (address: string) => void;
          const host = pulumi.output(new Promise<string>((resolve) => (found = resolve)));
          firewall.addHost("mx1", { ...mx1, host });
          firewall.addHost("mx2", mx1).status.apply(() => found("198.51.100.10"));
        },
      ],
    ])("%s", async (_, hosts, program) => {
      const { resources } = await run(program);
      expect(resources.filter((resource) => resource.where.endsWith("-reconfirm"))).toHaveLength(hosts);
    });
  });

  test("addHost passes its options on", async () => {
    const { resources } = await run(() => {
      const firewall = new MailFirewall("mail", { ...policy, aws: { vpcId } });
      const provider = new command.Provider("elsewhere", {});
      return firewall.addHost("mx1", mx1, { providers: { command: provider } });
    });
    const apply = resources.find((resource) => resource.where.endsWith("mail-mx1-apply"));
    expect(apply?.provider).toContain("::elsewhere::");
  });

  test("a host's own key wins over the one for all", async () => {
    const own = privateKey.replace("b3Bl", "b3Bm");
    const { resources } = await run(
      () =>
        new MailFirewall("mail", {
          ...policy,
          hosts: { mx1: { ...mx1, privateKey: own }, mx2: { ...mx1, host: "198.51.100.11" } },
          sshPrivateKey: privateKey,
        }),
    );
    const keyOf = (name: string) =>
      plain(
        (plain(inputsOf(resources, `HostFirewall > Command mail-${name}-apply`).connection) as Record<string, unknown>)
          .privateKey,
      );
    expect([keyOf("mx1"), keyOf("mx2")]).toEqual([own, privateKey]);
  });

  test("a host that is added later logs in with the key for all, too", async () => {
    const { resources } = await run(() =>
      new MailFirewall("mail", { ...policy, aws: { vpcId }, sshPrivateKey: privateKey }).addHost("mx1", mx1),
    );
    const { connection } = inputsOf(resources, "HostFirewall > Command mail-mx1-apply");
    expect(plain((plain(connection) as Record<string, unknown>).privateKey)).toBe(privateKey);
  });

  test("a component below a firewall with another policy shows its own, and says what is unusual about it", async () => {
    const { resources, warned } = await run(() => {
      const parent = new MailFirewall("mail", { ...policy, aws: { vpcId } });
      return new HostFirewall("h", { ...policy, services: { pop3: ["0.0.0.0/0"] }, ...mx1 }, { parent });
    });
    expect(inputsOf(resources, "MailFirewall > HostFirewall h")).toHaveProperty("exposure.pop3", "tcp/110: 0.0.0.0/0");
    expect(warned).toEqual(["pop3 is public over IPv4 only"]);
  });

  test("what the caller changes later does not reach a host that is added then", async () => {
    const services: Record<string, string[]> = { imaps: ["public"] };
    const { resources } = await run(() => {
      const firewall = new MailFirewall("mail", { ssh: policy.ssh, services, aws: { vpcId } });
      services.pop3 = ["public"];
      return firewall.addHost("mx1", mx1);
    });
    expect(inputsOf(resources, "HostFirewall > Command mail-mx1-apply").stdin).not.toContain("pop3");
  });
});

describe("what changes, in words", () => {
  const urn = (types: string, name: string) => `urn:pulumi:test::mail-firewall::${types}::${name}`;
  const firewall = urn("mail-firewall:index:MailFirewall", "mail");
  /** The state after a run of the same component with other arguments, as far as the component is concerned. */
  const state = (outputs: Record<string, unknown>, at = firewall) => ({ [at]: { type: "", outputs } });
  const exposure = (services: Record<string, string>) => ({
    ...{ smtp: "tcp/25: public", imaps: "tcp/993: public", ssh: "tcp/22: 203.0.113.0/24" },
    ...services,
  });
  const usual = hostOnly(defaultSettings);
  const reachable = [
    "mail: smtp (tcp/25): reachable from everywhere, IPv4 and IPv6",
    "mail: imaps (tcp/993): reachable from everywhere, IPv4 and IPv6",
    "mail: ssh (tcp/22): reachable from 203.0.113.0/24",
  ];
  const unknown =
    "mail: the state does not say what was reachable before (an update that failed, or another version); what will be:";
  const none = ["mail: no change in what is reachable"];
  const parts = { hosts: { mx1: "confirmed 0123456789ab" }, securityGroupId: "sg-1" };

  test.each<[string, Record<string, unknown>, string[]]>([
    ["a stack that is new", { outputs: {} }, reachable],
    ["a former self that is like it", { outputs: state({ exposure: exposure({}), hostOnly: usual, ...parts }) }, none],
    [
      "a former self that was not",
      {
        outputs: state({
          ...{ ...parts, exposure: exposure({ imaps: "tcp/993: closed" }), hostOnly: { ...usual, "a key": "b: c" } },
        }),
      },
      [
        "mail: imaps (tcp/993): now reachable from everywhere, IPv4 and IPv6",
        "mail: only on hosts, no longer a key: b",
      ],
    ],
    [
      "one with other parts",
      { outputs: state({ exposure: exposure({ pop3: "tcp/110: public" }), hostOnly: usual, hosts: { mx2: "" } }) },
      [
        "mail: host mx2 is no longer part of this firewall",
        "mail: pop3 (tcp/110): no longer reachable from anywhere (closed)",
        "mail: host mx1 is now part of this firewall",
        "mail: the security group is now part of this firewall",
      ],
    ],
    ["an update that failed, which leaves no outputs", { outputs: state({}) }, [unknown, ...reachable]],
    ["texts of another version", { outputs: state({ exposure: { imaps: "993" } }) }, [unknown, ...reachable]],
    ["others of the same stack", { outputs: state({ exposure: {} }, `${firewall}2`) }, reachable],
    ["a mock that knows no outputs", {}, []],
  ])("beside %s", async (_, answer, expected) => {
    const asked: unknown[] = [];
    const { said } = await run(() => new MailFirewall("mail", { ...policy, hosts: { mx1 }, aws: { vpcId } }), {
      preview: true,
      state: (inputs) => {
        asked.push(inputs);
        return answer;
      },
    });
    expect(asked).toEqual([{ stackName: "organization/mail-firewall/test" }]);
    expect(said).toEqual(expected.length === 0 ? [] : [expected.join("\n")]);
  });

  test("an engine that does not answer stops nothing", async () => {
    const { said, resources } = await run(() => new MailFirewall("mail", { ...policy, aws: { vpcId } }), {
      preview: true,
    });
    expect(said).toEqual([]);
    expect(where(resources)).toContain("MailFirewall > MailSecurityGroup mail");
  });

  test("the update itself says nothing: its own outputs are gone by then", async () => {
    const { said } = await run(() => new MailFirewall("mail", { ...policy, aws: { vpcId } }), {
      state: () => ({ outputs: {} }),
    });
    expect(said).toEqual([]);
  });

  test("a host and a group alone register what they say next time, below a firewall they do not", async () => {
    const { result } = await run(() => {
      const firewall = new MailFirewall("mail", { ...policy, aws: { vpcId } });
      return {
        host: new HostFirewall("mx1", { ...policy, ...mx1 }),
        group: new MailSecurityGroup("group", { ...policy, vpcId }),
        below: firewall.addHost("mx1", mx2),
      };
    });
    const { host, group, below } = result;
    for (const alone of [host, group]) {
      expect((await resolve(alone.exposure!)).value).toMatchObject({ imaps: "tcp/993: public" });
    }
    expect((await resolve(host.hostOnly!)).value).toEqual(usual);
    expect(below.exposure).toBeUndefined();
  });

  test("a host alone says what changes for it", async () => {
    const at = urn("mail-firewall:index:HostFirewall", "mx1");
    const { said } = await run(() => new HostFirewall("mx1", { ...policy, ...mx1, trustedNetworks: ["10.8.0.0/24"] }), {
      preview: true,
      state: () => ({ outputs: state({ exposure: exposure({}), hostOnly: usual }, at) }),
    });
    expect(said).toEqual(["mx1: only on hosts, now trusted networks: all accepted from 10.8.0.0/24"]);
  });

  test("a host that is added to a firewall says only what it does otherwise, one of the firewall's own nothing", async () => {
    const trusting = { ...mx1, trustedNetworks: ["10.8.0.0/24"] };
    const { said, result } = await run(
      () => {
        const firewall = new MailFirewall("mail", { ...policy, hosts: { mx1: trusting } });
        return [
          firewall.addHost("mx2", { ...trusting, host: "mx2" }),
          firewall.addHost("mx3", { ...mx1, host: "mx3" }),
        ];
      },
      { preview: true, state: () => ({ outputs: {} }) },
    );
    expect(said.sort()).toEqual([
      "mail-mx2: only on hosts, trusted networks: all accepted from 10.8.0.0/24",
      [...reachable, "mail: only on hosts, mx1: trusted networks: all accepted from 10.8.0.0/24"].join("\n"),
    ]);
    const own = await Promise.all(result.map((host) => resolve(host.hostOnly!)));
    expect(own.map(({ value }) => Object.keys(value))).toEqual([["trusted networks"], []]);
  });
});

describe("options of hosts", () => {
  const textOf = (options: HostOptions, name: string) =>
    rulesets(rulesOf(policy), `mail-firewall/test/${name}`, readHostOptions(options, "", new Faults()));
  const stdinOf = (resources: Seen[], name: string) =>
    inputsOf(resources, `HostFirewall > Command ${name}-apply`).stdin as string;

  test("HostFirewall takes them directly, and says what is unusual about them", async () => {
    const options = { externalAddress: ["198.51.100.10"], trustedNetworks: ["203.0.113.0/24"] };
    const { resources, warned } = await run(() => new HostFirewall("mx1", { ...policy, ...mx1, ...options }));
    expect(stdinOf(resources, "mx1")).toBe(textOf(options, "mx1"));
    expect(warned).toEqual([
      "externalAddress names no IPv6 address: no service is reached over IPv6",
      "trustedNetworks holds public addresses, to which every port is open: 203.0.113.0/24",
    ]);
  });

  test("MailFirewall gives its own to all hosts, of which each may say otherwise", async () => {
    const host = { externalInterface: "eth0", trustedInterfaces: ["wg0"] };
    const { result, resources } = await run(() => {
      const firewall = new MailFirewall("mail", {
        ...policy,
        host,
        hosts: { mx1, mx2: { ...mx1, host: "198.51.100.11", trustedInterfaces: [], externalInterface: undefined } },
      });
      host.externalInterface = "eth1"; // what the caller changes later does not reach a host that is added then
      firewall.addHost("mx3", { ...mx1, host: "198.51.100.12", logging: "off" });
      return firewall;
    });
    expect(stdinOf(resources, "mail-mx1")).toBe(textOf({ ...host, externalInterface: "eth0" }, "mail-mx1"));
    expect(stdinOf(resources, "mail-mx2")).toBe(textOf({ externalInterface: "eth0" }, "mail-mx2"));
    expect(stdinOf(resources, "mail-mx3")).toBe(
      textOf({ ...host, externalInterface: "eth0", logging: "off" }, "mail-mx3"),
    );
    const { value: hostOnly } = await resolve(result.hostOnly);
    expect(Object.keys(hostOnly).filter((key) => / inter|: /.test(key))).toEqual([
      "external interface",
      "trusted interfaces",
      "mx2: trusted interfaces",
    ]);
    expect(hostOnly["mx2: trusted interfaces"]).toBe("not on this host");
  });

  test("a fault is reported where it stands, against what is said for all hosts", async () => {
    await run(() => {
      const firewall = new MailFirewall("mail", { ...policy, host: { externalInterface: "eth0" }, aws: { vpcId } });
      expect(() => firewall.addHost("mx1", { ...mx1, trustedInterfaces: ["eth0"] })).toThrow(
        'mail.addHost("mx1"): 1 fault; nothing was touched\n' +
          '  trustedInterfaces: "eth0" cannot be both trusted and external; everything would be open to the world',
      );
      expect(() => new HostFirewall("h", { ...policy, ...mx1, trustedNetworks: ["::/0"] })).toThrow(
        'HostFirewall "h": 1 fault; nothing was touched\n' +
          '  trustedNetworks[0]: "::/0" is everyone: there would be no firewall; write networks such as 10.8.0.0/24',
      );
    });
  });
});

describe("MailSecurityGroup", () => {
  test("is complete alone: no name, a constant description, no inline rules", async () => {
    const { resources } = await run(() => new MailSecurityGroup("mail", { ...policy, vpcId }));
    expect(where(resources)).toEqual(
      ["MailSecurityGroup mail", ...groupResources("MailSecurityGroup", "mail", policy)].sort(),
    );
    expect(inputsOf(resources, "MailSecurityGroup mail")).toMatchObject({ exposure: { imaps: "tcp/993: public" } });
    expect(inputsOf(resources, "MailSecurityGroup > SecurityGroup mail")).toEqual({
      description: "Mail server firewall",
      vpcId,
    });
    for (const rule of groupRules(rulesOf(policy))) {
      const kind = rule.direction === "ingress" ? "IngressRule" : "EgressRule";
      expect(inputsOf(resources, `MailSecurityGroup > ${kind} mail-${rule.name}`)).toEqual({
        securityGroupId: "mail-id",
        ...rule.args,
      });
    }
  });

  test("its id is known in the preview of a group that exists, also when it gets new rules", async () => {
    const { result } = await run(() => new MailSecurityGroup("mail", { ...policy, vpcId }), {
      preview: true,
      exists: ["SecurityGroup"],
    });
    expect(await resolve(result.securityGroupId)).toMatchObject({ value: "mail-id", known: true });
  });

  test("its id waits for every rule", async () => {
    const { result, resources } = await run(() => new MailSecurityGroup("mail", { ...policy, vpcId }));
    const waitsFor = await (
      result.securityGroupId as unknown as { allResources(): Promise<Set<pulumi.Resource>> }
    ).allResources();
    // The group and each of its rules: all resources but the component itself.
    expect(waitsFor.size).toBe(resources.length - 1);
  });

  test("its id is unknown in the preview of a group that is yet to come", async () => {
    const { result } = await run(() => new MailSecurityGroup("mail", { ...policy, vpcId }), { preview: true });
    expect((await resolve(result.securityGroupId)).known).toBe(false);
  });

  test("region goes to all of its resources, tags to the group and to lists, and nothing else changes", async () => {
    const args = { ...policy, services: { imaps: ["192.0.2.0/24", "198.51.100.0/24"] } };
    const aws = { vpcId, attachTo: ["eni-0abc"], prefixLists: true };
    const plain = await run(() => new MailSecurityGroup("mail", { ...args, ...aws }));
    const tags = { owner: "mail-team" };
    const { resources } = await run(
      () => new MailSecurityGroup("mail", { ...args, ...aws, region: pulumi.output("eu-west-1"), tags }),
    );
    expect(where(resources)).toEqual(where(plain.resources));
    for (const { where, inputs } of resources.filter(({ where }) => where.includes(">"))) {
      const tagged = /> (SecurityGroup|PrefixList) /.test(where) ? { tags } : {};
      expect(inputs).toEqual({ ...inputsOf(plain.resources, where), region: "eu-west-1", ...tagged });
    }
  });

  test.each<[string, (opts: aws.Provider) => pulumi.ComponentResourceOptions]>([
    ["provider", (provider) => ({ provider })],
    ["providers", (aws) => ({ providers: { aws } })],
    ["list of providers", (aws) => ({ providers: [aws] })],
  ])("the %s of the component's options reaches all of its resources", async (_, opts) => {
    const { resources } = await run(() => {
      const provider = new aws.Provider("elsewhere", { region: "eu-west-1" });
      const services = { imaps: ["192.0.2.0/24", "198.51.100.0/24"] };
      const args = { ...policy, services, vpcId, attachTo: ["eni-0abc"], prefixLists: true };
      return new MailSecurityGroup("mail", args, opts(provider));
    });
    const children = resources.filter(({ where }) => where.startsWith("MailSecurityGroup > "));
    expect(new Set(children.map(({ where }) => where.split(" ")[2]))).toEqual(
      new Set(["SecurityGroup", "IngressRule", "EgressRule", "PrefixList", "Attachment"]),
    );
    for (const { provider } of children) expect(provider).toContain("::elsewhere::");
  });

  test("attaches the group, named by network interface, after all of its rules", async () => {
    const { resources } = await run(() => new MailSecurityGroup("mail", { ...policy, vpcId, attachTo: ["eni-0abc"] }));
    expect(inputsOf(resources, "MailSecurityGroup > Attachment mail-eni-0abc")).toEqual({
      networkInterfaceId: "eni-0abc",
      securityGroupId: "mail-id",
    });
    expect(resources.at(-1)!.where).toBe("MailSecurityGroup > Attachment mail-eni-0abc");
  });

  test("puts its rules, under the same names, into a group that exists", async () => {
    const { result, resources } = await run(
      () => new MailSecurityGroup("mail", { ...policy, securityGroupId: pulumi.output("sg-0abc") }),
    );
    const [, ...expected] = groupResources("MailSecurityGroup", "mail", policy);
    expect(where(resources)).toEqual(["MailSecurityGroup mail", ...expected].sort());
    for (const { inputs } of resources.slice(1)) expect(inputs.securityGroupId).toBe("sg-0abc");
    expect(await resolve(result.securityGroupId)).toMatchObject({ value: "sg-0abc", known: true });
  });

  test("gives services with the same networks one prefix list, and each a rule that refers to it", async () => {
    const networks = ["192.0.2.0/24", "198.51.100.0/24"];
    const { result, resources } = await run(
      () =>
        new MailSecurityGroup("mail", {
          ...policy,
          services: { imap: networks, imaps: networks },
          vpcId,
          prefixLists: true,
        }),
    );
    expect(inputsOf(resources, "MailSecurityGroup > PrefixList mail-ingress-tcp-143-networks-ipv4")).toEqual({
      addressFamily: "IPv4",
      entries: networks.map((cidr) => ({ cidr })),
      maxEntries: 2,
    });
    for (const [port, description] of [
      [143, "imap: read mail, plaintext or STARTTLS"],
      [993, "imaps: read mail over TLS"],
    ]) {
      expect(inputsOf(resources, `MailSecurityGroup > IngressRule mail-ingress-tcp-${port}-networks-ipv4`)).toEqual({
        securityGroupId: "mail-id",
        ...{ ipProtocol: "tcp", fromPort: port, toPort: port },
        prefixListId: "mail-ingress-tcp-143-networks-ipv4-id",
        description,
      });
    }
    expect(where(resources).filter((one) => one.includes("PrefixList"))).toHaveLength(1);
    const waitsFor = await (
      result.securityGroupId as unknown as { allResources(): Promise<Set<pulumi.Resource>> }
    ).allResources();
    expect(waitsFor.size).toBe(resources.length - 2); // all but the component and the list, for which its rules wait
  });

  test("takes the ids of network interfaces in plain only, because it names resources after them", async () => {
    await run(() => {
      const attachTo = [pulumi.output("eni-0abc")] as unknown as string[];
      expect(() => new MailSecurityGroup("mail", { ...policy, vpcId, attachTo })).toThrow(
        /attachTo\[0\]: a value of type Output\w* is not the id of a network interface in plain; an interface of the same/,
      );
    });
  });

  test("takes an SSH that is closed", async () => {
    const { resources } = await run(() => new MailSecurityGroup("mail", { ssh: ["closed"], vpcId }));
    expect(resources.some(({ where }) => where.includes("tcp-22"))).toBe(false);
  });
});

describe("faults", () => {
  const wrong = { services: { impas: ["public"] }, ssh: ["203.0.113.1/24"] } as PolicyArgs;
  const lines =
    '  services.impas: unknown service; did you mean "imaps"?; what is not mail goes under "ports"\n' +
    '  ssh[0]: "203.0.113.1/24" has host bits set; write 203.0.113.0/24';

  test.each<[string, () => unknown, string]>([
    ["MailFirewall", () => new MailFirewall("x", { ...wrong, aws: { vpcId } }), lines],
    ["HostFirewall", () => new HostFirewall("x", { ...wrong, ...mx1 }), lines],
    ["MailSecurityGroup", () => new MailSecurityGroup("x", { ...wrong, vpcId }), lines],
  ])("%s reports all of them at once, and registers nothing", async (component, create, expected) => {
    const { resources } = await run(() => {
      const attempt = () => {
        create();
      };
      expect(attempt).toThrow(pulumi.RunError);
      expect(attempt).toThrow(`${component} "x": 2 faults; nothing was touched\n${expected}`);
    });
    expect(resources).toEqual([]);
  });

  test.each<[string, () => unknown, string]>([
    [
      "public as text",
      () => new MailSecurityGroup("x", { services: { imaps: "public" }, ssh: ["closed"], vpcId } as never),
      '  services.imaps: "public" is not a list; write ["public"], ["closed"] or networks such as ["10.20.0.0/16"]',
    ],
    [
      "a misspelled argument",
      () => new HostFirewall("x", { ...policy, ...mx1, hostkey: "" } as never),
      '  hostkey: unknown key; did you mean "hostKey"?',
    ],
    [
      "SSH closed on a host",
      () => new HostFirewall("x", { ...mx1, ssh: ["closed"] }),
      '  ssh: "closed" would cut off the hosts that are deployed over SSH; write the networks you work from',
    ],
  ])("of %s", async (_, create, expected) => {
    await run(() => {
      expect(() => create()).toThrow(expected);
    });
  });
});

describe("a host that would differ from the security group beyond what is declared", () => {
  const { residue } = residues;
  const undeclare = () =>
    jest.spyOn(residues, "residue").mockImplementation((settings) => {
      const declared = residue(settings);
      delete declared["neighbour discovery and DHCP"];
      return declared;
    });
  const problem = /would differ, .*; nothing was touched\n {2}IPv4, broadcast: perhaps only the host admits udp\/68/;
  afterEach(() => jest.restoreAllMocks());

  test("stops a MailFirewall before it registers anything", async () => {
    undeclare();
    const { resources } = await run(() => {
      expect(() => new MailFirewall("mail", { ...policy, hosts: { mx1 }, aws: { vpcId } })).toThrow(problem);
    });
    expect(resources).toEqual([]);
  });

  test("stops addHost before it registers the host; without a group there is nothing to differ from", async () => {
    const { resources } = await run(() => {
      const firewall = new MailFirewall("mail", { ...policy, aws: { vpcId } });
      const alone = new MailFirewall("alone", { ...policy, hosts: { mx1 } });
      undeclare();
      // With options of its own: hosts that are equal are proven once.
      const options = { trustedInterfaces: ["wg0"] };
      expect(() => firewall.addHost("mx2", { ...mx1, ...options, host: "198.51.100.11" })).toThrow(problem);
      alone.addHost("mx2", { ...mx1, host: "198.51.100.11" });
    });
    const hosts = resources
      .filter(({ where }) => / HostFirewall /.test(where))
      .map(({ where }) => where.split(" ").at(-1));
    expect(hosts).toEqual(["alone-mx1", "alone-mx2"]);
  });
});
