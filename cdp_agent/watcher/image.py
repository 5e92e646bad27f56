"""The trees of the container at a cut, from heads alone: what an index is made anew from.

An agent's index key is enough. Where anything of the index cannot be read there is no image: to believe half
of it would leave names in the container for ever. The caller tries again.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

import numpy as np

from cdp_agent.watcher.index import BLOCKS, CHUNK_BYTES
from cdp_container.domain.blocks import SUM, UNKNOWN, WINDOW_BYTES, ZEROS, blocks_of
from cdp_container.domain.contents import Contents
from cdp_container.domain.faults import faults_of
from cdp_container.domain.file_runs import FileRuns, file_runs
from cdp_container.domain.gathering import gather
from cdp_container.domain.history import read_domain, read_history
from cdp_container.domain.image import Branch, cuts_of
from cdp_container.domain.ledgers import read_ledger
from cdp_container.domain.namespace import Namespace, Tree, trees_of
from cdp_container.domain.opening import collected_of
from cdp_container.errors import CdpError, DamagedObject, KeyMissing, NoSuchPoint
from cdp_container.format.layout import SUM_BYTES
from cdp_container.format.limits import SUM_BLOCK_BYTES
from cdp_container.format.names import name_added
from cdp_container.format.place import Place
from cdp_container.format.seal import ReaderKeys
from cdp_container.format.sums import block_sums
from cdp_container.store.api import Store

_ZERO_SUM: Final = np.frombuffer(block_sums(0, bytes(SUM_BLOCK_BYTES)), dtype=np.uint8)


class ContainerImage:
    """The trees at one cut. Raises CdpError where it cannot be read, or not whole."""

    def __init__(self, store: Store, domain: bytes, index_key: bytes, base: Place) -> None:
        keys = ReaderKeys(index_key=index_key or None)
        facts = read_domain(store)
        ledger = read_ledger(store, facts.owner, keys)
        history = read_history(store, facts, collected_of(store, facts.owner, keys, ledger))
        self._branch: Branch = history.branch_of(base)
        self._contents = gather(store, domain, keys, self._branch, ledger, keeps_sums=True, keeps_names=True)
        self._namespace: Namespace | None = None
        self._runs: FileRuns | None = None
        self._numbers: dict[bytes, int] = {}
        try:
            _check(self._contents, self._branch, history.origins())
            cut = next((cut for cut in cuts_of(self._contents, self._branch) if cut.place == base), None)
            if cut is None:
                raise NoSuchPoint("the trees cannot be compared", f"there is no cut {base}")
            self._trees = {tree.tree: tree for tree in trees_of(self._contents, self._branch, cut)}
            self._namespace = Namespace(self._contents, self._branch, list(self._trees.values()))
        except BaseException:
            self.close()
            raise

    def trees(self) -> list[tuple[bytes, str]]:
        """See `anew.Image`."""
        return [(tree.tree, tree.name) for tree in self._trees.values()]

    def names(self, tree: bytes) -> Iterator[tuple[bytes, bytes]]:
        """See `anew.Image`."""
        assert self._namespace is not None
        known: Tree = self._trees[tree]
        spaces = [entry.what.space for entry in self._namespace.walk(known) if entry.what.space is not None]
        spaces = list(dict.fromkeys(spaces))
        self._numbers = {space: number for number, space in enumerate(spaces)}
        self._runs = file_runs(self._contents, self._branch, spaces)
        for entry in self._namespace.walk(known):
            yield entry.path, name_added(tree, entry.path, entry.what).value

    def sums(self, space: bytes, size: int) -> Iterator[tuple[int, bytes]]:
        """See `anew.Image`."""
        assert self._runs is not None
        runs = self._runs.of(self._numbers[space])
        beyond = -(-size // SUM_BLOCK_BYTES) * SUM_BLOCK_BYTES
        for start in range(0, beyond if len(runs) else 0, WINDOW_BYTES):
            blocks = blocks_of(self._contents, runs, start, min(start + WINDOW_BYTES, beyond))
            sums = blocks.sums.view(np.uint8).reshape(-1, SUM_BYTES).copy()
            sums[(blocks.kinds == ZEROS) | ((blocks.kinds == SUM) & (sums == _ZERO_SUM).all(axis=1))] = 0
            sums[blocks.kinds == UNKNOWN] = 0xFF
            for first in range(0, len(sums), BLOCKS):
                part = sums[first : first + BLOCKS]
                if part.any():
                    yield start // CHUNK_BYTES + first // BLOCKS, part.tobytes()

    def close(self) -> None:
        """Give the disk space back."""
        if self._namespace is not None:
            self._namespace.close()
        self._contents.close()


def _check(contents: Contents, branch: Branch, origins: Mapping[int, tuple[Place, Place]]) -> None:
    if contents.broken:
        raise DamagedObject(next(iter(contents.broken)), "the trees of the newest cut need it")
    if contents.sealed:
        raise KeyMissing("compare with the newest cut", "its index does not open with our key")
    error: CdpError | None = next((fault.error for fault in faults_of(contents, branch, origins)), None)
    if error is not None:
        raise error
