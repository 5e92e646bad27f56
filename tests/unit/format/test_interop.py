"""Our bytes under the independent reader, and the independent writer's bytes under ours.

Both were written from docs/container-format.md by somebody else: where they disagree with us, the page is
unclear.
"""

from __future__ import annotations

import pytest

from cdp_container.errors import CdpError
from cdp_container.format import domain, keyblock
from cdp_container.format.frames import FrameReader
from cdp_container.format.head import Head, check_object, open_head
from cdp_container.format.keys import parse_key
from cdp_container.format.layout import Codec, ObjectKind
from cdp_container.format.preamble import parse_preamble
from cdp_container.format.seal import NO_KEYS, ReaderKeys
from cdp_container.format.sums import block_sums
from tests import tiny_writer
from tests.reader import Keys, Object
from tests.unit.format import samples
from tests.unit.format.samples import DOMAIN, PASSPHRASE, RECIPIENT_PRIVATE

DISK = b"disk-disk-disk-1"


def contents(data: bytes, head: Head, keys: ReaderKeys) -> list[bytes]:
    """The bytes of every data extent, compared with its sums."""
    frames = FrameReader(head, keys)
    found = []
    for extent in head.index.iter_extents():
        if extent.frame is not None:
            start, end = head.frame_range(extent.frame)
            raw = frames.open(extent.frame, data[start:end])
            found.append(raw[extent.position : extent.position + extent.length])
            assert extent.sums == block_sums(extent.offset, found[-1])
    return found


@pytest.mark.parametrize("encrypted", [False, True], ids=["plain", "sealed"])
@pytest.mark.parametrize("codec", list(Codec))
@pytest.mark.parametrize("kind", samples.BUILDERS)
@pytest.mark.parametrize("recipient", [False, True])
def test_the_independent_reader_reads_ours(kind: str, encrypted: bool, codec: Codec, recipient: bool) -> None:
    built = samples.BUILDERS[kind](encrypted, codec)
    passphrase = PASSPHRASE if encrypted and not recipient else None
    theirs = Object(
        built.key,
        built.data,
        Keys(DOMAIN, passphrase, RECIPIENT_PRIVATE if encrypted and recipient else None),
    )
    ours = open_head(built.data, built.key, DOMAIN, samples.reader(encrypted))
    assert theirs.digest == built.digest
    assert theirs.header == ours.header
    assert sum(len(layer.records) for layer in theirs.layers) == sum(
        record.name not in ("vm", "epoch") for record in ours.index.iter_records()
    )
    read = []
    for rows in theirs.extents.values():
        for offset, length, frame, position, extent_kind, first_sum in rows:
            if extent_kind == 1:
                read.append(theirs.content(offset, length, frame, position, first_sum))
    assert read == contents(built.data, ours, samples.reader(encrypted))


@pytest.mark.parametrize("passphrase", [None, "correct horse"])
@pytest.mark.parametrize("seed", range(3))
def test_we_read_what_the_independent_writer_writes(seed: int, passphrase: str | None) -> None:
    writer = tiny_writer.TinyWriter(seed=seed, passphrase=passphrase)
    writer.begin(1)
    written = []
    for cut in range(1, 7):
        data = writer.rng.randbytes(24 * tiny_writer.GRAIN)
        written.append(data)
        value = {"kind": "volume", "name": "disk", "size_bytes": 1 << 20, "block_bytes": 512}
        extents = [
            tiny_writer.Extent(DISK, cut * 512, data),
            tiny_writer.Extent(DISK, 1 << 19, kind=tiny_writer.ZERO, length=4096),
        ]
        writer.write(cut, extents, [("space+", DISK, value)])
    writer.collect(1, 1, 4, [2, 4])
    for key, stored in writer.store.items():
        parsed = parse_key(key)
        assert parsed is not None
        if key.startswith("domain/"):
            continue
        preamble = check_object(stored, key, writer.domain)
        keys = NO_KEYS
        if passphrase is not None:
            block = keyblock.parse_key_block(preamble.key_block, key)
            private = keyblock.open_with_passphrase(block, passphrase, writer.domain, key)
            keys = ReaderKeys.of_private_key(private, writer.domain)
        head = open_head(stored, key, writer.domain, keys)
        assert parse_preamble(stored, key) == head.preamble
        found = contents(stored, head, keys)
        if key.startswith("log/"):
            assert found == [written[preamble.cut - 1]]
        elif preamble.kind is ObjectKind.PACK:
            assert found
            assert all(any(part in whole for whole in written) for part in found)


def test_members_that_the_page_demands_are_demanded() -> None:
    """The tiny writer leaves out members that it does not need; we are strict about what steers us."""
    writer = tiny_writer.TinyWriter()
    writer.begin(1)
    with pytest.raises(CdpError):
        domain.parse_owner(writer.store["domain/owner"], "domain/owner", writer.domain)
