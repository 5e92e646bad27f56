"""What an export is asked for and where it goes, from the options: checked, and named.

No bucket is asked here.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cdp_container.domain.budget import budget_of
from cdp_container.domain.image import Volume
from cdp_container.errors import UsageError
from cdp_container.store.address import DirectoryPlace, parse_address
from cdp_container.store.s3_settings import S3Settings
from rehydrate.export.formats import SECTOR_BYTES, Shape, check_align, shape_of
from rehydrate.file_names import file_names

CONFIGURATION_SUFFIX: Final = ".vm.json"

CACHE_BYTES_MIN: Final = 16 << 20
"""With less, what qemu-img asks for at once would not be kept until it is read."""


@dataclass(frozen=True, slots=True)
class Targets:
    """What is asked for, and where to: either `path`, or `bucket` with `workspace`."""

    names: tuple[str, ...]
    vm: str | None
    path: Path | None
    is_directory: bool
    bucket: S3Settings | None
    workspace: Path | None
    force: bool
    restart: bool
    abort: bool
    uploads: int


def targets_of(
    to: str,
    names: tuple[str, ...],
    all_volumes: bool,
    vm: str | None,
    workspace: Path | None,
    force: bool,
    restart: bool,
    abort: bool,
    uploads: int,
) -> Targets:
    """From the options. Raises UsageError."""
    if sum((bool(names), all_volumes, vm is not None)) != 1:
        raise UsageError("choose volumes", "give --volume NAME, --all or --vm NAME, one of them")
    bucket = _bucket_of(to)
    if bucket is not None:
        if workspace is None:
            why = "a bucket needs --workspace DIR, where it is noted how far it is"
            raise UsageError("read --to", why)
        return Targets(names, vm, None, False, bucket, workspace.absolute(), force, restart, abort, uploads)
    if workspace is not None or restart or abort:
        why = "--workspace, --restart and --abort are for buckets: images in files begin anew"
        raise UsageError("read --to", why)
    path = _path_of(to)
    is_directory = to.endswith("/") or path.is_dir()
    if not is_directory and (all_volumes or len(names) > 1):
        raise UsageError("read --to", f"{path} is no directory, and several images go there", "create it")
    return Targets(names, vm, path, is_directory, None, None, force, False, False, uploads)


def image_of(format_name: str, subformat: str | None, align: str | None) -> tuple[Shape, int]:
    """The kind of images, and what their sizes are multiples of. Raises UsageError."""
    return shape_of(format_name, subformat), _align_of(align)


def _align_of(align: str | None) -> int:
    return SECTOR_BYTES if align is None else check_align(_bytes_of(align, "--align"))


def cache_bytes_of(text: str) -> int:
    """How much is kept in memory. Raises UsageError."""
    size_bytes = _bytes_of(text, "--cache-bytes")
    if size_bytes < CACHE_BYTES_MIN:
        raise UsageError("read --cache-bytes", f"{text!r} is less than {CACHE_BYTES_MIN >> 20} MiB")
    return size_bytes


def _bytes_of(text: str, option: str) -> int:
    size_bytes = math.inf
    with suppress(ValueError):
        size_bytes = budget_of(text).size_bytes
    if math.isinf(size_bytes):
        raise UsageError(f"read {option}", f"{text!r} is no size (write a number and a unit, like 1MiB)")
    return int(size_bytes)


def _bucket_of(to: str) -> S3Settings | None:
    """The bucket that `--to` names, if it names one. Raises UsageError."""
    if not to.lower().startswith("s3:"):
        return None
    place = parse_address(to)
    assert not isinstance(place, DirectoryPlace), "it begins with s3:"
    if place.data is not None or place.versions != "newest":
        raise UsageError("read --to", "it is the address of a container", "write s3://bucket/prefix?…")
    return place


def _path_of(to: str) -> Path:
    if to.startswith(("dir:", "file:")):
        place = parse_address(to)
        assert isinstance(place, DirectoryPlace), "it begins so"
        return place.path
    if not to:
        raise UsageError("read --to", "it is empty")
    return Path(os.path.abspath(to))


def image_names(volumes: Sequence[Volume], shape: Shape) -> list[str]:
    """What the image of each volume is called."""
    return file_names([(one.name, one.space) for one in volumes], shape.suffix)


def paths_of(targets: Targets, volumes: Sequence[Volume], shape: Shape) -> list[Path]:
    """Where the image of each volume goes. Raises UsageError where one file is to hold several."""
    assert targets.path is not None, "no bucket"
    if targets.is_directory:
        return [targets.path / name for name in image_names(volumes, shape)]
    if len(volumes) != 1:
        raise UsageError("read --to", f"{targets.path} is no directory, and several images go there")
    return [targets.path]


def configuration_path(targets: Targets, name: str, vm: bytes) -> Path:
    """Where the configuration of a VM goes."""
    assert targets.path is not None, "no bucket"
    (file,) = file_names([(name, vm)], CONFIGURATION_SUFFIX)
    return (targets.path if targets.is_directory else targets.path.parent) / file
