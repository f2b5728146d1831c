// The main job on real parts: engine, sshd, kernel, EC2 API.
import { createHash } from "node:crypto";

import { compareLive } from "../../components/compare";
import { documented } from "../documented";
import { startEc2, type Ec2 } from "../sandbox/ec2";
import { exposureOf } from "../sandbox/expect";
import { operatorKey, startMailHost, type MailHost } from "../sandbox/host";
import { startClient, type Client } from "../sandbox/probe";
import { startStack, type Config, type Stack } from "../sandbox/stack";
import { expectNoKey, expectedRulesets, live, policy, succeeded } from "./example";

jest.setTimeout(120_000);

const stranger4 = "192.0.2.77";
const stranger6 = "2001:db8:2::77";
const colleague4 = "10.20.0.5";
const colleague6 = "fd12::5";

/** The lines of a preview that something changes in, without indentation. */
const changed = (output: string) =>
  output
    .split("\n")
    .filter((line) => /^\s*[+~-] /.test(line))
    .map((line) => line.trim().replace(/\s+/g, " "));

describe("a stack with two hosts and a security group", () => {
  let ec2: Ec2, nft: MailHost, legacy: MailHost, stack: Stack, vpcId: string;
  let stranger: Client, colleague: Client;
  let before: string[];
  let config: Config;
  const [owner1, owner2] = ["mail-firewall/prod/mail-mx1", "mail-firewall/prod/mail-mx2"] as const;
  const owners = () =>
    [
      [nft, owner1],
      [legacy, owner2],
    ] as const;
  const filters = async () => Promise.all([nft, legacy].flatMap((host) => [host.save(4), host.save(6)]));

  beforeAll(async () => {
    [ec2, nft, legacy, stranger, colleague] = await Promise.all([
      startEc2(),
      startMailHost({ backend: "nft" }),
      startMailHost({ backend: "legacy" }),
      startClient([stranger4, stranger6]),
      startClient([colleague4, colleague6]),
    ]);
    vpcId = await ec2.createVpc();
    stack = await startStack({ uninitialized: true, name: "prod", env: { ...ec2.env, HOME: operatorKey.home } });
    // What a distribution leaves behind: an ACCEPT that would bypass us, a REJECT that would hide us, and fail2ban's jump.
    for (const tool of ["iptables", "ip6tables"]) {
      const rules = ["-N f2b-sshd", "-A INPUT -j f2b-sshd", "-A INPUT -p tcp -m multiport --dports 22,3306 -j ACCEPT"];
      if (tool === "ip6tables") rules.push("-A INPUT -p ipv6-icmp -j ACCEPT");
      rules.push("-A INPUT -j REJECT");
      for (const rule of rules) await nft.run(`${tool} ${rule}`);
    }
    before = await filters();
    config = {
      "aws:region": "eu-central-1",
      ...policy,
      hosts: {
        mx1: { host: nft.address4, hostKey: nft.hostKey },
        mx2: { host: legacy.address6, hostKey: legacy.hostKey, user: "admin" },
      },
      aws: { vpcId },
    };
    stack.configure(config);
    for (const line of [
      documented("README.md", "pulumi stack init prod"),
      documented("README.md", "pulumi config set --secret sshPrivateKey < ~/.ssh/id_ed25519"),
    ]) {
      succeeded(await stack.shell(line));
    }
  });

  afterAll(async () => {
    await Promise.all([ec2?.close(), nft?.close(), legacy?.close(), stranger?.close(), colleague?.close()]);
    stack?.remove();
  });

  test("the first preview touches nothing", async () => {
    const output = succeeded(await stack.preview());
    expect(output).toContain("+ 37 to create");
    expect([nft.connections(), legacy.connections()]).toEqual([0, 0]);
    expect(ec2.calls()).toEqual([]);
    expect(await filters()).toEqual(before);
  });

  test("up loads both families on every host, and fills the group", async () => {
    succeeded(await stack.shell(`${documented("README.md", "pulumi up -s prod")} --skip-preview`));
    for (const [host, owner] of owners()) expect(await live(host)).toBe(expectedRulesets(owner));

    const [group, ...others] = await ec2.securityGroups(vpcId);
    expect(others).toEqual([]);
    expect(group).toMatchObject({ description: "Mail server firewall" });
    const found = await ec2.rules(group!.id);
    expect(
      found
        .filter(({ protocol }) => protocol === "tcp" || protocol === "udp")
        .map(({ direction, protocol, fromPort, toPort, source }) =>
          [direction, protocol, fromPort, toPort, source].join(" "),
        )
        .sort(),
    ).toEqual(
      [
        "ingress tcp 25 25 0.0.0.0/0",
        "ingress tcp 25 25 ::/0",
        "ingress tcp 22 22 203.0.113.0/24",
        "ingress tcp 22 22 2001:db8:113::/48",
        "ingress tcp 143 143 10.20.0.0/16",
        "ingress tcp 143 143 fd12::/48",
        "ingress tcp 443 443 0.0.0.0/0",
        "ingress tcp 443 443 ::/0",
        "ingress tcp 465 465 0.0.0.0/0",
        "ingress tcp 465 465 ::/0",
        "ingress udp 51820 51820 0.0.0.0/0",
        "ingress udp 51820 51820 ::/0",
      ].sort(),
    );
    expect(found.filter(({ direction }) => direction === "egress")).toEqual([
      expect.objectContaining({ protocol: "-1", source: "0.0.0.0/0" }),
      expect.objectContaining({ protocol: "-1", source: "::/0" }),
    ]);
    expect(found.filter(({ protocol }) => protocol.startsWith("icmp"))).toHaveLength(9);

    const fingerprint = (owner: string) =>
      createHash("sha256").update(expectedRulesets(owner)).digest("hex").slice(0, 12);
    expect(await stack.outputs()).toMatchObject({
      exposure: { smtp: "tcp/25: public", imap: "tcp/143: 10.20.0.0/16, fd12::/48", imaps: "tcp/993: closed" },
      hosts: { mx1: `confirmed ${fingerprint(owner1)}`, mx2: `confirmed ${fingerprint(owner2)}` },
      securityGroupId: group!.id,
      cloudOnly: {
        "outbound mail": "tcp/25 is throttled by AWS, by account and region, until you ask for more",
        "idle connections": "imap: tracked, so forgotten after 350 s on Nitro v6; IDLE must notify sooner",
      },
    });
  });

  test.each([
    ["a stranger", stranger4, () => stranger, []],
    ["a stranger", stranger6, () => stranger, []],
    ["a colleague", colleague4, () => colleague, ["tcp/143"]],
    ["a colleague", colleague6, () => colleague, ["tcp/143"]],
  ])("packets: %s at %s reaches what is open to them, and nothing else", async (_, source, client, extra) => {
    for (const host of [nft, legacy]) {
      const { open, refused } = await exposureOf(host, client(), source);
      expect(open.sort()).toEqual(["tcp/25", "tcp/443", "tcp/465", "udp/51820", ...extra].sort());
      expect(refused).toEqual([]);
    }
  });

  test("what the kernel and AWS hold admits the same", async () => {
    const [group] = await ec2.securityGroups(vpcId);
    const filter = { Filters: [{ Name: "group-id", Values: [group!.id] }] };
    const groupRules = JSON.stringify(await ec2.client.describeSecurityGroupRules(filter));
    for (const host of [nft, legacy]) {
      const save = async (tool: string) => (await host.run(`${tool}-save`)).stdout;
      const rules = { iptables: await save("iptables"), ip6tables: await save("ip6tables"), groupRules };
      expect(compareLive(rules)).toEqual([]);
      const rule = "MAILFW-OPEN -p tcp -m conntrack --ctorigdstport 3306 -j RETURN";
      await host.run(`iptables -t mangle -I ${rule}`);
      expect(compareLive({ ...rules, iptables: await save("iptables") })).toEqual([
        "only the host admits tcp/3306 from 0.0.0.0 to 126.255.255.255, 128.0.0.0/1",
      ]);
      await host.run(`iptables -t mangle -D ${rule}`);
    }
  });

  test("our accept stands behind fail2ban's bans and before the rule that would refuse what is open", async () => {
    const { stdout } = await nft.run("iptables -S INPUT; ip6tables -S INPUT");
    expect(stdout.split("\n").filter((line) => line.startsWith("-A"))).toEqual([
      "-A INPUT -j f2b-sshd",
      "-A INPUT -p tcp -m multiport --dports 22,3306 -j ACCEPT",
      "-A INPUT -j MAILFW-ACCEPT",
      "-A INPUT -j REJECT --reject-with icmp-port-unreachable",
      "-A INPUT -j f2b-sshd",
      "-A INPUT -p tcp -m multiport --dports 22,3306 -j ACCEPT",
      "-A INPUT -p ipv6-icmp -j ACCEPT",
      "-A INPUT -j MAILFW-ACCEPT",
      "-A INPUT -j REJECT --reject-with icmp6-port-unreachable",
    ]);
  });

  test("the script belongs to root, who alone may change it", async () => {
    for (const host of [nft, legacy]) {
      expect((await host.run("stat -c '%a %U:%G' /usr/local/sbin/mail-firewall")).stdout).toBe("744 root:root\n");
      expect((await host.run("ls /usr/local/sbin/")).stdout).toBe("mail-firewall\n");
    }
  });

  test("refresh finds what was deployed", async () => {
    const output = succeeded(await stack.refresh());
    expect(output).toContain("37 unchanged");
  });

  test("up again, after a refresh too, opens no connection and calls nothing that changes AWS", async () => {
    const connections = [nft.connections(), legacy.connections()];
    const calls = ec2.calls().length;
    expect(succeeded(await stack.up("--skip-preview", "--expect-no-changes"))).toContain("37 unchanged");
    expect([nft.connections(), legacy.connections()]).toEqual(connections);
    expect(ec2.calls().slice(calls)).toEqual([]);
  });

  test("the order of the config and the spelling of a service change nothing", async () => {
    const { submissions, https, imap } = policy.services;
    stack.configure({
      ...Object.fromEntries(Object.entries(config).reverse()),
      services: { smtp: "public", imap: [...imap].reverse(), https, smtps: submissions, pop3: "closed" },
    });
    expect(succeeded(await stack.preview("--expect-no-changes", "--diff"))).toContain("37 unchanged");
  });

  test("the preview of one service made public is what a reviewer needs, and no more", async () => {
    stack.configure({ ...config, services: { ...policy.services, imaps: "public" } });
    const output = succeeded(await stack.shell(documented("README.md", "pulumi preview --diff")));
    const rule = "+ -A MAILFW-OPEN -p tcp -m conntrack --ctorigdstport 993 -m comment --comment imaps -j RETURN";
    const line = '~ imaps : "tcp/993: closed" => "tcp/993: public"';
    const group = [
      "+ aws:vpc/securityGroupIngressRule:SecurityGroupIngressRule: (create)",
      "+ aws:vpc/securityGroupIngressRule:SecurityGroupIngressRule: (create)",
    ];
    const host = [
      ...["~ command:remote:Command: (update)", "~ stdin:", rule, rule],
      ...["~ command:remote:Command: (update)", "~ stdin: confirm"],
    ];
    const found = changed(output).map((line) =>
      line.replace(/^~ stdin: "applied [0-9a-f]{12}-[0-9a-f]{8}" => \[unknown\]$/, "~ stdin: confirm"),
    );
    // The engine prints independent resources in the order in which they come.
    expect([...found].sort()).toEqual(
      [
        ...["~ mail-firewall:index:MailFirewall: (update)", "~ exposure: {", line],
        ...[...group, ...host, ...host],
        ...["~ exposure : {", line],
        ...["~ readme :", '+ from_smtp --> to_imaps["imaps<br>tcp/993"]'],
        ...["+ 2 to create", "~ 5 to update"],
      ].sort(),
    );
    expect(output).toContain("32 unchanged");
    for (const name of ["tcp-993-anywhere-ipv4", "tcp-993-anywhere-ipv6"])
      expect(output).toContain(`mail-ingress-${name}]`);
    expect(output).not.toContain("[secret]");
    expect(output).not.toContain("replace");
  });

  test("up with one more service opens it, on the hosts and in the group, and only it", async () => {
    const calls = ec2.calls().length;
    const connections = [nft.connections(), legacy.connections()];
    succeeded(await stack.up("--skip-preview"));
    expect(
      ec2
        .calls()
        .slice(calls)
        .filter((call) => !call.startsWith("Describe")),
    ).toEqual(["AuthorizeSecurityGroupIngress", "AuthorizeSecurityGroupIngress"]);
    // Two connections a host: apply and confirm. Nothing was installed anew.
    expect([nft.connections(), legacy.connections()]).toEqual(connections.map((count) => count + 2));
    for (const [host, owner] of owners()) {
      expect(await live(host)).toBe(expectedRulesets(owner, { imaps: ["public"] }));
      for (const source of [stranger4, stranger6]) {
        const { open } = await exposureOf(host, stranger, source);
        expect(open.sort()).toEqual(["tcp/25", "tcp/443", "tcp/465", "tcp/993", "udp/51820"]);
      }
    }
  });

  test("closing it again shuts it", async () => {
    stack.configure(config);
    succeeded(await stack.up("--skip-preview"));
    for (const source of [stranger4, stranger6]) {
      expect((await exposureOf(legacy, stranger, source)).shut).toContain("tcp/993");
    }
  });

  test("replacing either command, as after a reinstallation, leaves the host with its rules and its script", async () => {
    const state = await stack.export();
    const urnOf = (name: string) =>
      state.deployment.resources!.find((resource) => resource.urn.endsWith(`::${name}`))!.urn;
    // One on each host.
    const replace = ["mail-mx1-apply", "mail-mx2-install"].flatMap((name) => ["--replace", urnOf(name)]);
    succeeded(await stack.up("--skip-preview", ...replace));
    for (const [host, owner] of owners()) {
      expect(await live(host)).toBe(expectedRulesets(owner));
      expect((await host.run("ls /usr/local/sbin/")).stdout).toBe("mail-firewall\n");
    }
  });

  test("renaming a host keeps its rules, and hands them over", async () => {
    const { mx1, mx2 } = config.hosts as Record<string, unknown>;
    stack.configure({ ...config, hosts: { mx3: mx1, mx2 } });
    succeeded(await stack.up("--skip-preview"));
    expect(await live(nft)).toBe(expectedRulesets("mail-firewall/prod/mail-mx3"));
    expect((await nft.run("ls /usr/local/sbin/")).stdout).toBe("mail-firewall\n");
    stack.configure(config);
    succeeded(await stack.up("--skip-preview"));
    expect(await live(nft)).toBe(expectedRulesets(owner1));
  });

  test("the state holds no secret in plain text, and every resource is under its component", async () => {
    const state = await stack.export();
    expectNoKey(state);
    const resources = state.deployment.resources ?? [];
    const parents = new Set(
      resources
        .filter(({ type }) => type.startsWith("aws:") || type.startsWith("command:"))
        .map(({ parent }) => parent!.replace(/^.*mail-firewall:index:/, "")),
    );
    expect([...parents].sort()).toEqual([
      "HostFirewall::mail-mx1",
      "HostFirewall::mail-mx2",
      "MailSecurityGroup::mail",
    ]);
  });

  test("destroy leaves the hosts and the VPC as they were", async () => {
    succeeded(await stack.shell(`${documented("README.md", "pulumi destroy")} --skip-preview`));
    expect(await filters()).toEqual(before);
    expect(await ec2.securityGroups(vpcId)).toEqual([]);
    for (const host of [nft, legacy]) {
      expect((await host.run("ls -A /usr/local/sbin /etc/mail-firewall 2>/dev/null; ls -A /tmp")).stdout).toBe(
        "/usr/local/sbin:\n",
      );
    }
  });
});
