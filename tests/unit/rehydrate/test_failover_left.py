"""What a failover leaves: a directory that is not done, a claim that nobody renews, a configuration."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from cdp_container.domain.failover_note import FailoverNote, load_note
from cdp_container.domain.half_done import refuse_half_done
from cdp_container.domain.settings import load_settings
from cdp_container.errors import ConfigInvalid, OwnedElsewhere
from cdp_container.format.domain import OwnerState, build_owner
from cdp_container.format.keys import OWNER_KEY
from rehydrate import agent_files
from rehydrate.cli import failover as taking
from rehydrate.cli.commands import Access
from rehydrate.cli.failback import fail_back, what_of
from tests.containers import write
from tests.unit.rehydrate.test_failover import Killed, World, prepared

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


# --- the lease -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("recorded", "written"), [(7, 7), (900, 30), (1200, 1200), (2, 30), (7200, 30)])
def test_the_agent_has_the_lease_of_the_site_before(world: World, recorded: int, written: int) -> None:
    world.site.write_owner(lease_seconds=recorded)
    world.run()
    assert load_settings(world.journal / "agent.yaml").lease == written


def test_an_interrupted_failover_remembers_that_lease(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.site.write_owner(lease_seconds=77)

    def killed(*_: object) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(agent_files, "write_agent", killed)
        with pytest.raises(Killed):
            world.run()
    world.run()
    assert load_settings(world.journal / "agent.yaml").lease == 77


def test_a_prepared_configuration_keeps_its_own_lease(world: World) -> None:
    world.site.write_owner(lease_seconds=77)
    config = prepared(world)
    world.run(config=config)
    assert load_settings(config).lease == 7


def test_without_a_start_it_says_that_nobody_renews(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    world.run(as_json=False)
    told = capsys.readouterr().out
    assert "nobody renews the claim now: in 30 s any site may take the domain over" in told
    assert f"at once: cdp-agent run --config {world.journal / 'agent.yaml'}" in told


def test_one_that_was_overtaken_at_the_very_end_runs_no_hook(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def started(*_: object) -> int:
        theirs = replace(world.owner, nonce=b"t" * 16, site="site-c", epoch=world.owner.epoch + 1)
        world.store.put_if(OWNER_KEY, build_owner(theirs), world.store.head(OWNER_KEY).tag)
        return 1

    monkeypatch.setattr("rehydrate.agent_start.start_agent", started)
    ran = world.base / "ran"
    with pytest.raises(OwnedElsewhere, match="site-c") as caught:
        world.run(start=True, after=f"/bin/touch {ran}")
    assert "rehydrate failback" in caught.value.hint
    assert not ran.exists()
