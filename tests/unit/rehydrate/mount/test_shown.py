"""What a mount shows, and what the kernel is answered: all that a tree and a volume have, nothing more."""

from __future__ import annotations

import errno
import os
import random
import stat
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from cdp_container.domain.image import cuts_of, volumes_of
from cdp_container.domain.namespace import Namespace, trees_of
from cdp_container.errors import CdpError
from cdp_container.format.names import Name, NameType
from cdp_container.format.place import Place
from rehydrate.mount import shown as showing
from rehydrate.mount.operations import XATTRS, Operations
from rehydrate.mount.shown import Attributes, Shown
from rehydrate.ondemand.reader import Content, Reader
from tests.containers import Site, write
from tests.trees import MTIME_NS, Tree, directory, file
from tests.unit.rehydrate.trees import CountingStore, source_of

OWNER, TIME_NS = (1001, 1002), 1_700_000_000_123_456_789
DISK_BYTES = 300_000


@pytest.fixture
def store() -> CountingStore:
    return CountingStore()


@pytest.fixture
def site(store: CountingStore) -> Site:
    return Site(store, seed=3)


@pytest.fixture
def disk(site: Site) -> bytes:
    return site.add_volume("disk", DISK_BYTES)


@pytest.fixture
def home(site: Site, disk: bytes) -> Tree:
    site.begin_epoch()
    site.cut([write(disk, 100, b"of the disk")])
    home = Tree(site, root=directory(mode=0o750, mtime_ns=MTIME_NS + 7))
    home.add(b"docs", directory(mode=0o2775, mtime_ns=-5))
    home.file(b"docs/large", random.Random(1).randbytes(500_000), mode=0o4711, uid=7, gid=8)
    home.link(b"docs/large", b"twin")
    home.file(b"empty", mtime_ns=1)
    home.file(b"\xff\xfe \n name", b"bytes", xattrs=((b"user.colour", b"red\0\xff"), (b"user.empty", b"")))
    home.add(b"link", node(NameType.SYMLINK, target=b"\xff nowhere"))
    home.add(b"null", node(NameType.CHAR, device=(1, 3), mode=0o666))
    home.add(b"pipe", node(NameType.FIFO))
    return home


def node(kind: NameType, **members: object) -> Name:
    return file(**members)._replace(type=kind)


@contextmanager
def shown_of(site: Site, place: Place) -> Iterator[tuple[Shown, Reader]]:
    branch = {place.epoch: place.seq}
    with source_of(site, place) as source:
        contents = source.contents
        (cut,) = [cut for cut in cuts_of(contents, branch) if cut.place == place]
        namespace = Namespace(contents, branch, trees_of(contents, branch, cut))
        reader = Reader(source, branch, _nothing_is_told)
        try:
            yield Shown(namespace, volumes_of(contents, branch, cut), OWNER, TIME_NS), reader
        finally:
            reader.close()
            namespace.close()


def _nothing_is_told(error: CdpError) -> None:
    raise AssertionError(str(error))


def test_every_name_has_its_attributes(site: Site, home: Tree) -> None:
    with shown_of(site, home.cut()) as (shown, _):
        found = {b"home.tree" + (b"/" + path if path else b""): name for path, name in home.names.items()}
        for path, name in found.items():
            told = shown.attributes(path)
            assert (stat.S_IMODE(told.mode), told.uid, told.gid) == (name.mode, name.uid, name.gid)
            assert told.mtime_ns == name.mtime_ns
            assert told.size_bytes == (name.size_bytes or len(name.target))
            assert told.links == (2 if path.endswith((b"large", b"twin")) else 1)
        inodes = {path: shown.attributes(path).inode for path in found}
        assert inodes[b"home.tree/twin"] == inodes[b"home.tree/docs/large"]
        assert len(set(inodes.values())) == len(inodes) - 1
        assert all(1 < inode < 1 << 63 for inode in inodes.values())
        assert stat.S_ISCHR(shown.attributes(b"home.tree/null").mode)
        assert shown.attributes(b"home.tree/null").device == os.makedev(1, 3)
        assert shown.names == 2 + len(found)


def test_directories_list_what_is_in_them(site: Site, home: Tree) -> None:
    with shown_of(site, home.cut()) as (shown, _):
        assert [name for name, _ in shown.listing(b"")] == [b"disk.raw", b"home.tree"]
        in_root = dict(shown.listing(b"home.tree"))
        assert sorted(in_root) == sorted(path for path in home.names if path and b"/" not in path)
        assert all(told == shown.attributes(b"home.tree/" + name) for name, told in in_root.items())
        assert [name for name, _ in shown.listing(b"home.tree/docs")] == [b"large"]
        for path in (b"disk.raw", b"home.tree/twin", b"home.tree/link"):
            with pytest.raises(NotADirectoryError):
                list(shown.listing(path))


def test_a_directory_is_listed_from_any_offset_in_pages(
    site: Site, home: Tree, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(showing, "PAGE_NAMES", 4)
    for number in range(13):
        home.file(b"docs/%02d" % number)
    with shown_of(site, home.cut()) as (shown, reader):
        asked = Operations(shown, reader)
        for path in ("/", "/home.tree", "/home.tree/docs"):
            everything = list(asked.entries(path))
            assert [behind for _, _, behind in everything] == list(range(1, len(everything) + 1))
            assert [name for name, _, _ in everything[:2]] == [".", ".."]
            for offset in (*range(len(everything)), len(everything) + 9):
                assert list(asked.entries(path, offset)) == everything[offset:]
        assert len(list(asked.entries("/home.tree/docs"))) == 2 + 14
        assert max(map(len, (page for page, _ in shown._pages._values.values()))) == 4


def test_where_data_and_holes_are(site: Site, home: Tree, disk: bytes) -> None:
    content = bytes(100_000) + b"x" * 8192 + bytes(100_000)
    home.file(b"sparse", content)
    site.cut([write(disk, 200_000, b"y" * 50_000), write(disk, 210_000, b"z" * 50_000)])
    with shown_of(site, home.cut()) as (shown, reader):
        asked = Operations(shown, reader)
        image = asked.open("/disk.raw", os.O_RDONLY)
        data = asked.lseek("/disk.raw", 5000, os.SEEK_DATA, image)
        assert data == 200_000
        assert asked.lseek("/disk.raw", data, os.SEEK_DATA, image) == data
        assert asked.lseek("/disk.raw", data, os.SEEK_HOLE, image) == 260_000
        assert asked.lseek("/disk.raw", 270_000, os.SEEK_HOLE, image) == 270_000
        assert asked.lseek("/disk.raw", 0, os.SEEK_DATA, image) == 100
        assert asked.lseek("/disk.raw", 100, os.SEEK_HOLE, image) == 111
        for offset, whence, number in (
            (270_000, os.SEEK_DATA, errno.ENXIO),  # only a hole is left
            (DISK_BYTES, os.SEEK_HOLE, errno.ENXIO),
            (DISK_BYTES + 1, os.SEEK_DATA, errno.ENXIO),
            (-1, os.SEEK_DATA, errno.ENXIO),
            (5, 77, errno.EINVAL),
        ):
            with pytest.raises(OSError, match=os.strerror(number)):
                asked.lseek("/disk.raw", offset, whence, image)
        sparse = asked.open("/home.tree/sparse", os.O_RDONLY)
        low = asked.lseek("/home.tree/sparse", 0, os.SEEK_DATA, sparse)
        high = asked.lseek("/home.tree/sparse", low, os.SEEK_HOLE, sparse)
        assert 96 << 10 <= low <= 100_000 < 108_192 <= high < 112 << 10
        empty = asked.open("/home.tree/empty", os.O_RDONLY)
        with pytest.raises(OSError, match=os.strerror(errno.ENXIO)):
            asked.lseek("/home.tree/empty", 0, os.SEEK_DATA, empty)
        # What was written twice counts twice: that is soon known, and never too little.
        assert 512 * asked.getattr("/disk.raw")["st_blocks"] in range(60_011, 100_011 + 512)
        listed = {name: found for name, found, _ in asked.entries("/") if found is not None}
        assert listed["disk.raw"] == asked.getattr("/disk.raw")


@pytest.mark.parametrize(
    "path", [b"no", b"no/no", b"disk.raw/x", b"home.tree/no", b"home.tree/twin/x", b"home.tree/docs/no"]
)
def test_what_is_not_there_is_not_found(site: Site, home: Tree, path: bytes) -> None:
    with shown_of(site, home.cut()) as (shown, _):
        for ask in (
            shown.attributes,
            shown.xattrs,
            shown.target,
            shown.content,
            lambda p: list(shown.listing(p)),
        ):
            with pytest.raises(FileNotFoundError):
                ask(path)


def test_only_what_is_of_a_kind_is_read_as_such(site: Site, home: Tree) -> None:
    with shown_of(site, home.cut()) as (shown, _):
        assert shown.target(b"home.tree/link") == b"\xff nowhere"
        assert shown.content(b"home.tree/empty") == Content(None, 0)
        for path in (b"", b"disk.raw", b"home.tree/twin", b"home.tree"):
            with pytest.raises(OSError, match="Invalid argument"):
                shown.target(path)
        for path, number in (
            (b"", errno.EISDIR),
            (b"home.tree/docs", errno.EISDIR),
            (b"home.tree/pipe", errno.EINVAL),
        ):
            with pytest.raises(OSError, match=os.strerror(number)):
                shown.content(path)


def test_images_and_the_mount_itself_are_the_mounters(site: Site, home: Tree, disk: bytes) -> None:
    with shown_of(site, home.cut()) as (shown, _):
        image = shown.attributes(b"disk.raw")
        assert image == Attributes(stat.S_IFREG | 0o400, image.inode, 1, *OWNER, DISK_BYTES, TIME_NS)
        assert shown.attributes(b"") == Attributes(stat.S_IFDIR | 0o555, 1, 1, *OWNER, 0, TIME_NS)
        assert shown.content(b"disk.raw") == Content(disk, DISK_BYTES)
        assert shown.volume_bytes == DISK_BYTES


def test_names_that_can_be_no_files_go_by_their_ids(site: Site) -> None:
    site.begin_epoch()
    trees = [Tree(site, name) for name in ("same", "same", "../etc", "plain")]
    place = trees[0].cut()
    with shown_of(site, place) as (shown, _):
        wanted = [tree.tree.hex() + ".tree" for tree in trees[:3]] + ["plain.tree"]
        assert sorted(one.file for one in shown.sources) == sorted(wanted)
        assert not shown.has_xattrs


def test_the_kernel_is_answered_in_its_terms(site: Site, home: Tree) -> None:
    place = home.cut()
    with shown_of(site, place) as (shown, reader):
        asked = Operations(shown, reader)
        odd = "/home.tree/" + os.fsdecode(b"\xff\xfe \n name")
        assert asked.getattr("/home.tree/docs")["st_mtime"] == -5
        assert asked.listxattr(odd) == ["user.colour", "user.empty"]
        assert asked.getxattr(odd, "user.colour") == b"red\0\xff"
        with pytest.raises(OSError, match=os.strerror(errno.ENODATA)):
            asked.getxattr(odd, "user.other")
        assert os.fsencode(asked.readlink("/home.tree/link")) == b"\xff nowhere"
        names = [name for name, _, _ in asked.entries("/home.tree")]
        assert names[:2] == [".", ".."]
        assert os.fsdecode(b"\xff\xfe \n name") in names
        one_by_one = asked.readdir_with_offset("/home.tree/docs", 0, 0)
        assert [name for name, *_ in one_by_one] == [".", "..", "large"]
        assert asked.statfs("/")["f_files"] == shown.names
        assert asked.left_out == frozenset()
        number = asked.open("/home.tree/twin", os.O_RDONLY)
        other = asked.open("/disk.raw", os.O_RDONLY)
        assert asked.read("", 500, 499_900, number) == home.at[place].content(b"twin")[-100:]
        assert asked.read("", 11, 100, other) == b"of the disk"
        assert asked.release("", number) == 0
        with pytest.raises(OSError, match=os.strerror(errno.EROFS)):
            asked.open("/home.tree/twin", os.O_RDWR)


def test_what_cannot_be_read_is_an_input_error(site: Site, home: Tree, store: CountingStore) -> None:
    place, told = home.cut(), list[CdpError]()
    with shown_of(site, place) as (shown, _), source_of(site, place) as source:
        reader = Reader(source, {place.epoch: place.seq}, told.append)
        asked = Operations(shown, reader)
        number = asked.open("/home.tree/twin", os.O_RDONLY)
        store.hides_content = True
        with pytest.raises(OSError, match=os.strerror(errno.EIO)):
            asked.read("", 100, 0, number)
        reader.close()
    assert len(told) == 1


def test_a_kernel_that_would_find_no_attribute_anywhere_is_told_so(site: Site, disk: bytes) -> None:
    site.begin_epoch()
    place = site.cut([write(disk, 0, b"x")])
    with shown_of(site, place) as (shown, reader):
        assert Operations(shown, reader).left_out == XATTRS
