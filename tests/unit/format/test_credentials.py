"""A writer's credentials, sealed to the domain's key: who opens them, and what does not open."""

from __future__ import annotations

import json
from dataclasses import replace

import orjson
import pytest

from cdp_container.errors import DamagedObject, LimitExceeded
from cdp_container.format import domain, limits
from cdp_container.format.credentials import (
    CREDENTIALS_INFO,
    Credentials,
    open_credentials,
    seal_credentials,
)
from cdp_container.format.seal import public_of, seal_to
from tests import reader
from tests.unit.format import samples
from tests.unit.format.samples import DOMAIN

PRIVATE = b"\x07" * 32
EPHEMERAL = b"\x09" * 32
PLAIN = Credentials("AKIAEXAMPLE", "s3cr3t/+=", None)
TEMPORARY = Credentials("ASIA", "s", "t" * 2000)


def seal(credentials: Credentials = PLAIN) -> bytes:
    return seal_credentials(credentials, public_of(PRIVATE), EPHEMERAL, DOMAIN)


@pytest.mark.parametrize("credentials", [PLAIN, TEMPORARY])
def test_who_holds_the_private_key_opens_them(credentials: Credentials) -> None:
    assert open_credentials(seal(credentials), PRIVATE, DOMAIN, "k") == credentials


def test_the_independent_reader_opens_them_by_the_page() -> None:
    opened = json.loads(reader.unwrap(PRIVATE, seal(TEMPORARY), DOMAIN, b"cdp credentials v1"))
    assert opened == {"access_key": "ASIA", "secret_key": "s", "session": "t" * 2000}


def test_neither_another_domain_s_nor_another_key_s_open() -> None:
    for private, name in ((PRIVATE, b"\x01" * 16), (b"\x08" * 32, DOMAIN)):
        with pytest.raises(DamagedObject, match="sealed as credentials does not open"):
            open_credentials(seal(), private, name, "k")


def test_no_altered_byte_opens() -> None:
    for at in range(len(sealed := seal())):
        altered = sealed[:at] + bytes([sealed[at] ^ 1]) + sealed[at + 1 :]
        with pytest.raises(DamagedObject):
            open_credentials(altered, PRIVATE, DOMAIN, "k")


@pytest.mark.parametrize("length", [0, 31, 32, 47])
def test_what_is_shorter_than_a_seal(length: int) -> None:
    with pytest.raises(DamagedObject):
        open_credentials(seal()[:length], PRIVATE, DOMAIN, "k")


def test_a_content_key_is_no_credentials() -> None:
    other = seal_to(
        b'{"access_key":"a","secret_key":"b"}', public_of(PRIVATE), EPHEMERAL, DOMAIN, b"other v1"
    )
    with pytest.raises(DamagedObject):
        open_credentials(other, PRIVATE, DOMAIN, "k")


@pytest.mark.parametrize(
    "text", [b"hush", b"[]", b'{"access_key":"hush"}', b'{"access_key":1,"secret_key":"hush"}', b"\xff"]
)
def test_what_is_sealed_and_is_none_is_refused_without_a_word_of_it(text: bytes) -> None:
    sealed = seal_to(text, public_of(PRIVATE), EPHEMERAL, DOMAIN, CREDENTIALS_INFO)
    with pytest.raises(DamagedObject, match="none that this release knows") as raised:
        open_credentials(sealed, PRIVATE, DOMAIN, "k")
    assert "hush" not in str(raised.value)


def test_no_secret_shows_in_what_is_printed() -> None:
    assert "s3cr3t" not in repr(PLAIN)
    assert "ttt" not in repr(TEMPORARY)


def test_too_long_ones_are_never_sealed() -> None:
    with pytest.raises(LimitExceeded):
        seal(replace(PLAIN, session="t" * limits.SEALED_CREDENTIALS_BYTES_MAX))


def test_a_configuration_carries_them_and_one_without_has_no_such_member() -> None:
    without = domain.build_config(samples.config())
    assert "credentials" not in orjson.loads(without)
    with_them = domain.build_config(replace(samples.config(), credentials=seal()))
    assert orjson.loads(with_them)["credentials"] == {"sealed": seal().hex()}
    assert domain.parse_config(with_them, "k", DOMAIN).credentials == seal()


@pytest.mark.parametrize("member", [None, 5, "aa", {}, {"sealed": 5}, {"sealed": "zz"}])
def test_a_member_of_another_shape_is_damage(member: object) -> None:
    data = orjson.dumps(orjson.loads(domain.build_config(samples.config())) | {"credentials": member})
    with pytest.raises(DamagedObject):
        domain.parse_config(data, "k", DOMAIN)


def test_too_long_a_member_is_refused() -> None:
    member = {"sealed": "00" * (limits.SEALED_CREDENTIALS_BYTES_MAX + 1)}
    data = orjson.dumps(orjson.loads(domain.build_config(samples.config())) | {"credentials": member})
    with pytest.raises(LimitExceeded):
        domain.parse_config(data, "k", DOMAIN)


def test_what_a_later_release_added_is_carried_over() -> None:
    data = orjson.dumps(orjson.loads(domain.build_config(samples.config())) | {"future": {"a": [1]}})
    found = domain.parse_config(data, "k", DOMAIN)
    rebuilt = domain.build_config(replace(found, replicas=("s3://copy/shop",)))
    assert orjson.loads(rebuilt) == orjson.loads(data) | {"replicas": ["s3://copy/shop"]}
