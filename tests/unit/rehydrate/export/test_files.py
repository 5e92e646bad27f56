"""An image gets its name when it is whole; what somebody may still need is left alone."""

from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path

import pytest

from cdp_container.errors import AlreadyRunning, LocalDiskFull, TargetNotEmpty, TargetUnsuitable
from rehydrate.export.files import check_target, image_place


def test_nothing_half_written_has_the_name_or_stays(tmp_path: Path) -> None:
    path = tmp_path / "db.qcow2"

    def fails() -> None:
        with image_place(path, 0, False) as place:
            place.inner.write_bytes(b"half")
            assert place.inner == tmp_path / "db.qcow2.partial" / path.name
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fails()
    assert list(tmp_path.iterdir()) == []
    with image_place(path, 0, False) as place:
        place.inner.write_bytes(b"whole")
        place.finish()
    assert (path.read_bytes(), list(tmp_path.iterdir())) == (b"whole", [path])
    assert path.stat().st_mode & 0o777 == 0o600


def test_what_is_there_is_replaced_by_force_alone(tmp_path: Path) -> None:
    path = tmp_path / "db.vmdk"
    path.write_bytes(b"old")
    with pytest.raises(TargetNotEmpty, match="holds 3 bytes"), image_place(path, 0, False):
        raise AssertionError("it was opened")
    with image_place(path, 0, True) as place:
        place.inner.write_bytes(b"new")
        assert path.read_bytes() == b"old"
        place.finish()
        assert "holds 3 bytes" in place.overwrites
    assert path.read_bytes() == b"new"


def test_an_empty_file_that_was_filled_meanwhile_stays(tmp_path: Path) -> None:
    path = tmp_path / "db.vmdk"
    path.touch()
    with image_place(path, 0, False) as place:
        place.inner.write_bytes(b"ours")
        path.write_bytes(b"theirs")
        with pytest.raises(TargetNotEmpty, match="holds 6 bytes"):
            place.finish()
    assert path.read_bytes() == b"theirs"


def test_what_an_agent_serves_is_refused_even_by_force(tmp_path: Path) -> None:
    path = tmp_path / "db.raw"
    path.write_bytes(b"served")
    with path.open("rb") as served:
        fcntl.flock(served, fcntl.LOCK_EX)
        with pytest.raises(AlreadyRunning), image_place(path, 0, True):
            raise AssertionError("it was opened")
    assert path.read_bytes() == b"served"


def test_a_killed_export_is_cleared_away_and_a_living_one_refused(tmp_path: Path) -> None:
    path, partial = tmp_path / "db.vhd", tmp_path / "db.vhd.partial"
    partial.mkdir()
    (partial / "db.vhd").write_bytes(b"of one that was killed")
    (partial / "export.lock").touch()
    with image_place(path, 0, False) as place:
        assert not place.inner.exists()
        with pytest.raises(AlreadyRunning), image_place(path, 0, True):
            raise AssertionError("two at once")
        place.inner.write_bytes(b"x")
        place.finish()
    assert path.read_bytes() == b"x"


def test_what_is_no_place_for_an_image_is_refused_and_kept(tmp_path: Path) -> None:
    with pytest.raises(TargetUnsuitable, match="does not exist"):
        check_target(tmp_path / "no" / "db", True)
    with pytest.raises(TargetUnsuitable, match="no file"):
        check_target(tmp_path, True)
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(TargetUnsuitable, match="a link"):
        check_target(link, True)
    partial = tmp_path / "db.partial"
    partial.mkdir()
    (partial / "letters").write_text("dear")
    with pytest.raises(TargetUnsuitable, match="holds letters"), image_place(tmp_path / "db", 0, True):
        raise AssertionError("it was opened")
    assert (partial / "letters").read_text() == "dear"
    partial.rename(tmp_path / "x")
    partial.write_text("a file")
    with pytest.raises(TargetUnsuitable, match="something else"), image_place(tmp_path / "db", 0, True):
        raise AssertionError("it was opened")


def test_room_is_asked_for_and_who_came_meanwhile_is_not_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "db"
    with pytest.raises(LocalDiskFull), image_place(path, 1 << 60, False):
        raise AssertionError("it was opened")
    assert list(tmp_path.iterdir()) == []
    with image_place(path, 0, False) as place:
        place.inner.write_bytes(b"ours")
        path.write_bytes(b"theirs")
        with pytest.raises(TargetNotEmpty, match="meanwhile"):
            place.finish()
    assert path.read_bytes() == b"theirs"
    assert os.listdir(tmp_path) == ["db"]


@pytest.mark.parametrize("number", [errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK])
def test_a_file_system_without_links_gets_the_image_and_keeps_what_came_meanwhile(
    tmp_path: Path, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def link(source: Path, target: Path) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "link", link)
    path = tmp_path / "db"
    with image_place(path, 0, False) as place:
        place.inner.write_bytes(b"ours")
        path.symlink_to("nowhere")  # a rename would take its place, and `exists` not see it
        with pytest.raises(TargetNotEmpty, match="meanwhile"):
            place.finish()
    assert path.is_symlink()
    path.unlink()
    with image_place(path, 0, False) as place:
        place.inner.write_bytes(b"ours")
        place.finish()
    assert (path.read_bytes(), os.listdir(tmp_path)) == (b"ours", ["db"])
