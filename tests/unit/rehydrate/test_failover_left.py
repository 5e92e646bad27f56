"""What a failover leaves: a directory that is not done, a claim that nobody renews, a configuration."""

from __future__ import annotations

from pathlib import Path

import pytest

from cdp_container.domain.failover_note import FailoverNote, load_note
from cdp_container.domain.half_done import refuse_half_done
from cdp_container.errors import ConfigInvalid
from cdp_container.format.domain import OwnerState
from rehydrate.cli import failover as taking
from rehydrate.cli.commands import Access
from rehydrate.cli.failback import fail_back, what_of
from tests.containers import write
from tests.unit.rehydrate.test_failover import Killed, World

_PAGE = 4096


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def die_before_it_is_prepared(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The process ends after carried.json, and before it notes that all is prepared."""

    def save(directory: object, note: FailoverNote) -> None:
        if note.prepared:
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(taking, "save_note", save)
        with pytest.raises(Killed):
            world.run()


def test_no_agent_serves_a_failover_that_is_not_prepared(
    world: World,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    die_before_it_is_prepared(world, monkeypatch)
    assert (world.journal / "agent.json").exists()
    with pytest.raises(ConfigInvalid, match="is not done yet"):
        refuse_half_done(world.journal)
    world.run()
    refuse_half_done(world.journal)
    world.check(world.cuts[-1])


def test_one_that_another_site_overtook_comes_back_by_a_failback(
    world: World,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    die_before_it_is_prepared(world, monkeypatch)
    found = world.store.head("domain/owner")
    world.site.owner, world.site._tag = world.owner, found.tag
    world.site.name_of_site = "site-c"
    world.site.begin_epoch()
    newest = world.site.cut([write(world.disks["db"], 0, b"at site c".ljust(_PAGE))])
    world.site.protect(newest)
    world.site.write_owner(site="site-c", state=OwnerState.RELEASED, released_to="site-b")
    access = Access(str(world.base / "container"), None, world.base / "key")
    with pytest.raises(ConfigInvalid):
        refuse_half_done(world.journal)
    asked = taking.asked_of("", "me", "drill", None, accept_loss=False)
    assert fail_back(access, asked, what_of(world.journal, None, False, False, True)) == 0
    for name, space in world.disks.items():
        assert (world.base / "vms" / f"{name}.raw").read_bytes() == world.site.images[newest][space]
    assert load_note(world.journal) is None
    refuse_half_done(world.journal)
