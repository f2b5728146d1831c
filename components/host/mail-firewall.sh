#!/bin/sh
# The host's side of the Pulumi component `mail-firewall`, installed as /usr/local/sbin/mail-firewall.
#
#   mail-firewall apply <RULESETS   load the rules of both families, or leave both as they were
#   mail-firewall remove            take our chains and jumps away; whatever else the host has stays
#
# RULESETS holds one `iptables-restore` text after the line `# IPv4` and one after `# IPv6`, in the form in which
# `iptables-save` prints them back. Each family is loaded in one transaction (iptables-restore --noflush), so that no packet
# ever meets half a ruleset. Only the table filter is used, and in it only chains named MAILFW-* and one jump to each.
set -eu
export PATH=/usr/sbin:/sbin:/usr/bin:/bin LC_ALL=C
umask 077

fail() {
  echo "mail-firewall: $*" >&2
  exit 1
}

# tool FAMILY [-save|-restore]
tool() {
  case $1 in
    4) echo "iptables${2-}" ;;
    6) echo "ip6tables${2-}" ;;
  esac
}

# live FAMILY: our chains as the kernel holds them; without any, only the frame.
live() {
  "$(tool "$1" -save)" -t filter | grep -E '^(\*filter|:MAILFW-.*|-A MAILFW-.*|COMMIT)$'
}

# chains FILE: the names of our chains in an iptables-save text.
chains() {
  sed -n 's/^:\(MAILFW-[A-Z]*\) .*/\1/p' "$1"
}

# place_jump FAMILY HOOK CHAIN: the lines that leave exactly one jump to CHAIN in HOOK: behind the leading jumps into other
# programs' chains (fail2ban's bans go on), before the first rule that itself decides (an old ACCEPT does not bypass us, a
# trailing REJECT does not hide us). No lines if it stands there already.
place_jump() {
  "$(tool "$1")" -w 10 -S "$2" | awk -v hook="$2" -v chain="$3" '
    $1 != "-A" { next }
    $0 == "-A " hook " -j " chain { ours++; at = others + 1; next }
    { gsub(/"([^"\\]|\\.)*"/, "")   # a comment may say anything
      if (!place && / -j (ACCEPT|DROP|REJECT|RETURN|QUEUE|NFQUEUE)( |$)/) place = others + 1
      others++ }
    END {
      if (!place) place = others + 1
      if (ours == 1 && at == place) exit
      while (ours-- > 0) print "-D " hook " -j " chain
      print "-I " hook " " place " -j " chain
    }'
}

# drop_jumps FAMILY HOOK CHAIN: the lines that delete every jump to CHAIN in HOOK.
drop_jumps() {
  "$(tool "$1")" -w 10 -S "$2" | grep -Fx -e "-A $2 -j $3" | sed 's/^-A/-D/' || true
}

# restore FAMILY: the transaction of standard input. It is complete before it starts: iptables-legacy-restore holds the lock
# from its first line on, and what writes the later ones may ask iptables something.
restore() {
  cat >"$dir/transaction"
  "$(tool "$1" -restore)" -w 10 --noflush <"$dir/transaction"
}

# load FAMILY FILE: makes FILE, an iptables-save text of our chains, live.
load() {
  {
    sed '/^COMMIT$/d' "$2"
    place_jump "$1" INPUT MAILFW-IN
    place_jump "$1" OUTPUT MAILFW-OUT
    echo COMMIT
  } | restore "$1"
}

# unload FAMILY: takes all of ours away.
unload() {
  live "$1" >"$dir/unload"
  chains=$(chains "$dir/unload")
  [ -n "$chains" ] || return 0
  {
    echo '*filter'
    drop_jumps "$1" INPUT MAILFW-IN
    drop_jumps "$1" OUTPUT MAILFW-OUT
    for chain in $chains; do echo "-F $chain"; done
    for chain in $chains; do echo "-X $chain"; done
    echo COMMIT
  } | restore "$1"
}

# put_back FAMILY: what was live before this run.
put_back() {
  if [ -n "$(chains "$dir/before.$1")" ]; then load "$1" "$dir/before.$1"; else unload "$1"; fi
}

# ssh_is_kept FILE: something listens on a port that the rules keep open for SSH; without it we would cut ourselves off.
ssh_is_kept() {
  listening=$(cat /proc/net/tcp /proc/net/tcp6 2>/dev/null | awk '$4 == "0A" { sub(/.*:/, "", $2); print $2 }')
  kept=$(sed -n 's/^-A MAILFW-IN .*--dport \([0-9]*\) -m comment --comment ssh -j ACCEPT$/\1/p' "$1")
  for port in $kept; do
    if echo "$listening" | grep -qx "$(printf '%04X' "$port")"; then return 0; fi
  done
  return 1
}

apply() {
  cat >"$dir/rulesets"
  for family in 4 6; do
    sed -n "/^# IPv$family\$/,/^COMMIT\$/{/^#/d;p;}" "$dir/rulesets" >"$dir/rules.$family"
    # The connection may have broken in the middle of the text.
    [ "$(tail -n 1 "$dir/rules.$family")" = COMMIT ] || fail "the IPv$family rules arrived incomplete; nothing was changed"
    live "$family" >"$dir/before.$family"
  done
  ssh_is_kept "$dir/rulesets" || fail "nothing listens on the ports that the rules keep open for SSH (sshPorts); nothing was changed"

  load 4 "$dir/rules.4" || fail "the kernel refused the IPv4 rules; nothing was changed"
  load 6 "$dir/rules.6" || {
    put_back 4 || fail "the kernel refused the IPv6 rules, and the IPv4 rules could not be put back"
    fail "the kernel refused the IPv6 rules; the IPv4 rules were put back"
  }
  # A restore that reports success is not yet a firewall: read back what the kernel holds.
  for family in 4 6; do
    echo "# IPv$family"
    live "$family"
  done >"$dir/live"
  diff "$dir/rulesets" "$dir/live" >&2 || {
    for family in 4 6; do put_back "$family"; done
    fail "the kernel holds other rules than were sent (above); both families were put back"
  }
  echo "applied $(sha256sum "$dir/live" | cut -c 1-12)"
}

[ "$(id -u)" = 0 ] || fail "must be run as root"
for program in iptables iptables-save iptables-restore ip6tables ip6tables-save ip6tables-restore; do
  command -v "$program" >/dev/null || fail "$program is missing; install the package iptables"
done
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT

case ${1-} in
  apply) apply ;;
  remove)
    for family in 4 6; do unload "$family"; done
    echo removed
    ;;
  *)
    echo "usage: mail-firewall apply <RULESETS | remove" >&2
    exit 64
    ;;
esac
# end of mail-firewall
