"""The formats of images: what qemu-img is told to make each, and what may be in one. PURE.

How a program is run does not belong here (convert).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from cdp_container.errors import UsageError

SECTOR_BYTES: Final = 512
"""All formats count in these."""

VHD_BYTES_MAX: Final = 2040 << 30
"""What a VHD can hold."""

RAW: Final = "raw"
PLAIN: Final = ""
"""The subformat of a format that has but one."""


@dataclass(frozen=True, slots=True)
class Shape:
    """A kind of image.

    Attributes:
        format: as the administrator calls it; the ending of its file's name, too.
        subformat: likewise; PLAIN where there is but one.
        driver: as qemu-img calls the format.
        options: of the image, for `qemu-img convert -o`.
        is_compressed: whether its content is compressed while it is written.
    """

    format: str
    subformat: str
    driver: str
    options: tuple[str, ...] = ()
    is_compressed: bool = False

    @property
    def suffix(self) -> str:
        """The ending of its file's name."""
        return f".{self.format}"

    @property
    def name(self) -> str:
        """For people: `vmdk streamOptimized`."""
        return f"{self.format} {self.subformat}".rstrip()


_SHAPES: Final = (
    Shape(RAW, PLAIN, "raw"),
    Shape("qcow2", "plain", "qcow2"),
    Shape("qcow2", "compressed", "qcow2", is_compressed=True),
    Shape("vmdk", "monolithicSparse", "vmdk", ("subformat=monolithicSparse",)),
    Shape("vmdk", "streamOptimized", "vmdk", ("subformat=streamOptimized",), is_compressed=True),
    Shape("vhd", "dynamic", "vpc", ("subformat=dynamic", "force_size=on")),
    Shape("vhd", "fixed", "vpc", ("subformat=fixed", "force_size=on")),
    Shape("vhdx", "dynamic", "vhdx", ("subformat=dynamic",)),
    Shape("vhdx", "fixed", "vhdx", ("subformat=fixed",)),
)

FORMATS: Final = tuple(dict.fromkeys(one.format for one in _SHAPES))


def shape_of(format_name: str, subformat: str | None) -> Shape:
    """The shape that the words mean; the first of a format where the other word is left out.

    Raises UsageError.
    """
    known = [one for one in _SHAPES if one.format == format_name]
    if not known:
        raise UsageError("choose a format", f"{format_name!r} is none", f"one of {', '.join(FORMATS)}")
    if subformat is None:
        return known[0]
    for one in known:
        if subformat == one.subformat != PLAIN:
            return one
    names = ", ".join(one.subformat for one in known if one.subformat) or "none: leave it out"
    raise UsageError("choose a subformat", f"{subformat!r} is none of {format_name}", f"there are {names}")


def image_bytes(volume_bytes: int, align_bytes: int, shape: Shape) -> int:
    """How large the disk in the image is: the volume, and zeros up to a multiple.

    Args:
        volume_bytes: the volume's size.
        align_bytes: what it shall be a multiple of; a multiple of sectors.
        shape: the kind of image.

    Raises UsageError where the format cannot hold it.
    """
    assert align_bytes > 0, align_bytes
    assert align_bytes % SECTOR_BYTES == 0, align_bytes
    size = -(-volume_bytes // align_bytes) * align_bytes
    if shape.format == "vhd" and size > VHD_BYTES_MAX:
        why = f"a VHD holds {VHD_BYTES_MAX >> 30} GiB at the most, and the volume has {size} bytes"
        raise UsageError("make a VHD", why, "take vhdx")
    return size


def check_align(align_bytes: int) -> int:
    """Give it back. Raises UsageError where it is no multiple of sectors."""
    if align_bytes <= 0 or align_bytes % SECTOR_BYTES:
        raise UsageError("read --align", f"{align_bytes} is no multiple of {SECTOR_BYTES} bytes")
    return align_bytes
