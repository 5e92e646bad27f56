"""A restore that was interrupted goes on where it was durable, and only where that can be trusted."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import random
import shutil
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

from cdp_container.clock import SystemClock
from cdp_container.errors import AlreadyRunning, DamagedObject, TargetNotEmpty
from cdp_container.format.keys import segment_key
from rehydrate import keeper as keeping
from rehydrate import plan as planning
from rehydrate.container import Secret, open_container
from rehydrate.plan import Choice
from rehydrate.points import plan_restore
from rehydrate.restore import Source, restore_volume
from rehydrate.resume import Done, Image, Progress, progress_path, read_progress, write_progress
from rehydrate.target import open_target
from tests.containers import PASSPHRASE, Site, write
from tests.unit.rehydrate.conftest import CountingStore, damage
from tests.unit.rehydrate.conftest import Run as Command

SIZE: Final = 1 << 20
CUTS: Final = 16


class DyingStore(CountingStore):
    """A store after `left` ranged reads of which the process that reads is ended; None: never."""

    left: int | None = None

    def get_range(self, key: str, start: int, length: int) -> bytes:
        if self.left is not None:
            if self.left <= 0:
                raise KeyboardInterrupt
            self.left -= 1
        return super().get_range(key, start, length)


@dataclass(frozen=True)
class Run:
    """One run of a restore: what it planned, what it found done, and what it read."""

    planned_gets: int
    gets_before: int
    gets: int


class Restoring:
    """A container of one volume in many small frames, restored again and again."""

    def __init__(self) -> None:
        self.store = DyingStore(SystemClock())
        self.site = Site(self.store)
        self.disk = self.site.add_volume("disk", SIZE)
        self.site.begin_epoch()
        for number in range(CUTS - 1):
            data = self.site.rng.randbytes(SIZE // CUTS)
            self.site.cut([write(self.disk, number * (SIZE // CUTS), data)])
        self.site.cut([write(self.disk, 5_000, self.site.rng.randbytes(300_000))])

    def content(self, cut: int = CUTS) -> bytes:
        return next(image[self.disk] for place, image in self.site.images.items() if place.cut == cut)

    def run(self, path: Path, ends_after: int | None = None, cut: int = CUTS, restart: bool = False) -> Run:
        """Restore, and be ended after so many reads."""
        self.store.left = None
        container = open_container(self.store, Secret(PASSPHRASE))
        with closing(container.gather(container.history.everything())) as contents:
            (plan,) = plan_restore(container, contents, Choice(at=(1, cut)), []).volumes
            source = Source(self.store, container.keys, contents)
            self.store.asked.clear()
            self.store.left = ends_after
            image = Image(contents.domain.hex(), 1, cut, self.disk.hex(), SIZE, "")
            before = 0
            with (
                contextlib.suppress(KeyboardInterrupt),
                open_target(path, SIZE, 0, False, image, restart) as target,
            ):
                before = target.done.fetches
                restore_volume(source, plan, target, lambda _: None)
                target.forget()
        return Run(plan.totals.gets, before, len(self.store.asked))


@pytest.fixture(autouse=True)
def small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many requests, and a note of each."""
    monkeypatch.setattr(planning, "FETCH_BYTES_MAX", 1)
    monkeypatch.setattr(keeping, "KEEP_BYTES", 1)


@pytest.fixture(scope="module")
def restoring() -> Restoring:
    return Restoring()


@pytest.fixture
def half_done(restoring: Restoring, tmp_path: Path) -> Path:
    """A target whose restore was interrupted after some of it was durable."""
    path = tmp_path / "disk.raw"
    restoring.run(path, ends_after=CUTS // 2)
    kept = read_progress(path)
    assert kept is not None
    assert kept.done.fetches > 0
    return path


@pytest.mark.parametrize("seed", range(8))
def test_what_is_durable_is_not_fetched_again(restoring: Restoring, seed: int, tmp_path: Path) -> None:
    rng = random.Random(seed)
    path = tmp_path / "disk.raw"
    runs = []
    while not path.exists():
        runs.append(restoring.run(path, ends_after=rng.randrange(1, CUTS + 4)))
        assert runs[-1].gets <= runs[-1].planned_gets - runs[-1].gets_before
    assert runs[-1].gets == runs[-1].planned_gets - runs[-1].gets_before
    assert [run.gets_before for run in runs] == sorted(run.gets_before for run in runs)
    assert path.read_bytes() == restoring.content()
    assert [found.name for found in tmp_path.iterdir()] == ["disk.raw"]


def test_nothing_durable_leaves_nothing(restoring: Restoring, tmp_path: Path) -> None:
    restoring.run(tmp_path / "disk.raw", ends_after=0)
    assert list(tmp_path.iterdir()) == []


def test_a_killed_restore_goes_on_even_where_it_had_only_begun(restoring: Restoring, tmp_path: Path) -> None:
    """What a process that is killed leaves: nobody removes it."""
    path = tmp_path / "disk.raw"
    partial = tmp_path / "disk.raw.partial"
    partial.touch()
    os.truncate(partial, SIZE)
    status = partial.stat()
    image = Image(restoring.site.domain.hex(), 1, CUTS, restoring.disk.hex(), SIZE, "")
    write_progress(path, Progress(image, status.st_ino, status.st_mtime_ns, Done()))
    restoring.run(path)
    assert path.read_bytes() == restoring.content()


def test_another_point_is_refused_and_told_how_to_go_on(restoring: Restoring, half_done: Path) -> None:
    with pytest.raises(TargetNotEmpty, match=f"interrupted restore of point 1.{CUTS}") as caught:
        restoring.run(half_done, cut=3)
    assert f"--at 1.{CUTS} goes on with it" in caught.value.hint
    restoring.run(half_done, cut=3, restart=True)
    assert half_done.read_bytes() == restoring.content(3)


def test_restart_fetches_everything(restoring: Restoring, half_done: Path) -> None:
    run = restoring.run(half_done, restart=True)
    assert (run.gets_before, run.gets) == (0, run.planned_gets)
    assert half_done.read_bytes() == restoring.content()


def test_a_changed_byte_of_what_was_written_is_noticed(restoring: Restoring, half_done: Path) -> None:
    kept = read_progress(half_done)
    assert kept is not None
    with half_done.with_name("disk.raw.partial").open("r+b") as partial:
        partial.seek(kept.done.samples[-1].offset)
        partial.write(b"changed")
    with pytest.raises(TargetNotEmpty, match="does not hold any more"):
        restoring.run(half_done)
    assert not half_done.exists()
    restoring.run(half_done, restart=True)
    assert half_done.read_bytes() == restoring.content()


def test_a_copy_and_an_older_state_and_another_size_are_refused(
    restoring: Restoring, half_done: Path
) -> None:
    partial = half_done.with_name("disk.raw.partial")
    status = partial.stat()
    os.utime(partial, ns=(status.st_mtime_ns, status.st_mtime_ns - 10**9))
    with pytest.raises(TargetNotEmpty, match="changed since"):
        restoring.run(half_done)
    os.utime(partial)
    os.truncate(partial, SIZE + 512)
    with pytest.raises(TargetNotEmpty, match="changed since"):
        restoring.run(half_done)
    os.truncate(partial, SIZE)
    shutil.copy(partial, half_done.with_name("copy"))
    half_done.with_name("copy").rename(partial)
    with pytest.raises(TargetNotEmpty, match="changed since"):
        restoring.run(half_done)


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b'{"version": 3}', b'{"version": 2, "done": 3}', b"\xff"]
)
def test_a_note_that_makes_no_sense_is_no_note(restoring: Restoring, half_done: Path, content: bytes) -> None:
    progress_path(half_done).write_bytes(content)
    with pytest.raises(TargetNotEmpty, match="left by a restore that was killed") as caught:
        restoring.run(half_done)
    assert "--restart" in caught.value.hint


def test_a_living_restore_is_never_joined(restoring: Restoring, half_done: Path) -> None:
    with half_done.with_name("disk.raw.partial").open("rb") as partial:
        fcntl.flock(partial, fcntl.LOCK_EX)
        for restart in (False, True):
            with pytest.raises(AlreadyRunning):
                restoring.run(half_done, restart=restart)


def test_a_finished_target_is_known_until_it_is_touched(restoring: Restoring, tmp_path: Path) -> None:
    path = tmp_path / "disk.raw"
    assert restoring.run(path).gets > 0
    status = path.stat()
    image = Image(restoring.site.domain.hex(), 1, CUTS, restoring.disk.hex(), SIZE, "")
    write_progress(path, Progress(image, status.st_ino, status.st_mtime_ns, Done(upto=SIZE)))
    assert restoring.run(path).gets == 0
    write_progress(path, Progress(image, status.st_ino, status.st_mtime_ns, Done(upto=SIZE)))
    path.touch()
    with pytest.raises(TargetNotEmpty, match=f"holds {SIZE} bytes"):
        restoring.run(path)


def test_the_command_says_that_it_goes_on(run: Command, empty: Site, place: Path, out: Path) -> None:
    disk = empty.add_volume("disk", SIZE)
    empty.begin_epoch()
    for number in range(3):
        empty.cut([write(disk, number * 200_000, empty.rng.randbytes(200_000))])
    empty.protect(max(empty.images))
    sound = (place / segment_key(1, 3)).read_bytes()
    damage(place, segment_key(1, 3), -5_000)
    arguments = ("restore", place, "--target", out / "disk.raw")
    code, _, stderr = run(*arguments)
    assert code == DamagedObject.exit_code
    assert "the same command goes on with it" in stderr
    (place / segment_key(1, 3)).write_bytes(sound)
    code, stdout, stderr = run(*arguments, "--json")
    assert code == 0
    assert "going on with the interrupted restore" in stderr
    report = json.loads(stdout)
    assert 0 < report["resumed_bytes"] == 600_000 - report["written_bytes"]
    assert (out / "disk.raw").read_bytes() == next(reversed(empty.images.values()))[disk]
