import { existsSync, mkdtempSync, renameSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

/** A folder for all processes of a sandbox: the first that needs it makes it, the others find it. */
export function madeOnce(name: string, make: (folder: string) => void): string {
  const folder = join(tmpdir(), name);
  if (existsSync(folder)) return folder;
  const mine = mkdtempSync(`${folder}-`);
  make(mine);
  try {
    renameSync(mine, folder);
  } catch (error) {
    if (!existsSync(folder)) throw error;
    rmSync(mine, { recursive: true }); // another was quicker
  }
  return folder;
}
