"""What the last run left in the journal, judged: nothing is changed here.

What is done about it does not belong here (`opening`), nor how a journal is read (`cdp_container.journal`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from cdp_container.errors import JournalDamaged, PositionUnknown
from cdp_container.journal.files import JournalFile, file_name, list_numbers
from cdp_container.journal.position import NOWHERE, Position
from cdp_container.journal.reader import JournalReader
from cdp_container.journal.shared import SplitterPage


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


@dataclass(frozen=True, slots=True)
class Finding:
    """How it is found.

    Attributes:
        reader: of the journal; it follows the files that count from then on.
        directory: where they are.
        boot: the boot id, 16 bytes.
        may_be_gone: whether the journal may be, as everything is copied anyway.
        proven: gives up to where all was sent.
    """

    reader: JournalReader
    directory: Path
    boot: bytes
    may_be_gone: bool
    proven: Callable[[], Position]

    def find(self, last: SplitterPage) -> Found | None:
        """Judge the journal; None if there was never one. Nothing is changed.

        Raises:
            JournalDamaged: it does not reach what was published or synced, or files are missing.
        """
        if not self.reader.runs:
            if last.tail != NOWHERE and not self.may_be_gone:
                raise JournalDamaged("opening the journal", f"the files in {self.directory} are gone")
            return None
        run = self._run_that_counts(last.synced, last.overflowed)
        self.reader.follow(run)
        index = file_of(self.reader, last.synced)
        first = run[index or 0].header
        look_from = Position(first.generation, first.start)
        end = self.reader.find_end(look_from)
        # Where the published point is unknown (an old page after a power loss), all that came before
        # the oldest file was synced: nothing else is ever recycled.
        synced = last.synced if index is not None else look_from
        # Not the boot of the newest file: a start that died before it published left one, and judged nothing.
        same_boot = last.boot == self.boot
        if not last.overflowed:  # else it may have lost its end, which is why it was given up
            _must_reach(self.reader, synced, end.position)
            if same_boot and last.tail != NOWHERE:
                _must_reach(self.reader, last.tail, end.position)
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
        if earlier and not _holds(run, self.proven()):  # else they were trimmed, and a power loss undid it
            raise JournalDamaged(
                "opening the journal",
                f"a file before {run[0].path} is damaged or gone, and what they hold was not sent yet",
            )
        return run


def file_of(reader: JournalReader, position: Position) -> int | None:
    """The newest file that has room for `position`."""
    indexes = [index for index, file in enumerate(reader.files) if file.holds(position)]
    return indexes[-1] if indexes else None


def where_given_up(reader: JournalReader, last: SplitterPage, found: Found | None) -> Position:
    """Where the journal was given up; where it ends now, if a power loss took its end."""
    if found is None or _reaches(reader, last.overflow_at, found.end):
        return last.overflow_at
    return found.end


def _reaches(reader: JournalReader, position: Position, end: Position) -> bool:
    try:
        reader.distance_bytes(position, end)
    except PositionUnknown:
        return False
    return True


def _must_reach(reader: JournalReader, position: Position, end: Position) -> None:
    try:
        reader.distance_bytes(position, end)
    except PositionUnknown as error:
        raise JournalDamaged(
            "opening the journal",
            f"its valid records end at {end}, before {position}, which was reached once",
        ) from error


def _holds(run: Sequence[JournalFile], position: Position) -> bool:
    return any(file.holds(position) for file in run)


def _begins_after(file: JournalFile, position: Position) -> bool:
    return file.header.generation == position.generation and file.header.start > position.offset
