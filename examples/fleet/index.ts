import * as pulumi from "@pulumi/pulumi";
import { MailFirewall, type HostArgs } from "mail-firewall";

const config = new pulumi.Config();
const exchangers = config.requireObject<Record<string, HostArgs & { host: string }>>("exchangers");
const mailboxes = config.requireObject<HostArgs>("mailboxes");

const common = {
  ssh: config.requireObject<string[]>("ssh"),
  sshPrivateKey: config.getSecret("sshPrivateKey"), // or an SSH agent
};

// smtp is public unless its line says otherwise. One exchanger changes only after the one before it has confirmed.
const mx = new MailFirewall("mx", { ...common, hosts: exchangers });

// Hosts with other services are another firewall. It opens to the exchangers only after theirs is there.
const imap = new MailFirewall(
  "imap",
  {
    ...common,
    services: {
      smtp: Object.values(exchangers).map(({ host }) => `${host}/32`),
      secured: ["public"], // submissions, imaps and pop3s
    },
    hosts: { imap1: mailboxes },
  },
  { dependsOn: mx },
);

export const exposure = { mx: mx.exposure, imap: imap.exposure };
