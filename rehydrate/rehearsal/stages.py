"""The stages of a rehearsal as they are measured: done of total, requests by kind, bytes, time.

What a stage does, and how it is shown, does not belong here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final, Protocol

from cdp_container.clock import Clock
from rehydrate.rehearsal.counting import Counts

METADATA: Final = "metadata"
NAMESPACE: Final = "namespace"
CONTENT: Final = "content"
MACHINES: Final = "machines"
CHECKS: Final = "checks"
CLEAN_UP: Final = "clean-up"
NAMES: Final = (METADATA, NAMESPACE, CONTENT, CHECKS, CLEAN_UP)
BOOTED_NAMES: Final = (METADATA, NAMESPACE, CONTENT, MACHINES, CHECKS, CLEAN_UP)
"""Where VMs are started, too."""

RUNNING: Final = "running"
DONE: Final = "done"
FAILED: Final = "failed"
INTERRUPTED: Final = "interrupted"


@dataclass(frozen=True, slots=True)
class Figures:
    """One run of a stage, under way or ended.

    Attributes:
        number: from 1 on.
        name: one of NAMES, or of BOOTED_NAMES.
        state: RUNNING, DONE, FAILED or INTERRUPTED.
        unit: what `done` and `total` count; the total is None until it is known.
        done_bytes, total_bytes: the same in bytes, where they mean anything; else 0.
        began_seconds: since the rehearsal began.
        seconds: that it took so far.
        counts: what was asked of the store, from zero at its beginning.
        detail: more of how far it is, in words.
    """

    number: int
    name: str
    state: str
    unit: str
    done: int
    total: int | None
    done_bytes: int
    total_bytes: int
    began_seconds: float
    seconds: float
    counts: Counts
    detail: str = ""

    @property
    def requests_per_second(self) -> float:
        """Of all kinds."""
        return self.counts.requests / self.seconds if self.seconds else 0.0

    @property
    def bytes_per_second(self) -> float:
        """Of its own bytes; of those that came from the store where it has none."""
        return (self.done_bytes or self.counts.received_bytes) / self.seconds if self.seconds else 0.0

    @property
    def left_seconds(self) -> float | None:
        """How long it still takes if it goes on as it went; None where nothing tells.

        Nothing does of VMs: those that are up say nothing of how long another one's checks take.
        """
        if self.name == MACHINES:
            return None
        done, total = (
            (self.done_bytes, self.total_bytes) if self.total_bytes else (self.done, self.total or 0)
        )
        return self.seconds * max(total - done, 0) / done if done and total else None


class Show(Protocol):
    """Who shows stages to people or programs."""

    def progress(self, figures: Figures) -> None:
        """Told all the time; shows it when it is time."""
        ...

    def ended(self, figures: Figures) -> None:
        """Told once of each run of a stage."""
        ...


class Stage:
    """A run of a stage, under way."""

    def __init__(self, name: str, unit: str, told: Callable[[Stage], None]) -> None:
        self.name = name
        self.unit = unit
        self.done = self.done_bytes = self.total_bytes = 0
        self.total: int | None = None
        self.detail = ""
        self._told = told

    def expect(self, total: int, total_bytes: int = 0) -> None:
        """How much there is to do, once it is known."""
        self.total, self.total_bytes = total, total_bytes
        self._told(self)

    def at(self, done: int, detail: str) -> None:
        """So much is done, and more of it in words."""
        self.done, self.detail = done, detail
        self._told(self)

    def advance(self, done: int = 1, done_bytes: int = 0) -> None:
        """So much more was done."""
        self.done += done
        self.done_bytes += done_bytes
        self._told(self)


class Stages:
    """Runs stages one after the other, and keeps the figures of each that ended.

    Args:
        clock: of this machine.
        counts: what was asked of the store so far.
        show: is told.
        names: of all stages, in their order.
    """

    def __init__(
        self, clock: Clock, counts: Callable[[], Counts], show: Show, names: Sequence[str] = NAMES
    ) -> None:
        self._names = tuple(names)
        self._clock = clock
        self._counts = counts
        self._show = show
        self._began_ns = clock.boottime_ns()
        self.ended: list[Figures] = []

    @property
    def seconds(self) -> float:
        """Since the rehearsal began."""
        return (self._clock.boottime_ns() - self._began_ns) / 1e9

    @contextmanager
    def stage(self, name: str, unit: str) -> Iterator[Stage]:
        """One run of a stage; how the block ends is how it ended."""
        began, before = self.seconds, self._counts()

        def figures(stage: Stage, state: str) -> Figures:
            return Figures(
                number=self._names.index(name) + 1,
                name=name,
                state=state,
                unit=unit,
                done=stage.done,
                total=stage.total,
                done_bytes=stage.done_bytes,
                total_bytes=stage.total_bytes,
                began_seconds=began,
                seconds=self.seconds - began,
                counts=self._counts() - before,
                detail=stage.detail,
            )

        stage = Stage(name, unit, lambda stage: self._show.progress(figures(stage, RUNNING)))
        state = INTERRUPTED
        try:
            yield stage
            state = DONE
        except Exception:
            state = FAILED
            raise
        finally:
            self.ended.append(figures(stage, state))
            self._show.ended(self.ended[-1])
