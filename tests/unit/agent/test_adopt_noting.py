"""What `cdp-agent adopt` tells the agent where an adoption does not just go well."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import pytest

from cdp_agent.adopting import words
from cdp_agent.adopting.checks import Plan, Wishes
from cdp_agent.adopting.link import Link, LinkLost
from cdp_agent.adopting.noting import Progress
from cdp_agent.adopting.relay import Relay
from cdp_agent.cli import adopt_vm
from cdp_agent.cli.accepted import load_running
from cdp_agent.cli.adopt_vm import Asked, _Job
from cdp_agent.streamer.control import Answer, ControlServer
from cdp_container.clock import SystemClock
from cdp_container.domain.notes import Filling, Notes, save_notes
from cdp_container.errors import TargetUnsuitable
from tests.unit.adopting.model_qemu import ModelQemu
from tests.unit.adopting.test_work import plan_of
from tests.unit.agent.test_adopt_vm import agent

FILLING = Filling(b"a" * 16, "web", 1)


def job(folder: Path) -> _Job:
    config, identity = agent(folder, f"qmp: {folder}/qmp")
    asked = Asked("web", [], [], None, "30m")
    return _Job(load_running(config), identity.vms[0], asked, Wishes({}), 60.0, folder, SystemClock())


@contextmanager
def heard(folder: Path) -> Iterator[list[Any]]:
    """What the agent is told, which notes it."""
    found: list[Any] = []

    def handle(request: dict[str, Any], answer: Callable[[Answer], None]) -> None:
        found.append((request["command"], request["volumes"]))
        answer({"ok": True, "changed": request["volumes"]})

    server = ControlServer(folder, handle)
    try:
        yield found
    finally:
        server.close()


@dataclass
class FakeRelay:
    has_written: bool
    is_closed: bool = False

    def close(self) -> None:
        self.is_closed = True


@dataclass
class Told:
    lines: list[str] = field(default_factory=list)

    def tell(self, line: str) -> None:
        self.lines.append(line)


def test_a_disk_that_is_the_volume_already_is_told_where_nobody_lived_to_say_it(tmp_path: Path) -> None:
    done = Plan((), {"vda": "a"}, ())
    with heard(tmp_path) as found:
        job(tmp_path)._note_found(done)
        assert found == [], "it is known"
        save_notes(tmp_path, Notes(filling=(FILLING,)))
        job(tmp_path)._note_found(Plan((), {"vda": "other"}, ()))
        assert found == [], "another volume is half filled"
        job(tmp_path)._note_found(done)
    assert found == [("filled", ["a"])]


@pytest.mark.parametrize(
    ("filling", "is_first", "words"),
    [
        ((), False, "VM web is protected since it was adopted; its newest recovery point is 1.7"),
        ((FILLING,), True, "VM web is protected from 1.7 on"),
        ((replace(FILLING, ended=True),), True, "VM web is protected from 1.7 on"),
        ((replace(FILLING, space=b"z" * 16),), False, "VM web is protected since it was adopted"),
    ],
)
def test_the_first_point_of_a_vm_that_was_adopted_before_stays_what_it_was(
    tmp_path: Path, filling: tuple[Filling, ...], is_first: bool, words: str
) -> None:
    """Only where the last run did not live to see it is the next one's the first."""
    one = job(tmp_path)
    save_notes(tmp_path, Notes(filling=filling))
    again = Plan((), {"vda": "a"}, ())
    assert one._is_first(again) is is_first
    lines = [*one._lines(again, 0.0, {"epoch": 1, "cut": 7}, is_first, {})]
    assert any(line.startswith(words) for line in lines), lines
    unwaited = "\n".join(one._lines(again, 0.0, None, is_first, {}))
    assert ("was not waited for" in unwaited) is is_first
    assert one._is_first(plan_of(ModelQemu())), "disks go over"


@pytest.mark.parametrize(
    ("has_written", "were_whole", "taken_back"),
    [(False, {"a"}, True), (True, {"a"}, False), (False, set(), False)],
)
def test_only_what_has_nothing_of_the_copy_is_whole_again(
    tmp_path: Path, has_written: bool, were_whole: set[str], taken_back: bool
) -> None:
    relay, told = FakeRelay(has_written), Told()
    with heard(tmp_path) as found:
        undone = job(tmp_path)._undone
        undone(cast(Relay, relay), frozenset(were_whole), cast(Progress, told), lambda: False)
    assert relay.is_closed, "else something might be written yet"
    assert found == ([("filled", ["a"])] if taken_back else [])
    assert bool(told.lines) != taken_back


def test_what_cannot_be_taken_back_is_told(tmp_path: Path) -> None:
    told = Told()
    job(tmp_path)._undone(
        cast(Relay, FakeRelay(has_written=False)), frozenset({"a"}), cast(Progress, told), lambda: True
    )
    assert "not whole until it is adopted" in told.lines[0]


def test_of_disks_that_went_over_in_part_those_that_did_are_told(tmp_path: Path) -> None:
    qemu = ModelQemu()
    plan = plan_of(qemu)
    over = plan.moves[0]
    qemu.devices[over.disk.name] = over.names.top
    with heard(tmp_path) as found:
        job(tmp_path)._note_those_over(plan, cast(Link, qemu), lambda: False)
        assert found == [("filled", [over.volume.name])]
        found.clear()
        qemu.devices[over.disk.name] = over.disk.node
        job(tmp_path)._note_those_over(plan, cast(Link, qemu), lambda: False)
        assert found == []


def test_of_a_qemu_that_is_gone_nothing_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(do: object) -> None:
        raise LinkLost("ask QEMU", "it is gone")

    monkeypatch.setattr(adopt_vm, "look", gone)
    with heard(tmp_path) as found:
        job(tmp_path)._note_those_over(plan_of(ModelQemu()), cast(Link, ModelQemu()), lambda: False)
    assert found == []


def test_nothing_stays_noted_where_the_copy_cannot_even_be_passed_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else no marker and no release would be taken any more, for a volume that nobody touched."""

    def refusing(*_: object) -> Relay:
        raise TargetUnsuitable("listen", "its name is too long")

    monkeypatch.setattr(adopt_vm, "Relay", refusing)
    qemu = ModelQemu()
    plan = plan_of(qemu)
    volumes = [move.volume.name for move in plan.moves]
    with heard(tmp_path) as found, pytest.raises(TargetUnsuitable):
        job(tmp_path)._move(plan, cast(Link, qemu), lambda: False)
    assert found == [("filling", volumes), ("filled", sorted(volumes))]


def test_no_copy_of_an_earlier_run_goes_on_by_the_relay_of_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its volume may have been accepted as it is, and counts as whole: nothing may be written there."""
    qemu = ModelQemu()
    plan = plan_of(qemu)
    other, mine = plan.moves
    for command, given in (
        ("blockdev-add", words.connection(other.names.seed, "/seed.sock", other.volume.name, 0)),
        ("blockdev-add", words.top(other.names.top, other.names.seed, words.FIND_ZEROES)),
        ("blockdev-mirror", words.mirror(other.names.job, other.disk.node, other.names.top, 0)),
    ):
        qemu.do(command, given)

    def refusing(*_: object) -> Relay:
        assert other.names.job not in qemu.jobs
        raise TargetUnsuitable("listen", "its name is too long")

    monkeypatch.setattr(adopt_vm, "Relay", refusing)
    with heard(tmp_path), pytest.raises(TargetUnsuitable):
        job(tmp_path)._move(replace(plan, moves=(mine,)), cast(Link, qemu), lambda: False)
