"""The names of trees as they were at one cut: found, checked whole, and walked parents first.

They lie in a temporary table on disk, so memory grows little with them. What the content of files is does not
belong here (file_runs), how they are kept and found neither (name_table), nor what is done with a name
(rehydrate).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Final

import numpy as np

from cdp_container.domain.byte_order import in_order
from cdp_container.domain.contents import Contents
from cdp_container.domain.image import Branch, Cut, on_branch
from cdp_container.domain.name_rows import on_the_branch
from cdp_container.domain.name_spool import NAME_ROWS
from cdp_container.domain.name_table import XATTRS, Entry, NameTable
from cdp_container.domain.spool import Spool
from cdp_container.errors import DamagedObject
from cdp_container.extents.intervals import Ints
from cdp_container.extents.tables import Table
from cdp_container.format.layout import ID_BYTES
from cdp_container.format.names import ROOT, Name, NameType, name_added, shown
from cdp_container.format.plain_names import TYPES

__all__ = ["Entry", "Namespace", "Tree", "trees_of"]

MADE_UP_MODE: Final = 0o700
"""Of a directory that no name is left of: nobody but its owner is let in."""

_DIRECTORY: Final = TYPES.index(NameType.DIRECTORY)
_IDS: Final = np.dtype([("first", "<u8"), ("rest", "<u8")])
_PLAINLY: Final = ("type", "mode", "uid", "gid", "mtime_ns", "size_bytes")
COPIED_BYTES: Final = 16 << 20
"""Of the names' bytes, at a time, where something is made up."""


@dataclass(frozen=True, slots=True)
class Tree:
    """A tree as it was at a cut. `whole` says whether everything that it held is in the container."""

    tree: bytes
    name: str
    whole: bool


def trees_of(contents: Contents, branch: Branch, cut: Cut) -> list[Tree]:
    """The trees that exist at a cut, by name."""
    found: dict[bytes, str] = {}
    for record in sorted(contents.tree_records, key=lambda record: record.place):
        if on_branch(record.place, branch):
            if record.name == "tree+":
                found[record.tree] = record.title
            else:
                found.pop(record.tree, None)
    trees = [Tree(tree, name, tree not in cut.not_whole) for tree, name in found.items()]
    return sorted(trees, key=lambda tree: (tree.name, tree.tree))


class Namespace:
    """The names of some trees at one cut; to be closed. Used by one thread at a time.

    Args:
        contents: gathered with names.
        branch: what the cut is made of.
        trees: as `trees_of` gives them; of one that is not whole at the cut anything may be missing.
        mends: segments of the branch cannot be read: where they may have told of a directory that names
            stand in, one is made up; names of one content are taken to be as the youngest of them says.

    Attributes:
        made_up: the paths of directories that were made up, sorted.

    Raises:
        DamagedObject: a name makes no sense, stands under what is no directory, or a tree has no root; names
            of one content do not agree. Nothing is known of the trees then.
        LocalDiskFull, DeviceError: the temporary directory fails.
    """

    def __init__(
        self, contents: Contents, branch: Branch, trees: Sequence[Tree], mends: bool = False
    ) -> None:
        assert contents.keeps_names, "names are kept only where they were asked for"
        self.trees = tuple(trees)
        self.made_up: list[bytes] = []
        ids = {tree.tree for tree in trees}
        rows, data = on_the_branch(contents, branch), contents.names.bytes()
        with ExitStack() as stack:
            self._take(stack, NameTable(rows, data, ids))
            told = self._mended() if mends else []
            if told:
                rows, data = _with(rows, data, told)
                self._take(stack, NameTable(rows, data, ids))
            self._check()
            self._closing = stack.pop_all()

    def walk(self, tree: Tree) -> Iterator[Entry]:
        """Every name of a tree: the root first, the names of one directory together, parents before them."""
        return self._table.entries(np.arange(*self._rows_of(tree)))

    def listing(self, tree: Tree, path: bytes, skipped: int = 0, count: int | None = None) -> list[Entry]:
        """The names in a directory, sorted; empty where there is none.

        `skipped`, `count`: all but so many, and of these so many at most: a directory may have millions.
        """
        first, beyond = self._table.of_directory(tree.tree + path)
        if path == ROOT and first < beyond and not self._table.entry(first).name:
            first += 1  # the root itself
        first = min(first + skipped, beyond)
        last = beyond if count is None else min(first + count, beyond)
        return list(self._table.entries(np.arange(first, last)))

    def directories(self, tree: Tree) -> Iterator[Entry]:
        """The directories of a tree, those below before those above; the root is the last."""
        return self._table.entries(self._directories_of(tree)[::-1])

    def twins(self, tree: Tree) -> dict[bytes, list[bytes]]:
        """The contents that have several names, hard links: their paths, in the order of the walk."""
        first, beyond = self._rows_of(tree)
        mine = np.sort(self._linked[(self._linked >= first) & (self._linked < beyond)])
        found: dict[bytes, list[bytes]] = {}
        for entry in self._table.entries(mine):
            assert entry.what.space is not None
            found.setdefault(entry.what.space, []).append(entry.path)
        return found

    def find(self, tree: Tree, path: bytes) -> Entry | None:
        """The name of a path, if it is there."""
        number = self._table.find(tree.tree, path)
        return None if number is None else self._table.entry(number)

    def counts(self, tree: Tree) -> dict[NameType, int]:
        """How many names of each type a tree has."""
        first, beyond = self._rows_of(tree)
        counts = np.bincount(self._plain["type"][first:beyond], minlength=len(TYPES)).tolist()
        return {kind: count for kind, count in zip(TYPES, counts, strict=True) if count}

    def may_have_xattrs(self) -> bool:
        """False where no name of any tree has extended attributes."""
        return bool((self._table.names["more"] & XATTRS).any())

    def close(self) -> None:
        """Give the table's disk space back."""
        self._closing.close()

    def _take(self, stack: ExitStack, table: NameTable) -> None:
        """Have this table from now on, and of it the rows whose content others share."""
        stack.callback(table.close)
        self._table = table
        self._plain = table.names["plain"]
        self._linked = _linked(self._plain)

    def _rows_of(self, tree: Tree) -> tuple[int, int]:
        first, beyond = self._table.of_tree(tree.tree)
        return int(self._table.firsts[first]), int(self._table.firsts[beyond])

    def _directories_of(self, tree: Tree) -> Ints:
        first, beyond = self._rows_of(tree)
        return first + np.flatnonzero(self._plain["type"][first:beyond] == _DIRECTORY)

    def _check(self) -> None:
        """Where trees are whole: that names stand in directories, and that names of one content agree."""
        for tree in self.trees:
            root = self._table.find(tree.tree, ROOT)
            if root is not None and self._plain["type"][root] != _DIRECTORY:
                raise DamagedObject(f"the tree {tree.name!r}", "its root is no directory")
            if root is None and tree.whole:
                raise DamagedObject(f"the tree {tree.name!r}", "it has no root at this cut")
        for tree, parent in self._homeless():
            is_there = self._table.find(tree.tree, parent) is not None
            why = "it has names below it, and is no directory" if is_there else "it has names below it"
            raise DamagedObject(f"the path {shown(parent)} of a tree", why)
        for rows in self._quarrels():
            what = f"the file {shown(self._table.entry(int(rows.min())).path)}"
            raise DamagedObject(what, "its names do not agree on what it is")

    def _homeless(self) -> Iterator[tuple[Tree, bytes]]:
        """Of whole trees the paths below which names stand and that are no directories."""
        names, firsts = self._table.names, self._table.firsts
        for tree in self.trees:
            if not tree.whole:
                continue
            first, beyond = self._table.of_tree(tree.tree)
            parents = firsts[first:beyond]
            parents = parents[names["directory_length"][parents] > ID_BYTES]
            homes = self._directories_of(tree)
            starts = np.concatenate((names["at"][homes], names["at"][parents]))
            lengths = np.concatenate((names["key_length"][homes], names["directory_length"][parents]))
            order, is_same = in_order(self._table.data, starts, lengths.astype(np.int64))
            for at in order[(order >= len(homes)) & ~is_same].tolist():
                row = parents[at - len(homes)]
                yield tree, self._table.key(int(row))[ID_BYTES : int(names["directory_length"][row])]

    def _quarrels(self) -> Iterator[Ints]:
        """Of contents of trees that are all whole, the rows of names that do not agree."""
        if not all(tree.whole for tree in self.trees):
            return
        plain, more = self._plain[self._linked], self._table.names["more"][self._linked]
        is_first = np.append(True, _ids(plain)[1:] != _ids(plain)[:-1])[: len(plain)]
        agrees = more == np.append(more[:1], more[:-1])
        for column in _PLAINLY:
            agrees[1:] &= plain[column][1:] == plain[column][:-1]
        trees = np.searchsorted(
            [self._rows_of(tree)[0] for tree in self._by_id()], self._linked, side="right"
        )
        agrees[1:] &= trees[1:] == trees[:-1]
        for at in np.flatnonzero(agrees & ~is_first & (more > 0)).tolist():
            one, other = (self._table.entry(int(number)).what for number in self._linked[at - 1 : at + 1])
            agrees[at] = sorted(one.xattrs) == sorted(other.xattrs) and one[:8] == other[:8]
            agrees[at] &= one.device == other.device
        group = np.cumsum(is_first)
        for number in np.unique(group[~is_first & ~agrees]).tolist():
            yield self._linked[slice(*np.searchsorted(group, [number, number + 1]))]

    def _by_id(self) -> list[Tree]:
        """The trees that have names, as their rows lie."""
        trees = sorted(self.trees, key=lambda tree: tree.tree)
        return [tree for tree in trees if len(range(*self._rows_of(tree)))]

    def _mended(self) -> list[tuple[bytes, bytes]]:
        """See `mends`: keys and values that were never told, and are to count."""
        told: dict[bytes, bytes] = {}
        made: set[bytes] = set()
        for tree in self.trees:
            if tree.whole and self.find(tree, ROOT) is None:
                self._make_up(tree, ROOT, told, made)
        for tree, parent in self._homeless():
            path = parent
            while path and not self._is_directory(tree, path):
                self._make_up(tree, path, told, made)
                path = path.rpartition(b"/")[0]
        self.made_up = sorted(made)
        for rows in self._quarrels():
            youngest = max(rows.tolist(), key=lambda row: (int(self._plain["mtime_ns"][row]), -row))
            keys = [self._table.key(row) for row in rows.tolist()]
            if len({key[:ID_BYTES] for key in keys}) == 1:  # no damage makes a content that of two trees
                what = self._table.entry(youngest).what
                for key in keys:
                    told.setdefault(key, name_added(key[:ID_BYTES], key[ID_BYTES:], what).value)
        return list(told.items())

    def _is_directory(self, tree: Tree, path: bytes) -> bool:
        found = self.find(tree, path)
        return found is not None and found.what.type is NameType.DIRECTORY

    def _make_up(self, tree: Tree, path: bytes, told: dict[bytes, bytes], made: set[bytes]) -> None:
        root = self.find(tree, ROOT)
        uid, gid = (root.what.uid, root.what.gid) if root else (0, 0)
        what = Name(NameType.DIRECTORY, MADE_UP_MODE, uid, gid)
        told[tree.tree + path] = name_added(tree.tree, path, what).value
        made.add(path)


def _ids(plain: Table) -> Table:
    """The contents' ids of rows (PLAIN), each as two numbers."""
    found: Table = np.ascontiguousarray(plain["space"]).view(_IDS)[:, 0]
    return found


def _linked(plain: Table) -> Ints:
    """The rows (PLAIN) whose content others have too, each content together, in the order of the walk."""
    rows = np.flatnonzero(plain["has_space"])
    ids = _ids(plain[rows])
    order = np.lexsort((ids["rest"], ids["first"]))
    is_new = np.append(True, ids[order][1:] != ids[order][:-1])[: len(rows)]
    found: Ints = rows[order[~(is_new & np.append(is_new[1:], True)[: len(rows)])]]
    return found


def _with(rows: Table, data: memoryview, told: Sequence[tuple[bytes, bytes]]) -> tuple[Table, memoryview]:
    """The same, and behind them what is to count as the newest of all."""
    every = Spool(np.dtype(np.uint8))
    for start in range(0, len(data), COPIED_BYTES):
        every.append(np.frombuffer(data[start : start + COPIED_BYTES], dtype=np.uint8))
    more = np.zeros(len(told), dtype=NAME_ROWS)
    more["key_length"] = [len(key) for key, _ in told]
    more["value_length"] = [len(value) for _, value in told]
    lengths = more["key_length"].astype(np.int64) + more["value_length"]
    more["at"] = len(data) + np.cumsum(lengths) - lengths
    every.append(np.frombuffer(b"".join(key + value for key, value in told), dtype=np.uint8))
    table = memoryview(every.table().data)
    every.close()
    return np.concatenate((rows, more)), table
