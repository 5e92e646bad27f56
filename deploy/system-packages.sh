#!/bin/bash
# Installs the system packages that `make demo` and `make test` use, and only those that are missing.
#   deploy/system-packages.sh [demo] [test] [bench]     the named sets
#   deploy/system-packages.sh --packages NAME…  exactly these
# As root on Debian or Ubuntu it installs them; otherwise it says what is missing and goes on, because the
# run itself leaves out, and names, what it cannot do.
set -euo pipefail

APT_TRIES=4
LOCK_SECONDS=300 # another apt may be at work, as on a machine's first boot

# A need is met by a package, or a program, of its first name. To meet it, the first name that the release has as a
# package is installed: some programs have a package of their own in one release and share one in another.
demo_set=(
    "qemu-utils" "qemu-system-x86" "qemu-block-extra" "libnbd-bin" "nbdfuse libnbd-bin" "fio" "e2fsprogs"
    "fuse3" "util-linux" "procps" "make" "mount"
)
test_set=("ceph-mon" "ceph-mgr" "ceph-osd" "radosgw" "ceph-common" "ceph-base" "openssl" "rsync"
    "libvirtd libvirt-daemon" "libvirt-daemon-driver-qemu" "virsh libvirt-clients" "libvirt-dev" "pkg-config" "gcc" "python3-dev"
    "ovmf" # UEFI: that what is rendered really boots by it
    "qemu-guest-agent") # in a guest: that it takes the addresses that a runbook hands it over
bench_set=("restic")

needs=()
if [ "${1:-}" = --packages ]; then
    shift
    needs=("$@")
else
    for set in "$@"; do
        case $set in
        demo) needs+=("${demo_set[@]}") ;;
        test) needs+=("${test_set[@]}") ;;
        bench) needs+=("${bench_set[@]}") ;;
        *) echo "usage: $0 [demo] [test] [bench] | --packages NAME..." >&2; exit 2 ;;
        esac
    done
fi

if ! command -v dpkg-query >/dev/null || ! command -v apt-get >/dev/null; then
    echo "system packages: not a Debian or Ubuntu machine; see deploy/system-packages.sh for what is used"
    exit 0
fi

met() {
    [ "$(dpkg-query -W -f '${db:Status-Status}' "$1" 2>/dev/null)" = installed ] || command -v "$1" >/dev/null
}
available() { [[ $(apt-cache policy "$1" 2>/dev/null) =~ Candidate:\ [^\(] ]]; }

missing=()
for need in "${needs[@]}"; do
    met "${need%% *}" || missing+=("$need")
done
[ "${#missing[@]}" -gt 0 ] || exit 0

if [ "$(id -u)" -ne 0 ]; then
    echo "system packages: not root, so these stay missing: ${missing[*]%% *}"
    echo "system packages: what needs them is left out, and the run says so"
    exit 0
fi

export DEBIAN_FRONTEND=noninteractive
run_apt() { apt-get -o "DPkg::Lock::Timeout=$LOCK_SECONDS" -o Acquire::Retries=3 -q -y "$@"; }

log=$(mktemp)
guard=/usr/sbin/policy-rc.d
made_guard=no
finish() {
    rm -f "$log"
    [ "$made_guard" = no ] || rm -f "$guard"
}
trap finish EXIT

# Without this guard Debian would start services (a Ceph crash collector, for one) that nobody asked for.
if [ ! -e "$guard" ]; then
    printf '#!/bin/sh\nexit 101\n' >"$guard"
    chmod 755 "$guard"
    made_guard=yes
fi

try() {
    local attempt
    for attempt in $(seq "$APT_TRIES"); do
        if "$@" >"$log" 2>&1; then return 0; fi
        echo "system packages: try $attempt of $APT_TRIES failed: $*" >&2
        sleep $((attempt * 5))
    done
    tail -n 20 "$log" >&2
    return 1
}

echo "system packages: installing ${missing[*]%% *} (once; this may take some minutes)"
try run_apt update

chosen=()
for need in "${missing[@]}"; do
    read -ra names <<<"$need"
    for name in "${names[@]}"; do
        if available "$name"; then
            chosen+=("$name")
            continue 2
        fi
    done
    echo "system packages: this release has none of: $need" >&2
done
[ "${#chosen[@]}" -gt 0 ] || exit 0
try run_apt install --no-install-recommends "${chosen[@]}"
