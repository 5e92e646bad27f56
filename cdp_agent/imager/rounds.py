"""A cycle over all VMs, and a part of what is read at leisure: connections, deadlines, what fails.

A VM that fails costs the others nothing but its deadline: it is left alone for a while, longer each time.
VMs are read one after the other, and what waits is watched meanwhile: one whose guest overwrites much, or
whose time is over, is let go of at once, whoever is slow.
Over several VMs the instants are as close as their answers are: all are asked at once. What becomes of what
was read does not belong here (`core`), nor the steps over one VM (`cycle`).
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Final, TypeVar

from cdp_agent.imager import cycle
from cdp_agent.imager.hypervisor import Exported, Hypervisor
from cdp_agent.imager.memory import DiskMemory, Instant, VmMemory
from cdp_agent.imager.ranges import split
from cdp_agent.watcher.client import SWEEP_SECONDS_MAX
from cdp_container.clock import Clock
from cdp_container.errors import CdpError, HypervisorFailed
from cdp_container.format.layout import ExtentKind
from cdp_container.format.segment import NewExtent

INSTANT_BYTES_MAX: Final = 128 << 20
"""What one cycle reads of one VM as of an instant: while it does, what the guest overwrites is kept."""
CYCLE_BYTES_MAX: Final = 256 << 20
"""What one cycle reads of all VMs; the others come in the next one."""
LEISURE_BYTES_MAX: Final = 64 << 20
"""Content of one part that is read at leisure."""
PIECE_BYTES: Final = 16 << 20
"""Of a first reading, between two looks at the limits."""
ASKED_AT_ONCE: Final = 16
AGAIN_FIRST_NS: Final = 1_000_000_000
WATCH_SECONDS: Final = 0.05
"""Between two looks at VMs that wait to be read: no guest overwrites FLEECE_KEPT_BYTES in it."""
DOUBLINGS_MAX: Final = 5
"""A VM that does not answer is asked again after a second, and after half a minute in the end."""

One = TypeVar("One")
Result = TypeVar("Result")
OpenVm = Callable[[VmMemory], Hypervisor]


@dataclass(slots=True)
class Opened:
    """A VM that is connected and attended. `looked`: before it was looked at.

    `lock`: held by whoever talks to its QEMU while others may, too.
    """

    vm: VmMemory
    hypervisor: Hypervisor
    open_vm: OpenVm
    clock: Clock
    looked: Instant
    is_left: bool = False
    lock: threading.Lock = field(default_factory=threading.Lock)

    def failed(self, error: CdpError) -> None:
        """It is told, and not tried again at once."""
        note_failure(self.vm, error, self.clock)

    def leave(self) -> None:
        """Take away what is in the QEMU, and let go of it."""
        if self.is_left:
            return
        self.is_left = True
        try:
            if not self.vm.is_clean:
                self._clean()
        except CdpError as error:
            self.failed(error)
        finally:
            self.hypervisor.close()

    def _clean(self) -> None:
        """Over another connection where this one failed, or its time is over. Raises HypervisorFailed."""
        if self.hypervisor.is_usable:
            try:
                self.hypervisor.clean([self.hypervisor.bitmap(n) for n in self.vm.bitmaps])
            except CdpError:
                if self.hypervisor.is_usable:
                    raise
        if not self.hypervisor.is_usable:
            self.hypervisor.close()
            self.hypervisor = self.open_vm(self.vm)
            self.hypervisor.clean([self.hypervisor.bitmap(n) for n in self.vm.bitmaps])
        self.vm.cleaned()

    def give_up(self) -> None:
        """If it cannot wait any longer to be read, and nobody reads it. It fails, and the others go on."""
        if not self.lock.acquire(blocking=False):
            return
        try:
            if self.is_left:
                return
            cycle.refuse_crowded(self.hypervisor)
            if not self.hypervisor.is_usable:
                raise HypervisorFailed("reading an image", "its turn did not come in time: others are slow")
        except CdpError as error:
            self.failed(error)
            self.leave()
        finally:
            self.lock.release()


class Watch:
    """Looks at VMs of which images are kept, until it is told to stop: see `Opened.give_up`."""

    def __init__(self, held: Sequence[Opened]) -> None:
        self._held = held
        self._stopping = threading.Event()
        self._threads = [threading.Thread(target=self._look, args=(one,), daemon=True) for one in held]
        for thread in self._threads:
            thread.start()

    def _look(self, opened: Opened) -> None:
        # Each in a thread of its own: to let go of one may take long.
        while not opened.is_left and not self._stopping.wait(WATCH_SECONDS):
            opened.give_up()

    def stop(self) -> None:
        """Nobody else talks to them from here on."""
        self._stopping.set()
        for thread in self._threads:
            thread.join()


def note_failure(vm: VmMemory, error: CdpError, clock: Clock) -> None:
    """Why it cannot be captured, and when it is tried again."""
    vm.problem = f"{error.why}; {error.hint}" if error.hint else error.why
    vm.again_ns = clock.boottime_ns() + (AGAIN_FIRST_NS << min(vm.failures, DOUBLINGS_MAX))
    vm.let_go_ns = clock.boottime_ns() + AGAIN_FIRST_NS
    vm.failures += 1


def open_all(vms: Sequence[VmMemory], open_vm: OpenVm, clock: Clock) -> list[Opened]:
    """Those that can be asked now, and answer; of the others it is noted why not."""
    now_ns = clock.boottime_ns()

    def open_one(vm: VmMemory) -> Opened | None:
        looked = Instant(clock.wall_ns(), clock.boottime_ns(), True)
        try:
            hypervisor = open_vm(vm)
        except CdpError as error:
            note_failure(vm, error, clock)
            return None
        opened = Opened(vm, hypervisor, open_vm, clock, looked)
        try:
            ran = hypervisor.is_running()
            cycle.attend(hypervisor, vm)
            opened.looked = looked._replace(ran=ran or hypervisor.is_running())
        except CdpError as error:
            opened.failed(error)
            vm.is_clean = False
            opened.is_left = True
            hypervisor.close()
            return None
        return opened

    due = [vm for vm in vms if vm.again_ns <= now_ns]
    return [opened for opened in at_once(open_one, due) if opened is not None]


def let_go(vms: Sequence[VmMemory], open_vm: OpenVm, clock: Clock) -> None:
    """Take away backup jobs that may be in QEMUs, however long these are not to be captured; bitmaps stay."""
    now_ns = clock.boottime_ns()

    def clean(vm: VmMemory) -> None:
        try:
            with contextlib.closing(open_vm(vm)) as hypervisor:
                hypervisor.clean([hypervisor.bitmap(n) for n in vm.bitmaps])
        except CdpError:
            vm.let_go_ns = clock.boottime_ns() + AGAIN_FIRST_NS
        else:
            vm.cleaned()
            vm.again_ns = 0  # it answers again

    at_once(clean, [vm for vm in vms if vm.may_keep and vm.let_go_ns <= now_ns])


def clear_all(vms: Sequence[VmMemory], open_vm: OpenVm) -> bool:
    """Take everything of ours out of these, bitmaps too; whether all of them answered."""

    def clean(vm: VmMemory) -> bool:
        vm.forget()
        vm.is_clean = False
        try:
            with contextlib.closing(open_vm(vm)) as hypervisor:
                hypervisor.clean()
        except CdpError:
            return False
        vm.cleaned()
        return True

    return all(at_once(clean, vms))


def at_once(do: Callable[[One], Result], them: Sequence[One]) -> list[Result]:
    """The same with all of them, side by side; results in their order."""
    if len(them) <= 1:
        return [do(one) for one in them]
    with ThreadPoolExecutor(min(ASKED_AT_ONCE, len(them)), "vm") as pool:
        return list(pool.map(do, them))


class Cycle:
    """Images of all VMs that can be had, as one batch. Made: the instants are over; `extents` reads them.

    Attributes:
        instants: of VMs whose image is whole in the batch, once `extents` was read to its end.
        partial: VMs of which the batch holds a part of an image.
        leisure: VMs of which more is to be read than a cycle takes.
    """

    def __init__(self, batch: int, vms: Sequence[VmMemory], open_vm: OpenVm, clock: Clock) -> None:
        self._batch = batch
        self._clock = clock
        self.instants: dict[str, Instant] = {}
        self.partial: set[str] = set()
        self.leisure: set[str] = set()
        self._left_bytes = CYCLE_BYTES_MAX
        first = batch % max(1, len(vms))
        self._opened = open_all([*vms[first:], *vms[:first]], open_vm, clock)
        taken: list[Opened] = []
        left_bytes = CYCLE_BYTES_MAX
        for opened in self._opened:
            vm = opened.vm
            if not vm.is_read or vm.doubtful_bytes > INSTANT_BYTES_MAX:
                self.leisure.add(vm.settings.name)
            elif not vm.doubtful_bytes:
                self.instants[vm.settings.name] = opened.looked
                _went_well(vm)
            elif vm.doubtful_bytes <= left_bytes:
                left_bytes -= vm.doubtful_bytes
                taken.append(opened)
        for opened in self._opened:
            if opened not in taken:
                opened.leave()
        self._watch = Watch(taken)
        found = at_once(self._instant, taken)
        self._held = [(opened, instant) for opened, instant in zip(taken, found, strict=True) if instant]

    def _instant(self, opened: Opened) -> Instant | None:
        with opened.lock:
            try:
                if opened.is_left:
                    return None
                return cycle.take_instant(opened.hypervisor, opened.vm, self._clock)
            except CdpError as error:
                opened.failed(error)
                opened.vm.is_clean = False
                opened.leave()
                return None

    def extents(self) -> Generator[NewExtent, None, None]:
        """What changed, of one space together. What fails of a VM is noted, and the others go on."""
        for opened, instant in self._held:
            with opened.lock:
                if not opened.is_left:
                    yield from self._of(opened, instant)

    def _of(self, opened: Opened, instant: Instant) -> Iterator[NewExtent]:
        vm = opened.vm
        try:
            exported = cycle.learn(opened.hypervisor, vm, live=False)
            if not self._fits(vm):
                cycle.end(opened.hypervisor, vm)
                opened.leave()
                return
            for disk, one in zip(vm.disks, exported, strict=True):
                with opened.hypervisor.reading(one) as reader:
                    for extent in cycle.read_extents(opened.hypervisor, disk, reader, disk.doubt):
                        self.partial.add(vm.settings.name)
                        yield extent
            cycle.end(opened.hypervisor, vm)
        except CdpError as error:
            opened.failed(error)
            opened.leave()
            return
        for disk in vm.disks:
            disk.give(self._batch, disk.doubt)
            disk.doubt = []
        self.partial.discard(vm.settings.name)
        self.instants[vm.settings.name] = instant
        _went_well(vm)
        opened.leave()

    def _fits(self, vm: VmMemory) -> bool:
        """Whether what is to be read of it still does: more may be dirty than was counted before."""
        if vm.doubt_bytes > INSTANT_BYTES_MAX:
            self.leisure.add(vm.settings.name)
            return False
        self._left_bytes -= vm.doubt_bytes
        return self._left_bytes >= 0

    def fail(self, why: str) -> None:
        """What was read is lost: all of it is in doubt again."""
        for opened in self._opened:
            if opened.vm.undo({self._batch}):
                self.instants.pop(opened.vm.settings.name, None)
                opened.failed(HypervisorFailed("keeping an image", why))
        self.partial.clear()

    def close(self) -> None:
        """Let go of all QEMUs."""
        self._watch.stop()
        for opened in self._opened:
            opened.leave()


class Leisure:
    """A part of what is read at no instant: first readings, and what is too much for a cycle.

    Attributes:
        touched: VMs of which the batch has something.
        left: VMs of which there is more.
    """

    def __init__(self, batch: int, vms: Sequence[VmMemory], open_vm: OpenVm, clock: Clock) -> None:
        self._batch = batch
        self._clock = clock
        self.touched: set[str] = set()
        self.left: set[str] = set()
        self._until_ns = clock.boottime_ns() + int(SWEEP_SECONDS_MAX * 1e9)
        self._left_bytes = LEISURE_BYTES_MAX
        self._opened = open_all(vms, open_vm, clock)

    def extents(self) -> Generator[NewExtent, None, None]:
        """See `Cycle.extents`."""
        for opened in self._opened:
            vm = opened.vm
            if vm.is_read and vm.doubtful_bytes <= INSTANT_BYTES_MAX:
                opened.leave()
                continue
            try:
                if self._goes_on:
                    yield from self._of(opened)
                    cycle.end(opened.hypervisor, vm)
                if not vm.is_read or vm.doubt_bytes > INSTANT_BYTES_MAX:
                    self.left.add(vm.settings.name)
                _went_well(vm)
            except CdpError as error:
                opened.failed(error)
            opened.leave()

    @property
    def _goes_on(self) -> bool:
        return self._left_bytes > 0 and self._clock.boottime_ns() < self._until_ns

    def _of(self, opened: Opened) -> Iterator[NewExtent]:
        vm, hypervisor = opened.vm, opened.hypervisor
        if vm.is_read and not vm.doubt_bytes:
            cycle.swap(hypervisor, vm)
            exported = cycle.learn(hypervisor, vm, live=True)
        else:
            exported = hypervisor.export([disk.node for disk in vm.disks], "", live=True)
        for disk, one in zip(vm.disks, exported, strict=True):
            reads = self._first(opened, disk, one) if not disk.is_read else self._doubt(opened, disk, one)
            for extent in reads:
                self.touched.add(vm.settings.name)
                self._left_bytes -= extent.length if extent.kind is ExtentKind.DATA else 0
                yield extent

    def _first(self, opened: Opened, disk: DiskMemory, one: Exported) -> Iterator[NewExtent]:
        start = disk.read_to
        try:
            with opened.hypervisor.reading(one) as reader:
                while not disk.is_read and self._goes_on:
                    stop = min(disk.settings.size_bytes, disk.read_to + PIECE_BYTES)
                    yield from cycle.read_extents(opened.hypervisor, disk, reader, [(disk.read_to, stop)])
                    disk.read_to = stop
        finally:
            disk.give(self._batch, [(start, disk.read_to)] if disk.read_to > start else [], first=True)

    def _doubt(self, opened: Opened, disk: DiskMemory, one: Exported) -> Iterator[NewExtent]:
        now, rest = split(disk.doubt, max(0, self._left_bytes))
        with opened.hypervisor.reading(one) as reader:
            yield from cycle.read_extents(opened.hypervisor, disk, reader, now)
        disk.give(self._batch, now)
        disk.doubt = rest

    def fail(self, why: str) -> None:
        """See `Cycle.fail`."""
        for opened in self._opened:
            if opened.vm.undo({self._batch}):
                opened.failed(HypervisorFailed("keeping what was read", why))

    def close(self) -> None:
        """See `Cycle.close`."""
        for opened in self._opened:
            opened.leave()


def _went_well(vm: VmMemory) -> None:
    vm.problem, vm.failures, vm.again_ns = "", 0, 0
