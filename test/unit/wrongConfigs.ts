// Stack configurations that are wrong, each with what must be said about it. Keys stand without `mail-firewall:`.

export const hostKey = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHyrmZFHMFmhYYIcPPRxUWkWDKZUzpP2PYRkVfTzWlrk";
export const mx1 = { host: "198.51.100.10", hostKey };
export const good = {
  services: { imaps: "public" },
  ssh: ["203.0.113.0/24"],
  hosts: { mx1 },
  aws: { vpcId: "vpc-0123456789abcdef0" },
};

const choice =
  "known are smtp, http, pop3, imap, https, submissions, submission, imaps, pop3s, sieve, smtps, plain, secured, web";

/** Hosts that differ in one option. */
const hostsWith = (option: string, values: unknown[]) =>
  Object.fromEntries(values.map((value, i) => [`h${i}`, { ...mx1, host: `198.51.100.${201 + i}`, [option]: value }]));

const loopback = "is the loopback interface, through which everything is accepted; delete it";
const noInterface = 'is not the name of an interface; write one such as "eth0", or "ppp+" for ppp0, ppp1 ...';
const rates = ["3", "0/min", "101/min", "3/minute", "3 / min", 3, true];
const seconds = [9, 3601, 60.5, "60"];
const noAddress = 'is no address; write an address such as "192.0.2.25" or "2001:db8::25"';
const bothSides = "cannot be both trusted and external; everything would be open to the world";

export const wrongConfigs: [string, Record<string, unknown>, string[]][] = [
  [
    "nothing",
    {},
    [
      'ssh: is missing; write who may reach SSH, such as ["203.0.113.0/24"]',
      'hosts: is missing, and so is "aws": add hosts to protect, or aws: { vpcId: vpc-... } for a security group, or both',
    ],
  ],
  [
    "neither hosts nor aws",
    { ssh: "closed", hosts: {} },
    [
      'hosts: is missing, and so is "aws": add hosts to protect, or aws: { vpcId: vpc-... } for a security group, or both',
    ],
  ],
  ["no ssh", { hosts: { mx1 } }, ['ssh: is missing; write who may reach SSH, such as ["203.0.113.0/24"]']],
  [
    "the default ssh of Pulumi.yaml",
    { ...good, ssh: "" },
    ['ssh: is missing; write who may reach SSH, such as ["203.0.113.0/24"]'],
  ],
  [
    "ssh closed with hosts",
    { ...good, ssh: "closed" },
    ['ssh: "closed" would cut off the hosts that are deployed over SSH; write the networks you work from'],
  ],
  [
    "ssh as one network",
    { ...good, ssh: "203.0.113.0/24" },
    ['ssh: "203.0.113.0/24" is none of "public", "closed" and a list of networks such as ["10.20.0.0/16"]'],
  ],
  ["a misspelled key", { ...good, servces: {} }, ['servces: unknown key; did you mean "services"?']],
  [
    "an unknown key",
    { ...good, firewall: {} },
    [
      "firewall: unknown key; known are services, ssh, ports, egress, host, hosts, hostsAtOnce, sshPrivateKey, sshPrivateKeyPassword, aws",
    ],
  ],
  ["hostsAtOnce as a number of hosts", { ...good, hostsAtOnce: 2 }, ["hostsAtOnce: 2 is neither true nor false"]],
  [
    "services as a list",
    { ...good, services: ["imaps"] },
    ['services: ["imaps"] is not a map; write one line a service, such as "imaps: public"'],
  ],
  [
    "services as a word",
    { ...good, services: "imaps" },
    ['services: "imaps" is not a map; write one line a service, such as "imaps: public"'],
  ],
  [
    "a misspelled service",
    { ...good, services: { impas: "public" } },
    ['services.impas: unknown service; did you mean "imaps"?; what is not mail goes under "ports"'],
  ],
  [
    "a service that is not mail",
    { ...good, services: { postgresql: "public" } },
    [`services.postgresql: unknown service; ${choice}; what is not mail goes under "ports"`],
  ],
  [
    "a service in capitals",
    { ...good, services: { IMAPS: "public" } },
    ['services.IMAPS: unknown service; did you mean "imaps"?; what is not mail goes under "ports"'],
  ],
  [
    "a name of every object",
    { ...good, services: { constructor: "public" } },
    [`services.constructor: unknown service; ${choice}; what is not mail goes under "ports"`],
  ],
  [
    "ssh among the services",
    { ...good, services: { ssh: "public" } },
    ['services.ssh: SSH is not a mail service; write it beside the services, as "mail-firewall:ssh"'],
  ],
  [
    "a service under both of its names",
    { ...good, services: { submissions: "public", smtps: "closed" } },
    ["services.smtps: is the same service as submissions (tcp/465); delete one"],
  ],
  [
    "public inside a list",
    { ...good, services: { imaps: ["public"] } },
    ['services.imaps[0]: "public" is not a network; write "public" without the list'],
  ],
  [
    "public among networks",
    { ...good, services: { imaps: ["10.0.0.0/8", "public"] } },
    ['services.imaps[1]: "public" stands alone; delete it or the rest of the list'],
  ],
  [
    "closed inside a list",
    { ...good, services: { imaps: ["closed"] } },
    ['services.imaps[0]: "closed" is not a network; write "closed" without the list'],
  ],
  [
    "an empty list",
    { ...good, services: { imaps: [] } },
    ['services.imaps: is an empty list; write who may reach it, or "closed" for nobody'],
  ],
  [
    "nothing behind a service",
    { ...good, services: { imaps: null } },
    ['services.imaps: null is none of "public", "closed" and a list of networks such as ["10.20.0.0/16"]'],
  ],
  [
    "true behind a service",
    { ...good, services: { imaps: true } },
    ['services.imaps: true is none of "public", "closed" and a list of networks such as ["10.20.0.0/16"]'],
  ],
  [
    "a misspelled word behind a service",
    { ...good, services: { imaps: "Public" } },
    ['services.imaps: "Public" is none of "public", "closed" and a list of networks such as ["10.20.0.0/16"]'],
  ],
  [
    "a map behind a service",
    { ...good, services: { imaps: { from: "public" } } },
    ['services.imaps: {"from":"public"} is none of "public", "closed" and a list of networks such as ["10.20.0.0/16"]'],
  ],
  [
    "a number among networks",
    { ...good, services: { imaps: [10] } },
    ['services.imaps[0]: 10 is not text; write a network such as "10.20.0.0/16"'],
  ],
  [
    "host bits",
    { ...good, services: { imaps: ["10.20.0.1/16"] } },
    ['services.imaps[0]: "10.20.0.1/16" has host bits set; write 10.20.0.0/16'],
  ],
  [
    "an address without a prefix",
    { ...good, ssh: ["203.0.113.7"] },
    ['ssh[0]: "203.0.113.7" has no prefix length; write 203.0.113.7/32 for one address'],
  ],
  [
    "a prefix of the wrong family",
    { ...good, ssh: ["203.0.113.0/64"] },
    ['ssh[0]: "203.0.113.0/64" has a prefix length above 32, the most that IPv4 has'],
  ],
  [
    "an IPv4 network in IPv6 clothes",
    { ...good, ssh: ["::ffff:203.0.113.0/120"] },
    ['ssh[0]: "::ffff:203.0.113.0/120" is an IPv4-mapped IPv6 address; write 203.0.113.0/24'],
  ],
  [
    "an octal network",
    { ...good, ssh: ["010.0.0.0/8"] },
    ['ssh[0]: "010.0.0.0/8" is not a CIDR; write a network such as "10.20.0.0/16" or "fd12::/48"'],
  ],
  [
    "a name for a network",
    { ...good, ssh: ["office.example.org"] },
    ['ssh[0]: "office.example.org" is not a CIDR; write a network such as "10.20.0.0/16" or "fd12::/48"'],
  ],
  [
    "a network twice",
    { ...good, ssh: ["203.0.113.0/24", "203.0.113.0/24"] },
    ['ssh[1]: "203.0.113.0/24" is listed twice; delete one'],
  ],
  [
    "overlapping networks",
    { ...good, ssh: ["10.1.0.0/16", "10.0.0.0/8"] },
    ['ssh[1]: "10.0.0.0/8" overlaps: 10.1.0.0/16 lies inside 10.0.0.0/8; delete one'],
  ],
  [
    "ports as a list",
    { ...good, ports: [51820] },
    ['ports: [51820] is not a map; write "wireguard: { protocol: udp, port: 51820, from: public }"'],
  ],
  [
    "a number for a port",
    { ...good, ports: { wireguard: 51820 } },
    ["ports.wireguard: 51820 is not a map; write { protocol: udp, port: 51820, from: public }"],
  ],
  [
    "a port without anything",
    { ...good, ports: { wireguard: {} } },
    [
      'ports.wireguard.protocol: is missing; write "tcp" or "udp"',
      "ports.wireguard.port: is missing; write a whole number from 1 to 65535",
      'ports.wireguard.from: is missing; write who may reach it, such as ["10.20.0.0/16"]',
    ],
  ],
  [
    "a misspelled key of a port",
    { ...good, ports: { w: { protocol: "udp", prt: 1, port: 1, from: "public" } } },
    ['ports.w.prt: unknown key; did you mean "port"?'],
  ],
  [
    "an unknown protocol",
    { ...good, ports: { w: { protocol: "sctp", port: 1, from: "public" } } },
    ['ports.w.protocol: "sctp" is not a protocol here; write "tcp" or "udp"'],
  ],
  [
    "port 0",
    { ...good, ports: { w: { protocol: "udp", port: 0, from: "public" } } },
    ["ports.w.port: 0 is not a port; write a whole number from 1 to 65535"],
  ],
  [
    "port 65536",
    { ...good, ports: { w: { protocol: "udp", port: 65536, from: "public" } } },
    ["ports.w.port: 65536 is not a port; write a whole number from 1 to 65535"],
  ],
  [
    "half a port",
    { ...good, ports: { w: { protocol: "udp", port: 1.5, from: "public" } } },
    ["ports.w.port: 1.5 is not a port; write a whole number from 1 to 65535"],
  ],
  [
    "a port as text",
    { ...good, ports: { w: { protocol: "udp", port: "51820", from: "public" } } },
    ['ports.w.port: "51820" is not a port; write a whole number from 1 to 65535'],
  ],
  [
    "a service's port",
    { ...good, ports: { secure: { protocol: "tcp", port: 993, from: "public" } } },
    ['ports.secure.port: tcp/993 is imaps; write it under "services"'],
  ],
  [
    "a service's name",
    { ...good, ports: { imaps: { protocol: "tcp", port: 1993, from: "public" } } },
    ['ports.imaps: is a name of its own here; write it under "services"'],
  ],
  [
    "SSH's port",
    { ...good, ports: { shell: { protocol: "tcp", port: 22, from: "public" } } },
    ['ports.shell.port: tcp/22 is SSH; who may reach it is decided by "ssh"'],
  ],
  [
    "one port under two names",
    {
      ...good,
      ports: { a: { protocol: "udp", port: 53, from: "public" }, b: { protocol: "udp", port: 53, from: "closed" } },
    },
    ["ports.b.port: udp/53 is also a; delete one"],
  ],
  [
    "an address that is none",
    { ...good, hosts: { mx1: { ...mx1, host: "198.51.100.256" } } },
    ['hosts.mx1.host: "198.51.100.256" is not a host name or address; write it without user and port'],
  ],
  [
    "SSH sources of another family than the host's address",
    { ...good, ssh: ["fd12::/48"] },
    ['hosts.mx1.host: "198.51.100.10" is dialled over IPv4, and "ssh" names no IPv4 network; add yours'],
  ],
  [
    "a value set without --path",
    { ...good, "services.imaps": "public" },
    ["[\"services.imaps\"]: was set without --path; pulumi config rm 'services.imaps', and set it again with --path"],
  ],
  [
    "an ECDSA host key without its point",
    {
      ...good,
      hosts: { mx1: { ...mx1, hostKey: "ecdsa-sha2-nistp256 AAAAE2VjZHNhLXNoYTItbmlzdHAyNTYAAAAIbmlzdHAyNTY=" } },
    },
    [
      'hosts.mx1.hostKey: "ecdsa-sha2-nistp256 AAAAE2VjZHNhLXNoYTItbmlzdHAyNTYAAAAI... is damaged: what follows "ecdsa-sha2-nistp256" is not such a key; copy it again',
    ],
  ],
  [
    "one host under two names",
    { ...good, hosts: { mx1, mx2: mx1 } },
    ['hosts.mx2.host: "198.51.100.10" is also mx1; delete one'],
  ],
  [
    "hosts as a list",
    { ...good, hosts: [mx1] },
    [
      `hosts: [{"host":"198.51.100.10","hostKey":"ssh-ed25519 AAAAC3Nza... is not a map; write mx1: { host: 198.51.100.10, hostKey: "ssh-ed25519 AAAA..." }`,
    ],
  ],
  [
    "an address for a host",
    { ...good, hosts: { mx1: "198.51.100.10" } },
    [
      'hosts.mx1: "198.51.100.10" is not a map; write { host: 198.51.100.10, user: admin, hostKey: "ssh-ed25519 AAAA..." }',
    ],
  ],
  [
    "a host without anything",
    { ...good, hosts: { mx1: {} } },
    [
      "hosts.mx1.host: is missing; write the name or address to dial",
      "hosts.mx1.hostKey: is missing; write the line of the host's /etc/ssh/ssh_host_ed25519_key.pub",
    ],
  ],
  [
    "a misspelled key of a host",
    { ...good, hosts: { mx1: { ...mx1, hostkey: hostKey } } },
    ['hosts.mx1.hostkey: unknown key; did you mean "hostKey"?'],
  ],
  [
    "a host with its port",
    { ...good, hosts: { mx1: { ...mx1, host: "198.51.100.10:22" } } },
    ['hosts.mx1.host: "198.51.100.10:22" is not a host name or address; write it without user and port'],
  ],
  [
    "a host as a number",
    { ...good, hosts: { mx1: { ...mx1, host: 10 } } },
    ["hosts.mx1.host: 10 is not a host name or address; write it without user and port"],
  ],
  [
    "a port to dial that is none",
    { ...good, hosts: { mx1: { ...mx1, port: 99999 } } },
    ["hosts.mx1.port: 99999 is not a port; write a whole number from 1 to 65535"],
  ],
  [
    "SSH on a service's port",
    { ...good, hosts: { mx1: { ...mx1, port: 443 } } },
    ["hosts.mx1.port: 443 is the port of https; SSH needs one of its own"],
  ],
  [
    "SSH ports as a number",
    { ...good, hosts: { mx1: { ...mx1, sshPorts: 22 } } },
    ["hosts.mx1.sshPorts: 22 is not a list of ports; write the ports that sshd listens on, such as [22]"],
  ],
  [
    "no SSH ports",
    { ...good, hosts: { mx1: { ...mx1, sshPorts: [] } } },
    ["hosts.mx1.sshPorts: is an empty list; write the ports that sshd listens on, such as [22]"],
  ],
  [
    "an SSH port twice",
    { ...good, hosts: { mx1: { ...mx1, sshPorts: [22, 22] } } },
    ["hosts.mx1.sshPorts[1]: 22 is listed twice; delete one"],
  ],
  [
    "a host key as in known_hosts",
    { ...good, hosts: { mx1: { ...mx1, hostKey: `mx1 ${hostKey}` } } },
    [
      'hosts.mx1.hostKey: "mx1 ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHyrmZFHMFmhYYIc... is a line of known_hosts; delete the host at its beginning',
    ],
  ],
  [
    "a host key cut short",
    { ...good, hosts: { mx1: { ...mx1, hostKey: hostKey.slice(0, -8) } } },
    [
      'hosts.mx1.hostKey: "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHyrmZFHMFmhYYIcPPRx... is damaged: what follows "ssh-ed25519" is not such a key; copy it again',
    ],
  ],
  [
    "a host key of another type",
    { ...good, hosts: { mx1: { ...mx1, hostKey: hostKey.replace("ssh-ed25519", "ecdsa-sha2-nistp256") } } },
    [
      'hosts.mx1.hostKey: "ecdsa-sha2-nistp256 AAAAC3NzaC1lZDI1NTE5AAAAIHyrmZFHMFmh... is damaged: what follows "ecdsa-sha2-nistp256" is not such a key; copy it again',
    ],
  ],
  [
    "an RSA host key",
    { ...good, hosts: { mx1: { ...mx1, hostKey: "ssh-rsa AAAAB3NzaC1yc2EAAAADAQABAAAAAwEAAQ==" } } },
    [
      `hosts.mx1.hostKey: "ssh-rsa AAAAB3NzaC1yc2EAAAADAQABAAAAAwEAAQ==" is an RSA key, which the SSH client cannot check; write "ssh-ed25519 AAAA...", the line of the host's /etc/ssh/ssh_host_ed25519_key.pub`,
    ],
  ],
  [
    "a fingerprint for a host key",
    { ...good, hosts: { mx1: { ...mx1, hostKey: "SHA256:abc" } } },
    [
      `hosts.mx1.hostKey: "SHA256:abc" is not a host key; write "ssh-ed25519 AAAA...", the line of the host's /etc/ssh/ssh_host_ed25519_key.pub`,
    ],
  ],
  [
    "two host keys",
    { ...good, hosts: { mx1: { ...mx1, hostKey: `${hostKey}\n${hostKey}` } } },
    [
      `hosts.mx1.hostKey: "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHyrmZFHMFmhYYIcPPRx... is more than one line; write "ssh-ed25519 AAAA...", the line of the host's /etc/ssh/ssh_host_ed25519_key.pub`,
    ],
  ],
  [
    "a private key among the hosts",
    { ...good, hosts: { mx1: { ...mx1, privateKey: hostKey } } },
    ["hosts.mx1.privateKey: has no place here; store it with pulumi config set --secret sshPrivateKey <KEYFILE"],
  ],
  ["options as a list", { ...good, host: ["wg0"] }, ['host: ["wg0"] is not a map; write { trustedInterfaces: [wg0] }']],
  [
    "a misspelled option",
    { ...good, host: { trustedInterface: ["wg0"] } },
    ['host.trustedInterface: unknown key; did you mean "trustedInterfaces"?'],
  ],
  [
    "a misspelled option of one host",
    { ...good, hosts: { mx1: { ...mx1, takeover: true } } },
    ['hosts.mx1.takeover: unknown key; did you mean "takeOver"?'],
  ],
  [
    "external interfaces that are none",
    { ...good, hosts: hostsWith("externalInterface", ["lo", "", "enp0s31f6-uplink", "eth0:1", 0, "-i"]) },
    [
      `hosts.h0.externalInterface: "lo" ${loopback}`,
      `hosts.h1.externalInterface: "" ${noInterface}`,
      `hosts.h2.externalInterface: "enp0s31f6-uplink" ${noInterface}`,
      'hosts.h3.externalInterface: "eth0:1" is an alias, of which packets know nothing; write "eth0"',
      `hosts.h4.externalInterface: 0 ${noInterface}`,
      `hosts.h5.externalInterface: "-i" ${noInterface}`,
    ],
  ],
  [
    "trusted interfaces that cover loopback, or everything",
    { ...good, host: { trustedInterfaces: ["wg0", "l+", "+"] } },
    [`host.trustedInterfaces[1]: "l+" ${loopback}`, `host.trustedInterfaces[2]: "+" ${noInterface}`],
  ],
  [
    "options that are no list",
    { ...good, host: { trustedInterfaces: "wg0", trustedNetworks: "10.8.0.0/24", noLog: "tcp/23" } },
    [
      'host.trustedInterfaces: "wg0" is not a list; write [wg0]',
      'host.trustedNetworks: "10.8.0.0/24" is not a list; write networks such as ["10.8.0.0/24"]',
      'host.noLog: "tcp/23" is not a list; write ["tcp/23"]',
    ],
  ],
  [
    "interfaces twice, by name and by pattern",
    { ...good, host: { trustedInterfaces: ["wg0", "wg0", "wg+"] } },
    [
      'host.trustedInterfaces[1]: "wg0" is listed twice; delete one',
      'host.trustedInterfaces[2]: "wg+" overlaps "wg0"; delete one',
    ],
  ],
  [
    "interfaces both trusted and external, on one host or against what is said for all",
    {
      ...good,
      host: { externalInterface: "ppp+", trustedInterfaces: ["eth+"] },
      hosts: {
        ...hostsWith("trustedInterfaces", [["ppp0"], ["ppp+"]]),
        mx1: { ...mx1, externalInterface: "eth0" },
      },
    },
    [
      `hosts.h0.trustedInterfaces: "ppp0" and "ppp+" ${bothSides}`,
      `hosts.h1.trustedInterfaces: "ppp+" ${bothSides}`,
      `hosts.mx1.externalInterface: "eth+" and "eth0" ${bothSides}`,
    ],
  ],
  [
    "external addresses that are none",
    {
      ...good,
      hosts: hostsWith("externalAddress", [
        "192.0.2.25/32",
        "",
        [],
        ["mx1.example.org", 10, "::ffff:198.51.100.10"],
        ["0.0.0.0", "::1", "255.255.255.255", "ff02::1"],
        ["2001:db8::10", "2001:DB8:0::10"],
      ]),
    },
    [
      'hosts.h0.externalAddress: "192.0.2.25/32" is a network; write an address such as "192.0.2.25" or "2001:db8::25"',
      `hosts.h1.externalAddress: "" ${noAddress}`,
      "hosts.h2.externalAddress: is an empty list; write the host's addresses, or delete it",
      `hosts.h3.externalAddress[0]: "mx1.example.org" ${noAddress}`,
      `hosts.h3.externalAddress[1]: 10 ${noAddress}`,
      'hosts.h3.externalAddress[2]: "::ffff:198.51.100.10" is an IPv4-mapped IPv6 address; write 198.51.100.10',
      ...["0.0.0.0", "::1", "255.255.255.255", "ff02::1"].map(
        (text, i) =>
          `hosts.h4.externalAddress[${i}]: "${text}" is never the address of one host; write one that the host has`,
      ),
      'hosts.h5.externalAddress[1]: "2001:DB8:0::10" is listed twice; delete one',
    ],
  ],
  [
    "everyone as trusted",
    { ...good, host: { trustedNetworks: ["0.0.0.0/0", "::/0"] } },
    ["0.0.0.0/0", "::/0"].map(
      (text, i) =>
        `host.trustedNetworks[${i}]: "${text}" is everyone: there would be no firewall; write networks such as 10.8.0.0/24`,
    ),
  ],
  [
    "trusted networks that are none",
    { ...good, host: { trustedNetworks: ["public", "10.8.0.1/24", "10.8.0.0/24", "10.8.0.0/25"] } },
    [
      'host.trustedNetworks[0]: "public" is not a CIDR; write a network such as "10.20.0.0/16" or "fd12::/48"',
      'host.trustedNetworks[1]: "10.8.0.1/24" has host bits set; write 10.8.0.0/24',
      'host.trustedNetworks[3]: "10.8.0.0/25" overlaps: 10.8.0.0/25 lies inside 10.8.0.0/24; delete one',
    ],
  ],
  [
    "rates of logging that are none",
    { ...good, hosts: hostsWith("logging", rates) },
    rates.map(
      (rate, i) =>
        `hosts.h${i}.logging: ${JSON.stringify(rate)} is not a rate; write "3/min" (1 to 100 per sec, min, hour or day), or "off"`,
    ),
  ],
  [
    "ports not to log that are none",
    { ...good, host: { noLog: [23, "tcp/0", "udp/65536", "sctp/23", "tcp/23", "tcp/23"] } },
    [
      ...["23", '"tcp/0"', '"udp/65536"', '"sctp/23"'].map(
        (text, i) => `host.noLog[${i}]: ${text} is not a port; write one such as "tcp/23" or "udp/1900"`,
      ),
      'host.noLog[5]: "tcp/23" is listed twice; delete one',
    ],
  ],
  [
    "seconds of a rollback that are too few, too many, or none",
    { ...good, hosts: hostsWith("rollbackSeconds", seconds) },
    seconds.map(
      (value, i) =>
        `hosts.h${i}.rollbackSeconds: ${JSON.stringify(value)} is not a number of seconds; write a whole number from 10 to 3600`,
    ),
  ],
  [
    "words that are neither true nor false, and one that destroying does not know",
    { ...good, hosts: { mx1: { ...mx1, takeOver: "yes", onDestroy: "restor", abandon: 1 } } },
    [
      'hosts.mx1.takeOver: "yes" is neither true nor false',
      'hosts.mx1.onDestroy: "restor" is not what destroying can do; did you mean "restore"?',
      "hosts.mx1.abandon: 1 is neither true nor false",
    ],
  ],
  [
    "a fault in the common options, once",
    { ...good, host: { logging: "no" }, hosts: { mx1, mx2: { ...mx1, host: "198.51.100.11" } } },
    ['host.logging: "no" is not a rate; write "3/min" (1 to 100 per sec, min, hour or day), or "off"'],
  ],
  [
    "a passphrase among the hosts",
    { ...good, hosts: { mx1: { ...mx1, privateKeyPassword: "x" } } },
    ["hosts.mx1.privateKeyPassword: has no place here; store it with pulumi config set --secret sshPrivateKeyPassword"],
  ],
  [
    "a host key that is not checked",
    { ...good, hosts: { mx1: { ...mx1, insecureIgnoreHostKey: true } } },
    ["hosts.mx1.insecureIgnoreHostKey: stands beside a hostKey, which would not be checked; delete one"],
  ],
  [
    "a word for a switch",
    { ...good, hosts: { mx1: { host: mx1.host, insecureIgnoreHostKey: "yes" } } },
    ['hosts.mx1.insecureIgnoreHostKey: "yes" is neither true nor false'],
  ],
  [
    "neither a host key nor a way without",
    { ...good, hosts: { mx1: { host: mx1.host, insecureIgnoreHostKey: false } } },
    ["hosts.mx1.hostKey: is missing; write the line of the host's /etc/ssh/ssh_host_ed25519_key.pub"],
  ],
  [
    "an instance's id that is no word",
    { ...good, hosts: { mx1: { ...mx1, instanceId: "i-1; reboot" } } },
    ['hosts.mx1.instanceId: "i-1; reboot" is not an id; use 1 to 256 letters, digits and . _ : / @ + = -'],
  ],
  [
    "a relative path of an agent's socket",
    { ...good, hosts: { mx1: { ...mx1, agentSocketPath: "agent.sock" } } },
    [
      'hosts.mx1.agentSocketPath: "agent.sock" is not the absolute path of a socket; write what echo $SSH_AUTH_SOCK prints',
    ],
  ],
  [
    "an address for a bastion",
    { ...good, hosts: { mx1: { ...mx1, bastion: "198.51.100.1" } } },
    [
      'hosts.mx1.bastion: "198.51.100.1" is not a map; write { host: 198.51.100.1, user: jump, hostKey: "ssh-ed25519 AAAA..." }',
    ],
  ],
  [
    "a bastion without anything",
    { ...good, hosts: { mx1: { ...mx1, bastion: {} } } },
    [
      "hosts.mx1.bastion.host: is missing; write the name or address to dial",
      "hosts.mx1.bastion.hostKey: is missing; write the line of the host's /etc/ssh/ssh_host_ed25519_key.pub",
    ],
  ],
  [
    "misspelled keys of a bastion",
    {
      ...good,
      hosts: { mx1: { ...mx1, bastion: { ...mx1, usr: "jump", hostkey: hostKey, proxyJump: "x", sshPorts: [22] } } },
    },
    [
      'hosts.mx1.bastion.usr: unknown key; did you mean "user"?',
      'hosts.mx1.bastion.hostkey: unknown key; did you mean "hostKey"?',
      ...["proxyJump", "sshPorts"].map(
        (key) =>
          `hosts.mx1.bastion.${key}: unknown key; known are host, port, user, hostKey, insecureIgnoreHostKey, privateKey, privateKeyPassword`,
      ),
    ],
  ],
  [
    "a misspelled bastion",
    { ...good, hosts: { mx1: { ...mx1, basion: mx1 } } },
    ['hosts.mx1.basion: unknown key; did you mean "bastion"?'],
  ],
  [
    "a bastion with its user and a port that is none",
    { ...good, hosts: { mx1: { ...mx1, bastion: { ...mx1, host: "jump@198.51.100.1", port: 0, user: 1 } } } },
    [
      'hosts.mx1.bastion.host: "jump@198.51.100.1" is not a host name or address; write it without user and port',
      "hosts.mx1.bastion.user: 1 is not a user name; use letters, digits and _ . @ -",
      "hosts.mx1.bastion.port: 0 is not a port; write a whole number from 1 to 65535",
    ],
  ],
  [
    "a key and a passphrase of a bastion",
    { ...good, hosts: { mx1: { ...mx1, bastion: { ...mx1, privateKey: "x", privateKeyPassword: "y" } } } },
    [
      "hosts.mx1.bastion.privateKey: has no place here; store it with pulumi config set --secret sshPrivateKey <KEYFILE",
      "hosts.mx1.bastion.privateKeyPassword: has no place here; store it with pulumi config set --secret sshPrivateKeyPassword",
    ],
  ],
  [
    "a known_hosts line of a bastion",
    { ...good, hosts: { mx1: { ...mx1, bastion: { ...mx1, hostKey: `jump ${hostKey}` } } } },
    [
      'hosts.mx1.bastion.hostKey: "jump ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHyrmZFHMFmhYYI... is a line of known_hosts; delete the host at its beginning',
    ],
  ],
  [
    "a bastion whose key is not checked, though it is known",
    { ...good, hosts: { mx1: { ...mx1, bastion: { ...mx1, insecureIgnoreHostKey: true } } } },
    ["hosts.mx1.bastion.insecureIgnoreHostKey: stands beside a hostKey, which would not be checked; delete one"],
  ],
  [
    "SSH sources of another family than the host's own address, behind a bastion",
    { ...good, ssh: ["fd12::/48"], hosts: { mx1: { ...mx1, bastion: { ...mx1, host: "fd12::1" } } } },
    ['hosts.mx1.host: "198.51.100.10" is dialled over IPv4, and "ssh" names no IPv4 network; add yours'],
  ],
  [
    "one host under two names behind one bastion",
    { ...good, hosts: { mx1: { ...mx1, bastion: mx1 }, mx2: { ...mx1, bastion: mx1 } } },
    ['hosts.mx2.host: "198.51.100.10" is also mx1; delete one'],
  ],
  [
    "aws as a word",
    { ...good, aws: "vpc-0abc" },
    ['aws: "vpc-0abc" is not a map; write { vpcId: vpc-0123456789abcdef0 }'],
  ],
  [
    "aws without a VPC",
    { ...good, aws: {} },
    ["aws.vpcId: is missing; write the id of the VPC, such as vpc-0123456789abcdef0"],
  ],
  [
    "a misspelled key of aws",
    { ...good, aws: { vpcid: "vpc-0abc" } },
    [
      'aws.vpcid: unknown key; did you mean "vpcId"?',
      "aws.vpcId: is missing; write the id of the VPC, such as vpc-0123456789abcdef0",
    ],
  ],
  [
    "a subnet for a VPC",
    { ...good, aws: { vpcId: "subnet-0abc" } },
    ['aws.vpcId: "subnet-0abc" is not the id of a VPC; write one such as vpc-0123456789abcdef0'],
  ],
  [
    "more rules than a security group takes",
    {
      ...good,
      services: { imaps: Array.from({ length: 57 }, (_, i) => `10.${i}.0.0/16`) },
    },
    [
      'aws: makes 63 inbound IPv4 rules, and a security group takes 60; name fewer or wider networks, or have AWS raise "Inbound or outbound rules per security group" and write rulesPerGroup: 63',
    ],
  ],
  [
    "more rules than a raised quota, of which prefix lists save none",
    {
      ...good,
      services: { imaps: Array.from({ length: 57 }, (_, i) => `fd12:${i + 1}::/32`) },
      aws: { ...good.aws, prefixLists: true, rulesPerGroup: 62 },
    },
    [
      'aws: makes 63 inbound IPv6 rules, and a security group takes 62; name fewer or wider networks, or have AWS raise "Inbound or outbound rules per security group" and write rulesPerGroup: 63',
    ],
  ],
  ...[0, 1001, 60.5, "60"].map((quota): (typeof wrongConfigs)[number] => [
    `a quota of ${JSON.stringify(quota)} rules`,
    { ...good, aws: { ...good.aws, rulesPerGroup: quota } },
    [`aws.rulesPerGroup: ${JSON.stringify(quota)} is not a quota of rules; write a whole number from 1 to 1000`],
  ]),
  [
    "both a VPC and a group that exists",
    { ...good, aws: { ...good.aws, securityGroupId: "sg-0123456789abcdef0" } },
    ["aws.vpcId: stands beside securityGroupId, a group that is in a VPC already; delete one"],
  ],
  [
    "the name of a group for its id, and a zone for a region",
    { ...good, aws: { securityGroupId: "mail", region: "eu-central-1a" } },
    [
      'aws.securityGroupId: "mail" is not the id of a security group; write one such as sg-0123456789abcdef0',
      'aws.region: "eu-central-1a" is not a region; write one such as eu-central-1',
    ],
  ],
  [
    "a word for a switch of aws, and a network interface without its list",
    { ...good, aws: { ...good.aws, prefixLists: "yes", attachTo: "eni-0123456789abcdef0" } },
    [
      'aws.prefixLists: "yes" is neither true nor false',
      'aws.attachTo: "eni-0123456789abcdef0" is not a list; write the ids of network interfaces, such as [eni-0123456789abcdef0]',
    ],
  ],
  [
    "network interfaces that are none, and one twice",
    { ...good, aws: { ...good.aws, attachTo: ["i-0123456789abcdef0", "eni-0abc", 7, "eni-0abc"] } },
    [
      'aws.attachTo[0]: "i-0123456789abcdef0" is not the id of a network interface; write one such as eni-0123456789abcdef0',
      "aws.attachTo[2]: 7 is not the id of a network interface; write one such as eni-0123456789abcdef0",
      'aws.attachTo[3]: "eni-0abc" is listed twice; delete one',
    ],
  ],
  [
    "tags that AWS refuses",
    {
      ...good,
      aws: { ...good.aws, tags: { cost: 42, "aws:owner": "x", ["k".repeat(129)]: "x", long: "x".repeat(257) } },
    },
    [
      'aws.tags.cost: 42 is not text; write "42"',
      'aws.tags["aws:owner"]: begins with "aws:", which is reserved; use another key',
      `aws.tags.${"k".repeat(129)}: is not a key of a tag; use 1 to 128 characters`,
      "aws.tags.long: has 257 characters, and AWS takes 256; shorten it",
    ],
  ],
  [
    "tags as a list",
    { ...good, aws: { ...good.aws, tags: ["mail"] } },
    ['aws.tags: ["mail"] is not a map; write { owner: mail-team }'],
  ],
  [
    "51 tags",
    { ...good, aws: { ...good.aws, tags: Object.fromEntries(Array.from({ length: 51 }, (_, i) => [`t${i}`, "x"])) } },
    ["aws.tags: has 51 tags, and AWS takes 50; delete some"],
  ],
  [
    "a misspelled egress",
    { ...good, egress: "opne" },
    ['egress: "opne" is none of "open", "mail" and a relay such as { relay: ["198.51.100.7/32"] }'],
  ],
  [
    "an egress without anything",
    { ...good, egress: {} },
    ['egress: says nothing; write { mode: "mail" } or { relay: ["198.51.100.7/32"] }'],
  ],
  [
    "a relay without its list, and a misspelled one",
    { ...good, egress: { relay: "198.51.100.7/32", realy: [] } },
    [
      'egress.realy: unknown key; did you mean "relay"?',
      'egress.relay: "198.51.100.7/32" is not a list; write the relay\'s networks, such as ["198.51.100.7/32"]',
    ],
  ],
  [
    "a relay that restricts nothing",
    { ...good, egress: { mode: "open", relay: ["198.51.100.7/32"] } },
    ['egress.relay: restricts, and the mode "open" does not; delete one'],
  ],
  [
    "relays that are none",
    {
      ...good,
      egress: { relay: ["198.51.100.7", "public", "mail.example.org", "198.51.100.0/24", "198.51.100.7/32"] },
    },
    [
      'egress.relay[0]: "198.51.100.7" has no prefix length; write 198.51.100.7/32 for one address',
      'egress.relay[1]: "public" stands alone; delete it or the rest of the list',
      'egress.relay[2]: "mail.example.org" is not a CIDR; write a network such as "10.20.0.0/16" or "fd12::/48"',
      'egress.relay[4]: "198.51.100.7/32" overlaps: 198.51.100.7/32 lies inside 198.51.100.0/24; delete one',
    ],
  ],
  [
    "an empty relay",
    { ...good, egress: { relay: [] } },
    ["egress.relay: is an empty list; write the relay's networks"],
  ],
  [
    "everything at once",
    { ssh: ["x"], services: { imaps: [] }, hosts: { mx1: {} }, aws: {}, tags: {} },
    [
      "tags: unknown key; known are services, ssh, ports, egress, host, hosts, hostsAtOnce, sshPrivateKey, sshPrivateKeyPassword, aws",
      "hosts.mx1.host: is missing; write the name or address to dial",
      "hosts.mx1.hostKey: is missing; write the line of the host's /etc/ssh/ssh_host_ed25519_key.pub",
      'services.imaps: is an empty list; write who may reach it, or "closed" for nobody',
      'ssh[0]: "x" is not a CIDR; write a network such as "10.20.0.0/16" or "fd12::/48"',
      "aws.vpcId: is missing; write the id of the VPC, such as vpc-0123456789abcdef0",
    ],
  ],
];
