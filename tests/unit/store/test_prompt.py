"""Giving up soon: what is given up, what is not repeated, and when patience comes back."""

from __future__ import annotations

import pytest

from cdp_container.errors import CdpError, NotFound, PreconditionFailed, StoreThrottled, StoreUnavailable
from cdp_container.store.api import Blob, Store
from cdp_container.store.memory import MemoryStore
from cdp_container.store.prompt import LATE_MAX, prompt
from tests.unit.store.test_retry import RecordingClock

KEY = "domain/owner"
LIMIT_SECONDS = 5


class Line(MemoryStore):
    """A store on which an answer takes a while; a line of its own gives `limited` what it is told to."""

    def __init__(self, clock: RecordingClock) -> None:
        super().__init__(clock)
        self.put_new(KEY, b"x")
        self.clock = clock
        self.took_seconds = 0.1
        self.fault: CdpError | None = None
        self.asked = 0
        self.is_closed = False

    def get(self, key: str) -> Blob:
        self.asked += 1
        self.clock.sleep(self.took_seconds)
        if self.fault is not None:
            raise self.fault
        return super().get(key)

    def close(self) -> None:
        self.is_closed = True


class Far(Line):
    """A line that has another one with a limit."""

    def __init__(self, clock: RecordingClock) -> None:
        super().__init__(clock)
        self.quick = Line(clock)
        self.limits: list[int] = []

    def limited(self, limit_seconds: int) -> Store:
        self.limits.append(limit_seconds)
        return self.quick

    def hang(self) -> None:
        """Every answer takes longer than the limit from now on."""
        self.took_seconds = LIMIT_SECONDS + 3.0
        self.quick.took_seconds = float(LIMIT_SECONDS)
        self.quick.fault = StoreUnavailable("read", "the store did not answer in time")


@pytest.fixture
def far() -> Far:
    return Far(RecordingClock())


@pytest.fixture
def store(far: Far) -> Store:
    return prompt(far, far.clock, LIMIT_SECONDS)


def give_up(store: Store, count: int) -> None:
    for _ in range(count):
        with pytest.raises(StoreUnavailable, match="in time"):
            store.get(KEY)


def test_what_hangs_is_given_up_once_and_not_repeated(far: Far, store: Store) -> None:
    far.hang()
    give_up(store, 1)
    assert (far.limits, far.quick.asked, far.asked) == ([LIMIT_SECONDS], 1, 0)


def test_a_line_that_is_always_slow_gets_the_time_that_it_needs(far: Far, store: Store) -> None:
    far.hang()
    give_up(store, LATE_MAX)
    assert store.get(KEY).data == b"x"
    assert store.get(KEY).data == b"x", "late again"
    assert (far.quick.asked, far.asked) == (LATE_MAX, 2)


def test_a_line_that_is_quick_again_gets_the_limit_again(far: Far, store: Store) -> None:
    far.hang()
    give_up(store, LATE_MAX)
    far.took_seconds = 0.1
    store.get(KEY)
    give_up(store, 1)
    assert (far.quick.asked, far.asked) == (LATE_MAX + 1, 1)


@pytest.mark.parametrize("answer", [NotFound("read", "gone"), PreconditionFailed("swap", "another"), None])
def test_any_answer_in_time_begins_the_count_anew(far: Far, store: Store, answer: CdpError | None) -> None:
    far.hang()
    fault, far.quick.fault = far.quick.fault, answer
    give_up_after = far.quick.took_seconds
    for _ in range(LATE_MAX):
        far.quick.fault, far.quick.took_seconds = fault, give_up_after
        give_up(store, LATE_MAX - 1)
        far.quick.fault, far.quick.took_seconds = answer, 0.1
        if answer is None:
            store.get(KEY)
        else:
            with pytest.raises(type(answer)):
                store.get(KEY)
    assert far.asked == 0


@pytest.mark.parametrize("fault", [StoreUnavailable("read", "reset"), StoreThrottled("read", "slow down")])
def test_a_store_that_refuses_at_once_is_not_slow(far: Far, store: Store, fault: CdpError) -> None:
    far.quick.fault = fault
    for _ in range(3 * LATE_MAX):
        with pytest.raises(type(fault)):
            store.get(KEY)
    assert far.asked == 0


def test_everything_that_a_store_does(far: Far, store: Store) -> None:
    tag = store.put_new("domain/epochs/1", b"12345")
    assert store.get_range("domain/epochs/1", 1, 2) == b"23"
    assert store.get_unless("domain/epochs/1", tag) is None
    store.put_if("domain/epochs/1", b"6", tag)
    assert store.head("domain/epochs/1").size == 1
    store.delete("domain/epochs/1")
    far.put_new("log/1", b"")
    assert [found.key for found in store.list("log/")] == ["log/1"], "listed as patiently as ever"
    assert store.address == far.address
    store.close()
    assert (far.quick.is_closed, far.is_closed) == (True, False)


def test_a_store_without_a_network_stays_as_it_is() -> None:
    store = MemoryStore(RecordingClock())
    assert prompt(store, RecordingClock(), LIMIT_SECONDS) is store
