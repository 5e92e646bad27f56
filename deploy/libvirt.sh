#!/bin/sh
# Adds libvirt-python to a virtual environment, where it can be built: deploy/libvirt.sh VENV
# It has no wheels, as it is made for the libvirt that a machine has. Without it everything works but asking libvirt;
# so this never fails, and says once what is missing.
set -eu
venv=$1
mark="$venv/.libvirt"
[ ! -e "$mark" ] || exit 0

missing() {
    echo "libvirt-python: left out, VMs of libvirt cannot be asked: $1"
    exit 0
}

command -v pkg-config >/dev/null && pkg-config --exists libvirt || missing "needs pkg-config and libvirt-dev"
command -v cc >/dev/null || missing "needs a C compiler"
header=$("$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("include") + "/Python.h")')
[ -e "$header" ] || missing "needs $header (python3-dev)"

log=$(mktemp)
pip="$venv/bin/python -m pip install -q --no-deps --require-hashes --no-build-isolation"
locked=$(mktemp)
trap 'rm -f "$log" "$locked"' EXIT
# What builds it first, and from the lock, too: pip would fetch any.
sed -n '/^setuptools==/,$p' requirements-libvirt.lock >"$locked"
if $pip --only-binary :all: -r "$locked" >"$log" 2>&1 && $pip -r requirements-libvirt.lock >"$log" 2>&1; then
    touch "$mark"
else
    tail -n 5 "$log"
    touch "$mark" # not again with every make
    missing "it could not be built (rm $mark to try again)"
fi
