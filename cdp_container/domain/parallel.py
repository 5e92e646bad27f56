"""Many requests at once, in order, with a bound on what is in flight. Knows nothing of what is asked for."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol, TypeVar

T = TypeVar("T")
R = TypeVar("R")


class ManyAtOnce(Protocol):
    """Whoever knows how many requests at once are good."""

    def run(self, work: Callable[[T], R], items: Iterable[T], bytes_of: Callable[[T], int]) -> Iterator[R]:
        """`work(item)` for every item, in the order of the items; `bytes_of` says what each will fetch."""
        ...


@dataclass(frozen=True, slots=True)
class Fixed:
    """See `ManyAtOnce`: always so many."""

    workers: int

    def run(self, work: Callable[[T], R], items: Iterable[T], bytes_of: Callable[[T], int]) -> Iterator[R]:
        """See `ManyAtOnce.run`."""
        return in_parallel(work, items, self.workers)


def in_parallel(work: Callable[[T], R], items: Iterable[T], workers: int) -> Iterator[R]:
    """`work(item)` for every item, in the order of the items, `workers` at a time.

    At most twice as many results wait as there are workers, so memory is bounded whatever the consumer does.
    The first error ends it; what is in flight is waited for, what is not begun is dropped.
    """
    waiting: deque[Future[R]] = deque()
    pool = ThreadPoolExecutor(max_workers=workers, thread_name_prefix="fetch")
    try:
        for item in items:
            waiting.append(pool.submit(work, item))
            if len(waiting) >= 2 * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
