"""What a table of names is filled from: of every name the newest word on a branch, in the order of a walk.

Nothing is judged here but which word counts. What the names say together does not belong here (namespace),
nor how they are kept as they were read (name_spool).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np

from cdp_container.domain.byte_order import in_order, like_the_last
from cdp_container.domain.contents import Contents
from cdp_container.domain.image import Branch, on_branch
from cdp_container.extents.intervals import Ints
from cdp_container.extents.tables import Table
from cdp_container.format.layout import ID_BYTES
from cdp_container.format.place import Place

ROWS_AT_ONCE: Final = 10_000
"""Rows whose bytes are copied together: one slice of what is mapped takes as long as many of a copy."""
SPREAD_MAX: Final = 4
"""Bytes of a copy by bytes that rows name in it; where they lie further apart each is taken by itself."""
_SLASH: Final = ord("/")


@dataclass(frozen=True, slots=True)
class Copied:
    """The bytes of some rows, in memory: where each begins in `data`, first its key, then its value."""

    data: bytes
    starts: Ints


def on_the_branch(contents: Contents, branch: Branch) -> Table:
    """The rows of names that count on a branch (NAME_ROWS), the oldest first."""
    rows = contents.names.rows()
    rows = rows[_counting(rows, contents, branch)]
    return rows[np.lexsort((np.arange(len(rows)), rows["seq"], rows["epoch"]))]


def newest_rows(rows: Table, data: memoryview) -> tuple[Table, Ints, Ints]:
    """Of every name the newest row, those that are gone left out (NAME_ROWS).

    Args:
        rows: the oldest first.
        data: what they point into.

    Returns:
        The rows, by directory (its tree, then its path), then by name; of each the bytes of its key that are
        its directory's; and the numbers of the rows that begin a directory.
    """
    lengths = directory_lengths(rows, data)
    starts = rows["at"].astype(np.int64)
    begins = np.flatnonzero(~like_the_last(data, starts, lengths))
    order, is_same = in_order(data, starts[begins], lengths[begins])
    numbers = np.zeros(len(begins), dtype=np.int64)
    numbers[order] = np.cumsum(~is_same) - 1
    directories = np.repeat(numbers, np.diff(begins, append=len(rows)))
    name_starts = np.minimum(lengths + 1, rows["key_length"])
    name_starts[lengths == ID_BYTES] = ID_BYTES
    order, is_same = in_order(data, starts + name_starts, rows["key_length"] - name_starts, directories)
    is_newest = np.append(~is_same[1:], True)[: len(rows)]
    kept = order[is_newest & (rows["value_length"][order] > 0)]
    directories = directories[kept]
    firsts = np.flatnonzero(np.diff(directories, prepend=-1))
    return rows[kept], lengths[kept], firsts


def copied(rows: Table, data: memoryview) -> Copied:
    """The bytes of rows, ROWS_AT_ONCE or so."""
    lengths = rows["key_length"].astype(np.int64) + rows["value_length"]
    at = rows["at"].astype(np.int64)
    low, high = int(at.min(initial=0 if not len(at) else at[0])), int((at + lengths).max(initial=0))
    if high - low <= SPREAD_MAX * int(lengths.sum()):
        return Copied(bytes(data[low:high]), at - low)
    wheres = zip(at.tolist(), (at + lengths).tolist(), strict=True)
    return Copied(b"".join([data[start:end] for start, end in wheres]), np.cumsum(lengths) - lengths)


def parts(count: int) -> Iterator[tuple[int, int]]:
    """Stretches of so many rows whose bytes are copied together."""
    for first in range(0, count, ROWS_AT_ONCE):
        yield first, min(first + ROWS_AT_ONCE, count)


def directory_lengths(rows: Table, data: memoryview) -> Ints:
    """Of each key the bytes of its directory: the tree's id, and what is before the last slash."""
    found = np.full(len(rows), ID_BYTES, dtype=np.int64)
    for first, beyond in parts(len(rows)):
        part = copied(rows[first:beyond], data)
        slashes = np.flatnonzero(np.frombuffer(part.data, dtype=np.uint8) == _SLASH)
        ends = part.starts + rows["key_length"][first:beyond]
        last = np.searchsorted(slashes, ends) - 1
        lengths = np.append(slashes, -1)[last] - part.starts
        found[first:beyond] = np.maximum(lengths, ID_BYTES)
    return found


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
