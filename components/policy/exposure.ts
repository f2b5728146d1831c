import { parseCidr, type Cidr } from "./cidr";
import { isRecord } from "./faults";
import { everyone, text, type Policy, type Sources } from "./policy";
import { catalogue, serviceNames } from "./services";

/** One line of what a reviewer reads: a service, its ports, and who can reach it. */
export interface Exposed {
  readonly name: string;
  readonly protocol: "tcp" | "udp";
  readonly ports: readonly number[];
  readonly sources: Sources;
}

/** Every service of a policy, closed ones too. */
export function exposed(policy: Policy): Exposed[] {
  return [
    ...serviceNames.map((name): Exposed => ({
      name,
      protocol: "tcp",
      ports: [catalogue[name].port],
      sources: policy.services[name],
    })),
    { name: "ssh", protocol: "tcp", ports: policy.sshPorts, sources: policy.ssh },
    ...Object.entries(policy.ports).map(([name, { protocol, port, from }]) => ({
      name,
      protocol,
      ports: [port],
      sources: from,
    })),
  ];
}

/**
 * What a reviewer reads: service → who can reach it, such as `imaps` → `tcp/993: public`.
 *
 * Every service of the catalogue is there, closed ones too, so that opening one changes a line and the spelling of a
 * policy changes none. A map, not a list: Pulumi compares lists by position, and one insertion would change every line.
 */
export function exposure(policy: Policy): Record<string, string> {
  return Object.fromEntries(exposed(policy).map((one) => [one.name, print(one)]));
}

/** Pulumi cuts lines of a preview at 150 characters, of which a dozen or two are the indentation and the service's name. */
const longest = 120;

/** Many networks stand one a line, each of them whole, so that an added one, also the last, is one added line in a preview. */
function print({ protocol, ports, sources }: Exposed): string {
  const head = `${protocol}/${ports.join(",")}:`;
  const line = `${head} ${text(sources)}`;
  return line.length <= longest ? line : [head, ...sources.map((source) => source.text), ""].join("\n");
}

/**
 * Reads back what {@link exposure} has printed, in this version or one that differs only in where it breaks lines.
 *
 * @returns undefined where anything is not as it should be: what is half understood must not be compared.
 */
export function readExposure(texts: unknown): Exposed[] | undefined {
  if (!isRecord(texts)) return undefined;
  const found: Exposed[] = [];
  const seen = new Set<string>();
  for (const [name, line] of Object.entries(texts)) {
    const match = typeof line === "string" ? /^(tcp|udp)\/([1-9][\d,]*):(?: ([^\n]+)|\n([^]+)\n)$/.exec(line) : null;
    const ports = match?.[2]!.split(",").map(Number) ?? [];
    const sources = match && readSources(match[3] ?? match[4]!);
    if (!sources) return undefined;
    const protocol = match[1] as "tcp" | "udp";
    for (const port of ports) {
      // A port that two lines name would be open to the sources of both, or of one: nobody knows.
      if (port < 1 || port > 65535 || seen.has(`${protocol}/${port}`)) return undefined;
      seen.add(`${protocol}/${port}`);
    }
    found.push({ name, protocol, ports, sources });
  }
  return found;
}

function readSources(words: string): Sources | undefined {
  if (words === "public") return everyone;
  if (words === "closed") return [];
  const networks = words.split(/, |\n/).map(parseCidr);
  return networks.every((network): network is Cidr => typeof network !== "string") ? networks : undefined;
}
