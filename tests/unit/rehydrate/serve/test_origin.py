"""What a point held, in whole blocks: what is given is what the model holds, what is damaged is named."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdp_container.clock import SystemClock
from cdp_container.errors import StoreUnavailable
from cdp_container.format.place import Place
from cdp_container.store.memory import MemoryStore
from rehydrate.ondemand.reader import Content, Reader, Stretch
from rehydrate.serve.map_file import BLOCK_BYTES
from rehydrate.serve.origin import Origin, filled, whole_blocks
from rehydrate.serve.overlay import Part
from tests.containers import Site, write, zero
from tests.unit.rehydrate.trees import source_of

pytestmark = pytest.mark.slow

KIB, MIB = 1 << 10, 1 << 20
SIZE = 2 * MIB + 512


class Failing(MemoryStore):
    """Content of which some comes damaged, or nothing at all."""

    def __init__(self) -> None:
        super().__init__(SystemClock())
        self.damaged_at: dict[str, int] = {}
        self.is_away = False

    def get_range(self, key: str, start: int, length: int) -> bytes:
        if self.is_away:
            raise StoreUnavailable("get", "away")
        data = bytearray(super().get_range(key, start, length))
        at = self.damaged_at.get(key, -1) - start
        if 0 <= at < length:
            data[at] ^= 1
        return bytes(data)


def site_of(store: Failing) -> tuple[Site, bytes, Place]:
    """A disk that was written here and there, over and over: frames hold blocks from everywhere."""
    site = Site(store, seed=4)
    disk = site.add_volume("disk", SIZE)
    rng = random.Random(9)
    site.begin_epoch()
    site.cut([write(disk, at, rng.randbytes(64 * KIB)) for at in range(0, MIB, 64 * KIB)])
    for _ in range(5):
        changes = [
            write(disk, rng.randrange(SIZE - 9000), rng.randbytes(rng.randrange(1, 9000))) for _ in range(30)
        ]
        site.cut([*changes, zero(disk, rng.randrange(SIZE - 90 * KIB), 80 * KIB)])
    return site, disk, site.cut([write(disk, SIZE - 512, b"e" * 512)])


def bytes_of(part: Part) -> bytes:
    return bytes(part.length) if part.data is None else bytes(part.data)


def test_every_block_that_is_given_is_what_the_model_holds() -> None:
    store = Failing()
    site, disk, last = site_of(store)
    model = site.images[last][disk]
    rng = random.Random(2)
    with source_of(site, last) as source:
        reader = Reader(source, {last.epoch: last.seq}, lambda error: None)
        origin, others = Origin(reader, Content(disk, SIZE)), 0
        for _ in range(60):
            start = rng.randrange(SIZE // BLOCK_BYTES) * BLOCK_BYTES
            end = min(start + rng.randrange(1, 40) * BLOCK_BYTES, SIZE)
            fetched = origin.fetch(start, end)
            assert b"".join(map(bytes_of, fetched.wanted)) == model[start:end]
            assert fetched.wanted[0].offset == start
            for part in fetched.others:
                assert part.offset % BLOCK_BYTES == 0
                assert part.end % BLOCK_BYTES == 0 or part.end == SIZE
                assert part.end <= start or part.offset >= end
                assert bytes_of(part) == model[part.offset : part.end]
                others += part.length
            assert not fetched.damages
        assert others > 0
        reader.close()


def test_what_is_damaged_is_named_and_the_rest_is_right() -> None:
    store = Failing()
    site, disk, last = site_of(store)
    model = site.images[last][disk]
    with source_of(site, last) as source:
        largest = max(site.objects, key=lambda one: len(one.data))
        store.damaged_at[largest.key] = len(largest.data) // 2
        reader = Reader(source, {last.epoch: last.seq}, lambda error: None)
        fetched = Origin(reader, Content(disk, SIZE)).fetch(0, SIZE)
        assert fetched.damages
        assert all("CRC" in one.why or "frame" in one.why for one in fetched.damages)
        covered = sorted(
            [(one.offset, one.end) for one in fetched.damages]
            + [(one.offset, one.end) for one in fetched.wanted]
        )
        assert covered[0][0] == 0
        assert covered[-1][1] == SIZE
        assert all(one[1] == other[0] for one, other in pairwise(covered))
        for part in fetched.wanted:
            assert bytes_of(part) == model[part.offset : part.end]
        store.damaged_at.clear()
        assert not Origin(reader, Content(disk, SIZE)).fetch(0, SIZE).damages
        reader.close()


def test_a_store_that_is_away_is_no_damage() -> None:
    store = Failing()
    site, disk, last = site_of(store)
    with source_of(site, last) as source:
        reader = Reader(source, {last.epoch: last.seq}, lambda error: None)
        store.is_away = True
        with pytest.raises(StoreUnavailable):
            Origin(reader, Content(disk, SIZE)).fetch(0, SIZE)
        store.is_away = False
        assert b"".join(map(bytes_of, Origin(reader, Content(disk, SIZE)).fetch(0, SIZE).wanted)) == bytes(
            site.images[last][disk]
        )
        reader.close()


@given(st.lists(st.integers(0, 6 * BLOCK_BYTES), min_size=2, max_size=12, unique=True))
def test_stretches_fill_blocks(edges: list[int]) -> None:
    edges = sorted(edges)[: len(edges) // 2 * 2]
    model = bytearray(6 * BLOCK_BYTES)
    stretches = []
    for low, high in zip(edges[::2], edges[1::2], strict=True):
        model[low:high] = b"x" * (high - low)
        stretches.append(Stretch(low, memoryview(b"x" * (high - low))))
    parts = list(filled(stretches, 0, len(model)))
    assert b"".join(map(bytes_of, parts)) == model
    assert all(any(part.data) for part in parts if part.data is not None)
    for part in whole_blocks(stretches, len(model)):
        assert bytes_of(part) == b"x" * part.length
        assert part.offset % BLOCK_BYTES == part.length % BLOCK_BYTES == 0
