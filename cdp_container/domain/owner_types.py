"""What goes into the owner's step machine and what comes out of it. PURE: values only.

`owner.py` holds the rules. Whoever runs the machine carries out the effects in the order given and hands
every reply back as an event; the two sides share nothing but these values.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TypeAlias

from cdp_container.domain.end import End as End  # readers need it alone, and import little
from cdp_container.format.domain import EpochRecord, ObjectName, Owner, PlanName
from cdp_container.format.place import NOWHERE, Place


class Phase(enum.Enum):
    """How far a run has come towards owning the domain, and past it."""

    IDLE = "idle"
    READING = "reading"
    ELSEWHERE = "owned elsewhere"
    WATCHING = "waiting for a lease to pass"
    CLAIMING = "claiming"
    FINDING = "finding the end"
    RECORDING = "writing the epoch record"
    CHECKING = "reading the epoch record back"
    COUNTING = "looking for a higher epoch"
    ACTIVATING = "activating"
    ACTIVE = "active"
    RELEASING = "releasing"
    RELEASED = "released"
    FENCED = "fenced"
    REFUSED = "refused"


class Failure(enum.Enum):
    """Why a request to the store did not do what it was asked."""

    PRECONDITION = "412: another version"
    CONTENTION = "409: two at once, neither done"
    THROTTLED = "asked to slow down"
    UNKNOWN = "no answer, or one that does not say whether it was done"
    LOCAL = "never sent: the local note could not be made durable"
    LOST = "what was proven to be there is not there"


class Request(enum.Enum):
    """The one request on `domain/owner` that is in flight."""

    READ = "read"
    SWAP = "swap"
    PROOF = "proof"


@dataclass(frozen=True, slots=True)
class Claimant:
    """Who wants to own the domain. `instance` is 16 random bytes, one for each run; `domain` 16 bytes."""

    domain: bytes
    site: str
    instance: bytes
    lease_seconds: int
    operator: str
    reason: str
    software: str


@dataclass(frozen=True, slots=True)
class Moment:
    """What a step is given from outside: both clocks (nanoseconds) and 16 fresh random bytes."""

    boottime_ns: int
    wall_ns: int
    nonce: bytes


@dataclass(frozen=True, slots=True)
class Attempt:
    """A compare-and-swap that was sent: its nonce, and the boot-time clock before it was."""

    nonce: bytes
    began_ns: int


@dataclass(frozen=True, slots=True)
class Watch:
    """Another's lease, watched since `since_ns` of the boot-time clock: does it stand still?"""

    epoch: int
    renewals: int
    since_ns: int


# --- events ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Tick:
    """Time passed; nothing else happened."""


@dataclass(frozen=True, slots=True)
class Claim:
    """There is something to send, or the lease is due: this run wants an epoch."""


@dataclass(frozen=True, slots=True)
class TakeOver:
    """An operator wants this run to own a domain that another site may own.

    Attributes:
        forced: the (epoch, nonce) that the operator saw: no wait, but only from just that version.
        jump: epochs to leave out, where the store is a zone that may not know of the newest one.
        base: the cut to go on from; None is the newest. What is newer becomes a side branch.
        ledger: the one by which `base` was chosen: by a later one that cut may be retired.
        accept_loss: go on from the newest cut that is there where one that was proven is gone. The epoch
            record says what was lost.
    """

    forced: tuple[int, bytes] | None = None
    jump: int = 0
    base: Place | None = None
    ledger: ObjectName | None = None
    accept_loss: bool = False


@dataclass(frozen=True, slots=True)
class Activity:
    """There was a write: the domain is not idle."""


@dataclass(frozen=True, slots=True)
class Prove:
    """Every segment of this cut and of all earlier ones is acknowledged: is the epoch still ours?"""

    place: Place


@dataclass(frozen=True, slots=True)
class Release:
    """Everything is drained: give the domain up to a named site."""

    site: str


@dataclass(frozen=True, slots=True)
class Cancel:
    """Take back what was released, unless somebody has claimed it: a claim like any other."""


@dataclass(frozen=True, slots=True)
class Record:
    """Somebody was promised this cut: record it in `domain/owner` now, instead of at the next renewal."""

    place: Place


@dataclass(frozen=True, slots=True)
class Configure:
    """The configuration with this digest is in the container: `domain/owner` is to name it from now on."""

    config: bytes


@dataclass(frozen=True, slots=True)
class ChangePlan:
    """`domain/owner` is to name this plan and ledger: in `epoch` only, and where both are what they were."""

    epoch: int
    plan_before: PlanName | None
    ledger_before: ObjectName | None
    plan: PlanName | None
    ledger: ObjectName | None


@dataclass(frozen=True, slots=True)
class OwnerRead:
    """`domain/owner` as it stands."""

    owner: Owner
    tag: str


@dataclass(frozen=True, slots=True)
class OwnerUnchanged:
    """A conditional read: the object still has the tag that we know."""


@dataclass(frozen=True, slots=True)
class Swapped:
    """The compare-and-swap in flight was done."""

    tag: str


@dataclass(frozen=True, slots=True)
class OwnerFailed:
    """The request on `domain/owner` in flight failed."""

    failure: Failure
    why: str


@dataclass(frozen=True, slots=True)
class EndFound:
    """Where the epoch named by `FindEnd` ends."""

    end: End


@dataclass(frozen=True, slots=True)
class EpochWritten:
    """The epoch record was created."""


@dataclass(frozen=True, slots=True)
class EpochRead:
    """The epoch record as it stands, None where there is none."""

    record: EpochRecord | None


@dataclass(frozen=True, slots=True)
class EpochsCounted:
    """The highest epoch of which anything is in the container."""

    highest: int


@dataclass(frozen=True, slots=True)
class WorkFailed:
    """`FindEnd`, `WriteEpoch`, `ReadEpoch` or `CountEpochs` failed."""

    failure: Failure
    why: str


Event: TypeAlias = (
    Tick
    | Claim
    | TakeOver
    | Activity
    | Prove
    | Release
    | Cancel
    | Record
    | Configure
    | ChangePlan
    | OwnerRead
    | OwnerUnchanged
    | Swapped
    | OwnerFailed
    | EndFound
    | EpochWritten
    | EpochRead
    | EpochsCounted
    | WorkFailed
)


# --- effects ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class NoteNonces:
    """Make these durable in notes.json before the next effect is carried out; if that fails: LOCAL."""

    nonces: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class NoteFenced:
    """Make it durable that this site was overtaken."""

    why: str


@dataclass(frozen=True, slots=True)
class NoteReleasing:
    """Make it durable that everything is drained, and the domain may be given up from here on.

    Before the next effect is carried out; if that fails: LOCAL, as with `NoteNonces`.
    """

    site: str


@dataclass(frozen=True, slots=True)
class NoteReleased:
    """Make it durable that this site gave the domain up."""

    site: str


@dataclass(frozen=True, slots=True)
class NoteOwning:
    """Make it durable that this site has taken back what it gave up."""


@dataclass(frozen=True, slots=True)
class ReadOwner:
    """Read `domain/owner`, never from a cache; with a tag, only unless it still has it."""

    unless_tag: str | None


@dataclass(frozen=True, slots=True)
class SwapOwner:
    """Replace `domain/owner` if it still has this tag. Sent once: no retries below."""

    owner: Owner
    tag: str


@dataclass(frozen=True, slots=True)
class FindEnd:
    """Find where this epoch ends (`ends.find_end`), from a proven place, by the ledger in force."""

    epoch: int
    protected: Place
    ledger: ObjectName | None


@dataclass(frozen=True, slots=True)
class WriteEpoch:
    """Create the record of an epoch."""

    record: EpochRecord


@dataclass(frozen=True, slots=True)
class ReadEpoch:
    """Read the record of an epoch."""

    epoch: int


@dataclass(frozen=True, slots=True)
class CountEpochs:
    """Find the highest epoch in domain/epochs/ and log/ (`ends.highest_epoch`)."""


@dataclass(frozen=True, slots=True)
class Activated:
    """The epoch is ours: segments may be put from now on. `end` is what its base is made of."""

    record: EpochRecord
    end: End


@dataclass(frozen=True, slots=True)
class Proven:
    """After the last acknowledgement of this cut the epoch was still ours: the cut is protected."""

    place: Place


@dataclass(frozen=True, slots=True)
class Paused:
    """Not renewed for a whole lease: put nothing until `Resumed`."""


@dataclass(frozen=True, slots=True)
class Resumed:
    """Renewed again."""


@dataclass(frozen=True, slots=True)
class Elsewhere:
    """Somebody else owns the domain; we look again from time to time."""

    owner: Owner


@dataclass(frozen=True, slots=True)
class Waiting:
    """Another's lease is being watched; it has passed at `until_ns` of the boot-time clock."""

    owner: Owner
    until_ns: int


@dataclass(frozen=True, slots=True)
class Refused:
    """The takeover is denied, and this run is over; or a `Cancel` is, and the domain stays released."""

    owner: Owner
    why: str


@dataclass(frozen=True, slots=True)
class Fenced:
    """Overtaken for good: nothing may be written any more."""

    why: str


@dataclass(frozen=True, slots=True)
class Released:
    """The domain was given up. `owner`: as it stands, released or taken by another meanwhile."""

    owner: Owner


@dataclass(frozen=True, slots=True)
class Trouble:
    """Something failed that is tried again; to be shown."""

    what: str
    why: str


Effect: TypeAlias = (
    NoteNonces
    | NoteFenced
    | NoteReleasing
    | NoteReleased
    | NoteOwning
    | ReadOwner
    | SwapOwner
    | FindEnd
    | WriteEpoch
    | ReadEpoch
    | CountEpochs
    | Activated
    | Proven
    | Paused
    | Resumed
    | Elsewhere
    | Waiting
    | Refused
    | Fenced
    | Released
    | Trouble
)


# --- state -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class RunState:
    """Everything that the machine remembers between two steps.

    Attributes:
        claimant: who we are.
        known: nonces that notes.json recorded before this run: what shows one of them was written by this
            site. phase: how far we are. seen: `domain/owner` as last read or written by us; with its `tag`.
            attempts: swaps against `tag` whose outcome is not known; any one of them may still land. sent:
            what the last attempt would make of `domain/owner`. settle: whether `domain/owner` must be read
            back before anything else is decided. request: what is in flight on `domain/owner`. retry_at_ns:
            no request on `domain/owner` before this. failures: in a row, of such requests. epoch: the epoch
            that we claim or own. record: its record. end: where the epoch before ends. working: whether an
            effect that WorkFailed may answer is in flight. work_at_ns: none is begun before this.
            work_failures: in a row. renewed_ns: the boot-time clock before the last successful swap.
            active_ns: the boot-time clock at the last write. paused: the lease passed without a renewal.
            proven: the newest protected cut of ours. prove: the newest cut that a proof was asked for and not
            begun. proving: the cut that the proof in flight is for. release_to: the site that we release to,
            or that a run before this one was about to. cancel: what we gave up is to be ours again.
            promised: the newest cut that is to be recorded at once. config: the digest of the configuration
            that is to be in force, None where none was asked for. change: of plan and ledger, None once it is
            made, or cannot be. lost: what was proven is gone, and that was accepted: the end is looked for
            without it. overruled: an older object stands in the place of ours, which is written back.
            takeover: what an operator wants, None: only what is ours is claimed. watch: another's lease.
    """

    claimant: Claimant
    known: frozenset[bytes]
    phase: Phase = Phase.IDLE
    seen: Owner | None = None
    tag: str = ""
    attempts: tuple[Attempt, ...] = ()
    sent: Owner | None = None
    settle: bool = False
    request: Request | None = None
    retry_at_ns: int = 0
    failures: int = 0
    epoch: int = 0
    record: EpochRecord | None = None
    end: End | None = None
    working: bool = False
    work_at_ns: int = 0
    work_failures: int = 0
    renewed_ns: int = 0
    active_ns: int = 0
    paused: bool = False
    proven: Place = NOWHERE
    prove: Place | None = None
    proving: Place | None = None
    release_to: str = ""
    cancel: bool = False
    promised: Place = NOWHERE
    config: bytes | None = None
    change: ChangePlan | None = None
    takeover: TakeOver | None = None
    watch: Watch | None = None
    lost: bool = False
    overruled: bool = False
