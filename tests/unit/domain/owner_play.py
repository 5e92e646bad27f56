"""Drives the owner's step machine for tests, from stage to stage."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

from cdp_container.domain import owner
from cdp_container.domain.owner_types import (
    Activated,
    Claim,
    Claimant,
    Effect,
    End,
    EndFound,
    EpochWritten,
    Event,
    Failure,
    FindEnd,
    Moment,
    OwnerFailed,
    OwnerRead,
    ReadOwner,
    Release,
    RunState,
    SwapOwner,
    Swapped,
    Tick,
    WriteEpoch,
)
from cdp_container.format.domain import Owner, OwnerState
from cdp_container.format.place import Place

SECOND = 1_000_000_000
DOMAIN = bytes(16)
INSTANCE = b"i" * 16
NOTED = b"n" * 16
LEASE_SECONDS = 30
LOST = OwnerFailed(Failure.UNKNOWN, "the reply was lost")
REFUSED = OwnerFailed(Failure.PRECONDITION, "412")
END = End(Place(4, 9, 12), b"d" * 32)

EffectT = TypeVar("EffectT")


def shown(**changes: object) -> Owner:
    """`domain/owner` as an earlier run of this site left it."""
    owned = Owner(
        domain=DOMAIN,
        name="shop",
        version=5,
        nonce=NOTED,
        site="site-a",
        instance=b"o" * 16,
        epoch=4,
        state=OwnerState.ACTIVE,
        previous=3,
        since_ns=1,
        renewals=7,
        lease_seconds=LEASE_SECONDS,
        config=bytes(32),
        protected=Place(4, 8, 11),
    )
    return replace(owned, **changes)  # type: ignore[arg-type]  # the tests name them


def foreign(**changes: object) -> Owner:
    """What another site wrote."""
    theirs: dict[str, object] = {"nonce": b"f" * 16, "site": "site-b", "instance": b"b" * 16, "epoch": 9}
    return shown(**{**theirs, "version": 8, **changes})


@dataclass
class Play:
    """Drives the machine; `effects` are those of the last step."""

    known: Sequence[bytes] = (NOTED,)
    now_ns: int = 1000 * SECOND
    nonces: int = 0
    effects: tuple[Effect, ...] = ()
    released: bool = False
    releasing_to: str = ""
    state: RunState = field(init=False)

    def __post_init__(self) -> None:
        claimant = Claimant(DOMAIN, "site-a", INSTANCE, LEASE_SECONDS, "root", "run", "tests")
        self.state = owner.begin(claimant, self.known, False, self.released, self.releasing_to)

    def on(self, event: Event, after_seconds: float = 0.0) -> tuple[Effect, ...]:
        self.now_ns += int(after_seconds * SECOND)
        self.nonces += 1
        moment = Moment(self.now_ns, 7, self.nonces.to_bytes(16, "big"))
        self.state, self.effects = owner.step(self.state, event, moment)
        return self.effects

    def one(self, kind: type[EffectT]) -> EffectT:
        """The one effect of this kind."""
        found = [effect for effect in self.effects if isinstance(effect, kind)]
        assert len(found) == 1, self.effects
        return found[0]

    def has(self, kind: type) -> bool:
        return any(isinstance(effect, kind) for effect in self.effects)

    def until_due(self) -> None:
        """Let time pass until the machine wants to be woken, and wake it."""
        due_ns = owner.due_ns(self.state)
        assert due_ns is not None
        self.now_ns = max(self.now_ns, due_ns)
        self.on(Tick())

    @property
    def sent(self) -> Owner:
        return self.one(SwapOwner).owner

    # --- stages --------------------------------------------------------------------------------

    def claiming(self, found: Owner | None = None) -> Play:
        """The claim is sent."""
        self.on(Claim())
        assert self.effects == (ReadOwner(None),)
        self.on(OwnerRead(found or shown(), "tag-0"))
        assert self.sent.state is OwnerState.CLAIMING
        return self

    def finding(self) -> Play:
        """The claim is done, the end is looked for."""
        self.claiming().on(Swapped("tag-1"))
        assert self.effects == (FindEnd(4, Place(4, 8, 11), None),)
        return self

    def recording(self) -> Play:
        """The epoch record is being written."""
        self.finding().on(EndFound(END))
        self.one(WriteEpoch)
        return self

    def activating(self) -> Play:
        """The second swap is sent."""
        self.recording().on(EpochWritten())
        assert self.sent.state is OwnerState.ACTIVE
        return self

    def active(self) -> Play:
        """The epoch is ours."""
        self.activating().on(Swapped("tag-2"))
        self.one(Activated)
        return self

    def renewing(self) -> Play:
        """A renewal is sent."""
        self.active().on(Tick(), after_seconds=LEASE_SECONDS / 3)
        self.one(SwapOwner)
        return self

    def releasing(self) -> Play:
        """The release is sent."""
        self.active().on(Release("site-b"))
        assert self.sent.state is OwnerState.RELEASED
        return self

    def renewing_claim(self) -> Play:
        """The claim is renewed while the end is looked for."""
        self.finding().on(Tick(), after_seconds=LEASE_SECONDS / 3)
        self.one(SwapOwner)
        return self
