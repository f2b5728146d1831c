# --- The window between apply and confirm, and the lock

# later SECONDS UNIT VERB [ARG]: runs this script later, again and again until it succeeds.
later() {
  if has_systemd && systemd-run --quiet --collect --unit="$2" --on-active="$1" --timer-property=AccuracySec=100ms \
    --property=Restart=on-failure --property=RestartSec=5 "$self" "$3" "${4-}" 9>&-; then return; fi
  # Neither a hang-up nor the end of whoever started us takes it along.
  setsid sh -c "trap '' HUP INT TERM PIPE; sleep $1; until $self $3 ${4-}; do sleep 5; done" </dev/null >/dev/null 2>&1 9>&- &
  kill -0 "$!"
}

# arm TOKEN SECONDS: from here on the host goes back by itself.
arm() {
  later "$2" "mail-firewall-rollback-${1#*-}" rollback "$1" || return
  echo "$1 $(($(seconds) + $2))" >"$run/pending.new" && mv "$run/pending.new" "$run/pending"
}

# pending: the token of the rules that wait for their confirm, if any do.
pending() {
  cut -d ' ' -f 1 "$run/pending" 2>/dev/null || :
}

# time_left: how many seconds they have.
time_left() {
  echo $(($(cut -d ' ' -f 2 "$run/pending") - $(seconds)))
}

disarm() {
  local armed
  armed=$(pending)
  rm -rf "$run/pending" "$run/stopped" "$run/before"
  if [ -n "$armed" ] && has_systemd; then
    systemctl stop "mail-firewall-rollback-${armed#*-}.timer" 2>/dev/null || : # it would find nothing pending
  fi
}

# keep_before: what is live now, for the way back. Not while rules wait for their confirm: it is those before them that count.
keep_before() {
  [ -z "$(pending)" ] || [ ! -d "$run/before" ] || return 0
  rm -rf "$run/before" "$run/before.new"
  snapshot "$run/before.new" && mv "$run/before.new" "$run/before"
}

# within SECONDS COMMAND...: false if it has not ended by then.
within() {
  local limit=$((5 * $1)) pid
  shift
  "$@" 9>&- & # what it leaves behind must not hold the lock
  pid=$!
  while kill -0 "$pid" 2>/dev/null; do
    if [ "$limit" = 0 ]; then
      kill -KILL "$pid"
      return 1
    fi
    limit=$((limit - 1))
    sleep 0.2
  done
  wait "$pid"
}

# go_back: to exactly what was there before, and to other firewalls as they were. Says where that is.
go_back() {
  local target
  if is_whole "$etc" && [ "$(token_of "$etc")" = "$(pending)" ]; then
    settle # a confirm was killed when all but its end was done
    return
  fi
  target=$run/before
  [ -d "$target" ] || target=$(confirmed)
  # Rules first: whoever cannot get in must not wait for another firewall. Where there were none, that firewall comes first, so that the
  # host is not open in between; but not for ever.
  if [ -s "$target/rules.v4" ]; then make_live "$target" || return; fi
  within 10 start_others || complain "another firewall could not be started again" || :
  stay_live "$target" || return
  if [ -s "$target/rules.v4" ]; then echo "the rules before are live again"; else echo "the host has no rules of ours, as before"; fi
  disarm
}

# holders: the processes that have the lock, whatever they are doing.
holders() {
  local one
  for one in /proc/[0-9]*; do
    [ "$(readlink "$one/fd/9" 2>/dev/null)" != "$run/lock" ] || echo "${one#/proc/}"
  done | grep -vx "$$" || :
}

# lock SECONDS [PENDING]: one at a time. Whoever is killed leaves the lock free once what it started has ended. With a line of
# `pending`, whoever does not end is killed, as long as that line stands: rules that nobody confirmed must go, whatever hangs.
lock() {
  local waited=0
  mkdir -p "$run" || fail 'nothing was changed'
  exec 9>>"$run/lock"
  until flock -n 9; do
    if [ "$waited" -ge "$1" ]; then
      [ -n "${2-}" ] || fail "another run of it has not ended in $1 s; nothing was changed"
      [ "$(cat "$run/pending" 2>/dev/null)" = "$2" ] || exit 0
      # shellcheck disable=SC2046 # one word a process
      kill -KILL $(holders) 2>/dev/null || :
    fi
    sleep 1
    waited=$((waited + 1))
  done
  # On a machine whose /run outlives a boot, what stands there is about a kernel that is gone.
  if [ "$(cat "$run/boot" 2>/dev/null)" != "$(cat /proc/sys/kernel/random/boot_id)" ]; then
    rm -rf "$run/pending" "$run/stopped" "$run/before" "$run/paused"
    cat /proc/sys/kernel/random/boot_id 2>/dev/null >"$run/boot" || fail "$run is full; nothing was changed"
  fi
  dir=$run/work
  rm -rf "$dir"
  mkdir "$dir" || fail 'nothing was changed'
  # Should the timer have died.
  if [ -f "$run/pending" ] && [ "$(time_left)" -le 0 ]; then go_back >&2 || complain "the rules before could not be put back" || :; fi
}
