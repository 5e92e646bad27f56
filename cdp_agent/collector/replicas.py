"""What other places still have of what was deleted here: told, never waited for.

Noted in `<journal>/collector/replicas.json`; losing it costs the telling alone. What a pass does wait for at
replicas does not belong here (domain.collecting).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Final

from cdp_container.domain.collecting import is_there
from cdp_container.domain.durable import read_file, replace_file
from cdp_container.errors import CdpError, DamagedObject, LimitExceeded, counted
from cdp_container.format.jsontext import dump_object, load_object
from cdp_container.format.members import Members
from cdp_container.store.api import Store

NOTE_NAME: Final = "replicas.json"
NOTE_BYTES_MAX: Final = 64 * 1024 * 1024
NOTED_MAX: Final = 100_000
"""Keys that are noted of one replica, the oldest: of one that never loses anything there are ever more."""
LOOKS_MAX: Final = 1_000
"""Keys that a pass looks for at each replica, the oldest: of one that only lags few are left."""


@dataclass(frozen=True, slots=True)
class Left:
    """What a replica may still have: by key since when (store's clock), oldest first; why it is unknown."""

    since_ns: Mapping[str, int] = field(default_factory=dict)
    why: str = ""


Note = Mapping[str, Left]
"""By the address of the replica."""


def look_at_replicas(note: Note, replicas: Sequence[Store], gone: Sequence[str], now_ns: int) -> Note:
    """The note after a pass that deleted these keys. One that cannot be asked keeps what is noted of it."""
    return {
        store.address: _looked(note.get(store.address, Left()), store, gone, now_ns) for store in replicas
    }


def _looked(before: Left, store: Store, gone: Sequence[str], now_ns: int) -> Left:
    since_ns = {**dict.fromkeys(gone, now_ns), **before.since_ns}
    since_ns = dict(islice(sorted(since_ns.items(), key=lambda one: one[1]), NOTED_MAX))
    try:
        for key in list(islice(since_ns, LOOKS_MAX)):
            if not is_there(store, key):
                del since_ns[key]
    except CdpError as error:
        return Left(since_ns, f"it cannot be asked: {error.why}")  # told, as all of this is
    return Left(since_ns)


def words_of(note: Note) -> tuple[str, ...]:
    """What is to be known, for people."""
    return tuple(_words(address, left) for address, left in note.items() if left.since_ns or left.why)


def _words(address: str, left: Left) -> str:
    if not left.since_ns:
        return f"{address}: {left.why}"
    since = datetime.fromtimestamp(min(left.since_ns.values()) // 10**9, UTC)
    at_least = "at least " if len(left.since_ns) >= NOTED_MAX else ""
    what = f"{at_least}{counted(len(left.since_ns), 'object')} that were deleted here"
    why = f" ({left.why})" if left.why else ""
    return f"{address} still has {what}, the first at {since:%Y-%m-%d %H:%M} UTC{why}"


def load_note(journal: Path) -> Note:
    """What is noted in a journal directory; one of which nothing can be read is none."""
    path = journal / "collector" / NOTE_NAME
    data = read_file(path, NOTE_BYTES_MAX)
    if data is None:
        return {}
    try:
        members = Members(load_object(data, NOTE_BYTES_MAX, str(path)), str(path))
        return {address: _parsed(members.object(address)) for address in members.members}
    except (DamagedObject, LimitExceeded):
        return {}


def _parsed(members: Members) -> Left:
    since = members.object("since_ns")
    return Left({key: since.number(key) for key in since.members}, members.text("why"))


def save_note(journal: Path, note: Note) -> None:
    """Keep it. Raises LocalDiskFull, CdpError."""
    members = {address: {"since_ns": dict(left.since_ns), "why": left.why} for address, left in note.items()}
    replace_file(journal / "collector" / NOTE_NAME, dump_object(members))
