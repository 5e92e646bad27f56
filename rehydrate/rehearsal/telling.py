"""A stage of a rehearsal as members of JSON, for the report and while it goes on. PURE.

The report as a whole does not belong here: a restore shows stages too, and is to start quickly.
"""

from __future__ import annotations

from typing import Any

from rehydrate.rehearsal.stages import Figures

Members = dict[str, Any]


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
