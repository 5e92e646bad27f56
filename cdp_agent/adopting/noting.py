"""Telling the agent which volumes are filled, and which are whole again; and `status` how far that is.

What the agent makes of it does not belong here (`cdp_agent.streamer.filling`).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

import orjson

from cdp_agent.adopting.progress import PROGRESS_NAME
from cdp_agent.adopting.seen import Job
from cdp_agent.adopting.turn import Turn
from cdp_agent.adopting.work import Show
from cdp_agent.streamer.control import Answer, call
from cdp_agent.streamer.filling_words import FILLED_COMMAND, FILLING_COMMAND
from cdp_container.clock import Clock
from cdp_container.errors import AgentNotRunning, Incomplete
from cdp_container.machine_errors import AdoptionRefused

NOTE_SECONDS_MAX: Final = 30.0
"""How long the agent may take to note what it is told; it may begin anew meanwhile."""
ASK_SECONDS: Final = 5.0
AGAIN_SECONDS: Final = 0.5
PROGRESS_EVERY_SECONDS: Final = 1.0


def note_filling(directory: Path, vm: str, volumes: Sequence[str], clock: Clock) -> frozenset[str]:
    """Before the first byte: from now on no cut calls these volumes whole. Gives those that were till now.

    Raises:
        AgentNotRunning: it does not answer; perhaps it noted it.
        AdoptionRefused: it will not.
    """
    said = _told(directory, {"command": FILLING_COMMAND, "vm": vm, "volumes": [*volumes]}, clock)
    if said is None:
        raise AgentNotRunning(f"adopt VM {vm}", "its streamer does not answer")
    if not said.get("ok"):
        why = f"the agent does not note which volumes are filled: {said.get('error')}"
        raise AdoptionRefused(f"adopt VM {vm}", why)
    return frozenset(map(str, said["changed"]))


def note_filled(
    directory: Path, volumes: Sequence[str], clock: Clock, is_ended: Callable[[], bool] = lambda: False
) -> frozenset[str]:
    """These volumes are what they are meant to be; gives those of which the agent did not know it.

    Raises Incomplete: it did not say that it noted it; `is_ended` says that nobody waits any more.
    """
    said = _told(directory, {"command": FILLED_COMMAND, "volumes": [*volumes]}, clock, is_ended)
    if said is None or not said.get("ok"):
        why = "the agent does not answer" if said is None else str(said.get("error"))
        raise Incomplete(
            f"calling {', '.join(volumes)} whole again",
            f"it could not be noted ({why}): recovery points go on without",
            "run the same command again: nothing is copied again, and it is noted then",
        )
    return frozenset(map(str, said["changed"]))


def _told(
    directory: Path,
    request: Mapping[str, object],
    clock: Clock,
    is_ended: Callable[[], bool] = lambda: False,
) -> Answer | None:
    """The answer; None where there was none in time."""
    until_ns = clock.boottime_ns() + int(NOTE_SECONDS_MAX * 1e9)
    said: Answer | None = None
    while True:
        with contextlib.suppress(OSError):  # it begins anew
            said = call(directory, dict(request), ASK_SECONDS)
            if not (said.get("again") or said.get("timeout")):
                return said
        if is_ended() or clock.boottime_ns() >= until_ns:
            return said
        clock.sleep(AGAIN_SECONDS)


class Progress:
    """A `work.Show` that passes on what it hears, and keeps adopt.json; `close` takes that away."""

    def __init__(self, directory: Path, vm: str, clock: Clock, lines: Show) -> None:
        self._path = directory / PROGRESS_NAME
        self._vm = vm
        self._clock = clock
        self._lines = lines
        self._written_ns = 0

    def tell(self, line: str) -> None:
        """See `work.Show.tell`."""
        self._lines.tell(line)

    def progress(self, moves: Mapping[str, Job], turn: Turn) -> None:
        """See `work.Show.progress`."""
        self._lines.progress(moves, turn)
        now_ns = self._clock.boottime_ns()
        if self._written_ns and now_ns - self._written_ns < PROGRESS_EVERY_SECONDS * 1e9:
            return
        self._written_ns = now_ns
        disks = {name: {"done_bytes": job.offset, "total_bytes": job.length} for name, job in moves.items()}
        members = {"vm": self._vm, "standing": turn.standing.value, "why": turn.why, "disks": disks}
        fresh = self._path.with_name(f"{PROGRESS_NAME}.new")
        # It is only shown: a full disk makes it old, and ends nothing.
        with contextlib.suppress(OSError):
            fresh.write_bytes(orjson.dumps(members))
            fresh.replace(self._path)

    def close(self) -> None:
        """Nothing is copied any more."""
        with contextlib.suppress(OSError):
            self._path.unlink(missing_ok=True)
