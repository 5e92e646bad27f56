"""Types of values that several parts of the configuration have: how they are read and written. PURE.

Which keys there are does not belong here (settings, point_settings), nor how faults are told (config_words).
"""

from __future__ import annotations

import ipaddress
import math
import re
from decimal import Decimal
from typing import Annotated, Final

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer

UNLIMITED: Final = "unlimited"
NAME: Final = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$"

_SIZE: Final = re.compile(r"(\d+)\s*(B|KiB|MiB|GiB|TiB)?")
_SIZE_UNITS: Final = {None: 1, "B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40}
_ENDPOINT: Final = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([^\[\]:]+)):(\d{1,5})", re.ASCII)
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


def _absolute(value: object) -> object:
    if not isinstance(value, str) or not value.startswith("/") or "\0" in value:
        raise ValueError("is not an absolute path")
    return value


def _size_bytes(value: object) -> object:
    match = _SIZE.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise ValueError("is not a size (write a number and a unit, like 20GiB)")
    return int(match[1]) * _SIZE_UNITS[match[2]]


def _endpoint(value: object) -> object:
    match = _ENDPOINT.fullmatch(value) if isinstance(value, str) else None
    if match is None or not 0 < int(match[3]) < 1 << 16:
        raise ValueError("is not an address and a port (like 127.0.0.1:10809 or [::1]:10809)")
    try:
        ipaddress.ip_address(match[1] or match[2])
    except ValueError:
        raise ValueError("is not an address in digits (like 127.0.0.1:10809 or [::1]:10809)") from None
    return value


AbsolutePath = Annotated[str, BeforeValidator(_absolute)]
SizeBytes = Annotated[int, BeforeValidator(_size_bytes), written("B")]
Endpoint = Annotated[str, BeforeValidator(_endpoint)]
Seconds = Annotated[float, BeforeValidator(_duration_seconds), written("s")]
Name = Annotated[str, Field(pattern=NAME)]


def is_command(words: list[str]) -> bool:
    """Whether this is the absolute path of a program and its arguments, if any."""
    return bool(words) and words[0].startswith("/") and not any("\0" in word for word in words)
