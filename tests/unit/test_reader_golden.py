"""The independent reader over the golden objects, which the project's own code wrote once and keeps for ever.

What is expected comes from the JSON beside them: configuration, owner and epoch say what they are about.
Nobody told this reader the secret of the sealed ones, so of those it proves only what stands in clear.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from tests.reader_objects import DATA, NONE, Keys, Object, ReaderError, parse_place, refusing

GOLDEN = Path(__file__).parents[1] / "golden" / "v1"
KEYS = {
    "segment": "log/0000000003/000000000001",
    "pack": "packs/0000000005/000000000002",
    "ledger": "packs/0000000005/ledger-000000000002",
    "catalog": "catalog/0000000005/0-000000000016",
}
CODECS = ("raw", "zstd")


def beside(name: str) -> dict[str, Any]:
    return dict(json.loads((GOLDEN / f"{name}.json").read_bytes()))


def opened(kind: str, codec: str, seal: str = "plain") -> Object:
    keys = Keys(bytes.fromhex(beside("owner")["domain"]), None, None)
    with refusing(KEYS[kind]):
        return Object(KEYS[kind], (GOLDEN / f"{kind}-{codec}-{seal}.bin").read_bytes(), keys)


def contents(found: Object) -> dict[tuple[int, bytes, int, int, int], bytes]:
    """All extents: order row, space, offset, length, kind; and their bytes, none where they are not data."""
    return {
        (order, space, offset, length, kind): (
            found.content(offset, length, frame, position, first_sum) if kind == DATA else b""
        )
        for (order, space), extents in found.extents.items()
        for offset, length, frame, position, kind, first_sum in extents
    }


def test_the_owner_names_the_configuration() -> None:
    digest = hashlib.sha256((GOLDEN / "config.json").read_bytes()).hexdigest()
    assert digest == beside("owner")["config"]
    assert beside("config")["key_block"] == beside("key-block")


@pytest.mark.parametrize("codec", CODECS)
def test_the_segment_agrees_with_owner_epoch_and_configuration(codec: str) -> None:
    segment, record, source = opened("segment", codec), beside("epochs"), beside("config")["sources"][0]
    assert (segment.base, segment.end) == (parse_place(record["base"]), parse_place(record["end"]))
    assert segment.records()[0].place == parse_place(beside("owner")["protected"])
    spaces = [found for found in segment.records() if found.key == bytes.fromhex(source["space"])]
    assert [found.name for found in spaces] == [b"space+", b"space="]
    assert spaces[0].value["name"] == source["name"]
    assert spaces[1].value["size_bytes"] == source["size_bytes"]
    assert segment.header["site"] == record["site"]


def test_a_codec_changes_nothing_that_is_read() -> None:
    for kind in ("segment", "pack"):
        raw, zstd = opened(kind, "raw"), opened(kind, "zstd")
        assert contents(raw) == contents(zstd)
        assert raw.records() == zstd.records()
        assert raw.order == zstd.order
    assert opened("ledger", "raw").parts == opened("ledger", "zstd").parts


@pytest.mark.parametrize("codec", CODECS)
def test_the_pack_holds_what_the_segment_held(codec: str) -> None:
    segment, pack = opened("segment", codec), opened("pack", codec)
    place = segment.records()[0].place
    row = pack.order.index((place.epoch, place.seq, place.cut))
    copied = {(NONE, *extent[1:]): data for extent, data in contents(pack).items() if extent[0] == row}
    assert copied == contents(segment)
    assert [record for record in pack.records() if record.place == place] == segment.records()


@pytest.mark.parametrize("kind", ["segment", "pack", "ledger", "catalog"])
@pytest.mark.parametrize("codec", CODECS)
def test_what_is_sealed_shows_its_key_block_and_no_more(kind: str, codec: str) -> None:
    data = (GOLDEN / f"{kind}-{codec}-sealed.bin").read_bytes()
    block = (GOLDEN / "key-block.json").read_bytes()
    end = int.from_bytes(data[12:16], "little") - 32
    assert data[end - len(block) : end] == block
    with pytest.raises(ReaderError, match="is sealed"):
        opened(kind, codec, "sealed")
