"""What a verification found and looked at, and what that comes to. PURE.

How objects are checked does not belong here (verify_object), nor how a report reads (verify_report).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Protocol

from cdp_container.domain.history import History
from cdp_container.domain.ledgers import Ledger
from cdp_container.errors import CdpError, Incomplete, MissingObject, PointsDamaged, counted
from cdp_container.format.seal import ReaderKeys
from cdp_container.store.api import Store

_KINDS: Final = {
    "DamagedObject": "damaged",
    "MissingObject": "missing",
    "ForeignObject": "foreign",
    "NewerFormat": "newer",
}


class Opened(Protocol):
    """A container that was opened: its history, and whatever keys there are."""

    @property
    def store(self) -> Store:
        """Where it is."""

    @property
    def history(self) -> History:
        """Which epochs count."""

    @property
    def keys(self) -> ReaderKeys:
        """What opens its objects, as far as it is at hand."""

    @property
    def sealed(self) -> bool:
        """Whether its data needs a key."""

    @property
    def ledger(self) -> Ledger:
        """What was collected."""


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that is not as it should be. `needed`: a point cannot be restored without it."""

    error: CdpError
    key: str
    needed: bool

    @property
    def kind(self) -> str:
        """The finding in one word: damaged, missing, foreign, newer or beyond limits."""
        return _KINDS.get(type(self.error).__name__, "beyond limits")


@dataclass(frozen=True, slots=True)
class Coverage:
    """What of a container was read whole, where it was not all of it.

    `round_objects` of the `objects` that there are were read since this round began, which is the `round`th.
    """

    read_objects: int
    read_bytes: int
    objects: int
    stored_bytes: int
    round: int = 1
    round_objects: int = 0


@dataclass(slots=True)
class Report:
    """What was looked at, and what was found.

    Attributes:
        objects, stored_bytes: what was read whole.
        frames: that were checked; `opened`: they were opened, not only checked by their CRC or digest.
        heads_opened: whether indexes and catalogs were opened, for which an index key is enough.
        findings: in the order in which they were found.
        ignored: keys that nothing is known of.
        points, sound_points: recovery points that are offered; those that no finding stands in the way of.
        way_out: which point nothing found stands in the way of, in words, where there is one.
        coverage: of a sample; None where all that was asked for was read.
    """

    objects: int = 0
    stored_bytes: int = 0
    frames: int = 0
    opened: bool = True
    heads_opened: bool = True
    findings: list[Finding] = field(default_factory=list)
    ignored: list[str] = field(default_factory=list)
    points: int = 0
    sound_points: int = 0
    way_out: str = ""
    coverage: Coverage | None = None

    @property
    def error(self) -> CdpError | None:
        """What the findings come to: None, Incomplete if no point needs what is wrong, else PointsDamaged.

        Never the class of a finding: DamagedObject and its kin say that there was no verification.
        """
        needed = sum(finding.needed for finding in self.findings)
        if needed:
            why = f"{counted(needed, 'finding')} in what recovery points need"
            hint = f"{self.way_out}; else: {PointsDamaged.default_hint}" if self.way_out else None
            return PointsDamaged("the container is not whole", why, hint)
        if self.findings:
            why = f"{counted(len(self.findings), 'finding')} in what no recovery point needs"
            return Incomplete("not everything is as it was written", why)
        return None

    @property
    def missing(self) -> bool:
        """Whether something that points need was not there: it may have been collected meanwhile."""
        return any(found.needed and isinstance(found.error, MissingObject) for found in self.findings)


def needed_scope(history: History, ledger: Ledger) -> Mapping[int, int]:
    """For each epoch the last seq that a cut needs which is not retired, bases included."""
    needed: dict[int, int] = {}
    for epoch, last in sorted(history.everything().items(), reverse=True):
        seq = last
        while seq and ledger.is_retired(epoch, seq):
            seq -= 1
        needed[epoch] = max(seq, needed.get(epoch, 0))
        base = history.spans[epoch].record.base
        if needed[epoch] and base:
            needed[base.epoch] = max(base.seq, needed.get(base.epoch, 0))
    return {epoch: seq for epoch, seq in sorted(needed.items()) if seq}
