#!/usr/bin/env bash
# Fetches what the tests run as Docker: Debian's packages, unpacked into ~/.cache/mail-firewall/docker and not installed, so
# that no daemon runs on this machine.
set -euo pipefail
target=${XDG_CACHE_HOME:-$HOME/.cache}/mail-firewall/docker
[ ! -e "$target/complete" ] || exit 0

# With --reinstall also those that this machine has; what they need and this machine lacks comes along.
download() {
  apt-get install -y -qq --no-install-recommends --reinstall --download-only -o "Dir::Cache::archives=$target/debs" "$@"
}

rm -rf "$target"
mkdir -p "$target/debs/partial"
packages=(docker.io containerd runc)
if apt-cache show docker-cli >/dev/null 2>&1; then packages+=(docker-cli); fi # Debian 13 has the client apart
echo "setup: downloading Docker: ${packages[*]}"
download "${packages[@]}" >"$target/log" 2>&1 || { apt-get update -qq && download "${packages[@]}" >"$target/log" 2>&1; } || {
  tail -20 "$target/log" >&2
  echo "setup: apt-get could not download: ${packages[*]}" >&2
  exit 1
}
for deb in "$target"/debs/*.deb; do dpkg-deb -x "$deb" "$target"; done
if [ -d "$target/lib" ]; then cp -a "$target/lib" "$target/usr/"; fi # /lib is a link to /usr/lib, but packages may say /lib
rm -rf "$target/debs" "${target:?}/lib"
touch "$target/complete"
