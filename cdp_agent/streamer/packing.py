"""Threads that pack frames: their sums, compression, checksum and seal, all of which let go of Python's lock.

What is packed, in which order it is taken and how much may be under way is decided by the segment's builder.
"""

from __future__ import annotations

import os
import queue
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from cdp_container.format.codec import Compressor
from cdp_container.format.segment import Pack, Packed

PACKING_THREADS_MAX: Final = 4
"""Four cores compress more than one PUT lane carries, and guests want the others."""


class PackingThreads:
    """Called with a piece of work it starts it, and gives what waits for the outcome.

    Args:
        level: of zstd; each thread has a context of its own.
        count: threads; as many as this process may use cores, PACKING_THREADS_MAX at most.
    """

    def __init__(self, level: int, count: int | None = None) -> None:
        if count is None:
            count = min(PACKING_THREADS_MAX, len(os.sched_getaffinity(0)))
        self._pool = ThreadPoolExecutor(count, thread_name_prefix="packing")
        self._compressors: queue.SimpleQueue[Compressor] = queue.SimpleQueue()
        for _ in range(count):
            self._compressors.put(Compressor(level=level))

    def __call__(self, work: Pack) -> Callable[[], Packed]:
        """Start it. What it gives raises what the work raised."""
        return self._pool.submit(self._run, work).result

    def _run(self, work: Pack) -> Packed:
        compressor = self._compressors.get_nowait()  # there are as many as threads
        try:
            return work(compressor)
        finally:
            self._compressors.put(compressor)
