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
from cdp_container.domain.name_rows import newest_rows, said
from cdp_container.domain.spool import typed
from cdp_container.errors import DamagedObject
from cdp_container.extents.tables import Table
from cdp_container.format.jsontext import dump_object
from cdp_container.format.layout import ID_BYTES
from cdp_container.format.limits import COMPONENT_BYTES_MAX
from cdp_container.format.names import (
    ROOT,
    Name,
    NameType,
    is_component,
    name_members,
    parse_name,
    parse_name_key,
    shown,
)

CACHE_KIB: Final = 64 << 10
"""What SQLite keeps of the table in memory."""

_TYPES: Final = tuple(NameType)
_new: Final = tuple.__new__
_IDS: Final = np.dtype([("first", "<u8"), ("rest", "<u8")])
_NUMBERS: Final = {kind: number for number, kind in enumerate(_TYPES)}
_DIRECTORY: Final = _NUMBERS[NameType.DIRECTORY]
_SCHEMA: Final = """
CREATE TABLE names (
    tree INTEGER, parent BLOB, name BLOB, type INTEGER, mode INTEGER, uid INTEGER, gid INTEGER,
    mtime_ns INTEGER, size_bytes INTEGER, space BLOB, more BLOB, PRIMARY KEY (tree, parent, name)
) WITHOUT ROWID;
CREATE TABLE linked (space BLOB PRIMARY KEY) WITHOUT ROWID;
"""
_MARK_LINKED: Final = "INSERT OR IGNORE INTO linked VALUES (?)"
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
SELECT space, parent, name FROM names WHERE tree = ? AND space IN (SELECT space FROM linked)
ORDER BY parent, name
"""
_FIND: Final = """
SELECT parent, name, type, mode, uid, gid, mtime_ns, size_bytes, space, more FROM names
WHERE tree = ? AND parent = ? AND name = ?
"""
_ANY_XATTRS: Final = """
SELECT EXISTS (SELECT 1 FROM names WHERE more IS NOT NULL AND instr(more, CAST('"xattrs":[[' AS BLOB)))
"""
_TWINS: Final = """
SELECT min(tree), max(tree), min(type), max(type), min(mode), max(mode), min(uid), max(uid),
    min(gid), max(gid), min(mtime_ns), max(mtime_ns), min(size_bytes), max(size_bytes),
    min(coalesce(more, x'')), max(coalesce(more, x'')), min(CAST(parent || '/' || name AS BLOB)), space
FROM names WHERE space IN (SELECT space FROM linked) GROUP BY space HAVING count(*) > 1
"""
_AGREE: Final = """
UPDATE names SET (type, mode, uid, gid, mtime_ns, size_bytes, more) = (
    SELECT type, mode, uid, gid, mtime_ns, size_bytes, more FROM names WHERE space = ?1
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
        if not self._has_links:
            return found
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
        self._table.executescript(_SCHEMA)
        rows = newest_rows(contents, branch)
        spaces = bytearray()
        self._table.execute("BEGIN")
        self._table.executemany(_INSERT, self._values(rows, contents.names.bytes(), spaces))
        self._table.executemany(_MARK_LINKED, _shared(spaces))
        self._table.execute("COMMIT")
        self._has_links = self._table.execute("SELECT 1 FROM linked LIMIT 1").fetchone() is not None

    def _values(self, rows: Table, data: memoryview, spaces: bytearray) -> Iterator[tuple[object, ...]]:
        """What is inserted; `spaces` gets the contents' ids, one behind the other."""
        numbers, types = self._numbers, _NUMBERS
        last, parent, number = b"", b"", numbers.get(b"")
        for key, value in said(rows, data):
            directory = key[: max(key.rfind(b"/", ID_BYTES), ID_BYTES)]
            name = key[ID_BYTES:] if len(directory) == ID_BYTES else key[len(directory) + 1 :]
            if directory != last or len(key) > COMPONENT_BYTES_MAX or not is_component(name):
                parse_name_key(key, "a name")
                last, parent, number = directory, directory[ID_BYTES:], numbers.get(key[:ID_BYTES])
            if number is None:
                continue  # its tree is not wanted, or left the domain
            found = _parsed(value, key)
            kind, mode, uid, gid, mtime_ns, size_bytes, space, target, xattrs, device = found
            more = dump_object(name_members(found)) if target or xattrs or device else None
            if kind is not NameType.DIRECTORY and len(key) == ID_BYTES:
                raise DamagedObject(f"the tree {self.trees[number].name!r}", "its root is no directory")
            if space is not None:
                spaces += space
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


def _parsed(value: bytes, key: bytes) -> Name:
    try:
        return parse_name(value, "a name")
    except DamagedObject as error:
        raise DamagedObject(f"the name {shown(key[ID_BYTES:])} of a tree", error.why) from error


_Row = tuple[bytes, bytes, int, int, int, int, int, int, bytes | None, bytes | None]


def _entry(row: _Row) -> Entry:
    parent, name, kind, mode, uid, gid, mtime_ns, size_bytes, space, more = row
    if more is not None:
        return Entry(parent, name, parse_name(more, "a name"))
    # Millions of them: this way takes a third of the time that keywords and defaults take.
    what = _new(Name, (_TYPES[kind], mode, uid, gid, mtime_ns, size_bytes, space, b"", (), None))
    return _new(Entry, (parent, name, what))


def _shared(spaces: bytearray) -> list[tuple[bytes]]:
    """Of ids, one behind the other, those that may be there twice."""
    ids = np.frombuffer(spaces, dtype=_IDS)
    order = np.argsort(ids["first"])
    sorted_first = ids["first"][order]
    same = sorted_first[1:] == sorted_first[:-1]
    alike = order[np.flatnonzero(np.concatenate((same, [False])) | np.concatenate(([False], same)))]
    return [(ids[at].tobytes(),) for at in alike.tolist()]
