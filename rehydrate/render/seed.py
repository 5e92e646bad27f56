"""The disk that cloud-init reads: an ISO 9660 image named cidata, with three small files."""

from __future__ import annotations

import io
from collections.abc import Mapping

import pycdlib


def seed_image(files: Mapping[str, str]) -> bytes:
    """The image of the files, by their names (Rock Ridge has them as they are)."""
    image = pycdlib.PyCdlib()
    image.new(interchange_level=3, joliet=3, rock_ridge="1.09", vol_ident="cidata")
    contents = {name: text.encode() for name, text in files.items()}
    for number, (name, data) in enumerate(contents.items()):
        image.add_fp(io.BytesIO(data), len(data), f"/FILE{number}.;1", rr_name=name, joliet_path=f"/{name}")
    found = io.BytesIO()
    image.write_fp(found)
    image.close()
    return found.getvalue()
