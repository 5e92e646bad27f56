"""Records of an index: made, measured, and their JSON values read.

Which record wins is decided where they are applied.
"""

from __future__ import annotations

from typing import Any

from cdp_container.errors import RecordTooLarge
from cdp_container.format import layout, limits
from cdp_container.format.index import Record
from cdp_container.format.jsontext import JsonObject, dump_object, load_object
from cdp_container.format.layout import NONE_U32


def make_record(name: str, key: bytes, value: JsonObject) -> Record:
    """A record of a known kind, its value encoded.

    Raises:
        RecordTooLarge: its key or its value is longer than a segment carries.
    """
    encoded = dump_object(value)
    if len(key) > limits.RECORD_KEY_BYTES_MAX:
        raise RecordTooLarge(f"record {name!r}", f"its key has {len(key)} bytes (RECORD_KEY_BYTES_MAX)")
    if len(encoded) > limits.RECORD_VALUE_BYTES_MAX:
        raise RecordTooLarge(
            f"record {name!r}", f"its value has {len(encoded)} bytes (RECORD_VALUE_BYTES_MAX)"
        )
    return Record(name, key, encoded, layout.RECORD_KINDS[name])


def record_value(record: Record, what: str) -> dict[str, Any]:
    """The members of a record's value; DamagedObject where it is no JSON object. `what`: the object's key."""
    return load_object(record.value, limits.RECORD_VALUE_BYTES_MAX, f"{what}, record {record.name!r}")


class RecordTable:
    """Collects records into the parts `records` and `blob`, in the order in which they are added."""

    __slots__ = ("_blob", "_rows")

    def __init__(self) -> None:
        self._rows = bytearray()
        self._blob = bytearray()

    def __len__(self) -> int:
        return len(self._rows) // layout.RECORD_ROW.size_bytes

    @property
    def index_bytes(self) -> int:
        """What the records take of the raw index."""
        return len(self._rows) + len(self._blob)

    @property
    def parts(self) -> dict[str, bytes]:
        """The two parts of the index."""
        return {"records": bytes(self._rows), "blob": bytes(self._blob)}

    def add(self, record: Record, order_row: int = NONE_U32) -> None:
        """Add one record; `order_row` in a pack only."""
        at = len(self._blob)
        row = layout.RECORD_ROW.struct.pack(
            record.name.encode("ascii"),
            layout.CRITICAL_BIT if record.critical else 0,
            order_row,
            at,
            len(record.key),
            at + len(record.key),
            len(record.value),
        )
        self._rows += row
        self._blob += record.key
        self._blob += record.value


def record_bytes(record: Record) -> int:
    """What one record takes of the raw index."""
    return layout.RECORD_ROW.size_bytes + len(record.key) + len(record.value)
