// What hosts with Docker and hosts with Podman have in common.
import { existsSync } from "node:fs";
import { homedir } from "node:os";
import { join } from "node:path";

import type { MailHost } from "./host";
import type { Probe } from "./probe";

/** Runs a command on a host that must succeed, and returns what it printed. */
export type Must = (command: string, stdin?: string) => Promise<string>;

export function mustRun(host: Pick<MailHost, "name" | "run">): Must {
  return async (command, stdin) => {
    const { code, stdout, stderr } = await host.run(command, stdin);
    if (code !== 0) throw new Error(`${host.name}: ${command}: exit code ${code}\n${stderr}`);
    return stdout;
  };
}

/** What tools/containers.sh has fetched of an engine: a folder to be laid over /usr. */
export function engine(name: "docker" | "podman"): string {
  const usr = join(process.env.XDG_CACHE_HOME ?? join(homedir(), ".cache"), "mail-firewall", name, "usr");
  if (!existsSync(usr)) throw new Error(`no ${name} here: run tools/containers.sh`);
  return usr;
}

export const containerAgent = "/usr/local/lib/agent.py";

/** What runs in a container to probe others, and what it is asked: from whichever address it has. */
export const asker = `python3 ${containerAgent} probe 700`;
export const questions = (probes: readonly Omit<Probe, "source">[]): string =>
  JSON.stringify(probes.map((probe) => ({ source: probe.target.includes(":") ? "::" : "0.0.0.0", ...probe })));

/** All that a container has is the host's /usr. */
export const makeRoot = (folder: string): string => `
mkdir ${folder}
cd ${folder}
mkdir usr tmp
for name in bin lib lib64 sbin; do ln -s "usr/$name" "$name"; done`;
