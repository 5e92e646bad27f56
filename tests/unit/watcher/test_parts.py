"""The pure parts of the watcher, and those that read one file."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdp_agent.watcher.content import Reading, read_on, tail_sum
from cdp_agent.watcher.dirty import DEEP, LOOK, READ, Dirty
from cdp_agent.watcher.rooted import Foreign, Root, is_gone
from cdp_container.domain.tree_patterns import Patterns
from cdp_container.format.layout import ExtentKind
from cdp_container.format.segment import NewExtent
from cdp_container.format.sums import block_sums

SPACE = b"s" * 16

# --- patterns ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pattern", "fits", "not_fits"),
    [
        ("*.tmp", (b"a.tmp", b"x/y/a.tmp", b".tmp"), (b"a.tmpx", b"a.tmp/x", b"tmp")),
        ("/a", (b"a",), (b"x/a", b"ab")),
        ("a/b", (b"a/b",), (b"x/a/b", b"a/bc", b"a")),
        ("a/**/z", (b"a/z", b"a/b/c/z"), (b"az", b"a/b/zz")),
        ("**/z", (b"z", b"a/b/z"), (b"zz",)),
        ("a/**", (b"a/b", b"a/b/c"), (b"a", b"b/a/c")),
        ("?", (b"a", b"\xff", b"x/a"), (b"ab", b"")),
        ("[!a-c]x", (b"dx", b"y/zx"), (b"ax", b"x", b"y/x")),
        ("[]a]", (b"]", b"a"), (b"b",)),
        ("[", (b"[",), (b"a",)),
        ("a.b", (b"a.b",), (b"axb",)),
        ("caf\udcc3*", (b"caf\xc3\xa9",), (b"cafe",)),
    ],
)
def test_patterns(pattern: str, fits: tuple[bytes, ...], not_fits: tuple[bytes, ...]) -> None:
    patterns = Patterns(exclude=(pattern,))
    assert [path for path in fits if not patterns.excludes(path, is_directory=False)] == []
    assert [path for path in not_fits if patterns.excludes(path, is_directory=False)] == []


def test_a_slash_at_the_end_fits_directories_only() -> None:
    patterns = Patterns(exclude=("cache/",))
    assert patterns.excludes(b"x/cache", is_directory=True)
    assert not patterns.excludes(b"x/cache", is_directory=False)


def test_includes_are_exceptions_and_the_root_is_never_left_out() -> None:
    patterns = Patterns(include=("keep.*",), exclude=("*",))
    assert patterns.excludes(b"other", is_directory=False)
    assert not patterns.excludes(b"keep.me", is_directory=False)
    assert not patterns.excludes(b"", is_directory=True)
    assert not Patterns(include=("a",)).excludes(b"b", is_directory=False)


@given(st.text(min_size=1, max_size=12).filter(lambda text: "\0" not in text.strip("/") != ""))
def test_any_pattern_can_be_asked(pattern: str) -> None:
    Patterns(exclude=(pattern,)).excludes(b"some/path", is_directory=False)


# --- dirty -------------------------------------------------------------------------------------


def test_too_many_dirty_paths_are_a_doubt() -> None:
    dirty = Dirty(2, limit=2)
    dirty.begin_scan(0)
    for path in (b"a", b"b"):
        dirty.add(0, path, LOOK)
    assert not dirty.is_in_doubt(0)
    dirty.add(0, b"c", LOOK)
    assert dirty.is_in_doubt(0)
    assert (dirty.count, dict(dirty.of(0))) == (0, {})
    dirty.add(0, b"d", LOOK)
    assert dirty.count == 0


def test_only_what_is_news_counts_as_a_change() -> None:
    dirty = Dirty(1)
    assert dirty.anything
    dirty.begin_scan(0)
    before = dirty.changes
    for bits in (LOOK, LOOK, LOOK | READ, READ, DEEP):
        dirty.add(0, b"a", bits)
    assert dirty.changes == before + 3
    assert dirty.take(0) == {b"a": LOOK | READ | DEEP}
    assert (dirty.count, dirty.anything) == (0, False)


# --- content -----------------------------------------------------------------------------------


class Kept:
    """Sums in memory."""

    def __init__(self) -> None:
        self.rows: dict[int, bytes] = {}

    def sums(self, file: int, chunk: int) -> bytes:
        return self.rows.get(chunk, b"")

    def put_sums(self, file: int, chunk: int, sums: bytes) -> None:
        self.rows.pop(chunk, None)
        if sums.strip(b"\0"):
            self.rows[chunk] = sums

    def chunks(self, file: int, first: int, beyond: int) -> Iterator[int]:
        return iter(sorted(chunk for chunk in self.rows if first <= chunk < beyond))


def read(path: Path, sums: Kept, unknown: tuple[tuple[int, int], ...] = ()) -> list[NewExtent]:
    found: list[NewExtent] = []
    fd = os.open(path, os.O_RDONLY)
    reading = Reading(fd, 1, SPACE, os.fstat(fd).st_size)
    assert read_on(reading, sums, found.append, unknown, lambda: True)
    os.close(fd)
    return found


def test_a_file_that_was_cut_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"x" * 100)
    fd = os.open(path, os.O_RDONLY)
    assert not read_on(Reading(fd, 1, SPACE, 101), Kept(), lambda extent: None, (), lambda: True)
    os.close(fd)


def test_only_what_differs_is_found(tmp_path: Path) -> None:
    path, sums = tmp_path / "f", Kept()
    content = bytearray(os.urandom(3 << 20) + b"tail")
    path.write_bytes(content)
    assert sum(extent.length for extent in read(path, sums)) == len(content)
    assert read(path, sums) == []
    content[5000] ^= 1
    content[1 << 20 : (1 << 20) + 8192] = bytes(8192)
    path.write_bytes(content)
    found = [(extent.offset, extent.length, extent.kind) for extent in read(path, sums)]
    assert found == [(4096, 4096, ExtentKind.DATA), (1 << 20, 8192, ExtentKind.ZERO)]
    assert sum(extent.length for extent in read(path, sums, ((1, 2),))) == 1 << 20


def test_holes_of_a_file_are_not_read(tmp_path: Path) -> None:
    path, sums = tmp_path / "f", Kept()
    path.write_bytes(b"x" * (2 << 20))
    read(path, sums)
    path.unlink()
    with path.open("wb") as file:
        file.truncate(8 << 40)
        file.seek(4 << 40)
        file.write(b"y" * 4096)
    found = [(extent.offset, extent.length, extent.kind) for extent in read(path, sums)]
    assert found == [
        (0, 1 << 20, ExtentKind.ZERO), (1 << 20, 1 << 20, ExtentKind.ZERO), (4 << 40, 4096, ExtentKind.DATA)
    ]  # fmt: skip
    assert list(sums.rows) == [4 << 20]


def test_the_sum_of_a_tail_is_none_of_a_block() -> None:
    assert tail_sum(b"a" * 4095) not in (block_sums(0, b"a" * 4096), tail_sum(b"a" * 4094))


# --- going into a tree -------------------------------------------------------------------------


def test_no_link_is_followed(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_bytes(b"x")
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "link").symlink_to(outside)
    (tree / "file").symlink_to(outside / "secret")
    root = Root(tree, one_file_system=True)
    assert root.lstat(b"link/secret") is None
    with pytest.raises(OSError, match=r"link|directory"):
        root.open_file(b"file")
    with pytest.raises(OSError, match=r"link|directory"):
        root.open_listing(b"link")
    assert root.readlink(b"link") == os.fsencode(outside)
    root.close()


def test_a_path_of_a_thousand_directories(tmp_path: Path) -> None:
    root = Root(tmp_path, one_file_system=True)
    here = os.open(tmp_path, os.O_RDONLY)
    for _ in range(1500):
        os.mkdir("d", dir_fd=here)
        below = os.open("d", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(here)
    deep = b"/".join([b"d"] * 1500)
    try:
        assert root.lstat(deep) is not None
        assert root.lstat(deep + b"/d") is None
    finally:  # pytest takes away what is left here by recursion, which this is too deep for
        subprocess.run(["rm", "-rf", str(tmp_path / "d")], check=True)
    root.close()


def test_what_is_foreign_is_gone() -> None:
    assert is_gone(Foreign(18, "another file system"))
    assert is_gone(FileNotFoundError(2, "no"))
    assert not is_gone(PermissionError(13, "no"))
