// Whose a host is: a second stack, a machine that is replaced or gone, and what destroying leaves, by the real engine.
import { documented } from "../documented";
import { operatorKey, startMailHost, type MailHost } from "../sandbox/host";
import { startStack, type Config, type Stack } from "../sandbox/stack";
import { expectedRulesets, failed, live, none, policy, sampledTest, succeeded } from "./example";

jest.setTimeout(300_000);

const ours = "mail-firewall/test/mail-mx1";
const theirs = "mail-firewall/second/mail-mx1";

let host: MailHost, stack: Stack, second: Stack;
const at = (machine: MailHost, options: Config = {}): Config => ({
  ...policy,
  hosts: { mx1: { host: machine.address4, hostKey: machine.hostKey, ...options } },
});
const deploy = async (target: Stack, config: Config) => {
  target.configure(config);
  return succeeded(await target.up("--skip-preview"));
};
const left = async (machine: MailHost) =>
  (await machine.run("ls -A /usr/local/sbin /etc/mail-firewall /run/mail-firewall 2>/dev/null")).stdout;

beforeEach(async () => {
  const options = { privateKey: operatorKey.privateKey };
  [host, stack, second] = await Promise.all([
    startMailHost({ listen: { tcp: [993], udp: [] } }),
    startStack(options),
    startStack({ ...options, name: "second" }),
  ]);
  await deploy(stack, at(host));
  expect(await live(host)).toBe(expectedRulesets(ours));
});
afterEach(async () => {
  await host?.close();
  stack?.remove();
  second?.remove();
});

test("a second stack is refused, and leaves no trace, unless it takes over; then the first removes nothing", async () => {
  second.configure(at(host));
  const output = failed(await second.up("--skip-preview"));
  expect(output).toContain(`the host has the firewall of ${ours}; if ${theirs} is to take it over, set takeOver: true`);
  expect(await live(host)).toBe(expectedRulesets(ours));
  succeeded(await second.destroy());
  expect(await live(host)).toBe(expectedRulesets(ours));
  expect(await left(host)).toContain("mail-firewall");
  succeeded(await stack.preview("--expect-no-changes"));

  await deploy(second, at(host, { takeOver: true }));
  expect(await live(host)).toBe(expectedRulesets(theirs));
  failed(await stack.up("--skip-preview", "--replace", "**mail-mx1-apply"));
  expect(await live(host)).toBe(expectedRulesets(theirs));
  succeeded(await stack.destroy());
  expect(await live(host)).toBe(expectedRulesets(theirs));
  succeeded(await second.destroy());
  expect(await live(host)).toBe(none);
  expect(await left(host)).toBe("/usr/local/sbin:\n");
});

sampledTest("a renamed stack takes its own hosts over", async () => {
  succeeded(await stack.shell(`${documented("README.md", "pulumi stack rename")} renamed`));
  const renamed = (line: string) => stack.shell(`PULUMI_STACK=renamed ${line}`);
  const path = "mail-firewall:hosts.mx1.takeOver";
  succeeded(await renamed("pulumi config set --path mail-firewall:services.imaps public"));
  expect(failed(await renamed("pulumi up --yes --skip-preview"))).toContain("set takeOver: true");
  succeeded(await renamed(`pulumi config set --path ${path} true`));
  succeeded(await renamed("pulumi up --yes --skip-preview"));
  succeeded(await renamed(`pulumi config rm --path ${path}`));
  succeeded(await renamed("pulumi up --yes --skip-preview"));
  expect(await live(host)).toBe(expectedRulesets("mail-firewall/renamed/mail-mx1", { imaps: ["public"] }));
  succeeded(await renamed("pulumi destroy --yes --skip-preview"));
  expect(await live(host)).toBe(none);
});

sampledTest(
  "one machine under two names: warned of, refused at the next change, and never undone by the name that goes",
  async () => {
    const [mx1, mx2] = [host.address4, host.address6].map((address) => ({ host: address, hostKey: host.hostKey }));
    const both = { ...policy, hosts: { mx1, mx2 } };
    expect(await deploy(stack, both)).toContain("mail-mx2 has the same host key as mail-mx1");
    const live2 = expectedRulesets("mail-firewall/test/mail-mx2");
    expect(await live(host)).toBe(live2);
    stack.configure({ ...both, services: { ...policy.services, imaps: "public" } });
    expect(failed(await stack.up("--skip-preview"))).toContain("this machine is both");
    expect(await live(host)).toBe(live2);

    await deploy(stack, { ...policy, hosts: { mx1 } });
    expect(await live(host)).toBe(live2);
    await deploy(stack, { ...policy, services: { ...policy.services, imaps: "public" }, hosts: { mx1 } });
    expect(await live(host)).toBe(expectedRulesets(ours, { imaps: ["public"] }));
    await deploy(stack, { ...policy, hosts: { "new-name": mx1 } });
    expect(await live(host)).toBe(expectedRulesets("mail-firewall/test/mail-new-name"));
    succeeded(await stack.destroy());
    expect(await live(host)).toBe(none);
  },
);

sampledTest(
  "another machine under the same name: it gets the rules; the old one keeps them, and destroy does not look for it",
  async () => {
    const other = await startMailHost({ listen: { tcp: [993], udp: [] } });
    try {
      await deploy(stack, at(other));
      expect(await live(other)).toBe(expectedRulesets(ours));
      expect(await live(host)).toBe(expectedRulesets(ours));
      await host.close();
      succeeded(await stack.destroy());
      expect(await live(other)).toBe(none);
    } finally {
      await other.close();
    }
  },
);

sampledTest("a machine that was installed anew has another host key: with it, it gets the rules", async () => {
  const anew = await startMailHost({ listen: { tcp: [993], udp: [] } });
  try {
    // The same address would need the old machine to be gone; what tells the two apart is the key.
    stack.configure(at(host, { hostKey: anew.hostKey }));
    expect(failed(await stack.up("--skip-preview"))).toMatch(/host key mismatch|knownhosts/);
    await deploy(stack, at(anew));
    expect(await live(anew)).toBe(expectedRulesets(ours));
  } finally {
    await anew.close();
  }
});

test("onDestroy: keep leaves the rules, across a reboot too", async () => {
  await deploy(stack, at(host, { onDestroy: "keep" }));
  succeeded(await stack.destroy());
  expect(await live(host)).toBe(expectedRulesets(ours));
  expect(await host.run(documented("README.md", "mail-firewall restore"))).toMatchObject({ code: 0 });
  expect(await host.run(documented("README.md", "mail-firewall remove"))).toMatchObject({
    code: 0,
    stdout: "removed\n",
  });
  expect(await live(host)).toBe(none);
});

test("a host that is gone is abandoned with an option, before it goes or after, and nobody dials it", async () => {
  await host.close();
  await deploy(stack, at(host, { abandon: true }));
  succeeded(await stack.destroy());
});

test("a host that is gone: destroy fails, and the documented command takes it out of the state", async () => {
  await host.close();
  failed(await stack.destroy());
  const { deployment } = await stack.export();
  const { urn } = deployment.resources!.find(({ type }) => type === "mail-firewall:index:HostFirewall")!;
  const takeOut = documented(
    "README.md",
    "pulumi state delete --target-dependents '<URN of its HostFirewall>'", //
    { "<URN of its HostFirewall>": urn },
  );
  succeeded(await stack.shell(takeOut));
  succeeded(await stack.destroy());
});
