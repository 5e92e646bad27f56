"""What `cdp-agent adopt` tells while it copies: JSON, one line that changes, or lines in a log."""

from __future__ import annotations

import json
import shutil
import sys
from collections import deque
from collections.abc import Callable, Mapping
from typing import Final

from cdp_agent.adopting.seen import Job
from cdp_agent.adopting.turn import Standing, Turn
from cdp_container.clock import Clock
from cdp_container.console import printable, say
from cdp_container.telling import size_text

TERMINAL_EVERY_SECONDS: Final = 0.25
JSON_EVERY_SECONDS: Final = 1.0
TEXT_EVERY_SECONDS: Final = 10.0
RATE_SECONDS: Final = 10.0
"""Of which the rate is told."""
_SAMPLES_MAX: Final = 200
_CLEAR_LINE: Final = "\r\x1b[K"


class AdoptLines:
    """A `work.Show`. `trouble`: what the relay has to say, "" for nothing; told when it changes."""

    def __init__(self, clock: Clock, as_json: bool, trouble: Callable[[], str]) -> None:
        self._clock = clock
        self._as_json = as_json
        self._is_terminal = sys.stderr.isatty() and not as_json
        every = JSON_EVERY_SECONDS if as_json else TEXT_EVERY_SECONDS
        self._every_ns = int((TERMINAL_EVERY_SECONDS if self._is_terminal else every) * 1e9)
        self._trouble = trouble
        self._said = self._stood = ""
        self._shown_ns = 0
        self._samples: deque[tuple[int, int]] = deque(maxlen=_SAMPLES_MAX)

    def tell(self, line: str) -> None:
        """See `work.Show.tell`."""
        if self._is_terminal:
            print(_CLEAR_LINE, end="", file=sys.stderr, flush=True)
        say(json.dumps({"event": "note", "text": line}) if self._as_json else line)

    def progress(self, moves: Mapping[str, Job], turn: Turn) -> None:
        """See `work.Show.progress`."""
        self._tell_changes(turn)
        now_ns = self._clock.boottime_ns()
        done, total = (sum(getattr(job, name) for job in moves.values()) for name in ("offset", "length"))
        if not self._samples or now_ns - self._samples[-1][0] >= 250_000_000:
            self._samples.append((now_ns, done))
        while now_ns - self._samples[0][0] > RATE_SECONDS * 1e9 and len(self._samples) > 2:
            self._samples.popleft()
        if now_ns - self._shown_ns < self._every_ns:
            return
        self._shown_ns = now_ns
        rate = self._rate()
        left_seconds = (total - done) / rate if rate > 0 else None
        if self._as_json:
            disks = {name: {"status": job.status, "done_bytes": job.offset, "total_bytes": job.length}
                     for name, job in moves.items()}  # fmt: skip
            members = {"standing": turn.standing.value, "why": turn.why, "bytes_per_second": round(rate)}
            say(json.dumps({"event": "copying", **members, "left_seconds": left_seconds, "disks": disks}))
            return
        line = copying_line(moves, done, total, rate, left_seconds)
        if self._is_terminal:
            width = shutil.get_terminal_size().columns - 1
            print(_CLEAR_LINE + printable(line)[:width], end="", file=sys.stderr, flush=True)
        else:
            say(line)

    def _rate(self) -> float:
        (began_ns, before), (now_ns, done) = self._samples[0], self._samples[-1]
        return 0.0 if now_ns == began_ns else max(0, done - before) / ((now_ns - began_ns) / 1e9)

    def _tell_changes(self, turn: Turn) -> None:
        said = self._trouble()
        if said != self._said:
            self._said = said
            self.tell(said)
        if turn.why != self._stood:
            if turn.why:
                self.tell(turn.why)
            elif turn.standing is not Standing.READY:
                self.tell("copying goes on")
            self._stood = turn.why


def copying_line(
    moves: Mapping[str, Job], done: int, total: int, rate: float, left_seconds: float | None
) -> str:
    """How far it is, in one line. PURE."""
    parts = [f"{name} {_percent(job)}" for name, job in moves.items()]
    parts.append(f"{size_text(done)} of {size_text(total)}")
    parts.append(f"{size_text(int(rate))}/s")
    if left_seconds is not None and done < total:
        parts.append(f"{left_seconds:.0f} s left")
    return "copying: " + ", ".join(parts)


def _percent(job: Job) -> str:
    if job.is_ready:
        return "ready"
    return f"{100 * job.offset // job.length} %" if job.length else "0 %"
