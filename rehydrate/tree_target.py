"""The directory that a tree is restored into: names are made in it, what is there is kept or replaced.

Every step goes by the descriptor of a directory, opened without following links (tree_dirs), so nothing
outside is ever touched. Files that have other names outside, hard links, are replaced and never written. What
is fetched for which file does not belong here (tree_plan, tree_restore).
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from itertools import groupby, islice
from operator import itemgetter
from pathlib import Path
from typing import Final, Protocol

import numpy as np

from cdp_container.domain.namespace import Entry
from cdp_container.errors import TargetNotEmpty, TargetUnsuitable
from cdp_container.extents.intervals import Flags
from cdp_container.format.names import ROOT, Name, NameType, shown
from rehydrate.localio import lock_alone, os_errors
from rehydrate.mounted import mount_below, mounts_in
from rehydrate.removal import remove_directory
from rehydrate.tree_attributes import NODE, Attributes, Me, NotSet, is_plain, same_attributes
from rehydrate.tree_dirs import Directories, let_in
from rehydrate.tree_making import TOGETHER_MAX, Makers

KEPT: Final = 0
NEW: Final = 1
COMPARED: Final = 2
"""What is to be done for a file's content: nothing, all of it, or what differs from what is there."""

TOLD_EVERY: Final = 1_000
"""Names between two words on how far it is."""

_FILE: Final = NameType.FILE
_FORMATS: Final = {
    NameType.FILE: stat.S_IFREG,
    NameType.DIRECTORY: stat.S_IFDIR,
    NameType.SYMLINK: stat.S_IFLNK,
    NameType.FIFO: stat.S_IFIFO,
    NameType.CHAR: stat.S_IFCHR,
    NameType.BLOCK: stat.S_IFBLK,
    NameType.SOCKET: stat.S_IFSOCK,
}
_PARENT_OF: Final = itemgetter(Entry._fields.index("parent"))
_CREATE: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_NO_LINK: Final = os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK

Told = Callable[[int], None]
"""Told of so many more names."""
Twins = dict[bytes, list[bytes]]
"""The paths of each content that has several."""


@dataclass(slots=True)
class Laid:
    """The files with content, in the order of the walk, and what is to be done for each.

    Attributes:
        spaces: their contents' ids.
        sizes: in bytes.
        states: KEPT, NEW or COMPARED.
        names: how many names there are in all.
        removed: what stood in the way, or was not in the container and told to go.
    """

    spaces: list[bytes] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    states: bytearray = field(default_factory=bytearray)
    names: int = 0
    removed: int = 0

    @property
    def wanted(self) -> Flags:
        """Of each file, whether its content is looked at."""
        found: Flags = np.frombuffer(bytes(self.states), dtype=np.uint8) != KEPT
        return found

    def add(self, name: Name, state: int) -> None:
        """Note a file with content."""
        assert name.space is not None
        self.spaces.append(name.space)
        self.sizes.append(name.size_bytes)
        self.states.append(state)


@dataclass(frozen=True, slots=True)
class Ways:
    """What a restore does about what is there: remove what the container lacks; believe no size and time."""

    delete: bool = False
    checksum: bool = False


class Keeper(Protocol):
    """Whoever sees to what is there before it goes; descriptors are those of the directories above."""

    def spares(self, directory: int, path: bytes, status: os.stat_result) -> bool:
        """Whether a path that the tree lacks stays all the same."""
        ...

    def enters(self, path: bytes) -> bool:
        """Whether what is in this directory may go at all."""
        ...

    def compares(self, name: Name) -> bool:
        """Whether the content of a file is compared though its size and time are right."""
        ...

    def removes(self, directory: int, path: bytes, base: bytes, status: os.stat_result) -> None:
        """Take a name away, with all that is below it."""
        ...

    def changes(self, directory: int, path: bytes, base: bytes, status: os.stat_result) -> None:
        """Told before a file is written where it is."""
        ...


class TreeTarget:
    """An open target; to be closed. `is_empty`: nothing stood in it. `keeper`: asked before anything goes."""

    def __init__(
        self, path: Path, root: int, is_empty: bool, ways: Ways, keeper: Keeper | None = None
    ) -> None:
        self.path = path
        self.is_empty = is_empty
        self.not_set = NotSet()
        self._ways = ways
        self._keeper = keeper
        self.directories = Directories(root)
        self.attributes = Attributes(self.not_set, Me(os.geteuid(), os.getegid()))
        self._existing: set[bytes] = set() if is_empty and is_plain(root) else {ROOT}
        self._stays: Callable[[bytes], bool] = lambda path: True
        self._mounts: frozenset[bytes] = frozenset()
        self._unpurged: set[bytes] = set()  # mounts in which nothing of the tree was met so far
        self._linked: dict[bytes, bytes] = {}  # by content, the path that was made first
        self._laid = Laid()

    def lay_out(
        self, entries: Iterable[Entry], twins: Twins, stays: Callable[[bytes], bool], told: Told
    ) -> Laid:
        """Make directories, empty files of the right length, links and nodes.

        Args:
            entries: parents first, those of a directory together.
            twins: hard links.
            stays: whether a path that is there is to stay; asked with `delete` only.
            told: see `Told`.

        Raises:
            TargetNotEmpty: a directory that is not empty stands where something else belongs, or is to go and
                something is mounted there.
            LocalDiskFull, AccessDenied, DeviceError, TargetUnsuitable: as the file system says.
        """
        self._stays = stays
        untold = 0
        with os_errors(f"restore into {self.path}"):
            self._find_mounts()
            if ROOT in self._existing:
                self._purge(ROOT)
            with closing(Makers(self.attributes, self.directories.descend)) as makers:
                for parent, inside in groupby(entries, key=_PARENT_OF):
                    self._purge_mount(parent)
                    while some := list(islice(inside, TOGETHER_MAX)):
                        untold += self._lay_out_some(parent, some, twins, makers)
                        if untold >= TOLD_EVERY:
                            told(untold)
                            untold = 0
                untold += makers.finish()
        told(untold)
        return self._laid

    def _lay_out_some(self, parent: bytes, entries: list[Entry], twins: Twins, makers: Makers) -> int:
        """Names of one directory, in their order; gives how many were done since the last call."""
        was_there = parent in self._existing
        entries = [entry for entry in entries if entry.name]  # not the root
        plain = []
        for entry in entries:
            if was_there or not _is_plain_file(entry, twins):
                self._make(self.directories.descend(parent), entry, twins, was_there)
                continue
            if entry.what.size_bytes:
                self._laid.add(entry.what, NEW)
            plain.append(entry)
        self._laid.names += len(entries)
        return len(entries) - len(plain) + makers.make(parent, plain)

    @contextmanager
    def file(self, entry: Entry, flags: int = os.O_WRONLY) -> Iterator[int]:
        """A file that was laid out, opened; may be called from several threads."""
        fd = self.open_file(entry, flags)
        try:
            yield fd
        finally:
            os.close(fd)

    def open_file(self, entry: Entry, flags: int = os.O_WRONLY) -> int:
        """The same for who closes it: of many small files even that counts."""
        return self.directories.open_in(entry.parent, entry.name, flags | _NO_LINK)

    def complete(self, entry: Entry, fd: int, is_sound: bool = True) -> None:
        """Give a file whose content is there its owner, mode, attributes and time.

        One that is not sound does not get its time, but that of now: no later restore takes it for the same.
        """
        self.attributes.set_open(entry.path, fd, entry.what, entry.parent not in self._existing)
        if not is_sound:
            os.utime(fd)

    def settle(self, directories: Iterable[Entry], told: Told) -> None:
        """Give directories theirs: those below before those above, as a mode may close the way."""
        with os_errors(f"restore into {self.path}"):
            for entry in directories:
                fd = self.directories.descend(entry.path)
                is_new = entry.path not in self._existing and entry.path != ROOT
                if is_new or not same_attributes(fd, entry.what):
                    self.attributes.set_open(entry.path, fd, entry.what, is_new)
                told(1)

    def close(self) -> None:
        """Let go of the target."""
        self.directories.close()

    # --- one name ------------------------------------------------------------------------------------

    def _make(self, directory: int, entry: Entry, twins: Twins, was_there: bool) -> None:
        kind = entry.what.type
        if was_there and self._is_kept(directory, entry, twins):
            return
        if kind is NameType.FILE:
            self._make_file(directory, entry, twins)
        elif kind is NameType.DIRECTORY:
            os.mkdir(entry.name, 0o700, dir_fd=directory)
            if was_there:
                self.attributes.make_plain(self.directories.descend(entry.path))
        elif not self._link(entry):
            if kind is NameType.SYMLINK:
                os.symlink(entry.what.target, entry.name, dir_fd=directory)
                self.attributes.set_named(entry.path, directory, entry.name, entry.what)
            elif not self._make_node(directory, entry):
                return
            self._note_linked(entry, twins)

    def _make_file(self, directory: int, entry: Entry, twins: Twins) -> None:
        name = entry.what
        if self._link(entry):
            return
        fd = os.open(entry.name, _CREATE, 0o600, dir_fd=directory)
        try:
            if name.size_bytes:
                os.ftruncate(fd, name.size_bytes)
                self._laid.add(name, NEW)
            else:
                self.attributes.set_open(entry.path, fd, name, entry.parent not in self._existing)
        finally:
            os.close(fd)
        self._note_linked(entry, twins)

    def _note_linked(self, entry: Entry, twins: Twins) -> None:
        """What comes later of the same inode is linked to this."""
        space = entry.what.space
        if space is not None and space in twins:
            self._linked.setdefault(space, entry.path)

    def _link(self, entry: Entry) -> bool:
        """Make a hard link of what was made before; False where nothing was."""
        first = None if entry.what.space is None else self._linked.get(entry.what.space)
        if first is None:
            return False
        parent, _, base = first.rpartition(b"/")
        source = os.dup(self.directories.descend(parent))  # the way to the other may take its place
        try:
            target = self.directories.descend(entry.parent)
            os.link(base, entry.name, src_dir_fd=source, dst_dir_fd=target, follow_symlinks=False)
        finally:
            os.close(source)
        return True

    def _make_node(self, directory: int, entry: Entry) -> bool:
        """Whether it could be made."""
        device = os.makedev(*entry.what.device) if entry.what.device is not None else 0
        try:
            os.mknod(entry.name, _FORMATS[entry.what.type] | 0o600, device, dir_fd=directory)
        except PermissionError as error:
            self.not_set.add(entry.path, NODE, os.strerror(error.errno or 0))
            return False
        self.attributes.set_named(entry.path, directory, entry.name, entry.what)
        return True

    # --- what is there -------------------------------------------------------------------------------

    def _is_kept(self, directory: int, entry: Entry, twins: Twins) -> bool:
        """Whether what is there serves; else it was taken away."""
        try:
            status = os.stat(entry.name, dir_fd=directory, follow_symlinks=False)
        except FileNotFoundError:
            return False
        name = entry.what
        if stat.S_IFMT(status.st_mode) == _FORMATS[name.type]:
            if name.type is NameType.DIRECTORY:
                self._existing.add(entry.path)
                if entry.path in self._mounts:
                    self._unpurged.add(entry.path)
                else:
                    self._purge(entry.path)
                return True
            if name.type is NameType.FILE:
                if self._keep_file(directory, entry, status, twins):
                    return True
            elif self._keep_node(directory, entry, status, twins):
                return True
        self._remove(self.directories.descend(entry.parent), entry.path, entry.name, status)
        return False

    def _keep_node(self, directory: int, entry: Entry, status: os.stat_result, twins: Twins) -> bool:
        """Whether a link or node that is there is the one, by itself or with all names of it."""
        if not self._is_same_node(directory, entry, status) or not self._is_ours(entry, status, twins):
            return False
        directory = self.directories.descend(entry.parent)
        self.attributes.set_named(entry.path, directory, entry.name, entry.what)
        self._note_linked(entry, twins)
        return True

    def _is_ours(self, entry: Entry, status: os.stat_result, twins: Twins) -> bool:
        """Whether what is there has no names but this entry's; of a later one, whether it is the first."""
        space, mine = entry.what.space, (status.st_dev, status.st_ino)
        if space is not None and space in self._linked:
            return self._inode(self._linked[space]) == mine
        paths = [entry.path] if space is None else twins.get(space, [entry.path])
        return status.st_nlink == 1 or sum(self._inode(path) == mine for path in paths) == status.st_nlink

    def _is_same_node(self, directory: int, entry: Entry, status: os.stat_result) -> bool:
        name = entry.what
        if name.type is NameType.SYMLINK:
            return os.readlink(entry.name, dir_fd=directory) == name.target
        return name.device is None or (os.major(status.st_rdev), os.minor(status.st_rdev)) == name.device

    def _keep_file(self, directory: int, entry: Entry, status: os.stat_result, twins: Twins) -> bool:
        name = entry.what
        if not self._is_ours(entry, status, twins):
            return False
        if name.space is not None and name.space in self._linked:
            return True
        same = (status.st_size, status.st_mtime_ns) == (name.size_bytes, name.mtime_ns)
        directory = self.directories.descend(entry.parent)
        is_compared = self._ways.checksum or (self._keeper is not None and self._keeper.compares(name))
        if name.size_bytes and not (same and not is_compared):
            if not _is_writable(directory, entry.name):
                return False
            if self._keeper is not None:
                self._keeper.changes(directory, entry.path, entry.name, status)
            self._laid.add(name, COMPARED)
        elif not self._refresh(directory, entry, status):
            return False
        elif name.size_bytes:
            self._laid.add(name, KEPT)
        self._note_linked(entry, twins)
        return True

    def _refresh(self, directory: int, entry: Entry, status: os.stat_result) -> bool:
        """Length and attributes of a file whose content is not looked at; False where it cannot be opened."""
        try:
            fd = os.open(entry.name, os.O_RDONLY | _NO_LINK, dir_fd=directory)
        except PermissionError:
            return False
        try:
            if not same_attributes(fd, entry.what) or os.fstat(fd).st_size != entry.what.size_bytes:
                if os.fstat(fd).st_size != entry.what.size_bytes:
                    return False
                if self._keeper is not None:
                    self._keeper.changes(directory, entry.path, entry.name, status)
                self.attributes.set_open(entry.path, fd, entry.what, is_new=False)
        finally:
            os.close(fd)
        return True

    def _inode(self, path: bytes) -> tuple[int, int] | None:
        parent, _, base = path.rpartition(b"/")
        try:
            status = os.stat(base, dir_fd=self.directories.descend(parent), follow_symlinks=False)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            if error.errno == errno.ELOOP:
                return None
            raise
        return status.st_dev, status.st_ino

    def _find_mounts(self) -> None:
        """What is mounted below must not be emptied with `delete`. A keeper sees to that by himself."""
        if not self._ways.delete or self._keeper is not None:
            return
        self._mounts = mounts_in(self.directories.root)
        for mount in sorted(self._mounts):
            if not self._stays(mount):
                self._refuse_mount(mount)

    def _purge_mount(self, path: bytes) -> None:
        """The tree has something in a directory: if it was mounted over, that is the tree's."""
        if path in self._unpurged:
            self._unpurged.remove(path)
            self._purge(path)

    def _refuse_mount(self, mount: bytes) -> None:
        why = f"something is mounted at {shown(mount)}, where the tree has no directory"
        raise TargetNotEmpty(f"restore into {self.path}", why, "unmount it, or leave out --delete")

    def _purge(self, path: bytes) -> None:
        """With `delete`, take away what stands in a directory that was there and is not to stay."""
        if not self._ways.delete:
            return
        directory = self.directories.descend(path)
        if self._keeper is not None and not self._keeper.enters(path):
            return
        for found in os.listdir(directory):
            base = os.fsencode(found)
            inner = path + b"/" + base if path else base
            if not self._stays(inner):
                status = os.stat(base, dir_fd=directory, follow_symlinks=False)
                if self._keeper is None or not self._keeper.spares(directory, inner, status):
                    self._remove(directory, inner, base, status)

    def _remove(self, directory: int, path: bytes, base: bytes, status: os.stat_result) -> None:
        if self._keeper is not None:
            self.directories.forget(path)
            self._keeper.removes(directory, path, base, status)
        elif not stat.S_ISDIR(status.st_mode):
            os.unlink(base, dir_fd=directory)
        elif self._ways.delete:
            mount = mount_below(path, self._mounts)
            if mount is not None:
                self._refuse_mount(mount)
            self.directories.forget(path)
            remove_directory(directory, base)
        else:
            try:
                os.rmdir(base, dir_fd=directory)
            except OSError as error:
                if error.errno != errno.ENOTEMPTY:
                    raise
                why = f"{shown(path)} is a directory that is not empty, and belongs to be something else"
                raise TargetNotEmpty(f"restore into {self.path}", why, "--delete removes it") from error
        self._laid.removed += 1


def _is_plain_file(entry: Entry, twins: Twins) -> bool:
    """Whether it is a file, and has no other names."""
    what = entry.what
    return what.type is _FILE and (what.space is None or what.space not in twins)


def _is_writable(directory: int, base: bytes) -> bool:
    """Whether a file can be written where it is: not where it is a program that runs, or not ours to open."""
    try:
        os.close(os.open(base, os.O_RDWR | _NO_LINK, dir_fd=directory))
    except OSError as error:
        if error.errno in (errno.ETXTBSY, errno.EACCES, errno.EPERM):
            return False
        raise
    return True


@contextmanager
def open_tree_target(path: Path, ways: Ways, keeper: Keeper | None = None) -> Iterator[TreeTarget]:
    """A directory to restore into; made where it is missing, if its parent is there. See `TreeTarget`.

    Raises:
        AlreadyRunning: another restore writes it.
        TargetUnsuitable, AccessDenied: it is no directory, or cannot be made or opened.
    """
    what = f"restore into {path}"
    with os_errors(what):
        try:
            os.mkdir(path, 0o700)
        except FileExistsError:
            if not path.is_dir():
                raise TargetUnsuitable(what, "it is no directory") from None
        except FileNotFoundError:
            raise TargetUnsuitable(what, f"there is no directory {path.parent}") from None
        root = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            lock_alone(root, path, what)
            let_in(root)
            target = TreeTarget(path, root, not os.listdir(root), ways, keeper)
        except BaseException:
            os.close(root)
            raise
    try:
        yield target
    finally:
        target.close()
