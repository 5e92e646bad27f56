"""A cut that can be restored whole, shown in a directory: what is put together for it, and taken apart after.

Which cut it is does not belong here (points), nor who is told what (cli, rehearsal).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from cdp_container.domain.namespace import Namespace
from rehydrate.mount.driver import Mount
from rehydrate.mount.operations import Operations
from rehydrate.mount.shown import Shown
from rehydrate.ondemand.frames import CACHE_BYTES, REQUESTS_AT_ONCE, Told
from rehydrate.ondemand.reader import Reader
from rehydrate.points import RestorePlan
from rehydrate.restore import Source


@dataclass(frozen=True, slots=True)
class Ways:
    """How it is read, and by whom: see `Reader`; `allow_other`: by other users too."""

    cache_bytes: int = CACHE_BYTES
    at_once: int = REQUESTS_AT_ONCE
    allow_other: bool = False


@contextmanager
def shown_of(source: Source, made: RestorePlan) -> Iterator[Shown]:
    """The names of all volumes and trees of a plan, checked whole before anything is shown.

    Raises DamagedObject, LocalDiskFull, DeviceError: see `Namespace`.
    """
    with ExitStack() as stack:
        namespace: Namespace | None = None
        if made.trees:
            namespace = Namespace(source.contents, made.branch, made.trees)
            stack.enter_context(closing(namespace))
        volumes = [plan.volume for plan in made.volumes]
        yield Shown(namespace, volumes, (os.geteuid(), os.getegid()), made.cut.time_ns)


@contextmanager
def mounted(
    source: Source, made: RestorePlan, shown: Shown, directory: Path, told: Told, ways: Ways
) -> Iterator[Mount]:
    """Show it in a directory, from the beginning of a block to its end.

    Raises TargetUnsuitable, TargetNotEmpty, DeviceError: see `Mount`.
    """
    reader = Reader(source, made.branch, told, ways.cache_bytes, ways.at_once)
    with closing(reader), Mount(Operations(shown, reader), directory, ways.allow_other) as mount:
        try:
            yield mount
        finally:
            reader.stop()  # who waits for the store is not to hold up the end
