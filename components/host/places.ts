import { isIP } from "node:net";

import * as pulumi from "@pulumi/pulumi";

import { isRecord, show, type Faults } from "../policy/faults";

/**
 * Where a host is dialled, as one text for all ways to write it. Hosts behind different bastions may have the same private address.
 *
 * @returns undefined if the host, its port or its bastion is not valid, or is known only during deployment.
 */
export function placeOf(value: unknown): string | undefined {
  if (!isRecord(value)) return undefined;
  const { host, port = 22, bastion } = value;
  if (typeof host !== "string" || typeof port !== "number") return undefined;
  const end = `${canonicalHost(host)} ${port}`;
  if (bastion === undefined) return end;
  const through = isRecord(bastion) ? placeOf({ ...bastion, bastion: undefined }) : undefined;
  return through && `${end} through ${through}`;
}

/** A name or an address in the one form that all its spellings share. */
function canonicalHost(host: string): string {
  const name = host.toLowerCase().replace(/\.$/, "");
  if (isIP(name) !== 6 || name.includes("%")) return name;
  return new URL(`http://[${name}]`).hostname; // in the form of RFC 5952
}

/** By place, and by host key: the name of the `HostFirewall` that has it. */
interface Taken {
  readonly places: Map<string, string>;
  readonly keys: Map<string, string>;
}

/** What the hosts of each run of a program have taken. Each run has its own connection to the engine. */
const runs = new WeakMap<object, Taken>();

function taken(): Taken {
  const run: object = pulumi.runtime.getMonitor() ?? runs;
  const known = runs.get(run) ?? { places: new Map<string, string>(), keys: new Map<string, string>() };
  runs.set(run, known);
  return known;
}

/**
 * Adds a fault if another `HostFirewall` of this program has the same machine. Each would undo what the other does.
 *
 * @param path of `args.host`.
 */
export function checkPlace(args: unknown, path: string, faults: Faults): void {
  const place = placeOf(args);
  const twin = place === undefined ? undefined : taken().places.get(place);
  if (twin !== undefined) {
    faults.add(path, `${show((args as { host: unknown }).host)} is also HostFirewall "${twin}"; delete one`);
  }
}

/**
 * Remembers the machine of a `HostFirewall`.
 *
 * @returns a warning if another one has the same host key. It may be the same machine, or a clone of it, so this is no fault.
 */
export function takePlace(name: string, args: { host: unknown; hostKey?: unknown }): string | undefined {
  const { places, keys } = taken();
  const place = placeOf(args);
  if (place !== undefined) places.set(place, name);
  if (typeof args.hostKey !== "string") return undefined;
  const key = args.hostKey.trim().split(/ +/, 2).join(" ");
  const twin = keys.get(key);
  keys.set(key, name);
  if (twin === undefined) return undefined;
  return (
    `${name} has the same host key as ${twin}. If the two are one machine, delete one of them. If one machine is a clone of the other, ` +
    "give it host keys of its own (rm /etc/ssh/ssh_host_*; ssh-keygen -A): until then each can pose as the other"
  );
}
