# --- Staying in force: at boot, when an address comes, and when somebody takes our rules away

units=/etc/systemd/system
unit=$units/mail-firewall.service
watch_unit=$units/mail-firewall-watch.service

# Before any socket listens, which is before the network, too, but where the initramfs has brought it up. Nothing happens when it is
# stopped. Units that load other rules do so later; they are masked.
unit_text() {
  cat <<END
[Unit]
Description=Mail server firewall
DefaultDependencies=no
RequiresMountsFor=$self $etc
After=systemd-modules-load.service nftables.service netfilter-persistent.service ufw.service
Wants=network-pre.target
Before=network-pre.target sysinit.target sockets.target shutdown.target
Conflicts=shutdown.target

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=$self restore

[Install]
WantedBy=sysinit.target
END
}

watch_text() {
  cat <<END
[Unit]
Description=Mail server firewall: load the rules again when somebody has taken them away
After=mail-firewall.service

[Service]
ExecStart=$self watch
Restart=always
RestartSec=20

[Install]
WantedBy=multi-user.target
END
}

# boots: whether the rules are loaded at boot.
boots() {
  if has_systemd; then
    [ "$(unit_text)" = "$(cat "$unit" 2>/dev/null)" ] && systemctl is-enabled --quiet mail-firewall.service 2>/dev/null
  else
    [ -x /etc/rc.local ] && grep -q '# mail-firewall$' /etc/rc.local
  fi
}

# is_watched: whether somebody looks after them.
is_watched() {
  has_systemd && [ "$(watch_text)" = "$(cat "$watch_unit" 2>/dev/null)" ] && systemctl is-active --quiet mail-firewall-watch.service
}

# put FILE: standard input in its place.
put() {
  cat >"$1.new" && chmod 0644 "$1.new" && mv "$1.new" "$1"
}

# put_rc_local: $dir/rc.local in its place, with the mode and owner that it has, or not at all.
put_rc_local() {
  local file
  file=$(readlink -f /etc/rc.local)
  if cp -p "$file" "$file.new" && cat "$dir/rc.local" >"$file.new" && mv "$file.new" "$file"; then return; fi
  rm -f "$file.new"
  complain '/etc/rc.local cannot be written'
}

boot_on() {
  hooks_on || return
  if has_systemd; then
    if ! boots; then
      # Wherever a version before this one was wanted from.
      [ ! -e "$unit" ] || systemctl disable --quiet mail-firewall.service || return
      unit_text | put "$unit" && systemctl daemon-reload && systemctl enable --quiet mail-firewall.service &&
        systemctl start --no-block mail-firewall.service || return
    fi
    if ! is_watched; then
      watch_text | put "$watch_unit" && systemctl daemon-reload && systemctl enable --quiet mail-firewall-watch.service || return
    fi
    # Also where it runs: what runs may be the script before this one.
    systemctl restart --no-block mail-firewall-watch.service
  elif boots; then
    return
  elif [ -x /etc/rc.local ]; then
    # First of all: what comes later may fail or exit.
    awk -v line="$self restore || : # mail-firewall" '!placed && !/^#!/ { print line; placed = 1 } { print } END { if (!placed) print line }' \
      /etc/rc.local >"$dir/rc.local" && put_rc_local
  else
    complain 'neither systemd nor an executable /etc/rc.local is here: after a reboot nothing loads the rules' || :
  fi
}

boot_off() {
  local file
  hooks_off
  for file in "$watch_unit" "$unit"; do
    [ -e "$file" ] || continue
    systemctl disable --quiet "${file##*/}" && { [ "$file" = "$unit" ] || systemctl stop "${file##*/}"; } && rm "$file" && systemctl daemon-reload || return
  done
  if grep -q '# mail-firewall$' /etc/rc.local 2>/dev/null; then
    sed '/# mail-firewall$/d' /etc/rc.local >"$dir/rc.local" && put_rc_local
  fi
}

# Where rules name an address of the host, they are loaded again when a connection comes up.
hook_files='/etc/ppp/ip-up.d/mail-firewall /etc/ppp/ipv6-up.d/mail-firewall
  /etc/NetworkManager/dispatcher.d/50-mail-firewall /etc/networkd-dispatcher/routable.d/50-mail-firewall'

hooks_off() {
  # shellcheck disable=SC2086 # a list
  rm -f $hook_files
}

hooks_on() {
  local file
  hooks_off
  names_address "$etc/rules.v4" "$etc/rules.v6" || return 0
  for file in $hook_files; do
    [ -d "${file%/*}" ] || continue
    printf '#!/bin/sh\nexec %s restore\n' "$self" >"$file" && chmod 0755 "$file" || return
  done
}

# --- A pause

# is_paused: whether our rules are away because somebody wanted that, and for how long still.
is_paused() {
  [ -f "$run/paused" ] && [ "$(cat "$run/paused")" -gt "$(seconds)" ]
}

pause_left() {
  echo $((($(cat "$run/paused") - $(seconds) + 59) / 60))
}
