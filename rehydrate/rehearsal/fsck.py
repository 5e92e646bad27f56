"""File systems of a volume, each checked in a throw-away copy in which its journal is replayed.

Of a volume that is only shown the copy has no content of files: that would fetch all of it. The image
itself is never changed. What a file system is known by, and what checks it, stands in filesystems.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from cdp_container.clock import Clock
from cdp_container.errors import CdpError, LocalDiskFull
from rehydrate.localio import os_errors
from rehydrate.rehearsal.filesystems import LOOK_BYTES, UNKNOWN, Kind, Which, kind_of, verdict_of
from rehydrate.rehearsal.partitions import Partition, partitions_of
from rehydrate.rehearsal.parts import FAILED, NOT_CHECKED, Restored, Verdict
from rehydrate.rehearsal.programs import Ended, Redaction, run_program

COPY_NAME: Final = ".fsck"
"""In the directory of the rehearsal: no volume's file begins with a dot."""
COPY_BYTES: Final = 64 << 20
WITHOUT_CONTENT: Final = "without the content of files"
ALL_NEEDED: Final = "it is checked only where all content is fetched"
_TABLES: Final = UNKNOWN
_NO_PLACE: Final = frozenset({errno.EXDEV, errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS})
_SBIN: Final = ("/usr/sbin", "/sbin", "/usr/local/sbin")


@dataclass(frozen=True, slots=True)
class Fsck:
    """How file systems are checked: where copies go, how long one may take, which program is where.

    `on_demand`: volumes are shown, and what is read of them is fetched then.
    """

    directory: Path
    limit_seconds: float
    hide: Redaction
    clock: Clock
    which: Which
    on_demand: bool = False

    def check(self, volume: Restored) -> Iterator[Verdict]:
        """A verdict for each file system of a volume; one that says why there is none."""
        fd = os.open(volume.path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            yield from self._check(fd, volume)
        finally:
            os.close(fd)

    def _check(self, fd: int, volume: Restored) -> Iterator[Verdict]:
        def read(offset: int, length: int) -> bytes:
            return os.pread(fd, length, offset)

        whole = Partition(0, 0, volume.size_bytes)
        kind = kind_of(read(0, LOOK_BYTES))
        found = partitions_of(read, volume.size_bytes) if kind is _TABLES else []
        if not found:
            yield self._one(fd, volume.name, whole, kind)
        for part in found:
            name = f"{volume.name}, partition {part.number}"
            if part.is_extended:
                yield Verdict(
                    "fsck", name, NOT_CHECKED, "an extended partition: what is in it is not looked for"
                )
            else:
                yield self._one(fd, name, part, kind_of(read(part.start, min(LOOK_BYTES, part.length))))

    def _one(self, fd: int, name: str, part: Partition, kind: Kind) -> Verdict:
        if kind.program is None:
            return Verdict("fsck", name, NOT_CHECKED, f"{kind.name}: {kind.why_not}")
        program = self.which(kind.program[0])
        if program is None:
            return Verdict("fsck", name, NOT_CHECKED, f"{kind.name}: {kind.program[0]} is not installed")
        copy = self.directory / COPY_NAME
        try:
            if self.on_demand:
                verdict = self._copy_metadata(fd, name, part, kind, copy)
                if verdict is not None:
                    return verdict
            else:
                try:
                    copy_range(fd, part.start, part.length, copy)
                except LocalDiskFull as error:
                    return Verdict("fsck", name, NOT_CHECKED, f"{kind.name}: no room for a copy: {error.why}")
            verdict = self._run(name, kind, [program, *kind.program[1:], str(copy)])
        finally:
            copy.unlink(missing_ok=True)
        return replace(verdict, why=f"{verdict.why}; {WITHOUT_CONTENT}") if self.on_demand else verdict

    def _copy_metadata(self, fd: int, name: str, part: Partition, kind: Kind, copy: Path) -> Verdict | None:
        """Gives why there is none."""
        if kind.metadata is None:
            return Verdict("fsck", name, NOT_CHECKED, f"{kind.name}: {ALL_NEEDED}")
        program = self.which(kind.metadata[0])
        if program is None:
            return Verdict("fsck", name, NOT_CHECKED, f"{kind.name}: {kind.metadata[0]} is not installed")
        image = os.readlink(f"/proc/self/fd/{fd}")
        words = [program, *kind.metadata[1:], str(part.start), image, str(copy)]
        return self._failed(name, kind, words)

    def _failed(self, name: str, kind: Kind, words: list[str]) -> Verdict | None:
        """Run what only prepares a check; None where that went well."""
        ended = self._ended(name, kind, words)
        if isinstance(ended, Verdict) or ended.exit_code == 0:
            return ended if isinstance(ended, Verdict) else None
        why = f"{kind.name}: {words[0]} ended with {ended.exit_code}"
        return Verdict("fsck", name, FAILED, why, ended.seconds, ended.excerpt)

    def _run(self, name: str, kind: Kind, words: list[str]) -> Verdict:
        ended = self._ended(name, kind, words)
        if isinstance(ended, Verdict):
            return ended
        assert ended.exit_code is not None, "it ended"
        state, why = verdict_of(kind, ended.exit_code)
        return Verdict("fsck", name, state, f"{kind.name}: {why}", ended.seconds, ended.excerpt)

    def _ended(self, name: str, kind: Kind, words: list[str]) -> Ended | Verdict:
        """How a program ended that came to its end; else what that means for the check."""
        environment = {"PATH": os.defpath, "LC_ALL": "C"}
        try:
            ended = run_program(words, environment, self.directory, self.limit_seconds, self.hide, self.clock)
        except OSError as error:
            why = f"{kind.name}: {words[0]} cannot be started: {error.strerror}"
            return Verdict("fsck", name, NOT_CHECKED, why)
        if ended.exit_code is None:
            why = f"{kind.name}: {words[0]} did not end within {self.limit_seconds:g} s"
            return Verdict("fsck", name, FAILED, why, ended.seconds, ended.excerpt)
        return ended


def which_program(name: str) -> str | None:
    """Where a program is, also where administrators alone look for it."""
    return shutil.which(name) or shutil.which(name, path=os.pathsep.join(_SBIN))


def copy_range(fd: int, start: int, length: int, to: Path) -> None:
    """A sparse copy of a stretch of a file; by reference where the file system can.

    Raises LocalDiskFull, DeviceError.
    """
    with os_errors(f"copy into {to}"):
        out = os.open(to, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            os.ftruncate(out, length)
            for low, high in _data_of(fd, start, start + length):
                _copy(fd, out, low, high, start)
        except BaseException:
            to.unlink(missing_ok=True)
            raise
        finally:
            os.close(out)


def _data_of(fd: int, start: int, end: int) -> Iterator[tuple[int, int]]:
    at = start
    while at < end:
        try:
            low = os.lseek(fd, at, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:
                return
            raise
        if low >= end:
            return
        at = min(os.lseek(fd, low, os.SEEK_HOLE), end)
        yield low, at


def _copy(fd: int, out: int, low: int, high: int, start: int) -> None:
    while low < high:
        count = min(COPY_BYTES, high - low)
        try:
            done = os.copy_file_range(fd, out, count, low, low - start)
        except OSError as error:
            if error.errno not in _NO_PLACE:
                raise
            done = os.pwrite(out, os.pread(fd, count, low), low - start)
        if not done:
            raise CdpError(
                "copy a volume", f"it ends at {low}, before its end at {high}", "run the test again"
            )
        low += done
