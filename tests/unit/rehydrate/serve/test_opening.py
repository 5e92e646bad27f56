"""A container that is opened beside what is served: who asks waits for it, and for no longer than needed."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from cdp_container.errors import Incomplete, TargetUnsuitable
from rehydrate.serve.kept import KeptVolume
from rehydrate.serve.opening import Opening
from rehydrate.serve.origin import Fetched, Source

SECONDS_MAX = 30.0
VOLUME = KeptVolume(bytes(16), "db", "db", 8192)


class Open:
    """A container; notes what is done with it."""

    def __init__(self) -> None:
        self.done: list[str] = []

    def opened(self) -> None:
        raise AssertionError("nobody asks it")

    def facts(self) -> dict[str, object]:
        return {"opened": True}

    def look(self) -> None:
        self.done.append("look")

    def let_go(self) -> None:
        self.done.append("let go")

    def stop(self) -> None:
        self.done.append("stop")

    def origin(self, volume: KeptVolume) -> Source:
        assert volume is VOLUME
        return self

    def fetch(self, start: int, end: int) -> Fetched:
        self.done.append(f"fetch {start} {end}")
        return Fetched(())

    def data(self, start: int, end: int) -> Sequence[tuple[int, int]] | None:
        return [(start, end)]


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(4) as made:
        yield made


def asks(pool: ThreadPoolExecutor, opening: Opening) -> list[Future[object]]:
    """Everything that waits for it."""
    fetch = opening.origin(VOLUME).fetch
    return [pool.submit(opening.opened), pool.submit(fetch, 0, 4096), pool.submit(opening.let_go)]


def test_who_asks_waits_until_it_is_open(pool: ThreadPoolExecutor) -> None:
    may_open, held = threading.Event(), Open()

    def work(opening: Opening) -> None:
        assert may_open.wait(SECONDS_MAX)
        opening.give(held)
        opening.wait_for_end()
        held.done.append("closed")

    opening = Opening(work)
    opening.begin()
    waiting = asks(pool, opening)
    opening.look()
    assert opening.facts() == {"opened": False}
    assert opening.origin(VOLUME).data(0, 9) is None  # nobody waits for that
    assert not any(one.done() for one in waiting)
    may_open.set()
    for one in waiting:
        one.result(SECONDS_MAX)
    opening.look()
    assert opening.facts() == {"opened": True}
    assert opening.origin(VOLUME).data(0, 9) == [(0, 9)]
    opening.end()
    assert sorted(held.done[:2]) == ["fetch 0 4096", "let go"]
    assert held.done[2] == "look"
    assert held.done[3:] == ["stop", "closed"]


def test_who_asks_waits_no_longer_where_it_is_ended(pool: ThreadPoolExecutor) -> None:
    def work(opening: Opening) -> None:
        opening.wait_for_end()

    opening = Opening(work)
    opening.begin()
    opened, fetched, let_go = asks(pool, opening)
    opening.stop()
    opened.result(SECONDS_MAX)
    for one in (fetched, let_go):
        with pytest.raises(Incomplete):
            one.result(SECONDS_MAX)
    assert not opening.wait_for_end(0.0)  # whoever was at it may still use it
    opening.end()
    assert opening.wait_for_end(0.0)


def test_what_cannot_be_opened_is_told_who_waits_for_that(pool: ThreadPoolExecutor) -> None:
    may_fail = threading.Event()

    def work(_: Opening) -> None:
        assert may_fail.wait(SECONDS_MAX)
        raise TargetUnsuitable("serve", "it is of another domain")

    opening = Opening(work)
    opening.begin()
    opened, fetched, let_go = asks(pool, opening)
    may_fail.set()
    with pytest.raises(TargetUnsuitable):
        opened.result(SECONDS_MAX)
    for one in (fetched, let_go):
        with pytest.raises(Incomplete):
            one.result(SECONDS_MAX)
    with pytest.raises(TargetUnsuitable):
        opening.end()


def test_what_fails_at_the_end_is_told_there() -> None:
    def work(opening: Opening) -> None:
        opening.give(Open())
        opening.wait_for_end()
        raise Incomplete("drop the hold", "it went wrong")

    opening = Opening(work)
    opening.begin()
    opening.opened()
    with pytest.raises(Incomplete, match="drop the hold"):
        opening.end()
