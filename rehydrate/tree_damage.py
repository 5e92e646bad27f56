"""What a restore of a tree could not rebuild: which bytes of which files, for want of which object.

What *lost*, *doubtful* and *beyond* mean stands in damage, whose arithmetic this uses for all files at once.
A damaged file never gets its time, so that no later restore takes it for the same. How a tree is restored
despite damage does not belong here (tree_restore).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np

from cdp_container.domain.contents import Contents
from cdp_container.domain.durable import replace_file
from cdp_container.domain.faults import Fault
from cdp_container.domain.file_runs import FileRuns, file_runs
from cdp_container.domain.image import Branch
from cdp_container.domain.namespace import Entry
from cdp_container.errors import LimitExceeded, counted
from cdp_container.extents.intervals import Flags, Intervals, Ints, common, gaps, merged
from cdp_container.extents.many import resolve_many
from cdp_container.extents.tables import COVER
from cdp_container.format.jsontext import dump_object
from cdp_container.format.keys import segment_key
from cdp_container.format.names import shown
from rehydrate.damage import (
    MAP_VERSION,
    PARTS_MAX,
    WHY_BEYOND,
    Damage,
    Findings,
    doubt_of,
    joined,
    map_path,
    newest_of,
    past_size,
    uncovered,
)
from rehydrate.resume import Lost
from rehydrate.tree_plan import is_large, together

MADE_UP_SHOWN_MAX: Final = 5
"""Directories that were made up and that a doubt names."""


@dataclass(frozen=True, slots=True)
class FileDamage(Damage):
    """Bytes of a file that are not what they were; `path` is its first."""

    path: bytes


@dataclass(frozen=True, slots=True)
class TreeFindings(Findings):
    """All that is wrong with a restored tree.

    Attributes:
        files: what is damaged, as `parts` names it.
        unlisted_files: of more files than PARTS_MAX something is doubtful: of so many it is not listed.
        unlisted_bytes: and so many bytes.
    """

    files: tuple[DamagedFile, ...] = ()
    unlisted_files: int = 0
    unlisted_bytes: int = 0

    def bytes_of(self, kind: str) -> int:
        """How many bytes the parts of a kind have, those that are not listed too."""
        return Findings.bytes_of(self, kind) + (self.unlisted_bytes if kind == "doubtful" else 0)


@dataclass(frozen=True, slots=True)
class DamagedFile:
    """What its names say of a file: all paths of its content, and the time that it was not given."""

    paths: tuple[bytes, ...]
    size_bytes: int
    mtime_ns: int


@dataclass(slots=True)
class Losses:
    """What a restore meets, by the numbers of files: lost parts, and which files are not to be believed."""

    unsound: set[int] = field(default_factory=set)
    parts: list[tuple[int, Lost]] = field(default_factory=list)

    def add(self, lost: Sequence[tuple[int, Lost]]) -> None:
        """Note more. Raises LimitExceeded."""
        self.parts += lost
        if len(self.parts) > PARTS_MAX:
            why = f"there are more than {PARTS_MAX} damaged parts"
            raise LimitExceeded("map the damage", why, "restore parts of the tree, with --path")


@dataclass(frozen=True, slots=True)
class InDoubt:
    """What segments that cannot be read may have said of files.

    Attributes:
        files: of each, whether any of it is doubtful.
        parts: number of the file, kind, first byte, the byte after the last; at most PARTS_MAX.
        unlisted_files: with parts for which there was no room.
        unlisted_bytes: of those.
    """

    files: Flags
    parts: list[tuple[int, str, int, int]]
    unlisted_files: int = 0
    unlisted_bytes: int = 0


def in_doubt(
    contents: Contents,
    branch: Branch,
    spaces: Sequence[bytes],
    sizes: Ints,
    runs: FileRuns,
    faults: Sequence[Fault],
) -> InDoubt:
    """What is doubtful of files whose content is `spaces`: what nothing newer than the faults wrote.

    Args:
        contents: gathered.
        branch: what the cut is made of.
        spaces: of the files.
        sizes: of the files, in bytes.
        runs: of all of the branch.
        faults: segments of the branch that cannot be read.
    """
    files = np.zeros(len(spaces), dtype=np.bool_)
    if not faults or not spaces:
        return InDoubt(files, [])
    extents = contents.extents()
    parts: list[tuple[int, str, int, int]] = []
    for number in np.flatnonzero(_ends(runs) > sizes).tolist():
        beyond = past_size(extents, runs.of(number), int(sizes[number]))
        parts += [(number, "beyond", *part) for part in beyond][: PARTS_MAX - len(parts)]
    unlisted: set[int] = set()
    unlisted_bytes = 0
    newer = file_runs(contents, branch, spaces, after=newest_of(faults))
    for number, first, last in _uncovered(contents, newer, sizes):
        files[number] = True
        if len(parts) < PARTS_MAX:
            parts.append((number, "doubtful", first, last))
        else:
            unlisted.add(number)
            unlisted_bytes += last - first
    return InDoubt(files, parts, len(unlisted), unlisted_bytes)


def _uncovered(contents: Contents, runs: FileRuns, sizes: Ints) -> Iterator[tuple[int, int, int]]:
    """Where runs say nothing: number of the file, first byte, the byte after the last."""
    extents = contents.extents()
    for first, beyond in together(runs, sizes):
        if is_large(runs, sizes, first):
            for part in uncovered(extents, runs.of(first), int(sizes[first])):
                yield (first, *part)
            continue
        mine = sizes[first:beyond]
        bases = np.cumsum(mine) - mine
        pieces = resolve_many(extents, runs.together(first, beyond), mine)
        starts = pieces["offset"] + bases[pieces["space"]]
        covered = merged(Intervals(starts, starts + pieces["length"]))
        numbers, found = common(Intervals(bases, bases + mine), gaps(covered, 0, int(mine.sum())))
        of_files = zip(
            (numbers + first).tolist(),
            (found.starts - bases[numbers]).tolist(),
            (found.ends - bases[numbers]).tolist(),
            strict=True,
        )
        yield from of_files


def _ends(runs: FileRuns) -> Ints:
    """For each file the byte after the last that extents, other than those of a resize, say anything of."""
    counts = np.diff(runs.firsts)
    ends = np.zeros(len(counts), dtype=np.int64)
    said = np.where(runs.runs["object"] == COVER, 0, runs.runs["end"])
    np.maximum.at(ends, np.repeat(np.arange(len(counts)), counts), said)
    return ends


def examined_tree(
    files: Iterable[Entry],
    twins: dict[bytes, list[bytes]],
    losses: Losses,
    doubt: InDoubt,
    faults: Sequence[Fault],
    doubts: Sequence[str],
    made_up: Sequence[bytes],
) -> TreeFindings:
    """All that is wrong with a restored tree.

    Args:
        files: with content, as they are numbered.
        twins: the paths of contents that have several.
        losses: what its restore met.
        doubt: see `in_doubt`.
        faults: segments that cannot be read.
        doubts: those of the whole point.
        made_up: see `Namespace.made_up`.
    """
    rows = [(number, "lost", part, part.object, part.why) for number, part in _joined(losses)]
    key, why = doubt_of(faults) if faults else ("", "")
    for number, kind, first, last in doubt.parts:
        newest = segment_key(*newest_of(faults))
        said = (key, why) if kind == "doubtful" else (newest, WHY_BEYOND)
        rows.append((number, kind, Lost(first, last - first, *said), *said))
    rows.sort(key=lambda row: (row[0], row[2].offset, row[1]))
    wanted = {row[0] for row in rows}
    found = {number: entry for number, entry in enumerate(files) if number in wanted}
    parts = tuple(
        FileDamage(part.offset, part.length, kind, name, reason, found[number].path)
        for number, kind, part, name, reason in rows
    )
    return TreeFindings(
        parts,
        (*doubts, *_words(doubt, made_up)),
        tuple(_damaged(entry, twins) for entry in found.values()),
        doubt.unlisted_files,
        doubt.unlisted_bytes,
    )


def _joined(losses: Losses) -> Iterator[tuple[int, Lost]]:
    by_file: dict[int, list[Lost]] = {}
    for number, part in losses.parts:
        by_file.setdefault(number, []).append(part)
    for number, parts in by_file.items():
        for part in joined(parts):
            yield number, part


def _words(doubt: InDoubt, made_up: Sequence[bytes]) -> list[str]:
    words = []
    if doubt.unlisted_files:
        many = counted(doubt.unlisted_files, "more file")
        words.append(f"{many} with {doubt.unlisted_bytes} doubtful bytes are not listed")
    if made_up:
        named = ", ".join(shown(path) for path in made_up[:MADE_UP_SHOWN_MAX])
        words.append(f"directories of which no name is left, made up: {len(made_up)}, the first: {named}")
    return words


def _damaged(entry: Entry, twins: dict[bytes, list[bytes]]) -> DamagedFile:
    name = entry.what
    assert name.space is not None, "it has content"
    return DamagedFile(tuple(twins.get(name.space, [entry.path])), name.size_bytes, name.mtime_ns)


@dataclass(frozen=True, slots=True)
class Restored:
    """What a map is of. Ids are hexadecimal; `patterns`: of which paths, empty: all."""

    domain: str
    point: str
    tree: str
    name: str
    patterns: tuple[str, ...] = ()


def write_tree_map(target: Path, what: Restored, found: TreeFindings) -> Path:
    """Make the map durable; gives where it is. Raises LocalDiskFull, CdpError."""
    path = map_path(target)
    members = {
        "version": MAP_VERSION,
        "domain": what.domain,
        "point": what.point,
        "tree": what.name,
        "tree_id": what.tree,
        "target": str(target),
        "patterns": list(what.patterns),
        "lost_bytes": found.bytes_of("lost"),
        "doubtful_bytes": found.bytes_of("doubtful"),
        "beyond_bytes": found.bytes_of("beyond"),
        "unlisted_files": found.unlisted_files,
        "unlisted_bytes": found.unlisted_bytes,
        "doubts": list(found.doubts),
        "files": [_file_members(file) for file in found.files],
        "damage": [_part_members(part) for part in found.parts],
    }
    replace_file(path, dump_object(members))
    return path


def _file_members(file: DamagedFile) -> dict[str, Any]:
    return {
        "path": file.paths[0].hex(),
        "shown": shown(file.paths[0]),
        "links": [path.hex() for path in file.paths[1:]],
        "size_bytes": file.size_bytes,
        "mtime_ns": file.mtime_ns,
    }


def _part_members(part: Damage) -> dict[str, Any]:
    assert isinstance(part, FileDamage), part
    return {**asdict(part), "path": part.path.hex()}
