"""Which paths of a tree are left out. PURE.

A pattern without a slash fits a name in any directory; one with a slash fits the path from the tree on (a
slash at its beginning says no more than that). `*` fits any bytes of one name, `?` one byte, `[abc]` and
`[!abc]` one of some, `**` any bytes, slashes too; a slash at the end fits directories only. What is in a
directory that is left out is left out, whatever else is said. `include` makes exceptions from `exclude`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from cdp_container.domain.path_patterns import pattern_expression

PATTERN_BYTES_MAX: Final = 4_096


class Patterns:
    """The patterns of one tree."""

    __slots__ = ("_exclude", "_include")

    def __init__(self, include: Sequence[str] = (), exclude: Sequence[str] = ()) -> None:
        self._exclude = _joined(exclude)
        self._include = _joined(include) if exclude else None

    def excludes(self, path: bytes, is_directory: bool) -> bool:
        """Whether this path is left out; that none of its directories is has been asked before."""
        if self._exclude is None or not path:
            return False
        text = path + b"/" if is_directory else path
        if self._exclude.fullmatch(text) is None:
            return False
        return self._include is None or self._include.fullmatch(text) is None


def _joined(patterns: Sequence[str]) -> re.Pattern[bytes] | None:
    if not patterns:
        return None
    encoded = (pattern.encode("utf-8", "surrogateescape") for pattern in patterns)
    return re.compile(b"|".join(map(_expression, encoded)), re.DOTALL)


def _expression(pattern: bytes) -> bytes:
    """A pattern as a regular expression over a path, with a slash at the end where it is a directory."""
    ending = b"/" if pattern.endswith(b"/") else b"/?"
    body = pattern.rstrip(b"/")
    start = b"" if b"/" in body else b"(?:.*/)?"
    return b"(?:" + start + pattern_expression(body.lstrip(b"/")) + ending + b")"
