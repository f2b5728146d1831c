/** A character that moves the cursor, or hides or reorders text: for a terminal it may be a command. */
const unprintable = /[\p{Cc}\p{Cf}\p{Cs}\p{Zl}\p{Zp}]/gu;

/** One line of text from elsewhere, as it may reach the operator's terminal. */
export function printable(text: string): string {
  return text.replace(unprintable, (character) => `\\u{${character.codePointAt(0)!.toString(16)}}`);
}

/** Lines of text from elsewhere. All but the first are indented, so that none looks like a line about another host. */
export function printableLines(text: string): string {
  return text.split(/\r?\n/).map(printable).join("\n  ");
}

/** A value as JSON that may reach the operator's terminal. */
export function printableJson(value: unknown): string {
  const escaped = (text: string) =>
    Array.from({ length: text.length }, (_, i) => `\\u${text.charCodeAt(i).toString(16).padStart(4, "0")}`).join("");
  // A line end stands only between values: within one it is escaped already.
  return JSON.stringify(value, undefined, 2).replace(unprintable, (character) =>
    character === "\n" ? character : escaped(character),
  );
}
