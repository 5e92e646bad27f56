"""What `status` says of VMs: what is known, since when nothing new is, and which disks are not protected."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cdp_agent.cli import vm_status
from cdp_agent.cli.vm_status import ask_hypervisors, vm_lines, vm_problems
from cdp_container.domain.identity import AgentIdentity, VmIdentity

KNOWN: dict[str, Any] = {
    "name": "web", "at": "/run/web", "asked": True, "known_ns": 1_700_000_000_000_000_000,
    "problem": None, "problem_ns": None, "unprotected": [], "odd": [],
}  # fmt: skip
HANGS = {**KNOWN, "problem": "it hangs", "problem_ns": 1_700_000_060_000_000_000}
NEVER = {**HANGS, "known_ns": None}
FAR = {**KNOWN, "name": "far", "at": None, "asked": False, "known_ns": None}


def test_what_is_well_is_no_problem() -> None:
    assert vm_problems([KNOWN, FAR], running=True) == []
    assert vm_problems(None, running=True) == []
    assert vm_lines(None) == []


def test_one_that_cannot_be_asked_is_told_with_both_times() -> None:
    (problem,) = vm_problems([HANGS], running=True)
    assert "VM web cannot be asked since 2023-11-14 22:14:20 UTC" in problem
    assert "what was known at 2023-11-14 22:13:20 UTC stays: it hangs" in problem
    (problem,) = vm_problems([NEVER], running=True)
    assert "nothing is known" in problem


def test_disks_that_are_not_protected_and_what_fits_nothing() -> None:
    problems = vm_problems([{**KNOWN, "unprotected": ["vdb"], "odd": ["disks: it has no disk vdz"]}], True)
    assert "`disks: {vdb: null}`" in problems[0]
    assert problems[1] == "VM web: disks: it has no disk vdz"


def test_an_agent_that_does_not_run_has_worse_problems() -> None:
    assert vm_problems([HANGS], running=False) == []


def test_a_line_for_each() -> None:
    assert vm_lines([KNOWN, FAR]) == [
        ("VMs", "2"),
        ("  web", "known as of 2023-11-14 22:13:20 UTC, /run/web"),
        ("  far", "known from the container, and not asked for here"),
    ]
    assert "not known yet" in vm_lines([{**KNOWN, "known_ns": None}])[1][1]


def test_nobody_is_asked_where_there_is_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []

    def call(*arguments: object) -> None:
        asked.append(arguments)
        raise OSError("nobody listens")

    monkeypatch.setattr(vm_status, "call", call)
    for vms in ((), (VmIdentity("a", b"a" * 16),), (VmIdentity("a", b"a" * 16, "qmp", "/x", removed=True),)):
        ask_hypervisors(tmp_path, _identity(*vms))
    assert not asked
    ask_hypervisors(tmp_path, _identity(VmIdentity("a", b"a" * 16, "qmp", "/x")))
    assert len(asked) == 1, "and that nobody answers is no failure of a marker"


def _identity(*vms: VmIdentity) -> AgentIdentity:
    return AgentIdentity(b"d" * 16, "shop", "a", "none", b"", b"", b"", bytes(32), (), vms=vms)
