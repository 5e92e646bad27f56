"""A directory tree in a demo: files that come, change, move and go at random, compared by names and content.

What protects and restores it does not belong here (demo_failover).
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

DIRECTORIES: Final = 6
NAMES: Final = 30
FILE_BYTES_MAX: Final = 200_000
_GOES: Final = 0.15
_MOVES: Final = 0.35


@dataclass(slots=True)
class Files:
    """What a tree is to hold: the content of each file, by its path in the tree."""

    known: dict[str, bytes] = field(default_factory=dict)

    def change(self, tree: Path, rng: random.Random, count: int) -> None:
        """So many changes: files written, overwritten, renamed (over others too) and removed."""
        for _ in range(count):
            chance, path = rng.random(), self._path(tree, rng)
            if self.known and chance < _MOVES:
                old = rng.choice(sorted(self.known))
                content = self.known.pop(old)
                if chance < _GOES:
                    (tree / old).unlink()
                else:
                    (tree / old).rename(tree / path)
                    self.known[path] = content
            else:
                self.known[path] = rng.randbytes(rng.randrange(FILE_BYTES_MAX))
                (tree / path).write_bytes(self.known[path])

    def check(self, tree: Path) -> str:
        """Stops the demo where a tree holds anything else; else says what was compared."""
        found = {str(path.relative_to(tree)) for path in tree.rglob("*") if path.is_file()}
        for path in sorted(found ^ self.known.keys()):
            raise SystemExit(f"FAILED: {path} is {'missing' if path in self.known else 'too much'} in {tree}")
        for path, content in self.known.items():
            if (tree / path).read_bytes() != content:
                raise SystemExit(f"FAILED: {path} is not what was written into {tree}")
        return f"all {len(found)} files of the tree are right"

    def _path(self, tree: Path, rng: random.Random) -> str:
        path = f"{rng.randrange(DIRECTORIES)}/{rng.randrange(NAMES)}"
        (tree / path).parent.mkdir(parents=True, exist_ok=True)
        return path
