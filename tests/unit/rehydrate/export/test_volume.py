"""A volume as qemu-img sees it: its bytes, its holes, what is damaged, and a store that goes away."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import closing, contextmanager, nullcontext
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdp_container.clock import SystemClock
from cdp_container.errors import CdpError, DamagedObject, Incomplete, StoreUnavailable
from cdp_container.format.place import Place
from cdp_container.store.memory import MemoryStore
from nbd_export.backend import Extent, State
from rehydrate.export import content as contents
from rehydrate.export import images
from rehydrate.export.content import Bytes
from rehydrate.export.formats import shape_of
from rehydrate.export.images import make_image
from rehydrate.export.volume import BLOCK_BYTES, NAME, exported, extents_of
from rehydrate.ondemand.reader import Content, Reader
from tests.containers import Site, write, zero
from tests.nbd_client import NbdClient, NbdError
from tests.unit.rehydrate.trees import source_of

KIB, MIB = 1 << 10, 1 << 20
SIZE = 4 * MIB + 512
PADDED = 5 * MIB


class Failing(MemoryStore):
    """Content that comes damaged, or not at all for so many requests."""

    def __init__(self) -> None:
        super().__init__(SystemClock())
        self.is_damaged = False
        self.away = 0

    def get_range(self, key: str, start: int, length: int) -> bytes:
        if self.away:
            self.away -= 1
            raise StoreUnavailable("get", "away")
        data = super().get_range(key, start, length)
        return bytes(length) if self.is_damaged else data


@pytest.fixture(scope="module")
def protected() -> tuple[Failing, Site, bytes, Place]:
    """A disk with data, a hole that was never written, and one that was zeroed."""
    store = Failing()
    site = Site(store, seed=4)
    disk = site.add_volume("disk", SIZE)
    rng = random.Random(9)
    site.begin_epoch()
    site.cut([write(disk, at, rng.randbytes(64 * KIB)) for at in range(0, MIB, 64 * KIB)])
    last = site.cut([zero(disk, 256 * KIB, 128 * KIB), write(disk, SIZE - 700, rng.randbytes(700))])
    return store, site, disk, last


@contextmanager
def opened(
    protected: tuple[Failing, Site, bytes, Place],
) -> Iterator[tuple[Bytes, bytes, list[str], list[int]]]:
    """Its bytes with zeros up to PADDED, what they should be, what was told and what was reported."""
    _, site, disk, last = protected
    told: list[str] = []
    reported: list[int] = []
    with (
        source_of(site, last) as source,
        closing(Reader(source, {last.epoch: last.seq}, lambda error: None)) as reader,
    ):
        found = Bytes(reader, Content(disk, SIZE), PADDED, SystemClock(), told.append, reported.append)
        yield found, site.images[last][disk] + bytes(PADDED - SIZE), told, reported


def test_reads_give_the_point_with_zeros_behind_it_and_holes_are_told(
    protected: tuple[Failing, Site, bytes, Place],
) -> None:
    with opened(protected) as (found, model, _, reported):
        assert b"".join(found.read(at, MIB) for at in range(0, PADDED, MIB)) == model
        data = list(found.stretches(0, PADDED))
        assert data == [(0, 256 * KIB), (384 * KIB, MIB), (SIZE - 700, SIZE)]
        assert sum(reported) == sum(high - low for low, high in data)
        assert list(found.stretches(300 * KIB, 400 * KIB)) == [(384 * KIB, 400 * KIB)]


def test_an_nbd_client_reads_it_and_may_not_write(
    protected: tuple[Failing, Site, bytes, Place], tmp_path: Path
) -> None:
    with opened(protected) as (found, model, _, _), exported(found, tmp_path) as address:
        assert address == f"nbd+unix:///{NAME}?socket={tmp_path}/nbd.sock"
        with NbdClient(tmp_path / "nbd.sock", NAME) as client:
            assert client.read_only
            assert client.read(MIB - 4096, 8192) == model[MIB - 4096 : MIB + 4096]
            with pytest.raises(NbdError, match="NBD error 1"):
                client.write(0, b"x" * 512)
    assert list(tmp_path.iterdir()) == []


def test_damage_is_an_error_of_the_read_and_is_remembered(
    protected: tuple[Failing, Site, bytes, Place], tmp_path: Path
) -> None:
    with opened(protected) as (found, _, _, _), exported(found, tmp_path):
        protected[0].is_damaged = True
        try:
            with NbdClient(tmp_path / "nbd.sock", NAME) as client:
                assert client.read(2 * MIB, 4096) == bytes(4096)  # a hole needs nothing
                with pytest.raises(NbdError, match="NBD error 5"):
                    client.read(0, 4096)
            assert isinstance(found.failure, DamagedObject)
        finally:
            protected[0].is_damaged = False


def test_a_store_that_is_away_is_waited_for_and_told_of_once(
    protected: tuple[Failing, Site, bytes, Place], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(contents, "PAUSE_SECONDS", 0.0)
    with opened(protected) as (found, model, told, _):
        protected[0].away = 3
        assert found.read(0, 4096) == model[:4096]
        assert (len(told), found.failure) == (1, None)
        assert "waited for" in told[0]


def test_it_is_not_waited_for_ever_nor_after_the_end(
    protected: tuple[Failing, Site, bytes, Place], monkeypatch: pytest.MonkeyPatch
) -> None:
    with opened(protected) as (found, _, _, _):
        errors: list[CdpError] = []
        for is_ended in (False, True):
            protected[0].away = 1 << 30
            if is_ended:
                found.end()
            monkeypatch.setattr(contents, "AWAY_SECONDS_MAX", 900.0 if is_ended else -1.0)
            with pytest.raises((StoreUnavailable, Incomplete)) as caught:
                found.read(0, 4096)
            errors.append(caught.value)
        protected[0].away = 0
        assert [type(error) for error in errors] == [StoreUnavailable, Incomplete]
        assert found.failure is errors[0]


@given(st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), max_size=8), st.integers(1, 20))
def test_extents_cover_a_range_in_turns(pieces: list[tuple[int, int]], count_max: int) -> None:
    """In units of 1000 bytes, so that blocks are data in part, and meet."""
    at, stretches = 100_000, []
    for gap, length in pieces:
        stretches.append((at + gap * 1000, at + (gap + length) * 1000))
        at += (gap + length) * 1000
    start, end = 100_000 // BLOCK_BYTES * BLOCK_BYTES, -(-(at + 5) // BLOCK_BYTES) * BLOCK_BYTES
    found = extents_of(iter(stretches), start, end, count_max)
    assert 1 <= len(found) <= count_max
    assert all(one.state is not other.state for one, other in pairwise(found))
    block, seen = start // BLOCK_BYTES, set()
    for extent in found:
        assert extent.length > 0
        assert extent.length % BLOCK_BYTES == 0
        if extent.state is State.DATA:
            seen |= set(range(block, block + extent.length // BLOCK_BYTES))
        block += extent.length // BLOCK_BYTES
    assert block * BLOCK_BYTES == end or len(found) == count_max
    data = {byte // BLOCK_BYTES for low, high in stretches for byte in range(low, high, 1000)}
    data |= {(high - 1) // BLOCK_BYTES for _, high in stretches}
    assert seen == {one for one in data if one < block}


def test_data_alone_is_one_extent() -> None:
    assert extents_of(iter([(0, 9)]), 0, 9, 5) == [Extent(9, State.DATA)]
    assert extents_of(iter([]), 0, 9, 5) == [Extent(9, State.HOLE)]
    assert extents_of(iter([(5000, 9000)]), 0, 9000, 5) == [
        Extent(4096, State.HOLE),
        Extent(4904, State.DATA),
    ]


def test_an_image_gets_no_name_where_a_read_failed_whatever_the_program_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = cast(Bytes, SimpleNamespace(failure=DamagedObject("open a frame", "it is torn")))
    monkeypatch.setattr(images, "exported", lambda source, directory: nullcontext("nbd://"))
    monkeypatch.setattr(images, "convert", lambda address, target, *rest: target.write_bytes(b"zeros"))
    with pytest.raises(DamagedObject, match="torn"):
        make_image(tmp_path / "db.raw", source, shape_of("raw", None), 0, False, {}, lambda: None)
    assert list(tmp_path.iterdir()) == []
