// What the options of a host do to packets: they come from outside, and through a second interface of the host.
import { readHostOptions, type HostOptions } from "../../components/host/hostOptions";
import { ruleset } from "../../components/host/ruleset";
import { Faults } from "../../components/policy/faults";
import { readPolicy, rules, type PolicyArgs } from "../../components/policy/policy";
import { defaultListen, execute, startMailHost, type MailHost } from "../sandbox/host";
import { forge, probe, startClient, type Client, type Verdict } from "../sandbox/probe";

jest.setTimeout(60_000);

const policy: PolicyArgs = {
  services: { imaps: ["public"] },
  ssh: ["public"],
  ports: { wireguard: { protocol: "udp", port: 51820, from: ["public"] } },
};

describe.each(["nft", "legacy"] as const)("with iptables-%s", (backend) => {
  let host: MailHost, client: Client;
  const [outside4, outside6] = ["192.0.2.61", "2001:db8:61::1"];
  const [tunnel4, tunnel6] = ["10.61.0.2", "fd61::2"]; // the client's end of wg0; the host's ends in 1
  const [second4, second6] = ["192.0.2.161", "2001:db8:61::161"]; // a second address on the host's eth0

  beforeAll(async () => {
    [host, client] = await Promise.all([
      startMailHost({ backend, listen: { ...defaultListen, tcp: [...defaultListen.tcp, 113] } }),
      startClient([outside4, outside6]),
    ]);
    const ip = (pid: number, ...lines: string[]) =>
      execute("nsenter", ["-t", `${pid}`, "--net", "ip", "-batch", "-"], lines.join("\n"));
    const results = [
      await ip(
        host.pid,
        `link add wg0 type veth peer name wg0 netns ${client.pid}`,
        "link set wg0 up",
        "address add 10.61.0.1/24 dev wg0",
        "address add fd61::1/64 dev wg0 nodad",
        `address add ${second4}/32 dev eth0`,
        `address add ${second6}/128 dev eth0 nodad preferred_lft 0`, // so that UDP is answered from the first
      ),
      await ip(
        client.pid,
        "link set wg0 up",
        `address add ${tunnel4}/24 dev wg0`,
        `address add ${tunnel6}/64 dev wg0 nodad`,
      ),
      // What the kernel itself would drop before any rule sees it.
      await host.run(
        "for i in all eth0 wg0; do echo 0 >/proc/sys/net/ipv4/conf/$i/rp_filter; echo 1 >/proc/sys/net/ipv4/conf/$i/route_localnet; done",
      ),
    ];
    expect(results.map(({ stderr }) => stderr)).toEqual(["", "", ""]);
  });
  afterAll(() => Promise.all([host?.close(), client?.close()]));

  async function load(options: HostOptions, args = policy): Promise<void> {
    const faults = new Faults();
    const settings = readHostOptions(options, "", faults);
    const all = rules(readPolicy(args, "", { any: true }, faults));
    expect(faults.list).toEqual([]);
    for (const [family, tool] of [
      [4, "iptables"],
      [6, "ip6tables"],
    ] as const) {
      const flush = ["mangle", "filter"]
        .map((table) => `${tool} -t ${table} -F && ${tool} -t ${table} -X`)
        .join(" && ");
      const command = `${flush} && ${tool}-restore --noflush && ${tool} -t mangle -A INPUT -j MAILFW-IN`;
      expect(await host.run(command, ruleset(all, family, "o", settings))).toMatchObject({ code: 0, stderr: "" });
    }
  }

  /** Verdicts on ports such as `tcp/993`, over IPv4 and IPv6, at the host's addresses behind an interface. */
  async function verdicts(way: "eth0" | "eth0, second address" | "wg0", ...ports: string[]): Promise<Verdict[][]> {
    const [sources, targets] = {
      eth0: [
        [outside4, outside6],
        [host.address4, host.address6],
      ],
      "eth0, second address": [
        [outside4, outside6],
        [second4, second6],
      ],
      wg0: [
        [tunnel4, tunnel6],
        ["10.61.0.1", "fd61::1"],
      ],
    }[way] as [string[], string[]];
    const probes = [0, 1].flatMap((family) =>
      ports.map((text) => {
        const [protocol, port] = text.split("/") as ["tcp" | "udp", string];
        return { source: sources[family]!, target: targets[family]!, protocol, port: Number(port) };
      }),
    );
    const found = await probe(client, probes);
    return [found.slice(0, ports.length), found.slice(ports.length)];
  }
  const services = ["tcp/25", "tcp/993", "udp/51820"];
  const overTcp = services.slice(0, 2); // UDP is answered from the first address, whichever was asked
  const each = (verdict: Verdict, ports = services): Verdict[][] => [0, 1].map(() => ports.map(() => verdict));
  const ssh = ["tcp/22"];
  const open = [["open"], ["open"]];

  /** Packets that a rule has seen, of those below MAILFW-IN and MAILFW-DROP. */
  async function count(rule: string, family: 4 | 6 = 4): Promise<number> {
    const { stdout } = await host.run(`${family === 4 ? "iptables" : "ip6tables"}-save -c -t mangle`);
    const found = stdout.split("\n").filter((line) => line.replace(/^\[\d+:\d+\] -A MAILFW-(IN|DROP) /, "") === rule);
    expect(found).toHaveLength(1);
    return Number(/^\[(\d+):/.exec(found[0]!)![1]);
  }
  const log = '-m limit --limit 3/min --limit-burst 10 -j LOG --log-prefix "mail-firewall: " --log-level 6';

  test("without options, services are reached at every address, through every interface", async () => {
    await load({});
    expect(await verdicts("eth0", ...services, "tcp/3306")).toEqual(each("open").map((all) => [...all, "shut"]));
    expect(await verdicts("eth0, second address", ...overTcp)).toEqual(each("open", overTcp));
    expect(await verdicts("wg0", ...services, "tcp/3306")).toEqual(each("open").map((all) => [...all, "shut"]));
  });

  test.each([
    ["eth0", "eth0", "wg0"],
    ["wg+", "wg0", "eth0"],
  ] as const)("external interface %s: services through it only, SSH through any", async (name, external, other) => {
    await load({ externalInterface: name });
    expect(await verdicts(external, ...services)).toEqual(each("open"));
    expect(await verdicts(other, ...services)).toEqual(each("shut"));
    expect(await verdicts(external, ...ssh)).toEqual(open);
    expect(await verdicts(other, ...ssh)).toEqual(open);
  });

  test("an external interface that is not there closes the services, never SSH", async () => {
    await load({ externalInterface: "eht0" });
    expect(await verdicts("eth0", ...services)).toEqual(each("shut"));
    expect(await verdicts("eth0", ...ssh)).toEqual(open);
  });

  test("external addresses: services at them only, SSH at any", async () => {
    await load({ externalAddress: [host.address4, host.address6], externalInterface: "eth0" });
    expect(await verdicts("eth0", ...services)).toEqual(each("open"));
    expect(await verdicts("eth0, second address", ...services)).toEqual(each("shut"));
    expect(await verdicts("eth0, second address", ...ssh)).toEqual(open);
    await load({ externalAddress: [host.address4, host.address6, second4, second6] });
    expect(await verdicts("eth0", ...services)).toEqual(each("open"));
    expect(await verdicts("eth0, second address", ...overTcp)).toEqual(each("open", overTcp));
    expect(await verdicts("wg0", ...services)).toEqual(each("shut"));
  });

  test("an external address of one family: no service over the other, SSH over both", async () => {
    await load({ externalAddress: [host.address4] });
    expect(await verdicts("eth0", ...services)).toEqual([each("open")[0], each("shut")[1]]);
    expect(await verdicts("eth0", ...ssh)).toEqual(open);
    await load({ externalAddress: [host.address6] });
    expect(await verdicts("eth0", ...services)).toEqual([each("shut")[0], each("open")[1]]);
    expect(await verdicts("eth0", ...ssh)).toEqual(open);
  });

  const closed = ["tcp/3306", "tcp/113", "udp/5353"];
  const allClosed = [0, 1].map(() => closed.map(() => "shut"));
  const allOpen = [0, 1].map(() => closed.map(() => "open"));

  test.each<[string, HostOptions]>([
    ["interface", { trustedInterfaces: ["wg0"] }],
    ["interface by pattern, beside an external one", { trustedInterfaces: ["w+"], externalInterface: "eth0" }],
    ["network", { trustedNetworks: ["10.61.0.0/24", "fd61::/64"] }],
    [
      "network, beside an external interface",
      { trustedNetworks: ["10.61.0.0/24", "fd61::/64"], externalInterface: "eth0" },
    ],
  ])("a trusted %s reaches every port, others none more", async (_, options) => {
    await load(options);
    expect(await verdicts("wg0", ...closed)).toEqual(allOpen);
    expect(await verdicts("wg0", ...services)).toEqual(each("open"));
    expect(await verdicts("eth0", ...closed)).toEqual(allClosed);
    expect(await verdicts("eth0", ...services)).toEqual(each("open"));
  });

  test.each([
    [4, "10.61.0.9", "10.61.0.0/24"],
    [6, "fd61::9", "fd61::/64"],
  ] as const)("IPv%i: a trusted network is forged on the external interface", async (family, source, network) => {
    const forgery = { source, target: family === 4 ? host.address4 : host.address6, port: 51820, count: 5 };
    await load({ trustedNetworks: [network] });
    await forge(client, forgery);
    expect(await count(`-s ${network} -j RETURN`, family)).toBe(5); // nothing tells it from the real one
    await load({ trustedNetworks: [network], externalInterface: "eth0" });
    await forge(client, forgery);
    expect(await count(`-s ${network} -i eth0 -j DROP`, family)).toBe(5);
    expect(await count(`-s ${network} -j RETURN`, family)).toBe(0);
  });

  test("a trusted network that lies behind the external interface loses its services, but neither SSH nor its neighbours", async () => {
    await load({ externalInterface: "eth0", trustedNetworks: ["192.0.2.0/24", "2001:db8:61::/48"] });
    await host.run("ip neigh flush all");
    await execute("nsenter", ["-t", `${client.pid}`, "--net", "ip", "-6", "neigh", "flush", "all"]);
    expect(await verdicts("eth0", ...ssh)).toEqual(open);
    expect(await verdicts("eth0", ...services)).toEqual(each("shut"));
  });

  test("a packet that claims to come from 127.0.0.0/8 is dropped, unless it came through lo", async () => {
    await load({});
    const before = await count("-i lo -j RETURN");
    await forge(client, { source: "127.0.0.5", target: host.address4, port: 51820, count: 5 });
    expect(await count("-s 127.0.0.0/8 -j DROP")).toBe(5);
    expect(await count("-i lo -j RETURN")).toBe(before);
    for (const loopback of ["127.0.0.1", "::1"]) {
      expect((await host.run(`bash -c 'exec 3<>/dev/tcp/${loopback}/3306'`)).code).toBe(0);
    }
    expect(await count("-s 127.0.0.0/8 -j DROP")).toBe(5);
    expect(await count("-i lo -j RETURN")).toBeGreaterThan(before);
  });

  test("ident is a service like others where the policy opens it", async () => {
    const identd = { protocol: "tcp", port: 113, from: ["192.0.2.0/24"] };
    await load({}, { ...policy, ports: { identd } });
    expect(await verdicts("eth0", "tcp/113")).toEqual([["open"], ["shut"]]);
  });

  test("where nobody listens on an open ident, its client is refused at once and need not wait", async () => {
    const unheard = { protocol: "tcp", port: 8113, from: ["public"] };
    await load({}, { ...policy, ports: { unheard } });
    expect(await verdicts("eth0", "tcp/8113")).toEqual([["refused"], ["refused"]]);
  });

  test("a packet that claims to come from an IPv4-mapped address, which a dual-stack daemon takes for loopback, is dropped", async () => {
    await load({});
    await forge(client, { source: "::ffff:127.0.0.1", target: host.address6, port: 51820, count: 5 });
    expect(await count("-s ::ffff:0.0.0.0/96 -j DROP", 6)).toBe(5);
  });

  test("DHCP is let in by broadcast only", async () => {
    await load({});
    const rule = "-d 255.255.255.255/32 -p udp -m udp --sport 67 --dport 68 -j RETURN";
    await forge(client, { source: outside4, target: host.address4, port: 68, count: 5 });
    expect(await count(rule)).toBe(0);
    expect(await count("-p udp -m multiport --dports 67,68,137,138 -j DROP")).toBe(5);
  });

  test("what is dropped is logged, within the limit", async () => {
    await load({});
    await forge(client, { source: outside4, target: host.address4, port: 5353, count: 50 });
    await forge(client, { source: outside6, target: host.address6, port: 5353, count: 50 });
    for (const family of [4, 6] as const) {
      expect(await count(log, family)).toBe(10);
      expect(await count("-j DROP", family)).toBe(50);
    }
  });

  test("noise is dropped before the log, and what the user adds to it", async () => {
    await load({ noLog: ["udp/1900", "tcp/3306"] });
    for (const port of [67, 68, 137, 138, 1900]) {
      await forge(client, { source: outside4, target: host.address4, port, count: 2 });
      await forge(client, { source: outside6, target: host.address6, port, count: 2 });
    }
    const shut = ["tcp/135", "tcp/139", "tcp/445", "tcp/3306"];
    expect(await verdicts("eth0", ...shut)).toEqual([0, 1].map(() => shut.map(() => "shut")));
    for (const family of [4, 6] as const) {
      expect(await count("-p udp -m multiport --dports 67,68,137,138,1900 -j DROP", family)).toBe(10);
      expect(await count("-p tcp -m multiport --dports 135,139,445,3306 -j DROP", family)).toBeGreaterThanOrEqual(4);
      expect(await count(log, family)).toBe(0);
      expect(await count("-j DROP", family)).toBe(0);
    }
  });
});
