"""What an interrupted restore leaves beside its target, so that the next one goes on and does not start anew.

One small JSON file, `<target>.partial.progress`, replaced whenever the data before it is on stable storage.
It tells exactly which volume at which cut, and what of the container could be read: what a cut holds never
changes, but what is left of a damaged one does, in windows that are done, too. How a restore is carried out
does not belong here (restore), nor the target's own file (file_target).
"""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from isal.isal_zlib import crc32

from cdp_container.domain.durable import replace_file
from cdp_container.errors import CdpError
from cdp_container.format.holds import is_hold_id
from cdp_container.format.jsontext import dump_object, load_object

PROGRESS_SUFFIX: Final = ".partial.progress"
PROGRESS_BYTES_MAX: Final = 64 << 20
"""More than any list of damage that we write needs."""

PROGRESS_VERSION: Final = 2

SAMPLES_MAX: Final = 64
"""Written places that are remembered, and read back before a restore goes on."""

SAMPLE_BYTES_MAX: Final = 4096


@dataclass(frozen=True, slots=True)
class Image:
    """What is restored: one volume at one cut. Ids are hexadecimal.

    `rests_on` is the digest of all that decides the content (`RestorePlan.rests_on`).
    """

    domain: str
    epoch: int
    cut: int
    space: str
    size_bytes: int
    rests_on: str

    @property
    def point(self) -> str:
        """The cut as people write it."""
        return f"{self.epoch}.{self.cut}"

    def is_same_point(self, other: Image) -> bool:
        """Whether both are the same volume at the same cut, whatever could be read of it."""
        return (self.domain, self.space, self.point) == (other.domain, other.space, other.point)


@dataclass(frozen=True, slots=True)
class Sample:
    """What was written at a place: `crc32` of `length` bytes."""

    offset: int
    length: int
    crc32: int


@dataclass(frozen=True, slots=True)
class Lost:
    """Bytes of a volume whose frame is damaged or gone: left as zeros. `object` is the key of its object."""

    offset: int
    length: int
    object: str
    why: str

    @property
    def end(self) -> int:
        """The byte after its last."""
        return self.offset + self.length


@dataclass(frozen=True, slots=True)
class Done:
    """How far a restore came: everything below `upto`, and of the window there so many of its fetches.

    `window` is the digest of that window's plan: fetches count only for the same plan. `samples` are spread
    over what was written. `lost` is what damage left out.
    """

    upto: int = 0
    window: str = ""
    fetches: int = 0
    samples: tuple[Sample, ...] = ()
    lost: tuple[Lost, ...] = ()

    @property
    def nothing(self) -> bool:
        """Whether there is nothing that the next restore could build on."""
        return not (self.upto or self.fetches)


@dataclass(frozen=True, slots=True)
class Progress:
    """The progress file: what is restored, into which file (inode, and mtime when it was kept), how far.

    `hold` is the id of the hold under which it was read; empty where there was none.
    """

    image: Image
    inode: int
    modified_ns: int
    done: Done
    hold: str = ""


def progress_path(target: Path) -> Path:
    """Where the progress of a restore into `target` stands."""
    return target.with_name(target.name + PROGRESS_SUFFIX)


def write_progress(target: Path, progress: Progress) -> None:
    """Make it durable. Raises LocalDiskFull, CdpError."""
    members = {"version": PROGRESS_VERSION, **asdict(progress)}
    replace_file(progress_path(target), dump_object(members))


def read_progress(target: Path) -> Progress | None:
    """What stands there; None where there is nothing, or nothing that makes sense to us."""
    path = progress_path(target)
    try:
        if path.is_symlink() or path.stat().st_size > PROGRESS_BYTES_MAX:
            return None
        return _parsed(load_object(path.read_bytes(), PROGRESS_BYTES_MAX, str(path)))
    except (FileNotFoundError, CdpError, KeyError, TypeError, ValueError):
        return None  # whoever asks then treats the target as one that is not ours


def remove_progress(target: Path) -> None:
    """Forget it, if there is any."""
    progress_path(target).unlink(missing_ok=True)


def _parsed(members: dict[str, Any]) -> Progress | None:
    if members["version"] != PROGRESS_VERSION:
        return None
    done_members = dict(members["done"])
    samples = tuple(Sample(**sample) for sample in done_members.pop("samples"))
    lost = tuple(Lost(**part) for part in done_members.pop("lost"))
    inode, modified_ns = int(members["inode"]), int(members["modified_ns"])
    hold = str(members.get("hold", ""))  # releases before holds noted none
    done = Done(**done_members, samples=samples, lost=lost)
    return Progress(Image(**members["image"]), inode, modified_ns, done, hold if is_hold_id(hold) else "")


def sample_of(offset: int, data: memoryview) -> Sample:
    """A sample of what is written at an offset."""
    part = data[:SAMPLE_BYTES_MAX]
    return Sample(offset, len(part), crc32(part))


def thinned(samples: tuple[Sample, ...]) -> tuple[Sample, ...]:
    """At most SAMPLES_MAX of them; the newer, the denser."""
    while len(samples) > SAMPLES_MAX:
        samples = samples[::2]
    return samples


def holds_samples(fd: int, samples: tuple[Sample, ...]) -> bool:
    """Whether what was written still reads back. Raises OSError."""
    return all(crc32(os.pread(fd, item.length, item.offset)) == item.crc32 for item in samples)
