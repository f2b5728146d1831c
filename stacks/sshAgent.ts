import { spawnSync } from "node:child_process";

import type { SshAgent } from "./config";

/** Asks the SSH agent behind a socket, by default the one of SSH_AUTH_SOCK, for its keys. */
export function sshAgent(socket = process.env.SSH_AUTH_SOCK): SshAgent {
  if (!socket) return "none";
  const env = { ...process.env, SSH_AUTH_SOCK: socket };
  const { status } = spawnSync("ssh-add", ["-l"], { env, stdio: "ignore", timeout: 10_000 });
  // ssh-add(1): 2 if it cannot contact the agent. Where there is no ssh-add, the provider will find out.
  return status === 1 ? "empty" : status === 2 ? "silent" : "ready";
}
