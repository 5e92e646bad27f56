"""What volumes and trees are called as files: names out of a container lead nowhere else. PURE."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Final

IMAGE_SUFFIX: Final = ".raw"
TREE_SUFFIX: Final = ".tree"

_NAME_BYTES_MAX: Final = 200
"""A longer one may be no file's, with what is put behind it."""


def file_names(sources: Sequence[tuple[str, bytes]], suffix: str) -> list[str]:
    """For each (name, id): its own name where that can be a file's and no other has it, else its id.

    A name that is another's id is no name: that one may be called so.
    """
    often = Counter(name for name, _ in sources) + Counter({source_id.hex() for _, source_id in sources})
    return [
        (name if often[name] == 1 and _can_be_file(name) else source_id.hex()) + suffix
        for name, source_id in sources
    ]


def _can_be_file(name: str) -> bool:
    try:
        size = len(name.encode())
    except UnicodeEncodeError:
        return False
    return 0 < size <= _NAME_BYTES_MAX and name.isprintable() and not name.startswith(".") and "/" not in name
