"""What a rehearsal notes before it defines VMs, and that nothing else is ever touched by it."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import cast

import pytest

from cdp_container.clock import SystemClock
from cdp_container.domain.machine import Description
from cdp_container.domain.machine_records import Configuration, Member, Native
from cdp_container.errors import AlreadyRunning, CdpError, ConfigInvalid
from cdp_container.machine_errors import MachineFailed
from rehydrate.boot.at_cut import AtCut
from rehydrate.boot.machines import Known
from rehydrate.container import Secret
from rehydrate.points import RestorePlan
from rehydrate.rehearsal import fleet
from rehydrate.rehearsal.fleet import Booting, Fleet
from rehydrate.rehearsal.left_machines import FILE_NAME, Left, Record, taken_record
from rehydrate.rehearsal.stages import Stage
from rehydrate.runbook.check import AtPoint
from rehydrate.runbook.model import RunbookSettings
from tests.unit.rehydrate.boot.vms import Invented

DB = Known("db-dr-test", "u", "/srv/x", "db-dr-test")


def booting(directory: Path) -> Booting:
    runbook = RunbookSettings.model_validate({"target": "qemu", "directory": str(directory)})
    return Booting(runbook, lambda _: None, "/container", Secret)


@pytest.fixture
def machines(monkeypatch: pytest.MonkeyPatch) -> Invented:
    found = Invented()
    monkeypatch.setattr(fleet, "machines_for", lambda target, uri: found)
    return found


def enter(directory: Path, note: Callable[[str], None] = lambda _: None) -> Fleet:
    return Fleet(booting(directory), SystemClock(), note)


def test_it_is_read_as_it_was_written_and_goes(tmp_path: Path) -> None:
    record, left = Record(tmp_path), Left("libvirt", "qemu:///system", (DB,), "/srv/dr/served")
    assert record.read() is None
    record.write(left)
    assert record.read() == left
    record.drop()
    assert record.read() is None


@pytest.mark.parametrize(
    "known", [Known("db", "u", "/srv/x", "db-dr-test"), Known("db-dr-test", "u", "/srv/x", "db")]
)
def test_what_is_called_otherwise_is_never_touched(tmp_path: Path, machines: Invented, known: Known) -> None:
    names = {"title": known.title, "uuid": "u", "directory": "/srv/x", "file_name": known.file_name}
    both = [{**names}, {**names, "title": "x-dr-test", "file_name": "x-dr-test"}]
    members = {"version": 1, "target": "qemu", "uri": "", "machines": both, "overlay": ""}
    (tmp_path / FILE_NAME).write_text(json.dumps(members))
    with pytest.raises(MachineFailed, match="no name of a rehearsal"), enter(tmp_path):
        pass
    assert machines.removed == []
    with pytest.raises(AssertionError):
        Record(tmp_path).write(Left("qemu", "", (known,)))


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{}", '{"version": 2}', '{"version": 1, "machines": [{}]}', '{"version": 1, "machines": 5}'],
)
def test_one_that_makes_no_sense_is_refused(tmp_path: Path, machines: Invented, text: str) -> None:
    (tmp_path / FILE_NAME).write_text(text)
    with pytest.raises(ConfigInvalid), enter(tmp_path):
        pass
    assert (tmp_path / FILE_NAME).read_text() == text
    assert machines.removed == []


def test_a_note_that_others_may_have_written_is_refused(
    tmp_path: Path, machines: Invented, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It says which processes are ended: who can write to the directory would have root end theirs."""
    record = Record(tmp_path)
    record.write(Left("qemu", "", (DB,), "/srv/x/served"))

    def refused(why: str) -> None:
        with pytest.raises(ConfigInvalid, match=why), enter(tmp_path):
            pass
        assert machines.removed == []
        assert os.path.lexists(record.path), "for whoever looks at it"

    for mode in (0o620, 0o602):
        record.path.chmod(mode)
        refused(f"others can write it .mode {mode:o}")
    record.path.chmod(0o600)
    with monkeypatch.context() as patch:
        patch.setattr(os, "geteuid", lambda: os.getuid() + 1)
        refused(f"it is of the user {os.getuid()}, not ours")
        with pytest.raises(ConfigInvalid, match="not ours"):  # before anything is started that it is to name
            record.write(Left("qemu", "", (DB,)))
    record.path.rename(tmp_path / "theirs")
    record.path.symlink_to("theirs")
    refused("symbolic links")
    record.path.unlink()
    os.mkfifo(record.path)
    refused("it is no file")


def test_no_link_is_followed_to_write_the_note(tmp_path: Path) -> None:
    other, record = tmp_path / "other", Record(tmp_path)
    other.write_text("another's")
    (tmp_path / f"{FILE_NAME}.new").symlink_to(other)
    with pytest.raises(CdpError):
        record.write(Left("qemu", "", (DB,)))
    assert other.read_text() == "another's"
    record.write(Left("qemu", "", (DB,)))  # it stands in nobody's way


def test_what_was_left_is_taken_away_first_and_told(tmp_path: Path, machines: Invented) -> None:
    Record(tmp_path).write(Left("qemu", "", (DB,)))
    told: list[str] = []
    with enter(tmp_path, told.append):
        assert machines.removed == ["db-dr-test"]
        assert "db-dr-test" in told[0]
        assert not (tmp_path / FILE_NAME).exists()


def test_what_cannot_be_taken_away_stays_noted(tmp_path: Path, machines: Invented) -> None:
    web = Known("web-dr-test", "u", "/srv/x", "web-dr-test")
    Record(tmp_path).write(Left("qemu", "", (DB, web)))
    machines.refused["db-dr-test"] = "libvirtd is away"
    with pytest.raises(MachineFailed, match="db-dr-test: libvirtd is away"), enter(tmp_path):
        pass
    assert machines.removed == ["web-dr-test"]
    assert Record(tmp_path).read() is not None


class Quiet:
    """See `Stage`: nobody looks."""

    def expect(self, total: int) -> None:
        pass

    def at(self, done: int, words: str) -> None:
        pass


def test_those_that_were_started_last_are_taken_away_first(tmp_path: Path, machines: Invented) -> None:
    def member(name: str) -> Member:
        one = Description(name, memory_bytes=1 << 20)
        return Member(name.encode(), Configuration(name, one, Native("description", "")))

    members = tuple(map(member, ("app", "base", "web")))
    after = {"app": {"start": {"after": ["base"]}}, "web": {"start": {"after": ["app"]}}}
    members_of = {"target": "qemu", "directory": str(tmp_path), "vms": after}
    asked = Booting(RunbookSettings.model_validate(members_of), lambda _: None, "/container", Secret)
    with Fleet(asked, SystemClock(), lambda _: None) as found:
        found.look(AtCut(members, AtPoint(members, {}, ())))
        found.bring_up(cast(RestorePlan, None), {}, tmp_path, cast(Stage, Quiet()), 0.0)
        assert machines.started == ["base", "app", "web"]
        found.remove()
    assert machines.removed == ["web-dr-test", "app-dr-test", "base-dr-test"]


def test_two_have_it_one_after_the_other(tmp_path: Path) -> None:
    refused = pytest.raises(AlreadyRunning, match="another rehearsal")
    with taken_record(tmp_path / "new"), refused, taken_record(tmp_path / "new"):
        pass
    with taken_record(tmp_path / "new"):
        pass
