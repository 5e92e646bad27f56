"""Where an epoch ends. PURE: a value only. How that is found stands in `ends`, its use in `owner_types`."""

from __future__ import annotations

from dataclasses import dataclass

from cdp_container.format.place import NOWHERE, Place
from cdp_container.format.preamble import NO_DIGEST, Preamble


@dataclass(frozen=True, slots=True)
class End:
    """The cut at which an epoch ends, which is the base of the next one.

    Attributes:
        place: NOWHERE where the domain holds no complete cut yet.
        digest: of the cut's last segment; empty where that was collected and the ledger does not tell.
        preamble: of that segment, None where there is none or it was collected; its journal position is
            where capture resumes.
        stopped_by: why the run ended there, for people ("" where the next key is simply free).
        packed_ns: when a cut that was collected was taken, by its writer's clock; 0 where no pack was asked.
        unread: why the ledger in force could not be read, where this was found without it ("" where not).
    """

    place: Place = NOWHERE
    digest: bytes = NO_DIGEST
    preamble: Preamble | None = None
    stopped_by: str = ""
    packed_ns: int = 0
    unread: str = ""

    @property
    def time_ns(self) -> int:
        """When the cut was taken, by its writer's clock; 0 where that is not known."""
        return self.packed_ns if self.preamble is None else self.preamble.cut_time_ns

    @property
    def warning(self) -> str:
        """What somebody has to mend before all is well, for people; "" where nothing."""
        if not self.unread:
            return ""
        return (
            f"where the epoch before ends was found without the ledger in force: {self.unread}; until it is "
            "back nothing is collected, and what it tells of cannot be restored"
        )
