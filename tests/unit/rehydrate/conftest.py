"""A container in a directory, and the command line as an administrator runs it."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import stat
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cdp_container.clock import Clock
from cdp_container.store.directory import DirectoryStore
from cdp_container.store.memory import MemoryStore
from rehydrate import device_target
from rehydrate.cli import main
from tests.containers import PASSPHRASE, Site

Run = Callable[..., tuple[int, str, str]]


class CountingStore(MemoryStore):
    """A store that notes which ranges were asked of it: key, start, length."""

    def __init__(self, clock: Clock) -> None:
        super().__init__(clock)
        self.asked: list[tuple[str, int, int]] = []

    def get_range(self, key: str, start: int, length: int) -> bytes:
        self.asked.append((key, start, length))
        return super().get_range(key, start, length)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    path = tmp_path / "store"
    path.mkdir()
    return path


@pytest.fixture
def out(tmp_path: Path) -> Path:
    path = tmp_path / "out"
    path.mkdir()
    return path


@pytest.fixture
def empty(place: Path) -> Site:
    """A site that has written nothing yet."""
    return Site(DirectoryStore(place))


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs a command with the passphrase in the environment; gives exit code, stdout and stderr."""
    monkeypatch.setenv("CDP_PASSPHRASE", PASSPHRASE)

    def command(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["rehydrate", *map(str, arguments)])
        code = main.main()
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return command


def answer(run: Run, *arguments: object) -> Any:  # noqa: ANN401 (whatever the command answers)
    code, stdout, stderr = run(*arguments, "--json")
    assert code == 0, stderr
    return json.loads(stdout)


def damage(place: Path, key: str, at: int = -100) -> None:
    """Flip one bit of a stored object."""
    data = bytearray((place / key).read_bytes())
    data[at] ^= 1
    (place / key).unlink()
    (place / key).write_bytes(data)


@pytest.fixture
def device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that looks like a block device of 4 MiB."""
    path = tmp_path / "device"
    path.write_bytes(bytes(4 << 20))
    real_ioctl = fcntl.ioctl

    def ioctl(fd: int, request: int, argument: bytes) -> bytes:
        if request == device_target._BLKGETSIZE64:
            return os.fstat(fd).st_size.to_bytes(8, "little")
        if request == device_target._BLKZEROOUT:
            raise OSError(errno.EOPNOTSUPP, "not a device")
        return bytes(real_ioctl(fd, request, argument))

    monkeypatch.setattr(stat, "S_ISBLK", stat.S_ISREG)
    monkeypatch.setattr(fcntl, "ioctl", ioctl)
    monkeypatch.setattr(device_target, "users_of", lambda path, status: [])
    return path
