"""The threads that pack frames: side by side, each with its compressor, and no failure is lost."""

from __future__ import annotations

import threading

import pytest

from cdp_agent.streamer.packing import PackingThreads
from cdp_container.format.codec import Compressor
from cdp_container.format.frames import store_frame
from cdp_container.format.segment import Packed

DEADLINE_SECONDS = 30.0


def test_work_runs_side_by_side_with_compressors_of_its_own() -> None:
    start = PackingThreads(level=1, count=2)
    both = threading.Barrier(2)
    used: list[Compressor] = []

    def work(compressor: Compressor) -> Packed:
        both.wait(DEADLINE_SECONDS)
        used.append(compressor)
        both.wait(DEADLINE_SECONDS)
        return store_frame(0, b"x" * 4096, compressor, None), b""

    outcomes = [start(work), start(work)]
    assert [outcome()[0].raw_length for outcome in outcomes] == [4096, 4096]
    assert used[0] is not used[1]


def test_failure_is_raised_where_it_is_waited_for_and_the_thread_goes_on() -> None:
    start = PackingThreads(level=1, count=1)

    def fail(compressor: Compressor) -> Packed:
        raise MemoryError("no memory to compress")

    outcome = start(fail)
    with pytest.raises(MemoryError, match="no memory to compress"):
        outcome()
    assert start(lambda compressor: (store_frame(0, b"x" * 512, compressor, None), b""))()[0].stored
