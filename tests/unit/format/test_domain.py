"""Objects under `domain/`: they come back, and everything else is refused with the member's name."""

from __future__ import annotations

import contextlib
import itertools
import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdp_container.errors import CdpError, DamagedObject, ForeignObject, LimitExceeded, NewerFormat
from cdp_container.format import domain, gc, limits
from cdp_container.format.holds import build_holds, parse_holds
from cdp_container.format.place import NOWHERE, Place
from cdp_container.format.request import build_request, parse_request
from tests.unit.format import samples
from tests.unit.format.samples import DOMAIN

Parser = Callable[[bytes, str, bytes | None], object]
PARSERS: dict[str, Parser] = {
    "owner": domain.parse_owner,
    "epochs": domain.parse_epoch_record,
    "config": domain.parse_config,
    "holds": parse_holds,
    "requests": parse_request,
    "gc": gc.parse_plan,
    "final": gc.parse_final,
}
OBJECTS = [
    pytest.param(PARSERS[samples.name_of(key)], data, id=samples.name_of(key))
    for key, data in samples.domain_objects().items()
]
EVERY_OBJECT = pytest.mark.parametrize(("parse", "data"), OBJECTS)


def altered(data: bytes, **members: Any) -> bytes:  # noqa: ANN401
    return json.dumps(orjson.loads(data) | members).encode()


def test_they_come_back() -> None:
    assert domain.parse_owner(domain.build_owner(samples.owner()), "k", DOMAIN) == samples.owner()
    assert parse_holds(build_holds(samples.holds()), "k", None) == samples.holds()
    for encrypted in (True, False):
        config = samples.config(encrypted)
        assert domain.parse_config(domain.build_config(config), "k", DOMAIN) == config


def test_requests_come_back() -> None:
    for request in (samples.request(), replace(samples.request(), answer=None)):
        assert parse_request(build_request(request), "k", DOMAIN) == request


def test_a_request_with_too_many_words() -> None:
    with pytest.raises(LimitExceeded, match="REQUEST_BYTES_MAX"):
        build_request(replace(samples.request(), reason="x" * limits.REQUEST_BYTES_MAX))
    with pytest.raises(LimitExceeded):
        parse_request(build_request(samples.request()) + b" " * limits.REQUEST_BYTES_MAX, "k", DOMAIN)


@pytest.mark.parametrize("request_id", ["", "0" * 15, "0" * 17, "F" * 16, "../../owner00000"])
def test_an_id_that_no_request_has(request_id: str) -> None:
    with pytest.raises(DamagedObject, match="'id'"):
        parse_request(altered(build_request(samples.request()), id=request_id), "k", DOMAIN)


@pytest.mark.parametrize("name", ["granted", "site", "operator", "reason", "answered_ns"])
def test_an_answer_that_lacks_something(name: str) -> None:
    data = build_request(samples.request())
    answer = {key: value for key, value in orjson.loads(data)["answer"].items() if key != name}
    with pytest.raises(DamagedObject, match=f"'{name}'"):
        parse_request(altered(data, answer=answer), "k", DOMAIN)


def test_the_config_s_key_block_is_that_of_preambles() -> None:
    found = domain.parse_config(domain.build_config(samples.config()), "k", DOMAIN)
    assert found.key_block == samples.key_block() == samples.writer(True).key_block


@EVERY_OBJECT
def test_unknown_members_are_ignored(parse: Parser, data: bytes) -> None:
    assert parse(altered(data, future={"a": [1]}), "k", DOMAIN) == parse(data, "k", DOMAIN)


@EVERY_OBJECT
def test_every_member_is_needed_and_of_its_type(parse: Parser, data: bytes) -> None:
    for name in orjson.loads(data):
        without = orjson.loads(data)
        del without[name]
        with pytest.raises(DamagedObject, match=f"'{name}'"):
            parse(orjson.dumps(without), "k", DOMAIN)
        for value in (1.5, [5], {"x": 1}, True, -1, 2**64, "?"):
            with contextlib.suppress(CdpError):
                parse(altered(data, **{name: value}), "k", None)


@pytest.mark.parametrize("name", ["epoch", "cut", "seq"])
def test_a_place_beyond_what_keys_hold(name: str) -> None:
    data = domain.build_owner(samples.owner())
    place = orjson.loads(data)["protected"]
    for number in (10**12, 2**63, 2**64 - 1):
        with pytest.raises(DamagedObject, match="'protected'"):
            domain.parse_owner(altered(data, protected=place | {name: number}), "k", DOMAIN)


@EVERY_OBJECT
def test_json_that_nests_too_deep(parse: Parser, data: bytes) -> None:
    for levels, deep in ((limits.JSON_DEPTH_MAX - 1, False), (limits.JSON_DEPTH_MAX, True), (400, True)):
        nested = data[:-1] + b',"z":' + b"[" * levels + b"]" * levels + b"}"
        if deep:
            with pytest.raises(DamagedObject, match="JSON_DEPTH_MAX"):
                parse(nested, "k", DOMAIN)
        else:
            assert parse(nested, "k", DOMAIN) == parse(data, "k", DOMAIN)
    for levels in (2_000, 200_000):
        with pytest.raises((DamagedObject, LimitExceeded)):
            parse(b"[" * levels + b"]" * levels, "k", DOMAIN)


@EVERY_OBJECT
def test_too_new_foreign_or_another_thing(parse: Parser, data: bytes) -> None:
    with pytest.raises(NewerFormat, match="format 2"):
        parse(altered(data, format=2), "k", DOMAIN)
    with pytest.raises(ForeignObject, match=DOMAIN.hex()):
        parse(data, "k", bytes(16))
    with pytest.raises(DamagedObject, match="magic"):
        parse(altered(data, magic="cdp-other"), "k", DOMAIN)
    with pytest.raises(LimitExceeded):
        parse(data + b" " * limits.DOMAIN_JSON_BYTES_MAX, "k", DOMAIN)


@EVERY_OBJECT
def test_cut_at_any_byte(parse: Parser, data: bytes) -> None:
    for length in range(len(data)):
        with pytest.raises(DamagedObject):
            parse(data[:length], "k", DOMAIN)


@EVERY_OBJECT
@given(st.binary(max_size=200), st.integers(0, 10_000))
def test_any_bytes(parse: Parser, data: bytes, noise: bytes, at: int) -> None:
    for mutated in (noise, data[: at % len(data)] + noise + data[at % len(data) + len(noise) :]):
        with contextlib.suppress(CdpError):
            parse(mutated, "k", DOMAIN)


def test_deep_json() -> None:
    with pytest.raises(DamagedObject):
        domain.parse_owner(b'{"a":' * 100_000, "k", DOMAIN)


@pytest.mark.parametrize(
    "members",
    [
        {"state": "asleep"},
        {"epoch": 10**10},
        {"previous": 4},
        {"state": "claiming", "previous": 3},
        {"nonce": "00"},
        {"nonce": "AB" * 16},
        {"protected": {"epoch": 1, "cut": 0, "seq": 0}},
        {"protected": {"epoch": 1, "cut": 1}},
        {"ledger": {"key": "k", "digest": "00"}},
        {"since_ns": 2**63},
        {"version": 1.0},
        {"version": True},
    ],
    ids=str,
)
def test_owners_that_make_no_sense(members: dict[str, Any]) -> None:
    with pytest.raises(DamagedObject):
        domain.parse_owner(altered(domain.build_owner(samples.owner()), **members), "k", DOMAIN)


def test_the_epoch_in_force() -> None:
    owner = samples.owner()
    states = {state: replace(owner, state=state).epoch_in_force for state in domain.OwnerState}
    assert states == {
        domain.OwnerState.ACTIVE: 3,
        domain.OwnerState.RELEASED: 3,
        domain.OwnerState.CLAIMING: 2,
    }


@pytest.mark.parametrize(
    "members",
    [
        {"previous": 3},
        {"base": {"epoch": 3, "cut": 1, "seq": 1}},
        {"end": {"epoch": 3, "cut": 1, "seq": 1}},
        {"previous": 1},
        {"unsynchronised": 0},
    ],
    ids=str,
)
def test_epoch_records_that_make_no_sense(members: dict[str, Any]) -> None:
    with pytest.raises(DamagedObject):
        domain.parse_epoch_record(altered(samples.epoch_record(), **members), "k", DOMAIN)


def test_encryption_and_key_block_agree() -> None:
    sealed, plain = (domain.build_config(samples.config(encrypted)) for encrypted in (True, False))
    for data in (altered(sealed, encryption="none"), altered(plain, encryption="aes-256-gcm")):
        with pytest.raises(DamagedObject, match="key_block"):
            domain.parse_config(data, "k", DOMAIN)
    with pytest.raises(DamagedObject, match="encryption"):
        domain.parse_config(altered(sealed, encryption="rot13"), "k", DOMAIN)


def test_places_are_ordered() -> None:
    places = [NOWHERE, Place(1, 1, 1), Place(1, 1, 2), Place(1, 2, 2), Place(2, 1, 1)]
    assert all(one < after for one, after in itertools.pairwise(places))
    assert [bool(place) for place in places] == [False, True, True, True, True]
