"""What `rehydrate points` answers: the points, how long they are kept, and a picture of them.

Which of them are shown is decided in `thinned`, how they look in `views` and `plot`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from cdp_container.domain.contents import Contents
from cdp_container.domain.durable import replace_file
from cdp_container.domain.retention import Kept
from cdp_container.domain.retention_policy import KEEP_ALL, Retention
from cdp_container.errors import (
    AccessDenied,
    DamagedObject,
    ForeignObject,
    LimitExceeded,
    NewerFormat,
    NotFound,
    UsageError,
    counted,
)
from cdp_container.format.holds import Hold
from cdp_container.format.place import Place
from rehydrate.cli import views
from rehydrate.container import Container
from rehydrate.kept import holds_of, kept_of, policy_of
from rehydrate.plot import drawing_of, svg_of
from rehydrate.points import points_of

_UNREADABLE: Final = (
    AccessDenied, DamagedObject, ForeignObject, LimitExceeded, NewerFormat, NotFound,
)  # fmt: skip
"""What is wrong with one object that no point needs."""


def list_points(
    container: Container,
    contents: Contents,
    last: int | None,
    now_ns: int,
    notes: list[str],
    plot: Path | None,
) -> tuple[dict[str, Any], str]:
    """Members and text of the answer; draws the picture, where one is wanted, and adds to the notes.

    Raises UsageError, LocalDiskFull, CdpError where the picture cannot be written.
    """
    if plot is not None and (not plot.name or plot.is_dir()):
        raise UsageError("draw the points", f"{plot} is no file", "--plot points.svg")
    listed = points_of(container, contents, last)
    keyless = contents.sealed
    policy, holds = _policy(container, notes), _holds(container, notes)
    kept: dict[Place, Kept] | None = None
    if policy is not None and policy != KEEP_ALL and not keyless:  # without a key no marker is known
        kept = kept_of(container.history, contents, listed.cuts, holds, policy, now_ns)
    text = [views.points_text(listed, keyless, kept)]
    if listed.left_out and last is None:
        text.append(f"and {counted(listed.left_out, 'more point')} in between: --all, --last N or --json")
    elif listed.left_out:
        text.append(f"and {counted(listed.left_out, 'older one')}: --last 0")
    if keyless:
        text.append("volumes and markers are sealed: give --passphrase-file to see them")
    if plot is not None:
        drawing = drawing_of(container.history, contents, listed.cuts, holds)
        replace_file(plot, svg_of(drawing).encode())
    members = {
        "domain": container.history.domain.hex(),
        "name": container.history.owner.name,
        "sealed": keyless,
        "left_out": listed.left_out,
        "points": [
            {**views.point_members(point), **_kept_members(kept, point.cut.place)} for point in listed.points
        ],
    }
    return members, "\n".join(text)


def _kept_members(kept: dict[Place, Kept] | None, place: Place) -> dict[str, Any]:
    return {} if kept is None else {"kept": views.kept_members(kept.get(place))}


def _policy(container: Container, notes: list[str]) -> Retention | None:
    try:
        return policy_of(container.history)
    except (DamagedObject, NewerFormat) as error:
        notes.append(f"how long points are kept is not known: {error}")
        return None


def _holds(container: Container, notes: list[str]) -> list[Hold]:
    try:
        return list(holds_of(container.store, container.history.domain).values())
    except NotFound:
        return []  # a copy of a container may well be without
    except _UNREADABLE as error:
        notes.append(f"which points are held is not known: {error}")
        return []
