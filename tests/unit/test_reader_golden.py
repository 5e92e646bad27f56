"""The independent reader over the golden objects, which the project's own code wrote once and keeps for ever.

`expected.json` beside them says what is in each, in the words of the page; the other JSON files say what they
are about. All was put there by somebody else.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from tests.reader import DATA, DISCARD, NEEDED, NONE, ZERO, Keys, Object, parse_place

GOLDEN = Path(__file__).parents[1] / "golden" / "v1"
EXPECTED: dict[str, Any] = json.loads((GOLDEN / "expected.json").read_bytes())
KINDS = {"data": DATA, "zero": ZERO, "discard": DISCARD}
SECRETS = {
    "passphrase": EXPECTED["passphrase"],
    "the domain's key": bytes.fromhex(EXPECTED["private_key"]),
    "a recipient's key": bytes.fromhex(EXPECTED["recipient_private_key"]),
}


def beside(name: str) -> dict[str, Any]:
    return dict(json.loads((GOLDEN / f"{name}.json").read_bytes()))


def opened(name: str, secret: str | bytes | None = None) -> Object:
    keys = Keys(bytes.fromhex(EXPECTED["domain"]), secret)
    return Object(EXPECTED["objects"][name]["key"], (GOLDEN / name).read_bytes(), keys)


def row_of(found: Object, order: list[int] | None) -> int:
    """The row of `order` that the JSON means: epoch, seq, cut; null in a segment."""
    if order is None:
        return NONE
    epoch, seq, cut = order
    return next(row for row, place in found.order.items() if place == (epoch, cut, seq))


@pytest.mark.parametrize("secret", SECRETS)
@pytest.mark.parametrize("name", EXPECTED["objects"])
def test_every_golden_object_holds_what_is_expected(name: str, secret: str) -> None:
    expected = EXPECTED["objects"][name]
    found = opened(name, SECRETS[secret] if "sealed" in name else None)
    assert found.digest.hex() == expected["digest"]
    assert found.header == expected["header"]
    left = {key: list(extents) for key, extents in found.extents.items()}
    for extent in expected["extents"]:
        row, space = row_of(found, extent["order"]), bytes.fromhex(extent["space"])
        offset, length, frame, position, kind, sums = left[row, space].pop(0)
        assert (offset, length, kind) == (extent["offset"], extent["length"], KINDS[extent["kind"]])
        if kind == DATA:
            data = found.content(offset, length, frame, position, sums)
            assert hashlib.sha256(data).hexdigest() == extent["sha256"]
    assert not any(left.values())
    records = [
        [
            row_of(found, record["order"]),
            record["name"].encode(),
            bytes.fromhex(record["key"]),
            record["value"],
        ]
        for record in expected["records"]
        if record["name"].encode() in NEEDED
    ]
    assert [[layer.row, *record] for layer in found.layers for record in layer.records] == records
    runs = [[*run[:4], run[4].hex()] for run in found.rows[b"runs"]]
    assert runs == expected["runs"]
    heads = found.parts.get(b"heads", b"")
    entries = [
        [kind, epoch, seq, length, digest.hex(), hashlib.sha256(heads[at : at + head]).hexdigest()]
        for kind, head, at, length, epoch, seq, digest in found.rows[b"entries"]
    ]
    assert entries == expected["entries"]


def test_the_json_objects_name_each_other() -> None:
    digest = hashlib.sha256((GOLDEN / "config.json").read_bytes()).hexdigest()
    assert digest == beside("owner")["config"]
    assert beside("config")["key_block"] == beside("key-block")


@pytest.mark.parametrize("name", ["segment-raw-plain.bin", "segment-zstd-plain.bin"])
def test_the_segment_agrees_with_owner_and_epoch(name: str) -> None:
    segment, record = opened(name), beside("epochs")
    assert (segment.base, segment.end) == (parse_place(record["base"]), parse_place(record["end"]))
    assert segment.order[NONE] == parse_place(beside("owner")["protected"])


@pytest.mark.parametrize("name", [name for name in EXPECTED["objects"] if "sealed" in name])
@pytest.mark.parametrize("secret", [None, "wrong", bytes(32)])
def test_what_is_sealed_shows_its_key_block_and_no_more(name: str, secret: str | bytes | None) -> None:
    data, block = (GOLDEN / name).read_bytes(), (GOLDEN / "key-block.json").read_bytes()
    end = int.from_bytes(data[12:16], "little") - 32
    assert data[end - len(block) : end] == block
    with pytest.raises(ValueError, match="is sealed"):
        opened(name, secret)


@pytest.mark.parametrize("name", [name for name in EXPECTED["objects"] if "plain" in name])
def test_who_holds_keys_refuses_what_is_plain(name: str) -> None:
    with pytest.raises(ValueError, match="forged"):
        opened(name, EXPECTED["passphrase"])
