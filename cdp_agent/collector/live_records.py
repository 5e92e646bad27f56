"""Which records must be carried on when their objects go.

Of records with one key the newest of each interval is live; what covers as long as there is something that it
may cover, what a pack remembers of a collected cut as long as that cut may be asked for (docs/collection.md,
"What is live"). Which names are live is in `live_names`, what covers nothing in `idle_covers`.
"""

from __future__ import annotations

import struct
from collections.abc import Collection, Iterator
from typing import Final

import numpy as np

from cdp_agent.collector.counting import Counting, Past, row_counts
from cdp_agent.collector.facts import KEPT_ALWAYS, RecordFact
from cdp_agent.collector.idle_covers import idle_covers
from cdp_agent.collector.lines import NO_INTERVAL, Lines
from cdp_agent.collector.live_names import live_names
from cdp_agent.collector.remembered import Remembered, Tables
from cdp_container.domain.ledgers import Ledger
from cdp_container.extents.intervals import Ints
from cdp_container.extents.tables import Table
from cdp_container.format.layout import ObjectKind
from cdp_container.format.place import Place

_OF_CUTS: Final = frozenset({"cut", "skew"})
"""Records that tell of one cut alone, which their key names."""
_CUT_KEY: Final = struct.Struct("<QQ")
_PLACES: Final = np.dtype([("epoch", "<i8"), ("seq", "<i8")])


def live_records(
    remembered: Remembered,
    counts: Counting,
    past: Past,
    ledger: Ledger,
    lines: Lines,
    retained: Collection[Place],
) -> dict[int, Ints]:
    """For each object (row) in force that has live records, their rows in its records part, sorted.

    Raises CacheDamaged.
    """
    tables = remembered.tables()
    asked_for = {(place.epoch, place.cut) for place in (*retained, past.newest, *past.bases.values())}
    newest: dict[tuple[int, str, bytes], tuple[Place, int, int, int]] = {}
    live: list[tuple[int, int]] = []
    idle = idle_covers(tables)
    for row, record, number, kind in _counted(tables, counts, past, ledger, lines):
        if record.name in _OF_CUTS:
            if _named(record) in asked_for:
                live.append((row, record.row))
        elif record.name in KEPT_ALWAYS:
            if (row, record.row) not in idle:
                live.append((row, record.row))
        elif number != NO_INTERVAL:
            key = number, record.name, record.key
            this = record.place, kind, row, record.row
            newest[key] = max(newest.get(key, this), this)
    live += [(row, record_row) for _, _, row, record_row in newest.values()]
    return _by_object(live, live_names(tables, remembered.names(), counts, past, ledger, lines))


def _by_object(live: list[tuple[int, int]], names: Table) -> dict[int, Ints]:
    others = np.array(live, dtype=np.int32).reshape(-1, 2)
    objects = np.concatenate((others[:, 0], names["object"]))
    rows = np.concatenate((others[:, 1], names["row"]))
    order = np.lexsort((rows, objects))
    objects, rows = objects[order], rows[order].astype(np.int64)
    begins = np.flatnonzero(np.diff(objects, prepend=-1)).tolist()
    beyonds = [*begins[1:], len(rows)]
    return {int(objects[low]): rows[low:high] for low, high in zip(begins, beyonds, strict=False)}


def _named(record: RecordFact) -> tuple[int, int]:
    epoch, cut = _CUT_KEY.unpack(record.key)
    return epoch, cut


def _counted(
    tables: Tables, counts: Counting, past: Past, ledger: Ledger, lines: Lines
) -> Iterator[tuple[int, RecordFact, int, int]]:
    """(object's row, record, its interval, kind of the object) of records that count."""
    in_force = set(counts.objects.tolist())
    found = [
        (row, record) for row, records in tables.records.items() if row in in_force for record in records
    ]
    places = _places(found)
    numbers = lines.numbers_of(places["epoch"], places["seq"]).tolist()
    kinds = tables.facts["kind"]
    as_pack = row_counts(places, past, ledger).tolist()
    for (row, record), number, stands in zip(found, numbers, as_pack, strict=True):
        if stands or kinds[row] != ObjectKind.PACK:
            yield row, record, number, int(kinds[row])


def _places(found: list[tuple[int, RecordFact]]) -> Table:
    places = np.zeros(len(found), dtype=_PLACES)
    places["epoch"] = [record.place.epoch for _, record in found]
    places["seq"] = [record.place.seq for _, record in found]
    return places
