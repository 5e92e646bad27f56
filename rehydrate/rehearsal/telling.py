"""A stage of a rehearsal as members of JSON, for the report and while it goes on. PURE.

The report as a whole does not belong here: a restore shows stages too, and is to start quickly.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rehydrate.rehearsal.parts import FAILED, MACHINE, NOT_CHECKED
from rehydrate.rehearsal.stages import Figures

Members = dict[str, Any]


def subject_text(kind: str, subject: str) -> str:
    """What a check was of, for people."""
    return f"VM {subject}" if kind == MACHINE else f"{kind} of {subject}"


def failed_first(checks: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Checks of a report as people look for them: failed ones, then those not made, each in their order."""
    ranks = {FAILED: 0, NOT_CHECKED: 1}
    return sorted(checks, key=lambda one: ranks.get(one["state"], len(ranks)))


def stage_members(figures: Figures) -> Members:
    """One run of a stage."""
    left = figures.left_seconds
    return {
        "number": figures.number,
        "name": figures.name,
        "state": figures.state,
        "unit": figures.unit,
        "done": figures.done,
        "total": figures.total,
        "detail": figures.detail,
        "done_bytes": figures.done_bytes,
        "total_bytes": figures.total_bytes,
        "began_seconds": round(figures.began_seconds, 3),
        "seconds": round(figures.seconds, 3),
        "left_seconds": None if left is None else round(left, 1),
        "requests": figures.counts.requests,
        "requests_by_kind": figures.counts.by_kind(),
        "received_bytes": figures.counts.received_bytes,
        "requests_per_second": round(figures.requests_per_second, 2),
        "bytes_per_second": round(figures.bytes_per_second),
    }
