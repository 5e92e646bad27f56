"""The owner's step machine: what it asks for, in which order, and what it makes of every bad answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

import pytest

from cdp_container.domain import owner
from cdp_container.domain.owner_lease import IDLE_LEASE_SECONDS, RETRY_MAX_NS, THROTTLED_MAX_NS
from cdp_container.domain.owner_types import (
    Activated,
    Activity,
    Claim,
    Claimant,
    CountEpochs,
    Effect,
    Elsewhere,
    End,
    EndFound,
    EpochRead,
    EpochsCounted,
    EpochWritten,
    Event,
    Failure,
    Fenced,
    FindEnd,
    Moment,
    NoteFenced,
    NoteNonces,
    NoteReleased,
    OwnerFailed,
    OwnerRead,
    OwnerUnchanged,
    Paused,
    Phase,
    Prove,
    Proven,
    ReadEpoch,
    ReadOwner,
    Release,
    Released,
    Resumed,
    RunState,
    SwapOwner,
    Swapped,
    Tick,
    Trouble,
    WorkFailed,
    WriteEpoch,
)
from cdp_container.format.domain import EpochRecord, Owner, OwnerState
from cdp_container.format.place import NOWHERE, Place

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
    return shown(nonce=b"f" * 16, site="site-b", instance=b"b" * 16, epoch=9, version=8, **changes)


@dataclass
class Play:
    """Drives the machine; `effects` are those of the last step."""

    known: Sequence[bytes] = (NOTED,)
    now_ns: int = 1000 * SECOND
    nonces: int = 0
    effects: tuple[Effect, ...] = ()
    state: RunState = field(init=False)

    def __post_init__(self) -> None:
        claimant = Claimant(DOMAIN, "site-a", INSTANCE, LEASE_SECONDS, "root", "run", "tests")
        self.state = owner.begin(claimant, self.known, fenced=False, released=False)

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
        assert self.effects == (FindEnd(4, Place(4, 8, 11)),)
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

    def renewing_claim(self) -> Play:
        """The claim is renewed while the end is looked for."""
        self.finding().on(Tick(), after_seconds=LEASE_SECONDS / 3)
        self.one(SwapOwner)
        return self


# --- the way to an epoch -------------------------------------------------------------------------


def test_a_claim_keeps_what_it_finds_and_names_the_last_active_epoch() -> None:
    claim = Play().claiming().sent
    assert (claim.epoch, claim.previous, claim.protected) == (5, 4, Place(4, 8, 11))
    assert (claim.version, claim.instance, claim.renewals, claim.site) == (6, INSTANCE, 0, "site-a")


def test_an_abandoned_claim_does_not_count_as_an_epoch() -> None:
    claim = Play().claiming(shown(state=OwnerState.CLAIMING, epoch=7, previous=4)).sent
    assert (claim.epoch, claim.previous) == (8, 4)


def test_the_record_says_where_the_epoch_before_ends() -> None:
    record = Play().recording().one(WriteEpoch).record
    assert (record.epoch, record.previous, record.base, record.end) == (5, 4, END.place, END.place)


def test_nonces_are_durable_before_they_are_sent() -> None:
    play = Play().claiming()
    kinds = [type(effect) for effect in play.effects]
    assert kinds.index(NoteNonces) < kinds.index(SwapOwner)
    assert set(play.one(NoteNonces).nonces) == {NOTED, play.sent.nonce}


def test_only_the_confirmed_nonce_and_open_attempts_stay_noted() -> None:
    play = Play().claiming()
    claimed = play.sent.nonce
    play.on(Swapped("tag-1"))
    play.on(Tick(), after_seconds=10)
    assert play.one(NoteNonces).nonces == (claimed, play.sent.nonce)


def test_nothing_is_asked_before_there_is_something_to_send() -> None:
    play = Play()
    assert play.on(Tick(), after_seconds=1000) == ()
    assert owner.due_ns(play.state) is None


def test_a_domain_released_to_this_site_is_claimed_without_a_known_nonce() -> None:
    found = shown(state=OwnerState.RELEASED, released_to="site-a", nonce=b"x" * 16)
    assert Play(known=()).claiming(found).sent.released_to is None


@pytest.mark.parametrize(
    "found",
    [
        foreign(),
        shown(nonce=b"x" * 16),  # our site's name alone proves nothing
        foreign(state=OwnerState.RELEASED, released_to="site-b"),
        foreign(state=OwnerState.CLAIMING, previous=4),
    ],
)
def test_what_is_not_ours_is_left_alone_and_looked_at_again(found: Owner) -> None:
    play = Play()
    play.on(Claim())
    for _ in range(5):
        assert play.on(OwnerRead(found, "tag")) == (Elsewhere(found),)
        assert play.on(Tick(), after_seconds=1) == ()
        play.until_due()
        assert play.effects == (ReadOwner(None),)
    play.on(OwnerRead(shown(), "tag"))
    assert play.sent.epoch == 5


def test_an_end_below_what_is_protected_is_refused() -> None:
    play = Play().finding()
    play.on(EndFound(End(Place(4, 8, 10), b"d" * 32)))
    assert "was proven to be there" in play.one(Trouble).why
    assert not play.has(WriteEpoch)
    play.until_due()
    assert play.has(FindEnd)


def test_the_end_is_looked_for_again_after_a_failure() -> None:
    play = Play().finding()
    play.on(WorkFailed(Failure.UNKNOWN, "no answer"))
    assert not play.has(FindEnd)
    play.until_due()
    play.one(FindEnd)


# --- swaps that go wrong ----------------------------------------------------------------------

STAGES = ["claiming", "renewing_claim", "activating", "renewing"]
HELD = STAGES[1:]


def at(stage: str) -> Play:
    play: Play = getattr(Play(), stage)()
    return play


def phase_after(stage: str) -> Phase:
    """Where the machine is once the swap of that stage is done."""
    following = {"claiming": Phase.FINDING, "renewing_claim": Phase.FINDING}
    return following.get(stage, Phase.ACTIVE)


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("failed", [LOST, REFUSED, OwnerFailed(Failure.THROTTLED, "503")])
def test_a_lost_reply_is_settled_by_our_own_nonce(stage: str, failed: OwnerFailed) -> None:
    play = at(stage)
    sent = play.sent
    play.on(failed)
    if not play.has(ReadOwner):
        play.until_due()
    assert play.effects[-1] == ReadOwner(None)
    play.on(OwnerRead(sent, "tag-x"))
    assert not play.has(SwapOwner)
    assert play.state.phase is phase_after(stage)
    assert (play.state.tag, play.state.attempts) == ("tag-x", ())


@pytest.mark.parametrize("stage", STAGES)
def test_the_old_version_proves_nothing_and_is_replaced_by_a_fresh_swap(stage: str) -> None:
    play = at(stage)
    first, tag = play.sent, play.one(SwapOwner).tag
    before = play.state.seen
    assert before is not None
    play.on(LOST)
    play.until_due()
    play.on(OwnerRead(before, tag))
    assert play.sent.nonce != first.nonce
    assert play.one(SwapOwner).tag == tag
    assert {first.nonce, play.sent.nonce} <= set(play.one(NoteNonces).nonces)


@pytest.mark.parametrize("stage", STAGES)
def test_a_late_first_attempt_that_beats_the_second_is_still_ours(stage: str) -> None:
    play = at(stage)
    first, tag = play.sent, play.one(SwapOwner).tag
    before = play.state.seen
    assert before is not None
    play.on(LOST)
    play.until_due()
    play.on(OwnerRead(before, tag))
    play.on(REFUSED)
    if not play.has(ReadOwner):
        play.until_due()
    play.on(OwnerRead(first, "tag-late"))
    assert not play.has(Fenced)
    assert play.state.phase is phase_after(stage)
    assert play.state.attempts == ()


@pytest.mark.parametrize("stage", HELD)
def test_a_foreign_version_fences_durably(stage: str) -> None:
    play = at(stage)
    play.on(REFUSED)
    play.on(OwnerRead(foreign(), "tag-f"))
    assert "site-b" in play.one(NoteFenced).why
    play.one(Fenced)
    assert play.on(Tick(), after_seconds=10_000) == ()
    assert owner.due_ns(play.state) is None
    assert not owner.may_put(play.state, play.now_ns)


def test_a_claim_that_came_second_is_decided_again() -> None:
    play = Play().claiming()
    play.on(REFUSED)
    play.on(OwnerRead(foreign(), "tag-f"))
    assert play.has(Elsewhere)
    assert not play.has(NoteFenced)


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("failure", [Failure.CONTENTION, Failure.LOCAL])
def test_what_was_certainly_not_done_is_tried_again_without_a_look(stage: str, failure: Failure) -> None:
    play = at(stage)
    first = play.sent
    play.on(OwnerFailed(failure, "not done"))
    assert play.effects == (Trouble("domain/owner", f"{failure.value}: not done"),)
    play.until_due()
    assert play.sent.nonce != first.nonce
    assert play.sent.state is first.state


@pytest.mark.parametrize(
    ("failure", "most_ns"), [(Failure.UNKNOWN, RETRY_MAX_NS), (Failure.THROTTLED, THROTTLED_MAX_NS)]
)
def test_back_off_grows_to_its_cap_and_no_further(failure: Failure, most_ns: int) -> None:
    play = Play()
    play.on(Claim())
    pauses = []
    for _ in range(60):
        play.on(OwnerFailed(failure, "away"))
        due_ns = owner.due_ns(play.state)
        assert due_ns is not None
        pauses.append(due_ns - play.now_ns)
        play.until_due()
        assert play.effects == (ReadOwner(None),)
    assert pauses == sorted(pauses)
    assert pauses[-1] == most_ns


def test_a_store_that_reads_but_does_not_write_is_not_hammered() -> None:
    play = Play().renewing()
    before, tag = play.state.seen, play.state.tag
    assert before is not None
    began_ns = play.now_ns
    for _ in range(20):
        play.on(LOST)
        while not play.has(ReadOwner):
            play.until_due()
        play.on(OwnerRead(before, tag))
        play.one(SwapOwner)
    assert play.now_ns - began_ns > 100 * SECOND


# --- the epoch record ----------------------------------------------------------------------------


def test_an_epoch_record_that_is_there_already_may_be_ours() -> None:
    play = Play().recording()
    record = play.one(WriteEpoch).record
    play.on(WorkFailed(Failure.PRECONDITION, "412"))
    assert play.has(ReadEpoch)
    play.on(EpochRead(record))
    assert play.sent.state is OwnerState.ACTIVE


def test_the_same_record_is_written_again_where_none_is_found() -> None:
    play = Play().recording()
    record = play.one(WriteEpoch).record
    play.on(WorkFailed(Failure.UNKNOWN, "no answer"))
    play.until_due()
    assert play.has(ReadEpoch)
    play.on(EpochRead(None))
    assert play.one(WriteEpoch).record == record


def test_somebody_elses_record_means_a_higher_claim() -> None:
    play = Play().recording()
    record = play.one(WriteEpoch).record
    play.on(WorkFailed(Failure.PRECONDITION, "412"))
    play.on(EpochRead(replace(record, instance=b"z" * 16)))
    assert play.has(CountEpochs)
    play.on(EpochsCounted(41))
    assert (play.sent.epoch, play.sent.previous, play.sent.state) == (42, 4, OwnerState.CLAIMING)
    play.on(Swapped("tag-h"))
    higher: EpochRecord = play.one(WriteEpoch).record
    assert (higher.epoch, higher.previous, higher.end) == (42, 4, END.place)


def test_an_unread_record_is_asked_for_again() -> None:
    play = Play().recording()
    play.on(WorkFailed(Failure.UNKNOWN, "no answer"))
    play.until_due()
    play.on(WorkFailed(Failure.UNKNOWN, "no answer"))
    assert not play.has(WriteEpoch)
    play.until_due()
    assert play.has(ReadEpoch)


# --- leases ------------------------------------------------------------------------------------


def test_a_lease_is_renewed_at_its_third_and_says_what_is_protected() -> None:
    play = Play().active()
    play.on(Prove(Place(5, 1, 1)))
    play.on(OwnerUnchanged())
    assert play.on(Tick(), after_seconds=9.9) == ()
    play.on(Tick(), after_seconds=0.1)
    assert (play.sent.renewals, play.sent.protected) == (2, Place(5, 1, 1))


def test_a_lease_that_passes_pauses_and_a_renewal_resumes() -> None:
    play = Play().renewing()
    play.on(LOST)
    while not play.has(Paused):
        assert owner.may_put(play.state, play.now_ns)
        play.until_due()
        if play.has(ReadOwner):
            play.on(OwnerFailed(Failure.UNKNOWN, "away"))
    assert not owner.may_put(play.state, play.now_ns)
    before = play.state.seen
    assert before is not None
    while not play.has(ReadOwner):
        play.until_due()
    play.on(OwnerRead(before, play.state.tag))
    play.on(Swapped("tag-r"))
    assert play.has(Resumed)
    assert owner.may_put(play.state, play.now_ns)


def test_the_lease_counts_from_before_the_renewal_that_was_done() -> None:
    play = Play().renewing()
    play.on(Swapped("tag-r"), after_seconds=25)
    assert owner.may_put(play.state, play.now_ns + 5 * SECOND)
    assert not owner.may_put(play.state, play.now_ns + 6 * SECOND)


def test_a_machine_that_slept_pauses_before_it_asks_anything() -> None:
    play = Play().active()
    assert not owner.may_put(play.state, play.now_ns + 3600 * SECOND)
    play.on(Tick(), after_seconds=3600)
    assert isinstance(play.effects[0], Paused)
    play.one(SwapOwner)


def test_an_idle_domain_is_renewed_rarely_until_the_next_write() -> None:
    play = Play().active()
    for _ in range(40):
        if play.has(SwapOwner):
            play.on(Swapped("tag-i"))
        play.until_due()
        if play.sent.lease_seconds == IDLE_LEASE_SECONDS:
            break
    play.on(Swapped("tag-idle"))
    assert play.on(Tick(), after_seconds=299) == ()
    play.on(Activity())
    assert play.sent.lease_seconds == LEASE_SECONDS


# --- proofs ------------------------------------------------------------------------------------


def test_a_proof_is_a_read_that_begins_after_it_was_asked_for() -> None:
    play = Play().active()
    assert play.on(Prove(Place(5, 1, 1))) == (ReadOwner("tag-2"),)
    assert play.on(Prove(Place(5, 2, 3))) == ()
    assert play.on(OwnerUnchanged()) == (Proven(Place(5, 1, 1)), ReadOwner("tag-2"))
    assert play.on(OwnerUnchanged()) == (Proven(Place(5, 2, 3)),)


def test_a_proof_waits_for_a_swap_that_is_not_settled() -> None:
    play = Play().renewing()
    sent = play.sent
    assert play.on(Prove(Place(5, 1, 1))) == ()
    play.on(LOST)
    play.until_due()
    assert play.effects == (ReadOwner(None),)
    assert play.on(OwnerRead(sent, "tag-r")) == (ReadOwner("tag-r"),)
    assert play.on(OwnerUnchanged()) == (Proven(Place(5, 1, 1)),)


def test_a_proof_without_an_answer_is_asked_for_again() -> None:
    play = Play().active()
    play.on(Prove(Place(5, 1, 1)))
    play.on(OwnerFailed(Failure.UNKNOWN, "no answer"))
    assert not play.has(Proven)
    play.until_due()
    assert play.effects == (ReadOwner("tag-2"),)


def test_a_proof_that_meets_another_owner_fences() -> None:
    play = Play().active()
    play.on(Prove(Place(5, 1, 1)))
    play.on(OwnerRead(foreign(), "tag-f"))
    assert not play.has(Proven)
    play.one(NoteFenced)


def test_a_cloned_image_under_our_own_epoch_is_foreign() -> None:
    play = Play().active()
    assert play.state.seen is not None
    clone = replace(play.state.seen, nonce=b"c" * 16)
    play.on(Prove(Place(5, 1, 1)))
    play.on(OwnerRead(clone, "tag-c"))
    play.one(NoteFenced)


def test_no_proof_is_begun_before_the_epoch_is_ours() -> None:
    play = Play().activating()
    play.on(Prove(Place(5, 1, 1)))
    assert not play.has(ReadOwner)


# --- the end -------------------------------------------------------------------------------------


def test_a_release_is_durable_and_final() -> None:
    play = Play().active()
    play.on(Release("site-b"))
    assert (play.sent.state, play.sent.released_to) == (OwnerState.RELEASED, "site-b")
    play.on(Swapped("tag-r"))
    assert play.effects == (NoteReleased("site-b"), Released())
    assert play.on(Tick(), after_seconds=1000) == ()


@pytest.mark.parametrize(("fenced", "released"), [(True, False), (False, True)])
def test_what_the_notes_forbid_stays_forbidden(fenced: bool, released: bool) -> None:
    play = Play()
    play.state = owner.begin(play.state.claimant, (NOTED,), fenced=fenced, released=released)
    assert play.on(Claim()) == ()


def test_the_first_owner_may_be_claimed_by_the_site_that_made_it() -> None:
    found = owner.first_owner(DOMAIN, "shop", "site-a", b"x" * 16, bytes(32), 30, 1)
    claim = Play(known=()).claiming(found).sent
    assert (claim.epoch, claim.previous, claim.protected) == (1, 0, NOWHERE)
