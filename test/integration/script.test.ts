// The script on the host, on both backends: what it does to a kernel that holds other programs' rules too.
import { createHash } from "node:crypto";

import fc from "fast-check";

import { readHostOptions, type HostOptions } from "../../components/host/hostOptions";
import { rulesets } from "../../components/host/ruleset";
import { Faults } from "../../components/policy/faults";
import { readPolicy, rules, type PolicyArgs } from "../../components/policy/policy";
import { documented } from "../documented";
import { startMailHost, type MailHost } from "../sandbox/host";
import { hostOptions, policyArgs } from "../unit/arbitraries";
import { alikeTest, command, expectedRulesets, install, live, none, sampled } from "./example";

const all = process.env.MAILFW_ALL === "1";
jest.setTimeout(all ? 1_200_000 : 120_000);

const textOf = (args: PolicyArgs, options: HostOptions = {}) => {
  const faults = new Faults();
  const policy = readPolicy(args, "", { any: true }, faults);
  return rulesets(rules(policy), owner, readHostOptions(options, "", faults));
};
const applyCommand = documented("docs/way-of-a-rule.md", "mail-firewall apply", { "mail-firewall": command });
const statusCommand = documented("README.md", "mail-firewall status");
const owner = "mail-firewall/test/mx1";
const example = expectedRulesets(owner);

describe.each(["nft", "legacy"] as const)("with iptables-%s", (backend) => {
  const alike = alikeTest(backend);
  let host: MailHost;
  beforeEach(async () => {
    host = await startMailHost({ backend });
    await install(host);
  });
  afterEach(async () => host?.close());

  const apply = (text: string, shell = "") => host.run(`${shell} ${applyCommand}`, text);
  const confirm = (token: string) => host.run(`${command} confirm`, token);
  const deploy = async (text: string) => {
    const applied = await apply(text);
    expect(applied).toMatchObject({ code: 0 });
    expect(await confirm(applied.stdout)).toMatchObject({ code: 0, stdout: "confirmed\n" });
  };
  const remove = () => host.run(`${command} remove`);
  const hook = async (chain: string, tool = "iptables") =>
    (await host.run(`${tool} -S ${chain}`)).stdout.split("\n").filter((line) => line.startsWith("-A"));
  const filters = async () => [await host.save(4), await host.save(6)];

  test("a second apply of the same rules changes nothing; remove takes away what apply brought", async () => {
    const before = await filters();
    expect(await apply(example)).toMatchObject({
      code: 0,
      stdout: expect.stringMatching(/^applied [0-9a-f]{12}-[0-9a-f]{8}\n$/) as string,
    });
    const once = await filters();
    expect(await apply(example)).toMatchObject({ code: 0 });
    expect(await filters()).toEqual(once);
    expect(await live(host)).toBe(example);
    expect(await remove()).toEqual({ code: 0, stdout: "removed\n", stderr: "" });
    expect(await filters()).toEqual(before);
    expect(await remove()).toMatchObject({ code: 0 });
  });

  test("rules that were taken away come back with restore, or with the next look; a pause keeps them away", async () => {
    await deploy(example);
    const pause = documented("README.md", "mail-firewall pause 30", { "mail-firewall": command });
    expect(await host.run(pause)).toMatchObject({ code: 0 });
    expect(await live(host)).toBe(none);
    const look = documented("README.md", "mail-firewall watch --once", { "mail-firewall": command });
    expect(await host.run(look)).toEqual({ code: 0, stdout: "", stderr: "" });
    expect(await live(host)).toBe(none);
    expect(await host.run(`${command} restore`)).toMatchObject({ code: 0 });
    expect(await live(host)).toBe(example);

    const losses = ["-F", "-t mangle -F", "-D INPUT -j MAILFW-ACCEPT", "-t mangle -D FORWARD -j MAILFW-FWD"];
    for (const loss of losses.flatMap((one) => [`iptables ${one}`, `ip6tables ${one}`])) {
      expect(await host.run(loss)).toMatchObject({ code: 0 });
      expect((await host.run(`${command} watch --once`)).stdout).toMatch(/^IPv[46]: somebody has changed our rules/);
      expect(await live(host)).toBe(example);
      expect(await host.run(`${command} watch --once`)).toEqual({ code: 0, stdout: "", stderr: "" });
    }
    for (const minutes of ["", "0", "-1", "1441", "soon"]) {
      expect(await host.run(`${command} pause ${minutes}`)).toMatchObject({ code: 1, stdout: "" });
    }
    expect(await live(host)).toBe(example);
  });

  test("rules that are confirmed are applied and confirmed again, with a token of their own", async () => {
    await deploy(example);
    const [first, second] = [await apply(example), await apply(example)];
    for (const { stdout } of [first, second]) expect(stdout).toMatch(/^applied [0-9a-f]{12}-[0-9a-f]{8}\n$/);
    expect(second.stdout).not.toBe(first.stdout);
    expect(await confirm(second.stdout)).toMatchObject({ code: 0, stdout: "confirmed\n" });
    // Once more, as when the first was not recorded.
    expect(await confirm(second.stdout)).toMatchObject({ code: 0, stdout: "confirmed\n" });
    expect(await live(host)).toBe(example);
  });

  test("policies and options load, and come back from the kernel byte for byte", async () => {
    await fc.assert(
      fc.asyncProperty(policyArgs, hostOptions, async (args, options) => {
        const text = textOf(args, options);
        // It must have what the options name.
        const addresses = options.externalAddress ?? [];
        for (const one of addresses)
          await host.run(`ip ${one.includes(":") ? "-6 " : ""}route add local ${one} dev lo`);
        await host.run(`ip link add ${(options.externalInterface ?? "eth0").replace("+", "0")} type bridge`);
        expect(await apply(text)).toMatchObject({ code: 0, stderr: "" });
        expect(await live(host)).toBe(text);
      }),
      { numRuns: all ? 200 : 15 },
    );
  });

  // A host where no network can be made for a rehearsal, as in some containers.
  const noRehearsal = "rm $(command -v unshare)";
  const spoilt: [string, (text: string) => string, string][] = [
    [
      "IPv4 rules that the kernel refuses",
      (text) => text.replace("-A MAILFW-DROP -j DROP", "-A MAILFW-DROP -j NOSUCH"),
      "the kernel refused the IPv4 rules",
    ],
    [
      "IPv6 rules that the kernel refuses",
      (text) => text.replace("--icmpv6-type 128 -j RETURN", "--icmpv6-type 128 -j NOSUCH"),
      "the kernel refused the IPv6 rules",
    ],
    [
      "rules that come back otherwise than they were sent",
      (text) => text.replace("--ctorigdstport 465", "--ctorigdstport urd"),
      "the kernel holds other IPv4 rules than were sent",
    ],
  ];
  test.each(sampled(backend === "nft" ? 3 : 1, spoilt))(
    "%s: both families go back, to none or to what was confirmed, not to what never was",
    async (_, spoil, problem) => {
      await host.run(noRehearsal);
      const pristine = await filters();
      const run = await apply(spoil(example));
      expect(run.code).toBe(1);
      expect(run.stderr).toContain(
        `mail-firewall: ${problem}\nmail-firewall: the host has no rules of ours, as before\n`,
      );
      expect(await filters()).toEqual(pristine);

      await deploy(textOf({ ssh: ["public"] }));
      const before = await filters();
      expect(await apply(example)).toMatchObject({ code: 0 }); // never confirmed
      const again = await apply(spoil(example.replaceAll("dstport 443", "dstport 8443")));
      expect(again.code).toBe(1);
      expect(again.stderr).toContain(`mail-firewall: ${problem}\nmail-firewall: the rules before are live again\n`);
      expect(await filters()).toEqual(before);
      expect((await host.run("cat /run/mail-firewall/pending")).code).toBe(1);
    },
  );

  // From here on nothing differs between the two but what loads the rules.
  if (backend === "legacy" && !all) return;

  // Where our accept stands among the rules of others in INPUT; null: where it stood before, too.
  const places: [string, string[], number][] = [
    ["an empty chain", [], 0],
    ["behind jumps of other programs", ["-j f2b-sshd", "-j f2b-postfix"], 2],
    ["behind bans", ["-s 192.0.2.1/32 -j DROP", "-m connlimit --connlimit-above 9 -j REJECT", "-i lo -j ACCEPT"], 3],
    ["behind what refuses a closed port", ["-p tcp -m tcp --dport 3306 -j DROP", "-j f2b-sshd"], 2],
    ["before a REJECT of everything", ["-j f2b-sshd", "-j REJECT"], 1],
    ["before a DROP of an open port", ["-p tcp -m multiport --dports 24:25,993 -j DROP", "-j f2b-sshd"], 0],
    ["before a chain that ends with a REJECT", ["-j f2b-sshd", "-j LAST"], 1],
    ["before a goto to one", ["-g LAST", "-j f2b-sshd"], 0],
    ["behind a chain that accepts all open ports", ["-p tcp -j ALL", "-j f2b-sshd", "-j REJECT"], 2],
    ["a comment does not decide", ['-m comment --comment "y -j REJECT " -j f2b-sshd', "-j REJECT"], 1],
    ["nor does a log prefix", ['-j LOG --log-prefix "x -j DROP "', "-j f2b-sshd"], 2],
    [
      "a comment of two lines is one rule",
      ['-m comment --comment "a\n-A INPUT -j ACCEPT" -j f2b-sshd', "-j REJECT"],
      1,
    ],
  ];
  test.each(places.filter((_, i) => all || i % 3 === 0))("the jump's place: %s", async (_, others, place) => {
    const chains = [
      "-N f2b-sshd",
      "-N f2b-postfix",
      "-N LAST",
      "-A LAST -p icmp -j ACCEPT",
      "-A LAST -j REJECT",
      "-N ALL",
    ];
    for (const line of [...chains, "-A ALL -p tcp -m multiport --dports 22,25,143,443,465 -j ACCEPT"])
      await host.run(`iptables ${line}`);
    for (const rule of others) {
      expect(await host.run(`iptables -A INPUT ${rule.replace("\n", "$(printf '\\n.')")}`)).toMatchObject({ code: 0 });
    }
    const before = await hook("INPUT");
    expect(await apply(example)).toMatchObject({ code: 0 });
    const lines = before.join("\n").split(/\n(?=-A INPUT (?!-j ACCEPT"))/);
    expect(lines).toHaveLength(Math.max(others.length, 1));
    const rules = others.length === 0 ? [] : lines;
    const jump = "-A INPUT -j MAILFW-ACCEPT";
    const expected = [...rules.slice(0, place), jump, ...rules.slice(place)].join("\n");
    expect((await hook("INPUT")).join("\n")).toBe(expected);
    // It goes back there when it was doubled, or moved before a ban, or behind who refuses.
    for (const change of [
      `-A ${jump.slice(3)}`,
      ...(place > 0 ? [`-D ${jump.slice(3)}; iptables -I ${jump.slice(3)}`] : []),
    ]) {
      expect(await host.run(`iptables ${change}`)).toMatchObject({ code: 0 });
      expect(await apply(example)).toMatchObject({ code: 0 });
      expect((await hook("INPUT")).filter((line) => line === jump)).toHaveLength(1);
    }
    expect(await hook("OUTPUT")).toEqual(["-A OUTPUT -j MAILFW-OUT"]);
    expect(await remove()).toMatchObject({ code: 0 });
    expect(await hook("INPUT")).toEqual(before);
  });

  test.each<[string, string, string]>([
    ["nothing", "", "the IPv4 rules arrived incomplete"],
    ["only IPv4", example.slice(0, example.indexOf("# IPv6")), "the rules arrived incomplete"],
    ["half of IPv6", example.slice(0, -40), "the rules arrived incomplete"],
    ["all but the last line", example.slice(0, -6), "the rules arrived incomplete"],
    [
      "rules that would hide sshd",
      example.replaceAll("port 22 ", "port 2222 "),
      "nothing listens on the ports that the rules keep open for SSH",
    ],
  ])("%s: an error, and nothing is changed", async (_, text, problem) => {
    for (const start of [undefined, textOf({ ssh: ["public"] })]) {
      if (start) await deploy(start);
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

  test.each<[string, (text: string) => string, string]>([
    [
      "IPv4 rules",
      (text) => text.replace("-A MAILFW-DROP -j DROP", "-A MAILFW-DROP -j NOSUCH"),
      "the kernel does not take the IPv4 rules: ",
    ],
    [
      "IPv6 rules",
      (text) => text.replace("--icmpv6-type 128 -j RETURN", "--icmpv6-type 128 -j NOSUCH"),
      "the kernel does not take the IPv6 rules: ",
    ],
  ])("%s that the kernel refuses are found before anything is touched", async (_, spoil, problem) => {
    const pristine = await filters();
    const run = await apply(spoil(example));
    expect(run.code).toBe(1);
    expect(run.stderr).toContain(problem);
    expect(run.stderr).toContain("nothing was changed");
    expect(await filters()).toEqual(pristine);
  });

  alike(
    "a confirm that comes too late applies again; one that is too late once more can be made again, with the same token",
    async () => {
      const older = textOf({ ssh: ["public"] });
      await deploy(older);
      const gone = async (token: string) => {
        expect(await host.run(`${command} rollback ${token.replace("applied ", "")}`)).toEqual({
          code: 0,
          stdout: "the rules before are live again\n",
          stderr: "",
        });
        expect(await live(host)).toBe(older);
      };
      const first = await apply(example);
      await gone(first.stdout);
      const second = await confirm(first.stdout);
      expect(second).toMatchObject({
        code: 0,
        stdout: expect.stringMatching(/^applied [0-9a-f]{12}-[0-9a-f]{8}\n$/) as string,
      });
      expect(second.stdout).not.toBe(first.stdout);
      expect(await live(host)).toBe(example);
      await gone(second.stdout);
      const again = () => host.run(`${command} confirm --again`, second.stdout);
      expect(await again()).toMatchObject({
        code: 1,
        stdout: "",
        stderr: expect.stringContaining("the host went back to the rules before a second time") as string,
      });
      expect(await live(host)).toBe(example);
      expect(await again()).toMatchObject({ code: 0, stdout: "confirmed\n" });
      expect(await live(host)).toBe(example);
      // They are the rules of the first token, too. What nobody applied is not confirmed.
      expect(await confirm(first.stdout)).toMatchObject({ code: 0, stdout: "confirmed\n" });
      for (const token of ["applied 0123456789ab-01234567", ""]) {
        expect(await confirm(token)).toMatchObject({
          code: 1,
          stdout: "",
          stderr: expect.stringContaining("the host does not know the rules") as string,
        });
      }
    },
  );

  alike.each(["while its rules wait", "after they have gone back"])(
    "a confirm that applied again, and whose answer was lost, can be made again: %s",
    async (when) => {
      await deploy(textOf({ ssh: ["public"] }));
      const back = async (token: string) =>
        expect(await host.run(`${command} rollback ${token.replace("applied ", "")}`)).toMatchObject({ code: 0 });
      const first = await apply(example);
      await back(first.stdout);
      const lost = await confirm(first.stdout);
      if (when === "after they have gone back") await back(lost.stdout);
      // It came before its rules were live, for all that the host knows: it proves nothing.
      const next = await confirm(first.stdout);
      expect(next).toMatchObject({ code: 0, stdout: expect.stringMatching(/^applied /) as string });
      expect(await confirm(lost.stdout)).toMatchObject({ code: 1 });
      expect(await host.run(`${command} confirm --again`, next.stdout)).toMatchObject({
        code: 0,
        stdout: "confirmed\n",
      });
      expect(await live(host)).toBe(example);
    },
  );

  alike(
    "a confirm that was cut off in the middle makes all of it good when it is made again, even after a reboot",
    async () => {
      const { stdout: token } = await apply(example);
      expect(await confirm(token)).toMatchObject({ code: 0 });
      // As when it was killed after the rules were written down, and nothing yet loads them at boot.
      for (const tool of ["iptables", "ip6tables"])
        await host.run(`printf '*mangle\\nCOMMIT\\n*filter\\nCOMMIT\\n' | ${tool}-restore`);
      await host.run("rm -rf /run/mail-firewall; mkdir /etc/mail-firewall/candidate");
      expect(await live(host)).toBe(none);
      expect(await confirm(token)).toMatchObject({ code: 0, stdout: "confirmed\n" });
      expect(await live(host)).toBe(example);
      expect((await host.run("ls /etc/mail-firewall")).stdout).not.toContain("candidate");
    },
  );

  alike("a confirm of what was confirmed before does not disarm the timer of what waits now", async () => {
    const { stdout: token } = await apply(textOf({ ssh: ["public"] }));
    expect(await confirm(token)).toMatchObject({ code: 0 });
    const next = await apply(example);
    expect(await confirm(token)).toMatchObject({
      code: 1,
      stdout: "",
      stderr: expect.stringContaining("something else was applied since") as string,
    });
    expect((await host.run("cat /run/mail-firewall/pending")).stdout).toContain(next.stdout.split(" ")[1]!.trim());
    expect(await confirm(next.stdout)).toMatchObject({ code: 0, stdout: "confirmed\n" });
  });

  alike("after a first apply that was refused, uninstall leaves nothing", async () => {
    expect((await apply(example.replace("-A MAILFW-DROP -j DROP", "-A MAILFW-DROP -j NOSUCH"))).code).toBe(1);
    expect(await host.run(`${command} uninstall`)).toMatchObject({ code: 0, stdout: "uninstalled\n" });
    expect((await host.run(`ls -d ${command} /etc/mail-firewall /run/mail-firewall`)).stdout).toBe("");
  });

  alike(
    "remove --owned leaves another owner's rules alone, and uninstall leaves the script of rules that are live",
    async () => {
      const theirs = expectedRulesets("mail-firewall/prod/other");
      expect(await apply(theirs)).toMatchObject({ code: 0 });
      const run = (verb: string, text = "") => host.run(`${command} ${verb}`, text);
      expect(await run("remove --owned", example)).toMatchObject({
        code: 0,
        stdout: "kept: the owner is now mail-firewall/prod/other; by hand: /usr/local/sbin/mail-firewall remove\n",
      });
      expect(await run("uninstall")).toMatchObject({ code: 0, stdout: "kept: the rules are live\n" });
      expect(await live(host)).toBe(theirs);
      expect(await run("remove --owned", theirs)).toMatchObject({ code: 0, stdout: "removed\n" });
      expect(await run("remove --owned", example)).toMatchObject({ code: 0, stdout: "removed\n" });
      expect(await run("uninstall")).toMatchObject({ code: 0, stdout: "uninstalled\n" });
      expect((await host.run("ls /usr/local/sbin")).stdout).toBe("");
    },
  );

  test("a chain of ours that the new rules do not have goes, and comes back if they are refused", async () => {
    const older = example.replaceAll(":MAILFW-OPEN - [0:0]", ":MAILFW-OLD - [0:0]\n:MAILFW-OPEN - [0:0]");
    await deploy(older);
    expect(await apply(example.replace("--icmpv6-type 128 -j RETURN", "--icmpv6-type 128 -j NOSUCH"))).toMatchObject({
      code: 1,
    });
    expect(await live(host)).toBe(older);
    expect(await apply(example)).toMatchObject({ code: 0 });
    expect(await live(host)).toBe(example);
  });

  test("another chain's jump into ours: remove says so, and leaves all as it is", async () => {
    await deploy(example);
    await host.run("iptables -t mangle -A FORWARD -p tcp -j MAILFW-IN");
    const before = await filters();
    const { code, stderr } = await remove();
    expect(code).toBe(1);
    expect(stderr).toContain("our rules could not be removed; does a rule of another chain still jump to them?");
    expect(await filters()).toEqual(before);
  });

  test.each<[string, string, string]>([
    [
      "no rule can be read",
      "mv /etc/alternatives/ip6tables-save /tmp && ln -s /bin/false /etc/alternatives/ip6tables-save",
      "the IPv6 rules of table mangle cannot be read",
    ],
    ["sha256sum is missing", "rm $(command -v sha256sum)", "missing: sha256sum; apt-get install coreutils"],
    [
      "/run is full",
      "mount -t tmpfs -o size=8k small /run && head -c 8192 /dev/zero >/run/full",
      "/run/mail-firewall is full; nothing was changed",
    ],
    [
      "/etc is full",
      "mount -t tmpfs -o size=8k small /etc/mail-firewall && head -c 8192 /dev/zero >/etc/mail-firewall/full",
      "/etc/mail-firewall cannot be written; is the disk full, or read-only?",
    ],
    [
      "/etc is read-only",
      "mount -o remount,ro /etc",
      "/etc/mail-firewall cannot be written; is the disk full, or read-only?",
    ],
  ])("%s: an error, and nothing is changed", async (_, spoil, problem) => {
    await deploy(textOf({ ssh: ["public"] }));
    const before = await filters();
    expect(await host.run(spoil)).toMatchObject({ code: 0 });
    const run = await apply(example);
    expect(run).toMatchObject({ code: 1, stdout: "" });
    expect(run.stderr).toContain(problem);
    // Mended, for the look at the kernel.
    await host.run("mv /tmp/ip6tables-save /etc/alternatives/ || umount /etc/mail-firewall || umount /run");
    expect(await filters()).toEqual(before);
  });

  describe("status", () => {
    const status = (...options: string[]) => host.run([statusCommand, ...options].join(" "), example);
    interface Report {
      rules: string;
      owner: string;
      differences: { kind: string; text: string }[];
      notices: { kind: string; text: string }[];
    }
    const kinds = async (...options: string[]) => {
      const { code, stdout } = await status("--json", ...options);
      const report = JSON.parse(stdout) as Report;
      expect(code).toBe(report.differences.length > 0 ? 3 : 0);
      return { ...report, kinds: report.differences.map(({ kind, text }) => `${kind}: ${text}`) };
    };
    const notices = [
      "neither systemd nor an executable /etc/rc.local is here: after a reboot nothing loads the rules",
      "something listens on tcp/21, which is closed",
    ];

    alike("says what there is, and changes nothing", async () => {
      const before = await host.run(
        "iptables-save; ip6tables-save; cat /proc/net/ip*_tables_names; ls -AR /etc /run /tmp",
      );
      expect(await status()).toMatchObject({
        code: 3,
        stdout:
          "rules none: not as deployed\n  no rules have been confirmed on this host\n  notice: neither systemd nor an executable /etc/rc.local is here: after a reboot nothing loads the rules\n",
      });
      const after = await host.run("cat /proc/net/ip*_tables_names; ls -AR /etc /run /tmp");
      expect(before.stdout).toContain(after.stdout);
      await deploy(example);
      const { rules, owner: found, kinds: differences, notices: told } = await kinds("--deployed");
      expect({ rules, found, differences }).toEqual({
        rules: createHash("sha256").update(example).digest("hex").slice(0, 12),
        found: owner,
        differences: [],
      });
      const texts = told.map(({ text }) => text);
      expect(texts).toEqual(expect.arrayContaining(notices));
      expect(texts.filter((text) => /22|443|25|51820/.test(text))).toEqual([]); // open, and somebody listens there
    });

    alike("rules that were deployed, and are not those of the host", async () => {
      await deploy(textOf({ ssh: ["public"] }));
      expect((await kinds()).kinds).toEqual([]);
      const { kinds: differences } = await kinds("--deployed");
      expect(differences).toContain(
        `files: the rules in /etc/mail-firewall are not those that were deployed; theirs is ${owner}`,
      );
      expect(differences).toContain(
        "rules: IPv4: missing: -A MAILFW-OPEN -p tcp -m conntrack --ctorigdstport 465 -m comment --comment submissions -j RETURN",
      );
      expect(differences).toContain(
        "rules: IPv4: not ours: -A MAILFW-IN -p tcp -m tcp --dport 22 -m comment --comment ssh -j RETURN",
      );
    });

    alike("20,000 rules of others and as many of ours that nobody deployed: said soon, and in few words", async () => {
      await deploy(example);
      const bans = (chain: string) =>
        Array.from({ length: 20_000 }, (_, i) => `-A ${chain} -s 10.1.${i >> 8}.${i & 255}/32 -j DROP\n`).join("");
      const text = `*mangle\n${bans("MAILFW-IN")}COMMIT\n*filter\n${bans("INPUT")}COMMIT\n`;
      expect(await host.run("iptables-restore --noflush", text)).toMatchObject({ code: 0 });
      const started = Date.now();
      const { differences, notices: told } = await kinds();
      expect(Date.now() - started).toBeLessThan(15_000);
      const texts = (list: typeof told, kind: string) =>
        list.filter((one) => one.kind === kind).map(({ text }) => text);
      const some = ["10.1.0.0/32", "10.1.0.1/32"];
      for (const found of [texts(differences, "rules"), texts(told, "shadowed")]) {
        expect(found).toHaveLength(21);
        expect(found.slice(0, 2)).toEqual(some.map((one) => expect.stringContaining(`-s ${one} -j DROP`) as string));
        expect(found[20]).toBe("and 19980 more");
      }
      const { stderr } = await apply(example);
      expect(stderr.split("\n").length).toBeLessThan(25);
      expect(await live(host)).toBe(example);
    });

    test.each<[string, string, string[]]>([
      ["a rule deleted", "iptables -t mangle -D MAILFW-DROP -j DROP", ["rules: IPv4: missing: -A MAILFW-DROP -j DROP"]],
      [
        "a rule added",
        "ip6tables -t mangle -I MAILFW-IN -p tcp --dport 3306 -j ACCEPT",
        ["rules: IPv6: not ours: -A MAILFW-IN -p tcp -m tcp --dport 3306 -j ACCEPT"],
      ],
      ["a chain added", "iptables -N MAILFW-NEW", ["rules: IPv4: not ours: :MAILFW-NEW - [0:0]"]],
      [
        "a jump deleted",
        "iptables -t mangle -D INPUT -j MAILFW-IN",
        ["jump: IPv4: the jump from mangle INPUT to MAILFW-IN is missing"],
      ],
      ["a table flushed", "iptables -F; iptables -X", ["rules: IPv4: none of our rules are in the table filter"]],
      [
        "a rule before the jump",
        "ip6tables -t mangle -I INPUT -p tcp --dport 3306 -j ACCEPT",
        ["jump: IPv6: the jump from mangle INPUT to MAILFW-IN is not where it belongs"],
      ],
      [
        "somebody who refuses an open port before us",
        "iptables -t raw -A PREROUTING -p tcp --dport 25 -j DROP",
        ["shut: IPv4: tcp/25 is open here, and refused by others: raw PREROUTING: -p tcp -m tcp --dport 25 -j DROP"],
      ],
      [
        "a file changed",
        "echo >>/etc/mail-firewall/rules.v6",
        ["files: the rules in /etc/mail-firewall are damaged, or were changed by hand"],
      ],
      [
        "another firewall",
        "mkdir -p /etc/ufw; echo ENABLED=yes >/etc/ufw/ufw.conf",
        ["others: ufw is on beside our rules"],
      ],
      ["a boot without us", "touch /etc/rc.local; chmod +x /etc/rc.local", ["boot: nothing loads the rules at boot"]],
    ])("%s", async (_, change, expected) => {
      await deploy(example);
      expect((await kinds()).kinds).toEqual([]);
      expect(await host.run(change)).toMatchObject({ code: 0 });
      expect((await kinds(...(change.includes("rules.v6") ? [] : ["--deployed"]))).kinds).toEqual(expected);
    });

    alike(
      "rules that wait for their confirm; rules of others that are never reached; ports that nobody uses",
      async () => {
        await host.run(`iptables -A INPUT -p tcp -m comment --comment 'say "hi" \\' -j REJECT`);
        await deploy(example.replaceAll("dstport 443", "dstport 8443"));
        expect(await apply(example)).toMatchObject({ code: 0 });
        const found = await kinds("--deployed");
        expect(found.kinds).toContainEqual(
          expect.stringMatching(
            /^pending: rules [0-9a-f]{12} wait for their confirm; in (60|59|5\d) s the host goes back$/,
          ),
        );
        const rule = (await hook("INPUT")).at(-1)!.replace("-A ", "");
        expect(found.notices).toContainEqual({
          kind: "shadowed",
          text: `never reached while our rules are there: IPv4: ${rule}`,
        });
        const unused = (await kinds()).notices.filter(({ kind }) => kind === "unused");
        expect(unused).toEqual([{ kind: "unused", text: "https (tcp/8443) is open, and nothing listens on it" }]);
      },
    );
  });

  alike.each(["dash", "bash --posix", "busybox sh"])("runs under %s", async (shell) => {
    expect(await apply(example, shell)).toMatchObject({ code: 0, stderr: "" });
    expect(await live(host)).toBe(example);
  });

  alike("only root may run it; a missing program and an unknown verb are named", async () => {
    const asAdmin = await host.run("su admin -s /bin/sh -c 'sh ${command} apply' </dev/null");
    expect(asAdmin.code).not.toBe(0);
    for (const verb of ["frobnicate", "", "apply --frobnicate"]) {
      expect(await host.run(`${command} ${verb}`)).toMatchObject({
        code: 64,
        stdout: "",
        stderr: expect.stringContaining("mail-firewall status [--json]") as string,
      });
    }
    expect((await host.run(`${command} help`)).stdout).toContain("mail-firewall pause MINUTES");
    await host.run("rm /etc/alternatives/ip6tables-restore");
    expect(await apply(example)).toEqual({
      code: 1,
      stdout: "",
      stderr:
        "mail-firewall: missing: ip6tables-restore; apt-get install iptables\nmail-firewall: nothing was changed\n",
    });
    expect(await live(host)).not.toContain("MAILFW");
  });
});
