"""What is said to a QEMU, and what is made of its answers: by one that is none."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from cdp_agent.imager import hypervisor
from cdp_agent.imager.hypervisor import Hypervisor


class Qemu:
    """Answers as it is told to; `said`: all commands, with their arguments."""

    def __init__(self, **answers: object) -> None:
        self.answers = answers
        self.said: list[tuple[str, Mapping[str, Any]]] = []

    def do(self, command: str, arguments: Mapping[str, Any] | None = None, fd: int | None = None) -> object:
        self.said.append((command, arguments or {}))
        return self.answers.get(command.replace("-", "_"), {})

    def close(self) -> None:
        """Nothing is open."""


def hypervisor_of(qemu: Qemu, folder: Path) -> Hypervisor:
    return Hypervisor(qemu, "run", folder, "read.sock", lambda: 1.0, time.sleep)  # type: ignore[arg-type]


def test_what_is_kept_for_a_cycle_is_never_flushed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the guest stands still at the cycle's end until all that it overwrote is on the journal's disk."""
    monkeypatch.setattr(hypervisor, "FLEECE_BYTES_MAX", 1 << 20)
    qemu = Qemu(add_fd={"fdset-id": 7})
    connected = hypervisor_of(qemu, tmp_path)
    connected.instant({"node": 1 << 20}, "old", "new")
    connected.close()
    (overlay,) = [arguments for command, arguments in qemu.said if command == "blockdev-add"]
    assert overlay["cache"] == overlay["file"]["cache"] == {"no-flush": True}
    assert overlay["file"]["filename"] == "/dev/fdset/7"
