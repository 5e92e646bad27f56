"""What a pass of collection goes by, runs in, found out and did.

What makes these does not belong here (collect, process).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from cdp_agent.collector.alive_types import Alive
from cdp_agent.collector.choose import LIVE_SHARE_MAX, PASS_BYTES_MAX, SPACE_TARGET, Chosen
from cdp_agent.collector.inventory import Inventory
from cdp_agent.collector.packing import Counted
from cdp_agent.collector.warmth import PART_BYTES_MIN
from cdp_container.clock import Clock
from cdp_container.domain.collecting import Collector, Finished
from cdp_container.domain.history import History
from cdp_container.domain.identity import AgentIdentity
from cdp_container.domain.ledgers import Ledger
from cdp_container.domain.retention import Kept, PastCut
from cdp_container.domain.retention_policy import COLLECT_AGE_SECONDS_MIN
from cdp_container.errors import CdpError
from cdp_container.format.index import Run
from cdp_container.format.place import Place
from cdp_container.store.api import Store

GRACE_SECONDS: Final = 60.0


@dataclass(frozen=True, slots=True)
class Wishes:
    """How a pass is to go about it; see `Bounds`, too.

    `private_key`: of the domain, where frames are to be split; without it no object is packed of which
    LIVE_SHARE_WHOLE lives. `part_bytes_min`: hot and cold are not parted where less is packed.
    """

    grace_seconds: float = GRACE_SECONDS
    space_target: float = SPACE_TARGET
    live_share: float = LIVE_SHARE_MAX
    age_seconds: float = COLLECT_AGE_SECONDS_MIN
    copy_bytes_max: int = PASS_BYTES_MAX
    part_bytes_min: int = PART_BYTES_MIN
    private_key: bytes | None = field(default=None, repr=False)
    software: str = ""
    locked: Collection[str] = ()
    """Keys that are no victims: the store is known not to delete them yet."""


@dataclass(frozen=True, slots=True)
class Around:
    """What a pass runs in.

    Attributes:
        identity: the agent's.
        directory: the collector's, `<journal>/collector`.
        collector: what the protocol acts on.
        store: the container; repeats reads and deletes.
        clock, entropy: of this machine.
        report: is given lines for people.
        store_seen_ns: the newest time of the store that any pass before this one saw, 0 for none.
    """

    identity: AgentIdentity
    directory: Path
    collector: Collector
    store: Store
    clock: Clock
    entropy: Callable[[int], bytes]
    report: Callable[[str], None]
    store_seen_ns: int = 0


@dataclass(frozen=True, slots=True)
class Found:
    """What a pass found out before it writes anything."""

    history: History
    runs: Sequence[Run]
    ledger: Ledger
    inventory: Inventory
    cuts: Sequence[PastCut]
    kept: Mapping[Place, Kept]
    alive: Alive
    chosen: Chosen
    superseded: Sequence[str]
    spared: set[str]
    doubts: tuple[str, ...] = ()
    """Of holds, for people; see `past.Spared`."""

    @property
    def retired(self) -> list[PastCut]:
        """The cuts that are not offered any more once the plan executes, oldest first."""
        return sorted((cut for cut in self.cuts if cut.place not in self.kept), key=lambda cut: cut.place)


@dataclass(frozen=True, slots=True)
class Passed:
    """What a pass did. `finished_before`: an older plan that it finished; `found`: what it looked at.

    `stopped`: why it may make no plan, where that is a failure, and replicas are the reason.
    """

    why_not: str
    finished_before: Finished | None
    found: Found | None = None
    finished: Finished | None = None
    packing: Counted = field(default_factory=Counted)
    store_ns: int = 0
    stopped: CdpError | None = None
