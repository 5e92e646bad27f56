"""Whatever happens to a tree, to events and to batches: after quiescence the container has the tree.

Random changes of a real directory, the real watcher in one process, batches taken at any moment; events
overflow, watchers are killed, batches are lost, epochs begin on older cuts. At every cut that is whole the
container must have what the tree had: nothing changes during a take here.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from cdp_agent.watcher.gathered import Limits
from tests.unit.watcher.model import FreeHold, Site, assert_same, directory_entries
from tests.unit.watcher.test_take import ActingHold

pytestmark = pytest.mark.timeout(600)
"""It waits for events ten thousand times: seconds on an idle machine, minutes where others want its cores."""

PATHS = ("a", "b", "c\udcff", "d.tmp", "a/a", "a/b", "b/a", "b/c", "a/a/b", "a/a/a")
paths = st.sampled_from(PATHS).map(Path)
contents = st.tuples(st.integers(0, 255), st.sampled_from((0, 1, 100, 4096, 5000, 70_000, (1 << 20) + 5)))
SMALL = Limits(content_bytes=200_000, records=6)


class TreeMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        # In memory where there is such a place: the index is synced at every take.
        place = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
        self.directory = Path(tempfile.mkdtemp(prefix="cdp-tree-", dir=place))
        self.site: Site

    @initialize(small=st.booleans(), dirty_max=st.sampled_from((3, 100_000)))
    def begin(self, small: bool, dirty_max: int) -> None:
        self.site = Site(self.directory, SMALL if small else None, dirty_max)
        self.site.begin()

    def teardown(self) -> None:
        try:
            if hasattr(self, "site"):
                self.site.settle()
                self.site.assert_same()
        finally:
            if hasattr(self, "site"):
                self.site.close()
            shutil.rmtree(self.directory)

    def at(self, path: Path) -> Path:
        return self.site.tree / path

    def openable(self, path: Path) -> Path:
        """Whoever opens a FIFO waits for ever."""
        if self.at(path).is_fifo():
            raise OSError("not to be opened")
        return self.at(path)

    # --- changes ----------------------------------------------------------------------------

    @rule(path=paths, content=contents)
    def write(self, path: Path, content: tuple[int, int]) -> None:
        self.attempt(lambda: self.openable(path).write_bytes(bytes([content[0]]) * content[1]))

    @rule(path=paths, offset=st.sampled_from((0, 4096, 1 << 20, 3 << 20)), byte=st.integers(0, 255))
    def write_in_place(self, path: Path, offset: int, byte: int) -> None:
        def change() -> None:
            fd = os.open(self.openable(path), os.O_RDWR | os.O_CREAT)
            os.pwrite(fd, bytes([byte]) * 10, offset)
            os.close(fd)

        self.attempt(change)

    @rule(path=paths, size=st.sampled_from((0, 10, 4096, 5000, 3 << 20)))
    def truncate(self, path: Path, size: int) -> None:
        self.attempt(lambda: os.truncate(self.at(path), size))

    @rule(path=paths)
    def make_directory(self, path: Path) -> None:
        self.attempt(lambda: self.at(path).mkdir(parents=True))

    @rule(old=paths, new=paths)
    def rename(self, old: Path, new: Path) -> None:
        self.attempt(lambda: os.rename(self.at(old), self.at(new)))

    @rule(old=paths, new=paths)
    def link(self, old: Path, new: Path) -> None:
        self.attempt(lambda: os.link(self.at(old), self.at(new), follow_symlinks=False))

    @rule(old=paths, new=paths, byte=st.integers(0, 255), whole=st.booleans())
    def write_linked(self, old: Path, new: Path, byte: int, whole: bool) -> None:
        """Known by several names, written through one."""
        self.attempt(lambda: self.openable(old).touch())
        self.link(old, new)
        self.take(lose=False)
        if whole:
            self.site.settle()
        self.write_in_place(new, 0, byte)
        self.take(lose=False)

    @rule(path=paths)
    def symlink(self, path: Path) -> None:
        self.attempt(lambda: os.symlink("a/../elsewhere", self.at(path)))

    @rule(path=paths)
    def fifo(self, path: Path) -> None:
        self.attempt(lambda: os.mkfifo(self.at(path)))

    @rule(path=paths)
    def remove(self, path: Path) -> None:
        self.attempt(lambda: os.unlink(self.at(path)))

    @rule(path=paths)
    def remove_all(self, path: Path) -> None:
        self.attempt(lambda: shutil.rmtree(self.openable(path)))

    @rule(path=paths, mode=st.sampled_from((0o700, 0o755, 0o7711)))
    def chmod(self, path: Path, mode: int) -> None:
        self.attempt(lambda: os.chmod(self.at(path), mode))

    @rule(path=paths, value=st.binary(max_size=5))
    def set_xattr(self, path: Path, value: bytes) -> None:
        self.attempt(lambda: os.setxattr(self.at(path), "user.test", value))

    @rule(path=paths)
    def replace(self, path: Path) -> None:
        def change() -> None:
            fresh = self.at(path).with_name("fresh")
            fresh.write_bytes(os.urandom(20))
            os.rename(fresh, self.at(path))

        self.attempt(change)

    @rule(path=paths)
    def move_out_and_in(self, path: Path) -> None:
        def change() -> None:
            away = self.directory / "away"
            os.rename(self.at(path), away)
            self.at(path).write_bytes(b"another")
            os.unlink(self.at(path))
            os.rename(away, self.at(path))

        self.attempt(change)

    def attempt(self, change: object) -> None:
        assert callable(change)
        try:
            change()
        except OSError:
            return  # what is there does not allow it

    # --- the watcher ------------------------------------------------------------------------

    @rule()
    def idle(self) -> None:
        self.site.watcher.idle()

    @rule(lose=st.booleans())
    def take(self, lose: bool) -> None:
        taken = self.site.take(lose=lose)
        if not lose and not taken.not_whole and not taken.skewed:
            assert_same(self.site.container.entries(), directory_entries(self.site.tree))

    @rule(path=paths, offset=st.sampled_from((0, 4096, 1 << 20)), byte=st.integers(0, 255))
    def take_while_it_is_written(self, path: Path, offset: int, byte: int) -> None:
        """Before the hold, and under it: what was read for this batch is read again."""
        self.write_in_place(path, offset + 8192, byte)
        self.site.new_hold = lambda: ActingHold(lambda: self.write_in_place(path, offset, byte))
        self.take(lose=False)
        self.site.new_hold = FreeHold

    @rule()
    def settle(self) -> None:
        self.site.settle()
        self.site.assert_same()

    @rule()
    def overflow(self) -> None:
        with self.site.watcher.events.lock:
            self.site.watcher.events.overflow()

    @rule(back=st.integers(0, 3))
    def begin_again(self, back: int) -> None:
        self.site.begin(back)

    @rule(back=st.integers(0, 2))
    def kill(self, back: int) -> None:
        self.site.restart()
        self.site.begin(back)

    @precondition(lambda self: len(self.site.cuts) > 1)
    @rule()
    def protect(self) -> None:
        self.site.watcher.protected(self.site.place.epoch, self.site.place.cut)
        del self.site.cuts[:-1]

    @invariant()
    def sound(self) -> None:
        if hasattr(self, "site"):
            self.site.container.check(is_whole=False)


TestTrees = TreeMachine.TestCase
TestTrees.settings = settings(
    max_examples=100,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


def test_two_files_of_one_batch_that_were_not_read_to_their_ends() -> None:
    """A story that failed once: one of them was gone on with, the other forgotten."""
    machine = TreeMachine()
    machine.begin(small=True, dirty_max=3)
    machine.idle()
    machine.write_linked(byte=1, new=Path("b"), old=Path("c"), whole=False)
    machine.remove(path=Path("b"))
    machine.write(content=(1, 1048581), path=Path("b"))
    machine.take_while_it_is_written(byte=243, offset=1048576, path=Path("c"))
    machine.teardown()
