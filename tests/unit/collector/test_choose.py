"""Victims: what is dead, what is mostly dead, small neighbours; and never what must not be one."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdp_agent.collector.alive_types import OBJECTS
from cdp_agent.collector.choose import (
    LEDGERS_WORTH,
    MERGE_MIN,
    Bounds,
    Chosen,
    Unnamed,
    choose,
    is_worth_a_plan,
)
from cdp_container.extents.tables import Table
from cdp_container.format.keys import ledger_key, pack_key, segment_key
from cdp_container.format.layout import ObjectKind
from cdp_container.format.place import Place

HOUR_NS = 3_600_000_000_000
NOW_NS = 100 * HOUR_NS
OLD_NS = 90 * HOUR_NS
BIG = 8 << 20


def objects(*rows: dict[str, Any]) -> Table:
    """Objects, a whole old segment of epoch 1 each where nothing else is said."""
    table = np.zeros(len(rows), dtype=OBJECTS)
    for number, row in enumerate(rows, 1):
        sound = {"kind": ObjectKind.SEGMENT, "epoch": 1, "number": number, "stored_bytes": BIG}
        members = {**sound, "stored_ns": OLD_NS, "live_bytes": BIG, "live_rows": 1, **row}
        for name, value in members.items():
            table[number - 1][name] = value
    return table


DEAD = {"dead": True, "live_bytes": 0, "live_rows": 0}
SMALL = {"stored_bytes": 1000, "live_bytes": 1000}


def bounds(**changes: Any) -> Bounds:  # noqa: ANN401
    return Bounds(**{"now_ns": NOW_NS, "protected": Place(1, 90, 1000), **changes})


def chosen(*rows: dict[str, Any], **changes: Any) -> Chosen:  # noqa: ANN401
    return choose(objects(*rows), [], bounds(**changes))


def test_what_is_live_stays() -> None:
    assert not chosen({}, {}, {}).victims
    assert chosen({}).is_all


def test_dead_objects_are_deleted_and_mostly_dead_ones_packed_the_deadest_first() -> None:
    found = chosen({}, DEAD, {"live_bytes": BIG // 2}, {"live_bytes": BIG // 8}, {"live_bytes": BIG * 3 // 4})
    assert found.dead == (segment_key(1, 2),)
    assert found.packed == (segment_key(1, 3), segment_key(1, 4))
    assert (found.freed_bytes, found.copied_bytes, found.is_all) == (3 * BIG, BIG // 2 + BIG // 8, True)
    limited = chosen({"live_bytes": BIG // 2}, {"live_bytes": BIG // 8}, copy_bytes_max=BIG // 4)
    assert limited.packed == (segment_key(1, 2),)
    assert not limited.is_all


@pytest.mark.parametrize(("target", "packed"), [(1.25, 0), (1.2, 1), (1.15, 2), (1.0, 4)])
def test_no_more_is_packed_than_it_takes(target: float, packed: int) -> None:
    half = [{"live_bytes": BIG // 2}] * 4
    assert len(chosen(*[{}] * 6, *half, space_target=target).packed) == packed


def test_what_frees_next_to_nothing_is_not_packed_however_much_is_aimed_at() -> None:
    assert not chosen({"live_bytes": BIG * 19 // 20}, space_target=1.0).packed
    assert chosen({"live_bytes": BIG * 17 // 20}, space_target=1.0).packed


def test_of_two_that_free_the_same_the_older_one_goes_first() -> None:
    half = {"live_bytes": BIG // 2}
    found = chosen({**half, "stored_ns": OLD_NS + HOUR_NS}, half, space_target=1.5)
    assert found.packed == (segment_key(1, 2),)


def test_what_may_not_go_yet_counts_as_stored() -> None:
    young = {"live_bytes": BIG // 2, "stored_ns": NOW_NS}
    assert not chosen({"live_bytes": BIG * 17 // 20}).packed
    assert chosen({"live_bytes": BIG * 17 // 20}, young).packed == (segment_key(1, 1),)


@pytest.mark.parametrize(
    "spared",
    [
        {"stored_ns": NOW_NS - HOUR_NS + 1},
        {"stored_ns": 0},
        {"number": 1000},
        {"number": 1001},
        {"epoch": 2, "number": 1},
    ],
)
def test_the_young_and_what_is_not_older_than_the_protected(spared: dict[str, Any]) -> None:
    assert not chosen({**DEAD, **spared}).victims
    assert not chosen({"live_bytes": 1, **spared}).victims
    assert not chosen(*[{**SMALL, "number": 2000 + n} for n in range(MERGE_MIN)]).victims
    assert chosen(DEAD).victims


def test_what_is_spared_and_a_pack_of_a_later_epoch() -> None:
    assert not chosen(DEAD, spared={segment_key(1, 1)}).victims
    assert chosen({**DEAD, "kind": ObjectKind.PACK, "epoch": 2}).victims == (pack_key(2, 1),)


@pytest.mark.parametrize(("count", "merged"), [(MERGE_MIN, MERGE_MIN), (MERGE_MIN - 1, 0)])
def test_small_neighbours_are_merged_where_they_are_many(count: int, merged: int) -> None:
    assert len(chosen(*[SMALL] * count).packed) == merged
    assert len(chosen({}, *[SMALL] * count, {}).packed) == merged


def test_a_large_one_between_them_parts_neighbours_and_a_dead_one_does_not() -> None:
    half = [SMALL] * (MERGE_MIN // 2)
    assert not chosen(*half, {}, *half).packed
    assert len(chosen(*half, DEAD, *half).packed) == MERGE_MIN


def test_unnamed_objects_go_where_they_are_old_and_nobody_holds_them() -> None:
    unnamed = [
        Unnamed("catalog/0000000001/0-000000000001", 10, OLD_NS),
        Unnamed(pack_key(1, 5), 20, NOW_NS),
        Unnamed(segment_key(1, 9), 30, OLD_NS),
    ]
    found = choose(objects({}), unnamed, bounds(spared={segment_key(1, 9)}))
    assert found.victims == (unnamed[0].key,)
    assert found.freed_bytes == 10


@given(
    st.lists(st.tuples(st.booleans(), st.integers(0, 100), st.booleans(), st.booleans()), max_size=60),
    st.integers(0, 20),
)
def test_never_more_than_may_be_and_each_once(rows: list[tuple[bool, int, bool, bool]], most: int) -> None:
    table = objects(*[
        {**(DEAD if dead else {"live_bytes": live}), "stored_bytes": 100,
         "stored_ns": NOW_NS if young else OLD_NS, "kind": ObjectKind.PACK if pack else ObjectKind.SEGMENT}
        for dead, live, young, pack in rows
    ])  # fmt: skip
    found = choose(table, [], bounds(victims_max=most))
    assert len(found.victims) == len(found.dead) + len(found.packed) <= most
    assert found.is_all or len(found.victims) == most


def test_an_old_ledger_alone_is_not_worth_a_plan_but_many_are() -> None:
    ledgers = [Unnamed(ledger_key(1, n), 10, OLD_NS) for n in range(1, LEDGERS_WORTH + 1)]
    assert not is_worth_a_plan(choose(objects({}), ledgers[:-1], bounds()))
    assert is_worth_a_plan(choose(objects({}), ledgers, bounds()))
    assert is_worth_a_plan(choose(objects(DEAD), ledgers[:1], bounds()))
    assert not is_worth_a_plan(choose(objects({}), [], bounds()))
