// The policy pack in a real preview, from the package as npm installs it.
import { mkdtempSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";

import { documented } from "../documented";
import { startStack, type Stack } from "../sandbox/stack";
import { hostKey } from "../unit/wrongConfigs";
import { failed, policy, policyPack, succeeded } from "./example";

jest.setTimeout(120_000);

const program = `
const pulumi = require("@pulumi/pulumi");
const { MailFirewall } = require("mail-firewall");
new MailFirewall("mail", new pulumi.Config().requireObject("firewall"));
`;

let stack: Stack;

beforeAll(async () => {
  const project = mkdtempSync(join(tmpdir(), "policy-"));
  symlinkSync(resolve(".cache/consumer/node_modules"), join(project, "node_modules")); // tools/setup.sh consumer
  writeFileSync(
    join(project, "Pulumi.yaml"),
    "name: mail\nruntime: { name: nodejs, options: { typescript: false } }\n",
  );
  writeFileSync(join(project, "index.js"), program);
  stack = await startStack({ project });
});
afterAll(() => stack?.remove());

const preview = (services: Record<string, string[]>, host: object = { hostKey }) => {
  stack.configure({ firewall: { services, ssh: policy.ssh, hosts: { mx1: { host: "198.51.100.10", ...host } } } });
  const line = documented("README.md", "pulumi preview --policy-pack node_modules/mail-firewall/dist/policy-pack", {
    "node_modules/mail-firewall/dist/policy-pack": policyPack(),
  });
  return stack.shell(line);
};

test("refuses a stack that publishes plaintext IMAP", async () => {
  const output = failed(await preview({ imap: ["public"] }));
  expect(output).toContain("[mandatory]");
  expect(output).toContain("no-public-plaintext-mail");
  expect(output).toContain("imap (tcp/143) is open to everyone; open imaps instead, or name the networks");
});

test("refuses a host whose key is not checked", async () => {
  const output = failed(await preview({ imaps: ["public"] }, { insecureIgnoreHostKey: true }));
  expect(output).toContain("host-keys-are-checked");
  expect(output).toContain("the host's key is not checked (insecureIgnoreHostKey); write down its hostKey");
});

test("lets a stack through that does neither", async () => {
  const output = succeeded(await preview({ imaps: ["public"] }));
  expect(output).toMatch(/mail-firewall@v\d/); // the pack that was asked
  expect(output).not.toContain("mandatory");
});
