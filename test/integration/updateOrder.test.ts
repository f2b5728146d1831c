// While an update runs: opening never waits for closing, and at no moment is anything denied that both policies allow.
import { parseGroupRules, reach, type CloudRule } from "../../components/cloud/reach";
import { both, lines, without } from "../../components/policy/regions";
import { startEc2, type Ec2, type Ec2Request } from "../sandbox/ec2";
import { exposureOf } from "../sandbox/expect";
import { operatorKey, startMailHost, type MailHost } from "../sandbox/host";
import { startClient, startFlows, type Client } from "../sandbox/probe";
import { startStack, type Config, type Stack } from "../sandbox/stack";
import { sampledTest, succeeded } from "./example";

jest.setTimeout(180_000);

const staying = ["10.62.1.9", "fd62:0:1::9"];
const leaving = ["10.62.0.9", "fd62::9"];
const coming = ["10.62.2.9", "fd62:0:2::9"];

const common = { ssh: ["203.0.113.0/24"], ports: { wireguard: { protocol: "udp", port: 51820, from: "public" } } };
// Those who stay are let in by another rule than before, which must be there before the old one goes.
const before = { ...common, services: { imap: ["10.62.0.0/23", "fd62::/47"], pop3s: "public", https: "public" } };
const after = {
  ...common,
  services: {
    imap: ["10.62.1.0/24", "10.62.2.0/24", "fd62:0:1::/48", "fd62:0:2::/48"],
    sieve: "public",
    https: "public",
  },
};

/** The rules of a group by their ids. */
type Rules = ReadonlyMap<string, CloudRule>;

let ec2: Ec2, host: MailHost, client: Client, stack: Stack, groupId: string;
let configure: (policy: Config) => void;

beforeAll(async () => {
  [ec2, host, client] = await Promise.all([
    startEc2(),
    startMailHost(),
    startClient([...staying, ...leaving, ...coming]),
  ]);
  const vpcId = await ec2.createVpc();
  stack = await startStack({ privateKey: operatorKey.privateKey, env: ec2.env });
  configure = (policy) =>
    stack.configure({
      "aws:region": "eu-central-1",
      ...policy,
      hosts: { mx1: { host: host.address4, hostKey: host.hostKey } },
      aws: { vpcId },
    });
  configure(before);
  succeeded(await stack.up("--skip-preview"));
  groupId = (await ec2.securityGroups(vpcId))[0]!.id;
});
afterAll(async () => {
  await Promise.all([ec2?.close(), host?.close(), client?.close()]);
  stack?.remove();
});

async function liveRules(): Promise<Rules> {
  const filter = { Filters: [{ Name: "group-id", Values: [groupId] }] };
  const { SecurityGroupRules } = await ec2.client.describeSecurityGroupRules(filter);
  const read = parseGroupRules(JSON.stringify({ SecurityGroupRules }));
  return new Map(SecurityGroupRules!.map(({ SecurityGroupRuleId }, i) => [SecurityGroupRuleId!, read[i]!]));
}

/** What rules admit, as text, so that lists of them compare. */
const admitted = (rules: Rules) => lines(reach([...rules.values()], "ingress").surely);

interface Permission {
  IpProtocol: string;
  FromPort?: number;
  ToPort?: number;
  IpRanges?: { CidrIp: string }[];
  Ipv6Ranges?: { CidrIpv6: string }[];
}

/**
 * The rules after each request, at the moment at which they admit least: what is authorized is there once that is
 * answered, what is revoked is gone as soon as that is asked for.
 */
function replay(start: Rules, requests: readonly Ec2Request[]): Rules[] {
  const rules = new Map(start);
  return requests.map(({ call, input, answered }) => {
    if (/^Authorize.*Ingress$/.test(call) && answered) {
      for (const { IpProtocol, FromPort, ToPort, IpRanges, Ipv6Ranges } of input.IpPermissions as Permission[]) {
        const networks = [
          ...(IpRanges ?? []).map(({ CidrIp }) => CidrIp),
          ...(Ipv6Ranges ?? []).map(({ CidrIpv6 }) => CidrIpv6),
        ];
        const rule = { ipProtocol: IpProtocol, fromPort: FromPort, toPort: ToPort, networks };
        rules.set(`authorized ${rules.size}`, { direction: "ingress", ...rule });
      }
    } else if (/^Revoke/.test(call) && !answered) {
      for (const id of input.SecurityGroupRuleIds as string[]) expect(rules.delete(id)).toBe(true);
    }
    return new Map(rules);
  });
}

/** What both of two policies admit, and some moment of the update does not. */
function denied(from: Rules, to: Rules, moments: readonly Rules[]): string[] {
  const [old, next] = [from, to].map((rules) => reach([...rules.values()], "ingress").surely);
  const kept = both(old!, next!);
  return moments.flatMap((rules) => lines(without(kept, reach([...rules.values()], "ingress").surely)));
}

/** Deploys a policy, while those who stay have mail and a tunnel. */
async function update(policy: Config) {
  const from = await liveRules();
  const asked = ec2.requests().length;
  configure(policy);
  const flows = await startFlows(
    client,
    staying.map((source) => ({
      source,
      target: source.includes(":") ? host.address6 : host.address4,
      rate: 100,
      udp: 51820,
      connect: 143,
      sessions: { 143: 0.05 },
    })),
  );
  const run = await stack.up("--skip-preview");
  const reports = await flows.end();
  succeeded(run);
  for (const { datagrams, connections, slowest, sessions } of reports) {
    expect(connections[0]).toBeGreaterThan(50);
    expect(connections[1]).toBe(connections[0]);
    expect(slowest).toBeLessThan(900); // a SYN that is lost is sent again after a second
    expect(datagrams[0]).toBeGreaterThan(100);
    expect(datagrams[1]).toBe(datagrams[0]);
    expect(sessions[143]![1]).toBe(sessions[143]![0]);
  }
  const requests = ec2
    .requests()
    .slice(asked)
    .filter(({ call }) => !call.startsWith("Describe"));
  return { from, to: await liveRules(), requests };
}

test("networks are swapped, a service closed and another opened: all is opened before anything is closed", async () => {
  for (const source of [...staying, ...leaving])
    expect((await exposureOf(host, client, source)).open).toEqual(expect.arrayContaining(["tcp/143", "tcp/995"]));
  const { from, to, requests } = await update(after);

  const authorizes = requests.filter(({ call, answered }) => call === "AuthorizeSecurityGroupIngress" && answered);
  const revokes = requests.filter(({ call, answered }) => call === "RevokeSecurityGroupIngress" && !answered);
  expect(authorizes).toHaveLength(6);
  expect(revokes).toHaveLength(4);
  expect(requests).toHaveLength(20); // and nothing else
  expect(requests.indexOf(authorizes.at(-1)!)).toBeLessThan(requests.indexOf(revokes[0]!));

  const moments = replay(from, requests);
  expect(admitted(moments.at(-1)!)).toEqual(admitted(to));
  expect(denied(from, to, moments)).toEqual([]);
  // In the other order those who stay would have been shut out.
  const reverse = denied(from, to, replay(from, [...revokes, ...authorizes])).join("\n");
  for (const network of ["10.62.1.0/24", "fd62:0:1::/48"]) expect(reverse).toContain(network);

  for (const source of [...staying, ...coming]) {
    const { open } = await exposureOf(host, client, source);
    expect(open).toEqual(expect.arrayContaining(["tcp/143", "tcp/4190"]));
    expect(open).not.toContain("tcp/995");
  }
  for (const source of leaving) expect((await exposureOf(host, client, source)).shut).toContain("tcp/143");
});

sampledTest("a description is changed in place: the rules stay", async () => {
  const { wireguard } = common.ports;
  const { from, to, requests } = await update({ ...after, ports: { tunnel: wireguard } });
  expect(requests.map(({ call }) => call)).toEqual(Array(4).fill("ModifySecurityGroupRules"));
  expect([...to.keys()].sort()).toEqual([...from.keys()].sort());
  expect(admitted(to)).toEqual(admitted(from));
  const tunnel = (await ec2.rules(groupId)).filter(({ fromPort }) => fromPort === 51820);
  expect(tunnel.map(({ description }) => description)).toEqual(Array(2).fill("tunnel: other port of the host"));
});
