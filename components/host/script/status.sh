# --- Status

# At most this many lines of a kind: a host may have tens of thousands of rules.
most=20

# note difference|notice KIND: its lines of standard input as findings.
note() {
  awk -v kind="$2" -v most="$most" '
    NR <= most { print kind "\t" $0 }
    END { if (NR > most) print kind "\tand " NR - most " more" }' >>"$dir/$1"
}

# compare FAMILY DIR: how the kernel differs from the rules in DIR.
compare() {
  local table hook place chain
  for table in $tables; do
    section "$table" "$2/rules.v$1" >"$dir/rules"
    section "$table" "$dir/live.$1" >"$dir/live"
    if [ -s "$dir/rules" ] && [ ! -s "$dir/live" ]; then
      echo "IPv$1: none of our rules are in the table $table" | note difference rules
      continue
    fi
    # Busybox prints the unified form.
    diff "$dir/rules" "$dir/live" | sed -nE -e 's/^(< |-)(-A|:)/missing: \2/p' -e 's/^(> |\+)(-A|:)/not ours: \2/p' |
      sed "s/^/IPv$1: /" | note difference rules
    jumps "$table" "$dir/kernel.$1.$table" | sort >"$dir/jumps.now"
    wanted_jumps "$1" "$table" "$2" | sort >"$dir/jumps.wanted"
    cmp -s "$dir/jumps.now" "$dir/jumps.wanted" && continue
    while read -r hook place chain; do
      case $(grep -c "^$hook [0-9]* $chain\$" "$dir/jumps.now") in
        0) echo "IPv$1: the jump from $table $hook to $chain is missing" ;;
        *) grep -qx "$hook $place $chain" "$dir/jumps.now" && [ "$(grep -c "^$hook " "$dir/jumps.now")" = 1 ] ||
          echo "IPv$1: the jump from $table $hook to $chain is not where it belongs" ;;
      esac
    done <"$dir/jumps.wanted" | note difference jump
  done
  read_other "$1"
  if grep -q '^:MAILFW-' "$dir/other.$1".*; then
    echo "IPv$1: rules of ours are in the other backend of iptables, too ($(other_tool "$1")-save)" | note difference backend
  fi
}

# shut_by_others FAMILY DIR: rules of others that refuse what the policy opens, before ours are asked or after. The tables with ours have
# been read.
shut_by_others() {
  local open place table hook uses file asked now
  open=$(open_ports "$2/rules.v$1")
  uses=$(backend "$1")
  for place in raw:PREROUTING mangle:PREROUTING mangle:INPUT filter:INPUT security:INPUT; do
    table=${place%:*} hook=${place#*:} file="$dir/kernel.$1.${place%:*}"
    if [ ! -e "$file" ] && ! save "$(tool "$1" -save)" "$1" "$table" "$uses" >"$file" 2>/dev/null; then
      rm -f "$file"
      echo "IPv$1: the table $table cannot be read: nobody knows what it shuts"
      continue
    fi
    fate "$hook" "$open" "$(outside)" "$(local_addresses "$1")" <"$file" | awk -v place="$table $hook" -v family="$1" '
      $1 == "ours" && $3 ~ /^MAILFW-(ACCEPT|IN)$/ && place == "filter INPUT" { ours = $2; has = 1 }
      { lines[NR] = $0 }
      END {
        for (i = 1; i <= NR; i++) {
          n = split(lines[i], word, " ")
          if (word[1] != "refuses" && word[1] != "untracked") continue
          if (has && word[2] > ours) continue
          text = lines[i]; sub(/^[^ ]+ [^ ]+ [^ ]+ -A [^ ]+ /, "", text)
          print "IPv" family ": " word[3] " is open here, and " (word[1] == "refuses" ? "refused" : "taken out of connection tracking, and so shut,") " by others: " place ": " text
        }
      }'
  done
  # What containers publish, our rules only let through to the rules of whoever runs them.
  file="$dir/kernel.$1.nat"
  save "$(tool "$1" -save)" "$1" nat "$uses" >"$file" 2>/dev/null || : >"$file"
  published "$open" <"$file" | while read -r asked now; do
    fate FORWARD "$now" "$(outside)" '*' <"$dir/kernel.$1.filter" |
      sed -n "s|^refuses [0-9]* $now -A FORWARD |IPv$1: $asked is open here, and refused by others: filter FORWARD: |p"
  done
}

# unanswered FAMILY: an OUTPUT of others that lets out no answers, so that services are open in vain.
unanswered() {
  if grep -q '^:OUTPUT DROP ' "$dir/kernel.$1.filter" &&
    ! grep -qE '^-A .*ESTABLISHED.* -j ACCEPT$|^-A OUTPUT -j ACCEPT$' "$dir/kernel.$1.filter"; then
    echo "IPv$1: the policy of filter OUTPUT is DROP, and no rule of it lets out what services answer"
  fi
}

# shut_by_nft: base chains of nft's own tables whose policy is drop. Their rules are not for iptables to read.
shut_by_nft() {
  command -v nft >/dev/null || return 0
  nft list chains 2>/dev/null | awk '
    $1 == "table" { table = $2 " " $3 }
    $1 == "chain" { chain = $2 }
    / hook (ingress|prerouting|input) / && /policy drop/ && table !~ /^(ip|ip6) (filter|mangle|nat|raw|security)$/ {
      print "nft table " table ", chain " chain ": its policy is drop, which may shut what is open here" }'
}

# never_reached FAMILY: rules of others that ours leave nothing to do.
never_reached() {
  sed -n '/^-A INPUT -j MAILFW-\(ACCEPT\|IN\)$/,$s/^-A INPUT /INPUT /p' "$dir/kernel.$1.filter" | sed 1d |
    grep -E -- '-[jg] ' | sed "s/^/never reached while our rules are there: IPv$1: /" || :
}

# outward_bridges: the ways to the world that have names of bridges, behind which MAILFW-FWD takes everyone for a container.
outward_bridges() {
  outside | tr ' ' '\n' | grep -E '^(docker|br-|podman|cni|lxdbr|incusbr)' |
    sed 's/.*/the default route leaves by &, which is taken for a bridge of containers: to all behind it, published ports are open/' || :
}

# other_claims: the other names by which the stack that has this machine knows it.
other_claims() {
  local here
  here=$(owner_here)
  grep -vxF -- "$here" "$etc/claims" 2>/dev/null |
    sed "s|.*|this machine is also & of the same stack: delete one of the two, or, if & is gone, deploy once with takeOver: true|" || :
}

check_listeners() {
  local ephemeral protocol port name
  # Whoever only asks others uses ports above.
  read -r ephemeral _ </proc/sys/net/ipv4/ip_local_port_range || ephemeral=32768
  services "$dir/expected/rules.v4" "$dir/expected/rules.v6" >"$dir/services"
  for protocol in tcp udp; do
    listening "$protocol" >"$dir/listening"
    sed -n "s/^$protocol //p" "$dir/services" >"$dir/open"
    if [ "$protocol" = tcp ]; then ssh_ports "$dir/expected/rules.v4" "$dir/expected/rules.v6" | sed 's/$/ ssh/' >>"$dir/open"; fi
    while read -r port name; do
      grep -qx "$port" "$dir/listening" || grep -qE -- "--dport $port .*-j DNAT" "$dir/nat" ||
        echo "$name ($protocol/$port) is open, and nothing listens on it"
    done <"$dir/open" | note notice unused
    while read -r port; do
      { [ "$protocol" = udp ] && { [ "$port" -ge "$ephemeral" ] || [ "$port" = 68 ] || [ "$port" = 546 ]; }; } ||
        grep -q "^$port " "$dir/open" || echo "something listens on $protocol/$port, which is closed"
    done <"$dir/listening" | note notice closed
  done
}

# json TEXT: as a JSON string.
json() {
  printf '"%s"' "$(printf '%s' "$1" | tr '\001-\037\177' ' ' | sed -e 's/[\\"]/\\&/g')"
}

# json_list FILE: of its lines `KIND TEXT`.
json_list() {
  tr '\001-\010\013-\037\177' ' ' <"$1" | sed -e 's/[\\"]/\\&/g' | awk -F '\t' '
    BEGIN { printf "[" }
    { printf("%s{\"kind\":\"%s\",\"text\":\"%s\"}", (NR == 1 ? "" : ","), $1, substr($0, length($1) + 2)) }
    END { printf "]" }' | tr '\t' ' '
}

status() {
  local as_json='' deployed='' option rules=none waiting family owner
  for option in "$@"; do
    case $option in
      --json) as_json=yes ;;
      --deployed) deployed=yes ;;
      *) usage >&2 && exit 64 ;;
    esac
  done
  dir=$(mktemp -d)
  trap 'rm -rf "$dir"' EXIT
  : >"$dir/difference"
  : >"$dir/notice"
  if is_whole "$etc"; then
    rules=$(cut -d - -f 1 "$etc/token")
    mkdir "$dir/expected"
    cp "$etc/rules.v4" "$etc/rules.v6" "$dir/expected"
  elif is_confirmed; then
    echo "the rules in $etc are damaged, or were changed by hand" | note difference files
  else
    echo 'no rules have been confirmed on this host' | note difference none
  fi
  if [ -n "$deployed" ]; then
    cat >"$dir/rulesets"
    rm -rf "$dir/expected"
    split "$dir/rulesets" "$dir/expected" || exit 1
    if is_whole "$etc" && ! same "$etc" "$dir/expected"; then
      echo "the rules in $etc are not those that were deployed; theirs is $(owner "$etc/rules.v4")" | note difference files
    fi
  fi
  waiting=$(pending)
  if [ -n "$waiting" ]; then
    echo "rules ${waiting%-*} wait for their confirm; in $(time_left) s the host goes back" | note difference pending
  fi
  if is_paused; then echo "paused: our rules are away for another $(pause_left) min; $self restore ends that" | note difference paused; fi
  : >"$dir/nat"
  for family in $families; do
    read_kernel "$family" || exit 1
    save "$(tool "$family" -save)" "$family" nat "$(backend "$family")" >>"$dir/nat" 2>/dev/null || :
    [ -d "$dir/expected" ] || continue
    compare "$family" "$dir/expected"
    { shut_by_others "$family" "$dir/expected" && unanswered "$family"; } | note difference shut
    never_reached "$family" | note notice shadowed
  done
  if [ -d "$dir/expected" ]; then
    check_entrances "$dir/expected" 2>&1 | sed 's/^mail-firewall: //' | note difference entrance
  fi
  shut_by_nft | note difference shut
  if ! has_systemd && [ ! -x /etc/rc.local ]; then
    echo 'neither systemd nor an executable /etc/rc.local is here: after a reboot nothing loads the rules' | note notice boot
  elif is_confirmed && ! boots; then
    echo 'nothing loads the rules at boot' | note difference boot
  fi
  if is_confirmed && ! is_watched; then
    if has_systemd; then
      echo 'nothing loads the rules again when somebody takes them away (mail-firewall-watch.service)' | note difference watch
    else
      echo 'without systemd nothing loads the rules again when somebody takes them away' | note notice watch
    fi
  fi
  [ "$families" = '4 6' ] || echo 'the kernel has no IPv6: only the IPv4 rules are loaded' | note notice families
  at_work | sed 's/ .*/ is on beside our rules/' | note difference others
  outward_bridges | note notice outward
  other_claims | note notice claims
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
