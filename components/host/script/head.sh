#!/bin/sh
# shellcheck shell=dash
# The host's side of the Pulumi component `mail-firewall`, installed as /usr/local/sbin/mail-firewall. Its parts stand in
# components/host/script, one concern each; script.ts joins them.
#
# Deployment takes two SSH connections: `apply` loads the rules of both families, or leaves both as they were, and prints
# `applied TOKEN`; `confirm` arrives over a new connection, which proves that the host can still be reached, and keeps them.
# Without it the host goes back by itself. Whatever dies at whatever moment, the timer, which was started before anything was
# changed, or else the next run, takes the host back in both families.
#
# Our rules stand in the tables `mangle`, where they judge, and `filter`, where they accept. Each table of each family is loaded in one
# transaction (iptables-restore --noflush), so that no packet ever meets half a table. All chains are named MAILFW-*, and nothing
# else is changed but the jumps to them.
#
# `set -e` is off in whatever is called before || or in a condition, so functions say themselves when they fail.
set -eu
export PATH=/usr/sbin:/sbin:/usr/bin:/bin LC_ALL=C
umask 077

self=/usr/local/sbin/mail-firewall

# What outlives a boot: the confirmed rules, and those before them in last/; `candidate` holds what was applied last, `others` the
# firewalls that we disabled; if `keep` exists, destroy leaves the rules.
etc=/etc/mail-firewall

# What does not: the lock; `pending`, the token of rules that wait for their confirm, and when they expire; `before`, what was live
# before them; `stopped`, other firewalls that come back if the confirm never arrives; `paused`, until when our rules are away.
# Moments are in seconds of uptime, which no change of the clock moves.
run=/run/mail-firewall

usage() {
  cat <<'END'
mail-firewall: the firewall that Pulumi has deployed to this host

  mail-firewall status [--json]     say what differs from what was confirmed; changes nothing. Exit code 3: something differs
  mail-firewall restore             load the confirmed rules, and end a pause
  mail-firewall pause MINUTES       take the rules away for a while: the host is open. `restore` ends it, and so does a reboot
  mail-firewall remove              take the rules away for good, and give back the firewalls that were here before

For Pulumi, each over an SSH connection of its own:
  apply [--rollback SECONDS] [--take-over] [--keep] [--instance ID] <RULESETS
  confirm [--again] <TOKEN
  remove --owned <RULESETS
  status [--json] --deployed <RULESETS
  uninstall

For systemd:
  rollback TOKEN                    what the timer runs when no confirm came
  watch                             load the rules again whenever somebody has taken them away

RULESETS holds one iptables-restore text after the line `# IPv4` and one after `# IPv6`, and ends with `# end`.
END
}

complain() {
  echo "mail-firewall: $*" >&2
  return 1
}

fail() {
  complain "$@" || exit 1
}

# seconds: since the boot.
seconds() {
  sed 's/\..*//' /proc/uptime
}

has_systemd() {
  [ -d /run/systemd/system ]
}
