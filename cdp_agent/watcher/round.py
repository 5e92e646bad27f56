"""One batch while it is made: looks at paths, one by one, and gathers what the container is to be told.

It works within one transaction of the index, which is brought up to date as it goes. A path may be looked at
again in the same batch; what was gathered for it before is replaced. The order in which things are asked for,
holds and limits of time do not belong here (take.py), nor how content is compared (content.py).
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from cdp_agent.watcher.anew import digest_of
from cdp_agent.watcher.dirty import DEEP, LOOK, READ
from cdp_agent.watcher.events import Events
from cdp_agent.watcher.gathered import Gathered
from cdp_agent.watcher.index import (
    DIRECTORY,
    FILE,
    PAGE_ROWS,
    TYPE_NUMBERS,
    FileRow,
    Index,
    NameRow,
    joined,
)
from cdp_agent.watcher.mounts import MountChanged
from cdp_agent.watcher.reading import Captured, FileReader
from cdp_agent.watcher.rooted import is_gone
from cdp_agent.watcher.scan import Scan
from cdp_agent.watcher.stamp import RACY_NS, is_racy, stamp_inode, stamp_of, type_of
from cdp_agent.watcher.tree import Tree
from cdp_container.clock import Clock
from cdp_container.errors import RecordTooLarge
from cdp_container.format.layout import ID_BYTES
from cdp_container.format.limits import PATH_BYTES_MAX
from cdp_container.format.names import (
    Name,
    NameType,
    SkewedFile,
    TreeRules,
    name_added,
    name_gone,
    tree_added,
    tree_gone,
)

LOOKS_MAX: Final = 3
"""A name that becomes another one between two calls is looked at again."""
_NODES: Final = frozenset({NameType.CHAR, NameType.BLOCK})


class Round:
    """Gathers one batch.

    Args:
        index: within a transaction.
        events: to watch what appears.
        clock: for times that people read.
        entropy: gives ids of spaces.
        gathered: what it is gathered into.
    """

    def __init__(
        self,
        index: Index,
        events: Events,
        clock: Clock,
        entropy: Callable[[int], bytes],
        gathered: Gathered,
    ) -> None:
        self._index = index
        self._events = events
        self._clock = clock
        self._entropy = entropy
        self.gathered = gathered
        self._reader = FileReader(index, clock, gathered)
        self._orphans: dict[int, int] = {}
        self._directories: set[tuple[int, bytes]] = set()
        self._linked: list[tuple[Tree, bytes]] = []
        self._shared: dict[int, tuple[Tree, int, Name]] = {}
        self.instant_ns = 0
        """What changed later than this by its change time is noted in `late`; 0: nothing is."""
        self.late: set[tuple[int, bytes]] = set()

    @property
    def unsteady(self) -> Mapping[tuple[bytes, bytes], SkewedFile]:
        """What changed while it was read, again and again."""
        return self._reader.unsteady

    # --- looking ----------------------------------------------------------------------------

    def look(self, tree: Tree, path: bytes, bits: int) -> bool:
        """Bring a path up to date, and what else has its file; False where that is not done yet."""
        done = self._look(tree, path, bits)
        seen = {(tree.number, path)}
        while self._linked:
            other, linked = self._linked.pop()
            if (other.number, linked) not in seen:
                seen.add((other.number, linked))
                done = self._look(other, linked, LOOK) and done
        return done

    def doubt(self) -> None:
        """A file with several names may be newer than it was read, through one that was missed."""
        self._reader.doubt()

    def _look(self, tree: Tree, path: bytes, bits: int) -> bool:
        if len(path) > PATH_BYTES_MAX:
            tree.trouble(path, f"its path has more than {PATH_BYTES_MAX} bytes")
            return True
        for attempt in range(LOOKS_MAX):
            try:
                done = self._look_once(tree, path, bits)
            except RecordTooLarge as error:
                tree.trouble(path, error.why)
                return True
            except MountChanged as error:
                tree.mount_changed(error)
                return True
            except OSError as error:
                if is_gone(error) and attempt + 1 < LOOKS_MAX:
                    tree.open_root.let_go()
                    continue
                tree.trouble(path, error.strerror or "unreadable")
                return True
            tree.troubles.pop(path, None)
            tree.mount_faults.pop(path, None)
            return done
        return False

    def _look_once(self, tree: Tree, path: bytes, bits: int) -> bool:
        root = tree.open_root
        found = root.lstat(path)
        excluded = False
        if found is not None:
            kind = type_of(found)
            is_directory = kind is NameType.DIRECTORY
            excluded = kind is None or tree.patterns.excludes(path, is_directory)
            if excluded or (path and not self._has_directory(tree, path)):
                found = None
            elif is_directory:
                found = root.stat_directory(path, found)
        row = self._index.name(tree.row, path)
        if found is None or not stat.S_ISDIR(found.st_mode):
            self._leave_mounts(tree, path, row, excluded)
        tree.missed_name |= bool(bits & DEEP) or (found is None and row is None)
        if found is None:
            return self._gone(tree, path, row)
        if not stat.S_ISDIR(found.st_mode):
            tree.note_links(path, found)
        if path in tree.mount_faults:
            bits |= DEEP
        if self.instant_ns and found.st_ctime_ns > self.instant_ns - RACY_NS:
            self.late.add((tree.number, path))
        if row is not None and row.may_be_directory and not stat.S_ISDIR(found.st_mode):
            if not self._remove_below(tree, path):
                return False
            self._events.forget(tree.number, path)
            self._directories.discard((tree.number, path))
        if stat.S_ISREG(found.st_mode):
            return self._file(tree, path, found, bits, row)
        if stat.S_ISDIR(found.st_mode):
            return self._directory(tree, path, found, bits, row)
        self._other(tree, path, found, row)
        return True

    def _leave_mounts(self, tree: Tree, path: bytes, row: NameRow | None, excluded: bool) -> None:
        """A path is no directory (any more): nothing may have been mounted there, unless it is left out."""
        mounts = tree.open_root.mounts
        if mounts is None or row is None or not row.may_be_directory:
            return
        if excluded:
            mounts.drop(path)
        else:
            mounts.leave(path)

    def _has_directory(self, tree: Tree, path: bytes) -> bool:
        """Whether the container has the directory that a path is in; it is told of it where it has not."""
        parent = path.rpartition(b"/")[0]
        if (tree.number, parent) in self._directories:
            return True
        missing = []
        while True:
            row = self._index.name(tree.row, parent)
            if row is not None and row.type == DIRECTORY and row.is_certain:
                break
            missing.append(parent)
            if not parent:
                break
            parent = parent.rpartition(b"/")[0]
        for parent in reversed(missing):
            if not self._look(tree, parent, LOOK):
                return False
            row = self._index.name(tree.row, parent)
            if row is None or row.type != DIRECTORY:
                return False
        self._directories.add((tree.number, path.rpartition(b"/")[0]))
        return True

    def _stamp(self, tree: Tree, found: os.stat_result) -> bytes:
        """What is remembered: without a change time that proves nothing."""
        return stamp_of(found, tree.open_root.device, not is_racy(found, self._clock.wall_ns()))

    def _directory(
        self, tree: Tree, path: bytes, found: os.stat_result, bits: int, row: NameRow | None
    ) -> bool:
        root = tree.open_root
        stamp = stamp_of(found, root.device)
        known = row is not None and row.type == DIRECTORY
        is_same = known and row is not None and stamp_inode(row.stamp) == stamp_inode(stamp)
        if row is None or row.stamp != stamp or not known:
            self._put(
                tree, path, row, DIRECTORY, None, self._stamp(tree, found), self._said(tree, path, found)
            )
        if root.is_foreign(found):
            self._events.forget(tree.number, path)
            return self._remove_below(tree, path)
        is_watched = bool(tree.unwatched) or self._events.is_watched(tree.number, path)
        if (bits & DEEP or not is_same or not is_watched) and path:
            tree.deep.append(Scan(tree, self._index, self._events, path))
        return True

    def _other(self, tree: Tree, path: bytes, found: os.stat_result, row: NameRow | None) -> None:
        kind = type_of(found)
        assert kind is not None
        if row is not None and row.stamp == stamp_of(found, tree.open_root.device):
            return
        stamp, number = self._stamp(tree, found), TYPE_NUMBERS[kind]
        file = self._file_row(tree, stamp_inode(stamp), row, 0, number)
        if file.inode is None:
            self._index.set_file(file.id, stamp_inode(stamp), 0)
        # Only what has several names is told to be one thing; here it is known as one from the first.
        space = file.space if found.st_nlink > 1 else None
        said = self._said(tree, path, found, space)
        self._put(tree, path, row, number, file.id, stamp, said)
        self._share(tree, file.id, number, found, said)
        self._look_at_links(tree, path, found, file, row)

    def _said(
        self, tree: Tree, path: bytes, found: os.stat_result, space: bytes | None = None, size: int = 0
    ) -> Name:
        """What the container is told of a name."""
        root = tree.open_root
        kind = type_of(found)
        assert kind is not None
        return Name(
            type=kind,
            mode=stat.S_IMODE(found.st_mode),
            uid=found.st_uid,
            gid=found.st_gid,
            mtime_ns=found.st_mtime_ns,
            size_bytes=size,
            space=space,
            target=root.readlink(path) if kind is NameType.SYMLINK else b"",
            xattrs=root.xattrs(path),
            device=(os.major(found.st_rdev), os.minor(found.st_rdev)) if kind in _NODES else None,
        )

    def _put(
        self,
        tree: Tree,
        path: bytes,
        row: NameRow | None,
        kind: int,
        file: int | None,
        stamp: bytes,
        said: Name,
    ) -> None:
        record = name_added(tree.id, path, said)
        digest = digest_of(record.value)
        if row is None or row.digest != digest:
            self.gathered.name(tree.row, path, record)
        self._index.put_name(tree.row, path, row, kind, file, stamp, digest)
        if file is not None:
            self._orphans.pop(file, None)
        if row is not None and row.file is not None and row.file != file:
            self._lose_name(tree, row.file, row.type)

    # --- files ------------------------------------------------------------------------------

    def _file(
        self, tree: Tree, path: bytes, found: os.stat_result, bits: int, row: NameRow | None
    ) -> bool:  # fmt: skip
        stamp = stamp_of(found, tree.open_root.device)
        if row is not None and row.stamp == stamp and not bits & READ:
            return True
        file = self._file_row(tree, stamp_inode(stamp), row, found.st_size, FILE)
        captured = self._reader.read.get(file.id)
        is_half = tree.suspended is not None and tree.suspended.file == file.id
        if not is_half and (captured is None or captured.stamp != stamp or bits & READ):
            captured = self._reader.content(tree, path, file, stamp_inode(stamp))
        self._put_file(tree, path, row, file, captured or Captured(found, stamp, found.st_size, False))
        self._look_at_links(tree, path, found, file, row)
        return True

    def _look_at_links(
        self, tree: Tree, path: bytes, found: os.stat_result, file: FileRow, row: NameRow | None
    ) -> None:
        """All names of an inode are brought up to date together."""
        if found.st_nlink > 1 or not (file.is_new or (row is not None and row.file == file.id)):
            others = self._index.names_of(file.id)
            self._linked.extend((tree, other) for other in others if other != path)

    def _share(self, tree: Tree, file: int, kind: int, found: os.stat_result, said: Name) -> None:
        """What all names of a file have to say, if it has several: see `_agree`."""
        if found.st_nlink > 1 or file in self._shared:
            self._shared[file] = tree, kind, said

    def _file_row(self, tree: Tree, inode: bytes, row: NameRow | None, size: int, kind: int) -> FileRow:
        """The file that an inode is, or a new one; what was of another type is another one."""
        file = self._index.file_by_inode(tree.row, inode)
        is_mine = row is not None and file is not None and (row.file, row.type) == (file.id, kind)
        if file is not None and not is_mine:
            was = self._index.kind_of(file.id) or self._orphans.get(file.id)
            if was not in (None, kind):
                self._index.leave_inode(file.id)
                file = None
        if file is None and row is not None and row.file is not None and row.type == kind:
            known = self._index.file(row.file)
            if known.inode is None:
                return known  # the container told of it, which knows no inodes
        if file is None:
            file = self._index.add_file(tree.row, inode, self._entropy(ID_BYTES), size)
            self._orphans[file.id] = kind  # it may be gone before it gets its name
        return file

    def _put_file(
        self, tree: Tree, path: bytes, row: NameRow | None, file: FileRow, captured: Captured
    ) -> None:  # fmt: skip
        root = tree.open_root
        stamp = captured.stamp if captured.proven else stamp_of(captured.stat, root.device, proven=False)
        said = self._said(tree, path, captured.stat, file.space, captured.size)
        self._put(tree, path, row, FILE, file.id, stamp, said)
        self._share(tree, file.id, FILE, captured.stat, said)

    def resume(self, tree: Tree) -> None:
        """Go on with a file that the batch before did not come through."""
        half = tree.suspended
        if half is None:
            return
        tree.suspended = None
        names = self._index.names_of(half.file)
        if not names:
            return
        file = self._index.file(half.file)
        path = half.path if half.path in names else names[0]
        try:
            assert file.inode is not None
            captured = self._reader.content(tree, path, file, file.inode, half)
            self._put_file(tree, path, self._index.name(tree.row, path), file, captured)
        except (OSError, RecordTooLarge):
            # Its names are others now: each is looked at anew, and says what is wrong.
            for name in names:
                tree.find(name, LOOK | READ)
            return
        for name in names:
            if name != path:
                self._look(tree, name, LOOK)

    # --- what is gone -----------------------------------------------------------------------

    def _gone(self, tree: Tree, path: bytes, row: NameRow | None) -> bool:
        if row is None:
            return True
        if row.may_be_directory:
            self._events.forget(tree.number, path)
            if not self._remove_below(tree, path):
                return False
        self._remove(tree, path, row.id, row.type, row.file)
        return True

    def _remove_below(self, tree: Tree, path: bytes) -> bool:
        """Remove all names below a directory, so that none is without its directory; False: not all yet."""
        while rows := self._index.below(tree.row, path, PAGE_ROWS):
            for number, parent, name, kind, file in rows:
                if self.gathered.record_count >= self.gathered.limits.records + PAGE_ROWS:
                    return False
                below = joined(parent, name)
                if kind == DIRECTORY:
                    self._events.forget(tree.number, below)
                self._remove(tree, below, number, kind, file)
        return True

    def _remove(self, tree: Tree, path: bytes, row: int, kind: int, file: int | None) -> None:
        self._index.remove_name(row)
        self.gathered.name(tree.row, path, name_gone(tree.id, path))
        self._directories.discard((tree.number, path))
        tree.troubles.pop(path, None)
        if file is not None:
            self._lose_name(tree, file, kind)

    def _lose_name(self, tree: Tree, file: int, kind: int) -> None:
        """It may have been written through the name that it had, of which only that name's event told."""
        self._reader.doubt(file)
        self._orphans[file] = kind
        self._linked.extend((tree, other) for other in self._index.names_of(file))

    # --- the end ----------------------------------------------------------------------------

    def _agree(self) -> None:
        """All names of a file say what was found last, also where it changed between looking at two."""
        for file, (tree, kind, said) in self._shared.items():
            for path in self._index.names_of(file):
                row = self._index.name(tree.row, path)
                record = name_added(tree.id, path, said)
                digest = digest_of(record.value)
                if row is not None and row.is_certain and (row.type, row.digest != digest) == (kind, True):
                    self.gathered.name(tree.row, path, record)
                    # The stamp stays what it was: whoever looks at that name next finds it to be different.
                    self._index.put_name(tree.row, path, row, kind, file, row.stamp, digest)

    def finish(self, protected: Sequence[Tree]) -> None:
        """Gather what goes without a path: spaces without a name, trees that came, left or were renamed."""
        gathered, index = self.gathered, self._index
        self._agree()
        for number, kind in self._orphans.items():
            if index.names_of(number):
                continue
            if kind == FILE:
                gathered.remove_file(index, index.file(number))
            else:
                index.remove_file(number)  # it has no content that had to be covered
        self._orphans.clear()
        said = {tree.row: tree for tree in protected}
        for known in index.trees():
            tree = said.get(known.number)
            if tree is not None and tree.settings.name != known.told:
                mine = tree.settings
                rules = TreeRules(mine.include, mine.exclude, mine.one_file_system)
                gathered.tree(known.number, tree_added(known.tree, mine.name, rules))
                index.set_tree(known.number, told=tree.settings.name)
            elif tree is None and not known.gone:
                gathered.tree(known.number, tree_gone(known.tree))
                index.drop_tree(known.number)
        for space in index.take_dead(max(0, gathered.limits.records - gathered.record_count)):
            gathered.remove_space(space)
