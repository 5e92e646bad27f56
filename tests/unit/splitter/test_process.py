"""The splitter's process: what ends it."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from cdp_agent.splitter.capture import Capture
from cdp_agent.splitter.closing import Closing
from cdp_agent.splitter.process import run_splitter
from cdp_container.domain.stopped import load_stopped
from cdp_container.journal.shared import SharedPages
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


def test_a_clean_stop_notes_what_the_disks_look_like(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who uses a disk later is noticed by that, whatever the clocks show."""

    async def stop_now(closing: Closing, stop: asyncio.Event) -> None:
        stop.set()

    machine = Machine(tmp_path)
    monkeypatch.setattr("cdp_agent.splitter.process._wait_for_gate", stop_now)
    assert run_splitter(machine.settings, machine.clock, machine.files) == 0
    stopped = load_stopped(machine.settings.journal_dir)
    assert stopped is not None
    assert [volume.is_untouched for volume in stopped.volumes] == [True] * len(machine.settings.volumes)
    pages = SharedPages(machine.settings.journal_dir / "shared")
    page = pages.splitter.read()
    pages.close()
    assert page is not None
    assert page.generation == stopped.generation
