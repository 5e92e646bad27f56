"""Which names of a tree are to be restored: all, or what patterns fit, and what leads there. PURE.

A pattern without a slash fits a name in any directory; one with a slash fits the path from the tree on. `*`
fits any bytes of one name, `?` one byte, `[abc]` and `[!abc]` one of some, `**` any bytes, slashes too. What
is in a directory that fits, fits.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Sequence

from cdp_container.domain.namespace import Entry
from cdp_container.domain.path_patterns import pattern_expression
from cdp_container.errors import UsageError


class Selection:
    """What patterns pick; without patterns everything. `unmet`: those that fit nothing of what was learnt."""

    def __init__(self, patterns: Sequence[str] = ()) -> None:
        self._fits = _compiled(patterns)
        self._unmet = {pattern: _compiled([pattern]) for pattern in patterns}
        self._ways: frozenset[bytes] = frozenset()

    @property
    def unmet(self) -> frozenset[str]:
        """See the class."""
        return frozenset(self._unmet)

    @property
    def is_all(self) -> bool:
        """Whether nothing is left out."""
        return self._fits is None

    def fits(self, path: bytes) -> bool:
        """Whether a path is wanted for itself."""
        return self._fits is None or self._fits.fullmatch(path) is not None

    def learn(self, entries: Iterable[Entry]) -> int:
        """Find the directories that lead to what is wanted; gives how many names are taken, with the root."""
        ways: set[bytes] = set()
        taken = 0
        for entry in entries:
            if entry.name and self.fits(entry.path):
                taken += 1
                self._meet(entry.path)
                above = entry.parent
                while above and above not in ways and not self.fits(above):
                    ways.add(above)
                    above = above.rpartition(b"/")[0]
        self._ways = frozenset(ways)
        return taken + len(ways) + 1

    def _meet(self, path: bytes) -> None:
        for pattern, expression in list(self._unmet.items()):
            if expression is not None and expression.fullmatch(path):
                del self._unmet[pattern]

    def take(self, entries: Iterable[Entry]) -> Iterator[Entry]:
        """Of the names of a tree those that are wanted or lead there, and the root. `learn` comes first."""
        if self._fits is None:
            return iter(entries)
        return (
            entry for entry in entries if not entry.name or entry.path in self._ways or self.fits(entry.path)
        )


def _compiled(patterns: Sequence[str]) -> re.Pattern[bytes] | None:
    if not patterns:
        return None
    bodies = [os.fsencode(pattern).strip(b"/") for pattern in patterns]
    if not all(bodies):
        raise UsageError("choose paths", "a pattern is empty")
    anywhere = [b"" if b"/" in body or b"/" in os.fsencode(pattern).rstrip(b"/") else b"(?:.*/)?"
                for body, pattern in zip(bodies, patterns, strict=True)]  # fmt: skip
    parts = [start + pattern_expression(body) for start, body in zip(anywhere, bodies, strict=True)]
    return re.compile(b"(?:" + b"|".join(parts) + b")(?:/.*)?", re.DOTALL)
