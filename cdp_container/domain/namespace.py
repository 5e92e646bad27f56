"""The names of trees as they were at one cut: found, checked whole, and walked parents first.

They lie in a temporary table on disk, so memory does not grow with them. What the content of files is does
not belong here (file_runs), nor what is done with a name (rehydrate).
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np

from cdp_container.domain.contents import Contents
from cdp_container.domain.image import Branch, Cut, on_branch
from cdp_container.domain.spool import typed
from cdp_container.errors import DamagedObject
from cdp_container.extents.tables import Table
from cdp_container.format.jsontext import dump_object
from cdp_container.format.layout import ID_BYTES
from cdp_container.format.names import (
    ROOT,
    Name,
    NameType,
    name_members,
    parse_name,
    parse_name_key,
    shown,
)
from cdp_container.format.place import Place

CACHE_KIB: Final = 64 << 10
"""What SQLite keeps of the table in memory."""
INSERTED_AT_ONCE: Final = 10_000

_TYPES: Final = tuple(NameType)
_NUMBERS: Final = {kind: number for number, kind in enumerate(_TYPES)}
_DIRECTORY: Final = _NUMBERS[NameType.DIRECTORY]
_SCHEMA: Final = """
CREATE TABLE names (
    tree INTEGER, parent BLOB, name BLOB, type INTEGER, mode INTEGER, uid INTEGER, gid INTEGER,
    mtime_ns INTEGER, size_bytes INTEGER, space BLOB, more BLOB, PRIMARY KEY (tree, parent, name)
) WITHOUT ROWID
"""
_INSERT: Final = "INSERT INTO names VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
_WALK: Final = """
SELECT parent, name, type, mode, uid, gid, mtime_ns, size_bytes, space, more FROM names
WHERE tree = ? ORDER BY parent, name
"""
_LIST: Final = """
SELECT parent, name, type, mode, uid, gid, mtime_ns, size_bytes, space, more FROM names
WHERE tree = ? AND parent = ? AND name != x'' ORDER BY name
"""
_DIRECTORIES: Final = """
SELECT parent, name, type, mode, uid, gid, mtime_ns, size_bytes, space, more FROM names
WHERE tree = ? AND type = ? ORDER BY parent DESC, name DESC
"""
_LINKS: Final = """
SELECT space, parent, name FROM names WHERE tree = ? AND space IN (
    SELECT space FROM names WHERE space IS NOT NULL GROUP BY space HAVING count(*) > 1
) ORDER BY parent, name
"""
_FIND: Final = """
SELECT parent, name, type, mode, uid, gid, mtime_ns, size_bytes, space, more FROM names
WHERE tree = ? AND parent = ? AND name = ?
"""
_ANY_XATTRS: Final = """
SELECT EXISTS (SELECT 1 FROM names WHERE more IS NOT NULL AND instr(more, CAST('"xattrs":[[' AS BLOB)))
"""
_TWINS: Final = """
SELECT min(tree), max(tree), min(mode), max(mode), min(uid), max(uid), min(gid), max(gid),
    min(mtime_ns), max(mtime_ns), min(size_bytes), max(size_bytes),
    min(coalesce(more, x'')), max(coalesce(more, x'')), min(CAST(parent || '/' || name AS BLOB)), space
FROM names WHERE space IS NOT NULL GROUP BY space HAVING count(*) > 1
"""
_AGREE: Final = """
UPDATE names SET (mode, uid, gid, mtime_ns, size_bytes, more) = (
    SELECT mode, uid, gid, mtime_ns, size_bytes, more FROM names WHERE space = ?1
    ORDER BY mtime_ns DESC, parent, name LIMIT 1
) WHERE space = ?1
"""
MADE_UP_MODE: Final = 0o700
"""Of a directory that no name is left of: nobody but its owner is let in."""


@dataclass(frozen=True, slots=True)
class Tree:
    """A tree as it was at a cut. `whole` says whether everything that it held is in the container."""

    tree: bytes
    name: str
    whole: bool


class Entry(NamedTuple):
    """One name: the path of its directory, its own last component (both empty: the root), and what it is."""

    parent: bytes
    name: bytes
    what: Name

    @property
    def path(self) -> bytes:
        """Relative to the tree."""
        return self.parent + b"/" + self.name if self.parent else self.name


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
        self._numbers = {tree.tree: number for number, tree in enumerate(trees)}
        # An empty name is a file of SQLite's own, which goes when it is closed.
        self._table = sqlite3.connect("", isolation_level=None, check_same_thread=False)
        try:
            self._fill(contents, branch)
            if mends:
                self._mend()
            self._check()
        except sqlite3.Error as error:
            self._table.close()
            raise typed(OSError(getattr(error, "sqlite_errorcode", 0), str(error))) from error
        except BaseException:
            self._table.close()
            raise

    def walk(self, tree: Tree) -> Iterator[Entry]:
        """Every name of a tree: the root first, the names of one directory together, parents before them."""
        return map(_entry, self._table.execute(_WALK, (self._numbers[tree.tree],)))

    def listing(self, tree: Tree, path: bytes) -> list[Entry]:
        """The names in a directory, sorted; empty where there is none."""
        return list(map(_entry, self._table.execute(_LIST, (self._numbers[tree.tree], path))))

    def directories(self, tree: Tree) -> Iterator[Entry]:
        """The directories of a tree, those below before those above; the root is the last."""
        return map(_entry, self._table.execute(_DIRECTORIES, (self._numbers[tree.tree], _DIRECTORY)))

    def twins(self, tree: Tree) -> dict[bytes, list[bytes]]:
        """The contents that have several names, hard links: their paths, in the order of the walk."""
        found: dict[bytes, list[bytes]] = {}
        for space, parent, name in self._table.execute(_LINKS, (self._numbers[tree.tree],)):
            found.setdefault(space, []).append(parent + b"/" + name if parent else name)
        return found

    def find(self, tree: Tree, path: bytes) -> Entry | None:
        """The name of a path, if it is there."""
        return self._find(self._numbers[tree.tree], path)

    def counts(self, tree: Tree) -> dict[NameType, int]:
        """How many names of each type a tree has."""
        query = "SELECT type, count(*) FROM names WHERE tree = ? GROUP BY type"
        return {
            _TYPES[kind]: count for kind, count in self._table.execute(query, (self._numbers[tree.tree],))
        }

    def may_have_xattrs(self) -> bool:
        """False where no name of any tree has extended attributes."""
        return bool(self._table.execute(_ANY_XATTRS).fetchone()[0])

    def close(self) -> None:
        """Give the table's disk space back."""
        self._table.close()

    def _find(self, number: int, path: bytes) -> Entry | None:
        parent, _, name = path.rpartition(b"/")
        row = self._table.execute(_FIND, (number, parent, name)).fetchone()
        return None if row is None else _entry(row)

    def _fill(self, contents: Contents, branch: Branch) -> None:
        for pragma in (f"cache_size = -{CACHE_KIB}", "journal_mode = OFF", "synchronous = OFF"):
            self._table.execute(f"PRAGMA {pragma}")
        self._table.execute(_SCHEMA)
        rows = _newest(contents, branch)
        self._table.execute("BEGIN")
        for first in range(0, len(rows), INSERTED_AT_ONCE):
            part = rows[first : first + INSERTED_AT_ONCE]
            self._table.executemany(_INSERT, self._values(part, contents.names.bytes()))
        self._table.execute("COMMIT")

    def _values(self, rows: Table, data: memoryview) -> Iterator[tuple[object, ...]]:
        numbers, types = self._numbers, _NUMBERS
        for at, key_length, value_length in rows[["at", "key_length", "value_length"]].tolist():
            number = numbers.get(bytes(data[at : at + ID_BYTES]))
            if number is None:
                continue  # its tree is not wanted, or left the domain
            value_at = at + key_length
            _, path = parse_name_key(bytes(data[at:value_at]), "a name")
            value = bytes(data[value_at : value_at + value_length])
            found = _parsed(value, path)
            kind, mode, uid, gid, mtime_ns, size_bytes, space, target, xattrs, device = found
            more = dump_object(name_members(found)) if target or xattrs or device else None
            parent, _, name = path.rpartition(b"/")
            if path == ROOT and kind is not NameType.DIRECTORY:
                raise DamagedObject(f"the tree {self.trees[number].name!r}", "its root is no directory")
            yield number, parent, name, types[kind], mode, uid, gid, mtime_ns, size_bytes, space, more

    def _check(self) -> None:
        """Where trees are whole: that names stand in directories, and that names of one content agree."""
        for number, tree in enumerate(self.trees):
            if tree.whole and self._find(number, ROOT) is None:
                raise DamagedObject(f"the tree {tree.name!r}", "it has no root at this cut")
        for _, parent, is_there in self._homeless():
            why = "it has names below it, and is no directory" if is_there else "it has names below it"
            raise DamagedObject(f"the path {shown(parent)} of a tree", why)
        for *_, path, _ in self._quarrels():
            what = f"the file {shown(path.lstrip(b'/'))}"
            raise DamagedObject(what, "its names do not agree on what it is")

    def _homeless(self) -> Iterator[tuple[int, bytes, bool]]:
        """Of whole trees the paths below which names stand and that are no directories."""
        parents = "SELECT DISTINCT tree, parent FROM names WHERE parent != x''"
        with closing(self._table.cursor()) as cursor:
            for number, parent in cursor.execute(parents):
                if not self.trees[number].whole:
                    continue
                above, _, name = parent.rpartition(b"/")
                found = self._table.execute(_FIND, (number, above, name)).fetchone()
                if found is None or found[2] != _DIRECTORY:
                    yield number, parent, found is not None

    def _quarrels(self) -> Iterator[tuple[int, int, bytes, bytes]]:
        """Contents of whole trees whose names do not agree: lowest and highest tree, a path, the space."""
        with closing(self._table.cursor()) as cursor:
            for *pairs, path, space in cursor.execute(_TWINS):
                if pairs[::2] != pairs[1::2] and all(tree.whole for tree in self.trees):
                    yield pairs[0], pairs[1], path, space

    def _mend(self) -> None:
        """See `mends`."""
        made: set[bytes] = set()
        for number, tree in enumerate(self.trees):
            if tree.whole and self._find(number, ROOT) is None:
                self._make_up(number, ROOT, made)
        for number, parent, _ in list(self._homeless()):
            path = parent
            while path and not self._is_directory(number, path):
                self._make_up(number, path, made)
                path = path.rpartition(b"/")[0]
        self.made_up = sorted(made)
        for lowest, highest, _, space in list(self._quarrels()):
            if lowest == highest:  # no damage makes a content that of two trees
                self._table.execute(_AGREE, (space,))

    def _is_directory(self, number: int, path: bytes) -> bool:
        found = self._find(number, path)
        return found is not None and found.what.type is NameType.DIRECTORY

    def _make_up(self, number: int, path: bytes, made: set[bytes]) -> None:
        root = self._find(number, ROOT)
        uid, gid = (root.what.uid, root.what.gid) if root else (0, 0)
        parent, _, name = path.rpartition(b"/")
        row = (number, parent, name, _DIRECTORY, MADE_UP_MODE, uid, gid, 0, 0, None, None)
        self._table.execute(_INSERT.replace("INSERT", "INSERT OR REPLACE", 1), row)
        made.add(path)


def _parsed(value: bytes, path: bytes) -> Name:
    try:
        return parse_name(value, "a name")
    except DamagedObject as error:
        raise DamagedObject(f"the name {shown(path)} of a tree", error.why) from error


def _entry(row: tuple[bytes, bytes, int, int, int, int, int, int, bytes | None, bytes | None]) -> Entry:
    parent, name, kind, *numbers, more = row
    if more is not None:
        return Entry(parent, name, parse_name(more, "a name"))
    return Entry(parent, name, Name(_TYPES[kind], *numbers))  # type: ignore[arg-type]


def _newest(contents: Contents, branch: Branch) -> Table:
    """Of every name the newest row on a branch, those that are gone left out (NAME_ROWS)."""
    rows = contents.names.rows()
    rows = rows[_counting(rows, contents, branch)]
    order = np.lexsort((np.arange(len(rows)), rows["seq"], rows["epoch"]))[::-1]
    rows = rows[order]  # the newest first
    keys = _hashes(rows, contents.names.bytes())
    _, firsts, inverse, counts = np.unique(keys, return_index=True, return_inverse=True, return_counts=True)
    again = counts[inverse] > 1
    newest = np.zeros(len(rows), dtype=np.bool_)
    newest[firsts] = True
    newest[again] = False
    newest[_exactly_newest(rows, np.flatnonzero(again), contents.names.bytes())] = True
    return rows[newest & (rows["value_length"] > 0)][::-1]


def _counting(rows: Table, contents: Contents, branch: Branch) -> Table:
    """Which rows are on the branch, and of no tree that left the domain since."""
    counting = np.zeros(len(rows), dtype=np.bool_)
    for epoch, last in branch.items():
        counting |= (rows["epoch"] == epoch) & (rows["seq"] <= last)
    data = contents.names.bytes()
    for tree, place in _removals(contents, branch).items():
        older = counting & (
            (rows["epoch"] < place.epoch) | ((rows["epoch"] == place.epoch) & (rows["cut"] <= place.cut))
        )
        for number in np.flatnonzero(older).tolist():
            at = int(rows["at"][number])
            counting[number] = bytes(data[at : at + ID_BYTES]) != tree
    return counting


def _removals(contents: Contents, branch: Branch) -> dict[bytes, Place]:
    """Where each tree left the domain last."""
    found: dict[bytes, Place] = {}
    for record in contents.tree_records:
        if record.name == "tree-" and on_branch(record.place, branch):
            found[record.tree] = max(record.place, found.get(record.tree, record.place))
    return found


def _hashes(rows: Table, data: memoryview) -> Table:
    """A number for each key; rows of different numbers have different keys."""
    wheres = rows[["at", "key_length"]].tolist()
    return np.fromiter((hash(bytes(data[at : at + length])) for at, length in wheres), np.int64, len(wheres))


def _exactly_newest(rows: Table, numbers: Table, data: memoryview) -> list[int]:
    """Of rows whose hashes others share, the first of each key."""
    seen: dict[bytes, int] = {}
    for number, (at, length) in zip(
        numbers.tolist(), rows[["at", "key_length"]][numbers].tolist(), strict=True
    ):
        seen.setdefault(bytes(data[at : at + length]), number)
    return list(seen.values())
