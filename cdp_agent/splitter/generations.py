"""Generations of the journal: a new one behind what is there, and files that count for nothing deleted.

What does not belong here: what a file must hold to count (`finding`), and how one is written (`journal_run`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from cdp_agent.splitter.finding import file_of
from cdp_agent.splitter.journal_run import JournalRun
from cdp_agent.splitter.journal_writer import JournalWriter
from cdp_agent.splitter.settings import OnJournalFull, SplitterSettings
from cdp_container.clock import Clock
from cdp_container.errors import JournalFull
from cdp_container.journal.files import JournalFile, list_numbers
from cdp_container.journal.position import NOWHERE, Position
from cdp_container.journal.reader import JournalReader
from cdp_container.journal.shared import SharedPages
from nbd_export.files import Files


@dataclass(frozen=True, slots=True)
class Generations:
    """Those of one journal. `entropy` names them; `boot` is the boot id, 16 bytes."""

    settings: SplitterSettings
    files: Files
    clock: Clock
    entropy: Callable[[int], bytes]
    boot: bytes
    pages: SharedPages
    directory: Path

    def fresh_name(self) -> int:
        """The name of a new one; never 0."""
        return int.from_bytes(self.entropy(8), "little") or 1

    def proven(self) -> Position:
        """Up to where everything was sent."""
        streamer = self.pages.streamer.read()
        return streamer.proven if streamer else NOWHERE

    def drop_other_files(self, reader: JournalReader, end: Position) -> None:
        """Delete what a power loss left behind the end, as it was never synced, and what it brought back."""
        last_index = file_of(reader, end)
        kept = (
            {file.header.number for file in reader.files[: (last_index or 0) + 1]} if reader.files else set()
        )
        for number, path in list_numbers(self.directory).items():
            if number not in kept:
                self.files.unlink(path)

    def new_writer(self, reader: JournalReader, generation: int, end: Position) -> JournalWriter | None:
        """A writer in a generation of its own; None where there is no room and protection gives way."""
        reader.refresh()
        last = self.pages.splitter.read()
        synced = last.synced if last else NOWHERE
        try:
            return self._writer(reader, generation, end, synced)
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
        run.trim((self.proven(), synced))
        writer = JournalWriter(self.files, self.clock.wall_ns, run)
        writer.begin_generation(generation, beyond_limit=settings.full_copy)
        return writer

    def begin_again(self, end: Position) -> JournalWriter:
        """A new generation behind a journal that was given up at `end`; in a thread, while guests write."""
        generation = self.fresh_name()
        with JournalReader(self.directory, self.settings.domain) as reader:
            newest_number = max(list_numbers(self.directory), default=0)
            self._drop_behind(end, [file for run in reader.runs for file in run])
            reader.refresh()
            if reader.runs:
                reader.follow(reader.runs[-1])
            return self._writer(reader, generation, end, self.proven(), newest_number)

    def _drop_behind(self, end: Position, found: Sequence[JournalFile]) -> None:
        """Delete what counts for nothing: begun for a record that was refused, or by an attempt to go on.

        Were it left there, the new generation would not follow the file in which the old one ends.
        """
        last = max((file.header.number for file in found if file.holds(end)), default=None)
        for file in found:
            if file.header.previous == end or (last is not None and file.header.number > last):
                self.files.unlink(file.path)
