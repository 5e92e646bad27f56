"""The configuration in force changes by a swap of its owner, and by nobody else's."""

from __future__ import annotations

import pytest

from cdp_container.domain.owner_types import (
    Cancel,
    Configure,
    Event,
    Failure,
    Fenced,
    OwnerFailed,
    OwnerRead,
    Phase,
    Prove,
    Proven,
    ReadOwner,
    Record,
    Release,
    SwapOwner,
    Swapped,
    Tick,
)
from cdp_container.format.domain import OwnerState
from cdp_container.format.place import Place
from tests.unit.domain.owner_play import LOST, REFUSED, Play, foreign, shown

NEW = b"c" * 32
NEWER = b"d" * 32
ASK = Configure(NEW)


def configuring() -> Play:
    """The swap that names another configuration is sent."""
    play = Play().active()
    play.on(ASK)
    assert (play.sent.config, play.sent.state, play.sent.renewals) == (NEW, OwnerState.ACTIVE, 2)
    return play


def in_force(play: Play) -> bytes:
    assert play.state.seen is not None
    return play.state.seen.config


def test_it_is_named_at_once_and_by_every_renewal_after_it() -> None:
    play = configuring()
    play.on(Swapped("tag-3"))
    assert in_force(play) == NEW
    assert not play.has(SwapOwner), "once is enough"
    play.on(Tick(), after_seconds=10)
    assert play.sent.config == NEW


def test_what_is_in_force_already_costs_no_request() -> None:
    play = Play().active()
    play.on(Configure(in_force(play)))
    assert not play.effects


@pytest.mark.parametrize("failed", [LOST, REFUSED, OwnerFailed(Failure.THROTTLED, "503")])
def test_a_lost_reply_is_settled_by_our_own_nonce(failed: OwnerFailed) -> None:
    play = configuring()
    sent = play.sent
    play.on(failed)
    if not play.has(ReadOwner):
        play.until_due()
    play.on(OwnerRead(sent, "tag-x"))
    assert in_force(play) == NEW
    assert not play.has(SwapOwner)


@pytest.mark.parametrize("failed", [LOST, REFUSED])
def test_the_old_version_proves_nothing_and_it_is_sent_again(failed: OwnerFailed) -> None:
    play = configuring()
    before, first = play.state.seen, play.sent
    assert before is not None
    play.on(failed)
    if not play.has(ReadOwner):
        play.until_due()
    play.on(OwnerRead(before, "tag-2"))
    assert (play.sent.config, play.one(SwapOwner).tag) == (NEW, "tag-2")
    assert play.sent.nonce != first.nonce


def test_contention_is_tried_again_without_a_look() -> None:
    play = configuring()
    play.on(OwnerFailed(Failure.CONTENTION, "409"))
    play.until_due()
    assert play.sent.config == NEW


def test_a_later_wish_replaces_one_under_way() -> None:
    play = configuring()
    play.on(Configure(NEWER))
    assert not play.effects, "one request at a time"
    play.on(Swapped("tag-3"))
    assert (play.sent.config, play.one(SwapOwner).tag) == (NEWER, "tag-3")


def test_it_goes_before_a_proof_which_then_looks_at_what_it_wrote() -> None:
    play = configuring()
    play.on(Prove(Place(5, 1, 1)))
    play.on(Swapped("tag-3"))
    assert play.one(ReadOwner) == ReadOwner("tag-3")


def test_a_cut_that_was_promised_and_a_configuration_are_one_swap() -> None:
    play = configuring()
    play.on(Prove(Place(5, 1, 1)))
    play.on(OwnerFailed(Failure.CONTENTION, "409"))
    play.until_due()
    play.on(Swapped("tag-3"))
    assert play.has(ReadOwner)
    read = play.state.seen
    assert read is not None
    play.on(OwnerRead(read, "tag-3"))
    assert play.has(Proven)
    play.on(Record(Place(5, 1, 1)))
    assert (play.sent.protected, play.sent.config) == (Place(5, 1, 1), NEW)


@pytest.mark.parametrize(
    "stage", ["claiming", "finding", "renewing_claim", "recording", "activating", "releasing"]
)
def test_a_run_that_does_not_own_changes_nothing(stage: str) -> None:
    play: Play = getattr(Play(), stage)()
    play.on(ASK)
    assert play.state.config is None
    assert not play.has(SwapOwner)


def test_a_run_that_is_fenced_changes_nothing() -> None:
    play = configuring()
    play.on(REFUSED)
    play.on(OwnerRead(foreign(), "tag-9"))
    assert play.has(Fenced)
    assert play.on(Configure(NEWER)) == ()
    assert play.state.config == NEW, "an event of one that is over is not even noted"


def test_what_was_not_named_before_a_release_is_not_named_by_it() -> None:
    play = Play().active()
    play.on(Tick(), after_seconds=10)
    play.on(ASK)
    play.on(Release("site-b"))
    play.on(Swapped("tag-3"))
    assert (play.sent.state, play.sent.config) == (OwnerState.RELEASED, bytes(32))


def test_one_that_landed_unheard_stays_in_force_over_a_release_and_its_cancel() -> None:
    play = configuring()
    landed = play.sent
    for event in (LOST, Release("site-b")):
        play.on(event)
    play.until_due()
    play.on(OwnerRead(landed, "tag-3"))
    assert (play.sent.state, play.sent.config) == (OwnerState.RELEASED, NEW)
    released = play.sent
    play.on(Swapped("tag-4"))
    play.on(Cancel())
    play.on(OwnerRead(released, "tag-4"))
    assert (play.state.phase, play.sent.config) == (Phase.CLAIMING, NEW)
    assert play.state.config is None, "the next epoch asks anew"


@pytest.mark.parametrize("event", [Tick(), ASK])
def test_a_lost_reply_and_an_older_zone_write_ours_back_with_it(event: Event) -> None:
    play = configuring()
    play.on(LOST)
    play.until_due()
    play.on(OwnerRead(shown(nonce=b"z" * 16, epoch=3, previous=2, protected=Place(3, 1, 1)), "tag-z"))
    if not play.has(SwapOwner):
        play.on(event)
        if not play.has(SwapOwner):
            play.until_due()
    assert (play.sent.epoch, play.sent.config) == (5, NEW)
