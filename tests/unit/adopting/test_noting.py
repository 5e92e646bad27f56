"""What the agent is told of volumes that are filled, and what it says; and how far it is, for `status`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from cdp_agent.adopting import noting
from cdp_agent.adopting.noting import Progress, note_filled, note_filling
from cdp_agent.adopting.progress import PROGRESS_NAME, load_progress
from cdp_agent.adopting.seen import Job
from cdp_agent.adopting.turn import Memory, Standing, Turn
from cdp_agent.streamer.control import Answer, ControlServer
from cdp_container.errors import AgentNotRunning, Incomplete
from cdp_container.machine_errors import AdoptionRefused
from tests.nbd_client import NbdClient
from tests.unit.adopting.model_qemu import StepClock
from tests.unit.adopting.test_relay import relayed


@dataclass
class Agent:
    """Answers in turn, the last one for ever."""

    answers: list[Answer]
    heard: list[dict[str, Any]] = field(default_factory=list)

    def handle(self, request: dict[str, Any], answer: Callable[[Answer], None]) -> None:
        request.pop("timeout_seconds")
        self.heard.append(request)
        answer(self.answers.pop(0) if len(self.answers) > 1 else self.answers[0])


def reading(client: NbdClient) -> None:
    client.read(0, 512)
    client.flush()


def writing(client: NbdClient) -> None:
    client.write(0, b"x" * 512)


def zeroing(client: NbdClient) -> None:
    client.write_zeroes(0, 512)


@pytest.mark.parametrize(("work", "has_written"), [(reading, False), (writing, True), (zeroing, True)])
def test_whether_anything_was_written(
    tmp_path: Path, work: Callable[[NbdClient], None], has_written: bool
) -> None:
    with relayed(tmp_path) as (relay, _):
        with closing(NbdClient(relay.path, "disk")) as client:
            work(client)
            assert relay.has_written == has_written
        relay.close()
        assert relay.has_written == has_written, "also once nobody is connected"


@contextmanager
def answering(folder: Path, *answers: Answer) -> Iterator[Agent]:
    agent = Agent([*answers])
    server = ControlServer(folder, agent.handle)
    try:
        yield agent
    finally:
        server.close()


def test_the_agent_is_told_and_says_what_changed(tmp_path: Path) -> None:
    with answering(tmp_path, {"ok": True, "changed": ["b"]}) as agent:
        assert note_filling(tmp_path, "shop", ["a", "b"], StepClock()) == {"b"}
        assert note_filled(tmp_path, ["a", "b"], StepClock()) == {"b"}
    assert agent.heard == [
        {"command": "filling", "vm": "shop", "volumes": ["a", "b"]},
        {"command": "filled", "volumes": ["a", "b"]},
    ]


def test_who_is_to_ask_again_asks_again(tmp_path: Path) -> None:
    full, well = {"ok": False, "error": "no space", "again": True}, {"ok": True, "changed": ["a"]}
    with answering(tmp_path, full, full, well) as agent:
        assert note_filling(tmp_path, "shop", ["a"], StepClock()) == {"a"}
    assert len(agent.heard) == 3


@pytest.mark.parametrize("why", ["'filling' is no command", "the domain is another site's"])
def test_an_agent_that_will_not_is_not_asked_again(tmp_path: Path, why: str) -> None:
    """An older one does not know the word: nothing is copied then."""
    with answering(tmp_path, {"ok": False, "error": why}) as agent:
        with pytest.raises(AdoptionRefused, match=why):
            note_filling(tmp_path, "shop", ["a"], StepClock())
        with pytest.raises(Incomplete, match=why):
            note_filled(tmp_path, ["a"], StepClock())
    assert len(agent.heard) == 2


def test_an_agent_that_is_away_is_given_up_after_a_while(tmp_path: Path) -> None:
    clock = StepClock()
    began_ns = clock.boottime_ns()
    with pytest.raises(AgentNotRunning, match="does not answer"):
        note_filling(tmp_path, "shop", ["a"], clock)
    assert clock.boottime_ns() - began_ns >= noting.NOTE_SECONDS_MAX * 1e9
    with pytest.raises(Incomplete, match="does not answer"):
        note_filled(tmp_path, ["a"], clock)


def test_nobody_waits_for_an_agent_who_wants_to_end(tmp_path: Path) -> None:
    clock = StepClock()
    with pytest.raises(Incomplete):
        note_filled(tmp_path, ["a"], clock, lambda: True)
    assert clock.boottime_ns() < noting.NOTE_SECONDS_MAX * 1e9
    with answering(tmp_path, {"ok": True, "changed": []}):
        assert note_filled(tmp_path, ["a"], clock, lambda: True) == frozenset()


class Lines:
    """Whoever is told."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self.turns = 0

    def tell(self, line: str) -> None:
        self.told.append(line)

    def progress(self, moves: object, turn: Turn) -> None:
        self.turns += 1


def job(offset: int) -> Job:
    return Job("j", "mirror", "running", offset=offset, length=100)


def test_how_far_it_is_is_kept_until_it_is_over(tmp_path: Path) -> None:
    clock, lines = StepClock(), Lines()
    assert load_progress(tmp_path) == {}
    show = Progress(tmp_path, "shop", clock, lines)
    turn = Turn(Standing.STOPPED, Memory(0), why="it waits")
    show.progress({"vda": job(10)}, turn)
    show.progress({"vda": job(20)}, turn)  # too soon to be written again
    members = {"vm": "shop", "standing": "stopped", "why": "it waits"}
    assert load_progress(tmp_path) == {**members, "disks": {"vda": {"done_bytes": 10, "total_bytes": 100}}}
    clock.sleep(noting.PROGRESS_EVERY_SECONDS)
    show.progress({"vda": job(30)}, turn)
    assert load_progress(tmp_path)["disks"]["vda"]["done_bytes"] == 30
    show.tell("something")
    assert (lines.turns, lines.told) == (3, ["something"])
    show.close()
    assert load_progress(tmp_path) == {}


def test_a_disk_that_is_full_ends_no_adoption(tmp_path: Path) -> None:
    lines = Lines()
    show = Progress(tmp_path / "gone", "shop", StepClock(), lines)
    show.progress({"vda": job(10)}, Turn(Standing.COPYING, Memory(0)))
    show.close()
    assert lines.turns == 1
    (tmp_path / PROGRESS_NAME).write_text("{")
    assert load_progress(tmp_path) == {}
