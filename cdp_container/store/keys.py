"""Which keys a store takes: one rule for every kind of store.

A key is one to eight parts joined by "/", each of letters, digits, ".", "_" and "-", none beginning
with ".". So no key can leave a directory, meet a store's own hidden files, or need escaping in a
URL. What the parts mean does not belong here: that is the format's.
"""

from __future__ import annotations

import re

from cdp_container.errors import ForeignObject
from cdp_container.store.api import KEY_BYTES_MAX

KEY_PARTS_MAX = 8
"""The deepest key: ours have at most five parts, a place's prefix may add some."""

KEY_PART_BYTES_MAX = 200
"""The longest part; file systems allow 255."""

_PART = rf"[A-Za-z0-9_-][A-Za-z0-9._-]{{0,{KEY_PART_BYTES_MAX - 1}}}"
_KEY = re.compile(rf"{_PART}(?:/{_PART}){{0,{KEY_PARTS_MAX - 1}}}")
_KEY_BEGINNING = re.compile(rf"(?:{_PART}/){{0,{KEY_PARTS_MAX - 1}}}(?:{_PART})?")


def is_key(key: str) -> bool:
    """Whether a store takes this key (and shows it in a listing)."""
    return len(key) <= KEY_BYTES_MAX and _KEY.fullmatch(key) is not None


def check_key(key: str) -> str:
    """Give the key back. Raises ForeignObject where this system would never have written it."""
    if not is_key(key):
        raise ForeignObject(f"the key {key[:80]!r}", "no object of this system has such a key")
    return key


def check_beginning(beginning: str) -> str:
    """Give back what a key may begin with ("" included). Raises ForeignObject where no key does."""
    if len(beginning) > KEY_BYTES_MAX or _KEY_BEGINNING.fullmatch(beginning) is None:
        raise ForeignObject(f"the prefix {beginning[:80]!r}", "no object of this system has a key below it")
    return beginning
