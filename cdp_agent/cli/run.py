"""`cdp-agent run`: lock the journal directory and supervise splitter, streamer and watcher."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from cdp_agent.alerts.watch import Watch, open_watch
from cdp_agent.cli.accepted import keep_accepted
from cdp_agent.cli.adopt import adopt_carried
from cdp_agent.cli.children import ever_ran, holds_nothing, load_agent, moved_identity
from cdp_agent.collector.schedule import Schedule
from cdp_agent.releases import release_hint, release_members
from cdp_agent.splitter.settings import VolumeSettings
from cdp_agent.supervisor import SUPERVISOR_PID, ChildSpec, Supervisor, streamer_lock, take_lock
from cdp_agent.verifier.schedule import Schedule as VerifierSchedule
from cdp_agent.volume_set import volumes_of, withdraw_all
from cdp_agent.wish import Wish, load_wish, save_wish
from cdp_container.clock import SystemClock
from cdp_container.console import say
from cdp_container.domain.durable import replace_file
from cdp_container.domain.half_done import refuse_half_done
from cdp_container.domain.identity import IDENTITY_NAME, AgentIdentity, encode_identity, load_identity
from cdp_container.domain.notes import load_notes, save_notes
from cdp_container.domain.schedule import CalendarTimes
from cdp_container.domain.settings import AgentSettings
from cdp_container.errors import (
    AlreadyRunning,
    BackingChanged,
    BackingUnreadable,
    CdpError,
    Fenced,
    UsageError,
    VolumesChanged,
)
from cdp_container.format.place import NOWHERE
from cdp_container.journal.shared import SharedPages

PR_SET_PDEATHSIG = 1

# Starting these again is no use before somebody acted: the run ends and says why.
SPLITTER_FINAL: tuple[type[CdpError], ...] = (
    UsageError,
    AlreadyRunning,
    BackingUnreadable,
    BackingChanged,
)
# The splitter goes on serving guests without a streamer.
STREAMER_FINAL: tuple[type[CdpError], ...] = (UsageError, Fenced)


def run_agent(config: Path, wish: Wish) -> int:
    """Run until told to stop; gives the exit code. Raises AlreadyRunning, ConfigInvalid, UsageError."""
    if wish.redo and wish.keep_disk:
        raise UsageError("cannot start", "--redo and --keep-disk contradict each other", "choose one of them")
    settings, _ = load_agent(config)
    directory = Path(settings.journal.directory)
    lock = take_lock(directory / "lock", SystemClock())
    try:
        refuse_half_done(directory)
        withdraw_all(directory)
        identity = _take_moved_disks(config)
        pages = SharedPages(directory / "shared")
        try:
            # The streamer of a run that was killed may live for a moment, and would bring its notes back.
            with streamer_lock(directory, SystemClock()):
                ran = ever_ran(directory)
                adopted = adopt_carried(directory, identity, ran)
                if wish or load_wish(directory):
                    _take_wish(directory, wish)
                elif not ran and not adopted:
                    _note_empty_volumes(directory, volumes_of(identity))
            accepted = keep_accepted(config, settings)
            watch = open_watch(settings, pages, SystemClock())
            return _supervise(accepted, directory, pages, watch, settings)
        finally:
            pages.close()
    finally:
        os.close(lock)


def _take_moved_disks(config: Path) -> AgentIdentity:
    """What agent.json says, where each disk is now. Raises ConfigInvalid, BackingUnreadable."""
    settings, before = load_agent(config)
    identity = moved_identity(settings, before)
    if identity != before:
        replace_file(Path(settings.journal.directory) / IDENTITY_NAME, encode_identity(identity))
    return identity


def _take_wish(directory: Path, wish: Wish) -> None:
    """Durable before anything starts: no export opens before the copy that every wish brings.

    A wish that an earlier start did not come to is still one. Raises UsageError where it must be said again.
    """
    if wish:
        save_wish(directory, wish)
    elif load_wish(directory).redo:
        # The disk may have been used since then: a redo would put old data over new.
        raise UsageError(
            "cannot start",
            "--redo was asked for earlier and is not done yet",
            "say --redo again, or --keep-disk if the disk was used since",
        )
    save_notes(directory, replace(load_notes(directory), whole=frozenset(), carried=NOWHERE))


def _note_empty_volumes(directory: Path, volumes: Sequence[VolumeSettings]) -> None:
    """At the first run of all: where no volume holds anything, all are whole and need no store to open.

    Nothing was captured yet, so the journal will hold every write that they ever get. If one holds
    something all are copied, which costs nothing for the empty ones.
    """
    notes = load_notes(directory)
    # A failover's first run that came to nothing: what the disks hold now is to be compared with its cut.
    empty = not notes.carried and holds_nothing(volumes)
    whole = frozenset(volume.space for volume in volumes) if empty else frozenset()
    save_notes(directory, replace(notes, whole=whole))


def ready_since(pages: SharedPages, directory: Path) -> Callable[[], str]:
    """Asks whether exports were opened since now, or are closed on purpose; what is to be said then, or "".

    One that was killed could not say that its exports are closed, but the next one has another generation.
    """
    last = pages.splitter.read()
    before = 0 if last is None else last.generation

    def standing() -> str:
        page = pages.splitter.read()
        if page is None or not page.running or page.generation == before:
            return ""
        release = release_members(load_notes(directory), 0) if page.writes_closed else None
        if release is not None:
            given = f"{release['state']} to site {release['to']!r}"
            return f"{given}: the exports stay closed; {release_hint(release)}"
        return "exports are open" if page.exports_open else ""

    return standing


def _supervise(
    config: Path, directory: Path, pages: SharedPages, watch: Watch | None, settings: AgentSettings
) -> int:
    def argv(process: str) -> tuple[str, ...]:
        return (sys.executable, "-m", "cdp_agent.cli.main", process, "--config", str(config))

    children = [
        ChildSpec(
            "splitter",
            argv("splitter-process"),
            frozenset(kind.exit_code for kind in SPLITTER_FINAL),
            ends_everything=True,
        ),
        ChildSpec(
            "streamer",
            argv("streamer-process"),
            frozenset(kind.exit_code for kind in STREAMER_FINAL),
            ends_everything=False,
            anew_codes=frozenset({VolumesChanged.exit_code}),
        ),
        # The last to be stopped: the streamer's last cut has the trees.
        ChildSpec(
            "watcher",
            argv("watcher-process"),
            frozenset({UsageError.exit_code}),
            ends_everything=False,
            wish=TreesWished(directory),
        ),
        ChildSpec(
            "imager",
            argv("imager-process"),
            frozenset({UsageError.exit_code}),
            ends_everything=False,
            wish=TreesWished(directory, _captured),
        ),
    ]

    supervisor = Supervisor(children, SystemClock(), ready_since(pages, directory), say)
    schedule = Schedule(argv("collector-process"), settings.collection.every, SystemClock())
    polled, ended = [schedule.poll], [schedule.stop]
    if settings.verification is not None:
        times = CalendarTimes(settings.verification.schedule)
        verifier = VerifierSchedule(argv("verifier-process"), times, SystemClock())
        polled, ended = [*polled, verifier.poll], [*ended, verifier.stop]
    if watch is not None:
        polled, ended = [*polled, watch.poll], [*ended, watch.finish]
    supervisor.watch = lambda: _all_of(polled)
    supervisor.last_look = lambda: _all_of(ended)
    return supervisor.run()


class TreesWished:
    """What the watcher is to watch, "" where there are no trees: agent.json says so, and `reload`.

    `of`: what of agent.json it is about; another one than trees for the imager.
    """

    def __init__(
        self, directory: Path, of: Callable[[AgentIdentity], object] = lambda identity: identity.active_trees
    ) -> None:
        self._directory = directory
        self._of = of
        self._seen: tuple[int, int] = (0, 0)
        self._wish = ""

    def __call__(self) -> str:
        """See `ChildSpec.wish`; as it was, where the file cannot be read just now."""
        try:
            found = os.stat(self._directory / IDENTITY_NAME)
            seen = found.st_ino, found.st_mtime_ns
            if seen != self._seen:
                found_there = self._of(load_identity(self._directory))
                self._wish = repr(found_there) if found_there else ""
                self._seen = seen
        except (OSError, CdpError):
            return self._wish
        return self._wish


def _captured(identity: AgentIdentity) -> object:
    """What the imager is to capture; nothing where there are no such volumes."""
    return identity.active_disks and (identity.active_disks, identity.active_vms)


def _all_of(calls: Sequence[Callable[[], None]]) -> None:
    for call in calls:
        call()


def die_with_parent() -> None:
    """Ask the kernel for SIGTERM when the supervisor dies, so that no child outlives the lock.

    A child that is told to stop drains its guests first; the next `run` finds the exports closed.
    """
    supervisor = os.environ.get(SUPERVISOR_PID) or str(os.getppid())
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    if str(os.getppid()) != supervisor:
        # It died while this process came to life, and the kernel will never tell.
        raise AlreadyRunning("cannot start", "the supervisor ended meanwhile", "run `cdp-agent run` again")
