"""Bringing the backing stores up to the journal, and noticing that somebody else changed them.

Redo applies every record since the synced point again, in order, before any export opens. It
may be repeated: it does not look at what is there. What belongs elsewhere: where the journal
ends, and what becomes of the splitter if this fails.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from cdp_agent.splitter.backing import Backing
from cdp_container.errors import BackingChanged, JournalDamaged
from cdp_container.journal.position import Position
from cdp_container.journal.read_back import MTIME_SLACK_SECONDS, READ_BACK_BYTES_MAX, newest_untouched
from cdp_container.journal.reader import JournalReader
from cdp_container.journal.record import Kind, Record
from nbd_export.files import Files


def redo(
    files: Files,
    reader: JournalReader,
    backings: Mapping[int, Backing],
    from_position: Position,
    to_position: Position,
    on_record: Callable[[], None],
    removed: Collection[int] = (),
) -> int:
    """Apply the records between two positions; returns how many. Nothing is synced.

    Args:
        files: the edge to the kernel.
        reader: of the journal.
        backings: by index of the source.
        from_position: the synced point.
        to_position: the end of the journal.
        on_record: called before each record.
        removed: sources whose records are passed over: when they were removed all was synced.

    Raises:
        JournalDamaged, PositionUnknown: the journal cannot be read.
        OSError: a backing store failed.
    """
    count = 0
    for record in _without(removed, reader.records(from_position, to_position)):
        on_record()
        backing = _backing_of(record, backings)
        if record.kind is Kind.WRITE:
            files.pwritev(backing.fd, (reader.read_payload(record),), record.offset)
        else:
            files.zero(backing.fd, record.offset, record.span, may_trim=True)
        backing.dirty = True
        count += 1
    return count


def redo_all(
    files: Files,
    journal: tuple[Path, bytes],
    backings: Sequence[Backing],
    between: tuple[Position, Position],
    removed: Collection[int],
) -> None:
    """Apply everything between the synced point and the tail, in a standstill; see `redo`."""
    by_index = {backing.volume.index: backing for backing in backings}
    with JournalReader(*journal) as reader:
        redo(files, reader, by_index, *between, lambda: None, removed)


def refuse_changed_times(files: Files, backings: Mapping[int, Backing], last_write_ns: int) -> None:
    """Refuse files that were changed after the journal's last write; a block device knows no such time.

    Args:
        files: the edge to the kernel.
        backings: by index of the source.
        last_write_ns: wall clock of the journal's last write.

    Raises:
        BackingChanged: one of them was.
        OSError: a backing store failed.
    """
    for backing in backings.values():
        mtime_ns = files.mtime_ns(backing.fd)
        if mtime_ns is not None and mtime_ns > last_write_ns + int(MTIME_SLACK_SECONDS * 1e9):
            seconds = (mtime_ns - last_write_ns) / 1e9
            raise BackingChanged(
                f"opening volume {backing.volume.name}",
                f"{backing.volume.backing} was changed {seconds:.0f} s after the journal's last write",
            )


def refuse_changed_content(
    files: Files,
    reader: JournalReader,
    backings: Mapping[int, Backing],
    from_position: Position,
    synced: Position,
    end: Position,
    removed: Collection[int] = (),
    counts: Callable[[Record], bool] = lambda record: True,
) -> None:
    """Refuse backing stores from which the newest synced records that nothing overlaps do not read back.

    Args:
        files: the edge to the kernel.
        reader: of the journal.
        backings: by index of the source.
        from_position: where to begin looking.
        synced: the synced point.
        end: the end of the journal.
        removed: sources that are passed over.
        counts: whether a record must read back.

    Raises:
        BackingChanged: one of them holds something else.
        JournalDamaged, PositionUnknown: the journal cannot be read.
        OSError: a backing store failed.
    """
    synced_records = filter(counts, _without(removed, reader.records(from_position, synced)))
    for record in newest_untouched(synced_records, reader.records(synced, end)):
        _read_back(files, reader, _backing_of(record, backings), record)


def _without(removed: Collection[int], records: Iterable[Record]) -> Iterator[Record]:
    return (record for record in records if record.source not in removed)


def _read_back(files: Files, reader: JournalReader, backing: Backing, record: Record) -> None:
    length = min(record.span, READ_BACK_BYTES_MAX)
    expected = reader.read_payload(record, 0, length) if record.kind is Kind.WRITE else bytes(length)
    if files.pread(backing.fd, length, record.offset) != expected:
        raise BackingChanged(
            f"opening volume {backing.volume.name}",
            f"{backing.volume.backing} does not hold what was written at byte {record.offset} and synced",
        )


def _backing_of(record: Record, backings: Mapping[int, Backing]) -> Backing:
    backing = backings.get(record.source)
    if backing is None or record.offset + record.span > backing.volume.size_bytes:
        raise JournalDamaged(
            "re-applying the journal", f"{record.position} is beyond the volumes that are configured"
        )
    return backing
