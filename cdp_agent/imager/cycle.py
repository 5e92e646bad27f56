"""One cycle over one VM: what its QEMU is found with, an instant of all its disks, and what is read of them.

Steps over a `Hypervisor` that is connected and the VM's `VmMemory`; each leaves the memory true whatever
fails in it: what may have been written is in a bitmap, or in doubt. When a cycle is due, and what becomes of
what was read, does not belong here (`core`).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final

from cdp_agent.imager.hypervisor import Disks, Exported, Found, Hypervisor, dirty_context
from cdp_agent.imager.memory import DiskMemory, Instant, VmMemory
from cdp_agent.imager.nbd import ALLOCATION, READ_BYTES_MAX, STATE_DIRTY, STATE_ZERO, NbdReader, Status
from cdp_agent.imager.ranges import Range, gathered
from cdp_agent.imager.settings import GRANULARITY_BYTES
from cdp_agent.streamer.payloads import is_zero
from cdp_container.clock import Clock
from cdp_container.errors import HypervisorFailed
from cdp_container.format.layout import ExtentKind
from cdp_container.format.limits import EXTENT_DATA_BYTES_MAX, EXTENT_VOID_BYTES_MAX
from cdp_container.format.segment import NewExtent

ASKED_BYTES_MIN: Final = 256 << 10
"""Of longer ranges it is asked what of them is zeros; shorter ones are read at once."""
LEARNT_STATES_MAX: Final = 1 << 20
"""Runs of dirty and of clean bytes that are heard of one VM: some seconds. Of a disk with more, what follows
is taken for dirty: lists of so many ranges would come to cover most of it anyway."""


def attend(hypervisor: Hypervisor, vm: VmMemory) -> None:
    """See what is there, and that it is what we know; else bitmaps begin anew, and nothing is known.

    `vm.doubtful_bytes` is what a cycle would read then.

    Raises HypervisorFailed; where a disk is not there, or not as large as it was, or the guest is in another
    QEMU, the message says so.
    """
    _refuse_elsewhere(hypervisor, vm)
    if not vm.is_clean:
        hypervisor.clean([hypervisor.bitmap(n) for n in vm.bitmaps])
        vm.may_keep = False
    vm.is_clean = False
    found = _disks(hypervisor, vm)
    if not _goes_on(hypervisor, vm, found):
        vm.forget()
        hypervisor.clean()
        fresh = vm.fresh_bitmap()
        hypervisor.begin_bitmaps(
            [found[disk.settings.disk].node for disk in vm.disks], hypervisor.bitmap(fresh)
        )
        for disk in vm.disks:
            disk.node = found[disk.settings.disk].node
        vm.bitmap = fresh
    # Anew: what was merged, or begun, counts.
    found = _disks(hypervisor, vm)
    name = hypervisor.bitmap(vm.bitmap)
    dirty = sum(found[disk.settings.disk].recording.get(name, 0) for disk in vm.disks)
    vm.doubtful_bytes = dirty + vm.doubt_bytes


def _refuse_elsewhere(hypervisor: Hypervisor, vm: VmMemory) -> None:
    """A QEMU that was migrated away goes on to answer, and its bitmaps to record: nothing."""
    if not hypervisor.is_elsewhere():
        return
    vm.forget()
    with contextlib.suppress(HypervisorFailed):  # what matters is why
        hypervisor.clean()
    why = "its guest runs, or will run, in another QEMU"
    hint = "after a migration let `qmp` of the VM lead to the QEMU that it came to"
    raise HypervisorFailed(f"capturing VM {vm.settings.name}", why, hint)


def _disks(hypervisor: Hypervisor, vm: VmMemory) -> Disks:
    found = hypervisor.disks()
    what = f"capturing VM {vm.settings.name}"
    for disk in vm.disks:
        name, size_bytes = disk.settings.disk, disk.settings.size_bytes
        if name not in found:
            vm.forget()
            raise HypervisorFailed(what, *found.without(name))
        if found[name].size_bytes != size_bytes:
            vm.forget()
            why = f"disk {name} has {found[name].size_bytes} bytes, and had {size_bytes}"
            raise HypervisorFailed(what, why, "`cdp-agent reload` takes over that a disk grew")
    return found


def _goes_on(hypervisor: Hypervisor, vm: VmMemory, found: Mapping[str, Found]) -> bool:
    """Whether a bitmap of ours recorded all that was written since the last cycle."""
    if not vm.bitmap:
        return False
    of = [found[disk.settings.disk] for disk in vm.disks]
    if [one.node for one in of] != [disk.node for disk in vm.disks]:
        return False
    now = hypervisor.bitmap(vm.bitmap)
    if vm.next_bitmap:
        after = hypervisor.bitmap(vm.next_bitmap)
        if all(after in one.recording and now in one.stopped for one in of):
            # The instant came, and nobody read what the old one says.
            hypervisor.merge_bitmaps([disk.node for disk in vm.disks], now, after)
            vm.bitmap, vm.next_bitmap = vm.next_bitmap, 0
            return True
    vm.next_bitmap = 0
    return all(now in one.recording for one in of)


def take_instant(hypervisor: Hypervisor, vm: VmMemory, clock: Clock) -> Instant:
    """From here on an image of all disks is kept, until the cycle ends. Raises HypervisorFailed."""
    nodes = {disk.node: disk.settings.size_bytes for disk in vm.disks}
    vm.next_bitmap = vm.fresh_bitmap()
    # Before: what a guest was told to be written until now is in the image. It ran, though it may be stopped
    # by now: something was written since the last image.
    instant = Instant(clock.wall_ns(), clock.boottime_ns(), ran=True)
    vm.may_keep = True
    hypervisor.instant(nodes, hypervisor.bitmap(vm.bitmap), hypervisor.bitmap(vm.next_bitmap))
    _refuse_elsewhere(hypervisor, vm)  # what is kept now may be older than the instant
    return instant


def swap(hypervisor: Hypervisor, vm: VmMemory) -> None:
    """What is dirty until now is to be read as it is then; what is written from here on comes later."""
    vm.next_bitmap = vm.fresh_bitmap()
    nodes = [disk.node for disk in vm.disks]
    hypervisor.swap_bitmaps(nodes, hypervisor.bitmap(vm.bitmap), hypervisor.bitmap(vm.next_bitmap))


def learn(hypervisor: Hypervisor, vm: VmMemory, live: bool) -> Sequence[Exported]:
    """Put what the stopped bitmap says in doubt, and give what it can be read from, in the order of disks."""
    old = hypervisor.bitmap(vm.bitmap)
    exported = hypervisor.export([disk.node for disk in vm.disks], old, live)
    dirty: list[list[Range]] = []
    states_max = LEARNT_STATES_MAX // len(vm.disks)
    for disk, one in zip(vm.disks, exported, strict=True):
        with hypervisor.reading(one) as reader:
            if reader.size_bytes != disk.settings.size_bytes:
                raise HypervisorFailed(
                    f"capturing VM {vm.settings.name}", "a disk changed its size meanwhile"
                )
            states = reader.status(0, reader.size_bytes, dirty_context(old))
            found = _dirty(hypervisor, states, reader.size_bytes, states_max)
            dirty.append(gathered(found, GRANULARITY_BYTES, reader.size_bytes))
    for disk, ranges in zip(vm.disks, dirty, strict=True):
        disk.put_in_doubt(ranges)
    vm.bitmap, vm.next_bitmap = vm.next_bitmap, 0
    return exported


def _dirty(
    hypervisor: Hypervisor, states: Iterable[Status], size_bytes: int, states_max: int
) -> Iterator[Range]:
    for number, (at, length, flags) in enumerate(states):
        refuse_crowded(hypervisor)
        if number >= states_max:
            yield at, size_bytes
            return
        if flags & STATE_DIRTY:
            yield at, at + length


def refuse_crowded(hypervisor: Hypervisor) -> None:
    """Raises HypervisorFailed where the image must be given up before its room is used up."""
    if hypervisor.is_crowded:
        why = "its guest overwrites more during a cycle than there is room for (FLEECE_BYTES_MAX)"
        raise HypervisorFailed("reading an image", why)


def end(hypervisor: Hypervisor, vm: VmMemory) -> None:
    """Take all of the cycle away again, and see that the disks are still what they were."""
    hypervisor.clean([hypervisor.bitmap(vm.bitmap)])
    vm.cleaned()
    found = _disks(hypervisor, vm)
    if [found[disk.settings.disk].node for disk in vm.disks] != [disk.node for disk in vm.disks]:
        vm.forget()
        raise HypervisorFailed(f"capturing VM {vm.settings.name}", "its disks were changed amid a cycle")


def read_extents(
    hypervisor: Hypervisor, disk: DiskMemory, reader: NbdReader, ranges: Sequence[Range]
) -> Iterator[NewExtent]:
    """The content of these ranges, in order. Raises HypervisorFailed."""
    space = disk.settings.space
    zeros: Range | None = None
    for start, stop, data in _pieces(reader, ranges):
        refuse_crowded(hypervisor)
        for low, high, part in _extents(start, stop, data):
            if part is None and zeros is not None and zeros[1] == low:
                zeros = zeros[0], high
                continue
            yield from _void(space, zeros)
            zeros = (low, high) if part is None else None
            if part is not None:
                yield NewExtent(space, low, high - low, ExtentKind.DATA, part)
    yield from _void(space, zeros)


def _pieces(reader: NbdReader, ranges: Sequence[Range]) -> Iterator[tuple[int, int, bytes | None]]:
    """Ranges that are zeros, and others with their bytes, in order."""
    short: list[Range] = []
    for start, stop in ranges:
        if stop - start < ASKED_BYTES_MIN:
            short.append((start, stop))
            continue
        yield from _read(reader, short)
        short = []
        for at, length, flags in reader.status(start, stop - start, ALLOCATION):
            if flags & STATE_ZERO:
                yield at, at + length, None
            else:
                yield from _read(reader, [(at, at + length)])
    yield from _read(reader, short)


def _read(reader: NbdReader, ranges: Sequence[Range]) -> Iterator[tuple[int, int, bytes]]:
    asked = (
        (at, min(stop, at - at % READ_BYTES_MAX + READ_BYTES_MAX) - at)
        for start, stop in ranges
        for at in _starts(start, stop)
    )
    for at, data in reader.read(asked):
        yield at, at + len(data), data


def _starts(start: int, stop: int) -> Iterator[int]:
    """Where reads of a range begin: at multiples of READ_BYTES_MAX, but the first."""
    while start < stop:
        yield start
        start += READ_BYTES_MAX - start % READ_BYTES_MAX


def _extents(start: int, stop: int, data: bytes | None) -> Iterator[tuple[int, int, memoryview | None]]:
    if data is None:
        yield start, stop, None
        return
    view = memoryview(data)
    at = start
    while at < stop:
        high = min(stop, at - at % EXTENT_DATA_BYTES_MAX + EXTENT_DATA_BYTES_MAX)
        part = view[at - start : high - start]
        yield at, high, None if is_zero(part) else part
        at = high


def _void(space: bytes, zeros: Range | None) -> Iterator[NewExtent]:
    if zeros is None:
        return
    for at in range(zeros[0], zeros[1], EXTENT_VOID_BYTES_MAX):
        yield NewExtent(space, at, min(EXTENT_VOID_BYTES_MAX, zeros[1] - at), ExtentKind.ZERO)
