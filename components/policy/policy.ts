import { compareCidr, contains, parseCidr, type Cidr, type Family } from "./cidr";
import { didYouMean, isRecord, join, show, type Faults } from "./faults";
import { aliases, catalogue, groups, serviceNames, type ServiceName } from "./services";

/** Who may reach a service: networks, IPv4 first; `public` is both networks of everything; empty is closed. */
export type Sources = readonly Cidr[];

/** Something that the host serves besides mail. */
export interface Port {
  readonly protocol: "tcp" | "udp";
  readonly port: number;
  readonly from: Sources;
}

/** What the server may send by itself. Replies to what came in are not meant. */
export interface Egress {
  /** `open`: all; `mail`: only what a mail server needs. */
  readonly mode: "open" | "mail";
  /** Networks of the relay that takes the outgoing mail, with mode `mail`; empty: it is delivered to everyone. */
  readonly relay: Sources;
}

/** All that is decided about a mail server's firewall; plain data in canonical order. */
export interface Policy {
  readonly services: Readonly<Record<ServiceName, Sources>>;
  /** Who may reach SSH, on `sshPorts`. */
  readonly ssh: Sources;
  readonly sshPorts: readonly number[];
  /** By name, in the order of their ports. */
  readonly ports: Readonly<Record<string, Port>>;
  readonly egress: Egress;
}

/** One atom of a policy: what is admitted. There are no denials; what no rule admits is dropped. */
export interface Rule {
  readonly direction: "in" | "out";
  readonly family: Family;
  /** `all` is every protocol and port. */
  readonly protocol: "tcp" | "udp" | "icmp" | "icmpv6" | "all";
  /** Destination port, for `tcp` and `udp`. */
  readonly port?: number;
  /** ICMP or ICMPv6 type, with any code. */
  readonly icmpType?: number;
  /** Who may reach it; of an outbound rule, who may be reached. */
  readonly source: Cidr;
  /** The service's name: of the catalogue, of `ports`, or `ssh`, `icmp`, `icmpv6`, `egress`. */
  readonly service: string;
  /** Why it is open. */
  readonly reason: string;
}

/** Another port that a host serves. */
export interface PortArgs {
  /** `tcp` or `udp`. */
  protocol: string;
  /** Its number, from 1 to 65535. */
  port: number;
  /** Who may reach it: networks in CIDR form, `["public"]`, or `["closed"]`. */
  from: string[];
}

/** What the server may send. */
export interface EgressArgs {
  /**
   * `open` (the default), or `mail`: deliver mail (tcp/25), DNS, NTP, HTTP and HTTPS (certificates, updates, blocklists) and ICMP,
   * to everyone over both families, and nothing else.
   */
  mode?: string;
  /**
   * The relay that takes all outgoing mail, by networks in CIDR form, or `["public"]` where its addresses change: submission to
   * it (tcp/465 and tcp/587) in place of tcp/25. Its mode is `mail`.
   */
  relay?: string[];
}

/** A policy as its author writes it: who may reach what, and what the server may send. */
export interface PolicyArgs {
  /**
   * Who may reach which mail service: service or group of services → `["public"]`, `["closed"]`, or networks in CIDR form.
   *
   * Services, by their IANA names, all of them TCP: `smtp` 25, `http` 80, `pop3` 110, `imap` 143, `https` 443, `submissions` 465 (or
   * `smtps`, its name before RFC 8314), `submission` 587, `imaps` 993, `pop3s` 995 and `sieve` 4190. Groups: `plain` (imap, pop3),
   * `secured` (submissions, imaps, pop3s) and `web` (http, https). A service named itself wins over its group. `smtp` is public
   * when it is not named, everything else closed.
   */
  services?: Record<string, string[]>;
  /** Who may reach SSH: networks in CIDR form, `["public"]`, or `["closed"]` where no host is deployed over it. */
  ssh: string[];
  /** TCP ports that sshd listens on. Defaults to `[22]`, for a host to the port that is dialled. */
  sshPorts?: number[];
  /** What the host serves besides mail, by a name of at most 15 letters, digits and hyphens. */
  ports?: Record<string, PortArgs>;
  /** What the server may send: everything, unless it says otherwise. Enforced by the security group only, not by hosts. */
  egress?: EgressArgs;
}

export const policyKeys = ["services", "ssh", "sshPorts", "ports", "egress"] as const;

const anyIPv4 = parseCidr("0.0.0.0/0") as Cidr;
const anyIPv6 = parseCidr("::/0") as Cidr;

/** The whole world, over both families. */
export const everyone: Sources = [anyIPv4, anyIPv6];

export function isPublic(sources: Sources): boolean {
  return sources.length === 2 && sources.every((source) => source.prefix === 0);
}

/**
 * Reads a policy; whatever is wrong with it is added to `faults`.
 *
 * @param at where the policy stands, for the paths of faults: "" in code, `mail-firewall:` in stack config.
 * @param hosts what the hosts decide: whether there are any, so that SSH must be open, and the ports of their sshd.
 */
export function readPolicy(
  args: PolicyArgs,
  at: string,
  hosts: { any: boolean; sshPorts?: readonly number[] | undefined },
  faults: Faults,
): Policy {
  const ports = new Set([
    ...readSshPorts(args.sshPorts ?? [], join(at, "sshPorts"), faults),
    ...(hosts.sshPorts ?? []),
  ]);
  const sshPorts = ports.size === 0 ? [22] : [...ports].sort((a, b) => a - b);
  return {
    services: readServices(args.services, join(at, "services"), faults),
    ssh: readSsh(args.ssh, join(at, "ssh"), hosts.any, faults),
    sshPorts,
    ports: readOtherPorts(args.ports, join(at, "ports"), sshPorts, faults),
    egress: readEgress(args.egress, join(at, "egress"), faults),
  };
}

/** Reads who may reach something: `["public"]`, `["closed"]`, or networks. */
export function readSources(value: unknown, path: string, faults: Faults): Sources {
  if (value === undefined) {
    faults.add(path, 'is missing; write who may reach it, such as ["10.20.0.0/16"]');
    return [];
  }
  if (!Array.isArray(value)) {
    faults.add(path, `${show(value)} is not a list; write ["public"], ["closed"] or networks such as ["10.20.0.0/16"]`);
    return [];
  }
  if (value.length === 0) faults.add(path, 'is an empty list; write who may reach it, or "closed" for nobody');
  const items = value as unknown[];
  if (items.length === 1 && items[0] === "public") return everyone;
  if (items.length === 1 && items[0] === "closed") return [];
  return readNetworks(items, path, faults, (item) =>
    item === "public" || item === "closed" ? "stands alone; delete it or the rest of the list" : undefined,
  );
}

/**
 * Reads networks of which none lies inside another.
 *
 * @param refuse says what is wrong with an item, besides what is wrong with any that is no network.
 */
export function readNetworks(
  items: readonly unknown[],
  path: string,
  faults: Faults,
  refuse: (item: unknown, network: Cidr | string) => string | undefined,
): Cidr[] {
  const found: { cidr: Cidr; i: number }[] = [];
  items.forEach((item, i) => {
    const network = typeof item === "string" ? parseCidr(item) : 'is not text; write a network such as "10.20.0.0/16"';
    const cidr = refuse(item, network) ?? network;
    if (typeof cidr === "string") faults.add(`${path}[${i}]`, `${show(item)} ${cidr}`);
    else found.push({ cidr, i });
  });
  found.sort((a, b) => compareCidr(a.cidr, b.cidr) || a.i - b.i);
  // Networks are apart, or one holds the other; in this order, whatever holds a network comes before it.
  let outer: (typeof found)[number] | undefined;
  for (const inner of found) {
    if (outer && contains(outer.cidr, inner.cidr)) {
      const at = Math.max(outer.i, inner.i);
      const twice = outer.cidr.text === inner.cidr.text;
      const problem = twice ? "is listed twice" : `overlaps: ${inner.cidr.text} lies inside ${outer.cidr.text}`;
      faults.add(`${path}[${at}]`, `${show(items[at])} ${problem}; delete one`);
    } else outer = inner;
  }
  return found.map(({ cidr }) => cidr);
}

/** The rules of a policy, in the order of port, protocol and source; inbound before outbound. */
export function rules(policy: Policy): Rule[] {
  const open: Rule[] = [];
  const admit = (protocol: "tcp" | "udp", port: number, sources: Sources, service: string, reason: string) => {
    for (const source of sources) {
      open.push({ direction: "in", family: source.family, protocol, port, source, service, reason });
    }
  };
  for (const name of serviceNames) {
    admit("tcp", catalogue[name].port, policy.services[name], name, catalogue[name].description);
  }
  for (const port of policy.sshPorts) admit("tcp", port, policy.ssh, "ssh", "administration");
  for (const [name, port] of Object.entries(policy.ports)) {
    admit(port.protocol, port.port, port.from, name, "other port of the host");
  }
  open.sort((a, b) => a.port! - b.port! || compareText(a.protocol, b.protocol) || compareCidr(a.source, b.source));
  return [...open, ...icmpRules("in"), ...egressRules(policy.egress)];
}

/**
 * ICMP and ICMPv6 types that a host needs from everywhere, and should send: errors, without which path MTU discovery fails
 * (RFC 4890 §4.3.1, RFC 2979 §3.1.1) and others wait for what will never come (RFC 1122 §3.2.2.1), and the echo request by
 * which a fault is found.
 */
const icmpRules = (direction: "in" | "out"): Rule[] => [
  ...(
    [
      [3, "destination unreachable"],
      [8, "echo request"],
      [11, "time exceeded"],
      [12, "parameter problem"],
    ] as const
  ).map(([icmpType, reason]) => everywhere(direction, "icmp", 4, icmpType, reason)),
  ...(
    [
      [1, "destination unreachable"],
      [2, "packet too big"],
      [3, "time exceeded"],
      [4, "parameter problem"],
      [128, "echo request"],
    ] as const
  ).map(([icmpType, reason]) => everywhere(direction, "icmpv6", 6, icmpType, reason)),
];

function egressRules({ mode, relay }: Egress): Rule[] {
  const rule = (protocol: "tcp" | "udp" | "all", port: number | undefined, to: Cidr, reason: string): Rule => ({
    ...{ direction: "out", family: to.family, protocol },
    ...(port !== undefined && { port }),
    ...{ source: to, service: "egress", reason },
  });
  if (mode === "open") {
    return everyone.map((to) => rule("all", undefined, to, "deliver mail, resolve names, fetch updates"));
  }
  const mail = [465, 587].flatMap((port) => relay.map((to) => rule("tcp", port, to, "hand mail to the relay")));
  return [
    ...(relay.length > 0 ? mail : everyone.map((to) => rule("tcp", 25, to, "deliver mail"))),
    ...(
      [
        ["tcp", 53, "resolve names, long answers"], // which come over TCP (RFC 7766 §5)
        ["udp", 53, "resolve names"],
        ["tcp", 80, "certificates, updates, blocklists"],
        ["udp", 123, "set the clock"],
        ["tcp", 443, "certificates, updates, blocklists"],
      ] as const
    ).flatMap(([protocol, port, reason]) => everyone.map((to) => rule(protocol, port, to, reason))),
    ...icmpRules("out"),
  ];
}

function everywhere(
  direction: "in" | "out",
  protocol: "icmp" | "icmpv6",
  family: Family,
  icmpType: number,
  reason: string,
): Rule {
  const source = family === 4 ? anyIPv4 : anyIPv6;
  return { direction, family, protocol, icmpType, source, service: protocol, reason };
}

/**
 * What a careful reader should be told about a policy that is valid.
 *
 * @param group whether a security group enforces it.
 */
export function warnings(policy: Policy, group: boolean): string[] {
  const { services, ssh, ports, egress } = policy;
  const found: string[] = [];
  if (services.smtp.length === 0) found.push("smtp (tcp/25) is closed: this host receives no mail from other servers");
  else if (publicFamilies(services.smtp).length === 0) {
    found.push(`smtp (tcp/25) is open only to ${text(services.smtp)}: other servers cannot deliver here directly`);
  }
  if (publicFamilies(ssh).length > 0) {
    found.push("ssh is public: everyone may try passwords and keys; name the networks you work from");
  }
  const others = Object.entries(ports).map(([name, { from }]) => [name, from] as const);
  for (const [name, sources] of [...serviceNames.map((name) => [name, services[name]] as const), ...others]) {
    const families = publicFamilies(sources);
    if (families.length === 1) found.push(`${name} is public over IPv${families.join()} only`);
  }
  if (egress.mode !== "open" && !group) {
    found.push(
      "egress has no effect here: hosts do not restrict what they send, only a security group does; add one, or delete egress",
    );
  }
  return found;
}

function publicFamilies(sources: Sources): Family[] {
  return sources.filter((source) => source.prefix === 0).map((source) => source.family);
}

/** Sources as a person reads them: `public`, `closed`, or the networks. */
export function text(sources: Sources): string {
  if (sources.length === 0) return "closed";
  return isPublic(sources) ? "public" : sources.map((source) => source.text).join(", ");
}

function readServices(value: unknown, path: string, faults: Faults): Record<ServiceName, Sources> {
  const named = new Map<ServiceName, { key: string; sources: Sources }>();
  const grouped = new Map<ServiceName, { key: string; sources: Sources }>();
  if (value !== undefined && !isRecord(value)) {
    faults.add(path, `${show(value)} is not a map; write one line a service, such as "imaps: public"`);
  }
  for (const [key, from] of isRecord(value) ? Object.entries(value) : []) {
    const where = join(path, key);
    const service = Object.hasOwn(aliases, key) ? aliases[key] : serviceNames.find((name) => name === key);
    if (key === "ssh") {
      faults.add(
        where,
        `SSH is not a mail service; write it beside the services, as "${path.replace(/services$/, "ssh")}"`,
      );
    } else if (service) {
      const sources = readSources(from, where, faults);
      const twin = named.get(service);
      if (twin) {
        const alias = key === service ? twin.key : key; // whichever Pulumi hands over first
        faults.add(join(path, alias), `is the same service as ${service} (tcp/${catalogue[service].port}); delete one`);
      }
      named.set(service, { key, sources });
    } else if (Object.hasOwn(groups, key)) {
      const sources = readSources(from, where, faults);
      for (const member of groups[key]!) grouped.set(member, { key, sources });
    } else {
      const choice = [...serviceNames, ...Object.keys(aliases), ...Object.keys(groups)];
      faults.add(where, `unknown service${didYouMean(key, choice)}; what is not mail goes under "ports"`);
    }
  }
  // Other servers must be able to deliver, so port 25 is open unless its line says otherwise.
  const unnamed = (name: ServiceName) => (name === "smtp" ? everyone : []);
  return Object.fromEntries(
    serviceNames.map((name) => [name, (named.get(name) ?? grouped.get(name))?.sources ?? unnamed(name)]),
  ) as Record<ServiceName, Sources>;
}

function readSsh(value: unknown, path: string, required: boolean, faults: Faults): Sources {
  if (value === undefined) {
    faults.add(path, 'is missing; write who may reach SSH, such as ["203.0.113.0/24"]');
    return [];
  }
  const before = faults.list.length;
  const sources = readSources(value, path, faults);
  if (required && sources.length === 0 && faults.list.length === before) {
    faults.add(path, '"closed" would cut off the hosts that are deployed over SSH; write the networks you work from');
  }
  return sources;
}

/** Reads ports of sshd. */
export function readSshPorts(value: unknown, path: string, faults: Faults): number[] {
  if (!Array.isArray(value)) {
    faults.add(path, `${show(value)} is not a list of ports; write the ports that sshd listens on, such as [22]`);
    return [];
  }
  const found: number[] = [];
  (value as unknown[]).forEach((item, i) => {
    const port = readSshPort(item, `${path}[${i}]`, faults);
    if (port === undefined) return;
    if (found.includes(port)) faults.add(`${path}[${i}]`, `${port} is listed twice; delete one`);
    found.push(port);
  });
  return found;
}

/** Reads one port of sshd. */
export function readSshPort(value: unknown, path: string, faults: Faults): number | undefined {
  const port = readPort(value, path, faults);
  const service = port === undefined ? undefined : serviceOn(port);
  if (service) faults.add(path, `${port} is the port of ${service}; SSH needs one of its own`);
  return port;
}

function readOtherPorts(
  value: unknown,
  path: string,
  sshPorts: readonly number[],
  faults: Faults,
): Record<string, Port> {
  if (value === undefined) return {};
  if (!isRecord(value)) {
    faults.add(path, `${show(value)} is not a map; write "wireguard: { protocol: udp, port: 51820, from: public }"`);
    return {};
  }
  const found: [string, Port][] = [];
  for (const [name, entry] of Object.entries(value)) {
    const where = join(path, name);
    if (!/^[a-z](?:-?[a-z0-9]){0,14}$/.test(name) || name.length > 15) {
      // RFC 6335 §5.1; the name stands in the rule's comment on the host.
      faults.add(where, "is not a service name; use at most 15 of a-z, 0-9 and single hyphens, a letter first");
    } else if (reserved.includes(name)) {
      faults.add(where, `is a name of its own here; write it under "${name === "ssh" ? "ssh" : "services"}"`);
    }
    if (!isRecord(entry)) {
      faults.add(where, `${show(entry)} is not a map; write { protocol: udp, port: 51820, from: public }`);
      continue;
    }
    faults.unknownKeys(entry, ["protocol", "port", "from"], where);
    const { protocol } = entry;
    if (protocol !== "tcp" && protocol !== "udp") {
      const problem = protocol === undefined ? "is missing" : `${show(protocol)} is not a protocol here`;
      faults.add(join(where, "protocol"), `${problem}; write "tcp" or "udp"`);
    }
    const port = readPort(entry.port, join(where, "port"), faults);
    const from = readSources(entry.from, join(where, "from"), faults);
    if (port === undefined || (protocol !== "tcp" && protocol !== "udp")) continue;
    const service = protocol === "tcp" ? serviceOn(port) : undefined;
    const twin = found.find(([, other]) => other.protocol === protocol && other.port === port);
    if (service) faults.add(join(where, "port"), `tcp/${port} is ${service}; write it under "services"`);
    else if (protocol === "tcp" && sshPorts.includes(port)) {
      faults.add(join(where, "port"), `tcp/${port} is SSH; who may reach it is decided by "ssh"`);
    } else if (twin) faults.add(join(where, "port"), `${protocol}/${port} is also ${twin[0]}; delete one`);
    found.push([name, { protocol, port, from }]);
  }
  found.sort(([, a], [, b]) => a.port - b.port || compareText(a.protocol, b.protocol));
  return Object.fromEntries(found);
}

function readEgress(value: unknown, path: string, faults: Faults): Egress {
  const open: Egress = { mode: "open", relay: [] };
  if (value === undefined) return open;
  const right = 'write { mode: "mail" } or { relay: ["198.51.100.7/32"] }';
  if (!isRecord(value)) {
    faults.add(path, `${show(value)} is not a map; ${right}`);
    return open;
  }
  const modes = ["open", "mail"] as const;
  faults.unknownKeys(value, ["mode", "relay"], path);
  const { mode, relay } = value;
  if (mode === undefined && relay === undefined) faults.add(path, `says nothing; ${right}`);
  const known = modes.find((name) => name === mode);
  if (mode !== undefined && known === undefined) {
    faults.add(
      join(path, "mode"),
      `${show(mode)} is not a mode${didYouMean(typeof mode === "string" ? mode : "", modes)}`,
    );
  }
  if (relay !== undefined && known === "open") {
    faults.add(join(path, "relay"), 'restricts, and the mode "open" does not; delete one');
  }
  const to = relay === undefined ? [] : readRelay(relay, join(path, "relay"), faults);
  return { mode: known ?? (relay === undefined ? "open" : "mail"), relay: to };
}

function readRelay(value: unknown, path: string, faults: Faults): Sources {
  if (!Array.isArray(value)) {
    faults.add(path, `${show(value)} is not a list; write the relay's networks, such as ["198.51.100.7/32"]`);
    return [];
  }
  const items = value as unknown[];
  if (items.length === 0) faults.add(path, "is an empty list; write the relay's networks");
  if (items.length === 1 && items[0] === "public") return everyone;
  return readNetworks(items, path, faults, (item) =>
    item === "public" ? "stands alone; delete it or the rest of the list" : undefined,
  );
}

/** Names that `ports` cannot take, because rules already use them for something else. */
const reserved = [...serviceNames, ...Object.keys(aliases), ...Object.keys(groups), "ssh", "icmp", "icmpv6", "egress"];

export function readPort(value: unknown, path: string, faults: Faults): number | undefined {
  if (typeof value === "number" && Number.isInteger(value) && value >= 1 && value <= 65535) return value;
  const problem = value === undefined ? "is missing" : `${show(value)} is not a port`;
  faults.add(path, `${problem}; write a whole number from 1 to 65535`);
  return undefined;
}

function serviceOn(port: number): ServiceName | undefined {
  return serviceNames.find((name) => catalogue[name].port === port);
}

/** By code point, so that no locale changes the order of what is deployed. */
function compareText(a: string, b: string): number {
  return a < b ? -1 : a > b ? 1 : 0;
}
