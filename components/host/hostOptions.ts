import { compareCidr, contains, parseAddress, parseCidr, type Cidr, type Family } from "../policy/cidr";
import { didYouMean, isRecord, join, show, type Faults } from "../policy/faults";
import { readNetworks, type Rule } from "../policy/policy";

/** What a host's firewall does besides its policy. */
export interface HostOptions {
  /**
   * The interface behind which the world lies, `eth0`, or `ppp+` for all whose names begin so: services are reached through it
   * only, and packets that claim there to come from `trustedNetworks` are dropped. SSH is never tied to it, so that a
   * wrong name locks nobody out. Defaults to any interface.
   */
  externalInterface?: string;
  /**
   * The host's fixed addresses, `["198.51.100.10", "2001:db8:51::10"]`: services are reached at these only; over a family of
   * which none is named, not at all. SSH is never tied to them. Defaults to any address that the host has at the time, which
   * is also right for addresses that change.
   */
  externalAddress?: string[];
  /** Interfaces, such as `["wg0", "br-+"]`; all that comes in through them is accepted. Defaults to none but loopback. */
  trustedInterfaces?: string[];
  /**
   * Networks in CIDR form; all that comes from them is accepted, except through `externalInterface` where one is named: nothing
   * else tells a packet from there from a forged one. Defaults to none.
   */
  trustedNetworks?: string[];
  /** How many dropped packets are logged: a number from 1 to 100 per sec, min, hour or day, or `off`. Defaults to `3/min`. */
  logging?: string;
  /**
   * Ports of which dropped packets are never logged, such as `["tcp/23", "udp/1900"]`, besides those of Windows networks and DHCP,
   * which are noise everywhere. Defaults to none.
   */
  noLog?: string[];
  /**
   * Seconds after which new rules go back to the last good ones, unless a new SSH connection has succeeded; from 10 to 3600.
   * Defaults to 60.
   */
  rollbackSeconds?: number;
  /** Whether to take over a host that another stack or resource has. Defaults to false: it is refused. */
  takeOver?: boolean;
  /** What destroying leaves on the host: `restore` what was there before, or `keep` the rules. Defaults to `restore`. */
  onDestroy?: string;
  /** Whether destroying leaves the host alone, without dialling it, because it is gone. Defaults to false. */
  abandon?: boolean;
}

/** {@link HostOptions}, complete and in canonical order. */
export interface HostSettings {
  readonly externalInterface: string | undefined;
  /** Each as the network of it alone; never empty. Undefined: any address of the host. */
  readonly externalAddress: readonly Cidr[] | undefined;
  readonly trustedInterfaces: readonly string[];
  readonly trustedNetworks: readonly Cidr[];
  /** A rate as iptables prints it, or `off`. */
  readonly logging: string;
  readonly noLog: readonly LogPort[];
  readonly rollbackSeconds: number;
  readonly takeOver: boolean;
  readonly onDestroy: "restore" | "keep";
  readonly abandon: boolean;
}

/** A port of which dropped packets are not logged. */
export interface LogPort {
  readonly protocol: "tcp" | "udp";
  readonly port: number;
}

export const defaultSettings: HostSettings = {
  externalInterface: undefined,
  externalAddress: undefined,
  trustedInterfaces: [],
  trustedNetworks: [],
  logging: "3/min",
  noLog: [],
  rollbackSeconds: 60,
  takeOver: false,
  onDestroy: "restore",
  abandon: false,
};

/** Each reads one option that was given, and returns undefined where it has added a fault. */
const readers: {
  readonly [Key in keyof HostSettings]: (value: unknown, path: string, faults: Faults) => HostSettings[Key] | undefined;
} = {
  externalInterface: readInterface,
  externalAddress: readAddresses,
  trustedInterfaces: readInterfaces,
  trustedNetworks: readTrustedNetworks,
  logging: readLogging,
  noLog: readNoLog,
  rollbackSeconds: (value, path, faults) => {
    if (typeof value === "number" && Number.isInteger(value) && value >= 10 && value <= 3600) return value;
    return refuse(faults, path, value, "is not a number of seconds; write a whole number from 10 to 3600");
  },
  takeOver: readBoolean,
  onDestroy: (value, path, faults) => {
    if (value === "restore" || value === "keep") return value;
    const hint = typeof value === "string" ? didYouMean(value, ["restore", "keep"]) : '; write "restore" or "keep"';
    return refuse(faults, path, value, `is not what destroying can do${hint}`);
  },
  abandon: readBoolean,
};

export const hostOptionKeys = Object.keys(readers) as (keyof HostSettings & keyof HostOptions)[];

/**
 * Reads the options among the keys of `value`; whatever is wrong with them is added to `faults`.
 *
 * @param at where they stand, for the paths of faults.
 * @param common the settings of all hosts; those that are given here win.
 */
export function readHostOptions(
  value: unknown,
  at: string,
  faults: Faults,
  common: HostSettings = defaultSettings,
): HostSettings {
  if (!isRecord(value)) {
    faults.add(at, `${show(value)} is not a map; write { trustedInterfaces: [wg0] }`);
    return common;
  }
  const given = Object.fromEntries(
    hostOptionKeys
      .filter((key) => value[key] !== undefined)
      .map((key) => [key, readers[key](value[key], join(at, key), faults)])
      .filter(([, read]) => read !== undefined),
  ) as Partial<HostSettings>;
  const settings = { ...common, ...given };
  const { externalInterface, trustedInterfaces } = settings;
  const both = trustedInterfaces.find((name) => externalInterface !== undefined && overlap(name, externalInterface));
  const key = (["trustedInterfaces", "externalInterface"] as const).find((option) => option in given);
  if (both !== undefined && key) {
    const names = both === externalInterface ? show(both) : `${show(both)} and ${show(externalInterface)}`;
    faults.add(join(at, key), `${names} cannot be both trusted and external; everything would be open to the world`);
  }
  return settings;
}

/** What a careful reader should be told about settings that are valid, under the rules of a policy. */
export function hostWarnings(settings: HostSettings, rules: readonly Rule[]): string[] {
  const { externalAddress, trustedNetworks } = settings;
  const found: string[] = [];
  for (const family of [4, 6] as const) {
    const served = rules.some((rule) => isService(rule) && rule.family === family);
    if (served && externalAddress && !externalAddress.some((address) => address.family === family)) {
      found.push(`externalAddress names no IPv${family} address: no service is reached over IPv${family}`);
    }
  }
  const others = trustedNetworks.filter((network) => !privateNetworks.some((range) => contains(range, network)));
  if (others.length > 0) {
    const names = others.map((network) => network.text).join(", ");
    found.push(`trustedNetworks holds public addresses, to which every port is open: ${names}`);
  }
  return found;
}

/** Whether a rule admits to a service of the host, as opposed to SSH, ICMP and what the host itself sends. */
export function isService(rule: Rule): boolean {
  return rule.direction === "in" && rule.port !== undefined && rule.service !== "ssh";
}

/** The addresses of one family; undefined where any is right. */
export function addressesOf(settings: HostSettings, family: Family): readonly Cidr[] | undefined {
  return settings.externalAddress?.filter((address) => address.family === family);
}

const parsed = (...texts: string[]) => texts.map((text) => parseCidr(text) as Cidr);

/** Not routed in the Internet: RFC 1918, RFC 6598, RFC 3927, RFC 4193, RFC 4291 §2.5.6. */
const privateNetworks = parsed(
  ...["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "169.254.0.0/16", "fc00::/7", "fe80::/10"],
);

/** Of which no address is one that a service is reached at: unspecified, loopback, multicast and broadcast (RFC 6890). */
const notOfHosts = parsed("0.0.0.0/8", "127.0.0.0/8", "224.0.0.0/3", "::/127", "ff00::/8");

function refuse(faults: Faults, path: string, value: unknown, problem: string): undefined {
  faults.add(path, `${show(value)} ${problem}`);
}

function readBoolean(value: unknown, path: string, faults: Faults): boolean | undefined {
  return typeof value === "boolean" ? value : refuse(faults, path, value, "is neither true nor false");
}

/** Reads every item of a list, and reports those that `same` finds twice. */
function readList<T>(
  value: unknown,
  path: string,
  faults: Faults,
  example: string,
  read: (item: unknown, path: string, faults: Faults) => T | undefined,
  same: (a: T, b: T) => boolean,
): T[] | undefined {
  if (!Array.isArray(value)) return refuse(faults, path, value, `is not a list; write ${example}`);
  const found: T[] = [];
  (value as unknown[]).forEach((item, i) => {
    const one = read(item, `${path}[${i}]`, faults);
    if (one === undefined) return;
    const twin = found.find((other) => same(one, other));
    if (twin !== undefined) {
      const problem = typeof one === "string" && one !== twin ? `overlaps ${show(twin)}` : "is listed twice";
      refuse(faults, `${path}[${i}]`, item, `${problem}; delete one`);
    }
    found.push(one);
  });
  return found;
}

function readInterface(value: unknown, path: string, faults: Faults): string | undefined {
  const name = typeof value === "string" ? value : "";
  // The kernel has no name with a colon; what ifconfig calls eth0:1 is one more address of eth0.
  const alias = /^([A-Za-z0-9_][A-Za-z0-9_.-]*):[A-Za-z0-9_.:-]*$/.exec(name);
  if (alias) return refuse(faults, path, value, `is an alias, of which packets know nothing; write ${show(alias[1])}`);
  // IFNAMSIZ is 16 with the final zero, also for a pattern.
  if (!/^[A-Za-z0-9_][A-Za-z0-9_.-]*\+?$/.test(name) || name.length > 15) {
    return refuse(
      faults,
      path,
      value,
      'is not the name of an interface; write one such as "eth0", or "ppp+" for ppp0, ppp1 ...',
    );
  }
  return overlap(name, "lo")
    ? refuse(faults, path, value, "is the loopback interface, through which everything is accepted; delete it")
    : name;
}

function readInterfaces(value: unknown, path: string, faults: Faults): string[] | undefined {
  return readList(value, path, faults, "[wg0]", readInterface, overlap)?.sort();
}

/** Whether some interface has both names, of which a final `+` stands for any rest. */
function overlap(a: string, b: string): boolean {
  const covers = (pattern: string, name: string) => pattern.endsWith("+") && name.startsWith(pattern.slice(0, -1));
  return a === b || covers(a, b) || covers(b, a);
}

function readAddresses(value: unknown, path: string, faults: Faults): Cidr[] | undefined {
  if (typeof value === "string") {
    const one = readAddress(value, path, faults);
    return one && [one];
  }
  if (Array.isArray(value) && value.length === 0) {
    faults.add(path, "is an empty list; write the host's addresses, or delete it");
    return undefined;
  }
  const example = '["198.51.100.10", "2001:db8::10"]';
  return readList(value, path, faults, example, readAddress, (a, b) => a.text === b.text)?.sort(compareCidr);
}

function readAddress(value: unknown, path: string, faults: Faults): Cidr | undefined {
  const address = parseAddress(typeof value === "string" ? value : "");
  if (typeof address === "string") return refuse(faults, path, value, address);
  return notOfHosts.some((range) => contains(range, address))
    ? refuse(faults, path, value, "is never the address of one host; write one that the host has")
    : address;
}

function readTrustedNetworks(value: unknown, path: string, faults: Faults): Cidr[] | undefined {
  if (!Array.isArray(value)) {
    return refuse(faults, path, value, 'is not a list; write networks such as ["10.8.0.0/24"]');
  }
  return readNetworks(value, path, faults, (_, network) =>
    typeof network !== "string" && network.prefix === 0
      ? "is everyone: there would be no firewall; write networks such as 10.8.0.0/24"
      : undefined,
  );
}

/** Units of a rate as iptables has them, the longest first, in its own unit of 1/10000 second (xt_limit.h). */
const units = { day: 864_000_000, hour: 36_000_000, min: 600_000, sec: 10_000 } as const;

/** Reads a rate, and returns it as iptables prints it: `60/min` as `1/sec`. */
function readLogging(value: unknown, path: string, faults: Faults): string | undefined {
  if (value === "off") return value;
  const match = typeof value === "string" ? /^([1-9]\d?|100)\/(sec|min|hour|day)$/.exec(value) : null;
  if (!match) {
    return refuse(faults, path, value, 'is not a rate; write "3/min" (1 to 100 per sec, min, hour or day), or "off"');
  }
  const period = Math.floor(units[match[2] as keyof typeof units] / Number(match[1]));
  // libxt_limit.c, print_rate: the last unit, from the longest on, before one of which no whole number is left.
  const all = Object.entries(units);
  const unfit = all.findIndex(([, unit]) => period > unit || Math.floor(unit / period) < unit % period);
  const [name, unit] = unfit === -1 ? all.at(-1)! : all[Math.max(unfit - 1, 0)]!;
  return `${Math.floor(unit / period)}/${name}`;
}

function readNoLog(value: unknown, path: string, faults: Faults): LogPort[] | undefined {
  const read = (item: unknown, at: string): LogPort | undefined => {
    const match = typeof item === "string" ? /^(tcp|udp)\/([1-9]\d{0,4})$/.exec(item) : null;
    const port = Number(match?.[2]);
    if (match && port <= 65535) return { protocol: match[1] as "tcp" | "udp", port };
    return refuse(faults, at, item, 'is not a port; write one such as "tcp/23" or "udp/1900"');
  };
  const same = (a: LogPort, b: LogPort) => a.protocol === b.protocol && a.port === b.port;
  return readList(value, path, faults, '["tcp/23"]', read, same)?.sort((a, b) => a.port - b.port);
}
