"""Reading in turn: every object comes up, whatever comes and goes, and whatever the budget."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdp_container.domain.budget import Budget, budget_of
from cdp_container.domain.sampling import (
    SEED_BYTES,
    Sampling,
    Turn,
    build_turn,
    parse_turn,
    sample_of,
)
from cdp_container.errors import DamagedObject
from cdp_container.format.keys import OWNER_KEY, segment_key
from cdp_container.store.api import Found

pytestmark = pytest.mark.slow

SEED = bytes(range(SEED_BYTES))


def found(count: int, size_bytes: int = 100, epoch: int = 1) -> list[Found]:
    return [Found(segment_key(epoch, seq), size_bytes, "", 0) for seq in range(1, count + 1)]


def run(
    listed: list[Found], turn: Turn, budget: Budget, ticks: float = 0.0
) -> tuple[list[str], Turn, Sampling]:
    """The keys that one run reads; each takes `ticks` seconds."""
    sampling = Sampling(sample_of(listed, {1: 1000}, turn), turn, budget)
    read: list[Found] = []
    for one in sampling.read(lambda: len(read) * ticks):
        read.append(one)  # noqa: PERF402 (its length is the clock)
    return [one.key for one in read], sampling.next_turn, sampling


@pytest.mark.parametrize(
    "text", ["", "1", "0GiB", "-1m", "10 minutes", "1.5GiB", "1GB", "GiB", "9" * 30 + "B"]
)
def test_what_is_no_budget(text: str) -> None:
    with pytest.raises(ValueError, match="is no budget"):
        budget_of(text)


def test_budgets() -> None:
    assert budget_of("2GiB") == Budget(size_bytes=2 << 30)
    assert budget_of("10m") == Budget(seconds=600)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{}",
        build_turn(Turn(SEED)).replace(b'"place":0', b'"place":-1'),
        build_turn(Turn(SEED, round=0)),
    ],
)
def test_a_state_that_is_none(data: bytes) -> None:
    with pytest.raises(DamagedObject):
        parse_turn(data, "state")


@given(st.integers(0, 1 << 56), st.integers(1, 1 << 40))
def test_a_state_reads_as_it_was_written(place: int, number: int) -> None:
    turn = Turn(SEED, place, number)
    assert parse_turn(build_turn(turn), "state") == turn


@given(st.integers(1, 60), st.integers(1, 3_000), st.binary(min_size=SEED_BYTES, max_size=SEED_BYTES))
def test_a_round_reads_every_object(count: int, budget_bytes: int, seed: bytes) -> None:
    listed, turn, seen = found(count), Turn(seed), set[str]()
    for _ in range(2 * count + 2):
        read, turn, _ = run(listed, turn, Budget(size_bytes=budget_bytes))
        assert len(read) == len(set(read))
        assert read[0] == segment_key(1, count)
        seen |= set(read)
    assert len(seen) == count


@given(st.lists(st.booleans(), min_size=30, max_size=60))
def test_what_stays_comes_up_while_others_come_and_go(changes: list[bool]) -> None:
    listed, turn, seen = found(20), Turn(SEED), set[str]()
    stays = {one.key for one in listed}
    for number, grows in enumerate(changes):
        if grows:
            listed = [*listed, Found(segment_key(1, 100 + number), 100, "", 0)]
        elif len(listed) > 20:
            listed = listed[:-1]
        read, turn, _ = run(listed, turn, Budget(size_bytes=400))
        seen |= set(read)
    assert stays <= seen


def test_the_newest_take_a_quarter_at_most() -> None:
    read, _, _ = run(found(100), Turn(SEED), Budget(size_bytes=2_000))
    assert read[:5] == [segment_key(1, seq) for seq in range(100, 95, -1)]
    assert len(read) == 20


def test_time_ends_a_run_and_something_of_each_is_read() -> None:
    read, turn, _ = run(found(100), Turn(SEED), Budget(seconds=20), ticks=1.0)
    assert 19 <= len(read) <= 22
    read, turn, _ = run(found(100), turn, Budget(seconds=1), ticks=1000.0)
    assert len(read) == 2


def test_what_a_domain_stands_on_is_always_read() -> None:
    owner = Found(OWNER_KEY, 10_000, "", 0)
    read, _, sampling = run([owner, *found(10)], Turn(SEED), Budget(size_bytes=1))
    assert read[0] == OWNER_KEY
    assert sampling.most == (3, 10_200)


def test_coverage_tells_of_this_run_and_of_its_round() -> None:
    listed, turn = found(10), Turn(SEED)
    for rounds in range(1, 4):
        _, turn, sampling = run(listed, turn, Budget(size_bytes=400))
        coverage = sampling.coverage(4, 400)
        assert (coverage.objects, coverage.stored_bytes, coverage.round) == (10, 1_000, 1)
        assert coverage.round_objects >= min(10, 3 * rounds)
    _, turn, sampling = run(listed, Turn(SEED), Budget())
    assert sampling.coverage(10, 1_000).round_objects == 10
    _, turn, sampling = run(listed, turn, Budget())
    assert sampling.coverage(10, 1_000).round == 2
