// Several hosts: they change one after the other, so that a change that goes wrong stops at the first; at once, if one says so.
import { operatorKey, startMailHost, type MailHost } from "../sandbox/host";
import { startStack, type Config, type Stack } from "../sandbox/stack";
import { expectedRulesets, failed, live, none, policy, succeeded } from "./example";

jest.setTimeout(120_000);

let mx1: MailHost, mx2: MailHost, stack: Stack;

beforeAll(async () => {
  [mx1, mx2, stack] = await Promise.all([
    startMailHost(),
    startMailHost(),
    startStack({ privateKey: operatorKey.privateKey }),
  ]);
});
afterAll(async () => {
  await Promise.all([mx1?.close(), mx2?.close()]);
  stack?.remove();
});

const rulesOf = (name: string, services: Record<string, string[]> = {}) =>
  expectedRulesets(`mail-firewall/test/mail-${name}`, services);
const at = (host: MailHost) => ({ host: host.address4, hostKey: host.hostKey });
const config = (more: Config = {}): Config => ({ ...policy, hosts: { mx2: at(mx2), mx1: at(mx1) }, ...more });
const newer = { imaps: ["public"] };

/** Breaks what applies rules on a host, and mends it. */
const broken = "/usr/sbin/ip6tables-restore";
const breakIt = (host: MailHost) => host.run(`mount --bind /bin/false $(readlink -f ${broken})`);
const mend = (host: MailHost) => host.run(`umount $(readlink -f ${broken})`);

test("a change that fails on the first host reaches no other, and goes on from there when that is mended", async () => {
  stack.configure(config());
  succeeded(await stack.up("--skip-preview"));
  expect([await live(mx1), await live(mx2)]).toEqual([rulesOf("mx1"), rulesOf("mx2")]);

  stack.configure(config({ services: { ...policy.services, imaps: "public" } }));
  expect(await breakIt(mx1)).toMatchObject({ code: 0 });
  const connections = mx2.connections();
  failed(await stack.up("--skip-preview"));
  expect(await mend(mx1)).toMatchObject({ code: 0 });
  expect(mx2.connections()).toBe(connections);
  expect([await live(mx1), await live(mx2)]).toEqual([rulesOf("mx1"), rulesOf("mx2")]);

  succeeded(await stack.up("--skip-preview"));
  expect([await live(mx1), await live(mx2)]).toEqual([rulesOf("mx1", newer), rulesOf("mx2", newer)]);
});

test("the order of the hosts in the config means nothing; the state knows which waits for which", async () => {
  stack.configure(config({ services: { ...policy.services, imaps: "public" }, hosts: { mx1: at(mx1), mx2: at(mx2) } }));
  succeeded(await stack.up("--skip-preview", "--expect-no-changes"));
  const { deployment } = await stack.export();
  const dependencies = (name: string) =>
    deployment
      .resources!.find(({ urn }) => urn.endsWith(`HostFirewall::mail-${name}`))!
      .dependencies?.map((urn) => urn.split("::").at(-1));
  expect(dependencies("mx1") ?? []).toEqual([]);
  expect(dependencies("mx2")?.sort()).toEqual(
    ["install", "apply", "confirm", "reconfirm"].map((command) => `mail-mx1-${command}`).sort(),
  );
});

test("hostsAtOnce: what fails on one host does not keep the others", async () => {
  stack.configure(config({ hostsAtOnce: true }));
  expect(await breakIt(mx1)).toMatchObject({ code: 0 });
  failed(await stack.up("--skip-preview", "--continue-on-error"));
  expect(await mend(mx1)).toMatchObject({ code: 0 });
  expect([await live(mx1), await live(mx2)]).toEqual([rulesOf("mx1", newer), rulesOf("mx2")]);
  succeeded(await stack.up("--skip-preview"));
  expect(await live(mx1)).toBe(rulesOf("mx1"));
  succeeded(await stack.destroy());
  expect([await live(mx1), await live(mx2)]).toEqual([none, none]);
});
