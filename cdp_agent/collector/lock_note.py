"""What passes of collection know of locks, in `<journal>/collector/locks.json`; and what `status` says of it.

What extends them does not belong here (locks).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from cdp_container.domain.durable import read_file, replace_file
from cdp_container.errors import DamagedObject, LimitExceeded
from cdp_container.format.jsontext import dump_object, load_object
from cdp_container.format.members import Members

NOTE_NAME: Final = "locks.json"
NOTE_BYTES_MAX: Final = 64 * 1024 * 1024
LATE_SHARE: Final = 0.45
"""Of a lock: passes extend at a half, so what has less left waits for a pass that does not come."""
_SECOND_NS: Final = 1_000_000_000
_DAY_SECONDS: Final = 86_400


@dataclass(frozen=True, slots=True)
class LockNote:
    """What passes know of locks, by the store's clock. Losing it costs requests.

    Attributes:
        lock_seconds: as the bucket had it; 0 where it locks nothing.
        since_ns: since when at least, 0 where no other was ever seen.
        before_seconds: the shortest that was seen before that.
        soonest_ns: when the first lock ends of what is needed; 0: unknown.
        extended: until when objects are locked whose locks were extended.
        refused: until when objects are locked that could not be deleted, and are victims again then.
    """

    lock_seconds: int = 0
    soonest_ns: int = 0
    extended: Mapping[str, int] = field(default_factory=dict)
    refused: Mapping[str, int] = field(default_factory=dict)
    since_ns: int = 0
    before_seconds: int = 0


def still_locked(note: LockNote, now_ns: int) -> Collection[str]:
    """What need not be tried again yet."""
    return {key for key, until_ns in note.refused.items() if until_ns > now_ns}


def trouble_of_locks(note: LockNote, now_ns: int) -> str:
    """What is to be said where locks end and nothing extends them, "" where all is well. PURE."""
    left_ns = note.soonest_ns - now_ns
    if not note.lock_seconds or not note.soonest_ns or left_ns >= note.lock_seconds * _SECOND_NS * LATE_SHARE:
        return ""
    if left_ns <= 0:
        return "the locks of objects that are needed have ended, and only a pass of collection extends them"
    days = left_ns / _SECOND_NS / _DAY_SECONDS
    return f"nothing extended the locks of what is needed for long: the first ends in {days:.1f} days"


def load_note(journal: Path) -> LockNote:
    """What is noted in a journal directory; one of which nothing can be read is none."""
    path = journal / "collector" / NOTE_NAME
    data = read_file(path, NOTE_BYTES_MAX)
    if data is None:
        return LockNote()
    try:
        members = Members(load_object(data, NOTE_BYTES_MAX, str(path)), str(path))
        return LockNote(
            members.number("lock_seconds"),
            members.number("soonest_ns"),
            _times(members, "extended"),
            _times(members, "refused"),
            members.number("since_ns"),
            members.number("before_seconds"),
        )
    except (DamagedObject, LimitExceeded):
        return LockNote()


def save_note(journal: Path, note: LockNote) -> None:
    """Keep it. Raises LocalDiskFull, CdpError."""
    members = {
        "lock_seconds": note.lock_seconds,
        "soonest_ns": note.soonest_ns,
        "extended": dict(note.extended),
        "refused": dict(note.refused),
        "since_ns": note.since_ns,
        "before_seconds": note.before_seconds,
    }
    replace_file(journal / "collector" / NOTE_NAME, dump_object(members))


def _times(members: Members, name: str) -> dict[str, int]:
    times = members.object(name)
    return {key: times.number(key) for key in times.members}
