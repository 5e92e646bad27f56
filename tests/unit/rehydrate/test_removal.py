"""Directories that are removed with all that is in them; nothing beside them is touched."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from rehydrate import removal
from rehydrate.removal import remove_directory

LEVELS = 3000
"""More than Python recurses, than descriptors may be open, and than a path may be long."""


def deep(path: Path, levels: int) -> None:
    path.mkdir()
    above = os.open(path, os.O_RDONLY)
    for _ in range(levels):
        os.mkdir("level", dir_fd=above)
        inner = os.open("level", os.O_RDONLY, dir_fd=above)
        os.close(above)
        above = inner
    os.close(os.open("file", os.O_CREAT | os.O_WRONLY, dir_fd=above))
    os.close(above)


@pytest.fixture
def parent(tmp_path: Path) -> int:
    return os.open(tmp_path, os.O_RDONLY)


def test_what_is_not_there_or_no_directory_is_named(tmp_path: Path, parent: int) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "away").mkdir()
    (tmp_path / "link").symlink_to("away")
    for name, error in (("none", errno.ENOENT), ("file", errno.ENOTDIR), ("link", errno.ENOTDIR)):
        with pytest.raises(OSError, match=name) as caught:
            remove_directory(parent, name.encode())
        assert caught.value.errno in (error, errno.ELOOP)
        assert caught.value.filename == str(tmp_path / name)
    os.close(parent)
    assert sorted(os.listdir(tmp_path)) == ["away", "file", "link"]


def test_any_depth_goes(tmp_path: Path, parent: int) -> None:
    deep(tmp_path / "deep", LEVELS)
    (tmp_path / "beside").touch()
    assert remove_directory(parent, b"deep") == LEVELS + 2
    os.close(parent)
    assert os.listdir(tmp_path) == ["beside"]


def test_names_of_any_bytes_modes_and_numbers_go_and_links_are_not_followed(
    tmp_path: Path, parent: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(removal, "AT_ONCE", 3)
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/precious").touch()
    top = tmp_path / "top"
    (top / "closed/inner").mkdir(parents=True)
    (top / "closed/inner/link").symlink_to(tmp_path / "outside")
    (top / f"{removal.MOVED_PREFIX}-0").mkdir()
    for number in range(20):
        (top / os.fsdecode(b"\xff%d" % number)).touch()
    (top / "closed/inner").chmod(0)
    (top / "closed").chmod(0o400)
    assert remove_directory(parent, b"top") == 1 + 2 + 1 + 1 + 20
    os.close(parent)
    assert os.listdir(tmp_path) == ["outside"]
    assert (tmp_path / "outside/precious").exists()
