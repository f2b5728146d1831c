import { show } from "../policy/faults";

/** What `mail-firewall apply` says when the rules are live and wait for their confirm: a fingerprint of them, and of the run. */
export const applied = /^applied [0-9a-f]{12}-[0-9a-f]{8}$/;

/** What `mail-firewall confirm` says when they are kept. */
export const confirmed = /^confirmed$/;

/**
 * The line by which the script on a host says that it has done its work. An exit code alone proves nothing: a host where another command
 * is forced upon the key answers whatever it is asked. The host's shell may have said something before that line.
 *
 * @param text all that came, undefined under Pulumi's mocks, which need not say anything.
 * @returns the line, or an error that says what came instead.
 */
export function said(text: string | undefined, forms: readonly RegExp[], where: string, name: string): string | Error {
  if (text === undefined) return "";
  const line = text.trimEnd().split(/\r?\n/).at(-1)!;
  if (forms.some((form) => form.test(line))) return line;
  return new Error(
    `HostFirewall "${name}": ${where} did not run the firewall's commands, and nothing is in force there. It answered ${show(text, 200)}. ` +
      `Does authorized_keys or sshd force another command or shell on this key? Mend that, then run pulumi up --replace '**${name}-*'`,
  );
}
