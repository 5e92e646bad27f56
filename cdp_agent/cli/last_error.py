"""The last thing that went wrong in either process: what, how long ago, and is it over? PURE.

What does not belong here: what is wrong now (`status` lists that first).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from cdp_agent.cli.forecast import spoken

QUIET_SECONDS_MIN: Final = 60.0
"""Both processes try again what failed, the slowest every 30 s: what is still wrong is newer than this."""


@dataclass(frozen=True, slots=True)
class LastError:
    """`age_seconds` is None where nothing went wrong, or it is not known when."""

    text: str = ""
    age_seconds: float | None = None
    over: bool = False

    def __str__(self) -> str:
        """For the person who reads `status`."""
        if not self.text:
            return "-"
        parts = [] if self.age_seconds is None else [f"{spoken(self.age_seconds)} ago"]
        parts += ["it is over"] if self.over else []
        return f"{self.text} ({'; '.join(parts)})" if parts else self.text


def newest_error(
    streamer: Mapping[str, Any], splitter: Mapping[str, Any], wall_ns: int, *, well: bool
) -> LastError:
    """The newer of what both processes show. `well`: both run, and nothing is in trouble now."""
    shown = [facts for facts in (streamer, splitter) if facts.get("last_error")]
    if not shown:
        return LastError()
    newest = max(shown, key=_when_ns)
    at_ns = _when_ns(newest)
    if not at_ns:
        return LastError(str(newest["last_error"]))
    age_seconds = max(0.0, (wall_ns - at_ns) / 1e9)  # a clock that was set back makes it new
    return LastError(str(newest["last_error"]), age_seconds, well and age_seconds >= QUIET_SECONDS_MIN)


def _when_ns(facts: Mapping[str, Any]) -> int:
    return int(facts.get("last_error_ns") or 0)
