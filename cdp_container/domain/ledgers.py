"""The ledgers in force: which segments were collected, which packs stand for them, which cuts are retired.

What packs hold does not belong here (contents), nor who may collect.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from cdp_container.errors import DamagedObject, MissingObject, NotFound
from cdp_container.format.domain import ObjectName, Owner
from cdp_container.format.head import check_object, object_digest, open_head
from cdp_container.format.index import Run
from cdp_container.format.keys import pack_key
from cdp_container.format.layout import RunKind
from cdp_container.format.ledger import predecessor_of
from cdp_container.format.seal import ReaderKeys
from cdp_container.store.api import Store

LEDGERS_MAX: Final = 100_000
"""Generations of the ledger: a stop for names that lead nowhere."""


@dataclass(frozen=True, slots=True)
class Ledger:
    """What the ledger that the owner names says, together with its predecessors.

    Attributes:
        packs: the packs in force: their digests by key.
    """

    packs: Mapping[str, bytes] = field(default_factory=dict)
    _runs: Mapping[int, list[tuple[int, int]]] = field(default_factory=dict)
    _digests: Mapping[tuple[int, int], bytes] = field(default_factory=dict)
    _retired: Mapping[int, list[tuple[int, int]]] = field(default_factory=dict)

    def is_collected(self, epoch: int, seq: int) -> bool:
        """Whether this segment was collected; then it counts as such even where it can still be read."""
        return _stands_in(self._runs.get(epoch, []), seq)

    def collected(self, epoch: int) -> list[tuple[int, int]]:
        """The runs of collected segments of an epoch: (first, last), ascending, none touching the next."""
        return list(self._runs.get(epoch, []))

    def is_retired(self, epoch: int, seq: int) -> bool:
        """Whether no cut is complete in this segment any more, be it collected or still there."""
        return _stands_in(self._retired.get(epoch, []), seq)

    def digest(self, epoch: int, seq: int) -> bytes:
        """The digest of a collected segment, where it is the last of a run; elsewhere empty: not known."""
        return self._digests.get((epoch, seq), b"")

    def reaches_beyond(self, epoch: int, seq: int) -> bool:
        """Whether this segment of an epoch was collected, or any behind it."""
        return any(last >= seq for _, last in self._runs.get(epoch, [])[-1:])

    def reaches_into(self, epoch: int) -> bool:
        """Whether anything of this epoch was collected."""
        return epoch in self._runs


NO_LEDGER: Final = Ledger()
"""Of a domain of which nothing was ever collected."""


def ledger_of(newest: Iterable[Run], older: Iterable[Run] = ()) -> Ledger:
    """From the runs of the ledger in force and those of its predecessors, whose packs count no more."""
    runs: dict[int, list[tuple[int, int]]] = {}
    retired: dict[int, list[tuple[int, int]]] = {}
    digests: dict[tuple[int, int], bytes] = {}
    packs: dict[str, bytes] = {}
    newest = list(newest)
    for run in (*newest, *older):
        if run.kind is RunKind.SEGMENT_COLLECTED:
            runs.setdefault(run.epoch, []).append((run.first, run.last))
            digests.setdefault((run.epoch, run.last), run.digest)
        elif run.kind is RunKind.CUTS_RETIRED:
            retired.setdefault(run.epoch, []).append((run.first, run.last))
    for run in newest:
        if run.kind is RunKind.PACK_IN_FORCE:
            packs[pack_key(run.epoch, run.first)] = run.digest
    collected, retired = (
        {epoch: _merged(found) for epoch, found in each.items()} for each in (runs, retired)
    )
    return Ledger(packs, collected, digests, retired)


def _stands_in(runs: list[tuple[int, int]], seq: int) -> bool:
    at = bisect_right(runs, (seq, seq)) if runs else 0
    return any(first <= seq <= last for first, last in runs[max(0, at - 1) : at + 1])


def _merged(runs: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Sorted, and without overlap, as the runs of several ledgers may have."""
    merged: list[tuple[int, int]] = []
    for first, last in sorted(runs):
        if merged and first <= merged[-1][1] + 1:
            merged[-1] = (merged[-1][0], max(last, merged[-1][1]))
        else:
            merged.append((first, last))
    return merged


def read_ledger(store: Store, owner: Owner, keys: ReaderKeys) -> Ledger:
    """The ledger that the owner names, and its predecessors. Raises as `read_named`."""
    return read_named(store, owner.domain, owner.ledger, keys)


def read_named(store: Store, domain: bytes, name: ObjectName | None, keys: ReaderKeys) -> Ledger:
    """The ledger of a name, None for none yet, and its predecessors.

    Raises:
        MissingObject, DamagedObject and their kin: without sound ledgers nobody can tell lost from
        collected.
        KeyMissing: a ledger is sealed and `keys` has no index key.
    """
    generations: list[list[Run]] = []
    while name is not None:
        if len(generations) >= LEDGERS_MAX:
            raise DamagedObject(name.key, f"more than {LEDGERS_MAX} ledgers precede one another")
        try:
            data = store.get(name.key).data
        except NotFound as error:
            raise MissingObject(name.key, "this ledger is in force, and it is gone") from error
        check_object(data, name.key, domain)
        if object_digest(data) != name.digest:
            raise DamagedObject(name.key, "it has not the digest by which it was named")
        head = open_head(data, name.key, domain, keys)
        generations.append(list(head.index.iter_runs()))
        name = predecessor_of(head)
    if not generations:
        return NO_LEDGER
    return ledger_of(generations[0], (run for runs in generations[1:] for run in runs))
