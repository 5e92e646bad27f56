"""The splitter's process: what ends it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from cdp_agent.splitter.capture import Capture
from cdp_agent.splitter.process import run_splitter
from tests.unit.splitter.machine import Machine


def test_a_bug_in_the_sync_ends_it_loudly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Never serve on without syncing; the supervisor starts it again."""

    async def bug(capture: Capture) -> None:
        raise ZeroDivisionError("a bug")

    machine = Machine(tmp_path)
    monkeypatch.setattr(Capture, "sync", bug)
    settings = replace(machine.settings, sync_seconds=0.01)
    with pytest.raises(ZeroDivisionError, match="a bug"):
        run_splitter(settings, machine.clock, machine.files)
