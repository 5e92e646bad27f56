"""Whatever happens to an object's bytes, or to their place, is found: flips, cuts, swaps, forged digests."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Callable

import pytest

from cdp_container.errors import CdpError, DamagedObject, ForeignObject, LimitExceeded
from cdp_container.format import layout
from cdp_container.format.assemble import SealedObject
from cdp_container.format.frames import open_frame
from cdp_container.format.head import Head, check_object, head_need, open_head
from cdp_container.format.layout import PREAMBLE, Codec
from tests.unit.format import samples
from tests.unit.format.samples import DOMAIN

pytestmark = pytest.mark.slow

EVERY_KIND = pytest.mark.parametrize("kind", samples.BUILDERS)
BOTH = pytest.mark.parametrize("encrypted", [False, True], ids=["plain", "sealed"])


def flip(data: bytes, at: int, bit: int) -> bytes:
    return data[:at] + bytes([data[at] ^ (1 << bit)]) + data[at + 1 :]


def opened(data: bytes, built: SealedObject, encrypted: bool) -> Head:
    return open_head(data, built.key, DOMAIN, samples.reader(encrypted))


@EVERY_KIND
@BOTH
def test_every_flipped_byte_is_found_without_keys(kind: str, encrypted: bool) -> None:
    built = samples.BUILDERS[kind](encrypted)
    for at in range(len(built.data)):
        with pytest.raises(CdpError) as raised:
            check_object(flip(built.data, at, at % 8), built.key, DOMAIN)
        assert built.key in str(raised.value)


@EVERY_KIND
@BOTH
def test_every_flipped_byte_of_a_head_is_found(kind: str, encrypted: bool) -> None:
    built = samples.BUILDERS[kind](encrypted)
    for at in range(built.head_length):
        with pytest.raises((DamagedObject, LimitExceeded)):
            opened(flip(built.data, at, at % 8), built, encrypted)


@BOTH
@pytest.mark.parametrize("kind", ["segment", "pack"])
def test_every_flipped_byte_of_a_frame_is_found(kind: str, encrypted: bool) -> None:
    built = samples.BUILDERS[kind](encrypted)
    head = opened(built.data, built, encrypted)
    for number in range(head.index.frame_count):
        start, end = head.frame_range(number)
        stored = built.data[start:end]
        open_frame(head, number, stored, samples.reader(encrypted))
        for at in range(0, len(stored), 7):
            with pytest.raises(DamagedObject, match=f"frame {number}"):
                open_frame(head, number, flip(stored, at, at % 8), samples.reader(encrypted))
        for cut in (stored[:-1], stored + b"x", b""):
            with pytest.raises(DamagedObject):
                open_frame(head, number, cut, samples.reader(encrypted))


@EVERY_KIND
@BOTH
def test_an_object_cut_at_any_byte_is_found(kind: str, encrypted: bool) -> None:
    built = samples.BUILDERS[kind](encrypted)
    for length in range(len(built.data)):
        data = built.data[:length]
        with pytest.raises(DamagedObject):
            check_object(data, built.key, DOMAIN)
        if length < built.head_length:
            assert head_need(data, built.key) > length
            with pytest.raises(DamagedObject):
                opened(data, built, encrypted)
    with pytest.raises(DamagedObject):
        check_object(built.data + b"\0", built.key, DOMAIN)


@BOTH
def test_swapped_objects_are_found(encrypted: bool) -> None:
    objects = [build(encrypted) for build in samples.BUILDERS.values()]
    objects.append(samples.empty_segment(encrypted))
    for one in objects:
        for other in objects:
            if one is other:
                continue
            with pytest.raises(ForeignObject):
                check_object(one.data, other.key, DOMAIN)
            with pytest.raises(ForeignObject):
                open_head(one.data, other.key, DOMAIN, samples.reader(encrypted))


@EVERY_KIND
def test_objects_of_another_domain_are_foreign(kind: str) -> None:
    built = samples.BUILDERS[kind](False)
    with pytest.raises(ForeignObject, match=DOMAIN.hex()):
        check_object(built.data, built.key, bytes(16))
    with pytest.raises(ForeignObject):
        open_head(built.data, built.key, bytes(16), samples.reader(False))
    assert check_object(built.data, built.key, None).domain == DOMAIN


@pytest.mark.parametrize("key", ["domain/owner", "nonsense", "log/0000000003/000000000002", ""])
def test_objects_under_a_key_that_is_not_theirs(key: str) -> None:
    with pytest.raises(ForeignObject):
        check_object(samples.segment(False).data, key, DOMAIN)


def resealed(built: SealedObject, change: Callable[[bytearray, Head], None], encrypted: bool) -> bytes:
    """The object changed by somebody who mends every digest afterwards, but has no keys."""
    head = opened(built.data, built, encrypted)
    data = bytearray(built.data)
    change(data, head)
    preamble = head.preamble
    begin = 0
    for length in (preamble.preamble_length - 32, preamble.header_stored, preamble.index_stored):
        data[begin + length : begin + length + 32] = hashlib.sha256(data[begin : begin + length]).digest()
        begin += length + 32
    data[-32:] = hashlib.sha256(data[:-32]).digest()
    return bytes(data)


def offset_of(field: str) -> int:
    """Where a field of the preamble begins."""
    names = [one.name for one in PREAMBLE.fields]
    return sum(one.size_bytes for one in PREAMBLE.fields[: names.index(field)])


@pytest.mark.parametrize(
    "field", ["cut_time_ns", "last_write_ns", "journal_offset", "previous_digest", "cut"]
)
def test_a_forged_preamble_breaks_the_seals(field: str) -> None:
    built = samples.segment(encrypted=True)

    def forge(data: bytearray, _: Head) -> None:
        data[offset_of(field)] ^= 2

    forged = resealed(built, forge, encrypted=True)
    check_object(forged, built.key, DOMAIN)  # without keys nobody can tell
    with pytest.raises(DamagedObject, match="seal is broken"):
        opened(forged, built, encrypted=True)


def test_a_forged_index_breaks_its_seal() -> None:
    built = samples.segment(encrypted=True)

    def forge(data: bytearray, head: Head) -> None:
        data[head.preamble.head_length - 40] ^= 1

    with pytest.raises(DamagedObject, match="seal is broken"):
        opened(resealed(built, forge, encrypted=True), built, encrypted=True)


def test_a_frame_with_a_forged_checksum_breaks_its_seal() -> None:
    built = samples.segment(encrypted=True, codec=Codec.NONE)
    head = opened(built.data, built, encrypted=True)
    start, end = head.frame_range(0)
    stored = flip(built.data[start:end], 5, 3)
    row = list(layout.FRAME_ROW.struct.unpack(head.index.frame_table[: layout.FRAME_ROW.size_bytes]))
    row[3] = zlib.crc32(stored)
    table = layout.FRAME_ROW.struct.pack(*row)
    index = type(head.index)(
        **{name: getattr(head.index, name) for name in head.index.__slots__} | {"frame_table": table}
    )
    forged = Head(head.key, head.preamble, head.header, index)
    with pytest.raises(DamagedObject, match="seal is broken"):
        open_frame(forged, 0, stored, samples.reader(True))


def test_sections_of_another_object_do_not_fit() -> None:
    """The header and index of one sealed object in the place of another's of the same length."""
    built, other = samples.empty_segment(True, seq=2), samples.empty_segment(True, seq=4)
    assert built.head_length == other.head_length

    def swap(data: bytearray, head: Head) -> None:
        begin = head.preamble.preamble_length
        data[begin:] = other.data[begin:]

    with pytest.raises(DamagedObject, match="seal is broken"):
        opened(resealed(built, swap, encrypted=True), built, encrypted=True)


def test_a_plain_object_in_a_sealed_one_s_place_is_forged() -> None:
    plain = samples.segment(encrypted=False)
    with pytest.raises(DamagedObject, match="not sealed"):
        open_head(plain.data, plain.key, DOMAIN, samples.reader(True))
