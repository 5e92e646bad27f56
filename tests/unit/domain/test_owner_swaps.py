"""Swaps of `domain/owner` that go wrong, at every stage: lost, late, refused, foreign and slow replies."""

from __future__ import annotations

import pytest

from cdp_container.domain import owner
from cdp_container.domain.owner_lease import RETRY_MAX_NS, THROTTLED_MAX_NS
from cdp_container.domain.owner_types import (
    Claim,
    Elsewhere,
    Failure,
    Fenced,
    NoteFenced,
    NoteNonces,
    OwnerFailed,
    OwnerRead,
    Phase,
    ReadOwner,
    SwapOwner,
    Tick,
    Trouble,
)
from tests.unit.domain.owner_play import (
    LOST,
    REFUSED,
    SECOND,
    Play,
    foreign,
)

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
