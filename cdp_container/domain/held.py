"""Which holds the collector has to respect: which are dead, and which a plan had not seen. PURE.

A hold is watched on the collector's own boot-time clock, over its runs. Of the roster's times only that of an
operator's hold counts, which stands until then by the store's clock. Reading and writing: see held_look.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from cdp_container.errors import DamagedObject, LimitExceeded
from cdp_container.format.gc import SeenHold
from cdp_container.format.holds import Hold, is_hold_id
from cdp_container.format.jsontext import dump_object, load_object
from cdp_container.format.layout import ID_BYTES
from cdp_container.format.limits import HOLDS_MAX
from cdp_container.format.members import Members

WATCH_VERSION: Final = 1
WATCH_BYTES_MAX: Final = 1 << 20
_SECOND_NS: Final = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Look:
    """The counter of a hold, and the boot-time nanoseconds at which it was first seen so."""

    counter: int
    since_ns: int


@dataclass(frozen=True, slots=True)
class Watch:
    """What the collector remembers of holds, by id; it means nothing in another boot than `boot` (16 B)."""

    boot: bytes
    looks: Mapping[str, Look] = field(default_factory=dict)


def watched(before: Watch, holds: Mapping[str, Hold], boot: bytes, boottime_ns: int) -> Watch:
    """The watch after a look at the roster: whatever moved, or was never seen in this boot, begins anew.

    `boottime_ns` is a time after the roster was read.
    """
    known = before.looks if before.boot == boot else {}
    looks = {}
    for hold_id, hold in holds.items():
        seen = known.get(hold_id)
        still = seen is not None and seen.counter == hold.counter and seen.since_ns <= boottime_ns
        looks[hold_id] = seen if still and seen is not None else Look(hold.counter, boottime_ns)
    return Watch(boot, looks)


def dead_holds(
    watch: Watch, holds: Mapping[str, Hold], boottime_ns: int, store_ns: int | None
) -> dict[str, Hold]:
    """The holds that nobody lives behind any more.

    Args:
        watch: after a look at this very roster.
        holds: the roster.
        boottime_ns: in the watch's boot, before the roster was asked for.
        store_ns: the store's clock; None where it is not known: then no operator's hold is dead.
    """
    return {
        hold_id: hold
        for hold_id, hold in holds.items()
        if is_dead(hold, watch.looks.get(hold_id), boottime_ns, store_ns)
    }


def is_dead(hold: Hold, look: Look | None, boottime_ns: int, store_ns: int | None) -> bool:
    """Whether one hold is: its counter stood still for its whole term, or its time is over."""
    if hold.until_ns is not None:
        return store_ns is not None and store_ns > hold.until_ns
    if look is None or look.counter != hold.counter:
        return False
    return boottime_ns - look.since_ns > hold.term_seconds * _SECOND_NS


def without_dead(holds: Mapping[str, Hold], dead: Mapping[str, Hold]) -> Mapping[str, Hold] | None:
    """The roster without them, None where none of them is in it; one that moved since it was judged stays."""
    gone = {hold_id for hold_id, hold in dead.items() if holds.get(hold_id) == hold}
    return {hold_id: hold for hold_id, hold in holds.items() if hold_id not in gone} if gone else None


def unseen(seen: Iterable[SeenHold], holds: Mapping[str, Hold]) -> tuple[SeenHold, ...]:
    """The holds that a plan had not seen as they are now, by id: new ones, and those of another cut."""
    known = set(seen)
    return tuple(one for one in seen_of(holds) if one not in known)


def seen_of(holds: Mapping[str, Hold]) -> tuple[SeenHold, ...]:
    """What a plan notes of a roster, by id."""
    return tuple(SeenHold(hold_id, holds[hold_id].cut) for hold_id in sorted(holds))


def build_watch(watch: Watch) -> bytes:
    """The bytes of a watch."""
    looks = {
        hold_id: {"counter": look.counter, "since_ns": look.since_ns} for hold_id, look in watch.looks.items()
    }
    return dump_object({"version": WATCH_VERSION, "boot": watch.boot.hex(), "looks": looks})


def parse_watch(data: bytes, what: str) -> Watch:
    """The watch in `data`. Raises DamagedObject, LimitExceeded."""
    members = Members(load_object(data, WATCH_BYTES_MAX, what), what)
    if members.number("version") != WATCH_VERSION:
        raise members.fault("version", "is not known")
    looks = members.object("looks")
    if len(looks.members) > HOLDS_MAX or not all(map(is_hold_id, looks.members)):
        raise members.fault("looks", "are not those of a roster")
    return Watch(
        members.bytes("boot", ID_BYTES),
        {
            name: Look(looks.object(name).number("counter"), looks.object(name).number("since_ns"))
            for name in looks.members
        },
    )


def watch_or_none(data: bytes | None, what: str) -> Watch:
    """The same; one that is gone or makes no sense is none: every hold is then watched anew."""
    try:
        return Watch(bytes(ID_BYTES)) if data is None else parse_watch(data, what)
    except (DamagedObject, LimitExceeded):
        return Watch(bytes(ID_BYTES))
