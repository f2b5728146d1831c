// Ports that containers publish, with a real Docker: what of them is open, and what goes on as without a firewall.
import { rulesets } from "../../components/host/ruleset";
import { Faults } from "../../components/policy/faults";
import { readPolicy, rules, type PolicyArgs } from "../../components/policy/policy";
import { command, install } from "../integration/example";
import { startDockerHost, type DockerHost } from "../sandbox/docker";
import { execute, startMailHost, type MailHost } from "../sandbox/host";
import { probe, startClient, type Client, type Probe } from "../sandbox/probe";

jest.setTimeout(120_000);

type Source = [string, string];
const friend: Source = ["192.0.2.178", "2001:db8:d::150"];
const stranger: Source = ["192.0.2.179", "2001:db8:d::151"];
const operator: Source = ["203.0.113.150", "2001:db8:113::150"];

const friends = [`${friend[0]}/32`, `${friend[1]}/128`];
const policy: PolicyArgs = {
  services: { imap: friends },
  ssh: ["203.0.113.0/24", "2001:db8:113::/48"],
  sshPorts: [22, 2022],
  ports: {
    "imaps-too": { protocol: "tcp", port: 8993, from: friends },
    wireguard: { protocol: "udp", port: 51820, from: ["public"] },
  },
};

/** What the container listens on, and as what it is published. 8993 is in the policy, 993 is not; with 4025 and 25 it is the other way round. */
const listen = { tcp: [22, 25, 143, 993, 3306], udp: [5353, 51820] };
const published = [
  "2022:22",
  "25:25",
  "4025:25",
  "143:143",
  "8993:993",
  "3306:3306",
  "5353:5353/udp",
  "51820:51820/udp",
];
const all = ["tcp/25", "tcp/143", "tcp/2022", "tcp/3306", "tcp/4025", "tcp/8993", "udp/5353", "udp/51820"];

/** Of the published ports, those that answer each source: over IPv4, and over IPv6. */
async function openTo(...sources: Source[]): Promise<[string[], string[]][]> {
  const cases = sources.flat().flatMap((source) => all.map((name) => ({ source, name })));
  const verdicts = await probe(
    client,
    cases.map(({ source, name }): Probe => {
      const [protocol, port] = name.split("/") as ["tcp" | "udp", string];
      return { source, target: source.includes(":") ? host.address6 : host.address4, protocol, port: Number(port) };
    }),
  );
  const open = (from: string) =>
    cases.filter(({ source }, i) => source === from && verdicts[i] === "open").map(({ name }) => name);
  return sources.map(([v4, v6]) => [open(v4), open(v6)]);
}

const both = <T>(value: T): [T, T] => [value, value];

async function judged(): Promise<void> {
  expect(await openTo(friend, stranger, operator)).toEqual([
    both(["tcp/25", "tcp/143", "tcp/8993", "udp/51820"]),
    both(["tcp/25", "udp/51820"]),
    both(["tcp/25", "tcp/2022", "udp/51820"]),
  ]);
}

async function apply(): Promise<void> {
  await install(host);
  const text = rulesets(rules(readPolicy(policy, "", { any: true }, new Faults())), "mail-firewall/test/mx1");
  await host.must(`${command} confirm`, await host.must(`${command} apply`, text));
}

const remove = async () => expect(await host.must(`${command} remove`)).toBe("removed\n");
const filters = async () => [await host.save(4), await host.save(6)];

/** Filter tables as they would be without us. */
/** What others have: a table that only we have used is not there. */
const withoutOurs = (saved: string[]) =>
  saved.map((text) =>
    text.replace(/^.*MAILFW.*\n/gm, "").replace(/^\*mangle\n(?::[A-Z]+ ACCEPT \[0:0\]\n)+COMMIT\n/gm, ""),
  );

async function inPlace(...families: (4 | 6)[]): Promise<void> {
  for (const family of families) {
    // In mangle, before any rule of Docker's.
    const jump = "-A FORWARD -j MAILFW-FWD";
    expect((await chain("FORWARD", family)).filter((line) => line.includes("MAILFW"))).toEqual([jump]);
  }
  expect(await host.must(`${command} status`)).toMatch(/: as deployed\n/); // 3 if the jumps stood elsewhere
}

async function startMail(network = ""): Promise<void> {
  await host.must(`docker network create ${network} --ipv6 --subnet fd00:d0c::/64 --gateway fd00:d0c::1 mail`);
  const ports = published.map((port) => `-p ${port}`).join(" ");
  await host.startContainer("mx", listen, `--restart always --network mail ${ports}`);
}

const chain = async (name: string, family: 4 | 6) =>
  (await host.save(family)).split("\n").filter((line) => line.startsWith(`-A ${name} `));

let host: DockerHost;
let client: Client;
let remote: MailHost;
beforeAll(async () => {
  client = await startClient([friend, stranger, operator].flat());
  remote = await startMailHost({ listen: { tcp: [8080], udp: [] } }); // a port that the policy does not name
});
afterAll(() => Promise.all([client?.close(), remote?.close()]));
afterEach(async () => host?.close());

describe.each(["nft", "legacy"] as const)("with iptables-%s", (backend) => {
  // Docker asks ip6tables -C which rules there are, and legacy 1.8.9 takes two for the same that only differ in their ports.
  const dockerd = backend === "legacy" ? ["--ip6tables=false"] : [];
  const options = { backend, dockerd, listen: { tcp: [], udp: [] } };

  test("published ports are judged by the policy, before and after a restart of the container and of Docker", async () => {
    host = await startDockerHost(options);
    await startMail();
    expect(await openTo(stranger)).toEqual([both(all)]);
    await apply();
    await judged();
    await host.must("docker restart -t 0 mx");
    await host.answers("mx");
    await judged();
    await host.restartDocker();
    await host.answers("mx");
    await inPlace(4);
    await judged();
  });

  test("a firewall that is there before Docker stays in front of it", async () => {
    host = await startDockerHost({ ...options, running: false });
    await apply();
    await host.restartDocker();
    await startMail("-o com.docker.network.bridge.name=mail0"); // a name that our rules do not know
    await inPlace(4);
    await judged();

    // Docker goes on to use the chain that we have made for it.
    const others = withoutOurs(await filters());
    await remove();
    expect(withoutOurs(await filters())[0]).toBe(others[0]);
    expect((await chain("FORWARD", 4))[0]).toBe("-A FORWARD -j DOCKER-USER");
    expect(await openTo(stranger)).toEqual([both(all)]);
  });

  test("remove leaves Docker's chains byte for byte, and without Docker no chain of its", async () => {
    host = await startDockerHost(options);
    await startMail();
    const before = await filters();
    await apply();
    await apply();
    expect(await filters()).not.toEqual(before);
    await remove();
    expect(await filters()).toEqual(before);
    expect(await openTo(stranger)).toEqual([both(all)]);
    await host.close();

    host = await startDockerHost({ ...options, running: false });
    for (const table of ["filter", "nat"]) await host.must(`iptables -t ${table} -F; iptables -t ${table} -X`);
    await host.must("ip6tables -F; ip6tables -X");
    const bare = await filters();
    await apply();
    expect((await filters()).join("")).toContain("-A FORWARD -j MAILFW-FWD\n");
    await remove();
    expect(await filters()).toEqual(bare);
  });

  test("at boot the rules are there before Docker, and its containers come up behind them", async () => {
    host = await startDockerHost(options);
    await startMail();
    await apply();
    await host.must('docker kill mx; kill "$(cat /run/docker.pid)"; while [ -e /run/docker.pid ]; do sleep 0.1; done');
    for (const tool of ["iptables", "ip6tables"]) {
      for (const table of ["filter", "nat"])
        await host.must(`${tool} -P FORWARD ACCEPT; ${tool} -t ${table} -F; ${tool} -t ${table} -X`);
    }
    await host.must(`${command} restore`);
    await host.restartDocker();
    await host.must("docker start mx");
    await host.answers("mx");
    await inPlace(4);
    await judged();
  });

  test("a neighbour with a route to a container gets no further than through its published ports", async () => {
    host = await startDockerHost(options);
    await startMail();
    const mx = (await host.must("docker inspect -f '{{.NetworkSettings.Networks.mail.IPAddress}}' mx")).trim();
    const route = (verb: string) =>
      execute("nsenter", [
        "-t",
        `${client.pid}`,
        "--net",
        "ip",
        "route",
        verb,
        mx,
        "via",
        host.address4,
        "dev",
        "eth0",
        "onlink",
      ]);
    expect(await route("add")).toMatchObject({ code: 0 });
    const direct = async () =>
      probe(
        client,
        [25, 3306].map((port) => ({ source: stranger[0], target: mx, protocol: "tcp", port })),
      );
    const before = await direct(); // Docker itself refuses since 28
    await apply();
    expect(await direct()).toEqual([before[0], "shut"]);
    await route("delete");
  });

  test("a ban in DOCKER-USER goes on", async () => {
    host = await startDockerHost(options);
    await startMail();
    await apply();
    await host.must(`iptables -I DOCKER-USER -s ${stranger[0]} -j DROP`);
    const [[banned], [other]] = (await openTo(stranger, friend)) as [[string[], string[]], [string[], string[]]];
    expect(banned).toEqual([]);
    expect(other).toContain("tcp/25");
  });
});

// Without docker-proxy all of it is forwarded, over IPv6 too.
test("what containers do goes on: to the world, to each other, and through the host's address", async () => {
  host = await startDockerHost({
    listen: { tcp: [], udp: [] },
    dockerd: ["--userland-proxy=false", "--ip6tables", "--experimental"],
  });
  await startMail();
  await host.startContainer("webmail", { tcp: [], udp: [] }, "--network mail");
  await host.startContainer("stray", { tcp: [], udp: [] }, "");
  const addresses = "{{with .NetworkSettings.Networks.mail}}{{.IPAddress}} {{.GlobalIPv6Address}}{{end}}";
  const [mx4, mx6] = (await host.must(`docker inspect -f '${addresses}' mx`)).trim().split(" ");
  const tcp = (port: number, ...targets: string[]) =>
    targets.map((target) => ({ target, protocol: "tcp" as const, port }));
  const toWorld = tcp(8080, remote.address4, remote.address6);
  const toEachOther = tcp(3306, mx4!, mx6!);
  const throughHost = [...tcp(3306, host.address4, host.address6), ...tcp(8993, host.address4, host.address6)];
  const probes = [...toWorld, ...toEachOther, ...throughHost];

  expect(await openTo(stranger)).toEqual([both(all)]);
  expect(await host.probeFrom("webmail", probes)).toEqual(probes.map(() => "open"));
  const fromStray = await host.probeFrom("stray", throughHost); // Docker's versions differ about another network
  await apply();
  await inPlace(4, 6);
  await judged();
  expect(await host.probeFrom("webmail", probes)).toEqual(probes.map(() => "open"));
  expect(await host.probeFrom("stray", throughHost)).toEqual(fromStray);
  expect(await host.probeFrom("stray", toWorld.slice(0, 1))).toEqual(["open"]);
});
