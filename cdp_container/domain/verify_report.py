"""The report of a verification: a document that can be filed, with what was checked, when, and by what.

What was found is in verify_types; how people are shown it in the commands.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from cdp_container.domain.verify_types import Finding, Opened, Report
from cdp_container.format.place import Place

REPORT_FORMAT: Final = 1
SOUND: Final = "sound"
SOUND_SO_FAR: Final = "nothing found in what was read"
HARMLESS: Final = "damage that no recovery point needs"
DAMAGED: Final = "damaged"

Members = dict[str, Any]


@dataclass(frozen=True, slots=True)
class About:
    """Of which verification a report is. Times are nanoseconds since 1970, by this machine's clock.

    `mode` is all, newest, point or sample; `cut` the point, where it is of one. `held`: the id of the hold
    under which it read, "" if there was none.
    """

    software: str
    site: str
    mode: str
    began_ns: int
    ended_ns: int
    cut: Place | None = None
    held: str = ""


def verdict(report: Report) -> str:
    """What it all comes to. Never that all is sound, where only a part was read."""
    if any(finding.needed for finding in report.findings):
        return DAMAGED
    if report.findings:
        return HARMLESS
    return SOUND if report.coverage is None else SOUND_SO_FAR


def report_members(opened: Opened, report: Report, about: About) -> Members:
    """The document. Base units, the unit in each name."""
    owner = opened.history.owner
    return {
        "report": "cdp-verification",
        "format": REPORT_FORMAT,
        "verdict": verdict(report),
        "software": about.software,
        "site": about.site,
        "began": _time(about.began_ns),
        "ended": _time(about.ended_ns),
        "began_ns": about.began_ns,
        "ended_ns": about.ended_ns,
        "container": opened.store.address,
        "domain": owner.domain.hex(),
        "name": owner.name,
        "owner_version": owner.version,
        "protected": _place(owner.protected),
        "ledger": None
        if owner.ledger is None
        else {"key": owner.ledger.key, "digest": owner.ledger.digest.hex()},
        "hold": about.held or None,
        "mode": about.mode,
        "cut": None if about.cut is None else _place(about.cut),
        "checks": checks(report),
        "objects": report.objects,
        "stored_bytes": report.stored_bytes,
        "frames": report.frames,
        "frames_opened": report.opened,
        "points": report.points,
        "sound_points": report.sound_points,
        "coverage": _coverage(report),
        "ignored": report.ignored,
        "findings": [finding_members(finding) for finding in report.findings],
    }


def checks(report: Report) -> Mapping[str, str]:
    """What was checked, in words, and what could not be."""
    which = "of what was read" if report.coverage else "of every object"
    no_key = "not opened: there is no private key"
    frames = "opened, and their content compared with its checksums"
    without = f"their CRC-32, and {no_key}" if report.heads_opened else f"by the object's digest, {no_key}"
    heads = "opened" if report.heads_opened else "not opened: there is no index key"
    return {
        "digests": f"{which}",
        "chain": "each segment names the digest of the one before it",
        "presence": "every segment that a recovery point needs, and every pack in force",
        "heads": heads,
        "catalogs": f"compared with the heads {which}" if report.heads_opened else heads,
        "frames": f"{frames if report.opened else without}, {which}",
    }


def finding_members(finding: Finding) -> Members:
    """One finding."""
    return {
        "key": finding.key,
        "kind": finding.kind,
        "needed": finding.needed,
        "what": finding.error.what,
        "why": finding.error.why,
    }


def _coverage(report: Report) -> Members | None:
    found = report.coverage
    if found is None:
        return None
    return {
        "read_objects": found.read_objects,
        "read_bytes": found.read_bytes,
        "objects": found.objects,
        "stored_bytes": found.stored_bytes,
        "round": found.round,
        "round_objects": found.round_objects,
    }


def _place(place: Place) -> Members:
    return {"epoch": place.epoch, "cut": place.cut, "seq": place.seq}


def _time(time_ns: int) -> str:
    moment = datetime.fromtimestamp(time_ns // 1_000_000_000, UTC)
    return moment.isoformat(timespec="seconds").replace("+00:00", "Z")
