"""A container of trees in memory, and what a directory holds, in one form: so that they can be compared."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cdp_agent.watcher.anew import Image
from cdp_agent.watcher.batch import check_batch, read_chunks, read_records
from cdp_agent.watcher.client import Taken
from cdp_agent.watcher.core import Watcher
from cdp_agent.watcher.gathered import Limits
from cdp_agent.watcher.settings import TreeSettings, WatcherSettings
from cdp_container.clock import Clock, SystemClock
from cdp_container.format.names import Name, NameType, parse_name, parse_name_key
from cdp_container.format.place import NOWHERE, Place
from cdp_container.format.records import record_value
from cdp_container.journal.position import Position

TREE = bytes(range(16))
DOMAIN = b"d" * 16
BLOCK = 4096
Entry = tuple[Any, ...]


@dataclass
class Container:
    """What batches have told, applied in order."""

    names: dict[tuple[bytes, bytes], Name] = field(default_factory=dict)
    spaces: dict[bytes, dict[int, bytes]] = field(default_factory=dict)
    """Of each space the blocks that are not all zeros."""
    trees: dict[bytes, str] = field(default_factory=dict)

    def copy(self) -> Container:
        spaces = {space: dict(blocks) for space, blocks in self.spaces.items()}
        return Container(dict(self.names), spaces, dict(self.trees))

    def apply(self, fd: int) -> None:
        with os.fdopen(fd, "rb") as file:
            facts = check_batch(file)
            for record in read_records(file):
                self._record(record.name, record.key, record_value(record, "a batch"), record.value)
            for extent in read_chunks(file, facts):
                self._write(extent.space, extent.offset, extent.length, extent.data)

    def _write(self, space: bytes, start: int, length: int, data: bytes | memoryview | None) -> None:
        blocks = self.spaces.setdefault(space, {})
        end = start + length
        touched = range(start // BLOCK, -(-end // BLOCK))
        for number in touched if data is not None else [known for known in blocks if known in touched]:
            low, high = max(start, number * BLOCK), min(end, number * BLOCK + BLOCK)
            block = bytearray(blocks.pop(number, bytes(BLOCK)))
            piece = bytes(high - low) if data is None else data[low - start : high - start]
            block[low - number * BLOCK : high - number * BLOCK] = piece
            if any(block):
                blocks[number] = bytes(block)

    def content(self, space: bytes, size: int) -> bytes:
        """What a file of this size reads as."""
        blocks = self.spaces.get(space, {})
        count = -(-size // BLOCK)
        return b"".join(blocks.get(number, bytes(BLOCK)) for number in range(count))[:size]

    def _record(self, name: str, key: bytes, value: dict[str, Any], raw: bytes) -> None:
        if name == "name+":
            self.names[parse_name_key(key, "a batch")] = parse_name(raw, "a batch")
        elif name == "name-":
            self.names.pop(parse_name_key(key, "a batch"), None)
        elif name == "space=":
            self._write(key, value["size_bytes"], 1 << 62, None)
        elif name == "space-":
            self.spaces.pop(key, None)
        elif name == "tree+":
            self.trees[key] = value["name"]
        else:
            assert name == "tree-"
            self.trees.pop(key)
            self.names = {known: said for known, said in self.names.items() if known[0] != key}

    def entries(self, tree: bytes = TREE) -> dict[bytes, Entry]:
        """Every name of a tree, as `directory_entries` has them."""
        found = {}
        links: dict[bytes, list[bytes]] = {}
        for (owner, path), said in self.names.items():
            if owner == tree and said.space is not None:
                links.setdefault(said.space, []).append(path)
        for (owner, path), said in self.names.items():
            if owner != tree:
                continue
            content: bytes | None = None
            if said.type is NameType.FILE:
                content = self.content(said.space or b"", said.size_bytes)
            linked = sorted(links[said.space]) if said.space is not None else [path]
            found[path] = (
                said.type, said.mode, said.uid, said.gid, said.mtime_ns, said.target, said.xattrs,
                said.device, content, tuple(linked),
            )  # fmt: skip
        return found

    def check(self, is_whole: bool) -> None:
        """Every name but the root has its directory; where the tree is whole names of one space agree."""
        links: dict[bytes, Name] = {}
        for (tree, path), said in self.names.items():
            if path:
                assert self.names[tree, path.rpartition(b"/")[0]].type is NameType.DIRECTORY, path
            if said.space is not None and is_whole:
                assert links.setdefault(said.space, said) == said, path

    def check_spaces(self) -> None:
        """No space is without a name, once all was told."""
        named = {said.space for said in self.names.values()}
        assert set(self.spaces) <= named, "a space that nobody names"


def directory_entries(root: Path) -> dict[bytes, Entry]:
    """What is in a directory, itself as the empty path."""
    top = os.fsencode(root)
    paths = [b""]
    for parent, directories, files in os.walk(top):
        paths.extend(os.path.join(parent, name)[len(top) + 1 :] for name in (*directories, *files))
    stats = {path: os.lstat(os.path.join(top, path) if path else top) for path in paths}
    links: dict[tuple[int, int], list[bytes]] = {}
    for path, found in stats.items():
        links.setdefault((found.st_dev, found.st_ino), []).append(path)
    entries = {}
    for path, found in stats.items():
        full = os.path.join(top, path) if path else top
        is_file = stat.S_ISREG(found.st_mode)
        is_node = stat.S_ISCHR(found.st_mode) or stat.S_ISBLK(found.st_mode)
        keys = sorted(os.listxattr(full, follow_symlinks=False))
        entries[path] = (
            _TYPES[stat.S_IFMT(found.st_mode)],
            stat.S_IMODE(found.st_mode),
            found.st_uid,
            found.st_gid,
            found.st_mtime_ns,
            os.readlink(full) if stat.S_ISLNK(found.st_mode) else b"",
            tuple((os.fsencode(key), os.getxattr(full, key, follow_symlinks=False)) for key in keys),
            (os.major(found.st_rdev), os.minor(found.st_rdev)) if is_node else None,
            Path(os.fsdecode(full)).read_bytes() if is_file else None,
            (path,) if stat.S_ISDIR(found.st_mode) else tuple(sorted(links[found.st_dev, found.st_ino])),
        )
    return entries


_TYPES = {
    stat.S_IFREG: NameType.FILE, stat.S_IFDIR: NameType.DIRECTORY, stat.S_IFLNK: NameType.SYMLINK,
    stat.S_IFIFO: NameType.FIFO, stat.S_IFCHR: NameType.CHAR, stat.S_IFBLK: NameType.BLOCK,
    stat.S_IFSOCK: NameType.SOCKET,
}  # fmt: skip


class FreeHold:
    """Guests that never write."""

    def __init__(self, kept: bool = True) -> None:
        self.kept = kept

    def hold(self) -> Position:
        return Position(1, 2)

    def release(self) -> bool:
        return self.kept


class Site:
    """A directory as a tree, its watcher, and the container that its batches make."""

    def __init__(
        self,
        directory: Path,
        limits: Limits | None = None,
        dirty_max: int = 100_000,
        exclude: tuple[str, ...] = (),
        include: tuple[str, ...] = (),
        one_file_system: bool = True,
    ) -> None:
        self.directory = directory / "journal"
        self.tree = directory / "tree"
        self.tree.mkdir(parents=True, exist_ok=True)
        self.directory.mkdir(parents=True, exist_ok=True)
        tree = TreeSettings(TREE, "home", self.tree, include, exclude, one_file_system)
        self.settings = WatcherSettings(self.directory, DOMAIN, "", (tree,))
        self.clock: Clock = SystemClock()
        self.limits = limits
        self.dirty_max = dirty_max
        self.new_hold: Callable[[], FreeHold] = FreeHold
        self.container = Container()
        self.place = NOWHERE
        self.cuts: list[tuple[Place, Container]] = [(NOWHERE, self.container.copy())]
        self.epoch = 0
        self.watcher = self.started()

    def started(self) -> Watcher:
        return Watcher(
            self.settings, self.clock, os.urandom, self._hold, self.no_image,
            self.limits, self.dirty_max,
        )  # fmt: skip

    def _hold(self) -> FreeHold:
        return self.new_hold()

    def no_image(self, base: Place) -> Image:
        raise AssertionError("the index was to be known")

    def restart(self) -> None:
        """A watcher that was killed and comes to life; `begin` is the caller's."""
        self.watcher.close()
        self.watcher = self.started()

    def begin(self, back: int = 0) -> None:
        """A new epoch on top of the newest cut, or of one that is older by some."""
        if back:
            del self.cuts[-min(back, len(self.cuts) - 1) or len(self.cuts) :]
        self.place, kept = self.cuts[-1]
        self.container = kept.copy()
        self.epoch += 1
        self.watcher.begin(self.epoch, self.place)
        self.cuts = [(self.place, kept)]

    def take(self, hold: bool = True, lose: bool = False) -> Taken:
        """Take, and apply what was taken; `lose`: it never comes into a cut."""
        cut = self.place.cut + 1
        taken = self.watcher.take(self.epoch, cut, hold)
        if lose:
            if taken.fd is not None:
                os.close(taken.fd)
            self.watcher.begin(self.epoch, self.place)
            return taken
        if taken.fd is not None:
            self.container.apply(taken.fd)
        self.container.check(not taken.not_whole)
        self.place = Place(self.epoch, cut, cut)
        self.cuts.append((self.place, self.container.copy()))
        return taken

    def idle(self) -> None:
        """Let scans come to their end, or to where they wait."""
        while self.watcher.idle():
            pass

    def settle(self, turns_max: int = 200) -> Taken:
        """Take until the tree is whole and nothing is dirty."""
        for _ in range(turns_max):
            self.idle()
            taken = self.take()
            if not taken.not_whole and not taken.batch:
                return taken
        raise AssertionError(f"never whole: {self.watcher.status()}")

    def assert_same(self) -> None:
        """The container has what the directory has."""
        self.container.check_spaces()
        assert_same(self.container.entries(), directory_entries(self.tree))

    def close(self) -> None:
        self.watcher.close()


def assert_same(ours: dict[bytes, Entry], theirs: dict[bytes, Entry]) -> None:
    """Two sets of entries are equal; the first difference is named."""
    assert ours.keys() == theirs.keys()
    for path, entry in theirs.items():
        assert ours[path] == entry, path
