"""Two places of a container: each key that is not the same at both has its cause."""

from __future__ import annotations

import pytest

from cdp_agent.usage.compare import EXAMPLES_MAX, LAG_NS, Cause, Compared, Side, compare, only_there, side_of
from cdp_agent.usage.deleted import deleted_by
from cdp_agent.usage.kinds import Amount
from cdp_container.domain.ledgers import Ledger
from cdp_container.errors import ForeignObject
from cdp_container.format.gc import FinalList, build_final
from cdp_container.format.keys import HOLDS_KEY, OWNER_KEY, gc_final_key, pack_key, request_key, segment_key
from cdp_container.store.inventory import Standing, Taken
from cdp_container.store.memory import MemoryStore
from tests.unit.collector.collecting_site import Time

DOMAIN = bytes(range(16))
NEWEST_NS = 10 * LAG_NS
OLD_NS = NEWEST_NS - 2 * LAG_NS


def side(**times: int) -> Side:
    return side_of((Taken(key, 7, stored_ns), True) for key, stored_ns in times.items())


def causes(compared: Compared) -> dict[Cause, list[str]]:
    return {cause: group.examples for cause, group in compared.groups.items()}


def test_the_same_is_explained() -> None:
    ours = side(**{segment_key(1, 1): OLD_NS})
    assert compare(ours, ours, {}) == Compared(Amount(7, 1), max(0, OLD_NS - LAG_NS), {})
    assert compare(side(), side(), {}).is_explained


def test_a_place_that_lags_behind() -> None:
    both = {segment_key(1, 1): OLD_NS, segment_key(1, 2): NEWEST_NS}
    # What came a moment before the newest that arrived may still be on its way, too.
    late = {
        segment_key(1, 3): NEWEST_NS + 5,
        pack_key(1, 1): NEWEST_NS - 5,
        "catalog/0000000001/0-000000000001": NEWEST_NS,
    }
    compared = compare(side(**both, **late), side(**both), {})
    assert causes(compared) == {Cause.NOT_THERE_YET: sorted(late)}
    assert compared.is_explained
    assert compared.young_ns == NEWEST_NS - LAG_NS
    back = compare(side(**both), side(**both, **late), {})
    assert causes(back) == {Cause.NOT_HERE_YET: sorted(late)}
    assert causes(compare(side(**both), side(), {})) == {Cause.NOT_THERE_YET: sorted(both)}


def test_what_should_be_there_and_is_not() -> None:
    both = {segment_key(1, 2): NEWEST_NS}
    lost = {segment_key(1, 1): OLD_NS, OWNER_KEY: OLD_NS}
    compared = compare(side(**both, **lost), side(**both), {})
    assert causes(compared) == {Cause.MISSING_THERE: sorted(lost)}
    assert not compared.is_explained
    assert causes(compare(side(**both), side(**both, **lost), {})) == {Cause.GONE_HERE: sorted(lost)}


def test_what_collection_deleted_here_and_is_still_there() -> None:
    both = {segment_key(1, 9): NEWEST_NS}
    gone = {segment_key(1, 1): OLD_NS, pack_key(1, 1): OLD_NS, gc_final_key(1, 1): OLD_NS}
    ours, theirs = side(**both), side(**both, **gone)
    wanted = only_there(ours, theirs)
    assert wanted == sorted(gone.keys() - {gc_final_key(1, 1)})
    compared = compare(ours, theirs, {segment_key(1, 1): "plan 1/4", pack_key(1, 1): "by the ledger"})
    assert causes(compared) == {
        Cause.COLLECTED: [f"{segment_key(1, 1)} (plan 1/4)", f"{pack_key(1, 1)} (by the ledger)"],
        Cause.GONE_HERE: [gc_final_key(1, 1)],
    }


def test_what_comes_and_goes_and_what_others_left() -> None:
    request, probe = request_key("0" * 16), "domain/probe/" + "1" * 32
    both = {segment_key(1, 9): NEWEST_NS}
    compared = compare(
        side(**both, **{request: OLD_NS, "notes": OLD_NS}), side(**both, **{probe: 1, "diary": 1}), {}
    )
    assert causes(compared) == {
        Cause.PASSING: [probe, request],
        Cause.FOREIGN_HERE: ["notes"],
        Cause.FOREIGN_THERE: ["diary"],
    }
    assert compared.is_explained


def test_sizes_that_differ() -> None:
    def sized(size: int) -> Side:
        return side_of((Taken(key, size, OLD_NS), True) for key in (OWNER_KEY, HOLDS_KEY, segment_key(1, 1)))

    assert causes(compare(sized(5), sized(6), {})) == {
        Cause.REWRITTEN: [HOLDS_KEY, OWNER_KEY],
        Cause.DIFFERS: [segment_key(1, 1)],
    }


def test_sums_are_of_everything_and_examples_few() -> None:
    listed = [Taken("a", 1, 1), Taken("a", 2, 1, Standing.OTHER), Taken("b", 4, 1, Standing.UPLOAD)]
    ours = side_of((item, True) for item in listed)
    assert set(side_of((item, False) for item in listed).current) == set()
    assert {standing: ours.sums[standing].bytes for standing in Standing} == {
        Standing.CURRENT: 1, Standing.OTHER: 2, Standing.UPLOAD: 4, Standing.MARKER: 0, Standing.LEFT: 0,
    }  # fmt: skip
    many = side(**{f"n{number}": 1 for number in range(100)})
    group = compare(many, side(), {}).groups[Cause.FOREIGN_HERE]
    assert (group.objects, group.bytes, len(group.examples)) == (100, 700, EXAMPLES_MAX)


def final(number: int, *victims: str, domain: bytes = DOMAIN) -> bytes:
    return build_final(FinalList(domain, 1, number, bytes(32), "site-a", tuple(sorted(victims)), ()))


def test_final_lists_and_the_ledger_tell_what_was_deleted() -> None:
    store = MemoryStore(Time())
    store.put_new(gc_final_key(1, 1), final(1, segment_key(1, 1), segment_key(1, 2)))
    store.put_new(gc_final_key(1, 2), final(2, segment_key(1, 3)))
    names = [found.key for found in store.list("")] + ["notes", gc_final_key(1, 7)]  # one went meanwhile
    wanted = [segment_key(1, number) for number in (1, 3, 4, 5)] + [pack_key(1, 1)]
    ledger = Ledger({}, {1: [(1, 4)]})
    assert deleted_by(store, DOMAIN, names, ledger, wanted) == {
        segment_key(1, 1): "plan 1/1",
        segment_key(1, 3): "plan 1/2",
        segment_key(1, 4): "by the ledger",
    }
    assert deleted_by(store, DOMAIN, names, None, []) == {}
    store.put_new(gc_final_key(1, 3), final(3, segment_key(1, 1), domain=bytes(16)))
    with pytest.raises(ForeignObject):
        deleted_by(store, DOMAIN, [gc_final_key(1, 3)], None, wanted)
