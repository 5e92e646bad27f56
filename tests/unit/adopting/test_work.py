"""Adopting against a model of QEMU in which every command fails once, in every way."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import pytest

from cdp_agent.adopting.checks import Plan, Volume, Wishes, plan_moves
from cdp_agent.adopting.seen import Job, look
from cdp_agent.adopting.turn import Agent, Turn
from cdp_agent.adopting.work import Ended, Ways, adopt, try_connections
from cdp_container.errors import CdpError, HypervisorFailed
from cdp_container.machine_errors import AdoptionPartly, AdoptionUndone
from tests.unit.adopting.model_qemu import ASKING, SIZE, ModelQemu, StepClock

VOLUMES = {name: Volume(name, name.encode().ljust(16), SIZE) for name in ("data", "log")}
OLD = {"vda": "old-vda", "vdb": "old-vdb"}
NEW = {
    disk: f"cdp-adopt-{VOLUMES[name].space.hex()[:12]}" for disk, name in (("vda", "data"), ("vdb", "log"))
}


@dataclass(slots=True)
class Told:
    """What was told."""

    lines: list[str] = field(default_factory=list)
    turns: list[Turn] = field(default_factory=list)

    def progress(self, moves: Mapping[str, Job], turn: Turn) -> None:
        assert moves.keys() <= {"vda", "vdb"}
        self.turns.append(turn)

    def tell(self, line: str) -> None:
        self.lines.append(line)


def plan_of(qemu: ModelQemu) -> Plan:
    wishes = Wishes({"vda": "data", "vdb": "log"})
    return plan_moves(look(qemu.do), wishes, VOLUMES, lambda disk: None, lambda name: False)


def ways(
    agent: Callable[[], Agent] = Agent,
    is_ended: Callable[[], bool] = lambda: False,
    cut: Callable[[], None] = lambda: None,
    check: Callable[[], None] = lambda: None,
) -> Ways:
    return Ways("/seed.sock", "/nbd.sock", check, agent, cut, lambda wanted: None, is_ended, 0, 60.0)


def run(
    qemu: ModelQemu, given: Ways | None = None, plan: Plan | None = None
) -> tuple[CdpError | Ended | None, Told]:
    """What became of it."""
    told = Told()
    try:
        adopt(plan or plan_of(ModelQemu()), qemu, given or ways(cut=lambda: cut(qemu)), StepClock(), told)
    except (CdpError, Ended) as error:
        return error, told
    return None, told


def cut(qemu: ModelQemu) -> None:
    qemu.silent = False


def check_clean(qemu: ModelQemu) -> None:
    """Nothing of ours is there but what disks lie on."""
    tops = [node for node in qemu.devices.values() if node.startswith("cdp-adopt-")]
    assert sorted(qemu.ours()) == sorted([*tops, *(f"{top}-d" for top in tops)])
    assert all(qemu.nodes[top] == f"{top}-d" for top in tops)
    assert all("socket=/nbd.sock" in qemu.nodes[f"{top}-d"] for top in tops)


def test_all_goes_well() -> None:
    qemu = ModelQemu()
    error, told = run(qemu)
    assert error is None
    assert qemu.devices == NEW
    check_clean(qemu)
    assert {"old-vda", "old-vdb"} < qemu.nodes.keys(), "the old disks are as they were"
    assert told.lines == []
    # Again: there is nothing to do, and nothing is done.
    before = len(qemu.said)
    assert run(qemu, plan=Plan((), {"vda": "data", "vdb": "log"}, ()))[0] is None
    assert {command for command, _ in qemu.said[before:]} <= set(ASKING)


def commands() -> int:
    qemu = ModelQemu()
    run(qemu)
    return len(qemu.said)


COMMANDS = commands()


@pytest.mark.parametrize("at", range(COMMANDS))
def test_a_command_that_is_refused(at: int) -> None:
    qemu = ModelQemu(refuse=lambda number, command: number == at and command not in ASKING)
    error, _ = run(qemu)
    if error is None:
        assert qemu.devices == NEW
    elif isinstance(error, AdoptionPartly):
        over = [disk for disk, node in qemu.devices.items() if node == NEW[disk]]
        assert len(over) == 1
        assert f"{over[0]}: on their volumes" in error.why
    else:
        assert isinstance(error, AdoptionUndone), error
        assert qemu.devices == OLD
        assert "no, and not why" in error.why
    check_clean(qemu)


@pytest.mark.parametrize("is_done", [False, True])
@pytest.mark.parametrize("at", range(COMMANDS))
def test_a_connection_that_is_lost_and_comes_back(at: int, is_done: bool) -> None:
    def here(number: int, _: str) -> bool:
        return number == at

    qemu = ModelQemu(lose_after=here) if is_done else ModelQemu(lose=here)
    error, _ = run(qemu)
    if error is None:
        assert qemu.devices == NEW
    else:
        assert isinstance(error, AdoptionUndone | AdoptionPartly), error
        assert (qemu.devices == OLD) is isinstance(error, AdoptionUndone)
    check_clean(qemu)


@pytest.mark.parametrize("is_done", [False, True])
@pytest.mark.parametrize("at", range(COMMANDS))
def test_a_connection_that_is_lost_for_ever(at: int, is_done: bool) -> None:
    """As a killed adopt leaves it: it is told, and another one goes on, or cleans up."""

    def here(number: int, _: str) -> bool:
        return number == at

    qemu = ModelQemu(can_connect_again=False)
    qemu.lose, qemu.lose_after = (here, qemu.lose) if not is_done else (qemu.lose, here)
    error, _ = run(qemu)
    if error is not None:
        assert isinstance(error, HypervisorFailed | AdoptionPartly), error
        assert "gone" in error.why or "lost" in error.why
        assert error.hint
    qemu.lose = qemu.lose_after = lambda number, command: False
    qemu.is_connected = qemu.can_connect_again = True
    again, _ = run(qemu, ways(), plan_of(qemu))
    if again is not None:
        assert isinstance(again, AdoptionUndone)
        assert "not on old-v" in again.why, "what was told to complete did so right after it was looked at"
        check_clean(qemu)
        adopt(plan_of(qemu), qemu, ways(), StepClock(), Quiet())
    assert qemu.devices == NEW
    check_clean(qemu)


class Quiet:
    """Whoever does not listen."""

    def progress(self, moves: Mapping[str, Job], turn: Turn) -> None:
        return None

    def tell(self, line: str) -> None:
        return None


@pytest.mark.parametrize("looks", range(8))
def test_it_is_ended_at_any_turn(looks: int) -> None:
    qemu, asked = ModelQemu(), 0

    def is_ended() -> bool:
        nonlocal asked
        asked += 1
        return asked > looks

    error, told = run(qemu, ways(is_ended=is_ended, cut=lambda: cut(qemu)))
    if error is None:
        assert qemu.devices == NEW
    else:
        assert isinstance(error, Ended)
        assert qemu.devices == OLD
        assert told.lines == ["ended: what was begun is undone"]
    check_clean(qemu)


def test_a_job_that_fails_is_undone() -> None:
    qemu = ModelQemu()

    def agent() -> Agent:
        for job in qemu.jobs.values():
            if job.offset:
                job.status, job.error = "concluded", "Input/output error"
        return Agent()

    error, _ = run(qemu, ways(agent))
    assert isinstance(error, AdoptionUndone)
    assert "Input/output error" in error.why
    assert qemu.devices == OLD
    check_clean(qemu)


def test_an_agent_that_stays_away_is_given_up_and_undone() -> None:
    qemu = ModelQemu(silent=True)
    for trouble in ("the agent is not running", ""):
        error, told = run(qemu, ways(lambda trouble=trouble: Agent(trouble), cut=lambda: cut(qemu)))  # type: ignore[misc]
        assert isinstance(error, AdoptionUndone)
        assert "nothing moved for 60 s" in error.why
        assert trouble in error.why
        assert told.turns
        check_clean(qemu)
        qemu.silent = True


def test_jobs_that_stopped_are_resumed_until_they_go_on() -> None:
    qemu, asked = ModelQemu(), 0

    def agent() -> Agent:
        nonlocal asked
        asked += 1
        if asked == 3:
            for job in qemu.jobs.values():
                job.status, job.well = "paused", False
            qemu.silent = True
        if asked == 40:
            qemu.silent = False
        return Agent()

    error, _ = run(qemu, ways(agent))
    assert error is None
    assert qemu.devices == NEW
    resumed = [arguments for command, arguments in qemu.said if command == "block-job-resume"]
    assert 4 <= len(resumed) <= 24, "once a second for each"
    check_clean(qemu)


def test_a_full_journal_pauses_copying() -> None:
    qemu, asked = ModelQemu(), 0

    def agent() -> Agent:
        nonlocal asked
        asked += 1
        return Agent("", 0.9 if 2 <= asked < 20 else 0.1)

    error, told = run(qemu, ways(agent))
    assert error is None
    assert [turn.why for turn in told.turns if turn.why]
    assert any(command == "block-job-pause" for command, _ in qemu.said)
    check_clean(qemu)


def test_an_agent_that_hangs_amid_the_cut_over() -> None:
    qemu = ModelQemu()

    def hang(_: int, command: str) -> bool:
        if command == "block-job-complete":
            qemu.silent = True
        return False

    qemu.refuse = hang
    error, _ = run(qemu)
    assert isinstance(error, AdoptionUndone)
    assert "the agent hangs" in error.why
    assert qemu.devices == OLD
    assert any(command == "yank" for command, _ in qemu.said)
    check_clean(qemu)


def test_a_disk_below_an_overlay_is_left_alone() -> None:
    """Somebody laid something over a volume since: QEMU tells of what is on top alone."""
    qemu = ModelQemu()
    assert run(qemu)[0] is None
    qemu.nodes["overlay"] = qemu.devices["vda"]
    qemu.devices["vda"] = "overlay"
    nodes, before = dict(qemu.nodes), len(qemu.said)
    assert run(qemu, plan=Plan((), {"vdb": "log"}, ("vda",)))[0] is None
    assert qemu.nodes == nodes
    yanked = [given for command, given in qemu.said[before:] if command == "yank"]
    assert yanked == [], "its connection is cut"


def test_what_stays_in_qemu_is_named() -> None:
    qemu = ModelQemu(refuse=lambda number, command: command in ("blockdev-reopen", "blockdev-del"))
    error, _ = run(qemu)
    assert isinstance(error, HypervisorFailed)
    assert "cdp-adopt-" in error.why
    assert qemu.devices == OLD


def test_a_dry_run_leaves_nothing_and_names_what_fails() -> None:
    qemu = ModelQemu()
    assert try_connections(plan_of(qemu), qemu, "/nbd.sock") == []
    assert qemu.ours() == []
    qemu.refuse = lambda number, command: command == "blockdev-add"
    assert len(try_connections(plan_of(qemu), qemu, "/nbd.sock")) == 2
    assert qemu.ours() == []
