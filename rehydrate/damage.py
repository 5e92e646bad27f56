"""What a restore could not rebuild, exactly: which bytes of a volume, for want of which object.

*Lost* bytes are known to be missing: their frame is damaged or gone; they are left as zeros. *Doubtful* bytes
hold the newest content that is left, but a lost segment, of which not even the index can be read, may have
written there. Bytes *beyond* are in the container, past the last size that can still be read. What no range
of bytes tells stands in words: doubts. How a restore goes on despite damage does not belong here (restore).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from cdp_container.domain.contents import Contents
from cdp_container.domain.durable import replace_file
from cdp_container.domain.faults import Fault
from cdp_container.domain.image import Branch, Volume, on_branch, runs_of
from cdp_container.errors import CdpError, LimitExceeded, counted
from cdp_container.extents.intervals import Intervals, gaps, merged
from cdp_container.extents.resolve import resolve, windows
from cdp_container.extents.tables import COVER, Table
from cdp_container.format.jsontext import dump_object, load_object
from cdp_container.format.keys import segment_key
from rehydrate.localio import os_errors, sync_directory
from rehydrate.resume import Image, Lost

MAP_SUFFIX: Final = ".damage.json"
MAP_VERSION: Final = 1

PARTS_MAX: Final = 100_000
"""Damaged parts that are listed; a container with more of them is not worth a map."""
MAP_BYTES_MAX: Final = 256 << 20
"""More than a map of so many parts has."""


WHY_BEYOND: Final = "it lies beyond the last size that can be read, and is not restored"
MAP_HINT: Final = "`restore --on-damage map` restores what is left and maps what is not"


def with_map_hint(error: CdpError) -> CdpError:
    """The same error of a restore that stopped at damage, with a hint that it need not."""
    return type(error)(error.what, error.why, f"{error.hint}; {MAP_HINT}")


@dataclass(frozen=True, slots=True)
class Damage:
    """Bytes of a volume that are not what they were. `kind` is "lost", "doubtful" or "beyond"."""

    offset: int
    length: int
    kind: str
    object: str
    why: str


@dataclass(frozen=True, slots=True)
class Findings:
    """All that is wrong with a restored volume: its damaged parts by offset, and what else is in doubt."""

    parts: tuple[Damage, ...]
    doubts: tuple[str, ...]

    def bytes_of(self, kind: str) -> int:
        """How many bytes the parts of a kind have."""
        return sum(part.length for part in self.parts if part.kind == kind)


def joined(lost: Iterable[Lost]) -> tuple[Lost, ...]:
    """The same bytes, sorted, neighbours of one reason as one. Raises LimitExceeded past PARTS_MAX."""
    parts: list[Lost] = []
    for part in sorted(lost, key=lambda part: part.offset):
        last = parts[-1] if parts else None
        if last and last.end == part.offset and (last.object, last.why) == (part.object, part.why):
            parts[-1] = Lost(last.offset, last.length + part.length, last.object, last.why)
        else:
            parts.append(part)
    if len(parts) > PARTS_MAX:
        raise LimitExceeded("map the damage", f"there are more than {PARTS_MAX} damaged parts")
    return tuple(parts)


def doubtful(contents: Contents, branch: Branch, volume: Volume, faults: Sequence[Fault]) -> list[Damage]:
    """What segments that are missing or unreadable may have written, and nothing newer has.

    Only the newest of them counts: what it leaves in doubt holds all that older ones could.
    """
    if not faults:
        return []
    newer = runs_of(contents, branch, volume.space, after=newest_of(faults))
    key, why = doubt_of(faults)
    parts = uncovered(contents.extents(), newer, volume.size_bytes)
    return [Damage(first, last - first, "doubtful", key, why) for first, last in parts]


def newest_of(faults: Sequence[Fault]) -> tuple[int, int]:
    """The newest segment that cannot be read: epoch and seq."""
    return max((fault.epoch, fault.seq) for fault in faults)


def doubt_of(faults: Sequence[Fault]) -> tuple[str, str]:
    """For want of which object bytes are doubtful, and why."""
    why = f"cannot be read: {counted(len(faults), 'segment')}, this the newest; it may have written here"
    return segment_key(*newest_of(faults)), why


def uncovered(extents: Table, runs: Table, size_bytes: int) -> Iterator[tuple[int, int]]:
    """Where runs say nothing of a space of this size: first byte, and the one after the last."""
    for start, end in windows(extents, runs, size_bytes):
        pieces = resolve(extents, runs, start, end)
        covered = Intervals(pieces["offset"], pieces["offset"] + pieces["length"])
        parts = gaps(merged(covered), start, end)
        yield from zip(parts.starts.tolist(), parts.ends.tolist(), strict=True)


def size_is_sure(contents: Contents, branch: Branch, volume: Volume, faults: Sequence[Fault]) -> bool:
    """Whether what says how large a volume is, is newer than all that cannot be read."""
    said = [
        (record.place.epoch, record.place.seq)
        for record in contents.space_records
        if record.space == volume.space and record.name != "space-" and on_branch(record.place, branch)
    ]
    return not faults or max(said) > newest_of(faults)


def beyond(contents: Contents, branch: Branch, volume: Volume, faults: Sequence[Fault]) -> list[Damage]:
    """What was written past the size that is known, where a lost segment may have said a larger one."""
    if size_is_sure(contents, branch, volume, faults):
        return []
    runs, key = runs_of(contents, branch, volume.space), segment_key(*newest_of(faults))
    parts = past_size(contents.extents(), runs, volume.size_bytes)
    return [Damage(first, last - first, "beyond", key, WHY_BEYOND) for first, last in parts]


def past_size(extents: Table, runs: Table, size_bytes: int) -> Iterator[tuple[int, int]]:
    """What runs say of bytes past a size: first byte, and the one after the last."""
    for start, end in windows(extents, runs, end_of(runs)):
        if end <= size_bytes:
            continue
        pieces = resolve(extents, runs, max(start, size_bytes), end)
        pieces = pieces[pieces["object"] != COVER]  # a resize that can be read took it away
        parts = merged(Intervals(pieces["offset"], pieces["offset"] + pieces["length"]))
        yield from zip(parts.starts.tolist(), parts.ends.tolist(), strict=True)


def record_doubts(contents: Contents, branch: Branch, faults: Sequence[Fault]) -> list[str]:
    """What lost segments may have said of volumes and names, in words; each space that nothing names.

    Where there are trees no space is listed: those of files have no record of their own.
    """
    if not faults:
        return []
    key = segment_key(*newest_of(faults))
    many = f"cannot be read: {counted(len(faults), 'segment')}, {key} the newest"
    doubts = [f"{many}; volumes may have been added, renamed, resized or removed there"]
    if any(on_branch(record.place, branch) for record in contents.tree_records):
        doubts.append(f"{many}; names of trees may have been added, changed, renamed or removed there")
        return doubts
    named = _named(contents, branch)
    for space in sorted(contents.spaces()):
        end = end_of(runs_of(contents, branch, space))
        if end and space not in named:
            doubts.append(f"space {space.hex()} holds data up to byte {end}, nothing names it: not restored")
    return doubts


def _named(contents: Contents, branch: Branch) -> set[bytes]:
    """The spaces that a record names and no newer one removes."""
    named: set[bytes] = set()
    for record in sorted(contents.space_records, key=lambda record: record.place):
        if not on_branch(record.place, branch):
            continue
        if record.name == "space+":
            named.add(record.space)
        elif record.name == "space-":
            named.discard(record.space)
    return named


def end_of(runs: Table) -> int:
    """The byte after the last that extents, other than those of a resize, say anything of."""
    return int(runs["end"][runs["object"] != COVER].max(initial=0))


def examined(
    contents: Contents,
    branch: Branch,
    volume: Volume,
    faults: Sequence[Fault],
    lost: Iterable[Lost],
    doubts: Sequence[str],
) -> Findings:
    """All that is wrong with a volume. `lost` is what its restore met; `doubts` those of the whole point."""
    parts = [Damage(part.offset, part.length, "lost", part.object, part.why) for part in joined(lost)]
    parts += doubtful(contents, branch, volume, faults)
    parts += beyond(contents, branch, volume, faults)
    words = list(doubts)
    if not size_is_sure(contents, branch, volume, faults):
        words.append(f"the size, {volume.size_bytes} bytes, is the last one that can be read")
    return Findings(tuple(sorted(parts, key=lambda part: (part.offset, part.kind))), tuple(words))


def map_path(target: Path) -> Path:
    """Where the map of a target goes: beside a file, and for a device into the working directory."""
    name = target.name + MAP_SUFFIX
    return Path(name).absolute() if target.is_block_device() else target.with_name(name)


def remove_map(target: Path) -> Path | None:
    """Remove the map of an earlier restore of a target that is whole and durable now; gives where it was.

    What is no map of this target is left. Raises LocalDiskFull, AccessDenied, DeviceError.
    """
    path = map_path(target)
    with os_errors(f"remove {path}, the map of an earlier restore"):
        if not _is_map_of(path, target):
            return None
        path.unlink()
        sync_directory(path.parent)
    return path


def _is_map_of(path: Path, target: Path) -> bool:
    """Beside a file the name says it; a working directory is no device's own."""
    if not path.is_file():
        return False
    try:
        with path.open("rb") as file:
            members = load_object(file.read(MAP_BYTES_MAX + 1), MAP_BYTES_MAX, str(path))
    except CdpError:
        return False
    said = members.get("target")
    return "damage" in members and (
        said == str(target) if target.is_block_device() else isinstance(said, str)
    )


def write_map(target: Path, image: Image, name: str, found: Findings) -> Path:
    """Make the map durable; gives where it is. Raises LocalDiskFull, CdpError."""
    path = map_path(target)
    members = {
        "version": MAP_VERSION,
        "domain": image.domain,
        "point": image.point,
        "volume": name,
        "space": image.space,
        "size_bytes": image.size_bytes,
        "target": str(target),
        "lost_bytes": found.bytes_of("lost"),
        "doubtful_bytes": found.bytes_of("doubtful"),
        "beyond_bytes": found.bytes_of("beyond"),
        "doubts": list(found.doubts),
        "damage": [asdict(part) for part in found.parts],
    }
    replace_file(path, dump_object(members))
    return path
