"""Random trees, changed at random, restored at random cuts over each other: always what the model had."""

from __future__ import annotations

import itertools
import random
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cdp_container.format.names import Name, NameType
from rehydrate.tree_target import Ways
from tests.containers import Site
from tests.trees import Tree, directory, file
from tests.unit.rehydrate.trees import CountingStore, assert_same, restore

PARTS = [b"a", b"b", b"c-", b"\xff", b"d e"]


class Play:
    """One tree that changes at random; every name and every change of content has a time of its own."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.site = Site(CountingStore(), seed=seed)
        self.site.begin_epoch()
        self.home = Tree(self.site)
        self._times = itertools.count(1_000)
        self._fresh: set[bytes] = set()

    def step(self) -> None:
        """One change, as a program may make it."""
        getattr(
            self, self.rng.choice(["make", "make", "write", "rename", "remove", "link", "touch", "replace"])
        )()

    def cut(self) -> None:
        self.home.cut()
        self._fresh.clear()

    def make(self) -> None:
        path = self._free()
        if path is None:
            return
        what, time = self.rng.randrange(6), next(self._times)
        if what < 2:
            self.home.add(path, directory(mtime_ns=time, mode=self.rng.choice([0o700, 0o755, 0o2770])))
        elif what < 5:
            self._note(
                self.home.file(path, self._data(), mtime_ns=time, mode=self.rng.choice([0o600, 0o4755]))
            )
        else:
            self.home.add(path, file(mtime_ns=time)._replace(type=NameType.SYMLINK, target=b"../" + path))

    def write(self) -> None:
        path = self._file(with_content=True)
        if path is not None:
            self.home.write(path, self._data() or b"x", mtime_ns=next(self._times))

    def touch(self) -> None:
        path = self._file()
        if path is not None:
            twins = self.home.twins(path)
            new = self.home.names[path]._replace(mtime_ns=next(self._times), mode=0o640)
            for twin in twins:
                self.home.add(twin, new)

    def link(self) -> None:
        old, new = self._file(with_content=True), self._free()
        if old is not None and new is not None:
            self.home.link(old, new)

    def rename(self) -> None:
        old, new = self._any(), self._free()
        if old and new and not new.startswith(old + b"/"):
            self.home.rename(old, new)

    def remove(self) -> None:
        path = self._any()
        if path:
            for below in sorted((p for p in self.home.names if p.startswith(path + b"/")), reverse=True):
                self._remove(below)
            self._remove(path)

    def replace(self) -> None:
        """As editors do: a new file takes the name of an old one."""
        path = self._file()
        if path is not None and len(self.home.twins(path)) == 1:
            self._remove(path)
            self._note(self.home.file(path, self._data(), mtime_ns=next(self._times)))

    def _remove(self, path: bytes) -> None:
        """A content that this cut made is gone before anybody knew of it: an agent would not speak of it."""
        name = self.home.names[path]
        if name.space in self._fresh and len(self.home.twins(path)) == 1:
            self.home.link(path, path)  # it stays
            return
        if name.type is NameType.DIRECTORY and any(p.startswith(path + b"/") for p in self.home.names):
            return
        self.home.remove(path)

    def _note(self, name: Name) -> None:
        if name.space is not None:
            self._fresh.add(name.space)

    def _data(self) -> bytes:
        rng = self.rng
        sizes = [rng.choice([0, 1, 100, 4096, 5000, 70_000]) for _ in range(rng.randrange(4))]
        return b"".join(rng.randbytes(size) if rng.random() < 0.5 else bytes(size) for size in sizes)

    def _any(self) -> bytes | None:
        paths = sorted(path for path in self.home.names if path)
        return self.rng.choice(paths) if paths else None

    def _file(self, with_content: bool = False) -> bytes | None:
        names = self.home.names
        paths = [p for p, n in names.items() if n.type is NameType.FILE and (n.space or not with_content)]
        return self.rng.choice(sorted(paths)) if paths else None

    def _free(self) -> bytes | None:
        ways = sorted(
            p for p, n in self.home.names.items() if n.type is NameType.DIRECTORY and p.count(b"/") < 4
        )
        above, part = self.rng.choice(ways), self.rng.choice(PARTS)
        path = above + b"/" + part if above else part
        return None if path in self.home.names else path


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 1 << 32))
def test_every_cut_over_every_other(seed: int) -> None:
    play = Play(seed)
    for _ in range(play.rng.randrange(2, 6)):
        for _ in range(play.rng.randrange(1, 15)):
            play.step()
        play.cut()
    places = list(play.home.at)
    with tempfile.TemporaryDirectory() as directory_name:
        target = Path(directory_name) / "to"
        for place in [*places, *play.rng.sample(places, len(places))]:
            ways = Ways(delete=True, checksum=play.rng.random() < 0.3)
            restore(play.site, place, target, ways=ways, sums=play.rng.random() < 0.7)
            assert_same(target, play.home.at[place])


@pytest.mark.parametrize("seed", range(3))
def test_after_collection(seed: int, tmp_path: Path) -> None:
    play = Play(seed)
    for _ in range(6):
        for _ in range(20):
            play.step()
        play.cut()
    play.site.collect(1, 1, 4)
    for place in list(play.home.at)[4:]:
        restore(play.site, place, tmp_path / str(place.cut))
        assert_same(tmp_path / str(place.cut), play.home.at[place])
