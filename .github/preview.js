// The comment of preview.yml on a pull request: first what becomes reachable, in words, then all that Pulumi would do.

/** GitHub takes no more characters in one comment. */
const limit = 65536;

const mark = (stack) => `<!-- preview of ${stack} -->`;

/** Text as it is, whatever it holds: the fence is longer than any row of backticks inside. */
function block(language, text) {
  const inside = text.match(/`+/g) ?? [];
  const fence = "`".repeat(Math.max(3, ...inside.map((row) => row.length + 1)));
  return `${fence}${language}\n${text.trimEnd()}\n${fence}`;
}

/** Marks at the beginning of the line what is added, removed or changed, as GitHub colours it. */
const coloured = (diff) => diff.replace(/^( *)([-+~])(?= )/gm, (_, space, sign) => (sign === "~" ? "!" : sign) + space);

/**
 * @param words what `pulumi preview --diff` has written to standard error: the components' own words, warnings, errors.
 * @param diff what it has written to standard output. Where it is too long it is cut; the words never are.
 */
function comment({ stack, words, diff, failed }) {
  const title = `### ${failed ? "This preview failed" : "What this changes"}: ${stack}`;
  const body = (lines, note) =>
    [
      mark(stack),
      title,
      block("", words),
      `<details><summary>Every resource</summary>\n\n${block("diff", lines.join("\n"))}\n${note}\n</details>`,
    ].join("\n\n");
  const lines = coloured(diff).trimEnd().split("\n");
  let kept = lines.length;
  const cut = () =>
    kept === lines.length
      ? body(lines, "")
      : body(lines.slice(0, kept), `\n${lines.length - kept} more lines are in the log of this job.`);
  while (kept > 0 && cut().length > limit) kept = Math.floor(kept * 0.95);
  return cut();
}

/** Posts the comment in place of the one about the commit before. */
async function post({ github, context, ...preview }) {
  const where = { ...context.repo, issue_number: context.issue.number };
  const body = comment(preview);
  const comments = await github.paginate(github.rest.issues.listComments, where);
  const old = comments.find((one) => one.body.startsWith(mark(preview.stack)) && one.user.type === "Bot");
  if (old) await github.rest.issues.updateComment({ ...context.repo, comment_id: old.id, body });
  else await github.rest.issues.createComment({ ...where, body });
}

module.exports = { comment, post };
