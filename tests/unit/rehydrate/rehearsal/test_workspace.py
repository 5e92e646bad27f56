"""The directory of a rehearsal: refused where it holds anything, and empty again at its end."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path

import pytest

from cdp_container.errors import AccessDenied, AlreadyRunning, DeviceError, TargetNotEmpty, TargetUnsuitable
from rehydrate import removal
from rehydrate.mounted import mounts_below
from rehydrate.rehearsal import workspace as working
from rehydrate.rehearsal.workspace import MARK_NAME, taken


def test_what_was_made_goes_and_so_does_the_directory(tmp_path: Path) -> None:
    with taken(tmp_path / "fresh") as space:
        (space.path / "a.raw").write_bytes(b"1")
        (space.path / "tree").mkdir()
        (space.path / "tree" / "inner").write_bytes(b"1")
        assert len(space.left()) == 2
        assert space.clear() == 3
        assert space.left() == []
    assert not (tmp_path / "fresh").exists()


def test_a_directory_that_was_there_stays(tmp_path: Path) -> None:
    with taken(tmp_path) as space:
        assert (tmp_path / MARK_NAME).exists()
        space.clear()
    assert list(tmp_path.iterdir()) == []


def test_links_are_removed_and_never_followed(tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "precious").write_bytes(b"1")
    with taken(tmp_path / "fresh") as space:
        (space.path / "link").symlink_to(tmp_path / "outside")
        (space.path / "deep").mkdir()
        (space.path / "deep" / "link").symlink_to(tmp_path / "outside")
        space.clear()
    assert (tmp_path / "outside" / "precious").read_bytes() == b"1"


def test_what_is_deep_wide_or_closed_goes_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(removal, "AT_ONCE", 3)
    with taken(tmp_path / "fresh") as space:
        made = os.open(space.path, os.O_RDONLY)
        for _ in range(1500):  # deeper than Python recurses, and than a path may be long by name
            os.mkdir("d" * 5, dir_fd=made)
            inner = os.open("d" * 5, os.O_RDONLY, dir_fd=made)
            os.close(made)
            made = inner
        os.close(made)
        for number in range(10):
            (space.path / "wide" / f"{number}").mkdir(parents=True)
            (space.path / "wide" / f"{number}" / MARK_NAME).touch()
        (
            space.path / f"{removal.MOVED_PREFIX}-0"
        ).touch()  # a name that is moved up must not meet another one
        (space.path / "wide" / "3").chmod(0o500)
        (space.path / "wide").chmod(0o000)
        assert space.clear() == 1500 + 1 + 10 + 10 + 1
        assert (space.path / MARK_NAME).exists()
        assert space.left() == []
    assert not (tmp_path / "fresh").exists()


def test_what_cannot_be_removed_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.unlink

    def unlink(name: bytes, *, dir_fd: int) -> None:
        if name == b"immutable":
            raise PermissionError(errno.EPERM, "Operation not permitted", name)
        real(name, dir_fd=dir_fd)

    with taken(tmp_path / "fresh") as space:
        (space.path / "a" / "b").mkdir(parents=True)
        (space.path / "a" / "b" / "immutable").touch()
        with monkeypatch.context() as patched:
            patched.setattr(os, "unlink", unlink)
            with pytest.raises(AccessDenied, match="immutable cannot be removed") as caught:
                space.clear()
        named = Path(caught.value.why.split(" cannot")[0])
        assert named.exists(), "where it stands now"
        assert named.is_relative_to(space.path)
        assert "chattr" in caught.value.hint
        space.clear()
    assert not (tmp_path / "fresh").exists()


def test_what_a_check_removed_is_gone_and_what_it_moved_goes_where_it_is(tmp_path: Path) -> None:
    with taken(tmp_path / "removed") as space:
        shutil.rmtree(space.path)
        assert (space.clear(), space.left()) == (0, [])
    with taken(tmp_path / "moved") as space:
        (space.path / "a.raw").write_bytes(b"1")
        space.path.rename(tmp_path / "away")
        space.path.mkdir()
        (space.path / "another").touch()
        assert space.left() == [str(tmp_path / "away" / "a.raw")]
        assert space.clear() == 1
    assert [path.name for path in tmp_path.rglob("*")] == ["moved", "another"]


def test_what_is_not_cleared_stays(tmp_path: Path) -> None:
    with taken(tmp_path / "kept") as space:
        (space.path / "a.raw").write_bytes(b"1")
    assert [path.name for path in (tmp_path / "kept").iterdir()] == ["a.raw"]


def test_a_directory_that_holds_something_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine").write_bytes(b"1")
    with pytest.raises(TargetNotEmpty, match="it holds 'mine'"), taken(tmp_path):
        raise AssertionError
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_one_that_another_rehearsal_has_is_refused(tmp_path: Path) -> None:
    with taken(tmp_path / "one") as space:
        with pytest.raises(AlreadyRunning), taken(tmp_path / "one"):
            raise AssertionError
        (space.path / "a.raw").write_bytes(b"1")
        with pytest.raises(AlreadyRunning), taken(tmp_path / "one"):
            raise AssertionError
        space.clear()


def test_what_a_killed_one_left_is_told(tmp_path: Path) -> None:
    (tmp_path / MARK_NAME).touch()
    with taken(tmp_path):
        pass  # nothing but the mark of one that is dead
    (tmp_path / MARK_NAME).touch()
    (tmp_path / "a.raw").touch()
    with pytest.raises(TargetNotEmpty) as caught, taken(tmp_path):
        raise AssertionError
    assert "a rehearsal that was killed left it" in caught.value.hint


@pytest.mark.parametrize("name", ["missing/inner", "file"])
def test_what_can_be_no_directory_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(TargetUnsuitable), taken(tmp_path / name):
        raise AssertionError


def test_what_is_mounted_in_it_is_never_entered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(working, "mounts_below", lambda path: [path / "mnt"])
    with taken(tmp_path / "fresh") as space:
        (space.path / "mnt").mkdir()
        (space.path / "mnt" / "precious").write_bytes(b"1")
        with pytest.raises(DeviceError, match="mounted there"):
            space.clear()
    assert (tmp_path / "fresh" / "mnt" / "precious").exists()


def test_mounts_are_read_from_the_kernels_table(tmp_path: Path) -> None:
    table = tmp_path / "mountinfo"
    table.write_text(
        "22 1 0:20 / / rw - ext4 /dev/a rw\n23 22 0:21 / /srv/dr rw - ext4 /dev/b rw\n"
        "24 22 0:21 / /srv/dr/a\\040b rw - ext4 /dev/c rw\n25 22 0:21 / /srv/drx rw - ext4 /dev/d rw\n"
    )
    assert mounts_below(Path("/srv/dr"), table) == [Path("/srv/dr/a b")]
    assert mounts_below(tmp_path) == []
