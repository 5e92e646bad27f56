"""What the container holds of every tree as of the newest batch, in SQLite: names, files, sums of blocks.

Everything of one take is one transaction, together with the note of what its batch touches: so an index that
comes back after a power loss knows every batch that was given away. It is a cache: whatever is wrong with it
ends in its being made anew. That a disk is full, or cannot be read just now, is wrong with the disk and not
with the index (`is_passing`). What was given away and never arrived is undone in undo.py; what stands in a
tree does not belong here.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

from cdp_container.format.layout import SUM_BYTES
from cdp_container.format.limits import SUM_BLOCK_BYTES
from cdp_container.format.names import NameType

INDEX_NAME: Final = "index.db"
VERSION: Final = 3
CHUNK_BYTES: Final = 1 << 20
"""One row of sums is for so much of a file."""
BLOCKS: Final = CHUNK_BYTES // SUM_BLOCK_BYTES
ZERO: Final = bytes(SUM_BYTES)
"""Instead of a sum: the container has zeros there. No row says the same of a whole chunk."""
UNKNOWN: Final = b"\xff" * SUM_BYTES
"""Instead of a sum: what the container has there is not known."""
PAGE_ROWS: Final = 1_000
"""Rows that are read at once, so that a directory of millions takes no memory."""
CACHE_KIB: Final = 32 << 10
WAL_PAGES_MAX: Final = 4_096
"""16 MiB: beyond, it is worked in between takes."""

ROOT_PARENT: Final = b"/"
"""The parent of a tree's own directory; no path has a slash at its end."""
GHOST: Final = 0
"""The type of a name that is gone here, and perhaps not in the container."""
TYPE_NUMBERS: Final = {kind: number for number, kind in enumerate(NameType, start=1)}
FILE: Final = TYPE_NUMBERS[NameType.FILE]
DIRECTORY: Final = TYPE_NUMBERS[NameType.DIRECTORY]

_PASSING: Final = frozenset(
    {
        sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED,
        sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_NOMEM, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM,
        sqlite3.SQLITE_INTERRUPT, sqlite3.SQLITE_PROTOCOL,
    }
)  # fmt: skip
"""Primary codes of SQLite that say nothing of what is in the file."""
_BAD_CONTENT: Final = frozenset({522, 8202, 8458})
"""IOERR_SHORT_READ, IOERR_DATA, IOERR_CORRUPTFS: they do, though they are errors of reading."""

_SCHEMA: Final = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value) WITHOUT ROWID;
CREATE TABLE trees (number INTEGER PRIMARY KEY, tree BLOB UNIQUE NOT NULL, root BLOB, told TEXT,
    gone INTEGER NOT NULL DEFAULT 0);
CREATE TABLE names (id INTEGER PRIMARY KEY, tree INTEGER NOT NULL, parent BLOB NOT NULL, name BLOB NOT NULL,
    type INTEGER NOT NULL, file INTEGER, stamp BLOB NOT NULL, digest BLOB NOT NULL);
CREATE UNIQUE INDEX names_by_path ON names (tree, parent, name);
CREATE INDEX names_by_file ON names (file) WHERE file IS NOT NULL;
CREATE TABLE files (id INTEGER PRIMARY KEY, tree INTEGER NOT NULL, inode BLOB, space BLOB NOT NULL,
    size INTEGER NOT NULL, doubt INTEGER NOT NULL DEFAULT 0);
CREATE UNIQUE INDEX files_by_inode ON files (tree, inode) WHERE inode IS NOT NULL;
CREATE UNIQUE INDEX files_by_space ON files (space);
CREATE TABLE sums (file INTEGER, chunk INTEGER, sums BLOB NOT NULL, PRIMARY KEY (file, chunk)) WITHOUT ROWID;
CREATE TABLE mounts (tree INTEGER, path BLOB, identity BLOB NOT NULL, PRIMARY KEY (tree, path)) WITHOUT ROWID;
CREATE TABLE dead (space BLOB PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE batches (number INTEGER PRIMARY KEY, epoch INTEGER NOT NULL, cut INTEGER NOT NULL);
CREATE TABLE touched_names (batch INTEGER NOT NULL, tree INTEGER NOT NULL, parent BLOB, name BLOB);
CREATE INDEX touched_names_by_batch ON touched_names (batch);
CREATE TABLE touched_spaces (batch INTEGER NOT NULL, space BLOB NOT NULL, chunks BLOB);
CREATE INDEX touched_spaces_by_batch ON touched_spaces (batch);
"""


def is_passing(error: Exception) -> bool:
    """Whether the machine failed (a full disk, one that cannot be read), and the index may be sound.

    Everything else, a table that is not there or rows that contradict each other too, is damage.
    """
    code = getattr(error, "sqlite_errorcode", None)
    return code is not None and code not in _BAD_CONTENT and (code & 0xFF) in _PASSING


class NameRow(NamedTuple):
    """A name as the container has it; `file` is the row of its content."""

    id: int
    type: int
    file: int | None
    stamp: bytes
    digest: bytes

    @property
    def is_certain(self) -> bool:
        """Whether the container was told of it as it is here: not where that was undone."""
        return bool(self.digest)

    @property
    def may_be_directory(self) -> bool:
        """Whether the container may have names below it."""
        return self.type == DIRECTORY or not self.digest


class FileRow(NamedTuple):
    """A file's content; `doubt`: how long its space is there is not known; `is_new`: there is none of it."""

    id: int
    inode: bytes | None
    space: bytes
    size: int
    doubt: int
    is_new: bool = False


class ChildRow(NamedTuple):
    """A name within a directory."""

    name: bytes
    type: int
    stamp: bytes


@dataclass(frozen=True, slots=True)
class TreeRow:
    """A tree: its root directory's identity (empty: none was seen), the name that the container has of it."""

    number: int
    tree: bytes
    root: bytes
    told: str | None
    gone: bool


@dataclass(frozen=True, slots=True)
class TouchedSpace:
    """Ranges of chunks (first, beyond) of a space that a batch wrote; None: it was removed."""

    space: bytes
    chunks: Sequence[tuple[int, int]] | None


def split(path: bytes) -> tuple[bytes, bytes]:
    """The directory and the last component of a path, as `names` has them."""
    if not path:
        return ROOT_PARENT, b""
    parent, _, name = path.rpartition(b"/")
    return parent, name


def joined(parent: bytes, name: bytes) -> bytes:
    """The path again."""
    if parent == ROOT_PARENT:
        return b""
    return parent + b"/" + name if parent else name


class Index:
    """One open index; used by one thread. Any method may raise sqlite3.Error.

    It is to be opened again then where that `is_passing`, and to be made anew where it is not.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.is_closed = False
        self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        try:
            for pragma in (
                "journal_mode=WAL", "synchronous=FULL", "wal_autocheckpoint=0", "temp_store=MEMORY",
                f"cache_size=-{CACHE_KIB}",
            ):  # fmt: skip
                self._db.execute(f"PRAGMA {pragma}")
            version = self._db.execute("PRAGMA user_version").fetchone()[0]
            if version == 0:
                self._db.executescript(f"BEGIN; {_SCHEMA} PRAGMA user_version={VERSION}; COMMIT;")
            elif version != VERSION:
                raise sqlite3.DatabaseError(f"the index is of version {version}")
        except BaseException:
            self._db.close()
            raise
        self.run = self._db.execute
        self.run_many = self._db.executemany

    def close(self) -> None:
        """Close it; what was not committed is lost. May be called again."""
        self.is_closed = True
        self._db.close()

    def begin(self) -> None:
        """Begin what is committed or rolled back as one."""
        self.run("BEGIN")

    def commit(self) -> None:
        """Make it durable: a sync of the write-ahead log."""
        self.run("COMMIT")

    def rollback(self) -> None:
        """As if nothing had been since `begin`."""
        if self._db.in_transaction:
            self.run("ROLLBACK")

    def checkpoint(self) -> None:
        """Work the log into the file; for when nobody waits."""
        self.run("PRAGMA wal_checkpoint(TRUNCATE)")

    # --- meta and trees ---------------------------------------------------------------------

    def meta(self, key: str) -> int | bytes | str | None:
        """A value that was set, or None."""
        row = self.run("SELECT value FROM meta WHERE key=?", (key,)).fetchone()
        return None if row is None else row[0]

    def set_meta(self, key: str, value: int | bytes | str) -> None:
        """Set a value."""
        self.run("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, value))

    def trees(self) -> list[TreeRow]:
        """Every tree that the container has, or may have."""
        rows = self.run("SELECT number, tree, root, told, gone FROM trees ORDER BY number").fetchall()
        return [
            TreeRow(number, tree, root or b"", told, bool(gone)) for number, tree, root, told, gone in rows
        ]

    def add_tree(self, tree: bytes, told: str | None = None) -> int:
        """A tree that the container may not have yet; gives its number."""
        got = self.run("INSERT INTO trees (tree, told) VALUES (?, ?)", (tree, told)).lastrowid
        assert got is not None
        return got

    def set_tree(self, number: int, *, root: bytes | None = None, told: str | None = None) -> None:
        """What is known of a tree now; None leaves it as it is."""
        self.run(
            "UPDATE trees SET root=coalesce(?, root), told=coalesce(?, told) WHERE number=?",
            (root, told, number),
        )

    def drop_tree(self, number: int) -> None:
        """A tree left: its names go with it, and its spaces are to be removed."""
        self.run("INSERT OR IGNORE INTO dead SELECT space FROM files WHERE tree=?", (number,))
        self.run("DELETE FROM sums WHERE file IN (SELECT id FROM files WHERE tree=?)", (number,))
        self.run("DELETE FROM files WHERE tree=?", (number,))
        self.run("DELETE FROM names WHERE tree=?", (number,))
        self.run("DELETE FROM mounts WHERE tree=?", (number,))
        self.run("UPDATE trees SET gone=1, root=NULL WHERE number=?", (number,))

    def mounts(self, number: int) -> dict[bytes, bytes]:
        """The mount points of a tree, and what was mounted at each (see mounts.py)."""
        return dict(self.run("SELECT path, identity FROM mounts WHERE tree=?", (number,)).fetchall())

    def put_mount(self, number: int, path: bytes, identity: bytes) -> None:
        """Something is mounted at a path."""
        self.run("INSERT OR REPLACE INTO mounts VALUES (?, ?, ?)", (number, path, identity))

    def remove_mount(self, number: int, path: bytes) -> None:
        """Nothing is mounted at a path."""
        self.run("DELETE FROM mounts WHERE tree=? AND path=?", (number, path))

    def has_dead(self) -> bool:
        """Whether the container is still to be told of spaces that are gone."""
        return self.run("SELECT 1 FROM dead LIMIT 1").fetchone() is not None

    def take_dead(self, limit: int) -> list[bytes]:
        """Some spaces that the container is to be told to be gone; they are forgotten."""
        rows = self.run("SELECT space FROM dead LIMIT ?", (limit,)).fetchall()
        self.run_many("DELETE FROM dead WHERE space=?", rows)
        return [space for (space,) in rows]

    # --- names ------------------------------------------------------------------------------

    def name(self, tree: int, path: bytes) -> NameRow | None:
        """A name, a ghost too."""
        row = self.run(
            "SELECT id, type, file, stamp, digest FROM names WHERE tree=? AND parent=? AND name=?",
            (tree, *split(path)),
        ).fetchone()
        return None if row is None else NameRow(*row)

    def put_name(
        self, tree: int, path: bytes, known: NameRow | None, kind: int, file: int | None, stamp: bytes,
        digest: bytes,
    ) -> None:  # fmt: skip
        """What a name is from now on."""
        if known is None:
            self.run(
                "INSERT INTO names (tree, parent, name, type, file, stamp, digest) "
                "VALUES (?, ?, ?, ?, ?, ?, ?)",
                (tree, *split(path), kind, file, stamp, digest),
            )
        elif known[1:] != (kind, file, stamp, digest):
            self.run(
                "UPDATE names SET type=?, file=?, stamp=?, digest=? WHERE id=?",
                (kind, file, stamp, digest, known.id),
            )

    def remove_name(self, row: int) -> None:
        """Forget a name."""
        self.run("DELETE FROM names WHERE id=?", (row,))

    def children(self, tree: int, path: bytes, after: bytes) -> list[ChildRow]:
        """Some names of a directory, ghosts too, in order, after one (empty: from the first)."""
        rows = self.run(
            "SELECT name, type, stamp FROM names WHERE tree=? AND parent=? AND name>? ORDER BY name LIMIT ?",
            (tree, path, after, PAGE_ROWS),
        ).fetchall()
        return [ChildRow(*row) for row in rows]

    def below(self, tree: int, path: bytes, limit: int) -> list[tuple[int, bytes, bytes, int, int | None]]:
        """Names below a directory (id, parent, name, type, file), each before the directory it is in."""
        if path:
            low, high = path + b"/", path + b"0"
            deeper = self.run(
                "SELECT id, parent, name, type, file FROM names WHERE tree=? AND parent>=? AND parent<? "
                "ORDER BY parent DESC LIMIT ?",
                (tree, low, high, limit),
            ).fetchall()
        else:
            deeper = self.run(
                "SELECT id, parent, name, type, file FROM names WHERE tree=? AND parent>x'' AND parent<>? "
                "ORDER BY parent DESC LIMIT ?",
                (tree, ROOT_PARENT, limit),
            ).fetchall()
        if len(deeper) < limit:
            deeper += self.run(
                "SELECT id, parent, name, type, file FROM names WHERE tree=? AND parent=? LIMIT ?",
                (tree, path, limit - len(deeper)),
            ).fetchall()
        return deeper

    def has_below(self, tree: int, path: bytes) -> bool:
        """Whether the container has, or may have, anything below a directory."""
        return bool(self.below(tree, path, 1))

    # --- files and sums ---------------------------------------------------------------------

    def file_by_inode(self, tree: int, inode: bytes) -> FileRow | None:
        """The file that had this inode when it was read last."""
        row = self.run(
            "SELECT id, inode, space, size, doubt FROM files WHERE tree=? AND inode=?", (tree, inode)
        ).fetchone()
        return None if row is None else FileRow(*row)

    def file(self, number: int) -> FileRow:
        """A file by its row."""
        row = self.run("SELECT id, inode, space, size, doubt FROM files WHERE id=?", (number,)).fetchone()
        return FileRow(*row)

    def kind_of(self, number: int) -> int | None:
        """The type of a file's names; None where it has none. Ghosts have no file."""
        row = self.run("SELECT type FROM names WHERE file=? LIMIT 1", (number,)).fetchone()
        return None if row is None else row[0]

    def leave_inode(self, number: int) -> None:
        """A file does not have the inode any more by which it was known."""
        self.run("UPDATE files SET inode=NULL WHERE id=?", (number,))

    def add_file(self, tree: int, inode: bytes | None, space: bytes, size: int = 0) -> FileRow:
        """A file that the container has nothing of."""
        got = self.run(
            "INSERT INTO files (tree, inode, space, size) VALUES (?, ?, ?, ?)", (tree, inode, space, size)
        ).lastrowid
        assert got is not None
        return FileRow(got, inode, space, size, 0, is_new=True)

    def set_file(self, number: int, inode: bytes, size: int) -> None:
        """What is known of a file that was read."""
        self.run("UPDATE files SET inode=?, size=?, doubt=0 WHERE id=?", (inode, size, number))

    def remove_file(self, number: int) -> None:
        """Forget a file and its sums."""
        self.run("DELETE FROM sums WHERE file=?", (number,))
        self.run("DELETE FROM files WHERE id=?", (number,))

    def names_of(self, file: int) -> list[bytes]:
        """The paths that are names of a file."""
        rows = self.run("SELECT parent, name FROM names WHERE file=?", (file,)).fetchall()
        return [joined(parent, name) for parent, name in rows]

    def sums(self, file: int, chunk: int) -> bytes:
        """The sums of one chunk; empty where the container has zeros."""
        row = self.run("SELECT sums FROM sums WHERE file=? AND chunk=?", (file, chunk)).fetchone()
        return b"" if row is None else bytes(row[0])

    def chunks(self, file: int, first: int, beyond: int) -> Iterator[int]:
        """The numbers of the chunks in a range that are not all zeros, in order; some at a time."""
        while rows := self.run(
            "SELECT chunk FROM sums WHERE file=? AND chunk>=? AND chunk<? ORDER BY chunk LIMIT ?",
            (file, first, beyond, PAGE_ROWS),
        ).fetchall():
            for (chunk,) in rows:
                yield chunk
            first = rows[-1][0] + 1

    def put_sums(self, file: int, chunk: int, sums: bytes) -> None:
        """What the container has of a chunk from now on."""
        if sums.strip(b"\0"):
            self.run("INSERT OR REPLACE INTO sums VALUES (?, ?, ?)", (file, chunk, sums))
        else:
            self.run("DELETE FROM sums WHERE file=? AND chunk=?", (file, chunk))

    def cut_sums(self, file: int, beyond: int) -> None:
        """A file has no chunk with this number, nor any after it."""
        self.run("DELETE FROM sums WHERE file=? AND chunk>=?", (file, beyond))

    # --- batches ----------------------------------------------------------------------------

    def note_batch(
        self, number: int, epoch: int, cut: int, names: Iterable[tuple[int, bytes]],
        spaces: Iterable[TouchedSpace], trees: Iterable[int],
    ) -> None:  # fmt: skip
        """What a batch touches, which is about to be given away."""
        self.run("INSERT INTO batches VALUES (?, ?, ?)", (number, epoch, cut))
        self.run_many(
            "INSERT INTO touched_names VALUES (?, ?, ?, ?)",
            ((number, tree, *split(path)) for tree, path in names),
        )
        self.run_many(
            "INSERT INTO touched_names VALUES (?, ?, NULL, NULL)", ((number, tree) for tree in trees)
        )
        self.run_many(
            "INSERT INTO touched_spaces VALUES (?, ?, ?)",
            ((number, touched.space, _packed(touched.chunks)) for touched in spaces),
        )

    def batches(self) -> list[tuple[int, int, int]]:
        """The batches that may have to be undone: (number, epoch, cut), oldest first."""
        return self.run("SELECT number, epoch, cut FROM batches ORDER BY number").fetchall()

    def place_batch(self, number: int, epoch: int, cut: int) -> None:
        """A batch goes into another cut."""
        self.run("UPDATE batches SET epoch=?, cut=? WHERE number=?", (epoch, cut, number))

    def settle_batch(self, number: int) -> None:
        """A batch need never be undone."""
        for table, column in (("batches", "number"), ("touched_names", "batch"), ("touched_spaces", "batch")):
            self.run(f"DELETE FROM {table} WHERE {column}=?", (number,))  # noqa: S608 -- three names from here

    def touched_spaces(self, number: int) -> list[TouchedSpace]:
        """What a batch wrote of spaces."""
        rows = self.run("SELECT space, chunks FROM touched_spaces WHERE batch=?", (number,)).fetchall()
        return [TouchedSpace(space, _unpacked(chunks)) for space, chunks in rows]


def _packed(chunks: Sequence[tuple[int, int]] | None) -> bytes | None:
    if chunks is None:
        return None
    return b"".join(number.to_bytes(8, "little") for pair in chunks for number in pair)


def _unpacked(data: bytes | None) -> list[tuple[int, int]] | None:
    if data is None:
        return None
    numbers = [int.from_bytes(data[at : at + 8], "little") for at in range(0, len(data), 8)]
    return list(zip(numbers[::2], numbers[1::2], strict=True))
