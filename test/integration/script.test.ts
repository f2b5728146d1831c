// The script on the host, on both backends: what it does to a kernel that holds other programs' rules too.
import { readFileSync } from "node:fs";

import fc from "fast-check";

import { readHostOptions, type HostOptions } from "../../components/host/hostOptions";
import { rulesets } from "../../components/host/ruleset";
import { Faults } from "../../components/policy/faults";
import { readPolicy, rules, type PolicyArgs } from "../../components/policy/policy";
import { startMailHost, type MailHost } from "../sandbox/host";
import { hostOptions, policyArgs } from "../unit/arbitraries";
import { expectedRulesets, live } from "./example";

jest.setTimeout(120_000);

const script = readFileSync("components/host/mail-firewall.sh", "utf8");
const textOf = (args: PolicyArgs, options: HostOptions = {}) => {
  const faults = new Faults();
  const policy = readPolicy(args, "", { any: true }, faults);
  return rulesets(rules(policy), owner, readHostOptions(options, "", faults));
};
const owner = "mail-firewall/test/mx1";
const example = expectedRulesets(owner);

describe.each(["nft", "legacy"] as const)("with iptables-%s", (backend) => {
  let host: MailHost;
  beforeEach(async () => {
    host = await startMailHost({ backend });
    await host.run("cat >/usr/local/sbin/mail-firewall; chmod 0744 /usr/local/sbin/mail-firewall", script);
  });
  afterEach(async () => host?.close());

  const apply = (text: string, shell = "") => host.run(`${shell} /usr/local/sbin/mail-firewall apply`, text);
  const remove = () => host.run("/usr/local/sbin/mail-firewall remove");
  const hook = async (chain: string, tool = "iptables") =>
    (await host.run(`${tool} -S ${chain}`)).stdout.split("\n").filter((line) => line.startsWith("-A"));
  const filters = async () => [await host.save(4), await host.save(6)];

  test("a second apply of the same rules changes nothing; remove takes away what apply brought", async () => {
    const before = await filters();
    expect(await apply(example)).toMatchObject({
      code: 0,
      stdout: expect.stringMatching(/^applied [0-9a-f]{12}\n$/) as string,
    });
    const once = await filters();
    expect(await apply(example)).toMatchObject({ code: 0 });
    expect(await filters()).toEqual(once);
    expect(await live(host)).toBe(example);
    expect(await remove()).toEqual({ code: 0, stdout: "removed\n", stderr: "" });
    expect(await filters()).toEqual(before);
    expect(await remove()).toMatchObject({ code: 0 });
  });

  test("policies and options load, and come back from the kernel byte for byte", async () => {
    await fc.assert(
      fc.asyncProperty(policyArgs, hostOptions, async (args, options) => {
        const text = textOf(args, options);
        expect(await apply(text)).toMatchObject({ code: 0, stderr: "" });
        expect(await live(host)).toBe(text);
      }),
      { numRuns: process.env.MAILFW_ALL === "1" ? 200 : 25 },
    );
  });

  test.each<[string, string[], number]>([
    ["an empty chain", [], 0],
    ["jumps of other programs: behind them", ["-j f2b-sshd", "-j f2b-postfix"], 2],
    ["a jump with conditions is a jump", ["-p tcp -m multiport --dports 22,25 -j f2b-sshd"], 1],
    ["a rule without a target does not decide", ["-p tcp -m tcp --dport 25", "-j f2b-sshd"], 2],
    ["logging does not decide", ['-j LOG --log-prefix "x -j DROP "', "-j f2b-sshd"], 2],
    ["a comment does not decide", ['-m comment --comment "y -j ACCEPT " -j f2b-sshd'], 1],
    ["an ACCEPT decides: before it", ["-j f2b-sshd", "-i lo -j ACCEPT", "-j f2b-postfix"], 1],
    ["a REJECT decides", ["-j REJECT"], 0],
    ["a DROP decides", ["-j f2b-sshd", "-s 192.0.2.1/32 -j DROP"], 1],
    ["a RETURN hands over to the chain's policy: it decides", ["-j RETURN"], 0],
    ["a goto does not come back: it decides", ["-g f2b-sshd", "-j f2b-postfix"], 0],
    ["a queue decides", ["-p tcp -j NFQUEUE --queue-num 1"], 0],
  ])("the jump's place: %s", async (_, others, place) => {
    await host.run("iptables -N f2b-sshd; iptables -N f2b-postfix");
    for (const rule of others) expect(await host.run(`iptables -A INPUT ${rule}`)).toMatchObject({ code: 0 });
    const before = await hook("INPUT");
    expect(before).toHaveLength(others.length);
    expect(await apply(example)).toMatchObject({ code: 0 });
    const expected = [...before.slice(0, place), "-A INPUT -j MAILFW-IN", ...before.slice(place)];
    expect(await hook("INPUT")).toEqual(expected);
    // It goes back there when it was doubled, or moved to either end.
    const jump = "INPUT -j MAILFW-IN";
    for (const change of [`-A ${jump}`, `-D ${jump}; iptables -A ${jump}`, `-D ${jump}; iptables -I ${jump}`]) {
      expect(await host.run(`iptables ${change}`)).toMatchObject({ code: 0 });
      expect(await apply(example)).toMatchObject({ code: 0 });
      expect(await hook("INPUT")).toEqual(expected);
    }
    expect(await hook("OUTPUT")).toEqual(["-A OUTPUT -j MAILFW-OUT"]);
    expect(await remove()).toMatchObject({ code: 0 });
    expect(await hook("INPUT")).toEqual(before);
  });

  test.each<[string, string, string]>([
    ["nothing", "", "the IPv4 rules arrived incomplete"],
    ["only IPv4", example.slice(0, example.indexOf("# IPv6")), "the IPv6 rules arrived incomplete"],
    ["half of IPv6", example.slice(0, -40), "the IPv6 rules arrived incomplete"],
    [
      "IPv4 rules that the kernel refuses",
      example.replace("-A MAILFW-IN -j DROP", "-A MAILFW-IN -j NOSUCH"),
      "the kernel refused the IPv4 rules",
    ],
    [
      "rules that would hide sshd",
      example.replaceAll("port 22 ", "port 2222 "),
      "nothing listens on the ports that the rules keep open for SSH",
    ],
  ])("%s: an error, and nothing is changed", async (_, text, problem) => {
    for (const start of [undefined, textOf({ ssh: ["public"] })]) {
      if (start) expect(await apply(start)).toMatchObject({ code: 0 });
      const before = await filters();
      const run = await apply(text);
      expect(run).toMatchObject({
        code: 1,
        stdout: "",
        stderr: expect.stringContaining(`mail-firewall: ${problem}`) as string,
      });
      expect(run.stderr).toContain("nothing was changed");
      expect(await filters()).toEqual(before);
    }
    expect((await host.run("ls -A /tmp")).stdout).toBe("");
  });

  test("IPv6 rules that the kernel refuses: the IPv4 rules go back, on a fresh host and on one with rules", async () => {
    const broken = example
      .replace("--icmpv6-type 128 -j ACCEPT", "--icmpv6-type 128 -j NOSUCH")
      .replaceAll("dport 465", "dport 466");
    for (const start of [undefined, textOf({ ssh: ["public"] })]) {
      if (start) expect(await apply(start)).toMatchObject({ code: 0 });
      const before = await filters();
      expect(await apply(broken)).toMatchObject({
        code: 1,
        stderr: expect.stringContaining("the kernel refused the IPv6 rules; the IPv4 rules were put back") as string,
      });
      expect(await filters()).toEqual(before);
    }
  });

  test("rules that come back otherwise than they were sent: both families go back", async () => {
    const before = await filters();
    const run = await apply(example.replace("--dport 465", "--dport urd"));
    expect(run).toMatchObject({
      code: 1,
      stderr: expect.stringContaining("the kernel holds other rules than were sent") as string,
    });
    expect(run.stderr).toContain("-A MAILFW-IN -p tcp -m tcp --dport 465");
    expect(await filters()).toEqual(before);
  });

  test("remove --owned leaves another owner's rules alone, and uninstall leaves the script of rules that are live", async () => {
    const theirs = expectedRulesets("mail-firewall/prod/other");
    expect(await apply(theirs)).toMatchObject({ code: 0 });
    const run = (verb: string, text = "") => host.run(`/usr/local/sbin/mail-firewall ${verb}`, text);
    expect(await run("remove --owned", example)).toMatchObject({
      code: 0,
      stdout: "kept: the owner is now mail-firewall/prod/other\n",
    });
    expect(await run("uninstall")).toMatchObject({ code: 0, stdout: "kept: the rules are live\n" });
    expect(await live(host)).toBe(theirs);
    expect(await run("remove --owned", theirs)).toMatchObject({ code: 0, stdout: "removed\n" });
    expect(await run("remove --owned", example)).toMatchObject({ code: 0, stdout: "removed\n" });
    expect(await run("uninstall")).toMatchObject({ code: 0, stdout: "uninstalled\n" });
    expect((await host.run("ls /usr/local/sbin")).stdout).toBe("");
  });

  test("a chain of ours that the new rules do not have goes, and comes back if they are refused", async () => {
    const older = example.replaceAll(":MAILFW-OUT - [0:0]", ":MAILFW-OLD - [0:0]\n:MAILFW-OUT - [0:0]");
    expect(await apply(older)).toMatchObject({ code: 0 });
    expect(await apply(example.replace("--icmpv6-type 128 -j ACCEPT", "--icmpv6-type 128 -j NOSUCH"))).toMatchObject({
      code: 1,
    });
    expect(await live(host)).toBe(older);
    expect(await apply(example)).toMatchObject({ code: 0 });
    expect(await live(host)).toBe(example);
  });

  test("another chain's jump into ours: remove says so, and leaves all as it is", async () => {
    expect(await apply(example)).toMatchObject({ code: 0 });
    await host.run("iptables -A FORWARD -j MAILFW-IN");
    const before = await filters();
    const { code, stderr } = await remove();
    expect(code).toBe(1);
    expect(stderr).toContain("the IPv4 rules could not be removed; does a rule of another chain still jump to ours?");
    expect(await filters()).toEqual(before);
  });

  test.each<[string, string, string]>([
    ["the rules of a hook cannot be read", "iptables -S", "the IPv4 rules of INPUT cannot be read"],
    ["no rule can be read", "ip6tables-save", "the IPv6 rules cannot be read"],
    ["sha256sum is missing", "sha256sum", "sha256sum is missing"],
    ["the temporary directory is full", "mktemp", ""],
  ])("%s: an error, and nothing is changed", async (_, broken, problem) => {
    expect(await apply(textOf({ ssh: ["public"] }))).toMatchObject({ code: 0 });
    const before = await filters();
    const [program, argument] = broken.split(" ");
    const { stdout: path } = await host.run(`command -v ${program}`);
    if (program === "sha256sum") await host.run(`rm ${path}`);
    else if (program === "mktemp")
      await host.run("mount -t tmpfs -o size=4k small /tmp && head -c 4096 /dev/zero >/tmp/full");
    else {
      // Everything else that it is asked for, it does.
      const match = argument ? `case " $* " in *" ${argument} "*) exit 4 ;; esac` : "exit 4";
      const fake = `#!/bin/sh\n${match}\nexec "$(readlink -f /etc/alternatives/${program})" "$@"\n`;
      await host.run(`cat >/tmp/fake; chmod +x /tmp/fake; mv /tmp/fake ${path}`, fake);
    }
    const run = await apply(example);
    expect(run).toMatchObject({ code: 1, stdout: "" });
    expect(run.stderr).toContain(problem);
    if (argument) await host.run(`ln -sf /etc/alternatives/${program} ${path}`);
    if (broken === "ip6tables-save") await host.run(`ln -sf /etc/alternatives/${program} ${path}`);
    expect(await filters()).toEqual(before);
  });

  test.each(["dash", "bash --posix", "busybox sh"])("runs under %s", async (shell) => {
    expect(await apply(example, shell)).toMatchObject({ code: 0, stderr: "" });
    expect(await live(host)).toBe(example);
  });

  test("only root may run it; a missing program and an unknown verb are named", async () => {
    const asAdmin = await host.run("su admin -s /bin/sh -c 'sh /usr/local/sbin/mail-firewall apply' </dev/null");
    expect(asAdmin.code).not.toBe(0);
    expect(await host.run("/usr/local/sbin/mail-firewall frobnicate")).toEqual({
      code: 64,
      stdout: "",
      stderr: "usage: mail-firewall apply <RULESETS | remove [--owned <RULESETS] | uninstall\n",
    });
    await host.run("rm /etc/alternatives/ip6tables-restore");
    expect(await apply(example)).toEqual({
      code: 1,
      stdout: "",
      stderr: "mail-firewall: ip6tables-restore is missing; nothing was changed\n",
    });
    expect(await live(host)).not.toContain("MAILFW");
  });
});
