"""How long writes took, from what was seen of them."""

from __future__ import annotations

import pytest

from bench.lag import delays
from cdp_container.journal.position import Position


def at(offset: int, generation: int = 1) -> Position:
    return Position(generation, offset)


def test_a_write_is_reached_by_the_first_position_that_is_not_before_it() -> None:
    written = [(0.0, at(10)), (1.0, at(20)), (2.0, at(30))]
    assert delays(written, [(0.5, at(9)), (3.0, at(20)), (4.0, at(40))]) == [3.0, 2.0, 2.0]


def test_what_was_seen_before_the_reply_took_no_time() -> None:
    assert delays([(5.0, at(10))], [(4.9, at(10))]) == [0.0]


@pytest.mark.parametrize("reached", [[], [(1.0, at(9))], [(1.0, at(99, generation=2))]])
def test_a_write_that_was_never_reached_is_no_figure(reached: list[tuple[float, Position]]) -> None:
    with pytest.raises(AssertionError, match="1 writes were never seen"):
        delays([(0.0, at(10))], reached)
