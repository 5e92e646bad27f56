"""When a pass of collection must not tell ages: every clock that lies is noticed."""

from __future__ import annotations

import pytest

from cdp_container.domain.clock_doubt import CLOCK_SKEW_SECONDS_MAX, ClockLook, clock_doubt

S = 1_000_000_000
NOW = 1_800_000_000 * S


def look(store: float = 0, wall: float = 0, boot: float = 0) -> ClockLook:
    """Seconds after the pass began, by each clock."""
    return ClockLook(NOW + int(store * S), NOW + int(wall * S), int(boot * S) + 7 * S)


@pytest.mark.parametrize(
    ("looks", "last_pass_ns", "why"),
    [
        ([ClockLook(0, NOW, 0)], 0, "does not say when"),
        ([look(wall=61)], 0, "differ by 61 s"),
        ([look(store=61)], 0, "differ by 61 s"),
        ([look()], NOW + S, "went back by 1 s since the last pass"),
        ([look(), look(store=3600, wall=3600, boot=1)], 0, "the store's clock jumped by 3599 s"),
        ([look(), look(store=59, wall=70, boot=1)], 0, "this machine's clock jumped by 69 s"),
        ([look(), look(store=-61, wall=-61, boot=1)], 0, "the store's clock jumped by 62 s"),
        ([look(), look(boot=3600)], 0, "the store's clock jumped by 3600 s"),
        ([look(), look(40, 40, 0), look(80, 80, 0)], 0, "the store's clock jumped by 80 s"),
    ],
    ids=[
        "no-time", "fast", "slow", "back", "both-forward", "wall-alone", "both-back", "stuck", "step-by-step",
    ],
)  # fmt: skip
def test_a_clock_that_lies_is_noticed(looks: list[ClockLook], last_pass_ns: int, why: str) -> None:
    doubt = clock_doubt(looks, last_pass_ns)
    assert doubt is not None
    assert why in doubt


def test_clocks_that_agree_are_trusted() -> None:
    most = CLOCK_SKEW_SECONDS_MAX
    assert clock_doubt([look(wall=most), look(10, 10 + most, 10), look(3600, 3600, 3600)], NOW) is None
    assert clock_doubt([look(store=-most)], 0) is None
