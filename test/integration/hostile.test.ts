// Names that would be commands if a shell saw them, by the real engine and kernel.
import { mkdirSync, mkdtempSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";

import { operatorKey, startMailHost } from "../sandbox/host";
import { startStack } from "../sandbox/stack";
import { expectedRulesets, live, policy, succeeded } from "./example";

jest.setTimeout(120_000);

test("a resource with a hostile name is deployed, asked, changed and destroyed, and nothing else happens", async () => {
  const name = `it's "mx" $(touch /tmp/x) \`touch /tmp/x\`; touch /tmp/x | sh & ../../x`;
  const folder = mkdtempSync(join(tmpdir(), "hostile-"));
  mkdirSync(join(folder, "stacks"));
  symlinkSync(resolve("node_modules"), join(folder, "node_modules"));
  writeFileSync(
    join(folder, "Pulumi.yaml"),
    "name: mail-firewall\nruntime: nodejs\nmain: index.js\nstackConfigDir: stacks\n",
  );
  writeFileSync(join(folder, "package.json"), "{}");
  const host = await startMailHost({ listen: { tcp: [993], udp: [] } });
  const stack = await startStack({ ...operatorKey, project: folder });
  try {
    const program = (services: object) => `
      const { Config } = require("@pulumi/pulumi");
      const { HostFirewall } = require(${JSON.stringify(resolve("dist/components"))});
      new HostFirewall(${JSON.stringify(name)}, {
        ...${JSON.stringify({ ...policy, ports: { wireguard: { protocol: "udp", port: 51820, from: ["public"] } }, services })},
        ...${JSON.stringify({ host: host.address4, hostKey: host.hostKey, user: "admin" })},
        privateKey: new Config().requireSecret("sshPrivateKey"),
      });`;
    const services = { submissions: ["public"], https: ["public"], imap: policy.services.imap };
    for (const more of [{}, { imaps: ["public"] }] as Record<string, string[]>[]) {
      writeFileSync(join(folder, "index.js"), program({ ...services, ...more }));
      succeeded(await stack.up("--skip-preview"));
      expect(await live(host)).toBe(expectedRulesets(`mail-firewall/test/${name}`, more));
    }
    const { code, output } = await stack.execute("node", resolve("dist/cli/main.js"), "status", name);
    expect({ code, output }).toMatchObject({ code: 0 });
    expect(output).toContain(`${name}: as deployed`);
    succeeded(await stack.destroy());
    expect((await host.save(4)) + (await host.save(6))).not.toContain("MAILFW");
    expect((await host.run("ls -A /tmp /root; ls /home/admin")).stdout).toBe("/root:\n\n/tmp:\n");
  } finally {
    await host.close();
    stack.remove();
  }
});
