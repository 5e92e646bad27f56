"""Tables on disk: what goes in comes out, and a full disk has its own error."""

from __future__ import annotations

import errno
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from cdp_container.domain.spool import Spool
from cdp_container.errors import DeviceError, LocalDiskFull
from cdp_container.extents.tables import EXTENTS


def rows(*offsets: int) -> np.ndarray:
    table = np.zeros(len(offsets), dtype=EXTENTS)
    table["offset"] = offsets
    return table


def test_rows_come_out_as_they_went_in_even_while_more_are_added() -> None:
    with closing(Spool(EXTENTS)) as spool:
        assert len(spool.table()) == 0
        assert (spool.append(rows(1, 2)), spool.append(rows(3))) == (0, 2)
        before = spool.table()
        assert spool.append(rows(4)) == 3
        assert before["offset"].tolist() == [1, 2, 3]
        assert spool.table()["offset"].tolist() == [1, 2, 3, 4]


def test_nothing_is_left_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with closing(Spool(EXTENTS)) as spool:
        spool.append(rows(*range(100_000)))
        assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("number", "expected"),
    [(errno.ENOSPC, LocalDiskFull), (errno.EDQUOT, LocalDiskFull), (errno.EIO, DeviceError)],
)
def test_a_full_disk_has_its_own_error(number: int, expected: type[Exception]) -> None:
    with closing(Spool(EXTENTS)) as spool:

        class Full:
            def write(self, data: bytes) -> int:
                raise OSError(number, "no")

            def flush(self) -> None:
                raise OSError(number, "no")

            def close(self) -> None:
                pass

        spool._file.close()
        spool._file = Full()  # type: ignore[assignment] # stands in for a file on a full disk
        with pytest.raises(expected):
            spool.append(rows(1))
        spool._rows = 1
        with pytest.raises(expected):
            spool.table()
