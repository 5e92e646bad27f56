"""libvirt as a hypervisor, by a `virsh` that is invented: asked by UUID, and nothing of others is touched."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable
from pathlib import Path
from typing import Any

import pytest

from cdp_container.machine_errors import MachineFailed
from rehydrate.boot import libvirt
from rehydrate.boot.libvirt import LibvirtMachines
from rehydrate.boot.machines import Power, Seen
from tests.unit.rehydrate.boot.vms import UUID, ready

SECONDS_MAX = 60.0
VIRSH = """#!/bin/sh
# $BASE/calls: what it was asked; $BASE/state, $BASE/xml: what it answers; $BASE/away: no lookup succeeds.
printf '%s\\n' "$*" >> "$BASE/calls"
shift 3
case "$1" in
    domstate)
        [ -e "$BASE/state" -a ! -e "$BASE/away" ] || { echo "error: failed to get domain '$2'" >&2; exit 1; }
        cat "$BASE/state" ;;
    dumpxml) cat "$BASE/xml" ;;
    list) cat "$BASE/listed" 2>/dev/null; [ ! -e "$BASE/lists-nothing" ] ;;
    start) echo running > "$BASE/state" ;;
    destroy) echo 'shut off' > "$BASE/state" ;;
    undefine) rm "$BASE/state" ;;
    qemu-agent-command) cat "$BASE/agent" ;;
    *) cat "$BASE/other" 2>/dev/null || true ;;
esac
"""


@pytest.fixture
def base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    virsh = tmp_path / "bin" / "virsh"
    virsh.parent.mkdir()
    virsh.write_text(VIRSH.replace("$BASE", str(tmp_path)))
    virsh.chmod(0o755)
    monkeypatch.setenv("PATH", f"{virsh.parent}:{os.environ['PATH']}")
    return tmp_path


def document(base: Path, name: str = "web-dr-test", console: str = "web-dr-test.console") -> None:
    log = f'<serial type="pty"><log file="{base}/{console}"/></serial>'
    (base / "xml").write_text(f"<domain><name>{name}</name><devices>{log}</devices></domain>")


def run(work: Awaitable[Any]) -> Any:  # noqa: ANN401
    async def within() -> Any:  # noqa: ANN401
        return await asyncio.wait_for(work, SECONDS_MAX)

    return asyncio.run(within())


def calls(base: Path) -> list[str]:
    """Without what all have in common."""
    common = "--quiet --connect qemu:///x "
    return [line.removeprefix(common) for line in (base / "calls").read_text().splitlines()]


MACHINES = LibvirtMachines("qemu:///x")


def test_one_that_is_not_there_one_that_runs_and_one_that_stands_still(base: Path) -> None:
    vm = ready(base).known
    document(base)
    assert run(MACHINES.look(vm)) == Seen(Power.GONE)
    for state, power in (("running", Power.RUNNING), ("shut off", Power.OFF), ("paused", Power.STILL)):
        (base / "state").write_text(f"{state}\n")
        assert run(MACHINES.look(vm)) == Seen(power, state)
    assert all(UUID in line for line in calls(base) if not line.startswith("list ")), "never by name"


@pytest.mark.parametrize("other", [{"name": "web"}, {"console": "other.console"}])
def test_another_vm_with_its_uuid_is_left_alone(base: Path, other: dict[str, str]) -> None:
    document(base, **other)
    (base / "state").write_text("running\n")
    with pytest.raises(MachineFailed, match="we did not define"):
        run(MACHINES.remove(ready(base).known))
    assert {line.split()[0] for line in calls(base)} == {"domstate", "dumpxml"}


def test_it_is_defined_started_stopped_and_forgotten(base: Path) -> None:
    one = ready(base)
    document(base)
    run(MACHINES.start(one))
    run(MACHINES.remove(one.known))
    asked = [line.split()[0] for line in calls(base)]
    assert [word for word in asked if word not in ("domstate", "dumpxml", "list")] == [
        "define",
        "start",
        "destroy",
        "undefine",
    ]
    run(MACHINES.remove(one.known))
    assert [line.split()[0] for line in calls(base)[-2:]] == ["domstate", "list"], "none is none"


def test_a_lookup_that_fails_is_no_vm_that_is_gone(base: Path) -> None:
    one = ready(base)
    document(base)
    (base / "state").write_text("running\n")
    (base / "away").touch()
    others = "11111111-2222-3333-4444-555555555555\n"
    (base / "listed").write_text(f"{others}{UUID.upper()}\n")
    for match in (f"failed to get domain '{UUID}'", f"whether it has the domain {UUID}"):
        for work in (MACHINES.look, MACHINES.remove):
            with pytest.raises(MachineFailed, match=match):
                run(work(one.known))
        (base / "listed").unlink(missing_ok=True)
        (base / "lists-nothing").touch()
    assert {line.split()[0] for line in calls(base)} == {"domstate", "list"}
    (base / "lists-nothing").unlink()
    (base / "listed").write_text(others)
    assert run(MACHINES.look(one.known)) == Seen(Power.GONE)


def test_a_libvirt_that_refuses_hangs_or_is_not_there(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    vm, virsh = ready(base).known, base / "bin" / "virsh"
    virsh.write_text("#!/bin/sh\necho error: failed to connect to the hypervisor >&2; exit 1\n")
    with pytest.raises(MachineFailed, match="failed to connect"):
        run(MACHINES.look(vm))
    monkeypatch.setattr(libvirt, "ASK_SECONDS_MAX", 0.3)
    virsh.write_text("#!/bin/sh\nexec sleep 600\n")
    hangs = LibvirtMachines("qemu:///x")
    with pytest.raises(MachineFailed, match="no answer within"):
        run(hangs.look(vm))
    monkeypatch.setenv("PATH", str(base))
    with pytest.raises(MachineFailed, match="virsh: No such file"):
        run(MACHINES.look(vm))


def test_what_the_agent_answers_makes_no_sense(base: Path) -> None:
    (base / "agent").write_text("nothing\n")
    with pytest.raises(MachineFailed, match="makes no sense"):
        run(MACHINES.ask_agent(ready(base).known, [["/bin/true"]]))
    (base / "agent").write_text('{"return": {"pid": 5, "exited": true, "exitcode": 0}}\n')
    run(MACHINES.ask_agent(ready(base).known, [["/bin/true"]]))


def test_one_that_ended_by_itself_before_it_was_stopped_is_forgotten(base: Path) -> None:
    """To stop what runs no more is refused by libvirt: no reason to leave it, and its disks, behind."""
    document(base)
    virsh = base / "bin" / "virsh"
    refusing = f"destroy) echo 'shut off' > {base}/state; echo 'error: domain is not running' >&2; exit 1 ;;"
    virsh.write_text(virsh.read_text().replace(f"destroy) echo 'shut off' > \"{base}/state\" ;;", refusing))
    assert refusing in virsh.read_text()
    (base / "state").write_text("running\n")
    run(MACHINES.remove(ready(base).known))
    assert not (base / "state").exists()


def test_one_that_cannot_be_stopped_is_told(base: Path) -> None:
    document(base)
    virsh = base / "bin" / "virsh"
    virsh.write_text(
        virsh.read_text().replace(f"destroy) echo 'shut off' > \"{base}/state\" ;;", "destroy) exit 1 ;;")
    )
    (base / "state").write_text("running\n")
    with pytest.raises(MachineFailed, match="destroy"):
        run(MACHINES.remove(ready(base).known))
    assert "undefine" not in {line.split()[0] for line in calls(base)}
