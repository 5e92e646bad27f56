"""Whether what a crash left is mended as promised: at every moment of a story, for all that may be left then.

The disks may hold any content of a sector since its last sync, the journal's files any mixture of old and new
sectors. Each is opened with the real code, and what comes of it is compared with what the guest was promised
and with what the streamer makes of it. Nothing here knows how the splitter works, only what it owes:

1. Opening never refuses what a crash alone has done.
2. What was promised (a flush or FUA was answered) is on the disks. Killed, all that was answered is.
3. No sector holds what was not written there since.
4. The journal holds a first part of what was appended, as it was, with all that was promised.
5. From any cut that the container may end with, the real plan of an epoch leads to what the disks hold: by
   the journal's records, or because what differs is in doubt and will be compared.
6. The tail is a new generation's; no position is used again.
7. Below applied-up-to every disk has everything (`owed`).

Of all the mixtures of journal sectors that end at the same record only those with the least and with the most
behind it are recovered in full, and of published pages that differ in the tail alone the first and the last;
with `every` all are. Disk sectors count each on its own, unless recovery looked at the disks: then all their
mixtures are recovered.
"""

from __future__ import annotations

import asyncio
import itertools
import struct
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from cdp_agent.splitter.capture import Capture as SplitterCapture
from cdp_agent.splitter.opening import SHARED, open_capture
from cdp_agent.splitter.settings import SplitterSettings
from cdp_container.errors import CdpError
from cdp_container.journal.position import NOWHERE, Position
from cdp_container.journal.reader import JournalReader
from cdp_container.journal.record import Kind, Record
from cdp_container.journal.shared import (
    PAGE_BYTES,
    SLOT_BYTES,
    SPLITTER_FIELDS,
    SharedPages,
    SplitterPage,
    StreamerPage,
    decode_splitter_page,
    decode_streamer_page,
)
from tests.unit.splitter.enumeration.arrival import Way, strays, way_from
from tests.unit.splitter.enumeration.owed import (
    VOLUME_BYTES,
    Answered,
    Asked,
    Capture,
    Cut,
    Guest,
    Images,
    Place,
    Started,
    sector_of,
)
from tests.unit.splitter.enumeration.power import SECTOR_BYTES, Disks, Rebooted, Wrote, in_parts
from tests.unit.splitter.enumeration.recording import Event, InTurn, Recorder, lay_out, shared_is_noted
from tests.unit.splitter.enumeration.story import boot_of, settings_of
from tests.unit.splitter.machine import DOMAIN, StepClock

VOLUMES = tuple(f"v{index}.raw" for index in range(len(VOLUME_BYTES)))
NEW_GENERATIONS = 1 << 40  # those of recoveries, which are no part of a story
_SLOT_HEAD_BYTES = 16
_SPLITTER_BYTES = struct.calcsize("<" + "".join(code for _, code in SPLITTER_FIELDS))


class Broken(AssertionError):
    """A crash state from which the splitter does not come back as it should."""


@dataclass(frozen=True, slots=True)
class Recovered:
    """What opening made of a state.

    Attributes:
        writes: what it wrote to volumes: index, offset, data.
        looked: it read from a volume.
        page: what is published after it.
        records: those in the journal now, oldest first, with their payloads.
        ways: for every cut that the container may end with, what comes of it.
    """

    writes: tuple[tuple[int, int, bytes], ...]
    looked: bool
    page: SplitterPage
    records: tuple[tuple[Record, bytes], ...]
    ways: tuple[Way, ...]


@dataclass
class Judge:
    """Goes through a story.

    Args:
        scratch: a directory that it may fill and empty.
        limit_files: what the journal may take.
        every: recover every state in full.
    """

    scratch: Path
    limit_files: int
    every: bool = False
    recovered: int = 0
    judged: int = 0
    _known: dict[object, Recovered] = field(default_factory=dict)
    _ends: dict[object, object] = field(default_factory=dict)
    _before: list[Event] = field(default_factory=list)

    def judge(self, events: list[Event], first: int, name: str) -> None:
        """Look at every moment from event `first` on. States of stories that begin alike are recovered once.

        Raises:
            Broken, AssertionError: what is owed is not there; the message says at which event.
        """
        (self.scratch / "journal").mkdir(parents=True, exist_ok=True)
        if self._before != events[:first]:
            self._before = events[:first]
            self._known.clear()
            self._ends.clear()
        at = _Moment()
        for number, event in enumerate(events):
            try:
                if number >= first:
                    self._killed_amid(at, event)
                at.go_on(event)
                if number >= first:
                    self._after(at, event)
            except AssertionError as error:
                shown = [_short(shown) for shown in events[max(first, number - 8) : number + 1]]
                raise Broken("\n  ".join([f"{name}: {error}", "after:", *shown])) from error

    def _after(self, at: _Moment, event: Event) -> None:
        if isinstance(event, Asked):
            return
        if not isinstance(event, Rebooted):
            self._killed(at)
        if not isinstance(event, Answered) or event.promise:
            self._lost_power(at)

    # --- killed --------------------------------------------------------------------------------

    def _killed_amid(self, at: _Moment, event: Event) -> None:
        for part in in_parts(event) if isinstance(event, Wrote) else ():
            then = at.disks.copied()
            then.apply(part)
            self._killed(at, then)

    def _killed(self, at: _Moment, disks: Disks | None = None) -> None:
        disks = disks or at.disks
        files = {path: bytes(disks.now[file]) for path, file in disks.current_names().items()}
        found = self._recover(files, at, at.boot)
        guest = at.guest
        allowed = guest.after_kill if at.is_serving else guest.after_power_loss
        images = _after_writes(tuple(files[name] for name in VOLUMES), found)
        for volume, number in guest.places:
            content = sector_of(images[volume], number)
            _demand(content in allowed((volume, number)), f"killed: {_lost(volume, number, content)}")
        self._judge(at, found, images)

    # --- power lost ----------------------------------------------------------------------------

    def _lost_power(self, at: _Moment) -> None:
        for names, sized in at.disks.names_left():
            pages = list(_pages_left(at.disks, names, sized, self.every))
            for journal in self._journals_left(at, names, sized):
                for page in pages:
                    self._lose(at, journal | page, names)

    def _journals_left(
        self, at: _Moment, names: dict[str, int], sized: set[int]
    ) -> Iterator[dict[str, bytes]]:
        """Of all that end alike the first and the last: with the least and the most behind their end."""
        left = at.disks.contents_left(names, sized, lambda path: path not in (*VOLUMES, SHARED))
        first: dict[object, dict[str, bytes]] = {}
        last: dict[object, dict[str, bytes]] = {}
        for journal in left:
            self.judged += 1
            if self.every:
                yield journal
                continue
            end = self._end_of(journal, at)
            first.setdefault(end, journal)
            last[end] = journal
        yield from first.values()
        yield from (journal for end, journal in last.items() if journal is not first[end])

    def _end_of(self, journal: dict[str, bytes], at: _Moment) -> object:
        """Where the records of the journal end, and all else that is not journal."""
        state = frozenset(journal.items())
        if state not in self._ends:
            lay_out(self.scratch, journal)
            ends: list[object] = []
            with JournalReader(self.scratch / "journal", DOMAIN) as reader:
                for run in reader.runs:
                    reader.follow(run)
                    end = reader.find_end(reader.start)
                    ends.append((reader.start, end))
                    self._demand_appended(at, _records(reader, end.position))
            others = frozenset(item for item in state if not item[0].endswith(".jnl"))
            self._ends[state] = tuple(ends), others, frozenset(journal)
        return self._ends[state]

    def _lose(self, at: _Moment, files: dict[str, bytes], names: Mapping[str, int]) -> None:
        """Everything that may be left of the volumes, together with these files."""
        ids = [names[name] for name in VOLUMES]
        now = tuple(bytes(at.disks.now[file]) for file in ids)
        found = self._recover(files | dict(zip(VOLUMES, now, strict=True)), at, at.boot + 1)
        doubtful = [
            (volume, number) for volume, file in enumerate(ids) for number in at.disks.doubtful_sectors(file)
        ]
        contents = [at.disks.sector_left(ids[volume], number) for volume, number in doubtful]
        if found.looked:
            for chosen in itertools.product(*contents):
                left = _with_sectors(now, dict(zip(doubtful, chosen, strict=True)))
                again = self._recover(files | dict(zip(VOLUMES, left, strict=True)), at, at.boot + 1)
                self._judge_lost(at, again, left)
            return
        for count in range(max(map(len, contents), default=1)):  # each content of each of them, at some turn
            turn = [choices[min(count, len(choices) - 1)] for choices in contents]
            self._judge_lost(at, found, _with_sectors(now, dict(zip(doubtful, turn, strict=True))))

    def _judge_lost(self, at: _Moment, found: Recovered, left: Images) -> None:
        images = _after_writes(left, found)
        for volume, image in enumerate(images):
            for number in range(len(image) // SECTOR_BYTES):
                content = sector_of(image, number)
                allowed = at.guest.after_power_loss((volume, number))
                _demand(content in allowed, f"power lost: {_lost(volume, number, content)}")
        self._judge(at, found, images)

    # --- both ----------------------------------------------------------------------------------

    def _recover(self, files: dict[str, bytes], at: _Moment, boot: int) -> Recovered:
        cuts = at.capture.cuts
        key = frozenset(files.items()), boot, tuple((cut.position, cut.episode) for cut in cuts)
        if key not in self._known:
            lay_out(self.scratch, files)
            self._known[key] = self._open(files, boot, cuts)
        return self._known[key]

    def _open(self, names: Iterable[str], boot: int, cuts: list[Cut]) -> Recovered:
        self.recovered += 1
        settings = settings_of(self.scratch, self.limit_files)
        recorder = Recorder(self.scratch)
        for name in names:
            recorder.know(name)
        number = itertools.count(NEW_GENERATIONS)
        with shared_is_noted(recorder):
            pages = SharedPages(self.scratch / SHARED)
            try:
                capture, _ = open_capture(
                    settings, recorder, StepClock(), lambda count: next(number).to_bytes(count, "little"),
                    boot_of(boot), pages, lambda progress: None,
                )  # fmt: skip
                capture.end_threads()
                if capture.page.overflowed:
                    self._found(
                        settings, recorder, capture.page, cuts, pages
                    )  # what is sent until then is there
                    asyncio.run(_go_on(capture, pages))
                return self._found(settings, recorder, capture.page, cuts, pages)
            except CdpError as error:
                raise Broken(f"opening refuses what a crash left: {error}") from error
            finally:
                recorder.forget_descriptors()
                pages.close()

    def _found(
        self,
        settings: SplitterSettings,
        recorder: Recorder,
        page: SplitterPage,
        cuts: list[Cut],
        pages: SharedPages,
    ) -> Recovered:
        volumes = {recorder.ids[name]: index for index, name in enumerate(VOLUMES)}
        writes = tuple(
            (volumes[event.file], event.offset, event.data)
            for event in recorder.events
            if isinstance(event, Wrote) and event.file in volumes
        )
        with JournalReader(settings.journal_dir / "journal", DOMAIN) as reader:
            # Not up to the tail: what was lost of a journal that was given up, nobody needs.
            records = tuple(_records(reader, reader.find_end(reader.start).position))
            ways = tuple(way_from(cut, page, reader, settings, pages) for cut in cuts)
        return Recovered(writes, recorder.reads > 0, page, records, ways)

    def _judge(self, at: _Moment, found: Recovered, images: Images) -> None:
        """What is owed after any crash; `images`: what the volumes hold after it."""
        capture, page = at.capture, found.page
        self._demand_appended(at, found.records)
        needed = capture.promised_and_not_proven
        has = {record.position for record, _ in found.records}
        _demand(needed is None or needed in has, f"the journal lost {needed}, which was flushed")
        _demand(page.tail.generation not in capture.generations, "a generation is used again")
        _demand(page.tail == page.synced == page.applied, "opening leaves nothing behind")
        for way in found.ways:
            for stray in strays(way, images):
                raise Broken(stray)

    def _demand_appended(self, at: _Moment, records: Iterable[tuple[Record, bytes]]) -> None:
        for record, payload in records:
            if record.position.generation >= NEW_GENERATIONS:
                continue
            appended = at.capture.appended.get(record.position)
            same = appended is not None and appended[1] == payload and _said(appended[0]) == _said(record)
            _demand(same, f"what the journal has at {record.position} was never appended there")


@dataclass
class _Moment:
    """Everything after some events of a story."""

    disks: Disks = field(default_factory=Disks)
    guest: Guest = field(default_factory=Guest)
    capture: Capture = field(default_factory=Capture)
    boot: int = -1
    is_serving: bool = False

    def go_on(self, event: Event) -> None:
        match event:
            case Asked():
                self.guest.ask(event)
            case Answered():
                self.guest.answer(event)
                if event.promise:
                    self.capture.promise()
            case Started():
                if not self.is_serving:
                    self.guest.see(self.images)
                self.is_serving = True
            case _:
                self.disks.apply(event)
                self._note(event)

    def _note(self, event: Event) -> None:
        if isinstance(event, Rebooted):
            self.boot += 1
            self.is_serving = False
            self.capture.lose_power()
        if not isinstance(event, Wrote):
            return
        path = next(path for path, file in self.disks.current_names().items() if file == event.file)
        if path.endswith(".jnl"):
            self.capture.append(event.offset, event.data)
        elif path == SHARED and event.offset < PAGE_BYTES:
            self.capture.publish(decode_splitter_page(event.data[_SLOT_HEAD_BYTES:]), self.images)
        elif path == SHARED:
            self.capture.prove(decode_streamer_page(event.data[_SLOT_HEAD_BYTES:]))

    @property
    def images(self) -> Images:
        """What the page cache holds of the volumes."""
        names = self.disks.current_names()
        return tuple(bytes(self.disks.now[names[name]]) for name in VOLUMES)


def _pages_left(
    disks: Disks, names: Mapping[str, int], sized: set[int], every: bool
) -> Iterator[dict[str, bytes]]:
    """One for each pair of pages that may be the newest: the other slot of a page is never looked at.

    Without `every` only the first and the last of those whose splitter page differs in the tail alone.
    """
    newest: dict[tuple[tuple[int, bytes], ...], dict[str, bytes]] = {}
    for left in disks.contents_left(names, sized, lambda path: path == SHARED):
        slots = tuple(_newest_slot(left[SHARED], page) for page in (0, PAGE_BYTES))
        newest.setdefault(slots, left)
    if every:
        yield from newest.values()
        return
    first: dict[object, dict[str, bytes]] = {}
    last: dict[object, dict[str, bytes]] = {}
    for slots, left in sorted(newest.items(), key=lambda item: item[0]):
        page = decode_splitter_page(slots[0][1][:_SPLITTER_BYTES])
        alike = replace(page, tail=NOWHERE, applied=NOWHERE, used_bytes=0), slots[1]
        first.setdefault(alike, left)
        last[alike] = left
    yield from first.values()
    yield from (left for alike, left in last.items() if left is not first[alike])


def _newest_slot(content: bytes, page: int) -> tuple[int, bytes]:
    """Its sequence number and what it holds."""
    slots = [content[page + slot : page + slot + SLOT_BYTES] for slot in (0, SLOT_BYTES)]
    return max((int.from_bytes(slot[8:16], "little"), slot[_SLOT_HEAD_BYTES:]) for slot in slots)


async def _go_on(capture: SplitterCapture, pages: SharedPages) -> None:
    """The container has all of a journal that was given up; then it must go on, and say what to compare."""
    before = pages.streamer.read() or StreamerPage()
    pages.streamer.publish(replace(before, proven=capture.page.overflow_at))
    capture.appending.threads = InTurn()
    _demand(await capture.go_on(), "a journal that was given up does not go on")
    capture.end_threads()


def _records(reader: JournalReader, end: Position) -> Iterator[tuple[Record, bytes]]:
    if reader.start == NOWHERE:
        return
    for record in reader.records(reader.start, end):
        yield record, reader.read_payload(record) if record.kind is Kind.WRITE else b""


def _said(record: Record) -> tuple[object, ...]:
    return record.kind, record.source, record.offset, record.span, record.end


def _after_writes(images: Images, found: Recovered) -> Images:
    changed = [bytearray(image) for image in images]
    for volume, offset, data in found.writes:
        changed[volume][offset : offset + len(data)] = data
    return tuple(map(bytes, changed))


def _with_sectors(images: Images, sectors: Mapping[Place, bytes]) -> Images:
    changed = [bytearray(image) for image in images]
    for (volume, number), content in sectors.items():
        changed[volume][number * SECTOR_BYTES : (number + 1) * SECTOR_BYTES] = content
    return tuple(map(bytes, changed))


def _demand(is_so: bool, otherwise: str) -> None:
    if not is_so:
        raise Broken(otherwise)


def _lost(volume: int, number: int, content: bytes) -> str:
    return f"sector {number} of volume {volume} holds {content[:24]!r}: lost, or not written there since"


def _short(event: Event) -> str:
    text = repr(event)
    return text if len(text) < 160 else f"{text[:157]}..."
