"""`cdp-agent release`: what is asked of the agent, what is told meanwhile, and how it ends."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pytest

from cdp_agent.cli.ask import ask_flush, ask_marker
from cdp_agent.cli.release import BEGIN_SECONDS_MAX, release_or_cancel
from cdp_agent.cli.reload import reload_agent
from cdp_agent.cli.status import gather
from cdp_agent.streamer.control import Answer, ControlServer
from cdp_agent.supervisor import take_lock
from cdp_container.clock import SystemClock
from cdp_container.domain.identity import load_identity
from cdp_container.domain.notes import Notes, load_notes, save_notes
from cdp_container.domain.settings import load_settings
from cdp_container.errors import (
    AgentNotRunning,
    DomainReleased,
    Fenced,
    Incomplete,
    OwnedElsewhere,
    ReleaseRefused,
    UsageError,
)
from cdp_container.format.place import Place
from cdp_container.journal.shared import SharedPages, SplitterPage
from tests.unit.agent.test_status import config

__all__ = ["config"]

BEGAN_NS = 10**18
RELEASED = Notes(
    released_to="recovery",
    final=Place(4, 7, 9),
    release_began_ns=BEGAN_NS,
    release_ended_ns=BEGAN_NS + 2 * 10**9,
)
RELEASING = Notes(releasing_to="recovery", release_began_ns=BEGAN_NS)


class Sleeper:
    """A clock of which every sleep does the next thing."""

    def __init__(self, *steps: Callable[[], None]) -> None:
        self.steps = list(steps)
        self.now_ns = BEGAN_NS

    def sleep(self, seconds: float) -> None:
        self.now_ns += int(seconds * 1e9)
        if self.steps:
            self.steps.pop(0)()

    def boottime_ns(self) -> int:
        return self.now_ns

    def wall_ns(self) -> int:
        return self.now_ns


def directory_of(config: Path) -> Path:
    return Path(load_settings(config).journal.directory)


@contextmanager
def agent(config: Path, *answers: Answer) -> Iterator[list[dict[str, Any]]]:
    """A running agent whose streamer gives these answers, the last one for ever; gives what it was asked."""
    directory = directory_of(config)
    asked: list[dict[str, Any]] = []
    left = list(answers)

    def handle(request: dict[str, Any], answer: Callable[[Answer], None]) -> None:
        asked.append(request)
        answer(left.pop(0) if len(left) > 1 else left[0])

    lock = take_lock(directory / "lock", SystemClock())
    control = ControlServer(directory, handle)
    try:
        yield asked
    finally:
        control.close()
        os.close(lock)


def status(waits_for: str = "", **members: object) -> Answer:
    release = {"waits_for": waits_for, "cancel_refused": "", **members}
    return {"ok": True, "facts": {"state": "", "release": release, "troubles": {}}}


def release(config: Path, clock: Sleeper, *, cancel: bool = False, as_json: bool = False) -> int:
    return release_or_cancel(config, None if cancel else "recovery", clock, cancel=cancel, as_json=as_json)


def test_it_asks_waits_and_tells(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    directory = directory_of(config)
    clock = Sleeper(lambda: None, lambda: None, lambda: save_notes(directory, RELEASED))
    save_notes(directory, RELEASING)
    with agent(config, {"ok": True}, status("the disks"), status("the disks"), status("the store")) as asked:
        assert release(config, clock) == 0
    assert (asked[0]["command"], asked[0]["site"]) == ("release", "recovery")
    out, err = capsys.readouterr()
    assert out == "released to recovery; final cut 4.7; it took 2.0 s\n"
    assert err.splitlines() == ["waiting for the disks", "waiting for the store"]


def test_json_tells_the_same(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_notes(directory_of(config), RELEASED)
    with agent(config, {"ok": True}):
        assert release(config, Sleeper(), as_json=True) == 0
    members = json.loads(capsys.readouterr().out)
    assert (members["to"], members["state"], members["seconds"]) == ("recovery", "released", 2.0)
    assert members["final"] == {"epoch": 4, "cut": 7, "seq": 9}


def test_a_refusal_has_its_hint(config: Path) -> None:
    with agent(config, {"ok": False, "error": "the journal is full", "hint": "wait"}):
        with pytest.raises(ReleaseRefused, match="the journal is full") as refused:
            release(config, Sleeper())
        assert refused.value.hint == "wait"


def test_an_agent_that_just_started_is_asked_again(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_notes(directory_of(config), RELEASED)
    not_yet: Answer = {"ok": False, "error": "not the owner yet", "hint": "", "again": True}
    with agent(config, not_yet, not_yet, {"ok": True}) as asked:
        assert release(config, Sleeper()) == 0
    assert len(asked) == 3
    assert capsys.readouterr().err == "waiting for not the owner yet\n"


def test_but_not_for_ever(config: Path) -> None:
    clock = Sleeper()
    no_store: Answer = {"ok": False, "error": "no store", "hint": "x", "again": True}
    with agent(config, no_store), pytest.raises(ReleaseRefused, match="no store"):
        release(config, clock)
    assert clock.now_ns - BEGAN_NS >= BEGIN_SECONDS_MAX * 1e9


def test_without_an_agent_nothing_is_asked(config: Path) -> None:
    with pytest.raises(AgentNotRunning, match="no agent runs") as error:
        release(config, Sleeper())
    assert "cdp-agent run" in error.value.hint


def test_one_that_is_overtaken_meanwhile_is_fenced(config: Path) -> None:
    directory = directory_of(config)
    save_notes(directory, RELEASING)
    clock = Sleeper(lambda: save_notes(directory, replace(RELEASING, fenced="site b took it")))
    with agent(config, {"ok": True}, status("the disks")), pytest.raises(Fenced, match="site b took it"):
        release(config, clock)


@pytest.mark.parametrize(("to", "cancel"), [(None, False), ("recovery", True)])
def test_it_needs_to_know_what_is_wanted(config: Path, to: str | None, cancel: bool) -> None:
    with pytest.raises(UsageError):
        release_or_cancel(config, to, Sleeper(), cancel=cancel, as_json=False)


@pytest.mark.parametrize("site", ["", "two words", "x" * 200, "../b", "b\n"])
def test_what_no_site_is_called_is_refused(config: Path, site: str) -> None:
    with agent(config, {"ok": True}) as asked, pytest.raises(UsageError, match="is no name of a site"):
        release_or_cancel(config, site, Sleeper(), cancel=False, as_json=False)
    assert asked == []


def test_a_cancel_waits_until_it_is_noted(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    directory = directory_of(config)
    save_notes(directory, RELEASED)
    clock = Sleeper(lambda: save_notes(directory, Notes()))
    with agent(config, {"ok": True}, status()) as asked:
        assert release(config, clock, cancel=True) == 0
    assert asked[0]["command"] == "cancel-release"
    assert capsys.readouterr().out == "the domain is this site's again\n"


def test_a_cancel_that_came_too_late_says_who_has_it(config: Path) -> None:
    save_notes(directory_of(config), RELEASED)
    late = status(cancel_refused="site 'recovery' has taken it")
    with agent(config, {"ok": True}, late), pytest.raises(OwnedElsewhere, match="has taken it") as error:
        release(config, Sleeper(), cancel=True)
    assert "failback" in error.value.hint


# --- what `status` says --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("notes", "said", "hint"),
    [
        (
            RELEASED,
            "released to site 'recovery' since 2001-09-09T01:46:40.000Z; the exports stay",
            "--cancel",
        ),
        (
            RELEASING,
            "releasing to site 'recovery' since 2001-09-09T01:46:40.000Z; guests cannot",
            "--to recovery",
        ),
    ],
)
def test_status_tells_to_whom_since_when_and_what_to_do(
    config: Path, notes: Notes, said: str, hint: str
) -> None:
    directory = directory_of(config)
    save_notes(directory, notes)
    pages = SharedPages(directory / "shared")
    pages.splitter.publish(SplitterPage(generation=7, running=True, writes_closed=True))
    pages.close()
    lock = take_lock(directory / "lock", SystemClock())
    try:
        shown = gather(load_settings(config), load_identity(directory), SystemClock())
    finally:
        os.close(lock)
    assert shown.problems[0].startswith(said)
    assert hint in shown.problems[1]
    assert not any("not open yet" in problem for problem in shown.problems)
    assert shown.release is not None
    assert orjson.loads(orjson.dumps(shown.release))["to"] == "recovery"
    assert load_notes(directory) == notes


# --- what else is asked of a site that gives its domain up ---------------------------------------


def ask_for_a_marker(config: Path) -> int:
    return ask_marker(config, "x", "", application=False, timeout_seconds=5.0)


def ask_for_a_flush(config: Path) -> int:
    return ask_flush(config, timeout_seconds=5.0)


@pytest.mark.parametrize("ask", [ask_for_a_marker, ask_for_a_flush])
def test_a_cut_that_is_refused_for_a_release_is_an_error_of_its_own(
    config: Path, ask: Callable[[Path], int]
) -> None:
    told: Answer = {"ok": False, "error": "site 'a' is releasing", "hint": "--cancel", "released": True}
    with agent(config, told), pytest.raises(DomainReleased, match="site 'a' is releasing") as refused:
        ask(config)
    assert refused.value.hint == "--cancel"
    with agent(config, {**told, "released": False}), pytest.raises(Incomplete):
        ask(config)


@pytest.mark.parametrize(
    ("notes", "why"),
    [
        (RELEASING, "site 'hamburg' is releasing the domain to site 'recovery'"),
        (RELEASED, "site 'hamburg' has released the domain to site 'recovery'"),
    ],
)
def test_volumes_stay_as_they_are_handed_over(config: Path, notes: Notes, why: str) -> None:
    directory = directory_of(config)
    text = config.read_text()
    (config.parent / "new.raw").write_bytes(bytes(1 << 20))
    config.write_text(text + f"  - name: new\n    path: {config.parent}/new.raw\n")
    before = load_identity(directory)
    save_notes(directory, notes)
    with pytest.raises(DomainReleased, match=why) as refused:
        reload_agent(config, SystemClock(), os.urandom)
    assert "cancel" in refused.value.hint
    assert load_identity(directory) == before
    save_notes(directory, Notes())
    assert reload_agent(config, SystemClock(), os.urandom) == 0
    assert load_identity(directory) != before
