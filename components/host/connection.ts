import type { CommandArgs } from "@pulumi/command/remote/command";
import type { Input } from "@pulumi/pulumi";

import type { BastionArgs, HostArgs } from "./hostArgs";

/**
 * How the provider reaches a host: known fields, and none that was not given, because the provider prints unknown ones, and
 * hides all of it in a diff.
 *
 * @param rollbackSeconds how long the host waits for the connection that confirms its rules.
 */
export function connection(args: HostArgs, rollbackSeconds: number): CommandArgs["connection"] {
  const { bastion, agentSocketPath } = args;
  const host = endpoint(args, agentSocketPath, rollbackSeconds);
  if (bastion === undefined) return host;
  return {
    ...host,
    // Each attempt behind a bastion uses the stream that the first one closed: its error would hide the true one.
    dialErrorLimit: 0,
    proxy: endpoint({ ...bastion, ...logIn(bastion, args) }, agentSocketPath, rollbackSeconds),
  };
}

/** What one logs in with. A passphrase belongs to its key. */
export interface LogIn {
  privateKey?: Input<string>;
  privateKeyPassword?: Input<string>;
}

/** The log-in of `own`, or, where that brings no key, the one of `general`. */
export function logIn(own: LogIn, general: LogIn): LogIn {
  const { privateKey, privateKeyPassword } = own.privateKey === undefined ? general : own;
  return {
    ...(privateKey === undefined ? {} : { privateKey }),
    ...(privateKeyPassword === undefined ? {} : { privateKeyPassword }),
  };
}

function endpoint(args: BastionArgs, agentSocketPath: Input<string> | undefined, rollbackSeconds: number) {
  return {
    host: args.host,
    port: args.port ?? 22,
    user: args.user ?? "root",
    ...(args.hostKey === undefined ? {} : { hostKey: args.hostKey }),
    ...logIn(args, {}),
    ...(agentSocketPath === undefined ? {} : { agentSocketPath }),
    // Every attempt counts for whoever bans addresses after failed logins, and a wrong key is retried like a lost packet.
    dialErrorLimit: 2,
    // All three attempts to confirm lie within the time that there is for it.
    perDialTimeout: Math.min(10, Math.floor(rollbackSeconds / 5)),
  };
}

/** What a careful reader should be told about how a host is reached. */
export function connectionWarnings(name: string, args: HostArgs): string[] {
  const ends: [string, BastionArgs | undefined][] = [
    ["the host key of", args],
    ["the host key of its bastion", args.bastion],
  ];
  return ends.flatMap(([what, end]) =>
    end?.insecureIgnoreHostKey
      ? [
          `${name}: ${what} ${typeof end.host === "string" ? end.host : "(an address that is not known yet)"} ` +
            "is not checked (insecureIgnoreHostKey): whoever answers in its place is taken for it",
        ]
      : [],
  );
}
