"""`cdp-agent marker` and `flush`: ask the running streamer, wait until it is protected."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from cdp_agent.cli.accepted import Running, load_running
from cdp_agent.cli.vm_status import ask_hypervisors
from cdp_agent.marker_hooks import Ran, quiesced
from cdp_agent.streamer.control import MARKER_RULE, Answer, call, is_marker_name
from cdp_agent.supervisor import is_locked
from cdp_container.clock import Clock, SystemClock
from cdp_container.console import say
from cdp_container.domain.notes import load_notes
from cdp_container.domain.point_settings import MarkerHookSettings, term_seconds
from cdp_container.errors import (
    AgentNotRunning,
    ConfigInvalid,
    DomainReleased,
    Fenced,
    HookFailed,
    Incomplete,
    UsageError,
)

POLL_SECONDS: Final = 0.2
"""How often a streamer that begins anew is asked again."""
NOT_YET_HINT = "the write is safe in the journal; `cdp-agent status` says what it waits for"
_UNDO_HINT: Final = "undo by hand what it did, `fsfreeze --unfreeze` for instance; the marker itself is set"
_ANEW_HINT: Final = "the agent starts it again by itself: try again; `cdp-agent status` and its log say more"
_HOOKS_HINT: Final = "--even-if-hooks-fail sets it all the same, --no-hooks runs none"


@dataclass(frozen=True, slots=True)
class HookWishes:
    """What becomes of the configured hooks. `limit_seconds`: then they are undone, marker or not."""

    run: bool = True
    even_if_they_fail: bool = False
    limit_seconds: float = 60.0


def ask_marker(
    config: Path,
    name: str,
    note: str,
    *,
    application: bool,
    timeout_seconds: float,
    keep: str | None = None,
    hooks: HookWishes = HookWishes(),
) -> int:
    """Name this instant; prints the point.

    Raises:
        UsageError, AgentNotRunning, DomainReleased, Incomplete: there is no such marker, or nobody knows yet.
        HookFailed: a hook failed: before the marker, then there is none; or after it, then it is printed.
    """
    what = f"mark {name!r}"
    if not is_marker_name(name):
        raise UsageError("mark this instant", MARKER_RULE)
    request = {"command": "marker", "name": name, "note": note, "application": application}
    if keep is not None:
        request["keep_seconds"] = _keep_seconds(keep)
    running = load_running(config)
    directory = Path(running.settings.journal.directory)
    commands = _hooks(config, running, what) if hooks.run else []
    ask_hypervisors(directory, running.identity)
    if commands:
        _refuse_lacking(_send(directory, {"command": "status"}, what, timeout_seconds), what)
    clock = SystemClock()
    with quiesced(commands, hooks.limit_seconds, clock, os.environ, hooks.even_if_they_fail) as held:
        _tell(held.failed)
        if held.failed and not hooks.even_if_they_fail:
            raise HookFailed(what, f"{held.failed[0].words}; there is no marker", _HOOKS_HINT)
        if commands:
            request["hooks"] = [
                {"name": ran.name, "outcome": ran.outcome, "seconds": ran.seconds} for ran in held.befores
            ]
            request["take_until_ns"] = held.until_ns
            request["application"] = application and not held.failed
        try:
            place = _ask(directory, request, what, timeout_seconds, held.release)
        finally:
            held.release()
            not_undone = [ran for ran in held.afters if not ran.well]
            _tell(not_undone)
    print(f"{place['epoch']}.{place['cut']} {name}", flush=True)
    if not_undone:
        raise HookFailed(what, not_undone[0].words, _UNDO_HINT)
    return 0


def _refuse_lacking(answer: Answer, what: str) -> None:
    """Nothing is frozen for nothing: not where trees are not whole before any hook wrote into them.

    Nor where volumes are filled from outside, which may take hours.
    """
    facts = answer.get("facts") or {}
    lacking = [*((facts.get("trees") or {}).get("not_whole") or ()), *facts.get("filled", ())]
    if lacking:
        why = f"not wholly in the container yet: {', '.join(lacking)}; no hook was run"
        raise Incomplete(what, why, "`cdp-agent status` says what keeps them; try again then")


def _hooks(config: Path, running: Running, what: str) -> list[MarkerHookSettings]:
    """From the file itself, and not what `run` accepted: what a caller runs is not the agent's to write."""
    if not running.fault:
        return running.settings.marker_hooks
    if b"marker_hooks" in config.read_bytes():
        raise ConfigInvalid(what, "nobody knows which hooks to run", "mend the file, or give --no-hooks")
    return []


def _tell(failed: list[Ran]) -> None:
    for ran in failed:
        say(f"note: {ran.words}")


def _keep_seconds(keep: str) -> int | None:
    try:
        seconds = term_seconds(keep)
    except ValueError as error:
        raise UsageError("read --keep", f"{keep!r} {error}") from None
    return None if math.isinf(seconds) else int(seconds)


def ask_flush(config: Path, *, timeout_seconds: float, clock: Clock | None = None) -> int:
    """Wait until all that was written is protected; prints the point.

    A streamer that begins anew, as after a `reload`, is waited for within the same time.

    Raises AgentNotRunning, DomainReleased, Fenced, Incomplete.
    """
    running = load_running(config)
    directory = Path(running.settings.journal.directory)
    ask_hypervisors(directory, running.identity)
    place = _place(_send_flush(directory, timeout_seconds, clock or SystemClock()), "flush")
    print(f"{place['epoch']}.{place['cut']}")
    return 0


def _send_flush(directory: Path, timeout_seconds: float, clock: Clock) -> Answer:
    """A marker names this instant and cannot wait; a flush can, and loses nothing by being asked again."""
    until_ns = clock.boottime_ns() + int(timeout_seconds * 1e9)
    told = False
    while True:
        left_seconds = max(0.0, (until_ns - clock.boottime_ns()) / 1e9)
        try:
            return call(directory, {"command": "flush"}, left_seconds)
        except OSError as error:
            if not _is_run(directory) or clock.boottime_ns() >= until_ns:
                raise _no_streamer("flush", directory) from error
        notes = load_notes(directory)
        if notes.fenced:
            raise Fenced("flush", notes.fenced)  # no streamer is started any more
        if not told:
            say("waiting for the streamer, which begins anew")
            told = True
        clock.sleep(POLL_SECONDS)


def _is_run(directory: Path) -> bool:
    """Whether a supervisor is there that starts the streamer again."""
    try:
        return is_locked(directory / "lock")
    except OSError:
        return False  # not ours to look at; that nobody answers is all that is known


def _no_streamer(what: str, directory: Path) -> AgentNotRunning:
    why = f"no streamer answers in {directory}"
    return AgentNotRunning(what, why, _ANEW_HINT) if _is_run(directory) else AgentNotRunning(what, why)


def _ask(
    directory: Path,
    request: dict[str, Any],
    what: str,
    timeout_seconds: float,
    on_taken: Callable[[], None] = lambda: None,
) -> dict[str, Any]:
    return _place(_send(directory, request, what, timeout_seconds, on_taken), what)


def _place(answer: Answer, what: str) -> dict[str, Any]:
    if not answer.get("ok"):
        why = str(answer.get("error", "the streamer did not say why"))
        if answer.get("released"):
            raise DomainReleased(what, why, str(answer.get("hint", "")))
        raise Incomplete(what, why, str(answer.get("hint") or NOT_YET_HINT))
    place = answer["place"]
    return {"epoch": 0, "cut": 0} if place is None else dict(place)


def _send(
    directory: Path,
    request: dict[str, Any],
    what: str,
    timeout_seconds: float,
    on_taken: Callable[[], None] = lambda: None,
) -> Answer:
    try:
        return call(directory, request, timeout_seconds, on_taken)
    except OSError as error:
        raise _no_streamer(what, directory) from error
