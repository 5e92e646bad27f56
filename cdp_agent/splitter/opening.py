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
from cdp_agent.splitter.finding import Finding, Found, where_given_up
from cdp_agent.splitter.generations import Generations
from cdp_agent.splitter.intent import WriteIntent, read_intent
from cdp_agent.splitter.journal_writer import JournalWriter
from cdp_agent.splitter.published import Published
from cdp_agent.splitter.redo import redo, refuse_changed_content, refuse_changed_times
from cdp_agent.splitter.settings import REDO_NOTE_SECONDS, SplitterSettings
from cdp_container.clock import Clock
from cdp_container.errors import (
    BackingChanged,
    ConfigInvalid,
    DeviceError,
    JournalDamaged,
    LocalDiskFull,
)
from cdp_container.journal.position import NOWHERE, Position
from cdp_container.journal.reader import JournalReader
from cdp_container.journal.record import FILE_HEADER_BYTES, RECORD_HEADER_BYTES, Note, Record
from cdp_container.journal.shared import SharedPages, SplitterPage
from nbd_export.files import Files

JOURNAL: Final = "journal"
SHARED: Final = "shared"
# A journal file must hold a header, a record with a sector, and the END_OF_FILE behind it.
FILE_BYTES_MIN: Final = FILE_HEADER_BYTES + 2 * RECORD_HEADER_BYTES + 4096


Regions: TypeAlias = Mapping[int, Sequence[tuple[int, int]]]
"""Ranges (offset, length) by source."""


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
        generations = Generations(
            settings, self.files, self.clock, self.entropy, self.boot, self.pages, self.directory
        )
        finding = Finding(self.reader, self.directory, self.boot, settings.full_copy, generations.proven)
        found = finding.find(last)
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
        generations.drop_other_files(self.reader, end)
        generation = generations.fresh_name()
        keeps_overflow = last.overflowed and not settings.full_copy
        writer = None if keeps_overflow else generations.new_writer(self.reader, generation, end)
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
            given_up_at = where_given_up(self.reader, last, found)
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
            generations.begin_again, self._dirty_blocks(),
            self._intent(generation, backings, writer is not None), settings, self.clock,
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
