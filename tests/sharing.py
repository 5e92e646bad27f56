"""Which worker of pytest-xdist runs which test: what needs Ceph is for one, each other module for any one.

pytest-xdist's own `loadgroup` is for that, and does nothing under pytest 9.2, which lets nobody write a group
into the name of a test (pytest-xdist's issue 1386). So workers write down which tests need Ceph, and the
scheduler here reads that. What does not belong here: what tests need, which tests/conftest.py knows.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Final

import pytest
from xdist.scheduler import LoadScopeScheduling  # type: ignore[import-untyped]  # it has none

CEPH: Final = "ceph"
LONGEST_FIRST: Final = (
    CEPH, "test_guest_recovery", "test_kill_rounds", "test_collection", "test_failover_collected",
    "test_adopt", "test_trees", "test_guest_failover", "test_healing", "test_tree_programs",
)  # fmt: skip
"""Groups of a minute and more: what is long and begins last is waited for by all."""


def write_down(path: Path, names: Iterable[str]) -> None:
    """The tests that need Ceph; every worker finds the same ones."""
    path.write_text("\n".join(names))


def turn_of(group: str) -> int:
    """Where a group stands in the queue."""
    return LONGEST_FIRST.index(group) if group in LONGEST_FIRST else len(LONGEST_FIRST)


def group_of(name: str, need_ceph: frozenset[str]) -> str:
    """The group of a test, by its name. PURE."""
    return CEPH if name in need_ceph else name.partition("::")[0]


class Groups(LoadScopeScheduling):  # type: ignore[misc]  # likewise
    """Gives a worker one group after the other.

    Args:
        path: what the workers wrote down, before they told what they collected.
    """

    def __init__(self, config: pytest.Config, log: object, path: Path) -> None:
        super().__init__(config, log)
        self._path = path
        self._need_ceph: frozenset[str] | None = None

    def _split_scope(self, nodeid: str) -> str:
        if self._need_ceph is None:
            self._need_ceph = frozenset(self._path.read_text().splitlines())
        return group_of(nodeid, self._need_ceph)
