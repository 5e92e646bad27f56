"""What `status` and the alerts tell of collection: the last pass, and how many in a row were stopped.

It stands in `<journal>/collector/last.json`. It decides one thing: a pass ends where the store's clock is
older than `store_ns`, the newest that was ever seen.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from cdp_container.domain.durable import read_file, replace_file
from cdp_container.errors import DamagedObject, LimitExceeded
from cdp_container.format.jsontext import dump_object, load_object
from cdp_container.format.members import Members

LAST_NAME: Final = "last.json"
LAST_BYTES_MAX: Final = 64 * 1024
FAILURES_WORTH: Final = 3
"""Passes that were stopped in a row, before it is called trouble: a store is away at times."""


@dataclass(frozen=True, slots=True)
class LastPass:
    """The last pass.

    Attributes:
        ended_ns: wall clock.
        stopped: why it ended early, "" if it did not.
        note: why it collected nothing, "" if it did.
        deleted, kept: objects that were deleted; that were not, for a hold.
        freed_bytes, packed_bytes: what victims took; what packs take for it.
        retired: cuts that are not offered any more.
        failures: passes in a row that were stopped, this one counted.
        store_ns: the newest time of the store that was ever seen.
        notes: what should be known besides: of holds that nobody understands, and what replicas still have.
    """

    ended_ns: int = 0
    stopped: str = ""
    note: str = ""
    deleted: int = 0
    kept: int = 0
    freed_bytes: int = 0
    packed_bytes: int = 0
    retired: int = 0
    failures: int = 0
    store_ns: int = 0
    notes: tuple[str, ...] = ()


def load_last(journal: Path) -> LastPass:
    """The last pass of a journal directory; one of which nothing can be read is none."""
    path = journal / "collector" / LAST_NAME
    data = read_file(path, LAST_BYTES_MAX)
    if data is None:
        return LastPass()
    try:
        members = Members(load_object(data, LAST_BYTES_MAX, str(path)), str(path))
        return LastPass(
            ended_ns=members.number("ended_ns"),
            stopped=members.text("stopped"),
            note=members.text("note"),
            deleted=members.number("deleted"),
            kept=members.number("kept"),
            freed_bytes=members.number("freed_bytes"),
            packed_bytes=members.number("packed_bytes"),
            retired=members.number("retired"),
            failures=members.number("failures"),
            store_ns=members.number("store_ns"),
            notes=members.texts("notes") if "notes" in members.members else (),  # none by older releases
        )
    except (DamagedObject, LimitExceeded):
        return LastPass()


def save_last(journal: Path, last: LastPass) -> None:
    """Keep it. Raises LocalDiskFull, CdpError."""
    directory = journal / "collector"
    directory.mkdir(mode=0o700, exist_ok=True)
    replace_file(directory / LAST_NAME, dump_object({**asdict(last), "notes": list(last.notes)}))


def members_of(last: LastPass) -> dict[str, Any] | None:
    """For `status --json`; None where there was no pass."""
    if not last.ended_ns:
        return None
    members = {**asdict(last), "notes": list(last.notes)}
    del members["store_ns"]
    return members


def trouble_of(last: LastPass) -> str:
    """What is to be said where collection keeps failing, "" where it does not."""
    if last.failures < FAILURES_WORTH:
        return ""
    return f"{last.failures} passes of collection in a row were stopped: {last.stopped}"
