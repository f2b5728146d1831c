import * as pulumi from "@pulumi/pulumi";

import { exposureReadme, MailFirewall } from "./components";
import { readConfig } from "./stacks/config";
import { sshAgent } from "./stacks/sshAgent";

const args = readConfig({
  values: pulumi.runtime.allConfig(),
  secretKeys: JSON.parse(process.env.PULUMI_CONFIG_SECRET_KEYS ?? "[]") as string[],
  // A reviewer's preview logs in nowhere.
  sshAgent: (socket) => (pulumi.runtime.isDryRun() ? "ready" : sshAgent(socket)),
});

const config = new pulumi.Config();
const firewall = new MailFirewall("mail", {
  ...args,
  sshPrivateKey: config.getSecret("sshPrivateKey"),
  sshPrivateKeyPassword: config.getSecret("sshPrivateKeyPassword"),
});

const { exposure, securityGroupId, hosts, hostOnly, cloudOnly } = firewall;

// Without a security group there is no such output; Pulumi warns about one that is undefined.
export = {
  exposure,
  ...(securityGroupId && { securityGroupId }),
  hosts,
  hostOnly,
  cloudOnly,
  readme: exposure.apply(exposureReadme), // the stack's page in Pulumi Cloud
};
