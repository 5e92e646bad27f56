"""`cdp-agent marker` and `flush`: ask the running streamer, wait until it is protected."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cdp_agent.cli.accepted import load_running
from cdp_agent.streamer.control import MARKER_RULE, call, is_marker_name
from cdp_container.errors import AgentNotRunning, DomainReleased, Incomplete, UsageError

NOT_YET_HINT = "the write is safe in the journal; `cdp-agent status` says what it waits for"


def ask_marker(config: Path, name: str, note: str, *, application: bool, timeout_seconds: float) -> int:
    """Name this instant; prints the point. Raises UsageError, AgentNotRunning, DomainReleased, Incomplete."""
    if not is_marker_name(name):
        raise UsageError("mark this instant", MARKER_RULE)
    request = {"command": "marker", "name": name, "note": note, "application": application}
    place = _ask(config, request, f"mark {name!r}", timeout_seconds)
    print(f"{place['epoch']}.{place['cut']} {name}")
    return 0


def ask_flush(config: Path, *, timeout_seconds: float) -> int:
    """Wait until all that was written is protected; prints the point.

    Raises AgentNotRunning, DomainReleased, Incomplete.
    """
    place = _ask(config, {"command": "flush"}, "flush", timeout_seconds)
    print(f"{place['epoch']}.{place['cut']}")
    return 0


def _ask(config: Path, request: dict[str, Any], what: str, timeout_seconds: float) -> dict[str, Any]:
    settings = load_running(config).settings
    try:
        answer = call(Path(settings.journal.directory), request, timeout_seconds)
    except OSError as error:
        raise AgentNotRunning(what, f"no streamer answers in {settings.journal.directory}") from error
    if not answer.get("ok"):
        why = str(answer.get("error", "the streamer did not say why"))
        if answer.get("released"):
            raise DomainReleased(what, why, str(answer.get("hint", "")))
        raise Incomplete(what, why, str(answer.get("hint") or NOT_YET_HINT))
    place = answer["place"]
    return {"epoch": 0, "cut": 0} if place is None else dict(place)
