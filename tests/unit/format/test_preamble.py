"""Preambles that are too new, too large, or make no sense; and how far a claim is believed."""

from __future__ import annotations

import hashlib
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import zstandard

from cdp_container.errors import CdpError, DamagedObject, LimitExceeded, NewerFormat
from cdp_container.format import limits
from cdp_container.format.codec import Compressor, decompress
from cdp_container.format.head import check_object, head_need, open_head
from cdp_container.format.keys import EPOCH_MAX, NUMBER_MAX
from cdp_container.format.layout import PREAMBLE, Codec
from cdp_container.format.preamble import PREAMBLE_BYTES_MIN, parse_preamble, preamble_need
from cdp_container.format.seal import NO_KEYS
from tests.unit.format import samples
from tests.unit.format.samples import DOMAIN


def forged(fields: dict[str, Any], sample: str = "segment", encrypted: bool = False) -> bytes:
    """The preamble of a sample with other fields, and with a right digest."""
    built = samples.BUILDERS[sample](encrypted)
    length = preamble_need(built.data, built.key)
    values = dict(
        zip((field.name for field in PREAMBLE.fields), PREAMBLE.struct.unpack_from(built.data), strict=True)
    )
    assert fields.keys() <= values.keys()
    body = PREAMBLE.struct.pack(*(values | fields).values()) + built.data[PREAMBLE.size_bytes : length - 32]
    return body + hashlib.sha256(body).digest() + built.data[length:]


@pytest.mark.parametrize(
    "fields",
    [
        {"format": 2},
        {"format": 0},
        {"kind": 0},
        {"kind": 5},
        {"kind": 16},
        {"flags": 1 << 16},
        {"flags": 1 << 31},
        {"section_codec": 2},
        {"cipher": 2},
    ],
    ids=str,
)
def test_newer_preambles_are_refused(fields: dict[str, int]) -> None:
    with pytest.raises(NewerFormat):
        parse_preamble(forged(fields), "k")


def test_unknown_flags_that_are_not_critical_are_ignored() -> None:
    assert parse_preamble(forged({"flags": 0xFFFE}), "k").complete is False
    assert parse_preamble(forged({"flags": 0xFFFF}), "k").complete is True


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        ("segment", {"header_raw": limits.HEADER_BYTES_MAX + 1}),
        ("segment", {"header_stored": 2**32 - 1}),
        ("segment", {"index_raw": limits.INDEX_BYTES_MAX + 1}),
        ("segment", {"index_stored": limits.INDEX_BYTES_MAX + limits.SECTION_OVERHEAD_BYTES_MAX + 1}),
        ("segment", {"frames_stored": 2**64 - 1}),
        ("segment", {"frames_stored": limits.OBJECT_BYTES_MAX}),
        ("segment", {"not_whole_count": limits.NOT_WHOLE_MAX + 1}),
        ("segment", {"not_whole_count": 2**32 - 1}),
        ("segment", {"preamble_length": limits.PREAMBLE_BYTES_MAX + 1}),
        ("pack", {"index_raw": limits.BULK_INDEX_BYTES_MAX + 1}),
        ("pack", {"index_stored": limits.OBJECT_BYTES_MAX}),
        ("catalog", {"index_stored": 2**32 - 1}),
        ("ledger", {"index_raw": 2**32 - 1}),
    ],
    ids=str,
)
def test_claims_beyond_the_limits(kind: str, fields: dict[str, int]) -> None:
    with pytest.raises(LimitExceeded):
        parse_preamble(forged(fields, kind), "k")


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        ("segment", {"epoch": 0}),
        ("segment", {"seq": 0}),
        ("segment", {"cut": 0}),
        ("segment", {"cut": NUMBER_MAX + 1}),
        ("segment", {"cut": 2**63}),
        ("segment", {"epoch": EPOCH_MAX + 1}),
        ("catalog", {"seq": NUMBER_MAX + 1}),
        ("segment", {"base_seq": 2**64 - 1}),
        ("segment", {"base_cut": 0}),
        ("segment", {"base_epoch": 3}),
        ("segment", {"end_epoch": 0}),
        ("segment", {"end_epoch": 4}),
        ("segment", {"not_whole_count": 2}),
        ("segment", {"not_whole_count": 0}),
        ("segment", {"key_block_length": 1}),
        ("segment", {"key_block_length": 2**32 - 1}),
        ("segment", {"preamble_length": PREAMBLE_BYTES_MIN}),
        ("segment", {"preamble_length": PREAMBLE_BYTES_MIN - 1}),
        ("segment", {"preamble_length": 0}),
        ("segment", {"cipher": 1}),
        ("segment", {"wrapped_content_key": b"\1" + bytes(79)}),
        ("pack", {"cut": 1}),
        ("pack", {"flags": 1}),
        ("pack", {"cut_time_ns": 1}),
        ("pack", {"previous_digest": b"\1" + bytes(31)}),
        ("catalog", {"base_epoch": 1, "base_cut": 1, "base_seq": 1}),
        ("catalog", {"journal_offset": 1}),
        ("catalog", {"first_write_ns": 1}),
        ("ledger", {"last_write_ns": -1}),
        ("ledger", {"frames_stored": 1}),
    ],
    ids=str,
)
def test_contradictions(kind: str, fields: dict[str, Any]) -> None:
    with pytest.raises(DamagedObject):
        parse_preamble(forged(fields, kind), "k")


@pytest.mark.parametrize("fields", [{"cipher": 0}, {"wrapped_content_key": bytes(80)}], ids=str)
def test_sealed_or_not(fields: dict[str, Any]) -> None:
    with pytest.raises(DamagedObject):
        parse_preamble(forged(fields, encrypted=True), "k")


def test_lengths_that_lie_are_found_where_they_are_used() -> None:
    built = samples.segment(encrypted=False)
    for fields in ({"header_raw": 5}, {"index_raw": 9}, {"header_stored": 1}, {"index_stored": 0}):
        data = forged(fields)
        with pytest.raises(DamagedObject):
            open_head(data, built.key, DOMAIN, NO_KEYS)
    with pytest.raises(DamagedObject):
        check_object(forged({"frames_stored": 1}), built.key, DOMAIN)


def bomb(claim_bytes: int | None) -> bytes:
    """A zstd frame that claims so many bytes and holds 128 KiB of zeros; 256 MiB and no claim for None."""
    compressor = zstandard.ZstdCompressor(level=19, write_content_size=claim_bytes is not None)
    if claim_bytes is None:
        stream = compressor.compressobj()
        return b"".join([stream.compress(bytes(1 << 20)) for _ in range(256)]) + stream.flush()
    # Magic, descriptor (one segment, 8-byte size), the claim, and one last block that repeats a byte.
    block = 1 | 1 << 1 | 131072 << 3
    return b"\x28\xb5\x2f\xfd\xe0" + claim_bytes.to_bytes(8, "little") + block.to_bytes(3, "little") + b"\0"


@pytest.mark.parametrize("claim_bytes", [None, 0, 4096, 1 << 28, 1 << 50, 2**64 - 1, 2**64 - 2])
def test_bombs_take_no_memory(claim_bytes: int | None) -> None:
    packed = bomb(claim_bytes)
    tracemalloc.start()
    try:
        with pytest.raises(DamagedObject):
            decompress(Codec.ZSTD, packed, 4096, "k")
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak_bytes < 1 << 20


def test_a_sound_frame_of_the_same_make() -> None:
    packed = bomb(131072)
    assert decompress(Codec.ZSTD, packed, 131072, "k") == bytes(131072)


def test_frames_are_what_they_are_after_damaged_ones_and_in_many_threads() -> None:
    raws = [bytes([number]) * (1_000 * number + 1) for number in range(20)] * 20
    packed = [Compressor().pack(raw) for raw in raws]
    broken = packed[19][:-2] + b"xx"

    def unpacked(number: int) -> bytes:
        with pytest.raises(DamagedObject):
            decompress(Codec.ZSTD, broken, len(raws[19]) + number % 2, "k")
        return decompress(Codec.ZSTD, packed[number], len(raws[number]), "k")

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(unpacked, range(len(raws)))) == raws


@pytest.mark.parametrize("packed", [b"", b"x", b"\x28\xb5\x2f\xfd", b"\x50\x2a\x4d\x18\x04\0\0\0abcd"])
def test_what_is_no_zstd_frame(packed: bytes) -> None:
    with pytest.raises(DamagedObject):
        decompress(Codec.ZSTD, packed, 4, "k")


def test_more_than_one_frame_or_another_length() -> None:
    packed = Compressor().pack(b"content " * 100)
    for other in (packed + packed, packed + b"x", packed[:-1]):
        with pytest.raises(DamagedObject):
            decompress(Codec.ZSTD, other, 800, "k")
    for length in (799, 801, 0):
        with pytest.raises(DamagedObject):
            decompress(Codec.ZSTD, packed, length, "k")
    with pytest.raises(DamagedObject):
        decompress(Codec.NONE, b"abc", 4, "k")
    with pytest.raises(NewerFormat):
        decompress(7, b"abc", 3, "k")


@pytest.mark.parametrize("data", [b"", b"CDPOBJ\r\n", b"x" * 400, b"CDPOBJ\n" + bytes(400)])
def test_what_is_no_object(data: bytes) -> None:
    with pytest.raises(DamagedObject):
        parse_preamble(data, "k")
    with pytest.raises(CdpError):
        preamble_need(data, "k")
    if len(data) >= 16:
        with pytest.raises(DamagedObject):
            head_need(data, "k")
