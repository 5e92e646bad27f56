"""One image, from a volume's bytes to a file with its name: served, converted, synced, renamed."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

from cdp_container.errors import ExportFailed
from rehydrate.export.content import Bytes
from rehydrate.export.convert import convert
from rehydrate.export.files import image_place
from rehydrate.export.formats import Shape
from rehydrate.export.volume import exported
from rehydrate.localio import os_errors


def make_image(
    path: Path,
    source: Bytes,
    shape: Shape,
    data_bytes: int,
    force: bool,
    environment: Mapping[str, str],
    watch: Callable[[], None],
) -> str:
    """Make an image of a volume; gives what it overwrote, in words.

    Args:
        path: where it is to be; absolute.
        source: the bytes of the disk in it.
        shape: the kind of image.
        data_bytes: of the volume, that are not known to be zeros.
        force: replace what is there.
        environment: of this process, for the program that converts.
        watch: called all the time; what it raises ends this.

    Raises as `image_place`, `Bytes.read` and `convert`.
    """
    with image_place(path, 0 if shape.is_compressed else data_bytes, force) as place:
        with os_errors("make a directory for a socket"):
            scratch = tempfile.TemporaryDirectory(prefix="cdp-", ignore_cleanup_errors=True)
        with scratch as directory, exported(source, Path(directory)) as address:
            try:
                convert(address, place.inner, shape, environment, watch)
            except ExportFailed as error:
                if source.failure is not None:
                    raise source.failure from error
                raise
        if source.failure is not None:  # whatever the program made of it
            raise source.failure
        place.finish()
        return place.overwrites
