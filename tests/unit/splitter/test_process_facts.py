"""What the splitter's process shows of errors: each with its time, and anew when it comes again."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace
from typing import cast

from cdp_agent.splitter.capture import Capture
from cdp_agent.splitter.failures import Failures
from cdp_agent.splitter.files import OsFiles
from cdp_agent.splitter.process import _Process
from cdp_agent.splitter.settings import SplitterSettings


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
