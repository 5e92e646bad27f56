"""What `status` tells of volumes that an adoption fills or left half filled, and taking one as it is."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pytest

from cdp_agent.adopting.progress import LOCK_NAME, PROGRESS_NAME
from cdp_agent.cli.adopt_status import adopting_members, adopting_problems
from cdp_agent.cli.adopt_vm import Asked, adopt_vm
from cdp_agent.streamer.control import Answer, ControlServer
from cdp_agent.supervisor import take_lock
from cdp_container.clock import SystemClock
from cdp_container.domain.notes import Filling, Notes, save_notes
from cdp_container.errors import AlreadyRunning, CdpError, UsageError
from tests.unit.agent.test_adopt_vm import agent

FILLING = Filling(b"a" * 16, "web", 1_700_000_000_000_000_000)
DISKS = {"vda": {"done_bytes": 1, "total_bytes": 3}}
COPYING = {"vm": "web", "standing": "copying", "why": "", "disks": DISKS}


def told(folder: Path, *filling: Filling) -> list[str]:
    _, identity = agent(folder, f"qmp: {folder}/qmp")
    return adopting_problems(adopting_members(folder, identity, Notes(filling=filling)))


def test_nothing_is_told_of_nothing(tmp_path: Path) -> None:
    assert told(tmp_path) == []
    assert told(tmp_path, replace(FILLING, space=b"z" * 16)) == [], "of a volume that is none any more"


def test_a_copy_that_stands_still_says_what_ends_it(tmp_path: Path) -> None:
    (tmp_path / PROGRESS_NAME).write_bytes(orjson.dumps(COPYING))  # of an `adopt` that was killed
    half, hint = told(tmp_path, FILLING)
    assert half == (
        "not whole, as they hold a part of a copy of VM web (begun 2023-11-14 22:13:20 UTC, nobody copies): a"
    )
    assert "`cdp-agent adopt web --accept VOLUME`" in hint


def test_a_copy_that_goes_on_says_how_far_it_is(tmp_path: Path) -> None:
    lock = take_lock(tmp_path / LOCK_NAME, SystemClock())
    try:
        assert "nobody copies" in told(tmp_path, FILLING)[0], "it has yet to begin"
        (tmp_path / PROGRESS_NAME).write_bytes(orjson.dumps(COPYING))
        assert told(tmp_path, FILLING) == [
            "VM web is being adopted since 2023-11-14 22:13:20 UTC (vda 33 %); not whole until then: a"
        ]
        (tmp_path / PROGRESS_NAME).write_bytes(orjson.dumps({**COPYING, "why": "the journal is full"}))
        assert "(vda 33 %, the journal is full)" in told(tmp_path, FILLING)[0]
        assert "nobody copies" in told(tmp_path, replace(FILLING, vm="other"))[0]
    finally:
        os.close(lock)


def test_a_copy_that_is_over_waits_for_a_point(tmp_path: Path) -> None:
    assert told(tmp_path, replace(FILLING, ended=True)) == [
        "the copy of VM web is over, and no recovery point has all of it yet: a"
    ]


# --- taking a volume as it is --------------------------------------------------------------------


def accepting(volume: str = "a", vm: str = "web", as_json: bool = False) -> Asked:
    return Asked(vm, [], [], None, "30m", as_json=as_json, accept=volume)


@pytest.mark.parametrize("as_json", [False, True])
def test_a_volume_is_taken_as_it_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], as_json: bool
) -> None:
    heard: list[Any] = []

    def handle(request: dict[str, Any], answer: Callable[[Answer], None]) -> None:
        heard.append((request["command"], request["volumes"]))
        answer({"ok": True, "changed": ["a"]})

    config, _ = agent(tmp_path, f"qmp: {tmp_path}/qmp")
    save_notes(tmp_path, Notes(filling=(FILLING,)))
    server = ControlServer(tmp_path, handle)
    try:
        assert adopt_vm(config, accepting(as_json=as_json), SystemClock()) == 0
    finally:
        server.close()
    assert heard == [("filled", ["a"])]
    said = capsys.readouterr().out
    assert (json.loads(said) == {"vm": "web", "accepted": "a"}) if as_json else ("volume a counts" in said)


@pytest.mark.parametrize(
    ("filling", "wanted"),
    [
        ((), accepting()),
        ((replace(FILLING, ended=True),), accepting()),
        ((FILLING,), accepting(vm="other")),
        ((FILLING,), accepting(volume="b")),
        ((replace(FILLING, space=b"z" * 16),), accepting()),
    ],
)
def test_what_no_adoption_of_the_vm_left_is_not_taken(
    tmp_path: Path, filling: tuple[Filling, ...], wanted: Asked
) -> None:
    config, _ = agent(tmp_path, f"qmp: {tmp_path}/qmp")
    save_notes(tmp_path, Notes(filling=filling))
    with pytest.raises(UsageError, match="half filled"):
        adopt_vm(config, wanted, SystemClock())


def test_nothing_is_taken_while_it_is_copied(tmp_path: Path) -> None:
    config, _ = agent(tmp_path, f"qmp: {tmp_path}/qmp")
    save_notes(tmp_path, Notes(filling=(FILLING,)))
    lock = take_lock(tmp_path / LOCK_NAME, SystemClock())
    try:
        with pytest.raises(AlreadyRunning):
            adopt_vm(config, accepting(), SystemClock())
    finally:
        os.close(lock)
    with pytest.raises(UsageError, match="goes with no disks"):
        adopt_vm(config, replace(accepting(), disks=["vda=a"]), SystemClock())


def test_an_agent_that_is_not_there_is_told_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cdp_agent.adopting.noting.NOTE_SECONDS_MAX", 0.0)
    config, _ = agent(tmp_path, f"qmp: {tmp_path}/qmp")
    save_notes(tmp_path, Notes(filling=(FILLING,)))
    with pytest.raises(CdpError, match="does not answer"):
        adopt_vm(config, accepting(), SystemClock())
