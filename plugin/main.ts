#!/usr/bin/env node
// The components for programs in any of Pulumi's languages: the engine runs this as the plugin `mail-firewall`, and
// `pulumi package add node_modules/mail-firewall/dist/plugin/schema.json` generates a library for the program's own language.
// schema.json is what Pulumi infers from the sources and their comments, and some that it cannot (test/unit/schema.test.ts).
import { readFileSync } from "node:fs";
import { join } from "node:path";

import type { ComponentResource, ComponentResourceOptions } from "@pulumi/pulumi";
import { main } from "@pulumi/pulumi/provider";

import { HostFirewall, MailFirewall, MailSecurityGroup } from "../components";

type Component = new (name: string, args: never, opts: ComponentResourceOptions) => ComponentResource;

interface Schema {
  version: string;
  resources: Record<string, { properties: Record<string, unknown> }>;
}

const schema = readFileSync(join(__dirname, "schema.json"), "utf8");
const { version, resources } = JSON.parse(schema) as Schema;
const components: Record<string, Component> = {
  "mail-firewall:index:MailFirewall": MailFirewall,
  "mail-firewall:index:HostFirewall": HostFirewall,
  "mail-firewall:index:MailSecurityGroup": MailSecurityGroup,
};

void main(
  {
    version,
    schema,
    construct: (name, type, inputs, options) => {
      const Component = components[type];
      if (!Component) throw new Error(`mail-firewall has no component ${type}`);
      const component = new Component(name, inputs as never, options) as ComponentResource & Record<string, unknown>;
      const outputs = Object.keys(resources[type]!.properties).map((key) => [key, component[key]] as const);
      return Promise.resolve({ urn: component.urn, state: Object.fromEntries(outputs) });
    },
  },
  process.argv.slice(2),
);
