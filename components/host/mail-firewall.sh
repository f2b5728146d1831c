#!/bin/sh
# The host's side of the Pulumi component `mail-firewall`, installed as /usr/local/sbin/mail-firewall.
#
#   mail-firewall apply <RULESETS   load the rules of both families, or leave both as they were
#   mail-firewall remove            take our chains and jumps away; whatever else the host has stays
#   mail-firewall remove --owned <RULESETS   the same, unless what is live has another owner than RULESETS
#   mail-firewall uninstall         delete this script, unless our chains are live
#
# RULESETS holds one `iptables-restore` text after the line `# IPv4` and one after `# IPv6`, in the form in which
# `iptables-save` prints them back. Each family is loaded in one transaction (iptables-restore --noflush), so that no packet
# ever meets half a ruleset. Only the table filter is used, and in it only chains named MAILFW-* and one jump to each. The first
# rule of MAILFW-IN does nothing but name the owner in its comment.
#
# `set -e` is off in whatever is called before || or in a condition, so functions say themselves when they fail.
set -eu
export PATH=/usr/sbin:/sbin:/usr/bin:/bin LC_ALL=C
umask 077

complain() {
  echo "mail-firewall: $*" >&2
  return 1
}

fail() {
  complain "$@" || exit 1
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
  "$(tool "$1" -save)" -t filter >"$dir/save" || complain "the IPv$1 rules cannot be read" || return
  grep -E '^(\*filter|:MAILFW-.*|-A MAILFW-.*|COMMIT)$' "$dir/save"
}

# chains FILE: the names of our chains in an iptables-save text.
chains() {
  sed -n 's/^:\(MAILFW-[A-Z]*\) .*/\1/p' "$1"
}

# owner FILE: who deployed these rules.
owner() {
  sed -n 's/^-A MAILFW-IN -m comment --comment "owner \(.*\)"$/\1/p' "$1" | head -n 1
}

# place_jump FAMILY HOOK CHAIN: the lines that leave exactly one jump to CHAIN in HOOK: behind the leading jumps into other
# programs' chains (fail2ban's bans go on), before the first rule that itself decides (an old ACCEPT does not bypass us, a
# trailing REJECT does not hide us). No lines if it stands there already.
place_jump() {
  "$(tool "$1")" -w 10 -S "$2" >"$dir/hook" || complain "the IPv$1 rules of $2 cannot be read" || return
  awk -v hook="$2" -v chain="$3" '
    $1 != "-A" { next }
    $0 == "-A " hook " -j " chain { ours++; at = others + 1; next }
    { gsub(/"([^"\\]|\\.)*"/, "")   # a comment may say anything
      # A goto does not come back, unlike a jump.
      if (!place && / (-g |-j (ACCEPT|DROP|REJECT|RETURN|QUEUE|NFQUEUE)( |$))/) place = others + 1
      others++ }
    END {
      if (!place) place = others + 1
      if (ours == 1 && at == place) exit
      while (ours-- > 0) print "-D " hook " -j " chain
      print "-I " hook " " place " -j " chain
    }' "$dir/hook"
}

# place_jumps FAMILY
place_jumps() {
  place_jump "$1" INPUT MAILFW-IN && place_jump "$1" OUTPUT MAILFW-OUT
}

# restore FAMILY FILE: the transaction of FILE. It is written before it starts: iptables-legacy-restore holds the lock from its
# first line on, and what writes the later ones asks iptables something.
restore() {
  "$(tool "$1" -restore)" -w 10 --noflush <"$2"
}

# load FAMILY FILE: makes FILE, an iptables-save text of our chains, live; chains of ours that it does not have go.
load() {
  live "$1" >"$dir/now" && place_jumps "$1" >"$dir/jumps" || return
  stale=$(chains "$dir/now" | while read -r chain; do chains "$2" | grep -qx "$chain" || echo "$chain"; done)
  {
    sed '/^COMMIT$/d' "$2"
    for chain in $stale; do echo ":$chain - [0:0]"; done
    cat "$dir/jumps"
    for chain in $stale; do echo "-X $chain"; done
    echo COMMIT
  } >"$dir/transaction" && restore "$1" "$dir/transaction"
}

# unload FAMILY: takes all of ours away.
unload() {
  live "$1" >"$dir/now" || return
  chains=$(chains "$dir/now")
  [ -n "$chains" ] || return 0
  for hook in INPUT OUTPUT; do
    "$(tool "$1")" -w 10 -S "$hook" || return
  done >"$dir/hook"
  {
    echo '*filter'
    sed -n -e 's/^-A \(INPUT -j MAILFW-IN\)$/-D \1/p' -e 's/^-A \(OUTPUT -j MAILFW-OUT\)$/-D \1/p' "$dir/hook"
    for chain in $chains; do echo "-F $chain"; done
    for chain in $chains; do echo "-X $chain"; done
    echo COMMIT
  } >"$dir/transaction" && restore "$1" "$dir/transaction"
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

# read_rulesets: standard input, into one file a family.
read_rulesets() {
  cat >"$dir/rulesets"
  for family in 4 6; do
    sed -n "/^# IPv$family\$/,/^COMMIT\$/{/^#/d;p;}" "$dir/rulesets" >"$dir/rules.$family"
  done
}

apply() {
  read_rulesets
  for family in 4 6; do
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
    live "$family" || :
  done >"$dir/live"
  for family in 4 6; do place_jumps "$family" || echo unknown; done >"$dir/misplaced"
  if ! diff "$dir/rulesets" "$dir/live" >&2 || [ -s "$dir/misplaced" ]; then
    if put_back 4 && put_back 6; then fail "the kernel holds other rules than were sent; both families were put back"; fi
    fail "the kernel holds other rules than were sent, and those before could not be put back"
  fi
  fingerprint=$(sha256sum "$dir/live" | cut -c 1-12)
  echo "applied $fingerprint"
}

remove() {
  if [ "${1-}" = --owned ]; then
    read_rulesets
    live 4 >"$dir/live"
    if [ -n "$(chains "$dir/live")" ] && [ "$(owner "$dir/live")" != "$(owner "$dir/rules.4")" ]; then
      echo "kept: the owner is now $(owner "$dir/live")"
      return
    fi
  fi
  for family in 4 6; do
    unload "$family" || fail "the IPv$family rules could not be removed; does a rule of another chain still jump to ours?"
  done
  echo removed
}

uninstall() {
  live 4 >"$dir/live"
  if [ -n "$(chains "$dir/live")" ]; then
    echo "kept: the rules are live"
  else
    rm -f /usr/local/sbin/mail-firewall
    echo uninstalled
  fi
}

[ "$(id -u)" = 0 ] || fail "must be run as root"
for program in iptables iptables-save iptables-restore ip6tables ip6tables-save ip6tables-restore awk diff sha256sum; do
  command -v "$program" >/dev/null || fail "$program is missing; nothing was changed"
done
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT

case ${1-} in
  apply) apply ;;
  remove) remove "${2-}" ;;
  uninstall) uninstall ;;
  *)
    echo "usage: mail-firewall apply <RULESETS | remove [--owned <RULESETS] | uninstall" >&2
    exit 64
    ;;
esac
# end of mail-firewall
