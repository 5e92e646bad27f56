"""What a mount shows of a cut: names, attributes, links, and which content a file has. No FUSE.

    shown = Shown(trees, namespace, volumes, owner, time_ns)
    shown.attributes(b"home.tree/docs/letter")

Paths are relative to the mount, without a slash in front; the empty one is the mount itself. How content is
read does not belong here (rehydrate.ondemand), nor how the kernel asks (driver).
"""

from __future__ import annotations

import errno
import os
import stat
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from itertools import islice
from typing import Final, NamedTuple

from cdp_container.domain.image import Volume
from cdp_container.domain.namespace import Entry, Namespace, Tree
from cdp_container.format.names import Name, NameType, Xattr
from rehydrate.file_names import IMAGE_SUFFIX, TREE_SUFFIX, file_names
from rehydrate.ondemand.kept import Kept
from rehydrate.ondemand.reader import Content

BLOCK_BYTES: Final = 512
"""The unit in which `stat` counts what a file takes."""

PAGE_NAMES: Final = 256
"""Names of a directory that are looked up together."""
PAGES_BYTES_MAX: Final = 16 << 20
"""What pages take that are kept, so that whoever lists a directory finds the next ones soon."""
NAME_COST_BYTES: Final = 1024
"""What a name in a page takes, on average."""
ROOT_INODE: Final = 1
_DIRECTORY_MODE: Final = 0o555
_IMAGE_MODE: Final = 0o400
_TYPES: Final = {
    NameType.FILE: stat.S_IFREG,
    NameType.DIRECTORY: stat.S_IFDIR,
    NameType.SYMLINK: stat.S_IFLNK,
    NameType.FIFO: stat.S_IFIFO,
    NameType.CHAR: stat.S_IFCHR,
    NameType.BLOCK: stat.S_IFBLK,
    NameType.SOCKET: stat.S_IFSOCK,
}


class Attributes(NamedTuple):
    """What `stat` says: type and permissions in `mode`, as the kernel has them. A tuple: there are many.

    Attributes:
        inode: the same for all names of one content, and of nothing else as far as a hash can tell.
        links: how many names a content has; of a directory 1, which means that nobody counted.
    """

    mode: int
    inode: int
    links: int
    uid: int
    gid: int
    size_bytes: int
    mtime_ns: int
    device: int = 0


@dataclass(frozen=True, slots=True)
class ShownSource:
    """A volume or tree as it is shown: `kind` is "volume" or "tree"; `file` its name in the mount."""

    kind: str
    name: str
    file: str
    size_bytes: int


class Shown:
    """Everything that is shown of one cut. Any thread may ask.

    Args:
        namespace: of the trees; None where there are none. It is closed by whoever made it.
        volumes: whole at the cut.
        owner: user and group to whom the mount and its images belong.
        time_ns: of the cut; images have no other.

    Attributes:
        has_xattrs: False where no name has extended attributes.
        names: how many there are in all.
        sources: what is shown.
    """

    def __init__(
        self, namespace: Namespace | None, volumes: Sequence[Volume], owner: tuple[int, int], time_ns: int
    ) -> None:
        self._namespace = namespace
        self._pages: Kept[tuple[bytes, int], list[tuple[bytes, Attributes]]] = Kept(PAGES_BYTES_MAX)
        self._lock = threading.Lock()  # a namespace is used by one thread at a time
        self._owner = owner
        self._time_ns = time_ns
        trees = () if namespace is None else namespace.trees
        files = file_names([(one.name, one.space) for one in volumes], IMAGE_SUFFIX)
        self._volumes = {file.encode(): one for file, one in zip(files, volumes, strict=True)}
        files = file_names([(one.name, one.tree) for one in trees], TREE_SUFFIX)
        self._trees = {file.encode(): one for file, one in zip(files, trees, strict=True)}
        counts = [Counter[NameType]() for _ in trees]
        self._links: dict[bytes, int] = {}
        if namespace is not None:
            counts = [Counter(namespace.counts(tree)) for tree in trees]
            for tree in trees:
                twins = namespace.twins(tree)
                self._links.update((space, len(paths)) for space, paths in twins.items())
        self.has_xattrs = namespace is not None and namespace.may_have_xattrs()
        self.names = 1 + len(self._volumes) + sum(count.total() for count in counts)
        self.sources = [
            *(
                ShownSource("volume", one.name, file.decode(), one.size_bytes)
                for file, one in self._volumes.items()
            ),
            *(ShownSource("tree", one.name, file.decode(), 0) for file, one in self._trees.items()),
        ]

    @property
    def volume_bytes(self) -> int:
        """Of all volumes together."""
        return sum(volume.size_bytes for volume in self._volumes.values())

    def is_image(self, path: bytes) -> bool:
        """Whether it is that of a volume."""
        return path in self._volumes

    def attributes(self, path: bytes) -> Attributes:
        """Of one name. Raises FileNotFoundError."""
        if not path:
            return self._top(stat.S_IFDIR | _DIRECTORY_MODE, ROOT_INODE, 0)
        volume = self._volumes.get(path)
        if volume is not None:
            return self._image(volume)
        tree, entry = self._found(path)
        return self._of(tree, entry)

    def listing(self, path: bytes, skipped: int = 0) -> Iterator[tuple[bytes, Attributes]]:
        """The names in a directory in their order, without the first so many; pages of them are in memory.

        Raises FileNotFoundError, NotADirectoryError.
        """
        if not path:
            for file in islice((*self._volumes, *self._trees), skipped, None):
                yield file, self.attributes(file)
            return
        if path in self._volumes:
            raise _error(errno.ENOTDIR)
        number, skipped = divmod(skipped, PAGE_NAMES)
        while True:
            page = self._page(path, number)
            yield from islice(page, skipped, None)
            if len(page) < PAGE_NAMES:
                return
            number, skipped = number + 1, 0

    def walk(self, source: ShownSource) -> Iterator[tuple[bytes, Attributes]]:
        """Every name of a volume or tree, its own first; others may ask meanwhile."""
        file = source.file.encode()
        tree = self._trees.get(file)
        if tree is None:
            yield file, self.attributes(file)
            return
        assert self._namespace is not None, "there is a tree"
        entries = self._namespace.walk(tree)
        while True:
            with self._lock:
                entry = next(entries, None)
            if entry is None:
                return
            yield file + b"/" + entry.path if entry.name else file, self._of(tree, entry)

    def target(self, path: bytes) -> bytes:
        """Where a symlink leads. Raises FileNotFoundError; OSError where it is none."""
        name = self._name(path)
        if name is None or name.type is not NameType.SYMLINK:
            raise _error(errno.EINVAL)
        return name.target

    def xattrs(self, path: bytes) -> tuple[Xattr, ...]:
        """The extended attributes of a name. Raises FileNotFoundError."""
        name = self._name(path)
        return () if name is None else name.xattrs

    def content(self, path: bytes) -> Content:
        """What a file holds. Raises FileNotFoundError; OSError where it is no file."""
        volume = self._volumes.get(path)
        if volume is not None:
            return Content(volume.space, volume.size_bytes)
        name = self._name(path)
        if name is None or name.type is not NameType.FILE:
            raise _error(errno.EISDIR if name is None or name.type is NameType.DIRECTORY else errno.EINVAL)
        return Content(name.space, name.size_bytes)

    # --- inside ----------------------------------------------------------------------------------

    def _page(self, path: bytes, number: int) -> list[tuple[bytes, Attributes]]:
        """Some neighbours of a directory: the kernel asks for a few of them at a time."""
        key = (path, number)
        with self._lock:
            known = self._pages.get(key)
        if known is not None:
            return known
        tree, entry = self._found(path)
        if entry.what.type is not NameType.DIRECTORY:
            raise _error(errno.ENOTDIR)
        assert self._namespace is not None, "there is a tree"
        with self._lock:
            found = self._namespace.listing(tree, entry.path, number * PAGE_NAMES, PAGE_NAMES)
        page = [(below.name, self._of(tree, below)) for below in found]
        with self._lock:
            self._pages.put(key, page, (len(page) + 1) * NAME_COST_BYTES)
        return page

    def _name(self, path: bytes) -> Name | None:
        """What a name of a tree is; None for the mount itself and for images."""
        if not path or path in self._volumes:
            return None
        return self._found(path)[1].what

    def _found(self, path: bytes) -> tuple[Tree, Entry]:
        file, _, within = path.partition(b"/")
        tree = self._trees.get(file)
        if tree is None:
            raise _error(errno.ENOENT)
        assert self._namespace is not None, "there is a tree"
        with self._lock:
            entry = self._namespace.find(tree, within)
        if entry is None:
            raise _error(errno.ENOENT)
        return tree, entry

    def _top(self, mode: int, inode: int, size_bytes: int) -> Attributes:
        return Attributes(mode, inode, 1, *self._owner, size_bytes, self._time_ns)

    def _image(self, volume: Volume) -> Attributes:
        return self._top(stat.S_IFREG | _IMAGE_MODE, _inode(volume.space), volume.size_bytes)

    def _of(self, tree: Tree, entry: Entry) -> Attributes:
        name = entry.what
        links = 1 if name.space is None else self._links.get(name.space, 1)
        inode = _inode(tree.tree + entry.path if name.space is None else name.space)
        mode = _TYPES[name.type] | name.mode
        size_bytes = len(name.target) if name.target else name.size_bytes
        device = 0 if name.device is None else os.makedev(*name.device)
        return Attributes(mode, inode, links, name.uid, name.gid, size_bytes, name.mtime_ns, device)


def _inode(subject: bytes) -> int:
    """A number that stays the same from mount to mount; 63 bits, as some programs know no more."""
    return int.from_bytes(blake2b(subject, digest_size=8).digest()) >> 1 | 2


def _error(number: int) -> OSError:
    """OSError makes the right one of its kin of it."""
    return OSError(number, os.strerror(number))
