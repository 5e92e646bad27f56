"""The loop that looks again before it sleeps: keeps its timeouts, and gives up where looking is vain."""

from __future__ import annotations

import asyncio
import selectors
import socket

import pytest

from nbd_export.polling import LOOKS_MAX, MISSES_MAX, TRIES_EVERY, PollingSelector, polling_loop


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> list[float | None]:
    """The timeouts of all looks; whoever would sleep finds nothing at once."""
    seen: list[float | None] = []
    really = selectors.EpollSelector.select

    def select(self: selectors.EpollSelector, timeout: float | None = None) -> object:
        seen.append(timeout)
        return really(self, 0)

    monkeypatch.setattr(selectors.EpollSelector, "select", select)
    return seen


def test_what_is_ready_costs_one_look(looks: list[float | None]) -> None:
    here, there = socket.socketpair()
    with PollingSelector() as selector, here, there:
        selector.register(here, selectors.EVENT_READ)
        there.send(b"x")
        assert [key.fileobj for key, _ in selector.select(5.0)] == [here]
    assert looks == [0]


def test_a_timeout_of_zero_never_looks_twice(looks: list[float | None]) -> None:
    with PollingSelector() as selector:
        assert selector.select(0) == []
    assert looks == [0]


def test_where_looking_is_vain_it_sleeps_at_once_and_tries_again_later(looks: list[float | None]) -> None:
    with PollingSelector() as selector:
        for _ in range(MISSES_MAX):
            selector.select(5.0)
        assert len(looks) == MISSES_MAX * (LOOKS_MAX + 2)
        looks.clear()
        for _ in range(TRIES_EVERY):
            selector.select(5.0)
    assert looks.count(5.0) == TRIES_EVERY
    assert looks.count(0) == TRIES_EVERY + LOOKS_MAX, "one of them looked again"


def test_timers_and_threads_wake_it() -> None:
    async def scenario() -> str:
        loop = asyncio.get_running_loop()
        woken = asyncio.Event()
        loop.call_later(0.001, woken.set)
        await woken.wait()
        return await loop.run_in_executor(None, lambda: "done")

    with asyncio.Runner(loop_factory=polling_loop) as runner:
        assert runner.run(scenario()) == "done"
