import * as aws from "@pulumi/aws";
import * as command from "@pulumi/command";
import * as pulumi from "@pulumi/pulumi";
import { MailFirewall } from "mail-firewall";

import { userData } from "./userData";

const config = new pulumi.Config();
const domain = config.require("domain");
const hostname = `mx1.${domain}`;
const hostKey = config.require("hostKey"); // of a machine that is not there yet: userData hands over its private half
const privateKey = config.requireSecret("sshPrivateKey");

const vpc = new aws.ec2.Vpc("mail", { cidrBlock: "10.0.0.0/16" });
const gateway = new aws.ec2.InternetGateway("mail", { vpcId: vpc.id });
const subnet = new aws.ec2.Subnet("mail", { vpcId: vpc.id, cidrBlock: "10.0.0.0/24" });
const routes = new aws.ec2.RouteTable("mail", {
  vpcId: vpc.id,
  routes: [{ cidrBlock: "0.0.0.0/0", gatewayId: gateway.id }],
});
const routed = new aws.ec2.RouteTableAssociation("mail", { subnetId: subnet.id, routeTableId: routes.id });

const firewall = new MailFirewall("mail", {
  services: { submissions: ["public"], imaps: ["public"] },
  ssh: config.requireObject<string[]>("ssh"),
  sshPrivateKey: privateKey,
  aws: { vpcId: vpc.id },
});

// The group has all its rules before the instance begins to be.
const instance = new aws.ec2.Instance(
  "mx1",
  {
    ami: config.require("ami"),
    instanceType: "t4g.small",
    subnetId: subnet.id,
    vpcSecurityGroupIds: [firewall.securityGroupId!],
    associatePublicIpAddress: true, // to fetch packages from the first moment; the elastic one takes its place
    metadataOptions: { httpTokens: "required" },
    userData: userData({
      domain,
      hostname,
      hostPrivateKey: config.requireSecret("hostPrivateKey"),
      hostKey,
      sshPublicKey: config.require("sshPublicKey"),
    }),
    userDataReplaceOnChange: true, // cloud-init reads it at the first boot only
  },
  { dependsOn: routed },
);
// The gateway cannot go before the address.
const address = new aws.ec2.Eip("mx1", { instance: instance.id }, { dependsOn: routed });

// A machine that is new takes its time until it answers, and cloud-init until iptables is installed.
const host = { host: address.publicIp, user: "admin", hostKey, privateKey };
const booted = new command.remote.Command(
  "mx1-booted",
  {
    connection: { ...host, dialErrorLimit: 60 },
    create: "cloud-init status --wait",
    addPreviousOutputInEnv: false,
    triggers: [instance.id],
  },
  { deletedWith: instance },
);
// A new instance behind the same address gets the firewall again. When it goes, nobody needs to log in to clean up.
firewall.addHost("mx1", { ...host, instanceId: instance.id }, { dependsOn: booted, deletedWith: instance });

const zoneId = config.require("zoneId");
new aws.route53.Record("mx1", { zoneId, name: hostname, type: "A", ttl: 300, records: [address.publicIp] });
new aws.route53.Record("mx", { zoneId, name: domain, type: "MX", ttl: 300, records: [`10 ${hostname}.`] });
new aws.route53.Record("spf", { zoneId, name: domain, type: "TXT", ttl: 300, records: ["v=spf1 mx -all"] });

export const { exposure, securityGroupId, hostOnly, cloudOnly } = firewall;
export const publicIp = address.publicIp;
