import { didYouMean, isPlain, show } from "../../components/policy/faults";

test.each<[unknown, string]>([
  ["imaps", '"imaps"'],
  [993, "993"],
  [undefined, "undefined"],
  [null, "null"],
  [["a"], '["a"]'],
  [{ a: 1 }, '{"a":1}'],
  [new Map(), "a value of type Map"],
  [Promise.resolve(), "a value of type Promise"],
  ["é\n", '"\\u00e9\\n"'],
  ["a".repeat(58), `"${"a".repeat(58)}"`],
  ["a".repeat(59), `"${"a".repeat(56)}...`],
  ["-----BEGIN OPENSSH PRIVATE KEY-----", "(a private key)"],
])("%p is shown as %s", (value, shown) => expect(show(value)).toBe(shown));

test.each([
  ["impas", '; did you mean "imaps"?'],
  ["IMAP", '; did you mean "imap"?'],
  ["pop", '; did you mean "pop3"?'], // one letter, in a word of three
  ["po", "; known are imap, imaps, pop3"], // two, in one of two
  ["xyz", "; known are imap, imaps, pop3"],
])("for %s%s", (word, said) => expect(didYouMean(word, ["imap", "imaps", "pop3"])).toBe(said));

test("of names as near, the one of the same length", () => {
  expect(didYouMean("imbps", ["imap", "imaps"])).toBe('; did you mean "imaps"?');
});

test.each<[unknown, boolean]>([
  ["a", true],
  [1, true],
  [null, true],
  [["a"], true],
  [{}, false],
  [Promise.resolve(), false],
])("%p is there already: %s", (value, plain) => expect(isPlain(value)).toBe(plain));
