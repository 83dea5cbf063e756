#!/bin/sh
# Installs Jackfield on this machine: the binary, its units, what the kernel and polkit are to allow it and, when
# there is none, a configuration.
# Run it again to update; it never overwrites a configuration. It starts nothing.
#
#   cargo build --release --bin jackfield && sudo tools/install.sh
#
# PREFIX (/usr/local), SYSCONFDIR (/etc) and DESTDIR (empty) may be set; with DESTDIR only files are put.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
root=$(dirname "$here")
prefix=${PREFIX:-/usr/local}
sysconf=${SYSCONFDIR:-/etc}
dest=${DESTDIR:-}
binary=${CARGO_TARGET_DIR:-$root/target}/release/jackfield

if [ ! -x "$binary" ]; then
    echo "install.sh: $binary is not there; build it by: cargo build --release --bin jackfield" >&2
    exit 1
fi
if [ -z "$dest" ] && [ "$(id -u)" -ne 0 ]; then
    echo "install.sh: only root may install; set DESTDIR to put the files elsewhere" >&2
    exit 1
fi

install -d "$dest$prefix/bin" "$dest$sysconf/systemd/system" "$dest$sysconf/sysctl.d" \
    "$dest$sysconf/jackfield" "$dest$prefix/share/jackfield/prompts"
config=$dest$sysconf/jackfield/jackfield.toml
if [ ! -e "$config" ]; then
    sed -e "s#/usr/local/share#$prefix/share#" "$here/systemd/jackfield.toml" > "$config"
    chmod 0644 "$config"
    echo "wrote $config: set its addresses and cores"
fi
# A binary that refuses the configuration does not take the place of one that runs with it.
if ! "$binary" config check "$config"; then
    echo "install.sh: correct $config; nothing else was changed" >&2
    exit 1
fi
install -m 0755 "$binary" "$dest$prefix/bin/jackfield.new"
# A rename replaces a binary that runs.
mv -f "$dest$prefix/bin/jackfield.new" "$dest$prefix/bin/jackfield"

for unit in jackfield.target jackfield-control.service jackfield-ccb@.service jackfield-agentproxy@.service; do
    sed -e "s#/usr/local/bin/jackfield#$prefix/bin/jackfield#" -e "s#/etc/jackfield#$sysconf/jackfield#" \
        "$here/systemd/$unit" > "$dest$sysconf/systemd/system/$unit"
    chmod 0644 "$dest$sysconf/systemd/system/$unit"
done

# What `driver = "systemd"` of [pool] needs: control, which is not root, may start and stop the units of its slots.
install -d "$dest$sysconf/polkit-1/rules.d"
install -m 0644 "$here/polkit/50-jackfield.rules" "$dest$sysconf/polkit-1/rules.d/50-jackfield.rules"
# An example for an HTTP balancer in front of several blades.
install -m 0644 "$here/haproxy/jackfield.cfg" "$dest$prefix/share/jackfield/haproxy.cfg"

install -m 0644 "$here/systemd/jackfield.conf" "$dest$sysconf/sysctl.d/90-jackfield.conf"
if [ -z "$dest" ]; then
    # At each boot from now on, and at once where this machine lets itself be told.
    sysctl -q -p "$sysconf/sysctl.d/90-jackfield.conf" || true
    if ! getent passwd jackfield > /dev/null; then
        useradd --system --user-group --home-dir /var/lib/jackfield --no-create-home \
            --shell /usr/sbin/nologin jackfield
    fi
    if [ -d /run/systemd/system ]; then
        systemctl daemon-reload
        echo "start it: systemctl enable --now jackfield.target jackfield-control jackfield-ccb@1"
    fi
fi
