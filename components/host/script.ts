import { readFileSync } from "node:fs";
import { join } from "node:path";

/** The parts of the script on hosts, in order: each uses those before it. */
export const scriptParts = [
  "head", // names, places, help
  "rules", // how iptables-save writes rules
  "kernel", // what the kernel holds
  "store", // what is kept on disk
  "window", // between apply and confirm
  "others", // other firewalls
  "boot", // staying in force
  "preflight", // what is refused before anything is touched
  "status",
  "verbs",
  "main",
] as const;

/** The script that `HostFirewall` installs as /usr/local/sbin/mail-firewall. */
export const scriptText = scriptParts
  .map((part) => readFileSync(join(__dirname, "script", `${part}.sh`), "utf8"))
  .join("\n")
  .replaceAll("\r\n", "\n"); // as Git may check it out on Windows, where no shell of the host would take it
