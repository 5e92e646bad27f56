"""What a splitter owes, told from a story alone: writes to the guest, positions and content to the container.

Pure: it follows the events. What is really there after a crash does not belong here (`judging`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from cdp_container.journal.position import NOWHERE, Position
from cdp_container.journal.reader import CHANGES
from cdp_container.journal.record import (
    FILE_HEADER_BYTES,
    RECORD_HEADER_BYTES,
    Kind,
    Record,
    decode_record_header,
)
from cdp_container.journal.shared import SplitterPage, StreamerPage
from tests.unit.splitter.enumeration.power import SECTOR_BYTES

Images = tuple[bytes, ...]
Place = tuple[int, int]  # volume, number of the sector

VOLUME_BYTES = (8192, 4096)

_ZEROS = bytes(SECTOR_BYTES)
EMPTY: Images = tuple(map(bytes, VOLUME_BYTES))


@dataclass(frozen=True, slots=True)
class Asked:
    """The guest asked for `number`: a content from a sector of a volume on, or (without one) for a flush."""

    number: int
    volume: int = 0
    sector: int = 0
    contents: tuple[bytes, ...] = ()


@dataclass(frozen=True, slots=True)
class Answered:
    """The guest was told that it is done; `promise`: and that all stays that was answered before it asked."""

    number: int
    promise: bool = False


@dataclass(frozen=True, slots=True)
class Started:
    """A splitter serves."""


@dataclass(slots=True)
class Guest:
    """What each sector may hold: what it held when that was promised to stay, and what came since."""

    _contents: dict[Place, list[tuple[int, bytes]]] = field(default_factory=dict)  # oldest first
    _promised: dict[Place, int] = field(default_factory=dict)  # from which of them on
    _answered: set[int] = field(default_factory=set)
    _answered_before: dict[int, frozenset[int]] = field(default_factory=dict)  # each request was asked

    def ask(self, asked: Asked) -> None:
        self._answered_before[asked.number] = frozenset(self._answered)
        for at, content in enumerate(asked.contents):
            contents = self._contents.setdefault((asked.volume, asked.sector + at), [(-1, _ZEROS)])
            contents.append((asked.number, content.ljust(SECTOR_BYTES, b"\0")))

    def answer(self, answered: Answered) -> None:
        self._answered.add(answered.number)
        if answered.promise:
            stays = self._answered_before[answered.number] | {answered.number}
            for place, contents in self._contents.items():
                last = max((at for at, (number, _) in enumerate(contents) if number in stays), default=0)
                self._promised[place] = max(last, self._promised.get(place, 0))

    def see(self, images: Images) -> None:
        """After a power loss the guest reads its disks: what it sees must stay, as on any disk."""
        for (volume, number), contents in self._contents.items():
            contents[:] = [(-1, sector_of(images[volume], number))]
        self._promised.clear()

    @property
    def places(self) -> Sequence[Place]:
        """Everything that was ever written."""
        return tuple(self._contents)

    def after_power_loss(self, place: Place) -> set[bytes]:
        """What a sector may hold then."""
        contents = self._contents.get(place, [(-1, _ZEROS)])
        return {content for _, content in contents[self._promised.get(place, 0) :]}

    def after_kill(self, place: Place) -> set[bytes]:
        """Then everything that was answered is there."""
        contents = self._contents.get(place, [(-1, _ZEROS)])
        last = max((at for at, (number, _) in enumerate(contents) if number in self._answered), default=0)
        return {content for _, content in contents[last:]}


@dataclass(frozen=True, slots=True)
class Cut:
    """What the container may end with: a published position, the volumes at it, the episode compared."""

    position: Position
    episode: int
    images: Images


@dataclass(slots=True)
class Capture:
    """What was appended to the journal and published.

    Attributes:
        appended: every record, by its position, with its payload.
        cuts: what the container may end with; it never loses what it holds.
        promised: the newest record that must be in the journal whatever is lost, unless it is proven.
        page: what is published.
    """

    appended: dict[Position, tuple[Record, bytes]] = field(default_factory=dict)
    cuts: list[Cut] = field(default_factory=list)
    promised: Position = NOWHERE
    page: SplitterPage = field(default_factory=SplitterPage)
    generations: set[int] = field(default_factory=set)
    _images: Images = EMPTY
    _images_at: dict[Position, Images] = field(default_factory=dict)
    _order: dict[Position, int] = field(default_factory=dict)  # of the ends of records
    _proven_order: int = -1
    _kept: int = 0  # so many of `appended` came before the newest power loss, which may have taken some

    def append(self, offset: int, data: bytes) -> None:
        """Something was written into a journal file."""
        for record, payload in records_in(offset, data):
            assert record.position not in self.appended, f"{record.position} is used again"
            self.appended[record.position] = record, payload
            self._order[record.end] = len(self._order)
            self._images = applied(self._images, record, payload)
            self._images_at[record.end] = self._images
            self.generations.add(record.position.generation)

    def publish(self, page: SplitterPage, on_disks: Images) -> None:
        """The splitter published; `on_disks`: what the volumes hold."""
        if page.episode != self.page.episode:  # everything in doubt is compared from here on
            self._images = on_disks
            self._images_at[page.tail] = on_disks
        self.page = page
        self.generations.add(page.generation)
        if page.overflowed:
            self.promised = NOWHERE  # a journal that is given up may lose its end
        cut = Cut(page.tail, page.episode, self._images_at.setdefault(page.tail, self._images))
        if cut not in self.cuts and page.tail != NOWHERE:
            self.cuts.append(cut)
        if page.running and not page.overflowed and not page.sync_failed:
            self._check_applied(page, on_disks)

    def _check_applied(self, page: SplitterPage, on_disks: Images) -> None:
        """A copy that is read now is not older than the records below applied-up-to."""
        expected = self._images_at.get(page.applied)
        if expected is None or page.applied.generation != page.tail.generation:
            return
        later = [
            record
            for record, _ in self.appended.values()
            if record.position.generation == page.applied.generation
            and record.position.offset >= page.applied.offset
        ]
        for volume, (image, wanted) in enumerate(zip(on_disks, expected, strict=True)):
            for number in differing(image, wanted):
                assert any(touches(record, volume, number) for record in later), (
                    f"a copy of sector {number} of volume {volume} would lack what was written"
                    f" before {page.applied}, which is said to be applied"
                )

    def prove(self, page: StreamerPage) -> None:
        """The streamer published: the container holds that, and will never end with less."""
        found = [at for at, cut in enumerate(self.cuts) if cut.position == page.proven]
        if found:
            del self.cuts[: found[-1]]
            self._proven_order = max(self._proven_order, self._order.get(page.proven, -1))

    def lose_power(self) -> None:
        """What was promised until now stays so."""
        self._kept = len(self.appended)

    def promise(self) -> None:
        """A flush was answered: so far the journal must stay."""
        appended = list(self.appended.values())[self._kept :]
        changes = [record for record, _ in appended if record.kind in CHANGES]
        if changes and not self.page.overflowed:
            self.promised = changes[-1].position

    @property
    def promised_and_not_proven(self) -> Position | None:
        """The record that must be in the journal."""
        if self.promised == NOWHERE:
            return None
        end = self.appended[self.promised][0].end
        return self.promised if self._order[end] > self._proven_order else None


def records_in(offset: int, data: bytes) -> Iterator[tuple[Record, bytes]]:
    """The whole records of what was written at `offset` of a journal file."""
    at = 0
    while offset >= FILE_HEADER_BYTES and len(data) - at >= RECORD_HEADER_BYTES:
        generation, place = (
            int.from_bytes(data[at + start : at + start + 8], "little") for start in (16, 24)
        )
        record = decode_record_header(data, at, Position(generation, place), 0, at)
        if record is None:
            return
        yield record, data[record.payload_at : record.payload_at + record.payload_length]
        at += record.end.offset - record.position.offset


def applied(images: Images, record: Record, payload: bytes) -> Images:
    """The volumes after a record."""
    if record.kind not in CHANGES:
        return images
    changed = [bytearray(image) for image in images]
    content = payload if record.kind is Kind.WRITE else bytes(record.span)
    changed[record.source][record.offset : record.offset + record.span] = content
    return tuple(map(bytes, changed))


def sector_of(image: bytes, number: int) -> bytes:
    """One sector of a volume."""
    return bytes(image[number * SECTOR_BYTES : (number + 1) * SECTOR_BYTES])


def differing(image: bytes, other: bytes) -> list[int]:
    """The numbers of the sectors that differ."""
    if image == other:
        return []
    return [
        number
        for number in range(len(image) // SECTOR_BYTES)
        if sector_of(image, number) != sector_of(other, number)
    ]


def touches(record: Record, volume: int, number: int) -> bool:
    """Whether a record changes a sector."""
    start = number * SECTOR_BYTES
    return (
        record.kind in CHANGES
        and record.source == volume
        and record.offset < start + SECTOR_BYTES
        and start < record.offset + record.span
    )
