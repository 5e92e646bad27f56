"""Hooks around a marker, from the side of the command that sets it.

What runs them is a process of its own (`marker_guard`), which undoes them also where this one is killed. What
the marker is, and how it is asked for, does not belong here (cli.ask).
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from cdp_agent.marker_guard import DONE
from cdp_container.clock import Clock
from cdp_container.domain.point_settings import MarkerHookSettings
from cdp_container.errors import HookFailed

MARGIN_NS: Final = 2_000_000_000
"""The marker is not taken any more so long before everything is undone: its instant lies in between."""
_SECRET: Final = ("AWS_", "CDP_")
"""A hook does not get the store's credentials: what begins so is kept from it."""


@dataclass(frozen=True, slots=True)
class Ran:
    """How one command of a hook ended."""

    name: str
    stage: str
    outcome: str
    seconds: float

    @property
    def well(self) -> bool:
        """Whether it did what it should."""
        return self.outcome == DONE

    @property
    def words(self) -> str:
        """For people."""
        return f"hook {self.name}: {self.stage}: {self.outcome} ({self.seconds:g} s)"


@dataclass(slots=True)
class Quiesced:
    """What the hooks hold still, until `release` or `until_ns` of the boot-time clock."""

    until_ns: int = 0
    befores: list[Ran] = field(default_factory=list)
    afters: list[Ran] = field(default_factory=list)
    ended: str = ""
    _process: subprocess.Popen[bytes] | None = None

    @property
    def failed(self) -> list[Ran]:
        """The commands that did not do what they should, before and after."""
        return [ran for ran in (*self.befores, *self.afters) if not ran.well]

    def begin(self, orders: Mapping[str, Any]) -> None:
        """Run the commands before; returns when all did, or one failed and everything is undone."""
        assert self._process is not None
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):  # it died: its silence tells
            self._process.stdin.write(json.dumps(orders).encode() + b"\n")
            self._process.stdin.flush()
        self._listen(until_ready=True)

    def release(self) -> None:
        """Have everything undone, and wait for that. Raises HookFailed where nobody knows."""
        if self._process is None or self.ended:
            return
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        self._listen(until_ready=False)

    def _listen(self, until_ready: bool) -> None:
        assert self._process is not None
        assert self._process.stdout is not None
        for line in self._process.stdout:
            members = json.loads(line)
            if "name" in members:
                (self.befores if members["stage"] == "before" else self.afters).append(Ran(**members))
            self.ended = members.get("ended", "")
            if self.ended or (until_ready and "ready" in members):
                return
        self.ended = "died"
        hint = "undo by hand what the hooks did, `fsfreeze --unfreeze` for instance"
        raise HookFailed("run the marker's hooks", "the process that runs them was killed", hint)


@contextlib.contextmanager
def quiesced(
    hooks: Sequence[MarkerHookSettings],
    limit_seconds: float,
    clock: Clock,
    environment: Mapping[str, str],
    goes_on: bool,
) -> Iterator[Quiesced]:
    """Run the commands before; whatever happens in the block, those after run, and are waited for.

    Args:
        hooks: in their order.
        limit_seconds: from the first command on until everything is undone, but for the undoing itself.
        clock: of this machine.
        environment: ours.
        goes_on: whether the others are begun, and all stays as it is, where one fails.

    Raises HookFailed where nobody knows what became of them; what merely failed is for the caller to judge.
    """
    if not hooks:
        yield Quiesced()
        return
    until_ns = clock.boottime_ns() + int(limit_seconds * 1e9)
    words = [sys.executable, "-m", "cdp_agent.marker_guard"]
    plain = {name: value for name, value in environment.items() if not name.startswith(_SECRET)}
    # Its standard input ends with us, however that comes.
    with subprocess.Popen(
        words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=plain, start_new_session=True
    ) as process:
        held = Quiesced(until_ns - MARGIN_NS, _process=process)
        try:
            held.begin({"hooks": [_order(hook) for hook in hooks], "until_ns": until_ns, "goes_on": goes_on})
            yield held
        finally:
            held.release()


def _order(hook: MarkerHookSettings) -> dict[str, Any]:
    return {
        "name": hook.name,
        "before": hook.before,
        "after": hook.after,
        "timeout_seconds": hook.timeout,
    }
