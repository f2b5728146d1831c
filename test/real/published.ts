// Ports that containers publish: what a policy says of them, and who gets through to which.
import { rulesets } from "../../components/host/ruleset";
import { Faults } from "../../components/policy/faults";
import { readPolicy, rules, type PolicyArgs } from "../../components/policy/policy";
import { command, install } from "../integration/example";
import type { MailHost } from "../sandbox/host";
import { probe, type Client, type Probe } from "../sandbox/probe";

/** Somebody's addresses, IPv4 and IPv6. */
type Source = [string, string];
/** Tests that run at the same time have clients of their own. */
const worker = Number(process.env.JEST_WORKER_ID ?? 1);
export const friend: Source = [`192.0.2.${32 + 2 * worker}`, `2001:db8:d::${32 + 2 * worker}`];
export const stranger: Source = [`192.0.2.${33 + 2 * worker}`, `2001:db8:d::${33 + 2 * worker}`];
export const operator: Source = [`203.0.113.${150 + worker}`, `2001:db8:113::${150 + worker}`];

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

/** What the container listens on. */
export const listen = { tcp: [22, 25, 143, 993, 3306], udp: [5353, 51820] };
/** As what it is published. 8993 is in the policy, 993 is not; with 4025 and 25 it is the other way round. */
export const published = [
  "2022:22",
  "25:25",
  "4025:25",
  "143:143",
  "8993:993",
  "3306:3306",
  "5353:5353/udp",
  "51820:51820/udp",
]
  .map((ports) => `-p ${ports}`)
  .join(" ");
export const all = ["tcp/25", "tcp/143", "tcp/2022", "tcp/3306", "tcp/4025", "tcp/8993", "udp/5353", "udp/51820"];

/** Of the published ports, those that answer each source: over IPv4, and over IPv6. */
export async function openTo(client: Client, host: MailHost, ...sources: Source[]): Promise<[string[], string[]][]> {
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

/** Over IPv4 and over IPv6. */
export const both = <T>(value: T): [T, T] => [value, value];

/** Whoever asks is let in to what the policy names, by the port that he asked for, and to nothing else. */
export async function judged(client: Client, host: MailHost): Promise<void> {
  expect(await openTo(client, host, friend, stranger, operator)).toEqual([
    both(["tcp/25", "tcp/143", "tcp/8993", "udp/51820"]),
    both(["tcp/25", "udp/51820"]),
    both(["tcp/25", "tcp/2022", "udp/51820"]),
  ]);
}

export async function deploy(host: Pick<MailHost, "run">): Promise<void> {
  await install(host);
  const text = rulesets(rules(readPolicy(policy, "", { any: true }, new Faults())), "mail-firewall/test/mx1");
  const applied = await host.run(`${command} apply`, text);
  expect(applied).toMatchObject({ code: 0 });
  expect(await host.run(`${command} confirm`, applied.stdout)).toMatchObject({ code: 0, stdout: "confirmed\n" });
}
