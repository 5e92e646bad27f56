"""What an agent's configuration says of recovery points: how long they are kept, and hooks of markers. PURE.

What the terms mean does not belong here (retention), nor running a hook (the agent's marker command).
"""

from __future__ import annotations

import math
import re
from typing import Annotated, Final

from pydantic import BeforeValidator, Field, model_validator

from cdp_container.domain.retention_policy import TERM_SECONDS_MAX, Retention
from cdp_container.domain.setting_types import Name, Seconds, Strict, is_command, written

HOOKS_MAX: Final = 32
"""Hooks of one marker: each makes the others wait while something is frozen."""
HOOK_WORDS_MAX: Final = 64
"""A command with more words than this is a script's task."""

_FOREVER: Final = "forever"
_TERM: Final = re.compile(r"(\d{1,12})\s*(s|m|h|d|w|y)")
_UNITS: Final = {"y": 365 * 86400, "w": 7 * 86400, "d": 86400, "h": 3600, "m": 60, "s": 1}
_THINNED: Final = {"hourly": _UNITS["h"], "daily": _UNITS["d"], "weekly": _UNITS["w"], "monthly": 31 * 86400}
"""From the finest on; and a shorter term than this would not even keep one of each."""


def term_seconds(value: object) -> float:
    """How long something is kept, in seconds; math.inf is for ever. Raises ValueError."""
    if value == _FOREVER:
        return math.inf
    match = _TERM.fullmatch(value) if isinstance(value, str) else None
    if match is None or not int(match[1]):
        raise ValueError("is no term (write a number and a unit, like 24h, 7d, 26w or 3y, or forever)")
    seconds = int(match[1]) * _UNITS[match[2]]
    if seconds > TERM_SECONDS_MAX:
        raise ValueError("is longer than a hundred years (write forever)")
    return float(seconds)


def term_text(seconds: float) -> str:
    """A term as people write it."""
    if math.isinf(seconds):
        return _FOREVER
    unit = next(unit for unit, size in _UNITS.items() if seconds % size == 0)
    return f"{seconds / _UNITS[unit]:.0f}{unit}"


Term = Annotated[float, BeforeValidator(term_seconds), written("s", _FOREVER)]
TermIfAny = Annotated[float | None, BeforeValidator(term_seconds), written("s", _FOREVER)]
"""None where the key is left out; a key without a value is a fault."""


class RetentionSettings(Strict):
    """Terms in seconds, math.inf for ever; None: nothing is kept for that reason."""

    every: Term
    hourly: TermIfAny = None
    daily: TermIfAny = None
    weekly: TermIfAny = None
    monthly: TermIfAny = None
    markers: Term = math.inf

    @model_validator(mode="after")
    def _makes_sense(self) -> RetentionSettings:
        faults = []
        finer, longest = "every", self.every
        for name, least in _THINNED.items():
            term = getattr(self, name)
            if term is None:
                continue
            if term <= longest:
                faults.append(
                    f"{name}: {term_text(term)} keeps nothing that {finer} ({term_text(longest)}) does not"
                )
            elif term < least:
                faults.append(f"{name}: {term_text(term)} is too short to keep one of each")
            finer, longest = (name, term) if term > longest else (finer, longest)
        if self.markers < self.every:
            faults.append(
                f"markers: {term_text(self.markers)} is shorter than every ({term_text(self.every)})"
            )
        if faults:
            raise ValueError("; ".join(faults))
        return self

    @property
    def policy(self) -> Retention:
        """What the domain's configuration is to say."""
        terms = (self.every, self.hourly, self.daily, self.weekly, self.monthly, self.markers)
        return Retention(*(None if math.isinf(term or 0) else int(term or 0) for term in terms))


class MarkerHookSettings(Strict):
    """What a marker runs before it is set, and after: each a program's absolute path and its arguments."""

    name: Name
    before: list[str] | None = Field(default=None, min_length=1, max_length=HOOK_WORDS_MAX)
    after: list[str] | None = Field(default=None, min_length=1, max_length=HOOK_WORDS_MAX)
    timeout: Seconds = Field(default=10.0, ge=0.1, le=600)

    @model_validator(mode="after")
    def _has_commands(self) -> MarkerHookSettings:
        if self.before is None and self.after is None:
            raise ValueError("needs before, after or both")
        for name, words in (("before", self.before), ("after", self.after)):
            if words is not None and not is_command(words):
                raise ValueError(f"{name}: needs the absolute path of a program, then its arguments")
        return self


def differ(hooks: list[MarkerHookSettings]) -> list[MarkerHookSettings]:
    """The same hooks. Raises ValueError where two have one name."""
    names = [hook.name for hook in hooks]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"two have the same name: {', '.join(twice)}")
    return hooks
