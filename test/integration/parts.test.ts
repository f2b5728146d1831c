// Stacks with only one side, and everything that can be wrong with a stack: nothing is touched.
import { documented } from "../documented";
import { startEc2, type Ec2 } from "../sandbox/ec2";
import { operatorKey, startMailHost, type MailHost } from "../sandbox/host";
import { startStack, type Config, type Stack } from "../sandbox/stack";
import { expectedRulesets, failed, live, policy, sampledTest, succeeded } from "./example";

jest.setTimeout(120_000);

describe("parts of a stack", () => {
  let ec2: Ec2, host: MailHost, other: MailHost, wrong: Stack | undefined;
  const stacks: Stack[] = [];

  beforeAll(async () => {
    [ec2, host, other] = await Promise.all([startEc2(), startMailHost(), startMailHost({ sshPort: 2222 })]);
  });
  afterAll(async () => {
    await Promise.all([ec2?.close(), host?.close(), other?.close()]);
    for (const stack of stacks) stack.remove();
    wrong?.remove();
  });

  async function started(config: Config): Promise<Stack> {
    const stack = await startStack({ privateKey: operatorKey.privateKey, env: ec2.env });
    stacks.push(stack);
    stack.configure(config);
    return stack;
  }

  test("only hosts: no call to AWS at all", async () => {
    const stack = await started({ ...policy, hosts: { mx1: { host: host.address4, hostKey: host.hostKey } } });
    const calls = ec2.calls().length;
    expect(succeeded(await stack.up("--skip-preview"))).not.toContain("warning");
    expect(await live(host)).toBe(expectedRulesets("mail-firewall/test/mail-mx1"));
    expect(ec2.calls().length).toBe(calls);
    const outputs = await stack.outputs();
    expect(Object.keys(outputs).sort()).toEqual(["cloudOnly", "exposure", "hostOnly", "hosts", "readme"]);
    expect(outputs.readme).toContain('from_smtp(["everyone"]) --> to_smtp["smtp<br>tcp/25"]');
    succeeded(await stack.destroy());
  });

  test("only a VPC: no connection to a host at all", async () => {
    const vpcId = await ec2.createVpc();
    const stack = await started({ "aws:region": "eu-central-1", ...policy, ssh: "closed", aws: { vpcId } });
    succeeded(await stack.up("--skip-preview"));
    const [group] = await ec2.securityGroups(vpcId);
    expect((await ec2.rules(group!.id)).map(({ fromPort }) => fromPort)).not.toContain(22);
    expect(await stack.outputs()).toMatchObject({ securityGroupId: group!.id, hosts: {}, hostOnly: {} });
    succeeded(await stack.destroy());
  });

  test("neither: an error that says what to add", async () => {
    const stack = await started(policy);
    expect(failed(await stack.preview())).toContain(
      'mail-firewall:hosts: is missing, and so is "aws": add hosts to protect, or aws: { vpcId: vpc-... } for a security group, or both',
    );
  });

  test("config set --path, as the CLI writes it", async () => {
    const stack = await started({
      ssh: policy.ssh,
      host: { logging: "off" }, // written without quotes, as anybody would
      hosts: { mx1: { host: host.address4, hostKey: host.hostKey } },
    });
    succeeded(
      await stack.shell(documented("README.md", "pulumi config set --path mail-firewall:services.imaps public")),
    );
    for (const [key, value] of [
      ["mail-firewall:services.imap[0]", "10.20.0.0/16"],
      ["mail-firewall:hosts.mx1.port", "22"],
      ["mail-firewall:hosts.mx1.externalAddress", host.address4],
      ["mail-firewall:host.trustedInterfaces[0]", "wg0"],
      ["mail-firewall:host.rollbackSeconds", "120"],
      ["mail-firewall:host.takeOver", "true"],
    ]) {
      succeeded(await stack.pulumi("config", "set", "--path", key!, value!));
    }
    const output = succeeded(await stack.preview("--diff"));
    expect(output).toMatch(/imaps +: "tcp\/993: public"/);
    expect(output).toMatch(/imap +: "tcp\/143: 10\.20\.0\.0\/16"/);
    expect(output).toMatch(/trusted interfaces +: "all accepted through wg0: /);
    expect(output).toContain("mx1: external address");
    expect(output).toContain(`"services only at ${host.address4}: `);
    expect(output).not.toMatch(/logging +: ".* dropped packets/);
    expect(output).toContain("warning: externalAddress names no IPv6 address: no service is reached over IPv6");
  });

  test.each<[string, Config, string[]]>([
    [
      "a misspelled service",
      { services: { impas: "public" } },
      ['mail-firewall:services.impas: unknown service; did you mean "imaps"?'],
    ],
    ["a misspelled key", { servces: {} }, ['mail-firewall:servces: unknown key; did you mean "services"?']],
    [
      "host bits and a wrong type at once",
      { ssh: ["203.0.113.1/24"], services: { imaps: 993 } },
      [
        'mail-firewall:ssh[0]: "203.0.113.1/24" has host bits set; write 203.0.113.0/24',
        'mail-firewall:services.imaps: 993 is none of "public", "closed" and a list of networks',
      ],
    ],
    [
      "hostile text",
      { services: { "$(reboot)": "public" } },
      ['mail-firewall:services["$(reboot)"]: unknown service;'],
    ],
    [
      "a key in plain text",
      { sshPrivateKey: "-----BEGIN X PRIVATE KEY-----" },
      ["mail-firewall:sshPrivateKey: is stored in plain text"],
    ],
    [
      "services as a list, which Pulumi itself refuses",
      { services: ["imaps"] },
      ["Stack 'test' with configuration key 'services' must be of type 'object'"],
    ],
  ])("wrong config, %s: an error without a stack trace, and nothing is touched", async (_, fault, expected) => {
    wrong ??= await startStack({ env: { ...ec2.env, SSH_AUTH_SOCK: "/nonexistent" } });
    wrong.configure({
      ...{ ...policy, "aws:region": "eu-central-1", aws: { vpcId: "vpc-0abc" } },
      hosts: { mx1: { host: host.address4, hostKey: host.hostKey } },
      ...fault,
    });
    const connections = host.connections();
    const calls = ec2.calls().length;
    const output = failed(await wrong.up());
    for (const line of expected) expect(output).toContain(line);
    expect(output).not.toMatch(/^\s+at .*:\d+:\d+/m);
    expect(host.connections()).toBe(connections);
    expect(ec2.calls().length).toBe(calls);
  });

  test("without a key and without an agent: an error before anything is touched; a preview works", async () => {
    const stack = await startStack({ env: ec2.env });
    stacks.push(stack);
    stack.configure({ ...policy, hosts: { mx1: { host: host.address4, hostKey: host.hostKey } } });
    succeeded(await stack.preview());
    const connections = host.connections();
    expect(failed(await stack.up("--skip-preview"))).toContain(
      "mail-firewall:sshPrivateKey: is missing, and no SSH agent runs",
    );
    expect(host.connections()).toBe(connections);
  });

  sampledTest(
    "another host key than the declared one: refused, nothing is changed; with the right one it goes on",
    async () => {
      const stack = await started({ ...policy, hosts: { mx1: { host: host.address4, hostKey: other.hostKey } } });
      const before = [await host.save(4), await host.save(6)];
      const output = failed(await stack.up("--skip-preview"));
      expect(output).toMatch(/host key mismatch/);
      expect([await host.save(4), await host.save(6)]).toEqual(before);
      stack.configure({ ...policy, hosts: { mx1: { host: host.address4, hostKey: host.hostKey } } });
      succeeded(await stack.up("--skip-preview"));
      expect(await live(host)).toBe(expectedRulesets("mail-firewall/test/mail-mx1"));
      succeeded(await stack.destroy());
    },
  );

  test("a machine that was reinstalled under its address gets everything again by --replace", async () => {
    const stack = await started({ ...policy, hosts: { mx1: { host: host.address4, hostKey: host.hostKey } } });
    succeeded(await stack.up("--skip-preview"));
    await host.run("/usr/local/sbin/mail-firewall remove; rm /usr/local/sbin/mail-firewall");
    const up = documented("README.md", "pulumi up -s prod --replace '**mail-mx1-*'", { "-s prod": "-s test" });
    succeeded(await stack.shell(`${up} --skip-preview`));
    expect(await live(host)).toBe(expectedRulesets("mail-firewall/test/mail-mx1"));
    succeeded(await stack.destroy());
  });

  test("a host that is not there: an error within the dial limits, which names the host's resource", async () => {
    const stack = await started({ ...policy, hosts: { mx1: { host: "198.51.100.250", hostKey: host.hostKey } } });
    const run = await stack.up("--skip-preview");
    expect(failed(run)).toMatch(/mail-mx1-install[\s\S]*after \d+ failed attempts: dial tcp 198\.51\.100\.250:22/);
    expect(run.seconds).toBeLessThan(60);
  });

  sampledTest("SSH on another port: kept open there, and refused where nothing listens", async () => {
    const place = { host: other.address4, hostKey: other.hostKey, port: 2222 };
    const stack = await started({ ...policy, hosts: { mx1: { ...place, sshPorts: [2022] } } });
    expect(failed(await stack.up("--skip-preview"))).toContain(
      "nothing listens on the ports that the rules keep open for SSH",
    );
    expect(await other.save(4)).not.toContain("MAILFW");
    stack.configure({ ...policy, hosts: { mx1: place } });
    succeeded(await stack.up("--skip-preview"));
    expect(await other.save(4)).toContain("--dport 2222 -m comment --comment ssh -j ACCEPT");
    succeeded(await stack.destroy());
  });
});
