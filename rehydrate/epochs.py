"""Who owned the domain when: every epoch that counts, and whether its segments form one chain. PURE.

Which epochs count is decided by `cdp_container.domain.history`; how they are printed does not belong here.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import chain

from cdp_container.domain.contents import Contents
from cdp_container.domain.faults import Fault, faults_of
from cdp_container.domain.history import History
from cdp_container.errors import CdpError
from cdp_container.format.domain import EpochRecord
from cdp_container.format.place import Place


@dataclass(frozen=True, slots=True)
class Epoch:
    """One epoch that counts.

    Attributes:
        record: as it was written when the epoch began.
        until_ns: the wall clock at which the next epoch began, None for the newest.
        last: the last cut of it that counts, NOWHERE if it has none.
        side: whether its newest cuts are no part of the newest image: a later epoch went on from before them.
        fault: why its segments, or the first one and its base, do not form one chain; None where they do.
    """

    record: EpochRecord
    until_ns: int | None
    last: Place
    side: bool
    fault: CdpError | None


def epochs_of(history: History, contents: Contents) -> list[Epoch]:
    """Every epoch that counts, oldest first. `contents` must hold everything."""
    faults = _first_faults(faults_of(contents, history.everything(), history.origins()))
    everywhere = faults.get(0)
    main = history.branch_of(history.newest)
    spans = list(history.spans.values())
    untils = chain((span.record.began_ns for span in spans[1:]), (None,))
    return [
        Epoch(
            span.record,
            until_ns,
            span.end,
            span.end.seq > main.get(span.record.epoch, 0),
            faults.get(span.record.epoch, everywhere),
        )
        for span, until_ns in zip(spans, untils, strict=False)
    ]


def _first_faults(faults: Iterable[Fault]) -> dict[int, CdpError]:
    found: dict[int, CdpError] = {}
    for fault in faults:
        found.setdefault(fault.epoch, fault.error)
    return found
