import { spawn, spawnSync, type ChildProcessWithoutNullStreams } from "node:child_process";
import { writeFileSync } from "node:fs";
import { join } from "node:path";

import { normalKey } from "../components/host/privateKey";

/** Answers ssh-add's question for a passphrase. It has no answer to the next question, which says that the first was wrong. */
const askpass = `#!/bin/sh
case $1 in Bad*) ;; *) printf '%s\\n' "$MAILFW_PASSPHRASE" ;; esac
`;

/** Runs beside an agent until this process ends, in whichever way: then nobody holds the other end of its stdin. */
const life = 'echo ready; cat >/dev/null; kill "$SSH_AGENT_PID"';

/**
 * Agents of OpenSSH, each with one private key. OpenSSH reads a key from a file or asks an agent. A file stays when this process
 * is killed, whatever clean-up there is. The memory of an agent that ends with this process leaves nothing behind.
 */
export class Agents {
  private readonly sockets = new Map<string, Promise<string>>();
  private readonly running: ChildProcessWithoutNullStreams[] = [];

  /** @param folder a folder that only this user can read, for the sockets. */
  constructor(private readonly folder: string) {}

  /** The socket of an agent that has this key and no other. */
  socketOf(privateKey: string, passphrase = ""): Promise<string> {
    const key = normalKey(privateKey);
    const id = JSON.stringify([key, passphrase]);
    const socket = this.sockets.get(id) ?? this.start(join(this.folder, `agent${this.sockets.size}`), key, passphrase);
    this.sockets.set(id, socket);
    return socket;
  }

  /** Ends them all. They also end with this process. */
  close(): void {
    for (const { stdin } of this.running) stdin.end();
  }

  private async start(socket: string, key: string, passphrase: string): Promise<string> {
    // In a session of its own: Ctrl-C at the terminal is for this process, with which the agent ends.
    const agent = spawn("ssh-agent", ["-a", socket, "sh", "-c", life], { detached: true });
    this.running.push(agent);
    await new Promise((resolve, reject) => {
      let complaints = "";
      agent.stderr.setEncoding("utf8").on("data", (text: string) => (complaints += text));
      agent.stdout.once("data", resolve);
      agent.on("error", ({ message }) => reject(new Error(`ssh-agent could not be started: ${message}`)));
      agent.on("close", () => reject(new Error(`ssh-agent: ${complaints.trim()}`)));
    });

    const program = join(this.folder, "askpass");
    writeFileSync(program, askpass, { mode: 0o700 });
    const env = { SSH_AUTH_SOCK: socket, SSH_ASKPASS: program, SSH_ASKPASS_REQUIRE: "force" };
    const { status, stderr, error } = spawnSync("ssh-add", ["-q", "-"], {
      env: { ...process.env, ...env, MAILFW_PASSPHRASE: passphrase },
      input: key,
      encoding: "utf8",
      timeout: 10_000,
    });
    if (status !== 0) throw new Error(`the private key cannot be used: ${error?.message ?? stderr.trim()}`);
    return socket;
  }
}
