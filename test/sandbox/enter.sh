#!/bin/sh
# enter.sh COMMAND [ARG…]: runs COMMAND as root in a sandbox with a network of its own, of which nothing survives.
#
# Inside, br0 is the outside world: one segment on which every address is on-link. Mail hosts and clients plug into it
# (host.ts, probe.ts); the operator, that is COMMAND, is 203.0.113.1 and 2001:db8:113::1. Temporary files ($TMPDIR) live
# in a private tmpfs. The exit code is COMMAND's.
#
# One process after the other, so that whatever ends, the kernel ends and frees the rest:
#   build      own network and mount namespace, held by nothing but its processes
#   supervise  the same process, visible to the caller as enter.sh; its only child is init, and dies with it
#   init       pid 1 of a pid namespace: when it goes, the kernel kills all that is left in there
# and beside them sweep, which removes the control groups when all is over.
set -eu

grace=5 # seconds that COMMAND has for its own clean-up after a signal
ready=/dev/shm/ready # by which init tells the supervisor that it takes signals now
alive=/dev/shm/alive # by which the sweeper sees the supervisor's end

build() {
  # Nobody keeps a checkout in /dev/shm, unlike /tmp or /mnt, so nothing that COMMAND needs is hidden by this.
  mount -t tmpfs -o mode=1777 sandbox /dev/shm
  export TMPDIR=/dev/shm
  mkfifo "$ready"

  # nodad: the route below needs an address that counts already. A bridge without a MAC of its own takes that of a port, and
  # another when that leaves: its neighbours would send to the old one for seconds.
  ip -batch - <<-'EOF'
	link set lo up
	link add br0 address 02:00:00:00:00:01 type bridge mcast_snooping 0
	link set br0 up
	address add 203.0.113.1/32 dev br0
	address add 2001:db8:113::1/128 dev br0 nodad
	route add 0.0.0.0/0 dev br0 src 203.0.113.1
	route add ::/0 dev br0 src 2001:db8:113::1
	EOF
  # Where br_netfilter is loaded (Docker does), frames between two hosts would also pass this namespace's iptables.
  for family in iptables ip6tables; do
    switch=/proc/sys/net/bridge/bridge-nf-call-$family
    if [ -e "$switch" ]; then echo 0 >"$switch"; fi
  done

  mkfifo "$alive"
  exec 6<>"$alive" # both ways, as each alone would wait for the other
  exec 7<"$alive"
  rm "$alive"
  control_groups || unset SANDBOX_GROUP
  exec 7<&-
}

# What boots in here (realHost.ts) gets control groups of version 2, whatever the machine has, below one of the sandbox's.
# Nothing else needs them, so a machine that gives none is good for all the rest.
control_groups() {
  # A sandbox within a sandbox finds them mounted.
  [ "$(stat -f -c %T /sys/fs/cgroup)" = cgroup2fs ] || mount -t cgroup2 sandbox /sys/fs/cgroup 2>/dev/null || return
  SANDBOX_GROUP=$(mktemp -u "/sys/fs/cgroup$(sed -n s/^0:://p /proc/self/cgroup)/sandbox-$$-XXXXXX")
  export SANDBOX_GROUP
  sweep & # first, so that there is no moment at which a signal leaves the group
  mkdir "$SANDBOX_GROUP" 2>/dev/null
}

# Control groups are the one thing that no end of a process frees. So this waits outside of the pid namespace until nobody
# holds descriptor 6, that is for the end of the supervisor, and then for that of the processes in the groups.
sweep() {
  exec <&7 >/dev/null 2>&1 6>&- 7<&-
  trap '' INT QUIT TERM HUP
  read -r _ || :
  for _ in $(seq 200); do
    [ -d "$SANDBOX_GROUP" ] || break
    find "$SANDBOX_GROUP" -depth -type d -delete || sleep 0.05
  done
}

supervise() {
  # The first child becomes pid 1 of the new namespace, and when that ends nothing more can be forked: so this only uses
  # the shell's own means. The shell gives a background child an empty stdin and makes it ignore Ctrl-C: both are given
  # back. The mount namespace is for init's /proc; here /proc stays the machine's.
  exec 3<&0
  exec 4<>"$ready" # both ways, as each alone would wait for the other
  exec 5<"$ready"
  env --default-signal=INT,QUIT setpriv --pdeathsig KILL \
    unshare --mount -- sh "$0" --init "$$" "$@" <&3 3<&- 5<&- 6>&- &
  init=$!
  exec 3<&- 4<&-
  # Until init takes signals, one simply ends this process, and with it init.
  if read -r _ <&5; then
    trap 'if sent_by_terminal; then ask USR2; else ask USR1; fi' INT
    trap 'ask TERM' TERM HUP
  fi
  wait_for "$init"
}

# Ctrl-C reaches the whole foreground group, COMMAND included. Passing it on would make two of it, and the second one
# tells Pulumi to drop everything.
sent_by_terminal() {
  read -r _ _ _ _ group _ _ foreground _ <"/proc/$$/stat"
  [ "$group" = "$foreground" ]
}

ask() {
  signalled=yes
  kill -s "$1" "$init" 2>/dev/null || :
}

init() {
  # If the supervisor died before --pdeathsig was set, nobody would ever end this. (/proc is still the machine's.)
  read -r _ _ _ parent _ </proc/self/stat
  [ "$parent" = "$1" ] || exit 1
  shift
  mount -t proc proc /proc
  rm "$ready"

  command=
  typed=
  trap '' INT # the terminal sends it here as well
  trap 'stop INT' USR1
  trap 'stop TERM' TERM
  trap 'if [ -n "$typed" ]; then stop KILL; else stop 0; fi; typed=yes' USR2
  echo >&4
  exec 3<&0 4<&-
  env --default-signal=INT,QUIT -- "$@" <&3 3<&- &
  command=$!
  exec 3<&-
  wait_for "$command"
}

# Sends COMMAND the signal (0: it has it already), and ends it when it has not ended by itself after a while.
stop() {
  signalled=yes
  [ -n "$command" ] || exit 130
  kill -s "$1" "$command" 2>/dev/null || :
  { sleep "$grace" && kill -s KILL "$command"; } 2>/dev/null &
}

# Exits with the code of the child, also when a trapped signal cut the wait short. Reaps orphans on the way.
wait_for() {
  while
    signalled=
    code=0
    wait "$1" || code=$?
    [ -n "$signalled" ]
  do :; done
  exit "$code"
}

case ${1-} in
--build)
  shift
  build
  exec unshare --pid -- sh "$0" --supervise "$@"
  ;;
--supervise | --init)
  stage=${1#--}
  shift
  "$stage" "$@"
  ;;
"" | -*)
  echo "usage: enter.sh COMMAND [ARG…]" >&2
  exit 64
  ;;
*)
  if [ "$(id -u)" != 0 ]; then
    echo "enter.sh: namespaces, networks and mounts need root; run it as root" >&2
    exit 77
  fi
  exec unshare --net --mount -- sh "$0" --build "$@"
  ;;
esac
