"""Every state that a crash can leave of a short story; what is owed then is in `enumeration.judging`.

Killed or without power between any two calls to the kernel, with any part of what was not synced. By default
three operations of a guest on a new journal, and two of what else can happen, there and on journals in other
states. `--deep`: three of everything everywhere, and for two every state recovered in full (`make simulate`).
"""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from shutil import rmtree

import pytest

from tests.unit.splitter.enumeration.judging import Judge
from tests.unit.splitter.enumeration.story import LETTERS, PRELUDES, Prelude, record

GUEST = ("write", "overlap", "zero", "trim", "fua", "flush")
TURNS = ("write", "overlap", "fua", "flush under a write", "kill", "prove", "power, disks kept")
FAILURES = ("overlap", "far", "flush", "flush, disk fails", "flush, journal fails", "mend", "go on", "kill")
# What matters most to a journal in this state.
OTHERS = {
    "new": (*TURNS, *FAILURES[1:-1], "other", "restart", "idle", "flush, disks first", "power, journal kept"),
    "amid": TURNS,
    "recycled": TURNS,
    "turning": (*TURNS, "flush, journal fails"),
    "full": (*FAILURES, "idle", "power, disks kept"),
    "tight": FAILURES,
}
PRELUDE = {prelude.name: prelude for prelude in PRELUDES}
FAILED_ONCE = [
    (
        "turning",
        "overlap",
        "kill",
    ),  # the new generation's file was durable before the header of the one before
    ("turning", "overlap", "flush, journal fails"),  # a journal that was given up may lose its newest file
    (
        "full",
        "write",
        "kill",
        "flush",
    ),  # what a killed process wrote past the journal was not synced by a flush
]
"""Each for a reason of its own; never taken out."""


def groups(deep: bool) -> Iterator[tuple[Prelude, str, Sequence[str], int]]:
    """Prelude, first letter, the letters that may follow it, and how many there are in all."""
    if deep:
        for depth in (2, 3):
            yield from (
                (prelude, letter, tuple(LETTERS), depth) for prelude in PRELUDES for letter in LETTERS
            )
        return
    yield from ((PRELUDE["new"], letter, GUEST, 3) for letter in GUEST)
    yield from ((PRELUDE[name], letter, letters, 2) for name, letters in OTHERS.items() for letter in letters)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "letters" in metafunc.fixturenames:
        chosen = list(groups(metafunc.config.getoption("--deep")))
        names = [f"{prelude.name}: {first}, {depth} deep" for prelude, first, _, depth in chosen]
        metafunc.parametrize(("prelude", "first", "letters", "depth"), chosen, ids=names)


@pytest.fixture
def scratch(tmp_path: Path) -> Iterator[Path]:
    """Thousands of small files are made: in memory, where a machine has that."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else tmp_path) as directory:
        yield Path(directory)


def judge_all(scratch: Path, judge: Judge, prelude: Prelude, stories: Iterator[Sequence[str]]) -> None:
    """Judge the last letter of each story: what came before it is another one's."""
    for story in stories:
        rmtree(scratch / "story", ignore_errors=True)
        (scratch / "story").mkdir()
        judge.judge(*record(scratch / "story", prelude, story), name=f"{prelude.name}: {' | '.join(story)}")


@pytest.mark.parametrize("told", FAILED_ONCE, ids=" | ".join)
def test_stories_that_failed_once(scratch: Path, told: Sequence[str]) -> None:
    prelude = PRELUDE[told[0]]
    judge_all(scratch, Judge(scratch / "crashed", prelude.limit_files), prelude, iter([told[1:]]))


def test_the_first_start_ever(scratch: Path) -> None:
    prelude = PRELUDE["new"]
    judge_all(scratch, Judge(scratch / "crashed", prelude.limit_files), prelude, iter([()]))


@pytest.mark.slow
def test_what_a_crash_leaves_is_mended_as_promised(
    scratch: Path,
    prelude: Prelude,
    first: str,
    letters: Sequence[str],
    depth: int,
    request: pytest.FixtureRequest,
) -> None:
    judge = Judge(
        scratch / "crashed", prelude.limit_files, every=request.config.getoption("--deep") and depth < 3
    )
    rests = (rest for count in range(depth) for rest in itertools.product(letters, repeat=count))
    judge_all(scratch, judge, prelude, ((first, *rest) for rest in rests))
    assert judge.recovered, "something was judged"
