"""What tells that a disk was changed behind a journal: times, and records that do not read back. PURE.

Both sites ask: the splitter before a redo, and a failback before it believes a journal. What is done about a
disk that was changed does not belong here.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Final

from cdp_container.journal.record import Record

MTIME_SLACK_SECONDS: Final = 10.0
"""The backing file may be this much younger than the newest record: it is written right after it, and file
systems keep coarse times."""
READ_BACK_RECORDS_MAX: Final = 64
"""Records before the synced point that must read back from the disk, where nothing later overlaps them."""
READ_BACK_BYTES_MAX: Final = 1 << 20
"""Bytes that are read back at most for one record: a range of zeros may span gigabytes."""


def newest_untouched(synced: Iterable[Record], after: Iterable[Record]) -> list[Record]:
    """The newest synced records that no later one, there or in `after`, touches: they must read back."""
    candidates: list[Record] = []
    for record in deque(synced, maxlen=READ_BACK_RECORDS_MAX):
        candidates = [older for older in candidates if not _overlap(older, record)]
        candidates.append(record)
    for record in after:
        candidates = [older for older in candidates if not _overlap(older, record)]
    return candidates


def _overlap(a: Record, b: Record) -> bool:
    return a.source == b.source and a.offset < b.offset + b.span and b.offset < a.offset + a.span
