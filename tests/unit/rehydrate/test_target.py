"""Targets: what somebody may still need is refused, and a half-done restore never looks done."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
from pathlib import Path

import pytest

from cdp_container.errors import (
    AccessDenied,
    AlreadyRunning,
    DeviceError,
    LocalDiskFull,
    TargetNotEmpty,
    TargetUnsuitable,
)
from rehydrate.device_target import HELD_BACK_BYTES, DeviceTarget
from rehydrate.target import check_room_for, open_target
from tests.unit.rehydrate.targets import SIZE, interrupted, view


def test_a_new_file_has_its_name_only_when_it_is_done(tmp_path: Path) -> None:
    path = tmp_path / "disk.raw"
    with open_target(path, SIZE, 10, force=False) as target:
        target.write(50, view(b"0123456789"))
        target.zero(0, 50)
        assert not path.exists()
        target.finish()
        assert path.stat().st_size == SIZE
    assert path.read_bytes() == bytes(50) + b"0123456789" + bytes(SIZE - 60)
    assert path.stat().st_blocks * 512 < SIZE
    assert list(tmp_path.iterdir()) == [path]


def test_what_is_not_finished_leaves_nothing(tmp_path: Path) -> None:
    interrupted(tmp_path / "disk.raw", force=False)
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_holds_something_is_refused_and_named(tmp_path: Path) -> None:
    path = tmp_path / "disk.raw"
    path.write_bytes(b"precious")
    with pytest.raises(TargetNotEmpty, match="holds 8 bytes"), open_target(path, SIZE, 0, force=False):
        pass
    assert path.read_bytes() == b"precious"


def test_force_names_what_it_overwrites_and_keeps_it_until_the_end(tmp_path: Path) -> None:
    path = tmp_path / "disk.raw"
    path.write_bytes(b"precious")
    with open_target(path, SIZE, 0, force=True) as target:
        assert str(path) in target.overwrites
        target.write(0, view(b"new"))
        assert path.read_bytes() == b"precious"
    assert path.read_bytes() == b"precious"
    with open_target(path, SIZE, 0, force=True) as target:
        target.finish()
    assert path.read_bytes() == bytes(SIZE)


def test_an_empty_file_may_be_replaced(tmp_path: Path) -> None:
    path = tmp_path / "disk.raw"
    path.touch()
    with open_target(path, SIZE, 0, force=False) as target:
        assert target.overwrites == ""
        target.finish()
    assert path.stat().st_size == SIZE


@pytest.mark.parametrize("without_links", [None, errno.EPERM, errno.ENOSYS])
def test_a_file_that_appears_meanwhile_is_not_overwritten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, without_links: int | None
) -> None:
    def link(source: Path, target: Path) -> None:
        assert without_links is not None
        raise OSError(without_links, os.strerror(without_links))

    if without_links is not None:
        monkeypatch.setattr(os, "link", link)
    path = tmp_path / "disk.raw"
    with open_target(path, SIZE, 0, force=False) as target:
        path.write_bytes(b"somebody else's")
        with pytest.raises(TargetNotEmpty, match="meanwhile"):
            target.finish()
    assert path.read_bytes() == b"somebody else's"
    assert list(tmp_path.iterdir()) == [path]
    path.unlink()
    with open_target(path, SIZE, 0, force=False) as target:
        target.finish()
    assert list(tmp_path.iterdir()) == [path]


def test_a_partial_file_of_a_killed_restore_is_named(tmp_path: Path) -> None:
    partial = tmp_path / "disk.raw.partial"
    partial.write_bytes(b"half")
    with (
        pytest.raises(TargetNotEmpty, match=r"disk\.raw\.partial"),
        open_target(tmp_path / "disk.raw", SIZE, 0, force=False),
    ):
        pass
    with open_target(tmp_path / "disk.raw", SIZE, 0, force=True) as target:
        target.finish()
    assert not partial.exists()


def test_a_partial_file_of_a_living_restore_is_refused_even_by_force(tmp_path: Path) -> None:
    path = tmp_path / "disk.raw"
    with open_target(path, SIZE, 0, force=False) as first:
        first.write(0, view(b"first"))
        with pytest.raises(AlreadyRunning, match="partial is locked"), open_target(path, SIZE, 0, force=True):
            pass
        first.finish()
    assert path.read_bytes()[:5] == b"first"


def test_a_partial_file_that_was_replaced_gets_no_name(tmp_path: Path) -> None:
    path = tmp_path / "disk.raw"
    with open_target(path, SIZE, 0, force=False) as target:
        (tmp_path / "disk.raw.partial").unlink()
        (tmp_path / "disk.raw.partial").write_bytes(b"half of something else")
        with pytest.raises(TargetUnsuitable, match="replaced"):
            target.finish()
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"half of something else"]


def test_a_file_that_another_process_has_open_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "disk.raw"
    path.touch()
    with (
        path.open("rb") as file,
        subprocess.Popen(["cat", "-"], stdin=subprocess.PIPE, pass_fds=[file.fileno()]) as holder,
    ):
        try:
            with (
                pytest.raises(TargetNotEmpty, match=f"process {holder.pid}"),
                open_target(path, SIZE, 0, force=False),
            ):
                pass
        finally:
            holder.kill()


def test_a_directory_a_pipe_and_a_missing_directory_are_unsuitable(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "pipe", tmp_path / "nowhere" / "disk.raw", Path("/dev/null")):
        with pytest.raises(TargetUnsuitable), open_target(path, SIZE, 0, force=True):
            pass
    assert {path.name for path in tmp_path.iterdir()} == {"pipe"}


def test_too_little_room_is_refused_before_the_first_byte(tmp_path: Path) -> None:
    with (
        pytest.raises(LocalDiskFull, match="are free"),
        open_target(tmp_path / "a", SIZE, 1 << 60, force=True),
    ):
        pass
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("number", "expected"),
    [
        (errno.ENOSPC, LocalDiskFull),
        (errno.EDQUOT, LocalDiskFull),
        (errno.EIO, DeviceError),
        (errno.EFBIG, TargetUnsuitable),
        (errno.EROFS, AccessDenied),
    ],
)
def test_a_write_that_fails_has_its_own_error_and_leaves_nothing(
    number: int, expected: type[Exception], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(fd: int, data: memoryview, offset: int) -> int:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "pwrite", fail)
    with pytest.raises(expected), open_target(tmp_path / "disk.raw", SIZE, 0, force=False) as target:
        target.write(0, view(b"data"))
    assert list(tmp_path.iterdir()) == []


def test_a_failed_fsync_is_never_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(fd: int) -> None:
        raise OSError(errno.EIO, "lost")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(DeviceError), open_target(tmp_path / "disk.raw", SIZE, 0, force=False) as target:
        target.finish()
    assert list(tmp_path.iterdir()) == []


# --- links ------------------------------------------------------------------------------------


def test_a_link_to_nothing_is_never_followed(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    for force in (False, True):
        with (
            pytest.raises(TargetUnsuitable, match="elsewhere"),
            open_target(tmp_path / "link", SIZE, 0, force),
        ):
            pass
    assert [path.name for path in tmp_path.iterdir()] == ["link"]


def test_a_link_to_a_file_is_followed_by_force_alone(tmp_path: Path) -> None:
    real = tmp_path / "real.raw"
    real.touch()
    (tmp_path / "link").symlink_to(real)
    with (
        pytest.raises(TargetUnsuitable, match=r"real\.raw"),
        open_target(tmp_path / "link", SIZE, 0, force=False),
    ):
        pass
    with open_target(tmp_path / "link", SIZE, 0, force=True) as target:
        assert target.path == real
        target.finish()
    assert real.stat().st_size == SIZE
    assert (tmp_path / "link").is_symlink()


def test_links_in_a_circle_are_unsuitable(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "link")
    with pytest.raises(TargetUnsuitable), open_target(tmp_path / "link", SIZE, 0, force=True):
        pass


@pytest.mark.parametrize("leads_to", ["there", "nowhere"])
def test_a_link_in_place_of_the_partial_file_is_named(leads_to: str, tmp_path: Path) -> None:
    (tmp_path / "there").touch()
    (tmp_path / "disk.raw.partial").symlink_to(tmp_path / leads_to)
    with (
        pytest.raises(TargetUnsuitable, match=r"disk\.raw\.partial.* is a link"),
        open_target(tmp_path / "disk.raw", SIZE, 0, force=True),
    ):
        pass


# --- what a replaced file keeps -----------------------------------------------------------------


def test_a_replaced_file_keeps_its_mode(tmp_path: Path) -> None:
    path = tmp_path / "disk.raw"
    path.write_bytes(b"old")
    path.chmod(0o640)
    with open_target(path, SIZE, 0, force=True) as target:
        assert target.note == ""
        target.finish()
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


def test_a_file_whose_owner_cannot_be_kept_stays_ours_alone_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(fd: int, uid: int, gid: int) -> None:
        raise PermissionError(errno.EPERM, "not ours to give")

    monkeypatch.setattr(os, "fchown", fail)
    path = tmp_path / "disk.raw"
    path.write_bytes(b"old")
    path.chmod(0o666)
    with open_target(path, SIZE, 0, force=True) as target:
        assert "owner" in target.note
        target.finish()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


# --- several at once ----------------------------------------------------------------------------


def test_there_must_be_room_for_the_sum(tmp_path: Path) -> None:
    (tmp_path / "below").mkdir()
    room = os.statvfs(tmp_path)
    most = room.f_bavail * room.f_frsize * 3 // 4
    check_room_for([(tmp_path / "a", most)])
    with pytest.raises(LocalDiskFull):
        check_room_for([(tmp_path / "a", most), (tmp_path / "below" / "b", most)])


# --- devices: a file stands in for one ------------------------------------------------------


def test_the_beginning_of_a_device_is_written_last(device: Path) -> None:
    data = os.urandom(3 << 20)
    with open_target(device, 3 << 20, 0, force=False) as target:
        assert not target.known_empty
        target.begin()
        target.write(0, view(data))
        assert device.read_bytes()[:HELD_BACK_BYTES] == bytes(HELD_BACK_BYTES)
        target.finish()
    assert device.read_bytes() == data + bytes(1 << 20)


def test_an_abandoned_device_shows_no_beginning(device: Path) -> None:
    device.write_bytes(b"old" * 1000 + bytes(4 << 20))
    assert "holds data" in interrupted(device, force=True)
    assert device.read_bytes()[:HELD_BACK_BYTES] == bytes(HELD_BACK_BYTES)


def test_a_device_is_not_touched_before_its_restore_begins(device: Path) -> None:
    old = b"old" * 1000 + bytes(4 << 20)
    device.write_bytes(old)
    with open_target(device, SIZE, 0, force=True):
        assert device.read_bytes() == old
    assert device.read_bytes() == old


def test_gaps_of_a_device_are_zeroed(device: Path) -> None:
    device.write_bytes(b"x" * (4 << 20))
    with open_target(device, 4 << 20, 0, force=True) as target:
        target.begin()
        target.zero(0, 3 << 20)
        target.write(3 << 20, view(b"y" * (1 << 20)))
        target.finish()
    assert device.read_bytes() == bytes(3 << 20) + b"y" * (1 << 20)


def test_a_device_that_holds_data_is_refused(device: Path) -> None:
    device.write_bytes(bytes((4 << 20) - 10) + b"end of GPT")
    with pytest.raises(TargetNotEmpty, match="holds data"), open_target(device, SIZE, 0, force=False):
        pass
    assert device.read_bytes()[-10:] == b"end of GPT"


def test_a_device_that_is_too_small_is_refused_even_by_force(device: Path) -> None:
    with (
        pytest.raises(TargetUnsuitable, match="has 4194304 bytes"),
        open_target(device, 5 << 20, 0, force=True),
    ):
        pass


def test_a_mounted_device_is_named(device: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real_open = os.open

    def busy(path: Path, flags: int, *rest: int) -> int:
        if flags & os.O_EXCL:
            raise OSError(errno.EBUSY, "busy")
        return real_open(path, flags, *rest)

    monkeypatch.setattr(os, "open", busy)
    with pytest.raises(TargetNotEmpty, match="mounted"), open_target(device, SIZE, 0, force=False):
        pass
    with open_target(device, SIZE, 0, force=True) as target:
        assert isinstance(target, DeviceTarget)
        assert "mounted" in target.overwrites
