"""A pass of collection changes plan and ledger by swaps of the owner: in its epoch, from what it saw."""

from __future__ import annotations

from dataclasses import replace

import pytest

from cdp_container.domain.owner_types import (
    Activated,
    ChangePlan,
    EndFound,
    EpochWritten,
    OwnerFailed,
    OwnerRead,
    Phase,
    ReadOwner,
    Release,
    SwapOwner,
    Swapped,
    TakeOver,
    Tick,
)
from cdp_container.domain.plan_changes import end_plan, execute_plan, fault_of, name_plan
from cdp_container.format.domain import ObjectName, Owner, OwnerState, PlanName, PlanState
from tests.unit.domain.owner_play import END, LOST, REFUSED, Play, foreign, shown

LEDGER = ObjectName("packs/0000000005/ledger-000000000001", b"l" * 32)
DIGEST = b"p" * 32


def owned(play: Play) -> Owner:
    assert play.state.seen is not None
    return play.state.seen


def naming() -> Play:
    """The swap that names a plan is sent."""
    play = Play().active()
    play.on(name_plan(owned(play), 1, DIGEST))
    assert play.sent.plan == PlanName(owned(play).epoch, 1, DIGEST, PlanState.NAMED)
    assert play.sent.ledger is None
    return play


def inherited(found: Owner) -> Play:
    """This owner's domain, claimed and activated."""
    play = Play().claiming(found)
    for event in (Swapped("tag-1"), EndFound(END), EpochWritten(), Swapped("tag-2")):
        play.on(event)
    play.one(Activated)
    return play


def done(play: Play) -> Play:
    play.on(Swapped(f"tag-{play.nonces}"))
    assert play.state.change is None
    assert not play.has(SwapOwner), "once is enough"
    return play


def test_a_whole_pass() -> None:
    play = done(naming())
    play.on(execute_plan(owned(play), LEDGER))
    assert (play.sent.plan, play.sent.ledger) == (
        PlanName(owned(play).epoch, 1, DIGEST, PlanState.EXECUTING),
        LEDGER,
    ), "both in one swap"
    done(play)
    play.on(end_plan(owned(play)))
    assert (play.sent.plan, play.sent.ledger) == (None, LEDGER)
    done(play)
    play.on(Tick(), after_seconds=10)
    assert (play.sent.plan, play.sent.ledger) == (None, LEDGER), "a renewal changes neither"


def test_a_plan_that_is_dropped_leaves_the_ledger_alone() -> None:
    play = done(naming())
    play.on(end_plan(owned(play)))
    assert (play.sent.plan, play.sent.ledger) == (None, None)


@pytest.mark.parametrize("failed", [LOST, REFUSED])
def test_a_lost_reply_is_settled_by_our_own_nonce(failed: OwnerFailed) -> None:
    play = naming()
    sent = play.sent
    play.on(failed)
    if not play.has(ReadOwner):
        play.until_due()
    assert play.has(ReadOwner), "not known yet"
    play.on(OwnerRead(sent, "tag-x"))
    assert owned(play).plan == sent.plan
    assert play.state.change is None
    assert not play.has(SwapOwner)


@pytest.mark.parametrize("failed", [LOST, REFUSED])
def test_the_old_version_proves_nothing_and_it_is_sent_again(failed: OwnerFailed) -> None:
    play = naming()
    before, wanted = owned(play), play.sent.plan
    play.on(failed)
    if not play.has(ReadOwner):
        play.until_due()
    play.on(OwnerRead(before, "tag-2"))
    assert (play.sent.plan, play.one(SwapOwner).tag) == (wanted, "tag-2")


def test_a_change_from_what_is_no_longer_so_sends_nothing() -> None:
    play = Play().active()
    owner = owned(play)
    stale = name_plan(replace(owner, ledger=LEDGER), 1, DIGEST)
    elsewhen = name_plan(replace(owner, epoch=owner.epoch - 1), 1, DIGEST)
    for change in (stale, elsewhen):
        play.on(change)
        assert not play.effects
        assert play.state.change is None
        assert owned(play) == owner


def test_asked_twice_it_is_done_once() -> None:
    play = naming()
    change = play.state.change
    assert change is not None
    done(play).on(change)
    assert not play.effects


def test_nobody_but_an_active_run_changes_it() -> None:
    play = Play()
    change = ChangePlan(5, None, None, PlanName(5, 1, DIGEST, PlanState.NAMED), None)
    play.on(change)
    assert not play.effects
    assert play.state.change is None
    play = naming()
    play.on(Release("site-b"))
    assert play.state.change is None, "who gives the domain up begins nothing"
    play.on(LOST)
    play.until_due()
    play.on(OwnerRead(shown(nonce=b"x" * 16, epoch=99), "tag-9"))
    assert play.state.phase is Phase.FENCED


def test_overtaken_it_executes_nothing() -> None:
    play = done(naming())
    play.on(execute_plan(owned(play), LEDGER))
    play.on(REFUSED)
    if not play.has(ReadOwner):
        play.until_due()
    play.on(OwnerRead(foreign(plan=owned(play).plan), "tag-9"))
    assert play.state.phase is Phase.FENCED
    assert not play.has(SwapOwner)


@pytest.mark.parametrize("state", PlanState)
def test_a_claim_and_its_activation_keep_plan_and_ledger(state: PlanState) -> None:
    plan = PlanName(4, 1, DIGEST, state)
    play = Play().claiming(shown(plan=plan, ledger=LEDGER))
    assert (play.sent.plan, play.sent.ledger) == (plan, LEDGER)
    play = inherited(shown(plan=plan, ledger=LEDGER))
    assert (owned(play).plan, owned(play).ledger) == (plan, LEDGER)
    play.on(end_plan(owned(play)))
    assert (play.sent.plan, play.sent.ledger) == (None, LEDGER), "inherited, it only ends"


def test_a_takeover_and_a_release_keep_plan_and_ledger() -> None:
    plan = PlanName(4, 1, DIGEST, PlanState.EXECUTING)
    play = Play(known=())
    theirs = foreign(plan=plan, ledger=LEDGER)
    play.on(TakeOver(forced=(theirs.epoch, theirs.nonce)))
    play.on(OwnerRead(theirs, "tag-1"))
    assert (play.sent.plan, play.sent.ledger) == (plan, LEDGER)
    play = inherited(shown(plan=plan, ledger=LEDGER))
    play.on(Release("site-b"))
    assert play.sent.state is OwnerState.RELEASED
    assert (play.sent.plan, play.sent.ledger) == (plan, LEDGER)


def test_there_are_four_changes_and_no_other() -> None:
    free = shown()
    named = replace(free, plan=PlanName(4, 1, DIGEST, PlanState.NAMED))
    executing = replace(free, plan=PlanName(4, 1, DIGEST, PlanState.EXECUTING), ledger=LEDGER)
    sound = [
        name_plan(free, 1, DIGEST),
        execute_plan(named, LEDGER),
        end_plan(named),
        end_plan(executing),
    ]
    assert [fault_of(change) for change in sound] == ["", "", "", ""]
    naming, execution, _, ending = sound
    for wrong in (
        replace(naming, ledger=LEDGER),
        replace(naming, plan=None),
        replace(naming, plan=executing.plan),
        replace(naming, epoch=5),
        replace(naming, plan_before=named.plan),
        replace(execution, epoch=5),
        replace(execution, ledger=execution.ledger_before),
        replace(execution, ledger=None),
        replace(execution, plan_before=PlanName(4, 2, DIGEST, PlanState.NAMED)),
        replace(ending, ledger=None),
    ):
        assert fault_of(wrong), wrong
