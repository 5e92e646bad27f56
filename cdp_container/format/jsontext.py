"""JSON objects inside the format: strict on the way in, canonical on the way out.

What their members mean does not belong here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

from cdp_container.errors import DamagedObject, LimitExceeded
from cdp_container.format.limits import JSON_DEPTH_MAX

JsonObject = Mapping[str, Any]


def dump_object(members: JsonObject) -> bytes:
    """The one encoding that we write: UTF-8, members sorted, no blanks."""
    return orjson.dumps(members, option=orjson.OPT_SORT_KEYS)


def load_object(data: bytes, bytes_max: int, what: str) -> dict[str, Any]:
    """The members of a JSON object.

    Raises:
        LimitExceeded: it is longer than `bytes_max`.
        DamagedObject: it is not JSON in UTF-8, not an object, or nests deeper than JSON_DEPTH_MAX.
    """
    if len(data) > bytes_max:
        raise LimitExceeded(what, f"{len(data)} bytes of JSON, and {bytes_max} are the most")
    try:
        members = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise DamagedObject(what, f"it is not JSON: {error}") from error
    if not isinstance(members, dict):
        raise DamagedObject(what, "it is JSON, but not an object")
    # What nests deeply has many brackets; most objects have not.
    if data.count(b"[") + data.count(b"{") > JSON_DEPTH_MAX and _is_too_deep(members):
        raise DamagedObject(what, f"its JSON nests deeper than {JSON_DEPTH_MAX} levels (JSON_DEPTH_MAX)")
    return members


def _is_too_deep(value: JsonObject) -> bool:
    """Level by level, without recursion: that is what it guards others from."""
    level: list[Any] = [value]
    for _ in range(JSON_DEPTH_MAX):
        inner = [item.values() if isinstance(item, dict) else item for item in level]
        level = [item for items in inner for item in items if isinstance(item, dict | list)]
        if not level:
            return False
    return True
