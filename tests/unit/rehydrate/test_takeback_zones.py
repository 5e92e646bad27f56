"""Failback in a zone that is not the domain's home: by the operator's word alone, and with a jump."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from cdp_container.clock import SystemClock
from cdp_container.domain.failback_note import load_failback
from cdp_container.domain.history import read_history
from cdp_container.errors import ConfigInvalid, MissingObject, NotHome
from cdp_container.format.domain import OwnerState, build_config, build_owner, config_digest, parse_config
from cdp_container.format.keys import OWNER_KEY, config_key, segment_key
from tests.overtaken import Overtaken
from tests.unit.rehydrate.test_takeback import SIZE, assert_taken, new_store, newest, release, run
from tests.unit.rehydrate.test_takeback import made as made  # a fixture

HOME = "s3://backups/shop?endpoint=https://s3.example.com"
BLOCK = 4096


def pin_elsewhere(made: Overtaken) -> None:
    """From here on this store is a copy of a container whose home is elsewhere."""
    found = made.store.get(OWNER_KEY)
    kept = parse_config(made.store.get(config_key(made.site.owner.config)).data, "config", None)
    config = build_config(replace(kept, endpoints=(HOME,)))
    made.store.put_new(config_key(config_digest(config)), config)
    made.site.owner = replace(made.site.owner, config=config_digest(config))
    made.store.put_if(OWNER_KEY, build_owner(made.site.owner), found.found.tag)


def path_of(made: Overtaken, epoch: int, seq: int) -> Path:
    """A segment of the directory store."""
    return Path(made.store.address) / segment_key(epoch, seq)


def agent_config(made: Overtaken, folder: Path, word: bool) -> Path:
    config = folder / "agent.yaml"
    config.write_text(
        f"""
domain: shop
site: site-a
store: {made.store.address}
store_is_home: {str(word).lower()}
encryption: none
journal: {{directory: {made.directory}}}
volumes:
  - {{name: disk, path: {made.paths["disk"]}}}
"""
    )
    return config


def test_without_the_word_it_is_refused_before_anything_changes(made: Overtaken, tmp_path: Path) -> None:
    release(made)
    pin_elsewhere(made)
    before = made.paths["disk"].read_bytes()
    for config in (None, agent_config(made, tmp_path, word=False)):
        with pytest.raises(NotHome, match=r"https://s3\.example\.com"):
            run(made, config=config)
    forced = (made.site.owner.epoch, made.site.owner.nonce)
    with pytest.raises(ConfigInvalid, match="this zone is not the domain's home"):
        run(made, forced, config=agent_config(made, tmp_path, word=False))
    assert made.paths["disk"].read_bytes() == before
    assert load_failback(made.directory) is None


def test_one_pass_owns_nothing_and_needs_no_word(made: Overtaken, tmp_path: Path) -> None:
    pin_elsewhere(made)
    run(made, once=True, config=agent_config(made, tmp_path, word=False))
    made.assert_disks_are(newest(made))


def test_with_the_word_a_released_domain_is_taken_and_the_epoch_jumps(
    made: Overtaken, tmp_path: Path
) -> None:
    release(made)
    pin_elsewhere(made)
    run(made, config=agent_config(made, tmp_path, word=True))
    assert_taken(made, newest(made))
    last = list(read_history(made.store).spans.values())[-1].record
    assert (last.epoch, last.previous, last.unsynchronised) == (1003, 2, True)


def test_a_release_that_arrived_before_the_last_of_what_it_released_has_to_wait(
    made: Overtaken, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made.other_writes("disk", 60 * BLOCK, b"the last")
    made.site.protect(made.other_cut())
    release(made)
    pin_elsewhere(made)
    late = path_of(made, 2, 2)
    data = late.read_bytes()
    late.unlink()
    naps = [0]

    def sleep(self: SystemClock, seconds: float) -> None:
        naps[0] += 1
        assert read_history(made.store).owner.site == "site-b"
        if naps[0] == 3:
            late.write_bytes(data)

    monkeypatch.setattr(SystemClock, "sleep", sleep)
    run(made, config=agent_config(made, tmp_path, word=True))
    assert naps[0] >= 3
    assert_taken(made, newest(made))


@pytest.mark.parametrize("proven", [True, False])
def test_what_came_behind_a_gap_is_left_behind_by_force(tmp_path: Path, proven: bool) -> None:
    """As by a failover: what is whole here counts, and what was proven is given up only in words."""
    made = Overtaken(tmp_path, {"disk": SIZE}, encrypted=False, store=new_store(tmp_path / "store"))
    made.write("disk", 0, b"a" * 9 * BLOCK)
    made.cut()
    made.stop()
    made.other_takes_over()
    cuts = []
    for number in range(4):
        made.other_writes("disk", (40 + number) * BLOCK, b"z" * BLOCK)
        cuts.append(made.other_cut())
        if number == 1 or (proven and number == 3):
            made.site.protect(cuts[-1])
    made.site.write_owner(site="site-b", state=OwnerState.ACTIVE)
    pin_elsewhere(made)
    path_of(made, 2, 3).unlink()
    config = agent_config(made, tmp_path, word=True)
    forced = (made.site.owner.epoch, made.site.owner.nonce)
    if proven:
        with pytest.raises(MissingObject, match=r"cut 2\.4 was proven"):
            run(made, forced, config=config)
        run(made, forced, config=config, accept_loss=True)
    else:
        run(made, forced, config=config)
    assert_taken(made, cuts[1])
