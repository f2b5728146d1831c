# --- What is kept on disk

# A directory of rules holds rules.v4, rules.v6, the token of the run that brought them with the seconds for its confirm (and, where
# confirm had to apply them again, the token that it came with), and SHA256SUMS, which is written last.
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

# first_token_of DIR: the one that confirm came with when it had to apply these rules again, if it had to.
first_token_of() {
  cut -d ' ' -f 3 "$1/token" 2>/dev/null
}

# knows DIR TOKEN: whether these are, whole, the rules of that token.
knows() {
  is_whole "$1" && { [ "$(token_of "$1")" = "$2" ] || [ "$(first_token_of "$1")" = "${2:-none}" ]; }
}

# is_whole DIR: whether it holds the rules as they were sealed.
is_whole() {
  [ -f "$1/SHA256SUMS" ] && (cd "$1" && sha256sum -c SHA256SUMS) >/dev/null 2>&1
}

# copy_rules FROM TO: after whatever interruption, TO is either whole or known not to be.
copy_rules() {
  local file
  mkdir -p "$2" && rm -f "$2/SHA256SUMS" || return
  for file in $rule_files SHA256SUMS; do
    cp "$1/$file" "$2/$file.new" && sync "$2/$file.new" && mv "$2/$file.new" "$2/$file" || return
  done
}

# persist RULES: as the confirmed ones.
persist() {
  if is_whole "$etc"; then copy_rules "$etc" "$etc/last" || return; fi
  copy_rules "$1" "$etc"
}

# same DIR DIR
same() {
  cmp -s "$1/rules.v4" "$2/rules.v4" && cmp -s "$1/rules.v6" "$2/rules.v6"
}

# is_confirmed: whether rules have ever been confirmed here, whole or not.
is_confirmed() {
  [ -e "$etc/rules.v4" ] || [ -e "$etc/last" ]
}

# confirmed: the last rules that were confirmed and are whole; else none.
confirmed() {
  local rules
  for rules in "$etc" "$etc/last"; do
    if is_whole "$rules"; then
      echo "$rules"
      return
    fi
  done
  nothing
}

# Whose machine it is. A resource that gets a new name deploys by the new one before it removes by the old one. So does a machine that a
# program names twice; there the old name does not go. `claims` holds each owner whose rules were confirmed here, and who has not left.

# has_claim OWNER
has_claim() {
  grep -qxF -- "$1" "$etc/claims" 2>/dev/null
}

# stack_of OWNER: a resource's name may hold slashes, those of a project and a stack do not.
stack_of() {
  echo "$1" | cut -d / -f 1-2
}

# claim OWNER: whoever belongs to another stack has lost the host.
claim() {
  { grep -F -- "$(stack_of "$1")/" "$etc/claims" 2>/dev/null | grep -vxF -- "$1" || :; } >"$etc/claims.new"
  echo "$1" >>"$etc/claims.new" && mv "$etc/claims.new" "$etc/claims"
}

# release OWNER
release() {
  has_claim "$1" || return 0
  { grep -vxF -- "$1" "$etc/claims" || :; } >"$etc/claims.new" && mv "$etc/claims.new" "$etc/claims"
}
