"""Taking the domain of another site: after its lease, by force, or not at all."""

from __future__ import annotations

import pytest

from cdp_container.domain import owner
from cdp_container.domain.owner_takeover import RELEASE_SECONDS
from cdp_container.domain.owner_types import (
    Activated,
    End,
    EndFound,
    EpochWritten,
    Failure,
    FindEnd,
    NoteFenced,
    NoteNonces,
    OwnerFailed,
    OwnerRead,
    Phase,
    ReadOwner,
    Refused,
    SwapOwner,
    Swapped,
    TakeOver,
    Tick,
    Waiting,
    WorkFailed,
    WriteEpoch,
)
from cdp_container.format.domain import ObjectName, Owner, OwnerState
from cdp_container.format.keys import ledger_key
from cdp_container.format.place import NOWHERE, Place
from tests.unit.domain.owner_play import END, LEASE_SECONDS, LOST, REFUSED, Play, foreign, shown

THEIRS = foreign()
BY_FORCE = TakeOver(forced=(THEIRS.epoch, THEIRS.nonce))


def asked(wish: TakeOver = TakeOver(), found: Owner = THEIRS) -> Play:  # noqa: B008 (a value)
    """A site that holds nothing wants the domain, and has looked at it once."""
    play = Play(known=())
    assert play.on(wish) == (ReadOwner(None),)
    play.on(OwnerRead(found, "tag-0"))
    return play


def watched_for(play: Play, seconds: float, found: Owner = THEIRS) -> Play:
    """Look again whenever the machine wants to, until the time is over or it does something else."""
    until_ns = play.now_ns + int(seconds * 10**9)
    while play.state.phase is Phase.WATCHING:
        due_ns = owner.due_ns(play.state)
        assert due_ns is not None
        if due_ns > until_ns:
            break
        play.until_due()
        assert play.effects == (ReadOwner(None),)
        play.on(OwnerRead(found, "tag-0"))
    return play


# --- denied --------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", [OwnerState.ACTIVE, OwnerState.CLAIMING])
def test_no_other_domain_is_claimed_before_its_lease_has_passed(state: OwnerState) -> None:
    found = foreign(state=state)
    play = asked(found=found)
    assert play.one(Waiting).until_ns == play.now_ns + LEASE_SECONDS * 10**9
    watched_for(play, LEASE_SECONDS, found)
    assert play.state.phase is Phase.WATCHING
    assert not play.has(SwapOwner)


@pytest.mark.parametrize("lease_seconds", [LEASE_SECONDS, 900])
def test_what_was_released_to_another_is_theirs_for_ten_minutes(lease_seconds: int) -> None:
    found = foreign(state=OwnerState.RELEASED, released_to="site-c", lease_seconds=lease_seconds)
    play = asked(found=found)
    assert play.one(Waiting).until_ns == play.now_ns + RELEASE_SECONDS * 10**9
    watched_for(play, RELEASE_SECONDS, found)
    assert play.state.phase is Phase.WATCHING
    watched_for(play, 1, found)
    assert play.sent.state is OwnerState.CLAIMING


def test_a_release_meanwhile_denies_it_too() -> None:
    play = watched_for(asked(), LEASE_SECONDS - 1)
    play.until_due()
    play.on(OwnerRead(foreign(renewals=8, state=OwnerState.RELEASED, released_to="site-c"), "tag-1"))
    assert play.has(Refused)


def test_a_renewal_meanwhile_denies_it_for_good() -> None:
    play = watched_for(asked(), LEASE_SECONDS - 1)
    play.until_due()
    play.on(OwnerRead(foreign(renewals=8), "tag-1"))
    assert "renewed" in play.one(Refused).why
    assert play.on(Tick(), after_seconds=10 * LEASE_SECONDS) == ()
    assert owner.due_ns(play.state) is None


def test_another_challenger_that_was_quicker_denies_it() -> None:
    play = watched_for(asked(), LEASE_SECONDS - 1)
    play.until_due()
    play.on(OwnerRead(foreign(renewals=0, state=OwnerState.CLAIMING, previous=9), "tag-1"))
    assert play.has(Refused)


def test_a_claim_that_the_owner_was_quicker_than_is_not_repeated() -> None:
    play = asked(BY_FORCE)
    assert play.has(SwapOwner)
    play.on(REFUSED)
    assert play.effects[-1] == ReadOwner(None)
    play.on(OwnerRead(foreign(renewals=8, nonce=b"g" * 16), "tag-1"))
    assert play.has(Refused)


def test_force_takes_only_the_version_that_the_operator_saw() -> None:
    for forced in ((9, b"x" * 16), (8, THEIRS.nonce)):
        play = asked(TakeOver(forced=forced))
        assert "changed since" in play.one(Refused).why
        assert play.one(Refused).owner == THEIRS


def test_no_cut_is_gone_on_from_that_a_later_ledger_may_have_retired() -> None:
    """Found by the model of collection: the plan executed between the choice and the claim."""
    ledger = ObjectName(ledger_key(9, 1), b"l" * 32)
    base = Place(8, 1, 1)
    assert "the cut was chosen" in asked(TakeOver(BY_FORCE.forced, base=base, ledger=ledger)).one(Refused).why
    found = foreign(ledger=ledger)
    assert "the cut was chosen" in asked(TakeOver(BY_FORCE.forced, base=base), found).one(Refused).why
    assert asked(TakeOver(BY_FORCE.forced, base=base, ledger=ledger), found).has(SwapOwner)
    assert asked(BY_FORCE, found).has(SwapOwner), "the newest cut is never retired"


def test_the_idle_owners_long_lease_is_waited_for_in_full() -> None:
    found = foreign(lease_seconds=900)
    play = watched_for(asked(found=found), 899, found)
    assert play.state.phase is Phase.WATCHING
    watched_for(play, 10, found)
    assert play.sent.state is OwnerState.CLAIMING


def test_looks_that_fail_do_not_shorten_the_wait() -> None:
    play = asked()
    play.until_due()
    play.on(OwnerFailed(Failure.UNKNOWN, "no answer"), after_seconds=2 * LEASE_SECONDS)
    assert not play.has(SwapOwner), "nobody knows what became of the owner meanwhile"
    play.until_due()
    play.on(OwnerRead(foreign(renewals=9), "tag-1"))
    assert play.has(Refused)


# --- granted -------------------------------------------------------------------------------------


def test_a_lease_that_stood_still_for_its_whole_length_is_taken_over() -> None:
    play = watched_for(asked(), LEASE_SECONDS + 1)
    claim = play.sent
    assert (claim.epoch, claim.previous, claim.site, claim.renewals) == (10, 9, "site-a", 0)
    assert claim.protected == THEIRS.protected, "what was proven stays proven"
    assert play.has(NoteNonces)


def test_force_does_not_wait() -> None:
    assert asked(BY_FORCE).sent.state is OwnerState.CLAIMING


def test_what_was_released_to_us_is_taken_at_once() -> None:
    found = foreign(state=OwnerState.RELEASED, released_to="site-a")
    assert asked(found=found).sent.epoch == 10


def test_an_abandoned_claim_is_taken_over_and_keeps_the_last_active_epoch() -> None:
    found = foreign(state=OwnerState.CLAIMING, previous=4)
    assert watched_for(asked(found=found), LEASE_SECONDS + 1, found).sent.previous == 4


def test_the_way_to_the_epoch_is_that_of_every_claim() -> None:
    play = asked(BY_FORCE)
    play.on(Swapped("tag-1"))
    assert play.effects == (FindEnd(9, Place(4, 8, 11), None),)
    play.on(EndFound(END))
    assert play.one(WriteEpoch).record.base == END.place
    play.on(EpochWritten())
    play.on(Swapped("tag-2"))
    assert play.one(Activated).record.epoch == 10


def test_an_older_cut_makes_a_side_branch_of_what_is_newer() -> None:
    play = asked(TakeOver(forced=BY_FORCE.forced, base=Place(4, 3, 2)))
    play.on(Swapped("tag-1"))
    play.on(EndFound(END))
    record = play.one(WriteEpoch).record
    assert (record.base, record.end) == (Place(4, 3, 2), END.place)


def test_a_base_beyond_the_end_is_refused() -> None:
    """What was chosen is not there any more, or never was."""
    play = asked(TakeOver(forced=BY_FORCE.forced, base=Place(4, 10, 13)))
    play.on(Swapped("tag-1"))
    play.on(EndFound(END))
    assert not play.has(WriteEpoch)


def test_a_takeover_in_another_zone_jumps_and_says_so() -> None:
    play = asked(TakeOver(forced=BY_FORCE.forced, jump=1000))
    assert play.sent.epoch == 1010
    play.on(Swapped("tag-1"))
    play.on(EndFound(END))
    assert play.one(WriteEpoch).record.unsynchronised


@pytest.mark.parametrize(
    "found", [shown(), foreign(state=OwnerState.RELEASED, released_to="site-a")], ids=["ours", "given to us"]
)
def test_a_takeover_in_another_zone_jumps_over_what_is_ours_there_too(found: Owner) -> None:
    # It may be old: at home somebody may have claimed the next epoch since, and two would have its number.
    play = Play()
    play.on(TakeOver(forced=BY_FORCE.forced, jump=1000))
    play.on(OwnerRead(found, "tag-0"))
    assert play.sent.epoch == found.epoch + 1001


def test_a_reply_that_was_lost_is_settled_before_anything_else() -> None:
    play = asked(BY_FORCE)
    claim = play.sent
    play.on(LOST)
    play.until_due()
    assert play.effects == (ReadOwner(None),)
    play.on(OwnerRead(claim, "tag-1"))
    assert play.has(FindEnd)


def test_who_is_overtaken_in_the_middle_of_a_takeover_is_fenced() -> None:
    play = asked(BY_FORCE)
    play.on(Swapped("tag-1"))
    play.on(EndFound(END))
    play.until_due()
    play.on(EpochWritten())
    play.on(REFUSED)
    play.on(OwnerRead(foreign(epoch=11, state=OwnerState.CLAIMING), "tag-2"))
    assert play.has(NoteFenced)


def test_an_end_below_what_is_protected_stops_even_a_forced_takeover() -> None:
    play = asked(BY_FORCE)
    play.on(Swapped("tag-1"))
    play.on(EndFound(End(Place(4, 8, 10), b"d" * 32)))
    assert not play.has(WriteEpoch)


# --- an older cut, and what is lost --------------------------------------------------------------


def test_a_chosen_older_cut_is_what_is_protected_from_then_on() -> None:
    """Else the next run would look for its epoch's end where the side branch is, and never go on."""
    play = asked(TakeOver(forced=BY_FORCE.forced, base=Place(4, 3, 2)))
    play.on(Swapped("tag-1"))
    play.on(EndFound(END))
    play.on(EpochWritten())
    assert (play.sent.state, play.sent.protected) == (OwnerState.ACTIVE, Place(4, 3, 2))


@pytest.mark.parametrize("answer", ["an older end", "the proven segment is gone"])
def test_a_loss_that_is_accepted_is_recorded(answer: str) -> None:
    left = End(Place(4, 6, 7), b"d" * 32)
    play = asked(TakeOver(forced=BY_FORCE.forced, accept_loss=True))
    play.on(Swapped("tag-1"))
    play.on(EndFound(left) if answer == "an older end" else WorkFailed(Failure.LOST, "it is gone"))
    assert not play.has(WriteEpoch), "it may have been a moment's fault"
    while not play.has(FindEnd):
        play.until_due()
    assert play.one(FindEnd).protected == NOWHERE
    play.on(EndFound(left))
    record = play.one(WriteEpoch).record
    assert (record.base, record.end) == (left.place, left.place)
    assert "lost" in record.reason
    play.on(EpochWritten())
    assert play.sent.protected == left.place


def test_the_end_is_told_by_the_ledger_in_force() -> None:
    """Without it all that was collected would look lost, also where a loss was accepted."""
    found = foreign(ledger=ObjectName(ledger_key(9, 1), b"l" * 32))
    play = asked(TakeOver(forced=(found.epoch, found.nonce), accept_loss=True), found)
    play.on(Swapped("tag-1"))
    assert play.one(FindEnd) == FindEnd(9, found.protected, found.ledger)
    play.on(WorkFailed(Failure.LOST, "it is gone"))
    while not play.has(FindEnd):
        play.until_due()
    assert play.one(FindEnd) == FindEnd(9, NOWHERE, found.ledger)


def test_an_outage_is_no_loss() -> None:
    play = asked(TakeOver(forced=BY_FORCE.forced, accept_loss=True))
    play.on(Swapped("tag-1"))
    play.on(WorkFailed(Failure.UNKNOWN, "no answer"))
    while not play.has(FindEnd):
        play.until_due()
    assert play.one(FindEnd).protected == THEIRS.protected
