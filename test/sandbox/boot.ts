import { chmodSync, mkdirSync, mkdtempSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";

import { parse } from "yaml";

import type { Ec2 } from "./ec2";
import { startMailHost, type MailHost, type Place } from "./host";

/** What is executed of the user data: who it is, and who may log in. */
interface CloudConfig {
  ssh_keys: { ed25519_private: string };
  ssh_authorized_keys: [string];
}

/**
 * The machine of an instance that the emulator has been asked for, at its elastic IP: a mail host, which is there some time after the
 * instance has got its address, as in EC2. Of cloud-init it has the keys, and the word that it is done.
 *
 * @param notId an instance that has been there before.
 */
export async function bootInstance({ client }: Ec2, place: Place, notId?: string): Promise<MailHost> {
  const id = await associated(client, place.address4, notId);
  const { UserData } = await client.describeInstanceAttribute({ InstanceId: id, Attribute: "userData" });
  const text = Buffer.from(UserData!.Value!, "base64").toString("utf8");
  if (!text.startsWith("#cloud-config\n")) throw new Error(`cloud-init does not know such user data: ${text}`);
  const { ssh_keys: keys, ssh_authorized_keys: authorized } = parse(text) as CloudConfig;
  await sleep(2_000);
  return startMailHost({ place, hostKey: keys.ed25519_private, authorizedKey: authorized[0], usr: cloudInit() });
}

async function associated(client: Ec2["client"], address: string, notId?: string): Promise<string> {
  for (const deadline = Date.now() + 120_000; Date.now() < deadline; await sleep(50)) {
    const { Addresses } = await client.describeAddresses({});
    const id = Addresses!.find(({ PublicIp }) => PublicIp === address)?.InstanceId;
    if (id && id !== notId) return id;
  }
  throw new Error(`no instance got ${address}`);
}

function cloudInit(): string {
  const usr = mkdtempSync(join(tmpdir(), "cloud-init-"));
  chmodSync(usr, 0o755);
  mkdirSync(join(usr, "bin"));
  const file = join(usr, "bin/cloud-init");
  writeFileSync(file, '#!/bin/sh\n[ "$*" = "status --wait" ] && echo "status: done"\n', { mode: 0o755 });
  return usr;
}
