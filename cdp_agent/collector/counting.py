"""Which objects are in force, and which of their runs count: docs/container-format.md, section 4, 3.

What of them is visible does not belong here (alive).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from cdp_agent.collector.cache import CacheDamaged
from cdp_agent.collector.remembered import Tables
from cdp_container.domain.history import History
from cdp_container.domain.ledgers import Ledger
from cdp_container.extents.intervals import Flags, Ints
from cdp_container.extents.tables import Table
from cdp_container.format.layout import ObjectKind
from cdp_container.format.place import Place


@dataclass(frozen=True, slots=True)
class Past:
    """What counts of a domain's history.

    Attributes:
        bases: for every epoch that counts its base.
        lasts: for every epoch that counts and has any the last seq.
        newest: the newest cut.
    """

    bases: Mapping[int, Place]
    lasts: Mapping[int, int]
    newest: Place


def past_of(history: History) -> Past:
    """The same, of a history that was read."""
    bases = {epoch: span.record.base for epoch, span in history.spans.items()}
    return Past(bases, history.everything(), history.newest)


@dataclass(frozen=True, slots=True)
class Counting:
    """Row numbers of the objects in force, and of the runs of theirs that count."""

    objects: Ints
    runs: Ints


def counting(tables: Tables, past: Past, ledger: Ledger) -> Counting:
    """What counts of everything that is remembered, while this ledger is in force."""
    facts = tables.facts
    in_scope = _in_scope(facts["epoch"], facts["number"], past)
    collected = _collected(facts["epoch"], facts["number"], ledger)
    in_force = (facts["kind"] == ObjectKind.SEGMENT) & in_scope & ~collected
    for row in np.flatnonzero(facts["kind"] == ObjectKind.PACK).tolist():
        in_force[row] = ledger.packs.get(tables.keys[row]) == facts["digest"][row].tobytes()
    runs = tables.runs
    counts = in_force[runs["object"]] if len(runs) else np.zeros(0, dtype=np.bool_)
    of_packs = np.flatnonzero(counts & (facts["kind"] == ObjectKind.PACK)[runs["object"]])
    counts[of_packs] = row_counts(runs[of_packs], past, ledger)
    return Counting(np.flatnonzero(in_force), np.flatnonzero(counts))


def check_facts(tables: Tables, past: Past, ledger: Ledger, counts: Counting) -> None:
    """Whether the facts are those of the objects that count, all of them. Raises CacheDamaged.

    Each segment names the digest of the one before it, and the ledger those of packs: facts of other objects
    under the same keys, or none, would have what is needed taken for dead.
    """
    rows = counts.objects
    facts = tables.facts[rows[tables.facts["kind"][rows] == ObjectKind.SEGMENT]]
    facts = facts[np.lexsort((facts["number"], facts["epoch"]))]
    for epoch, last in past.lasts.items():
        collected = sum(max(0, min(upto, last) - first + 1) for first, upto in ledger.collected(epoch))
        if np.count_nonzero(facts["epoch"] == epoch) != last - collected:
            raise CacheDamaged(f"not every segment of epoch {epoch} is remembered")
    next_to = (facts["epoch"][1:] == facts["epoch"][:-1]) & (facts["number"][1:] == facts["number"][:-1] + 1)
    if np.any(next_to & (facts["previous_digest"][1:] != facts["digest"][:-1])):
        raise CacheDamaged("a segment is remembered that is not the one before the next")
    if len(rows) - len(facts) != len(ledger.packs):
        raise CacheDamaged("not every pack in force is remembered as it is")


def row_counts(places: Table, past: Past, ledger: Ledger) -> Flags:
    """Which rows of packs count, by their `epoch` and `seq`: those that stand for collected segments."""
    epochs, seqs = places["epoch"], places["seq"]
    return _in_scope(epochs, seqs, past) & _collected(epochs, seqs, ledger)


def _in_scope(epochs: Ints, seqs: Ints, past: Past) -> Flags:
    found, places = np.unique(epochs, return_inverse=True)
    lasts = np.array([past.lasts.get(epoch, 0) for epoch in found.tolist()], dtype=np.int64)
    within: Flags = seqs <= lasts[places] if len(found) else np.zeros(0, dtype=np.bool_)
    return within


def _collected(epochs: Ints, seqs: Ints, ledger: Ledger) -> Flags:
    collected = np.zeros(len(epochs), dtype=np.bool_)
    for epoch in np.unique(epochs).tolist():
        runs = np.array(ledger.collected(epoch), dtype=np.int64).reshape(-1, 2)
        if len(runs) == 0:
            continue
        rows = np.flatnonzero(epochs == epoch)
        at = np.maximum(np.searchsorted(runs[:, 0], seqs[rows], side="right") - 1, 0)
        collected[rows] = (runs[at, 0] <= seqs[rows]) & (seqs[rows] <= runs[at, 1])
    return collected
