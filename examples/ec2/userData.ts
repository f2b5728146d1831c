import * as pulumi from "@pulumi/pulumi";

interface Server {
  /** The domain whose mail it has. */
  domain: string;
  /** Its own name, which its certificate and its greeting have. */
  hostname: string;
  /** Its SSH host key, made before it: `ssh-keygen -t ed25519`. */
  hostPrivateKey: pulumi.Input<string>;
  hostKey: string;
  /** Who may log in. */
  sshPublicKey: string;
}

/**
 * What cloud-init does at the first boot: Postfix takes mail for the domain, and sends what its users hand in by submissions; they read
 * by imaps. Users are those of the system. JSON is YAML, too.
 */
export function userData(server: Server): pulumi.Output<string> {
  const { domain, hostname, hostKey, sshPublicKey } = server;
  const hostPrivateKey = pulumi.interpolate`${server.hostPrivateKey}\n`; // which stack config has cut off, and sshd needs
  const config = pulumi.jsonStringify({
    fqdn: hostname,
    ssh_keys: { ed25519_private: hostPrivateKey, ed25519_public: hostKey },
    ssh_authorized_keys: [sshPublicKey],
    package_update: true,
    packages: ["iptables", "postfix", "dovecot-imapd"],
    write_files: [
      {
        path: "/etc/dovecot/conf.d/99-postfix.conf",
        defer: true, // until the package is there
        content: dovecot,
      },
    ],
    runcmd: [
      ["postconf", "-e", `myhostname=${hostname}`, `mydestination=${domain}, ${hostname}, localhost`],
      ["postconf", "-M", `submissions/inet=submissions inet n - y - - smtpd ${submissions}`],
      ["systemctl", "restart", "dovecot", "postfix"],
    ],
  });
  return pulumi.interpolate`#cloud-config\n${config}`;
}

const dovecot = `service auth {
  unix_listener /var/spool/postfix/private/auth {
    mode = 0660
    user = postfix
    group = postfix
  }
}
`;

const submissions = [
  "smtpd_tls_wrappermode=yes",
  "smtpd_sasl_auth_enable=yes",
  "smtpd_sasl_type=dovecot",
  "smtpd_sasl_path=private/auth",
  "smtpd_client_restrictions=permit_sasl_authenticated,reject",
  "smtpd_relay_restrictions=permit_sasl_authenticated,reject",
]
  .map((option) => `-o ${option}`)
  .join(" ");
