"""The imager without its process: cycles over VMs, and what each request of the streamer is answered with.

Two threads: one answers requests and never waits for a QEMU in a `take`; the other makes images, one cycle
after the other. What a cycle read waits, as a batch in a file, until a take hands it over; meanwhile no other
cycle is begun: QEMU's bitmaps keep what is written. Sockets and signals do not belong here (`process`), nor
what one cycle over one VM does (`cycle`).
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import traceback
from collections.abc import Callable, Generator, Iterable
from pathlib import Path
from typing import Any, BinaryIO, Final, NamedTuple

from cdp_agent.imager.hypervisor import Hypervisor
from cdp_agent.imager.memory import Instant, VmMemory, memory_of
from cdp_agent.imager.rounds import AGAIN_FIRST_NS, Cycle, Leisure, clear_all, let_go
from cdp_agent.imager.settings import ImagerSettings
from cdp_agent.watcher.batch import BatchFacts, write_batch
from cdp_agent.watcher.client import Taken
from cdp_agent.watcher.page import Page, PageWriter
from cdp_container.clock import Clock
from cdp_container.errors import WatcherFailed
from cdp_container.format.place import NOWHERE, Place
from cdp_container.format.segment import NewExtent

FOLDER: Final = "imager"
"""In the journal directory: the page, sockets for reading, and files without names."""
RAN_NS: Final = 1_000_000_000
"""For so long it is shown that a guest ran, or wrote, however soon it is still again: who looks sees it."""


class Waiting(NamedTuple):
    """What a cycle read: a batch with its file, and the instants of VMs; `partial`: VMs without one now."""

    batch: int
    file: BinaryIO | None
    facts: BatchFacts | None
    instants: dict[str, Instant]
    partial: frozenset[str]
    seen_ns: int


class Imager:
    """Everything of one process. See `server.Served`.

    Args:
        settings: which VMs, and where.
        clock: of the machine.
        entropy: for names in QEMUs, and the page's generation.
        open_vm: gives a connection to a VM's QEMU for one cycle. Raises HypervisorFailed.
    """

    def __init__(
        self,
        settings: ImagerSettings,
        clock: Clock,
        entropy: Callable[[int], bytes],
        open_vm: Callable[[VmMemory], Hypervisor],
    ) -> None:
        self._settings = settings
        self._clock = clock
        self._open_vm = open_vm
        self.vms = [memory_of(vm) for vm in settings.vms]
        self._folder: Path = settings.directory / FOLDER
        self._page = PageWriter(settings.directory, FOLDER)
        self._generation = int.from_bytes(entropy(8), "little") or 1
        self._busy = threading.Lock()
        """Held by whoever talks to QEMUs, or changes what is remembered of them."""
        self._lock = threading.Lock()
        """For what follows; held for moments only."""
        self._epoch = 0
        self._base = NOWHERE
        self._settled = NOWHERE
        self._ready = False
        self._changes = 0
        self._batch = 0
        self._places: dict[int, tuple[int, int]] = {}
        self._waiting: Waiting | None = None
        self._told: dict[str, Instant] = {}
        self._told_lacking: frozenset[str] = frozenset()
        self._leisure: frozenset[str] = frozenset()
        self._due_ns = 0
        self._ran_ns = -RAN_NS
        self._shown_page: Page | None = None
        self._last: dict[str, Any] = {}
        self._stopping = threading.Event()
        self._wake = threading.Event()
        self._thread: threading.Thread | None = None
        self._publish()

    # --- the thread that makes images ----------------------------------------------------------

    def start(self) -> None:
        """Begin to make images in a thread of its own, once an epoch is begun."""
        self._thread = threading.Thread(target=self._work, name="images", daemon=True)
        self._thread.start()

    def close(self) -> bool:
        """Make no more; what is left in QEMUs is taken away. Whether it was, everywhere."""
        self._stopping.set()
        self._wake.set()
        if self._thread is not None:
            self._thread.join()
        with self._busy:
            self._discard()
            # Those that failed a moment ago, too; the next process knows nothing of our bitmaps.
            is_clear = clear_all([vm for vm in self.vms if vm.bitmap or not vm.is_clean], self._open_vm)
        self._page.close()
        return is_clear

    def _work(self) -> None:
        while not self._stopping.is_set():
            left_ns = self._due_ns - self._clock.boottime_ns()
            if left_ns > 0:
                self._wake.wait(min(left_ns / 1e9, self._settings.every_seconds))
                self._wake.clear()
            else:
                try:
                    self.image()
                except BaseException:  # noqa: BLE001  whatever it is
                    # Nobody knows what became of what was read: the process ends, and the next one reads all.
                    # Its guard takes away what is in QEMUs.
                    sys.stderr.write(f"error: the imager cannot go on:\n{traceback.format_exc()}")
                    sys.stderr.flush()
                    os._exit(1)

    def image(self) -> None:
        """One cycle over all VMs, if nothing of the last one waits; what it read waits then."""
        began_ns = self._clock.boottime_ns()
        with self._busy:
            self._due_ns = began_ns + int(self._settings.every_seconds * 1e9)
            let_go(self.vms, self._open_vm, self._clock)  # also while no image is due
            with self._lock:
                is_due = self._ready and self._waiting is None
            if is_due:
                self._settle()
                self._image(began_ns)
            if any(vm.may_keep for vm in self.vms):
                self._due_ns = min(self._due_ns, self._clock.boottime_ns() + AGAIN_FIRST_NS)
        self._publish()

    def _image(self, began_ns: int) -> None:
        self._batch += 1
        round_ = Cycle(self._batch, self.vms, self._open_vm, self._clock)
        seen_ns = self._clock.wall_ns()
        file: BinaryIO | None = None
        facts: BatchFacts | None = None
        try:
            file, facts = self._written(round_.extents())
        except OSError as error:
            round_.fail(f"what was read cannot be kept: {error.strerror or error}")
        except BaseException as error:
            # Also of other VMs, whose bitmaps have moved on: what is in no batch must be in doubt again.
            round_.fail(str(error))
            raise
        finally:
            round_.close()
        with self._lock:
            self._leisure = frozenset(round_.leisure)
            if facts is None or not facts.extents:
                if file is not None:
                    file.close()
                self._tell(round_.instants, frozenset())
            else:
                partial = frozenset(round_.partial)
                self._waiting = Waiting(self._batch, file, facts, round_.instants, partial, seen_ns)
            if self._waiting is not None or self._leisure or self._lacking(0) != self._told_lacking:
                self._changes += 1
        self._last = {
            "seconds": round((self._clock.boottime_ns() - began_ns) / 1e9, 4),
            "content_bytes": 0 if facts is None else facts.content_bytes,
            "extents": 0 if facts is None else facts.extents,
        }

    def _written(self, extents: Generator[NewExtent, None, None]) -> tuple[BinaryIO, BatchFacts]:
        # Whatever fails: who reads has noted how far it came before this is undone.
        with contextlib.closing(extents):
            return self._in_file(extents)

    def _in_file(self, extents: Iterable[NewExtent]) -> tuple[BinaryIO, BatchFacts]:
        fd = os.open(self._folder, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
        file = os.fdopen(fd, "w+b")
        try:
            facts = write_batch(file, self._batch, (), extents)
        except BaseException:
            file.close()
            raise
        return file, facts

    # --- requests ------------------------------------------------------------------------------

    def begin(self, epoch: int, base: Place) -> None:
        """See `WatcherClient.begin`. A base that is none of ours: all is read, and compared with it."""
        with self._busy:
            self._discard()
            with self._lock:
                known = self._epoch != 0 and (base.epoch == self._epoch or base == self._base)
                # What is protected was forgotten here: a base before that lacks it.
                known = known and (self._settled.epoch, self._settled.cut) <= (base.epoch, base.cut)
                within = {batch for batch, place in self._places.items() if place <= (base.epoch, base.cut)}
                self._places.clear()
                self._epoch, self._base, self._ready = epoch, base, True
                for vm in self.vms:
                    vm.settle(within)
                    is_undone = vm.undo_all()
                    if not known:
                        vm.forget()
                    # What is not read was forgotten, perhaps with what it gave to a cut that never came.
                    if is_undone or not vm.is_read:
                        self._told.pop(vm.settings.name, None)
                self._changes += 1
                self._due_ns = 0
        self._wake.set()
        self._publish()

    def take(self, epoch: int, cut: int, hold: bool, since_ns: int) -> Taken:
        """See `WatcherClient.take`: what the last cycle read, at once. Raises WatcherFailed."""
        with self._lock:
            self._refuse_other(epoch)
            waiting, self._waiting = self._waiting, None
            if waiting is not None:
                self._tell(waiting.instants, waiting.partial)
            lacking = self._lacking(since_ns)
            self._told_lacking = self._lacking(0)
            taken = self._taken(waiting, lacking, compare=False, more=self._is_more(lacking))
        self._publish()
        return taken

    def sweep(self, epoch: int, cut: int) -> Taken:
        """See `WatcherClient.sweep`: what takes long is read; or another image made, where nothing does."""
        with self._busy:
            with self._lock:
                self._refuse_other(epoch)
            self._discard()
            self._settle()
            self._batch += 1
            leisure = Leisure(self._batch, self.vms, self._open_vm, self._clock)
            seen_ns = self._clock.wall_ns()
            try:
                file, facts = self._written(leisure.extents())
            except OSError as error:
                leisure.fail(str(error))
                raise WatcherFailed("nothing can be swept", error.strerror or str(error)) from error
            except BaseException as error:
                leisure.fail(str(error))
                raise
            finally:
                leisure.close()
            with self._lock:
                self._leisure = frozenset(leisure.left)
                self._tell({}, frozenset(leisure.touched))
            if facts.extents:
                waiting = Waiting(self._batch, file, facts, {}, frozenset(), seen_ns)
                with self._lock:
                    taken = self._taken(waiting, self._lacking(0), compare=True, more=bool(leisure.left))
                self._publish()
                return taken
            file.close()
        self.image()
        with self._lock:
            return self._taken(None, self._lacking(0), compare=False, more=False)

    def place(self, batch: int, epoch: int, cut: int) -> None:
        """See `WatcherClient.place`. In memory alone: a new process reads all anew."""
        with self._lock:
            self._refuse_other(epoch)
            self._places[batch] = (epoch, cut)

    def protected(self, epoch: int, cut: int) -> None:
        """See `WatcherClient.protected`."""
        with self._lock:
            self._settled = Place(epoch, cut, 1)

    def asked(self, request: dict[str, Any]) -> dict[str, Any] | None:
        """See `Served.asked`."""
        return None

    def idle(self) -> bool:
        """See `Served.idle`: the other thread works."""
        self._publish()
        return False

    def status(self) -> dict[str, Any]:
        """For `status`: each VM, and what keeps its volumes from being whole."""
        with self._lock:
            lacking = self._lacking(0)
            shown = [self._shown(vm, vm.settings.name in lacking) for vm in self.vms]
            return {"ready": self._ready, "epoch": self._epoch, "vms": shown, "last_cycle": self._last}

    def _shown(self, vm: VmMemory, lacks: bool) -> dict[str, Any]:
        instant = self._told.get(vm.settings.name)
        left = sum(disk.settings.size_bytes - disk.read_to for disk in vm.disks)
        why = vm.problem
        if not why and left:
            why = f"{left} bytes are to be read and compared"
        if not why and lacks:
            why = (
                "more changed than one cycle takes"
                if vm.settings.name in self._leisure
                else "its image is old"
            )
        return {
            "name": vm.settings.name,
            "volumes": [disk.settings.name for disk in vm.disks],
            "image_ns": None if instant is None else instant.wall_ns,
            "ran": None if instant is None else instant.ran,
            "left_bytes": left,
            "doubtful_bytes": vm.doubtful_bytes,
            "whole": not lacks,
            "problem": vm.problem,
            "why_not_whole": why if lacks else "",
        }

    # --- helpers -------------------------------------------------------------------------------

    def _refuse_other(self, epoch: int) -> None:
        if not self._ready or epoch != self._epoch:
            raise WatcherFailed("no images can be had", f"epoch {epoch} was not begun here")

    def _settle(self) -> None:
        """Forget what is protected. `_busy` is held."""
        with self._lock:
            settled = (self._settled.epoch, self._settled.cut)
            done = {batch for batch, place in self._places.items() if place <= settled}
            for batch in done:
                del self._places[batch]
        for vm in self.vms:
            vm.settle(done)

    def _discard(self) -> None:
        """What waits is older than what is read now, and must not come after it. `_busy` is held."""
        with self._lock:
            waiting, self._waiting = self._waiting, None
        if waiting is not None:
            if waiting.file is not None:
                waiting.file.close()
            for vm in self.vms:
                vm.undo({waiting.batch})

    def _tell(self, instants: dict[str, Instant], partial: frozenset[str]) -> None:
        """What the container is told from here on. `_lock` is held."""
        self._told.update(instants)
        for name in partial:
            self._told.pop(name, None)

    def _lacking(self, since_ns: int) -> frozenset[str]:
        """VMs of which there is no image, or an old one, or none since then. `_lock` is held."""
        oldest_ns = self._clock.boottime_ns() - int(self._settings.late_seconds * 1e9)
        least_ns = max(oldest_ns, since_ns)
        return frozenset(
            vm.settings.name
            for vm in self.vms
            if vm.settings.name not in self._told or self._told[vm.settings.name].boottime_ns < least_ns
        )

    def _is_more(self, lacking: frozenset[str]) -> bool:
        """Whether a sweep would help: some that lacks can be asked. `_lock` is held."""
        now_ns = self._clock.boottime_ns()
        return any(vm.settings.name in lacking and vm.again_ns <= now_ns for vm in self.vms)

    def _taken(self, waiting: Waiting | None, lacking: frozenset[str], compare: bool, more: bool) -> Taken:
        fd = None
        if waiting is not None and waiting.file is not None:
            with waiting.file:
                fd = os.dup(waiting.file.fileno())
        facts = None if waiting is None else waiting.facts
        return Taken(
            batch=0 if waiting is None or fd is None else waiting.batch,
            fd=fd,
            position=None,
            seen_ns=self._clock.wall_ns() if waiting is None else waiting.seen_ns,
            not_whole=tuple(
                disk.settings.space for vm in self.vms if vm.settings.name in lacking for disk in vm.disks
            ),
            skewed=(),
            skewed_more=0,
            records=0,
            content_bytes=0 if facts is None else facts.content_bytes,
            more=more,
            instants=tuple(
                (disk.settings.space, self._told[vm.settings.name].wall_ns)
                for vm in self.vms
                if vm.settings.name in self._told and vm.settings.name not in lacking
                for disk in vm.disks
            ),
            compare=compare,
        )

    def _publish(self) -> None:
        with self._lock:
            lacking = self._lacking(0)
            page = Page(
                generation=self._generation,
                changes=self._changes,
                epoch=self._epoch,
                ready=self._ready,
                dirty=self._waiting is not None or bool(lacking),
                runs=self._is_running(),
            )
            if page != self._shown_page:
                self._page.publish(page)
                self._shown_page = page

    def _is_running(self) -> bool:
        """Whether a guest runs or wrote since it was still, as far as images tell. `_lock` is held."""
        now_ns = self._clock.boottime_ns()
        waiting = {} if self._waiting is None else self._waiting.instants
        newest = {**self._told, **waiting}
        if any(vm.settings.name not in newest or newest[vm.settings.name].ran for vm in self.vms):
            self._ran_ns = now_ns
        return now_ns - self._ran_ns < RAN_NS
