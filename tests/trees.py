"""Trees in containers for tests: a model of names and contents, whose changes become the records of cuts.

    home = Tree(site, "home")
    home.file(b"notes", b"hello")
    first = home.cut()
    assert home.at[first].names[b"notes"].size_bytes == 5

What an agent's watcher does between a program's write and these records does not belong here.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cdp_container.format.names import (
    ROOT,
    Name,
    NameType,
    SkewedFile,
    name_added,
    name_gone,
    skewed,
    tree_added,
    tree_gone,
)
from cdp_container.format.place import Place
from cdp_container.format.records import make_record
from tests.containers import Site
from tests.writes import Write, write, zero

MTIME_NS = 1_600_000_000_123_456_789
ME = (os.geteuid(), os.getegid())


@dataclass(frozen=True)
class State:
    """A tree at one cut: its names, and the content of each space."""

    names: dict[bytes, Name]
    contents: dict[bytes, bytes]

    def content(self, path: bytes) -> bytes:
        space = self.names[path].space
        return b"" if space is None else self.contents[space]


class Tree:
    """One tree of a site's domain; changes are said with the site's next cut."""

    def __init__(self, site: Site, name: str = "home", root: Name | None = None) -> None:
        self.site = site
        self.tree = site.rng.randbytes(16)
        self.names: dict[bytes, Name] = {}
        self.contents: dict[bytes, bytes] = {}
        self.at: dict[Place, State] = {}
        self._writes: list[Write] = []
        site.say(tree_added(self.tree, name))
        self.add(ROOT, root or directory())

    def add(self, path: bytes, name: Name) -> Name:
        """A name as it is; of a new space the content is zeros."""
        self.names[path] = name
        if name.space is not None and name.space not in self.contents:
            self.contents[name.space] = bytes(name.size_bytes)
            self.site.hold_space(name.space, name.size_bytes)
        self.site.say(name_added(self.tree, path, name))
        return name

    def file(self, path: bytes, data: bytes = b"", **members: object) -> Name:
        """A new file; what of it is zeros, in whole blocks, is not written."""
        space = self.site.rng.randbytes(16) if data else None
        name = self.add(path, file(size_bytes=len(data), space=space, **members))
        if space is not None:
            self.contents[space] = data
            self._writes += [write(space, at, part) for at, part in _parts(data)]
        return name

    def write(self, path: bytes, data: bytes, **members: object) -> None:
        """New content for a file, in the space that it has, under all of its names."""
        old = self.names[path]
        assert old.space is not None, path
        if len(data) < old.size_bytes:
            self.site.say(make_record("space=", old.space, {"size_bytes": len(data)}))
        self.site.hold_space(old.space, len(data))
        if data:
            self._writes += [zero(old.space, 0, len(data)), *(write(old.space, *p) for p in _parts(data))]
        self.contents[old.space] = data
        for twin in self.twins(path):
            self.add(twin, old._replace(size_bytes=len(data), **members))  # type: ignore[arg-type]

    def twins(self, path: bytes) -> list[bytes]:
        """All names of the content that a path has."""
        space = self.names[path].space
        return [path] if space is None else [twin for twin, name in self.names.items() if name.space == space]

    def link(self, old: bytes, new: bytes) -> None:
        """A hard link."""
        self.add(new, self.names[old])

    def remove(self, path: bytes) -> None:
        """A name goes, and with the last its content."""
        name = self.names.pop(path)
        self.site.say(name_gone(self.tree, path))
        if name.space is not None and all(other.space != name.space for other in self.names.values()):
            del self.contents[name.space]
            self._writes = [change for change in self._writes if change.space != name.space]
            self.site.remove(name.space)

    def rename(self, old: bytes, new: bytes) -> None:
        """A name, and all below it, is called otherwise."""
        below = [path for path in self.names if path == old or path.startswith(old + b"/")]
        for path in below:
            name = self.names.pop(path)
            self.site.say(name_gone(self.tree, path))
            self.names[new + path[len(old) :]] = name
            self.site.say(name_added(self.tree, new + path[len(old) :], name))

    def leave(self) -> None:
        """The tree leaves the domain."""
        self.site.say(tree_gone(self.tree))
        self.names, self.contents = {}, {}

    def cut(
        self,
        marker: str | None = None,
        not_whole: Sequence[bytes] = (),
        skew: Sequence[SkewedFile] = (),
        complete: bool = True,
    ) -> Place:
        """Take a cut of all that was changed since the last one."""
        if skew:
            self.site.say(skewed(self.site.owner.epoch, self.site.next_cut, skew))
        writes, self._writes = self._writes, []
        place = self.site.cut(writes, marker=marker, not_whole=not_whole, complete=complete)
        self.at[place] = State(dict(self.names), dict(self.contents))
        return place


def file(**members: object) -> Name:
    """A file of ours; members as those of `Name`."""
    return _name(NameType.FILE, 0o644, members)


def directory(**members: object) -> Name:
    """A directory of ours."""
    return _name(NameType.DIRECTORY, 0o755, members)


def _name(kind: NameType, mode: int, members: dict[str, object]) -> Name:
    plain = Name(kind, mode, *ME, MTIME_NS)
    return plain._replace(**members)  # type: ignore[arg-type] # as the tests name them


def _parts(data: bytes) -> list[tuple[int, bytes]]:
    """What of it is no block of zeros."""
    blocks = [(at, data[at : at + 4096]) for at in range(0, len(data), 4096)]
    if all(any(block) for _, block in blocks):
        return [(0, data)]
    return [(at, block) for at, block in blocks if any(block)]


KINDS = {
    stat.S_IFREG: NameType.FILE,
    stat.S_IFDIR: NameType.DIRECTORY,
    stat.S_IFLNK: NameType.SYMLINK,
    stat.S_IFIFO: NameType.FIFO,
    stat.S_IFCHR: NameType.CHAR,
    stat.S_IFBLK: NameType.BLOCK,
    stat.S_IFSOCK: NameType.SOCKET,
}


def found_in(directory: Path) -> tuple[dict[bytes, Name], dict[bytes, bytes], list[frozenset[bytes]]]:
    """What stands in a directory: names (without spaces), contents, and which names are of one inode."""
    names: dict[bytes, Name] = {}
    contents: dict[bytes, bytes] = {}
    inodes: dict[tuple[int, int], set[bytes]] = {}
    root = os.fsencode(directory)
    waiting = [ROOT]
    while waiting:
        path = waiting.pop()
        full = root + b"/" + path if path else root
        status = os.lstat(full)
        kind = KINDS[stat.S_IFMT(status.st_mode)]
        names[path] = _found(full, status, kind)
        if kind is NameType.DIRECTORY:
            waiting += [path + b"/" + name if path else name for name in os.listdir(full)]
            continue
        if kind is NameType.FILE:
            contents[path] = Path(os.fsdecode(full)).read_bytes()
        inodes.setdefault((status.st_dev, status.st_ino), set()).add(path)
    return names, contents, sorted((frozenset(twins) for twins in inodes.values()), key=sorted)


def _found(full: bytes, status: os.stat_result, kind: NameType) -> Name:
    node = kind in (NameType.CHAR, NameType.BLOCK)
    xattrs = [(os.fsencode(name), os.getxattr(full, name, follow_symlinks=False))
              for name in os.listxattr(full, follow_symlinks=False)]  # fmt: skip
    return Name(
        kind,
        0o777 if kind is NameType.SYMLINK else stat.S_IMODE(status.st_mode),
        status.st_uid,
        status.st_gid,
        status.st_mtime_ns,
        status.st_size if kind is NameType.FILE else 0,
        None,
        os.readlink(full) if kind is NameType.SYMLINK else b"",
        tuple(sorted(xattrs)),
        (os.major(status.st_rdev), os.minor(status.st_rdev)) if node else None,
    )


def expected_of(state: State) -> tuple[dict[bytes, Name], dict[bytes, bytes], list[frozenset[bytes]]]:
    """The same of a model's state: what a restore of it must make."""
    names = {
        path: name._replace(space=None, mode=0o777 if name.type is NameType.SYMLINK else name.mode)
        for path, name in state.names.items()
    }
    files = [path for path, name in state.names.items() if name.type is NameType.FILE]
    groups: dict[bytes, set[bytes]] = {}
    for path, name in state.names.items():
        if name.type is not NameType.DIRECTORY:
            groups.setdefault(name.space or b"alone " + path, set()).add(path)
    contents = {path: state.content(path) for path in files}
    return names, contents, sorted((frozenset(twins) for twins in groups.values()), key=sorted)
