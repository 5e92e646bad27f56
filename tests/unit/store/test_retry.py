"""Patience: what is repeated, how long, and what never is."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from cdp_container.errors import (
    AccessDenied,
    CdpError,
    Contention,
    NotFound,
    PreconditionFailed,
    StoreFull,
    StoreThrottled,
    StoreUnavailable,
)
from cdp_container.store.api import Blob, Found, Store
from cdp_container.store.memory import MemoryStore
from cdp_container.store.retry import Patience, is_temporary, with_retries
from cdp_container.store.s3_settings import SpellsTags, TagSpelling


class RecordingClock:
    """A clock that a sleep moves on, and that remembers each."""

    def __init__(self) -> None:
        self.now_ns = 10**18
        self.slept: list[float] = []

    def wall_ns(self) -> int:
        return self.now_ns

    def boottime_ns(self) -> int:
        return self.now_ns

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now_ns += int(seconds * 1e9)


class Failing(MemoryStore):
    """Raises what `failures` holds, one a request, and counts the requests."""

    def __init__(self, clock: RecordingClock) -> None:
        super().__init__(clock)
        self.failures: list[CdpError] = []
        self.requests = 0
        self.spelling: TagSpelling | None = None

    def spell_tags(self, spelling: TagSpelling) -> None:
        self.spelling = spelling

    def _ask(self) -> None:
        self.requests += 1
        if self.failures:
            raise self.failures.pop(0)

    def get(self, key: str) -> Blob:
        self._ask()
        return super().get(key)

    def put_new(self, key: str, data: bytes) -> str:
        self._ask()
        return super().put_new(key, data)

    def put_if(self, key: str, data: bytes, tag: str) -> str:
        self._ask()
        return super().put_if(key, data, tag)

    def delete(self, key: str) -> None:
        self._ask()
        super().delete(key)

    def list(self, prefix: str, start_after: str = "") -> Iterator[Found]:
        for found in super().list(prefix, start_after):
            yield found
            self._ask()


@pytest.fixture
def clock() -> RecordingClock:
    return RecordingClock()


@pytest.fixture
def failing(clock: RecordingClock) -> Failing:
    return Failing(clock)


@pytest.fixture
def patient(failing: Failing, clock: RecordingClock) -> Store:
    failing.put_new("a", b"1")
    failing.requests = 0
    return with_retries(failing, clock, lambda: 0.0, Patience(attempts_max=5, deadline_seconds=100.0))


def away(count: int) -> list[CdpError]:
    return [StoreUnavailable("read a", "no answer") for _ in range(count)]


READS: list[Callable[[Store], object]] = [
    lambda store: store.get("a"),
    lambda store: store.get_unless("a", "other"),
    lambda store: store.get_range("a", 0, 1),
    lambda store: store.head("a"),
    lambda store: store.delete("a"),
]


@pytest.mark.parametrize("request_", READS)
def test_reads_and_deletes_are_repeated_with_growing_pauses(
    patient: Store, failing: Failing, clock: RecordingClock, request_: Callable[[Store], object]
) -> None:
    failing.failures = away(4)
    request_(patient)
    assert failing.requests == 5
    assert clock.slept == [0.2, 0.4, 0.8, 1.6]


def test_whoever_wants_to_ask_less_is_told_of_each_failure(failing: Failing, clock: RecordingClock) -> None:
    told: list[int] = []
    failing.put_new("a", b"1")
    patient = with_retries(failing, clock, lambda: 0.0, noticed=lambda: told.append(1))
    failing.failures = away(3)
    patient.get("a")
    assert len(told) == 3


def test_patience_ends_with_the_attempts(patient: Store, failing: Failing, clock: RecordingClock) -> None:
    failing.failures = away(10)
    with pytest.raises(StoreUnavailable):
        patient.get("a")
    assert failing.requests == 5
    assert len(clock.slept) == 4


def test_patience_ends_with_the_deadline(failing: Failing, clock: RecordingClock) -> None:
    patient = with_retries(failing, clock, lambda: 0.0, Patience(attempts_max=100, deadline_seconds=3.0))
    failing.failures = away(100)
    with pytest.raises(StoreUnavailable):
        patient.get("a")
    assert sum(clock.slept) <= 3.0
    assert failing.requests == len(clock.slept) + 1 == 5


def test_pauses_have_a_longest_and_are_jittered(failing: Failing, clock: RecordingClock) -> None:
    numbers = iter([0.0, 0.5, 0.99] * 10)
    patience = Patience(
        attempts_max=8, deadline_seconds=1000.0, first_pause_seconds=4.0, pause_seconds_max=10.0
    )
    patient = with_retries(failing, clock, lambda: next(numbers), patience)
    failing.failures = away(100)
    with pytest.raises(StoreUnavailable):
        patient.get("a")
    assert clock.slept == [4.0, 8.0 * 0.75, 10.0 * 0.505, 10.0, 7.5, 10.0 * 0.505, 10.0]


def test_a_store_may_say_how_long_to_wait(patient: Store, failing: Failing, clock: RecordingClock) -> None:
    throttled = StoreThrottled("read a", "slow down")
    throttled.retry_after_seconds = 30.0
    failing.failures = [throttled]
    patient.get("a")
    assert clock.slept == [30.0]


def test_a_store_that_asks_for_an_hour_gets_no_more_than_the_limit(
    failing: Failing, clock: RecordingClock
) -> None:
    patience = Patience(attempts_max=5, deadline_seconds=100.0, asked_seconds_max=40.0)
    patient = with_retries(failing, clock, lambda: 0.0, patience)
    failing.put_new("a", b"x")
    failing.failures = [_slow_down(3600.0)]
    patient.get("a")
    assert clock.slept == [40.0]
    failing.failures = [_slow_down(3600.0) for _ in range(3)]
    with pytest.raises(StoreThrottled):
        patient.get("a")
    assert sum(clock.slept[1:]) <= 100.0


def _slow_down(seconds: float) -> StoreThrottled:
    throttled = StoreThrottled("read a", "slow down")
    throttled.retry_after_seconds = seconds
    return throttled


@pytest.mark.parametrize("error", [NotFound, AccessDenied, StoreFull, PreconditionFailed])
def test_what_time_does_not_mend_is_not_repeated(
    patient: Store, failing: Failing, clock: RecordingClock, error: type[CdpError]
) -> None:
    failing.failures = [error("read a", "for good")]
    with pytest.raises(error):
        patient.get("a")
    assert (failing.requests, clock.slept) == (1, [])


def test_conditional_writes_are_never_repeated(
    patient: Store, failing: Failing, clock: RecordingClock
) -> None:
    writes: list[Callable[[], str]] = [
        lambda: patient.put_new("b", b"x"),
        lambda: patient.put_if("a", b"x", "tag"),
    ]
    for error in (StoreUnavailable, StoreThrottled, Contention):
        for write in writes:
            failing.requests = 0
            failing.failures = [error("write", "who knows")]
            with pytest.raises(error):
                write()
            assert failing.requests == 1
    assert clock.slept == []
    tag = patient.put_new("b", b"x")
    patient.put_if("b", b"y", tag)


def test_a_listing_goes_on_where_it_broke_off(
    patient: Store, failing: Failing, clock: RecordingClock
) -> None:
    for number in range(9):
        failing.put_new(f"log/{number}", b"")
    keys = []
    for found in patient.list("log/"):
        keys.append(found.key)
        failing.failures = away(1)
    assert keys == [f"log/{number}" for number in range(9)]
    # Every key that it gives is progress: patience begins anew.
    assert set(clock.slept) == {0.2}


def test_what_is_temporary() -> None:
    for error in (StoreUnavailable, StoreThrottled, Contention):
        assert is_temporary(error("x", "y"))
    for other in (NotFound, AccessDenied, StoreFull, PreconditionFailed):
        assert not is_temporary(other("x", "y"))
    assert not is_temporary(ValueError())


def test_the_spelling_of_tags_is_passed_on(patient: Store, failing: Failing) -> None:
    assert isinstance(patient, SpellsTags)
    patient.spell_tags("unquoted")
    assert failing.spelling == "unquoted"
    assert patient.address == failing.address
    patient.close()
