// enter.sh leaves nothing behind, however it ends. Runs on the machine itself, as root; inside of a sandbox it works too.
import { execFileSync, spawn, type ChildProcessWithoutNullStreams } from "node:child_process";
import { once } from "node:events";
import { existsSync, readdirSync, readFileSync, readlinkSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout } from "node:timers/promises";

const enter = join(__dirname, "../sandbox/enter.sh");

/** In the environment of every process of a sandbox, and in the name of whatever else it makes. */
let marker: string;
let before: Machine;
let counter = 0;

beforeEach(() => {
  marker = `marker-${process.pid}-${++counter}`;
  before = machine();
});
afterEach(async () => {
  for (let tries = 0; tries < 100 && processes().length > 0; tries++) await setTimeout(20); // it may still be sweeping
  for (const pid of processes()) process.kill(pid, "SIGKILL"); // only there after a failed test
});

interface Machine {
  mounts: string;
  links: string[];
  address: string;
}

/** What a sandbox could have changed. Links of containers, and of hosts where this is a sandbox itself, come and go. */
function machine(): Machine {
  return {
    mounts: readFileSync("/proc/self/mountinfo", "utf8"),
    links: readFileSync("/proc/self/net/dev", "utf8").match(/^ *(?!veth|port)[^:\s]+(?=:)/gm) ?? [],
    address: execFileSync("ip", ["-o", "address", "show", "to", "203.0.113.1"], { encoding: "utf8" }),
  };
}

/** What read gives, or nothing when the process that it is about has just ended, or is closed even to root. */
function ifAlive<T>(read: () => T): T | undefined {
  try {
    return read();
  } catch (error) {
    if (["ENOENT", "ESRCH", "EACCES"].includes((error as NodeJS.ErrnoException).code ?? "")) return undefined;
    throw error;
  }
}

/** Not those that have ended, and only wait to be reaped by the machine's pid 1, at its leisure. */
const allProcesses = (): number[] =>
  readdirSync("/proc")
    .map(Number)
    .filter((pid) => pid > 0 && ifAlive(() => !/^State:\tZ/m.test(readFileSync(`/proc/${pid}/status`, "utf8"))));

/** Those of the sandbox. */
const processes = (): number[] =>
  allProcesses().filter((pid) =>
    ifAlive(() => readFileSync(`/proc/${pid}/environ`, "latin1").includes(`MARKER=${marker}\0`)),
  );

const namespaces = (pid: number): string[] =>
  ["net", "mnt", "pid"].flatMap((kind) => ifAlive(() => readlinkSync(`/proc/${pid}/ns/${kind}`)) ?? []);

/** The namespaces that the sandbox does not share with this process, and every process in one of them. */
function population(): { namespaces: string[]; pids: number[] } {
  const shared = namespaces(process.pid);
  const own = [...new Set(processes().flatMap(namespaces))].filter((id) => !shared.includes(id));
  return { namespaces: own, pids: allProcesses().filter((pid) => namespaces(pid).some((id) => own.includes(id))) };
}

interface Sandbox {
  child: ChildProcessWithoutNullStreams;
  output(): string;
  says(text: string): Promise<void>;
  /** Its exit code, or the signal that ended it. */
  ended: Promise<number | string>;
}

function start(program: string, ...args: string[]): Sandbox {
  // A session of its own: who runs these tests at a terminal is not the one who presses Ctrl-C in them.
  const child = spawn(program, args, { stdio: "pipe", detached: true, env: { ...process.env, MARKER: marker } });
  let output = "";
  for (const stream of [child.stdout, child.stderr]) {
    stream.setEncoding("utf8").on("data", (text: string) => (output += text));
  }
  child.stdin.on("error", () => {});
  const ended = once(child, "close").then(([code, signal]) => (code ?? signal) as number | string);
  const says = async (text: string): Promise<void> => {
    const deadline = Date.now() + 5000;
    while (!output.includes(text)) {
      if (Date.now() > deadline) throw new Error(`never said "${text}": ${output}`);
      await setTimeout(10);
    }
  };
  return { child, output: () => output, says, ended };
}

/** The control groups of this name, whatever version the machine itself has mounted. */
const groups = (name: string): string =>
  execFileSync("unshare", [
    ...["--mount", "sh", "-c", 'mount -t cgroup2 all /mnt && find /mnt -name "$0"', name],
  ]).toString();

// Makes one of everything that could be left behind, and a daemon that no signal but KILL can end.
const litter = `
  touch "$TMPDIR/$MARKER"
  [ -n "$SANDBOX_GROUP" ] || exit 99
  mkdir -p "$SANDBOX_GROUP/host/$MARKER"
  echo 0 >"$SANDBOX_GROUP/host/$MARKER/cgroup.procs"
  mount -t tmpfs "$MARKER" /mnt
  ip link add litter type veth peer name litter2
  setsid -f sh -c 'trap "" HUP INT TERM; sleep 1000; true' </dev/null >/dev/null 2>&1
`;
const wait = "echo ready; while :; do sleep 0.05; done";
const polite = `${litter}
  trap 'echo got INT; sleep 0.2; exit 3' INT
  trap 'echo got TERM; sleep 0.2; exit 4' TERM
  ${wait}`;
const stubborn = `${litter} trap '' INT TERM HUP; ${wait}`;

/** No process, thus no namespace: the kernel would give a namespace's number to somebody else's at once. */
async function expectNothingLeft(pids: number[]): Promise<void> {
  const left = (): number[] => {
    const alive = allProcesses();
    return [...processes(), ...pids.filter((pid) => alive.includes(pid))];
  };
  // The kernel's work may last a moment longer than enter.sh.
  for (let tries = 0; tries < 100 && left().length > 0; tries++) await setTimeout(20);
  expect(left()).toEqual([]);
  expect(machine()).toEqual(before);
  expect(groups(marker)).toBe("");
  expect(["/dev/shm", "/tmp", tmpdir()].filter((folder) => existsSync(join(folder, marker)))).toEqual([]);
}

/** Starts the script, ends it in the given way, checks that nothing is left. */
async function ends(
  script: string,
  how: (sandbox: Sandbox) => unknown,
  program = [enter, "sh", "-c", script],
): Promise<{ code: number | string; output: string; ms: number }> {
  const sandbox = start(program[0]!, ...program.slice(1));
  await sandbox.says("ready");
  const { namespaces, pids } = population();
  expect(namespaces.length).toBeGreaterThanOrEqual(4); // net, pid, and two of mounts
  expect(machine()).toEqual(before);
  expect(groups(marker)).toContain(`/host/${marker}`);
  const from = Date.now();
  await how(sandbox);
  const code = await sandbox.ended;
  const ms = Date.now() - from;
  await expectNothingLeft(pids);
  return { code, output: sandbox.output(), ms };
}

/** `script` gives the sandbox a terminal: what is written to its stdin is typed there. */
const atTerminal = (script: string): string[] => {
  const quoted = `'${script.replaceAll("'", `'\\''`)}'`;
  return ["script", "--quiet", "--return", "--command", `exec ${enter} sh -c ${quoted}`, "/dev/null"];
};
const occurrences = (text: string, part: string): number => text.split(part).length - 1;

describe("passes through", () => {
  test("arguments, stdin and the exit code", async () => {
    const sandbox = start(enter, "sh", "-c", 'echo "<$1> <$2>"; cat; exit 7', "sh", "a b", "");
    sandbox.child.stdin.end("typed\n");
    expect(await sandbox.ended).toBe(7);
    await sandbox.says("<a b> <>\ntyped\n");
  });

  test("that a signal ended the command", async () => {
    expect(await start(enter, "sh", "-c", "kill -KILL $$").ended).toBe(128 + 9);
  });

  test("a terminal", async () => {
    const [program, ...args] = atTerminal("test -t 0 && test -t 1 && read -r line && echo got $line </dev/tty");
    const sandbox = start(program!, ...args);
    sandbox.child.stdin.write("typed\n");
    expect(await sandbox.ended).toBe(0);
    await sandbox.says("got typed");
  });

  test("without a command it says how to use it", async () => {
    const sandbox = start(enter);
    expect(await sandbox.ended).toBe(64);
    await sandbox.says("usage: enter.sh COMMAND");
  });
});

describe("inside", () => {
  test("there is the operator's network, and nothing of the machine's", async () => {
    const sandbox = start(enter, "ip", "-br", "address");
    expect(await sandbox.ended).toBe(0);
    await sandbox.says("2001:db8:113::1/128");
    const lines = sandbox.output().trim().split("\n");
    expect(lines.map((line) => line.split(/\s+/)[0])).toEqual(["lo", "br0"]);
    expect(lines[1]).toContain("203.0.113.1/32");
  });
});

describe("leaves nothing behind", () => {
  test("when the command has ended", async () => {
    const { code } = await ends(`${litter} echo ready; read -r line; exit 5`, ({ child }) => child.stdin.end("\n"));
    expect(code).toBe(5);
  });

  test.each([
    ["SIGINT", 3, "got INT"],
    ["SIGTERM", 4, "got TERM"],
    ["SIGHUP", 4, "got TERM"],
  ] as const)("after %s, which the command gets and answers", async (signal, expected, said) => {
    const { code, output, ms } = await ends(polite, ({ child }) => child.kill(signal));
    expect(code).toBe(expected);
    expect(output).toBe(`ready\n${said}\n`);
    expect(ms).toBeLessThan(2000);
  });

  test.each(["SIGINT", "SIGTERM"] as const)(
    "after %s, which the command ignores for seconds",
    async (signal) => {
      const { code, ms } = await ends(stubborn, ({ child }) => child.kill(signal));
      expect(code).toBe(128 + 9);
      expect(ms).toBeGreaterThan(4500);
      expect(ms).toBeLessThan(8000);
    },
    15_000,
  );

  test("after SIGKILL of enter.sh", async () => {
    expect((await ends(stubborn, ({ child }) => child.kill("SIGKILL"))).code).toBe("SIGKILL");
  });

  test("after SIGKILL of the command", async () => {
    const { code } = await ends(`echo $$ >/dev/shm/pid; ${stubborn}`, () => {
      const command = processes().find((pid) =>
        readFileSync(`/proc/${pid}/cmdline`, "utf8").startsWith("sh\0-c\0echo"),
      );
      process.kill(command!, "SIGKILL");
    });
    expect(code).toBe(128 + 9);
  });

  test("after SIGKILL, SIGTERM or SIGINT at any moment of the start", async () => {
    for (const signal of ["SIGKILL", "SIGTERM", "SIGINT"] as const) {
      for (let delay = 0; delay <= 60; delay += 6) {
        const sandbox = start(enter, "sh", "-c", `${litter} exec sleep 1000`);
        await setTimeout(delay);
        const { pids } = population();
        sandbox.child.kill(signal);
        expect(await sandbox.ended).not.toBe(0);
        await expectNothingLeft(pids);
        expect(groups(`sandbox-${sandbox.child.pid}-*`)).toBe("");
      }
    }
  }, 60_000);

  test("after Ctrl-C at a terminal, which the command gets once", async () => {
    const { output, ms } = await ends(polite, ({ child }) => child.stdin.write("\x03"), atTerminal(polite));
    expect(occurrences(output, "got INT")).toBe(1);
    expect(ms).toBeLessThan(2000);
  });

  test("after a second Ctrl-C at once", async () => {
    const twice = async ({ child }: Sandbox): Promise<void> => {
      child.stdin.write("\x03");
      await setTimeout(300);
      child.stdin.write("\x03");
    };
    expect((await ends(stubborn, twice, atTerminal(stubborn))).ms).toBeLessThan(2000);
  });

  test("when the terminal goes away", async () => {
    await ends(polite, ({ child }) => child.kill("SIGKILL"), atTerminal(polite));
  }, 15_000);
});
