"""Changes of a tree, each of one system call: made on a disk, and applied to a model.

A program that makes one after another leaves the tree in the state behind one of them whenever one looks.
What cuts show is compared with that by the tests. `Model.propose` draws changes that can be made.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeAlias

PAGE: Final = 4096
SIZE_MAX: Final = 40 * PAGE
NAMES_MAX: Final = 60
"""Beyond, nothing new is made."""
YOUNG_CHANGES: Final = 400
"""For how long another name of a file stays at least: a watcher looked at it by then."""
ATTRIBUTE: Final = "user.test"
_KEEP_SIZE, _PUNCH_HOLE = 1, 2
_EXCHANGE = 2
_AT_FDCWD = -100

Op: TypeAlias = tuple[Any, ...]
"""What is done, and what with. Paths are relative to the tree; those of OUTSIDE lie beside it."""
OUTSIDE: Final = "outside:"

Shown: TypeAlias = dict[bytes, tuple[Any, ...]]
"""Of every path: type, mode, content, attribute, and all names of that file."""


@dataclass(eq=False)
class Node:
    """A file, directory, symbolic link or pipe; hard links are names of one node."""

    kind: str
    mode: int
    content: bytes = b""
    attribute: bytes | None = None
    linked: int = -10_000
    """Number of the change that gave it another name last."""


@dataclass
class Model:
    """What is in the tree, and beside it, by path."""

    nodes: dict[str, Node] = field(default_factory=dict)

    def apply(self, op: Op) -> None:
        """Do to the model what `perform` does to the disk."""
        nodes, (kind, path, *rest) = self.nodes, op
        match kind:
            case "create":
                nodes[path] = Node("file", 0o600)
            case "mkdir":
                nodes[path] = Node("directory", 0o700)
            case "symlink":
                nodes[path] = Node("symlink", 0, rest[0].encode())
            case "fifo":
                nodes[path] = Node("fifo", 0o600)
            case "write" | "mapped" | "direct":
                offset, data = rest
                old = nodes[path].content.ljust(offset, b"\0")
                nodes[path].content = old[:offset] + data + old[offset + len(data) :]
            case "truncate":
                nodes[path].content = nodes[path].content[: rest[0]].ljust(rest[0], b"\0")
            case "allocate":
                nodes[path].content = nodes[path].content.ljust(sum(rest), b"\0")
            case "punch":
                old, (offset, length) = nodes[path].content, rest
                hole = bytes(max(0, min(length, len(old) - offset)))
                nodes[path].content = old[:offset] + hole + old[offset + len(hole) :]
            case "chmod":
                nodes[path].mode = rest[0]
            case "attribute":
                nodes[path].attribute = rest[0]
            case "link":
                nodes[rest[0]] = nodes[path]
                nodes[path].linked = int(rest[0].rpartition("/")[2])
            case "unlink" | "rmdir":
                del nodes[path]
            case "rename":
                if nodes.get(rest[0]) is not nodes[path]:  # of one file: nothing happens
                    nodes.update(self._moved(path, rest[0]))
            case "exchange":
                nodes.update(self._moved(path, rest[0]) | self._moved(rest[0], path))
            case _:
                raise AssertionError(op)

    def _moved(self, old: str, new: str) -> dict[str, Node]:
        below = [path for path in self.nodes if path == old or path.startswith(old + "/")]
        return {new + path[len(old) :]: self.nodes.pop(path) for path in below}

    def shown(self) -> Shown:
        """What a copy of the tree must show."""
        inside = {path.encode(): node for path, node in self.nodes.items() if not path.startswith(OUTSIDE)}
        names: dict[Node, list[bytes]] = {}
        for path in sorted(inside):
            names.setdefault(inside[path], []).append(path)
        return {
            path: (node.kind, node.mode, node.content, node.attribute, tuple(names[node]))
            for path, node in inside.items()
        }

    # --- what may be done next ------------------------------------------------------------------

    def propose(self, rng: random.Random, number: int) -> Op:
        """A change that can be made, whatever it is."""
        while True:
            op = self._propose(rng, number)
            if op is not None:
                return op

    def _propose(self, rng: random.Random, number: int) -> Op | None:
        inside = [path for path in self.nodes if not path.startswith(OUTSIDE)]
        files = [path for path, node in self.nodes.items() if node.kind == "file" and self._is_seen(path)]
        there = rng.choice(inside) if inside else ""
        fresh = self._fresh(rng, number)
        kind = rng.choice(_KINDS)
        if kind in _MAKING:
            if len(inside) >= NAMES_MAX:
                return None
            return (kind, fresh, "../elsewhere") if kind == "symlink" else (kind, fresh)
        if kind in _WRITING:
            return self._propose_write(rng, kind, rng.choice(files)) if files else None
        if not there:
            return None
        node = self.nodes[there]
        other = rng.choice(inside)
        match kind:
            case "chmod" if node.kind != "symlink":
                return kind, there, rng.choice((0o600, 0o640, 0o755, 0o700))
            case "attribute" if node.kind in ("file", "directory"):
                return kind, there, rng.randbytes(rng.randrange(1, 20))
            case "link" if node.kind == "file" and len(inside) < NAMES_MAX:
                return kind, there, fresh
            case "unlink" if node.kind != "directory" and not self._is_young(there, number):
                return kind, there
            case "rmdir" if node.kind == "directory" and not self._below(there):
                return kind, there
            case "rename":
                target = self._target(rng, there, other, fresh)
                return None if target != there and self._is_young(target, number) else (kind, there, target)
            case "exchange" if not (there + "/").startswith(other + "/") and (
                not (other + "/").startswith(there + "/")
            ):
                return kind, there, other
            case "leave" if node.kind == "file" and not self._is_young(there, number):
                return "rename", there, f"{OUTSIDE}{rng.randrange(3)}"
            case "enter":
                left = [path for path in self.nodes if path.startswith(OUTSIDE)]
                return ("rename", rng.choice(left), fresh) if left else None
        return None

    def _propose_write(self, rng: random.Random, kind: str, path: str) -> Op | None:
        size = len(self.nodes[path].content)
        page = rng.randrange(min(size, SIZE_MAX - PAGE) // PAGE + 1) * PAGE
        within = rng.randrange(PAGE)
        match kind:
            case "write":
                return kind, path, page + within, rng.randbytes(rng.randrange(1, PAGE - within + 1))
            case "direct":
                return kind, path, page, rng.randbytes(PAGE)
            case "mapped" if page + within < size:
                length = min(PAGE - within, size - page - within)
                return kind, path, page + within, rng.randbytes(rng.randrange(1, length + 1))
            case "truncate":
                return kind, path, rng.choice((0, within, page, page + within, SIZE_MAX))
            case "allocate":
                return kind, path, page, rng.randrange(1, 3 * PAGE)
            case "punch" if size:
                return kind, path, page + within, rng.randrange(1, 3 * PAGE)
        return None

    def _is_seen(self, path: str) -> bool:
        """What is written through a name outside of the tree is not heard of where it has another inside."""
        if not path.startswith(OUTSIDE):
            return True
        node = self.nodes[path]
        return all(name.startswith(OUTSIDE) for name, other in self.nodes.items() if other is node)

    def _is_young(self, path: str, number: int) -> bool:
        """Whether this may be a name that nobody looked at yet, of a file that had one name before.

        What is written through such a name that goes again is seen by a scan only (docs/trees.md).
        """
        node = self.nodes.get(path)
        return node is not None and number - node.linked < YOUNG_CHANGES

    def _below(self, path: str) -> bool:
        return any(name.startswith(path + "/") for name in self.nodes)

    def _fresh(self, rng: random.Random, number: int) -> str:
        folders = ["", *(p for p, n in self.nodes.items() if n.kind == "directory" and p.count("/") < 4)]
        folder = rng.choice(folders)
        return f"{folder}/{number}" if folder else f"{number}"

    def _target(self, rng: random.Random, old: str, other: str, fresh: str) -> str:
        """A new name, or one that is there and can be replaced."""
        kinds = {self.nodes[old].kind == "directory", self.nodes[other].kind == "directory"}
        is_empty = not self._below(other)
        if rng.random() < 0.5 and len(kinds) == 1 and is_empty and not (old + "/").startswith(other + "/"):
            return other if not other.startswith(old + "/") else old
        return fresh if not fresh.startswith(old + "/") else old


_MAKING: Final = ("create", "create", "mkdir", "symlink", "fifo")
_WRITING: Final = ("write", "write", "write", "mapped", "direct", "truncate", "allocate", "punch")
_OTHERS: Final = (
    "chmod", "attribute", "link", "unlink", "unlink", "rmdir", "rename", "rename", "exchange",
    "leave", "enter",
)  # fmt: skip
_KINDS: Final = _MAKING + _WRITING + _OTHERS


def is_amid(found: Shown, before: Shown, after: Shown, op: Op) -> bool:
    """Whether a tree is what it may be while a change of content is under way: each byte as before or after.

    The kernel tells of a write when it is over; past the page cache that may take a while.
    """
    path = str(op[1]).encode()
    if op[0] not in _WRITING or not found.keys() == before.keys() >= {path}:
        return False
    names = before[path][4]
    (old, new), amid = (shown[path][2] for shown in (before, after)), found[path][2]
    if len(amid) not in (len(old), len(new)) or any(found[name][2] != amid for name in names):
        return False
    old, new = (content.ljust(len(amid), b"\0") for content in (old, new))
    return all(byte in may for byte, *may in zip(amid, old, new, strict=False)) and all(
        (what[:2], what[3:]) == (before[name][:2], before[name][3:])
        and (name in names or what[2] == before[name][2])
        for name, what in found.items()
    )


class Disk:
    """Makes changes in a real directory, and in one beside it."""

    def __init__(self, tree: Path, outside: Path) -> None:
        self._tree = tree
        self._outside = outside
        self._libc = ctypes.CDLL(None, use_errno=True)

    def at(self, path: str) -> str:
        """Where that is."""
        if path.startswith(OUTSIDE):
            return str(self._outside / path.removeprefix(OUTSIDE))
        return str(self._tree / path)

    def perform(self, op: Op) -> None:
        """Make a change; whatever is made has its mode whatever the umask is."""
        kind, path, *rest = op
        full = self.at(path)
        match kind:
            case "create":
                os.close(os.open(full, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
            case "mkdir":
                os.mkdir(full, 0o700)
            case "symlink":
                os.symlink(rest[0], full)
            case "fifo":
                os.mkfifo(full, 0o600)
            case "chmod":
                os.chmod(full, rest[0])
            case "attribute":
                os.setxattr(full, ATTRIBUTE, rest[0])
            case "truncate":
                os.truncate(full, rest[0])
            case "unlink":
                os.unlink(full)
            case "rmdir":
                os.rmdir(full)
            case "link":
                os.link(full, self.at(rest[0]), follow_symlinks=False)
            case "rename":
                os.rename(full, self.at(rest[0]))
            case "exchange":
                other = self.at(rest[0]).encode()
                self._call(
                    lambda: self._libc.renameat2(_AT_FDCWD, full.encode(), _AT_FDCWD, other, _EXCHANGE)
                )
            case _:
                self._write(kind, full, rest)

    def _write(self, kind: str, full: str, rest: list[Any]) -> None:
        fd = os.open(full, os.O_RDWR)
        try:
            if kind == "mapped":
                start = rest[0] // PAGE * PAGE
                with mmap.mmap(fd, rest[0] - start + len(rest[1]), offset=start) as view:
                    view[rest[0] - start :] = rest[1]
            elif kind == "direct":
                self._write_direct(full, *rest)
            elif kind == "write":
                assert os.pwrite(fd, rest[1], rest[0]) == len(rest[1])
            elif kind == "allocate":
                os.posix_fallocate(fd, *rest)
            else:
                offset, length = (ctypes.c_int64(number) for number in rest)
                self._call(lambda: self._libc.fallocate(fd, _PUNCH_HOLE | _KEEP_SIZE, offset, length))
        finally:
            os.close(fd)

    def _write_direct(self, full: str, offset: int, data: bytes) -> None:
        """Past the page cache, where the file system can."""
        try:
            fd = os.open(full, os.O_RDWR | os.O_DIRECT)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            fd = os.open(full, os.O_RDWR)
        with mmap.mmap(-1, PAGE) as aligned:
            aligned[:] = data
            assert os.pwrite(fd, aligned, offset) == PAGE
        os.close(fd)

    def _call(self, call: Callable[[], int]) -> None:
        if call() != 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
