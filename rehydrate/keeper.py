"""Keeps a note of how far a restore is, beside the work: the fsync that each needs holds nothing up.

What the note says and where it stands is known in resume and by the target.
"""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from types import TracebackType
from typing import Final

from rehydrate.damage import joined
from rehydrate.resume import Done, Lost, Sample, thinned
from rehydrate.target import Target

KEEP_BYTES: Final = 128 << 20
"""Bytes written between two notes: what an interrupted restore has to fetch again, at most about twice."""


class Keeper:
    """Tells the target how far everything is that was written; to be used as a context.

    At most one note is on its way; the next waits until it is durable.
    """

    def __init__(self, target: Target) -> None:
        self.began = target.done
        self._target = target
        self._samples = target.done.samples
        self.lost = target.done.lost
        self._unkept_bytes = 0
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="keep")
        self._last: Future[None] | None = None

    def __enter__(self) -> Keeper:
        if self.began.nothing:
            self._target.keep(self.began)  # so that a restore that is killed at once can go on, too
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.shutdown(wait=True)
        if error is None and self._last is not None:
            self._last.result()

    def wrote(self, write_bytes: int, sample: Sample | None, lost: tuple[Lost, ...]) -> None:
        """Count what was written or lost; everything planned before it was, too."""
        self._unkept_bytes += write_bytes
        if sample is not None:
            self._samples = thinned((*self._samples, sample))
        if lost:
            self.lost = joined((*self.lost, *lost))

    def begin_again(self, start: int) -> None:
        """A window is done from its `start` on: what an interrupted restore lost there may be found now."""
        before = [part for part in self.lost if part.offset < start]
        self.lost = tuple(replace(part, length=min(part.end, start) - part.offset) for part in before)

    @property
    def is_due(self) -> bool:
        """Whether it is time for a note, and the last one is durable."""
        return self._unkept_bytes >= KEEP_BYTES and (self._last is None or self._last.done())

    def keep(self, upto: int, window: str, fetches: int) -> None:
        """See `Done`. Raises what the note before this one met."""
        if self._last is not None:
            self._last.result()
        self._unkept_bytes = 0
        done = Done(upto, window, fetches, self._samples, self.lost)
        self._last = self._pool.submit(self._target.keep, done)
