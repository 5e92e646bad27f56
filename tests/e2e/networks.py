"""A network of a recovery site's own, with a bridge, for root: only commands that are put into it see it."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

HAS_BRIDGE: Final = os.geteuid() == 0 and all(
    shutil.which(program) or Path(program).exists()
    for program in ("ip", "unshare", "nsenter", "/usr/lib/qemu/qemu-bridge-helper")
)
BRIDGE: Final = "br-test"
PREFIX: Final = "10.77.0"
_SCRIPT: Final = f"""
set -e
ip link set lo up
ip link add {BRIDGE} type bridge
ip addr add {PREFIX}.1/24 dev {BRIDGE}
ip link set {BRIDGE} up
mount -t sysfs sys /sys
mkdir -p "$1"
mount --bind /etc "$1"
mount -t tmpfs none /etc
for one in "$1"/* "$1"/.[!.]*; do
    [ ! -e "$one" ] || [ "$one" = "$1/qemu" ] || ln -s "$one" /etc/
done
mkdir /etc/qemu
echo "allow {BRIDGE}" >/etc/qemu/bridge.conf
echo ready
read -r _
"""
"""QEMU's helper may join the bridge; /etc is as it was but for that."""


@contextmanager
def own_network(base: Path) -> Iterator[list[str]]:
    """What a command goes behind, so that it is in a network of its own; [] where that cannot be."""
    if not HAS_BRIDGE:
        yield []
        return
    process = subprocess.Popen(
        ["unshare", "--net", "--mount", "--propagation", "private", "sh", "-c", _SCRIPT, "sh", base / "etc"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == b"ready\n", "the network is there"
        yield ["nsenter", f"--target={process.pid}", "--net", "--mount"]
    finally:
        process.stdin.close()
        process.stdout.close()
        process.wait()
