"""Broken splitters, each with one rule broken: the enumeration of crash states must find every one of them.

An enumeration that finds nothing in these would find nothing in the real one.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from zlib import crc32

import pytest

from cdp_agent.splitter import finding, opening
from cdp_agent.splitter.appending import Appending
from cdp_agent.splitter.dirty_blocks import DirtyBlocks
from cdp_agent.splitter.intent import Intents, WriteIntent
from cdp_agent.splitter.journal_run import JournalRun
from cdp_agent.splitter.journal_writer import JournalWriter
from cdp_agent.splitter.map_file import MapFile
from cdp_agent.splitter.published import Published
from cdp_agent.splitter.volume import Volume
from cdp_container.journal import reader, record
from cdp_container.journal.position import Position
from cdp_container.journal.reader import JournalReader
from cdp_container.journal.record import RECORD_HEADER_BYTES, Record
from tests.unit.splitter.enumeration.judging import Broken, Judge
from tests.unit.splitter.enumeration.recording import Recorder
from tests.unit.splitter.test_crash_states import PRELUDE, judge_all, scratch

pytestmark = pytest.mark.slow

__all__ = ["scratch"]

Patch = pytest.MonkeyPatch


def answer_before_the_journal_is_synced(patch: Patch) -> None:
    """A flush waits for the disks alone."""
    begin = JournalWriter.begin_sync

    def begin_sync(self: JournalWriter) -> Callable[[], None]:
        begin(self)
        return lambda: None

    patch.setattr(JournalWriter, "begin_sync", begin_sync)


def answer_before_the_disks_are_synced(patch: Patch) -> None:
    """A flush waits for the journal alone."""
    fdatasync = Recorder.fdatasync

    def sync_journal(self: Recorder, fd: int) -> None:
        if self.descriptors[fd] not in self.volume_ids:
            fdatasync(self, fd)

    patch.setattr(Recorder, "fdatasync", sync_journal)


def believe_every_payload(patch: Patch) -> None:
    """The checksum of a payload is not looked at."""

    def read_payload(self: JournalReader, of: Record, start: int = 0, length: int | None = None) -> bytes:
        end = of.payload_length if length is None else start + length
        return self._read(of.file_number, of.payload_at, of.payload_length)[start:end]

    patch.setattr(JournalReader, "_payload_is_sound", lambda self, record: True)
    patch.setattr(JournalReader, "read_payload", read_payload)


def _mended(patch: Patch, mend: Callable[[bytearray, Position], None]) -> None:
    """Headers are read as if what they say were right."""
    decode = record.decode_record_header

    def decode_record_header(data: bytes, at: int, expected: Position, *place: int) -> Record | None:
        header = bytearray(data[at : at + RECORD_HEADER_BYTES])
        if len(header) == RECORD_HEADER_BYTES:
            mend(header, expected)
            header[60:] = crc32(header[:60]).to_bytes(4, "little")
        return decode(bytes(header), 0, expected, *place)

    patch.setattr(reader, "decode_record_header", decode_record_header)


def believe_every_header(patch: Patch) -> None:
    """The checksum of a header is not looked at."""
    _mended(patch, lambda header, expected: None)


def believe_every_generation(patch: Patch) -> None:
    """A record of an older generation in a recycled file is taken for one of this."""

    def mend(header: bytearray, expected: Position) -> None:
        header[16:24] = expected.generation.to_bytes(8, "little")

    _mended(patch, mend)


def believe_every_position(patch: Patch) -> None:
    """A record of this generation in a recycled file is taken for a new one."""

    def mend(header: bytearray, expected: Position) -> None:
        header[24:32] = expected.offset.to_bytes(8, "little")

    _mended(patch, mend)


def write_the_disk_first(patch: Patch) -> None:
    """The journal comes after the disk."""
    write_now = Volume._write_now

    def write_disk_first(self: Volume, offset: int, data: bytes) -> bool:
        recorder = self._files
        assert isinstance(recorder, Recorder), "in a story"
        first = len(recorder.events)
        is_done = write_now(self, offset, data)
        recorder.events[first:] = sorted(
            recorder.events[first:], key=lambda call: not recorder.is_of_volume(call)
        )
        return is_done

    patch.setattr(Volume, "_write_now", write_disk_first)


def forget_a_failed_sync_of_a_disk(patch: Patch) -> None:
    """The next sync that succeeds is taken for one of everything."""
    patch.setattr(Appending, "backing_failed", lambda self, what, error: None)


def forget_a_failed_sync_of_the_journal(patch: Patch) -> None:
    """Likewise; the journal is not given up."""
    patch.setattr(Appending, "journal_failed", lambda self, what, error: None)


def say_that_all_is_applied(patch: Patch) -> None:
    """Applied-up-to does not wait for the writes under way: a copy would lack them."""
    write = Published.write

    def write_all(self: Published, tail: Position, applied: Position, *rest: bool) -> None:
        write(self, tail, tail, *rest)

    patch.setattr(Published, "write", write_all)


def sync_past_a_write_under_way(patch: Patch) -> None:
    """The synced point does not wait for the writes under way: a redo would leave them out."""
    advance = Appending.advance
    patch.setattr(Appending, "advance", lambda self, synced: advance(self, self.tail))


def open_without_redo(patch: Patch) -> None:
    """Invariant 8: redo comes before any export opens."""
    patch.setattr(opening, "redo", lambda *arguments: 0)


def take_a_power_loss_for_a_clean_stop(patch: Patch) -> None:
    """What a power loss may have taken is not compared."""
    found = finding.Found
    patch.setattr(finding, "Found", lambda *values: replace(found(*values), is_clean=True))


def do_not_sync_names(patch: Patch) -> None:
    """A journal file may lose its name."""
    patch.setattr(Recorder, "sync_directory", lambda self, path: None)


def do_not_sync_headers(patch: Patch) -> None:
    """The next file is begun before the header of the current one is durable."""
    patch.setattr(JournalRun, "_sync_header", lambda self, path: None)


def give_the_journal_up_in_secret(patch: Patch) -> None:
    """That the journal was given up is published, but not durable: old records come over newer writes."""
    write = Published.write

    def write_lightly(
        self: Published, tail: Position, applied: Position, failed: bool, durable: bool = False
    ) -> None:
        write(self, tail, applied, failed, durable=False)

    patch.setattr(Published, "write", write_lightly)


def leave_a_dirty_block_out(patch: Patch) -> None:
    """What is written past the journal is not marked."""
    patch.setattr(DirtyBlocks, "mark", lambda self, source, offset, length: None)


def append_before_the_region_is_marked(patch: Patch) -> None:
    """A record does not wait for the write-intent map."""
    patch.setattr(WriteIntent, "touch", lambda self, source, offset, length: True)


def do_not_sync_marks(patch: Patch) -> None:
    """It waits for the map to be written, and not for its sync."""
    patch.setattr(MapFile, "sync", lambda self: None)


def take_marks_back_without_a_sync(patch: Patch) -> None:
    """Marks lapse with time alone."""
    tidy = Intents.tidy
    patch.setattr(Intents, "tidy", lambda self, is_synced, now_ns: tidy(self, True, now_ns))


@dataclass(frozen=True, slots=True)
class Control:
    """A broken splitter, in which stories it must be found, and by what."""

    broken: Callable[[Patch], None]
    prelude: str
    letters: Sequence[str]
    finding: str
    depth: int = 2


GONE = "which was flushed|which was reached once"
LOST = "power lost: sector|killed: sector"
STRANGE = "was never appended there"
STRAYS = "the container comes to"
CHANGED = "does not hold what was written"

CONTROLS = [
    Control(answer_before_the_journal_is_synced, "new", ("write", "flush"), GONE),
    Control(answer_before_the_disks_are_synced, "new", ("write", "flush"), LOST),
    Control(believe_every_payload, "new", ("overlap",), f"{STRANGE}|{LOST}"),
    Control(believe_every_header, "amid", ("zero",), STRANGE),
    Control(believe_every_generation, "recycled", ("write", "overlap"), f"{STRANGE}|{LOST}"),
    Control(believe_every_position, "turning", ("overlap", "write"), f"{STRANGE}|{LOST}"),
    Control(write_the_disk_first, "new", ("write", "flush"), f"{STRAYS}|{CHANGED}", 3),
    Control(forget_a_failed_sync_of_a_disk, "new", ("write", "flush, disk fails", "flush"), LOST, 3),
    Control(forget_a_failed_sync_of_the_journal, "new", ("write", "flush, journal fails"), GONE),
    Control(say_that_all_is_applied, "new", ("write", "flush under a write"), "said to be applied"),
    Control(sync_past_a_write_under_way, "new", ("write", "flush under a write"), CHANGED),
    Control(open_without_redo, "new", ("write",), STRAYS),
    Control(take_a_power_loss_for_a_clean_stop, "new", ("write",), STRAYS),
    Control(do_not_sync_names, "new", ("write", "flush"), "opening refuses"),
    Control(do_not_sync_headers, "turning", ("overlap", "kill"), "opening refuses"),
    Control(give_the_journal_up_in_secret, "full", ("write", "overlap", "flush"), LOST, 3),
    Control(append_before_the_region_is_marked, "new", ("write",), STRAYS),
    Control(do_not_sync_marks, "new", ("write", "far"), STRAYS),
    Control(take_marks_back_without_a_sync, "new", ("write", "flush, disk fails", "idle"), STRAYS, 3),
    Control(leave_a_dirty_block_out, "full", ("far", "overlap", "go on"), STRAYS, 3),
]


@pytest.mark.parametrize("control", CONTROLS, ids=[control.broken.__name__ for control in CONTROLS])
def test_a_broken_splitter_is_found(scratch: Path, monkeypatch: Patch, control: Control) -> None:
    prelude = PRELUDE[control.prelude]
    judge = Judge(scratch / "crashed", prelude.limit_files)
    stories = (
        story
        for count in range(1, control.depth + 1)
        for story in itertools.product(control.letters, repeat=count)
    )
    control.broken(monkeypatch)
    with pytest.raises(Broken, match=control.finding):
        judge_all(scratch, judge, prelude, stories)
