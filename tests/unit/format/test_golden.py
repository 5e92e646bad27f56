"""What was written once is readable for ever: the golden objects against today's parsers and builders."""

from __future__ import annotations

import hashlib

import orjson
import pytest

from cdp_container.format import domain, keyblock
from cdp_container.format.assemble import SealedObject
from cdp_container.format.frames import open_frame
from cdp_container.format.head import check_object, object_digest, open_head
from cdp_container.format.holds import parse_holds
from cdp_container.format.layout import Codec, RunKind
from cdp_container.format.request import parse_request
from tests.golden.make import DIRECTORY, expected, golden_objects, name_of
from tests.unit.format import samples
from tests.unit.format.samples import DOMAIN

Content = tuple[object, ...]


def content(data: bytes, key: str, encrypted: bool) -> Content:
    """All that an object says, without how it is compressed."""
    preamble = check_object(data, key, DOMAIN)
    keys = samples.reader(encrypted)
    head = open_head(data, key, DOMAIN, keys)
    raw = []
    for number in range(head.index.frame_count):
        start, end = head.frame_range(number)
        raw.append(open_frame(head, number, data[start:end], keys))
    index = head.index
    return (
        preamble.place, preamble.base, preamble.end, preamble.not_whole, preamble.previous_digest,
        preamble.key_block, preamble.wrapped_content_key, preamble.object_id,
        [*index.iter_extents()], [*index.iter_records()], [*index.iter_runs()], [*index.iter_orders()],
        [(entry.kind, entry.epoch, entry.seq) for entry in index.iter_entries()],
        head.header.get("marker"), head.header.get("predecessor"), raw,
    )  # fmt: skip


CASES = [
    pytest.param(kind, codec, encrypted, id=name_of(kind, codec, encrypted))
    for kind in samples.BUILDERS
    for codec in Codec
    for encrypted in (False, True)
]


@pytest.mark.parametrize(("kind", "codec", "encrypted"), CASES)
def test_golden_objects_say_what_they_said(kind: str, codec: Codec, encrypted: bool) -> None:
    golden = (DIRECTORY / name_of(kind, codec, encrypted)).read_bytes()
    today: SealedObject = samples.BUILDERS[kind](encrypted, codec)
    assert content(golden, today.key, encrypted) == content(today.data, today.key, encrypted)


@pytest.mark.parametrize("name", [name for name in golden_objects() if "zstd" not in name])
def test_golden_bytes_are_those_of_today_s_builders(name: str) -> None:
    assert golden_objects()[name] == (DIRECTORY / name).read_bytes()


def test_nothing_golden_is_missing_or_left_over() -> None:
    assert {path.name for path in DIRECTORY.iterdir()} == {*golden_objects(), "expected.json"}


def test_golden_objects_hold_what_is_expected_of_them() -> None:
    assert expected(DIRECTORY) == (DIRECTORY / "expected.json").read_bytes()


def test_the_content_that_is_expected_is_what_was_put_in() -> None:
    objects = orjson.loads((DIRECTORY / "expected.json").read_bytes())["objects"]
    put_in = {
        extent.offset: hashlib.sha256(extent.data).hexdigest()
        for extent in samples.extents()
        if extent.data is not None
    }
    for name in ("segment-raw-sealed.bin", "segment-zstd-sealed.bin"):
        said = {extent["offset"]: extent["sha256"] for extent in objects[name]["extents"] if extent["sha256"]}
        assert said == put_in


def test_the_golden_owner_names_a_golden_ledger_and_that_a_golden_pack() -> None:
    named = domain.parse_owner((DIRECTORY / "owner.json").read_bytes(), "k", DOMAIN).ledger
    assert named is not None
    ledger = (DIRECTORY / "ledger-raw-sealed.bin").read_bytes()
    assert object_digest(ledger) == named.digest
    *_, run = open_head(ledger, named.key, DOMAIN, samples.reader(True)).index.iter_runs()
    assert run.kind is RunKind.PACK_IN_FORCE
    assert run.digest == object_digest((DIRECTORY / "pack-raw-sealed.bin").read_bytes())


def test_golden_domain_objects_say_what_they_said() -> None:
    read = {path.stem: path.read_bytes() for path in DIRECTORY.glob("*.json")}
    assert domain.parse_owner(read["owner"], "k", DOMAIN) == samples.owner()
    assert domain.parse_config(read["config"], "k", DOMAIN) == samples.config()
    assert parse_holds(read["holds"], "k", DOMAIN) == samples.holds()
    assert parse_request(read["requests"], "k", DOMAIN) == samples.request()
    assert domain.parse_epoch_record(read["epochs"], "k", DOMAIN).epoch == 3
    block = keyblock.parse_key_block(read["key-block"], "k")
    opened = keyblock.open_with_passphrase(block, samples.PASSPHRASE, DOMAIN, "k")
    assert opened == samples.PRIVATE_KEY
    assert domain.config_digest(read["config"]) == samples.owner().config
