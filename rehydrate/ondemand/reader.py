"""Any bytes of a volume or file at a cut, when they are asked for; of who reads on, ahead of him.

    reader = Reader(source, branch, told)
    opened = reader.open(Content(space, size_bytes))
    data = opened.read(offset, length)

It knows nothing of who asks: a mount, an export, a test. How frames are fetched stands in frames, what
stands where in a space in `extents.resolve`.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, NamedTuple, TypeVar

import numpy as np

from cdp_container.domain.file_runs import FileRuns, file_runs
from cdp_container.domain.image import Branch
from cdp_container.errors import (
    CdpError,
    DamagedObject,
    ForeignObject,
    LimitExceeded,
    MissingObject,
    NewerFormat,
)
from cdp_container.extents.intervals import Ints
from cdp_container.extents.resolve import resolve
from cdp_container.extents.tables import RUNS, Table
from cdp_container.format.layout import ExtentKind
from rehydrate.ondemand.frames import CACHE_BYTES, REQUESTS_AT_ONCE, FrameKey, Frames, Told
from rehydrate.ondemand.kept import Kept
from rehydrate.restore import Source

WINDOW_BYTES: Final = 64 << 20
"""So much of a space is resolved at once: where a volume is read here and there, it is read there again."""

WINDOWS_BYTES_MAX: Final = 64 << 20
"""What resolved windows take that are kept; one of 4 KiB pieces alone takes 1 MiB."""

STEP_BYTES: Final = 8 << 20
"""A longer read goes in steps of this: bounds what is on its way for it."""

AHEAD_BYTES_MIN: Final = 512 << 10
AHEAD_BYTES_MAX: Final = 32 << 20
"""How far ahead of a reader who reads on is fetched: first the one, and twice as much each time."""

AHEAD_SHARE: Final = 4
"""At most one in so many bytes of the cache is for one reader's future."""

NEAR_BYTES: Final = 1 << 20
"""Who reads no farther than this from where he was reads on: kernels ask for neighbours in any order."""

_FRAME_BITS: Final = 32
"""Of the number of a frame in its object."""

N = TypeVar("N", int, Ints)

UNREADABLE: Final = (DamagedObject, MissingObject, ForeignObject, NewerFormat, LimitExceeded)
"""What no waiting mends."""


@dataclass(frozen=True, slots=True)
class Content:
    """What may be read: a space, and how many bytes it has at the cut; None for nothing at all."""

    space: bytes | None
    size_bytes: int


class Stretch(NamedTuple):
    """Bytes that stand one behind the other from an offset on."""

    offset: int
    data: memoryview

    @property
    def end(self) -> int:
        """The byte behind it."""
        return self.offset + len(self.data)


class Lost(NamedTuple):
    """Bytes from an offset up to another that cannot be read, and why."""

    offset: int
    end: int
    error: CdpError


class Near(NamedTuple):
    """What a range holds but for its zeros, each list in its order.

    `wanted` lies in the range, or is `lost`. `others` lie near by in the same frames: somebody may keep them.
    """

    wanted: list[Stretch]
    others: list[Stretch]
    lost: list[Lost]


@dataclass(frozen=True, slots=True)
class _Resolved:
    """A window of a space: pieces (PIECES) by offset, where each begins and ends, and which frame it has."""

    pieces: Table
    starts: Ints
    ends: Ints
    frames: Ints

    @property
    def size_bytes(self) -> int:
        """What it takes in memory."""
        return int(sum(one.nbytes for one in (self.pieces, self.starts, self.ends, self.frames))) + 1

    def within(self, start: int, end: int, frames: Ints | None = None) -> list[tuple[int, ...]]:
        """The pieces that touch a range; only those in some frames, if they are given."""
        low = int(np.searchsorted(self.ends, start, side="right"))
        high = int(np.searchsorted(self.starts, end, side="left"))
        pieces = self.pieces[low:high]
        if frames is not None:  # of tens of thousands a few are: not looked at one by one
            pieces = pieces[np.isin(self.frames[low:high], frames)]
        found: list[tuple[int, ...]] = pieces.tolist()
        return found


class Reader:
    """Reads what stands in spaces on one branch. Any thread may read.

    Args:
        source: the container, gathered.
        branch: what the cut is made of.
        told: told once of each object that cannot be read.
        cache_bytes: raw frames that are kept, in memory, never more.
        at_once: requests in flight, at most.
    """

    def __init__(
        self,
        source: Source,
        branch: Branch,
        told: Told,
        cache_bytes: int = CACHE_BYTES,
        at_once: int = REQUESTS_AT_ONCE,
    ) -> None:
        self._contents = source.contents
        self._extents = source.contents.extents()
        # The numbers of all spaces are their places in the list of them.
        self._runs: FileRuns = file_runs(source.contents, branch, source.contents.spaces())
        self.frames = Frames(source, cache_bytes, at_once, told)
        self._lock = threading.Lock()
        self._windows: Kept[tuple[bytes, int], _Resolved] = Kept(WINDOWS_BYTES_MAX)

    def open(self, content: Content) -> Opened:
        """For one who reads, who may read on."""
        return Opened(self, content)

    def read(self, content: Content, offset: int, length: int) -> bytes:
        """So many bytes from an offset on; fewer at the end. Raises as `Frames.get`."""
        end = min(offset + length, content.size_bytes)
        steps = range(offset, end, STEP_BYTES)
        return b"".join(self._step(content, start, min(start + STEP_BYTES, end)) for start in steps)

    def near(self, content: Content, start: int, end: int) -> Near:
        """What is in a range, and what else of the content came with it: see `Near`.

        The range is not longer than STEP_BYTES. Raises as `Frames.get`, but not for what is UNREADABLE.
        """
        assert 0 <= start < end <= content.size_bytes, (start, end)
        assert end - start <= STEP_BYTES, (start, end)
        keys = list(dict.fromkeys(_frames_of(list(self._pieces(content, start, end)))))
        frames, errors = self._each(keys)
        found = Near([], [], [])
        low = start // WINDOW_BYTES * WINDOW_BYTES
        high = min(-(-end // WINDOW_BYTES) * WINDOW_BYTES, content.size_bytes)
        numbers = np.array([_frame_number(*key) for key in keys], dtype=np.int64)
        pieces = self._pieces(content, low, high, numbers) if keys else ()
        for offset, length, number, frame, position, kind in pieces:
            key, beyond = (number, frame), offset + length
            if kind != ExtentKind.DATA:
                continue
            if key in errors:
                at, until = max(offset, start), min(beyond, end)
                if at < until:
                    found.lost.append(Lost(at, until, errors[key]))
                continue
            raw = memoryview(frames[key])[position : position + length]
            for at, until in ((offset, start), (max(offset, start), end), (max(offset, end), high)):
                until = min(until, beyond)
                if at < until:
                    into = found.wanted if start <= at < end else found.others
                    into.append(Stretch(at, raw[at - offset : until - offset]))
        return found

    def _each(self, keys: list[FrameKey]) -> tuple[dict[FrameKey, bytes], dict[FrameKey, CdpError]]:
        """Frames, together where that goes well; else one by one, and why some cannot be read."""
        try:
            return self.frames.get(keys), {}
        except UNREADABLE:
            frames: dict[FrameKey, bytes] = {}
            errors: dict[FrameKey, CdpError] = {}
            for key in keys:
                try:
                    frames.update(self.frames.get([key]))
                except UNREADABLE as error:
                    errors[key] = error
            return frames, errors

    def ahead(self, content: Content, start: int, end: int) -> None:
        """Fetch what will be read soon. Raises Incomplete: this was closed."""
        self.frames.ahead(self._keys(content, start, min(end, content.size_bytes)))

    def stretches(self, content: Content, start: int, end: int) -> Iterator[tuple[int, int]]:
        """Where data stands in a range, each (from, beyond) as long as can be; all else reads as zeros."""
        low = high = start
        for offset, length, _, _, _, kind in self._pieces(content, start, end):
            if kind != ExtentKind.DATA:
                continue
            if offset > high:
                if low < high:
                    yield low, high
                low = max(offset, start)
            high = max(high, min(offset + length, end))
        if low < high:
            yield low, high

    def data_from(self, content: Content, offset: int) -> tuple[int, int]:
        """The first stretch of data behind an offset (from, beyond); both are the size where none is."""
        end = content.size_bytes
        return next(self.stretches(content, offset, end), (end, end))

    def data_bytes_max(self, content: Content) -> int:
        """How much data there may be at the most, told soon: what was overwritten counts again."""
        found = 0
        for run in self._runs_of(content.space) if content.space is not None else ():
            rows = self._extents[int(run["first"]) : int(run["first"]) + int(run["count"])]
            found += int(rows["length"][rows["kind"] == ExtentKind.DATA].sum())
            if found >= content.size_bytes:
                return content.size_bytes
        return found

    def stop(self) -> None:
        """Everybody who still waits is told that it ended, and whoever asks."""
        self.frames.stop()

    def close(self) -> None:
        """The same, and requests in flight are waited for: nothing of the store is used after it."""
        self.frames.close()

    def _step(self, content: Content, start: int, end: int) -> bytes:
        pieces = list(self._pieces(content, start, end))
        frames = self.frames.get(_frames_of(pieces))
        parts, at = [], start
        for offset, length, number, frame, position, kind in pieces:
            if kind != ExtentKind.DATA:
                continue
            low, high = max(offset, start), min(offset + length, end)
            if low > at:
                parts.append(bytes(low - at))
            skipped = position + low - offset
            parts.append(frames[number, frame][skipped : skipped + high - low])
            at = high
        if at < end:
            parts.append(bytes(end - at))
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _keys(self, content: Content, start: int, end: int) -> Iterator[FrameKey]:
        return _frames_of(list(self._pieces(content, start, end)))

    def _pieces(
        self, content: Content, start: int, end: int, frames: Ints | None = None
    ) -> Iterator[tuple[int, ...]]:
        """What stands in a range, or in some frames of it, in its order, each piece once (as PIECES)."""
        if content.space is None:
            return
        for window in range(start // WINDOW_BYTES, -(-end // WINDOW_BYTES)):
            found = self._resolved(content, window)
            low, high = window * WINDOW_BYTES, (window + 1) * WINDOW_BYTES
            yield from found.within(max(start, low), min(end, high), frames)

    def _resolved(self, content: Content, window: int) -> _Resolved:
        assert content.space is not None, "of nothing nothing is read"
        key = (content.space, window)
        with self._lock:
            found = self._windows.get(key)
        if found is not None:
            return found
        start = window * WINDOW_BYTES
        end = min(start + WINDOW_BYTES, content.size_bytes)
        pieces = resolve(self._extents, self._runs_of(content.space), start, end)
        starts = np.ascontiguousarray(pieces["offset"])
        frames = _frame_number(pieces["object"], pieces["frame"].astype(np.int64))
        found = _Resolved(pieces, starts, starts + pieces["length"], frames)
        with self._lock:
            self._windows.put(key, found, found.size_bytes)
        return found

    def _runs_of(self, space: bytes) -> Table:
        number = self._contents.space_number(space)
        return np.zeros(0, dtype=RUNS) if number < 0 else self._runs.of(number)


class Opened:
    """A content that somebody reads: where he was last, and how much was fetched for his future.

    Any thread may read; what is remembered only decides what is fetched ahead.
    """

    def __init__(self, reader: Reader, content: Content) -> None:
        self._reader = reader
        self.content = content
        self._lock = threading.Lock()
        self._at = 0
        self._ahead_bytes = 0
        self._ahead_to = 0
        self._ahead_bytes_max = min(AHEAD_BYTES_MAX, reader.frames.limit_bytes // AHEAD_SHARE)

    def read(self, offset: int, length: int) -> bytes:
        """So many bytes from an offset on; fewer at the end. Raises as `Frames.get`."""
        end = min(offset + length, self.content.size_bytes)
        if end <= offset:
            return b""
        wanted = self._wanted_ahead(offset, end)
        if wanted is not None:
            self._reader.ahead(self.content, *wanted)
        return self._reader.read(self.content, offset, end - offset)

    def _wanted_ahead(self, offset: int, end: int) -> tuple[int, int] | None:
        """What to fetch ahead now, if anything: again once half of it was read."""
        with self._lock:
            is_near = abs(offset - self._at) <= NEAR_BYTES
            self._at = max(self._at, end) if is_near else end
            if not is_near or self._ahead_bytes_max < AHEAD_BYTES_MIN:
                self._ahead_bytes = self._ahead_to = 0
                return None
            if self._ahead_to and self._ahead_to - self._at > self._ahead_bytes // 2:
                return None
            low = offset if not self._ahead_to else max(self._ahead_to, offset)
            self._ahead_bytes = min(max(2 * self._ahead_bytes, AHEAD_BYTES_MIN), self._ahead_bytes_max)
            self._ahead_to = min(self._at + self._ahead_bytes, self.content.size_bytes)
            return (low, self._ahead_to) if low < self._ahead_to else None


def _frame_number(number: N, frame: N) -> N:
    """A frame as one number, of an object's number and its own; of arrays, too."""
    return (number << _FRAME_BITS) + frame


def _frames_of(pieces: list[tuple[int, ...]]) -> Iterator[FrameKey]:
    """The frames that data pieces lie in."""
    return ((piece[2], piece[3]) for piece in pieces if piece[5] == ExtentKind.DATA)
