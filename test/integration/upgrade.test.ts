// State is API: what a release has deployed, the code of today finds as it would deploy it.
//
// A release adds its state by MAILFW_RECORD_STATE=1 make test-integration NAME=upgrade (see CHANGELOG.md).
import { readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";

import { startEc2, type Ec2 } from "../sandbox/ec2";
import { operatorKey, startMailHost } from "../sandbox/host";
import { startStack, type Config, type Stack, type State } from "../sandbox/stack";
import { script, succeeded } from "./example";

jest.setTimeout(180_000);

/** What a release leaves in the backend, and the config that it was made of. */
interface Release {
  readonly config: Config;
  readonly state: State;
}

const folder = "test/integration/states";
const { version } = JSON.parse(readFileSync("package.json", "utf8")) as { version: string };
const recording = process.env.MAILFW_RECORD_STATE === "1";
const files = new Set([...readdirSync(folder), ...(recording ? [`${version}.json`] : [])]);

/**
 * Stands for the text of the script on the host, which is a part of the state. It is code: each release may bring
 * another, which previews as an update of `-install`, and of nothing else.
 */
const scriptHere = "(components/host/mail-firewall.sh)";

/** The same with a text in place of another, wherever it stands in it. */
const replaced = <T>(value: T, from: string, to: string): T => {
  const inner = (text: string) => JSON.stringify(text).slice(1, -1);
  return JSON.parse(JSON.stringify(value).replaceAll(inner(from), () => inner(to))) as T;
};

/** Each option that is a part of some input has its place here. */
async function record(): Promise<void> {
  const [ec2, nft, legacy] = await Promise.all([startEc2(), startMailHost(), startMailHost({ backend: "legacy" })]);
  const stack = await startStack({ privateKey: operatorKey.privateKey, env: ec2.env });
  try {
    const config = {
      "aws:region": "eu-central-1",
      services: { imap: ["10.20.0.0/16", "fd12::/48"], submissions: "public" },
      ssh: ["203.0.113.0/24", "2001:db8:113::/48"],
      ports: { wireguard: { protocol: "udp", port: 51820, from: "public" } },
      hosts: {
        mx1: { host: nft.address4, hostKey: nft.hostKey },
        mx2: {
          host: legacy.address6,
          hostKey: legacy.hostKey,
          user: "admin",
          externalInterface: "eth0",
          trustedNetworks: ["10.8.0.0/24"],
          rollbackSeconds: 90,
        },
      },
      aws: { vpcId: await ec2.createVpc() },
    };
    stack.configure(config);
    succeeded(await stack.up("--skip-preview"));
    const release: Release = { config, state: replaced(await stack.export(), script, scriptHere) };
    // Where and when it was made is of no use to anyone.
    const noise = ["sourcePosition", "stackTrace", "created", "modified", "time"];
    const text = JSON.stringify(release, (key, value: unknown) => (noise.includes(key) ? undefined : value), 1);
    writeFileSync(join(folder, `${version}.json`), `${text}\n`);
  } finally {
    await Promise.all([ec2.close(), nft.close(), legacy.close()]);
    stack.remove();
  }
}

/** A secret as `pulumi stack export --show-secrets` prints it: JSON within JSON. */
interface Secret {
  readonly plaintext: string;
}
const revealed = <T>(secret: Secret) => JSON.parse(secret.plaintext) as T;

/** A new stack with the state of a release; the key that hosts are logged into with is one of the state's secrets. */
async function deployed({ config, state }: Release, env: Ec2["env"]): Promise<Stack> {
  const reader = await startStack({ env });
  let privateKey: string;
  try {
    await reader.import(state);
    const text = succeeded(await reader.pulumi("stack", "export", "--show-secrets"));
    const command = (JSON.parse(text) as State).deployment.resources!.find(({ type }) => type.startsWith("command:"));
    privateKey = revealed<string>(revealed<{ privateKey: Secret }>(command!.inputs!.connection as Secret).privateKey);
  } finally {
    reader.remove();
  }
  const stack = await startStack({ privateKey, env });
  await stack.import(state);
  stack.configure(config);
  return stack;
}

if (recording) beforeAll(record);

describe.each([...files])("the state of %s", (file) => {
  let release: Release, stack: Stack, ec2: Ec2;
  beforeAll(async () => {
    ec2 = await startEc2(); // which knows nothing of all this
    const stored = JSON.parse(readFileSync(join(folder, file), "utf8")) as Release;
    release = replaced(stored, scriptHere, script);
    stack = await deployed(release, ec2.env);
  });
  afterAll(async () => {
    await ec2?.close();
    stack?.remove();
  });

  test("previews as no change", async () => {
    const output = succeeded(await stack.preview("--expect-no-changes", "--diff"));
    expect(output).toContain(`${release.state.deployment.resources!.filter(isOurs).length} unchanged`);
    expect(ec2.calls()).toEqual([]);
  });

  interface Step {
    op: string;
    urn: string;
    diffReasons?: string[];
  }
  /** What the preview would do, where a release had called some things otherwise than the code of today. */
  async function changes(...others: [today: string, then: string][]): Promise<string[]> {
    let state = release.state;
    for (const [today, then] of others) {
      const other = replaced(state, today, then);
      expect(other).not.toEqual(state);
      state = other;
    }
    await stack.import(state);
    const { steps } = JSON.parse((await stack.preview("--json")).stdout) as { steps: Step[] };
    return steps.map(({ op, urn, diffReasons = [] }) => [op, urn.split("::").at(-1), ...diffReasons].join(" "));
  }

  test("what is called otherwise is found", async () => {
    const found = await changes(
      ["::mail-mx1-confirm", "::mail-mx1-confirmation"],
      ["::mail-ingress-tcp-143-10.20", "::mail-imap-10.20"],
      ["mail-firewall remove --owned", "mail-firewall remove"],
      ["--comment smtp", "--comment mail"],
      ["other port of the host", "other port"],
    );
    expect(found.filter((step) => !step.startsWith("same ")).sort()).toEqual([
      "create mail-ingress-tcp-143-10.20.0.0/16",
      "create mail-mx1-confirm",
      "delete mail-imap-10.20.0.0/16",
      "delete mail-mx1-confirmation",
      "update mail-ingress-udp-51820-anywhere-ipv4",
      "update mail-ingress-udp-51820-anywhere-ipv6",
      "update mail-mx1-apply delete stdin",
      "update mail-mx2-apply delete stdin",
      "update mail-mx2-confirm stdin",
    ]);
    const component = await changes(["mail-firewall:index:MailSecurityGroup", "mail-firewall:index:SecurityGroup"]);
    expect(component).toContain("create mail-ingress-udp-51820-anywhere-ipv4");
  });
});

/** Providers are the engine's own, and not counted. */
const isOurs = ({ type }: { type: string }) => !type.startsWith("pulumi:providers:");
