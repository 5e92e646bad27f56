"""A restore that is killed again and again, between any two of its system calls, ends with the right bytes.

What was durable is not fetched again.
"""

from __future__ import annotations

import random
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import pytest

from cdp_container.domain.hold_rules import HOLD_TERM_SECONDS
from cdp_container.format.domain import parse_owner
from cdp_container.format.holds import Hold
from cdp_container.format.keys import OWNER_KEY
from cdp_container.format.place import Place
from cdp_container.store.directory import DirectoryStore
from rehydrate.resume import read_progress
from tests.containers import Site, write
from tests.rosters import give_roster, holds_in

pytestmark = pytest.mark.e2e

SIZE: Final = 1 << 20
CUTS: Final = 16
RUNS_MAX: Final = 60

# Ends itself before its n-th call that changes anything; every read of a frame is logged.
KILLED: Final = """
import os, signal, sys
from cdp_container.store.directory import DirectoryStore
from rehydrate import keeper, plan
from rehydrate.cli.app import main

left, log = int(sys.argv.pop(1)), open(sys.argv.pop(1), "a", buffering=1)
plan.FETCH_BYTES_MAX = keeper.KEEP_BYTES = 1

def counted(call):
    def counting(*arguments, **options):
        global left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return call(*arguments, **options)
    return counting

def get_range(self, key, start, length):
    if start and length >= 1 << 15:
        log.write(f"{key} {start}\\n")
    return read(self, key, start, length)

for name in ("fsync", "pwrite", "rename", "link", "unlink"):
    setattr(os, name, counted(getattr(os, name)))
read, DirectoryStore.get_range = DirectoryStore.get_range, get_range
sys.exit(main())
"""


def some_container(directory: Path) -> bytes:
    """A volume written bit by bit, so that its restore takes many requests; gives what it holds."""
    site = Site(DirectoryStore(directory), encrypted=False)
    disk = site.add_volume("disk", SIZE)
    site.begin_epoch()
    for number in range(CUTS):
        site.cut([write(disk, number * (SIZE // CUTS), site.rng.randbytes(SIZE // CUTS))])
    site.protect(max(site.images))
    return site.images[max(site.images)][disk]


@pytest.mark.parametrize("seed", range(4))
def test_a_restore_killed_again_and_again_ends_right(seed: int, tmp_path: Path) -> None:
    rng = random.Random(seed)
    (tmp_path / "store").mkdir()
    content = some_container(tmp_path / "store")
    target, log = tmp_path / "disk.raw", tmp_path / "log"
    arguments = ["restore", str(tmp_path / "store"), "--target", str(target), "--json"]
    kills = 0
    for _ in range(RUNS_MAX):
        kept = read_progress(target)
        before = kept.done.fetches if kept is not None else 0
        log.write_text("")
        argv = [sys.executable, "-c", KILLED, str(rng.randrange(3, 25)), str(log), *arguments]
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
        assert len(log.read_text().splitlines()) <= CUTS - before
        if done.returncode == 0:
            break
        assert done.returncode == -signal.SIGKILL, done.stderr
        kills += 1
    assert 0 < kills < RUNS_MAX
    assert target.read_bytes() == content
    assert sorted(path.name for path in tmp_path.iterdir()) == ["disk.raw", "log", "store"]


@pytest.mark.parametrize("seed", range(2))
def test_it_goes_on_under_the_hold_that_it_noted(seed: int, tmp_path: Path) -> None:
    """Also killed while it places, narrows and drops its hold: nothing but holds that die is left behind."""
    rng = random.Random(seed)
    place = tmp_path / "store"
    place.mkdir()
    content = some_container(place)
    store = DirectoryStore(place)
    domain = parse_owner(store.get(OWNER_KEY).data, OWNER_KEY, None).domain
    give_roster(store, domain)
    target, log = tmp_path / "disk.raw", tmp_path / "log"
    arguments = ["restore", str(place), "--target", str(target), "--at", f"1.{CUTS}", "--json"]
    noted: list[str] = []
    holds: Mapping[str, Hold] = {}
    is_done = False
    for _ in range(RUNS_MAX):
        argv = [sys.executable, "-c", KILLED, str(rng.randrange(10, 30)), str(log), *arguments]
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
        assert "unheld" not in done.stderr
        holds = holds_in(store, domain)
        is_done = done.returncode == 0
        if is_done:
            break
        assert done.returncode == -signal.SIGKILL, done.stderr
        kept = read_progress(target)
        if kept is None and target.exists():
            break  # done, and killed while it took its hold away
        if kept is not None and not target.exists():
            noted.append(kept.hold)
            assert holds[kept.hold].cut == Place(1, CUTS, CUTS)
    assert target.read_bytes() == content
    assert len(noted) > 1
    assert len(set(noted)) == 1, "one hold from the first note on"
    assert not is_done or noted[0] not in holds
    assert all(hold.term_seconds == HOLD_TERM_SECONDS for hold in holds.values())
