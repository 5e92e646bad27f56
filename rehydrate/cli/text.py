"""Numbers and nested members as people read them, and times and points as they write them. PURE."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Final

from cdp_container.console import printable
from cdp_container.errors import UsageError
from cdp_container.telling import UNIX_EPOCH
from cdp_container.telling import size_text as size_text

_POINT: Final = re.compile(r"([0-9]{1,10})\.([0-9]{1,20})")


def seconds_text(seconds: float) -> str:
    """A duration: `42 s`, `3 min 10 s`, `2 h 05 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02} min"


def parse_time(text: str, option: str = "--time") -> int:
    """Nanoseconds since 1970 from RFC 3339. Raises UsageError; also where the offset from UTC is left out."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise UsageError(f"read {option}", f"{text!r} is no time", "write 2026-11-20T14:00:00Z") from None
    if moment.tzinfo is None:
        why = f"{text!r} does not say its offset from UTC"
        raise UsageError(f"read {option}", why, "end it in Z or +01:00")
    return (moment - UNIX_EPOCH) // timedelta(microseconds=1) * 1000


def parse_point(text: str) -> tuple[int, int]:
    """(epoch, number) from EPOCH.NUMBER. Raises UsageError."""
    match = _POINT.fullmatch(text)
    if match is None:
        raise UsageError("read --at", f"{text!r} is not EPOCH.NUMBER", "`rehydrate points` prints them so")
    return int(match[1]), int(match[2])


def tree(value: object) -> str:
    """Nested members as indented lines."""
    lines: list[str] = []
    waiting: list[tuple[str, str, object]] = [*reversed(_branches("", value))]
    while waiting:  # no recursion: what is nested how deeply is decided by whoever wrote it
        indent, title, item = waiting.pop()
        if isinstance(item, Mapping | list) and item:
            lines.append(indent + title)
            waiting.extend(reversed(_branches(indent + "  ", item)))
        else:
            lines.append(f"{indent}{title} {'-' if item in (None, '', [], {}) else printable(str(item))}")
    return "\n".join(lines)


def _branches(indent: str, value: object) -> list[tuple[str, str, object]]:
    if isinstance(value, Mapping):
        return [(indent, printable(f"{name}:"), item) for name, item in value.items()]
    assert isinstance(value, list), value
    return [(indent, "-", item) for item in value]
