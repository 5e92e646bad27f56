"""What takes space at a place, ours or not: objects of any name, older versions, uploads, leavings.

The `Store` protocol shows keys that this system would write, and of each its newest version; bills count all
of it. What the bytes are good for does not belong here, nor who may take them away.
"""

from __future__ import annotations

import enum
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from cdp_container.errors import AccessDenied, NotFound, StoreUnavailable
from cdp_container.store.address import DirectoryPlace, Place, data_place, parse_address


class Standing(enum.Enum):
    """How something stands in a store."""

    CURRENT = "current"
    """What a reader of its key gets."""
    OTHER = "other version"
    """A version that no reader gets: an older one, or where an object is its oldest version a later one."""
    MARKER = "delete marker"
    UPLOAD = "upload"
    """The parts of a multipart upload that was neither completed nor aborted."""
    LEFT = "left behind"
    """What a write that died left in a directory; a later one clears it away."""


@dataclass(frozen=True, slots=True)
class Taken:
    """Something that takes space.

    Attributes:
        name: relative to the place; not always a key that a `Store` would show.
        size_bytes: all parts together, of an upload.
        modified_ns: the store's time, nanoseconds since 1970; of an upload when it began.
        version: of what stands in a versioned bucket, else "".
        upload: what names the upload to the server, else "".
    """

    name: str
    size_bytes: int
    modified_ns: int
    standing: Standing = Standing.CURRENT
    version: str = ""
    upload: str = ""


@dataclass(frozen=True, slots=True)
class Rules:
    """What the store does by itself to what is put there. `lock_days`: of each new object; None: no lock."""

    versioned: bool = False
    locks: bool = False
    lock_mode: str = ""
    lock_days: int | None = None


class Inventory(Protocol):
    """A place as its bill sees it. Errors are those of `Store`."""

    @property
    def address(self) -> str:
        """Without secrets."""
        ...

    def rules(self) -> Rules:
        """What the store does by itself. Raises AccessDenied where we may not ask."""
        ...

    def objects(self) -> Iterator[Taken]:
        """Everything below the place but uploads, in no order. Raises AccessDenied where we may not ask."""
        ...

    def current(self) -> Iterator[Taken]:
        """The same without what only versions tell, for those who may not list versions."""
        ...

    def uploads(self) -> Iterator[Taken]:
        """The uploads that nobody ended. Raises AccessDenied where we may not ask."""
        ...

    def abort(self, upload: Taken) -> None:
        """Give the space of an upload back; one that is gone is no error."""
        ...

    def close(self) -> None:
        """Give back connections."""
        ...


def open_inventories(address: str | Place) -> list[Inventory]:
    """Those of all places of a container: of `domain/`, and of the data place where there is one.

    No request is made. Raises as `open_inventory` does.
    """
    place = parse_address(address) if isinstance(address, str) else address
    data = None if isinstance(place, DirectoryPlace) else data_place(place)
    if isinstance(place, DirectoryPlace) or data is None:
        return [open_inventory(place)]
    return [open_inventory(replace(place, data=None)), open_inventory(data)]


def open_inventory(address: str | Place) -> Inventory:
    """The inventory of one place; no request is made. Raises UsageError, AccessDenied (no credentials)."""
    place = parse_address(address) if isinstance(address, str) else address
    if isinstance(place, DirectoryPlace):
        return DirectoryInventory(place.path)
    # Imported when needed, as in open_store.
    from cdp_container.store.s3_inventory import S3Inventory

    return S3Inventory(place)


class DirectoryInventory:
    """See `Inventory`. Hidden files are what writes left behind."""

    def __init__(self, path: Path) -> None:
        self._root = path

    @property
    def address(self) -> str:
        """See `Inventory`."""
        return str(self._root)

    def rules(self) -> Rules:
        """See `Inventory`; a directory has none."""
        return Rules()

    def objects(self) -> Iterator[Taken]:
        """See `Inventory`."""

        def refuse(error: OSError) -> None:
            raise _typed(error, self.address)

        for directory, _, names in os.walk(self._root, onerror=refuse):
            for name in names:
                path = os.path.join(directory, name)
                try:
                    found = os.lstat(path)
                except FileNotFoundError:
                    continue  # deleted since its directory was read
                relative = os.path.relpath(path, self._root)
                hidden = any(part.startswith(".") for part in relative.split(os.sep))
                size_bytes = found.st_size if stat.S_ISREG(found.st_mode) else 0
                yield Taken(
                    os.fsencode(relative).decode("utf-8", "backslashreplace"),
                    size_bytes,
                    found.st_mtime_ns,
                    Standing.LEFT if hidden else Standing.CURRENT,
                )

    def current(self) -> Iterator[Taken]:
        """See `Inventory`; a directory has no versions."""
        return self.objects()

    def uploads(self) -> Iterator[Taken]:
        """See `Inventory`; a directory has none."""
        return iter(())

    def abort(self, upload: Taken) -> None:
        """See `Inventory`; a directory has no uploads."""
        assert upload.standing is Standing.UPLOAD, upload

    def close(self) -> None:
        """See `Inventory`."""


def _typed(error: OSError, address: str) -> AccessDenied | NotFound | StoreUnavailable:
    what, why = f"look through {address}", error.strerror or "refused"
    if isinstance(error, PermissionError):
        return AccessDenied(what, why, "check the owner and the permissions of the directory")
    if isinstance(error, FileNotFoundError):
        return NotFound(what, why)
    return StoreUnavailable(what, why, "check the disk and the kernel log")
