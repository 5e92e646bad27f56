"""What a request over control.sock says of a marker. PURE.

Its name stands in `control`; what becomes of it does not belong here (engine, build).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final

from cdp_agent.streamer.control import MARKER_RULE, is_marker_name
from cdp_container.domain.point_settings import HOOKS_MAX
from cdp_container.domain.retention_policy import TERM_SECONDS_MAX

OUTCOME_BYTES_MAX: Final = 200
TOO_LATE: Final = "the hooks hold nothing still any more: the marker would name another instant"


def refused_marker(request: Mapping[str, Any], now_ns: int) -> str:
    """Why there will be no such marker; "" where there may be. `now_ns`: of the boot-time clock."""
    if not is_marker_name(request.get("name")):
        return MARKER_RULE
    keep = request.get("keep_seconds")
    if keep is not None and (type(keep) is not int or not 0 < keep <= TERM_SECONDS_MAX):
        return "a marker is kept for a number of seconds, or for ever"
    hooks = request.get("hooks", [])
    if not isinstance(hooks, list) or len(hooks) > HOOKS_MAX or not all(map(_is_outcome, hooks)):
        return "the outcome of the hooks is not understood"
    until_ns = request.get("take_until_ns")
    if until_ns is not None and (type(until_ns) is not int or now_ns >= until_ns):
        return TOO_LATE
    return ""


def _is_outcome(hook: object) -> bool:
    if not isinstance(hook, dict) or set(hook) != {"name", "outcome", "seconds"}:
        return False
    texts = (hook["name"], hook["outcome"])
    is_text = all(isinstance(text, str) and len(text.encode()) <= OUTCOME_BYTES_MAX for text in texts)
    seconds = hook["seconds"]
    return is_text and type(seconds) in (int, float) and math.isfinite(seconds) and seconds >= 0


def marker_members(request: Mapping[str, Any]) -> dict[str, Any]:
    """What the marker's record says beside its kind, note and time."""
    return {name: request[name] for name in ("keep_seconds", "hooks") if name in request}
