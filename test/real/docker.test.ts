// Ports that containers publish, with a real Docker: what of them is open, and what goes on as without a firewall.
import { command } from "../integration/example";
import { startDockerHost, type DockerHost } from "../sandbox/docker";
import { execute, startMailHost, type MailHost } from "../sandbox/host";
import { probe, startClient, type Client } from "../sandbox/probe";
import { all, both, deploy, friend, judged, listen, openTo, operator, published, stranger } from "./published";

jest.setTimeout(120_000);

const remove = async () => expect(await host.must(`${command} remove`)).toBe("removed\n");
const filters = async () => [await host.save(4), await host.save(6)];

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
  await host.startContainer("mx", listen, `--restart always --network mail ${published}`);
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
    expect(await openTo(client, host, stranger)).toEqual([both(all)]);
    await deploy(host);
    await judged(client, host);
    await host.must("docker restart -t 0 mx");
    await host.answers("mx");
    await judged(client, host);
    await host.restartDocker();
    await host.answers("mx");
    await inPlace(4);
    await judged(client, host);
  });

  test("a firewall that is there before Docker stays in front of it", async () => {
    host = await startDockerHost({ ...options, running: false });
    await deploy(host);
    await host.restartDocker();
    await startMail("-o com.docker.network.bridge.name=mail0"); // a name that our rules do not know
    await inPlace(4);
    await judged(client, host);

    // Docker goes on to use the chain that we have made for it.
    const others = withoutOurs(await filters());
    await remove();
    expect(withoutOurs(await filters())[0]).toBe(others[0]);
    expect((await chain("FORWARD", 4))[0]).toBe("-A FORWARD -j DOCKER-USER");
    expect(await openTo(client, host, stranger)).toEqual([both(all)]);
  });

  test("remove leaves Docker's chains byte for byte, and without Docker no chain of its", async () => {
    host = await startDockerHost(options);
    await startMail();
    const before = await filters();
    await deploy(host);
    await deploy(host);
    expect(await filters()).not.toEqual(before);
    await remove();
    expect(await filters()).toEqual(before);
    expect(await openTo(client, host, stranger)).toEqual([both(all)]);
    await host.close();

    host = await startDockerHost({ ...options, running: false });
    for (const table of ["filter", "nat"]) await host.must(`iptables -t ${table} -F; iptables -t ${table} -X`);
    await host.must("ip6tables -F; ip6tables -X");
    const bare = await filters();
    await deploy(host);
    expect((await filters()).join("")).toContain("-A FORWARD -j MAILFW-FWD\n");
    await remove();
    expect(await filters()).toEqual(bare);
  });

  test("at boot the rules are there before Docker, and its containers come up behind them", async () => {
    host = await startDockerHost(options);
    await startMail();
    await deploy(host);
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
    await judged(client, host);
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
    await deploy(host);
    expect(await direct()).toEqual([before[0], "shut"]);
    await route("delete");
  });

  test("a ban in DOCKER-USER goes on", async () => {
    host = await startDockerHost(options);
    await startMail();
    await deploy(host);
    await host.must(`iptables -I DOCKER-USER -s ${stranger[0]} -j DROP`);
    const [[banned], [other]] = (await openTo(client, host, stranger, friend)) as [
      [string[], string[]],
      [string[], string[]],
    ];
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

  expect(await openTo(client, host, stranger)).toEqual([both(all)]);
  expect(await host.probeFrom("webmail", probes)).toEqual(probes.map(() => "open"));
  const fromStray = await host.probeFrom("stray", throughHost); // Docker's versions differ about another network
  await deploy(host);
  await inPlace(4, 6);
  await judged(client, host);
  expect(await host.probeFrom("webmail", probes)).toEqual(probes.map(() => "open"));
  expect(await host.probeFrom("stray", throughHost)).toEqual(fromStray);
  expect(await host.probeFrom("stray", toWorld.slice(0, 1))).toEqual(["open"]);
});
