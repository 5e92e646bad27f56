"""The owner's step machine on its way to an epoch, and in it: leases, proofs, records, the end."""

from __future__ import annotations

from dataclasses import replace

import pytest

from cdp_container.domain import owner
from cdp_container.domain.owner_lease import IDLE_LEASE_SECONDS
from cdp_container.domain.owner_types import (
    Activity,
    Claim,
    CountEpochs,
    Elsewhere,
    End,
    EndFound,
    EpochRead,
    EpochsCounted,
    Failure,
    FindEnd,
    NoteFenced,
    NoteNonces,
    OwnerFailed,
    OwnerRead,
    OwnerUnchanged,
    Paused,
    Prove,
    Proven,
    ReadEpoch,
    ReadOwner,
    Record,
    Resumed,
    SwapOwner,
    Swapped,
    Tick,
    Trouble,
    WorkFailed,
    WriteEpoch,
)
from cdp_container.format.domain import EpochRecord, Owner, OwnerState
from cdp_container.format.place import NOWHERE, Place
from tests.unit.domain.owner_play import (
    DOMAIN,
    END,
    INSTANCE,
    LEASE_SECONDS,
    LOST,
    NOTED,
    SECOND,
    Play,
    foreign,
    shown,
)

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


@pytest.mark.parametrize(("fenced", "released"), [(True, False), (False, True)])
def test_what_the_notes_forbid_stays_forbidden(fenced: bool, released: bool) -> None:
    play = Play()
    play.state = owner.begin(play.state.claimant, (NOTED,), fenced=fenced, released=released)
    assert play.on(Claim()) == ()


def test_the_first_owner_may_be_claimed_by_the_site_that_made_it() -> None:
    found = owner.first_owner(DOMAIN, "shop", "site-a", b"x" * 16, bytes(32), 30, 1)
    claim = Play(known=()).claiming(found).sent
    assert (claim.epoch, claim.previous, claim.protected) == (1, 0, NOWHERE)


# --- what was promised ---------------------------------------------------------------------------


def proven(play: Play) -> Place:
    place = Place(play.state.epoch, 3, 7)
    play.on(Prove(place))
    play.on(OwnerUnchanged())
    return place


def test_what_is_proven_waits_for_the_next_renewal_and_what_is_promised_does_not() -> None:
    play = Play().active()
    place = proven(play)
    assert not play.has(SwapOwner)
    assert not owner.is_recorded(play.state, place)
    play.on(Record(place))
    assert play.sent.protected == place
    play.on(Swapped("tag-9"))
    assert owner.is_recorded(play.state, place)
    assert not play.has(SwapOwner)


def test_a_record_that_failed_is_tried_again() -> None:
    play = Play().active()
    place = proven(play)
    play.on(Record(place))
    play.on(LOST)
    play.until_due()
    assert play.effects == (ReadOwner(None),)
    assert play.state.seen is not None
    play.on(OwnerRead(play.state.seen, play.state.tag))
    assert play.sent.protected == place


def test_what_stands_there_already_is_not_written_again() -> None:
    play = Play().active()
    assert play.on(Record(NOWHERE)) == ()
    assert owner.is_recorded(play.state, NOWHERE)
