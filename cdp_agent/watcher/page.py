"""The watcher's page: what the streamer polls ten times a second without asking anybody.

One small record with a checksum in `watcher/page`: whoever reads amid a write, or after a power loss, sees
nothing and looks again. It is read and written, not mapped, as `shared` is: a disk that is full or failing
answers with an error then, and kills nobody. It is not durable, and a hint only: what is to be done is
found out by `take`.
"""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from isal.isal_zlib import crc32

FOLDER: Final = "watcher"
PAGE_NAME: Final = "page"
READ_ATTEMPTS_MAX: Final = 10
"""Reads that meet the middle of a write; the next poll looks again."""

_MAGIC: Final = 0x57504443  # "CDPW"
_FIELDS: Final = struct.Struct("<IIQQQ")  # magic, flags, generation, changes, epoch
_CRC: Final = struct.Struct("<I")
_READY: Final = 1
_DIRTY: Final = 2
_RUNS: Final = 4


@dataclass(frozen=True, slots=True)
class Page:
    """What the watcher shows.

    Attributes:
        generation: random, of one process of the watcher; another one means: `begin` again.
        changes: grows whenever something became dirty, or a take left something over.
        epoch: the one that was begun last; 0 before the first `begin`.
        ready: takes for that epoch are answered.
        dirty: something is dirty or in doubt: a take would find something, or say that a tree is not whole.
        runs: of the imager: a VM may have written since its newest image.
    """

    generation: int
    changes: int
    epoch: int
    ready: bool
    dirty: bool
    runs: bool = False


def page_path(directory: Path, folder: str = FOLDER) -> Path:
    """Where the page of a journal directory is: the watcher's, or that of who has another folder."""
    return directory / folder / PAGE_NAME


class PageWriter:
    """The one writer: whoever holds `watcher.lock`."""

    def __init__(self, directory: Path, folder: str = FOLDER) -> None:
        path = page_path(directory, folder)
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def publish(self, page: Page) -> None:
        """Show this from now on. Raises OSError."""
        os.pwrite(self._fd, _encode(page), 0)

    def close(self) -> None:
        """Let go of the file; what was shown last stays."""
        os.close(self._fd)


class PageReader:
    """Reads the page; the file is opened when there is one."""

    def __init__(self, directory: Path, folder: str = FOLDER) -> None:
        self._path = page_path(directory, folder)
        self._fd = -1

    def read(self) -> Page | None:
        """The newest page; None where there is none (yet), or none that can be read."""
        try:
            if self._fd < 0:
                self._fd = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
            for _ in range(READ_ATTEMPTS_MAX):
                page = _decode(os.pread(self._fd, _FIELDS.size + _CRC.size, 0))
                if page is not None:
                    return page
        except OSError:
            return None  # a page that cannot be read is none: trees are not whole then
        return None

    def close(self) -> None:
        """Let go of the file."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def _encode(page: Page) -> bytes:
    flags = (_READY if page.ready else 0) | (_DIRTY if page.dirty else 0) | (_RUNS if page.runs else 0)
    fields = _FIELDS.pack(_MAGIC, flags, page.generation, page.changes, page.epoch)
    return fields + _CRC.pack(crc32(fields))


def _decode(data: bytes) -> Page | None:
    if len(data) != _FIELDS.size + _CRC.size:
        return None
    fields = data[: _FIELDS.size]
    magic, flags, generation, changes, epoch = _FIELDS.unpack(fields)
    if magic != _MAGIC or _CRC.unpack(data[_FIELDS.size :])[0] != crc32(fields):
        return None
    return Page(generation, changes, epoch, bool(flags & _READY), bool(flags & _DIRTY), bool(flags & _RUNS))
