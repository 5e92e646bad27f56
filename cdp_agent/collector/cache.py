"""What a pass remembers between runs: one file of checked rows in `<journal>/collector/`.

Nothing in it is needed: a file that is damaged, of another version or of another domain is thrown away, and
the next pass reads the objects again. What the rows mean does not belong here (facts, results).
"""

from __future__ import annotations

import sqlite3
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final, TypeVar

from cdp_container.errors import CdpError, LocalDiskFull

T = TypeVar("T")

VERSION: Final = 3
NAME: Final = "facts.db"
PAGE_BYTES: Final = 32 << 10
"""A table of a hundred extents and its neighbours fit into one."""

CACHE_PAGES: Final = 256

CACHE_BYTES_MAX: Final = 16 << 30
"""Of the file; what does not fit ends the pass, and is not collected unseen."""

_SCHEMA: Final = """
CREATE TABLE meta (name TEXT PRIMARY KEY, value BLOB);
CREATE TABLE objects (id INTEGER PRIMARY KEY AUTOINCREMENT, key TEXT UNIQUE, data BLOB, crc INTEGER);
CREATE TABLE extents (object INTEGER, part INTEGER, data BLOB, crc INTEGER, PRIMARY KEY (object, part));
CREATE TABLE results (id INTEGER PRIMARY KEY AUTOINCREMENT, data BLOB, crc INTEGER);
CREATE TABLE pieces (result INTEGER, part INTEGER, first INTEGER, last INTEGER, low INTEGER, high INTEGER,
                     data BLOB, crc INTEGER, PRIMARY KEY (result, part));
"""


class CacheDamaged(Exception):
    """The file says what cannot be: to be thrown away by whoever holds it, and begun anew."""


class Cache:
    """The file, open; one process at a time (`collector.lock`)."""

    def __init__(self, directory: Path, domain: bytes) -> None:
        """Open or create it. Raises LocalDiskFull, CdpError."""
        self._path = directory / NAME
        self._domain = domain
        try:
            directory.mkdir(mode=0o700, exist_ok=True)
            self._open()
        except OSError as error:
            raise self._unusable(error.strerror or "input/output error") from error

    def _open(self) -> None:
        try:
            self._connect()
            if self._is_ours():
                return
        except CacheDamaged:
            pass
        self.throw_away()

    def _connect(self) -> None:
        self._db = sqlite3.connect(self._path, isolation_level=None, check_same_thread=False)
        self.run(f"PRAGMA page_size={PAGE_BYTES}")
        self.run("PRAGMA journal_mode=TRUNCATE")
        self.run("PRAGMA synchronous=FULL")
        self.run(f"PRAGMA cache_size={CACHE_PAGES}")
        self.run(f"PRAGMA max_page_count={CACHE_BYTES_MAX // PAGE_BYTES}")
        self.run("PRAGMA locking_mode=EXCLUSIVE")

    def _is_ours(self) -> bool:
        if not self.rows("SELECT 1 FROM sqlite_master WHERE name = 'meta'"):
            return False
        meta = dict(self.rows("SELECT name, value FROM meta"))
        return meta == {"version": str(VERSION).encode(), "domain": self._domain}

    def throw_away(self) -> None:
        """Begin anew with an empty file. Raises LocalDiskFull, CdpError."""
        self._db.close()
        try:
            for path in (self._path, self._path.with_name(NAME + "-journal")):
                path.unlink(missing_ok=True)
        except OSError as error:
            raise self._unusable(error.strerror or "input/output error") from error
        try:
            self._connect()
            self._db.executescript(_SCHEMA)
            meta = [("version", str(VERSION).encode()), ("domain", self._domain)]
            self._db.executemany("INSERT INTO meta VALUES (?, ?)", meta)
        except (CacheDamaged, sqlite3.Error) as error:
            raise self._unusable(str(error)) from error

    def close(self) -> None:
        """Let go of the file; what was not kept is forgotten."""
        self._db.close()

    def run(self, statement: str, *values: object) -> int:
        """Run one statement; gives the id of a row that it inserted."""
        return self._tried(lambda: self._db.execute(statement, values).lastrowid or 0)

    def rows(self, statement: str, *values: object) -> list[tuple[Any, ...]]:
        """The rows of a question."""
        return self._tried(lambda: self._db.execute(statement, values).fetchall())

    def checked(self, statement: str, *values: object, at_once: int = 1) -> Iterator[tuple[Any, ...]]:
        """The rows of a question whose last two columns are `data, crc`; comes without the crc."""
        cursor = self._tried(lambda: self._db.execute(statement, values))
        while rows := self._tried(lambda: cursor.fetchmany(at_once)):
            for row in rows:
                data, crc = row[-2:]
                if not isinstance(data, bytes) or zlib.crc32(data) != crc:
                    raise CacheDamaged("a row has another checksum than it was written with")
                yield row[:-1]

    def begin(self) -> None:
        """What follows is kept as a whole, by `keep`, or not at all."""
        if not self._db.in_transaction:
            self.run("BEGIN IMMEDIATE")

    def keep(self) -> None:
        """Make durable what was changed since `begin`."""
        if self._db.in_transaction:
            self.run("COMMIT")

    def drop(self) -> None:
        """Forget what was changed since `begin`."""
        if self._db.in_transaction:
            self.run("ROLLBACK")

    def _tried(self, step: Callable[[], T]) -> T:
        try:
            return step()
        except sqlite3.Error as error:
            code = getattr(error, "sqlite_errorcode", 0) & 0xFF
            if code == sqlite3.SQLITE_FULL:
                raise LocalDiskFull(f"cannot write {self._path}", "the disk is full, or its limit") from error
            if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY):
                raise self._unusable(str(error)) from error
            raise CacheDamaged(str(error)) from error

    def _unusable(self, why: str) -> CdpError:
        return CdpError(f"cannot use {self._path}", why, "check the directory and its permissions")


def checksum(data: bytes) -> int:
    """What goes into the column `crc`."""
    return zlib.crc32(data)
