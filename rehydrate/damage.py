"""What a restore could not rebuild, exactly: which bytes of a volume, for want of which object.

*Lost* bytes are known to be missing: their frame is damaged or gone; they are left as zeros. *Doubtful* bytes
hold the newest content that is left, but a lost segment, of which not even the index can be read, may have
written there. How a restore goes on despite damage does not belong here (restore).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from cdp_container.domain.contents import Contents
from cdp_container.domain.durable import replace_file
from cdp_container.domain.faults import Fault
from cdp_container.domain.image import Branch, Volume, runs_of
from cdp_container.errors import LimitExceeded
from cdp_container.extents.intervals import Intervals, gaps, merged
from cdp_container.extents.resolve import resolve, windows
from cdp_container.format.jsontext import dump_object
from cdp_container.format.keys import segment_key
from rehydrate.resume import Image, Lost

MAP_SUFFIX: Final = ".damage.json"
MAP_VERSION: Final = 1

PARTS_MAX: Final = 100_000
"""Damaged parts that are listed; a container with more of them is not worth a map."""


@dataclass(frozen=True, slots=True)
class Damage:
    """Bytes of a volume that are not what they were. `kind` is "lost" or "doubtful"."""

    offset: int
    length: int
    kind: str
    object: str
    why: str


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
    newest = max(faults, key=lambda fault: (fault.epoch, fault.seq))
    newer = runs_of(contents, branch, volume.space, after=(newest.epoch, newest.seq))
    why = f"{len(faults)} segments cannot be read, this the newest; they may have written here"
    key, extents = segment_key(newest.epoch, newest.seq), contents.extents()
    found: list[Damage] = []
    for start, end in windows(extents, newer, volume.size_bytes):
        pieces = resolve(extents, newer, start, end)
        covered = Intervals(pieces["offset"], pieces["offset"] + pieces["length"])
        open_parts = gaps(merged(covered), start, end)
        for first, beyond in zip(open_parts.starts.tolist(), open_parts.ends.tolist(), strict=True):
            found.append(Damage(first, beyond - first, "doubtful", key, why))
    return found


def damages(lost: Iterable[Lost], in_doubt: Sequence[Damage]) -> list[Damage]:
    """All damage of a volume, by offset."""
    gone = [Damage(part.offset, part.length, "lost", part.object, part.why) for part in joined(lost)]
    return sorted([*gone, *in_doubt], key=lambda damage: (damage.offset, damage.kind))


def map_path(target: Path) -> Path:
    """Where the map of a target goes: beside a file, and for a device into the working directory."""
    name = target.name + MAP_SUFFIX
    return Path(name).absolute() if target.is_block_device() else target.with_name(name)


def write_map(target: Path, image: Image, name: str, found: Sequence[Damage]) -> Path:
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
        "lost_bytes": sum(part.length for part in found if part.kind == "lost"),
        "doubtful_bytes": sum(part.length for part in found if part.kind == "doubtful"),
        "damage": [asdict(part) for part in found],
    }
    replace_file(path, dump_object(members))
    return path
