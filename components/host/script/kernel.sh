# --- The kernel: what it holds, and how ours gets in and out. Only here are iptables' programs called.

# An IPv4-only kernel has nothing to protect for IPv6. One that has IPv6 but no ip6tables is an error, not a family less.
families=4
[ ! -e /proc/sys/net/ipv6 ] || families='4 6'

# tool FAMILY [-save|-restore]: the program, of the backend that this host uses.
tool() {
  case $1 in
    4) echo "iptables${2-}" ;;
    6) echo "ip6tables${2-}" ;;
  esac
}

# backend FAMILY: `nft` or `legacy`, whichever this host uses. Asked once a run.
backend() {
  local known
  eval "known=\${backend_$1-}"
  if [ -z "$known" ]; then
    known=legacy
    case $("$(tool "$1")" -V) in *nf_tables*) known=nft ;; esac
    eval "backend_$1=$known"
  fi
  echo "$known"
}

# other_tool FAMILY [-save|-restore]: the same of the backend that it does not use, whose rules count as well; nothing if it has none.
other_tool() {
  local name
  name=$(tool "$1")
  [ "$(backend "$1")" = nft ] && name=$name-legacy || name=$name-nft
  ! command -v "$name-save" >/dev/null || ! command -v "$name-restore" >/dev/null || echo "$name${2-}"
}

# has_legacy_table FAMILY TABLE: iptables-legacy-save would create a table that it does not find.
has_legacy_table() {
  local names=/proc/net/ip_tables_names
  [ "$1" = 4 ] || names=/proc/net/ip6_tables_names
  grep -qx "$2" "$names" 2>/dev/null
}

# save SAVE FAMILY TABLE BACKEND: prints a table with one rule a line. What cannot be read is an error, never an absence.
save() {
  if [ "$4" = legacy ] && ! has_legacy_table "$2" "$3"; then return; fi
  "$1" -t "$3" >"$dir/saved" || complain "the IPv$2 rules of table $3 cannot be read" || return
  # Somebody may have made rules with nft, in a form that iptables has no words for. The exit code is 0 all the same.
  joined <"$dir/saved" ||
    complain "the IPv$2 rules of table $3 cannot be read: a program has put rules of nft's own into it, which iptables cannot show (nft list table $([ "$2" = 4 ] && echo ip || echo ip6) $3)"
}

# The tables that ours are in, in the order in which they are loaded: denials first.
tables='mangle filter'

# read_kernel FAMILY: each table into $dir/kernel.FAMILY.TABLE, and ours into $dir/live.FAMILY.
read_kernel() {
  local table uses
  uses=$(backend "$1")
  : >"$dir/live.$1"
  for table in $tables; do
    save "$(tool "$1" -save)" "$1" "$table" "$uses" >"$dir/kernel.$1.$table" || return
    ours "$table" "$dir/kernel.$1.$table" >>"$dir/live.$1" || return
  done
}

# once FILE COMMAND...: what it prints, asked once a run.
once() {
  local file="$dir/$1"
  shift
  [ -e "$file" ] || "$@" >"$file" || return
  cat "$file"
}

# outside: the interfaces of the default routes, behind which strangers are.
outside() {
  once outside ask_outside
}

ask_outside() {
  {
    awk '$2 == "00000000" && $8 == "00000000" { print $1 }' /proc/net/route
    [ ! -e /proc/net/ipv6_route ] || awk '$1 ~ /^0+$/ && $2 == "00" && $NF != "lo" { print $NF }' /proc/net/ipv6_route
  } | sort -u | tr '\n' ' '
}

# local_addresses FAMILY: addresses and networks that this host takes for its own, on one line.
local_addresses() {
  once "addresses.$1" ask_addresses "$1"
}

ask_addresses() {
  local whole=32
  [ "$1" = 4 ] || whole=128
  ip "-$1" route show table local type local 2>/dev/null |
    awk -v whole="$whole" '{ it = $1 == "local" ? $2 : $1; printf "%s%s%s", (NR > 1 ? " " : ""), it, (it ~ /\// ? "" : "/" whole) }'
}

# Where chains of others jump to ours: TABLE HOOK CHAIN, and whether first of all or behind whoever only refuses. In the last two rows,
# chains of versions whose rules all stood in `filter`.
hooks='
mangle INPUT MAILFW-IN first
mangle FORWARD MAILFW-FWD first
filter INPUT MAILFW-ACCEPT behind
filter OUTPUT MAILFW-OUT first
filter INPUT MAILFW-IN behind
filter DOCKER-USER MAILFW-FWD first'

# jumps TABLE FILE: `HOOK N CHAIN` for each jump to a chain of ours, N being the number of rules of others before it.
jumps() {
  awk -v table="$1" '
    $1 != "-A" || $2 ~ /^MAILFW-/ { next }
    NF == 4 && $3 == "-j" && $4 ~ /^MAILFW-/ { print $2, others[$2] + 0, $4; next }
    { others[$2]++ }' "$2"
}

# wanted_jumps FAMILY TABLE DIR: the same for where they belong with the rules in DIR.
wanted_jumps() {
  local kernel="$dir/kernel.$1.$2" table hook chain how names
  if [ -e "$3/jumps.v$1" ]; then
    sed -n "s/^$2 //p" "$3/jumps.v$1"
    return
  fi
  names=$(section "$2" "$3/rules.v$1" | chains | tr '\n' ' ')
  echo "$hooks" | while read -r table hook chain how; do
    [ "$table" = "$2" ] || continue
    case " $names" in *" $chain "*) ;; *) continue ;; esac
    if [ "$how" = first ]; then
      echo "$hook 0 $chain"
    else
      fate "$hook" "$(open_ports "$3/rules.v$1")" "$(outside)" "$(local_addresses "$1")" <"$kernel" | awk -v hook="$hook" -v chain="$chain" '
        $1 == "rules" { first = $2 + 1 }
        ($1 == "refuses" || $1 == "invalid") && $2 < first { first = $2 }
        $1 == "may" { last = $3 }
        $1 == "ours" && $3 == chain { place = $2; has = 1 }
        # It may stay anywhere behind the last that may refuse somebody, and before the first that refuses what the policy opens, or INVALID packets.
        END { if (!has || place < last || place >= first) place = first - 1; print hook, place, chain }'
    fi
  done
}

# plan FAMILY TABLE DIR: the transaction that makes our part of a table what DIR has, as text for iptables-restore; nothing where
# nothing is to be done.
plan() {
  local kernel="$dir/kernel.$1.$2" chain hook place
  section "$2" "$3/rules.v$1" >"$dir/rules" || return
  jumps "$2" "$kernel" | sort >"$dir/jumps.now" || return
  wanted_jumps "$1" "$2" "$3" | sort >"$dir/jumps.wanted" || return
  stale_chains "$dir/rules" "$kernel" >"$dir/chains.stale"
  {
    cat "$dir/rules"
    [ ! -s "$dir/chains.stale" ] || sed 's/.*/:& - [0:0]/' "$dir/chains.stale"
    if ! cmp -s "$dir/jumps.now" "$dir/jumps.wanted"; then
      while read -r hook place chain; do echo "-D $hook -j $chain"; done <"$dir/jumps.now"
      while read -r hook place chain; do
        # Docker makes this one when it starts, and finds it made.
        if [ "$hook" = DOCKER-USER ] && ! grep -q '^:DOCKER-USER ' "$kernel"; then echo ':DOCKER-USER - [0:0]'; fi
        others=$(grep -E "^-A $hook " "$kernel" | grep -cvE -- "-j MAILFW-[A-Z]*\$" || :)
        [ "$place" -le "$others" ] || place=$others
        echo "-I $hook $((place + 1)) -j $chain"
      done <"$dir/jumps.wanted"
      if grep -q '^DOCKER-USER ' "$dir/jumps.now" && ! grep -q '^DOCKER-USER ' "$dir/jumps.wanted" &&
        [ "$(grep -cE -- '^-A DOCKER-USER | -[jg] DOCKER-USER( |$)' "$kernel")" = 1 ]; then
        echo '-X DOCKER-USER'
      fi
    fi
    [ ! -s "$dir/chains.stale" ] || sed 's/^/-X /' "$dir/chains.stale"
  } >"$dir/plan" || return
  [ ! -s "$dir/plan" ] || { echo "*$2" && cat "$dir/plan" && echo COMMIT; }
}

# load_table FAMILY TABLE DIR: the transaction is written before it starts: iptables-legacy-restore holds the lock from its first line on.
load_table() {
  plan "$1" "$2" "$3" >"$dir/transaction" || return
  [ -s "$dir/transaction" ] || return 0 # do not create a table that is not there
  "$(tool "$1" -restore)" -w 10 --noflush <"$dir/transaction"
}

# load FAMILY DIR: what DIR has is loaded before anything is taken away, and denials before what accepts: so no packet that neither the
# old nor the new rules admit gets in between two tables.
load() {
  local table first='' last=''
  read_kernel "$1" || return
  for table in $tables; do
    if [ -n "$(section "$table" "$2/rules.v$1")" ]; then first="$first $table"; else last="$table $last"; fi
  done
  for table in $first $last; do load_table "$1" "$table" "$2" || return; done
  clear_other "$1"
}

# read_other FAMILY: our part of the other backend's tables, into $dir/other.FAMILY.TABLE.
read_other() {
  local table uses=legacy
  [ "$(backend "$1")" = nft ] || uses=nft
  for table in $tables; do
    : >"$dir/other.$1.$table"
    [ -z "$(other_tool "$1")" ] || save "$(other_tool "$1" -save)" "$1" "$table" "$uses" 2>/dev/null >"$dir/other.$1.$table" || :
  done
}

# clear_other FAMILY: takes ours out of the backend that this host does not use; it may have used it before.
clear_other() {
  local table hook place chain
  read_other "$1"
  for table in filter mangle; do
    [ -s "$dir/other.$1.$table" ] || continue
    chains <"$dir/other.$1.$table" >"$dir/chains"
    [ -s "$dir/chains" ] || continue
    {
      echo "*$table"
      sed 's/.*/:& - [0:0]/' "$dir/chains"
      jumps "$table" "$dir/other.$1.$table" | while read -r hook place chain; do echo "-D $hook -j $chain"; done
      sed 's/^/-X /' "$dir/chains"
      echo COMMIT
    } >"$dir/transaction"
    "$(other_tool "$1" -restore)" -w 10 --noflush <"$dir/transaction" || complain "our rules in the other backend of iptables cannot be removed ($(other_tool "$1"))" || return
  done
}

# is_live FAMILY DIR: whether the kernel holds exactly what DIR has, each jump stands where it belongs, and the other backend has none.
is_live() {
  local table
  read_kernel "$1" && cmp -s "$2/rules.v$1" "$dir/live.$1" || return
  for table in $tables; do
    [ "$(jumps "$table" "$dir/kernel.$1.$table" | sort)" = "$(wanted_jumps "$1" "$table" "$2" | sort)" ] || return
  done
  read_other "$1"
  ! grep -q '^:MAILFW-' "$dir/other.$1".*
}

# make_live DIR: loads rules.v4 and rules.v6 of DIR. A restore that reports success is not yet a firewall: what the kernel then holds is
# read back. Each family is tried, also after the other has failed.
make_live() {
  local family ended=0
  for family in $families; do
    load "$family" "$1" || complain "the kernel refused the IPv$family rules" || ended=1
  done
  [ "$ended" = 0 ] || return 1
  for family in $families; do
    is_live "$family" "$1" || {
      diff "$1/rules.v$family" "$dir/live.$family" >&2 || :
      complain "the kernel holds other IPv$family rules than were sent"
      return 1
    }
  done
}

# stay_live DIR: loads them only where they are not.
stay_live() {
  local family
  for family in $families; do
    is_live "$family" "$1" || { make_live "$1" && return; } || return
  done
}

# snapshot DIR: what the kernel holds of ours, and where others jump to it.
snapshot() {
  local family table
  mkdir -p "$1" || return
  : >"$1/rules.v6"
  for family in $families; do
    read_kernel "$family" && cp "$dir/live.$family" "$1/rules.v$family" || return
    for table in $tables; do jumps "$table" "$dir/kernel.$family.$table" | sed "s/^/$table /"; done >"$1/jumps.v$family" || return
  done
}

# nothing: a directory of rules without any.
nothing() {
  mkdir -p "$dir/nothing"
  : >"$dir/nothing/rules.v4"
  : >"$dir/nothing/rules.v6"
  echo "$dir/nothing"
}

# rehearse FAMILY DIR: loads the rules into an empty network of their own, which ends with this. It finds what the kernel lacks before
# anything is touched; where no such network can be made, it finds nothing.
rehearse() {
  unshare --net true 2>/dev/null || return 0
  unshare --net "$(tool "$1" -restore)" -w 1 --noflush <"$2/rules.v$1" 2>"$dir/refused" ||
    grep -q 'xtables lock' "$dir/refused" # which iptables-legacy has only one of; for the rules themselves it is waited for
}
