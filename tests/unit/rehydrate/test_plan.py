"""Which cut, which frames, how many bytes: planning alone, without a store."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdp_container.domain.image import Cut, Volume
from cdp_container.errors import NoSuchPoint, NoSuchVolume
from cdp_container.extents.tables import PIECES, Table
from cdp_container.format.head import Head, open_head
from cdp_container.format.layout import ExtentKind
from cdp_container.format.place import Place
from cdp_container.format.seal import NO_KEYS, WriterKeys
from cdp_container.format.segment import NewExtent, SegmentFacts, build_segment
from rehydrate.plan import (
    FETCH_BYTES_MAX,
    GAP_BYTES_MAX,
    GAP_SHARE,
    Choice,
    Totals,
    choose_cut,
    pick_volumes,
    plan_window,
)

DOMAIN = bytes(range(16))
SPACE = bytes(16)
FRAME = 256 << 10


def cut(number: int, *markers: str, epoch: int = 1, not_whole: tuple[bytes, ...] = ()) -> Cut:
    return Cut(Place(epoch, number, number), number * 10, not_whole, markers)


CUTS = [cut(1, "one"), cut(2), cut(3, "one", not_whole=(SPACE,)), cut(4)]


def chosen(choice: Choice) -> int:
    return choose_cut(CUTS, choice, lambda cut: cut.whole).place.cut


def test_the_newest_fitting_cut_is_the_default() -> None:
    assert chosen(Choice()) == 4
    assert choose_cut(CUTS[:3], Choice(), lambda cut: cut.whole).place.cut == 2


def test_a_time_means_the_newest_at_or_before_it() -> None:
    assert chosen(Choice(time_ns=40)) == 4
    assert chosen(Choice(time_ns=39)) == 2  # the third is not whole
    with pytest.raises(NoSuchPoint, match="no cut is as old"):
        chosen(Choice(time_ns=9))


def test_a_marker_means_its_newest_fitting_cut() -> None:
    assert chosen(Choice(marker="one")) == 1
    with pytest.raises(NoSuchPoint, match="'two'"):
        chosen(Choice(marker="two"))


def test_a_named_point_is_taken_as_it_is() -> None:
    assert chosen(Choice(at=(1, 3))) == 3
    with pytest.raises(NoSuchPoint, match=r"1\.5"):
        chosen(Choice(at=(1, 5)))


def test_an_empty_container_says_so() -> None:
    with pytest.raises(NoSuchPoint, match="no complete cut yet"):
        choose_cut([], Choice(), lambda _: True)
    with pytest.raises(NoSuchPoint, match="whole at none"):
        choose_cut(CUTS, Choice(), lambda _: False)


def test_volumes_are_picked_by_name_and_must_be_whole() -> None:
    volumes = [
        Volume(bytes([n]) * 16, name, 10, 512, whole)
        for n, (name, whole) in enumerate([("a", True), ("b", False)])
    ]
    assert pick_volumes(volumes, ["a", "a"], CUTS[0]) == volumes[:1]
    with pytest.raises(NoSuchVolume, match="there are: a, b"):
        pick_volumes(volumes, ["c"], CUTS[0])
    assert pick_volumes(volumes, ["00" * 16], CUTS[0]) == volumes[:1]
    twins = [*volumes, Volume(b"twin" * 4, "a", 10, 512, True)]
    with pytest.raises(NoSuchVolume, match=(b"twin" * 4).hex()):
        pick_volumes(twins, ["a"], CUTS[0])
    for names in ([], ["b"]):
        with pytest.raises(NoSuchPoint, match="restore b"):
            pick_volumes(volumes, names, CUTS[0])


def test_an_estimate_takes_the_slower_of_bytes_and_requests() -> None:
    totals = Totals(gets=100, fetch_bytes=1000)
    assert totals.seconds(bytes_per_second=10, gets_per_second=1000) == 100.0
    assert totals.seconds(bytes_per_second=10**6, gets_per_second=10) == 10.0


@pytest.fixture(scope="module")
def heads() -> list[Head]:
    """Two objects of 24 and 6 frames that do not compress."""
    found = []
    rng = np.random.default_rng(1)
    for seq, frames in ((1, 24), (2, 6)):
        extents = [
            NewExtent(SPACE, number * (64 << 10), 64 << 10, ExtentKind.DATA, rng.bytes(64 << 10))
            for number in range(frames * 4)
        ]
        built = build_segment(
            SegmentFacts(1, seq, 1, True), extents, (), WriterKeys(DOMAIN), bytes([seq]) * 16
        )
        found.append(open_head(built.head, built.key, DOMAIN, NO_KEYS))
    return found


def pieces_of(wanted: list[tuple[int, int]]) -> Table:
    """A piece of 100 bytes for each (object, frame), in the order of the volume."""
    pieces = np.zeros(len(wanted), dtype=PIECES)
    for number, (target, frame) in enumerate(wanted):
        pieces[number] = (number * 1000, 100, target, frame, 5, ExtentKind.DATA)
    return pieces


def test_neighbouring_frames_are_one_request_and_objects_are_apart(heads: list[Head]) -> None:
    window = plan_window(pieces_of([(0, 3), (1, 0), (0, 1), (0, 2), (0, 2)]), 0, 10_000, heads)
    fetches = window.fetches
    assert [(int(f["object"]), int(f["first_frame"]), int(f["beyond_frame"])) for f in fetches] == [
        (0, 1, 4),
        (1, 0, 1),
    ]
    assert (fetches["first_piece"].tolist(), fetches["beyond_piece"].tolist()) == ([0, 4], [4, 5])
    assert window.totals == Totals(2, 4 * FRAME, 500, 10_000 - 500)


def test_a_wide_gap_is_not_fetched(heads: list[Head]) -> None:
    assert FRAME > GAP_BYTES_MAX
    window = plan_window(pieces_of([(0, 0), (0, 2)]), 0, 10_000, heads)
    assert window.totals.gets == 2
    assert window.totals.fetch_bytes == 2 * FRAME


@pytest.fixture(scope="module")
def small_frames() -> Head:
    """An object of 24 frames that compress to some 8 KiB each: every gap is a narrow one."""
    rng = np.random.default_rng(2)
    extents = [
        NewExtent(
            SPACE, number * FRAME, FRAME, ExtentKind.DATA, rng.bytes(8 << 10) + bytes(FRAME - (8 << 10))
        )
        for number in range(24)
    ]
    built = build_segment(SegmentFacts(1, 1, 1, True), extents, (), WriterKeys(DOMAIN), bytes(16))
    return open_head(built.head, built.key, DOMAIN, NO_KEYS)


@given(wanted=st.sets(st.integers(0, 23), min_size=1))
def test_narrow_gaps_are_fetched_along_while_they_cost_little(small_frames: Head, wanted: set[int]) -> None:
    window = plan_window(pieces_of([(0, frame) for frame in sorted(wanted)]), 0, 100_000, [small_frames])
    needed = sum(end - start for start, end in map(small_frames.frame_range, wanted))
    assert needed <= window.totals.fetch_bytes <= needed * (1 + 1 / GAP_SHARE)


def test_one_narrow_gap_of_many_frames_is_no_reason_for_another_request(small_frames: Head) -> None:
    wanted = [(0, frame) for frame in range(24) if frame != 11]
    assert plan_window(pieces_of(wanted), 0, 100_000, [small_frames]).totals.gets == 1


def test_a_long_run_is_several_requests(heads: list[Head]) -> None:
    window = plan_window(pieces_of([(0, frame) for frame in range(24)]), 0, 100_000, heads)
    assert window.totals.fetch_bytes == 24 * FRAME
    assert window.totals.gets == 2
    assert int(window.fetches["length"].max()) <= FETCH_BYTES_MAX + FRAME


def test_nothing_to_fetch_is_all_zeros(heads: list[Head]) -> None:
    window = plan_window(pieces_of([]), 5, 10, heads)
    assert window.totals == Totals(0, 0, 0, 5)


@given(st.lists(st.tuples(st.integers(0, 1), st.integers(0, 5)), min_size=1, max_size=30))
def test_every_piece_is_in_one_request_that_holds_its_frame(
    heads: list[Head], wanted: list[tuple[int, int]]
) -> None:
    window = plan_window(pieces_of(wanted), 0, 100_000, heads)
    assert sorted(window.pieces["offset"].tolist()) == [n * 1000 for n in range(len(wanted))]
    bounds = [0, *window.fetches["beyond_piece"].tolist()]
    assert bounds[-1] == len(wanted)
    for fetch, (first, beyond) in zip(window.fetches, itertools.pairwise(bounds), strict=True):
        assert int(fetch["first_piece"]) == first
        for piece in window.pieces[first:beyond]:
            assert piece["object"] == fetch["object"]
            start, end = heads[int(piece["object"])].frame_range(int(piece["frame"]))
            assert int(fetch["start"]) <= start
            assert end <= int(fetch["start"]) + int(fetch["length"])
