// Every kind of wrong configuration, through the real engine: an error, and nothing is touched. A sample, unless
// MAILFW_ALL=1; without the engine, test/unit/config.test.ts takes each.
import { startEc2, type Ec2 } from "../sandbox/ec2";
import { operatorKey, startMailHost, type MailHost } from "../sandbox/host";
import { startStack, type Stack } from "../sandbox/stack";
import { wrongConfigs } from "../unit/wrongConfigs";
import { failed } from "./example";

jest.setTimeout(60_000);

let ec2: Ec2, host: MailHost, stack: Stack;

beforeAll(async () => {
  [ec2, host] = await Promise.all([startEc2(), startMailHost()]);
  stack = await startStack({ privateKey: operatorKey.privateKey, env: ec2.env });
});
afterAll(async () => {
  await Promise.all([ec2?.close(), host?.close()]);
  stack?.remove();
});

const sample = wrongConfigs.filter((_, i) => process.env.MAILFW_ALL === "1" || i % 24 === 0);

test.each(sample)("%s", async (_, config, expected) => {
  // The table's host becomes one that is there: a connection to it would be seen.
  const here = (text: string) => text.replaceAll('"198.51.100.10', `"${host.address4}`);
  stack.configure({ "aws:region": "eu-central-1", ...(JSON.parse(here(JSON.stringify(config))) as object) });
  const output = failed(await stack.up("--skip-preview"));
  // Pulumi itself checks the coarse types of Pulumi.yaml, and then says no more.
  if (!/must be of type '(object|boolean)'/.test(output)) {
    for (const line of expected) expect(output).toContain(`mail-firewall:${here(line)}`);
  }
  expect(output).not.toMatch(/^\s+at .*:\d+:\d+/m);
  expect(host.connections()).toBe(0);
  expect(ec2.calls()).toEqual([]);
});
