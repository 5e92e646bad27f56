"""What the splitter's process shows of errors: each with its time, and anew when it comes again."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from cdp_agent.splitter.capture import Capture
from cdp_agent.splitter.failures import Failure, Failures
from cdp_agent.splitter.process import _Process
from cdp_agent.splitter.settings import SplitterSettings
from nbd_export.files import OsFiles


class SettableClock:
    """A wall clock that stands still until it is set."""

    now_ns = 10**18

    def wall_ns(self) -> int:
        return self.now_ns

    def boottime_ns(self) -> int:
        return self.now_ns

    def sleep(self, seconds: float) -> None:
        raise AssertionError("nothing waits here")


def test_an_error_keeps_its_time_until_it_comes_again(tmp_path: Path) -> None:
    settings = SplitterSettings(
        journal_dir=tmp_path, domain=bytes(16), volumes=(), limit_bytes=1 << 30, socket=tmp_path / "s"
    )
    clock, failures = SettableClock(), Failures()
    process = _Process(settings, clock, OsFiles(), os.urandom, lambda: None, lambda: None)
    capture = cast("Capture", SimpleNamespace(failures=failures))
    process._take_error(capture)
    assert process._last_error == ("", 0)
    failures.last_error = "writing the intent map: no room"
    process._take_error(capture)
    first = process._last_error
    assert first == ("writing the intent map: no room", clock.now_ns)
    clock.now_ns += 5 * 10**9
    process._take_error(capture)
    assert process._last_error == first
    failures.last_error = "writing the intent map: no room"
    process._take_error(capture)
    assert process._last_error == (first[0], clock.now_ns)


class EndOfTurn(Exception):
    """Ends the loop of syncs."""


@pytest.mark.parametrize(("fails", "shown"), [(True, ""), (False, "syncing: [Errno 28] no room")])
def test_what_failed_is_not_told_again_in_fewer_words(tmp_path: Path, fails: bool, shown: str) -> None:
    """That it was told may have been taken while the sync still waited for the other disk."""
    settings = SplitterSettings(
        journal_dir=tmp_path,
        domain=bytes(16),
        volumes=(),
        limit_bytes=1 << 30,
        socket=tmp_path / "s",
        sync_seconds=0.0,
    )
    process = _Process(settings, SettableClock(), OsFiles(), os.urandom, lambda: None, lambda: None)
    failures, error = Failures(), OSError(28, "no room")

    async def sync() -> None:
        failures.backing = Failure("syncing the backing store", error) if fails else None
        raise error

    async def go_on() -> bool:
        return False

    async def keep_intents() -> None:
        raise EndOfTurn

    async def turn() -> None:
        appending = SimpleNamespace(sync_is_due=asyncio.Event())
        capture = SimpleNamespace(
            appending=appending, failures=failures, go_on=go_on, sync=sync, keep_intents=keep_intents
        )
        await process._sync_from_time_to_time(cast("Capture", capture))

    with pytest.raises(EndOfTurn):
        asyncio.run(turn())
    assert failures.last_error == shown
