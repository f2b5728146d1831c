// No text of a configuration reaches a shell: it is refused, or stands where nothing interprets it.
import * as pulumi from "@pulumi/pulumi";
import fc from "fast-check";

import { HostFirewall, type HostFirewallArgs } from "../../components";
import { withoutStacks } from "./withoutStacks";

const hostKey = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHyrmZFHMFmhYYIcPPRxUWkWDKZUzpP2PYRkVfTzWlrk";
const plain: HostFirewallArgs = {
  services: { imaps: ["10.0.0.0/8"] },
  ssh: ["203.0.113.0/24"],
  ports: { wireguard: { protocol: "udp", port: 51820, from: ["public"] } },
  host: "198.51.100.10",
  hostKey,
};

interface Command {
  name: string;
  create: string;
  delete: string | undefined;
  stdin: string;
}

/** What a host's commands hold; undefined if its arguments were refused, which registers nothing. */
async function commandsOf(
  name: string,
  args: unknown,
  project = "mail-firewall",
  stack = "test",
): Promise<Command[] | undefined> {
  const found: Command[] = [];
  await pulumi.runtime.setMocks(
    {
      newResource: ({ type, name, inputs }) => {
        if (type === "command:remote:Command") found.push({ ...(inputs as Omit<Command, "name">), name });
        return { id: name, state: { stdout: name.endsWith("-apply") ? "applied 0123456789ab-0123abcd" : "confirmed" } };
      },
      call: () => ({}),
    },
    project,
    stack,
  );
  return withoutStacks(async () => {
    try {
      new HostFirewall(name, args as HostFirewallArgs);
    } catch (error) {
      if (name !== "") expect(error).toBeInstanceOf(pulumi.RunError); // Pulumi itself refuses a resource without a name
      await pulumi.runtime.disconnect();
      expect(found).toEqual([]);
      return undefined;
    }
    await pulumi.runtime.disconnect();
    return found;
  });
}

const id = "[\\w.:/@+=-]{1,256}";
const script = "(sudo -n )?/usr/local/sbin/mail-firewall";
const verbs: Record<string, RegExp> = {
  apply: new RegExp(`^${script} apply( --rollback \\d{2,4})?( --take-over)?( --keep)?( --instance ${id})?$`),
  confirm: new RegExp(`^${script} confirm$`),
  reconfirm: new RegExp(`^${script} confirm --again$`),
};
const removal = (verb: string) =>
  new RegExp(`^(sudo -n )?sh -c 'test ! -e (/usr/local/sbin/mail-firewall) \\|\\| exec \\2 ${verb}'$`);
const removals: Record<string, RegExp> = { install: removal("uninstall"), apply: removal("remove --owned") };
const ownerLine = /^-A MAILFW-IN -m comment --comment "owner [\w.!~*()%/-]*"$/;

/** The texts that `install` may have: one for root, one for others. */
let installs: Set<string>;
let rulesets: string[];
beforeAll(async () => {
  jest.spyOn(pulumi.log, "warn").mockResolvedValue();
  const texts = [await commandsOf("x", plain), await commandsOf("x", { ...plain, user: "admin" })];
  installs = new Set(texts.map((commands) => commands![0]!.create));
  rulesets = withoutOwner(texts[0]!);
});
const withoutOwner = (commands: Command[]) =>
  commands
    .find(({ create }) => / apply/.test(create))!
    .stdin.split("\n")
    .filter((line) => !ownerLine.test(line));

function harmless(name: string, commands: Command[]): void {
  expect(commands.map((command) => command.name)).toEqual(
    ["install", "apply", "confirm", "reconfirm"].map((verb) => `${name}-${verb}`),
  );
  for (const command of commands) {
    const verb = command.name.slice(name.length + 1);
    if (verb === "install") expect(installs).toContain(command.create.replace(new RegExp(`' ${id}$`), "'"));
    else expect(command.create).toMatch(verbs[verb]!);
    if (removals[verb]) expect(command.delete).toMatch(removals[verb]);
    else expect(command.delete).toBeUndefined();
    if (verb !== "apply") continue;
    const lines = command.stdin.split("\n");
    expect(lines.filter((line) => ownerLine.test(line))).toHaveLength(2);
    for (const line of lines) {
      expect(line).toMatch(
        /^(|# IPv[46]|# end|\*(mangle|filter)|COMMIT|:MAILFW-[A-Z]+ - \[0:0\]|-A MAILFW-(ACCEPT|DROP|FWD|IN|OPEN|OUT) [\w ".,:+!~*()%/-]+)$/,
      );
    }
  }
}

const snippets = ["'", '"', "$(touch /tmp/x)", "`touch /tmp/x`", "\n-A INPUT -j ACCEPT", "\r", ";reboot", "|sh", "&& sh", "\\", " ", "\0",
  "\t", "-oProxyCommand=sh", "--", "${IFS}", "%0a", "#", "*", "COMMIT", "é", "‮", "😀", "../../etc", ">x"]; // prettier-ignore
const right = [
  "eth0",
  "10.0.0.0/8",
  "public",
  "admin",
  "mx1.example.org",
  "3/min",
  "tcp/23",
  "restore",
  hostKey,
  "198.51.100.10",
  "imap",
];
/** Something hostile alone, or before, behind or inside of what is right. */
const hostile = fc
  .tuple(
    fc.constantFrom("", ...right),
    fc.oneof(fc.constantFrom(...snippets), fc.string({ unit: "grapheme" })),
    fc.double({ min: 0, max: 1, noNaN: true }),
  )
  .map(([base, snippet, at]) => {
    const cut = Math.round(at * base.length);
    return base.slice(0, cut) + snippet + base.slice(cut);
  });

const keyed = (text: string, value: unknown) => ({ [text]: value });
const fields: [string, (text: string) => object][] = [
  ["host", (host) => ({ host })],
  ["user", (user) => ({ user })],
  ["hostKey", (key) => ({ hostKey: key })],
  ["privateKey", (privateKey) => ({ privateKey })],
  ["privateKeyPassword", (privateKeyPassword) => ({ privateKeyPassword })],
  ["agentSocketPath", (agentSocketPath) => ({ agentSocketPath })],
  ["instanceId", (instanceId) => ({ instanceId })],
  ["port", (port) => ({ port })],
  ["sshPorts", (port) => ({ sshPorts: [port] })],
  ["bastion", (bastion) => ({ bastion })],
  ...["host", "user", "hostKey", "port"].map((key): [string, (text: string) => object] => [
    `bastion's ${key}`,
    (text) => ({ bastion: { host: "198.51.100.1", hostKey, [key]: text } }),
  ]),
  ["services' names", (name) => ({ services: keyed(name, ["public"]) })],
  ["services' sources", (source) => ({ services: { imaps: [source] } })],
  ["ssh", (source) => ({ ssh: ["203.0.113.0/24", source] })],
  ["ports' names", (name) => ({ ports: keyed(name, { protocol: "udp", port: 51820, from: ["public"] }) })],
  ["ports' protocols", (protocol) => ({ ports: { p: { protocol, port: 51820, from: ["public"] } } })],
  ["ports' ports", (port) => ({ ports: { p: { protocol: "tcp", port, from: ["public"] } } })],
  ["ports' sources", (source) => ({ ports: { p: { protocol: "tcp", port: 51820, from: [source] } } })],
  ["keys", (key) => keyed(key, true)],
  ...["externalInterface", "logging", "onDestroy", "rollbackSeconds", "takeOver", "abandon"].map(
    (key): [string, (text: string) => object] => [key, (text) => ({ [key]: text })],
  ),
  ...["externalAddress", "trustedInterfaces", "trustedNetworks", "noLog"].map(
    (key): [string, (text: string) => object] => [key, (text) => ({ [key]: [text] })],
  ),
];
const runs = process.env.MAILFW_ALL === "1" ? 1000 : 60;

test.each(fields)("%s: refused, or harmless", async (_, change) => {
  await fc.assert(
    fc.asyncProperty(hostile, async (text) => {
      const commands = await commandsOf("x", { ...plain, ...change(text) });
      if (commands) harmless("x", commands);
    }),
    { numRuns: runs },
  );
});

test("names of resource, stack and project stand in a comment alone, and change nothing else", async () => {
  await fc.assert(
    fc.asyncProperty(hostile, hostile, hostile, async (name, project, stack) => {
      const commands = await commandsOf(name, plain, project || "p", stack || "s");
      if (!commands) return;
      harmless(name, commands);
      expect(withoutOwner(commands)).toEqual(rulesets);
    }),
    { numRuns: runs },
  );
});

test("a name that the kernel's comment cannot hold is refused", async () => {
  const longest = 249 - "mail-firewall/test/".length;
  expect(await commandsOf("x".repeat(longest), plain)).toHaveLength(4);
  expect(await commandsOf("x".repeat(longest + 1), plain)).toBeUndefined();
});
