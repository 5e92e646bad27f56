"""`cdp-agent flush` while the streamer begins anew: it is waited for, not longer than was said."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from cdp_agent.cli.ask import ask_flush, ask_marker
from cdp_agent.streamer.control import Answer, ControlServer
from cdp_agent.supervisor import take_lock
from cdp_container.clock import SystemClock
from cdp_container.domain.notes import Notes, save_notes
from cdp_container.errors import AgentNotRunning, Fenced, Incomplete
from tests.unit.agent.test_release import Sleeper, directory_of
from tests.unit.agent.test_status import config

__all__ = ["config"]

SECONDS = 30.0


@contextmanager
def supervised(config: Path) -> Iterator[Path]:
    """An agent that runs, without its streamer; gives its directory."""
    directory = directory_of(config)
    lock = take_lock(directory / "lock", SystemClock())
    try:
        yield directory
    finally:
        os.close(lock)


def served(directory: Path, stack: ExitStack, answer: Answer) -> Callable[[], None]:
    """Starts a streamer that answers so, until the stack is left."""

    def handle(request: dict[str, Any], reply: Callable[[Answer], None]) -> None:
        assert request["command"] == "flush"
        reply(answer)

    def begin() -> None:
        stack.callback(ControlServer(directory, handle).close)

    return begin


def test_nobody_is_waited_for_where_no_agent_runs(config: Path) -> None:
    clock = Sleeper()
    before_ns = clock.now_ns
    with pytest.raises(AgentNotRunning, match="no streamer answers") as caught:
        ask_flush(config, timeout_seconds=SECONDS, clock=clock)
    assert "run" in caught.value.hint
    assert clock.now_ns == before_ns


def test_a_streamer_that_never_comes_is_waited_for_so_long(config: Path) -> None:
    clock = Sleeper()
    began_ns = clock.now_ns
    with supervised(config), pytest.raises(AgentNotRunning, match="no streamer answers") as caught:
        ask_flush(config, timeout_seconds=SECONDS, clock=clock)
    assert SECONDS <= (clock.now_ns - began_ns) / 1e9 < SECONDS + 1
    assert "again" in caught.value.hint, "the agent runs: to start it is no advice"


def test_an_agent_that_ends_meanwhile_is_not_waited_for(config: Path) -> None:
    directory = directory_of(config)
    lock = take_lock(directory / "lock", SystemClock())
    clock = Sleeper(lambda: None, lambda: os.close(lock))
    began_ns = clock.now_ns
    with pytest.raises(AgentNotRunning):
        ask_flush(config, timeout_seconds=SECONDS, clock=clock)
    assert (clock.now_ns - began_ns) / 1e9 < SECONDS


def test_a_fenced_site_gets_no_streamer_any_more(config: Path) -> None:
    with supervised(config) as directory:
        save_notes(directory, Notes(fenced="epoch 4 is of site b"))
        with pytest.raises(Fenced, match="epoch 4"):
            ask_flush(config, timeout_seconds=SECONDS, clock=Sleeper())


def test_a_marker_names_this_instant_and_does_not_wait(config: Path) -> None:
    with supervised(config), pytest.raises(AgentNotRunning) as caught:
        ask_marker(config, "m", "", application=False, timeout_seconds=SECONDS)
    assert "again" in caught.value.hint


def test_a_streamer_that_begins_anew_is_waited_for(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with supervised(config) as directory, ExitStack() as stack:
        begin = served(directory, stack, {"ok": True, "place": {"epoch": 3, "cut": 8}})
        assert ask_flush(config, timeout_seconds=SECONDS, clock=Sleeper(lambda: None, begin)) == 0
    out, err = capsys.readouterr()
    assert out == "3.8\n"
    assert err == "waiting for the streamer, which begins anew\n"


def test_what_it_answers_then_counts(config: Path) -> None:
    with supervised(config) as directory, ExitStack() as stack:
        begin = served(directory, stack, {"ok": False, "error": "the store is away"})
        with pytest.raises(Incomplete, match="the store is away"):
            ask_flush(config, timeout_seconds=SECONDS, clock=Sleeper(begin))
