"""agent.json: what was written is what is read; damage is found; the file is private."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import orjson
import pytest

from cdp_container.domain.durable import replace_file
from cdp_container.domain.identity import (
    IDENTITY_NAME,
    AgentIdentity,
    SourceIdentity,
    TreeIdentity,
    encode_identity,
    load_identity,
)
from cdp_container.errors import CdpError, ConfigInvalid

IDENTITY = AgentIdentity(
    domain=b"d" * 16,
    name="shop",
    site="hamburg",
    encryption="aes-256-gcm",
    public_key=b"p" * 32,
    index_key=b"i" * 32,
    key_block=b'{"format":1}',
    config_digest=b"c" * 32,
    sources=(SourceIdentity("db01", "/x/db01.raw", b"s" * 16, 1 << 30),),
    trees=(
        TreeIdentity("home", "/home", b"t" * 16, include=("a/*",), exclude=("*.tmp", "cache/")),
        TreeIdentity("old", "/old", b"o" * 16, one_file_system=False, removed=True),
    ),
)


def test_round_trip(tmp_path: Path) -> None:
    replace_file(tmp_path / IDENTITY_NAME, encode_identity(IDENTITY))
    assert load_identity(tmp_path) == IDENTITY
    assert (tmp_path / IDENTITY_NAME).stat().st_mode & 0o777 == 0o600
    assert [path.name for path in tmp_path.iterdir()] == [IDENTITY_NAME]


def test_the_index_key_is_in_no_repr() -> None:
    assert IDENTITY.index_key.hex() not in repr(IDENTITY)
    assert repr(IDENTITY.index_key) not in repr(IDENTITY)


def test_absent_says_init(tmp_path: Path) -> None:
    with pytest.raises(ConfigInvalid) as caught:
        load_identity(tmp_path)
    assert "init" in caught.value.hint


@pytest.mark.parametrize("cut", [0, 1, 50, -2])
def test_cut_short_is_damage_and_shows_no_key(tmp_path: Path, cut: int) -> None:
    (tmp_path / IDENTITY_NAME).write_bytes(encode_identity(IDENTITY)[:cut])
    with pytest.raises(ConfigInvalid) as caught:
        load_identity(tmp_path)
    assert IDENTITY.index_key.hex() not in str(caught.value)


def test_newer_format_is_refused(tmp_path: Path) -> None:
    (tmp_path / IDENTITY_NAME).write_bytes(encode_identity(IDENTITY).replace(b'"format": 1', b'"format": 2'))
    with pytest.raises(ConfigInvalid, match="format is 2"):
        load_identity(tmp_path)


def test_wrong_domain_length_is_refused(tmp_path: Path) -> None:
    replace_file(tmp_path / IDENTITY_NAME, encode_identity(dataclasses.replace(IDENTITY, domain=b"short")))
    with pytest.raises(ConfigInvalid):
        load_identity(tmp_path)


def test_writing_into_an_absent_directory_is_a_typed_error(tmp_path: Path) -> None:
    with pytest.raises(CdpError, match="cannot write"):
        replace_file(tmp_path / "none" / IDENTITY_NAME, b"x")


def test_a_file_from_before_there_were_trees_has_none(tmp_path: Path) -> None:
    document = orjson.loads(encode_identity(IDENTITY))
    del document["trees"]
    (tmp_path / IDENTITY_NAME).write_bytes(orjson.dumps(document))
    assert load_identity(tmp_path) == dataclasses.replace(IDENTITY, trees=())


def test_trees_that_are_removed_are_not_protected() -> None:
    assert [tree.name for tree in IDENTITY.active_trees] == ["home"]
