"""Giving the domain up to a named site, taking it back, and a crash at every step of both."""

from __future__ import annotations

import pytest

from cdp_container.domain import owner
from cdp_container.domain.owner_types import (
    Activated,
    Cancel,
    Claim,
    Effect,
    Elsewhere,
    EndFound,
    EpochWritten,
    Failure,
    FindEnd,
    NoteFenced,
    NoteNonces,
    NoteOwning,
    NoteReleased,
    NoteReleasing,
    OwnerFailed,
    OwnerRead,
    Phase,
    ReadOwner,
    Refused,
    Release,
    Released,
    SwapOwner,
    Swapped,
    Tick,
)
from cdp_container.format.domain import Owner, OwnerState
from tests.unit.domain.owner_play import END, LOST, NOTED, REFUSED, Play, foreign, shown

SENT = b"s" * 16
OURS = shown(state=OwnerState.RELEASED, released_to="site-b", nonce=SENT)
"""What a release of this site left."""
TAKEN = foreign(epoch=5, state=OwnerState.CLAIMING, previous=4)


def restarted(found: Owner, releasing_to: str = "site-b") -> Play:
    """A run after a crash, that reads this."""
    play = Play(known=(NOTED, SENT), releasing_to=releasing_to)
    assert play.on(Claim()) == (ReadOwner(None),)
    play.on(OwnerRead(found, "tag-0"))
    return play


def cancelling(found: Owner) -> Play:
    """A run of a released site that is to take the domain back, and reads this."""
    play = Play(known=(NOTED, SENT), released=True)
    assert play.on(Cancel()) == (ReadOwner(None),)
    play.on(OwnerRead(found, "tag-0"))
    return play


def kinds(effects: tuple[Effect, ...]) -> list[type]:
    return [type(effect) for effect in effects]


# --- the release ---------------------------------------------------------------------------------


def test_a_release_is_noted_before_it_is_sent() -> None:
    play = Play().releasing()
    assert kinds(play.effects) == [NoteReleasing, NoteNonces, SwapOwner]
    assert play.one(NoteReleasing).site == play.sent.released_to == "site-b"


def test_a_release_is_durable_and_final() -> None:
    play = Play().releasing()
    sent = play.sent
    play.on(Swapped("tag-r"))
    assert play.effects == (NoteReleased("site-b"), Released(sent))
    assert play.on(Tick(), after_seconds=1000) == ()
    assert owner.due_ns(play.state) is None


def test_a_release_waits_for_the_request_in_flight() -> None:
    play = Play().renewing()
    assert play.on(Release("site-b")) == ()
    play.on(Swapped("tag-r"))
    assert kinds(play.effects) == [NoteReleasing, NoteNonces, SwapOwner]


@pytest.mark.parametrize("failed", [LOST, REFUSED, OwnerFailed(Failure.LOCAL, "no note")])
def test_a_release_that_may_not_have_been_done_is_tried_again(failed: OwnerFailed) -> None:
    play = Play().releasing()
    before = play.state.seen
    assert before is not None
    play.on(failed)
    while not play.has(SwapOwner):
        if play.has(ReadOwner):
            play.on(OwnerRead(before, play.state.tag))
        else:
            play.until_due()
    assert (play.sent.state, play.sent.released_to) == (OwnerState.RELEASED, "site-b")
    play.one(NoteReleasing)


def test_a_release_whose_reply_was_lost_is_found() -> None:
    play = Play().releasing()
    sent = play.sent
    play.on(LOST)
    play.until_due()
    play.on(OwnerRead(sent, "tag-r"))
    assert play.effects == (NoteReleased("site-b"), Released(sent))


def test_a_release_that_was_taken_before_its_reply_came_does_not_fence() -> None:
    play = Play().releasing()
    play.on(LOST)
    play.until_due()
    play.on(OwnerRead(TAKEN, "tag-t"))
    assert play.effects == (NoteReleased("site-b"), Released(TAKEN))


def test_a_domain_that_was_taken_before_a_release_was_sent_fences() -> None:
    play = Play().renewing()
    play.on(Release("site-b"))
    play.on(REFUSED)
    play.on(OwnerRead(foreign(), "tag-f"))
    assert play.has(NoteFenced)
    assert not play.has(NoteReleased)


# --- a crash around the release ------------------------------------------------------------------


@pytest.mark.parametrize("releasing_to", ["site-b", ""])
def test_a_landed_release_is_not_claimed_back(releasing_to: str) -> None:
    play = restarted(OURS, releasing_to)
    assert play.effects == (NoteReleased("site-b"), Released(OURS))
    assert play.on(Tick(), after_seconds=1000) == ()


@pytest.mark.parametrize(
    "found",
    [
        TAKEN,
        foreign(),
        foreign(state=OwnerState.RELEASED, released_to="site-c"),
        foreign(state=OwnerState.RELEASED, released_to="site-a"),  # given back: our disks are old
    ],
)
def test_a_release_that_was_taken_is_a_release(found: Owner) -> None:
    play = restarted(found)
    assert play.effects == (NoteReleased("site-b"), Released(found))
    assert not play.has(NoteFenced)


@pytest.mark.parametrize("state", [OwnerState.ACTIVE, OwnerState.CLAIMING])
def test_a_release_that_did_not_land_is_begun_anew(state: OwnerState) -> None:
    play = restarted(shown(state=state))
    assert (play.sent.state, play.sent.epoch) == (OwnerState.CLAIMING, 5)
    play.on(Swapped("tag-1"))
    play.one(FindEnd)
    play.on(EndFound(END))
    play.on(EpochWritten())
    play.on(Swapped("tag-2"))
    play.one(Activated)
    assert not play.has(NoteOwning)
    play.on(Release("site-b"))
    assert play.sent.state is OwnerState.RELEASED


def test_a_late_release_that_lands_before_the_claim_of_the_next_run() -> None:
    play = restarted(shown())
    play.on(REFUSED)
    assert play.effects[-1] == ReadOwner(None)
    play.on(OwnerRead(OURS, "tag-r"))
    assert play.effects == (NoteReleased("site-b"), Released(OURS))


def test_what_another_site_released_to_this_one_is_not_claimed_by_an_agent() -> None:
    """Its disks lack what that site wrote: compared with the newest cut they would revert it."""
    found = foreign(state=OwnerState.RELEASED, released_to="site-a")
    play = restarted(found, "")
    assert not play.has(SwapOwner)
    assert play.has(Elsewhere)


# --- taking it back ------------------------------------------------------------------------------


def test_a_cancel_is_a_claim_like_any_other() -> None:
    play = cancelling(OURS)
    assert (play.sent.state, play.sent.epoch, play.sent.released_to) == (OwnerState.CLAIMING, 5, None)
    play.on(Swapped("tag-1"))
    play.on(EndFound(END))
    play.on(EpochWritten())
    assert not play.has(NoteOwning)
    play.on(Swapped("tag-2"))
    assert kinds(play.effects) == [NoteOwning, Activated]
    assert play.state.phase is Phase.ACTIVE
    play.until_due()
    assert play.sent.lease_seconds == 30


def test_a_cancel_in_the_run_that_released_takes_a_new_epoch() -> None:
    play = Play().releasing()
    released = play.sent
    play.on(Swapped("tag-r"))
    play.on(Cancel())
    assert play.effects == (ReadOwner(None),)
    play.on(OwnerRead(released, "tag-r"))
    assert (play.sent.epoch, play.sent.previous) == (6, 5)
    play.on(Swapped("tag-3"))
    play.on(EndFound(END))
    play.on(EpochWritten())
    assert play.state.record is not None
    assert play.state.record.epoch == 6


@pytest.mark.parametrize("state", [OwnerState.ACTIVE, OwnerState.CLAIMING])
def test_a_cancel_that_a_crash_ended_can_be_repeated(state: OwnerState) -> None:
    assert cancelling(shown(epoch=5, state=state)).sent.epoch == 6


def test_a_cancel_says_who_took_it_and_leaves_it_released() -> None:
    play = cancelling(TAKEN)
    refused = play.one(Refused)
    assert (refused.owner, "site-b" in refused.why) == (TAKEN, True)
    assert play.state.phase is Phase.RELEASED
    assert play.on(Tick(), after_seconds=1000) == ()
    assert play.on(Cancel()) == (ReadOwner(None),)


def test_a_cancel_loses_to_a_claim_that_was_quicker() -> None:
    play = cancelling(OURS)
    play.on(REFUSED)
    play.on(OwnerRead(TAKEN, "tag-t"))
    assert play.has(Refused)
    assert play.state.phase is Phase.RELEASED


def test_a_cancel_waits_for_the_store() -> None:
    play = Play(released=True)
    play.on(Cancel())
    play.on(OwnerFailed(Failure.UNKNOWN, "away"))
    play.until_due()
    assert play.effects == (ReadOwner(None),)
