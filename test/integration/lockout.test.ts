// Changes that would lock the operator out, and deployments that end in the middle, by the real engine: each leaves a host that
// can be reached and has wholly the confirmed rules, and the next `pulumi up` converges.
import { setTimeout as sleep } from "node:timers/promises";

import { documented } from "../documented";
import { operatorKey, startMailHost, type MailHost } from "../sandbox/host";
import { startStack, type Config, type Stack, type State } from "../sandbox/stack";
import { expectedRulesets, failed, live, policy, sampledTest, succeeded } from "./example";

jest.setTimeout(300_000);

const owner = "mail-firewall/test/mail-mx1";
const seconds = 10;

const all = process.env.MAILFW_ALL === "1";

// The same for both, but for the loading, of which script.test.ts and drills.test.ts take care.
const backends = all ? (["nft", "legacy"] as const) : (["nft"] as const);

/** A policy, and what a host then holds. */
interface Side {
  readonly config: Config;
  readonly text: string;
}

// Each drill begins with one of two policies, confirmed and recorded, and wants the other.
describe.each(backends)("with iptables-%s", (backend) => {
  let host: MailHost, stack: Stack, was: Side, will: Side;
  const lockingOut = ({ config }: Side) => ({ ...config, ssh: ["10.99.0.0/16", "fd99::/48"] });

  beforeAll(async () => {
    [host, stack] = await Promise.all([
      startMailHost({ backend, listen: { tcp: [993], udp: [] } }),
      startStack({ privateKey: operatorKey.privateKey }),
    ]);
    const config = {
      ...policy,
      hosts: { mx1: { host: host.address4, hostKey: host.hostKey } },
      host: { rollbackSeconds: seconds },
    };
    was = { config, text: expectedRulesets(owner) };
    will = {
      config: { ...config, services: { ...policy.services, imaps: "public" } },
      text: expectedRulesets(owner, { imaps: ["public"] }),
    };
    stack.configure(was.config);
    succeeded(await stack.up("--skip-preview"));
  });
  afterAll(async () => {
    await host?.close();
    stack?.remove();
  });
  beforeEach(async () => expect(await live(host)).toBe(was.text));

  /** No new connection gets an answer, as in a network that is gone; what the script still has to say arrives. */
  const network = (state: "gone" | "back") =>
    host.run(`iptables -t raw -${state === "gone" ? "A" : "D"} PREROUTING -p tcp --syn -j DROP`);
  const isPending = async () => (await host.run("cat /run/mail-firewall/pending")).code === 0;
  async function until(what: () => Promise<boolean>, limit: number) {
    for (const end = Date.now() + limit * 1000; !(await what()); await sleep(50)) {
      if (Date.now() > end) throw new Error(`not within ${limit} s`);
    }
  }
  const back = async () => {
    await until(async () => !(await isPending()), seconds + 5);
    expect(await live(host)).toBe(was.text);
  };
  /** One `pulumi up`, and there is nothing left to do. */
  const converges = async (wanted: Side) => {
    stack.configure(wanted.config);
    succeeded(await stack.up("--skip-preview"));
    expect(await live(host)).toBe(wanted.text);
    expect(await isPending()).toBe(false);
    succeeded(await stack.preview("--expect-no-changes"));
    if (wanted === will) [was, will] = [will, was];
  };
  const refused = async () => {
    stack.configure(lockingOut(will));
    expect(failed(await stack.up("--skip-preview"))).toContain(
      'the rules would shut you out: you come from 203.0.113.1, and SSH is open to 10.99.0.0/16. Add "203.0.113.1/32", or your network, to mail-firewall:ssh',
    );
    expect(await isPending()).toBe(false);
    expect(await live(host)).toBe(was.text);
  };

  test("SSH sources without the operator: refused at once, with the line to write; a corrected config deploys", async () => {
    await refused();
    await converges(will);
  });

  sampledTest(
    "SSH sources without the operator, and then the config before: it deploys, and nothing is left to do",
    async () => {
      await refused();
      await converges(was);
    },
  );

  test("a network that is gone when it comes to the confirm: the next up alone converges", async () => {
    stack.configure(will.config);
    const up = stack.start("up", "--yes", "--skip-preview", "--suppress-progress");
    await until(isPending, 60);
    await network("gone");
    failed(await up.ended);
    await back();
    await network("back");
    await converges(will);
  });

  test("kill -9 of Pulumi between apply and confirm: the next up alone converges, within the window and after it", async () => {
    for (const wait of all ? [false, true] : [true]) {
      stack.configure(will.config);
      const up = stack.start("up", "--yes", "--skip-preview", "--suppress-progress");
      await until(isPending, 60);
      up.kill();
      await up.ended;
      if (wait) await until(async () => !(await isPending()), seconds + 5);
      succeeded(await stack.shell(documented("README.md", "pulumi cancel")));
      await converges(will);
    }
  });

  test("the host has confirmed, and Pulumi has not recorded it: the config before deploys again", async () => {
    const before = await stack.export();
    stack.configure(will.config);
    succeeded(await stack.up("--skip-preview"));
    const state = await stack.export();
    const old = (urn: string) => before.deployment.resources!.find((resource) => resource.urn === urn);
    const unrecorded: State = {
      ...state,
      deployment: {
        ...state.deployment,
        resources: state.deployment.resources!.map((resource) =>
          resource.urn.endsWith("confirm") ? old(resource.urn)! : resource,
        ),
      },
    };
    await stack.import(unrecorded);
    await converges(was);
  });

  test("fail2ban bans the operator in the window: the rules before come back, and after the ban the next up converges", async () => {
    // As fail2ban's action iptables-multiport does, and with its unban after the ban's time.
    for (const tool of ["iptables", "ip6tables"]) {
      await host.run(`${tool} -N f2b-sshd; ${tool} -A f2b-sshd -j RETURN`);
      await host.run(`${tool} -I INPUT -p tcp -m multiport --dports 22 -j f2b-sshd`);
    }
    stack.configure(will.config);
    const up = stack.start("up", "--yes", "--skip-preview", "--suppress-progress");
    await until(isPending, 60);
    await host.run("iptables -I f2b-sshd -s 203.0.113.1 -j REJECT");
    failed(await up.ended);
    await back();
    expect((await host.run("iptables -S f2b-sshd")).stdout).toContain("-s 203.0.113.1/32 -j REJECT");
    await host.run("iptables -D f2b-sshd -s 203.0.113.1 -j REJECT");
    await converges(will);
  });
});
