"""Group qmp: how long a cycle over a VM takes that is captured by images, from its due time to its batch.

A QEMU whose guest stands still, one disk of 1 GiB in a file; what is dirty was written by QEMU itself, at
places without order. Counted is all of a cycle: connecting, the transaction, what is dirty, reading it,
writing it into the file that the streamer gets, and clearing away. The streamer and its upload come after.
"""

from __future__ import annotations

import os
import random
import tempfile
from pathlib import Path
from typing import Final

from bench.knobs import Knobs
from bench.table import Figure
from cdp_agent.imager.core import Imager
from cdp_container.format.place import NOWHERE
from tests.e2e.imaged import Written, imager_of, settings_of, written_vm

GROUP = "qmp"
MIB: Final = 1 << 20
DISK_MIB: Final = 1024
SECONDS_MAX: Final = {1: 0.05, 10: 0.2, 100: 1.5}
"""By MiB that are dirty: for the times of cycles."""
WRITE_BYTES: Final = 64 << 10
SMALL_BYTES: Final = 4 << 10


def measure(knobs: Knobs) -> list[Figure]:
    """The median of cycles at each amount; and at 4 KiB a write, which is only told."""
    figures = []
    with (
        tempfile.TemporaryDirectory(prefix="qmp-") as folder,
        written_vm(Path(folder) / "vm", [DISK_MIB * MIB]) as vm,
    ):
        for mib, seconds in SECONDS_MAX.items():
            values = _cycles(Path(folder), vm, mib, WRITE_BYTES, knobs.pairs)
            figures.append(
                Figure(GROUP, f"cycle, {mib} MiB dirty in writes of 64 KiB", "s", values, at_most=seconds)
            )
        values = _cycles(Path(folder), vm, 10, SMALL_BYTES, max(1, knobs.pairs // 3))
        figures.append(Figure(GROUP, "cycle, 10 MiB dirty in writes of 4 KiB", "s", values))
    return figures


def _cycles(folder: Path, vm: Written, mib: int, write_bytes: int, count: int) -> tuple[float, ...]:
    imager = imager_of(settings_of(folder, {"vm": vm}))
    dice = random.Random(mib)
    seconds = []
    try:
        _begin(imager)
        for _ in range(count):
            places = dice.sample(range(DISK_MIB * MIB // write_bytes), mib * MIB // write_bytes)
            for place in places:
                vm.write(0, place * write_bytes, write_bytes, dice.randint(1, 255))
            imager.image()
            taken = imager.take(1, 0, False, 0)
            assert not taken.not_whole
            assert taken.content_bytes == mib * MIB, taken
            _close(taken.fd)
            seconds.append(float(imager.status()["last_cycle"]["seconds"]))
            print(f"   {mib} MiB: {seconds[-1] * 1000:.1f} ms", flush=True)
    finally:
        imager.close()
    return tuple(seconds)


def _begin(imager: Imager) -> None:
    """Read all of the disk once: what is measured comes after."""
    imager.begin(1, NOWHERE)
    while True:
        _close(imager.sweep(1, 0).fd)
        taken = imager.take(1, 0, False, 0)
        _close(taken.fd)
        if not taken.not_whole:
            return


def _close(fd: int | None) -> None:
    if fd is not None:
        os.close(fd)
