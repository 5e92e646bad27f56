"""Reads file trees out of a container, knowing only docs/container-format.md: the rest of `reader.py`.

    python tree_reader.py CONTAINER list
    python tree_reader.py CONTAINER extract TREE NEW_DIRECTORY [--cut EPOCH.NUMBER] [--passphrase-file FILE]

It makes directories, files, hard and symbolic links and pipes, with modes and times; of other nodes, owners
and extended attributes it says nothing. Names are checked before anything is written.
"""

from __future__ import annotations

import argparse
import itertools
import os
import sys
from pathlib import Path
from typing import Any, BinaryIO

try:
    from tests.reader import FAULTS, Container, Cut, ReaderError, must
except ImportError:  # a program of its own, beside reader.py
    from reader import FAULTS, Container, Cut, ReaderError, must  # type: ignore[import-not-found, no-redef]

Names = dict[bytes, dict[str, Any]]  # what `name+` says, by path


def trees(container: Container, cut: Cut) -> dict[str, Names]:
    """Every tree that is whole at a cut, by its name, with its names."""
    found: dict[bytes, Names] = {}
    titles: dict[bytes, str] = {}
    for _, layers in itertools.groupby(container.history(cut.place), lambda layer: layer.place[:2]):
        records = [record for layer in layers for record in layer.records]
        for tree in (record.key for record in records if record.name == b"tree-"):
            found.pop(tree, None)
            titles.pop(tree, None)
        gone = {record.key for record in records if record.name == b"tree-"}
        for name, key, value in records:
            if name == b"tree+":
                titles[key] = value["name"]
            elif name == b"name+" and key[:16] not in gone:
                found.setdefault(key[:16], {})[key[16:]] = value
            elif name == b"name-":
                found.get(key[:16], {}).pop(key[16:], None)
    whole = [tree for tree in titles if tree not in cut.not_whole]
    for tree in whole:
        check(found.get(tree, {}))
    return {titles[tree]: found[tree] for tree in whole}


def check(names: Names) -> None:
    """That nothing leads out of the tree, and every name stands in a directory."""
    must(names.get(b"", {}).get("type") == "directory", "has a tree without a root")
    links: dict[str, dict[str, Any]] = {}
    for path, value in names.items():
        parts = path.split(b"/") if path else []
        must(not any(part in (b"", b".", b"..") or b"\0" in part for part in parts), f"has a path {path!r}")
        must(len(path) <= 4096 and all(len(part) <= 255 for part in parts), "has a too long path")
        above = names.get(b"/".join(parts[:-1]), {})
        must(not parts or above.get("type") == "directory", f"has {path!r} under what is no directory")
        if value.get("space"):
            must(links.setdefault(value["space"], value) == value, f"has names of {path!r} that do not agree")


def extract(container: Container, names: Names, target: bytes, cut: Cut) -> None:
    """Make a tree in a directory that does not exist yet."""
    made: dict[str, bytes] = {}
    for path, value in sorted(names.items()):
        full, space = os.path.join(target, path) if path else target, value.get("space")
        if value["type"] == "directory":
            os.mkdir(full, 0o700)
        elif space in made:
            os.link(made[space], full, follow_symlinks=False)
        elif value["type"] == "symlink":
            os.symlink(bytes.fromhex(value["target"]), full)
        elif value["type"] == "fifo":
            os.mkfifo(full, 0o600)
        elif value["type"] == "file":
            with open(full, "x+b") as file:
                if space:
                    content(container, bytes.fromhex(space), file, cut)
                file.truncate(value.get("size_bytes", 0))
        if space and os.path.lexists(full):
            made.setdefault(space, full)
    for path, value in sorted(names.items(), reverse=True):
        full, time = os.path.join(target, path) if path else target, value.get("mtime_ns", 0)
        if value["type"] in ("directory", "file", "fifo"):
            os.chmod(full, value.get("mode", 0))
        if os.path.lexists(full):
            os.utime(full, ns=(time, time), follow_symlinks=False)


def content(container: Container, space: bytes, file: BinaryIO, cut: Cut) -> None:
    """What stands in a space at a cut, oldest first: what is newer overwrites."""
    for _, layers in itertools.groupby(container.history(cut.place), lambda layer: layer.place[:2]):
        container.apply(list(layers), space, file)


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("container", type=Path)
    parser.add_argument("command", nargs="+")
    parser.add_argument("--cut", metavar="EPOCH.NUMBER")
    parser.add_argument("--passphrase-file", type=Path, dest="phrase")
    args = parser.parse_intermixed_args(arguments)
    keys = [path.relative_to(args.container).as_posix() for path in args.container.rglob("*")]
    try:
        phrase = args.phrase and args.phrase.read_bytes().decode().removesuffix("\n")
        container = Container(lambda name: (args.container / name).read_bytes(), lambda: keys, phrase, None)
        epoch, number = map(int, (args.cut or "0.0").split("."))
        cut = container.cut(epoch, number) if args.cut else container.newest_cut()
        with container.refusing():
            found = trees(container, cut)
            if args.command == ["list"]:
                for name, names in found.items():
                    print(f"tree {name!r} has {len(names)} names")
                return 0
            must(len(args.command) == 3 and args.command[0] == "extract", "knows no such command")
            must(args.command[1] in found, f"has no whole tree {args.command[1]!r} at this cut")
            extract(container, found[args.command[1]], os.fsencode(args.command[2]), cut)
    except (ReaderError, *FAULTS) as error:
        print(f"REFUSED {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
