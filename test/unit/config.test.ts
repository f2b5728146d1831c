import { createPrivateKey, generateKeyPairSync } from "node:crypto";

import { RunError } from "@pulumi/pulumi";

import { readConfig, type SshAgent } from "../../stacks/config";
import { good, hostKey, mx1, wrongConfigs } from "./wrongConfigs";

interface Situation {
  secretKeys?: string[];
  sshAgent?: SshAgent;
}

/** As Pulumi hands it over: structured values as JSON, scalars as text. */
function read(config: Record<string, unknown>, { secretKeys = [], sshAgent = "ready" }: Situation = {}) {
  const values = Object.fromEntries(
    Object.entries(config).map(([key, value]) => [
      key.includes(":") ? key : `mail-firewall:${key}`,
      typeof value === "string" ? value : JSON.stringify(value),
    ]),
  );
  return readConfig({ values, secretKeys, sshAgent: () => sshAgent });
}

function faults(config: Record<string, unknown>, situation?: Situation): string[] {
  try {
    read(config, situation);
  } catch (error) {
    // RunError is what Pulumi prints without a stack trace.
    expect(error).toBeInstanceOf(RunError);
    const [head, ...lines] = (error as Error).message.split("\n");
    expect(head).toBe(
      `stack config: ${lines.length === 1 ? "1 fault" : `${lines.length} faults`}; nothing was touched`,
    );
    return lines.map((line) => line.replace(/^ {2}mail-firewall:/, ""));
  }
  return [];
}

test("the example of the contract becomes the component's arguments", () => {
  expect(
    read({
      "aws:region": "eu-central-1",
      services: { submissions: "public", imaps: "public", imap: ["10.20.0.0/16", "fd12::/48"], pop3: "closed" },
      ssh: ["203.0.113.0/24"],
      ports: { wireguard: { protocol: "udp", port: 51820, from: "public" } },
      hosts: { mx1: { ...mx1, user: "admin", port: 22, sshPorts: [22] } },
      aws: { vpcId: "vpc-0abc" },
    }),
  ).toEqual({
    services: { submissions: ["public"], imaps: ["public"], imap: ["10.20.0.0/16", "fd12::/48"], pop3: ["closed"] },
    ssh: ["203.0.113.0/24"],
    ports: { wireguard: { protocol: "udp", port: 51820, from: ["public"] } },
    hosts: { mx1: { ...mx1, user: "admin", port: 22, sshPorts: [22] } },
    aws: { vpcId: "vpc-0abc" },
  });
});

test.each([
  ["open", { mode: "open" }],
  ["mail", { mode: "mail" }],
  [{ relay: "public" }, { relay: ["public"] }],
  [{ relay: ["198.51.100.7/32"] }, { relay: ["198.51.100.7/32"] }],
])("egress %j becomes the component's", (egress, expected) => {
  expect(read({ ...good, egress })).toHaveProperty("egress", expected);
});

test.each<[string, Record<string, unknown>]>([
  ["hosts alone", { ssh: "public", hosts: { mx1 } }],
  ["a VPC alone", { ssh: "closed", aws: { vpcId: "vpc-0abc" } }],
  [
    "every key of aws, of which one of its own is named",
    {
      ...good,
      aws: {
        ...{ vpcId: "vpc-0abc", attachTo: ["eni-0abc", "eni-1abc"], prefixLists: true, rulesPerGroup: 200 },
        ...{ region: "us-gov-west-1", tags: { Name: "mail", owner: "" } },
      },
    },
  ],
  ["a group that exists", { ...good, aws: { securityGroupId: "sg-0abc", region: "eusc-de-east-1" } }],
  ["a mode and a relay", { ...good, egress: { mode: "mail", relay: ["198.51.100.7/32", "2001:db8::7/128"] } }],
  ["what Pulumi.yaml's defaults add", { ...good, services: {}, ports: {}, host: {} }],
  [
    "every option, for all hosts and for one",
    {
      ...good,
      host: {
        externalInterface: "eth0",
        externalAddress: ["198.51.100.10", "2001:db8:51::10"],
        trustedInterfaces: ["wg0", "br-+"],
        trustedNetworks: ["10.8.0.0/24", "fd12::/48"],
        logging: "off",
        noLog: ["tcp/23", "udp/1900"],
        rollbackSeconds: 10,
        takeOver: true,
        onDestroy: "keep",
        abandon: false,
      },
      hosts: { mx1: { ...mx1, externalAddress: "198.51.100.10", logging: "100/day", trustedInterfaces: [] } },
    },
  ],
  [
    "one private address behind two bastions",
    { ...good, hosts: { a: { ...mx1, bastion: mx1 }, b: { ...mx1, bastion: { ...mx1, host: "jump.example.org" } } } },
  ],
  [
    "hosts and bastions whose keys cannot be known",
    {
      ...good,
      hosts: { mx1: { ...mx1, bastion: { host: "jump", port: 443, user: "jump", insecureIgnoreHostKey: true } } },
    },
  ],
  [
    "a host by name, over IPv6, with a comment behind its key",
    {
      ...good,
      ssh: "public",
      hosts: { a: { ...mx1, host: "mx1.example.org" }, b: { host: "2001:db8::10", hostKey: `${hostKey} root@mx1` } },
    },
  ],
])("takes %s", (_, config) => {
  expect(faults(config)).toEqual([]);
});

const hostile = [
  "$(reboot)",
  "`reboot`",
  "; reboot",
  "a\nb",
  'a"b',
  "a'b",
  "a b",
  "../a",
  "\u202eb",
  "-oProxyCommand=x",
];

test("refuses a misspelled namespace, which Pulumi would ignore", () => {
  expect(faults({ ...good, "mailfirewall:services": { pop3: "public" } })).toEqual(
    ["mailfirewall:services: is of another namespace, which nobody reads; write mail-firewall:services"].map(
      (line) => `  ${line}`,
    ),
  );
});

test.each(wrongConfigs)("refuses %s", (_, config, expected) => {
  expect(faults(config)).toEqual(expected);
});

describe.each(hostile)("refuses the hostile string %j as", (text) => {
  test.each<[string, Record<string, unknown>, RegExp]>([
    ["a service", { ...good, services: { [text]: "public" } }, /^services\[".*"\]: unknown service; /],
    ["a source", { ...good, services: { imaps: text } }, /^services\.imaps: ".*" is none of "public", "closed" and /],
    ["a network", { ...good, ssh: [text] }, /^ssh\[0\]: ".*" is not a CIDR; /],
    [
      "the name of a port",
      { ...good, ports: { [text]: { protocol: "udp", port: 1, from: "public" } } },
      /^ports\[".*"\]: is not a service name; /,
    ],
    [
      "a protocol",
      { ...good, ports: { w: { protocol: text, port: 1, from: "public" } } },
      /^ports\.w\.protocol: ".*" is not a protocol here; /,
    ],
    [
      "a port",
      { ...good, ports: { w: { protocol: "udp", port: text, from: "public" } } },
      /^ports\.w\.port: ".*" is not a port; /,
    ],
    ["the name of a host", { ...good, hosts: { [text]: mx1 } }, /^hosts\[".*"\]: is not a name for a host; /],
    [
      "a host",
      { ...good, hosts: { mx1: { ...mx1, host: text } } },
      /^hosts\.mx1\.host: ".*" is not a host name or address; /,
    ],
    ["a user", { ...good, hosts: { mx1: { ...mx1, user: text } } }, /^hosts\.mx1\.user: ".*" is not a user name; /],
    ["a host key", { ...good, hosts: { mx1: { ...mx1, hostKey: text } } }, /^hosts\.mx1\.hostKey: ".*" is /],
    [
      "a host key's data",
      { ...good, hosts: { mx1: { ...mx1, hostKey: `ssh-ed25519 ${text}` } } },
      /^hosts\.mx1\.hostKey: ".*" is /,
    ],
    [
      "a bastion",
      { ...good, hosts: { mx1: { ...mx1, bastion: { host: text, hostKey } } } },
      /^hosts\.mx1\.bastion\.host: ".*" is not a host name or address; /,
    ],
    [
      "an agent's socket",
      { ...good, hosts: { mx1: { ...mx1, agentSocketPath: text } } },
      /^hosts\.mx1\.agentSocketPath: ".*" is not the absolute path of a socket; /,
    ],
    [
      "an interface",
      { ...good, host: { externalInterface: text } },
      /^host\.externalInterface: ".*" is not the name of an interface; /,
    ],
    [
      "an address of a host",
      { ...good, hosts: { mx1: { ...mx1, externalAddress: [text] } } },
      /^hosts\.mx1\.externalAddress\[0\]: ".*" is (no address|a network); /,
    ],
    [
      "a trusted network",
      { ...good, host: { trustedNetworks: [text] } },
      /^host\.trustedNetworks\[0\]: ".*" is not a CIDR; /,
    ],
    ["a rate of logging", { ...good, host: { logging: text } }, /^host\.logging: ".*" is not a rate; /],
    ["a port not to log", { ...good, host: { noLog: [text] } }, /^host\.noLog\[0\]: ".*" is not a port; /],
    ["a VPC", { ...good, aws: { vpcId: text } }, /^aws\.vpcId: ".*" is not the id of a VPC; /],
    ["a key of the config", { ...good, [text]: {} }, /^\[".*"\]: unknown key; /],
  ])("%s", (_, config, expected) => {
    const found = faults(config);
    expect(found).toEqual([expect.stringMatching(expected)]);
    // On one line, and nothing that a terminal would act on.
    expect(found[0]).toMatch(/^[\x20-\x7e]+$/);
  });
});

describe("secrets", () => {
  const pem = "-----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNzaC1rZXktdjEAAAAA\n-----END OPENSSH PRIVATE KEY-----\n";

  const { privateKey: locked } = generateKeyPairSync("rsa", {
    modulusLength: 1024,
    publicKeyEncoding: { type: "spki", format: "pem" },
    privateKeyEncoding: { type: "pkcs1", format: "pem", cipher: "aes-128-cbc", passphrase: "hush" },
  });

  test("a key with its passphrase is taken, also one that looks like a number", () => {
    const secretKeys = ["mail-firewall:sshPrivateKey", "mail-firewall:sshPrivateKeyPassword"];
    expect(faults({ ...good, sshPrivateKey: locked, sshPrivateKeyPassword: "hush" }, { secretKeys })).toEqual([]);
    const number = createPrivateKey({ key: locked, passphrase: "hush" }).export({
      type: "pkcs1",
      format: "pem",
      cipher: "aes-128-cbc",
      passphrase: "123",
    });
    expect(faults({ ...good, sshPrivateKey: number, sshPrivateKeyPassword: "123" }, { secretKeys })).toEqual([]);
  });

  test("an encrypted key is taken", () => {
    expect(
      faults({ ...good, sshPrivateKey: pem }, { secretKeys: ["mail-firewall:sshPrivateKey"], sshAgent: "none" }),
    ).toEqual([]);
  });

  test.each<[string, Record<string, unknown>, Situation, string]>([
    [
      "a private key in plain text",
      { ...good, sshPrivateKey: pem },
      {},
      "sshPrivateKey: is stored in plain text; store it with pulumi config set --secret sshPrivateKey <KEYFILE",
    ],
    [
      "the name of a key file",
      { ...good, sshPrivateKey: "~/.ssh/id_ed25519" },
      { secretKeys: ["mail-firewall:sshPrivateKey"] },
      'sshPrivateKey: is not a private key; write the text of the key file, from "-----BEGIN" to the last line',
    ],
    [
      "hosts that nobody can log in to",
      good,
      { sshAgent: "none" },
      "sshPrivateKey: is missing, and no SSH agent runs (SSH_AUTH_SOCK): start one, or pulumi config set --secret sshPrivateKey <KEYFILE",
    ],
    [
      "an SSH agent that is gone, even with a key",
      { ...good, sshPrivateKey: pem },
      { secretKeys: ["mail-firewall:sshPrivateKey"], sshAgent: "silent" },
      "  SSH_AUTH_SOCK: no SSH agent answers there; start one, or unset it",
    ],
    [
      "a host's own SSH agent that is gone",
      { ...good, hosts: { mx1: { ...mx1, agentSocketPath: "/run/agent" } } },
      { sshAgent: "silent" },
      "hosts.mx1.agentSocketPath: no SSH agent answers there; start one, or delete it",
    ],
    [
      "an SSH agent without keys",
      good,
      { sshAgent: "empty" },
      "sshPrivateKey: is missing, and the SSH agent has no key: add one, or pulumi config set --secret sshPrivateKey <KEYFILE",
    ],
    [
      "a key with a passphrase that nobody gave",
      { ...good, sshPrivateKey: locked },
      { secretKeys: ["mail-firewall:sshPrivateKey"] },
      "sshPrivateKey: is protected by a passphrase; give that as sshPrivateKeyPassword, or use an SSH agent",
    ],
    [
      "a passphrase in plain text",
      { ...good, sshPrivateKey: locked, sshPrivateKeyPassword: "hush" },
      { secretKeys: ["mail-firewall:sshPrivateKey"] },
      "sshPrivateKeyPassword: is stored in plain text; store it with pulumi config set --secret sshPrivateKeyPassword",
    ],
    [
      "a wrong passphrase",
      { ...good, sshPrivateKey: locked, sshPrivateKeyPassword: "hush!" },
      { secretKeys: ["mail-firewall:sshPrivateKey", "mail-firewall:sshPrivateKeyPassword"] },
      "sshPrivateKeyPassword: is not the passphrase of the key; ssh-keygen -y -f KEYFILE tells whether it is",
    ],
    [
      "a passphrase without its key",
      { ...good, sshPrivateKeyPassword: "hush" },
      { secretKeys: ["mail-firewall:sshPrivateKeyPassword"] },
      "sshPrivateKeyPassword: is there without its key; add that, or delete it",
    ],
    [
      "a private key for a host key",
      { ...good, hosts: { mx1: { ...mx1, hostKey: pem } } },
      {},
      `hosts.mx1.hostKey: (a private key) is more than one line; write "ssh-ed25519 AAAA...", the line of the host's /etc/ssh/ssh_host_ed25519_key.pub`,
    ],
    [
      "a wrong value that is encrypted",
      { ...good, services: { hush: "public" } },
      { secretKeys: ["mail-firewall:services"] },
      "services: is encrypted, but previews show it; store it in plain: secrets are only sshPrivateKey and its password",
    ],
    [
      "encrypted sources",
      good,
      { secretKeys: ["mail-firewall:ssh"] },
      "ssh: is encrypted, but previews show it; store it in plain: secrets are only sshPrivateKey and its password",
    ],
  ])("refuses %s, without showing it", (_, config, situation, expected) => {
    expect(faults(config, situation)).toEqual([expected]);
  });
});
