"""The stages of a rehearsal on stderr: JSON for programs, else one line that changes, or lines in a log.

One line of each stage that ended stays. What the figures mean stands in rehydrate.rehearsal.stages.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from typing import Final

from cdp_container.clock import Clock
from cdp_container.console import printable, say
from rehydrate.cli.progress import JSON_EVERY_NS, TEXT_EVERY_NS
from rehydrate.cli.text import seconds_text, size_text
from rehydrate.rehearsal.stages import DONE, MACHINES, NAMES, Figures
from rehydrate.rehearsal.telling import stage_members

TERMINAL_EVERY_NS: Final = 200_000_000
_CLEAR_LINE: Final = "\r\x1b[K"


class StageLines:
    """See `stages.Show`."""

    def __init__(self, clock: Clock, as_json: bool, stages: int = len(NAMES)) -> None:
        self._clock = clock
        self._stages = stages
        self._as_json = as_json
        self._is_terminal = sys.stderr.isatty() and not as_json
        every_ns = TERMINAL_EVERY_NS if self._is_terminal else TEXT_EVERY_NS
        self._every_ns = JSON_EVERY_NS if as_json else every_ns
        self._shown_ns = clock.boottime_ns()

    def progress(self, figures: Figures) -> None:
        """See `Show.progress`."""
        now_ns = self._clock.boottime_ns()
        if now_ns - self._shown_ns < self._every_ns:
            return
        self._shown_ns = now_ns
        if self._is_terminal:
            width = shutil.get_terminal_size().columns - 1
            print(
                _CLEAR_LINE + printable(line_of(figures, self._stages))[:width],
                end="",
                file=sys.stderr,
                flush=True,
            )
        else:
            self._say("stage", figures)

    def ended(self, figures: Figures) -> None:
        """See `Show.ended`."""
        if self._is_terminal:
            print(_CLEAR_LINE, end="", file=sys.stderr, flush=True)
        self._shown_ns = self._clock.boottime_ns()
        self._say("stage-end", figures)

    def _say(self, event: str, figures: Figures) -> None:
        say(
            json.dumps({"event": event, **stage_members(figures)})
            if self._as_json
            else line_of(figures, self._stages)
        )


def line_of(figures: Figures, stages: int = len(NAMES)) -> str:
    """One run of a stage in one line; `stages`: how many there are."""
    total = "?" if figures.total is None else str(figures.total)
    kinds = ", ".join(f"{kind} {count}" for kind, count in figures.counts.by_kind().items() if count)
    requests = f"{figures.counts.requests} requests" + (f" ({kinds})" if kinds else "")
    detail = f" ({figures.detail})" if figures.detail else ""
    parts = [f"{figures.done} of {total} {figures.unit}{detail} in {seconds_text(figures.seconds)}"]
    if figures.name != MACHINES or figures.counts.requests:  # VMs ask nothing of the store by themselves
        parts += [f"{requests}, {figures.requests_per_second:.1f}/s", _bytes_text(figures)]
    if figures.state != DONE and (left := figures.left_seconds) is not None:
        parts.append(f"{seconds_text(left)} left")
    return f"stage {figures.number} of {stages}, {figures.name}: {figures.state}, {', '.join(parts)}"


def _bytes_text(figures: Figures) -> str:
    text: Callable[[int], str] = size_text
    if not figures.total_bytes:
        shown = text(figures.done_bytes or figures.counts.received_bytes)
    else:
        shown = f"{text(figures.done_bytes)} of {text(figures.total_bytes)}"
    return f"{shown}, {text(int(figures.bytes_per_second))}/s"
