"""The oracle's workload: random writes, zeroes and discards over NBD, logged, reconnecting by itself.

Runs in a thread of its own until told to stop. It does not judge: tests/oracle/history.py does.
"""

from __future__ import annotations

import random
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

from tests.nbd_client import NbdClient
from tests.oracle.history import SECTOR_BYTES, History, Write

WRITE_SECTORS_MAX = 16
RECONNECT_PAUSE_SECONDS = 0.05


@dataclass(slots=True)
class Workload:
    """Drives one export.

    `depth` requests are in flight; every `flush_every` requests a flush waits for all of them. With
    `pause_seconds` after each request it leaves the machine to others.
    `history` may be read once `stop` has returned.
    """

    socket_path: Path
    export: str
    history: History
    seed: int
    depth: int = 8
    flush_every: int = 64
    requests_max: int = 1_000_000
    pause_seconds: float = 0.0
    errors: list[str] = field(default_factory=list)
    reconnects: int = 0
    acknowledged: int = 0
    _halt: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin to write."""
        self._thread = threading.Thread(target=self._run, name=f"workload-{self.export}", daemon=True)
        self._thread.start()

    def stop(self, deadline_seconds: float = 60.0) -> None:
        """End, wait for what is in flight if the server lives, and join the thread."""
        self._halt.set()
        assert self._thread is not None
        self._thread.join(deadline_seconds)
        assert not self._thread.is_alive(), "the workload hangs: a request was never answered"

    def _run(self) -> None:
        rng = random.Random(self.seed)
        while not self._halt.is_set() and len(self.history.writes) < self.requests_max:
            pending: dict[int, Write] = {}
            try:
                with NbdClient(self.socket_path, self.export, timeout_seconds=30.0) as client:
                    self._drive(client, rng, pending)
            except (OSError, ConnectionError, EOFError):
                # The server died: what is in flight may have landed or not, but lands no more.
                now_ns = time.time_ns()
                for write in self.history.writes[-2 * self.depth :]:
                    if write.acknowledged_ns is None and write.settled_ns is None:
                        write.settled_ns = now_ns
                self.reconnects += 1
                self._halt.wait(RECONNECT_PAUSE_SECONDS)

    def _drive(self, client: NbdClient, rng: random.Random, pending: dict[int, Write]) -> None:
        since_flush = 0
        while not self._halt.is_set() and len(self.history.writes) < self.requests_max:
            while len(pending) < self.depth:
                write, handle = self._submit(client, rng)
                pending[handle] = write
            self._take(client, pending)
            if self.pause_seconds:
                self._halt.wait(self.pause_seconds)
            since_flush += 1
            if since_flush >= self.flush_every:
                since_flush = 0
                self._drain(client, pending)
                client.flush()
        self._drain(client, pending)

    def _submit(self, client: NbdClient, rng: random.Random) -> tuple[Write, int]:
        count = rng.choice((1, 1, 1, 2, 4, rng.randint(1, WRITE_SECTORS_MAX)))
        # Half of the writes fall on a tenth of the space, so that overwriting happens all the time.
        span = self.history.sectors if rng.random() < 0.5 else max(count, self.history.sectors // 10)
        first = rng.randrange(max(1, span - count + 1))
        kind = rng.choices(("write", "zero", "trim"), (0.9, 0.05, 0.05))[0]
        write = self.history.submit(first, count, voids=kind != "write", now_ns=time.time_ns())
        offset, length = first * SECTOR_BYTES, count * SECTOR_BYTES
        if kind == "write":
            fua = rng.random() < 0.02
            return write, client.submit_write(offset, self.history.data_of(write), fua=fua)
        if kind == "zero":
            return write, client.submit_write_zeroes(offset, length)
        return write, client.submit_trim(offset, length)

    def _take(self, client: NbdClient, pending: dict[int, Write]) -> None:
        reply = client.wait_any()
        write = pending.pop(reply.handle)
        if reply.error:
            self.errors.append(f"write {write.number}: NBD error {reply.error}")
            return
        write.acknowledged_ns = time.time_ns()
        self.acknowledged += 1

    def _drain(self, client: NbdClient, pending: dict[int, Write]) -> None:
        while pending:
            self._take(client, pending)
