"""One tree while it is watched: its root, what is left to be looked at, what keeps it from being whole."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from cdp_agent.watcher.dirty import LOOK
from cdp_agent.watcher.mounts import MountChanged
from cdp_agent.watcher.rooted import Root
from cdp_agent.watcher.settings import TreeSettings
from cdp_container.domain.tree_patterns import Patterns

if TYPE_CHECKING:
    from cdp_agent.watcher.scan import Scan

TROUBLES_MAX: Final = 100
"""Paths that cannot be read, by name; more are counted, and looked at again by scans."""
FOUND_MAX: Final = 50_000
"""What scans found and no batch has taken yet; beyond, they wait."""
LINKED_MAX: Final = 256
"""Files with several names that are looked at where a name was missed: some 10 ms of each pass."""


@dataclass(slots=True)
class Suspended:
    """A pass through a large file that goes on in the next batch."""

    path: bytes
    file: int
    size: int
    chunk: int
    stamp: bytes
    from_ns: int
    attempts: int


@dataclass(frozen=True, slots=True)
class MountFault:
    """A mount that came or went: what is there now (mounts.py has identities), and why that is wrong."""

    found: bytes
    why: str


@dataclass(slots=True)
class Tree:
    """A tree of the settings.

    Attributes:
        number: its place in the settings: what `Dirty` and `Events` know it by.
        row: its number in the index; 0 before there is one.
        root: open while a take or a scan uses it.
        root_fault: why its directory cannot be used; empty where it can.
        root_found: the identity of a directory that is there and is not the tree's; empty: none is.
        accept_root: that of the directory which an operator said to be the tree; empty: none.
        mount_faults: mount points that are not what they were; nothing is said of what is below them.
        accepted_mounts: of those the ones that an operator accepted, and what was there.
        accepts_mounts: with its directory he accepted whatever is mounted in it, until it is whole.
        unwatched: why it is not watched; empty where it is.
        watch_faults: directories that could not be watched since the last scan began.
        scanned: all of it was looked at, or found, since it was last in doubt.
        scan: the one under way.
        deep: directories that appeared and are to be looked through.
        found: what scans found to be different, and its bits.
        troubles: paths that cannot be read, and why.
        suspended: a file that is half read.
        left: something was left over by the last take.
        scan_due_ns: when the next scan is due, boot time.
        retry_ns: when what is in trouble is tried again, boot time.
        read_all: the next scan compares the content of all files.
        scan_wanted: an operator asked for one; `scans_begun`, `scans_done`: the number of the newest one.
        names: how many the last scan met.
        linked: files with several names, by device and inode number, and one of these names each.
        missed_name: a name went that nobody looked at; it may have been another one of any file.
    """

    number: int
    settings: TreeSettings
    patterns: Patterns
    row: int = 0
    root: Root | None = None
    root_fault: str = "it was not looked at yet"
    root_found: bytes = b""
    accept_root: bytes = b""
    mount_faults: dict[bytes, MountFault] = field(default_factory=dict)
    accepted_mounts: dict[bytes, bytes] = field(default_factory=dict)
    accepts_mounts: bool = False
    unwatched: str = ""
    scanned: bool = False
    scan: Scan | None = None
    deep: list[Scan] = field(default_factory=list)
    found: dict[bytes, int] = field(default_factory=dict)
    troubles: dict[bytes, str] = field(default_factory=dict)
    troubles_more: int = 0
    suspended: Suspended | None = None
    left: bool = False
    scan_due_ns: int = 0
    retry_ns: int = 0
    read_all: bool = False
    scan_wanted: bool = False
    scans_begun: int = 0
    scans_done: int = 0
    names: int = 0
    linked: dict[tuple[int, int], bytes] = field(default_factory=dict)
    missed_name: bool = False

    @property
    def id(self) -> bytes:
        """The tree's id."""
        return self.settings.id

    @property
    def open_root(self) -> Root:
        """The root, which is open now."""
        assert self.root is not None
        return self.root

    def trouble(self, path: bytes, why: str) -> None:
        """A path cannot be read."""
        if path in self.troubles or len(self.troubles) < TROUBLES_MAX:
            self.troubles[path] = why
        else:
            self.troubles_more += 1

    def mount_changed(self, error: MountChanged) -> None:
        """A mount point is not what it was."""
        if error.path in self.mount_faults or len(self.mount_faults) < TROUBLES_MAX:
            self.mount_faults[error.path] = MountFault(error.found, error.why)
        else:
            self.troubles_more += 1

    def look_again(self, path: bytes) -> None:
        """At a mount point, and the directories above it: they may be gone with it."""
        self.find(path, LOOK)
        while path := path.rpartition(b"/")[0]:
            self.find(path, LOOK)

    def whole(self) -> None:
        """All of it was looked at as an operator accepted it."""
        self.accepts_mounts = False
        if self.root is not None and self.root.mounts is not None:
            self.root.mounts.accepts_all = False

    def find(self, path: bytes, bits: int) -> None:
        """A path is different from what the index says."""
        self.found[path] = self.found.get(path, 0) | bits

    def note_links(self, path: bytes, found: os.stat_result) -> None:
        """What is no directory, by `lstat`: it may have several names."""
        key = found.st_dev, found.st_ino
        if found.st_nlink == 1:
            self.linked.pop(key, None)
        elif key in self.linked or len(self.linked) < LINKED_MAX:
            self.linked[key] = path

    def take_linked(self) -> dict[bytes, int]:
        """Where to look after a name was missed; whoever looks notes what has several names still."""
        self.missed_name = False
        paths, self.linked = self.linked, {}
        return dict.fromkeys(paths.values(), LOOK)

    def let_go(self) -> None:
        """Close what is open, where no scan needs it."""
        if self.root is None:
            return
        if self.scan is None and not self.deep:
            self.root.close()
            self.root = None
        else:
            self.root.let_go()

    def reset(self) -> None:
        """Whatever was under way is not any more: all of it is to be looked at again."""
        self.read_all = self.read_all or (self.scan is not None and self.scan.reads)
        for scan in (*self.deep, *([self.scan] if self.scan else [])):
            scan.close()
        self.scan, self.deep, self.found, self.suspended = None, [], {}, None
        self.linked, self.missed_name = {}, False
        self.scanned = False
        self.let_go()
