"""What both commands tell alike: times and tables as people read them, and who owns a domain. PURE.

Base units in JSON, the unit in each name. Where it is written to does not belong here (console), nor what
only one of the commands tells.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from cdp_container.console import printable
from cdp_container.format.domain import EpochRecord, Owner
from cdp_container.format.place import Place

Members = dict[str, Any]

UNIX_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


def time_text(time_ns: int) -> str:
    """RFC 3339 in UTC, with milliseconds."""
    moment = UNIX_EPOCH + timedelta(microseconds=time_ns // 1000)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def size_text(count_bytes: int) -> str:
    """Bytes with a binary unit: `1.5 GiB`."""
    value = float(count_bytes)
    for unit in ("B", "KiB", "MiB", "GiB", "TiB", "PiB"):
        if value < 1024:
            return f"{count_bytes} B" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} EiB"


def table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns as wide as they need to be, two blanks between them."""
    cells = [[printable(cell) for cell in row] for row in (titles, *rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(titles))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in cells]
    return "\n".join(line.rstrip() for line in lines)


def members_table(
    names: Sequence[str], rows: Sequence[Mapping[str, Any]]
) -> tuple[list[str], list[list[str]]]:
    """Titles and cells of a table of these members; "-" where one is None or empty."""
    titles = [name.replace("_", " ").upper() for name in names]
    return titles, [["-" if row[name] in (None, "") else str(row[name]) for name in names] for row in rows]


def point_name(epoch: int, cut: int) -> str:
    """How people name a cut."""
    return f"{epoch}.{cut}"


def place_name(place: Place) -> str | None:
    """The same of a place; None for NOWHERE."""
    return point_name(place.epoch, place.cut) if place else None


def owner_members(owner: Owner) -> Members:
    """Who owns a domain now."""
    return {
        "name": owner.name,
        "site": owner.site,
        "run": owner.instance.hex(),
        "state": owner.state.value,
        "epoch": owner.epoch,
        "since": time_text(owner.since_ns),
        "since_ns": owner.since_ns,
        "lease_seconds": owner.lease_seconds,
        "operator": owner.operator,
        "reason": owner.reason,
        "released_to": owner.released_to,
        "protected": place_name(owner.protected),
    }


def owner_text(members: Mapping[str, Any]) -> str:
    """The same for people, in one line."""
    state = members["state"]
    if members["released_to"] is not None:
        state = f"{state} to {members['released_to']}"
    protected = members["protected"] or "nothing yet"
    return printable(
        f"owner: {members['site']}, {state}, epoch {members['epoch']}, since {members['since']}, "
        f"lease {members['lease_seconds']} s, protected up to {protected}"
    )


def record_members(record: EpochRecord, until_ns: int | None) -> Members:
    """One epoch that counts, as its record tells; `until_ns` is when the next one began."""
    return {
        "epoch": record.epoch,
        "site": record.site,
        "run": record.instance.hex(),
        "from": time_text(record.began_ns),
        "from_ns": record.began_ns,
        "until": None if until_ns is None else time_text(until_ns),
        "until_ns": until_ns,
        "base": place_name(record.base),
        "reason": record.reason,
        "operator": record.operator,
        "unsynchronised": record.unsynchronised,
        "software": record.software,
    }
