"""Targets and the agent: whoever has the lock of a disk keeps the other away from it."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from cdp_agent.splitter.backing import open_backing
from cdp_agent.splitter.settings import VolumeSettings
from cdp_container.errors import (
    AlreadyRunning,
    TargetNotEmpty,
)
from nbd_export.files import OsFiles
from rehydrate import localio
from rehydrate.target import open_target
from tests.unit.rehydrate.targets import SIZE, interrupted, view


@contextlib.contextmanager
def served(path: Path) -> Iterator[None]:
    """As by an agent, with its own code."""
    files = OsFiles()
    backing = open_backing(files, VolumeSettings("disk", path, path.stat().st_size, 0, bytes(16)))
    try:
        yield
    finally:
        files.close(backing.fd)


@pytest.mark.parametrize("force", [True, False])
def test_a_file_that_an_agent_serves_is_refused_by_its_lock(force: bool, tmp_path: Path) -> None:
    path = tmp_path / "disk.raw"
    path.write_bytes(b"guest" * 512)
    with served(path), pytest.raises(AlreadyRunning, match="locked") as caught:
        interrupted(path, force)
    assert "--force does not help" in caught.value.hint
    assert path.read_bytes() == b"guest" * 512
    assert list(tmp_path.iterdir()) == [path]


def test_no_agent_begins_to_serve_a_file_that_is_being_replaced(tmp_path: Path) -> None:
    path = tmp_path / "disk.raw"
    path.write_bytes(b"guest" * 512)
    with open_target(path, SIZE, 0, force=True) as target:
        with pytest.raises(AlreadyRunning), served(path):
            pass
        target.finish()
        with served(path):
            assert path.stat().st_size == SIZE
    interrupted(path, force=True)
    with served(path):
        pass


@pytest.mark.parametrize("force", [True, False])
def test_a_device_that_an_agent_serves_is_refused_by_its_lock(
    force: bool, device: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(localio, "LOCK_RETRY_SECONDS", 0)
    device.write_bytes(b"guest" * 512 + bytes(4 << 20))
    before = device.read_bytes()
    with served(device), pytest.raises(AlreadyRunning, match="locked"):
        interrupted(device, force)
    assert device.read_bytes() == before


def test_no_agent_begins_to_serve_a_half_restored_device(device: Path) -> None:
    with open_target(device, SIZE, 0, force=True) as target:
        target.begin()
        with pytest.raises(AlreadyRunning), served(device):
            pass
        target.finish()
        with served(device):
            pass


def test_a_lock_of_a_moment_is_waited_for(device: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(localio, "LOCK_RETRY_SECONDS", 0)
    real, looks = fcntl.flock, iter([True])

    def flock(fd: int, operation: int) -> None:
        if next(looks, False):  # as udev holds it when the device was just closed
            raise BlockingIOError
        real(fd, operation)

    monkeypatch.setattr(fcntl, "flock", flock)
    with open_target(device, SIZE, 0, force=True) as target:
        target.finish()


def test_the_second_name_of_a_killed_restore_is_no_other_restore(tmp_path: Path) -> None:
    path = tmp_path / "disk.raw"
    path.write_bytes(b"whole" * 512)
    os.link(path, tmp_path / "disk.raw.partial")  # killed between link and unlink
    with pytest.raises(TargetNotEmpty, match="holds 2560 bytes"):
        interrupted(path, force=False)
    assert path.read_bytes() == b"whole" * 512
    os.link(path, tmp_path / "disk.raw.partial")
    with open_target(path, SIZE, 0, force=True) as target:
        target.write(0, view(b"other"))
        target.finish()
    assert path.read_bytes()[:5] == b"other"
    assert list(tmp_path.iterdir()) == [path]


def test_what_another_restore_has_just_finished_is_not_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "disk.raw"
    path.touch()
    real = localio.lock_alone

    def late(fd: int, locked: Path, what: str) -> None:
        (tmp_path / "other").write_bytes(b"whole" * 512)
        (tmp_path / "other").replace(path)
        real(fd, locked, what)

    monkeypatch.setattr("rehydrate.file_target.lock_alone", late)
    with pytest.raises(TargetNotEmpty, match="replaced"):
        interrupted(path, force=False)
    assert path.read_bytes() == b"whole" * 512
    assert list(tmp_path.iterdir()) == [path]


def test_no_agent_serves_what_a_restore_has_just_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its guests would write into a file that has no name any more."""
    path, restored = tmp_path / "disk.raw", tmp_path / "restored"
    path.write_bytes(b"guest" * 512)
    restored.write_bytes(b"whole" * 512)
    real = fcntl.flock

    def late(fd: int, operation: int) -> None:
        restored.replace(path)
        real(fd, operation)

    monkeypatch.setattr(fcntl, "flock", late)
    with pytest.raises(AlreadyRunning, match="replaced"), served(path):
        pass
