"""Random changes of a tree while the agent is killed and events overflow: every exact cut is one instant.

One program makes changes of one system call each and writes their number into the tree behind each. So what
a cut shows must be the tree behind the change of that number, or behind the next, or amid it where that is a
write; the seed is printed.
"""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cdp_agent.watcher.client import WatcherClient
from cdp_container.errors import WatcherFailed
from tests import tree_reader
from tests.e2e.tree_ops import Disk, Model, Op, Shown, is_amid
from tests.e2e.tree_storm import NAME, PATIENCE_SECONDS, VICTIMS, Storm, Working, assert_same, protected
from tests.tree_history import State
from tests.waiting import wait_until

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(0)]

SEED = 20264
ROUNDS_PER_KILL = 16
"""Of `--rounds`: one kill, and one overflow."""
STEPS = 500
PAUSE_SECONDS_MAX = 0.012
PAUSE_ODDS = 0.3
QUEUE_LIMIT = Path("/proc/sys/fs/inotify/max_queued_events")
QUEUE_MAX = 100_000
"""More is not filled here."""
NUMBER = b"number"
NOISE = (b"noise", b"noise/one", b"noise/other")
SKEWED_WINDOW = 200
"""For how many changes around its number a skewed cut may show a path."""


class Program:
    """Makes changes, and notes them."""

    def __init__(self, tree: Path, outside: Path, seed: int) -> None:
        self._disk = Disk(tree, outside)
        self._model = Model()
        self._rng = random.Random(seed)
        self._number = os.open(tree / os.fsdecode(NUMBER), os.O_WRONLY | os.O_CREAT, 0o600)
        self.ops: list[Op] = []
        self._say(0)

    def step(self, number: int) -> None:
        """The next change."""
        op = self._model.propose(self._rng, number)
        self.ops.append(op)
        self._disk.perform(op)
        self._model.apply(op)
        self._say(number)

    def pause(self) -> float:
        """Now and then, so that there are exact cuts."""
        return self._rng.random() * PAUSE_SECONDS_MAX if self._rng.random() < PAUSE_ODDS else 0.0

    def _say(self, number: int) -> None:
        os.pwrite(self._number, b"%012d" % number, 0)

    def close(self) -> None:
        """It is over."""
        os.close(self._number)

    def history(self) -> Iterator[Shown]:
        """The tree before the first change, and behind each."""
        model = Model()
        yield model.shown()
        for op in self.ops:
            model.apply(op)
            yield model.shown()


def shown(state: State) -> Shown:
    """What a cut shows, as `Model.shown` has it."""
    links: dict[object, list[bytes]] = {}
    for path, name in sorted(state.names.items()):
        links.setdefault(name.get("space") or path, []).append(path)
    found: Shown = {}
    for path, name in state.names.items():
        kind = name["type"]
        content = bytes.fromhex(name["target"]) if kind == "symlink" else state.content(path)
        attributes = dict(name.get("xattrs") or ())
        attribute = attributes.get(b"user.test".hex())
        found[path] = (
            kind,
            0 if kind == "symlink" else name["mode"],
            content if kind in ("file", "symlink") else b"",
            None if attribute is None else bytes.fromhex(attribute),
            tuple(links[name.get("space") or path]),
        )
    return {path: what for path, what in found.items() if path not in (b"", NUMBER, *NOISE)}


def overflow(storm: Storm, tree: Path) -> None:
    """Make more events than the kernel keeps while nobody reads them; again, where nobody watched yet."""
    client = WatcherClient(storm.site.journal)

    def is_heard() -> bool:
        pid = storm.agent.child("watcher")
        if pid is None or not asked(client).get("ready"):
            return False
        burst(pid, tree)
        return bool(asked(client).get("overflows"))

    wait_until(is_heard, "the overflow was heard of", PATIENCE_SECONDS)


def burst(watcher: int, tree: Path) -> None:
    """Events of two files by turns: of equal ones in a row the kernel keeps one."""
    paths = [os.path.join(os.fsencode(tree), path) for path in NOISE[1:]]
    os.kill(watcher, signal.SIGSTOP)
    try:
        for _ in range(int(QUEUE_LIMIT.read_text())):
            for path in paths:
                os.utime(path)
    finally:
        os.kill(watcher, signal.SIGCONT)


def asked(client: WatcherClient) -> dict[str, Any]:
    """What the watcher says of itself; nothing while there is none."""
    try:
        return client.status()
    except WatcherFailed:
        return {}


def test_every_exact_cut_is_one_instant(rounds: int, tmp_path: Path) -> None:
    assert int(QUEUE_LIMIT.read_text()) <= QUEUE_MAX, "the queue of this machine is too long to be filled"
    tree, outside = tmp_path / "tree", tmp_path / "outside"
    (tree / "noise").mkdir(parents=True)
    outside.mkdir()
    for path in NOISE[1:]:
        (tree / os.fsdecode(path)).touch()
    print(f"seed {SEED}")
    rng, program = random.Random(SEED), Program(tree, outside, SEED)
    kills = max(2, rounds // ROUNDS_PER_KILL)
    with protected(tree) as storm:
        with Working(program.step, program.pause) as working:
            for number in range(kills):
                working.advance(STEPS)
                storm.hit(VICTIMS[number % len(VICTIMS)] if number < len(VICTIMS) else rng.choice(VICTIMS))
                working.advance(STEPS)
                storm.until_whole()
                overflow(storm, tree)
                working.advance(STEPS)
                storm.until_whole()
        program.close()
        storm.finish(tree)
        check_independently(storm, tree, tmp_path / "extracted")
        check_cuts(storm, program, kills)


def check_independently(storm: Storm, tree: Path, target: Path) -> None:
    """The other reader of trees makes the same of the newest cut."""
    container = storm.container()
    cut = container.newest_cut()
    tree_reader.extract(container, tree_reader.trees(container, cut)[NAME], os.fsencode(target), cut)
    assert_same(tree, target, "-aHni")


def check_cuts(storm: Storm, program: Program, kills: int) -> None:
    """Each exact cut is the tree behind the change whose number it has, or the next."""
    cuts = [
        (state.place, int(state.content(NUMBER)), state.is_exact, state.skewed, shown(state))
        for state in storm.states()
        if state.is_whole and NUMBER in state.names
    ]
    skewed = 0
    history = list(program.history())
    for place, number, is_exact, paths, found in cuts:
        if is_exact:
            fitting = history[number : number + 2]
            op = program.ops[number] if len(fitting) == 2 else None
            assert found in fitting or (op and is_amid(found, fitting[0], fitting[1], op)), (
                place, number, different(found, fitting[0]), op,
            )  # fmt: skip
        else:
            skewed += 1
            check_skewed(found, paths, history[max(0, number - SKEWED_WINDOW) : number + SKEWED_WINDOW])
    numbers = {number for _, number, is_exact, _, _ in cuts if is_exact}
    print(f"{len(program.ops)} changes; exact cuts at {len(numbers)} of them, {skewed} skewed cuts")
    assert len(numbers) > 2 * kills


def check_skewed(found: Shown, paths: frozenset[bytes], history: list[Shown]) -> None:
    """What is not named as skewed was there, as it is, at some time about then."""
    for path in found.keys() - paths:
        assert any(path in behind and behind[path][:4] == found[path][:4] for behind in history), path


def different(ours: Shown, theirs: Shown) -> list[object]:
    """The first paths that differ, of contents their lengths."""

    def short(what: tuple[Any, ...] | None) -> object:
        return what and (what[0], what[1], len(what[2]), what[3], what[4])

    paths = sorted(path for path in {*ours, *theirs} if ours.get(path) != theirs.get(path))
    return [(path, short(ours.get(path)), short(theirs.get(path))) for path in paths[:5]]
