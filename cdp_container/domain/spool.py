"""Tables that grow on disk: what an index of a whole history needs, without memory that grows with it.

The file has no name, so nothing is left behind whatever happens. What the rows mean does not belong here.
"""

from __future__ import annotations

import errno
import tempfile
from typing import Any, Final

import numpy as np

from cdp_container.errors import DeviceError, LocalDiskFull
from cdp_container.extents.tables import Table

BUFFER_BYTES: Final = 1 << 20


class Spool:
    """Rows of one numpy type, appended in any order of objects and read as one mapped table."""

    def __init__(self, row_type: np.dtype[Any]) -> None:
        self._row_type = row_type
        self._rows = 0
        self._file = tempfile.TemporaryFile(buffering=BUFFER_BYTES)  # noqa: SIM115 (lives as long as we)

    def append(self, rows: Table) -> int:
        """Add rows; gives the number of the first. Raises LocalDiskFull, DeviceError."""
        assert rows.dtype == self._row_type, (rows.dtype, self._row_type)
        first = self._rows
        try:
            self._file.write(rows.tobytes())
        except OSError as error:
            raise typed(error) from error
        self._rows += len(rows)
        return first

    def table(self) -> Table:
        """All rows so far, mapped."""
        if self._rows == 0:
            return np.zeros(0, dtype=self._row_type)
        try:
            self._file.flush()
        except OSError as error:
            raise typed(error) from error
        return np.memmap(self._file, dtype=self._row_type, mode="r", shape=(self._rows,))

    def close(self) -> None:
        """Give the disk space back; tables that were handed out stay readable until they are dropped."""
        self._file.close()


def typed(error: OSError) -> LocalDiskFull | DeviceError:
    """What a failure of a temporary file is called."""
    what = f"keep an index in {tempfile.gettempdir()}"
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return LocalDiskFull(what, "the disk is full", "make room, or set TMPDIR to another directory")
    return DeviceError(what, str(error))
