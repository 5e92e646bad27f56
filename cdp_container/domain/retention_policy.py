"""The policy by which recovery points are kept, as it stands in `domain/config`. PURE.

A module of its own, as every command knows the policy and few go by it. Which cuts are kept by it does not
belong here (retention), nor how it is written in YAML (point_settings).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from cdp_container.errors import DamagedObject, NewerFormat
from cdp_container.format.jsontext import JsonObject
from cdp_container.format.members import Members

COLLECT_AGE_SECONDS_MIN: Final = 3600
"""What is younger is never collected, whatever the policy says: replicas and clocks lag less than this."""
TERM_SECONDS_MAX: Final = 100 * 366 * 86400
"""The longest term but for ever: in nanoseconds a time and a term still fit into an i64."""
_TERMS: Final = (
    "every_seconds", "hourly_seconds", "daily_seconds",
    "weekly_seconds", "monthly_seconds", "markers_seconds",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Retention:
    """The policy: for how long what is kept; None: for ever. Markers may have terms of their own."""

    every_seconds: int | None
    hourly_seconds: int | None = 0
    daily_seconds: int | None = 0
    weekly_seconds: int | None = 0
    monthly_seconds: int | None = 0
    markers_seconds: int | None = None

    @property
    def keeps_all(self) -> bool:
        """Whether every cut is kept for ever."""
        return self.every_seconds is None


KEEP_ALL: Final = Retention(every_seconds=None)
"""The policy of a domain that has none."""


def parse_retention(members: JsonObject, key: str) -> Retention:
    """The policy from `retention` of the configuration that stands under `key`.

    Raises:
        DamagedObject: a member is missing or makes no sense.
        NewerFormat: it has a member that this release does not know, and which may keep more than it would.
    """
    if not members:
        return KEEP_ALL
    unknown = sorted(set(members) - set(_TERMS))
    if unknown:
        raise NewerFormat(key, f"its retention has {', '.join(unknown)}, which this release does not know")
    terms = Members(members, key)
    return Retention(*(_term(terms, name) for name in _TERMS))


def _term(terms: Members, name: str) -> int | None:
    if name in terms.members and terms.members[name] is None:
        return None
    seconds = terms.number(name)
    if seconds > TERM_SECONDS_MAX:
        raise DamagedObject(terms.what, f"its member {name!r} is longer than a hundred years")
    return seconds


def build_retention(retention: Retention) -> JsonObject:
    """What stands in the configuration; {} where everything is kept for ever."""
    return {} if retention.keeps_all else {name: getattr(retention, name) for name in _TERMS}
