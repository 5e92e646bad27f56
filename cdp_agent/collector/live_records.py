"""Which records must be carried on when their objects go.

Of records with one key the newest of each interval is live; what covers is kept always, what a pack remembers
of a collected cut as long as that cut may be asked for (docs/collection.md, "What is live").
"""

from __future__ import annotations

import struct
from collections.abc import Collection, Iterator
from typing import Final

import numpy as np

from cdp_agent.collector.counting import Counting, Past, row_counts
from cdp_agent.collector.facts import KEPT_ALWAYS, RecordFact
from cdp_agent.collector.lines import NO_INTERVAL, Lines
from cdp_agent.collector.remembered import Tables
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
    tables: Tables, counts: Counting, past: Past, ledger: Ledger, lines: Lines, retained: Collection[Place]
) -> dict[int, Ints]:
    """For each object (row) in force that has live records, their rows in its records part, sorted."""
    asked_for = {(place.epoch, place.cut) for place in (*retained, past.newest, *past.bases.values())}
    newest: dict[tuple[int, str, bytes], tuple[Place, int, int, int]] = {}
    live = live_names(tables, counts, past, ledger, lines)
    for row, record, number, kind in _counted(tables, counts, past, ledger, lines):
        if record.name in _OF_CUTS:
            if _named(record) in asked_for:
                live.setdefault(row, []).append(record.row)
        elif record.name in KEPT_ALWAYS:
            live.setdefault(row, []).append(record.row)
        elif number != NO_INTERVAL:
            key = number, record.name, record.key
            this = record.place, kind, row, record.row
            newest[key] = max(newest.get(key, this), this)
    for _, _, row, record_row in newest.values():
        live.setdefault(row, []).append(record_row)
    return {row: np.sort(np.array(found, dtype=np.int64)) for row, found in live.items()}


def live_names(
    tables: Tables, counts: Counting, past: Past, ledger: Ledger, lines: Lines
) -> dict[int, list[int]]:
    """The same of names, not sorted: of a path counts what was said of it last, that it is there or gone."""
    names = tables.names
    if not len(names):
        return {}
    in_force = np.zeros(len(tables.keys), dtype=np.bool_)
    in_force[counts.objects] = True
    at = np.flatnonzero(in_force[names["object"]])
    intervals = lines.numbers_of(names["epoch"][at], names["seq"][at])
    kinds = tables.facts["kind"][names["object"][at]]
    wanted = intervals != NO_INTERVAL
    of_packs = np.flatnonzero(kinds == ObjectKind.PACK)
    wanted[of_packs] &= row_counts(names[at[of_packs]][["epoch", "seq"]], past, ledger)
    at, intervals, kinds = at[wanted], intervals[wanted].astype(np.int32), kinds[wanted].astype(np.int8)
    high, low = names["high"][at], names["low"][at]
    places = names["seq"][at], names["cut"][at], names["epoch"][at]
    order = np.lexsort((names["row"][at], names["object"][at], kinds, *places, intervals, low, high))
    is_last = np.zeros(len(order), dtype=np.bool_)
    is_last[-1:] = True
    for column in (high, low, intervals):
        ordered = column[order]
        is_last[:-1] |= ordered[1:] != ordered[:-1]
    newest = at[order[is_last]]
    newest = newest[np.argsort(names["object"][newest], kind="stable")]
    objects, firsts = np.unique(names["object"][newest], return_index=True)
    beyonds = [*firsts[1:].tolist(), len(newest)]
    found_in = zip(objects.tolist(), firsts.tolist(), beyonds, strict=False)
    return {row: names["row"][newest[first:beyond]].tolist() for row, first, beyond in found_in}


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
