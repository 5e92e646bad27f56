"""Threads for jobs: a few in each lane, and one queue on which everything that is done comes back.

The threads are daemons, because a request that hangs must not keep the process from ending: everything that
it could leave behind is safe to repeat.
"""

from __future__ import annotations

import queue
import threading
from dataclasses import dataclass
from typing import Final

from cdp_agent.streamer.engine_types import Done, Job, Lane
from cdp_agent.streamer.steps import PUTS_MAX

THREADS: Final = {lane: PUTS_MAX if lane is Lane.PUT else 1 for lane in Lane}
"""Only puts run side by side; the machines never ask for more than this at once."""


@dataclass(frozen=True, slots=True)
class _Failed:
    """Raises again what a job raised, in the thread that takes it."""

    error: BaseException

    def __call__(self) -> None:
        raise self.error


class Lanes:
    """Runs jobs; `done` gives what is to be called by the one thread that owns the engine."""

    def __init__(self) -> None:
        self.done: queue.SimpleQueue[Done] = queue.SimpleQueue()
        self._waiting: dict[Lane, queue.SimpleQueue[Job]] = {lane: queue.SimpleQueue() for lane in Lane}
        for lane, count in THREADS.items():
            for number in range(count):
                threading.Thread(
                    target=self._work, args=(lane,), name=f"{lane.value}-{number}", daemon=True
                ).start()

    def submit(self, job: Job) -> None:
        """Run the job in its lane."""
        self._waiting[job.lane].put(job)

    def _work(self, lane: Lane) -> None:
        while True:
            job = self._waiting[lane].get()
            try:
                done = job.work()
            except BaseException as error:  # noqa: BLE001  it is raised again where it can end the process
                done = _Failed(error)
            self.done.put(done)
