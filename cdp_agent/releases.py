"""What is said of a planned release, wherever it is: to whom, since when, how far it is, what can be done.

From the durable notes alone, so it needs neither the streamer nor the store. What does not belong here: how a
domain is released (`streamer.releasing`).
"""

from __future__ import annotations

from typing import Any

from cdp_container.domain.notes import Notes
from cdp_container.errors import DomainReleased
from cdp_container.telling import time_text


def release_members(notes: Notes, wall_ns: int) -> dict[str, Any] | None:
    """What the notes say of a release: to whom, since when, how long it took, its final cut; None: none."""
    to = notes.released_to or notes.releasing_to
    if not to:
        return None
    ended_ns = notes.release_ended_ns or wall_ns
    final = notes.final
    return {
        "to": to,
        "state": "released" if notes.released_to else "releasing",
        "since_ns": notes.release_began_ns,
        "seconds": round(max(0, ended_ns - notes.release_began_ns) / 1e9, 3),
        "final": None if not final else {"epoch": final.epoch, "cut": final.cut, "seq": final.seq},
    }


def released(what: str, site: str, notes: Notes) -> DomainReleased | None:
    """Why `what` cannot be done at `site`, which gives its domain up or has; None where it does not."""
    members = release_members(notes, notes.release_began_ns)
    if members is None:
        return None
    does = "has released" if members["state"] == "released" else "is releasing"
    why = f"site {site!r} {does} the domain to site {members['to']!r}"
    return DomainReleased(what, why, release_hint(members))


def release_text(members: dict[str, Any]) -> str:
    """A release for people: to whom, since when, its final cut, who has it, and what can be done."""
    final, to = members["final"], members["to"]
    parts = [f"{members['state']} to site {to!r} since {time_text(members['since_ns'])}"]
    if members["state"] == "releasing":
        parts.append(f"guests cannot write; waits for {members.get('waits_for') or 'the agent'}")
    else:
        parts.append(
            "the exports stay closed" + (f", final cut {final['epoch']}.{final['cut']}" if final else "")
        )
    if members.get("taken_by"):
        parts.append(f"taken by {members['taken_by']}")
    if members.get("cancel_refused"):
        parts.append(f"it cannot be taken back: {members['cancel_refused']}")
    return "; ".join(parts)


def release_hint(members: dict[str, Any]) -> str:
    """What can be done about it."""
    if members["state"] == "releasing":
        return f"`cdp-agent release --to {members['to']}` shows how far it is, `--cancel` ends it"
    return (
        f"`cdp-agent release --cancel` takes it back while {members['to']} has not claimed it; after that "
        "`rehydrate failback` brings it back"
    )
