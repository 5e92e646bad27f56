"""Types of values that several parts of the configuration have: how they are read and written. PURE.

Which keys there are does not belong here (settings, point_settings), nor how faults are told (config_words).
"""

from __future__ import annotations

import math
import re
from decimal import Decimal
from typing import Annotated, Final

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer

UNLIMITED: Final = "unlimited"
NAME: Final = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$"

_DURATION: Final = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h|d)")
_DURATION_UNITS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


class Strict(BaseModel):
    """Keys that nobody knows are faults, and values are what they were written as."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


def _duration_seconds(value: object) -> object:
    match = _DURATION.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise ValueError("is not a duration (write a number and a unit, like 500ms, 5s, 5m or 2h)")
    return float(match[1]) * _DURATION_UNITS[match[2]]


def written(unit: str, endless: str = UNLIMITED) -> PlainSerializer:
    """A number as a configuration has it, exactly: digits and a unit, or the word for no end."""

    def write(value: float) -> str:
        return endless if math.isinf(value) else f"{Decimal(value):f}{unit}"

    return PlainSerializer(write)


Seconds = Annotated[float, BeforeValidator(_duration_seconds), written("s")]
Name = Annotated[str, Field(pattern=NAME)]


def is_command(words: list[str]) -> bool:
    """Whether this is the absolute path of a program and its arguments, if any."""
    return bool(words) and words[0].startswith("/") and not any("\0" in word for word in words)
