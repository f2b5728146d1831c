// docs/recipes.md: each recipe is a right config, and opens what its project documents.
import { readFileSync } from "node:fs";

import { parse } from "yaml";

import { exposure } from "../../components/policy/exposure";
import { Faults } from "../../components/policy/faults";
import { readPolicy } from "../../components/policy/policy";
import { readConfig } from "../../stacks/config";
import { good } from "./wrongConfigs";

const recipes = new Map(
  readFileSync("docs/recipes.md", "utf8")
    .split(/^## /m)
    .slice(1)
    .map((text) => [text.split("\n")[0]!, /```yaml\n(.*?)```/s.exec(text)![1]!]),
);

/** `tcp/993` → who can reach it, for all that anybody can. */
function opens(recipe: string): Record<string, string> {
  const config = { ...parse(recipe), ...withNamespace({ ssh: good.ssh, hosts: good.hosts }) } as Record<
    string,
    unknown
  >;
  const values = Object.fromEntries(Object.entries(config).map(([key, value]) => [key, JSON.stringify(value)]));
  const args = readConfig({ values, secretKeys: [], sshAgent: () => "ready" });
  const policy = readPolicy(args, "", { any: true, sshPorts: [22] }, new Faults());
  const said = Object.entries(exposure(policy)).filter(([name, text]) => name !== "ssh" && !text.endsWith(": closed"));
  return Object.fromEntries(said.map(([, text]) => text.split(": ") as [string, string]));
}

const withNamespace = (config: object) =>
  Object.fromEntries(Object.entries(config).map(([key, value]) => [`mail-firewall:${key}`, value as unknown]));

const tcp = (...ports: number[]) => Object.fromEntries(ports.map((port) => [`tcp/${port}`, "public"]));

// As read on 2026-11-23, in the repositories' commits of that day.
test.each([
  // mailcow/mailcow-dockerized-docs 380f81e, docs/getstarted/prerequisite-system.en.md, "Incoming Ports"
  ["mailcow: dockerized", tcp(25, 465, 587, 143, 993, 110, 995, 4190, 80, 443)],
  // docker-mailserver/docker-mailserver c9b015d, compose.yaml
  ["docker-mailserver", tcp(25, 143, 465, 587, 993)],
  // mail-in-a-box/mailinabox b162b96, `ufw_allow` in setup/*.sh: domain, imaps, pop3s, sieve, smtp, smtps, submission, http, https
  ["Mail-in-a-Box", { ...tcp(53, 993, 995, 4190, 25, 465, 587, 80, 443), "udp/53": "public" }],
  // iredmail/iRedMail e0fe4fc, samples/firewall/nftables.conf, but for SSH
  ["iRedMail", tcp(80, 443, 25, 587, 465, 110, 995, 143, 993)],
  [
    "A filtering relay in front",
    { ...tcp(465, 993), "tcp/25": "198.51.100.0/24, 2001:db8:51::/48" }, //
  ],
  [
    "IMAP only over a VPN",
    { ...tcp(25), "tcp/465": "10.8.0.0/24", "tcp/993": "10.8.0.0/24", "udp/51820": "public" }, //
  ],
  ["Users behind providers that block port 25", tcp(25, 465, 587, 2525)],
])("%s", (name, documented) => {
  expect(opens(recipes.get(name)!)).toEqual(documented);
});

test("each recipe is in the table above", () => {
  expect(recipes.size).toBe(7);
});
