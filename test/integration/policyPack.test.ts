// The policy pack in a real preview, from the package as npm installs it.
import { operatorKey } from "../sandbox/host";
import { startStack, type Stack } from "../sandbox/stack";
import { hostKey } from "../unit/wrongConfigs";
import { failed, policy, policyPack, succeeded } from "./example";

jest.setTimeout(120_000);

const pack = policyPack();
let stack: Stack;

beforeAll(async () => {
  stack = await startStack({ privateKey: operatorKey.privateKey });
});
afterAll(() => stack?.remove());

const preview = (services: object, host: object = { hostKey }) => {
  stack.configure({ ...policy, services, hosts: { mx1: { host: "198.51.100.10", ...host } } });
  return stack.preview("--policy-pack", pack);
};

test("refuses a stack that publishes plaintext IMAP", async () => {
  const output = failed(await preview({ imap: "public" }));
  expect(output).toContain("[mandatory]");
  expect(output).toContain("no-public-plaintext-mail");
  expect(output).toContain("imap (tcp/143) is open to everyone; open imaps instead, or name the networks");
});

test("refuses a host whose key is not checked", async () => {
  const output = failed(await preview({ imaps: "public" }, { insecureIgnoreHostKey: true }));
  expect(output).toContain("host-keys-are-checked");
  expect(output).toContain("the host's key is not checked (insecureIgnoreHostKey); write down its hostKey");
});

test("lets a stack through that does neither", async () => {
  const output = succeeded(await preview({ imaps: "public" }));
  expect(output).toMatch(/mail-firewall@v\d/); // the pack that was asked
  expect(output).not.toContain("mandatory");
});
