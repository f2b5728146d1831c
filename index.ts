import * as pulumi from "@pulumi/pulumi";

import { MailFirewall } from "./components";
import { readConfig } from "./stacks/config";

const args = readConfig({
  values: pulumi.runtime.allConfig(),
  secretKeys: JSON.parse(process.env.PULUMI_CONFIG_SECRET_KEYS ?? "[]") as string[],
  // A reviewer's preview logs in nowhere.
  sshAgent: process.env.SSH_AUTH_SOCK !== undefined || pulumi.runtime.isDryRun(),
});

const firewall = new MailFirewall("mail", { ...args, sshPrivateKey: new pulumi.Config().getSecret("sshPrivateKey") });

const { exposure, securityGroupId, hosts, hostOnly, cloudOnly } = firewall;

// Without a security group there is no such output; Pulumi warns about one that is undefined.
export = { exposure, ...(securityGroupId && { securityGroupId }), hosts, hostOnly, cloudOnly };
