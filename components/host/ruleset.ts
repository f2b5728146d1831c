import type { Family } from "../policy/cidr";
import type { Rule } from "../policy/policy";
import { addressesOf, defaultSettings, isService, type HostSettings, type LogPort } from "./hostOptions";

/**
 * Traffic to the host comes through `in`, traffic to the ports that containers publish through `forwarded`: Docker turns it
 * around to the container before it would come to INPUT. Both ask `open`, which gives back (RETURN) what the policy names, and
 * hands the rest to `drop`.
 */
const chains = {
  drop: "MAILFW-DROP",
  forwarded: "MAILFW-FWD",
  in: "MAILFW-IN",
  open: "MAILFW-OPEN",
  out: "MAILFW-OUT",
} as const;

/**
 * The `iptables-restore --noflush` text of one family: our own chains in the table `filter`, filled anew in one transaction.
 *
 * Every line is in the form in which `iptables-save` prints it back (iptables 1.8), so that what is live can be compared
 * with what was meant as text. The jumps from INPUT, OUTPUT and DOCKER-USER are not here: where they belong depends on what
 * else the host has, so the script on the host places them in the same transaction.
 *
 * @param owner who deploys it, `project/stack/name`. It stands in a rule that does nothing, so that the host knows whose
 * firewall it has: one that has been handed over, or whose resource has been renamed, is not removed with the old resource.
 */
export function ruleset(
  rules: readonly Rule[],
  family: Family,
  owner: string,
  settings: HostSettings = defaultSettings,
): string {
  const ours = rules.filter((rule) => rule.direction === "in" && rule.family === family);
  const ssh = ours.filter((rule) => rule.service === "ssh");
  const icmp = ours.filter((rule) => rule.icmpType !== undefined);
  const { entrances, published, limited } = entrancesOf(settings, family);
  const inbound = [
    `-m comment --comment "owner ${mark(owner)}"`,
    // SSH comes first and without connection tracking, so that loading these rules over SSH cannot cut that session: tracking
    // begins in mid-stream when the first rule that needs it is loaded. Nothing that may be configured wrong stands above.
    ...ssh.map(accept),
    "-i lo -j ACCEPT",
    // Whatever claims to come from loopback has not: that was accepted one line above.
    `-s ${family === 4 ? "127.0.0.0/8" : "::1/128"} -j DROP`,
    "-m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
    // ICMP before INVALID: an error about a flow that is not tracked counts as INVALID, and path MTU discovery needs it.
    ...icmp.map(accept),
    ...(family === 4 ? link4 : link6),
    // Behind what a host cannot live without, which comes from any address: a neighbour, or a router on the way, may well have
    // one of a network that is trusted elsewhere. Before INVALID and broadcasts, which are part of all traffic.
    ...trusted(settings, family),
    "-m conntrack --ctstate INVALID -j DROP",
    // A service is reached at an address of the host, whichever it has today; broadcast and multicast noise ends here.
    "-m addrtype ! --dst-type LOCAL -j DROP",
    ...entrances.flatMap((entrance) => [`${entrance}-j ${chains.open}`, `${entrance}-j ACCEPT`]),
    ...(limited ? [`-j ${chains.drop}`] : []),
  ];
  // What this gives back, the rules of others still decide about: Docker's own, and bans in DOCKER-USER.
  const forwarded = [
    "-m conntrack --ctstate RELATED,ESTABLISHED -j RETURN",
    // Containers may reach each other through the host's address, and everyone.
    ...bridges.map((name) => `-i ${name} -j RETURN`),
    // Whose sshd it is does not matter: a source is let in to a port of the host.
    ...ssh.map(giveBack),
    ...trustedForwarded(settings, family),
    ...published.flatMap((entrance) => [`${entrance}-j ${chains.open}`, ...(limited ? [`${entrance}-j RETURN`] : [])]),
    ...(limited ? toContainers.map((match) => `${match}-j ${chains.drop}`) : []),
  ];
  const open = [...ours.filter(isService).map(giveBack), `-j ${chains.drop}`];
  const drop = [
    ...(rules.some((rule) => rule.protocol === "tcp" && rule.port === 113) ? [] : [ident]),
    ...logging(settings),
    "-j DROP",
  ];
  // What SSH answers, for hosts where something else restricts OUTPUT to what connection tracking knows.
  const outbound = ssh.map(
    (rule) => `${address("-d", rule)}-p tcp -m tcp --sport ${rule.port} -m comment --comment ssh -j ACCEPT`,
  );
  // By name, as iptables-save prints them.
  const filled: [string, readonly string[]][] = [
    [chains.drop, drop],
    [chains.forwarded, forwarded],
    [chains.in, inbound],
    [chains.open, open],
    [chains.out, outbound],
  ];
  return [
    "*filter",
    ...filled.map(([chain]) => `:${chain} - [0:0]`),
    ...filled.flatMap(([chain, lines]) => lines.map((rule) => `-A ${chain} ${rule}`)),
    "COMMIT",
    "",
  ].join("\n");
}

/** Both families as the script on the host reads them from its standard input. */
export function rulesets(rules: readonly Rule[], owner: string, settings?: HostSettings): string {
  return `# IPv4\n${ruleset(rules, 4, owner, settings)}# IPv6\n${ruleset(rules, 6, owner, settings)}`;
}

/** Whether the kernel takes an owner: a comment has at most 255 characters (XT_MAX_COMMENT_LEN). */
export function fitsOwner(owner: string): boolean {
  return `owner ${mark(owner)}`.length <= 255;
}

/** An owner as a comment may hold it: a resource's name may be any text. iptables-save would print ' otherwise. */
function mark(owner: string): string {
  return owner
    .split("/")
    .map((part) => encodeURIComponent(part).replaceAll("'", "%27"))
    .join("/");
}

// A DHCP server may answer by broadcast, or to a client whose rebinding request went to everyone (RFC 2131 §4.4.5).
const link4 = ["-p udp -m udp --sport 67 --dport 68 -j ACCEPT"];

const link6 = [
  // Multicast listener discovery comes from link-local addresses (RFC 4890 §4.4.1).
  ...[130, 131, 132, 143].map((type) => `-s fe80::/10 -p ipv6-icmp -m icmp6 --icmpv6-type ${type} -j ACCEPT`),
  // Router and neighbour discovery never crosses a router: hop limit 255 (RFC 4861 §6.1, §7.1). Connection tracking does not
  // track it, so no rule about a state would ever match it.
  ...[133, 134, 135, 136].map((type) => `-p ipv6-icmp -m icmp6 --icmpv6-type ${type} -m hl --hl-eq 255 -j ACCEPT`),
  // DHCPv6 servers answer from their link-local address a request that went to multicast (RFC 8415 §7.1).
  "-s fe80::/10 -p udp -m udp --sport 547 --dport 546 -j ACCEPT",
];

// Docker names its bridges so, unless it is told otherwise.
const bridges = ["docker+", "br-+"];

/** What reaches containers: by a published port, or straight where Docker leaves that open. */
const toContainers = ["-m conntrack --ctstate DNAT ", ...bridges.map((name) => `-o ${name} `)];

interface Entrances {
  /** What reaches the services of the host. */
  readonly entrances: readonly string[];
  /** What reaches those of containers. */
  readonly published: readonly string[];
  /** Whether anything else does not. */
  readonly limited: boolean;
}

/** Matches of the ways to the services: one, unless an interface or addresses are named; none over a family without an address. */
function entrancesOf(settings: HostSettings, family: Family): Entrances {
  const { externalInterface } = settings;
  const through = externalInterface === undefined ? "" : `-i ${externalInterface} `;
  const addresses = addressesOf(settings, family)?.map(({ text }) => text);
  if (addresses === undefined) {
    return { entrances: [through], published: toContainers.map((match) => through + match), limited: through !== "" };
  }
  return {
    entrances: addresses.map((text) => `-d ${text} ${through}`),
    // Unlike an address of the packet's own, iptables-save prints this one without its prefix.
    published: addresses.map(
      (text) => `${through}-m conntrack --ctstate DNAT --ctorigdst ${text.replace(/\/\d+$/, "")} `,
    ),
    limited: true,
  };
}

function trusted({ externalInterface, trustedInterfaces, trustedNetworks }: HostSettings, family: Family): string[] {
  const networks = trustedNetworks.filter((network) => network.family === family);
  return [
    ...(externalInterface === undefined
      ? []
      : networks.map(({ text }) => `-s ${text} -i ${externalInterface} -j DROP`)),
    ...trustedInterfaces.map((name) => `-i ${name} -j ACCEPT`),
    ...networks.map(({ text }) => `-s ${text} -j ACCEPT`),
  ];
}

/** The same for containers; what is forged is subject to the policy, like everything. */
function trustedForwarded({ externalInterface, trustedInterfaces, trustedNetworks }: HostSettings, family: Family) {
  const inside = externalInterface === undefined ? "" : `! -i ${externalInterface} `;
  return [
    ...trustedInterfaces.filter((name) => !bridges.includes(name)).map((name) => `-i ${name} -j RETURN`),
    ...trustedNetworks
      .filter((network) => network.family === family)
      .map(({ text }) => `-s ${text} ${inside}-j RETURN`),
  ];
}

// Older mail servers ask who is calling (RFC 1413) before they take mail, and wait for the answer. The limit is there because
// whoever forges an address makes us answer to it.
const ident = "-p tcp -m tcp --dport 113 -m limit --limit 10/sec --limit-burst 20 -j REJECT --reject-with tcp-reset";

/** Windows networks and DHCP, which every provider's network is full of (ufw, Shorewall and CSF leave out the same). */
const noise: readonly LogPort[] = [
  ...[135, 139, 445].map((port) => ({ protocol: "tcp", port }) as const),
  ...[67, 68, 137, 138].map((port) => ({ protocol: "udp", port }) as const),
];

function logging({ logging, noLog }: HostSettings): string[] {
  if (logging === "off") return [];
  const silent = (["tcp", "udp"] as const).flatMap((protocol) => {
    const ports = [...noise, ...noLog].filter((one) => one.protocol === protocol).map(({ port }) => port);
    const sorted = [...new Set(ports)].sort((a, b) => a - b);
    // multiport takes 15.
    return Array.from({ length: Math.ceil(sorted.length / 15) }, (_, i) => sorted.slice(15 * i, 15 * (i + 1))).map(
      (part) => `-p ${protocol} -m multiport --dports ${part.join(",")} -j DROP`,
    );
  });
  // A burst of 10, unless it were more than a day's: the kernel counts in 32 bits, and refuses it.
  const [count, unit] = logging.split("/");
  const burst = unit === "day" && Number(count) < 10 ? 1 : 10;
  const limit = `-m limit --limit ${logging} --limit-burst ${burst}`;
  return [...silent, `${limit} -j LOG --log-prefix "mail-firewall: " --log-level 6`];
}

function accept(rule: Rule): string {
  const match =
    rule.icmpType === undefined
      ? `-p ${rule.protocol} -m ${rule.protocol} --dport ${rule.port} -m comment --comment ${rule.service}`
      : rule.family === 4
        ? `-p icmp -m icmp --icmp-type ${rule.icmpType}`
        : `-p ipv6-icmp -m icmp6 --icmpv6-type ${rule.icmpType}`;
  return `${address("-s", rule)}${match} -j ACCEPT`;
}

/** The port is the one that the client asked for, whichever of the host or of a container it has been turned to since. */
function giveBack(rule: Rule): string {
  const match = `-p ${rule.protocol} -m conntrack --ctorigdstport ${rule.port} -m comment --comment ${rule.service}`;
  return `${address("-s", rule)}${match} -j RETURN`;
}

/** iptables-save leaves out the network of everything. */
function address(flag: "-s" | "-d", { source }: Rule): string {
  return source.prefix === 0 ? "" : `${flag} ${source.text} `;
}
