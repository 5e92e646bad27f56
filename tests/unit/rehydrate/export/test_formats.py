"""What qemu-img is told of each format, how large a disk becomes, and what is refused."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from cdp_container.errors import ExportFailed, LocalDiskFull, TargetUnsuitable, UsageError
from rehydrate.cli.export_targets import cache_bytes_of, image_of, targets_of
from rehydrate.export.convert import command_of, convert, failure_of
from rehydrate.export.formats import FORMATS, SECTOR_BYTES, VHD_BYTES_MAX, image_bytes, shape_of

MIB = 1 << 20


def test_words_that_mean_no_image_are_refused() -> None:
    for words in (
        ("vdi", None),
        ("vmdk", "fixed"),
        ("raw", "sparse"),
        ("raw", ""),
        ("vhd", "streamOptimized"),
    ):
        with pytest.raises(UsageError):
            shape_of(*words)
    for align in ("1000B", "0MiB", "10m", "much", "1"):
        with pytest.raises(UsageError):
            image_of("vhd", "fixed", align)


def test_a_cache_that_is_no_size_or_too_small_is_refused() -> None:
    for text in ("", "10m", "1MiB", "lots"):
        with pytest.raises(UsageError, match="--cache-bytes"):
            cache_bytes_of(text)
    assert cache_bytes_of("1GiB") == 1 << 30


def test_a_vhd_holds_no_more_than_it_can() -> None:
    vhd, vhdx = shape_of("vhd", None), shape_of("vhdx", None)
    assert image_bytes(VHD_BYTES_MAX, SECTOR_BYTES, vhd) == VHD_BYTES_MAX
    with pytest.raises(UsageError, match="2040 GiB"):
        image_bytes(VHD_BYTES_MAX + 1, SECTOR_BYTES, vhd)
    assert image_bytes(VHD_BYTES_MAX + 1, SECTOR_BYTES, vhdx) == VHD_BYTES_MAX + SECTOR_BYTES


def test_sizes_are_whole_sectors_or_what_was_asked_for() -> None:
    shape = shape_of("vhd", "fixed")
    assert image_of("vhd", "fixed", "1MiB") == (shape, MIB)
    assert [image_bytes(size, MIB, shape) for size in (1, MIB, MIB + 512)] == [MIB, MIB, 2 * MIB]
    assert image_bytes(1000, SECTOR_BYTES, shape) == 1024


def test_every_format_has_a_first_subformat_and_a_command() -> None:
    commands = {
        name: command_of("nbd+unix:///volume?socket=/s", Path("/t/x"), shape_of(name, None))
        for name in FORMATS
    }
    assert [words[:4] for words in commands.values()] == [["qemu-img", "convert", "-f", "raw"]] * len(FORMATS)
    assert "subformat=dynamic,force_size=on" in commands["vhd"]
    stream = command_of("nbd:", Path("/t/x"), shape_of("vmdk", "streamOptimized"))
    assert ("-c" in stream, "-W" in stream) == (True, False)  # it is written in order


def test_how_qemu_img_ends_is_told_as_what_it_is() -> None:
    target = Path("/srv/db.qcow2")
    said = "qemu-img: error while writing at byte 2097152: No space left on device"
    full = failure_of(1, f"{said}\nqemu-img: more", target)
    assert (type(full), full.why) == (LocalDiskFull, said)
    assert type(failure_of(1, "qemu-img: x: File too large", target)) is TargetUnsuitable
    assert type(failure_of(-signal.SIGXFSZ, "", target)) is TargetUnsuitable
    assert "signal 9" in failure_of(-9, "", target).why
    assert "\x1b" not in failure_of(1, "a \x1b[31m name", target).why
    assert "said nothing" in failure_of(1, "", target).why


def test_without_qemu_img_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ExportFailed, match="not installed") as caught:
        convert("nbd:", tmp_path / "x", shape_of("qcow2", None), {}, lambda: None)
    assert "qemu-utils" in caught.value.hint


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"all_volumes": True, "vm": "web"},
        {"names": ("a", "b")},
        {"names": ("a",), "restart": True},
        {"names": ("a",), "abort": True},
        {"names": ("a",), "workspace": Path("/w")},
        {"names": ("a",), "to": "s3://bucket/x"},
        {"names": ("a",), "to": "s3://bucket/x?secret_key=1", "workspace": Path("/w")},
        {"names": ("a",), "to": "s3://b-c/x?data=s3://other/x", "workspace": Path("/w")},
        {"names": ("a",), "to": ""},
    ],
)
def test_options_that_do_not_go_together_are_refused(options: dict[str, object]) -> None:
    words: dict[str, object] = {
        "to": "/nowhere/image", "names": (), "all_volumes": False, "vm": None, "workspace": None,
        "force": False, "restart": False, "abort": False, "uploads": 4,
    }  # fmt: skip
    with pytest.raises(UsageError):
        targets_of(**{**words, **options})  # type: ignore[arg-type]
