# --- Preflight: what is missing, and what the rules would do to whoever applies them, before anything is touched

# install_line PACKAGE_DEBIAN PACKAGE_RHEL: the command that gets it.
install_line() {
  case " $(sed -nE 's/^ID(_LIKE)?="?([^"]*)"?$/\2/p' /etc/os-release 2>/dev/null | tr '\n' ' ') " in
    *' debian '* | *' ubuntu '*) echo "apt-get install $1" ;;
    *' rhel '* | *' fedora '* | *' centos '* | *' amzn '*) echo "dnf install $2" ;;
    *suse*) echo "zypper install $1" ;;
    *' arch '*) echo "pacman -S $1" ;;
    *' alpine '*) echo "apk add $1" ;;
    *) echo "install $1" ;;
  esac
}

# missing_programs: a line for each package that is missing.
missing_programs() {
  local family part program wanted=''
  for family in $families; do
    for part in '' -save -restore; do
      program=$(tool "$family" $part)
      command -v "$program" >/dev/null || wanted="$wanted $program"
    done
  done
  [ -z "$wanted" ] || echo "missing:$wanted; $(install_line iptables iptables-nft)"
  wanted=''
  for program in flock setsid; do command -v "$program" >/dev/null || wanted="$wanted $program"; done
  [ -z "$wanted" ] || echo "missing:$wanted; $(install_line util-linux util-linux)"
  wanted=''
  for program in awk cmp diff sed grep sha256sum sort; do command -v "$program" >/dev/null || wanted="$wanted $program"; done
  [ -z "$wanted" ] || echo "missing:$wanted; $(install_line 'coreutils diffutils gawk' 'coreutils diffutils gawk')"
}

# check_kernel DIR: whether this kernel takes the rules, by loading them where they do nothing.
check_kernel() {
  local family match wanted=''
  for family in $families; do
    rehearse "$family" "$1" && continue
    # Which of the matches it is that the kernel has not.
    for match in addrtype comment conntrack hl limit multiport; do
      case $match in
        addrtype) set -- "$1" '-m addrtype --dst-type LOCAL' ;;
        comment) set -- "$1" '-m comment --comment x' ;;
        conntrack) set -- "$1" '-m conntrack --ctstate NEW' ;;
        hl) set -- "$1" '-p ipv6-icmp -m hl --hl-eq 255' ;;
        limit) set -- "$1" '-m limit --limit 3/min' ;;
        multiport) set -- "$1" '-p tcp -m multiport --dports 23' ;;
      esac
      mkdir -p "$dir/rehearsal"
      printf '*mangle\n-A INPUT %s\nCOMMIT\n' "$2" >"$dir/rehearsal/rules.v$family"
      grep -q -- "-m $match " "$1/rules.v$family" && ! rehearse "$family" "$dir/rehearsal" && wanted="$wanted xt_$match"
    done
    rehearse "$family" "$1" || :
    complain "the kernel does not take the IPv$family rules: $(head -n 3 "$dir/refused" | tr '\n' ' ')${wanted:+; it lacks$wanted: $(install_line "linux-image-$(uname -r)" kernel-modules-extra), then reboot}"
    return
  done
}

# listening tcp|udp: the ports on which something listens at an address that others can reach.
listening() {
  local port
  # Addresses are in hexadecimal, each word in the byte order of the machine: 127.0.0.0/8 ends in 7F, or begins with it.
  cat "/proc/net/$1" "/proc/net/${1}6" 2>/dev/null |
    awk -v state="$([ "$1" = tcp ] && echo 0A || echo 07)" '
      $4 != state { next }
      { split($2, local, ":") }
      length(local[1]) == 8 ? local[1] !~ /^7F|7F$/ : local[1] !~ /^000000000000000000000000(01000000|00000001)$/ { print local[2] }' |
    sort -u | while read -r port; do printf '%d\n' "0x$port"; done
}

# check_ssh DIR: something listens on a port that the rules keep open for SSH; without it we would cut ourselves off.
check_ssh() {
  local port
  for port in $(ssh_ports "$1/rules.v4" "$1/rules.v6"); do
    if listening tcp | grep -qx "$port"; then return 0; fi
  done
  complain 'nothing listens on the ports that the rules keep open for SSH (sshPorts)'
}

# ssh_connection: `CLIENT PORT HOST PORT` of the SSH connection that this runs in, if it does. sudo leaves it out of the environment.
ssh_connection() {
  local pid=$$
  if [ -n "${SSH_CONNECTION-}" ]; then
    echo "$SSH_CONNECTION"
    return
  fi
  while [ "$pid" -gt 1 ] && [ -r "/proc/$pid/environ" ]; do
    if tr '\0' '\n' <"/proc/$pid/environ" 2>/dev/null | sed -n 's/^SSH_CONNECTION=//p' | grep .; then return; fi
    pid=$(sed -n 's/^PPid:[[:space:]]*//p' "/proc/$pid/status")
  done
}

# check_client DIR: whether whoever applies the rules would still get in.
check_client() {
  local client port family=4 rules match open=''
  # shellcheck disable=SC2046 # four words
  set -- "$1" $(ssh_connection)
  [ $# = 5 ] || return 0
  client=${2%\%*} port=$5
  case $client in *:*) family=6 ;; esac
  case " $families " in *" $family "*) ;; *) return 0 ;; esac
  rules=$1/rules.v$family
  if ssh_sources "$rules" "$port" | inside "$client"; then return; fi
  for match in $(trusted "$rules" | tr ' ' '='); do
    case $match in
      -s=*) ! echo "${match#-s=}" | inside "$client" || return 0 ;;
      -i=*)
        # + stands for the rest of a name.
        # shellcheck disable=SC2254 # a pattern
        case $(ip -"$family" route get "$client" 2>/dev/null | sed -n 's/.* dev \([^ ]*\).*/\1/p') in
          $(echo "${match#-i=}" | sed 's/+$/*/')) return 0 ;;
        esac
        ;;
    esac
  done
  if ! ssh_ports "$1/rules.v4" "$1/rules.v6" | grep -qx "$port"; then
    complain "the rules would shut you out: you have come in by port $port, and they keep $(ssh_ports "$rules" | tr '\n' ' ')open for SSH. Add $port to sshPorts of this host"
    return
  fi
  open=$(ssh_sources "$rules" "$port" | paste -s -d ' ' -)
  complain "the rules would shut you out: you come from $client, and SSH is open to ${open:-nobody over IPv$family}. Add \"$client/$([ $family = 4 ] && echo 32 || echo 128)\", or your network, to mail-firewall:ssh (behind a bastion it is the bastion's address)"
}

# check_entrances DIR: whether this host has the interface and the addresses through which alone services are to be reached.
check_entrances() {
  local family kind value names
  for family in $families; do
    entrances "$1/rules.v$family" >"$dir/entrances"
    while read -r kind value; do
      if [ "$kind" = interface ]; then
        names=$(for name in /sys/class/net/*; do echo "${name##*/}"; done)
        echo "$names" | grep -qxE -- "$(echo "$value" | sed 's/[.]/\\./g; s/+$/.*/')" && continue
        complain "no interface of this host is $value (externalInterface), so that nobody could reach a service; it has $(echo "$names" | tr '\n' ' ')"
      else
        command -v ip >/dev/null || continue
        local_addresses "$family" | tr ' ' '\n' | inside "$value" && continue
        complain "this host does not have the address $value (externalAddress), so that nobody could reach a service at it; it has $(local_addresses "$family" | tr ' ' '\n' | grep -vE '^(127\.|::1/)' | sed 's,/\(32\|128\)$,,' | tr '\n' ' ')"
      fi
      return 1
    done <"$dir/entrances"
  done
}
