"""A real tree that another process changes almost without a pause: every exact cut is one instant.

Directories are renamed, exchanged and moved while they are walked; the writer notes the number of each change
in the tree, so what a cut must show is known.
"""

from __future__ import annotations

import copy
import multiprocessing
import os
import random
import time
from pathlib import Path
from typing import Final

import pytest

from tests.e2e.tree_ops import ATTRIBUTE, Disk, Model, Shown, is_amid
from tests.unit.watcher.model import Entry, Site

pytestmark = pytest.mark.slow

STEPS: Final = 10_000
PAUSE_ODDS: Final = 0.01
PAUSE_SECONDS_MAX: Final = 0.05
NUMBER: Final = b"number"
EXACT_MIN: Final = 3


def write(tree: Path, outside: Path, seed: int) -> None:
    """The writer's process."""
    disk, model, rng, pauses = Disk(tree, outside), Model(), random.Random(seed), random.Random(seed)
    number = os.open(tree / os.fsdecode(NUMBER), os.O_WRONLY)
    for step in range(1, STEPS + 1):
        op = model.propose(rng, step)
        disk.perform(op)
        model.apply(op)
        os.pwrite(number, b"%012d" % step, 0)
        if pauses.random() < PAUSE_ODDS:
            time.sleep(PAUSE_SECONDS_MAX * pauses.random())


def shown(entries: dict[bytes, Entry]) -> Shown:
    """What a container shows, as `Model.shown` has it."""
    found: Shown = {}
    for path, (kind, mode, _, _, _, target, xattrs, _, content, names) in entries.items():
        is_link = kind.value == "symlink"
        attribute = dict(xattrs).get(ATTRIBUTE.encode())
        what = (kind.value, 0 if is_link else mode, target if is_link else content or b"", attribute, names)
        if path not in (b"", NUMBER):
            found[path] = what
    return found


@pytest.mark.parametrize("seed", [7, 8])
def test_exact_cuts_of_a_busy_tree_are_instants(tmp_path: Path, seed: int) -> None:
    site, outside = Site(tmp_path), tmp_path / "outside"
    outside.mkdir()
    (site.tree / os.fsdecode(NUMBER)).write_bytes(b"%012d" % 0)
    site.begin()
    site.settle()
    writer = multiprocessing.get_context("spawn").Process(target=write, args=(site.tree, outside, seed))
    writer.start()
    exact: list[tuple[int, Shown]] = []
    while writer.is_alive():
        site.idle()
        taken = site.take(hold=False)
        if not taken.not_whole and not taken.skewed:
            entries = site.container.entries()
            exact.append((int(entries[NUMBER][8]), shown(entries)))
    writer.join()
    assert writer.exitcode == 0
    site.settle()
    site.assert_same()
    site.close()
    check(exact, seed)


def check(exact: list[tuple[int, Shown]], seed: int) -> None:
    """Each is the tree behind the change of its number or the next, or amid that where it is a write."""
    model, rng, step = Model(), random.Random(seed), 0
    before, op = model.shown(), model.propose(rng, 1)
    numbers = set()
    for number, found in exact:
        while step < number:
            model.apply(op)
            step += 1
            before, op = model.shown(), model.propose(rng, step + 1)
        if found != before:
            ahead = copy.deepcopy(model)
            ahead.apply(op)
            after = ahead.shown()
            different = sorted(path for path in {*found, *before} if found.get(path) != before.get(path))
            assert found == after or is_amid(found, before, after, op), (number, op[:2], different[:5])
        numbers.add(number)
    assert len(numbers) >= EXACT_MIN
