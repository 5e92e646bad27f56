"""What a table of names is filled from: of every name the newest word on a branch, directory by directory.

Nothing is judged here but which word counts. What the names say together does not belong here (namespace),
nor how they are kept as they were read (name_spool).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import numpy as np

from cdp_container.domain.contents import Contents
from cdp_container.domain.image import Branch, on_branch
from cdp_container.extents.tables import Table
from cdp_container.format.layout import ID_BYTES
from cdp_container.format.place import Place

ROWS_AT_ONCE: Final = 10_000
"""Rows whose bytes are copied together: one slice of what is mapped takes as long as many of a copy."""
SPREAD_MAX: Final = 4
"""Bytes of a copy by bytes that rows name in it; where they lie further apart each is taken by itself."""
SORTED_DIRECTORIES_MAX: Final = 200_000
"""Directories that are put in order, some 30 MiB; names of others come as they were told."""


def newest_rows(contents: Contents, branch: Branch) -> Table:
    """Of every name the newest row on a branch, those that are gone left out (NAME_ROWS).

    Names of one directory are together, directories in order: what is filled by them grows at its end.
    """
    rows = contents.names.rows()
    rows = rows[_counting(rows, contents, branch)]
    data = contents.names.bytes()
    rows = rows[np.lexsort((np.arange(len(rows)), rows["seq"], rows["epoch"]))[::-1]]  # the newest first
    keys, directories = _keyed(rows, data)
    _, firsts, inverse, counts = np.unique(keys, return_index=True, return_inverse=True, return_counts=True)
    newest = np.zeros(len(rows), dtype=np.bool_)
    newest[firsts] = True
    if len(firsts) < len(rows):
        again = counts[inverse] > 1
        newest[again] = False
        newest[_exactly_newest(rows, np.flatnonzero(again), data)] = True
    kept = np.flatnonzero(newest & (rows["value_length"] > 0))[::-1]
    return rows[kept[np.argsort(directories[kept], kind="stable")]]


def said(rows: Table, data: memoryview) -> Iterator[tuple[bytes, bytes]]:
    """Key and value of each row, in their order."""
    for first in range(0, len(rows), ROWS_AT_ONCE):
        part = rows[first : first + ROWS_AT_ONCE]
        lengths = part["key_length"].astype(np.int64) + part["value_length"]
        low, high = int(part["at"].min()), int((part["at"] + lengths).max())
        wheres = zip(part["at"].tolist(), part["key_length"].tolist(), lengths.tolist(), strict=True)
        if high - low <= SPREAD_MAX * int(lengths.sum()):
            copied = bytes(data[low:high])
            for at, key_length, length in wheres:
                start = at - low
                yield copied[start : start + key_length], copied[start + key_length : start + length]
        else:
            for at, key_length, length in wheres:
                yield bytes(data[at : at + key_length]), bytes(data[at + key_length : at + length])


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


def _keyed(rows: Table, data: memoryview) -> tuple[Table, Table]:
    """Of each row a number for its key (different ones: different keys), and one for its directory."""
    keys = np.zeros(len(rows), dtype=np.int64)
    numbers = np.zeros(len(rows), dtype=np.int32)
    parents: dict[bytes, int] = {}
    beyond = SORTED_DIRECTORIES_MAX
    last, last_number = b"", beyond  # most rows are in the directory of the one before
    for at, (key, _) in enumerate(said(rows, data)):
        keys[at] = hash(key)
        parent = key[: max(key.rfind(b"/", ID_BYTES), ID_BYTES)]
        if parent != last:
            last = parent
            last_number = parents.get(parent, beyond)
            if last_number == beyond and len(parents) < beyond:
                last_number = parents[parent] = len(parents)
        numbers[at] = last_number
    ranks = np.full(beyond + 1, beyond, dtype=np.int32)
    for rank, parent in enumerate(sorted(parents)):
        ranks[parents[parent]] = rank
    return keys, ranks[numbers]


def _exactly_newest(rows: Table, numbers: Table, data: memoryview) -> list[int]:
    """Of rows whose hashes others share, the first of each key."""
    seen: dict[bytes, int] = {}
    for number, (key, _) in zip(numbers.tolist(), said(rows[numbers], data), strict=True):
        seen.setdefault(key, number)
    return list(seen.values())
