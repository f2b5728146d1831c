import type { Family } from "../policy/cidr";
import type { Rule } from "../policy/policy";
import { addressesOf, defaultSettings, isService, type HostSettings, type LogPort } from "./hostOptions";

/**
 * `in` judges what ends at the host, `forwarded` what goes on to containers. Both stand in the table `mangle`: in netfilter a drop is
 * final and an accept is not, so no rule of others in a later table can let in what these have dropped. Both ask `open`, which gives
 * back (RETURN) what the policy names, and hands the rest to `drop`. `accept` stands in the table `filter`, before rules of others that
 * would refuse what the policy opens.
 */
const chains = {
  accept: "MAILFW-ACCEPT",
  drop: "MAILFW-DROP",
  forwarded: "MAILFW-FWD",
  in: "MAILFW-IN",
  open: "MAILFW-OPEN",
  out: "MAILFW-OUT",
} as const;

/**
 * The `iptables-restore --noflush` text of one family: our own chains in the tables `mangle` and `filter`, each table filled anew in
 * one transaction.
 *
 * Every line is in the form in which `iptables-save` prints it back (iptables 1.8), so that what is live can be compared
 * with what was meant as text. The jumps to our chains are not here: where the one in `filter` INPUT belongs depends on what else the
 * host has, so the script on the host places all of them in the same transactions.
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
    ...ssh.map((rule) => giveBack(rule, "--dport")),
    "-i lo -j RETURN",
    // Whatever claims to come from loopback has not: that was given back one line above.
    ...loopback[family].map((network) => `-s ${network} -j DROP`),
    ...misleading[family],
    "-m conntrack --ctstate RELATED,ESTABLISHED -j RETURN",
    // ICMP before INVALID: an error about a flow that is not tracked counts as INVALID, and path MTU discovery needs it.
    ...icmp.map(icmpRule),
    ...(family === 4 ? link4 : link6),
    // Behind what a host cannot live without, which comes from any address: a neighbour, or a router on the way, may well have
    // one of a network that is trusted elsewhere. Before INVALID and broadcasts, which are part of all traffic.
    ...trusted(settings, family),
    "-m conntrack --ctstate INVALID -j DROP",
    // A service is reached at an address of the host, whichever it has today; broadcast and multicast noise ends here.
    "-m addrtype ! --dst-type LOCAL -j DROP",
    ...entrances.flatMap((entrance) => [`${entrance}-j ${chains.open}`, ...(limited ? [`${entrance}-j RETURN`] : [])]),
    ...(limited ? [`-j ${chains.drop}`] : []),
  ];
  const forwarded = [
    "-m conntrack --ctstate RELATED,ESTABLISHED -j RETURN",
    // Containers may reach each other through the host's address, and everyone.
    ...bridges.map((name) => `-i ${name} -j RETURN`),
    // Whose sshd it is does not matter: a source is let in to a port of the host.
    ...ssh.map((rule) => giveBack(rule)),
    ...trustedForwarded(settings, family),
    ...published.flatMap((entrance) => [`${entrance}-j ${chains.open}`, ...(limited ? [`${entrance}-j RETURN`] : [])]),
    ...(limited ? toContainers.map((match) => `${match}-j ${chains.drop}`) : []),
  ];
  const open = [...ours.filter(isService).map((rule) => giveBack(rule)), `-j ${chains.drop}`];
  const drop = [...logging(settings), "-j DROP"];
  // What SSH answers, for hosts where something else restricts OUTPUT to what connection tracking knows.
  const outbound = ssh.map(
    (rule) => `${address("-d", rule)}-p tcp -m tcp --sport ${rule.port} -m comment --comment ssh -j ACCEPT`,
  );
  // The denials come first: tables are committed one after the other, and what `filter` accepts must have been judged.
  return [
    ...table("mangle", [
      [chains.drop, drop],
      [chains.forwarded, forwarded],
      [chains.in, inbound],
      [chains.open, open],
    ]),
    ...table("filter", [
      [chains.accept, ["-j ACCEPT"]],
      [chains.out, outbound],
    ]),
    "",
  ].join("\n");
}

/** @param filled the chains, by name, as iptables-save prints them. */
function table(name: string, filled: readonly (readonly [string, readonly string[]])[]): string[] {
  return [
    `*${name}`,
    ...filled.map(([chain]) => `:${chain} - [0:0]`),
    ...filled.flatMap(([chain, lines]) => lines.map((rule) => `-A ${chain} ${rule}`)),
    "COMMIT",
  ];
}

/** Both families as the script on the host reads them from its standard input. The last line proves that all of it has arrived. */
export function rulesets(rules: readonly Rule[], owner: string, settings?: HostSettings): string {
  return `# IPv4\n${ruleset(rules, 4, owner, settings)}# IPv6\n${ruleset(rules, 6, owner, settings)}# end\n`;
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

/** Addresses that only the host itself has (RFC 6890). A dual-stack socket takes ::ffff:127.0.0.1 for 127.0.0.1. */
const loopback = { 4: ["127.0.0.0/8"], 6: ["::1/128", "::ffff:0.0.0.0/96"] } as const;

/** ICMP that would change how the host sends to others, and counts as RELATED to a connection: source quench (RFC 6633), redirects. */
const misleading = {
  4: [4, 5].map((type) => `-p icmp -m icmp --icmp-type ${type} -j DROP`),
  6: ["-p ipv6-icmp -m icmp6 --icmpv6-type 137 -j DROP"],
} as const;

// A DHCP server of the link answers by broadcast to a host that has no address yet (RFC 2131 §4.1). Other answers belong to a request.
const link4 = ["-d 255.255.255.255/32 -p udp -m udp --sport 67 --dport 68 -j RETURN"];

const link6 = [
  // Multicast listener discovery comes from link-local addresses (RFC 4890 §4.4.1).
  ...[130, 131, 132, 143].map((type) => `-s fe80::/10 -p ipv6-icmp -m icmp6 --icmpv6-type ${type} -j RETURN`),
  // Router and neighbour discovery never crosses a router: hop limit 255 (RFC 4861 §6.1, §7.1). Connection tracking does not
  // track it, so no rule about a state would ever match it.
  ...[133, 134, 135, 136].map((type) => `-p ipv6-icmp -m icmp6 --icmpv6-type ${type} -m hl --hl-eq 255 -j RETURN`),
  // DHCPv6 servers answer from their link-local address a request that went to multicast (RFC 8415 §7.1).
  "-s fe80::/10 -p udp -m udp --sport 547 --dport 546 -j RETURN",
];

// Docker, Podman, CNI (k3s, older Podman), LXD and Incus name their bridges so, unless they are told otherwise.
const bridges = ["docker+", "br-+", "podman+", "cni+", "lxdbr+", "incusbr+"];

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
  // The address that the client asked for; unlike one of the packet's own, iptables-save prints it without its prefix.
  const asked = addresses.map((text) => `--ctorigdst ${text.replace(/\/\d+$/, "")} `);
  return {
    entrances: asked.map((match) => `${through}-m conntrack ${match}`),
    published: asked.map((match) => `${through}-m conntrack --ctstate DNAT ${match}`),
    limited: true,
  };
}

function trusted({ externalInterface, trustedInterfaces, trustedNetworks }: HostSettings, family: Family): string[] {
  const networks = trustedNetworks.filter((network) => network.family === family);
  return [
    ...(externalInterface === undefined
      ? []
      : networks.map(({ text }) => `-s ${text} -i ${externalInterface} -j DROP`)),
    ...trustedInterfaces.map((name) => `-i ${name} -j RETURN`),
    ...networks.map(({ text }) => `-s ${text} -j RETURN`),
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

function icmpRule(rule: Rule): string {
  const match =
    rule.family === 4
      ? `-p icmp -m icmp --icmp-type ${rule.icmpType}`
      : `-p ipv6-icmp -m icmp6 --icmpv6-type ${rule.icmpType}`;
  return `${address("-s", rule)}${match} -j RETURN`;
}

/**
 * @param port how the rule asks for the port: by default for the one that the client asked for, whichever of the host or of a container
 * it has been turned to since.
 */
function giveBack(rule: Rule, port: "--ctorigdstport" | "--dport" = "--ctorigdstport"): string {
  const module = port === "--dport" ? rule.protocol : "conntrack";
  const match = `-p ${rule.protocol} -m ${module} ${port} ${rule.port} -m comment --comment ${rule.service}`;
  return `${address("-s", rule)}${match} -j RETURN`;
}

/** iptables-save leaves out the network of everything. */
function address(flag: "-s" | "-d", { source }: Rule): string {
  return source.prefix === 0 ? "" : `${flag} ${source.text} `;
}
