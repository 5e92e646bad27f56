"""Where a story meets the kernel: every call is made, and noted in its order.

What the splitter does in threads is done in the event loop, in an order that the story chooses, so that a
story is the same every time. What a power loss makes of the calls does not belong here (`power`).
"""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar
from unittest.mock import patch

from cdp_agent.splitter.opening import SHARED
from cdp_agent.splitter.threads import Threads, nothing
from cdp_container.journal import shared
from nbd_export.files import Buffer, OsFiles
from tests.unit.splitter.enumeration.owed import Answered, Asked, Started
from tests.unit.splitter.enumeration.power import Call, Named, NamesSynced, Sized, Synced, Unlinked, Wrote
from tests.waiting import turn

T = TypeVar("T")

Event = Call | Asked | Answered | Started


class Recorder(OsFiles):
    """The edge to the kernel, which notes what is called. Nothing is really synced."""

    def __init__(self, root: Path) -> None:
        super().__init__()
        self.root = root
        self.events: list[Event] = []
        self.failing = ""  # syncs of files with this suffix fail
        self.reads = 0  # of backing stores
        self.ids: dict[str, int] = {}  # every name that is there
        self.descriptors: dict[int, int] = {}
        self._files_made = 0
        self._root_length = len(str(root)) + 1

    def know(self, name: str) -> None:
        """A file that is there before the story begins."""
        self.ids[name] = self._new_id()

    def forget_descriptors(self) -> None:
        """What the kernel does for a process that is gone."""
        for fd in self.descriptors:
            os.close(fd)
        self.descriptors.clear()

    @property
    def volume_ids(self) -> set[int]:
        """The backing stores."""
        return {file for name, file in self.ids.items() if name.endswith(".raw")}

    def is_of_volume(self, event: Event) -> bool:
        """Whether something was written to a backing store."""
        return isinstance(event, Wrote) and event.file in self.volume_ids

    def _new_id(self) -> int:
        self._files_made += 1
        return self._files_made

    def _name(self, path: Path) -> str:
        return str(path)[self._root_length :]

    def open(self, path: Path, create: bool = False) -> int:
        name = self._name(path)
        if create and name not in self.ids:
            self.ids[name] = self._new_id()
            self.events.append(Named(self.ids[name], name))
        fd = super().open(path, create)
        self.descriptors[fd] = self.ids[name]
        return fd

    def close(self, fd: int) -> None:
        del self.descriptors[fd]
        super().close(fd)

    def pread(self, fd: int, length: int, offset: int) -> bytes:
        self.reads += self.descriptors[fd] in self.volume_ids
        return super().pread(fd, length, offset)

    def pwritev(self, fd: int, buffers: Sequence[Buffer], offset: int) -> None:
        super().pwritev(fd, buffers, offset)
        self.events.append(Wrote(self.descriptors[fd], offset, b"".join(buffers)))

    def zero(self, fd: int, offset: int, length: int, may_trim: bool) -> None:
        os.pwrite(fd, bytes(length), offset)
        self.events.append(Wrote(self.descriptors[fd], offset, bytes(length)))

    def allocate(self, fd: int, length: int) -> None:
        os.truncate(fd, max(length, os.fstat(fd).st_size))
        self.events.append(Sized(self.descriptors[fd], length))

    def fdatasync(self, fd: int) -> None:
        file = self.descriptors[fd]
        fails = self.failing and next(name for name, id_ in self.ids.items() if id_ == file).endswith(
            self.failing
        )
        self.events.append(Synced(file, not fails))
        if fails:
            raise OSError(errno.EIO, "the disk failed")

    def rename(self, path: Path, to: Path) -> None:
        super().rename(path, to)
        file = self.ids[self._name(to)] = self.ids.pop(self._name(path))
        self.events.append(Named(file, self._name(to), self._name(path)))

    def unlink(self, path: Path) -> None:
        super().unlink(path)
        del self.ids[self._name(path)]
        self.events.append(Unlinked(self._name(path)))

    def sync_directory(self, path: Path) -> None:
        self.events.append(NamesSynced())


class _SharedOs:
    """What `shared` calls of `os`, noted likewise."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - the module's own
        return getattr(os, name)

    def pwrite(self, fd: int, data: bytes, at: int) -> int:
        self._recorder.events.append(Wrote(self._recorder.ids[SHARED], at, data))
        return os.pwrite(fd, data, at)

    def fdatasync(self, fd: int) -> None:
        self._recorder.events.append(Synced(self._recorder.ids[SHARED]))


@contextmanager
def shared_is_noted(recorder: Recorder) -> Iterator[None]:
    """While this holds, what is published goes through the recorder."""
    with patch.object(shared, "os", _SharedOs(recorder)):
        yield


class InTurn(Threads):
    """Does at once what is handed to threads. `hold` makes some of it wait; `disks_first` orders syncs."""

    def __init__(self) -> None:
        super().__init__()
        self.hold: asyncio.Event | None = None
        self.disks_first = False

    def submit(self, work: Callable[[], None]) -> None:
        work()

    async def run(self, work: Callable[[], T]) -> T:
        if self.hold is not None:
            await self.hold.wait()
        return work()

    async def sync(self, sync: Callable[[], None], thread: ThreadPoolExecutor) -> OSError | None:
        if sync is nothing:
            return None
        if self.disks_first and thread is self.journal:
            await let_others_run()
        try:
            sync()
        except OSError as error:
            return error
        return None


async def let_others_run() -> None:
    for _ in range(10):
        await turn()


def lay_out(root: Path, files: dict[str, bytes]) -> None:
    """Let a directory hold these files and no others."""
    for directory, _, names in os.walk(root):
        for path in (os.path.join(directory, name) for name in names):
            if os.path.relpath(path, root) not in files:
                os.unlink(path)
    for name, content in files.items():
        path = os.path.join(root, name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        fd = os.open(path, os.O_RDWR | os.O_CREAT)  # not truncated: a file system may sync a file that is
        os.pwrite(fd, content, 0)
        os.ftruncate(fd, len(content))
        os.close(fd)
