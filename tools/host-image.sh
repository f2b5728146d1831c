#!/bin/sh
# host-image.sh RELEASE: prints the folder of a Debian root file system (bullseye, bookworm or trixie) that is a mail server as an
# administrator would have left it. test/sandbox/realHost.ts boots it; nobody writes to it.
# host-image.sh --find RELEASE: the same, but fails where there is none yet.
#
# It is made once, with debootstrap from the mirror that this machine itself uses, and kept outside of the checkout. A change of
# this file makes a new one.
set -eu

bob=secret # also in test/sandbox/realHost.ts
packages=systemd,systemd-sysv,libpam-systemd,dbus,iproute2,procps,openssh-server,sudo,python3,python3-systemd,iptables,nftables,ufw,fail2ban,postfix,dovecot-imapd

fail() {
  echo "host-image.sh: $*" >&2
  exit 1
}

# build RELEASE ROOT: in namespaces of its own, so that an interruption leaves neither a mount nor a process.
build() {
  # Only what apt has read the Release file of has a label.
  # shellcheck disable=SC2016 # apt-get expands it
  mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 'Label: Debian' 'Component: main' | head -n 1)
  [ -n "$mirror" ] || fail "apt knows no Debian mirror here (after apt-get update)"
  mount -t proc proc /proc
  debootstrap --variant=minbase --include="$packages" "$1" "$2" "$mirror" >"$2.log" 2>&1 || {
    tail -n 20 "$2.log" >&2
    fail "debootstrap could not make a $1 (above)"
  }
  mount -t proc proc "$2/proc"
  # Packages of other firewalls, for tests to install as an administrator would: dpkg --install /var/lib/others/NAME/*.deb
  for package in firewalld iptables-persistent; do
    mkdir -p "$2/var/lib/others/$package/partial"
    chroot "$2" sh -eu -c "[ -e /var/lib/apt/lists/lock ] || apt-get update
      apt-get install --yes --download-only --no-install-recommends -o Dir::Cache::archives=/var/lib/others/$package $package" >>"$2.log" 2>&1 || {
      tail -n 20 "$2.log" >&2
      fail "$package cannot be downloaded (above)"
    }
  done
  # ufw asks the kernel what it can, and must not ask it about this machine's rules.
  unshare --net chroot "$2" env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C BOB="$bob" sh -eu <<'END' >>"$2.log" 2>&1 || {
useradd --create-home --shell /bin/bash admin
useradd --create-home --shell /bin/bash bob
echo "bob:$BOB" | chpasswd
install -m 440 /dev/stdin /etc/sudoers.d/admin <<'EOT'
admin ALL=(ALL:ALL) NOPASSWD: ALL
EOT

# Each host gets its own; without an id, systemd would take the next boot for the first one.
rm -f /etc/ssh/ssh_host_* /etc/machine-id /etc/hostname /etc/resolv.conf

# Mail for bob, without DNS. Dovecot's defaults are what is wanted: imaps with this certificate, PAM, mbox in /var/mail.
echo example.org >/etc/mailname
echo localhost >/etc/hostname
make-ssl-cert generate-default-snakeoil --force-overwrite
rm /etc/hostname
postconf -e 'myhostname = mail.example.org' 'mydestination = example.org, localhost' 'myorigin = /etc/mailname' \
  'disable_dns_lookups = yes' 'smtpd_peername_lookup = no' 'smtp_tls_security_level = none'

# A database that nobody outside should reach, but ufw lets in. It says what it is told.
cat >/etc/systemd/system/database.socket <<'EOT'
[Socket]
ListenStream=3306
Accept=yes
MaxConnections=1000
TriggerLimitBurst=0
[Install]
WantedBy=sockets.target
EOT
cat >/etc/systemd/system/database@.service <<'EOT'
[Service]
ExecStart=/bin/cat
StandardInput=socket
StandardError=journal
EOT

cat >/etc/fail2ban/jail.local <<'EOT'
[DEFAULT]
backend = systemd
[sshd]
enabled = true
maxretry = 3
EOT

for service in OpenSSH 25/tcp 993/tcp 3306/tcp; do ufw allow "$service"; done
ufw --force enable

# A REJECT is answered for each of many probes.
printf 'net.ipv4.icmp_ratemask = 0\nnet.ipv6.icmp.ratemask = \n' >/etc/sysctl.d/probes.conf
mkdir -p /var/log/journal # a boot's journal outlives it
systemctl enable systemd-networkd ssh postfix dovecot fail2ban ufw database.socket
systemctl mask console-getty.service apt-daily.timer apt-daily-upgrade.timer e2scrub_all.timer
END
    tail -n 20 "$2.log" >&2
    fail "the $1 could not be set up (above)"
  }
  rm -rf "$2"/var/cache/apt/archives/*.deb "$2"/var/lib/apt/lists/*
}

if [ "${1-}" = --build ]; then
  build "$2" "$3"
  exit
fi

find=
if [ "${1-}" = --find ]; then
  find=yes
  shift
fi
case ${1-} in
bullseye | bookworm | trixie) ;;
*)
  echo "usage: host-image.sh [--find] bullseye|bookworm|trixie" >&2
  exit 64
  ;;
esac

cache=${XDG_CACHE_HOME:-$HOME/.cache}/mail-firewall
image=$cache/host-$1-$(sha256sum "$0" | cut -c 1-12)
if [ ! -d "$image" ]; then
  [ -z "$find" ] || fail "there is no image of $1 yet; tools/host-image.sh $1, outside of the sandbox, makes one"
  mkdir -p "$cache"
  exec 9>"$cache/host-image.lock"
  flock 9 # who waited finds it made
  if [ ! -d "$image" ]; then
    echo "host-image.sh: making a Debian $1 with debootstrap, once; 2 to 5 minutes" >&2
    rm -rf --one-file-system "$cache"/host-*.new "$cache"/host-*.new.log # of builds that were interrupted
    unshare --mount --pid --fork --kill-child sh "$0" --build "$1" "$image.new"
    mv "$image.new" "$image"
    rm "$image.new.log"
  fi
fi
echo "$image"
