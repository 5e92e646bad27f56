"""The names of trees as objects say them, kept on disk with their place in history: millions, in any order.

What they say together, at one cut, is told in namespace.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from cdp_container.domain.spool import Spool
from cdp_container.extents.tables import Table
from cdp_container.format.index import Index
from cdp_container.format.layout import NONE_U32, RECORD_ROW
from cdp_container.format.place import Place

NAME_ROWS: Final = np.dtype(
    [
        ("epoch", "<i8"),
        ("cut", "<i8"),
        ("seq", "<i8"),
        ("at", "<i8"),
        ("key_length", "<i4"),
        ("value_length", "<i4"),
    ]
)
"""A `name+` or `name-`: its place, and where its key stands, then its value; without a value it is gone.

Rows of one segment stand in the order in which they apply."""

_RECORD_ROWS: Final = np.dtype(
    [("name", "<u8"), *((field.name, f"<u{field.size_bytes}") for field in RECORD_ROW.fields[1:])]
)
_ADDED, _GONE = (int.from_bytes(name.ljust(8, b"\0"), "little") for name in (b"name+", b"name-"))
_BYTES: Final = np.dtype(np.uint8)


class NameSpool:
    """Takes the names of one object after another; a file without names costs nothing."""

    def __init__(self) -> None:
        self._rows: Spool | None = None
        self._bytes: Spool | None = None

    def add(self, index: Index, places: Sequence[Place], counts: Sequence[bool]) -> None:
        """The names of one object; `counts` says of which places (order rows) they count."""
        found = np.frombuffer(index.record_table, dtype=_RECORD_ROWS)
        found = found[(found["name"] == _ADDED) | (found["name"] == _GONE)]
        order = np.where(found["order"] == NONE_U32, 0, found["order"])
        kept = np.array(counts, dtype=np.bool_)[order]
        found, order = found[kept], order[kept]
        if not len(found):
            return
        if self._rows is None or self._bytes is None:
            self._rows, self._bytes = Spool(NAME_ROWS), Spool(_BYTES)
        first, beyond = (
            int(found["key_offset"][0]),
            int(found["value_offset"][-1] + found["value_length"][-1]),
        )
        at = self._bytes.append(np.frombuffer(index.blob, dtype=_BYTES)[first:beyond])
        where = np.array([(place.epoch, place.cut, place.seq) for place in places], dtype=np.int64)
        rows = np.zeros(len(found), dtype=NAME_ROWS)
        rows["epoch"], rows["cut"], rows["seq"] = where[order, 0], where[order, 1], where[order, 2]
        rows["at"] = at + found["key_offset"].astype(np.int64) - first
        rows["key_length"] = found["key_length"]
        rows["value_length"] = np.where(found["name"] == _ADDED, found["value_length"], 0)
        self._rows.append(rows)

    def rows(self) -> Table:
        """All of them (NAME_ROWS), mapped."""
        return np.zeros(0, dtype=NAME_ROWS) if self._rows is None else self._rows.table()

    def bytes(self) -> memoryview:
        """What rows point into, mapped."""
        return memoryview(b"") if self._bytes is None else memoryview(self._bytes.table().data)

    def close(self) -> None:
        """Give the disk space back."""
        for spool in (self._rows, self._bytes):
            if spool is not None:
                spool.close()
