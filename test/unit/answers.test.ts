import { applied, confirmed, said } from "../../components/host/answers";

const token = "applied 0123456789ab-0123abcd";

test.each<[string, string | undefined, string]>([
  ["the line alone", token, token],
  ["with its end", `${token}\n`, token],
  ["behind what a .bashrc prints", `hello\n\nWelcome to mx1\n${token}`, token],
  ["with the line ends of Windows", `hello\r\n${token}\r\n`, token],
  ["nothing, under Pulumi's mocks", undefined, ""],
])("said: %s", (_, text, line) => {
  expect(said(text, [applied], "root@mx1", "mail-mx1")).toBe(line);
});

test.each<[string, string, string]>([
  ["nothing, as /bin/true", "", '""'],
  ["a blank", " ", '" "'],
  ["another form", "applied 12ab-89ef", '"applied 12ab-89ef"'],
  ["capitals", token.toUpperCase(), JSON.stringify(token.toUpperCase())],
  ["words behind it", `${token} or not`, `"${token} or not"`],
  ["a line behind it", `${token}\nbye`, `"${token}\\nbye"`],
  ["the other verb's", "confirmed", '"confirmed"'],
  ["escape sequences", "\u001b[2J\u009bm\u202ex", '"\\u001b[2J\\u009bm\\u202ex"'],
  ["more than anybody reads", "x".repeat(100_000), `"${"x".repeat(196)}...`],
])("not said: %s", (_, text, shown) => {
  const error = said(text, [applied], "root@mx1", "mail-mx1") as Error;
  expect(error.message).toBe(
    `HostFirewall "mail-mx1": root@mx1 did not run the firewall's commands, and nothing is in force there. It answered ${shown}. ` +
      "Does authorized_keys or sshd force another command or shell on this key? Mend that, then run pulumi up --replace '**mail-mx1-*'",
  );
});

test("a confirm may say either", () => {
  for (const text of ["confirmed", token]) expect(said(text, [confirmed, applied], "", "")).toBe(text);
});
