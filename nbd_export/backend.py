"""What the server serves: the `Export` protocol, which a splitter or a restore fills in.

No implementation belongs here, save the trivial collection of exports.

How the server calls an export. It checks every range against `size_bytes` and `read_only` first,
then calls the methods in the order in which the requests of a connection arrived, each up to its
first suspension, all that one recv brought before anything else runs in the loop. So an export
that gathers writes until the loop comes round (`loop.call_soon`) gets them as one batch, and one
that never suspends costs no task. Requests may finish in any order; several connections may be
open on one export; keeping overlapping requests apart is the export's own matter.

The part of a method before its first suspension runs outside any task: `asyncio.timeout` and
`TaskGroup` work only after it. When a client vanishes its requests run on to their end; they are
cancelled only if the server closes and they outlast its patience.

Errors: `BackendError` and `OSError` become the reply of that one request. Anything else is a bug:
it hangs up that connection and goes to the event loop's exception handler.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple, Protocol


class State(IntEnum):
    """What is behind a part of an export; the numbers are those of NBD's base:allocation."""

    DATA = 0
    HOLE = 3
    """No storage is behind it, and it reads as zeros."""


class Extent(NamedTuple):
    """A part of an export: its length in bytes, and its state."""

    length: int
    state: State


class Export(Protocol):
    """One block device. Offsets and lengths are in bytes, of any alignment, inside the device, never 0."""

    @property
    def name(self) -> str:
        """What clients ask for; at most EXPORT_NAME_BYTES_MAX bytes of UTF-8."""
        ...

    @property
    def size_bytes(self) -> int:
        """The size; must not change while a connection is open."""
        ...

    @property
    def read_only(self) -> bool:
        """If true, nothing that changes it is ever called."""
        ...

    @property
    def description(self) -> str:
        """A line for people, shown by nbdinfo; may be empty."""
        ...

    async def read(self, offset: int, length: int) -> bytes | bytearray | memoryview:
        """Exactly `length` bytes, which stay as they are until the server has sent them."""
        ...

    async def write(self, offset: int, data: bytes | memoryview, fua: bool) -> None:
        """Write `data`, which is the export's to keep; with `fua`, return only when it is durable."""
        ...

    def write_now(self, writes: Sequence[tuple[int, bytes | memoryview]]) -> int:
        """Write a first part of these, (offset, data) each, without waiting; returns how many were written.

        A server calls it with small writes without FUA that came together, so that an export can take
        them in one go. What is not written comes again, in order, through `write`; 0 is always right.
        """
        ...

    def read_now(self, reads: Sequence[tuple[int, memoryview]]) -> int:
        """Read a first part of these, (offset, where to) each, without waiting; returns how many were read.

        A server calls it with small reads that came together. The first that is not read comes again
        through `read`, those behind it once more here; there may be none, and 0 is always right. The places
        are the server's, and not to be kept.
        """
        ...

    async def zero(self, offset: int, length: int, fua: bool, may_trim: bool) -> None:
        """Make the range read as zeros, up to 4 GiB at once; `may_trim` allows to give up its storage."""
        ...

    async def trim(self, offset: int, length: int, fua: bool) -> None:
        """The client does not need this range, up to 4 GiB, any more."""
        ...

    async def extents(self, offset: int, length: int, count_max: int) -> Sequence[Extent]:
        """The first parts of a range of up to 4 GiB, at least one and at most `count_max`, from `offset` on.

        All of it may be called DATA. HOLE must have been true at some instant between call and return: it
        is wrong where a write was answered before the call.
        """
        ...

    async def cache(self, offset: int, length: int) -> None:
        """The client will read this range, up to 4 GiB, soon. To do nothing is right."""
        ...

    async def flush(self) -> None:
        """Return when every write answered before this call, on any connection, is durable."""
        ...


class Exports(Protocol):
    """The exports of a server; asked anew for every client, so they may come and go."""

    def names(self) -> Sequence[str]:
        """What a client that lists the exports is told."""
        ...

    def find(self, name: str) -> Export | None:
        """The export of this name; "" is the default export, if there is one."""
        ...


@dataclass(frozen=True, slots=True)
class FixedExports:
    """A fixed set of exports; the default one is the only one, or that named ""."""

    exports: Sequence[Export]

    def names(self) -> Sequence[str]:
        """See `Exports.names`."""
        return [export.name for export in self.exports]

    def find(self, name: str) -> Export | None:
        """See `Exports.find`."""
        if name == "" and len(self.exports) == 1:
            return self.exports[0]
        return next((export for export in self.exports if export.name == name), None)
