"""A point that is shown and not restored, on its way through a rehearsal: content is fetched as checks ask.

How it is shown stands in rehydrate.mount; what is restored in volumes and trees.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from cdp_container.clock import Clock
from cdp_container.errors import counted
from cdp_container.format.names import shown as as_text
from rehydrate.localio import os_errors
from rehydrate.mount.opened import Ways, mounted, shown_of
from rehydrate.mount.shown import Attributes, ShownSource
from rehydrate.ondemand.frames import Told
from rehydrate.plan import Totals
from rehydrate.points import RestorePlan
from rehydrate.rehearsal.parts import FAILED, NOT_CHECKED, PASSED, Restored, Sampling, Verdict
from rehydrate.restore import Report, Source

MOUNT_NAME: Final = "mount"
"""The directory in which everything is shown, below that of the rehearsal."""


class ShownPart:
    """See `parts.Part`; to be used as a context, which unmounts.

    Args:
        source: the container, gathered with names.
        made: the plan of the point.
        directory: of the rehearsal.
        clock: of this machine.
        told: told of what cannot be read.
    """

    def __init__(self, source: Source, made: RestorePlan, directory: Path, clock: Clock, told: Told) -> None:
        self._source = source
        self._made = made
        self._directory = directory / MOUNT_NAME
        self._clock = clock
        self._told = told
        self._stack = ExitStack()
        self._shown = self._stack.enter_context(shown_of(source, made))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    @property
    def sources(self) -> list[Restored]:
        """See `Part.sources`."""
        return [
            Restored(one.kind, one.name, one.size_bytes, self._directory / one.file)
            for one in self._shown.sources
        ]

    @property
    def names(self) -> int:
        """See `Part.names`; the mount itself is one of them."""
        return self._shown.names

    def totals(self, sampling: Sampling) -> Totals:
        """See `Part.totals`: what will be asked for nobody knows."""
        return Totals()

    def make_names(self, told: Callable[[int], None]) -> None:
        """See `Part.make_names`: they are checked already, and made by nobody."""
        with os_errors(f"make {self._directory}"):
            self._directory.mkdir(mode=0o700)
        told(self._shown.names)

    def fetch(self, sampling: Sampling, report: Report) -> None:
        """See `Part.fetch`: it is mounted. Raises as `Mount`."""
        mount = mounted(self._source, self._made, self._shown, self._directory, self._told, Ways())
        self._stack.enter_context(mount)

    def compared(self, told: Callable[[int], None]) -> Iterator[Verdict]:
        """See `Part.compared`: every name as the kernel has it; content is not read for its own sake."""
        for one in self._shown.sources:
            yield self._names(one)
            why = "content is fetched on demand, and each frame verified then"
            yield Verdict("checksums", one.name, NOT_CHECKED, why)

    def _names(self, one: ShownSource) -> Verdict:
        began_ns, count, wrong, first = self._clock.boottime_ns(), 0, 0, ""
        for path, attributes in self._shown.walk(one):
            count += 1
            if not _is_shown(os.path.join(os.fsencode(self._directory), path), attributes):
                wrong += 1
                first = first or as_text(path)
        seconds = (self._clock.boottime_ns() - began_ns) / 1e9
        if wrong:
            why = f"{counted(wrong, 'name')} missing, of another type or size, the first: {first}"
            return Verdict("names", one.name, FAILED, why, seconds)
        why = f"{counted(count, 'name')} shown, each of its type and size"
        return Verdict("names", one.name, PASSED, why, seconds)


def _is_shown(path: bytes, attributes: Attributes) -> bool:
    try:
        status = os.lstat(path)
    except OSError:
        return False
    is_same = stat.S_IFMT(status.st_mode) == stat.S_IFMT(attributes.mode)
    return is_same and status.st_size == attributes.size_bytes
