"""What the splitter is told at its start, and its limits.

How the configuration file looks is the agent's matter; here are checked values.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cdp_container.journal.record import JOURNAL_FILE_BYTES
from nbd_export.tls import TlsFiles

FACTS_NAME: Final = "splitter.json"
LOCK_NAME: Final = "splitter.lock"
# Journal and backing store are synced so often without being asked, so that a redo stays short.
SYNC_SECONDS: Final = 5.0
SYNC_BYTES: Final = 256 << 20
# Of the write-intent map: a sync before the first write into a region, rare where regions are large, exact
# enough to be compared.
REGION_BYTES: Final = 64 << 20
# How often the splitter looks around: trims, shows its facts, asks whether exports may open.
HOUSEKEEPING_SECONDS: Final = 1.0
# Writes up to this go to the page cache within the event loop: 20 µs, less than the way to a thread and back.
# Larger ones, and everything that may wait for a disk by its nature, go to a thread.
INLINE_BYTES_MAX: Final = 64 << 10
# The checksum of a write from this on is made by a thread, before it takes its place in the journal: 75 µs,
# twice the way to a thread and back.
SUMMED_BY_THREAD_BYTES_MIN: Final = 4 << 20
# Threads for large writes, cold reads, zeroes: enough to keep a disk's queue filled, few enough for the GIL.
IO_THREADS: Final = 8
# A guest that asks to have more than this at hand gets the first part: it is not to empty the page cache.
READ_AHEAD_BYTES_MAX: Final = 32 << 20
# Recyclable journal files that are kept, a GiB: what is overwritten is in the page cache and has its blocks.
# More are deleted, so that a peak does not keep its space.
SPARE_FILES_MAX: Final = 16
# The next journal file is made ready when the current one is filled to 1/4: its header is synced then, with
# little data, and the rest of it is time enough for a slow disk.
NEXT_FILE_AT: Final = 4
# While redo runs it says so in the journal this often, so that its own writes never look like a stranger's.
REDO_NOTE_SECONDS: Final = 2.0
# At the end: how long begun requests may take. A supervisor waits a little longer before it kills.
DRAIN_SECONDS: Final = 20.0


class OnJournalFull(enum.StrEnum):
    """What is given up when the journal can hold no more."""

    DEGRADE = "degrade"  # protection: guests go on, the volume must be copied again
    STOP_WRITES = "stop-writes"  # availability: guests' writes wait until there is room


@dataclass(frozen=True, slots=True)
class VolumeSettings:
    """One protected volume.

    Attributes:
        name: of the export.
        backing: the file or block device that holds it.
        size_bytes: of the export; the backing store is at least as large.
        index: of the source, in journal records.
        space: the id of its space, 16 bytes.
    """

    name: str
    backing: Path
    size_bytes: int
    index: int
    space: bytes


@dataclass(frozen=True, slots=True)
class TcpSettings:
    """Where the exports are served by TCP too: an address in digits; without certificates loopback only."""

    host: str
    port: int
    tls: TlsFiles | None


@dataclass(frozen=True, slots=True)
class SplitterSettings:
    """All that `run_splitter` must know.

    Attributes:
        journal_dir: the journal directory; the journal files are in its `journal/`.
        domain: the domain's id, 16 bytes.
        volumes: all volumes of the domain.
        removed: indexes of sources that are not protected any more; the journal may hold writes of theirs.
        limit_bytes: the most that journal files may take.
        socket: where the exports are served.
        tcp: and where by TCP.
        on_journal_full: what is given up at the limit.
        redo: re-apply the journal even over a backing store that was changed behind our back.
        full_copy: the volumes will be compared whole: forget an overflow and the journal so far.
        keep_disk: the backing stores are right as they are: nothing is checked against the journal or
            redone. Only together with `full_copy`.
        file_bytes: size of a journal file.
        sync_seconds: see SYNC_SECONDS.
        sync_bytes: see SYNC_BYTES.
        region_bytes: of the write-intent maps.
    """

    journal_dir: Path
    domain: bytes
    volumes: tuple[VolumeSettings, ...]
    limit_bytes: int
    socket: Path
    on_journal_full: OnJournalFull = OnJournalFull.DEGRADE
    removed: frozenset[int] = frozenset()
    redo: bool = False
    full_copy: bool = False
    keep_disk: bool = False
    file_bytes: int = JOURNAL_FILE_BYTES
    sync_seconds: float = SYNC_SECONDS
    sync_bytes: int = SYNC_BYTES
    tcp: TcpSettings | None = None
    region_bytes: int = REGION_BYTES
