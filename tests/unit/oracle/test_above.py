"""What a takeover left is as binding as a write: it may not vanish, nor come back once it was overwritten."""

from __future__ import annotations

import pytest

from tests.oracle.above import history_above, sectors_above
from tests.oracle.history import SECTOR_BYTES, History, OracleError, sector_content, verify_image

ZEROS = bytes(SECTOR_BYTES)
OLD = sector_content(1, 0, 7)
BASE = OLD + ZEROS + sector_content(1, 2, 9)


def begun(*first: int) -> History:
    """After the image a write to each of these sectors, acknowledged at its time: 10, 20, ..."""
    known = history_above(2, BASE)
    for number, sector in enumerate(first, 1):
        known.submit(sector, 1, voids=False, now_ns=10 * number).acknowledged_ns = 10 * number + 1
    return known


def check(known: History, image: bytes, due_ns: int = 1) -> None:
    verify_image(known, sectors_above(BASE, image, known), due_ns)


def of(known: History, number: int) -> bytes:
    """What the write with this number after the image carried."""
    return known.data_of(known.writes[len(BASE) // SECTOR_BYTES + number - 1])


def test_the_image_itself_and_what_was_written_on_it() -> None:
    known = begun(0, 1)
    check(known, BASE)
    check(known, of(known, 1) + BASE[SECTOR_BYTES:])
    check(known, of(known, 1) + of(known, 2) + BASE[2 * SECTOR_BYTES :], due_ns=30)


@pytest.mark.parametrize("sector", [0, 2])
def test_what_was_there_may_not_vanish(sector: int) -> None:
    image = bytearray(BASE)
    image[sector * SECTOR_BYTES : (sector + 1) * SECTOR_BYTES] = ZEROS
    with pytest.raises(OracleError):
        check(begun(1), bytes(image))


def test_a_write_of_the_run_that_was_overtaken_shows_nowhere() -> None:
    zombie = sector_content(1, 1, 12)
    with pytest.raises(OracleError, match="sector 1 of space 2 holds sector 1 of space 1"):
        check(begun(0), OLD + zombie + BASE[2 * SECTOR_BYTES :])


def test_what_was_overwritten_and_protected_may_not_come_back() -> None:
    with pytest.raises(OracleError, match="before what was protected"):
        check(begun(0), BASE, due_ns=30)


def test_a_later_write_without_an_earlier_one_is_of_no_instant() -> None:
    known = begun(0, 1)
    with pytest.raises(OracleError, match="but hides one"):
        check(known, OLD + of(known, 2) + BASE[2 * SECTOR_BYTES :])
