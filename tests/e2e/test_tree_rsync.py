"""What a tree is restored to, compared by a program that is not ours: rsync finds no difference."""

from __future__ import annotations

import os
import random
import socket
import subprocess
from pathlib import Path

import pytest

from cdp_container.format.names import NameType
from cdp_container.store.directory import DirectoryStore
from tests.containers import Site
from tests.trees import Tree, found_in
from tests.unit.rehydrate.trees import restore

pytestmark = pytest.mark.e2e

ACL = bytes.fromhex("0200000001000600ffffffff020004003930000004000400ffffffff"
                    "10000600ffffffff20000000ffffffff")  # fmt: skip


def native_tree(root: Path) -> None:
    """Every kind of entry that this user may make, by the usual calls."""
    rng = random.Random(6)
    for name in ("docs/deep/er", "closed", "empty dir"):
        (root / name).mkdir(parents=True)
    for number, size in enumerate((0, 1, 4096, 5000, 70_000, 3_000_000)):
        path = root / "docs" / f"file {number}"
        path.write_bytes(rng.randbytes(size))
        os.utime(path, ns=(0, rng.randrange(10**18)))
        path.chmod(rng.choice([0o400, 0o644, 0o755, 0o4755, 0o1640]))
    with (root / "sparse").open("wb") as sparse:
        sparse.seek(8 << 20)
        sparse.write(b"end")
    (root / os.fsdecode(b"\xff\xfe\n name")).write_bytes(b"bytes")
    os.link(root / "docs" / "file 4", root / "closed" / "linked")
    os.link(root / "docs" / "file 4", root / "linked too")
    (root / "link").symlink_to("../../etc/passwd")
    (root / "dangling").symlink_to("nowhere at all")
    os.mkfifo(root / "pipe", 0o622)
    with socket.socket(socket.AF_UNIX) as listener:
        os.chdir(root)
        listener.bind("socket")
    for name in ("link", "pipe", "socket"):
        os.link(root / name, root / "docs" / f"{name} too", follow_symlinks=False)
    os.setxattr(root / "docs" / "file 1", "user.colour", b"red\0\xff")
    os.setxattr(root / "docs" / "deep", "user.tag", b"")
    os.setxattr(root / "docs" / "file 2", "system.posix_acl_access", ACL)
    os.setxattr(root / "docs" / "deep", "system.posix_acl_default", ACL)
    if os.geteuid() == 0:
        os.mknod(root / "null", 0o020666, os.makedev(1, 3))
        os.link(root / "null", root / "zero")
        os.mknod(root / "loop", 0o060660, os.makedev(7, 99))
        os.chown(root / "docs" / "file 3", 12345, 54321)
        os.chown(root / "dangling", 12345, 5, follow_symlinks=False)
    (root / "closed").chmod(0o2550)
    os.utime(root / "docs", ns=(0, 10**18 + 123_456_789))


def captured(site: Site, root: Path) -> Tree:
    """A directory's names and contents in a container."""
    names, contents, links = found_in(root)
    home = Tree(site, root=names[b""])
    first_of = {path: min(twins) for twins in links for path in twins}
    for path in sorted(names):
        name = names[path]
        if not path:
            continue
        if first_of.get(path, path) != path:
            home.link(first_of[path], path)
        elif name.type is NameType.FILE:
            members = {"mode": name.mode, "uid": name.uid, "gid": name.gid, "mtime_ns": name.mtime_ns}
            home.file(path, contents[path], xattrs=name.xattrs, **members)
        else:
            is_one = [path] in map(list, links) or name.type is NameType.DIRECTORY
            home.add(path, name if is_one else name._replace(space=site.rng.randbytes(16)))
    return home


def test_rsync_finds_no_difference(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    source, target = tmp_path / "source", tmp_path / "target"
    source.mkdir()
    (tmp_path / "store").mkdir()
    native_tree(source)
    site = Site(DirectoryStore(tmp_path / "store"), seed=2)
    site.begin_epoch()
    place = captured(site, source).cut()
    for sums in (False, True):
        done = restore(site, place, target, sums=sums)
        assert not done.not_set, done.not_set
        assert differences(source, target) == ""
    (target / "docs" / "file 5").write_bytes(b"other")
    assert "file 5" in differences(source, target)


def differences(source: Path, target: Path) -> str:
    command = ["rsync", "-aHAXni", "--checksum", "--delete", f"{source}/", f"{target}/"]
    return subprocess.run(command, capture_output=True, check=True, text=True, errors="replace").stdout
