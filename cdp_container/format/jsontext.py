"""JSON objects inside the format: strict on the way in, canonical on the way out.

What their members mean does not belong here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

from cdp_container.errors import DamagedObject, LimitExceeded

JsonObject = Mapping[str, Any]


def dump_object(members: JsonObject) -> bytes:
    """The one encoding that we write: UTF-8, members sorted, no blanks."""
    return orjson.dumps(members, option=orjson.OPT_SORT_KEYS)


def load_object(data: bytes, bytes_max: int, what: str) -> dict[str, Any]:
    """The members of a JSON object.

    Raises:
        LimitExceeded: it is longer than `bytes_max`.
        DamagedObject: it is not JSON in UTF-8, or not an object.
    """
    if len(data) > bytes_max:
        raise LimitExceeded(what, f"{len(data)} bytes of JSON, and {bytes_max} are the most")
    try:
        members = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise DamagedObject(what, f"it is not JSON: {error}") from error
    if not isinstance(members, dict):
        raise DamagedObject(what, "it is JSON, but not an object")
    return members
