import * as pulumi from "@pulumi/pulumi";
import { MailFirewall } from "mail-firewall";

const config = new pulumi.Config();

const firewall = new MailFirewall("mail", {
  services: { submissions: ["public"], imaps: ["public"], https: ["public"] },
  ssh: config.requireObject<string[]>("ssh"),
  sshPrivateKey: config.getSecret("sshPrivateKey"), // or an SSH agent
  hosts: { mx1: { host: config.require("host"), hostKey: config.require("hostKey") } },
});

export const { exposure, hosts } = firewall;
