"""The collector's look at the roster: what it remembers of holds is durable before anything rests on it.

Which holds are dead is decided in held. Whatever fails here ends the pass: nothing is deleted on doubt.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cdp_container.clock import Clock
from cdp_container.domain.durable import read_file, replace_file
from cdp_container.domain.held import (
    WATCH_BYTES_MAX,
    build_watch,
    dead_holds,
    watch_or_none,
    watched,
    without_dead,
)
from cdp_container.domain.roster import Entropy, change_roster, read_roster
from cdp_container.errors import CdpError
from cdp_container.format.holds import Hold
from cdp_container.store.api import Store

WATCH_NAME: Final = "holds.json"
"""In the collector's directory, `<journal>/collector`."""


@dataclass(frozen=True, slots=True)
class Living:
    """The holds that stand, by id, after the `dead` ones were taken out of the roster."""

    holds: Mapping[str, Hold]
    dead: Mapping[str, Hold]


def look_at_holds(
    store: Store,
    domain: bytes,
    directory: Path,
    boot: bytes,
    clock: Clock,
    entropy: Entropy,
    store_ns: int | None,
) -> Living:
    """Read the roster, take out what is dead, and give what stands.

    Args:
        store: repeats reads where it may.
        domain: its id, 16 bytes.
        directory: of the collector; made where it is not there.
        boot: the boot id of this machine, 16 bytes.
        clock: of this machine.
        entropy: gives random bytes.
        store_ns: the store's clock, by an object that was just written; None where it is not known.

    Raises:
        MissingObject, DamagedObject and their kin: there is no roster, or nobody can tell what it holds.
        PreconditionFailed, Contention, StoreUnavailable, AccessDenied: it could not be read or written.
        LocalDiskFull, ConfigInvalid, CdpError: of the file.
    """
    try:
        directory.mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        why = error.strerror or "input/output error"
        raise CdpError(f"cannot make {directory}", why, "check the journal directory") from error
    path = directory / WATCH_NAME
    asked_ns = clock.boottime_ns()  # what stands still now did so up to here at least
    holds = read_roster(store, domain).holds.holds
    before = watch_or_none(read_file(path, WATCH_BYTES_MAX), str(path))
    watch = watched(before, holds, boot, clock.boottime_ns())
    replace_file(path, build_watch(watch))
    dead = dead_holds(watch, holds, asked_ns, store_ns)
    if not dead:
        return Living(holds, {})
    left = change_roster(store, domain, lambda found: without_dead(found, dead), clock, entropy)
    return Living(left, {hold_id: hold for hold_id, hold in dead.items() if hold_id not in left})
