#!/usr/bin/env bash
# Installs what the demo and the tests need, and only what is missing; `make` calls it. What it found or made is written to
# .cache/env.sh. The slow parts (Pulumi's engine, the EC2 emulator) are kept outside of the checkout, in ~/.cache/mail-firewall.
# `setup.sh real` also gets what the tests on real hosts need, for each of $RELEASES; `setup.sh consumer`, after all of that, what
# those of the package need; `setup.sh program` only what the program needs.
set -euo pipefail
cd "$(dirname "$0")/.."
cache=${XDG_CACHE_HOME:-$HOME/.cache}/mail-firewall
mkdir -p "$cache" .cache

say() { echo "setup: $*"; }
fail() {
  echo "setup: $*" >&2
  exit 1
}

# try N COMMAND…: what was downloaded before a failure is kept, so the next try goes on from there.
try() {
  left=$1
  shift
  until "$@"; do
    left=$((left - 1))
    [ "$left" -gt 0 ] || return 1
    say "failed; trying again ($left left): $*"
    sleep 3
  done
}

programs() {
  cat <<'EOF'
ip iproute2
iptables iptables
nft nftables
ipset ipset
sshd openssh-server
ssh-keygen openssh-client
sudo sudo
setpriv util-linux
ps procps
python3 python3
diff diffutils
busybox busybox
shellcheck shellcheck
EOF
  [ "${1-}" != real ] || cat <<'EOF'
debootstrap debootstrap
systemd-nspawn systemd-container
EOF
}

debian_packages() {
  missing=
  while read -r program package; do
    command -v "$program" >/dev/null 2>&1 || [ -x "/usr/sbin/$program" ] || missing="$missing $package"
  done < <(programs "$@")
  python3 -c 'import ensurepip' 2>/dev/null || missing="$missing python3-venv"
  [ -n "$missing" ] || return 0
  command -v apt-get >/dev/null || fail "missing, and this is no Debian to install it with apt-get:$missing"
  [ "$(id -u)" = 0 ] || fail "missing, and only root can install it:$missing"
  say "installing Debian packages:$missing"
  try 3 apt-get update -qq
  # shellcheck disable=SC2086 # one word a package
  DEBIAN_FRONTEND=noninteractive try 3 apt-get install -y -qq --no-install-recommends $missing >"$cache/apt.log" 2>&1 ||
    { tail -20 "$cache/apt.log" >&2; fail "apt-get could not install:$missing"; }
}

node_modules() {
  [ "$(node -p 'process.versions.node.split(".")[0]' 2>/dev/null || echo 0)" -ge 20 ] ||
    fail "Node.js 20 or newer is needed; see https://nodejs.org"
  [ package-lock.json -nt node_modules/.package-lock.json ] || return 0
  [ ! -L node_modules ] || fail "node_modules is a symbolic link, and npm ci would empty the folder that it leads to"
  say "installing npm packages (npm ci)"
  try 3 npm ci --no-audit --no-fund --loglevel=error
  touch node_modules/.package-lock.json
}

# Pulumi: the one on PATH if it is new enough for component inputs in previews, otherwise one that is built here once.
minimum=3.202.0
pinned=3.259.0

pulumi_engine() {
  found=$(pulumi version 2>/dev/null | sed 's/^v//' || true)
  if [ -n "$found" ] && [ "$(printf '%s\n' "$minimum" "$found" | sort -V | head -n 1)" = "$minimum" ]; then
    say "Pulumi $found, from PATH"
    return
  fi
  engine=$cache/pulumi-$pinned
  export PATH="$engine:$PATH"
  if [ ! -x "$engine/pulumi" ] || [ ! -x "$engine/language-nodejs" ]; then
    command -v go >/dev/null ||
      fail "no Pulumi $minimum or newer on PATH (found: ${found:-none}), and no Go to build one; install either:
  https://www.pulumi.com/docs/install/   or   Go 1.24 or newer, https://go.dev/doc/install"
    say "no Pulumi $minimum or newer on PATH (found: ${found:-none}): building $pinned from its Go module, once; 5 to 10 minutes"
    mkdir -p "$engine"
    go_build language-nodejs pulumi-languages github.com/pulumi/pulumi/sdk/v3/nodejs/cmd/pulumi-language-nodejs
    go_build pulumi pulumi github.com/pulumi/pulumi/pkg/v3/cmd/pulumi "-X github.com/pulumi/pulumi/sdk/v3/go/common/version.Version=$pinned"
  fi
  # This host takes the project's options as arguments, in a way that today's engines have left. It would load TypeScript's compiler for
  # each program. It is started in the project's folder.
  cat >"$engine/.nodejs.new" <<'END'
#!/bin/sh
! grep -q 'typescript: false' Pulumi.yaml 2>/dev/null || set -- -typescript=false "$@"
exec "$(dirname "$0")/language-nodejs" "$@"
END
  chmod +x "$engine/.nodejs.new"
  mv "$engine/.nodejs.new" "$engine/pulumi-language-nodejs"
  say "Pulumi $(pulumi version | sed 's/^v//'), built from its Go module"
}

# go_build NAME FOLDER PACKAGE [LDFLAGS], with the go.mod of tools/FOLDER: Go's own caches make an interrupted download or build go on
# where it stopped.
go_build() {
  [ ! -x "$engine/$1" ] || return 0
  (
    cd "tools/$2"
    # Downloads what is needed, and no more: some modules that are only named cannot be had everywhere.
    try 5 go list -deps "$3" >"$cache/$1.packages" ||
      fail "the Go modules of $1 could not be downloaded; run it again to go on where it stopped"
    total=$(wc -l <"$cache/$1.packages")
    # With -v go prints every package that it has compiled.
    go build -v -trimpath -ldflags "-s -w ${4-}" -o "$engine/.$1.new" "$3" 2>&1 | tee "$cache/$1.log" |
      awk -v name="$1" -v total="$total" 'NR % 150 == 0 { print "setup: " name ": " NR " of at most " total " packages"; fflush() }' ||
      { tail -20 "$cache/$1.log" >&2; fail "$1 does not build (above)"; }
    mv "$engine/.$1.new" "$engine/$1"
  )
}

moto=5.2.3

ec2_emulator() {
  venv "venv-moto-$moto" "the EC2 emulator moto $moto" "moto[ec2,server]==$moto"
}

# venv NAME WHAT REQUIREMENT…: makes $venv, with what PyPI has.
venv() {
  venv=$cache/$1
  [ ! -e "$venv/complete" ] || return 0
  say "installing $2"
  python3 -m venv --clear "$venv"
  try 3 "$venv/bin/pip" install --quiet --disable-pip-version-check "${@:3}"
  touch "$venv/complete"
}

# The provider plugins of a PULUMI_HOME of the tests' own: the real ones of this machine where it has them, else stand-ins.
providers() {
  npx --no-install tsc -p test/sandbox
  cp test/sandbox/agent.py .cache/sandbox/test/sandbox/
  home=$PWD/.cache/pulumi
  mkdir -p "$home/plugins"
  for name in command aws; do
    version=$(node -p "require('./node_modules/@pulumi/$name/package.json').version")
    plugin=resource-$name-v$version
    real=${PULUMI_HOME:-$HOME/.pulumi}/plugins/$plugin
    [ "$real" != "$home/plugins/$plugin" ] || real=
    rm -rf "$home/plugins/$plugin"
    mkdir "$home/plugins/$plugin"
    if [ -e "$real/pulumi-resource-$name" ]; then
      ln -s "$real"/* "$home/plugins/$plugin/" # Pulumi overlooks a plugin's folder that is a link itself
      say "provider $name $version: the real one, from this machine"
    else
      printf '#!/bin/sh\nexec node "%s" "$@"\n' "$PWD/.cache/sandbox/test/sandbox/providers/$name.js" \
        >"$home/plugins/$plugin/pulumi-resource-$name"
      chmod +x "$home/plugins/$plugin/pulumi-resource-$name"
      say "provider $name $version: the tests' stand-in (this machine has no real one)"
    fi
  done
}

# The package as npm packs it, installed with its peers into an empty project. The tests, in the sandbox, have no network.
consumer() {
  node program.js
  project=.cache/consumer
  mkdir -p "$project"
  if [ ! "$project/complete" -ot dist/.sources.sha256 ] && [ ! "$project/complete" -ot package.json ]; then return; fi
  say "installing the package into an empty project (npm pack, npm install)"
  version() { node -p "require('./node_modules/$1/package.json').version"; }
  packages=("./$(npm pack --silent --ignore-scripts --pack-destination "$project")" "typescript@$(version typescript)")
  for peer in pulumi aws command policy; do packages+=("@pulumi/$peer@$(version "@pulumi/$peer")"); done
  cd "$project"
  [ -f package.json ] || npm init -y >/dev/null
  try 3 npm install --no-audit --no-fund --loglevel=error --prefer-offline "${packages[@]}"
  touch complete
  cd - >/dev/null
}

# The Node.js language host that can be built here is too old to start policy packs. An engine that finds no language host by the
# name of a pack's runtime asks for this program, with its own address and the folder: how it always was before.
policy_host() {
  # shellcheck source=/dev/null
  . .cache/env.sh
  [ "$(command -v pulumi-language-nodejs)" = "$cache/pulumi-$pinned/pulumi-language-nodejs" ] || return 0
  mkdir -p .cache/bin
  cat >.cache/bin/pulumi-analyzer-policy-nodehost <<'END'
#!/bin/sh
exec node "$(node -p 'require.resolve("@pulumi/pulumi/cmd/run-policy-pack")')" "$@"
END
  chmod +x .cache/bin/pulumi-analyzer-policy-nodehost
  # shellcheck disable=SC2016 # env.sh expands it
  echo 'export MAILFW_POLICY_RUNTIME=nodehost PATH="$PATH:'"$PWD"'/.cache/bin"' >>.cache/env.sh
}

# The YAML language host comes with Pulumi, but not with an engine that was built here. Only the tests of the package need it.
yaml_host() {
  # shellcheck source=/dev/null
  . .cache/env.sh
  if command -v pulumi-language-yaml >/dev/null; then return; fi
  engine=$cache/pulumi-yaml-1.28.0
  if [ ! -x "$engine/pulumi-language-yaml" ]; then
    command -v go >/dev/null || { say "no YAML language host, and no Go to build one: the component in YAML is not tested"; return; }
    say "building Pulumi's YAML language host 1.28.0 from its Go module, once; 1 to 3 minutes"
    mkdir -p "$engine"
    go_build pulumi-language-yaml pulumi-language-yaml github.com/pulumi/pulumi-yaml/cmd/pulumi-language-yaml
  fi
  # shellcheck disable=SC2016 # env.sh expands it
  echo 'export PATH="$PATH:'"$engine"'"' >>.cache/env.sh
}

mypy=2.4.1

# The component's library for Python, and what runs programs that use it. Pulumi's language host does both, but the one that can be
# built here is too old to generate libraries: there tools/pulumi/python-library runs Pulumi's generator alone.
python_host() {
  # shellcheck source=/dev/null
  . .cache/env.sh
  engine=$cache/pulumi-$pinned
  host=$(command -v pulumi-language-python || true)
  if [ -n "$host" ] && [ "$host" != "$engine/pulumi-language-python" ]; then
    by="pulumi package gen-sdk"
    generate() { pulumi package gen-sdk plugin/schema.json --language python --out "$1"; }
  else
    by="its generator alone"
    generate() { "$engine/python-library" plugin/schema.json "$1/python"; }
    package=github.com/pulumi/pulumi/sdk/v3/python/cmd/pulumi-language-python
    if [ ! -x "$engine/python-library" ] || [ ! -x "$engine/pulumi-language-python-exec" ]; then
      command -v go >/dev/null || { say "no Python language host, and no Go to build one: the component in Python is not tested"; return; }
      say "building Pulumi's Python language host 3.68.0 from its Go module, once; 1 to 3 minutes"
      mkdir -p "$engine"
      go_build python-library pulumi ./python-library
      go_build pulumi-language-python pulumi-languages "$package"
      install "$(cd tools/pulumi-languages && go list -f '{{.Dir}}' "$package")-exec" "$engine"
    fi
    # shellcheck disable=SC2016 # env.sh expands it
    echo 'export PATH="$PATH:'"$engine"'"' >>.cache/env.sh
  fi

  # parver is what the library needs beside Pulumi, mypy reads its types.
  venv "venv-pulumi-$pinned-mypy-$mypy" "Pulumi $pinned for Python" "pulumi==$pinned" parver "mypy==$mypy"
  library=$PWD/.cache/consumer/python-$pinned
  if [ ! "$library/complete" -nt plugin/schema.json ]; then
    say "generating the component's library for Python ($by)"
    rm -rf "$library" "$library.new"
    generate "$library.new" >/dev/null
    try 3 "$venv/bin/pip" install --quiet --disable-pip-version-check --no-deps --target "$library" "$library.new/python"
    touch "$library/complete"
  fi
  echo "export MAILFW_PYTHON_VENV=\"$venv\" MAILFW_PYTHON_LIBRARY=\"$library\"" >>.cache/env.sh
}

if [ "${1-}" = consumer ]; then
  consumer
  policy_host
  yaml_host
  python_host
  exit
fi

if [ "${1-}" = program ]; then
  node_modules
  node program.js
  pulumi_engine
  echo "export PATH=\"$PATH\"" >.cache/program-env.sh
  exit
fi

debian_packages "$@"
node_modules
node program.js # here, so that nothing is left half compiled when the demo is interrupted
pulumi_engine
ec2_emulator
providers

cat >.cache/env.sh <<EOF
export PATH="$PATH"
export PULUMI_HOME="$home"
export MAILFW_MOTO_SERVER="$venv/bin/moto_server"
EOF

if [ "${1-}" = real ]; then
  for release in ${RELEASES:-bookworm}; do
    image=$(tools/host-image.sh "$release")
    say "Debian $release for real hosts: $image"
  done
fi
