"""Small histories at random, for liveness: written, retired, branched, collected; and a model of every byte.

    Story(random.Random(1), directory, scale=512, shift=1 << 40).play(steps=8)

raises AssertionError where what is said to be live is not exactly what some retained cut shows, or where a
retained cut reads otherwise than it was written once objects were collected by what liveness says.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import numpy as np

from cdp_agent.collector import alive as living
from cdp_agent.collector.counting import Past
from cdp_agent.collector.facts import EXTENT, FACT, RUN, ObjectFacts, RecordFact
from cdp_agent.collector.remembered import Remembered
from cdp_container.domain.ledgers import ledger_of
from cdp_container.extents.liveness import COVER_ROW
from cdp_container.format.index import Run
from cdp_container.format.keys import pack_key, segment_key
from cdp_container.format.layout import NONE_U32, ObjectKind, RunKind
from cdp_container.format.place import NOWHERE, Place

CELLS = 24
SPACES = (bytes([1]) * 16, bytes([2]) * 16)
DOMAIN = bytes(16)
BEYOND = np.iinfo(np.int64).max

T = TypeVar("T")

Content = tuple[int, int, int] | None
"""What a byte holds: epoch and seq that wrote it, and its cell; None for zeros."""


@dataclass(frozen=True)
class Extent:
    space: int
    first: int
    beyond: int
    is_void: bool


@dataclass(frozen=True)
class Segment:
    """Extents and covers (space, first cell) of one segment, or of one order row of a pack."""

    place: Place
    extents: tuple[Extent, ...]
    covers: tuple[tuple[int, int], ...] = ()


@dataclass
class Stored:
    """An object: its parts by place; whether it was collected."""

    key: str
    kind: ObjectKind
    parts: list[Segment]
    epoch: int
    number: int
    deleted: bool = False


@dataclass
class Story:
    rng: random.Random
    directory: Path
    scale: int = 1
    shift: int = 0
    drops_voids: bool = True
    objects: dict[str, Stored] = field(default_factory=dict)
    written: dict[tuple[int, int], Segment] = field(default_factory=dict)
    bases: dict[int, Place] = field(default_factory=dict)
    lasts: dict[int, int] = field(default_factory=dict)
    cuts: list[Place] = field(default_factory=list)
    retained: set[Place] = field(default_factory=set)
    collected: set[tuple[int, int]] = field(default_factory=set)
    packs: int = 0
    fresh: list[Place] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.remembered = Remembered(self.directory, DOMAIN)
        self.begin_epoch(NOWHERE)

    def play(self, steps: int) -> None:
        try:
            for _ in range(steps):
                self.step()
                self.check()
                if self.rng.random() < 0.5:
                    self.collect()
                    self.check()
        finally:
            self.remembered.close()

    def step(self) -> None:
        if self.rng.random() < 0.25 and self.cuts:
            self.begin_epoch(self.rng.choice(self.branch_points()))
        for _ in range(self.rng.randint(1, 3)):
            self.cut()
        self.retained |= {self.newest} | {cut for cut in self.fresh if self.rng.random() < 0.7}
        self.fresh = []
        for cut in sorted(self.retained - {self.newest}):
            if self.rng.random() < 0.2 and not self.is_fork(cut):
                self.retained.discard(cut)
        if self.rng.random() < 0.2:
            self.remembered.close()
            self.remembered = Remembered(self.directory, DOMAIN)

    def branch_points(self) -> list[Place]:
        """Where an epoch may begin: the newest cut, mostly, or another one that is still retained."""
        return [self.newest] * 3 + sorted(self.retained)

    def is_fork(self, cut: Place) -> bool:
        return cut in self.bases.values()

    def begin_epoch(self, base: Place) -> None:
        self.epoch = len(self.bases) + 1
        self.bases[self.epoch] = base
        self.lasts[self.epoch] = 0
        self.number = 0
        self.fresh = []
        self.newest = base
        if base:
            self.retained.add(base)

    def cut(self) -> None:
        self.number += 1
        place = NOWHERE
        free = [(space, cell) for space in range(2) for cell in range(CELLS)]
        for _ in range(self.rng.randint(1, 2)):
            seq = self.lasts[self.epoch] + 1
            self.lasts[self.epoch] = seq
            place = Place(self.epoch, self.number, seq)
            part = Segment(place, tuple(self.extents(free)), tuple(self.covers()))
            self.written[self.epoch, seq] = part
            self.store(Stored(segment_key(self.epoch, seq), ObjectKind.SEGMENT, [part], self.epoch, seq))
        self.newest = place
        self.cuts.append(place)
        self.fresh.append(place)

    def extents(self, free: list[tuple[int, int]]) -> Iterator[Extent]:
        found = []
        for _ in range(self.rng.randint(0, 5)):
            space, first = self.rng.randrange(2), self.rng.randrange(CELLS)
            beyond = min(CELLS, first + self.rng.choice((1, 2, 3, 12)))
            cells = [(space, cell) for cell in range(first, beyond)]
            if all(cell in free for cell in cells):
                for cell in cells:
                    free.remove(cell)
                found.append(Extent(space, first, beyond, self.rng.random() < 0.4))
        yield from sorted(found, key=lambda extent: (extent.space, extent.first))

    def covers(self) -> Iterator[tuple[int, int]]:
        if self.rng.random() < 0.1:
            yield self.rng.randrange(2), self.rng.choice((0, self.rng.randrange(CELLS)))

    # --- as the collector remembers it -------------------------------------------------------------

    def at(self, cell: int) -> int:
        return self.shift + cell * self.scale

    def cells(self, start: int, end: int) -> range:
        first, beyond = ((value - self.shift) // self.scale for value in (start, end))
        assert (self.at(first), self.at(beyond)) == (start, end), "a piece is not where cells end"
        return range(first, beyond)

    def store(self, stored: Stored) -> None:
        self.objects[stored.key] = stored
        parts = stored.parts
        rows = [(part, extent) for part in parts for extent in part.extents]
        extents = np.zeros(len(rows), dtype=EXTENT)
        runs: list[tuple[float, ...]] = []
        for row, (part, extent) in enumerate(rows):
            start = self.at(extent.first)
            length = self.at(extent.beyond) - start
            frame = NONE_U32 if extent.is_void else row
            extents[row] = (start, length, frame, 0 if extent.is_void else 0.5)
            weight = 0 if extent.is_void else length / 2
            place = part.place
            key = (extent.space, place.epoch, place.cut, place.seq)
            if runs and runs[-1][1:5] == key:
                number, *_, first, count, begin, _, before = runs.pop()
                runs.append((number, *key, first, count + 1, begin, start + length, before + weight))
            else:
                runs.append((len(runs), *key, row, 1, start, start + length, weight))
        records: list[RecordFact] = []
        for part in parts:
            for space, cell in part.covers:
                place, first = part.place, self.at(cell) if cell else 0
                runs.append(
                    (
                        len(runs),
                        space,
                        place.epoch,
                        place.cut,
                        place.seq,
                        COVER_ROW,
                        0,
                        self.at(cell) if cell else 0,
                        BEYOND,
                        0,
                    )
                )
                name = "space-" if cell == 0 else "space="
                records.append(RecordFact(len(records), place, name, SPACES[space], {}))
        fact = np.zeros(1, dtype=FACT)
        fact["kind"], fact["epoch"], fact["number"] = stored.kind, stored.epoch, stored.number
        fact["cut"] = parts[0].place.cut if stored.kind is ObjectKind.SEGMENT else 0
        fact["frame_bytes"] = sum(run[-1] for run in runs)
        fact["stored_bytes"], fact["rows"] = fact["frame_bytes"] + 100, len(rows)
        facts = ObjectFacts(fact, np.array(runs, dtype=RUN), SPACES, tuple(records))
        self.remembered.add(stored.key, facts, extents)

    def alive(self) -> living.AliveObjects:
        runs = [
            Run(RunKind.SEGMENT_COLLECTED, epoch, seq, seq, bytes(32))
            for epoch, seq in sorted(self.collected)
        ]
        runs += [
            Run(RunKind.PACK_IN_FORCE, each.epoch, each.number, each.number, bytes(32))
            for each in self.objects.values()
            if each.kind is ObjectKind.PACK and not each.deleted
        ]
        lasts = {epoch: last for epoch, last in self.lasts.items() if last}
        past = Past(dict(self.bases), lasts, self.newest)
        return living.alive_of(self.remembered, past, ledger_of(runs), sorted(self.retained))

    # --- the model -------------------------------------------------------------------------------

    def branch(self, cut: Place) -> dict[int, int]:
        branch = {}
        while cut:
            branch[cut.epoch] = cut.seq
            cut = self.bases[cut.epoch]
        return branch

    def image(self, cut: Place) -> list[Content]:
        """What was written, as it reads at a cut."""
        image: list[Content] = [None] * (2 * CELLS)
        for part in self.in_order(list(self.written.values()), cut):
            for extent in part.extents:
                for cell in range(extent.first, extent.beyond):
                    content = None if extent.is_void else (part.place.epoch, part.place.seq, cell)
                    image[extent.space * CELLS + cell] = content
        return image

    def in_order(self, parts: list[Segment], cut: Place) -> Iterator[Segment]:
        """Parts on a branch, the oldest first; of each cut all covers first, as voids."""
        branch = self.branch(cut)
        ours = [part for part in parts if part.place.seq <= branch.get(part.place.epoch, 0)]
        ours.sort(key=lambda part: part.place)
        for part in sorted(
            [
                *((part.place.epoch, part.place.cut, 1, index, part) for index, part in enumerate(ours)),
                *(
                    (part.place.epoch, part.place.cut, 0, index, self.as_voids(part))
                    for index, part in enumerate(ours)
                    if part.covers
                ),
            ],
            key=lambda entry: entry[:4],
        ):
            yield part[4]

    def as_voids(self, part: Segment) -> Segment:
        return Segment(part.place, tuple(Extent(space, cell, CELLS, True) for space, cell in part.covers))

    def check(self) -> None:
        alive = self.alive()
        ends = {interval.upto for interval in alive.intervals}
        assert self.retained <= ends
        assert ends - self.retained <= {self.newest, *self.bases.values()}
        everything = self.shown(ends)
        for row in alive.objects:
            key = (segment_key if row["kind"] == ObjectKind.SEGMENT else pack_key)(
                int(row["epoch"]), int(row["number"])
            )
            found = {
                (int(piece["row"]), SPACES.index(piece["space"].tobytes()), cell)
                for piece in alive.pieces(key)
                for cell in self.cells(int(piece["start"]), int(piece["end"]))
            }
            expected = {shown[1:4] for shown in everything if shown[0] == key}
            data = {shown[1:4] for shown in everything if shown[0] == key and not shown[4]}
            assert self.is_all(found, expected, data, self.voids(key)), (key, found ^ expected)
            # A void that lies over several windows counts in each.
            assert len({at for at, _, _ in found}) <= row["live_rows"] <= row["rows"], key
            assert not row["dead"] or not data, key
        for cut in sorted(self.retained)[:2]:
            shown = self.shown({cut})
            needed, with_data = {each[0] for each in shown}, {each[0] for each in shown if not each[4]}
            with_voids = {key for key in self.objects if self.voids(key)}
            assert self.is_all(alive.needed_by([cut]), needed, with_data, with_voids), cut
        for cut in self.retained:
            assert self.restored(cut) == self.image(cut), cut

    def is_all(self, found: set[T], expected: set[T], data: set[T], voids: set[T]) -> bool:
        """Where a void was dropped, older voids that it hid come to light: for us one or another of them.

        All of them read as zeros; that every retained cut reads right is asked beside this.
        """
        return data <= found <= expected | voids if self.drops_voids else found == expected

    def voids(self, key: str) -> set[tuple[int, int, int]]:
        """(row, space, cell) of all voids of an object."""
        extents = [extent for part in self.objects[key].parts for extent in part.extents]
        return {
            (row, extent.space, cell)
            for row, extent in enumerate(extents)
            if extent.is_void
            for cell in range(extent.first, extent.beyond)
        }

    def in_force(self) -> Iterator[tuple[Stored, list[tuple[int, Segment]]]]:
        """Objects in force, and their parts that count, each with its first row."""
        for stored in sorted(self.objects.values(), key=lambda each: (each.kind, each.epoch, each.number)):
            if stored.deleted or (stored.kind is ObjectKind.SEGMENT and self.is_collected(stored.parts[0])):
                continue
            parts, row = [], 0
            for part in stored.parts:
                if stored.kind is ObjectKind.SEGMENT or self.is_collected(part):
                    parts.append((row, part))
                row += len(part.extents)
            yield stored, parts

    def is_collected(self, part: Segment) -> bool:
        return (part.place.epoch, part.place.seq) in self.collected

    def shown(self, ends: set[Place]) -> set[tuple[str, int, int, int, bool]]:
        """(key, row, space, cell, is a void) of everything that some cut shows."""
        shown = set()
        for end in ends:
            owners: list[tuple[str, int, bool] | None] = [None] * (2 * CELLS)
            names = {}
            parts = []
            for stored, found in self.in_force():
                for row, part in found:
                    # A twin in another pack is equal to it: here it is told apart by what it is.
                    names[id(part)] = stored.key, row
                    parts.append(part)
            for part in self.in_order(parts, end):
                for index, extent in enumerate(part.extents):
                    for cell in range(extent.first, extent.beyond):
                        name = names.get(id(part))
                        owners[extent.space * CELLS + cell] = name and (
                            name[0],
                            name[1] + index,
                            extent.is_void,
                        )
            shown |= {
                (owner[0], owner[1], at // CELLS, at % CELLS, owner[2])
                for at, owner in enumerate(owners)
                if owner
            }
        return shown

    def restored(self, cut: Place) -> list[Content]:
        """How a cut reads by what is in force."""
        image: list[Content] = [None] * (2 * CELLS)
        for part in self.in_order([part for _, parts in self.in_force() for _, part in parts], cut):
            for extent in part.extents:
                for cell in range(extent.first, extent.beyond):
                    content = None if extent.is_void else (part.place.epoch, part.place.seq, cell)
                    image[extent.space * CELLS + cell] = content
        return image

    # --- collection ------------------------------------------------------------------------------

    def collect(self) -> None:
        """Some objects go; what is live of them goes into a pack. Covers are carried on."""
        alive = self.alive()
        stored = [each for each, _ in self.in_force() if each.key not in self.kept_back()]
        victims = [each for each in stored if self.rng.random() < 0.4]
        if not victims:
            return
        pieces = [alive.pieces(victim.key) for victim in victims]
        over = np.split(
            alive.over_data(np.concatenate(pieces)), np.cumsum([len(each) for each in pieces])[:-1]
        )
        parts: dict[Place, list[Extent]] = {}
        for victim, live, stays in zip(victims, pieces, over, strict=True):
            for part in victim.parts:
                if part.covers and (victim.kind is ObjectKind.SEGMENT or self.is_collected(part)):
                    parts.setdefault(part.place, [])
            for piece in live[stays | ~live["is_void"] | (not self.drops_voids)]:
                cells = self.cells(int(piece["start"]), int(piece["end"]))
                place = Place(int(piece["epoch"]), int(piece["cut"]), int(piece["seq"]))
                space = SPACES.index(piece["space"].tobytes())
                extent = Extent(space, cells.start, cells.stop, bool(piece["is_void"]))
                parts.setdefault(place, []).append(extent)
        covers = {
            place: tuple(
                dict.fromkeys(cover for part in self.parts_at(victims, place) for cover in part.covers)
            )
            for place in parts
        }
        self.packs += 1
        number = self.packs
        rows = [
            Segment(place, tuple(sorted(found, key=lambda each: (each.space, each.first))), covers[place])
            for place, found in sorted(parts.items())
        ]
        for victim in victims:
            if victim.kind is ObjectKind.SEGMENT:
                self.collected.add((victim.epoch, victim.number))
            victim.deleted = True
        if rows:
            self.store(Stored(pack_key(self.epoch, number), ObjectKind.PACK, rows, self.epoch, number))
        if self.rng.random() < 0.7:
            gone = [each.key for each in self.objects.values() if each.deleted]
            self.remembered.forget(gone)
            for key in gone:
                del self.objects[key]

    def parts_at(self, victims: list[Stored], place: Place) -> list[Segment]:
        return [part for victim in victims for part in victim.parts if part.place == place]

    def kept_back(self) -> set[str]:
        """Segments of the newest cut: they are not protected yet."""
        return {segment_key(self.epoch, self.newest.seq)} if self.newest else set()
