"""A file tree at every cut of a container, one behind the other, by the independent reader.

    for state in states(container, "files"):
        if state.is_exact:
            state.write_out(directory)

Each cut is applied to what the one before left, so a whole history takes as long as its last cut alone. A
state is true until the next one is asked for. What a state should have been is judged by others.
"""

from __future__ import annotations

import itertools
import json
import os
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

from cdp_container.store.directory import DirectoryStore
from tests.reader import Container, Layer

Place = tuple[int, int, int]
_SPACES = (b"space=", b"space-")


@dataclass(frozen=True)
class State:
    """A tree at one complete cut.

    Attributes:
        place: of the cut: epoch, number, sequence number of its last segment.
        names: what `name+` says, by path.
        spaces: contents, by the id of the space in hex.
        is_whole: whether the cut says that the tree is.
        skewed: paths that changed while the cut was taken.
        markers: the names of the cut.
    """

    place: Place
    names: Mapping[bytes, Mapping[str, Any]]
    spaces: Mapping[str, BytesIO]
    is_whole: bool
    skewed: frozenset[bytes]
    skewed_more: int
    markers: tuple[str, ...]

    @property
    def is_exact(self) -> bool:
        """Whether it is one instant of the tree."""
        return self.is_whole and not self.skewed and not self.skewed_more

    def content(self, path: bytes) -> bytes:
        """What is in a file."""
        name = self.names[path]
        size: int = name.get("size_bytes") or 0
        space = name.get("space")
        data = self.spaces[space].getvalue() if space and space in self.spaces else b""
        return data[:size].ljust(size, b"\0")

    def write_out(self, target: Path) -> None:
        """Make directories, files, hard and symbolic links, with modes and times; owners are ours."""
        made: dict[str, bytes] = {}
        top = os.fsencode(target)
        for path, name in sorted(self.names.items()):
            full, space = os.path.join(top, path) if path else top, name.get("space")
            if name["type"] == "directory":
                os.mkdir(full, 0o700)
            elif name["type"] == "symlink":
                os.symlink(bytes.fromhex(name["target"]), full)
            elif space in made:
                os.link(made[space], full)
            else:
                assert name["type"] == "file", name
                Path(os.fsdecode(full)).write_bytes(self.content(path))
                if space:
                    made[space] = full
        for path, name in sorted(self.names.items(), reverse=True):
            full, time_ns = os.path.join(top, path) if path else top, name.get("mtime_ns") or 0
            if name["type"] != "symlink":
                os.chmod(full, name.get("mode") or 0)
            os.utime(full, ns=(time_ns, time_ns), follow_symlinks=False)


def container_at(directory: Path) -> Container:
    """A container without encryption in a directory."""
    store = DirectoryStore(directory)
    keys = [found.key for found in store.list("")]
    return Container(lambda key: store.get(key).data, lambda: keys)


def states(container: Container, tree: bytes) -> Iterator[State]:
    """A tree at all complete cuts that lead to the newest one, oldest first."""
    complete = {cut.place: cut for cut in container.cuts}
    names: dict[bytes, Mapping[str, Any]] = {}
    spaces: dict[str, BytesIO] = {}
    history = container.history(container.newest_cut().place)
    for _, grouped in itertools.groupby(history, lambda layer: layer.place[:2]):
        layers = list(grouped)
        skewed, more = _skewed(container, layers, tree)
        for space in _touched(container, layers):
            container.apply(layers, space, spaces.setdefault(space.hex(), BytesIO()))
        _apply_names(layers, tree, names)
        cut = complete.get(layers[-1].place)
        if cut is not None:
            is_whole = tree not in cut.not_whole
            yield State(cut.place, names, spaces, is_whole, skewed, more, tuple(cut.names))


def _touched(container: Container, layers: list[Layer]) -> list[bytes]:
    found: dict[bytes, None] = {}
    for layer in layers:
        found.update({record.key: None for record in layer.records if record.name in _SPACES})
        extents = container.get(layer.key).extents
        found.update({space: None for row, space in extents if row == layer.row})
    return list(found)


def _apply_names(layers: list[Layer], tree: bytes, names: dict[bytes, Mapping[str, Any]]) -> None:
    for record in (record for layer in layers for record in layer.records if record.key[:16] == tree):
        if record.name == b"name+":
            names[record.key[16:]] = record.value
        elif record.name == b"name-":
            names.pop(record.key[16:], None)
        elif record.name == b"tree-":
            names.clear()


def _skewed(container: Container, layers: list[Layer], tree: bytes) -> tuple[frozenset[bytes], int]:
    """What records of this very cut say: paths, and how many more there are of which none was named."""
    paths: set[bytes] = set()
    more = 0
    for layer in layers:
        found = container.get(layer.key)
        blob = found.parts.get(b"blob", b"")
        for name, _, order, key_at, key_bytes, value_at, value_bytes in found.rows[b"records"]:
            key = blob[key_at : key_at + key_bytes]
            if order != layer.row or name.rstrip(b"\0") != b"skew":
                continue
            if struct.unpack("<QQ", key) == tuple(layer.place[:2]):
                value = json.loads(blob[value_at : value_at + value_bytes])
                more += value["more"]
                files = (file for file in value["files"] if file["tree"] == tree.hex())
                paths.update(bytes.fromhex(file["path"]) for file in files)
    return frozenset(paths), more
