/** A mail service of the catalogue. */
export interface Service {
  /** TCP port; all mail services are TCP. */
  readonly port: number;
  /** What the service is for; the reason that a rule carries. */
  readonly description: string;
}

/**
 * The mail services, by their IANA names.
 *
 * Source: IANA Service Name and Transport Protocol Port Number Registry; `submissions` is RFC 8314 §7.3, `sieve` RFC 5804.
 */
export const catalogue = {
  smtp: { port: 25, description: "mail from other servers" },
  http: { port: 80, description: "webmail, redirect and ACME" },
  pop3: { port: 110, description: "fetch mail, plaintext or STARTTLS" },
  imap: { port: 143, description: "read mail, plaintext or STARTTLS" },
  https: { port: 443, description: "webmail over TLS" },
  submissions: { port: 465, description: "send mail over TLS" },
  submission: { port: 587, description: "send mail, STARTTLS" },
  imaps: { port: 993, description: "read mail over TLS" },
  pop3s: { port: 995, description: "fetch mail over TLS" },
  sieve: { port: 4190, description: "manage mail filters" },
} as const satisfies Record<string, Service>;

export type ServiceName = keyof typeof catalogue;

/** In order of port, which is the order of everything that is rendered. */
export const serviceNames = Object.keys(catalogue) as ServiceName[];

/** Older names that users still write. `smtps` was tcp/465 before RFC 8314. */
export const aliases: Readonly<Record<string, ServiceName>> = { smtps: "submissions" };

/** Names that stand for several services; a service named itself wins over its group. */
export const groups: Readonly<Record<string, readonly ServiceName[]>> = {
  plain: ["imap", "pop3"],
  secured: ["submissions", "imaps", "pop3s"],
  web: ["http", "https"],
};
