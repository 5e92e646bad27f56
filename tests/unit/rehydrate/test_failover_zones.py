"""Failover in a zone that is not the domain's home: by force alone, with a jump, from what arrived there."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from cdp_container.domain.settings import load_settings
from cdp_container.errors import MissingObject, NotHome
from cdp_container.format.domain import (
    EpochRecord,
    build_config,
    build_owner,
    config_digest,
    parse_config,
    parse_epoch_record,
)
from cdp_container.format.keys import OWNER_KEY, config_key, epoch_key, segment_key
from rehydrate.cli import commands
from rehydrate.cli import failover as taking
from rehydrate.plan import Choice
from tests.unit.rehydrate.test_failover import World

HOME = "s3://backups/shop?endpoint=https://s3.example.com"


@pytest.fixture
def zone(tmp_path: Path) -> World:
    """A copy of a container whose home is elsewhere."""
    world = World(tmp_path)
    blob, owner = world.store.get(OWNER_KEY), world.owner
    kept = parse_config(world.store.get(config_key(owner.config)).data, "config", None)
    config = build_config(replace(kept, endpoints=(HOME,)))
    world.store.put_new(config_key(config_digest(config)), config)
    world.store.put_if(OWNER_KEY, build_owner(replace(owner, config=config_digest(config))), blob.found.tag)
    return world


def record_of(world: World) -> EpochRecord:
    key = epoch_key(world.owner.epoch)
    return parse_epoch_record(world.store.get(key).data, key, None)


def lose(world: World, *seqs: int) -> None:
    for seq in seqs:
        (world.base / "container" / segment_key(1, seq)).unlink()


def test_without_force_it_is_refused_and_the_word_is_named(zone: World) -> None:
    before = zone.owner
    asked = taking.asked_of("site-b", "me", "drill", None, False)
    access = commands.Access(str(zone.base / "container"), None, zone.base / "key")
    with pytest.raises(NotHome, match=r"https://s3\.example\.com") as raised:
        taking.fail_over(access, Choice(), asked, zone.where(), True)
    assert f"--force {before.epoch}:{before.nonce.hex()}" in raised.value.hint
    assert zone.owner == before


def test_without_the_configuration_nobody_knows(zone: World) -> None:
    (zone.base / "container" / config_key(zone.owner.config)).unlink()
    with pytest.raises(MissingObject, match="configuration"):
        zone.run()


def test_the_epoch_jumps_and_the_agent_may_own_here(zone: World) -> None:
    zone.run()
    zone.check(zone.cuts[-1])
    record = record_of(zone)
    assert (record.epoch, record.previous, record.unsynchronised) == (1002, 1, True)
    assert load_settings(zone.journal / "agent.yaml").store_is_home


def test_at_home_there_is_no_jump(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.run()
    assert (record_of(world).epoch, record_of(world).unsynchronised) == (2, False)
    assert not load_settings(world.journal / "agent.yaml").store_is_home


@pytest.mark.parametrize(
    ("absent", "left", "end"), [((3,), 1, 3), ((4,), 2, 2), ((2, 4), 0, 0), ((3, 4), 1, 1)], ids=str
)
def test_what_did_not_arrive_is_lost_only_where_that_is_accepted(
    zone: World, absent: tuple[int, ...], left: int, end: int
) -> None:
    """What arrived behind a gap stays on a side branch: it is whole once the gap is filled."""
    lose(zone, *absent)
    before = zone.owner
    with pytest.raises(MissingObject, match=r"cut 1\.4 was proven") as raised:
        zone.run()
    assert raised.value.hint == f"--accept-loss goes on from 1.{left + 1}"
    assert zone.owner == before
    zone.run(accept_loss=True)
    zone.check(zone.cuts[left])
    record = record_of(zone)
    assert record.unsynchronised
    assert (record.base, record.end) == (zone.cuts[left], zone.cuts[end])
    assert ("lost" in record.reason) is (record.end < before.protected)
