"""Who waits and who does not, what is counted, and that a schedule comes into force at its time."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from datetime import UTC, datetime

import pytest

from cdp_agent.streamer.limited import LimitedStore, Limiter
from cdp_container.domain.settings import LimitsSettings
from cdp_container.store.memory import MemoryStore
from tests.waiting import wait_until

NINE = datetime(2026, 3, 2, 9, tzinfo=UTC)  # a Monday


@dataclass
class SleepingClock:
    """Time goes on only while somebody sleeps."""

    wall_from: datetime = NINE
    now_ns: int = 1_000_000_000
    slept: list[float] = field(default_factory=list)

    def wall_ns(self) -> int:
        return int(self.wall_from.timestamp() * 1e9) + self.now_ns

    def boottime_ns(self) -> int:
        return self.now_ns

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now_ns += max(1, int(seconds * 1e9))


def settings(**members: object) -> LimitsSettings:
    return LimitsSettings.model_validate(members)


OFFICE = settings(
    bytes_per_second="20MB",
    requests_per_second=50,
    timezone="UTC",
    schedule=[
        {"cron": "0 8 * * mon-fri", "bytes_per_second": "1MB"},
        {"cron": "0 18 * * mon-fri", "bytes_per_second": "unlimited"},
    ],
)


def test_without_limits_nobody_sleeps() -> None:
    clock = SleepingClock()
    limiter = Limiter(LimitsSettings(), clock)
    for _ in range(100):
        limiter.wait(16 << 20)
    assert clock.slept == []
    assert limiter.facts()["bytes_per_second"] is None
    assert limiter.facts()["sent_bytes"] == 1600 << 20


def test_waiting_keeps_the_limit_and_wakes_once_a_second() -> None:
    clock = SleepingClock()
    limiter = Limiter(settings(bytes_per_second="1MB"), clock)
    for _ in range(5):
        limiter.wait(4_000_000)
    assert clock.now_ns - 1_000_000_000 == pytest.approx(16e9, abs=1e6)
    assert max(clock.slept) <= 1.0


def test_urgent_requests_never_wait_but_are_paid_for_by_others() -> None:
    clock = SleepingClock()
    limiter = Limiter(settings(requests_per_second=2), clock)
    inner = MemoryStore(SleepingClock())
    urgent = LimitedStore(inner, limiter, patient=False)
    tag = inner.put_new("domain/owner", b"x")
    for _ in range(10):
        assert urgent.get_unless("domain/owner", tag) is None
    tag = urgent.put_if("domain/owner", b"y", tag)
    assert clock.slept == []
    LimitedStore(inner, limiter, patient=True).get("domain/owner")
    assert sum(clock.slept) == pytest.approx(5.5)
    assert limiter.facts()["requests"] == 12


def test_urgent_request_passes_while_another_waits() -> None:
    entered = threading.Event()
    go_on = threading.Event()

    class BlockingClock(SleepingClock):
        def sleep(self, seconds: float) -> None:
            entered.set()
            assert go_on.wait(30)
            super().sleep(seconds)

    limiter = Limiter(settings(bytes_per_second="100kB"), BlockingClock())
    limiter.wait(1_000_000)
    waiting = threading.Thread(target=limiter.wait, args=(1_000_000,))
    waiting.start()
    try:
        assert entered.wait(30)
        limiter.count(0)
        assert limiter.facts()["requests"] == 2
    finally:
        go_on.set()
    wait_until(lambda: not waiting.is_alive(), "the waiting one comes through", 30)
    assert limiter.facts()["requests"] == 3


def test_every_request_is_counted_once() -> None:
    limiter = Limiter(LimitsSettings(), SleepingClock())
    store = LimitedStore(MemoryStore(SleepingClock()), limiter, patient=True)
    store.put_new("log/a", b"x" * 100)
    store.put_new("log/b", b"x" * 50)
    assert store.get("log/a").data == b"x" * 100
    assert store.get_range("log/a", 0, 10) == b"x" * 10
    store.head("log/a")
    assert [found.key for found in store.list("log/")] == ["log/a", "log/b"]
    store.delete("log/b")
    facts = limiter.facts()
    assert (facts["requests"], facts["sent_bytes"]) == (7, 260)


def test_objects_are_not_counted_twice() -> None:
    limiter = Limiter(LimitsSettings(), SleepingClock())
    store = LimitedStore(MemoryStore(SleepingClock()), limiter, patient=False)
    limiter.wait(100)
    store.put_new("log/a", b"x" * 100)
    assert limiter.facts()["requests"] == 1
    assert limiter.facts()["sent_bytes"] == 100


@pytest.mark.parametrize(
    ("at", "expected"),
    [
        (datetime(2026, 3, 2, 7, tzinfo=UTC), (None, "0 18 * * mon-fri")),  # Monday early: since Friday
        (datetime(2026, 3, 2, 8, tzinfo=UTC), (1e6, "0 8 * * mon-fri")),
        (datetime(2026, 3, 2, 17, 59, 50, tzinfo=UTC), (1e6, "0 8 * * mon-fri")),
        (datetime(2026, 3, 2, 18, tzinfo=UTC), (None, "0 18 * * mon-fri")),
        (datetime(2026, 3, 7, 12, tzinfo=UTC), (None, "0 18 * * mon-fri")),  # Saturday
    ],
)
def test_window_in_force(at: datetime, expected: tuple[float | None, str]) -> None:
    facts = Limiter(OFFICE, SleepingClock(at)).facts()
    assert (facts["bytes_per_second"], facts["since"]) == expected
    assert facts["requests_per_second"] == 50, "what a window does not name is as outside of it"


def test_window_begins_while_somebody_waits() -> None:
    clock = SleepingClock(datetime(2026, 3, 2, 17, 59, 50, tzinfo=UTC))
    limiter = Limiter(OFFICE, clock)
    limiter.wait(500_000_000)
    limiter.wait(1)
    assert sum(clock.slept) < 12, "at 18:00 there is no limit any more, and nobody waits on for the old one"
    assert limiter.facts()["since"] == "0 18 * * mon-fri"


def test_wall_clock_that_was_set_back_is_noticed() -> None:
    clock = SleepingClock(datetime(2026, 3, 2, 19, tzinfo=UTC))
    limiter = Limiter(OFFICE, clock)
    assert limiter.facts()["bytes_per_second"] is None
    clock.wall_from = NINE
    clock.now_ns += 61_000_000_000
    assert limiter.facts()["bytes_per_second"] == 1e6
