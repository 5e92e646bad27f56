"""A restore that is killed again and again, between any two of its system calls, ends with the right bytes.

What was durable is not fetched again.
"""

from __future__ import annotations

import random
import signal
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

from cdp_container.store.directory import DirectoryStore
from rehydrate.resume import read_progress
from tests.containers import Site, write

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
