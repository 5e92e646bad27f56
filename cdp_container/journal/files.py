"""The files of a journal directory: their names, and the run that they form.

Reading records is `reader`'s; here only headers are read.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cdp_container.errors import JournalDamaged
from cdp_container.journal.position import Position
from cdp_container.journal.record import FILE_HEADER_BYTES, FileHeader, decode_file_header

SUFFIX: Final = ".jnl"
NUMBER_DIGITS: Final = 12
# A journal of a PiB; more entries than this in the directory are not ours.
JOURNAL_FILES_MAX: Final = 1 << 24


@dataclass(frozen=True, slots=True)
class JournalFile:
    """One sound journal file; `capacity_bytes` is the room for records behind its header."""

    path: Path
    header: FileHeader
    capacity_bytes: int

    def holds(self, position: Position) -> bool:
        """Whether the file's place in the generation could hold `position`."""
        offset = position.offset - self.header.start
        return position.generation == self.header.generation and 0 <= offset <= self.capacity_bytes

    def byte_of(self, position: Position) -> int:
        """Where in the file the record of `position` begins."""
        return FILE_HEADER_BYTES + position.offset - self.header.start

    def is_followed_by(self, other: JournalFile) -> bool:
        """Whether `other` goes on where this file ends: in the same generation, or with the next one."""
        if other.header.generation == self.header.generation:
            return 0 < other.header.start - self.header.start <= self.capacity_bytes
        return other.header.start == 0 and self.holds(other.header.previous)


def file_name(number: int) -> str:
    """The name of journal file `number`."""
    return f"{number:0{NUMBER_DIGITS}d}{SUFFIX}"


def list_numbers(directory: Path) -> dict[int, Path]:
    """Every file in `directory` that has a journal file's name, by its number, ascending."""
    found = {}
    for name in os.listdir(directory):
        stem = name.removesuffix(SUFFIX)
        if stem != name and stem.isascii() and stem.isdigit():
            found[int(stem)] = directory / name
            if len(found) > JOURNAL_FILES_MAX:
                raise JournalDamaged(
                    "opening the journal", f"{directory} holds more than {JOURNAL_FILES_MAX} files"
                )
    return dict(sorted(found.items()))


def read_file(path: Path, number: int, domain: bytes) -> JournalFile | None:
    """The journal file at `path`, or None if it has no header of its own (just being made, or torn).

    Raises:
        JournalDamaged: it belongs to another domain.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:  # renamed for reuse since it was listed
        return None
    try:
        header = decode_file_header(os.pread(fd, FILE_HEADER_BYTES, 0))
        size_bytes = os.fstat(fd).st_size
    finally:
        os.close(fd)
    if header is None or header.number != number:
        return None
    if header.domain != domain:
        raise JournalDamaged("opening the journal", f"{path} belongs to domain {header.domain.hex()}")
    return JournalFile(path, header, max(0, size_bytes - FILE_HEADER_BYTES))


def runs_of(files: Mapping[int, JournalFile]) -> Sequence[Sequence[JournalFile]]:
    """The files in the order of their numbers, cut wherever one does not go on where the one before ends.

    A journal is one run. More are damage, or files that a power loss brought back: only who knows
    which positions count (the splitter, at its start) can tell.
    """
    runs: list[list[JournalFile]] = []
    for _, file in sorted(files.items()):
        if runs and runs[-1][-1].is_followed_by(file):
            runs[-1].append(file)
        else:
            runs.append([file])
    return runs
