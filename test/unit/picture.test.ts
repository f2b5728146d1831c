import fc from "fast-check";

import { exposure } from "../../components/policy/exposure";
import { Faults } from "../../components/policy/faults";
import { exposureReadme } from "../../components/policy/picture";
import { readPolicy, type PolicyArgs } from "../../components/policy/policy";
import { policyArgs } from "./arbitraries";

const read = (args: PolicyArgs) => exposure(readPolicy(args, "", { any: true }, new Faults()));

test("draws who can reach what: the same networks once, what is closed not at all", () => {
  const office = ["10.20.0.0/16", "fd12::/48"];
  const said = read({
    services: { imaps: ["public"], imap: office, sieve: office },
    ssh: ["203.0.113.0/24"],
    ports: {
      "end-user": { protocol: "udp", port: 51820, from: [0, 2, 4, 6, 8, 10, 12].map((n) => `192.0.2.${n}/32`) },
    },
  });
  expect(exposureReadme(said)).toBe(`# Who can reach what

\`\`\`mermaid
flowchart LR
  from_smtp(["everyone"]) --> to_smtp["smtp<br>tcp/25"]
  from_imap(["10.20.0.0/16<br>fd12::/48"]) --> to_imap["imap<br>tcp/143"]
  from_smtp --> to_imaps["imaps<br>tcp/993"]
  from_imap --> to_sieve["sieve<br>tcp/4190"]
  from_ssh(["203.0.113.0/24"]) --> to_ssh["ssh<br>tcp/22"]
  from_end_user(["192.0.2.0/32<br>192.0.2.2/32<br>192.0.2.4/32<br>192.0.2.6/32<br>192.0.2.8/32<br>2 more"]) --> to_end_user["end-user<br>udp/51820"]
\`\`\`

Everything else is closed.
`);
});

test("every open service of any policy has one line, from one box; no id is there twice", () => {
  fc.assert(
    fc.property(policyArgs, (args) => {
      const said = read(args);
      const lines = exposureReadme(said)
        .split("\n")
        .filter((line) => line.includes("-->"));
      const parts = lines.map((line) =>
        /^  (from_\w+)(\(\["[^"]+"\]\))? --> (to_\w+)\["([^"]+)<br>[^"]+"\]$/.exec(line)!,
      );
      const open = Object.entries(said).filter(([, line]) => !line.endsWith(": closed"));
      expect(parts.map((part) => part[4])).toEqual(open.map(([name]) => name));
      expect(new Set(parts.map((part) => part[3])).size).toBe(parts.length);
      // A box is drawn where it is first named, and nowhere else.
      const seen = new Set<string>();
      for (const [, box, drawn] of parts) {
        expect(drawn !== undefined).toBe(!seen.has(box!));
        seen.add(box!);
      }
    }),
  );
});

test("what no firewall has said is refused", () => {
  expect(() => exposureReadme({ smtp: "yes" })).toThrow('not the exposure of a mail-firewall: {"smtp":"yes"}');
});
