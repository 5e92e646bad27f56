"""The oracle must accept what is explainable and catch what is not: it judges everything else."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.oracle.history import SECTOR_BYTES, History, OracleError, Write, sector_content, verify_image

ZEROS = bytes(SECTOR_BYTES)


def act(
    history: History, first: int, at: int, done: int | None, *, count: int = 1, voids: bool = False
) -> Write:
    write = history.submit(first, count, voids=voids, now_ns=at)
    write.acknowledged_ns = done
    return write


def image(history: History, *numbers: int) -> list[bytes]:
    return [
        sector_content(history.space, sector, number) if number else ZEROS
        for sector, number in enumerate(numbers)
    ]


def check(history: History, sectors: list[bytes], must_show_before: int = 0) -> None:
    verify_image(history, sectors.__getitem__, must_show_before)


def test_newest_everywhere_is_consistent() -> None:
    history = History(1, 2)
    act(history, 0, 10, 11)
    act(history, 1, 20, 21)
    check(history, image(history, 1, 2), must_show_before=30)


def test_any_prefix_is_consistent_but_may_miss_what_was_protected() -> None:
    history = History(1, 2)
    act(history, 0, 10, 11)
    act(history, 1, 20, 21)
    check(history, image(history, 1, 0), must_show_before=21)
    with pytest.raises(OracleError, match="protected"):
        check(history, image(history, 1, 0), must_show_before=22)


def test_a_later_write_without_an_earlier_acknowledged_one_is_caught() -> None:
    history = History(1, 2)
    act(history, 0, 10, 11)
    act(history, 1, 20, 21)
    with pytest.raises(OracleError, match="hides"):
        check(history, image(history, 0, 2))


def test_unacknowledged_writes_may_show_or_not() -> None:
    history = History(1, 2)
    act(history, 0, 10, None)
    act(history, 1, 20, 21)
    check(history, image(history, 0, 2))
    check(history, image(history, 1, 2))


def test_overlapping_writes_in_flight_may_land_in_either_order() -> None:
    history = History(1, 2)
    act(history, 0, 10, 15)
    act(history, 0, 11, 14)
    act(history, 1, 20, 21)
    check(history, image(history, 1, 3))
    check(history, image(history, 2, 3))


def test_an_overwritten_write_that_shows_again_is_caught() -> None:
    history = History(1, 2)
    act(history, 0, 10, 11)
    act(history, 0, 12, 13)
    act(history, 1, 20, 21)
    with pytest.raises(OracleError, match="hides"):
        check(history, image(history, 1, 3))


def test_a_write_that_its_dead_server_never_answered_cannot_overtake_a_later_one() -> None:
    history = History(1, 2)
    act(history, 0, 10, None).settled_ns = 12
    act(history, 0, 13, 14)
    act(history, 1, 20, 21)
    with pytest.raises(OracleError, match="hides"):
        check(history, image(history, 1, 3))


def test_a_missing_discard_is_caught() -> None:
    history = History(1, 2)
    act(history, 0, 10, 11)
    act(history, 0, 12, 13, voids=True)
    act(history, 1, 20, 21)
    with pytest.raises(OracleError, match="hides"):
        check(history, image(history, 1, 3))
    check(history, image(history, 0, 3))


def test_zeros_that_neither_discard_nor_emptiness_explains_are_caught() -> None:
    history = History(1, 2)
    act(history, 0, 10, 11, voids=True)
    act(history, 0, 12, 13)
    act(history, 1, 20, 21)
    with pytest.raises(OracleError, match="zeros that no instant explains"):
        check(history, image(history, 0, 3))


@pytest.mark.parametrize("position", [0, 8, 100, SECTOR_BYTES - 1])
def test_a_flipped_byte_is_caught(position: int) -> None:
    history = History(1, 1)
    act(history, 0, 10, 11)
    content = bytearray(sector_content(1, 0, 1))
    content[position] ^= 1
    with pytest.raises(OracleError):
        check(history, [bytes(content)])


def test_content_of_another_sector_space_or_number_is_caught() -> None:
    history = History(1, 1)
    act(history, 0, 10, 11)
    for wrong in (sector_content(2, 0, 1), sector_content(1, 5, 1), sector_content(1, 0, 9)):
        with pytest.raises(OracleError):
            check(history, [wrong])


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(1, 4), st.booleans()), max_size=30), st.data())
def test_every_prefix_of_a_serial_history_is_consistent(
    steps: list[tuple[int, int, bool]], data: st.DataObject
) -> None:
    history = History(7, 8)
    sectors = [ZEROS] * 8
    states = [list(sectors)]
    for number, (first, count, voids) in enumerate(steps, start=1):
        act(history, first, number * 10, number * 10 + 5, count=count, voids=voids)
        for sector in range(first, first + count):
            sectors[sector] = ZEROS if voids else sector_content(7, sector, number)
        states.append(list(sectors))
    upto = data.draw(st.integers(0, len(steps)))
    check(history, states[upto], must_show_before=upto * 10 + 6)
