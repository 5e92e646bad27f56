"""What is said of volumes that something fills from outside: names of requests, and what `status` shows.

`cdp-agent adopt` and `status` need it without the streamer. What is done about it does not belong here
(`filling`).
"""

from __future__ import annotations

from typing import Any, Final

from cdp_container.domain.identity import AgentIdentity
from cdp_container.domain.notes import Notes

FILLING_COMMAND: Final = "filling"
FILLED_COMMAND: Final = "filled"
COMMANDS: Final = (FILLING_COMMAND, FILLED_COMMAND)


def filling_members(notes: Notes, identity: AgentIdentity) -> list[dict[str, Any]]:
    """For `status`: each volume, the VM whose disk is copied, since when, and whether that is over."""
    names = {source.space: source.name for source in identity.active.values()}
    return [
        {"volume": names[one.space], "vm": one.vm, "began_ns": one.began_ns, "ended": one.ended}
        for one in notes.filling
        if one.space in names
    ]
