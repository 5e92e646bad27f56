"""What a request may say of a marker: nonsense is refused, and so is what came too late."""

from __future__ import annotations

import math

import pytest

from cdp_agent.streamer.control import MARKER_RULE
from cdp_agent.streamer.marker_request import TOO_LATE, marker_members, refused_marker
from cdp_container.domain.point_settings import HOOKS_MAX
from cdp_container.domain.retention_policy import TERM_SECONDS_MAX

RAN = {"name": "files", "outcome": "done", "seconds": 0.25}


@pytest.mark.parametrize(
    ("members", "why"),
    [
        ({"name": "a\nb"}, MARKER_RULE),
        ({"keep_seconds": 0}, "a number of seconds"),
        ({"keep_seconds": True}, "a number of seconds"),
        ({"keep_seconds": "30d"}, "a number of seconds"),
        ({"keep_seconds": TERM_SECONDS_MAX + 1}, "a number of seconds"),
        ({"hooks": None}, "outcome of the hooks"),
        ({"hooks": [RAN] * (HOOKS_MAX + 1)}, "outcome of the hooks"),
        ({"hooks": [{**RAN, "more": 1}]}, "outcome of the hooks"),
        ({"hooks": [{**RAN, "outcome": "x" * 201}]}, "outcome of the hooks"),
        ({"hooks": [{**RAN, "seconds": -1}]}, "outcome of the hooks"),
        ({"hooks": [{**RAN, "seconds": math.nan}]}, "outcome of the hooks"),
        ({"hooks": ["done"]}, "outcome of the hooks"),
        ({"take_until_ns": 1000}, TOO_LATE),
        ({"take_until_ns": "soon"}, TOO_LATE),
    ],
)
def test_what_is_refused(members: dict[str, object], why: str) -> None:
    assert why in refused_marker({"name": "m", **members}, 1000)


def test_what_is_recorded() -> None:
    request = {"command": "marker", "name": "m", "keep_seconds": None, "hooks": [RAN], "take_until_ns": 1001}
    assert refused_marker(request, 1000) == ""
    assert marker_members(request) == {"keep_seconds": None, "hooks": [RAN]}
    assert marker_members({"name": "m"}) == {}
