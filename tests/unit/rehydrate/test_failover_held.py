"""A failover holds what it reads: everything until the domain is its own, then the cut that it restores."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from cdp_container.errors import DamagedObject, Fenced, MissingObject
from cdp_container.format.holds import Hold
from cdp_container.format.keys import HOLDS_KEY, segment_key
from rehydrate import failover
from rehydrate.cli import targets
from rehydrate.plan import Choice
from tests import rosters
from tests.unit.rehydrate.test_failover import World


@pytest.fixture
def world(tmp_path: Path) -> World:
    world = World(tmp_path)
    rosters.give_roster(world.store, world.site.domain)
    return world


def holds_in(world: World) -> list[Hold]:
    return [*rosters.holds_in(world.store, world.site.domain).values()]


def lose_hold(world: World) -> None:
    rosters.give_roster(world.store, world.site.domain)


def around(monkeypatch: pytest.MonkeyPatch, world: World, hook: Callable[[str], None]) -> None:
    """Calls `hook` before the claim, and before the disks are restored."""
    real_claim: Callable[..., object] = failover.claim
    real_restore: Callable[..., object] = targets.restore_all

    def claim(*arguments: object) -> object:
        hook("claim")
        return real_claim(*arguments)

    def restore_all(*arguments: object) -> object:
        hook("restore")
        return real_restore(*arguments)

    monkeypatch.setattr(failover, "claim", claim)
    monkeypatch.setattr("rehydrate.cli.failover.restore_all", restore_all)


def test_a_roster_that_is_gone_does_not_stop_a_failover(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    world.store.delete(HOLDS_KEY)
    world.run()
    world.check(world.cuts[-1])
    assert capsys.readouterr().err.count("unheld: ") == 1


def test_a_hold_that_is_taken_out_while_it_claims_is_placed_anew(
    world: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    around(monkeypatch, world, lambda step: lose_hold(world) if step == "claim" else None)
    world.run()
    world.check(world.cuts[-1])
    assert "looked for anew" in capsys.readouterr().err
    assert holds_in(world) == []


def test_everything_until_it_owns_then_its_cut_then_nothing(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[str, list[Hold]]] = []
    around(monkeypatch, world, lambda step: seen.append((step, holds_in(world))))
    world.run()
    world.check(world.cuts[-1])
    (claim, (before,)), (restore, (after,)) = seen
    assert (claim, before.cut, before.site, before.operator) == ("claim", None, "site-b", before.operator)
    assert (restore, after.cut, after.purpose) == ("restore", world.cuts[-1], "failover")
    assert holds_in(world) == []


def test_one_that_fails_lets_go(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(step: str) -> None:
        assert len(holds_in(world)) == 1
        raise Fenced("claim", "another one was faster")

    around(monkeypatch, world, fail)
    with pytest.raises(Fenced):
        world.run()
    assert holds_in(world) == []


def test_an_epoch_begins_at_a_cut_whose_end_was_collected_and_so_does_the_next(
    world: World, tmp_path: Path
) -> None:
    """Whoever claims after it finds that segment by the ledger, and could not own the domain without."""
    world.site.collect(1, 1, 2)
    world.run(Choice(at=(1, 2)))
    world.check(world.cuts[1])
    shutil.rmtree(world.journal)
    shutil.rmtree(tmp_path / "vms")
    (tmp_path / "vms").mkdir()
    world.run()
    world.check(world.cuts[1])
    assert (world.owner.epoch, world.owner.previous) == (3, 2)


@pytest.mark.parametrize("fault", ["gone", "damaged"])
def test_without_the_ledger_nothing_is_claimed(world: World, fault: str) -> None:
    world.site.collect(1, 1, 2)
    name, before = world.owner.ledger, world.owner
    assert name is not None
    data = world.store.get(name.key).data
    world.store.delete(name.key)
    if fault == "damaged":
        world.store.put_new(name.key, data[:-40] + bytes(40))
    for accept_loss in (False, True):
        with pytest.raises(MissingObject if fault == "gone" else DamagedObject) as error:
            world.run(accept_loss=accept_loss)
        assert name.key in str(error.value)
    assert world.owner == before


def test_a_loss_can_be_accepted_where_segments_were_collected(world: World) -> None:
    """The newest cut that is left may itself have been collected."""
    world.site.collect(1, 1, 2)
    for seq in (3, 4):
        world.store.delete(segment_key(1, seq))
    with pytest.raises(MissingObject):
        world.run()
    world.run(accept_loss=True)
    world.check(world.cuts[1])
