import { readReport } from "../../cli/ask";
import { deployedHosts, type State } from "../../cli/state";

type Resource = NonNullable<State["deployment"]["resources"]>[number];

/** As `pulumi stack export --show-secrets` writes a secret. */
const secret = (value: unknown) => ({
  "4dabf18193072939515e22adb298388d": "1b47061264138c4ac30d75fd1eb44270",
  plaintext: JSON.stringify(value),
});
const urn = (types: string, name: string) => `urn:pulumi:prod::mail-firewall::${types}::${name}`;
const hostType = "mail-firewall:index:MailFirewall$mail-firewall:index:HostFirewall";
const commandOf = (host: string, verb: string, inputs: Record<string, unknown>, more: object = {}): Resource => ({
  urn: urn(`${hostType}$command:remote:Command`, `${host}-${verb}`),
  type: "command:remote:Command",
  parent: urn(hostType, host),
  inputs,
  ...more,
});
const applied = (host: string, stdin: unknown, connection: unknown, more: object = {}) =>
  commandOf(host, "apply", { create: "/usr/local/sbin/mail-firewall apply", stdin, connection }, more);
const stateOf = (...resources: Resource[]): State => ({ deployment: { resources } });

const connection = { host: "198.51.100.10", port: 22, user: "root", hostKey: "ssh-ed25519 AAAA" };

test("a state without resources has deployed to no host", () => {
  expect(deployedHosts({ deployment: {} })).toEqual([]);
  expect(deployedHosts(stateOf())).toEqual([]);
});

test("hosts come by name, each with its own rules and its connection in plain", () => {
  const key = '-----BEGIN OPENSSH PRIVATE KEY-----\n"\\\n-----END OPENSSH PRIVATE KEY-----\n';
  expect(
    deployedHosts(
      stateOf(
        applied("mail-mx2", "# IPv4 2", { ...connection, privateKey: secret(key), privateKeyPassword: secret("hush") }),
        applied("mail-mx1", "# IPv4 1", secret({ ...connection, proxy: { ...connection, privateKey: secret(key) } })),
      ),
    ),
  ).toEqual([
    {
      name: "mail-mx1",
      rulesets: "# IPv4 1",
      connection: { ...connection, proxy: { ...connection, privateKey: key } },
    },
    {
      name: "mail-mx2",
      rulesets: "# IPv4 2",
      connection: { ...connection, privateKey: key, privateKeyPassword: "hush" },
    },
  ]);
});

test("rules that are secret, because a network in them was, are read too", () => {
  expect(deployedHosts(stateOf(applied("mx1", secret("# IPv4"), connection)))).toMatchObject([{ rulesets: "# IPv4" }]);
});

test("what is pending deletion is not what was deployed", () => {
  expect(
    deployedHosts(
      stateOf(
        applied("mx1", "old", { ...connection, host: "198.51.100.9" }, { delete: true }),
        applied("mx1", "new", connection),
        applied("mx2", "old", connection, { delete: true }),
      ),
    ),
  ).toEqual([{ name: "mx1", connection, rulesets: "new" }]);
});

test.each<[string, Resource]>([
  ["the other commands of a host", commandOf("mx1", "confirm", { stdin: "applied 12", connection })],
  [
    "somebody else's command of the same name",
    {
      ...applied("mx1", "x", connection),
      urn: urn("command:remote:Command", "mx1-apply"),
      parent: urn("pulumi:pulumi:Stack", "mx1"),
    },
  ],
  ["a command without a parent", { urn: urn("command:remote:Command", "mx1-apply"), type: "command:remote:Command" }],
  [
    "somebody else's command below a host",
    { ...applied("mx1", "x", connection), urn: urn(`${hostType}$command:remote:Command`, "mx2-apply") },
  ],
  ["another type of the same name", { ...applied("mx1", "x", connection), type: "command:local:Command" }],
  ["the host itself", { urn: urn(hostType, "mx1-apply"), type: "mail-firewall:index:HostFirewall" }],
])("%s is no host", (_, resource) => {
  expect(deployedHosts(stateOf(resource))).toEqual([]);
});

test.each(["a::b-apply", "$(touch x)", "mx 'one'", "a$b"])("a host's name may be any text: %s", (name) => {
  expect(deployedHosts(stateOf(applied(name, "x", connection)))).toMatchObject([{ name }]);
});

describe("what a host answers", () => {
  const report = { rules: "12ab", owner: "o", differences: [{ kind: "rules", text: "IPv4: missing" }], notices: [] };
  test("is its last line", () => {
    expect(readReport(`${JSON.stringify(report)}\n`)).toEqual(report);
    expect(readReport(`Welcome to mx1!\n${JSON.stringify(report)}\n`)).toEqual(report);
  });
  test.each([
    "",
    "null",
    "[]",
    "{}",
    "3",
    '"x"',
    "<html>",
    '{"error":"x"}',
    JSON.stringify({ ...report, notices: [null] }),
  ])("or else is not a report: %s", (text) => expect(readReport(text)).toBeUndefined());
});
