"""What stands in a container and belongs to no history: what another run overtook without knowing of it.

When two zones meet again the higher epoch wins; what only the losing one had is told here, and never merged.
Segments that a fenced run puts late lie beyond its epoch's end, too. How it is printed does not belong here.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from cdp_container.domain.history import History
from cdp_container.format.domain import parse_epoch_record
from cdp_container.format.keys import EPOCHS_PREFIX, KeyKind, epoch_key, log_prefix, parse_key, segment_key
from cdp_container.store.api import Store

COUNTED_MAX: Final = 1_000_000
"""Segments that are counted of one epoch; who reads that there are so many needs no exact number."""


@dataclass(frozen=True, slots=True)
class Unmerged:
    """Segments of one epoch that no image is made of.

    Attributes:
        epoch, site, began_ns: of the run that wrote them.
        segments: how many there are.
        beyond: the last seq that counts of the epoch; 0 where none of it does.
        newest_ns: the store's Last-Modified of the newest of them.
    """

    epoch: int
    site: str
    began_ns: int
    segments: int
    beyond: int
    newest_ns: int


def unmerged_of(store: Store, history: History) -> list[Unmerged]:
    """All of them, oldest first; an epoch that is being claimed is none.

    Looked for are epochs outside the chain, and what lies beyond the end of an epoch that was taken over
    without knowing all of it (`unsynchronised`).
    """
    found = []
    for epoch in _outside(store, history):
        record = parse_epoch_record(store.get(epoch_key(epoch)).data, epoch_key(epoch), history.domain)
        found.append(_count(store, epoch, record.site, record.began_ns, 0))
    for span, successor in pairwise(history.spans.values()):
        if successor.record.unsynchronised:
            record = span.record
            last = span.end.seq if span.end else 0
            found.append(_count(store, record.epoch, record.site, record.began_ns, last))
    return sorted((one for one in found if one.segments), key=lambda one: one.epoch)


def _outside(store: Store, history: History) -> list[int]:
    """The epochs that have a record, and are neither part of the history nor just being claimed."""
    parsed = [parse_key(found.key) for found in store.list(EPOCHS_PREFIX)]
    epochs = [key.epoch for key in parsed if key is not None and key.kind is KeyKind.EPOCH_RECORD]
    return [epoch for epoch in epochs if epoch not in history.spans and epoch != history.owner.epoch]


def _count(store: Store, epoch: int, site: str, began_ns: int, beyond: int) -> Unmerged:
    count = newest_ns = 0
    for found in store.list(log_prefix(epoch), segment_key(epoch, beyond) if beyond else ""):
        count, newest_ns = count + 1, max(newest_ns, found.modified_ns)
        if count == COUNTED_MAX:
            break
    return Unmerged(epoch, site, began_ns, count, beyond, newest_ns)
