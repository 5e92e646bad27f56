"""`rehydrate mount`, from its options to its end: the point is opened under a hold, shown, and held on.

What is shown, and how, stands in rehydrate.mount; the command's options in mounting.
"""

from __future__ import annotations

import json
import math
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from cdp_container.clock import SystemClock
from cdp_container.console import printable, say
from cdp_container.domain.budget import budget_of
from cdp_container.domain.holding import LOOK_SECONDS
from cdp_container.errors import CdpError, MissingObject, UsageError, counted
from cdp_container.telling import point_name, time_text
from rehydrate.anew import read_until_found
from rehydrate.cli.commands import Access
from rehydrate.cli.console import read_secret
from rehydrate.cli.held import hold_on, tell
from rehydrate.cli.opening import Opening, opening_for
from rehydrate.meant import meant
from rehydrate.mount.driver import Mount, check_directory, check_fuse
from rehydrate.mount.opened import Ways, mounted, shown_of
from rehydrate.mount.shown import Shown
from rehydrate.plan import Choice
from rehydrate.points import RestorePlan, plan_restore
from rehydrate.restore import Source

CACHE_BYTES_MIN: Final = 1 << 20
"""Less would keep hardly more than the frames of one read."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What is to be shown, where, and how."""

    access: Access
    choice: Choice
    names: tuple[str, ...]
    trees: tuple[str, ...]
    directory: Path
    ways: Ways
    as_json: bool


def ways_of(cache_bytes: str, at_once: int, allow_other: bool) -> Ways:
    """From the options. Raises UsageError."""
    size_bytes = math.inf
    with suppress(ValueError):
        size_bytes = budget_of(cache_bytes).size_bytes
    if math.isinf(size_bytes) or size_bytes < CACHE_BYTES_MIN:
        why = f"{cache_bytes!r} is no size, or too little (write a number and a unit, like 1GiB)"
        raise UsageError("read --cache-bytes", why)
    return Ways(int(size_bytes), at_once, allow_other)


@dataclass(slots=True)
class _Job:
    """One run of the command; `asked` has the very point, once it is known."""

    asked: Asked
    opening: Opening


def mount(asked: Asked) -> int:
    """`rehydrate mount`, until it is unmounted or ended. Raises as a restore, and as `Mount`."""
    asked = replace(asked, directory=asked.directory.absolute())
    check_directory(asked.directory)
    check_fuse()
    secret = read_secret(asked.access.passphrase_file, asked.access.key_file)
    with opening_for("mount", asked.access, secret, SystemClock(), asked.as_json) as opening:
        job = _Job(asked, opening)
        if asked.access.replica:
            opening.holding.unheld("a hold in a replica is seen by nobody")
        else:
            opening.holding.place()
        source, made, shown = read_until_found(
            lambda _: _opened(job), opening.holding, opening.is_moved, tell
        )
        ways = asked.ways
        with mounted(source, made, shown, asked.directory, _Unreadable(asked.as_json), ways) as mount:
            _serve(job, made, shown, mount)
    say(json.dumps({"event": "unmounted"}) if asked.as_json else f"unmounted {asked.directory}")
    return 0


def _opened(job: _Job) -> tuple[Source, RestorePlan, Shown]:
    """One reading: everything but content."""
    asked, opening = job.asked, job.opening
    container = opening.open()
    contents = opening.gather(container, asked.choice, keeps_names=True)
    wanted = meant(container, contents, asked.choice, asked.names, asked.trees)
    made = plan_restore(container, contents, asked.choice, wanted=wanted, counts=False)
    job.asked = replace(asked, choice=opening.settle(container, made))
    source = Source(container.store, container.keys, contents, opening.flow)
    return source, made, opening.stack.enter_context(shown_of(source, made))


def _serve(job: _Job, made: RestorePlan, shown: Shown, mount: Mount) -> None:
    """Say that it is there, and keep it held until it is not; to be interrupted is to be ended."""
    container = job.opening.container
    assert container is not None, "opened"
    try:
        say(_mounted_text(job, made, shown))
        while not mount.wait(LOOK_SECONDS):
            hold_on(job.opening.holding, made.cut.place, container.history.owner.ledger)
    except KeyboardInterrupt:
        return


def _mounted_text(job: _Job, made: RestorePlan, shown: Shown) -> str:
    place, directory = made.cut.place, job.asked.directory
    if job.asked.as_json:
        sources = [{"kind": one.kind, "name": one.name, "file": one.file} for one in shown.sources]
        point = {"point": point_name(place.epoch, place.cut), "time": time_text(made.cut.time_ns)}
        return json.dumps({"event": "mounted", "directory": str(directory), **point, "sources": sources})
    point_text = f"point {point_name(place.epoch, place.cut)} of {time_text(made.cut.time_ns)}"
    files = ", ".join(one.file for one in shown.sources)
    return printable(
        f"mounted {directory}: {point_text}, {counted(shown.names, 'name')}: {files}; "
        f"to end it press Ctrl-C, or `umount {directory}` (`fusermount3 -u`)"
    )


@dataclass(frozen=True, slots=True)
class _Unreadable:
    """Says what cannot be read, and why; whoever read it got an I/O error."""

    as_json: bool

    def __call__(self, error: CdpError) -> None:
        hint = "mount again: it may have been collected, and be elsewhere"
        hint = hint if isinstance(error, MissingObject) else error.hint
        if self.as_json:
            members = {"event": "unreadable", "what": error.what, "why": error.why, "hint": hint}
            say(json.dumps(members))
        else:
            say(f"unreadable: {printable(error.what)}: {printable(error.why)}; {printable(hint)}")
