# --- Verbs

# owner_here: whose rules the host has.
owner_here() {
  local found
  found=$(owner "$dir/live.4")
  if [ -z "$found" ] && is_whole "$etc"; then found=$(owner "$etc/rules.v4"); fi
  echo "$found"
}

# check_owner OWNER TAKE_OVER: whether this one may deploy to a host that may have the rules of another.
check_owner() {
  local there
  there=$(owner_here)
  if [ -z "$there" ] || [ "$there" = "$1" ] || [ -n "$2" ]; then return 0; fi
  [ "$(stack_of "$there")" = "$(stack_of "$1")" ] ||
    complain "the host has the firewall of $there; if $1 is to take it over, set takeOver: true" || return
  # A new name is welcome, once.
  ! has_claim "$1" || ! has_claim "$there" ||
    complain "this machine is both $1 and $there, which undo each other; delete one of the two hosts. If $there is gone already, set takeOver: true for one pulumi up"
}

# read_all: every family, before anything is touched.
read_all() {
  local family
  for family in $families; do read_kernel "$family" || fail 'nothing was changed'; done
}

# launch RULES: makes them live until they are confirmed, or for as many seconds as are written down with their token.
launch() {
  local token seconds where
  read -r token seconds _ <"$1/token"
  keep_before || complain 'nothing was changed' || return
  arm "$token" "$seconds" || complain 'no timer could be started; nothing was changed' || return
  if make_live "$1" && stop_others && { [ ! -s "$dir/others" ] || stay_live "$1"; }; then return; fi
  where=$(go_back) || complain "the rules before could not be put back; that is tried again in $seconds s" || return
  complain "$where"
}

apply() {
  local seconds=60 take_over='' keep='' text ours token family
  while [ $# -gt 0 ]; do
    case $1 in
      --rollback) seconds=$2 && shift ;;
      --take-over) take_over=yes ;;
      --keep) keep=yes ;;
      --instance) shift ;;
      *) usage >&2 && exit 64 ;;
    esac
    shift
  done
  text=$(cat) # before the lock: a connection that hangs must not hold up the timer
  lock 30
  printf '%s\n' "$text" 2>/dev/null >"$dir/rulesets" || fail "$run is full; nothing was changed"
  split "$dir/rulesets" "$dir/new" || fail 'nothing was changed'
  read_all
  { check_kernel "$dir/new" && check_ssh "$dir/new" && check_entrances "$dir/new" && check_client "$dir/new"; } ||
    fail 'nothing was changed'
  ours=$(owner "$dir/new/rules.v4")
  check_owner "$ours" "$take_over" || fail 'nothing was changed'

  token=$(sha256sum "$dir/rulesets" | cut -c 1-12)-$(cut -c 1-8 /proc/sys/kernel/random/uuid)
  seal "$dir/new" "$token $seconds"
  copy_rules "$dir/new" "$etc/candidate" || fail "$etc cannot be written; is the disk full, or read-only? Nothing was changed"
  if [ -n "$keep" ]; then : >"$etc/keep"; else rm -f "$etc/keep"; fi
  [ -z "$take_over" ] || rm -f "$etc/claims"
  if is_whole "$etc" && same "$etc" "$dir/new" && [ -z "$(at_work)" ] && [ ! -e "$run/stopped/list" ]; then
    make_live "$dir/new" || fail 'the confirmed rules could not be loaded'
    rm -f "$run/paused"
    disarm
  else
    launch "$dir/new" || exit 1
  fi
  {
    for family in $families; do shut_by_others "$family" "$dir/new" && unanswered "$family"; done
    shut_by_nft
    outward_bridges
  } | head -n "$most" | sed 's/^/mail-firewall: /' >&2
  echo "applied $token"
}

# settle: all of a confirm but its rules. Until the last step is done, whoever comes next sees that something is pending, and does it
# all. Nothing is confirmed that the kernel does not hold after the last thing that could change it.
settle() {
  boot_on && disable_others && stay_live "$etc" && claim "$(owner "$etc/rules.v4")" && rm -rf "$etc/candidate" "$run/paused" && disarm
}

confirm() {
  local given token first family seconds
  given=$(cat)
  [ "$given" != confirmed ] || { echo confirmed && return; }
  token=${given##* }
  lock 30
  if knows "$etc" "$token" && { [ -z "$(pending)" ] || [ "$(pending)" = "$token" ]; }; then
    # A second time: the first was cut off, perhaps before anything would load the rules at boot.
    make_live "$etc" && stop_others && settle || exit 1
    echo confirmed
    return
  fi
  knows "$etc/candidate" "$token" ||
    fail "the host does not know the rules $token: it was reinstalled, or something else was applied since; deploy to it anew (pulumi up --replace)"

  if [ "$(pending)" = "$token" ] || { [ -z "$(pending)" ] && is_whole "$etc" && same "$etc" "$etc/candidate"; }; then
    for family in $families; do
      is_live "$family" "$etc/candidate" ||
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
  # printed here; where that is lost, as after a failure, with the one that came now, and then they need one more.
  read -r _ seconds _ <"$etc/candidate/token"
  copy_rules "$etc/candidate" "$dir/new"
  first=$(first_token_of "$etc/candidate")
  if [ "${1-}" != --again ]; then
    first=$token
    token=${token%-*}-$(cut -c 1-8 /proc/sys/kernel/random/uuid)
  fi
  seal "$dir/new" "$token $seconds $first"
  copy_rules "$dir/new" "$etc/candidate" || fail "$etc cannot be written; is the disk full, or read-only? Nothing was changed"
  read_all
  check_client "$dir/new" || fail 'nothing was changed'
  launch "$dir/new" || exit 1
  [ "${1-}" != --again ] || fail "the host went back to the rules before a second time: no new connection came through in $seconds s. The
new rules are live once more for as long: run pulumi up again now, or change them"
  echo "applied $token"
}

rollback() {
  local waiting
  waiting=$(cat "$run/pending" 2>/dev/null) || return 0
  [ "${waiting% *}" = "$1" ] || return 0
  lock 5 "$waiting"
  # The same rules may have got another window meanwhile.
  [ "$(cat "$run/pending" 2>/dev/null)" = "$waiting" ] || return 0
  go_back
}

# kept RULESETS: why whoever deployed these leaves rules here when he goes, or nothing. His claim is gone in any case.
kept() {
  local there ours
  there=$(owner_here) ours=$(owner "$1")
  release "$ours"
  if [ -n "$there" ] && [ "$there" != "$ours" ]; then
    echo "the owner is now $there"
  elif [ -e "$etc/keep" ]; then
    echo 'as onDestroy says'
  elif [ -s "$etc/claims" ]; then
    echo "this machine is also $(paste -s -d ' ' "$etc/claims")"
  elif is_confirmed; then
    # Another backend of Pulumi may know a stack of the same name. Rules that wait for a confirm that never came are known here, too.
    split "$1" "$dir/given" || return
    same "$dir/given" "$etc" || same "$dir/given" "$etc/candidate" || ! is_whole "$etc" || echo 'others were deployed here since, by the same name'
  fi
}

remove() {
  local text='' why
  [ "${1-}" != --owned ] || text=$(cat)
  lock 60
  read_all
  if [ "${1-}" = --owned ]; then
    printf '%s\n' "$text" >"$dir/rulesets"
    why=$(kept "$dir/rulesets") || fail 'our rules stay'
    if [ -n "$why" ]; then
      echo "kept: $why; by hand: $self remove"
      return
    fi
  fi
  # In this order the host is never open: what was there before comes back while our rules are still there.
  { start_others && give_back; } || fail 'our rules stay'
  snapshot "$dir/was" || fail 'our rules stay'
  if ! make_live "$(nothing)"; then
    make_live "$dir/was" || :
    fail 'our rules could not be removed; does a rule of another chain still jump to them?'
  fi
  boot_off || fail 'the rules are gone, but not what loads them at boot'
  disarm
  rm -rf "$etc" "$run/paused"
  echo removed
}

# load_family FAMILY DIR
load_family() {
  is_whole "$2" && load "$1" "$2" && is_live "$1" "$2"
}

# emergency FAMILY
emergency() {
  mkdir -p "$run/emergency"
  # shellcheck disable=SC2046 # one word a port
  emergency_rules "$1" $(known_ssh_ports) >"$run/emergency/rules.v$1"
  load "$1" "$run/emergency" && is_live "$1" "$run/emergency"
}

# load_confirmed: the confirmed rules; for a family that the kernel refuses, those before them; else none but for SSH.
load_confirmed() {
  local family ended=0
  rm -f "$run"/fallback.*
  for family in $families; do
    if load_family "$family" "$etc"; then continue; fi
    ended=1
    complain "IPv$family: the confirmed rules in $etc are damaged, or cannot be loaded" || :
    if load_family "$family" "$etc/last"; then
      echo "$etc/last" >"$run/fallback.$family"
      complain "IPv$family: those before them are live: $(cut -d - -f 1 "$etc/last/token"). Deploy anew" || :
    elif emergency "$family"; then
      echo "$run/emergency" >"$run/fallback.$family"
      complain "IPv$family: only SSH is open now. Deploy anew" || :
    else
      complain "IPv$family: no rules at all could be loaded" || :
    fi
  done
  return $ended
}

restore() {
  lock 60
  if [ -n "$(pending)" ] && [ "$(token_of "$etc/candidate")" = "$(pending)" ]; then
    stay_live "$etc/candidate" || exit 1
    echo 'the rules that wait for their confirm are live'
    return
  fi
  is_confirmed || fail 'no rules have been confirmed on this host'
  rm -f "$run/paused"
  load_confirmed || exit 1
  echo "restored $(cut -d - -f 1 "$etc/token")"
}

pause() {
  case ${1-} in
    '' | *[!0-9]* | 0*) fail 'pause for how many minutes? For example: mail-firewall pause 10' ;;
  esac
  [ "$1" -le 1440 ] || fail 'pause for at most 1440 minutes; for good it is mail-firewall remove'
  lock 30
  [ -z "$(pending)" ] || fail 'rules wait for their confirm; nothing was changed'
  is_confirmed || fail 'no rules have been confirmed on this host'
  read_all
  echo $(($(seconds) + 60 * $1)) >"$run/paused"
  make_live "$(nothing)" || exit 1
  # In case that nobody watches.
  later $((60 * $1 + 1)) "mail-firewall-pause-$(seconds)" watch --once || complain "nothing will end the pause but $self restore" || :
  echo "our rules are away for $1 min, and the host is open; $self restore ends that"
}

# look: loads the confirmed rules if the kernel does not hold them, nor what was loaded in their place because it refuses them.
look() {
  local family
  lock 10
  if [ -n "$(pending)" ] || is_paused || ! is_confirmed; then return; fi
  for family in $families; do
    if [ -e "$run/fallback.$family" ] && is_live "$family" "$(cat "$run/fallback.$family")"; then continue; fi
    if [ ! -e "$run/paused" ] && is_live "$family" "$etc"; then continue; fi
    if [ -e "$run/paused" ]; then
      echo 'the pause is over: our rules are loaded again'
    else
      echo "IPv$family: somebody has changed our rules or taken them away, or now stands before them: they are loaded again"
    fi
    rm -f "$run/paused"
    load_confirmed || :
    return
  done
}

watch() {
  if [ "${1-}" = --once ]; then
    look
    return
  fi
  while :; do
    (look) || :
    sleep 20
  done
}

uninstall() {
  local family
  lock 60
  for family in $families; do
    read_kernel "$family" || exit 1
    [ ! -s "$dir/live.$family" ] || { echo 'kept: the rules are live' && return; }
  done
  if is_confirmed; then
    echo 'kept: the rules are live'
  else
    rm -rf "$self" "$run" "$etc/candidate" "$etc/keep" # what an apply leaves that was refused
    rmdir "$etc" 2>/dev/null || :
    echo uninstalled
  fi
}
