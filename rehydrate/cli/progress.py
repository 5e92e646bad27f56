"""Progress against the plan: a bar on a terminal, else one JSON line a second, both on stderr."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, Protocol

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from cdp_container.clock import Clock
from cdp_container.console import say
from rehydrate.plan import Totals

LINE_EVERY_NS: Final = 1_000_000_000


class Meter(Protocol):
    """Told what was done since it was told before."""

    def __call__(self, done: Totals) -> None:
        """Count it, and show it when it is time."""
        ...


@contextmanager
def meter(plan: Totals, what: str, clock: Clock) -> Iterator[Meter]:
    """A meter for work of this plan; at its end it shows the last state."""
    if sys.stderr.isatty():
        with _bar() as bar:
            task = bar.add_task(what, total=plan.fetch_bytes + plan.write_bytes)
            yield lambda done: bar.advance(task, done.fetch_bytes + done.write_bytes)
    else:
        lines = Lines(plan, what, clock)
        yield lines
        lines.show()


def _bar() -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(binary_units=True),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
    )


class Lines:
    """One JSON object a line, at most one a second."""

    def __init__(self, plan: Totals, what: str, clock: Clock) -> None:
        self._plan = plan
        self._what = what
        self._clock = clock
        self._began_ns = self._shown_ns = clock.boottime_ns()
        self._done = Totals()

    def __call__(self, done: Totals) -> None:
        """See `Meter`."""
        self._done += done
        now_ns = self._clock.boottime_ns()
        if now_ns - self._shown_ns >= LINE_EVERY_NS:
            self._shown_ns = now_ns
            self.show()

    def show(self) -> None:
        """Write a line now."""
        elapsed_seconds = (self._clock.boottime_ns() - self._began_ns) / 1e9
        members = {
            "event": "progress",
            "what": self._what,
            "elapsed_seconds": round(elapsed_seconds, 3),
            "gets": self._done.gets,
            "gets_planned": self._plan.gets,
            "fetched_bytes": self._done.fetch_bytes,
            "fetched_bytes_planned": self._plan.fetch_bytes,
            "written_bytes": self._done.write_bytes,
            "written_bytes_planned": self._plan.write_bytes,
        }
        say(json.dumps(members))
