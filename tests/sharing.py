"""Which worker of pytest-xdist runs which test: what needs Ceph is for one, each other module for any one.

pytest-xdist's own `loadgroup` is for that, and does nothing under pytest 9.2, which lets nobody write a group
into the name of a test (pytest-xdist's issue 1386). So workers write down which tests need Ceph, and the
scheduler here reads that. What does not belong here: what tests need, which tests/conftest.py knows.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

import pytest
from xdist.scheduler import LoadScopeScheduling  # type: ignore[import-untyped]  # it has none
from xdist.workermanage import WorkerController  # type: ignore[import-untyped]  # likewise

CEPH: Final = "ceph"
LONGEST_FIRST: Final = (
    CEPH, "test_guest_recovery", "test_kill_rounds", "test_collection", "test_failover_collected",
    "test_adopt", "test_trees", "test_guest_failover", "test_healing", "test_tree_programs",
)  # fmt: skip
"""Groups of a minute and more: what is long and begins last is waited for by all."""


_QUEUED_MIN: Final = 2
"""A worker begins a test when it knows the next one, or that there is none."""


def write_down(path: Path, names: Iterable[str]) -> None:
    """The tests that need Ceph; every worker finds the same ones, and nobody reads half of them."""
    fresh = path.with_name(f"{path.name}.{os.getpid()}")
    fresh.write_text("\n".join(names))
    fresh.replace(path)


def turn_of(group: str) -> int:
    """Where a group stands in the queue."""
    return LONGEST_FIRST.index(group) if group in LONGEST_FIRST else len(LONGEST_FIRST)


def group_of(name: str, need_ceph: frozenset[str]) -> str:
    """The group of a test, by its name. PURE."""
    return CEPH if name in need_ceph else name.partition("::")[0]


class Groups(LoadScopeScheduling):  # type: ignore[misc]  # likewise
    """Gives a worker one group after the other.

    Where a worker crashes, those of pytest-xdist 3.8 give all groups to it and others again that it had done,
    and who has got one with nothing left to do waits for ever: so this here says what is left by itself.

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

    def add_node_collection(self, node: WorkerController, collection: Sequence[str]) -> None:
        """What a worker found. Raises RuntimeError: one that replaces another found something else."""
        super().add_node_collection(node, collection)
        if node not in self.registered_collections:
            raise RuntimeError(f"worker {node.gateway.id} found other tests than those before it")

    def remove_node(self, node: WorkerController) -> str | None:
        """Take a worker's tests from it; gives the one in which it crashed, which nobody begins again."""
        groups: dict[str, dict[str, bool]] = self.assigned_work.pop(node)
        undone = (name for tests in groups.values() for name, is_done in tests.items() if not is_done)
        crashed = next(undone, None)
        for group, tests in groups.items():
            left = {name: False for name, is_done in tests.items() if not is_done and name != crashed}
            if left:
                self.workqueue[group] = left
        for other in self.nodes:
            self._reschedule(other)
        return crashed

    def _reschedule(self, node: WorkerController) -> None:
        if node not in self.registered_collections:
            return  # it replaces another, and is given tests when it has found them
        super()._reschedule(node)
        while not node.shutting_down and self._pending_of(self.assigned_work[node]) < _QUEUED_MIN:
            if self.workqueue:
                self._assign_work_unit(node)
            else:
                node.shutdown()
