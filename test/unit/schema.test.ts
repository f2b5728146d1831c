// The schema of the components for other languages: what Pulumi infers from the sources, and what it cannot.
import { readFileSync, writeFileSync } from "node:fs";

import { Analyzer } from "@pulumi/pulumi/provider/experimental/analyzer";
import { generateSchema } from "@pulumi/pulumi/provider/experimental/schema";

interface Property {
  description?: string;
  secret?: boolean;
  $ref?: string;
  items?: Property;
  additionalProperties?: Property;
}
interface Type {
  properties: Record<string, Property>;
  required?: string[];
}
interface Schema {
  dependencies?: unknown[];
  resources: Record<string, Type & { inputProperties: Record<string, Property>; requiredInputs?: string[] }>;
  types: Record<string, Type>;
}

const file = "plugin/schema.json";
const manifest = JSON.parse(readFileSync("package.json", "utf8")) as { version: string; description: string };

/** What the SDK's `componentProviderHost` would serve. */
function inferred(): Schema {
  const names = ["MailFirewall", "HostFirewall", "MailSecurityGroup"];
  const analyzer = new Analyzer(process.cwd(), "mail-firewall", manifest, new Set(names));
  const { components, typeDefinitions, dependencies } = analyzer.analyze();
  const { version, description } = manifest;
  const schema = generateSchema("mail-firewall", version, description, components, typeDefinitions, dependencies);
  return JSON.parse(JSON.stringify(schema)) as Schema;
}

/** As Pulumi's engine prints it (`pulumi package get-schema`), with what cannot be inferred: keys and passphrases are secret, and all
 * numbers are whole. Types are without the `Args` of their names: the libraries of other languages add it to every input's. */
function complete({ dependencies, ...schema }: Schema): Schema {
  expect(dependencies).toEqual([]);
  const all = [...Object.values(schema.resources).map((type) => type.inputProperties)];
  for (const properties of [...all, ...Object.values(schema.types).map((type) => type.properties)]) {
    for (const [name, property] of Object.entries(properties)) {
      if (/^(ssh)?privateKey(Password)?$/i.test(name)) property.secret = true;
    }
  }
  const said = (key: string, value: unknown) => key !== "optional" && !(key === "required" && String(value) === "");
  const text = JSON.stringify({ ...schema, config: {} }, (key, value: unknown) =>
    said(key, value) ? value : undefined,
  );
  const named = text.replaceAll(/(mail-firewall:index:\w+)Args"/g, '$1"').replaceAll('"number"', '"integer"');
  return JSON.parse(named) as Schema;
}

test("schema.json is what is inferred, with what cannot be (MAILFW_SCHEMA=write rewrites it)", () => {
  const schema = complete(inferred());
  if (process.env.MAILFW_SCHEMA === "write") writeFileSync(file, `${JSON.stringify(schema, undefined, 2)}\n`);
  expect(JSON.parse(readFileSync(file, "utf8"))).toEqual(schema);
});

describe("schema.json", () => {
  const schema = JSON.parse(readFileSync(file, "utf8")) as Schema;
  const properties = Object.entries(schema.resources).flatMap(([name, type]) => [
    ...Object.entries(type.inputProperties).map(([key, property]) => [`${name} input ${key}`, property] as const),
    ...Object.entries(type.properties).map(([key, property]) => [`${name} output ${key}`, property] as const),
  ]);
  const all = [
    ...properties,
    ...Object.entries(schema.types).flatMap(([name, type]) =>
      Object.entries(type.properties).map(([key, property]) => [`${name} ${key}`, property] as const),
    ),
  ];

  test("describes everything", () => {
    expect(all.filter(([, { description }]) => !description).map(([name]) => name)).toEqual([]);
    expect(all.length).toBeGreaterThan(80);
  });

  test("marks exactly the keys and passphrases as secret", () => {
    const secrets = all
      .filter(([, { secret }]) => secret)
      .map(([name]) => name.replace("mail-firewall:index:", ""))
      .sort();
    expect(secrets).toEqual([
      ...["Bastion", "Host"].flatMap((type) => [`${type} privateKey`, `${type} privateKeyPassword`]),
      ...["privateKey", "privateKeyPassword"].map((key) => `HostFirewall input ${key}`),
      ...["sshPrivateKey", "sshPrivateKeyPassword"].map((key) => `MailFirewall input ${key}`),
    ]);
  });

  test("shows the components' own outputs, and nothing private", () => {
    const outputs = Object.entries(schema.resources).map(([name, type]) => [
      name.replace("mail-firewall:index:", ""),
      Object.keys(type.properties).sort(),
    ]);
    expect(Object.fromEntries(outputs)).toEqual({
      MailFirewall: ["cloudOnly", "exposure", "hostOnly", "hosts", "securityGroupId"],
      HostFirewall: ["exposure", "hostOnly", "status"],
      MailSecurityGroup: ["exposure", "securityGroupId"],
    });
  });

  test("requires what there is no default for", () => {
    const required = Object.fromEntries([
      ...Object.entries(schema.resources).map(([name, { requiredInputs }]) => [name, requiredInputs] as const),
      ...Object.entries(schema.types).map(([name, type]) => [name, type.required] as const),
    ]);
    expect(required).toEqual({
      "mail-firewall:index:MailFirewall": ["ssh"],
      "mail-firewall:index:HostFirewall": ["host", "ssh"],
      "mail-firewall:index:MailSecurityGroup": ["ssh"],
      "mail-firewall:index:Port": ["from", "port", "protocol"],
      "mail-firewall:index:Host": ["host"],
      "mail-firewall:index:Bastion": ["host"],
      "mail-firewall:index:HostOptions": undefined,
      "mail-firewall:index:Egress": undefined,
      "mail-firewall:index:Aws": undefined,
    });
  });
});
