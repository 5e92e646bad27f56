"""What of a file is data and what are holes, in the words of an export.

What is asked for it does not belong here (`contexts`), nor how the kernel is asked (`files`).
"""

from __future__ import annotations

import errno
from collections.abc import Sequence

from nbd_export.backend import Extent, State
from nbd_export.files import Files


def extents_of(files: Files, fd: int, offset: int, length: int, count_max: int) -> Sequence[Extent]:
    """The first parts of a range, at most `count_max`: holes and data, as the file system tells now.

    A part that is told to be a hole was one at some instant of this call. What was written and not
    synced counts as data, for the page cache is asked too.

    Raises:
        OSError: it cannot be told.
    """
    parts: list[Extent] = []
    at, end = offset, offset + length
    while at < end and len(parts) < count_max:
        data = files.next_data(fd, at)
        if data is None and files.size_bytes(fd) < end:
            raise OSError(errno.EIO, "the file is shorter than it was")
        data_at = end if data is None else min(data, end)
        if data_at > at:
            parts.append(Extent(data_at - at, State.HOLE))
        else:
            # A hole punched meanwhile may begin right here: then this was data a moment ago.
            data_at = min(max(files.next_hole(fd, at), at + 1), end)
            parts.append(Extent(data_at - at, State.DATA))
        at = data_at
    return parts


def joined(parts: Sequence[Extent]) -> list[Extent]:
    """Parts one behind the other, neighbours of one state as one."""
    found: list[Extent] = []
    for part in parts:
        if found and found[-1].state is part.state:
            found[-1] = Extent(found[-1].length + part.length, part.state)
        else:
            found.append(part)
    return found
