#!/usr/bin/env bash
# Fetches what the tests run as Docker and Podman: Debian's packages, unpacked into ~/.cache/mail-firewall/NAME and not installed, so
# that nothing of them runs on this machine.
set -euo pipefail
cache=${XDG_CACHE_HOME:-$HOME/.cache}/mail-firewall

# fetch NAME PACKAGE…
fetch() {
  target=$cache/$1
  shift
  [ ! -e "$target/complete" ] || return 0
  rm -rf "$target"
  mkdir -p "$target/debs/partial"
  echo "setup: downloading $*"
  download "$@" >"$target/log" 2>&1 || { apt-get update -qq && download "$@" >"$target/log" 2>&1; } || {
    tail -20 "$target/log" >&2
    echo "setup: apt-get could not download: $*" >&2
    exit 1
  }
  for deb in "$target"/debs/*.deb; do dpkg-deb -x "$deb" "$target"; done
  if [ -d "$target/lib" ]; then cp -a "$target/lib" "$target/usr/"; fi # /lib is a link to /usr/lib, but packages may say /lib
  rm -rf "$target/debs" "${target:?}/lib"
  touch "$target/complete"
}

# With --reinstall also those that this machine has; what they need and this machine lacks comes along.
download() {
  apt-get install -y -qq --no-install-recommends --reinstall --download-only -o "Dir::Cache::archives=$target/debs" "$@"
}

docker=(docker.io containerd runc)
if apt-cache show docker-cli >/dev/null 2>&1; then docker+=(docker-cli); fi # Debian 13 has the client apart
fetch docker "${docker[@]}"
fetch podman podman netavark crun conmon
