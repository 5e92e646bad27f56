"""A table of names in the order of a walk: kept on disk, so memory grows little with it, and searched.

It says what it was given; what names say together, and what is wrong with that, does not belong here
(namespace).
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Collection, Iterator
from functools import partial
from itertools import repeat
from typing import Final, NamedTuple

import numpy as np

from cdp_container.domain.name_rows import copied, newest_rows, parts
from cdp_container.domain.spool import Spool
from cdp_container.errors import DamagedObject
from cdp_container.extents.intervals import Flags, Ints
from cdp_container.extents.tables import Table
from cdp_container.format.layout import ID_BYTES
from cdp_container.format.limits import COMPONENT_BYTES_MAX, PATH_BYTES_MAX
from cdp_container.format.names import Name, parse_name, parse_name_key, path_fault, shown
from cdp_container.format.plain_names import PLAIN, TYPES, parse_plain

NAMES: Final = np.dtype(
    [
        ("at", "<i8"),
        ("key_length", "<i4"),
        ("value_length", "<i4"),
        ("directory_length", "<i4"),
        ("more", "u1"),
        ("plain", PLAIN),
    ]
)
"""Where the key stands and, behind it, the value; how much of the key is the directory; what the value says.

`more`: whether it says more than the columns do: MORE, and XATTRS with it."""
ENTRIES_AT_ONCE: Final = 500
"""Names that are made of rows together: fewer than what has Python search for garbage among them."""
MORE: Final = 1
XATTRS: Final = 2

_DOT: Final = ord(".")
_NUMBERS: Final = {kind: number for number, kind in enumerate(TYPES)}
_new: Final = tuple.__new__


class Entry(NamedTuple):
    """One name: the path of its directory, its own last component (both empty: the root), and what it is."""

    parent: bytes
    name: bytes
    what: Name

    @property
    def path(self) -> bytes:
        """Relative to the tree."""
        return self.parent + b"/" + self.name if self.parent else self.name


_entry: Final = partial(_new, Entry)
_name: Final = partial(_new, Name)


class NameTable:
    """The newest names of some trees; to be closed.

    Args:
        rows: those that count (NAME_ROWS), the oldest first.
        data: what they point into.
        trees: the ids of those that are wanted.

    Attributes:
        data: see above; it stays readable as long as we.
        names: of type NAMES, by directory (its tree, then its path), then by name; mapped.
        firsts: the numbers of the rows that begin a directory; behind them how many rows there are.

    Raises:
        DamagedObject: a path or a value makes no sense.
        LocalDiskFull, DeviceError: the temporary directory fails.
    """

    def __init__(self, rows: Table, data: memoryview, trees: Collection[bytes]) -> None:
        self.data = data
        self._spool = Spool(NAMES)
        try:
            newest, lengths, firsts = newest_rows(rows, data)
            counts, is_wanted = np.diff(firsts, append=len(newest)), np.zeros(len(firsts), dtype=np.bool_)
            for number, (at, length) in enumerate(
                zip(newest["at"][firsts].tolist(), lengths[firsts].tolist(), strict=True)
            ):
                is_wanted[number] = _tree_of(bytes(data[at : at + length])) in trees
            kept = np.repeat(is_wanted, counts)
            newest, lengths, counts = newest[kept], lengths[kept], counts[is_wanted]
            for first, beyond in parts(len(newest)):
                self._spool.append(_parsed(newest[first:beyond], lengths[first:beyond], data))
            self.names: Table = np.asarray(self._spool.table())
            self.firsts: Ints = np.concatenate(([0], np.cumsum(counts)))
            self._at, self._key_lengths = self.names["at"], self.names["key_length"]
        except BaseException:
            self._spool.close()
            raise

    def close(self) -> None:
        """Give the disk space back."""
        self._spool.close()

    def directory(self, number: int) -> bytes:
        """The tree's id, and the path, of a directory that has names."""
        first = self.firsts[number]
        at = int(self._at[first])
        return bytes(self.data[at : at + int(self.names["directory_length"][first])])

    def key(self, number: int) -> bytes:
        """The tree's id, and the path, of a name."""
        at = int(self._at[number])
        return bytes(self.data[at : at + int(self._key_lengths[number])])

    def of_tree(self, tree: bytes) -> tuple[int, int]:
        """The numbers of a tree's directories that have names: the first, and the one behind the last."""
        every = range(len(self.firsts) - 1)
        return bisect_left(every, tree, key=self._tree), bisect_right(every, tree, key=self._tree)

    def of_directory(self, directory: bytes) -> tuple[int, int]:
        """The rows of a directory (its tree's id, and its path): as `of_tree`."""
        count = len(self.firsts) - 1
        number = bisect_left(range(count), directory, key=self.directory)
        if number == count or self.directory(number) != directory:
            return 0, 0
        return int(self.firsts[number]), int(self.firsts[number + 1])

    def find(self, tree: bytes, path: bytes) -> int | None:
        """The number of a row."""
        key = tree + path
        first, beyond = self.of_directory(key[: max(key.rfind(b"/", ID_BYTES), ID_BYTES)])
        number = bisect_left(range(beyond), key, lo=first, key=self.key)
        return number if number < beyond and self.key(number) == key else None

    def entry(self, number: int) -> Entry:
        """The name of a row."""
        row, key = self.names[number], self.key(number)
        length = int(row["directory_length"])
        parent, name = key[ID_BYTES:length], key[length + 1 if length > ID_BYTES else ID_BYTES :]
        if row["more"]:
            at = int(row["at"]) + len(key)
            value = bytes(self.data[at : at + int(row["value_length"])])
            return Entry(parent, name, parse_name(value, "a name"))
        kind, mode, uid, gid, mtime_ns, size_bytes, has_space, space = row["plain"].item()
        content = space.tobytes() if has_space else None
        return Entry(parent, name, Name(TYPES[kind], mode, uid, gid, mtime_ns, size_bytes, content))

    def entries(self, numbers: Ints) -> Iterator[Entry]:
        """The names of rows."""
        for first in range(0, len(numbers), ENTRIES_AT_ONCE):
            yield from self._entries(numbers[first : first + ENTRIES_AT_ONCE])

    def _tree(self, number: int) -> bytes:
        return self.directory(number)[:ID_BYTES]

    def _entries(self, numbers: Ints) -> list[Entry]:
        rows = self.names[numbers]
        part = copied(rows, self.data)
        data, plain = part.data, rows["plain"]
        lengths, keys = rows["directory_length"].astype(np.int64), rows["key_length"]
        offsets = np.where(lengths > ID_BYTES, lengths + 1, ID_BYTES)
        name_starts, ends = (part.starts + offsets).tolist(), (part.starts + keys).tolist()
        names = [data[start:end] for start, end in zip(name_starts, ends, strict=True)]
        has_space = plain["has_space"]
        spaces: list[bytes | None] = [None] * len(rows)
        ids = plain["space"].tobytes()
        for at in np.flatnonzero(has_space).tolist():
            spaces[at] = ids[at * ID_BYTES : (at + 1) * ID_BYTES]
        whats = map(
            _name,
            zip(
                map(TYPES.__getitem__, plain["type"].tolist()),
                plain["mode"].tolist(),
                plain["uid"].tolist(),
                plain["gid"].tolist(),
                plain["mtime_ns"].tolist(),
                plain["size_bytes"].tolist(),
                spaces,
                repeat(b""),
                repeat(()),
                repeat(None),
            ),
        )
        found: list[Entry] = list(
            map(_entry, zip(self._parents(numbers, lengths), names, whats, strict=True))
        )
        for at in np.flatnonzero(rows["more"]).tolist():
            start = int(part.starts[at] + keys[at])
            value = data[start : start + int(rows["value_length"][at])]
            found[at] = found[at]._replace(what=parse_name(value, "a name"))
        return found

    def _parents(self, numbers: Ints, lengths: Ints) -> list[bytes]:
        directories = np.searchsorted(self.firsts, numbers, side="right") - 1
        begins = np.flatnonzero(np.diff(directories, prepend=-1))
        counts = np.diff(begins, append=len(numbers))
        found: list[bytes] = []
        for number, count in zip(directories[begins].tolist(), counts.tolist(), strict=True):
            found += [self.directory(number)[ID_BYTES:]] * count
        return found


def _parsed(rows: Table, lengths: Ints, data: memoryview) -> Table:
    """Some rows as NAMES; checks each."""
    part = copied(rows, data)
    for at in np.flatnonzero(_is_odd(part.data, part.starts, rows["key_length"], lengths)).tolist():
        parse_name_key(part.data[part.starts[at] : part.starts[at] + rows["key_length"][at]], "a name")
    found = np.zeros(len(rows), dtype=NAMES)
    for column in ("at", "key_length", "value_length"):
        found[column] = rows[column]
    found["directory_length"] = lengths
    plain, is_plain = parse_plain(part.data, part.starts + rows["key_length"], rows["value_length"])
    for at in np.flatnonzero(~is_plain).tolist():
        value_at = int(part.starts[at] + rows["key_length"][at])
        key = part.data[int(part.starts[at]) : value_at]
        name = _said(part.data[value_at : value_at + int(rows["value_length"][at])], key)
        if name.target or name.xattrs or name.device:
            found["more"][at] = MORE | (XATTRS if name.xattrs else 0)
        plain[at] = (
            _NUMBERS[name.type],
            *(name.mode, name.uid, name.gid, name.mtime_ns, name.size_bytes),
            name.space is not None,
            np.frombuffer(name.space or bytes(ID_BYTES), dtype=np.uint8),
        )
    found["plain"] = plain
    return found


def _is_odd(data: bytes, starts: Ints, key_lengths: Ints, lengths: Ints) -> Flags:
    """Which keys may not be those of a sound path; of their directories nothing is said."""
    names = np.where(lengths > ID_BYTES, lengths + 1, ID_BYTES)
    name_lengths = key_lengths - names
    array = np.frombuffer(data, dtype=np.uint8)
    zeros = np.flatnonzero(array == 0)
    has_zeros = np.searchsorted(zeros, starts + ID_BYTES) < np.searchsorted(zeros, starts + key_lengths)
    has_slash = (key_lengths > ID_BYTES) & (array[np.minimum(starts + ID_BYTES, len(array) - 1)] == ord("/"))
    is_short = (name_lengths <= 2) & (key_lengths > ID_BYTES)
    has_dot = array[np.minimum(starts + names, len(array) - 1)] == _DOT
    is_long = (key_lengths - ID_BYTES > PATH_BYTES_MAX) | (name_lengths > COMPONENT_BYTES_MAX)
    found: Flags = is_long | has_zeros | has_slash | (is_short & (has_dot | (name_lengths == 0)))
    return found


def _tree_of(directory: bytes) -> bytes:
    """The id of its tree. Raises DamagedObject where its path is none."""
    wrong = path_fault(directory[ID_BYTES:])
    if wrong:
        raise DamagedObject("a name", f"the path {shown(directory[ID_BYTES:])} {wrong}")
    return directory[:ID_BYTES]


def _said(value: bytes, key: bytes) -> Name:
    try:
        return parse_name(value, "a name")
    except DamagedObject as error:
        raise DamagedObject(f"the name {shown(key[ID_BYTES:])} of a tree", error.why) from error
