"""Zones that meet again: an older epoch's object in the place of ours is no takeover, and is written over."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from cdp_container.domain.owner_types import (
    Fenced,
    NoteFenced,
    NoteNonces,
    OwnerRead,
    OwnerUnchanged,
    Phase,
    Prove,
    Proven,
    ReadOwner,
    SwapOwner,
    Swapped,
    Tick,
    Trouble,
)
from cdp_container.format.domain import Owner, OwnerState
from cdp_container.format.place import Place
from tests.unit.domain.owner_play import LEASE_SECONDS, REFUSED, Play, foreign


def losing(**changes: object) -> Owner:
    """What the other zone's owner goes on writing; ours is epoch 5."""
    return foreign(**{"epoch": 4, "version": 900, **changes})


def met(play: Play, found: Owner) -> Play:
    """A proof reads what replication brought."""
    play.on(Prove(Place(5, 1, 1)))
    assert play.effects == (ReadOwner("tag-2"),)
    play.on(OwnerRead(found, "tag-z"))
    return play


def refused(play: Play) -> None:
    """The swap met yet another version; what is there is read."""
    play.on(REFUSED)
    if not play.has(ReadOwner):
        play.until_due()
    assert play.effects[-1] == ReadOwner(None)


def test_a_higher_epoch_fences_as_ever() -> None:
    met(Play().active(), foreign(epoch=1005)).one(NoteFenced)


def test_the_same_epoch_is_a_twin() -> None:
    met(Play().active(), losing(epoch=5)).one(Fenced)


def test_a_lower_epoch_is_written_over_before_anything_is_proven() -> None:
    play = met(Play().active(), losing())
    assert not play.has(Fenced)
    assert not play.has(Proven)
    assert "epoch 4 of site 'site-b'" in play.one(Trouble).why
    swap = play.one(SwapOwner)
    assert swap.tag == "tag-z", "over just what was read"
    assert (swap.owner.site, swap.owner.epoch, swap.owner.state) == ("site-a", 5, OwnerState.ACTIVE)
    assert swap.owner.version == 901, "versions only grow"
    assert swap.owner.nonce in play.one(NoteNonces).nonces
    play.on(Swapped("tag-3"))
    assert play.effects == (ReadOwner("tag-3"),), "what was to be proven is asked for again"
    play.on(OwnerUnchanged())
    assert play.one(Proven).place == Place(5, 1, 1)
    assert play.on(Tick()) == (), "once is enough"


def test_it_is_written_over_as_often_as_it_comes_back() -> None:
    play = met(Play().active(), losing())
    for number in range(3):
        refused(play)
        play.on(OwnerRead(losing(nonce=bytes([number]) * 16), f"tag-z{number}"))
        assert play.one(SwapOwner).tag == f"tag-z{number}"
    play.on(Swapped("tag-9"))
    assert play.state.phase is Phase.ACTIVE


def test_our_object_may_come_back_by_itself() -> None:
    play = met(Play().active(), losing())
    sent = play.sent
    refused(play)
    play.on(OwnerRead(sent, "tag-r"))
    play.on(OwnerUnchanged())
    assert play.one(Proven).place == Place(5, 1, 1)


def test_somebody_higher_wins_while_it_is_written_over() -> None:
    play = met(Play().active(), losing())
    refused(play)
    play.on(OwnerRead(foreign(epoch=6), "tag-f"))
    play.one(NoteFenced)


@pytest.mark.parametrize(
    ("stage", "state"),
    [
        (Play.renewing, OwnerState.ACTIVE),
        (Play.renewing_claim, OwnerState.CLAIMING),
        (Play.activating, OwnerState.ACTIVE),
        (Play.releasing, OwnerState.RELEASED),
    ],
)
def test_at_every_stage_what_was_meant_is_written(stage: Callable[[Play], Play], state: OwnerState) -> None:
    play = stage(Play())
    refused(play)
    play.on(OwnerRead(losing(), "tag-z"))
    swap = play.one(SwapOwner)
    assert (swap.tag, swap.owner.epoch, swap.owner.state) == ("tag-z", 5, state)
    assert not play.has(Fenced)


def test_the_lease_still_passes_where_nothing_can_be_written() -> None:
    play = met(Play().active(), losing())
    play.on(REFUSED)
    play.on(Tick(), after_seconds=LEASE_SECONDS + 1)
    assert play.state.paused
