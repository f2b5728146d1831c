import type { Family } from "../policy/cidr";
import type { Rule } from "../policy/policy";

/**
 * What the host enforces and a security group cannot say, each with its reason. The keys are what the rules of
 * {@link ruleset} do beside the policy.
 */
export const hostOnly: Readonly<Record<string, string>> = {
  loopback: "accepted: the lo interface never leaves the host",
  "invalid packets": "dropped: a security group does not tell packets by connection-tracking state INVALID",
  "neighbour discovery": "ICMPv6 130-136 and 143 accepted on the link: security groups let it pass without a rule",
  "DHCP replies": "udp/68 and udp/546 accepted: DHCP is outside of security groups",
  "broadcast and multicast": "dropped: a VPC delivers neither to a service",
  logging: "3 dropped packets a minute are logged: the nearest thing in AWS is a VPC flow log",
};

/**
 * Traffic to the host comes through `in`, traffic to the ports that containers publish through `forwarded`: Docker turns it
 * around to the container before it would come to INPUT. Both ask `open`, which gives back what the policy names and drops
 * the rest.
 */
const chains = { forwarded: "MAILFW-FWD", in: "MAILFW-IN", open: "MAILFW-OPEN", out: "MAILFW-OUT" } as const;

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
export function ruleset(rules: readonly Rule[], family: Family, owner: string): string {
  const ours = rules.filter((rule) => rule.direction === "in" && rule.family === family);
  const ssh = ours.filter((rule) => rule.service === "ssh");
  const icmp = ours.filter((rule) => rule.icmpType !== undefined);
  const services = ours.filter((rule) => !ssh.includes(rule) && !icmp.includes(rule));
  const link = family === 4 ? link4 : link6;
  const inbound = [
    `-m comment --comment "owner ${mark(owner)}"`,
    // SSH comes first and without connection tracking, so that loading these rules over SSH cannot cut that session: tracking
    // begins in mid-stream when the first rule that needs it is loaded.
    ...ssh.map((rule) => accept(rule)),
    "-i lo -j ACCEPT",
    "-m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
    // ICMP before INVALID: an error about a flow that is not tracked counts as INVALID, and path MTU discovery needs it.
    ...icmp.map((rule) => accept(rule)),
    ...link,
    "-m conntrack --ctstate INVALID -j DROP",
    // A service is reached at an address of the host, whichever it has today; broadcast and multicast noise ends here.
    "-m addrtype ! --dst-type LOCAL -j DROP",
    `-j ${chains.open}`,
    "-j ACCEPT",
  ];
  // What this gives back, the rules of others still decide about: Docker's own, and bans in DOCKER-USER.
  const forwarded = [
    "-m conntrack --ctstate RELATED,ESTABLISHED -j RETURN",
    // What containers begin themselves, also with each other through the host's address.
    ...bridges.map((bridge) => `-i ${bridge} -j RETURN`),
    // Whose sshd it is does not matter: a source is let in to a port of the host.
    ...ssh.map((rule) => giveBack(rule)),
    `-m conntrack --ctstate DNAT -j ${chains.open}`,
    // Without Docker's NAT: in its mode `routed`, and from a neighbour who has a route to the container's address.
    ...bridges.map((bridge) => `-o ${bridge} -j ${chains.open}`),
  ];
  const open = [
    ...services.map((rule) => giveBack(rule)),
    '-m limit --limit 3/min --limit-burst 10 -j LOG --log-prefix "mail-firewall: " --log-level 6',
    "-j DROP",
  ];
  // What SSH answers, for hosts where something else restricts OUTPUT to what connection tracking knows.
  const outbound = ssh.map(
    (rule) => `${address("-d", rule)}-p tcp -m tcp --sport ${rule.port} -m comment --comment ssh -j ACCEPT`,
  );
  return [
    "*filter",
    ...Object.values(chains).map((chain) => `:${chain} - [0:0]`),
    // By name, as iptables-save prints them.
    ...forwarded.map((rule) => `-A ${chains.forwarded} ${rule}`),
    ...inbound.map((rule) => `-A ${chains.in} ${rule}`),
    ...open.map((rule) => `-A ${chains.open} ${rule}`),
    ...outbound.map((rule) => `-A ${chains.out} ${rule}`),
    "COMMIT",
    "",
  ].join("\n");
}

/** Both families as the script on the host reads them from its standard input. */
export function rulesets(rules: readonly Rule[], owner: string): string {
  return `# IPv4\n${ruleset(rules, 4, owner)}# IPv6\n${ruleset(rules, 6, owner)}`;
}

/** An owner as a comment may hold it: a resource's name may be any text. */
function mark(owner: string): string {
  return owner.split("/").map(encodeURIComponent).join("/");
}

/** Docker's bridges, as it names them itself: docker0, docker_gwbridge, br-0123456789ab; mailcow's is br-mailcow. */
const bridges = ["docker+", "br-+"];

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
