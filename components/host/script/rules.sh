# --- Rules: all that knows how iptables-save writes them. Text in, answers out; nothing here asks the kernel.

# joined: from standard input, an iptables-save text with one rule a line; false if the text says that it does not hold all rules. A
# comment may hold a newline.
joined() {
  awk '
    !open && /^# Table .* is incompatible/ { exit 1 }
    { line = open ? line " " $0 : $0
      rest = line
      gsub(/\\./, "", rest)
      open = gsub(/"/, "", rest) % 2
      if (!open) print line }
    END { if (open) print line }'
}

# section TABLE FILE: the lines of a table, without its frame.
section() {
  sed -n "/^\*$1\$/,/^COMMIT\$/{/^[*C]/d;p;}" "$2"
}

# ours TABLE FILE: our part of one table's iptables-save text, with its frame; nothing where there is none.
ours() {
  awk -v table="$1" '
    /^(:|-A )MAILFW-/ && !found++ { print "*" table }
    /^:MAILFW-/ { print $1, "- [0:0]" }
    /^-A MAILFW-/ { sub(/ $/, ""); print } # with which iptables 1.8.7 ends a rule without a target
    END { if (found) print "COMMIT" }' "$2"
}

# chains: from standard input, the names of our chains in an iptables-save text.
chains() {
  sed -n 's/^:\(MAILFW-[A-Z]*\) .*/\1/p'
}

# stale_chains RULES FILE: our chains in FILE that RULES do not have.
stale_chains() {
  awk 'FILENAME == ARGV[1] { kept[$1]; next } /^:MAILFW-/ && !($1 in kept) { print substr($1, 2) }' "$1" "$2"
}

# owner FILE: who deployed these rules.
owner() {
  sed -n 's/^-A MAILFW-IN -m comment --comment "owner \(.*\)"$/\1/p' "$1" | head -n 1
}

# ssh_ports FILE...: those that rules of ours keep open for SSH.
ssh_ports() {
  cat "$@" 2>/dev/null | sed -nE 's/^-A MAILFW-IN .*--dport ([0-9]{1,5}) -m comment --comment ssh -j (ACCEPT|RETURN)$/\1/p' | sort -un
}

# ssh_sources FILE PORT: the networks that may reach it, `everyone` among them where any address may.
ssh_sources() {
  sed -nE "s/^-A MAILFW-IN (-s ([^ ]+) )?-p tcp -m tcp --dport $2 -m comment --comment ssh -j (ACCEPT|RETURN)\$/\2/p" "$1" |
    sed 's/^$/everyone/'
}

# trusted FILE: `-s NETWORK` and `-i INTERFACE` from which all is accepted.
trusted() {
  sed -nE 's/^-A MAILFW-IN (-[si] [^ ]+) -j (ACCEPT|RETURN)$/\1/p' "$1" | grep -vx -- '-i lo' || :
}

# services FILE...: `PROTOCOL PORT NAME` of what they open besides SSH.
services() {
  cat "$@" 2>/dev/null |
    sed -nE 's/^-A MAILFW-(IN|OPEN) .*-p (tcp|udp) .*port ([0-9]+) -m comment --comment ([^ ]+) -j (ACCEPT|RETURN)$/\2 \3 \4/p' |
    grep -v ' ssh$' | sort -u
}

# open_ports FILE: `PROTOCOL/PORT` of what they open, SSH included, on one line.
open_ports() {
  sed -nE 's/^-A MAILFW-(IN|OPEN) .*-p (tcp|udp) .*port ([0-9]+) -m comment --comment [^ ]+ -j (ACCEPT|RETURN)$/\2\/\3/p' "$1" |
    sort -u | tr '\n' ' '
}

# entrances FILE: `interface NAME` and `address ADDRESS` through which alone services are reached.
entrances() {
  sed -nE 's/^-A MAILFW-IN (.*)-j MAILFW-OPEN$/\1/p' "$1" |
    awk '{ for (i = 1; i < NF; i++) if ($i == "-i") print "interface " $(i + 1); else if ($i == "--ctorigdst") print "address " $(i + 1) }' | sort -u
}

# names_address FILE...: whether rules hold an address of the host.
names_address() {
  grep -qE '^-A MAILFW-IN .*(--ctorigdst |-d [0-9a-f:.]+/(32|128) .*-j MAILFW-OPEN)' "$@"
}

# fate HOOK PORTS OUTSIDE MINE: from standard input, an iptables-save text of one table. What becomes in HOOK of an ordinary stranger's new
# connection to each of PORTS at an address of MINE, coming in through an interface of OUTSIDE, as far as rules of others decide. Prints
#   rules N            how many rules of others HOOK has
#   refuses N PORT R   the first of them that refuses a port, with its text
#   untracked N PORT R the first that takes a port out of connection tracking
#   may refuse N       the last of those before the first `refuses` that may refuse somebody: a ban, or a jump to a chain of others
#   invalid N          the first of those between the two that refuses INVALID packets, of which the SSH session that is here may be
#   ours N CHAIN       a jump to a chain of ours, and how many rules of others stand before it
# Whatever singles out some clients (a source, a set, a rate, anything unknown) does not concern an ordinary stranger. Where MINE is *, any
# address may be that of the service, as behind NAT.
fate() {
  awk -v hook="$1" -v ports="$2" -v outside="$3" -v mine=" $4 " '
    # Whether a value stands in a list such as 25,465:587.
    function listed(list, value,   part, n, i, ends) {
      n = split(list, part, ",")
      for (i = 1; i <= n; i++) {
        if (split(part[i], ends, ":") < 2) ends[2] = ends[1]
        if (value + 0 >= ends[1] + 0 && value + 0 <= ends[2] + 0) return 1
      }
      return 0
    }
    function is_outside(pattern,   name, n, i, prefix) {
      n = split(outside, name, " ")
      prefix = pattern
      sub(/\+$/, "", prefix)
      for (i = 1; i <= n; i++)
        if (name[i] == pattern || (pattern != prefix && index(name[i], prefix) == 1)) return 1
      return n == 0 && pattern != "lo"
    }
    # Reads one rule: `never` and `maybe` say whether an ordinary new connection meets it.
    function read_rule(   i, word, not, yes, mask) {
      never = maybe = to = leaves = protocol = dports = notports = invalid = ""
      for (i = 3; i <= NF; i++) {
        word = $i
        if (word == "!") { not = 1; continue }
        if (word == "-j" || word == "-g") { to = $(i + 1); leaves = word == "-g"; notrack = to == "NOTRACK" || $(i + 2) == "--notrack"; return }
        if (word == "-p") {
          protocol = $(++i)
          if (not) { maybe = 1; protocol = "" }
          else if (protocol == "all") protocol = ""
          else if (protocol !~ /^(tcp|udp)$/) never = 1
        } else if (word == "-i") { yes = is_outside($(++i)); if (not ? $i != "lo" && yes : !yes) never = 1 }
        else if (word == "-s") { if ($(++i) !~ /\/0$/ && !not) maybe = 1 }
        else if (word == "-d") {
          i++
          if (not) maybe = 1
          else if (mine == " * ") continue
          else if ($i ~ /^(127\.|22[4-9]\.|23[0-9]\.|255\.255\.255\.255|ff|::1\/)/) never = 1
          else if ($i ~ /\/(32|128)$/) { if (index(mine, " " $i " ") == 0) never = 1 }
          else if ($i !~ /\/0$/) maybe = 1
        }
        else if (word == "-m") { if ($(++i) !~ /^(tcp|udp|comment|conntrack|state|multiport|addrtype)$/) maybe = 1 }
        else if (word ~ /^--dports?$/) { i++; if (not) notports = $i; else dports = $i }
        else if (word ~ /^--sports?$/) { if ($(++i) != "1024:65535" || not) maybe = 1 }
        else if (word == "--ctstate" || word == "--state") {
          yes = $(++i) ~ /(^|,)NEW(,|$)/
          if (not ? yes : !yes) never = 1
          if ($i == "INVALID" && !not) invalid = 1
        }
        else if (word == "--tcp-flags") {
          mask = $(i + 1) ~ /SYN|ALL/
          yes = mask ? $(i + 2) == "SYN" : $(i + 2) == "NONE"
          i += 2
          if (not ? yes : !yes) never = 1
        } else if (word == "--dst-type") { yes = $(++i) ~ /LOCAL/; if (not ? yes : !yes) never = 1 }
        else if (word == "--comment") i++
        else if (word ~ /^-/) maybe = 1
        not = ""
      }
    }
    function meets(chain, i, port,   part) {
      split(port, part, "/")
      if (protocols[chain, i] != "" && protocols[chain, i] != part[1]) return 0
      if (wanted[chain, i] != "" && !listed(wanted[chain, i], part[2])) return 0
      return unwanted[chain, i] == "" || !listed(unwanted[chain, i], part[2])
    }
    # What one rule does with a port: refuses, accepts, back (to the calling chain), or "" where the next rule is asked.
    function verdict(chain, i, port,   there) {
      if (!meets(chain, i, port)) return ""
      there = targets[chain, i]
      if (untracks[chain, i]) { untracked = 1; return "" }
      if (there == "DROP" || there == "REJECT" || there == "TARPIT") return "refuses"
      if (there ~ /^(ACCEPT|QUEUE|NFQUEUE|SYNPROXY|TPROXY)$/) return "accepts"
      if (there == "RETURN") return "back"
      if (!(there in count) || there ~ /^MAILFW-/) return ""
      there = walk(there, port, 0)
      return there == "back" && !gotos[chain, i] ? "" : there
    }
    function walk(chain, port, depth,   i, there) {
      if ((chain, port) in known) return known[chain, port]
      known[chain, port] = "back"
      for (i = 1; i <= count[chain]; i++) {
        there = verdict(chain, i, port)
        if (there != "") return known[chain, port] = there
      }
      return "back"
    }
    /^:/ { name = substr($1, 2); if (!(name in count)) count[name] = 0 }
    /^-A / {
      text = $0
      gsub(/"([^"\\]|\\.)*"/, "\"\"")
      read_rule()
      if ($2 == hook) {
        if (to ~ /^MAILFW-/) { if (NF == 4) print "ours " (others + 0) " " to; next }
        others++
        if (to ~ /^(DROP|REJECT|TARPIT|QUEUE|NFQUEUE|SYNPROXY)$/ || to in count) { if (invalid) broken[others] = 1; else may[others] = 1 }
      }
      if (never || maybe || to == "") next
      i = ++count[$2]
      if ($2 == hook) { place[i] = others; words[i] = text }
      targets[$2, i] = to; gotos[$2, i] = leaves; untracks[$2, i] = notrack
      protocols[$2, i] = protocol; wanted[$2, i] = dports; unwanted[$2, i] = notports
    }
    END {
      print "rules " (others + 0)
      first = others + 1
      n = split(ports, port, " ")
      for (p = 1; p <= n; p++) {
        for (i = 1; i <= count[hook]; i++) {
          untracked = ""
          there = verdict(hook, i, port[p])
          if (untracked && !(port[p] in seen)) { seen[port[p]] = 1; print "untracked " place[i] " " port[p] " " words[i] }
          if (there == "refuses") { print "refuses " place[i] " " port[p] " " words[i]; if (place[i] < first) first = place[i] }
          if (there != "") break
        }
      }
      for (i = others; i > 0; i--) if (i < first && may[i]) { print "may refuse " i; break }
      for (i++; i < first; i++) if (broken[i]) { print "invalid " i; break }
    }'
}

# published PORTS: from standard input, an iptables-save text of the table `nat`. For each of PORTS that a rule turns elsewhere, itself and
# `PROTOCOL/PORT` of where it is then.
published() {
  awk -v ports=" $1 " '
    / -j DNAT / && match($0, / -p (tcp|udp) /) {
      protocol = substr($0, RSTART + 4, 3)
      if (!match($0, / --dport [0-9]+ /)) next
      asked = substr($0, RSTART + 9, RLENGTH - 10)
      now = match($0, /:[0-9]+$/) ? substr($0, RSTART + 1) : asked
      if (index(ports, " " protocol "/" asked " ")) print protocol "/" asked, protocol "/" now
    }' | sort -u
}

# inside ADDRESS: from standard input, networks; whether one of them holds the address.
inside() {
  awk -v address="$1" '
    # An address as bits.
    function bits(text,   part, n, i, j, value, digits, before, after, missing) {
      value = ""
      if (text !~ /:/) {
        split(text, part, ".")
        for (i = 1; i <= 4; i++) for (j = 128; j >= 1; j /= 2) { value = value (part[i] >= j ? 1 : 0); if (part[i] >= j) part[i] -= j }
        return value
      }
      if (index(text, "::")) {
        before = substr(text, 1, index(text, "::") - 1)
        after = substr(text, index(text, "::") + 2)
        missing = 8 - (before == "" ? 0 : split(before, part, ":")) - (after == "" ? 0 : split(after, part, ":"))
        text = before
        for (i = 0; i < missing; i++) text = text (text == "" ? "" : ":") "0"
        if (after != "") text = text ":" after
      }
      n = split(text, part, ":")
      for (i = 1; i <= n; i++) {
        digits = substr("0000" part[i], length(part[i]) + 1)
        for (j = 1; j <= 4; j++) value = value nibble[substr(digits, j, 1)]
      }
      return value
    }
    BEGIN {
      split("0 1 2 3 4 5 6 7 8 9 a b c d e f", hex, " ")
      split("0000 0001 0010 0011 0100 0101 0110 0111 1000 1001 1010 1011 1100 1101 1110 1111", four, " ")
      for (i = 1; i <= 16; i++) nibble[hex[i]] = four[i]
      mine = bits(address)
    }
    { split($0, network, "/")
      if ($0 == "everyone") found = 1
      else if ((network[1] ~ /:/) == (address ~ /:/) && substr(bits(network[1]), 1, network[2]) == substr(mine, 1, network[2])) found = 1 }
    END { exit !found }'
}

# emergency_rules FAMILY PORT...: closed but for SSH, from anywhere: closed to the operator, the host could not be mended.
emergency_rules() {
  local family="$1" port
  shift
  printf '*mangle\n:MAILFW-FWD - [0:0]\n:MAILFW-IN - [0:0]\n'
  echo '-A MAILFW-FWD -m conntrack --ctstate RELATED,ESTABLISHED -j RETURN'
  echo '-A MAILFW-FWD -m conntrack --ctstate DNAT -j DROP'
  for port in "$@"; do echo "-A MAILFW-IN -p tcp -m tcp --dport $port -m comment --comment ssh -j RETURN"; done
  echo '-A MAILFW-IN -i lo -j RETURN'
  echo '-A MAILFW-IN -m conntrack --ctstate RELATED,ESTABLISHED -j RETURN'
  echo "-A MAILFW-IN -p $([ "$family" = 4 ] && echo icmp || echo ipv6-icmp) -j RETURN"
  printf -- '-A MAILFW-IN -j DROP\nCOMMIT\n*filter\n:MAILFW-ACCEPT - [0:0]\n-A MAILFW-ACCEPT -j ACCEPT\nCOMMIT\n'
}

# split FILE DIR: a RULESETS text into one file a family.
split() {
  local family
  mkdir "$2"
  # The connection may have broken in the middle of the text. What was deployed by a version before `# end` had one table.
  if grep -q '^\*mangle$' "$1" && [ "$(tail -n 1 "$1")" != '# end' ]; then complain 'the rules arrived incomplete' || return; fi
  for family in 4 6; do
    sed -n "/^# IPv$family\$/,\$p" "$1" | sed 1d | sed '/^# /,$d' >"$2/rules.v$family"
    [ "$(tail -n 1 "$2/rules.v$family")" = COMMIT ] || complain "the IPv$family rules arrived incomplete" || return
  done
}
