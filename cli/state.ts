/** The part of `pulumi stack export` that is read here. */
export interface State {
  deployment: { resources?: Resource[] };
}

interface Resource {
  urn: string;
  type: string;
  /** The provider's; none of components. */
  id?: string;
  parent?: string;
  /** Marked for deletion: its host may have another resource already. */
  delete?: boolean;
  inputs?: Record<string, unknown>;
}

/** How to log in: the `connection` of a `command.remote.Command`. */
export interface Connection {
  host: string;
  port: number;
  user: string;
  hostKey?: string;
  privateKey?: string;
  privateKeyPassword?: string;
  agentSocketPath?: string;
  proxy?: Connection;
}

export interface DeployedHost {
  /** Name of its `HostFirewall`. */
  readonly name: string;
  readonly connection: Connection;
  /** What was deployed, as the script on the host reads it. */
  readonly rulesets: string;
}

/** The hosts that a state has deployed to, by name. */
export function deployedHosts(state: State): DeployedHost[] {
  return (state.deployment.resources ?? [])
    .filter(
      ({ urn, type, parent, delete: old }) =>
        type === "command:remote:Command" &&
        !old &&
        typeOf(parent ?? "") === "mail-firewall:index:HostFirewall" &&
        nameOf(urn) === `${nameOf(parent!)}-apply`,
    )
    .map(({ parent, inputs = {} }) => ({
      name: nameOf(parent!),
      connection: plain(inputs.connection) as Connection,
      rulesets: plain(inputs.stdin) as string,
    }))
    .sort((a, b) => (a.name < b.name ? -1 : 1));
}

const nameOf = (urn: string) => urn.split("::").slice(3).join("::");
const typeOf = (urn: string) => urn.split("::")[2]?.split("$").at(-1);

const signature = "4dabf18193072939515e22adb298388d";

/** A value without the marks of secrets, whose plain text is JSON. */
function plain(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(plain);
  if (typeof value !== "object" || value === null) return value;
  const fields = value as Record<string, unknown>;
  if (signature in fields) return plain(JSON.parse(fields.plaintext as string));
  return Object.fromEntries(Object.entries(fields).map(([key, inner]) => [key, plain(inner)]));
}
