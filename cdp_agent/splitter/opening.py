"""From what the last run left to a splitter that may serve: locks, checks, redo, a new generation.

Everything here comes before any export opens. What belongs elsewhere: the event loop and the
process (`process`), what happens while guests write (`capture`).
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, TypeAlias

from cdp_agent.splitter.backing import Backing, forget_cached, open_backing, served_before, served_by
from cdp_agent.splitter.capture import Capture
from cdp_agent.splitter.dirty_blocks import DirtyBlocks
from cdp_agent.splitter.files import Files
from cdp_agent.splitter.intent import WriteIntent, read_intent
from cdp_agent.splitter.journal_run import JournalRun
from cdp_agent.splitter.journal_writer import JournalWriter
from cdp_agent.splitter.published import Published
from cdp_agent.splitter.redo import redo, refuse_changed_content, refuse_changed_times
from cdp_agent.splitter.settings import REDO_NOTE_SECONDS, OnJournalFull, SplitterSettings
from cdp_container.clock import Clock
from cdp_container.errors import (
    BackingChanged,
    ConfigInvalid,
    DeviceError,
    JournalDamaged,
    JournalFull,
    LocalDiskFull,
    PositionUnknown,
)
from cdp_container.journal.files import JournalFile, file_name, list_numbers
from cdp_container.journal.position import NOWHERE, Position
from cdp_container.journal.reader import JournalReader
from cdp_container.journal.record import FILE_HEADER_BYTES, RECORD_HEADER_BYTES, Note, Record
from cdp_container.journal.shared import SharedPages, SplitterPage

JOURNAL: Final = "journal"
SHARED: Final = "shared"
# A journal file must hold a header, a record with a sector, and the END_OF_FILE behind it.
FILE_BYTES_MIN: Final = FILE_HEADER_BYTES + 2 * RECORD_HEADER_BYTES + 4096


Regions: TypeAlias = Mapping[int, Sequence[tuple[int, int]]]
"""Ranges (offset, length) by source."""


@dataclass(frozen=True, slots=True)
class Found:
    """What the last run left in the journal.

    Attributes:
        synced: its synced point, or the start of the journal where that is not known any more.
        look_from: a place before that from which the content of the backing stores can be checked.
        end: where the valid records end.
        last_write_ns: wall clock of the last thing written.
        is_clean: nothing can be lost: a start of this boot was judged before, or the stop was clean.
    """

    synced: Position
    look_from: Position
    end: Position
    last_write_ns: int
    is_clean: bool


def open_capture(
    settings: SplitterSettings,
    files: Files,
    clock: Clock,
    entropy: Callable[[int], bytes],
    boot: bytes,
    pages: SharedPages,
    on_progress: Callable[[str], None],
) -> tuple[Capture, list[Backing]]:
    """Open everything and bring the backing stores up to the journal.

    Args:
        settings: what the splitter was told.
        files: the edge to the kernel.
        clock: for records and for how often redo is noted.
        entropy: random bytes, for the generation's name.
        boot: the boot id, 16 bytes.
        pages: the file `shared`.
        on_progress: told what is being done.

    Raises:
        CdpError: any of this machine's (AlreadyRunning, BackingUnreadable, BackingChanged, JournalDamaged,
            JournalFull, DeviceError); nothing but a redo has been written.
    """
    directory = settings.journal_dir / JOURNAL
    directory.mkdir(parents=True, exist_ok=True)
    if settings.file_bytes < FILE_BYTES_MIN or settings.limit_bytes < settings.file_bytes:
        raise ConfigInvalid("opening the journal", f"no file of {settings.file_bytes} bytes fits its limit")
    backings: list[Backing] = []
    try:
        _say_closed(pages)
        backings.extend(open_backing(files, volume) for volume in settings.volumes)
        with JournalReader(directory, settings.domain) as reader:
            opening = _Opening(settings, files, clock, entropy, boot, pages, directory, reader, on_progress)
            return opening.open(backings), backings
    except BaseException as error:
        for backing in backings:
            files.close(backing.fd)
        if isinstance(error, OSError):
            kind = LocalDiskFull if error.errno in (errno.ENOSPC, errno.EDQUOT) else DeviceError
            raise kind("opening the journal and the disks", str(error)) from error
        raise


def _say_closed(pages: SharedPages) -> None:
    """A splitter that was killed left its page as it was while it served; opening may take long, or fail."""
    last = pages.splitter.read()
    if last is not None and (last.running or last.exports_open):
        pages.splitter.publish(replace(last, running=False, exports_open=False))


@dataclass(slots=True)
class _Opening:
    settings: SplitterSettings
    files: Files
    clock: Clock
    entropy: Callable[[int], bytes]
    boot: bytes
    pages: SharedPages
    directory: Path
    reader: JournalReader
    on_progress: Callable[[str], None]

    def open(self, backings: list[Backing]) -> Capture:
        settings, published = self.settings, self.pages.splitter.read()
        last = published or SplitterPage()
        found = self._find(last)
        by_index = {backing.volume.index: backing for backing in backings}
        # After an overflow the disks are newer than the journal, and the operator may know that they are.
        redoes = found is not None and not last.overflowed and not settings.keep_disk
        if redoes:
            assert found is not None
            self._refuse_doubts(by_index, found, published)
        regions = self._regions_in_doubt(by_index, last, found)
        end = found.end if found else NOWHERE
        redos = last.redos
        if redoes and published:
            redos += 1  # whoever copies a disk meanwhile must know, before anything old is put over new
            self.pages.splitter.publish(replace(last, running=False, exports_open=False, redos=redos))
        self._drop_other_files(end)
        generation = int.from_bytes(self.entropy(8), "little") or 1
        keeps_overflow = last.overflowed and not settings.full_copy
        writer = None if keeps_overflow else self._new_writer(generation, end)
        if redoes:
            assert found is not None
            self._redo(by_index, found, writer)
        tail = writer.tail if writer else end
        # What the journal may lack of the disks.
        is_in_doubt = settings.full_copy or (found is not None and not found.is_clean)
        unfinished = Published(self.pages, last).unfinished_episode
        is_placed = regions is not None and self._save_regions(regions, unfinished, generation)
        # No room for a generation: disks and journal are equal up to the end of the old one, if there is one.
        given_up_at = end if found else Position(generation, 0)
        if keeps_overflow:
            given_up_at = self._given_up_at(last, found)
        sources, disks = served_by(backings)
        page = SplitterPage(
            generation=generation,
            tail=tail,
            synced=tail,
            overflow_at=NOWHERE if writer else given_up_at,
            overflow_ns=self._in_doubt_since(last, found, writer is None or is_in_doubt),
            compare_all=not is_placed and (is_in_doubt or unfinished is None),
            running=True,
            used_bytes=writer.run.used_bytes if writer else last.used_bytes,
            limit_bytes=settings.limit_bytes // settings.file_bytes * settings.file_bytes,  # what can be used
            boot=self.boot,
            applied=tail,
            redos=redos,
            episode=generation if is_in_doubt else last.episode,
            sources=sources,
            disks=disks,
        )
        self.pages.splitter.publish(page, durable=True)
        if writer is not None and settings.full_copy:
            writer.run.forget_older_generations()
        capture = Capture(
            self.files, backings, writer, Published(self.pages, page), (self.directory, settings.domain),
            self._begin_again, self._dirty_blocks(), self._intent(generation, backings, writer is not None),
            settings, self.clock,
        )  # fmt: skip
        if last.overflowed and last.sync_failed and last.boot == self.boot:
            # A process that was killed could not mend it: what the disks lost then is lost.
            forget_cached(self.files, backings)
            capture.failures.losses += 1
        return capture

    def _regions_in_doubt(
        self, backings: Mapping[int, Backing], last: SplitterPage, found: Found | None
    ) -> Regions | None:
        """After a power loss: where the disks and the container may differ; None: anywhere."""
        settings = self.settings
        if found is None or found.is_clean or settings.full_copy or last.overflowed:
            return None
        regions = read_intent(
            self.files, settings.journal_dir, settings.domain, last.generation, settings.volumes
        )
        if regions is None:
            return None
        try:
            refuse_changed_content(
                self.files, self.reader, backings, found.look_from, found.synced, found.end,
                settings.removed, lambda record: not _is_within(record, regions),
            )  # fmt: skip
        except BackingChanged:
            return None  # a disk that was put back from an older copy: no mark says what differs
        return regions

    def _save_regions(self, regions: Regions, unfinished: int | None, generation: int) -> bool:
        """Save them as the maps of a new episode, with what was in doubt before; whether that is known."""
        dirty = self._dirty_blocks()
        dirty.begin(unfinished)
        for source, ranges in regions.items():
            for offset, length in ranges:
                dirty.mark(source, offset, length)
        dirty.save(generation)
        return dirty.finish()

    def _intent(self, generation: int, backings: Sequence[Backing], is_held: bool) -> WriteIntent:
        """No region is marked at a start, as everything is synced; what an earlier one marked was saved."""
        settings = self.settings
        made = WriteIntent(
            self.files, settings.journal_dir, settings.domain, settings.region_bytes, settings.volumes
        )
        for backing in backings:
            self.files.fdatasync(backing.fd)  # an earlier process may have written it without a journal
        made.renew(generation)
        if is_held:
            made.begin_write()()
            made.end_write(is_durable=True)
            made.is_held = True
        return made

    def _dirty_blocks(self) -> DirtyBlocks:
        settings = self.settings
        return DirtyBlocks(self.files, settings.journal_dir, settings.domain, settings.volumes)

    def _in_doubt_since(self, last: SplitterPage, found: Found | None, is_in_doubt: bool) -> int:
        """Since when the container may lack something that the journal does not hold; 0 if it cannot."""
        if last.overflow_ns and not Published(self.pages, last).is_compared:
            return last.overflow_ns
        if last.overflowed:
            return last.overflow_ns
        since_ns = found.last_write_ns if found is not None else self.clock.wall_ns()
        return since_ns if is_in_doubt else 0

    def _refuse_doubts(
        self, backings: Mapping[int, Backing], found: Found, published: SplitterPage | None
    ) -> None:
        """Raise where a redo could put old data over new, unless the operator said so."""
        if self.settings.redo:
            return
        if published is None and any(self.reader.records(found.look_from, found.end)):
            raise JournalDamaged(
                "opening the journal",
                f"{self.settings.journal_dir / SHARED} is gone, so nobody knows what to redo",
            )
        known = self._served_before(backings, found, published) if published else backings
        refuse_changed_times(self.files, known, found.last_write_ns)
        if (
            found.is_clean
        ):  # after a power loss the disk may hold a write of which the journal lost the record
            refuse_changed_content(
                self.files,
                self.reader,
                backings,
                found.look_from,
                found.synced,
                found.end,
                self.settings.removed,
            )

    def _served_before(
        self, backings: Mapping[int, Backing], found: Found, last: SplitterPage
    ) -> Mapping[int, Backing]:
        """Without those that no splitter served yet: they may be of any age, as all of them is copied.

        After a power loss the page may be older than what was served, but no older than records that are
        gone. Where it does not tell which volumes came, all count as served.
        """
        before = served_before(backings, last.sources)
        if len(before) == len(backings):
            return backings
        written = {record.source for record in self.reader.records(found.look_from, found.end)}
        return {index: one for index, one in backings.items() if index in before or index in written}

    # --- what is there -----------------------------------------------------------------------

    def _find(self, last: SplitterPage) -> Found | None:
        """Judge the journal; None if there was never one. Nothing is changed.

        Raises:
            JournalDamaged: it does not reach what was published or synced, or files are missing.
        """
        if not self.reader.runs:
            if last.tail != NOWHERE and not self.settings.full_copy:
                raise JournalDamaged("opening the journal", f"the files in {self.directory} are gone")
            return None
        run = self._run_that_counts(last.synced, last.overflowed)
        self.reader.follow(run)
        index = self._file_of(last.synced)
        first = run[index or 0].header
        look_from = Position(first.generation, first.start)
        end = self.reader.find_end(look_from)
        # Where the published point is unknown (an old page after a power loss), all that came before
        # the oldest file was synced: nothing else is ever recycled.
        synced = last.synced if index is not None else look_from
        # Not the boot of the newest file: a start that died before it published left one, and judged nothing.
        same_boot = last.boot == self.boot
        if not last.overflowed:  # else it may have lost its end, which is why it was given up
            self._must_reach(synced, end.position)
            if same_boot and last.tail != NOWHERE:
                self._must_reach(last.tail, end.position)
        return Found(
            synced,
            look_from,
            end.position,
            # Not the newest header: a start that died right after it neither wrote nor judged the disks.
            max(end.last_time_ns, run[index or 0].header.wall_ns),
            same_boot or end.clean_stop,
        )

    def _run_that_counts(self, synced: Position, overflowed: bool) -> Sequence[JournalFile]:
        """The run of files that holds the synced point, if nothing that counts is outside of it.

        A journal that was given up may have lost its end, and the header of its newest file with it.
        """
        runs = self.reader.runs
        run = next((run for run in reversed(runs) if _holds(run, synced)), None)
        if run is None and synced != NOWHERE and not overflowed:
            # Recycled, as the page that a power loss left is an old one.
            run = next((run for run in runs if _begins_after(run[0], synced)), None)
            if run is None:
                raise JournalDamaged("opening the journal", f"no file holds {synced}, which was synced")
        run = run or runs[0]
        if run is not runs[-1]:  # never a power loss: a header is durable before the next file is begun
            missing = self.directory / file_name(run[-1].header.number + 1)
            raise JournalDamaged("opening the journal", f"{missing} is damaged or gone")
        first = run[0].header.number
        earlier = [number for number in list_numbers(self.directory) if number < first]
        if earlier and not _holds(run, self._proven()):  # else they were trimmed, and a power loss undid it
            raise JournalDamaged(
                "opening the journal",
                f"a file before {run[0].path} is damaged or gone, and what they hold was not sent yet",
            )
        return run

    def _proven(self) -> Position:
        streamer = self.pages.streamer.read()
        return streamer.proven if streamer else NOWHERE

    def _file_of(self, position: Position) -> int | None:
        """The newest file that has room for `position`."""
        indexes = [index for index, file in enumerate(self.reader.files) if file.holds(position)]
        return indexes[-1] if indexes else None

    def _given_up_at(self, last: SplitterPage, found: Found | None) -> Position:
        """Where the journal was given up; where it ends now, if a power loss took its end."""
        if found is None or self._reaches(last.overflow_at, found.end):
            return last.overflow_at
        return found.end

    def _reaches(self, position: Position, end: Position) -> bool:
        try:
            self.reader.distance_bytes(position, end)
        except PositionUnknown:
            return False
        return True

    def _must_reach(self, position: Position, end: Position) -> None:
        try:
            self.reader.distance_bytes(position, end)
        except PositionUnknown as error:
            raise JournalDamaged(
                "opening the journal",
                f"its valid records end at {end}, before {position}, which was reached once",
            ) from error

    def _drop_other_files(self, end: Position) -> None:
        """Delete what a power loss left behind the end, as it was never synced, and what it brought back."""
        last_index = self._file_of(end)
        kept = (
            {file.header.number for file in self.reader.files[: (last_index or 0) + 1]}
            if self.reader.files
            else set()
        )
        for number, path in list_numbers(self.directory).items():
            if number not in kept:
                self.files.unlink(path)

    # --- going on ----------------------------------------------------------------------------

    def _new_writer(self, generation: int, end: Position) -> JournalWriter | None:
        """A writer in a generation of its own; None where there is no room and protection gives way."""
        self.reader.refresh()
        last = self.pages.splitter.read()
        synced = last.synced if last else NOWHERE
        try:
            return self._writer(self.reader, generation, end, synced)
        except JournalFull:
            if self.settings.on_journal_full is not OnJournalFull.DEGRADE:
                raise
            return None

    def _writer(
        self,
        reader: JournalReader,
        generation: int,
        end: Position,
        synced: Position,
        newest_number: int = 0,
    ) -> JournalWriter:
        settings = self.settings
        run = JournalRun(
            self.files, self.directory, settings.domain, self.boot, self.clock.wall_ns,
            settings.file_bytes, settings.limit_bytes, reader.files, end, newest_number,
        )  # fmt: skip
        run.trim((self._proven(), synced))
        writer = JournalWriter(self.files, self.clock.wall_ns, run)
        writer.begin_generation(generation, beyond_limit=settings.full_copy)
        return writer

    def _begin_again(self, end: Position) -> JournalWriter:
        """A new generation behind a journal that was given up at `end`; in a thread, while guests write."""
        generation = int.from_bytes(self.entropy(8), "little") or 1
        with JournalReader(self.directory, self.settings.domain) as reader:
            newest_number = max(list_numbers(self.directory), default=0)
            self._drop_behind(end, [file for run in reader.runs for file in run])
            reader.refresh()
            if reader.runs:
                reader.follow(reader.runs[-1])
            return self._writer(reader, generation, end, self._proven(), newest_number)

    def _drop_behind(self, end: Position, found: Sequence[JournalFile]) -> None:
        """Delete what counts for nothing: begun for a record that was refused, or by an attempt to go on.

        Were it left there, the new generation would not follow the file in which the old one ends.
        """
        last = max((file.header.number for file in found if file.holds(end)), default=None)
        for file in found:
            if file.header.previous == end or (last is not None and file.header.number > last):
                self.files.unlink(file.path)

    def _redo(self, backings: Mapping[int, Backing], found: Found, writer: JournalWriter | None) -> None:
        """Apply what follows the synced point, and sync both sides of it."""
        noted_ns = self.clock.boottime_ns()
        self.on_progress(f"re-applying the journal from {found.synced} to {found.end}")

        def note() -> None:
            nonlocal noted_ns
            if writer is not None and self.clock.boottime_ns() - noted_ns >= REDO_NOTE_SECONDS * 1e9:
                writer.append_note(Note.REDO_PROGRESS)
                noted_ns = self.clock.boottime_ns()

        redo(self.files, self.reader, backings, found.synced, found.end, note, self.settings.removed)
        for file in self.reader.files:
            self._sync_file(file.path)
        if writer is not None:
            writer.append_note(Note.REDO_PROGRESS)
            writer.begin_sync()()
        for backing in backings.values():
            self.files.fdatasync(backing.fd)
            backing.dirty = False

    def _sync_file(self, path: Path) -> None:
        """What was read from the page cache after a kill may not be on the disk yet."""
        if not path.exists():  # recycled for the new generation: synced and proven before
            return
        fd = self.files.open(path)
        try:
            self.files.fdatasync(fd)
        finally:
            self.files.close(fd)


def _is_within(record: Record, regions: Regions) -> bool:
    """Whether a record touches one of these regions."""
    return any(
        record.offset < offset + length and offset < record.offset + record.span
        for offset, length in regions.get(record.source, ())
    )


def _holds(run: Sequence[JournalFile], position: Position) -> bool:
    return any(file.holds(position) for file in run)


def _begins_after(file: JournalFile, position: Position) -> bool:
    return file.header.generation == position.generation and file.header.start > position.offset
