"""What a power loss may leave of files, after a list of calls to the kernel. Pure.

Disks write a sector whole. A sector that was written and not synced may hold any content that it had since
its last sync, each sector on its own. What was done to names is a log: a power loss keeps a first part of it,
and a sync of a directory all of it. After a sync that failed Linux takes what was written for clean: the
sector stays in doubt, whatever syncs follow, until it is written and synced again.

What does not belong here: what the files mean, and what may have become of them (`judging`).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field

SECTOR_BYTES = 512
STATES_MAX = 1 << 14  # of one crash point: more are a workload that is too large to be enumerated


@dataclass(frozen=True, slots=True)
class Wrote:
    """Bytes of a file were written; zeroing is writing zeros."""

    file: int
    offset: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Synced:
    """A sync of a file returned, or failed."""

    file: int
    well: bool = True


@dataclass(frozen=True, slots=True)
class Named:
    """A file was made, or renamed from `before`, in place of what had the name."""

    file: int
    path: str
    before: str = ""


@dataclass(frozen=True, slots=True)
class Sized:
    """A file was allocated: it is that long, and new bytes are zeros."""

    file: int
    length: int


@dataclass(frozen=True, slots=True)
class Unlinked:
    """A name is gone."""

    path: str


@dataclass(frozen=True, slots=True)
class NamesSynced:
    """A sync of a directory returned."""


@dataclass(frozen=True, slots=True)
class Rebooted:
    """A power loss left these files, by their path."""

    files: Mapping[str, bytes]
    ids: Mapping[str, int]


Call = Wrote | Synced | Named | Sized | Unlinked | NamesSynced | Rebooted


@dataclass(slots=True)
class _Sector:
    """What a sector may hold after a power loss, oldest first; the last is what the page cache holds."""

    contents: list[bytes]
    is_dirty: bool = True


@dataclass(slots=True)
class Disks:
    """The files after some calls.

    Attributes:
        now: what the page cache holds of each file.
        names: what a power loss now is sure to leave.
    """

    now: dict[int, bytearray] = field(default_factory=dict)
    names: dict[str, int] = field(default_factory=dict)
    _doubtful: dict[int, dict[int, _Sector]] = field(default_factory=dict)
    _log: list[Named | Sized | Unlinked] = field(default_factory=list)
    _sized: set[int] = field(default_factory=set)  # for sure

    def apply(self, call: Call) -> None:
        """Go on by one call."""
        match call:
            case Wrote(file, offset, data):
                self._write(file, offset, data)
            case Synced(file, well):
                self._sync(file, well)
            case Named() | Unlinked():
                self._log.append(call)
                if isinstance(call, Named):
                    self.now.setdefault(call.file, bytearray())
            case Sized(file, length):
                self._log.append(call)
                self.now[file].extend(bytes(length - len(self.now[file])))
            case NamesSynced():
                self.names = self._names_after(len(self._log))
                self._sized |= {step.file for step in self._log if isinstance(step, Sized)}
                self._log.clear()
            case Rebooted(files, ids):
                self.now = {ids[path]: bytearray(content) for path, content in files.items()}
                self.names = dict(ids)
                self._doubtful, self._sized = {}, set(self.now)
                self._log.clear()

    def _write(self, file: int, offset: int, data: bytes) -> None:
        content, sectors = self.now[file], self._doubtful.setdefault(file, {})
        first, end = offset // SECTOR_BYTES, -(-(offset + len(data)) // SECTOR_BYTES)
        before = [bytes(content[at * SECTOR_BYTES : (at + 1) * SECTOR_BYTES]) for at in range(first, end)]
        assert offset + len(data) <= len(content), "files are allocated before they are written"
        content[offset : offset + len(data)] = data
        for number, old in zip(range(first, end), before, strict=True):
            new = bytes(content[number * SECTOR_BYTES : (number + 1) * SECTOR_BYTES])
            sector = sectors.setdefault(number, _Sector([old]))
            sector.is_dirty = True
            if new in sector.contents:
                sector.contents.remove(new)
            sector.contents.append(new)

    def _sync(self, file: int, well: bool) -> None:
        sectors = self._doubtful.get(file, {})
        if not well:
            for sector in sectors.values():
                sector.is_dirty = False
            return
        self._doubtful[file] = {number: sector for number, sector in sectors.items() if not sector.is_dirty}
        self._sized.add(file)

    def copied(self) -> Disks:
        """The same, to go on with apart."""
        return deepcopy(self)

    # --- what may be left ----------------------------------------------------------------------

    def current_names(self) -> dict[str, int]:
        """The names as a process sees them."""
        return self._names_after(len(self._log))

    def names_left(self) -> list[tuple[dict[str, int], set[int]]]:
        """What of names a power loss may leave: files by path, and those of them that have their length."""
        left: list[tuple[dict[str, int], set[int]]] = []
        for count in range(len(self._log) + 1):
            sized = self._sized | {step.file for step in self._log[:count] if isinstance(step, Sized)}
            names = self._names_after(count)
            state = names, sized & set(names.values())
            if state not in left:
                left.append(state)
        return left

    def contents_left(
        self, names: Mapping[str, int], sized: set[int], is_wanted: Callable[[str], bool]
    ) -> Iterator[dict[str, bytes]]:
        """All that a power loss may leave of these files together: the least of it first, all of it last."""
        wanted = {path: file for path, file in names.items() if is_wanted(path)}
        places = [
            (path, number, sector.contents)
            for path, file in wanted.items()
            for number, sector in self._doubtful.get(file, {}).items()
            if file in sized and len(sector.contents) > 1
        ]
        fixed = {path: bytes(self.now[file]) if file in sized else b"" for path, file in wanted.items()}
        count = math.prod(len(contents) for _, _, contents in places)
        assert count <= STATES_MAX, "too many states: make the workload smaller"
        for chosen in itertools.product(*(contents for _, _, contents in places)):
            files = {path: bytearray(content) for path, content in fixed.items()}
            for (path, number, _), content in zip(places, chosen, strict=True):
                files[path][number * SECTOR_BYTES : number * SECTOR_BYTES + len(content)] = content
            yield {path: bytes(content) for path, content in files.items()}

    def sector_left(self, file: int, number: int) -> Sequence[bytes]:
        """Everything that a power loss may leave of one sector."""
        sector = self._doubtful.get(file, {}).get(number)
        if sector is not None:
            return sector.contents
        return [bytes(self.now[file][number * SECTOR_BYTES : (number + 1) * SECTOR_BYTES])]

    def doubtful_sectors(self, file: int) -> list[int]:
        """The sectors of a file of which more than one content may be left."""
        return [number for number, sector in self._doubtful.get(file, {}).items() if len(sector.contents) > 1]

    def _names_after(self, count: int) -> dict[str, int]:
        names = dict(self.names)
        for step in self._log[:count]:
            if isinstance(step, Named):
                names.pop(step.before, None)
                names[step.path] = step.file
            elif isinstance(step, Unlinked):
                names.pop(step.path, None)
        return names


def in_parts(call: Call) -> Iterator[Wrote]:
    """What a process that is killed in the middle of a write may have done of it: its first sectors."""
    if not isinstance(call, Wrote):
        return
    first = SECTOR_BYTES - call.offset % SECTOR_BYTES
    for length in range(first, len(call.data), SECTOR_BYTES):
        yield Wrote(call.file, call.offset, call.data[:length])
