"""A QEMU that is none: disks, bitmaps and images in memory. Any call may fail, before or after its effect.

What holds: at whatever instant a volume is called whole, the container has what the disk held then.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from cdp_agent.imager import rounds
from cdp_agent.imager.core import FOLDER, Imager
from cdp_agent.imager.hypervisor import Disks, Exported, Found
from cdp_agent.imager.memory import VmMemory
from cdp_agent.imager.nbd import ALLOCATION, Status
from cdp_agent.imager.settings import DiskSettings, ImagerSettings, VmSettings
from cdp_agent.streamer.watched import FileBatch
from cdp_agent.watcher.client import Taken
from cdp_container.errors import HypervisorFailed
from cdp_container.format.place import NOWHERE, Place

BLOCK = 4096
BLOCKS = 24
SIZE = BLOCK * BLOCKS
DISKS = 2


@dataclass
class Time:
    """A clock that stands until it is moved."""

    now_ns: int = 1_000_000_000_000

    def wall_ns(self) -> int:
        return self.now_ns

    def boottime_ns(self) -> int:
        return self.now_ns

    def sleep(self, seconds: float) -> None:
        self.now_ns += int(seconds * 1e9)


@dataclass
class Bitmap:
    recording: bool = True
    dirty: set[int] = field(default_factory=set)


@dataclass
class SimVm:
    """One QEMU process. `images`: what the disks held, by the wall clock at each change."""

    rng: random.Random
    time: Time
    failing: float = 0.0
    disks: list[bytearray] = field(default_factory=lambda: [bytearray(SIZE) for _ in range(DISKS)])
    bitmaps: list[dict[str, Bitmap]] = field(default_factory=lambda: [{} for _ in range(DISKS)])
    kept: list[bytes] | None = None
    runs: bool = True
    process: int = 1

    def write(self) -> None:
        """A guest writes some blocks of one disk."""
        disk = self.rng.randrange(DISKS)
        first = self.rng.randrange(BLOCKS)
        for block in range(first, min(BLOCKS, first + self.rng.randint(1, 4))):
            data = bytes([self.rng.choice((0, self.rng.randrange(1, 256)))]) * BLOCK
            self.disks[disk][block * BLOCK : (block + 1) * BLOCK] = data
            for bitmap in self.bitmaps[disk].values():
                if bitmap.recording:
                    bitmap.dirty.add(block)

    def restart(self) -> None:
        """Another process with the same disks."""
        self.process += 1
        self.bitmaps = [{} for _ in range(DISKS)]
        self.kept = None


class SimHypervisor:
    """See `hypervisor.Hypervisor`."""

    is_crowded = False
    is_usable = True

    def __init__(self, vm: SimVm, run: str) -> None:
        self._vm = vm
        self._run = run
        self._process = vm.process
        self._call()

    def _call(self) -> None:
        vm = self._vm
        if vm.rng.random() < 0.02:
            vm.write()
        if vm.process != self._process or vm.rng.random() < vm.failing:
            self.is_usable = False
            raise HypervisorFailed("a call", "as it was told to")

    def close(self) -> None:
        """Nothing is open."""

    def is_running(self) -> bool:
        self._call()
        return self._vm.runs

    def is_elsewhere(self) -> bool:
        return False  # what fails here fails in `is_running`, which is asked just before or after

    def disks(self) -> Disks:
        self._call()
        return Disks(
            {
                f"d{number}": Found(
                    f"node{number}",
                    SIZE,
                    {name: len(one.dirty) * BLOCK for name, one in bitmaps.items() if one.recording},
                    {name: len(one.dirty) * BLOCK for name, one in bitmaps.items() if not one.recording},
                )
                for number, bitmaps in enumerate(self._vm.bitmaps)
            }
        )

    def clean(self, keep: Sequence[str] = ()) -> None:
        self._call()
        self._vm.kept = None
        for bitmaps in self._vm.bitmaps:
            for name in [name for name in bitmaps if name not in keep]:
                del bitmaps[name]
                self._call()

    def bitmap(self, number: int) -> str:
        return f"cdp-image-{self._run}-{number}"

    def begin_bitmaps(self, nodes: Sequence[str], bitmap: str) -> None:
        self._call()
        for node in nodes:
            self._vm.bitmaps[int(node[-1])][bitmap] = Bitmap()
        self._call()

    def swap_bitmaps(self, nodes: Sequence[str], old: str, new: str) -> None:
        self._call()
        for node in nodes:
            bitmaps = self._vm.bitmaps[int(node[-1])]
            bitmaps[new] = Bitmap()
            bitmaps[old].recording = False
        self._call()

    def instant(self, nodes: Mapping[str, int], old: str, new: str) -> None:
        self._call()
        self._vm.kept = [bytes(disk) for disk in self._vm.disks]
        for node in nodes:
            bitmaps = self._vm.bitmaps[int(node[-1])]
            bitmaps[new] = Bitmap()
            bitmaps[old].recording = False
        self._call()

    def merge_bitmaps(self, nodes: Sequence[str], old: str, into: str) -> None:
        for node in nodes:
            self._call()
            bitmaps = self._vm.bitmaps[int(node[-1])]
            bitmaps[into].dirty |= bitmaps[old].dirty
            self._call()
            del bitmaps[old]

    def export(self, nodes: Sequence[str], bitmap: str, live: bool) -> list[Exported]:
        self._call()
        return [Exported(f"{'live' if live else 'kept'}-{node[-1]}", bitmap) for node in nodes]

    @contextlib.contextmanager
    def reading(self, exported: Exported) -> Iterator[SimReader]:
        self._call()
        yield SimReader(self, self._vm, exported)


class SimReader:
    """See `nbd.NbdReader`."""

    size_bytes = SIZE

    def __init__(self, hypervisor: SimHypervisor, vm: SimVm, exported: Exported) -> None:
        self._call = hypervisor._call
        self._vm = vm
        kind, number = exported.export.split("-")
        self._number, self._live = int(number), kind == "live"
        self._bitmap = exported.bitmap

    def _data(self) -> bytes | bytearray:
        if self._live:
            return self._vm.disks[self._number]
        assert self._vm.kept is not None, "an image was taken"
        return self._vm.kept[self._number]

    def status(self, offset: int, length: int, context: str) -> Iterator[Status]:
        for at in range(offset, offset + length, BLOCK):
            self._call()
            if context == ALLOCATION:
                is_zero = not any(self._data()[at : at + BLOCK])
                yield Status(at, BLOCK, 2 if is_zero else 0)
            else:
                dirty = self._vm.bitmaps[self._number][self._bitmap].dirty
                yield Status(at, BLOCK, int(at // BLOCK in dirty))

    def read(self, pieces: Iterable[tuple[int, int]]) -> Iterator[tuple[int, bytes]]:
        for at, length in pieces:
            self._call()
            yield at, bytes(self._data()[at : at + length])


class World:
    """An imager over such VMs, and a streamer that is none: cuts, epochs, and what the container comes to.

    The container has a list of cuts; a new epoch may begin at an older one: what came after is gone then.
    """

    def __init__(self, folder: Path, seed: int, vms: int = 1, failing: float = 0.03) -> None:
        self.rng = random.Random(seed)
        self.time = Time()
        self.history: dict[tuple[str, int], list[list[bytes]]] = {}
        self.folder = folder
        self.vms = {f"vm{n}": SimVm(self.rng, self.time, failing) for n in range(vms)}
        self.settings = ImagerSettings(
            folder,
            tuple(
                VmSettings(
                    name,
                    "",
                    tuple(
                        DiskSettings(space_of(at, disk), f"{name}-{disk}", f"d{disk}", SIZE)
                        for disk in range(DISKS)
                    ),
                )
                for at, name in enumerate(self.vms)
            ),
        )
        empty = {disk.space: bytes(SIZE) for vm in self.settings.vms for disk in vm.disks}
        self.cuts: list[tuple[Place, dict[bytes, bytes]]] = [(NOWHERE, empty)]
        self.sent: set[tuple[bytes, int]] = set()
        self.whole = 0
        self.epoch = 0
        self.taken: list[dict[str, list[bytes]]] = []
        (folder / FOLDER).mkdir()
        self.imager = self.new_imager()

    def new_imager(self) -> Imager:
        run = f"{self.rng.randrange(1 << 32):08x}"
        at_instant = self.at_instant

        def open_vm(vm: VmMemory) -> Watched:
            return Watched(self.vms[vm.settings.name], run, at_instant)

        return Imager(self.settings, self.time, self.rng.randbytes, open_vm)  # type: ignore[arg-type]

    def at_instant(self, vm: SimVm) -> None:
        """Note what the disks hold at this time: an image may be of it."""
        name = next(name for name, one in self.vms.items() if one is vm)
        self.history.setdefault((name, self.time.now_ns), []).append([bytes(disk) for disk in vm.disks])

    def begin(self) -> None:
        """A new epoch, at one of the newest cuts."""
        back = self.rng.choice((0, 0, 0, 1, 2))
        while back and self.cuts[-1][0] > self.settled:  # what is protected stays
            back -= 1
            self.cuts.pop()
        self.epoch += 1
        self.sent = set()
        self.base = self.cuts[-1][1]
        with contextlib.suppress(HypervisorFailed):
            self.imager.begin(self.epoch, self.cuts[-1][0])

    def cut(self, taken: Taken, is_sweep: bool) -> None:
        """A cut of what was given; judged where volumes are whole."""
        after = {space: bytearray(data) for space, data in self.cuts[-1][1].items()}
        batch = FileBatch(taken)
        for extent in batch.extents():
            for at in range(extent.offset, extent.offset + extent.length, BLOCK):
                start = at - extent.offset
                data = bytes(BLOCK) if extent.data is None else bytes(extent.data[start : start + BLOCK])
                key = extent.space, at
                is_same = self.base[extent.space][at : at + BLOCK] == data
                if taken.compare and key not in self.sent and is_same:
                    continue  # as the streamer compares it
                self.sent.add(key)
                after[extent.space][at : at + BLOCK] = data
        batch.close()
        number = self.cuts[-1][0].cut + 1 if self.cuts[-1][0].epoch == self.epoch else 1
        place = Place(self.epoch, number, number)
        self.cuts.append((place, {space: bytes(data) for space, data in after.items()}))
        if taken.batch and self.rng.random() < 0.97:
            self.imager.place(taken.batch, self.epoch, number)
        elif taken.batch:
            self.imager.begin(self.epoch, self.settled)  # its word got lost: it begins anew
        if self.rng.random() < 0.5:
            self.imager.protected(self.epoch, number)
            self.settled = place
        if not is_sweep:
            self.judge(taken)

    settled: Place = NOWHERE

    def judge(self, taken: Taken) -> None:
        """Every volume that is called whole is what its disk was at its instant; all of a VM at one."""
        instants = dict(taken.instants)
        for at, (name, _) in enumerate(self.vms.items()):
            spaces = [space_of(at, disk) for disk in range(DISKS)]
            if any(space in taken.not_whole for space in spaces):
                continue
            assert len({instants[space] for space in spaces}) == 1
            held = [self.cuts[-1][1][space] for space in spaces]
            assert held in self.history[name, instants[spaces[0]]], f"{name} is not what it was"
            self.whole += 1

    def step(self) -> None:
        """Something happens."""
        rng = self.rng
        self.time.now_ns += rng.randrange(1, 400_000_000)
        for vm in self.vms.values():
            for _ in range(rng.randrange(2)):
                vm.write()
        kind = rng.random()
        if kind < 0.005:
            rng.choice(list(self.vms.values())).restart()
        elif kind < 0.01:
            self.imager.close()
            self.imager = self.new_imager()
            self.begin_again()
        elif kind < 0.04:
            self.begin()
            self.settled = self.cuts[-1][0]
        elif kind < 0.3:
            self.cut(self.imager.sweep(self.epoch, 0), is_sweep=True)
        elif kind < 0.65:
            self.imager.image()
        else:
            since_ns = rng.choice((0, 0, self.time.now_ns))
            self.cut(self.imager.take(self.epoch, 0, False, since_ns), is_sweep=False)

    def begin_again(self) -> None:
        """The streamer tells a new imager of the epoch that goes on."""
        self.imager.begin(self.epoch, self.settled)


class Watched(SimHypervisor):
    """One of which the times are noted that an image may be of."""

    def __init__(self, vm: SimVm, run: str, at_instant: Callable[[SimVm], None]) -> None:
        self._at_instant = at_instant
        super().__init__(vm, run)

    def disks(self) -> Disks:
        self._call()
        found = super_disks(self)
        self._at_instant(self._vm)
        return found

    def instant(self, nodes: Mapping[str, int], old: str, new: str) -> None:
        self._call()
        self._at_instant(self._vm)
        self._vm.kept = [bytes(disk) for disk in self._vm.disks]
        for node in nodes:
            bitmaps = self._vm.bitmaps[int(node[-1])]
            bitmaps[new] = Bitmap()
            bitmaps[old].recording = False
        self._call()


def super_disks(hypervisor: SimHypervisor) -> Disks:
    """What `disks` gives, without a call that may fail."""
    return Disks(
        {
            f"d{number}": Found(
                f"node{number}",
                SIZE,
                {name: len(one.dirty) * BLOCK for name, one in bitmaps.items() if one.recording},
                {name: len(one.dirty) * BLOCK for name, one in bitmaps.items() if not one.recording},
            )
            for number, bitmaps in enumerate(hypervisor._vm.bitmaps)
        }
    )


def space_of(vm: int, disk: int) -> bytes:
    """The id of a disk's volume."""
    return bytes([0xD0 + vm, disk]) * 8


def small(patch: pytest.MonkeyPatch, instant: int = 8 * BLOCK, leisure: int = 16 * BLOCK) -> None:
    """Limits that such disks come to."""
    patch.setattr(rounds, "INSTANT_BYTES_MAX", instant)
    patch.setattr(rounds, "CYCLE_BYTES_MAX", 2 * instant)
    patch.setattr(rounds, "LEISURE_BYTES_MAX", leisure)
    patch.setattr(rounds, "PIECE_BYTES", 5 * BLOCK)
