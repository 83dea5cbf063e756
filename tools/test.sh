#!/bin/sh
# Runs every test of the house, and installs what they need from Debian: baresip and SIPp as phones, a scanner of SIP,
# Kamailio as a carrier, dnsmasq, NATS, PostgreSQL, HAProxy, and iproute2, ethtool, tcpdump and curl for hosts of their
# own. Network namespaces need root; without it, sudo is asked.
set -eu
cd "$(dirname "$0")/.."

as_root=
[ "$(id -u)" -eq 0 ] || as_root="sudo --preserve-env"

missing=
for package in baresip sip-tester sipvicious kamailio kamailio-tls-modules nats-server postgresql haproxy iproute2 \
    ethtool tcpdump curl dnsmasq-base; do
    dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing="$missing $package"
done
if [ -n "$missing" ]; then
    $as_root apt-get update -q
    # shellcheck disable=SC2086 # a list of packages
    DEBIAN_FRONTEND=noninteractive $as_root apt-get install -q -y --no-install-recommends $missing
fi

cargo build --release --bin jackfield
# Shared memory under every interleaving of two threads that loom can think of.
RUSTFLAGS="--cfg loom" CARGO_TARGET_DIR=target/loom cargo test --release -p abi --test loom
if [ -n "$as_root" ]; then
    cargo test --release --workspace --exclude house-tests
    CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUNNER="$as_root" cargo test --release -p house-tests
else
    cargo test --release --workspace
fi
