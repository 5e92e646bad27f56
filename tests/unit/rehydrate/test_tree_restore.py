"""Trees restored from containers: every kind of entry, into an empty directory and over what is there."""

from __future__ import annotations

import os
import random
import shutil
import socket
import stat
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from cdp_container.errors import (
    AlreadyRunning,
    DamagedObject,
    MissingObject,
    TargetNotEmpty,
    TargetUnsuitable,
)
from cdp_container.format.names import Name, NameType
from rehydrate.tree_target import Ways, open_tree_target
from tests.containers import Site
from tests.trees import ME, MTIME_NS, Tree, directory, file
from tests.unit.rehydrate.trees import CountingStore, assert_same, restore

ROOT_ONLY = os.geteuid() == 0
NEEDS_ROOT = pytest.mark.needs(*(() if ROOT_ONLY else ("root, who alone may mount",)))


def node(kind: NameType, **members: object) -> Name:
    return file(**members)._replace(type=kind)


@pytest.fixture
def store() -> CountingStore:
    return CountingStore()


@pytest.fixture
def site(store: CountingStore) -> Site:
    site = Site(store, seed=3)
    site.begin_epoch()
    return site


def busy_tree(site: Site) -> Tree:
    """Every kind of entry that we may make here."""
    rng = random.Random(5)
    home = Tree(site, root=directory(mode=0o750, mtime_ns=MTIME_NS + 7))
    home.add(b"docs", directory(mode=0o2775, mtime_ns=-5))
    home.add(b"docs/closed", directory(mode=0o500))
    home.file(b"docs/closed/inside", b"x" * 5000)
    home.file(b"empty", mode=0o4711)
    home.file(b"small", b"hello", mode=0o400, mtime_ns=1)
    home.file(b"large", rng.randbytes(3_000_000), mode=0o1644)
    home.file(b"sparse", bytes(1 << 20) + b"end", mtime_ns=MTIME_NS + 1)
    home.file(b"holes only", bytes(300_000))
    home.file(b"\xff\xfe \n\\ name", b"bytes")
    home.link(b"large", b"docs/linked")
    home.link(b"large", b"a hard link")
    home.file(b"docs/attributes", b"x", xattrs=((b"user.colour", b"red\0\xff"), (b"user.empty", b"")))
    home.add(b"docs/dir attributes", directory(xattrs=((b"user.tag", b"1"),)))
    home.add(b"link", node(NameType.SYMLINK, target=b"../../etc/passwd"))
    home.add(b"link twice", node(NameType.SYMLINK, target=b"docs", space=b"l" * 16))
    home.link(b"link twice", b"docs/link twice")
    home.add(b"pipe twice", node(NameType.FIFO, space=b"p" * 16))
    home.link(b"pipe twice", b"docs/pipe twice")
    home.add(b"dangling", node(NameType.SYMLINK, target=b"\xff nowhere", mtime_ns=2))
    home.add(b"pipe", node(NameType.FIFO, mode=0o622))
    home.add(b"socket", node(NameType.SOCKET, mode=0o700))
    if ROOT_ONLY:
        home.add(b"null", node(NameType.CHAR, device=(1, 3), mode=0o666))
        home.add(b"loop", node(NameType.BLOCK, device=(7, 99), mode=0o660))
        home.file(b"other's", b"y", uid=12345, gid=54321, mode=0o6755)
        home.add(b"other's link", node(NameType.SYMLINK, target=b"x", uid=12345, gid=5))
    deep = b"deep"
    for _ in range(140):  # more than are kept open
        home.add(deep, directory())
        deep += b"/deep"
    home.file(deep, b"down here")
    return home


def test_every_kind_of_entry(site: Site, tmp_path: Path) -> None:
    home = busy_tree(site)
    place = home.cut()
    done = restore(site, place, tmp_path / "to")
    assert_same(tmp_path / "to", home.at[place])
    assert not done.not_set, done.not_set
    assert done.totals == done.planned == done.reported
    assert done.told == len(home.names) - 1
    assert os.stat(tmp_path / "to" / "sparse").st_blocks * 512 < 1 << 20


def test_every_cut_of_a_history(site: Site, tmp_path: Path) -> None:
    home = busy_tree(site)
    places = [home.cut()]
    home.write(b"large", b"short now", mtime_ns=5)
    home.rename(b"docs", b"papers")
    places.append(home.cut())
    home.write(b"large", b"long" * 100_000)
    home.remove(b"small")
    home.add(b"small", directory())
    home.file(b"small/one", b"another file")
    places.append(home.cut())
    for place in places:
        restore(site, place, tmp_path / str(place.cut))
        assert_same(tmp_path / str(place.cut), home.at[place])


def test_again_into_the_same_directory_nothing_is_fetched(
    site: Site, store: CountingStore, tmp_path: Path
) -> None:
    home = busy_tree(site)
    place = home.cut()
    restore(site, place, tmp_path / "to")
    before = {path: os.lstat(path).st_ino for path in (tmp_path / "to").rglob("*")}
    done = restore(site, place, tmp_path / "to", sums=True)
    assert (done.totals.fetch_bytes, done.removed) == (0, 0)
    assert_same(tmp_path / "to", home.at[place])
    assert before == {path: os.lstat(path).st_ino for path in (tmp_path / "to").rglob("*")}


@pytest.mark.parametrize("sums", [False, True])
def test_only_what_differs_is_fetched(site: Site, tmp_path: Path, sums: bool) -> None:
    home = busy_tree(site)
    rng = random.Random(1)
    data = rng.randbytes(2_000_000)
    home.file(b"database", data)
    home.file(b"grown", data[:8192])
    first = home.cut()
    restore(site, first, tmp_path / "to")
    changed = data[:700_000] + rng.randbytes(5000) + data[705_000:1_800_001]
    home.write(b"database", changed, mtime_ns=MTIME_NS + 9)
    home.write(b"grown", data[:8192] + bytes(100_000) + b"x", mtime_ns=9)
    home.write(b"large", bytes(100_000), mtime_ns=9)
    second = home.cut()
    done = restore(site, second, tmp_path / "to", sums=sums)
    assert_same(tmp_path / "to", home.at[second])
    if sums:
        assert done.totals.write_bytes < 20_000
    back = restore(site, first, tmp_path / "to", ways=Ways(checksum=True), sums=True)
    assert_same(tmp_path / "to", home.at[first])
    assert back.totals.write_bytes > 3_000_000  # the large file, and what differs


def test_content_that_size_and_time_hide_is_found_by_checksum(site: Site, tmp_path: Path) -> None:
    home = Tree(site)
    home.file(b"a", b"x" * 8192)
    place = home.cut()
    restore(site, place, tmp_path / "to")
    path = tmp_path / "to" / "a"
    path.write_bytes(b"x" * 4096 + b"y" + b"x" * 4095)
    os.utime(path, ns=(MTIME_NS, MTIME_NS))
    assert restore(site, place, tmp_path / "to", sums=True).totals.write_bytes == 0
    done = restore(site, place, tmp_path / "to", ways=Ways(checksum=True), sums=True)
    assert done.totals.write_bytes == 4096
    assert_same(tmp_path / "to", home.at[place])


def strangers(target: Path) -> None:
    """What stands in a target of its own."""
    (target / "mine").write_bytes(b"mine")
    (target / "my dir").mkdir()
    (target / "my dir" / "inside").write_bytes(b"mine")


def test_what_is_there_stays_unless_told(site: Site, tmp_path: Path) -> None:
    home = busy_tree(site)
    place = home.cut()
    target = tmp_path / "to"
    target.mkdir()
    strangers(target)
    restore(site, place, target)
    assert (target / "my dir" / "inside").read_bytes() == b"mine"
    (target / "docs" / "stranger").mkdir()
    (target / "docs" / "dir attributes" / "stranger").write_bytes(b"")
    done = restore(site, place, target, ways=Ways(delete=True))
    assert done.removed == 4
    assert_same(target, home.at[place])


@pytest.fixture
def mounted(tmp_path: Path) -> Iterator[Callable[[Path], Path]]:
    """Mounts a directory, on the same file system, that holds a file; gives that file."""
    with ExitStack() as stack:

        def mount(point: Path) -> Path:
            precious = tmp_path / f"precious{len(list(tmp_path.iterdir()))}"
            (precious / "below").mkdir(parents=True)
            (precious / "below" / "file").write_bytes(b"nobody else has it")
            point.mkdir(parents=True, exist_ok=True)
            subprocess.run(["mount", "--bind", precious, point], check=True)
            stack.callback(lambda: subprocess.run(["umount", point], check=True))
            return precious / "below" / "file"

        yield mount


@NEEDS_ROOT
def test_nothing_is_deleted_in_what_is_mounted_below(
    site: Site, tmp_path: Path, mounted: Callable[[Path], Path]
) -> None:
    """The tree has the directory that is mounted over, and nothing in it: what is left out of a tree."""
    home = busy_tree(site)
    home.add(b"mnt", directory())
    home.add(b"shared", directory())
    home.file(b"shared/ours", b"of the tree")
    place = home.cut()
    target = tmp_path / "to"
    restore(site, place, target)
    spared, cleared = mounted(target / "mnt"), mounted(target / "shared")
    (target / "stranger").write_bytes(b"")
    done = restore(site, place, target, ways=Ways(delete=True))
    assert spared.read_bytes() == b"nobody else has it"
    assert not cleared.exists(), "where the tree has something, it is the tree's to clear"
    assert done.removed == 2
    assert (target / "shared" / "ours").read_bytes() == b"of the tree"


@NEEDS_ROOT
@pytest.mark.parametrize("place_of_it", ["new/bind", "new", "small", "docs/new"])
def test_a_mount_where_the_tree_has_no_directory_is_refused_whole(
    place_of_it: str, site: Site, tmp_path: Path, mounted: Callable[[Path], Path]
) -> None:
    place = busy_tree(site).cut()
    target = tmp_path / "to"
    target.mkdir()
    strangers(target)
    spared = mounted(target / place_of_it)
    with pytest.raises(TargetNotEmpty, match="mounted at"):
        restore(site, place, target, ways=Ways(delete=True))
    assert spared.read_bytes() == b"nobody else has it"
    if place_of_it != "small":
        assert (target / "my dir" / "inside").exists(), "refused before anything goes"


def test_what_stands_in_the_way_is_replaced(site: Site, tmp_path: Path) -> None:
    home = busy_tree(site)
    place = home.cut()
    target = tmp_path / "to"
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "passwd").write_bytes(b"not yours")
    target.mkdir()
    (target / "docs").symlink_to(outside)
    (target / "large").symlink_to(outside / "passwd")
    (target / "small").mkdir()
    os.mkfifo(target / "empty")
    (target / "pipe").write_bytes(b"")
    (target / "link").symlink_to("elsewhere")
    os.link(outside / "passwd", target / "sparse")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(target / "dangling"))
    restore(site, place, target)
    assert_same(target, home.at[place])
    assert (outside / "passwd").read_bytes() == b"not yours"
    assert [entry.name for entry in outside.iterdir()] == ["passwd"]


def test_a_file_with_a_name_outside_is_not_written(site: Site, tmp_path: Path) -> None:
    """Neither its content nor its mode, even where size and time are right."""
    home = Tree(site)
    home.file(b"a", b"x" * 5000, mode=0o600)
    home.file(b"b", b"y" * 5000, mode=0o600)
    place = home.cut()
    target = tmp_path / "to"
    target.mkdir()
    for name in ("a", "b"):
        (tmp_path / name).write_bytes(b"z" * 5000)
        os.link(tmp_path / name, target / name)
    os.utime(tmp_path / "a", ns=(MTIME_NS, MTIME_NS))
    modes = [os.stat(tmp_path / name).st_mode for name in ("a", "b")]
    restore(site, place, target, sums=True)
    assert_same(target, home.at[place])
    assert [(tmp_path / name).read_bytes() for name in ("a", "b")] == [b"z" * 5000] * 2
    assert [os.stat(tmp_path / name).st_mode for name in ("a", "b")] == modes


def test_a_program_that_runs_is_replaced(site: Site, tmp_path: Path) -> None:
    home = Tree(site)
    home.file(b"program", b"x" * 5000, mode=0o755)
    place = home.cut()
    target = tmp_path / "to"
    target.mkdir()
    shutil.copy("/bin/cat", target / "program")
    with subprocess.Popen([target / "program"], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as running:
        restore(site, place, target, sums=True)
        assert running.communicate(b"still here")[0] == b"still here"
    assert_same(target, home.at[place])


def test_hard_links_come_together_and_apart(site: Site, tmp_path: Path) -> None:
    home = Tree(site)
    home.file(b"a", b"x" * 5000)
    home.link(b"a", b"b")
    home.file(b"c", b"y" * 5000)
    first = home.cut()
    home.remove(b"b")
    home.file(b"b", b"z" * 5000, mtime_ns=5)
    home.link(b"c", b"d")
    second = home.cut()
    home.add(b"s", node(NameType.SYMLINK, target=b"a", space=b"s" * 16))
    home.link(b"s", b"t")
    home.add(b"u", node(NameType.SYMLINK, target=b"a"))
    third = home.cut()
    home.remove(b"t")
    home.add(b"t", node(NameType.SYMLINK, target=b"a"))
    home.link(b"s", b"u")
    fourth = home.cut()
    for place in (first, second, first, second, third, fourth, third, first, fourth):
        restore(site, place, tmp_path / "to", ways=Ways(delete=True), sums=True)
        assert_same(tmp_path / "to", home.at[place])


def test_a_directory_that_is_not_empty_is_only_removed_if_told(site: Site, tmp_path: Path) -> None:
    home = Tree(site)
    home.file(b"a", b"hello")
    place = home.cut()
    target = tmp_path / "to"
    (target / "a" / "b").mkdir(parents=True)
    with pytest.raises(TargetNotEmpty, match="not empty"):
        restore(site, place, target)
    assert (target / "a" / "b").is_dir()
    restore(site, place, target, ways=Ways(delete=True))
    assert_same(target, home.at[place])


def test_what_a_directory_gives_to_those_in_it_is_undone(site: Site, tmp_path: Path) -> None:
    home = Tree(site)
    home.add(b"dir", directory(mode=0o700))
    home.file(b"dir/a", b"x", mode=0o600)
    home.file(b"b", b"x", mode=0o600)
    place = home.cut()
    target = tmp_path / "to"
    target.mkdir()
    default = bytes.fromhex("0200000001000700ffffffff04000700ffffffff20000700ffffffff")
    os.setxattr(target, "system.posix_acl_default", default)
    target.chmod(0o2777)
    if ROOT_ONLY:
        os.chown(target, 5, 5)
    restore(site, place, target)
    assert_same(target, home.at[place])


def test_acls(site: Site, tmp_path: Path) -> None:
    acl = bytes.fromhex("0200000001000600ffffffff020004003930000004000400ffffffff"
                        "10000600ffffffff20000000ffffffff")  # fmt: skip
    home = Tree(site)
    home.file(b"a", b"x", mode=0o660, xattrs=((b"system.posix_acl_access", acl),))
    home.add(b"d", directory(mode=0o770, xattrs=((b"system.posix_acl_default", acl),)))
    home.file(b"d/b", b"x", mode=0o600)
    place = home.cut()
    for _ in range(2):
        restore(site, place, tmp_path / "to", sums=True)
        assert_same(tmp_path / "to", home.at[place])


def test_a_part_by_patterns(site: Site, tmp_path: Path) -> None:
    home = busy_tree(site)
    place = home.cut()
    restore(site, place, tmp_path / "to", patterns=["docs/clo*", "small", "a hard link"])
    state = home.at[place]
    taken = [b"", b"a hard link", b"docs", b"docs/closed", b"docs/closed/inside", b"small"]
    assert_same(tmp_path / "to", type(state)({path: state.names[path] for path in taken}, state.contents))


def test_a_part_deletes_only_what_fits(site: Site, tmp_path: Path) -> None:
    home = busy_tree(site)
    place = home.cut()
    restore(site, place, tmp_path / "to")
    (tmp_path / "to" / "docs" / "stranger").write_bytes(b"")
    (tmp_path / "to" / "stranger").write_bytes(b"")
    restore(site, place, tmp_path / "to", patterns=["docs"], ways=Ways(delete=True))
    assert (tmp_path / "to" / "stranger").exists()
    assert not (tmp_path / "to" / "docs" / "stranger").exists()
    assert (tmp_path / "to" / "small").exists()


def test_after_collection(site: Site, tmp_path: Path) -> None:
    home = busy_tree(site)
    home.cut()
    home.write(b"large", b"other" * 5000)
    home.rename(b"docs", b"papers")
    place = home.cut()
    site.collect(1, 1, 1)
    restore(site, place, tmp_path / "to")
    assert_same(tmp_path / "to", home.at[place])


def test_many_small_files_take_few_requests(site: Site, store: CountingStore, tmp_path: Path) -> None:
    rng = random.Random(2)
    home = Tree(site)
    for number in range(500):
        home.file(b"f%03d" % number, rng.randbytes(rng.randrange(1, 9000)))
    place = home.cut()
    store.asked.clear()
    done = restore(site, place, tmp_path / "to")
    assert_same(tmp_path / "to", home.at[place])
    assert done.totals.gets == 1
    assert len(store.asked) <= 4


def test_windows_of_few_extents(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rehydrate.tree_plan.TOGETHER_EXTENTS_MAX", 16)
    monkeypatch.setattr("rehydrate.tree_plan.FILES_TOGETHER_MAX", 3)
    monkeypatch.setattr("cdp_container.extents.resolve.WINDOW_EXTENTS_MAX", 16)
    monkeypatch.setattr("cdp_container.extents.resolve.SLOT_BYTES", 1 << 16)
    home = busy_tree(site)
    first = home.cut()
    restore(site, first, tmp_path / "to")
    assert_same(tmp_path / "to", home.at[first])
    large = bytearray(home.at[first].content(b"large"))
    large[1_000_000:1_000_100] = bytes(100)
    home.write(b"large", bytes(large), mtime_ns=4)
    second = home.cut()
    for sums in (True, False):
        restore(site, second, tmp_path / "to", sums=sums)
        assert_same(tmp_path / "to", home.at[second])
        restore(site, first, tmp_path / "to", sums=sums)
        assert_same(tmp_path / "to", home.at[first])


# --- what goes wrong -------------------------------------------------------------------------------


def test_damaged_content(site: Site, store: CountingStore, tmp_path: Path) -> None:
    home = Tree(site)
    home.file(b"a", random.Random(1).randbytes(200_000))
    place = home.cut()
    key = site.objects[-1].key
    data = bytearray(store.get(key).data)
    data[-20_000] ^= 1
    store.delete(key)
    store.put_new(key, bytes(data))
    with pytest.raises(DamagedObject, match="CRC"):
        restore(site, place, tmp_path / "to")


def test_content_that_is_gone(site: Site, store: CountingStore, tmp_path: Path) -> None:
    home = Tree(site)
    home.file(b"a", random.Random(1).randbytes(50_000))
    place = home.cut()
    store.hides_content = True
    with pytest.raises(MissingObject, match="gone"):
        restore(site, place, tmp_path / "to")
    assert os.stat(tmp_path / "to" / "a").st_mtime_ns != MTIME_NS
    store.hides_content = False
    restore(site, place, tmp_path / "to")
    assert_same(tmp_path / "to", home.at[place])


def test_targets_that_are_none(site: Site, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    for path in (tmp_path / "file", tmp_path / "a" / "b"):
        with pytest.raises(TargetUnsuitable, match="no directory"), open_tree_target(path, Ways()):
            pass
    with (
        open_tree_target(tmp_path / "to", Ways()),
        pytest.raises(AlreadyRunning),
        open_tree_target(tmp_path / "to", Ways()),
    ):
        pass


def test_modes_of_what_was_made_are_closed_until_it_is_complete(site: Site, tmp_path: Path) -> None:
    home = Tree(site, root=directory(mode=0o777))
    home.add(b"d", directory(mode=0o777))
    home.file(b"d/a", b"secret", mode=0o666)
    place = home.cut()
    seen: list[int] = []
    with open_tree_target(tmp_path / "to", Ways()):
        seen.append(stat.S_IMODE(os.stat(tmp_path / "to").st_mode))
    assert seen == [0o700]
    restore(site, place, tmp_path / "to")
    assert_same(tmp_path / "to", home.at[place])
    assert (os.geteuid(), os.getegid()) == ME
