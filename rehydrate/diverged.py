"""What a run that was overtaken left in its journal directory: what it wrote, and if its disks are known.

The journal tells all that guests wrote since a position, unless something happened that let writes pass by
it, or disks lose some. Every such thing is a *doubt*: then nothing is known, and everything is compared.
Records that never reached a disk only make more to compare.

Which cut disks and branch had in common is found here; what the branch wrote since then is not (delta).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from cdp_container.domain.carried import BELIEVED_NAME, CARRIED_NAME, CarriedVolume
from cdp_container.domain.contents import Contents
from cdp_container.domain.durable import replace_file, sync_directory
from cdp_container.domain.identity import IDENTITY_NAME
from cdp_container.domain.image import Branch, on_branch
from cdp_container.domain.notes import NOTES_NAME, load_notes
from cdp_container.domain.stopped import STOPPED_NAME, load_stopped
from cdp_container.errors import JournalDamaged, PositionUnknown
from cdp_container.extents.intervals import Intervals
from cdp_container.format.place import Place
from cdp_container.journal.position import NOWHERE, Position
from cdp_container.journal.read_back import READ_BACK_BYTES_MAX, newest_untouched
from cdp_container.journal.reader import JournalEnd, JournalReader
from cdp_container.journal.record import Kind, Record
from cdp_container.journal.shared import SharedPages, SplitterPage
from rehydrate.delta import Gathered

JOURNAL: Final = "journal"
SHARED: Final = "shared"
WISH: Final = "wish.json"
MOVED: Final = (
    JOURNAL, SHARED, "dirty", "intent", WISH, "splitter.json", "streamer.json", CARRIED_NAME, BELIEVED_NAME,
    STOPPED_NAME,
)  # fmt: skip
"""What belongs to the run that was overtaken, and to no other."""
WANTED: Final = "agent.wanted-*.json"
COPIED: Final = (NOTES_NAME, IDENTITY_NAME)
"""What the evidence needs to be read, and the site too until it owns again."""

_IN_PART: Final = (JournalDamaged, PositionUnknown, OSError)


@dataclass(frozen=True, slots=True)
class Fork:
    """The newest cut that the disks and a branch have in common, and its position in the journal."""

    place: Place
    position: Position


@dataclass(frozen=True, slots=True)
class Beyond:
    """How much a journal holds: `records`, and the `written_bytes` of those that carry data."""

    records: int
    written_bytes: int


class Diverged:
    """The journal of a run that was overtaken, while no agent runs; to be used as a context.

    Args:
        directory: where journal/, shared and notes.json are: the journal directory, or where they went.
        domain: the domain's id, 16 bytes.
        boot: the boot id of this machine, 16 bytes.
    """

    def __init__(self, directory: Path, domain: bytes, boot: bytes) -> None:
        self._directory = directory
        self._domain = domain
        self._reader: JournalReader | None = None
        self._end = JournalEnd(NOWHERE, 0, clean_stop=False)
        self.page = SplitterPage()
        self._proven = NOWHERE
        try:
            self.doubt = self._judged(boot)
        except _IN_PART as error:
            self.doubt = f"the journal cannot be read: {error}"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._reader is not None:
            self._reader.close()

    @property
    def is_blank(self) -> bool:
        """Whether no splitter ever ran here."""
        has_files = self._reader is not None and any(self._reader.runs)
        return not has_files and not self.page.generation and not any((self._directory / JOURNAL).glob("*"))

    @property
    def last_write_ns(self) -> int:
        """Wall clock of the newest thing in the journal."""
        newest = self._reader.files[-1].header.wall_ns if self._reader and self._reader.files else 0
        return max(newest, self._end.last_time_ns)

    def stopped(self) -> dict[bytes, CarriedVolume]:
        """By space, what the disks looked like after a clean stop, if that was the last thing here.

        Raises ConfigInvalid.
        """
        noted = load_stopped(self._directory)
        if noted is None or not self.page.generation or noted.generation != self.page.generation:
            return {}
        return {volume.space: volume for volume in noted.volumes}

    def _judged(self, boot: bytes) -> str:
        """Why the journal does not tell what the disks hold; empty where it does."""
        page = self._read_page()
        if page is None:
            return "nothing is left of what its splitter published"
        self.page = page
        reader = self._reader = JournalReader(self._directory / JOURNAL, self._domain)
        if len(reader.runs) != 1:
            return "its journal is no unbroken run of files"
        self._end = reader.find_end(reader.start)
        return self._doubt_of_page(page) or self._doubt_of_end(page, boot)

    def _doubt_of_page(self, page: SplitterPage) -> str:
        if page.overflowed:
            return "its journal was full, and writes went past it"
        if page.sync_failed:
            return "a disk failed to take writes that the journal has"
        if page.episode != load_notes(self._directory).episode:
            return "writes went past its journal once, and were not compared yet"
        if (self._directory / WISH).exists():
            return "its last start was to take over disks that had been changed, and did not come to it"
        return ""

    def _doubt_of_end(self, page: SplitterPage, boot: bytes) -> str:
        assert self._reader is not None
        end = self._end.position
        if not self._reader.contains(page.synced, end):
            return "its journal does not hold the point up to which all was synced"
        if page.boot == boot:
            return "" if self._reaches(page.tail) else "its journal ends before what was published"
        # Begun anew since a clean stop, it would have to hold another one: in that very generation.
        if self._end.clean_stop and end.generation == page.generation and end.offset:
            return ""
        return "the machine stopped before the agent did, so disks may hold what the journal lost"

    def _reaches(self, position: Position) -> bool:
        assert self._reader is not None
        try:
            self._reader.distance_bytes(position, self._end.position)
        except PositionUnknown:
            return False
        return True

    def _read_page(self) -> SplitterPage | None:
        path = self._directory / SHARED
        if not path.exists() or not (self._directory / JOURNAL).is_dir():
            return None
        pages = SharedPages(path)
        try:
            streamer = pages.streamer.read()
            self._proven = NOWHERE if streamer is None else streamer.proven
            return pages.splitter.read()
        finally:
            pages.close()

    # --- what it says ------------------------------------------------------------------------

    def fork(self, contents: Contents, branch: Branch) -> Fork | None:
        """The newest cut of a branch that this journal is known to have taken, if it holds all since.

        None: everything may differ.
        """
        if self.doubt or self._reader is None:
            return None
        generations = list(dict.fromkeys(file.header.generation for file in self._reader.files))
        for segment in sorted(contents.segments.values(), key=lambda one: one.place, reverse=True):
            position = Position(*segment.journal)
            ours = segment.complete and position.generation in generations
            if not ours or not on_branch(segment.place, branch):
                continue
            if contents.ledger.is_retired(segment.epoch, segment.seq):
                continue  # what it alone needed may be gone
            # A clone, or this host before it was reverted, named its cuts as we do, and wrote something else.
            if not self._is_before(position, self._proven):
                continue
            # Where the newest one was trimmed, or lost, so were all before it.
            holds = self._reader.contains(position, self._end.position)
            return (
                Fork(segment.place, position)
                if holds and self._is_whole_since(position, generations)
                else None
            )
        return None

    def _is_whole_since(self, position: Position, generations: list[int]) -> bool:
        """Whether no write went past the journal behind a position, be it compared since or not."""
        episode = self.page.episode
        if episode not in generations:
            return True  # it was compared, and what it began with was trimmed since
        return generations.index(episode) <= generations.index(position.generation)

    def since(self, fork: Fork, sizes: Mapping[int, int]) -> dict[int, Intervals]:
        """The blocks that guests wrote, or may not have on their disks, since a fork.

        Args:
            fork: as `fork` found it.
            sizes: in bytes, by index of the source; others are left out.

        Raises:
            JournalDamaged, PositionUnknown: it cannot be read.
        """
        assert self._reader is not None
        found = {source: Gathered(size_bytes) for source, size_bytes in sizes.items()}
        # A cut may be taken of records before their bytes are on the disk: a splitter that was killed then
        # has left a disk that is older than the cut. A redo would begin at the synced point, too.
        earlier = self.page.synced if self._is_before(self.page.synced, fork.position) else fork.position
        for record in self._reader.records(earlier, self._end.position):
            if record.source in found:
                found[record.source].add(record.offset, record.span)
        return {source: gathered.blocks() for source, gathered in found.items()}

    def _is_before(self, one: Position, other: Position) -> bool:
        assert self._reader is not None
        try:
            self._reader.distance_bytes(one, other)
        except PositionUnknown:
            return False
        return True

    def beyond(self, fork: Fork | None) -> Beyond:
        """How much lies beyond a fork; without one, in the whole journal, as far as it can be read."""
        records = written = 0
        try:
            for record in self._from(None if fork is None else fork.position):
                records += 1
                written += record.payload_length
        except _IN_PART:
            pass  # it is what can be read that is told
        return Beyond(records, written)

    def _from(self, position: Position | None) -> Iterator[Record]:
        if self._reader is None or self._end.position == NOWHERE:
            return iter(())
        return self._reader.records(position or self._reader.start, self._end.position)

    def changed_sources(self, read: Callable[[int, int, int], bytes | None]) -> set[int]:
        """The sources whose disks do not hold what was written to them and synced: somebody changed them.

        Args:
            read: gives so many bytes (the last argument) of a source from an offset on; None for one that is
                not looked at.
        """
        if self.doubt or self._reader is None:
            return set()
        synced = self._reader.records(self._reader.start, self.page.synced)
        after = self._reader.records(self.page.synced, self._end.position)
        changed = set()
        for record in newest_untouched(synced, after):
            length = min(record.span, READ_BACK_BYTES_MAX)
            is_write = record.kind is Kind.WRITE
            wanted = self._reader.read_payload(record, 0, length) if is_write else bytes(length)
            found = read(record.source, record.offset, length)
            if found is not None and found != wanted:
                changed.add(record.source)
        return changed


def move_aside(directory: Path, evidence: Path) -> None:
    """Move what the overtaken run left into `evidence`, durably; a second call does what a crash left undone.

    Raises OSError, CdpError.
    """
    evidence.mkdir(exist_ok=True)
    sync_directory(directory)
    for name in COPIED:
        if (directory / name).exists() and not (evidence / name).exists():
            replace_file(evidence / name, (directory / name).read_bytes())
    names = [*MOVED, *(path.name for path in sorted(directory.glob(WANTED)))]
    for name in names:
        if os.path.lexists(directory / name) and not os.path.lexists(evidence / name):
            (directory / name).rename(evidence / name)
    sync_directory(evidence)
    sync_directory(directory)


def evidence_name(directory: Path, epoch: int) -> str:
    """A name for the evidence of an epoch that is free."""
    name = f"diverged-{epoch}"
    number = 1
    while os.path.lexists(directory / name):
        number += 1
        name = f"diverged-{epoch}-{number}"
    return name
