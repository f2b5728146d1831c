// What the instance of examples/ec2 does at its first boot, without the packages, which the image has already: its files and commands.
import { install } from "../integration/example";
import { userData } from "../../examples/ec2/userData";
import { execute, python } from "../sandbox/host";
import { startClient, type Client } from "../sandbox/probe";
import { mailbox, startRealHost, type RealHost } from "../sandbox/realHost";
import { deploy, must, releases, rulesFor, subjects } from "./mail";

jest.setTimeout(240_000);

const source = ["192.0.2.175", "2001:db8:175::1"];

interface CloudConfig {
  packages: string[];
  write_files: { path: string; content: string }[];
  runcmd: string[][];
}

async function cloudConfig(): Promise<CloudConfig> {
  const server = {
    domain: "example.org",
    hostname: "mx1.example.org",
    hostPrivateKey: "",
    hostKey: "",
    sshPublicKey: "",
  };
  const text = await new Promise<string>((resolve) => userData(server).apply(resolve));
  expect(text.startsWith("#cloud-config\n")).toBe(true);
  return JSON.parse(text.slice("#cloud-config\n".length)) as CloudConfig;
}

const submission = (password: string) => `
import smtplib, ssl, sys
server = smtplib.SMTP_SSL(sys.argv[1], 465, timeout=10, context=ssl._create_unverified_context())
if "${password}": server.login("${mailbox.user}", "${password}")
server.sendmail("${mailbox.address}", "${mailbox.address}", "Subject: from myself\\r\\n\\r\\nHello.\\r\\n")
`;

describe.each(releases)("on a real %s", (release) => {
  let host: RealHost, client: Client;
  beforeAll(async () => {
    [host, client] = await Promise.all([startRealHost({ release }), startClient(source)]);
    const { packages, write_files: files, runcmd } = await cloudConfig();
    for (const name of packages) await must(host, `dpkg -s ${name} >/dev/null`);
    for (const { path, content } of files) await must(host, `cat >${path}`, content);
    const quoted = (word: string) => `'${word.replaceAll("'", `'\\''`)}'`;
    for (const words of runcmd) await must(host, words.map(quoted).join(" "));
    await install(host);
    await deploy(host, rulesFor(["smtp", "submissions", "imaps"]));
  });
  afterAll(() => Promise.all([host?.close(), client?.close()]));

  const submit = (password: string) =>
    execute("nsenter", ["-t", `${client.pid}`, "--net", "--", python, "-c", submission(password), host.address4]);

  test("a user hands in mail by submissions, and reads it by imaps; others do not", async () => {
    expect(await submit(mailbox.password)).toMatchObject({ code: 0 });
    expect(await subjects(host, client, 1, 4)).toEqual(["from myself"]);
    expect((await submit("wrong")).stderr).toContain("authentication failed");
    expect((await submit("")).stderr).toContain("Access denied");
    expect(await subjects(host, client, 1, 4)).toEqual(["from myself"]);
  });
});
