import { SecurityGroup } from "@pulumi/aws/ec2/securityGroup";
import { SecurityGroupIngressRule } from "@pulumi/aws/vpc/securityGroupIngressRule";
import * as pulumi from "@pulumi/pulumi";

const config = new pulumi.Config();

// The stack of the mail servers, such as organization/mail-firewall/prod.
const mail = new pulumi.StackReference(config.require("mailStack"));

const group = new SecurityGroup("database", {
  vpcId: config.require("vpcId"),
  description: "PostgreSQL for the mail servers",
});
new SecurityGroupIngressRule("mail-servers", {
  securityGroupId: group.id,
  referencedSecurityGroupId: mail.requireOutput("securityGroupId").apply(String),
  ipProtocol: "tcp",
  fromPort: 5432,
  toPort: 5432,
  description: "postgresql: accounts and aliases",
});

export const securityGroupId = group.id;
