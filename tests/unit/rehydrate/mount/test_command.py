"""`rehydrate mount` before and beside what it shows: what it refuses, what it lacks, and how it holds on."""

from __future__ import annotations

import errno
import os
import sys
from pathlib import Path

import pytest

from cdp_container.clock import SystemClock
from cdp_container.domain.hold_rules import HOLD_TERM_SECONDS
from cdp_container.domain.holding import Holding, Reader
from cdp_container.errors import (
    CdpError,
    DamagedObject,
    DeviceError,
    MissingObject,
    NoSuchPoint,
    TargetNotEmpty,
    TargetUnsuitable,
    UsageError,
)
from rehydrate.cli import mount_command
from rehydrate.cli.held import hold_on
from rehydrate.mount import driver
from rehydrate.mount.opened import Ways
from tests.containers import Site, write
from tests.rosters import give_roster, holds_in
from tests.unit.rehydrate.conftest import Run


def test_a_cache_is_a_size() -> None:
    assert mount_command.ways_of("3MiB", 5, True) == Ways(3 << 20, 5, True)
    for text in ("10m", "1023KiB", "much", "", "-1GiB"):
        with pytest.raises(UsageError, match="--cache-bytes"):
            mount_command.ways_of(text, 5, False)


def test_only_an_empty_directory_is_mounted_over(
    tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_bytes(b"")
    for path, wanted in (
        (tmp_path / "nothing", TargetUnsuitable),
        (tmp_path / "file", TargetUnsuitable),
        (tmp_path, TargetNotEmpty),
    ):
        code, _, err = run("mount", "/no/container", path)
        assert (code, f"mount {path}" in err) == (wanted.exit_code, True)

    def listdir(_: Path) -> list[str]:
        raise OSError(errno.ENOTCONN, os.strerror(errno.ENOTCONN))

    monkeypatch.setattr(os, "listdir", listdir)
    with pytest.raises(TargetUnsuitable) as raised:
        driver.check_directory(tmp_path)
    assert "fusermount3 -u" in raised.value.hint


def test_a_machine_without_fuse_is_told_what_it_lacks(
    tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(driver, "DEVICE", tmp_path / "no such device")
    code, _, err = run("mount", "/no/container", tmp_path)
    assert code == DeviceError.exit_code
    assert "no such device" in err
    assert "modprobe fuse" in err


def test_a_machine_without_libfuse_is_told_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(driver, "DEVICE", tmp_path)
    monkeypatch.setenv("FUSE_LIBRARY_PATH", str(tmp_path / "libfuse.so"))
    monkeypatch.delitem(sys.modules, "mfusepy", raising=False)
    with pytest.raises(DeviceError) as raised:
        driver.check_fuse()
    assert "libfuse.so" in raised.value.why
    assert "fuse3" in raised.value.hint


def test_the_choice_of_a_library_leaves_no_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("FUSE_LIBRARY_PATH", "FUSE_LIBRARY_NAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(driver, "find_library", lambda _: "libfuse3.so.3")
    with driver._library_chosen():
        assert os.environ["FUSE_LIBRARY_NAME"] == "fuse3"
    assert "FUSE_LIBRARY_NAME" not in os.environ
    monkeypatch.setenv("FUSE_LIBRARY_NAME", "mine")
    with driver._library_chosen():
        assert os.environ["FUSE_LIBRARY_NAME"] == "mine"


def test_what_is_not_whole_is_refused_before_anything_is_shown(
    empty: Site, place: Path, out: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def mount(*_: object) -> None:
        raise AssertionError("it must not come so far")

    monkeypatch.setattr(driver.Mount, "__enter__", mount)
    monkeypatch.setattr(mount_command, "check_fuse", lambda: None)
    disk = empty.add_volume("disk", 1 << 20)
    empty.begin_epoch()
    empty.cut([write(disk, 0, b"x")], not_whole=[disk])
    code, _, err = run("mount", place, out)
    assert (code, "whole at none" in err) == (NoSuchPoint.exit_code, True), err
    code, _, err = run("mount", place, out, "--at", "1.1")
    assert code == NoSuchPoint.exit_code, err


class Ahead(SystemClock):
    """A clock that can be set on."""

    ahead_ns = 0

    def boottime_ns(self) -> int:
        return super().boottime_ns() + self.ahead_ns


def test_a_hold_that_was_taken_away_is_placed_anew(empty: Site, capsys: pytest.CaptureFixture[str]) -> None:
    disk = empty.add_volume("disk", 1 << 20)
    empty.begin_epoch()
    cut = empty.cut([write(disk, 0, b"x")])
    give_roster(empty.store, empty.domain)
    said, clock, reader = list[str](), Ahead(), Reader("b", "somebody", "mount")
    with Holding(empty.store, reader, clock, os.urandom, said.append, starts_thread=False) as holding:
        holding.place()
        holding.narrow(cut, empty.owner.ledger)
        before = holding.hold_id
        hold_on(holding, cut, empty.owner.ledger)
        assert (holding.hold_id, said) == (before, [])
        give_roster(empty.store, empty.domain)
        clock.ahead_ns = HOLD_TERM_SECONDS * 10**9
        holding.look()
        hold_on(holding, cut, empty.owner.ledger)
        (hold_id,) = holds_in(empty.store, empty.domain)
        assert before != hold_id == holding.hold_id
        assert holds_in(empty.store, empty.domain)[hold_id].cut == cut
        holding.check()
    assert capsys.readouterr().err.count("held anew") == 1


@pytest.mark.parametrize("as_json", [False, True])
def test_what_cannot_be_read_is_one_line(as_json: bool, capsys: pytest.CaptureFixture[str]) -> None:
    told = mount_command._Unreadable(as_json)
    errors: list[CdpError] = [MissingObject("log/1/2", "it is\ngone"), DamagedObject("log/1/3", "its CRC")]
    for error in errors:
        told(error)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert "mount again" in lines[0]
    assert "log/1/3" in lines[1]
