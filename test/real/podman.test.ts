// Ports that containers publish, with a real Podman and its netavark.
import { command } from "../integration/example";
import { startMailHost, type MailHost } from "../sandbox/host";
import { startPodmanHost, type PodmanHost } from "../sandbox/podman";
import { startClient, type Client } from "../sandbox/probe";
import { all, both, deploy, friend, judged, listen, openTo, operator, published, stranger } from "./published";

jest.setTimeout(120_000);

let client: Client;
let remote: MailHost;
let host: PodmanHost;
beforeAll(async () => {
  client = await startClient([friend, stranger, operator].flat());
  remote = await startMailHost({ listen: { tcp: [8080], udp: [] } }); // a port that the policy does not name
});
afterAll(() => Promise.all([client?.close(), remote?.close()]));

const saved = async () => [await host.save(4), await host.save(6)];
const startMail = () => host.startContainer("mx", listen, `--network mail ${published}`);

// With iptables-nft alone: netavark asks ip6tables -C which rules there are, and legacy 1.8.9 takes two for the same that only differ in
// their ports.
beforeEach(async () => {
  host = await startPodmanHost({ listen: { tcp: [], udp: [] } });
});
afterEach(() => host?.close());

test("published ports are judged by the policy, whether containers come before it or after it; remove leaves Podman's rules", async () => {
  await startMail();
  expect(await openTo(client, host, stranger)).toEqual([both(all)]);
  const before = await saved();
  expect(before.join("")).toContain("NETAVARK-HOSTPORT-DNAT");
  await deploy(host);
  await judged(client, host);
  expect(await host.must(`${command} remove`)).toBe("removed\n");
  expect(await saved()).toEqual(before);
  expect(await openTo(client, host, stranger)).toEqual([both(all)]);

  await deploy(host);
  await host.restart("mx");
  await judged(client, host);
  await host.must("podman rm -f -t 0 mx && rm -r /run/mx");
  await startMail();
  await judged(client, host);
  expect(await host.must(`${command} status`)).toMatch(/: as deployed\n/);
});

test("what containers do goes on: to the world, to each other, and through the host's address", async () => {
  await startMail();
  await host.startContainer("webmail", { tcp: [], udp: [] }, "--network mail");
  const [mx4, mx6] = (
    await host.must(
      "podman inspect -f '{{range .NetworkSettings.Networks}}{{.IPAddress}} {{.GlobalIPv6Address}}{{end}}' mx",
    )
  )
    .trim()
    .split(" ") as [string, string];
  const to = (port: number, ...targets: string[]) =>
    targets.map((target) => ({ target, protocol: "tcp" as const, port }));
  const probes = [
    ...to(8080, remote.address4, remote.address6),
    ...to(3306, mx4, mx6),
    ...to(3306, host.address4, host.address6),
  ];
  await deploy(host);
  expect(await host.probeFrom("webmail", probes)).toEqual(probes.map(() => "open"));
});
