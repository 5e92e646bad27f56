"""Each byte in one kind: what no reader sees, names of others, locks, shares; and sums that are whole."""

from __future__ import annotations

import numpy as np
import pytest

from cdp_agent.collector.alive_types import OBJECTS
from cdp_agent.usage.kinds import DAY_NS, SPLIT, Amount, Kind, Known, Lock, Part, Usage, account
from cdp_agent.usage.levels import levels_of, shares_of
from cdp_container.domain.retention import Kept, Why
from cdp_container.format.keys import gc_final_key, ledger_key, pack_key, segment_key
from cdp_container.format.layout import ObjectKind
from cdp_container.format.place import NOWHERE, Place
from cdp_container.store.inventory import Standing, Taken

NOW_NS = 100 * DAY_NS
NO_LOCK = Lock(None, NOW_NS)


def known(*rows: tuple[ObjectKind, int, int, dict[Kind, int]], newest: Place = NOWHERE) -> Known:
    """Objects (kind, epoch, number) and their shares."""
    objects = np.zeros(len(rows), dtype=OBJECTS)
    shares = np.zeros((len(rows), len(SPLIT)), dtype=np.int64)
    for at, (kind, epoch, number, parts) in enumerate(rows):
        objects["kind"][at], objects["epoch"][at], objects["number"][at] = kind, epoch, number
        objects["stored_bytes"][at] = sum(parts.values())
        shares[at] = [parts.get(each, 0) for each in SPLIT]
    return Known(objects, shares, newest=newest)


def counted(items: list[Taken], told: Known | None = None, lock: Lock = NO_LOCK) -> dict[Kind, Amount]:
    usage = account([Part(items, lock)], told, 10)
    assert usage.total == Amount(sum(item.size_bytes for item in items), len(items))
    return {kind: amount for kind, amount in usage.amounts.items() if amount.objects or amount.bytes}


def test_nothing_takes_nothing() -> None:
    assert counted([]) == {}
    assert counted([], known()) == {}


def test_what_readers_do_not_see_comes_first() -> None:
    """Whatever its name is."""
    key = segment_key(1, 1)
    items = [Taken(key, 1 << at, NOW_NS, standing) for at, standing in enumerate(Standing)]
    assert counted(items, known((ObjectKind.SEGMENT, 1, 1, {Kind.LIVE: 1}))) == {
        Kind.LIVE: Amount(1, 1),
        Kind.OTHER: Amount(2, 1),
        Kind.DELETE_MARKERS: Amount(4, 1),
        Kind.UPLOADS: Amount(8, 1),
        Kind.LEFT: Amount(16, 1),
    }


def test_names_tell_information_from_what_is_foreign() -> None:
    names = [
        "domain/owner",
        "domain/holds",
        gc_final_key(1, 2),
        ledger_key(1, 1),
        "catalog/0000000001/9-000000000001",
    ]
    ours = [Taken(name, 5, NOW_NS) for name in (*names, "domain/probe/ab")]
    others = [
        Taken(name, 3, NOW_NS) for name in ("notes.txt", "log/1/1", "domain/notes", segment_key(1, 1) + "x")
    ]
    assert counted([*ours, *others], known()) == {
        Kind.INFORMATION: Amount(30, 6),
        Kind.FOREIGN: Amount(12, 4),
    }


def test_an_object_is_parted_and_counted_once() -> None:
    told = known(
        (ObjectKind.SEGMENT, 1, 3, {Kind.LIVE: 10, Kind.WINDOW: 20, Kind.SHARED: 5}),
        (ObjectKind.SEGMENT, 2, 3, {Kind.DEAD: 7}),
        (ObjectKind.PACK, 1, 3, {Kind.HOLDS: 1}),
    )
    items = [Taken(segment_key(1, 3), 35, 1), Taken(segment_key(2, 3), 7, 1), Taken(pack_key(1, 3), 1, 1)]
    assert counted(items, told) == {
        Kind.LIVE: Amount(10, 1),
        Kind.WINDOW: Amount(20, 0),
        Kind.SHARED: Amount(5, 0),
        Kind.DEAD: Amount(7, 1),
        Kind.HOLDS: Amount(1, 1),
    }


def test_what_the_look_did_not_see_is_newer_or_not_told_apart() -> None:
    told = known((ObjectKind.SEGMENT, 1, 3, {Kind.LIVE: 10}), newest=Place(1, 3, 3))
    items = [
        Taken(key, 9, 1) for key in (segment_key(1, 3), segment_key(1, 4), segment_key(2, 1), pack_key(7, 1))
    ]
    assert counted(items, told) == {Kind.RULES: Amount(18, 2), Kind.UNTOLD: Amount(18, 2)}
    assert counted(items, None) == {Kind.UNTOLD: Amount(36, 4)}


def test_the_lock_keeps_what_is_dead_and_names_its_end() -> None:
    told = known(
        (ObjectKind.SEGMENT, 1, 1, {Kind.LIVE: 10, Kind.SHARED: 3, Kind.UNSPLIT: 2}),
        (ObjectKind.SEGMENT, 1, 2, {Kind.DEAD: 7}),
        (ObjectKind.SEGMENT, 1, 3, {Kind.DEAD: 7}),
    )
    young_ns = NOW_NS - DAY_NS
    items = [
        Taken(segment_key(1, 1), 15, young_ns),
        Taken(segment_key(1, 2), 7, young_ns),
        Taken(segment_key(1, 3), 7, NOW_NS - 3 * DAY_NS),
        Taken(segment_key(9, 9), 4, young_ns, Standing.OTHER),
    ]
    lock = Lock(3, NOW_NS)
    assert counted(items, told, lock) == {
        Kind.LIVE: Amount(10, 1),
        Kind.LOCK: Amount(12, 1),
        Kind.DEAD: Amount(7, 1),
        Kind.OTHER: Amount(4, 1),
    }
    usage = account([Part(items, lock)], told, 10)
    assert (usage.locked_until_ns, usage.locked_other_bytes) == (young_ns + 3 * DAY_NS, 4)
    assert account([Part(items, Lock(1 << 40, NOW_NS))], told, 10).amounts[Kind.DEAD] == Amount()
    # What passes noted of single objects counts, too; not for other versions of them.
    noted = Lock(
        None,
        NOW_NS,
        {segment_key(1, 3): NOW_NS + 1, segment_key(1, 2): NOW_NS, segment_key(9, 9): NOW_NS + 1},
    )
    usage = account([Part(items, noted)], told, 10)
    assert usage.amounts[Kind.LOCK] == Amount(7, 1)
    assert (usage.locked_until_ns, usage.locked_other_bytes) == (NOW_NS + 1, 0)


def test_of_two_places_each_has_its_names_and_its_lock() -> None:
    told = known((ObjectKind.SEGMENT, 1, 1, {Kind.DEAD: 7}))
    both = [Taken("domain/owner", 5, NOW_NS), Taken(segment_key(1, 1), 7, NOW_NS)]
    of_domain = Part(both, NO_LOCK, lambda name: name.startswith("domain/"))
    of_data = Part(both, Lock(1, NOW_NS), lambda name: not name.startswith("domain/"))
    usage = account([of_domain, of_data], told, 10)
    assert {kind: amount for kind, amount in usage.amounts.items() if amount.objects} == {
        Kind.INFORMATION: Amount(5, 1),
        Kind.LOCK: Amount(7, 1),
        Kind.FOREIGN: Amount(12, 2),
    }


def test_times_and_small_objects_are_noted() -> None:
    items = [
        Taken("a", 1, 50, Standing.UPLOAD),
        Taken("b", 1, 40, Standing.UPLOAD),
        Taken(gc_final_key(1, 9), 1, 60),
        Taken(gc_final_key(2, 1), 1, 70),
        Taken(segment_key(1, 1), 9, 1),
        Taken(segment_key(1, 2), 10, 1),
    ]
    usage: Usage = account([Part(items, NO_LOCK)], None, 10)
    assert (usage.newest_ns, usage.oldest_upload_ns, usage.small_objects) == (70, 40, 1)
    assert usage.collection == (gc_final_key(2, 1), 70)


def test_levels_grow_reason_by_reason() -> None:
    cuts = [Place(1, number, number) for number in range(1, 6)]
    kept = {
        cuts[0]: Kept(Why.HELD, 0),
        cuts[1]: Kept(Why.MARKER | Why.WINDOW, 0),
        cuts[2]: Kept(Why.DAILY, 0),
        cuts[3]: Kept(Why.BASE, 0),
        cuts[4]: Kept(Why.NEWEST | Why.YOUNG, 0),
    }
    sizes = [len(level) for level in levels_of(cuts[4], kept)]
    assert sizes == [1, 2, 3, 4, 4, 5]
    assert levels_of(NOWHERE, {})[-1] == frozenset()


def test_shares_never_exceed_what_is_stored() -> None:
    """Rounded shares, and levels that are not monotone by a byte or two."""
    objects = np.zeros(3, dtype=OBJECTS)
    objects["kind"], objects["epoch"], objects["number"] = ObjectKind.SEGMENT, 1, [1, 2, 3]
    objects["stored_bytes"], objects["rows"], objects["dead"] = 100, [5, 5, 0], [False, True, False]
    levels = [np.array([n, 0, 0], dtype=np.int64) for n in (41, 40, 60, 60, 61, 102)]
    shares = shares_of(objects, levels, np.array([300, 0, 0]), (), {segment_key(1, 2)})
    assert shares.sum(axis=1).tolist() == [100, 100, 100]
    assert dict(zip(SPLIT, shares[0].tolist(), strict=True)) == {
        Kind.LIVE: 40, Kind.RULES: 0, Kind.WINDOW: 20, Kind.THINNED: 0, Kind.MARKERS: 1, Kind.HOLDS: 39,
        Kind.DEAD: 0, Kind.SHARED: 0, Kind.UNSPLIT: 0,
    }  # fmt: skip
    assert shares[1][SPLIT.index(Kind.HOLDS)] == 100
    assert shares[2][SPLIT.index(Kind.RULES)] == 100
    ruled = shares_of(objects, levels, np.array([0, 0, 0]), {segment_key(1, 2)}, {segment_key(1, 2)})
    assert ruled[1][SPLIT.index(Kind.RULES)] == 100


@pytest.mark.parametrize("days", [None, 5])
def test_a_hundred_thousand_objects_are_looked_up_by_key(days: int | None) -> None:
    numbers = range(1, 20_001)
    told = known(
        *((ObjectKind.SEGMENT, epoch, number, {Kind.DEAD: 1}) for epoch in (1, 5) for number in numbers)
    )
    items = [Taken(segment_key(epoch, number), 1, NOW_NS) for epoch in (5, 1) for number in numbers]
    assert counted(items, told, Lock(days, NOW_NS)) == {
        Kind.LOCK if days else Kind.DEAD: Amount(40_000, 40_000)
    }
