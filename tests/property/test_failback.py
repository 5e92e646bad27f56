"""After a failback the disks are the other site's cut: random writes on both sides, and crashes."""

from __future__ import annotations

import os
from pathlib import Path
from random import Random

import pytest

from cdp_container.domain.failback_note import load_failback
from cdp_container.journal.position import Position
from rehydrate.failback import Words
from rehydrate.inplace import Disk
from rehydrate.plan import Choice
from tests.overtaken import Overtaken

pytestmark = pytest.mark.slow

SIZE = 64 * 4096 + 512  # the last block is a part
SECTOR = 512
SEEDS = 8
DOUBTS: tuple[dict[str, object], ...] = (
    {"sync_failed": True},
    {"episode": 0xE},
    {"overflow_at": Position(0xA1, 0)},
)


class _Killed(Exception):
    pass


LET_GO = Words(overwrite_unjournaled=True)


def _range(rng: Random) -> tuple[int, int]:
    sectors = rng.choice((1, 1, 3, 8, 16, 40))
    first = rng.randrange(SIZE // SECTOR - sectors + 1)
    return first * SECTOR, sectors * SECTOR


def _here(made: Overtaken, rng: Random, steps: int) -> None:
    """Writes, trims and cuts of the site that will be overtaken."""
    for _ in range(steps):
        name = rng.choice(list(made.paths))
        offset, length = _range(rng)
        match rng.randrange(5):
            case 0:
                made.cut()
            case 1:
                made.trim(name, offset, length)
            case _:
                made.write(name, offset, rng.randbytes(SECTOR) * (length // SECTOR))


def _there(made: Overtaken, rng: Random, steps: int) -> None:
    for _ in range(steps):
        name = rng.choice(list(made.paths))
        offset, length = _range(rng)
        change = rng.choice((made.other_trims, made.other_zeroes, None, None, None))
        if change is not None:
            change(name, offset, length)
        else:
            made.other_writes(name, offset, rng.randbytes(length))
        if not rng.randrange(4):
            made.other_cut()


def _killed_pass(made: Overtaken, rng: Random, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pass that may die at any write."""
    left = [rng.randrange(6)]
    plain = Disk.write

    def write(self: Disk, offset: int, data: memoryview) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise _Killed
        plain(self, offset, data)

    with monkeypatch.context() as patch:
        patch.setattr(Disk, "write", write)
        try:
            made.fail_back(words=LET_GO)
        except _Killed:
            return


def _stranger(made: Overtaken, rng: Random) -> None:
    """Somebody writes to a disk between two commands, and it looks younger for that."""
    name = rng.choice(list(made.paths))
    offset, length = _range(rng)
    made.put(name, offset, rng.randbytes(length))
    note = load_failback(made.directory)
    later_ns = max(note.touched_ns if note else 0, made.journal.time_ns) + 11 * 10**9
    os.utime(made.paths[name], ns=(later_ns, later_ns))


@pytest.mark.parametrize("is_complete", [True, False], ids=["the journal is complete", "it is not"])
@pytest.mark.parametrize("seed", range(SEEDS))
def test_the_disks_are_the_cut(
    seed: int, is_complete: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = Random(seed)
    made = Overtaken(tmp_path, {"disk": SIZE, "log": SIZE}, seed, encrypted=seed % 5 == 0)
    made.cut()
    _here(made, rng, rng.randrange(25))
    cuts = sorted(made.site.images)
    if rng.randrange(2):
        made.synced = made.journal.at
    _here(made, rng, rng.randrange(6))
    if not is_complete:
        for _ in range(3):  # past the journal
            offset, length = _range(rng)
            made.put(rng.choice(list(made.paths)), offset, rng.randbytes(length))
        made.page_changes = rng.choice(DOUBTS)
    made.stop()
    made.other_takes_over(rng.choice(cuts) if rng.randrange(2) else None)
    made.other_cut()
    for _ in range(rng.randrange(1, 4)):
        _there(made, rng, rng.randrange(12))
        newest = made.other_cut()
        if rng.randrange(2):
            _killed_pass(made, rng, monkeypatch)
        if not rng.randrange(4):
            _stranger(made, rng)
            if rng.randrange(2):
                _killed_pass(made, rng, monkeypatch)
        if not rng.randrange(3):
            base = rng.choice([cut for cut in made.site.images if cut.epoch == newest.epoch])
            made.other_takes_over(base)  # which leaves cuts behind
            newest = made.other_cut()
        if rng.randrange(2):
            assert made.fail_back(words=LET_GO) == newest
            made.assert_disks_are(newest)
    newest = made.other_cut()
    assert made.fail_back(words=LET_GO) == newest
    made.assert_disks_are(newest)


@pytest.mark.parametrize("seed", range(SEEDS))
def test_one_command_that_follows_takes_every_turn(seed: int, tmp_path: Path) -> None:
    rng = Random(1000 + seed)
    made = Overtaken(tmp_path, {"disk": SIZE, "log": SIZE}, seed)
    made.cut()
    _here(made, rng, rng.randrange(20))
    made.stop()
    made.other_takes_over(rng.choice(list(made.site.images)))
    made.other_cut()
    with made.failback(words=LET_GO) as run:
        for _ in range(8):
            _there(made, rng, rng.randrange(8))
            newest = made.other_cut()
            if not rng.randrange(3):
                made.other_takes_over(rng.choice([cut for cut in made.site.images if cut.epoch > 1]))
                newest = made.other_cut()
            if not rng.randrange(4) and newest.seq > 1:
                made.site.protect(newest)
            assert run.pass_to(Choice()) == newest
            made.assert_disks_are(newest)
