"""A real QEMU whose disks are written from outside, and an imager over it, in the test's own process.

The guest never runs: `Written.write` has QEMU write through the disk's own node, as a guest's write does.
Every write is recorded in a model, so that the disk at any instant is known.
"""

from __future__ import annotations

import json
import os
import random
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cdp_agent.imager.core import Imager
from cdp_agent.imager.process import opener
from cdp_agent.imager.settings import DiskSettings, ImagerSettings, VmSettings
from cdp_agent.streamer.watched import FileBatch
from cdp_agent.watcher.client import Taken
from cdp_container.clock import SystemClock
from tests.e2e.hypervisors import stopped_qemu
from tests.waiting import wait_until

BLOCK = 4096


class Written:
    """A VM: its QMP socket for us (`own`) and for the agent (`qmp`), and what its disks hold."""

    def __init__(self, folder: Path, sizes: Sequence[int], pid: int) -> None:
        self.folder = folder
        self.qmp = folder / "agent.sock"
        self.own = folder / "own.sock"
        self.pid = pid
        self.disks = [bytearray((folder / f"{n}.raw").read_bytes()) for n in range(len(sizes))]
        self._peer = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._peer.settimeout(30)
        # The socket is there before anybody listens at it.
        wait_until(lambda: self._peer.connect_ex(str(self.own)) == 0, "QEMU listens", 60.0)
        self._file = self._peer.makefile("rb")
        self._file.readline()
        self.ask("qmp_capabilities")

    def ask(self, command: str, **arguments: object) -> Any:  # noqa: ANN401  whatever it returns
        """A command of QMP; AssertionError where it is refused."""
        self._peer.sendall(json.dumps({"execute": command, "arguments": arguments}).encode() + b"\n")
        while True:
            message = json.loads(self._file.readline())
            if "return" in message:
                return message["return"]
            assert "error" not in message, (command, message)

    def write(self, disk: int, offset: int, length: int, pattern: int) -> None:
        """Have QEMU write, and wait until it says that it did."""
        order = f"write -P {pattern} {offset} {length}" if pattern else f"write -z {offset} {length}"
        said = self.ask("human-monitor-command", **{"command-line": f'qemu-io d{disk} "{order}"'})
        assert not said.strip(), said
        self.disks[disk][offset : offset + length] = bytes([pattern]) * length

    def write_some(self, dice: random.Random, count: int) -> None:
        """Random writes of one to 32 blocks, some of zeros."""
        for _ in range(count):
            disk = dice.randrange(len(self.disks))
            blocks = len(self.disks[disk]) // BLOCK
            first = dice.randrange(blocks)
            length = min(dice.randint(1, 32), blocks - first) * BLOCK
            self.write(disk, first * BLOCK, length, dice.choice((0, dice.randint(1, 255))))

    def left_over(self) -> list[str]:
        """Names of what an imager has in the QEMU, but its bitmaps."""
        jobs = [job["id"] for job in self.ask("query-jobs")]
        exports = [one["id"] for one in self.ask("query-block-exports")]
        nodes = [node["node-name"] for node in self.ask("query-named-block-nodes", flat=True)]
        return [name for name in (*jobs, *exports, *nodes) if name.startswith("cdp-image-")]

    def caches(self) -> list[dict[str, bool]]:
        """How what an imager keeps beside is cached: its nodes, and the files below them."""
        nodes = self.ask("query-named-block-nodes", flat=True)
        ours = [node for node in nodes if "fleece" in node["node-name"] or node["file"][:11] == "/dev/fdset/"]
        return [node["cache"] for node in ours]

    def bitmaps(self) -> list[str]:
        """Names of all bitmaps of the first disk."""
        found = next(one for one in self.ask("query-block") if one["device"] == "d0")
        return [bitmap["name"] for bitmap in found["inserted"].get("dirty-bitmaps", ())]

    def close(self) -> None:
        """Let go of the socket."""
        self._file.close()
        self._peer.close()


@contextmanager
def written_vm(folder: Path, sizes: Sequence[int]) -> Iterator[Written]:
    """A VM with disks d0, d1, … of these sizes; files that are there already are its disks."""
    folder.mkdir(exist_ok=True)
    arguments = ["-m", "64", "-qmp", f"unix:{folder}/agent.sock,server=on,wait=off"]
    for number, size in enumerate(sizes):
        path = folder / f"{number}.raw"
        if not path.exists():
            with path.open("wb") as file:
                file.truncate(size)
        arguments += ["-drive", f"file={path},format=raw,if=virtio,id=d{number},discard=unmap"]
    with stopped_qemu(folder / "own.sock", arguments) as process:
        vm = Written(folder, sizes, process.pid)
        try:
            yield vm
        finally:
            vm.close()


def settings_of(directory: Path, vms: dict[str, Written], every_seconds: float = 0.2) -> ImagerSettings:
    """All disks of these VMs, with ids by their place."""
    return ImagerSettings(
        directory,
        tuple(
            VmSettings(
                name,
                str(vm.qmp),
                tuple(
                    DiskSettings(space_of(at, disk), f"{name}-{disk}", f"d{disk}", len(data))
                    for disk, data in enumerate(vm.disks)
                ),
            )
            for at, (name, vm) in enumerate(vms.items())
        ),
        every_seconds,
    )


def space_of(vm: int, disk: int) -> bytes:
    """The id of a disk's volume."""
    return bytes([0xD1, vm, disk]) * 5 + b"\0"


def imager_of(settings: ImagerSettings, run: str = "") -> Imager:
    """One that makes images when it is told to; `run` of its names, random where it is left out."""
    folder = settings.directory / "imager"
    folder.mkdir(parents=True, exist_ok=True)
    clock = SystemClock()
    return Imager(settings, clock, os.urandom, opener(folder, clock, run or os.urandom(4).hex()))


class Container:
    """What the batches that were placed come to: every space as its cuts have it."""

    def __init__(self, settings: ImagerSettings) -> None:
        self.spaces = {disk.space: bytearray(disk.size_bytes) for vm in settings.vms for disk in vm.disks}
        self.cut = 0

    def put(self, taken: Taken) -> bool:
        """Apply a batch, as a cut of its own; whether it held anything."""
        batch = FileBatch(taken)
        held = False
        for extent in batch.extents():
            held = True
            data = bytes(extent.length) if extent.data is None else extent.data
            self.spaces[extent.space][extent.offset : extent.offset + extent.length] = data
        batch.close()
        return held


def protect_all(imager: Imager, container: Container, epoch: int = 1, sweeps_max: int = 200) -> Taken:
    """Sweep and take, as a streamer does, until everything is whole. AssertionError where it never is."""
    for _ in range(sweeps_max):
        for taken in (imager.sweep(epoch, 0), imager.take(epoch, 0, False, 0)):
            container.cut += 1
            container.put(taken)
            if taken.batch:
                imager.place(taken.batch, epoch, container.cut)
            imager.protected(epoch, container.cut)
        if not taken.not_whole:
            return taken
    raise AssertionError([vm.problem for vm in imager.vms])
