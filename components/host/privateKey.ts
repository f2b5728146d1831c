import { createDecipheriv, createPrivateKey } from "node:crypto";

import { isPlain, type Faults } from "../policy/faults";

/**
 * The text of a private key as every SSH client reads it: OpenSSH takes neither CRLF line ends nor a last line without an
 * end, and the provider's client takes both.
 */
export const normalKey = (text: string): string => `${text.trim().replaceAll("\r\n", "\n")}\n`;

/**
 * Adds what is wrong with a private key and its passphrase to `faults`, without showing either. What is known only during
 * deployment is left to SSH.
 *
 * @param path of the key; the passphrase stands beside it, under the same name with `Password` behind it.
 */
export function checkPrivateKey(key: unknown, password: unknown, path: string, faults: Faults): void {
  const name = `${path.split(/[.:]/).at(-1)}Password`;
  const passwordPath = `${path}Password`;
  if (password !== undefined && isPlain(password) && (typeof password !== "string" || password === "")) {
    faults.add(passwordPath, "is not a passphrase; write text");
    return;
  }
  if (key === undefined) {
    if (password !== undefined) faults.add(passwordPath, "is there without its key; add that, or delete it");
    return;
  }
  if (!isPlain(key)) return;
  const text = typeof key === "string" ? normalKey(key) : "";
  if (!/^-----BEGIN [A-Z0-9 ]*PRIVATE KEY-----\n/.test(text)) {
    faults.add(path, 'is not a private key; write the text of the key file, from "-----BEGIN" to the last line');
    return;
  }
  const lock = lockOf(text);
  if (lock === undefined) {
    if (password !== undefined) faults.add(passwordPath, "is given, but the key is not protected by one; delete it");
  } else if (lock === "unreadable") {
    faults.add(path, "is encrypted in a way that the SSH client cannot read; rewrite it with ssh-keygen -p -f KEYFILE");
  } else if (password === undefined) {
    faults.add(path, `is protected by a passphrase; give that as ${name}, or use an SSH agent`);
  } else if (typeof password === "string" && !lock(password)) {
    faults.add(passwordPath, "is not the passphrase of the key; ssh-keygen -y -f KEYFILE tells whether it is");
  }
}

/** Whether a passphrase opens a key; undefined if the key needs none, `unreadable` if the provider cannot open it with any. */
function lockOf(text: string): ((passphrase: string) => boolean) | "unreadable" | undefined {
  if (/^-----BEGIN ENCRYPTED /.test(text)) return "unreadable"; // PKCS #8: Go's ParsePrivateKeyWithPassphrase has none
  if (/^Proc-Type: 4,ENCRYPTED/m.test(text)) return (passphrase) => opensPem(text, passphrase);
  return openSshLock(Buffer.from(text.replace(/^-----.*$/gm, ""), "base64"));
}

/** RFC 1421 §4.6, as OpenSSL writes it. */
function opensPem(key: string, passphrase: string): boolean {
  try {
    createPrivateKey({ key, passphrase });
    return true;
  } catch {
    return false;
  }
}

/** OpenSSH's PROTOCOL.key: cipher, kdf, its options, a count, the public key, and the encrypted part. */
function openSshLock(bytes: Buffer): ReturnType<typeof lockOf> {
  const magic = "openssh-key-v1\0";
  if (bytes.toString("latin1", 0, magic.length) !== magic) return undefined;
  const read = reader(bytes.subarray(magic.length));
  const cipher = read.field().toString("latin1");
  if (cipher === "" || cipher === "none") return undefined;
  const kdf = read.field().toString("latin1");
  if ((cipher !== "aes256-ctr" && cipher !== "aes256-cbc") || kdf !== "bcrypt") return "unreadable";
  const options = reader(read.field());
  const salt = options.field();
  const rounds = options.number();
  read.number();
  read.field();
  const locked = read.field();
  return (passphrase) => {
    const derived = bcryptPbkdf(Buffer.from(passphrase), salt, rounds, 48);
    const decipher = createDecipheriv(
      cipher.replace("aes256", "aes-256"),
      derived.subarray(0, 32),
      derived.subarray(32),
    );
    const opened = decipher.setAutoPadding(false).update(locked);
    // It begins with one random number twice, by which a reader sees that the passphrase is right.
    return opened.length >= 8 && opened.readUInt32BE(0) === opened.readUInt32BE(4);
  };
}

/** Fields with their lengths in front, and numbers (RFC 4251 §5); empty and 0 where the bytes end before. */
function reader(bytes: Buffer) {
  let at = 0;
  const number = () => {
    at += 4;
    return at <= bytes.length ? bytes.readUInt32BE(at - 4) : 0;
  };
  const field = () => {
    const length = number();
    at += length;
    return at <= bytes.length ? bytes.subarray(at - length, at) : Buffer.alloc(0);
  };
  return { number, field };
}

type Pbkdf = (
  p: Buffer,
  pLength: number,
  salt: Buffer,
  saltLength: number,
  key: Buffer,
  keyLength: number,
  rounds: number,
) => number;

function bcryptPbkdf(passphrase: Buffer, salt: Buffer, rounds: number, length: number): Buffer {
  // Loaded only where there is a passphrase. Node itself has no bcrypt.
  // eslint-disable-next-line @typescript-eslint/no-require-imports
  const bcrypt = require("bcrypt-pbkdf") as { pbkdf: Pbkdf };
  const key = Buffer.alloc(length);
  bcrypt.pbkdf(passphrase, passphrase.length, salt, salt.length, key, key.length, rounds);
  return key;
}
