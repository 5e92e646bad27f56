"""The VMs of a rehearsal, noted before they are defined: whoever comes after a killed one clears them away.

Only what is noted here, and has names that no VM of production has, is ever touched. How a VM is stopped does
not belong here (rehydrate.boot).
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

import orjson

from cdp_container.domain.durable import remove_file, replace_file
from cdp_container.errors import AlreadyRunning, ConfigInvalid
from cdp_container.machine_errors import MachineFailed
from rehydrate.boot.machines import Known
from rehydrate.localio import lock_alone, os_errors

FILE_NAME: Final = ".dr-test-machines.json"
LOCK_NAME: Final = ".dr-test-machines.lock"
VERSION: Final = 1
BYTES_MAX: Final = 16 << 20
_HINT: Final = (
    "look for VMs called …-dr-test, stop and undefine them, and remove the file; or name another "
    "`test.directory`, in which nobody else can write"
)


@dataclass(frozen=True, slots=True)
class Left:
    """What a rehearsal defines: VMs on a hypervisor, and the overlay that is served to them, if one is.

    `machines`: in the order in which they are started.
    """

    target: str
    uri: str
    machines: tuple[Known, ...]
    overlay: str = ""


class Record:
    """The note, which is ours while this process lives."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / FILE_NAME

    def read(self) -> Left | None:
        """What a rehearsal that was killed left; None where there is nothing.

        Raises ConfigInvalid: it makes no sense, or others than we may have written it; MachineFailed: it
        names what is no VM of a rehearsal.
        """
        data = self._read_ours()
        if data is None:
            return None
        try:
            members = orjson.loads(data)
            if members["version"] != VERSION:
                raise ConfigInvalid(f"{self.path} is refused", f"its version is {members['version']!r}")
            machines = tuple(Known(**{k: str(v) for k, v in one.items()}) for one in members["machines"])
            left = Left(str(members["target"]), str(members["uri"]), machines, str(members["overlay"]))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            why = f"it is damaged ({type(error).__name__})"
            raise ConfigInvalid(f"{self.path} is refused", why, _HINT) from error
        for one in left.machines:
            if not one.is_rehearsed:
                why = f"{one.title!r} is no name of a rehearsal: nothing was touched"
                raise MachineFailed(f"clear what {self.path} names", why, "remove the file by hand")
        return left

    def write(self, left: Left) -> None:
        """Note it durably, before anything of it is there. Raises LocalDiskFull, CdpError.

        ConfigInvalid: what is written there could be another's, as `read` sees it.
        """
        assert all(one.is_rehearsed for one in left.machines), "names of a rehearsal"
        machines = [asdict(one) for one in left.machines]
        members = {"version": VERSION, "target": left.target, "uri": left.uri, "machines": machines}
        replace_file(self.path, orjson.dumps({**members, "overlay": left.overlay}))
        self._read_ours()  # else what is about to be started could not be taken away by it

    def drop(self) -> None:
        """Nothing is left. Raises CdpError."""
        remove_file(self.path)

    def _read_ours(self) -> bytes | None:
        """The note; whoever else could write it would have us end processes of ours. Raises ConfigInvalid."""
        what = f"{self.path} is refused"
        try:
            fd = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise ConfigInvalid(what, error.strerror or "it cannot be read", _HINT) from error
        with open(fd, "rb") as file:
            status = os.fstat(fd)
            if not stat.S_ISREG(status.st_mode):
                raise ConfigInvalid(what, "it is no file", _HINT)
            if status.st_uid != os.geteuid():
                raise ConfigInvalid(what, f"it is of the user {status.st_uid}, not ours", _HINT)
            if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
                raise ConfigInvalid(what, f"others can write it (mode {status.st_mode & 0o777:o})", _HINT)
            with os_errors(f"read {self.path}"):
                return file.read(BYTES_MAX + 1)


@contextmanager
def taken_record(directory: Path) -> Iterator[Record]:
    """The note of a runbook's directory, for us alone. Raises AlreadyRunning, DeviceError and its kin."""
    what = f"rehearse with the VMs of {directory}"
    with os_errors(what):
        directory.mkdir(mode=0o711, parents=True, exist_ok=True)
        fd = os.open(directory / LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        try:
            lock_alone(fd, directory / LOCK_NAME, what)
        except AlreadyRunning as error:
            why = "another rehearsal has its VMs there"
            raise AlreadyRunning(what, why, "wait for it, or name another `test.directory`") from error
        yield Record(directory)
    finally:
        os.close(fd)


def titles_of(machines: Sequence[Known]) -> str:
    """Their names, for people."""
    return ", ".join(one.title for one in machines)
