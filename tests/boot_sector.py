"""A guest of 512 bytes: it prints its disk's second sector on COM1 and copies it to the third, then rests.

So its console shows what its disk had, and its disk that it ran. Real mode, for any x86 with a BIOS.
"""

from __future__ import annotations

from typing import Final

SECTOR_BYTES: Final = 512
_CODE: Final = bytes.fromhex(
    "31c0 8ed8 8ec0 8ed0 bc007c"  # all segments 0, stack below us
    "bb0080 b80102 b90200 b600 cd13"  # read sector 2 (counted from 1) to 8000h
    "be0080"  # print from there:
    "ac 84c0 7414 88c4 52 bafd03 ec a820 74fb baf803 88e0 ee 5a ebe7"
    "bb0080 b80103 b90300 b600 cd13"  # write it to sector 3
    "f4 ebfd"
)


def boot_disk(text: str, size_bytes: int) -> bytes:
    """A disk that boots; its guest says `text`."""
    words = text.encode() + b"\r\n"
    assert len(words) < SECTOR_BYTES, "a sector, and a zero at its end"
    code = _CODE.ljust(SECTOR_BYTES - 2, b"\0") + b"\x55\xaa"
    return (code + words.ljust(SECTOR_BYTES, b"\0")).ljust(size_bytes, b"\0")


def copied_text(disk: bytes) -> str:
    """What its guest wrote to the disk; empty where it never ran."""
    return disk[2 * SECTOR_BYTES : 3 * SECTOR_BYTES].rstrip(b"\0").decode().rstrip("\r\n")
