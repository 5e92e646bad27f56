"""The directory of an overlay: locked for one process, made for a point, and found again.

What is in its files does not belong here (kept, map_file, overlay).
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Final

from cdp_container.domain.durable import sync_directory
from cdp_container.errors import AlreadyRunning, TargetNotEmpty, TargetUnsuitable
from nbd_export.files import Files
from rehydrate.localio import lock_alone, os_errors
from rehydrate.serve.kept import KEPT_FILE, Kept, load_kept, save_kept
from rehydrate.serve.overlay import Overlay, create_overlay, open_overlay

LOCK_FILE: Final = "lock"
BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")
_OURS: Final = (LOCK_FILE, KEPT_FILE, KEPT_FILE + ".new")


def boot_id() -> bytes:
    """Of this boot."""
    return bytes.fromhex(BOOT_ID.read_text().strip().replace("-", ""))


@contextmanager
def locked(directory: Path) -> Iterator[Kept | None]:
    """The overlay in a directory, for us alone; None where it is empty. It is made where it is missing.

    Raises:
        AlreadyRunning: another process serves it.
        TargetNotEmpty: it holds something else; nothing was touched.
        BackingUnreadable: what is kept of it cannot be understood.
    """
    what = f"serve into {directory}"
    with os_errors(what):
        directory.mkdir(mode=0o700, exist_ok=True)
        names = sorted(os.listdir(directory))
    if KEPT_FILE not in names:
        for name in names:
            if name not in _OURS:
                why = f"it holds {name!r}, and no {KEPT_FILE}"
                raise TargetNotEmpty(what, why, "choose an empty directory")
    with os_errors(what):
        fd = os.open(directory / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            lock_alone(fd, directory / LOCK_FILE, what)
        except AlreadyRunning as error:
            raise AlreadyRunning(what, error.why, "`rehydrate serving` asks the one that runs") from error
        yield load_kept(directory)
    finally:
        os.close(fd)


def check_same(directory: Path, kept: Kept, wanted: Kept) -> None:
    """Raises TargetUnsuitable: an overlay of something else; nothing was touched."""
    what, hint = f"serve into {directory}", "choose another, empty directory"
    if kept.domain != wanted.domain:
        raise TargetUnsuitable(what, f"it is of the domain {kept.domain.hex()}", hint)
    if kept.point != wanted.point:
        raise TargetUnsuitable(what, f"it is of the point {kept.point[0]}.{kept.point[1]}", hint)
    if [one.space for one in kept.volumes] != [one.space for one in wanted.volumes]:
        names = ", ".join(one.name for one in kept.volumes)
        raise TargetUnsuitable(what, f"it is of the volumes {names}", hint)


def make(directory: Path, files: Files, kept: Kept) -> Kept:
    """An overlay in which nothing is; gives it as it is then. Killed amid it, a start makes it anew."""
    with os_errors(f"make the overlay in {directory}"):
        save_kept(directory, kept)
        for one in kept.volumes:
            create_overlay(files, directory / one.file, one.size_bytes, one.space)
        sync_directory(directory)
    made = replace(kept, is_made=True)
    save_kept(directory, made)
    return made


@contextmanager
def opened(directory: Path, files: Files, kept: Kept, boot: bytes) -> Iterator[Sequence[Overlay]]:
    """The overlays of all volumes, in their order. Raises BackingUnreadable."""
    with ExitStack() as stack:
        overlays = []
        for one in kept.volumes:
            overlay = open_overlay(files, directory / one.file, one.size_bytes, one.space, boot)
            stack.callback(overlay.close)
            overlays.append(overlay)
        yield overlays
