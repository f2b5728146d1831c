// What of a host is open, seen from outside.
import type { Client, Probe, Verdict } from "./probe";
import { probe } from "./probe";
import type { MailHost } from "./host";

/** TCP ports of the catalogue, and others that the sandbox's hosts also answer on. */
export const tcpPorts = [25, 80, 110, 143, 443, 465, 587, 993, 995, 4190, 21, 22, 3306, 8080];
export const udpPorts = [51820, 5353];

/** Probes every port of a host from one machine, and sorts by verdict: `tcp/25`, `udp/51820`. */
export async function exposureOf(host: MailHost, client: Client, source: string): Promise<Record<Verdict, string[]>> {
  const target = source.includes(":") ? host.address6 : host.address4;
  const probes: Probe[] = [
    ...tcpPorts.map((port) => ({ source, target, protocol: "tcp" as const, port })),
    ...udpPorts.map((port) => ({ source, target, protocol: "udp" as const, port })),
  ];
  const verdicts = await probe(client, probes);
  const found: Record<Verdict, string[]> = { open: [], shut: [], refused: [] };
  probes.forEach(({ protocol, port }, i) => found[verdicts[i]!].push(`${protocol}/${port}`));
  return found;
}
