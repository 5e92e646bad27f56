"""What must hold at any moment of a story: told from what landed and was promised, not by the machine."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cdp_container.domain import history
from cdp_container.domain.history import History
from cdp_container.domain.owner_types import Phase
from cdp_container.format.domain import (
    EpochRecord,
    Owner,
    OwnerState,
    config_digest,
    parse_epoch_record,
    parse_owner,
)
from cdp_container.format.keys import OWNER_KEY, KeyKind, parse_key, segment_key
from cdp_container.format.place import NOWHERE, Place
from cdp_container.format.preamble import parse_preamble
from cdp_container.store.api import Store
from tests.sim.owners.site import configuration

if TYPE_CHECKING:
    from tests.sim.owners.site import Process
    from tests.sim.owners.world import World


class OwnersFailure(AssertionError):
    """A promise was broken."""


class Checks:
    """See the module.

    Attributes:
        promised: every cut that was called protected.
        complete: every complete cut that ever landed, in that order.
        active: the epochs that ever were active in `domain/owner`, oldest first.
        lost: keys that the simulation destroyed.
        store: what readers read.
        wishes: the older cut that the operator of each run chose, by instance.
    """

    def __init__(self, world: World) -> None:
        self._world = world
        self.store: Store = world.store.inner
        self.promised: dict[Place, None] = {}
        self.complete: list[Place] = []
        self.active: list[int] = []
        self.lost: set[str] = set()
        self.wishes: dict[bytes, Place] = {}
        self._owners: dict[int, bytes] = {}
        self._config: bytes | None = None
        self._records: dict[int, EpochRecord] = {}
        self._bases: dict[int, Place] = {}
        self._bytes: dict[str, bytes] = {}

    def follow(self, other: Checks) -> None:
        """A copy of the domain is what these are of: all that was promised there so far holds here, too."""
        self.promised, self.complete = dict(other.promised), list(other.complete)
        self.active, self._records = list(other.active), dict(other._records)
        self._bases, self._bytes = dict(other._bases), dict(other._bytes)

    def must(self, condition: bool, why: str) -> None:
        if not condition:
            raise OwnersFailure(f"after {self._world.time.now_ns / 1e9 - 1000:.1f} s: {why}")

    # --- what happened -----------------------------------------------------------------------------

    def landed(self, key: str, data: bytes) -> None:
        """A write is done."""
        parsed = parse_key(key)
        assert parsed is not None, key
        if key == OWNER_KEY:
            owner = parse_owner(data, key, self._world.domain)
            if owner.state is OwnerState.ACTIVE and owner.epoch not in self.active:
                self.must(not self.active or owner.epoch > self.active[-1], f"epoch {owner.epoch} came late")
                self.active.append(owner.epoch)
            if owner.state is OwnerState.RELEASED:
                self._check_released(owner)
            self._check_config(owner)
        elif parsed.kind is KeyKind.EPOCH_RECORD:
            self._record(parse_epoch_record(data, key, self._world.domain))
        elif parsed.kind is KeyKind.SEGMENT:
            self._segment(key, data)

    def _check_config(self, owner: Owner) -> None:
        """Only who owns changes the configuration, and only to what it wants (see `configuration`)."""
        is_new = self._config is not None and owner.config != self._config
        wanted = config_digest(configuration(owner.domain, owner.epoch))
        own = owner.state is OwnerState.ACTIVE and owner.config == wanted
        self.must(not is_new or own, f"another configuration with epoch {owner.epoch}, {owner.state.value}")
        self._config = owner.config

    def _check_released(self, owner: Owner) -> None:
        for site in self._world.sites:
            process = site.process
            mine = process is not None and owner.nonce in process.sent
            active = process is not None and process.state.phase is Phase.ACTIVE
            self.must(
                not (mine and active), "a release landed after its site had thought it lost and gone on"
            )

    def _record(self, record: EpochRecord) -> None:
        self._records[record.epoch] = record
        chosen = self.wishes.pop(record.instance, None)  # a run that cancels its release claims once more
        self.must(record.base == (chosen or record.end), f"{chosen} was chosen, {record.base} is the base")
        if record.base != record.end:
            self._bases[record.epoch] = record.base

    def _segment(self, key: str, data: bytes) -> None:
        preamble = parse_preamble(data, key)
        place = preamble.place
        end = self.ends().get(place.epoch)
        again = self._bytes.setdefault(key, data) == data and key in self.lost
        within = end is not None and end.epoch == place.epoch and place.seq <= end.seq
        self.must(not within or again, f"a zombie's {key} landed within the end {end}")
        if preamble.complete:
            self.complete.append(place)

    def ends(self) -> dict[int, Place]:
        """Where each epoch ended, of those that did."""
        records = [self._records[epoch] for epoch in self.active]
        return {record.previous: record.end for record in records if record.previous}

    def activated(self, process: Process, record: EpochRecord) -> None:
        """A run was told that an epoch is its own."""
        instance = self._owners.setdefault(record.epoch, process.state.claimant.instance)
        self.must(instance == process.state.claimant.instance, f"two runs own epoch {record.epoch}")
        final = self._world.final.get(record.previous)
        if final and not self._is_lossy():
            self.must(record.end >= final, f"a handover lost what came after {record.end}: {final}")
        wish = process.state.takeover
        jumped = wish is not None and wish.jump > 0
        self.must(
            record.unsynchronised == jumped, f"epoch {record.epoch} does not say whether zones were in touch"
        )

    def proven(self, process: Process, place: Place) -> None:
        """A cut was called protected: after a look at `domain/owner` as this very process left it."""
        self.must(process.looked in process.sent, f"{place} was proven by what another process wrote")
        self.promised[place] = None

    # --- what a reader sees ------------------------------------------------------------------------

    def check(self, thorough: bool = False) -> None:
        """Read the container as any reader does, and compare."""
        seen = history.read_history(self.store)
        self.must(seen.lost is None or self._is_lossy(), f"what was proven is lost: {seen.lost}")
        counted = list(seen.spans)
        self.must(counted == self.active, f"epochs {counted} count, and {self.active} were active")
        for epoch, end in self.ends().items():
            here = end if end.epoch == epoch else NOWHERE
            self.must(seen.spans[epoch].end == here, f"epoch {epoch} ended at {here}, and shows otherwise")
        branch = seen.branch_of(seen.newest)
        for place in self.promised:
            self._check_kept(place, seen, branch)
        for epoch, base in self._bases.items():
            beyond = [other for other, seq in branch.items() if _is_beyond(other, seq, base, epoch)]
            self.must(epoch not in branch or not beyond, f"{beyond} show beyond the chosen base {base}")
        if thorough:
            self._check_bytes(seen)

    def _check_kept(self, place: Place, seen: History, branch: dict[int, int]) -> None:
        span = seen.spans[place.epoch]
        later = [record for epoch, record in self._records.items() if epoch in self.active]
        if place > span.end:
            told = any("lost:" in record.reason for record in later if record.previous == place.epoch)
            gone = any(segment_key(place.epoch, seq) in self.lost for seq in range(1, place.seq + 1))
            self.must(told or gone, f"{place} was protected, and the end is {span.end}")
            return
        if place.seq > branch.get(place.epoch, 0) and not (self._is_lossy() and seen.lost):
            chosen = [epoch for epoch, base in self._bases.items() if epoch > place.epoch and base < place]
            lost = [record for record in later if "lost:" in record.reason and record.epoch > place.epoch]
            self.must(bool(chosen or lost), f"{place} was protected, and is not in the newest cut's image")

    def _check_bytes(self, seen: History) -> None:
        """What counts is there, and has never been anything else."""
        for epoch, span in seen.spans.items():
            for seq in range(1, span.end.seq + 1):
                key = segment_key(epoch, seq)
                if key not in self.lost:
                    same = self.store.get(key).data == self._bytes[key]
                    self.must(same, f"{key} was another")

    def _is_lossy(self) -> bool:
        return bool(self.lost)


def _is_beyond(epoch: int, seq: int, base: Place, of: int) -> bool:
    """Whether a branch of epoch `of`, which starts at `base`, shows more than it should."""
    if epoch >= of:
        return False
    return epoch > base.epoch or (epoch == base.epoch and seq > base.seq)
