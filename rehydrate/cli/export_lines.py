"""How far an export is, on stderr: JSON for programs, else one line that changes, or lines in a log.

What is done does not belong here (rehydrate.export).
"""

from __future__ import annotations

import json
import shutil
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from cdp_container.clock import Clock
from cdp_container.console import printable, say
from rehydrate.cli.progress import JSON_EVERY_NS, TEXT_EVERY_NS
from rehydrate.cli.stage_lines import TERMINAL_EVERY_NS
from rehydrate.cli.text import seconds_text, size_text

_CLEAR_LINE = "\r\x1b[K"


class ExportLines:
    """Shows steps, one after the other. Any thread may tell what was done."""

    def __init__(self, clock: Clock, as_json: bool) -> None:
        self._clock = clock
        self._as_json = as_json
        self._is_terminal = sys.stderr.isatty() and not as_json
        every_ns = TERMINAL_EVERY_NS if self._is_terminal else TEXT_EVERY_NS
        self._every_ns = JSON_EVERY_NS if as_json else every_ns
        self._lock = threading.Lock()

    @contextmanager
    def step(self, name: str, what: str, total_bytes: int) -> Iterator[Callable[[int], None]]:
        """One step of one image; gives what is to be told of bytes that were done. Its end stays."""
        began_ns = shown_ns = self._clock.boottime_ns()
        done_bytes = 0

        def report(count: int) -> None:
            nonlocal done_bytes, shown_ns
            with self._lock:
                done_bytes += count
                now_ns = self._clock.boottime_ns()
                if now_ns - shown_ns >= self._every_ns:
                    shown_ns = now_ns
                    self._show("progress", name, what, done_bytes, total_bytes, now_ns - began_ns)

        state = "failed"
        try:
            yield report
            state = "done"
        finally:
            with self._lock:
                if self._is_terminal:
                    print(_CLEAR_LINE, end="", file=sys.stderr, flush=True)
                elapsed_ns = self._clock.boottime_ns() - began_ns
                self._show(state, name, what, done_bytes, total_bytes, elapsed_ns)

    def _show(
        self, event: str, name: str, what: str, done_bytes: int, total_bytes: int, elapsed_ns: int
    ) -> None:
        seconds = elapsed_ns / 1e9
        if self._as_json:
            members = {
                "event": event,
                "image": name,
                "step": what,
                "done_bytes": done_bytes,
                "total_bytes": total_bytes,
                "elapsed_seconds": round(seconds, 3),
            }
            say(json.dumps(members))
            return
        line = line_of(event, name, what, done_bytes, total_bytes, seconds)
        if event == "progress" and self._is_terminal:
            width = shutil.get_terminal_size().columns - 1
            print(_CLEAR_LINE + printable(line)[:width], end="", file=sys.stderr, flush=True)
        else:
            say(printable(line))


def line_of(event: str, name: str, what: str, done_bytes: int, total_bytes: int, seconds: float) -> str:
    """A step in one line."""
    parts = [f"{size_text(done_bytes)} of {size_text(total_bytes)} in {seconds_text(seconds)}"]
    if seconds > 0:
        parts.append(f"{size_text(int(done_bytes / seconds))}/s")
    if event == "progress" and done_bytes:
        left_seconds = seconds * max(total_bytes - done_bytes, 0) / done_bytes
        parts.append(f"{seconds_text(left_seconds)} left")
    state = {"progress": "", "done": "done, ", "failed": "not finished, "}[event]
    return f"{name}, {what}: {state}{', '.join(parts)}"
