"""Which objects a pass collects, and what becomes of each: deleted, or what lives in it packed. PURE.

What is live is found elsewhere (alive), what must not be a victim in any case is checked once more by
`plan_rules`; how victims are packed does not belong here (packing).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from cdp_container.domain.retention_policy import COLLECT_AGE_SECONDS_MIN
from cdp_container.extents.intervals import Ints
from cdp_container.extents.tables import Table
from cdp_container.format.keys import KeyKind, ParsedKey, pack_key, parse_key, segment_key
from cdp_container.format.layout import ObjectKind
from cdp_container.format.limits import VICTIMS_MAX
from cdp_container.format.place import Place

SMALL_OBJECT_BYTES: Final = 1 << 20
"""An eighth of what a writer closes segments at: below it requests cost more than bytes."""
MERGE_MIN: Final = 16
"""So many small neighbours make a merge worth it; each byte is copied once per factor of that, at most."""
PASS_BYTES_MAX: Final = 1 << 30
"""Live bytes that one pass copies; what is left over is the next one's."""
SPACE_TARGET: Final = 1.25
"""What all objects in force may take, by what lives in them."""
LIVE_SHARE_MAX: Final = 0.9
"""Of an object of which more lives, a copy would free next to nothing."""
LEDGERS_WORTH: Final = 24
"""Old ledgers that are worth a plan of their own."""
_SECOND_NS: Final = 1_000_000_000

Flags = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Unnamed:
    """An object that nothing names any more, or never did."""

    key: str
    stored_bytes: int
    stored_ns: int


@dataclass(frozen=True, slots=True)
class Bounds:
    """What is no victim, and how much one pass does.

    Attributes:
        now_ns: by the store's clock.
        protected: as `domain/owner` says; segments at or beyond it are no victims.
        spared: keys of what ends, bases, the newest whole cut and holds need.
        space_target: objects are packed only while they take more than this by what lives in them.
        live_share: none is packed of whose stored bytes at least this share lives, however much it takes.
        age_seconds: younger objects are no victims.
    """

    now_ns: int
    protected: Place
    spared: Collection[str] = ()
    space_target: float = SPACE_TARGET
    live_share: float = LIVE_SHARE_MAX
    age_seconds: float = COLLECT_AGE_SECONDS_MIN
    victims_max: int = VICTIMS_MAX
    copy_bytes_max: int = PASS_BYTES_MAX

    def is_old(self, stored_ns: int) -> bool:
        """Whether an object is old enough to be a victim; 0 is of an age that nobody knows."""
        return 0 < stored_ns <= self.now_ns - int(self.age_seconds * _SECOND_NS)


@dataclass(frozen=True, slots=True)
class Chosen:
    """The victims: keys, each once.

    Attributes:
        unnamed, dead: deleted, and nothing of them packed.
        packed: what lives in them is packed; in their order.
        freed_bytes: what the victims take. copied_bytes: about what packs take for it.
        is_all: whether nothing was left for a next pass.
    """

    unnamed: tuple[str, ...]
    dead: tuple[str, ...]
    packed: tuple[str, ...]
    freed_bytes: int
    copied_bytes: int
    is_all: bool

    @property
    def victims(self) -> tuple[str, ...]:
        """All, as a plan names them."""
        return tuple(sorted({*self.unnamed, *self.dead, *self.packed}))


def is_worth_a_plan(chosen: Chosen) -> bool:
    """Whether victims are worth a plan: each leaves a ledger behind, and those alone can wait."""
    ledgers = sum(_is_ledger(key) for key in chosen.unnamed)
    return len(chosen.victims) > ledgers or ledgers >= LEDGERS_WORTH


def _is_ledger(key: str) -> bool:
    parsed = parse_key(key)
    return parsed is not None and parsed.kind is KeyKind.LEDGER


def key_of(row: Table) -> str:
    """The key of an object (a row of OBJECTS)."""
    name = pack_key if int(row["kind"]) == ObjectKind.PACK else segment_key
    return name(int(row["epoch"]), int(row["number"]))


def choose(objects: Table, unnamed: Sequence[Unnamed], bounds: Bounds) -> Chosen:
    """The victims of one pass among the objects in force (OBJECTS) and those that nothing names."""
    free = _free(objects, bounds)
    garbage = [one for one in unnamed if one.key not in bounds.spared and bounds.is_old(one.stored_ns)]
    dead = np.flatnonzero(free & objects["dead"])
    to_pack = _worth_packing(objects, free, bounds)
    room = bounds.victims_max
    kept_garbage, room = garbage[:room], room - len(garbage[:room])
    kept_dead, room = dead[:room], room - len(dead[:room])
    costs = np.cumsum(objects["live_bytes"][to_pack])
    kept_packed = to_pack[:room][costs[:room] <= bounds.copy_bytes_max]
    rows = np.sort(kept_packed)
    victims = np.concatenate((kept_dead, rows))
    return Chosen(
        unnamed=tuple(one.key for one in kept_garbage),
        dead=_keys(objects, kept_dead),
        packed=_keys(objects, rows),
        freed_bytes=sum(one.stored_bytes for one in kept_garbage)
        + int(objects["stored_bytes"][victims].sum()),
        copied_bytes=int(objects["live_bytes"][rows].sum()),
        is_all=len(kept_garbage) + len(victims) == len(garbage) + len(dead) + len(to_pack),
    )


def _keys(objects: Table, rows: Ints) -> tuple[str, ...]:
    return tuple(key_of(objects[row]) for row in rows.tolist())


def _free(objects: Table, bounds: Bounds) -> Flags:
    """Which objects may be victims at all."""
    stored_ns = objects["stored_ns"]
    old = (stored_ns > 0) & (stored_ns <= bounds.now_ns - int(bounds.age_seconds * _SECOND_NS))
    beyond = (objects["epoch"] > bounds.protected.epoch) | (
        (objects["epoch"] == bounds.protected.epoch) & (objects["number"] >= bounds.protected.seq)
    )
    free: Flags = old & ~(beyond & (objects["kind"] == ObjectKind.SEGMENT))
    spared = [parsed for parsed in map(parse_key, bounds.spared) if parsed is not None]
    for kind, key_kind in ((ObjectKind.SEGMENT, KeyKind.SEGMENT), (ObjectKind.PACK, KeyKind.PACK)):
        for epoch, numbers in _by_epoch(spared, key_kind).items():
            ours = (objects["kind"] == kind) & (objects["epoch"] == epoch)
            free &= ~(ours & np.isin(objects["number"], numbers))
    return free


def _by_epoch(parsed: Sequence[ParsedKey], kind: KeyKind) -> dict[int, list[int]]:
    found: dict[int, list[int]] = {}
    for key in parsed:
        if key.kind is kind:
            found.setdefault(key.epoch, []).append(key.number)
    return found


def _worth_packing(objects: Table, free: Flags, bounds: Bounds) -> Ints:
    """As many as it takes to come to the space that is aimed at, the most worth first; then small neighbours.

    Worth is what a copy frees by what it costs, and by age: of two objects with the same share of live data
    the older one is that whose data stay; the others are better left to die (Rosenblum and Ousterhout, "The
    design and implementation of a log-structured file system", 1992).
    """
    alive = free & ~objects["dead"]
    stored, live = objects["stored_bytes"], np.maximum(objects["live_bytes"], 1)
    freed = stored - objects["live_bytes"]
    rows = np.flatnonzero(alive & (objects["live_bytes"] < bounds.live_share * stored))
    ages = bounds.now_ns - objects["stored_ns"][rows]
    rows = rows[np.argsort(-(freed[rows] / live[rows] * ages), kind="stable")]
    too_much = stored[~objects["dead"]].sum() - bounds.space_target * objects["live_bytes"].sum()
    # One more than fits: the first that brings it below.
    needed = rows[: int(np.searchsorted(np.cumsum(freed[rows]), too_much)) + 1] if too_much > 0 else rows[:0]
    small = alive & (objects["live_bytes"] < SMALL_OBJECT_BYTES)
    merged = small & _in_runs(small | (free & objects["dead"]), small)
    merged[needed] = False
    return np.concatenate((needed, np.flatnonzero(merged)))


def _in_runs(linked: Flags, counted: Flags) -> Flags:
    """Which rows stand in a run of linked ones with at least MERGE_MIN that count."""
    begins = linked & ~np.concatenate((np.array([False]), linked[:-1]))
    run = np.where(linked, np.cumsum(begins), 0)
    counts = np.bincount(run[counted], minlength=int(run.max(initial=0)) + 1)
    enough = counts >= MERGE_MIN
    found: Flags = linked & enough[run]
    return found
