"""What goes into the streamer's step machine and what comes out of it. PURE: values only.

`steps.py` holds the rules. Bytes never pass through here: a segment is its number and its digest.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, TypeAlias

from cdp_agent.streamer.fill_step_types import FillingLooked, Lacking
from cdp_agent.streamer.tree_step_types import SweepTrees, TreesLooked, TreesSwept
from cdp_container.format.place import NOWHERE, Place
from cdp_container.format.preamble import NO_DIGEST
from cdp_container.journal.position import NOWHERE as NO_POSITION
from cdp_container.journal.position import Position

CATALOG_SEGMENTS: Final = (8, 64, 256)
"""How many segments a catalog of each level bundles. A reader asks twice for a head outside of them, and once
for a catalog: all heads of the newest 256 segments are had by 24 requests at most, and by 12 on average."""


class PutOutcome(enum.Enum):
    """What came of putting a segment or catalog."""

    STORED = "stored, and these are our bytes"
    FOREIGN = "the key holds other bytes"
    THROTTLED = "asked to slow down, or not allowed now"
    UNKNOWN = "no answer, or one that does not say whether it was done"


@dataclass(frozen=True, slots=True)
class Pace:
    """What the administrator chose: `cadence_ns` between two cuts."""

    cadence_ns: int = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Asked:
    """Somebody waits until everything up to `target` is protected; a marker where `name` is not None.

    `seen_ns`: see `TailMoved`. `more`: of its record. Boot time: asked at `since_ns`, over by `until_ns`.
    `anyway`: a flush that does not wait for sources that are filled from outside.
    """

    ticket: int
    target: Position
    name: str | None = None
    note: str = ""
    application: bool = False
    seen_ns: int = 0
    more: Mapping[str, object] = field(default_factory=dict)
    until_ns: int = 0
    since_ns: int = 0
    anyway: bool = False


# --- events ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Tick:
    """Time passed."""


@dataclass(frozen=True, slots=True)
class EpochBegan:
    """The epoch is ours.

    Attributes:
        epoch: its number.
        base_digest: of the base cut's last segment.
        position: where capture resumes.
        taken_ns: what was acknowledged before this time of the wall clock lies below it.
        lacking: sources that are copied, in this order.
        announce: the container knows no space yet, so that a cut is worth taking without any write.
        copy_from: nothing is copied before all that lies below this position is in cuts.
        trees: ids of the trees of the domain; none of them is whole before the watcher gave something of it.
        filling: sources that are filled from outside; `filled`: those of them that the base cut lists.
    """

    epoch: int
    base_digest: bytes
    position: Position
    taken_ns: int
    lacking: tuple[int, ...]
    announce: bool
    copy_from: Position = NO_POSITION
    trees: tuple[bytes, ...] = ()
    filling: tuple[Lacking, ...] = ()
    filled: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class TailMoved:
    """The splitter published this tail, or it is still the newest one.

    `seen_ns`: the wall clock just before it was looked at. Whatever was acknowledged earlier is below the
    tail. `applied`: below it everything is on the disks; NOWHERE while they must not be copied.
    """

    tail: Position
    seen_ns: int = 0
    applied: Position = NO_POSITION


@dataclass(frozen=True, slots=True)
class VmsLooked:
    """Whether there is something to say of VMs that the container has not."""

    changed: bool


@dataclass(frozen=True, slots=True)
class AskedFor:
    """A marker or a flush; its target is the tail as published when it was asked for."""

    asked: Asked


@dataclass(frozen=True, slots=True)
class CutRead:
    """What `ReadCut` asked for was read and coalesced up to `position`; it may hold nothing at all.

    Attributes:
        position: a tail at or beyond it was told before.
        empty: it holds nothing.
        reached: it came all the way, and holds what the watcher gave.
        taken_ns: what was acknowledged before this time of the wall clock lies below `position`.
        lacking_trees: those that are not whole in it.
        waits: what the watcher gave waits for the cut that comes all the way.
        again: the watcher has more of what it was asked for.
        sweep: it has too much for a take, or failed: what is dirty is to be read at leisure first.
        refused: why its marker cannot name it, "" where it does.
    """

    position: Position
    empty: bool
    reached: bool
    taken_ns: int = 0
    lacking_trees: tuple[bytes, ...] = ()
    waits: bool = False
    again: bool = False
    sweep: bool = False
    refused: str = ""


@dataclass(frozen=True, slots=True)
class CopyEnded:
    """A round of copying was read to its end.

    Attributes:
        source: of which this was the last round; None if there is more of it.
        tail: as published after the last read.
        again_ns: the next round is not begun before this time of the boot-time clock.
    """

    source: int | None
    tail: Position
    again_ns: int


@dataclass(frozen=True, slots=True)
class SegmentSealed:
    """The next segment of the cut is ready to be put."""

    seq: int
    digest: bytes
    stored_bytes: int
    complete: bool


@dataclass(frozen=True, slots=True)
class PutEnded:
    """The put of a segment ended."""

    seq: int
    outcome: PutOutcome
    why: str = ""


@dataclass(frozen=True, slots=True)
class CutProven:
    """The owner proved that the epoch was ours after the last acknowledgement of this cut."""

    place: Place


@dataclass(frozen=True, slots=True)
class LeasePassed:
    """Put nothing until `LeaseBack`."""


@dataclass(frozen=True, slots=True)
class LeaseBack:
    """Putting may go on."""


@dataclass(frozen=True, slots=True)
class CatalogEnded:
    """The put of a catalog ended."""

    level: int
    number: int
    outcome: PutOutcome


Event: TypeAlias = (
    Tick
    | EpochBegan
    | TailMoved
    | TreesLooked
    | TreesSwept
    | VmsLooked
    | FillingLooked
    | AskedFor
    | CutRead
    | CopyEnded
    | SegmentSealed
    | PutEnded
    | CutProven
    | LeasePassed
    | LeaseBack
    | CatalogEnded
)


# --- effects ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ReadCut:
    """Read the journal between two positions and coalesce it.

    With `copy`, the source to be copied, read the next round of that instead; CopyEnded follows when it was
    read to its end. With `announce` record every space. Limits may end it before `to_position`: `CutRead`
    tells how far it came. `asked` names the cut only if it came all the way. What was acknowledged before
    `taken_ns` of the wall clock lies below `to_position`. With `trees` ask the watcher first: the cut then
    ends where writes were held, or once it was asked for; `swept`: it did a sweep just before, and a marker
    waits for no other. `lacking_trees` are not whole in a cut to which the watcher gives nothing. With
    `vms_due` there is news of VMs, which is worth a cut by itself.
    """

    cut: int
    from_position: Position
    to_position: Position
    taken_ns: int
    asked: tuple[Asked, ...]
    copy: int | None
    announce: bool
    trees: bool = False
    lacking_trees: tuple[bytes, ...] = ()
    swept: bool = False
    vms_due: bool = False


@dataclass(frozen=True, slots=True)
class SealSegment:
    """Seal the next segment of the cut that was read last. Reply: SegmentSealed.

    `lacking`, `lacking_trees`: sources that are not whole in this cut.
    """

    seq: int
    cut: int
    previous_digest: bytes
    position: Position
    lacking: tuple[int, ...]
    lacking_trees: tuple[bytes, ...] = ()


@dataclass(frozen=True, slots=True)
class PutSegment:
    """Put the bytes of a sealed segment, the same ones every time. Reply: PutEnded."""

    seq: int


@dataclass(frozen=True, slots=True)
class ForgetSegment:
    """The segment is stored: its bytes are not needed any more."""

    seq: int


@dataclass(frozen=True, slots=True)
class AskProof:
    """Every segment up to this cut is stored: ask the owner for a proof."""

    place: Place


@dataclass(frozen=True, slots=True)
class Protected:
    """The cut is protected: trim the journal below `position`. In it `lacking` sources are not copied wholly.

    `filled` ones are not whole, as they are filled from outside.
    `trees_ns`: what was done in trees before this time of the wall clock is in it; 0 where not all are whole.
    """

    place: Place
    position: Position
    lacking: tuple[int, ...]
    trees_ns: int = 0
    filled: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Answer:
    """Tell who asked: protected, in the cut at `place`."""

    ticket: int
    place: Place


@dataclass(frozen=True, slots=True)
class Fixed:
    """The instant that a marker names is over: whoever holds things still for it may let go."""

    ticket: int


@dataclass(frozen=True, slots=True)
class Refuse:
    """Tell who asked: there is no such marker."""

    ticket: int
    why: str


@dataclass(frozen=True, slots=True)
class WriteCatalog:
    """Bundle the heads of these segments. Reply: CatalogEnded."""

    level: int
    number: int
    first_seq: int
    last_seq: int


@dataclass(frozen=True, slots=True)
class Fence:
    """One of our keys holds bytes that are not ours: a cloned or reverted host. Never write again."""

    why: str


Effect: TypeAlias = (
    ReadCut
    | SweepTrees
    | SealSegment
    | PutSegment
    | ForgetSegment
    | AskProof
    | Protected
    | Answer
    | Fixed
    | Refuse
    | WriteCatalog
    | Fence
)


# --- state -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Flying:
    """A sealed segment that is not acknowledged, or whose cut is not sent yet."""

    seq: int
    cut: int
    digest: bytes
    stored_bytes: int
    complete: bool
    putting: bool = False
    stored: bool = False
    failures: int = 0
    retry_at_ns: int = 0


@dataclass(frozen=True, slots=True)
class CutFacts:
    """A cut that is not protected yet, see `Protected`. `place.seq` is 0 until its last segment is sealed."""

    place: Place
    position: Position
    lacking: tuple[int, ...]
    tickets: tuple[int, ...]
    lacking_trees: tuple[bytes, ...] = ()
    taken_ns: int = 0
    filled: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class StreamState:
    """Everything that the machine remembers between two steps.

    Attributes:
        pace: what was configured.
        epoch: 0 until it is ours.
        tail: the newest published tail.
        tail_seen_ns: the wall clock just before it was looked at.
        applied: below it everything is on the disks; NOWHERE while they must not be copied.
        position: up to which cuts were taken.
        taken_ns: what was acknowledged before this time of the wall clock lies below it.
        cut: number of the newest cut, or of the one that is being read.
        seq: number of the newest sealed segment.
        digest: of that segment, or of the base's last one.
        reading: a cut is being read.
        building: a cut was read, and not all of its segments are sealed.
        sealing: a segment is being sealed.
        more: the last cut ended at a limit: the next one is due at once.
        cut_at_ns: the next cut by cadence is not taken before this.
        asked: markers and flushes without a cut.
        taking: those that the cut being read may answer.
        trees: ids of the domain's trees.
        trees_ready, trees_changed: the watcher can be asked; there is something to be asked for.
        lacking_trees: those that are not whole in the newest cut, or were not when it was asked last.
        waits: what the watcher gave waits for the cut that comes to its position.
        sweep_due, sweeping: a sweep comes before the next take; the watcher was asked for it.
        sweep_given, swept: what it gave goes into the next cut; no take came since.
        vms_changed: there is something to say of VMs.
        fixed: markers and flushes that this cut answers.
        lacking: sources that are not whole yet; the first that is being copied has its turn.
        filling, filled: sources that are filled from outside; those that the newest cut lists for it.
        copying: a round is being read.
        copied_last: the newest cut was a round: the journal has its turn.
        copy_at_ns: the next round is not begun before this.
        announce: the spaces are not in the container yet.
        copy_from: nothing is copied, and no cut goes beyond it, before cuts have come here; then NOWHERE.
        flying: sealed segments that are not sent.
        cuts: cuts that are not protected, in order.
        sent: the newest cut whose segments, and all before them, are stored.
        proof_asked: the newest cut that a proof was asked for.
        protected: the newest protected cut.
        proven_position: its journal position.
        paused: the lease passed.
        fenced: never write again.
        slow_until_ns: the store asked for patience: no put begins before this.
        slow_failures: such answers in a row.
        catalogs: the last number of each level that was written or given up.
        catalog_busy: one is being written.
        catalog_failures: of the one to be written next.
        catalog_at_ns: it is not tried before this.
    """

    pace: Pace
    epoch: int = 0
    tail: Position = NO_POSITION
    tail_seen_ns: int = 0
    applied: Position = NO_POSITION
    position: Position = NO_POSITION
    taken_ns: int = 0
    cut: int = 0
    seq: int = 0
    digest: bytes = NO_DIGEST
    reading: bool = False
    building: bool = False
    sealing: bool = False
    more: bool = False
    cut_at_ns: int = 0
    asked: tuple[Asked, ...] = ()
    taking: tuple[Asked, ...] = ()
    trees: tuple[bytes, ...] = ()
    trees_ready: bool = False
    trees_changed: bool = False
    lacking_trees: tuple[bytes, ...] = ()
    waits: bool = False
    sweep_due: bool = False
    sweeping: bool = False
    sweep_given: bool = False
    swept: bool = False
    vms_changed: bool = False
    fixed: tuple[Asked, ...] = ()
    lacking: tuple[Lacking, ...] = ()
    filling: tuple[Lacking, ...] = ()
    filled: tuple[int, ...] = ()
    copying: bool = False
    copied_last: bool = False
    copy_at_ns: int = 0
    announce: bool = False
    copy_from: Position = NO_POSITION
    flying: tuple[Flying, ...] = ()
    cuts: tuple[CutFacts, ...] = ()
    sent: Place = NOWHERE
    proof_asked: Place = NOWHERE
    protected: Place = NOWHERE
    proven_position: Position = NO_POSITION
    paused: bool = False
    fenced: bool = False
    slow_until_ns: int = 0
    slow_failures: int = 0
    catalogs: tuple[int, ...] = (0,) * len(CATALOG_SEGMENTS)
    catalog_busy: bool = False
    catalog_failures: int = 0
    catalog_at_ns: int = 0
