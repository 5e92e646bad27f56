"""Which paths are to be looked at, bounded: beyond the limit the whole tree is in doubt instead. PURE.

The thread of events adds, the watcher's own takes; whoever calls holds the lock that both share.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

DIRTY_MAX: Final = 100_000
"""Paths of all trees: some 20 MiB."""

LOOK: Final = 1
"""Compare what `lstat` says."""
READ: Final = 2
"""Compare the content too, whatever `lstat` says."""
DEEP: Final = 4
"""Look at everything below as well."""


class Dirty:
    """The dirty paths of some trees, which are numbers from 0."""

    __slots__ = ("_count", "_doubt", "_limit", "_paths", "changes")

    def __init__(self, trees: int, limit: int = DIRTY_MAX) -> None:
        self._paths: list[dict[bytes, int]] = [{} for _ in range(trees)]
        self._doubt = [True] * trees
        self._limit = limit
        self._count = 0
        self.changes = 0
        """Grows whenever something became dirty that was not, or must be looked at more closely."""

    @property
    def count(self) -> int:
        """How many paths are dirty."""
        return self._count

    def add(self, tree: int, path: bytes, bits: int) -> None:
        """A path is dirty; nothing where the whole tree is in doubt."""
        if self._doubt[tree]:
            return
        paths = self._paths[tree]
        known = paths.get(path)
        if known is None:
            if self._count >= self._limit:
                self.doubt(tree)
                return
            self._count += 1
        elif known | bits == known:
            return
        paths[path] = bits if known is None else known | bits
        self.changes += 1

    def doubt(self, tree: int) -> None:
        """Everything of a tree must be looked at; its paths are forgotten."""
        self._count -= len(self._paths[tree])
        self._paths[tree] = {}
        self._doubt[tree] = True
        self.changes += 1

    def doubt_all(self) -> None:
        """Everything must be looked at."""
        for tree in range(len(self._paths)):
            self.doubt(tree)

    def is_in_doubt(self, tree: int) -> bool:
        """Whether all of a tree must be looked at, and nobody began to."""
        return self._doubt[tree]

    def begin_scan(self, tree: int) -> None:
        """From now on single paths count again: somebody looks at all the others."""
        self._doubt[tree] = False

    def take(self, tree: int) -> dict[bytes, int]:
        """All dirty paths of a tree, which are dirty no more, in the order in which they became so."""
        taken = self._paths[tree]
        self._paths[tree] = {}
        self._count -= len(taken)
        return taken

    def of(self, tree: int) -> Mapping[bytes, int]:
        """The dirty paths of a tree."""
        return self._paths[tree]

    @property
    def anything(self) -> bool:
        """Whether anything is dirty or in doubt."""
        return self._count > 0 or any(self._doubt)
