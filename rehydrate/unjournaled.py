"""What guests wrote past the journal of a site that was overtaken: it is on its disks, and nowhere else.

Its dirty maps tell of which volumes, and while the journal is full the times of the disks do. What
is done about it does not belong here (failback), nor what the journal does hold (diverged).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cdp_container.errors import JournalDamaged
from cdp_container.journal.block_map import MAP_HEADER_BYTES, decode_map_header, dirty_map_name
from cdp_container.journal.shared import SplitterPage
from cdp_container.telling import time_text
from rehydrate.here import Here

COARSE_NS: Final = 1_000_000_000
"""Files' times may be so much behind the clock."""
CHUNK_BYTES: Final = 1 << 20
"""What is read of a map at once."""


@dataclass(frozen=True, slots=True)
class Unjournaled:
    """Writes that no journal holds.

    Attributes:
        marked: by the name of the volume, bytes of the blocks in its map, 0 where it has none; empty where
            nothing tells of any volume.
        since_ns: wall clock of the first; 0 where nothing tells.
    """

    marked: tuple[tuple[str, int], ...]
    since_ns: int

    def __str__(self) -> str:
        since = f"since {time_text(self.since_ns)}" if self.since_ns else "nobody knows since when"
        where = ", ".join(
            f"{name} ({f'at least {marked} bytes' if marked else 'nobody knows how much'})"
            for name, marked in self.marked
        )
        return f"{where or 'nobody knows of which volumes'}, {since}"


def unjournaled(
    here: Here, page: SplitterPage, compared: int, written_ns: Mapping[bytes, int | None]
) -> Unjournaled | None:
    """What went past the journal of this site and was never compared since; None where nothing did.

    Args:
        here: this site, its maps still in place.
        page: the last that its splitter published.
        compared: the newest episode that was compared, as notes.json has it.
        written_ns: by space, for each disk that would be overwritten, when it was written last; None for a
            device, which does not know.
    """
    if not page.generation:
        return None  # no splitter ran here since the disks were made a cut
    if not page.overflowed and page.episode == compared:
        return None
    marked = []
    for index, source in here.identity.active.items():
        if source.space not in written_ns:
            continue  # the other site removed it: its disk stays as it is
        blocks = 0 if page.compare_all else _marked_bytes(here, index, compared)
        if blocks or _was_written_since(page, written_ns[source.space]):
            marked.append((source.name, blocks))
    return Unjournaled(tuple(marked), page.overflow_ns)


def _was_written_since(page: SplitterPage, written_ns: int | None) -> bool:
    """Whether a disk may have been written to while the journal is full: maps are made when that is over."""
    if not page.overflowed or not page.overflow_ns:
        return False
    return written_ns is None or written_ns + COARSE_NS >= page.overflow_ns


def _marked_bytes(here: Here, index: int, compared: int) -> int:
    """Bytes of the blocks that a volume's map names; 0 also where there is none that counts."""
    path: Path = here.directory / dirty_map_name(index)
    try:
        with path.open("rb") as file:
            header = decode_map_header(file.read(MAP_HEADER_BYTES), str(path))
            if header.domain != here.identity.domain or header.episode == compared:
                return 0
            count = 0
            while chunk := file.read(CHUNK_BYTES):
                count += int.from_bytes(chunk, "little").bit_count()
            return count * header.block_bytes
    except (OSError, JournalDamaged):
        return 0
