"""Which records of names must be carried on when their objects go: what was said last of each path. PURE.

Of files there are millions: names are looked at as columns, so many at once, parted by the digests of their
keys. What other records are live does not belong here (live_records).
"""

from __future__ import annotations

from typing import Final

import numpy as np

from cdp_agent.collector.counting import Counting, Past, row_counts
from cdp_agent.collector.lines import NO_INTERVAL, Lines
from cdp_agent.collector.remembered import Tables
from cdp_container.domain.ledgers import Ledger
from cdp_container.extents.intervals import Flags, Ints
from cdp_container.extents.tables import Table
from cdp_container.format.layout import ObjectKind

TOGETHER_NAMES: Final = 1 << 17
"""Names that are looked at together, about."""

LIVE_NAMES: Final = np.dtype([("object", "<i4"), ("row", "<i4")])
"""A name that is live: its object's row in the tables, and its row in the object."""

_NEVER: Final = np.iinfo(np.int64).max


def live_names(
    tables: Tables, everything: Table, counts: Counting, past: Past, ledger: Ledger, lines: Lines
) -> Table:
    """Which of all names (NAMES) are live (LIVE_NAMES), in any order.

    Of a path counts what was said of it last in each interval, that it is there or gone. That it is gone is
    nothing that anybody needs where no object that is there says anything older of it.
    """
    in_force = np.zeros(len(tables.keys), dtype=np.bool_)
    in_force[counts.objects] = True
    parts = 1 << (len(everything) // TOGETHER_NAMES).bit_length()
    found = [np.zeros(0, dtype=LIVE_NAMES)]
    for part in range(parts):
        names = everything[everything["low"] % parts == part]
        kinds = tables.facts["kind"][names["object"]]
        intervals = lines.numbers_of(names["epoch"], names["seq"])
        counted = in_force[names["object"]] & (intervals != NO_INTERVAL)
        of_packs = np.flatnonzero(kinds == ObjectKind.PACK)
        counted[of_packs] &= row_counts(names[of_packs], past, ledger)
        live = names[_is_live(names, kinds, intervals, counted)]
        found.append(np.zeros(len(live), dtype=LIVE_NAMES))
        found[-1]["object"], found[-1]["row"] = live["object"], live["row"]
    return np.concatenate(found)


def _is_live(names: Table, kinds: Ints, intervals: Ints, counted: Flags) -> Flags:
    """Which names are the last ones of their key and interval among those that count, and are needed."""
    live = np.zeros(len(names), dtype=np.bool_)
    if not len(names):
        return live
    column = {name: np.ascontiguousarray(names[name]) for name in names.dtype.names or ()}
    places = column["seq"], column["cut"], column["epoch"]
    digest = column["low"], column["high"]
    order = np.lexsort((column["row"], column["object"], kinds, *places, intervals, counted, *digest))
    is_first = np.ones(len(order), dtype=np.bool_)
    is_first[1:] = _differ(digest, order)
    is_last = np.ones(len(order), dtype=np.bool_)
    is_last[:-1] = is_first[1:] | _differ((intervals, counted), order)
    keys = np.cumsum(is_first) - 1
    begins = np.flatnonzero(is_first)
    epochs, seqs = column["epoch"][order], column["seq"][order]
    oldest_epochs = np.minimum.reduceat(epochs, begins)[keys]
    oldest_seqs = np.minimum.reduceat(np.where(epochs == oldest_epochs, seqs, _NEVER), begins)[keys]
    hides = (epochs > oldest_epochs) | (seqs > oldest_seqs)
    live[order] = is_last & counted[order] & (~column["gone"][order] | hides)
    return live


def _differ(columns: tuple[Ints | Flags, ...], order: Ints) -> Flags:
    """Where any of some columns, in an order, is another than the one before."""
    differ = np.zeros(max(0, len(order) - 1), dtype=np.bool_)
    for column in columns:
        ordered = column[order]
        differ |= ordered[1:] != ordered[:-1]
    return differ
