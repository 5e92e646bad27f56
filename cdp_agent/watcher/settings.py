"""What the watcher is told at its start. The configuration file is the agent's matter; here are values."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

SCAN_SECONDS: Final = 6 * 3600.0
SCAN_UNWATCHED_SECONDS: Final = 60.0


@dataclass(frozen=True, slots=True)
class TreeSettings:
    """One protected tree.

    Attributes:
        id: drawn at random when it was added, 16 bytes.
        name: what people call it.
        path: its directory.
        include: patterns of what is taken although an exclusion fits (see `domain.tree_patterns`).
        exclude: patterns of what is left out.
        one_file_system: directories on which another file system is mounted are taken as empty ones.
        scan_seconds: how often all of it is looked at, whatever events say.
    """

    id: bytes
    name: str
    path: Path
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    one_file_system: bool = True
    scan_seconds: float = SCAN_SECONDS


@dataclass(frozen=True, slots=True)
class WatcherSettings:
    """All that `run_watcher` must know.

    Attributes:
        directory: the journal directory.
        domain: its id.
        index_key: opens the heads of objects, for an index that must be made anew; empty without encryption.
        store: the container's address.
        trees: those of the domain.
        scan_unwatched_seconds: how often a tree is scanned that cannot be watched.
    """

    directory: Path
    domain: bytes
    store: str
    trees: tuple[TreeSettings, ...]
    index_key: bytes = field(default=b"", repr=False)
    scan_unwatched_seconds: float = SCAN_UNWATCHED_SECONDS
