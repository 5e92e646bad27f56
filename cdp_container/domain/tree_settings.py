"""The file trees of a configuration, and which of them cannot be protected together with what else there is.

PURE: paths are compared as they are given. Whether they are there, and where links lead, does not belong
here (`cdp_agent.tree_paths`).
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterator, Sequence
from typing import Annotated, Final, NamedTuple

from pydantic import AfterValidator, Field

from cdp_container.domain.setting_types import AbsolutePath, Name, Seconds, Strict

PATTERNS_MAX: Final = 1_000
PATTERN_BYTES_MAX: Final = 4_096


def _plain(path: str) -> str:
    if posixpath.normpath(path) != path or path.startswith("//"):
        raise ValueError(f"is written in a roundabout way (write {posixpath.normpath(path)!r})")
    if path == "/":
        raise ValueError("is the root of everything: the journal would be in it")
    return path


def _pattern(pattern: str) -> str:
    if not pattern.strip("/") or "\0" in pattern or len(pattern.encode()) > PATTERN_BYTES_MAX:
        raise ValueError("is no pattern of paths (like *.tmp, cache/ or var/log/**)")
    return pattern


Patterns = Annotated[list[Annotated[str, AfterValidator(_pattern)]], Field(max_length=PATTERNS_MAX)]


class TreeSettings(Strict):
    """One file tree: its name in the domain, its directory, and which of its paths are left out.

    `include` makes exceptions from `exclude`. `one_file_system`: what is mounted below is left out. `scan`:
    how often all of it is looked at, whatever events say.
    """

    name: Name
    path: Annotated[AbsolutePath, AfterValidator(_plain)]
    include: Patterns = Field(default=[])
    exclude: Patterns = Field(default=[])
    one_file_system: bool = True
    scan: Seconds = Field(default=6 * 3600.0, ge=60, le=30 * 86400)


class Apart(NamedTuple):
    """Something that must not be in a tree, nor a tree in it."""

    what: str
    path: str


def source_faults(
    volumes: Sequence[str], trees: Sequence[TreeSettings], apart: Sequence[Apart], sources_max: int
) -> list[str]:
    """Why these sources cannot be protected together: volumes by their names."""
    if not volumes and not trees:
        return ["volumes: is missing, and so is trees: there is nothing to protect"]
    if len(volumes) + len(trees) > sources_max:
        return [f"volumes, trees: more than {sources_max} together"]
    names = [*volumes, *(tree.name for tree in trees)]
    twice = sorted({tree.name for tree in trees if names.count(tree.name) > 1})
    faults = [f"trees: two sources have the same name: {name}" for name in twice]
    return faults + list(tree_faults([(tree.name, tree.path) for tree in trees], apart))


def tree_faults(trees: Sequence[tuple[str, str]], apart: Sequence[Apart]) -> Iterator[str]:
    """Why trees, given by name and path, cannot be protected where they are."""
    for number, (name, path) in enumerate(trees):
        for other, its_path in trees[number + 1 :]:
            if is_within(path, its_path) or is_within(its_path, path):
                yield f"trees: {name} and {other} overlap"
        for what, place in apart:
            if is_within(place, path):
                yield f"trees: {name}: {what} is in it"
            elif is_within(path, place):
                yield f"trees: {name} is in {what}"


def is_within(path: str, directory: str) -> bool:
    """Whether a path is a directory, or below it."""
    return path == directory or path.startswith(directory.rstrip("/") + "/")
