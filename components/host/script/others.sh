# --- Other firewalls: stopped when our rules are live, switched off when those are confirmed, given back on destroy

# at_work: those that are on, or will be after a reboot: `NAME enabled|disabled active|inactive`.
at_work() {
  local unit enabled active on
  # ufw is what its own file says, whatever systemd thinks of its unit, unless nothing starts it.
  if grep -qiE '^ENABLED="?yes"?$' /etc/ufw/ufw.conf 2>/dev/null; then
    if ! has_systemd || systemctl is-enabled --quiet ufw 2>/dev/null || grep -q '^:ufw-user-input ' "$dir"/kernel.?.filter; then
      echo ufw enabled active
    fi
  fi
  has_systemd || return 0
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
  local file
  for file in /lib/ufw/ufw-init /usr/libexec/ufw/ufw-init; do
    if [ -x "$file" ]; then "$file" "$1" >/dev/null && return; fi
  done
}

# nft_tables: the tables `FAMILY NAME` that the host's own nftables.conf makes, but for those that iptables-nft has made its own. Where an
# empty network lacks something that it names, only those that stand in the file itself are known.
nft_tables() {
  { unshare --net sh -c 'nft -f /etc/nftables.conf && nft list tables' 2>/dev/null || cat /etc/nftables.conf; } | named_tables
}

# named_tables: from standard input, what a file for nft, or `nft list tables`, names.
named_tables() {
  awk '{ sub(/[{;].*/, "") }
    $1 == "add" { sub(/^[[:space:]]*add[[:space:]]+/, "") }
    $1 == "table" && NF == 3 { print $2, $3 }
    $1 == "table" && NF == 2 { print "ip", $2 }' |
    grep -vxE '(ip|ip6) (filter|nat|mangle|raw|security)' | sort -u
}

# live_tables: of the tables `FAMILY NAME` that it reads, those that there are.
live_tables() {
  local family table
  while read -r family table; do
    ! nft list table "$family" "$table" >/dev/null 2>&1 || echo "$family $table"
  done
}

# stop_firewalld: ended without a chance to clean up, which would empty every chain of iptables, those of Docker and ours among them.
# What it leaves is a table of its own. Masked, because whoever asks for it over D-Bus starts it again.
stop_firewalld() {
  local table tries=0
  if ! nft list table inet firewalld >/dev/null 2>&1; then
    guarded systemctl stop firewalld # its rules are in iptables' own tables
    return
  fi
  systemctl mask --runtime --quiet firewalld 2>/dev/null || :
  systemctl kill --signal=KILL firewalld || return
  # Since firewalld 2.0 nobody else may touch its tables (flag `owner`): the kernel removes them, or gives them free, soon after its end.
  while
    for table in inet ip ip6; do nft delete table "$table" firewalld 2>/dev/null || :; done
    nft list tables | grep -qE '^table (inet|ip|ip6) firewalld$'
  do
    [ "$tries" -lt 50 ] || return
    tries=$((tries + 1))
    sleep 0.1
  done
  systemctl reset-failed firewalld 2>/dev/null || :
}

# stop_ufw: where it manages the built-in chains, it empties all of them.
stop_ufw() {
  if grep -qiE '^MANAGE_BUILTINS="?yes"?' /etc/default/ufw 2>/dev/null; then guarded ufw_init stop; else ufw_init stop; fi
}

# stop_others: only until the next boot. They are switched off when the rules have been confirmed.
stop_others() {
  local name was family table
  at_work >"$dir/others"
  while read -r name was; do
    mkdir -p "$run/stopped"
    grep -q "^$name " "$run/stopped/list" 2>/dev/null || echo "$name $was" >>"$run/stopped/list"
    case $name in
      ufw) stop_ufw ;;
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

# guarded COMMAND...: while it runs, a table that others do not know keeps out all but SSH, for some empty the chains of iptables, ours
# too. Where rules that are loaded rely on a policy DROP, nf_tables brings the rules a moment before the policy. Were we killed, the
# table would stay until the next boot, or until this runs again: closed, but not to the operator.
guarded() {
  local table='inet mail_firewall_guard' ended
  nft -f - <<END || complain 'without nft, the host may be open for the moment in which another firewall starts or stops' || :
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
  chain forward {
    type filter hook forward priority -10; policy accept;
    ct state new ct status dnat drop
  }
}
END
  "$@" && ended=0 || ended=1
  nft delete table "$table" 2>/dev/null || :
  return "$ended"
}

# start_firewalld: it counts as started before it has loaded its rules.
start_firewalld() {
  local waited=0
  systemctl unmask --runtime --quiet firewalld 2>/dev/null || :
  systemctl start firewalld || return
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

# start_others: those that were stopped and have not been switched off.
start_others() {
  local name was active
  [ -f "$run/stopped/list" ] || return 0
  while read -r name was active; do
    [ "$active" = inactive ] || start "$name" "$run/stopped" || return
  done <"$run/stopped/list"
}

# disable_ufw: as `ufw disable` does, but for its stop, which has been and might empty the built-in chains.
disable_ufw() {
  sed 's/^ENABLED=.*/ENABLED=no/' /etc/ufw/ufw.conf >"$dir/ufw.conf" && cat "$dir/ufw.conf" >/etc/ufw/ufw.conf
}

# disable_unit UNIT: masked, so that neither an upgrade of its package nor a restart by hand loads or flushes anything. A masked unit has
# no ExecStop, so to stop it does nothing but say so.
disable_unit() {
  systemctl disable --quiet "$1" || return
  if systemctl mask --quiet "$1" 2>/dev/null; then
    systemctl unmask --runtime --quiet "$1" 2>/dev/null || : # which stop_firewalld did
    [ "$1" = firewalld ] || systemctl stop "$1" 2>/dev/null || :
  fi
}

disable_others() {
  local name was
  [ -f "$run/stopped/list" ] || return 0
  mkdir -p "$etc/others"
  while read -r name was; do
    grep -q "^$name " "$etc/others/list" 2>/dev/null || echo "$name $was" >>"$etc/others/list"
    case $name in
      ufw) disable_ufw ;;
      nftables) { [ ! -f "$run/stopped/nftables" ] || cp "$run/stopped/nftables" "$etc/others/"; } && disable_unit nftables ;;
      *) disable_unit "$name" ;;
    esac || complain "$name could not be disabled" || return
  done <"$run/stopped/list"
}

# give_back: what disable_others took away.
give_back() {
  local name enabled active
  [ -f "$etc/others/list" ] || return 0
  while read -r name enabled active; do
    [ "$name" = ufw ] || { systemctl unmask --quiet "$name" && systemctl unmask --runtime --quiet "$name"; } 2>/dev/null || :
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

# known_ssh_ports: of all rules of ours that are or were here, and those that sshd itself names.
known_ssh_ports() {
  local ports
  ports=$({
    ssh_ports "$dir"/kernel.?.* "$etc"/rules.v? "$etc"/last/rules.v? "$etc"/candidate/rules.v?
    sshd -T 2>/dev/null | awk '$1 == "port" { print $2 } $1 == "listenaddress" { sub(/.*:/, "", $2); print $2 }'
    if has_systemd; then
      systemctl show --property=Listen ssh.socket sshd.socket 2>/dev/null | sed -nE 's/^Listen=(.*:)?([0-9]+) \(Stream\)$/\2/p'
    fi
  } | grep -xE '[0-9]{1,5}' | sort -un)
  echo "${ports:-22}"
}
