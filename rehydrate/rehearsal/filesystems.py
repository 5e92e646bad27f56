"""Which file system is in a stretch of bytes, and which program says whether it is sound.

Running programs does not belong here (fsck).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

from rehydrate.rehearsal.parts import FAILED, NOT_CHECKED, PASSED

LOOK_BYTES: Final = 72 << 10
"""From the beginning on; all superblocks that are known lie in it."""


@dataclass(frozen=True, slots=True)
class Kind:
    """A file system, or what else a disk may hold.

    Attributes:
        name: as people know it.
        program: what checks it, with its options; the file is its last argument. None: nothing does.
        verdicts: what its exit codes mean; any other is a failure.
        metadata: what copies all but the content of files, from the offset that follows its last word, into a
            file: enough for a check, of an image of which content comes on demand. None: nothing does.
        why_not: why nothing does.
    """

    name: str
    program: tuple[str, ...] | None = None
    verdicts: Mapping[int, tuple[str, str]] = field(default_factory=dict)
    why_not: str = ""
    metadata: tuple[str, ...] | None = None


_SOUND: Final = (PASSED, "sound")

EXT: Final = Kind(
    "ext2/3/4",
    ("e2fsck", "-f", "-p"),
    {
        0: (PASSED, "sound, its journal replayed"),
        1: (PASSED, "sound once its journal was replayed and what a crash leaves was put right"),
    },
    # Raw, with the journal, although that is to be replayed.
    metadata=("e2image", "-r", "-f", "-o"),
)
XFS: Final = Kind(
    "xfs",
    ("xfs_repair", "-e", "-f"),
    {0: _SOUND, 2: (NOT_CHECKED, "its log is dirty, and only a mount replays it: mount a copy with --check")},
)
VFAT: Final = Kind("vfat", ("fsck.vfat", "-n"), {0: _SOUND})
BTRFS: Final = Kind("btrfs", ("btrfs", "check", "--readonly"), {0: _SOUND})

_MAGICS: Final[tuple[tuple[int, bytes, Kind], ...]] = (
    (0x438, b"\x53\xef", EXT),
    (0, b"XFSB", XFS),
    (0x10040, b"_BHRfS_M", BTRFS),
    (82, b"FAT32   ", VFAT),
    (54, b"FAT16   ", VFAT),
    (54, b"FAT12   ", VFAT),
    (3, b"NTFS    ", Kind("NTFS", why_not="no program here checks it and replays its log")),
    (0, b"LUKS\xba\xbe", Kind("LUKS", why_not="it is encrypted by the guest")),
    (536, b"LVM2 001", Kind("LVM", why_not="its volumes may lie on several disks")),
    (4086, b"SWAPSPACE2", Kind("swap", why_not="there is nothing to check in it")),
)
EMPTY: Final = Kind("empty", why_not="there are only zeros at its beginning")
UNKNOWN: Final = Kind("unknown", why_not="no file system that is known was found")

Which = Callable[[str], str | None]
"""Gives the path of a program, None where it is not installed."""


def kind_of(beginning: bytes) -> Kind:
    """What begins with these bytes (LOOK_BYTES, or all there are)."""
    for at, magic, kind in _MAGICS:
        if beginning[at : at + len(magic)] == magic:
            return kind
    return UNKNOWN if any(beginning) else EMPTY


def verdict_of(kind: Kind, exit_code: int) -> tuple[str, str]:
    """What the exit code of its program means: state and reason."""
    assert kind.program is not None
    return kind.verdicts.get(exit_code, (FAILED, f"{kind.program[0]} ended with {exit_code}"))
