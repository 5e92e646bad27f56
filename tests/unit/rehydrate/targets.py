"""Targets for tests: what a restore that ends midway does with one."""

from __future__ import annotations

import contextlib
from pathlib import Path

from rehydrate.target import open_target

SIZE = 100_000


def view(data: bytes) -> memoryview:
    return memoryview(data)


def interrupted(path: Path, force: bool) -> str:
    """A restore that ends midway; gives what it was about to overwrite."""
    with contextlib.suppress(KeyboardInterrupt), open_target(path, SIZE, 0, force) as target:
        overwrites = target.overwrites
        target.begin()
        target.write(100, view(b"half"))
        raise KeyboardInterrupt
    return overwrites
