import { execFileSync, execSync } from "node:child_process";
import { generateKeyPairSync } from "node:crypto";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

import { secret } from "@pulumi/pulumi";

import { checkPrivateKey } from "../../components/host/privateKey";
import { Faults } from "../../components/policy/faults";
import { documented } from "../documented";

let folder: string;
beforeAll(() => (folder = mkdtempSync(join(tmpdir(), "key-"))));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

/** A key as ssh-keygen writes it. */
function keygen(passphrase: string, ...options: string[]): string {
  const file = join(folder, "key");
  rmSync(file, { force: true });
  execFileSync("ssh-keygen", ["-q", "-N", passphrase, "-f", file, ...options]);
  return readFileSync(file, "utf8");
}

function faults(key: unknown, password?: unknown): string[] {
  const found = new Faults();
  checkPrivateKey(key, password, "hosts.mx1.privateKey", found);
  return found.list.map(({ path, problem }) => `${path}: ${problem}`);
}

const missing =
  "hosts.mx1.privateKey: is protected by a passphrase; give that as privateKeyPassword, or use an SSH agent";
const wrong =
  "hosts.mx1.privateKeyPassword: is not the passphrase of the key; ssh-keygen -y -f KEYFILE tells whether it is";
const unreadable =
  "hosts.mx1.privateKey: is encrypted in a way that the SSH client cannot read; rewrite it with ssh-keygen -p -f KEYFILE";
const needless = "hosts.mx1.privateKeyPassword: is given, but the key is not protected by one; delete it";

test.each<[string, string[]]>([
  ["Ed25519", ["-t", "ed25519"]],
  ["Ed25519, few rounds, CBC", ["-t", "ed25519", "-a", "1", "-Z", "aes256-cbc"]],
  ["ECDSA", ["-t", "ecdsa", "-a", "2"]],
  ["RSA in PEM", ["-t", "rsa", "-b", "1024", "-m", "PEM"]],
  ["ECDSA in PEM", ["-t", "ecdsa", "-m", "PEM"]],
])("knows the passphrase of a key of ssh-keygen: %s", (_, options) => {
  const key = keygen("hushed \u00fc", ...options);
  expect(faults(key, "hushed \u00fc")).toEqual([]);
  expect(faults(key.replaceAll("\n", "\r\n"), "hushed \u00fc")).toEqual([]);
  expect(faults(key, "hushed")).toEqual([wrong]);
  expect(faults(key)).toEqual([missing]);
  expect(faults(key, secret("hushed"))).toEqual([]); // known during deployment
});

test("refuses a passphrase that the key does not need, which the provider refuses, too", () => {
  for (const format of ["RFC4716", "PEM", "PKCS8"]) {
    const key = keygen("", "-t", "ecdsa", "-m", format);
    expect(faults(key)).toEqual([]);
    expect(faults(key, "hushed")).toEqual([needless]);
  }
});

test("refuses keys that the provider cannot open with any passphrase", () => {
  for (const key of [
    keygen("hushed", "-t", "ed25519", "-a", "1", "-Z", "aes128-ctr"),
    keygen("hushed", "-t", "ed25519", "-a", "1", "-Z", "chacha20-poly1305@openssh.com"),
    keygen("hushed", "-t", "ecdsa", "-m", "PKCS8"),
    generateKeyPairSync("ed25519", {
      publicKeyEncoding: { type: "spki", format: "pem" },
      privateKeyEncoding: { type: "pkcs8", format: "pem", cipher: "aes-256-cbc", passphrase: "hushed" },
    }).privateKey,
  ]) {
    for (const password of [undefined, "hushed"]) expect(faults(key, password)).toEqual([unreadable]);
  }
});

test("takes such a key when it is rewritten", () => {
  expect(faults(keygen("hushed", "-t", "ecdsa", "-m", "PKCS8"), "hushed")).toEqual([unreadable]);
  const file = join(folder, "key");
  execSync(`${documented("README.md", "ssh-keygen -p -f KEYFILE", { KEYFILE: file })} -q -P hushed -N hushed`);
  expect(faults(readFileSync(file, "utf8"), "hushed")).toEqual([]);
});

test("never fails on a key that is cut off, and never takes it with a passphrase", () => {
  const [head, ...lines] = keygen("hushed", "-t", "ed25519", "-a", "1").trim().split("\n");
  const body = lines.slice(0, -1).join("");
  for (let length = 0; length < body.length; length += 4) {
    const cut = `${head}\n${body.slice(0, length)}\n${lines.at(-1)}\n`;
    expect(faults(cut, "hushed")).toHaveLength(1);
  }
});

test.each([
  ["", "is not a passphrase; write text"],
  [5, "is not a passphrase; write text"],
  [null, "is not a passphrase; write text"],
])("refuses %j for a passphrase", (password, problem) => {
  expect(faults(undefined, password)).toEqual([`hosts.mx1.privateKeyPassword: ${problem}`]);
});
