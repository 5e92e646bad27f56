"""Volumes on their way through a rehearsal: sparse images, their content, and all of it compared again.

The images never get anywhere but into the directory that is given, whatever volumes are called. File systems
on them do not belong here (fsck).
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray

from cdp_container.clock import Clock
from cdp_container.domain.blocks import SUM, UNKNOWN, WINDOW_BYTES, Blocks, blocks_of
from cdp_container.extents.intervals import Intervals, common, intervals, merged
from cdp_container.format.limits import SUM_BLOCK_BYTES
from rehydrate.delta import NONE, differing, everything, in_blocks, union, without
from rehydrate.file_names import IMAGE_SUFFIX, file_names
from rehydrate.localio import os_errors, read_up_to, sync_directory, write_all
from rehydrate.plan import Totals, VolumePlan, Window, volume_windows
from rehydrate.rehearsal.parts import Restored, Sampling, Verdict
from rehydrate.rehearsal.tally import Tally
from rehydrate.restore import Report, Source, write_window
from rehydrate.target import check_room_for


class Image:
    """A sparse image under way: see `target.Writable`. Threads may write."""

    def __init__(self, path: Path, size_bytes: int) -> None:
        with os_errors(f"make {path}"):
            flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
            self._fd = os.open(path, flags, 0o600)
            try:
                os.ftruncate(self._fd, size_bytes)
            except BaseException:
                self.close()
                raise
        self.path = path
        self.size_bytes = size_bytes

    def write(self, offset: int, data: memoryview) -> None:
        """See `Writable.write`."""
        with os_errors(f"write {self.path}"):
            write_all(self._fd, offset, data)

    def zero(self, offset: int, length: int) -> None:
        """See `Writable.zero`: what was not written reads as zeros."""

    def sync(self) -> None:
        """Make it durable, and let go of what the page cache has of it: what is read then is the disk's."""
        with os_errors(f"sync {self.path}"):
            os.fsync(self._fd)
            os.posix_fadvise(self._fd, 0, 0, os.POSIX_FADV_DONTNEED)

    def read(self, offset: int, length: int) -> bytes:
        """So many bytes; fewer at its end. Raises DeviceError."""
        with os_errors(f"read {self.path}"):
            return read_up_to(self._fd, offset, length)

    def written(self, start: int, end: int) -> Intervals:
        """Where there is more than a hole."""
        found, at = [], start
        with os_errors(f"read {self.path}"):
            while at < end:
                try:
                    low = os.lseek(self._fd, at, os.SEEK_DATA)
                except OSError as error:
                    if error.errno == errno.ENXIO:
                        break
                    raise
                if low >= end:
                    break
                at = os.lseek(self._fd, low, os.SEEK_HOLE)
                found.append((low, min(at, end)))
        return intervals(found)

    def close(self) -> None:
        """Give its descriptor back; nothing where that was done."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class VolumesPart:
    """See `parts.Part`; to be used as a context, which closes the images.

    Args:
        source: the container, gathered with sums.
        plans: of the volumes.
        directory: where the images go.
        clock: of this machine.
    """

    def __init__(self, source: Source, plans: Sequence[VolumePlan], directory: Path, clock: Clock) -> None:
        self._source = source
        self._plans = plans
        self._directory = directory
        self._clock = clock
        files = file_names([(plan.volume.name, plan.volume.space) for plan in plans], IMAGE_SUFFIX)
        self.sources = [
            Restored("volume", plan.volume.name, plan.volume.size_bytes, directory / file)
            for plan, file in zip(plans, files, strict=True)
        ]
        self._images: list[Image] = []
        self._parts: dict[int, list[Intervals]] = {}
        self._sampling = Sampling(0.0)
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    @property
    def names(self) -> int:
        """See `Part.names`."""
        return len(self.sources)

    def totals(self, sampling: Sampling) -> Totals:
        """See `Part.totals`."""
        if sampling.is_all:
            return sum((plan.totals for plan in self._plans), Totals())
        if not sampling.share:
            return Totals()
        chosen = (window for number in range(len(self._plans)) for window in self._windows(number, sampling))
        return sum((window.totals for window in chosen), Totals())

    def make_names(self, told: Callable[[int], None]) -> None:
        """See `Part.make_names`. Raises TargetNotEmpty and its kin, LocalDiskFull."""
        for source in self.sources:
            image = Image(source.path, source.size_bytes)
            self._stack.callback(image.close)
            self._images.append(image)
            told(1)
        with os_errors(f"sync {self._directory}"):
            sync_directory(self._directory)

    def fetch(self, sampling: Sampling, report: Report) -> None:
        """See `Part.fetch`. Raises LocalDiskFull where there is no room, before anything is fetched."""
        self._sampling = sampling
        if not sampling.share:
            return
        wanted = [plan.totals.write_bytes for plan in self._plans]
        if not sampling.is_all:
            wanted = [self.totals(sampling).write_bytes]
        check_room_for(zip((source.path for source in self.sources), wanted, strict=False))
        for number, image in enumerate(self._images):
            for window in self._windows(number, sampling):
                write_window(self._source, window, image, report)
                if not sampling.is_all:
                    self._parts.setdefault(number, []).append(_whole_blocks(window, image.size_bytes))
            image.sync()

    def compared(self, told: Callable[[int], None]) -> Iterator[Verdict]:
        """See `Part.compared`."""
        for number, (plan, image) in enumerate(zip(self._plans, self._images, strict=True)):
            yield self._compared(number, plan, image, told)

    def _windows(self, number: int, sampling: Sampling) -> Iterator[Window]:
        """The windows of a volume, each with those of its requests that are drawn."""
        plan, contents = self._plans[number], self._source.contents
        rng = np.random.default_rng((sampling.seed, number))
        is_first = True
        for window in volume_windows(plan.volume, contents.extents(), plan.runs, contents.objects):
            if not sampling.is_all:
                drawn = rng.random(len(window.fetches)) < sampling.share
                drawn[:1] |= is_first  # the smallest sample is one request
                is_first = is_first and not len(drawn)
                window = _only(window, drawn)
            yield window

    def _compared(self, number: int, plan: VolumePlan, image: Image, told: Callable[[int], None]) -> Verdict:
        began_ns = self._clock.boottime_ns()
        parts = everything(image.size_bytes)
        if not self._sampling.is_all:
            parts = union(self._parts.get(number, []), image.size_bytes)
        tally = Tally()
        for start in range(0, image.size_bytes, WINDOW_BYTES):
            mine = common(parts, intervals([(start, start + WINDOW_BYTES)]))[1]
            if not len(mine):
                continue
            end = -(-int(mine.ends[-1]) // SUM_BLOCK_BYTES) * SUM_BLOCK_BYTES
            blocks = blocks_of(self._source.contents, plan.runs, int(mine.starts[0]), end)
            wanted, unknown = _comparable(blocks, mine, image)
            tally.unknown_bytes += unknown.total_bytes
            for low, high in zip(wanted.starts.tolist(), wanted.ends.tolist(), strict=True):
                for wrong in differing(image.read, intervals([(low, high)]), blocks):
                    tally.differs(*wrong)
                told(high - low)
                tally.read_bytes += high - low
        return tally.verdict(plan.volume.name, (self._clock.boottime_ns() - began_ns) / 1e9)


def _only(window: Window, drawn: NDArray[np.bool_]) -> Window:
    """The same window with some of its requests."""
    pieces = np.concatenate(
        [window.pieces[:0]]
        + [
            window.pieces[int(fetch["first_piece"]) : int(fetch["beyond_piece"])]
            for fetch in window.fetches[drawn]
        ]
    )
    fetches = window.fetches[drawn].copy()
    counts = fetches["beyond_piece"] - fetches["first_piece"]
    fetches["beyond_piece"] = np.cumsum(counts)
    fetches["first_piece"] = fetches["beyond_piece"] - counts
    return replace(window, pieces=pieces, fetches=fetches, zeros=NONE)


def _whole_blocks(window: Window, size_bytes: int) -> Intervals:
    """The blocks that the pieces of a window cover whole."""
    order = np.argsort(window.pieces["offset"], kind="stable")
    starts = window.pieces["offset"][order]
    covered = merged(Intervals(starts, starts + window.pieces["length"][order]))
    low = -(-covered.starts // SUM_BLOCK_BYTES) * SUM_BLOCK_BYTES
    high = np.where(
        covered.ends == size_bytes, covered.ends, covered.ends // SUM_BLOCK_BYTES * SUM_BLOCK_BYTES
    )
    kept = low < high
    return Intervals(low[kept], high[kept])


def _comparable(blocks: Blocks, parts: Intervals, image: Image) -> tuple[Intervals, Intervals]:
    """What is to be read: what has a checksum, and what should be zeros where there is no hole.

    And what cannot be compared, because no checksum covers it.
    """
    end = (blocks.first + len(blocks.kinds)) * SUM_BLOCK_BYTES
    written = image.written(blocks.first * SUM_BLOCK_BYTES, min(end, image.size_bytes))
    wanted = common(union([_of_kind(blocks, SUM, image), written], image.size_bytes), parts)[1]
    unknown = common(_of_kind(blocks, UNKNOWN, image), parts)[1]
    return without(wanted, common(unknown, wanted)[1]), unknown


def _of_kind(blocks: Blocks, kind: int, image: Image) -> Intervals:
    starts = (np.flatnonzero(blocks.kinds == kind) + blocks.first) * SUM_BLOCK_BYTES
    return in_blocks(starts, starts + SUM_BLOCK_BYTES, image.size_bytes)
