"""The report of a rehearsal as one document of plain members: for programs, page and history.

No secret goes in: what commands printed comes redacted, and addresses have none. How it looks to people
stands in page.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from cdp_container.errors import CdpError, ChecksFailed
from cdp_container.format.layout import FORMAT_VERSION
from cdp_container.telling import point_name, time_text
from rehydrate.boot.telling import result_members
from rehydrate.rehearsal.parts import Verdict
from rehydrate.rehearsal.run import Asked, Found
from rehydrate.rehearsal.stages import Figures
from rehydrate.rehearsal.telling import stage_members
from rehydrate.rehearsal.watch import Point

REPORT_VERSION: Final = 1
PASSED: Final = "passed"
CHECKS_FAILED: Final = "checks failed"
FAILED: Final = "failed"
INTERRUPTED: Final = "interrupted"
RTO_HOW: Final = "from the start of the command to the end of the content stage, all readings together"

Members = dict[str, Any]


@dataclass(frozen=True, slots=True)
class About:
    """Who rehearsed what, where and when; times in nanoseconds since 1970 by this machine's clock."""

    address: str
    software: str
    host: str
    kernel: str
    python: str
    operator: str
    began_ns: int
    ended_ns: int


def outcome_of(error: BaseException | None) -> str:
    """What a rehearsal came to, in two words at most."""
    if error is None:
        return PASSED
    if isinstance(error, ChecksFailed):
        return CHECKS_FAILED
    return FAILED if isinstance(error, Exception) else INTERRUPTED


def members_of(
    about: About,
    asked: Asked,
    found: Found,
    stages: Sequence[Figures],
    curve: Sequence[Point],
    error: BaseException | None,
    hide: Callable[[str], str],
) -> Members:
    """The whole document; `hide` takes secrets out of every word of it."""
    document = _all_members(about, asked, found, stages, curve, error)
    return {name: _fit(value, hide) for name, value in document.items()}


def _fit(value: object, hide: Callable[[str], str]) -> object:
    """The same with every word fit to be written: without secrets, and in UTF-8."""
    if isinstance(value, str):
        return hide(value).encode(errors="backslashreplace").decode()
    if isinstance(value, list):
        return [_fit(one, hide) for one in value]
    if isinstance(value, dict):
        return {name: _fit(one, hide) for name, one in value.items()}
    return value


def _all_members(
    about: About,
    asked: Asked,
    found: Found,
    stages: Sequence[Figures],
    curve: Sequence[Point],
    error: BaseException | None,
) -> Members:
    return {
        "what": "dr-test",
        "version": REPORT_VERSION,
        "outcome": outcome_of(error),
        "error": _error(error),
        "began": time_text(about.began_ns),
        "began_ns": about.began_ns,
        "ended": time_text(about.ended_ns),
        "ended_ns": about.ended_ns,
        "address": about.address,
        "domain": _domain(found),
        "replica": asked.replica,
        "cut": _cut(found),
        "content": content_text(asked),
        "rpo": _rpo(found),
        "rto": _rto(asked, found),
        "stages": [stage_members(stage) for stage in stages],
        "sources": [
            {"kind": one.kind, "name": one.name, "size_bytes": one.size_bytes, "path": str(one.path)}
            for one in found.sources
        ],
        "machines": [result_members(one) for one in found.machines] if asked.boot is not None else None,
        "checks": [_check(verdict) for verdict in found.verdicts],
        "curves": [
            {
                "seconds": round(point.seconds, 3),
                "requests_per_second": round(point.requests_per_second, 2),
                "bytes_per_second": round(point.bytes_per_second),
                "in_flight": round(point.in_flight, 1),
            }
            for point in curve
        ],
        "hold": found.hold_id,
        "readings": found.readings,
        "notes": list(found.notes),
        "left": list(found.left),
        "operator": about.operator,
        "host": about.host,
        "kernel": about.kernel,
        "python": about.python,
        "software": about.software,
        "format_version": FORMAT_VERSION,
    }


def content_text(asked: Asked) -> str:
    """How much was fetched, as the option says it."""
    sampling = asked.sampling
    if sampling.is_all:
        return "all"
    if sampling.on_demand:
        return "on-demand"
    return f"sample:{sampling.share * 100:g}" if sampling.share else "none"


def _error(error: BaseException | None) -> Members | None:
    if error is None or not isinstance(error, Exception):
        return None
    if not isinstance(error, CdpError):
        return {
            "kind": type(error).__name__,
            "what": "unexpected",
            "why": str(error),
            "hint": "",
            "exit_code": 1,
        }
    return {
        "kind": type(error).__name__,
        "what": error.what,
        "why": error.why,
        "hint": error.hint,
        "exit_code": error.exit_code,
    }


def _domain(found: Found) -> Members | None:
    if found.container is None:
        return None
    history = found.container.history
    return {"id": history.domain.hex(), "name": history.owner.name}


def _cut(found: Found) -> Members | None:
    if found.made is None:
        return None
    cut = found.made.cut
    return {
        "point": point_name(cut.place.epoch, cut.place.cut),
        "time": time_text(cut.time_ns),
        "time_ns": cut.time_ns,
        "markers": list(cut.markers),
        "whole": cut.whole,
        "not_whole": [space.hex() for space in cut.not_whole],
        "protected": found.made.protected,
    }


def _rpo(found: Found) -> Members | None:
    if found.age is None:
        return None
    stored = found.age.stored_seconds
    return {
        "seconds": round(found.age.seconds, 3),
        "how": found.age.how,
        "stored_seconds": None if stored is None else round(stored, 3),
    }


def _rto(asked: Asked, found: Found) -> Members | None:
    if not asked.sampling.is_all or found.restored_seconds is None:
        return None
    checked, running = found.checked_seconds, found.running_seconds
    return {
        "seconds": round(found.restored_seconds, 3),
        "with_checks_seconds": None if checked is None else round(checked, 3),
        "with_machines_seconds": None if running is None else round(running, 3),
        "how": RTO_HOW,
    }


def _check(verdict: Verdict) -> Members:
    return {
        "kind": verdict.kind,
        "subject": verdict.subject,
        "state": verdict.state,
        "why": verdict.why,
        "seconds": round(verdict.seconds, 3),
        "excerpt": verdict.excerpt,
    }
