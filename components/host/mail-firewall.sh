#!/bin/sh
# The host's side of the Pulumi component `mail-firewall`, installed as /usr/local/sbin/mail-firewall.
#
# Deployment, each step over an SSH connection of its own:
#   mail-firewall apply [--rollback SECONDS] [--take-over] [--keep] [--instance ID] <RULESETS
#                                   load the rules of both families, or leave both as they were. Prints `applied TOKEN`.
#                                   Unless they are confirmed within SECONDS (60), the host goes back to the last that were.
#                                   ID means nothing here: another one makes another command, for another machine
#   mail-firewall confirm <TOKEN    keep the rules for good: across reboots, and with other firewalls off. If the host has gone
#                                   back already, it applies them again instead, and prints the new `applied TOKEN`
#   mail-firewall confirm --again <TOKEN   the same, after that
#   mail-firewall remove [--owned <RULESETS]   take our rules away, and give back what was there before; with --owned only
#                                   if what is there has the owner of RULESETS
#   mail-firewall uninstall         delete this script, unless its rules are live
# At any time:
#   mail-firewall status [--json] [--deployed <RULESETS]   say what differs from what was confirmed, or from RULESETS.
#                                   Changes nothing. Exit code 0: nothing differs, 3: something does
#   mail-firewall restore           load the confirmed rules: at boot, or by hand
#   mail-firewall rollback TOKEN    what the timer runs
#
# RULESETS holds one `iptables-restore` text after the line `# IPv4` and one after `# IPv6`, in the form in which
# `iptables-save` prints them back. Each family is loaded in one transaction (iptables-restore --noflush), so that no packet
# ever meets half a ruleset. Only the table filter is used, and in it only chains named MAILFW-*, and one jump to them from each of
# INPUT, OUTPUT and DOCKER-USER. The first rule of MAILFW-IN does nothing but name the owner in its comment.
#
# Whatever dies at whatever moment, the timer, which was started before anything was changed, or else the next run, takes the
# host to the confirmed rules, in both families.
#
# `set -e` is off in whatever is called before || or in a condition, so functions say themselves when they fail.
set -eu
export PATH=/usr/sbin:/sbin:/usr/bin:/bin LC_ALL=C
umask 077

self=/usr/local/sbin/mail-firewall

# The confirmed rules, and those before them in last/; `candidate` holds what was applied last, `others` the firewalls that we
# disabled; if `keep` exists, destroy leaves the rules.
etc=/etc/mail-firewall

# Gone after a reboot: the lock; `pending`, the token of rules that wait for their confirm, and when they expire, in seconds of
# uptime, which no change of the clock moves; `stopped`, other firewalls that come back if it never arrives.
run=/run/mail-firewall

complain() {
  echo "mail-firewall: $*" >&2
  return 1
}

fail() {
  complain "$@" || exit 1
}

# --- The kernel

# An IPv4-only kernel has nothing to protect for IPv6. One that has IPv6 but no ip6tables is an error, not a family less.
families=4
[ ! -e /proc/sys/net/ipv6 ] || families='4 6'

# tool FAMILY [-save|-restore]
tool() {
  case $1 in
    4) echo "iptables${2-}" ;;
    6) echo "ip6tables${2-}" ;;
  esac
}

# read_kernel FAMILY: the table filter into $dir/kernel.FAMILY, and our chains in it into $dir/live.FAMILY; without any, only the frame.
read_kernel() {
  # iptables-legacy-save would create a table that it does not find.
  names=/proc/net/ip_tables_names
  [ "$1" = 4 ] || names=/proc/net/ip6_tables_names
  if "$(tool "$1")" -V | grep -q legacy && ! grep -qx filter "$names" 2>/dev/null; then
    : >"$dir/kernel.$1"
  else
    "$(tool "$1" -save)" -t filter >"$dir/kernel.$1" || complain "the IPv$1 rules cannot be read" || return
  fi
  {
    echo '*filter'
    grep -E '^(:MAILFW-|-A MAILFW-)' "$dir/kernel.$1" || :
    echo COMMIT
  } | sed -e 's/^\(:MAILFW-[A-Z]* -\).*/\1 [0:0]/' -e 's/ $//' >"$dir/live.$1" # 1.8.7 ends a rule without a target so
}

# chains FILE: the names of our chains in an iptables-save text.
chains() {
  sed -n 's/^:\(MAILFW-[A-Z]*\) .*/\1/p' "$1"
}

# owner FILE: who deployed these rules.
owner() {
  sed -n 's/^-A MAILFW-IN -m comment --comment "owner \(.*\)"$/\1/p' "$1" | head -n 1
}

# place_jump FAMILY HOOK CHAIN RULES: the lines that leave exactly one jump to CHAIN in HOOK, or none if RULES have no such chain:
# behind the leading jumps into other programs' chains (fail2ban's bans go on), before the first rule that itself decides (an
# old ACCEPT does not bypass us, a trailing REJECT does not hide us). No lines if all is right already.
place_jump() {
  wanted=$(chains "$4" | grep -cx "$3" || :)
  awk -v hook="$2" -v chain="$3" -v wanted="$wanted" '
    $1 == ":" hook { exists = 1 }
    { gsub(/"([^"\\]|\\.)*"/, "") }   # a comment may say anything
    $1 != "-A" { next }
    $0 ~ " -[jg] " hook "( |$)" { used = 1 }
    $2 != hook { next }
    $0 == "-A " hook " -j " chain { ours++; at = others + 1; next }
    # A goto does not come back, unlike a jump.
    { if (!place && / (-g |-j (ACCEPT|DROP|REJECT|RETURN|QUEUE|NFQUEUE)( |$))/) place = others + 1
      others++ }
    END {
      if (!place) place = others + 1
      if (ours + 0 == wanted && (!wanted || at == place)) exit
      # Docker makes this one when it starts, and finds it made: what it publishes is ours to judge from its first moment.
      if (wanted && !exists && hook == "DOCKER-USER") print ":" hook " - [0:0]"
      while (ours-- > 0) print "-D " hook " -j " chain
      if (wanted) print "-I " hook " " place " -j " chain
      else if (!others && !used && hook == "DOCKER-USER") print "-X " hook
    }' "$dir/kernel.$1"
}

# The chains of others that jump to ours, each with the one of ours.
hooks='INPUT:MAILFW-IN OUTPUT:MAILFW-OUT DOCKER-USER:MAILFW-FWD'

# place_jumps FAMILY RULES
place_jumps() {
  for hook in $hooks; do
    place_jump "$1" "${hook%:*}" "${hook#*:}" "$2" || return
  done
}

# load FAMILY RULES: makes RULES, an iptables-save text of our chains, live in one transaction; chains of ours that it does not
# have go. The transaction is written before it starts: iptables-legacy-restore holds the lock from its first line on.
load() {
  read_kernel "$1" && place_jumps "$1" "$2" >"$dir/jumps" || return
  stale=$(chains "$dir/live.$1" | while read -r chain; do chains "$2" | grep -qx "$chain" || echo "$chain"; done)
  {
    sed '/^COMMIT$/d' "$2"
    for chain in $stale; do echo ":$chain - [0:0]"; done
    cat "$dir/jumps"
    for chain in $stale; do echo "-X $chain"; done
    echo COMMIT
  } >"$dir/transaction" || return
  # Nothing to say: do not create a table that is not there.
  [ "$(grep -c . "$dir/transaction")" -gt 2 ] || return 0
  "$(tool "$1" -restore)" -w 10 --noflush <"$dir/transaction"
}

# is_live FAMILY RULES: whether the kernel holds exactly them, and the jumps stand where they belong.
is_live() {
  read_kernel "$1" && cmp -s "$2" "$dir/live.$1" && [ -z "$(place_jumps "$1" "$2" || echo unknown)" ]
}

# make_live DIR: loads rules.v4 and rules.v6 of DIR. A restore that reports success is not yet a firewall: what the kernel
# then holds is read back.
make_live() {
  for family in $families; do
    load "$family" "$1/rules.v$family" || complain "the kernel refused the IPv$family rules" || return
  done
  for family in $families; do
    is_live "$family" "$1/rules.v$family" || {
      diff "$1/rules.v$family" "$dir/live.$family" >&2 || :
      complain "the kernel holds other IPv$family rules than were sent"
      return 1
    }
  done
}

# none: a directory of rules without any.
none() {
  mkdir -p "$dir/none"
  for family in 4 6; do printf '*filter\nCOMMIT\n' >"$dir/none/rules.v$family"; done
  echo "$dir/none"
}

# --- What is kept

# A directory of rules holds rules.v4, rules.v6, the token of the run that brought them with the seconds for its confirm, and
# SHA256SUMS, which is written last.
rule_files='rules.v4 rules.v6 token'

# seal DIR TOKEN
seal() {
  # shellcheck disable=SC2086 # one word a file
  echo "$2" >"$1/token" && (cd "$1" && sha256sum $rule_files >SHA256SUMS)
}

# token_of DIR: without the seconds that there are to confirm it.
token_of() {
  cut -d ' ' -f 1 "$1/token" 2>/dev/null
}

# good DIR: whether it holds the rules as they were sealed.
good() {
  [ -f "$1/SHA256SUMS" ] && (cd "$1" && sha256sum -c SHA256SUMS) >/dev/null 2>&1
}

# copy_rules FROM TO: after whatever interruption, TO is either good or known not to be.
copy_rules() {
  mkdir -p "$2" && rm -f "$2/SHA256SUMS" || return
  for file in $rule_files SHA256SUMS; do
    cp "$1/$file" "$2/$file.new" && sync "$2/$file.new" && mv "$2/$file.new" "$2/$file" || return
  done
}

# persist RULES: as the confirmed ones.
persist() {
  if good "$etc"; then copy_rules "$etc" "$etc/last" || return; fi
  copy_rules "$1" "$etc"
}

# same DIR DIR
same() {
  cmp -s "$1/rules.v4" "$2/rules.v4" && cmp -s "$1/rules.v6" "$2/rules.v6"
}

# confirmed: the rules to go back to: the last that were confirmed; if there are none, though rules of ours were live before,
# those; else none.
confirmed() {
  for rules in "$etc" "$etc/last" "$run/before"; do
    if good "$rules"; then
      echo "$rules"
      return
    fi
  done
  none
}

# --- The window between apply and confirm

uptime() {
  sed 's/\..*//' /proc/uptime
}

# arm TOKEN SECONDS: from here on the host goes back by itself.
arm() {
  if ! { [ -d /run/systemd/system ] && systemd-run --quiet --collect --unit="mail-firewall-rollback-${1#*-}" \
    --on-active="$2" --timer-property=AccuracySec=100ms --property=Restart=on-failure --property=RestartSec=5 \
    "$self" rollback "$1" 9>&-; }; then
    # Neither a hang-up nor the end of whoever started us takes it along.
    setsid sh -c "trap '' HUP INT TERM PIPE; sleep $2; until $self rollback $1; do sleep 5; done" \
      </dev/null >/dev/null 2>&1 9>&- &
    kill -0 "$!" || return
  fi
  echo "$1 $(($(uptime) + $2))" >"$run/pending.new" && mv "$run/pending.new" "$run/pending"
}

# pending: the token of the rules that wait for their confirm, if any do.
pending() {
  cut -d ' ' -f 1 "$run/pending" 2>/dev/null || :
}

# overdue: whether they have waited too long.
overdue() {
  [ "$(cut -d ' ' -f 2 "$run/pending")" -le "$(uptime)" ]
}

disarm() {
  armed=$(pending)
  rm -rf "$run/pending" "$run/stopped" "$run/before"
  if [ -n "$armed" ] && [ -d /run/systemd/system ]; then
    systemctl stop "mail-firewall-rollback-${armed#*-}.timer" 2>/dev/null || : # it would find nothing pending
  fi
}

# go_back: to the confirmed rules, and to other firewalls as they were. Says where that is.
go_back() {
  target=$(confirmed)
  if [ "$target" = "$etc" ] && [ "$(token_of "$etc")" = "$(pending)" ]; then
    settle # a confirm was killed when all but its end was done
    return
  fi
  start_others || complain "another firewall could not be started again" || :
  make_live "$target" || return
  disarm
  case $target in
    */none) echo "the host has no rules of ours, as before" ;;
    *) echo "the rules before are live again" ;;
  esac
}

# lock SECONDS: one at a time. Whoever is killed leaves the lock free once what it started has ended.
lock() {
  mkdir -p "$run" || fail 'nothing was changed'
  exec 9>>"$run/lock"
  waited=0
  until flock -n 9; do
    [ "$waited" -lt "$1" ] || fail "another run of it has not ended in $1 s; nothing was changed"
    sleep 1
    waited=$((waited + 1))
  done
  dir=$run/work
  rm -rf "$dir"
  mkdir "$dir" || fail 'nothing was changed'
  # Should the timer have died.
  if [ -f "$run/pending" ] && overdue; then go_back >&2 || complain "the rules before could not be put back" || :; fi
}

# --- Other firewalls

# at_work: those that are on, or will be after a reboot: `NAME enabled|disabled active|inactive`.
at_work() {
  # ufw is what its own file says, whatever systemd thinks of its unit, unless nothing starts it.
  if grep -qiE '^ENABLED="?yes"?$' /etc/ufw/ufw.conf 2>/dev/null; then
    if [ ! -d /run/systemd/system ] || systemctl is-enabled --quiet ufw 2>/dev/null || grep -q '^:ufw-user-input ' "$dir"/kernel.?; then
      echo ufw enabled active
    fi
  fi
  [ -d /run/systemd/system ] || return 0
  for unit in firewalld netfilter-persistent nftables iptables ip6tables; do
    # Debian calls netfilter-persistent by the names of the last two as well, for as long as it is enabled.
    [ "$(systemctl show --property Id "$unit" 2>/dev/null)" = "Id=$unit.service" ] || continue
    enabled=disabled active=inactive
    case $(systemctl is-enabled "$unit" 2>/dev/null) in enabled*) enabled=enabled ;; esac # "alias" is no more than a name
    ! systemctl is-active --quiet "$unit" 2>/dev/null || active=active
    # All but firewalld only load rules, and call themselves active for ever after.
    case $unit in
      firewalld) on=$active ;;
      nftables) on=$([ $active = inactive ] || nft_tables | live_tables) ;;
      *) on='' ;;
    esac
    [ $enabled = disabled ] && [ "${on:-inactive}" = inactive ] || echo "$unit $enabled $active"
  done
}

ufw_init() {
  for file in /lib/ufw/ufw-init /usr/libexec/ufw/ufw-init; do
    if [ -x "$file" ]; then "$file" "$1" >/dev/null && return; fi
  done
}

# nft_tables: the tables that the host's own nftables.conf makes, but for those that iptables-nft has made its own. Where an empty
# network lacks something that it names, only those that stand in the file itself are known.
nft_tables() {
  { unshare --net sh -c 'nft -f /etc/nftables.conf && nft list tables' 2>/dev/null || cat /etc/nftables.conf; } |
    sed -nE 's/^[[:space:]]*(add[[:space:]]+)?table[[:space:]]+((ip|ip6|inet|arp|bridge|netdev)[[:space:]]+)?([A-Za-z0-9_]+).*/\3 \4/p' |
    sed 's/^ /ip /' | grep -vxE '(ip|ip6) (filter|nat|mangle|raw|security)' | sort -u
}

# live_tables: of the tables `FAMILY NAME` that it reads, those that there are.
live_tables() {
  while read -r family table; do
    ! nft list table "$family" "$table" >/dev/null 2>&1 || echo "$family $table"
  done
}

# stop_firewalld: with it systemd stops what is part of it, which is fail2ban.
stop_firewalld() {
  parts=''
  for part in $(systemctl show --property ConsistsOf firewalld | cut -d = -f 2-); do
    ! systemctl is-active --quiet "$part" || parts="$parts $part"
  done
  systemctl stop firewalld || return
  # shellcheck disable=SC2086 # one word a unit
  [ -z "$parts" ] || systemctl start $parts || complain "$parts stopped with firewalld, and could not be started again" || :
}

# stop_others: only until the next boot. Their units of the boot are turned off when the rules have been confirmed.
stop_others() {
  at_work >"$dir/others"
  while read -r name was; do
    mkdir -p "$run/stopped"
    grep -q "^$name " "$run/stopped/list" 2>/dev/null || echo "$name $was" >>"$run/stopped/list"
    case $name in
      ufw) ufw_init stop ;;
      firewalld) stop_firewalld ;;
      nftables)
        # Never stopped: its ExecStop flushes every table, those of iptables-nft among them.
        nft_tables | live_tables | while read -r family table; do
          # To be loaded instead of a table of that name, if there is one again.
          { printf 'table %s\ndelete table %s\n' "$family $table" "$family $table" && nft list table "$family" "$table"; } >>"$run/stopped/nftables" &&
            nft delete table "$family" "$table" || return
        done
        ;;
      # The others do nothing after they have loaded their rules, which are then rules like any; some flush when they are stopped.
    esac || complain "$name could not be stopped" || return
    echo "mail-firewall: $name is off; destroy gives it back" >&2
  done <"$dir/others"
}

# guarded COMMAND...: while it runs, a table that others do not know keeps out all but SSH. firewalld empties the chains of
# iptables, ours too, before it has loaded its rules; and where rules that are loaded rely on a policy DROP, nf_tables brings the
# rules a moment before the policy. Were we killed, the table would stay until the next boot, or until this runs again: closed, but
# not to you.
guarded() {
  table='inet mail_firewall_guard'
  nft -f - <<END || complain 'without nft, the host may be open for the moment in which another firewall starts' || :
table $table
delete table $table
table $table {
  chain input {
    type filter hook input priority -10; policy drop;
    tcp dport { $(known_ssh_ports | paste -s -d , -) } accept
    iif lo accept
    ct state established,related accept
    meta l4proto { icmp, ipv6-icmp } accept
  }
}
END
  "$@" && ended=0 || ended=1
  nft delete table "$table" 2>/dev/null || :
  return "$ended"
}

# start_firewalld: it counts as started before it has loaded its rules.
start_firewalld() {
  systemctl start firewalld || return
  waited=0
  until firewall-cmd --quiet --state 2>/dev/null; do
    [ "$waited" -lt 30 ] || return
    sleep 1
    waited=$((waited + 1))
  done
}

# start NAME DIR
start() {
  case $1 in
    ufw) ufw_init start ;;
    nftables) [ ! -f "$2/nftables" ] || nft -f "$2/nftables" ;;
    firewalld) guarded start_firewalld ;;
    *) guarded systemctl start "$1" ;;
  esac
}

# start_others: those that were stopped and have not been disabled.
start_others() {
  [ -f "$run/stopped/list" ] || return 0
  while read -r name _ active; do
    [ "$active" = inactive ] || start "$name" "$run/stopped" || return
  done <"$run/stopped/list"
}

disable_others() {
  [ -f "$run/stopped/list" ] || return 0
  mkdir -p "$etc/others"
  while read -r name was; do
    grep -q "^$name " "$etc/others/list" 2>/dev/null || echo "$name $was" >>"$etc/others/list"
    case $name in
      ufw) ufw disable >/dev/null ;;
      nftables) if [ -f "$run/stopped/nftables" ]; then cp "$run/stopped/nftables" "$etc/others/"; fi && systemctl disable --quiet nftables ;;
      *) systemctl disable --quiet "$name" ;;
    esac || complain "$name could not be disabled" || return
  done <"$run/stopped/list"
}

# give_back: what disable_others took away.
give_back() {
  [ -f "$etc/others/list" ] || return 0
  while read -r name enabled active; do
    case $name in
      ufw) ufw --force enable >/dev/null ;;
      *)
        [ "$enabled" = disabled ] || systemctl enable --quiet "$name" || return
        [ "$active" = inactive ] || start "$name" "$etc/others"
        ;;
    esac || complain "$name could not be started again" || return
    echo "mail-firewall: $name is on again" >&2
  done <"$etc/others/list"
}

# name_shadowed: rules of others that ours leave nothing to do.
name_shadowed() {
  for family in $families; do
    sed -n '/^-A INPUT -j MAILFW-IN$/,$s/^-A INPUT /INPUT /p' "$dir/kernel.$family" | sed 1d |
      grep -E -- '-[jg] ' | sed "s/^/IPv$family: /" || :
  done
}

# name_outward: the ways to the world that have names of Docker's bridges, behind which MAILFW-FWD takes everyone for a container.
name_outward() {
  {
    awk '$2 == "00000000" && $8 == "00000000" { print $1 }' /proc/net/route
    [ ! -e /proc/net/ipv6_route ] || awk '$1 ~ /^0+$/ && $2 == "00" { print $NF }' /proc/net/ipv6_route
  } | grep -E '^(docker|br-)' | sort -u |
    sed 's/.*/the default route leaves by &, which is taken for a bridge of Docker: to all behind it, published ports are open/' || :
}

# name_unjudged: families in which Docker forwards to containers past DOCKER-USER, as Docker 20 does over IPv6 (--ip6tables). It
# also puts its own rules before any other when it starts, so no place of ours would last.
name_unjudged() {
  for family in $families; do
    grep -q '^:DOCKER ' "$dir/kernel.$family" || continue
    grep -qx -- '-A FORWARD -j DOCKER-USER' "$dir/kernel.$family" ||
      echo "IPv$family: Docker goes past DOCKER-USER: ports that containers publish are open to all; a newer Docker does not, nor this one after $(tool "$family") -I FORWARD -j DOCKER-USER"
  done
}

# --- Boot

unit=/etc/systemd/system/mail-firewall.service

# Before the network is configured, and after whatever could flush our rules. Nothing happens when it is stopped.
unit_text() {
  cat <<END
[Unit]
Description=Mail server firewall
DefaultDependencies=no
RequiresMountsFor=$self $etc
After=local-fs.target systemd-modules-load.service
After=iptables.service ip6tables.service nftables.service netfilter-persistent.service ufw.service firewalld.service
Wants=network-pre.target
Before=network-pre.target shutdown.target
Conflicts=shutdown.target

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=$self restore

[Install]
WantedBy=multi-user.target
END
}

# boots: whether the rules are loaded at boot.
boots() {
  if [ -d /run/systemd/system ]; then
    [ "$(unit_text)" = "$(cat "$unit" 2>/dev/null)" ] && systemctl is-enabled --quiet mail-firewall.service 2>/dev/null
  else
    [ -x /etc/rc.local ] && grep -q '# mail-firewall$' /etc/rc.local
  fi
}

# put_rc_local: $dir/rc.local in its place, with the mode and owner that it has, or not at all.
put_rc_local() {
  file=$(readlink -f /etc/rc.local)
  if cp -p "$file" "$file.new" && cat "$dir/rc.local" >"$file.new" && mv "$file.new" "$file"; then return; fi
  rm -f "$file.new"
  complain '/etc/rc.local cannot be written'
}

boot_on() {
  hooks_on || return
  if boots; then return; fi
  if [ -d /run/systemd/system ]; then
    unit_text >"$unit.new" && chmod 0644 "$unit.new" && mv "$unit.new" "$unit" && systemctl daemon-reload &&
      systemctl enable --quiet mail-firewall.service && systemctl start --no-block mail-firewall.service
  elif [ -x /etc/rc.local ]; then
    # First of all: what comes later may fail or exit.
    awk -v line="$self restore || : # mail-firewall" '!placed && !/^#!/ { print line; placed = 1 } { print } END { if (!placed) print line }' \
      /etc/rc.local >"$dir/rc.local" && put_rc_local
  else
    complain 'neither systemd nor an executable /etc/rc.local is here: after a reboot nothing loads the rules' || :
  fi
}

boot_off() {
  hooks_off
  if [ -e "$unit" ]; then
    systemctl disable --quiet mail-firewall.service && rm "$unit" && systemctl daemon-reload || return
  fi
  if grep -q '# mail-firewall$' /etc/rc.local 2>/dev/null; then
    sed '/# mail-firewall$/d' /etc/rc.local >"$dir/rc.local" && put_rc_local
  fi
}

# Where rules name an address of the host, they are loaded again when a connection comes up.
hook_files='/etc/ppp/ip-up.d/mail-firewall /etc/ppp/ipv6-up.d/mail-firewall
  /etc/NetworkManager/dispatcher.d/50-mail-firewall /etc/networkd-dispatcher/routable.d/50-mail-firewall'

hooks_off() {
  # shellcheck disable=SC2086 # a list
  rm -f $hook_files
}

hooks_on() {
  hooks_off
  grep -qE '^-A MAILFW-IN .*-d ' "$etc/rules.v4" "$etc/rules.v6" || return 0
  for file in $hook_files; do
    [ -d "${file%/*}" ] || continue
    printf '#!/bin/sh\nexec %s restore\n' "$self" >"$file" && chmod 0755 "$file" || return
  done
}

# --- Verbs

# split FILE DIR: a RULESETS text into one file a family.
split() {
  mkdir "$2"
  for family in 4 6; do
    sed -n "/^# IPv$family\$/,/^COMMIT\$/{/^#/d;p;}" "$1" >"$2/rules.v$family"
    # The connection may have broken in the middle of the text.
    [ "$(tail -n 1 "$2/rules.v$family")" = COMMIT ] || complain "the IPv$family rules arrived incomplete; nothing was changed" || return
  done
}

# ssh_ports FILE...: those that rules of ours in them keep open for SSH.
ssh_ports() {
  cat "$@" 2>/dev/null | sed -nE 's/^-A MAILFW-IN .*--dport ([0-9]{1,5}) -m comment --comment ssh -j ACCEPT$/\1/p' | sort -un
}

# known_ssh_ports: of all rules that are or were here, and of sshd's own configuration.
known_ssh_ports() {
  ports=$({
    ssh_ports "$dir"/kernel.? "$etc"/rules.v? "$etc"/last/rules.v? "$etc"/candidate/rules.v?
    cat /etc/ssh/sshd_config /etc/ssh/sshd_config.d/*.conf 2>/dev/null | sed -nE 's/^[Pp]ort[ =]+([0-9]{1,5})[[:space:]]*$/\1/p'
  } | sort -un)
  echo "${ports:-22}"
}

# ssh_is_kept RULES: something listens on a port that the rules keep open for SSH; without it we would cut ourselves off.
ssh_is_kept() {
  for port in $(ssh_ports "$1"); do
    if listening tcp | grep -qx "$port"; then return 0; fi
  done
  return 1
}

# listening tcp|udp: the ports on which something listens at an address that others can reach.
listening() {
  # Addresses are in hexadecimal, each word in the byte order of the machine: 127.0.0.0/8 ends in 7F, or begins with it.
  cat "/proc/net/$1" "/proc/net/${1}6" 2>/dev/null |
    awk -v state="$([ "$1" = tcp ] && echo 0A || echo 07)" '
      $4 != state { next }
      { split($2, local, ":") }
      length(local[1]) == 8 ? local[1] !~ /^7F|7F$/ : local[1] !~ /^000000000000000000000000(01000000|00000001)$/ { print local[2] }' |
    sort -u | while read -r port; do printf '%d\n' "0x$port"; done
}

# owner_here: whose rules the host has.
owner_here() {
  found=$(owner "$dir/live.4")
  if [ -z "$found" ] && good "$etc"; then found=$(owner "$etc/rules.v4"); fi
  echo "$found"
}

# stack_of OWNER: a resource's name may hold slashes, those of a project and a stack do not.
stack_of() {
  echo "$1" | cut -d / -f 1-2
}

# launch RULES: makes them live until they are confirmed, or for as many seconds as are written down with their token.
launch() {
  read -r token seconds <"$1/token"
  if ! good "$etc" && ! good "$etc/last" && [ -z "$(pending)" ] && [ -n "$(chains "$dir/live.4")" ]; then
    mkdir -p "$dir/before"
    for family in 4 6; do cp "$dir/live.$family" "$dir/before/rules.v$family" 2>/dev/null || cp "$(none)/rules.v6" "$dir/before/"; done
    seal "$dir/before" "before 0" && copy_rules "$dir/before" "$run/before" || return
  fi
  arm "$token" "$seconds" || complain "no timer could be started; nothing was changed" || return
  if make_live "$1" && stop_others && make_live "$1"; then return; fi
  where=$(go_back) || complain "the rules before could not be put back; that is tried again in $seconds s" || return
  complain "$where"
}

apply() {
  seconds=60 take_over='' keep=''
  while [ $# -gt 0 ]; do
    case $1 in
      --rollback) seconds=$2 && shift ;;
      --take-over) take_over=yes ;;
      --keep) keep=yes ;;
      --instance) shift ;;
      *) usage ;;
    esac
    shift
  done
  text=$(cat) # before the lock: a connection that hangs must not hold up the timer
  lock 30
  printf '%s\n' "$text" 2>/dev/null >"$dir/rulesets" || fail "$run is full; nothing was changed"
  split "$dir/rulesets" "$dir/new" || exit 1
  for family in $families; do read_kernel "$family" || fail 'nothing was changed'; done
  ssh_is_kept "$dir/rulesets" || fail 'nothing listens on the ports that the rules keep open for SSH (sshPorts); nothing was changed'
  there=$(owner_here) ours=$(owner "$dir/new/rules.v4")
  [ -z "$there" ] || [ "$(stack_of "$there")" = "$(stack_of "$ours")" ] || [ -n "$take_over" ] ||
    fail "the host has the firewall of $there; if $ours is to take it over, set takeOver: true. Nothing was changed"

  token=$(sha256sum "$dir/rulesets" | cut -c 1-12)-$(cut -c 1-8 /proc/sys/kernel/random/uuid)
  seal "$dir/new" "$token $seconds"
  copy_rules "$dir/new" "$etc/candidate" || fail "$etc cannot be written; is the disk full, or read-only? Nothing was changed"
  if [ -n "$keep" ]; then : >"$etc/keep"; else rm -f "$etc/keep"; fi
  if good "$etc" && same "$etc" "$dir/new" && [ -z "$(at_work)" ] && [ ! -e "$run/stopped/list" ]; then
    make_live "$dir/new" || fail "the confirmed rules could not be loaded"
    disarm
  else
    launch "$dir/new" || exit 1
  fi
  name_shadowed | sed 's/^/mail-firewall: never reached while our rules are there: /' >&2
  { name_outward && name_unjudged; } | sed 's/^/mail-firewall: /' >&2
  echo "applied $token"
}

# settle: all of a confirm but its rules.
settle() {
  # Until the last step is done, whoever comes next sees that something is pending, and does it all.
  boot_on && disable_others && rm -rf "$etc/candidate" && disarm
}

confirm() {
  given=$(cat)
  [ "$given" != confirmed ] || { echo confirmed && return; }
  token=${given##* }
  lock 30
  if [ "$(token_of "$etc")" = "$token" ] && good "$etc" && { [ -z "$(pending)" ] || [ "$(pending)" = "$token" ]; }; then
    # A second time: the first was cut off, perhaps before anything would load the rules at boot.
    make_live "$etc" && stop_others && make_live "$etc" && settle || exit 1
    echo confirmed
    return
  fi
  { good "$etc/candidate" && [ "$(token_of "$etc/candidate")" = "$token" ]; } ||
    fail "the host does not know the rules $token: it was reinstalled, or something else was applied since; deploy to it anew (pulumi up --replace)"

  if [ "$(pending)" = "$token" ] || { [ -z "$(pending)" ] && good "$etc" && same "$etc" "$etc/candidate"; }; then
    for family in $families; do
      is_live "$family" "$etc/candidate/rules.v$family" ||
        fail "the kernel no longer holds the IPv$family rules that were applied; something else has changed them"
    done
    # Also where they are confirmed already: the token is new, and if this run is not recorded, it comes again.
    persist "$etc/candidate" ||
      fail "$etc cannot be written; is the disk full, or read-only?$([ -z "$(pending)" ] || echo ' The host goes back to the rules before')"
    settle || exit 1
    echo confirmed
    return
  fi
  # The host has gone back. These rules need another chance, and that one more new connection. It comes with the token that is
  # printed here; after a failure, which prints none, with the one that came now.
  read -r _ seconds <"$etc/candidate/token"
  copy_rules "$etc/candidate" "$dir/new"
  [ "${1-}" = --again ] || token=${token%-*}-$(cut -c 1-8 /proc/sys/kernel/random/uuid)
  seal "$dir/new" "$token $seconds"
  copy_rules "$dir/new" "$etc/candidate" || fail "$etc cannot be written; is the disk full, or read-only? Nothing was changed"
  for family in $families; do read_kernel "$family" || fail 'nothing was changed'; done
  launch "$dir/new" || exit 1
  [ "${1-}" != --again ] || fail "the host went back to the rules before a second time: no new connection came through in $seconds s. The
new rules are live once more for as long: run pulumi up again now, or change them"
  echo "applied $token"
}

rollback() {
  lock 3600
  [ "$(pending)" = "$1" ] || return 0
  go_back
}

remove() {
  text=''
  [ "${1-}" != --owned ] || text=$(cat)
  lock 60
  for family in $families; do read_kernel "$family" || fail 'nothing was changed'; done
  if [ "${1-}" = --owned ]; then
    printf '%s\n' "$text" >"$dir/rulesets"
    there=$(owner_here)
    if [ -n "$there" ] && [ "$there" != "$(owner "$dir/rulesets")" ]; then
      echo "kept: the owner is now $there"
      return
    fi
    if [ -e "$etc/keep" ]; then
      echo "kept, as onDestroy says; by hand: $self remove"
      return
    fi
  fi
  # In this order the host is never open: what was there before comes back while our rules are still there.
  { start_others && give_back; } || fail 'our rules stay'
  make_live "$(none)" || fail 'our rules could not be removed; does a rule of another chain still jump to them?'
  boot_off || fail 'the rules are gone, but not what loads them at boot'
  disarm
  rm -rf "$etc"
  echo removed
}

# emergency: where no rules can be loaded. Closed but for SSH, from anywhere: closed to you, it could not be mended.
emergency() {
  ports=$(known_ssh_ports)
  mkdir "$dir/emergency"
  for family in 4 6; do
    {
      printf '*filter\n:MAILFW-IN - [0:0]\n'
      for port in $ports; do echo "-A MAILFW-IN -p tcp -m tcp --dport $port -m comment --comment ssh -j ACCEPT"; done
      echo '-A MAILFW-IN -i lo -j ACCEPT'
      echo '-A MAILFW-IN -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT'
      echo "-A MAILFW-IN -p $([ $family = 4 ] && echo icmp || echo ipv6-icmp) -j ACCEPT"
      printf -- '-A MAILFW-IN -j DROP\nCOMMIT\n'
    } >"$dir/emergency/rules.v$family"
  done
  make_live "$dir/emergency"
}

restore() {
  lock 60
  if [ -n "$(pending)" ]; then
    echo 'rules wait for their confirm: nothing to do'
    return
  fi
  [ -e "$etc/rules.v4" ] || [ -e "$etc/last" ] || fail 'no rules have been confirmed on this host'
  if good "$etc" && make_live "$etc"; then
    echo "restored $(cut -d - -f 1 "$etc/token")"
    return
  fi
  complain "the confirmed rules in $etc are damaged, or cannot be loaded" || :
  if good "$etc/last" && make_live "$etc/last"; then fail "those before them are live: $(cut -d - -f 1 "$etc/last/token"). Deploy anew"; fi
  complain "neither can those before them, in $etc/last" || :
  emergency || fail 'no rules at all could be loaded'
  fail 'only SSH is open now. Deploy anew'
}

# --- Status

# say difference|notice KIND TEXT
say() {
  printf '%s\t%s\n' "$2" "$3" >>"$dir/$1"
}

# compare FAMILY RULES: how the kernel differs from RULES.
compare() {
  read_kernel "$1" || return
  # Busybox prints the unified form.
  diff "$2" "$dir/live.$1" >"$dir/diff" || sed -nE -e 's/^(< |-)(-A|:)/missing: \2/p' -e 's/^(> |\+)(-A|:)/not ours: \2/p' "$dir/diff" |
    while read -r line; do say difference rules "IPv$1: $line"; done
  for hook in $hooks; do
    [ -n "$(place_jump "$1" "${hook%:*}" "${hook#*:}" "$2")" ] || continue
    if grep -qx -- "-A ${hook%:*} -j ${hook#*:}" "$dir/kernel.$1"; then
      say difference jump "IPv$1: the jump from ${hook%:*} to ${hook#*:} is not where it belongs, once and before the first rule that decides"
    else
      say difference jump "IPv$1: the jump from ${hook%:*} to ${hook#*:} is missing"
    fi
  done
}

# services PROTOCOL: `PORT NAME` of what the rules of $dir/expected open.
services() {
  cat "$dir/expected/rules.v4" "$dir/expected/rules.v6" |
    sed -nE "s/^-A MAILFW-(IN|OPEN) .*-p $1 .*port ([0-9]+) -m comment --comment ([^ ]+) -j (ACCEPT|RETURN)\$/\2 \3/p" | sort -u
}

check_listeners() {
  # Whoever only asks others uses ports above.
  read -r ephemeral _ </proc/sys/net/ipv4/ip_local_port_range || ephemeral=32768
  for protocol in tcp udp; do
    listening "$protocol" >"$dir/listening"
    services "$protocol" >"$dir/open"
    while read -r port name; do
      grep -qx "$port" "$dir/listening" || grep -q "^-A DOCKER .*--dport $port " "$dir"/kernel.? || say notice unused "$name ($protocol/$port) is open, and nothing listens on it"
    done <"$dir/open"
    while read -r port; do
      { [ "$protocol" = udp ] && { [ "$port" -ge "$ephemeral" ] || [ "$port" = 68 ] || [ "$port" = 546 ]; }; } ||
        grep -q "^$port " "$dir/open" || say notice closed "something listens on $protocol/$port, which is closed"
    done <"$dir/listening"
  done
}

# json TEXT: as a JSON string.
json() {
  printf '"%s"' "$(printf '%s' "$1" | sed -e 's/[\\"]/\\&/g' -e 's/\t/ /g')"
}

# json_list FILE: of its lines `KIND TEXT`.
json_list() {
  separator=''
  printf '['
  while IFS="$(printf '\t')" read -r kind text; do
    printf '%s{"kind":%s,"text":%s}' "$separator" "$(json "$kind")" "$(json "$text")"
    separator=,
  done <"$1"
  printf ']'
}

status() {
  as_json='' deployed=''
  for option in "$@"; do
    case $option in
      --json) as_json=yes ;;
      --deployed) deployed=yes ;;
      *) usage ;;
    esac
  done
  dir=$(mktemp -d)
  trap 'rm -rf "$dir"' EXIT
  : >"$dir/difference"
  : >"$dir/notice"
  rules=none
  if good "$etc"; then
    rules=$(cut -d - -f 1 "$etc/token")
    mkdir "$dir/expected"
    cp "$etc/rules.v4" "$etc/rules.v6" "$dir/expected"
  elif [ -e "$etc/rules.v4" ]; then
    say difference files "the rules in $etc are damaged, or were changed by hand"
  else
    say difference none 'no rules have been confirmed on this host'
  fi
  if [ -n "$deployed" ]; then
    cat >"$dir/rulesets"
    rm -rf "$dir/expected"
    split "$dir/rulesets" "$dir/expected" || exit 1
    if good "$etc" && ! same "$etc" "$dir/expected"; then
      say difference files "the rules in $etc are not those that were deployed; theirs is $(owner "$etc/rules.v4")"
    fi
  fi
  waiting=$(pending)
  if [ -n "$waiting" ]; then
    say difference pending "rules ${waiting%-*} wait for their confirm; in $(($(cut -d ' ' -f 2 "$run/pending") - $(uptime))) s the host goes back"
  fi
  for family in $families; do
    if [ -d "$dir/expected" ]; then compare "$family" "$dir/expected/rules.v$family"; else read_kernel "$family"; fi || exit 1
  done
  if [ ! -d /run/systemd/system ] && [ ! -x /etc/rc.local ]; then
    say notice boot 'neither systemd nor an executable /etc/rc.local is here: after a reboot nothing loads the rules'
  elif [ -e "$etc/rules.v4" ] && ! boots; then
    say difference boot 'nothing loads the rules at boot'
  fi
  [ "$families" = '4 6' ] || say notice families 'the kernel has no IPv6: only the IPv4 rules are loaded'
  at_work | while read -r name _; do say difference others "$name is on beside our rules"; done
  name_shadowed | while read -r rule; do say notice shadowed "never reached while our rules are there: $rule"; done
  name_unjudged | while read -r text; do say difference docker "$text"; done
  name_outward | while read -r text; do say notice outward "$text"; done
  if iptables -V | grep -q nf_tables && grep -q . /proc/net/ip_tables_names /proc/net/ip6_tables_names 2>/dev/null; then
    say notice backend 'iptables-legacy has tables too, which come on top: see iptables-legacy-save'
  fi
  [ ! -d "$dir/expected" ] || check_listeners

  owner=$(owner_here)
  if [ -n "$as_json" ]; then
    printf '{"rules":%s,"owner":%s,"differences":%s,"notices":%s}\n' "$(json "$rules")" "$(json "$owner")" \
      "$(json_list "$dir/difference")" "$(json_list "$dir/notice")"
  else
    echo "rules $rules${owner:+ of $owner}: $([ -s "$dir/difference" ] && echo 'not as deployed' || echo 'as deployed')"
    sed 's/^[a-z]*\t/  /' "$dir/difference"
    sed 's/^[a-z]*\t/  notice: /' "$dir/notice"
  fi
  [ ! -s "$dir/difference" ] || exit 3
}

uninstall() {
  lock 60
  read_kernel 4 || exit 1
  if [ -n "$(chains "$dir/live.4")" ] || [ -e "$etc/rules.v4" ]; then
    echo 'kept: the rules are live'
  else
    rm -rf "$self" "$run" "$etc/candidate" "$etc/keep" # what an apply leaves that was refused
    rmdir "$etc" 2>/dev/null || :
    echo uninstalled
  fi
}

usage() {
  sed -n 's/^#   mail-firewall/mail-firewall/p' "$0" | sed 's/  .*//' >&2
  exit 64
}

[ "$(id -u)" = 0 ] || fail 'must be run as root'
for family in $families; do
  for part in '' -save -restore; do programs="${programs-} $(tool "$family" $part)"; done
done
for program in $programs awk cmp diff flock sha256sum; do
  command -v "$program" >/dev/null || fail "$program is missing; nothing was changed"
done

verb=${1-}
[ $# = 0 ] || shift
case $verb in
  apply | confirm | remove | uninstall | status | restore | rollback) "$verb" "$@" ;;
  *) usage ;;
esac
# end of mail-firewall
