"""The roster of holds: what comes back, and what is refused, with the entry and the member named."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdp_container.errors import CdpError, DamagedObject, LimitExceeded
from cdp_container.format import limits
from cdp_container.format.holds import Hold, build_holds, is_hold_id, parse_holds
from cdp_container.format.place import Place
from tests.unit.format import samples
from tests.unit.format.samples import DOMAIN

READ, KEPT = samples.holds().holds


def entry_with(hold_id: str = READ, **members: Any) -> bytes:  # noqa: ANN401
    roster = orjson.loads(build_holds(samples.holds()))
    roster["holds"][hold_id] = roster["holds"][hold_id] | members
    return orjson.dumps(roster)


@pytest.mark.parametrize(
    ("members", "named"),
    [
        ({"cut": 7}, "'cut'"),
        ({"cut": {"epoch": 0, "cut": 0, "seq": 0}}, "'cut'"),
        ({"cut": {"epoch": 3, "cut": 1}}, "'seq'"),
        ({"counter": -1}, "'counter'"),
        ({"counter": 1.5}, "'counter'"),
        ({"counter": True}, "'counter'"),
        ({"term_seconds": limits.HOLD_TERM_SECONDS_MAX + 1}, "'term_seconds'"),
        ({"term_seconds": 0}, "'term_seconds'"),
        ({"since_ns": None}, "'since_ns'"),
        ({"until_ns": "tomorrow"}, "'until_ns'"),
        ({"until_ns": 2**63}, "'until_ns'"),
        ({"site": None}, "'site'"),
        ({"operator": 1}, "'operator'"),
        ({"purpose": []}, "'purpose'"),
        ({"ledger": {"key": "domain/owner", "digest": "00" * 32}}, "'ledger'"),
        ({"ledger": {"key": "packs/0000000003/ledger-000000000002", "digest": "00"}}, "'digest'"),
    ],
)
def test_an_entry_that_makes_no_sense_damages_the_roster(members: dict[str, Any], named: str) -> None:
    with pytest.raises(DamagedObject, match=named) as caught:
        parse_holds(entry_with(**members), "domain/holds", DOMAIN)
    assert READ in caught.value.what


@pytest.mark.parametrize("name", list(orjson.loads(build_holds(samples.holds()))["holds"][READ]))
def test_an_entry_that_lacks_a_member(name: str) -> None:
    roster = orjson.loads(build_holds(samples.holds()))
    del roster["holds"][READ][name]
    with pytest.raises(DamagedObject, match=f"'{name}'"):
        parse_holds(orjson.dumps(roster), "k", DOMAIN)


@pytest.mark.parametrize("hold_id", ["", "restore-1", "0" * 31, "0" * 33, "F" * 32, "0" * 32 + "\n"])
def test_an_id_that_no_hold_has(hold_id: str) -> None:
    assert not is_hold_id(hold_id)
    roster = orjson.loads(build_holds(samples.holds()))
    roster["holds"][hold_id] = roster["holds"][READ]
    with pytest.raises(DamagedObject, match="not the id of a hold"):
        parse_holds(orjson.dumps(roster), "k", DOMAIN)


@pytest.mark.parametrize("word", ["site", "operator", "purpose"])
def test_words_beyond_their_limit(word: str) -> None:
    long = "ä" * (limits.HOLD_TEXT_BYTES_MAX // 2 + 1)
    with pytest.raises(LimitExceeded, match=f"{word}.*HOLD_TEXT_BYTES_MAX"):
        parse_holds(entry_with(**{word: long}), "k", DOMAIN)
    roster = samples.holds()
    changed = {READ: replace(roster.holds[READ], **{word: long})}  # type: ignore[arg-type]  # they are words
    with pytest.raises(LimitExceeded, match="HOLD_TEXT_BYTES_MAX"):
        build_holds(replace(roster, holds=changed))


def test_more_holds_than_a_roster_takes() -> None:
    one = samples.holds().holds[KEPT]
    full = {f"{number:032x}": one for number in range(limits.HOLDS_MAX)}
    data = build_holds(replace(samples.holds(), holds=full))
    assert len(parse_holds(data, "k", DOMAIN).holds) == limits.HOLDS_MAX
    one_more = {**full, f"{limits.HOLDS_MAX:032x}": one}
    with pytest.raises(LimitExceeded, match="HOLDS_MAX") as caught:
        build_holds(replace(samples.holds(), holds=one_more))
    assert "unhold" in caught.value.hint
    roster = orjson.loads(data)
    roster["holds"]["f" * 32] = roster["holds"]["0" * 32]
    with pytest.raises(LimitExceeded, match="HOLDS_MAX"):
        parse_holds(orjson.dumps(roster), "k", DOMAIN)


def test_members_of_an_entry_that_are_not_known_mean_nothing() -> None:
    assert parse_holds(entry_with(colour="red"), "k", DOMAIN) == samples.holds()


WORDS = st.text("aß\n\0\U0001f600", max_size=50)
HOLDS = st.builds(
    Hold,
    site=WORDS,
    operator=WORDS,
    purpose=WORDS,
    cut=st.none() | st.builds(Place, st.integers(1, 9), st.integers(1, 9), st.integers(1, 9)),
    counter=st.integers(0, 2**64 - 1),
    term_seconds=st.integers(1, limits.HOLD_TERM_SECONDS_MAX),
    since_ns=st.integers(-(2**63), 2**63 - 1),
    until_ns=st.none() | st.integers(0, 2**63 - 1),
)


@given(st.dictionaries(st.binary(min_size=16, max_size=16).map(bytes.hex), HOLDS, max_size=3))
def test_what_is_built_comes_back(holds: dict[str, Hold]) -> None:
    roster = replace(samples.holds(), holds=holds)
    assert parse_holds(build_holds(roster), "k", DOMAIN) == roster


@given(st.lists(st.tuples(st.integers(0, 1 << 20), st.binary(min_size=1, max_size=6)), max_size=4))
def test_noise_is_refused_or_still_a_roster(noise: list[tuple[int, bytes]]) -> None:
    data = bytearray(build_holds(samples.holds()))
    for at, part in noise:
        at %= len(data)
        data[at : at + len(part)] = part
    with contextlib.suppress(CdpError):
        assert all(is_hold_id(hold_id) for hold_id in parse_holds(bytes(data), "k", None).holds)
