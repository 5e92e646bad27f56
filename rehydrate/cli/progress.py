"""Progress against the plan, on stderr: JSON for programs, else a bar on a terminal or text in a log."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final, Protocol

from cdp_container.clock import Clock
from cdp_container.console import say
from rehydrate.cli.text import seconds_text, size_text
from rehydrate.plan import Totals

if TYPE_CHECKING:
    from rich.progress import Progress

JSON_EVERY_NS: Final = 1_000_000_000
TEXT_EVERY_NS: Final = 10_000_000_000
"""A log of hours is to stay readable."""

Text = Callable[[Totals, Totals, float], str]


class Meter(Protocol):
    """Told what was done since it was told before."""

    def __call__(self, done: Totals) -> None:
        """Count it, and show it when it is time."""
        ...


@contextmanager
def meter(plan: Totals, what: str, clock: Clock, as_json: bool) -> Iterator[Meter]:
    """A meter for work of this plan; at its end it shows the last state."""
    if sys.stderr.isatty() and not as_json:
        with _bar() as bar:
            task = bar.add_task(what, total=plan.fetch_bytes + plan.write_bytes)
            yield lambda done: bar.advance(task, done.fetch_bytes + done.write_bytes)
    else:
        lines = (json_lines if as_json else text_lines)(plan, what, clock)
        yield lines
        lines.show()


def _bar() -> Progress:
    # Not above: a twentieth of a second, for those alone who see it.
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(binary_units=True),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
    )


class Lines:
    """One line now and then: `text` makes it of what is done, what is planned and the seconds it took."""

    def __init__(self, plan: Totals, clock: Clock, every_ns: int, text: Text) -> None:
        self._plan = plan
        self._clock = clock
        self._every_ns = every_ns
        self._text = text
        self._began_ns = self._shown_ns = clock.boottime_ns()
        self._done = Totals()

    def __call__(self, done: Totals) -> None:
        """See `Meter`."""
        self._done += done
        now_ns = self._clock.boottime_ns()
        if now_ns - self._shown_ns >= self._every_ns:
            self._shown_ns = now_ns
            self.show()

    def show(self) -> None:
        """Write a line now."""
        say(self._text(self._done, self._plan, (self._clock.boottime_ns() - self._began_ns) / 1e9))


def json_lines(plan: Totals, what: str, clock: Clock) -> Lines:
    """For programs."""

    def text(done: Totals, plan: Totals, elapsed_seconds: float) -> str:
        members = {
            "event": "progress",
            "what": what,
            "elapsed_seconds": round(elapsed_seconds, 3),
            "gets": done.gets,
            "gets_planned": plan.gets,
            "fetched_bytes": done.fetch_bytes,
            "fetched_bytes_planned": plan.fetch_bytes,
            "written_bytes": done.write_bytes,
            "written_bytes_planned": plan.write_bytes,
        }
        return json.dumps(members)

    return Lines(plan, clock, JSON_EVERY_NS, text)


def text_lines(plan: Totals, what: str, clock: Clock) -> Lines:
    """For people who read it in a log."""

    def text(done: Totals, plan: Totals, elapsed_seconds: float) -> str:
        parts = [f"{size_text(done.fetch_bytes)} of {size_text(plan.fetch_bytes)} fetched"]
        if plan.write_bytes:  # a verification writes nothing
            parts.append(f"{size_text(done.write_bytes)} of {size_text(plan.write_bytes)} written")
        return f"{what}: {', '.join(parts)} in {seconds_text(elapsed_seconds)}"

    return Lines(plan, clock, TEXT_EVERY_NS, text)
