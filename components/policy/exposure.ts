import { text, type Policy } from "./policy";
import { catalogue, serviceNames } from "./services";

/**
 * What a reviewer reads: service → who can reach it, such as `imaps` → `tcp/993: public`.
 *
 * Every service of the catalogue is there, closed ones too, so that opening one changes a line and the spelling of a
 * policy changes none. A map, not a list: Pulumi compares lists by position, and one insertion would change every line.
 */
export function exposure(policy: Policy): Record<string, string> {
  const lines: [string, string][] = serviceNames.map((name) => [
    name,
    `tcp/${catalogue[name].port}: ${text(policy.services[name])}`,
  ]);
  lines.push(["ssh", `tcp/${policy.sshPorts.join(",")}: ${text(policy.ssh)}`]);
  for (const [name, { protocol, port, from }] of Object.entries(policy.ports)) {
    lines.push([name, `${protocol}/${port}: ${text(from)}`]);
  }
  return Object.fromEntries(lines);
}
