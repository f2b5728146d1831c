// The comment on a pull request, as .github/workflows/preview.yml makes it.
interface Preview {
  stack: string;
  words: string;
  diff: string;
  failed: boolean;
}
const { comment, post } = jest.requireActual<{
  comment: (preview: Preview) => string;
  post: (preview: Preview & Record<"github" | "context", unknown>) => Promise<void>;
}>("../../.github/preview.js");

const preview: Preview = {
  stack: "prod",
  words: "mail: imaps (tcp/993): now reachable from everywhere, IPv4 and IPv6\n",
  diff: [
    "  pulumi:pulumi:Stack: (same)",
    "    ~ mail-firewall:index:MailFirewall: (update)",
    "              + -A MAILFW-OPEN -j RETURN",
    "              - -A MAILFW-OPEN -j DROP",
    "                -A MAILFW-IN -j ACCEPT",
    "Resources:",
    "    ~ 3 to update",
    "",
  ].join("\n"),
  failed: false,
};

test("the words come first, then every resource, whose changes stand where GitHub colours them", () => {
  expect(comment(preview)).toBe(`<!-- preview of prod -->

### What this changes: prod

\`\`\`
mail: imaps (tcp/993): now reachable from everywhere, IPv4 and IPv6
\`\`\`

<details><summary>Every resource</summary>

\`\`\`diff
  pulumi:pulumi:Stack: (same)
!     mail-firewall:index:MailFirewall: (update)
+               -A MAILFW-OPEN -j RETURN
-               -A MAILFW-OPEN -j DROP
                -A MAILFW-IN -j ACCEPT
Resources:
!     3 to update
\`\`\`

</details>`);
  expect(comment({ ...preview, failed: true })).toContain("### This preview failed: prod");
});

test("a text cannot end the block that it stands in", () => {
  const text = comment({ ...preview, words: "```\n<b>@someone</b>\n````" });
  expect(text).toContain("`````\n```\n<b>@someone</b>\n````\n`````\n");
});

test.each([0, 500, 60_000])("the diff gives way to what GitHub takes, and %s characters of words do not", (size) => {
  const words = "x".repeat(size);
  const line = "    + a line of a diff that is much too long for a comment";
  const text = comment({ ...preview, words, diff: Array.from({ length: 5000 }, () => line).join("\n") });
  expect(text.length).toBeLessThanOrEqual(65_536);
  expect(text).toContain(words);
  const shown = text.match(/^\+ {5}a line/gm)!.length;
  expect(text).toContain(`\`\`\`\n\n${5000 - shown} more lines are in the log of this job.\n</details>`);
  // And not much more than it must.
  expect(text.length + shown * 4).toBeGreaterThan(65_536);
});

test("it replaces the workflow's own comment about this stack, and no other", async () => {
  const calls: unknown[] = [];
  const record = (name: string) => (args: object) => Promise.resolve(void calls.push([name, args]));
  const issues = {
    listComments: "list",
    updateComment: record("update"),
    createComment: record("create"),
  };
  const context = { repo: { owner: "o", repo: "r" }, issue: { number: 7 } };
  const about = (stack: string) => comment({ ...preview, stack });
  const person = { id: 1, body: about("prod"), user: { type: "User" } };
  const staging = { id: 2, body: about("staging"), user: { type: "Bot" } };
  const prod = { id: 3, body: about("prod"), user: { type: "Bot" } };
  for (const comments of [
    [person, staging],
    [person, staging, prod],
  ]) {
    await post({ ...preview, context, github: { rest: { issues }, paginate: () => Promise.resolve(comments) } });
  }
  expect(calls).toEqual([
    ["create", { owner: "o", repo: "r", issue_number: 7, body: about("prod") }],
    ["update", { owner: "o", repo: "r", comment_id: 3, body: about("prod") }],
  ]);
});
