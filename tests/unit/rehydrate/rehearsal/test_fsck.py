"""File systems in throw-away copies: what is sound, what is not, and what nobody could check, and why."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cdp_container.clock import SystemClock
from cdp_container.errors import LocalDiskFull
from rehydrate.rehearsal import fsck as checking
from rehydrate.rehearsal.filesystems import (
    BTRFS,
    EMPTY,
    EXT,
    LOOK_BYTES,
    UNKNOWN,
    VFAT,
    XFS,
    kind_of,
    verdict_of,
)
from rehydrate.rehearsal.fsck import Fsck, copy_range, which_program
from rehydrate.rehearsal.parts import FAILED, NOT_CHECKED, PASSED, Restored, Verdict
from rehydrate.rehearsal.programs import Ended, Redaction, run_program
from tests.unit.rehydrate.rehearsal.test_partitions import gpt, mbr

MIB = 1 << 20
ext4 = pytest.mark.needs("mkfs.ext4", "e2fsck")
e2image = pytest.mark.needs("e2image")


@pytest.fixture
def fsck(tmp_path: Path) -> Fsck:
    (tmp_path / "work").mkdir()
    return Fsck(tmp_path / "work", 60.0, Redaction([]), SystemClock(), which_program)


@pytest.fixture
def made(tmp_path: Path) -> Callable[[int], bytes]:
    def make(size_bytes: int) -> bytes:
        path = tmp_path / "fresh.raw"
        with path.open("wb") as file:
            file.truncate(size_bytes)
        program = which_program("mkfs.ext4")
        assert program is not None
        subprocess.run([program, "-q", "-F", path], check=True, env={"PATH": os.defpath})
        return path.read_bytes()

    return make


def check(fsck: Fsck, tmp_path: Path, disk: bytes) -> list[Verdict]:
    path = tmp_path / "disk.raw"
    path.write_bytes(disk)
    verdicts = list(fsck.check(Restored("volume", "disk", len(disk), path)))
    assert path.read_bytes() == disk, "the image itself is never changed"
    assert list(fsck.directory.iterdir()) == [], "no copy is left"
    return verdicts


def with_magic(at: int, magic: bytes) -> bytes:
    return bytes(at) + magic + bytes(LOOK_BYTES - at - len(magic))


def test_superblocks_are_known() -> None:
    assert kind_of(with_magic(0x438, b"\x53\xef")) is EXT
    assert kind_of(with_magic(0, b"XFSB")) is XFS
    assert kind_of(with_magic(0x10040, b"_BHRfS_M")) is BTRFS
    assert kind_of(with_magic(82, b"FAT32   ")) is VFAT
    for at, magic, name in (
        (0, b"LUKS\xba\xbe", "LUKS"),
        (4086, b"SWAPSPACE2", "swap"),
        (536, b"LVM2 001", "LVM"),
    ):
        kind = kind_of(with_magic(at, magic))
        assert (kind.name, kind.program) == (name, None)
        assert kind.why_not
    assert kind_of(bytes(LOOK_BYTES)) is EMPTY
    assert kind_of(b"") is EMPTY
    assert kind_of(b"x") is UNKNOWN


@pytest.mark.parametrize(
    ("kind", "code", "state"),
    [
        (EXT, 0, PASSED), (EXT, 1, PASSED), (EXT, 4, FAILED), (EXT, 8, FAILED), (EXT, -9, FAILED),
        (XFS, 0, PASSED), (XFS, 2, NOT_CHECKED), (XFS, 4, FAILED), (VFAT, 1, FAILED), (BTRFS, 0, PASSED),
    ],
)  # fmt: skip
def test_what_exit_codes_mean(kind: object, code: int, state: str) -> None:
    assert verdict_of(kind, code)[0] == state  # type: ignore[arg-type]


def test_on_demand_what_needs_all_content_is_not_checked(fsck: Fsck, tmp_path: Path) -> None:
    shown = replace(fsck, on_demand=True, which=lambda name: "/bin/true")
    (verdict,) = check(shown, tmp_path, with_magic(82, b"FAT32   "))
    assert verdict.state == NOT_CHECKED
    assert "all content" in verdict.why


def test_on_demand_a_program_that_copies_is_needed(fsck: Fsck, tmp_path: Path) -> None:
    shown = replace(fsck, on_demand=True, which=lambda name: None if name == "e2image" else "/bin/true")
    (verdict,) = check(shown, tmp_path, with_magic(0x438, b"\x53\xef"))
    assert (verdict.state, verdict.why) == (NOT_CHECKED, "ext2/3/4: e2image is not installed")


@e2image
def test_on_demand_what_cannot_even_be_copied_is_a_failure(fsck: Fsck, tmp_path: Path) -> None:
    (verdict,) = check(replace(fsck, on_demand=True), tmp_path, with_magic(0x438, b"\x53\xef"))
    assert verdict.state == FAILED
    assert "e2image" in verdict.why
    assert verdict.excerpt


@ext4
@e2image
def test_on_demand_only_metadata_is_copied(
    fsck: Fsck, tmp_path: Path, made: Callable[[int], bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    copied: list[int] = []
    real = run_program

    def run(words: list[str], *others: Any) -> Ended:  # noqa: ANN401 (passed on)
        ended = real(words, *others)
        if "e2image" in words[0]:
            copied.append((fsck.directory / checking.COPY_NAME).stat().st_blocks * 512)
        return ended

    monkeypatch.setattr(checking, "run_program", run)
    disk = with_files(tmp_path, 8 * MIB, 6 * MIB)
    (verdict,) = check(replace(fsck, on_demand=True), tmp_path, disk)
    assert verdict.state == PASSED
    assert "without the content of files" in verdict.why
    assert copied[0] < 4 * MIB


@ext4
@e2image
def test_on_demand_a_journal_is_replayed(fsck: Fsck, tmp_path: Path) -> None:
    disk = with_dirty_journal(tmp_path)
    for shown in (replace(fsck, on_demand=True), fsck):
        (verdict,) = check(shown, tmp_path, disk)
        assert verdict.state == PASSED
        assert "recovering journal" in verdict.excerpt


def with_files(tmp_path: Path, size_bytes: int, content_bytes: int) -> bytes:
    """A file system that holds so much."""
    (tmp_path / "source").mkdir()
    (tmp_path / "source/large").write_bytes(os.urandom(content_bytes))
    path = tmp_path / "full.raw"
    blocks = f"{size_bytes >> 10}k"
    sbin("mkfs.ext4", "-q", "-F", "-O", "^has_journal", "-d", tmp_path / "source", path, blocks)
    return path.read_bytes()


def with_dirty_journal(tmp_path: Path) -> bytes:
    """One whose root directory is garbage where it stands, and right in its journal."""
    path, block, script = tmp_path / "dirty.raw", tmp_path / "block", tmp_path / "script"
    sbin("mkfs.ext4", "-q", "-F", "-b", "1024", path, "8M")
    at = int(sbin("debugfs", "-R", "blocks /", path)) * 1024
    disk = path.read_bytes()
    block.write_bytes(disk[at : at + 1024])
    script.write_text(f"jo\njw -b {at // 1024} {block}\njc\n")
    sbin("debugfs", "-w", "-f", script, path)
    disk = path.read_bytes()
    return disk[:at] + b"\xa5" * 1024 + disk[at + 1024 :]


def sbin(program: str, *words: str | Path) -> str:
    found = which_program(program)
    assert found is not None
    environment = {"PATH": os.defpath}
    done = subprocess.run([found, *words], check=True, env=environment, capture_output=True, text=True)
    return done.stdout


@ext4
@e2image
@pytest.mark.parametrize("on_demand", [False, True])
def test_a_sound_file_system(
    fsck: Fsck, tmp_path: Path, made: Callable[[int], bytes], on_demand: bool
) -> None:
    fsck = replace(fsck, on_demand=on_demand)
    (verdict,) = check(fsck, tmp_path, made(2 * MIB))
    assert (verdict.kind, verdict.subject, verdict.state) == ("fsck", "disk", PASSED)
    assert verdict.why.startswith("ext2/3/4: sound")


@ext4
@e2image
@pytest.mark.parametrize("on_demand", [False, True])
def test_a_damaged_one(fsck: Fsck, tmp_path: Path, made: Callable[[int], bytes], on_demand: bool) -> None:
    fsck = replace(fsck, on_demand=on_demand)
    disk = bytearray(made(2 * MIB))
    table = 1024 + 1024  # the group descriptors and what follows them, inode tables included
    disk[table : table + 200 * 1024] = b"\xa5" * (200 * 1024)
    (verdict,) = check(fsck, tmp_path, bytes(disk))
    assert verdict.state == FAILED
    assert verdict.excerpt


@ext4
@e2image
@pytest.mark.parametrize("on_demand", [False, True])
@pytest.mark.parametrize(
    "with_table", [mbr((0, 0x83, 2048, 4096), (0, 0x82, 6144, 8)), gpt([(2048, 6143), (6144, 6151)])]
)
def test_each_partition_by_itself(
    fsck: Fsck, tmp_path: Path, made: Callable[[int], bytes], with_table: bytes, on_demand: bool
) -> None:
    fsck = replace(fsck, on_demand=on_demand)
    disk = with_table.ljust(MIB, b"\0") + made(2 * MIB) + bytes(MIB)
    first, second = check(fsck, tmp_path, disk)
    assert (first.subject, first.state) == ("disk, partition 1", PASSED)
    assert (second.subject, second.state) == ("disk, partition 2", NOT_CHECKED)
    assert "empty" in second.why


def test_what_nothing_checks_says_why(fsck: Fsck, tmp_path: Path) -> None:
    (verdict,) = check(fsck, tmp_path, bytes(MIB))
    assert (verdict.state, verdict.why) == (NOT_CHECKED, "empty: there are only zeros at its beginning")
    (verdict,) = check(fsck, tmp_path, mbr((0, 0x0F, 100, 50)).ljust(MIB, b"\0"))
    assert (verdict.state, verdict.subject) == (NOT_CHECKED, "disk, partition 1")


def test_a_program_that_is_not_there(fsck: Fsck, tmp_path: Path) -> None:
    absent = replace(fsck, which=lambda name: None)
    (verdict,) = check(absent, tmp_path, with_magic(82, b"FAT32   "))
    assert (verdict.state, verdict.why) == (NOT_CHECKED, "vfat: fsck.vfat is not installed")
    broken = replace(fsck, which=lambda name: "/does/not/exist")
    (verdict,) = check(broken, tmp_path, with_magic(82, b"FAT32   "))
    assert verdict.state == NOT_CHECKED


def test_one_that_hangs(fsck: Fsck, tmp_path: Path) -> None:
    program = tmp_path / "fsck.vfat"
    program.write_text("#!/bin/sh\nexec sleep 600\n")
    program.chmod(0o755)
    slow = replace(fsck, limit_seconds=0.2, which=lambda name: str(program))
    (verdict,) = check(slow, tmp_path, with_magic(82, b"FAT32   "))
    assert (verdict.state, verdict.why) == (FAILED, f"vfat: {program} did not end within 0.2 s")


def test_no_room_for_a_copy(fsck: Fsck, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise LocalDiskFull("copy", "No space left on device")

    monkeypatch.setattr(checking, "copy_range", full)
    there = replace(fsck, which=lambda name: "/bin/true")
    (verdict,) = check(there, tmp_path, with_magic(82, b"FAT32   "))
    assert (verdict.state, verdict.why) == (NOT_CHECKED, "vfat: no room for a copy: No space left on device")


def test_a_copy_is_exact_and_sparse(tmp_path: Path) -> None:
    source = tmp_path / "a"
    with source.open("wb") as file:
        file.truncate(8 * MIB)
        for at in (5000, 3 * MIB, 8 * MIB - 10):
            file.seek(at)
            file.write(os.urandom(10))
    with source.open("rb") as file:
        copy_range(file.fileno(), 4096, 8 * MIB - 4096, tmp_path / "b")
    assert (tmp_path / "b").read_bytes() == source.read_bytes()[4096:]
    assert (tmp_path / "b").stat().st_blocks <= source.stat().st_blocks


def test_a_copy_without_the_kernels_help(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> int:
        raise OSError(22, "Invalid argument")

    monkeypatch.setattr(os, "copy_file_range", refuse)
    (tmp_path / "a").write_bytes(os.urandom(300_000))
    with (tmp_path / "a").open("rb") as file:
        copy_range(file.fileno(), 512, 200_000, tmp_path / "b")
    assert (tmp_path / "b").read_bytes() == (tmp_path / "a").read_bytes()[512:200_512]


def test_a_copy_that_meets_a_full_disk_is_not_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "copy_file_range", full)
    (tmp_path / "a").write_bytes(b"1")
    with (tmp_path / "a").open("rb") as file, pytest.raises(LocalDiskFull):
        copy_range(file.fileno(), 0, 1, tmp_path / "b")
    assert not (tmp_path / "b").exists()
