import { readExposure, type Exposed } from "./exposure";
import { isPublic, text, type Sources } from "./policy";

/** Networks that a box of the picture names. */
const shown = 6;

/**
 * Who can reach what, as a page of Markdown with a picture (Mermaid). A stack's output `readme` is its page in Pulumi Cloud:
 *
 *     export const readme = firewall.exposure.apply(exposureReadme);
 *
 * @param exposure what a firewall, or another stack's output, says.
 * @throws an Error if it is nothing that a firewall has said.
 */
export function exposureReadme(exposure: Record<string, string>): string {
  const all = readExposure(exposure);
  if (!all) throw new Error(`not the exposure of a mail-firewall: ${JSON.stringify(exposure)}`);
  const open = all.filter(({ sources }) => sources.length > 0);
  return [
    "# Who can reach what",
    "",
    "```mermaid",
    "flowchart LR",
    ...open.map((one) => {
      // The same networks are one box, by the name of the first service that they can reach.
      const first = open.find(({ sources }) => text(sources) === text(one.sources))!;
      const from = `from_${id(first)}${first === one ? `(["${words(one.sources)}"])` : ""}`;
      return `  ${from} --> to_${id(one)}["${one.name}<br>${one.protocol}/${one.ports.join(",")}"]`;
    }),
    "```",
    "",
    "Everything else is closed.", // not by name: what opens should be one line of a preview
    "",
  ].join("\n");
}

/** Mermaid takes letters, digits and `_`. */
const id = ({ name }: Exposed) => name.replaceAll("-", "_");

function words(sources: Sources): string {
  if (isPublic(sources)) return "everyone";
  const names = sources.map((source) => source.text);
  return (names.length > shown ? [...names.slice(0, shown - 1), `${names.length - shown + 1} more`] : names).join(
    "<br>",
  );
}
