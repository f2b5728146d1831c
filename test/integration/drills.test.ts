// Whatever dies at whatever moment: each table of each family is always wholly the old rules or wholly the new ones (the kernel
// takes one table at a time), and the host ends with the confirmed ones in all of them, and with SSH. All moments with MAILFW_ALL=1, otherwise a sample.
import { spawn } from "node:child_process";
import { once } from "node:events";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";

import { execute, operatorKey, startMailHost, type MailHost } from "../sandbox/host";
import { alikeTest, command, expectedRulesets, install, live, none } from "./example";

jest.setTimeout(3_600_000);

const all = process.env.MAILFW_ALL === "1";
const owner = "mail-firewall/test/mx1";
const older = expectedRulesets(owner);
const newer = expectedRulesets(owner, { imaps: ["public"] });
const seconds = all ? 4 : 3; // with all moments, and among other tests, the machine is at its limits

// bash runs a trap before each simple command of the script itself. Each of these moments is a step.
const countSteps = `
step=0
set -T
trap '[ "$BASHPID" != $$ ] || { step=$((step + 1)); [ "$step" != "$KILL_AT" ] || kill -9 $$; }' DEBUG
trap 'echo "$step" >/tmp/steps' EXIT
`;

/** The rules of each table of each family, none as an empty text. */
const tablesOf = (text: string) =>
  text
    .split("# IPv6\n")
    .flatMap((family) => ["mangle", "filter"].map((table) => family.match(`\\*${table}\n[^*]*COMMIT\n`)?.[0] ?? ""));

/** Each table by itself is wholly one of these. */
function expectWhole(text: string, ...wholes: string[]) {
  tablesOf(text).forEach((table, i) => expect(wholes.map((whole) => tablesOf(whole)[i])).toContain(table));
}

async function startDrillHost(backend: "nft" | "legacy"): Promise<MailHost> {
  const host = await startMailHost({ backend, listen: { tcp: [993], udp: [] } });
  await install(host);
  await host.run("cat >/tmp/count-steps", countSteps);
  await host.run("echo 'none=1' >/etc/rc.local; chmod +x /etc/rc.local"); // so that the boot has a place
  return host;
}

const run = (host: MailHost, verb: string, stdin = "") => host.run(`${command} ${verb}`, stdin);
const killed = (host: MailHost, at: number, verb: string, stdin: string) =>
  host.run(`BASH_ENV=/tmp/count-steps KILL_AT=${at} bash ${command} ${verb}`, stdin);

async function deploy(host: MailHost, text: string) {
  const applied = await run(host, "apply", text);
  expect(applied).toMatchObject({ code: 0 });
  expect(await run(host, "confirm", applied.stdout)).toMatchObject({ code: 0, stdout: "confirmed\n" });
  expect(await live(host)).toBe(text);
}

/** Until nothing is pending and nothing works any more: the window, and what its end takes. */
async function settled(host: MailHost) {
  const end = Date.now() + (seconds + 20) * 1000;
  for (;;) {
    const { code } = await host.run("[ ! -e /run/mail-firewall/pending ] && flock -n /run/mail-firewall/lock true");
    if (code === 0) return;
    if (Date.now() > end) throw new Error(`${host.name} is not settled after the window`);
    await sleep(100);
  }
}

/** As a reboot does to the kernel and /run. */
async function reboot(host: MailHost) {
  for (const tool of ["iptables", "ip6tables"]) {
    await host.run(`printf '*mangle\\nCOMMIT\\n*filter\\nCOMMIT\\n' | ${tool}-restore`);
  }
  // In brackets, so that the pattern does not find the shell that looks for it.
  await host.run(
    "pkill -9 -f '[m]ail-firewall rollback'; flock /run/mail-firewall/lock true; rm -rf /run/mail-firewall",
  );
  expect((await host.run("ls /run")).stdout).not.toContain("mail-firewall");
  expect(await live(host)).toBe(none);
}

async function expectSsh(host: MailHost) {
  const { code, stderr } = await execute("ssh", [...sshOptions(host), "true"]);
  expect({ code, stderr }).toEqual({ code: 0, stderr: "" });
}

const sshOptions = (host: MailHost) => [
  ...["-i", operatorKey.file, "-p", `${host.sshPort}`, "-o", "BatchMode=yes", "-o", "ConnectTimeout=3"],
  ...["-o", "UserKnownHostsFile=/dev/null", "-o", "StrictHostKeyChecking=no", "-o", "LogLevel=ERROR"],
  `root@${host.address4}`,
];

/** Runs a drill for each of its moments, on several hosts at once: most of a drill is waiting for the window to end. */
async function forEachMoment(
  hosts: MailHost[],
  moments: number[],
  drill: (host: MailHost, moment: number) => Promise<void>,
) {
  const left = [...moments];
  const ends = await Promise.allSettled(
    hosts.map(async (host) => {
      for (let moment = left.shift(); moment !== undefined; moment = left.shift()) {
        try {
          await drill(host, moment);
        } catch (error) {
          left.length = 0;
          throw new Error(`at ${moment} of ${moments.length}: ${(error as Error).message}`, { cause: error });
        }
      }
    }),
  );
  for (const end of ends) if (end.status === "rejected") throw end.reason;
}

const upTo = (last: number, sample: number) =>
  Array.from({ length: last }, (_, i) => i + 1).filter((moment) => all || moment % Math.ceil(last / sample) === 0);

const filterOnly = readFileSync(join(__dirname, "filterOnly.rules"), "utf8");

/** Leaves the host as a version did whose rules all stood in `filter`: confirmed, with its jumps where it had them. */
async function deployFilterOnly(host: MailHost) {
  expect(await run(host, "remove")).toMatchObject({ code: 0 });
  const jumps = ["-A INPUT -j MAILFW-IN", "-A OUTPUT -j MAILFW-OUT", "-A DOCKER-USER -j MAILFW-FWD", "COMMIT\n"];
  const token = "0123456789ab-01234567 60";
  await host.run(`mkdir -p /etc/mail-firewall; echo ${token} >/etc/mail-firewall/token`);
  for (const [family, tool] of [
    [4, "iptables"],
    [6, "ip6tables"],
  ] as const) {
    const text = filterOnly.split(/^# IPv[46]\n/m)[family === 4 ? 1 : 2]!;
    await host.run(`cat >/etc/mail-firewall/rules.v${family}`, text);
    const loaded = text.replace("*filter\n", "*filter\n:DOCKER-USER - [0:0]\n").replace("COMMIT\n", jumps.join("\n"));
    expect(await host.run(`${tool}-restore --noflush`, loaded)).toMatchObject({ code: 0 });
  }
  await host.run("cd /etc/mail-firewall && sha256sum rules.v4 rules.v6 token >SHA256SUMS");
  // A boot loads it from its place.
  await host.run(
    `grep -q mail-firewall /etc/rc.local || sed -i '1i ${command} restore || : # mail-firewall' /etc/rc.local`,
  );
}

/** All that both families have in `filter`, which is where that version had everything. */
async function filterOf(host: MailHost) {
  const texts = await Promise.all([host.save(4), host.save(6)]);
  return texts.map((text) => /^\*filter\n[^]*?^COMMIT\n/m.exec(text)![0].replace(/\[\d+:\d+\]/g, "")).join("");
}

describe.each(["nft", "legacy"] as const)("with iptables-%s", (backend) => {
  const alike = alikeTest(backend);
  const sample = backend === "nft" ? 4 : 2;
  let hosts: MailHost[];
  beforeAll(async () => {
    hosts = await Promise.all(Array.from({ length: 4 }, () => startDrillHost(backend)));
  });
  // A drill that failed leaves its host anywhere.
  beforeEach(async () => {
    for (const host of hosts) await deploy(host, older);
  });
  afterAll(async () => {
    await Promise.all((hosts ?? []).map((host) => host.close()));
  });

  const stepsOf = async (verb: string, stdin: string) => {
    expect(await killed(hosts[0]!, 0, verb, stdin)).toMatchObject({ code: 0 });
    const steps = Number((await hosts[0]!.run("cat /tmp/steps")).stdout);
    expect(steps).toBeGreaterThan(20);
    return steps;
  };

  alike(
    "apply, killed at every step: back to the old rules within the window, and the next apply succeeds",
    async () => {
      const steps = await stepsOf(`apply --rollback ${seconds}`, newer);
      await settled(hosts[0]!);
      await forEachMoment(hosts, upTo(steps, sample), async (host, at) => {
        expect(await killed(host, at, `apply --rollback ${seconds}`, newer)).toMatchObject({ code: 137 });
        expectWhole(await live(host), older, newer);
        await settled(host);
        expect(await live(host)).toBe(older);
        await expectSsh(host);
        await deploy(host, newer);
        await deploy(host, older);
      });
    },
  );

  alike(
    "apply over a version whose rules stood in filter alone, killed at every step: back to exactly that, and the next one moves all",
    async () => {
      await deployFilterOnly(hosts[0]!);
      const steps = await stepsOf(`apply --rollback ${seconds}`, newer);
      await settled(hosts[0]!);
      await forEachMoment(hosts, upTo(steps, sample), async (host, at) => {
        await deployFilterOnly(host);
        const before = await filterOf(host);
        expect(before).toContain("-A DOCKER-USER -j MAILFW-FWD");
        expect(await killed(host, at, `apply --rollback ${seconds}`, newer)).toMatchObject({ code: 137 });
        await settled(host);
        expect(await filterOf(host)).toBe(before);
        expect(await live(host)).toBe(filterOnly.replace(/$/, "# end\n"));
        await expectSsh(host);
        await deploy(host, newer);
        expect(await filterOf(host)).not.toMatch(/-A (INPUT -j MAILFW-IN|DOCKER-USER -j MAILFW-FWD)/);
        await reboot(host);
        expect(await run(host, "restore")).toMatchObject({ code: 0 });
        expect(await live(host)).toBe(newer);
        await deploy(host, older);
      });
    },
  );

  alike(
    "confirm, killed at every step: wholly old or wholly new, the same after a reboot, and the next confirms converge",
    async () => {
      const applied = await run(hosts[0]!, `apply --rollback ${seconds}`, newer);
      const steps = await stepsOf("confirm", applied.stdout);
      await deploy(hosts[0]!, older);
      await forEachMoment(hosts, upTo(steps, sample), async (host, at) => {
        const { stdout: token } = await run(host, `apply --rollback ${seconds}`, newer);
        // On a busy machine the window may have ended before it. Then it applies again, in other steps, and may be done by then.
        const ended = await killed(host, at, "confirm", token);
        if (ended.code !== 137) {
          expect(ended).toMatchObject({ code: 0, stdout: expect.stringMatching(/^applied /) as string });
        }
        expectWhole(await live(host), older, newer);
        await settled(host);
        const after = await live(host);
        expect([older, newer]).toContain(after);
        // Once they were written down as confirmed, the rest of the confirm is not lost either.
        if (after === newer) expect((await host.run("ls /etc/mail-firewall")).stdout).not.toContain("candidate");
        await expectSsh(host);
        await reboot(host);
        await run(host, "restore");
        expect(await live(host)).toBe(after);

        // What the next `pulumi up` does: confirm, and reconfirm where that has something to do.
        const confirmed = await run(host, "confirm", token);
        expect(confirmed).toMatchObject({ code: 0, stderr: "" });
        // On a busy machine the short window may end before the second one begins: then it says so, or is killed while it goes back
        // too slowly, and the next one is in time.
        let again = await run(host, "confirm --again", confirmed.stdout);
        for (let tries = 0; again.code !== 0 && tries < 20; tries++) {
          expect(again.stderr).toMatch(/the host went back to the rules before a second time|^Killed$/m);
          again = await run(host, "confirm --again", confirmed.stdout);
        }
        expect(again).toMatchObject({ code: 0, stdout: "confirmed\n" });
        expect(await live(host)).toBe(newer);
        await reboot(host);
        expect(await run(host, "restore")).toMatchObject({ code: 0 });
        expect(await live(host)).toBe(newer);
        await deploy(host, older);
      });
    },
  );

  alike("rollback, killed at every step: the next one goes all the way", async () => {
    const { stdout } = await run(hosts[0]!, "apply --rollback 600", newer);
    const steps = await stepsOf(`rollback ${stdout.replace("applied ", "").trim()}`, "");
    await forEachMoment(hosts, upTo(steps, sample), async (host, at) => {
      const applied = await run(host, "apply --rollback 600", newer);
      const token = applied.stdout.replace("applied ", "").trim();
      expect(await killed(host, at, `rollback ${token}`, "")).toMatchObject({ code: 137 });
      expectWhole(await live(host), older, newer);
      expect(await run(host, `rollback ${token}`)).toMatchObject({ code: 0 });
      expect(await live(host)).toBe(older);
      await settled(host);
    });
  });

  alike("restore at boot, killed at every step: the next one loads both families", async () => {
    await reboot(hosts[0]!);
    const steps = await stepsOf("restore", "");
    await forEachMoment(hosts, upTo(steps, sample), async (host, at) => {
      await reboot(host);
      expect(await killed(host, at, "restore", "")).toMatchObject({ code: 137 });
      expectWhole(await live(host), none, older);
      expect(await run(host, "restore")).toMatchObject({ code: 0 });
      expect(await live(host)).toBe(older);
    });
  });

  alike("an apply whose connection is cut at any moment", async () => {
    const started = Date.now();
    await deploy(hosts[0]!, newer);
    const whole = Date.now() - started;
    await deploy(hosts[0]!, older);
    await forEachMoment(hosts, upTo(all ? 60 : 8, 4), async (host, moment) => {
      const client = spawn("ssh", [...sshOptions(host), command, "apply", "--rollback", `${seconds}`], {
        stdio: "pipe",
      });
      client.stdin.on("error", () => {}).end(newer);
      await Promise.race([sleep((whole * moment) / (all ? 60 : 8)), once(client, "exit")]);
      client.kill("SIGKILL");
      expectWhole(await live(host), older, newer);
      await sleep(50); // what the host has received already may only begin now
      await settled(host);
      expect(await live(host)).toBe(older);
      await expectSsh(host);
    });
  });

  alike("a network that goes away during the window", async () => {
    const [host] = hosts as [MailHost];
    const link = (state: string) => execute("ip", ["link", "set", `port${host.pid}`, state]);
    expect(await run(host, `apply --rollback ${seconds}`, newer)).toMatchObject({ code: 0 });
    await link("down");
    await settled(host);
    await link("up");
    expect(await live(host)).toBe(older);
    await expectSsh(host);
  });

  alike("remove, killed at every step: wholly there or wholly gone, and the next one takes all away", async () => {
    const pristine = await hosts[0]!.run("cat /etc/rc.local | grep -v mail-firewall");
    const steps = await stepsOf("remove", "");
    await deploy(hosts[0]!, older);
    await forEachMoment(hosts, upTo(steps, sample), async (host, at) => {
      expect(await killed(host, at, "remove", "")).toMatchObject({ code: 137 });
      expectWhole(await live(host), older, none);
      expect(await run(host, "remove")).toMatchObject({ code: 0 });
      expect(await live(host)).toBe(none);
      expect((await host.run("cat /etc/rc.local; ls -A /etc/mail-firewall")).stdout).toBe(pristine.stdout);
      await deploy(host, older);
    });
  });
});
