"""`cdp-agent run`: lock the journal directory and supervise splitter and streamer."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from cdp_agent.cli.children import load_agent, volumes_of
from cdp_agent.splitter.settings import VolumeSettings
from cdp_agent.streamer.copy import Volume, is_empty
from cdp_agent.supervisor import ChildSpec, Supervisor, take_lock
from cdp_container.clock import SystemClock
from cdp_container.console import say
from cdp_container.domain.notes import load_notes, save_notes
from cdp_container.errors import (
    AlreadyRunning,
    BackingChanged,
    BackingUnreadable,
    CdpError,
    ConfigInvalid,
    Fenced,
    UsageError,
)
from cdp_container.journal.shared import SharedPages

PR_SET_PDEATHSIG = 1

# Starting these again is no use before somebody acted: the run ends and says why.
SPLITTER_FINAL: tuple[type[CdpError], ...] = (
    UsageError,
    ConfigInvalid,
    AlreadyRunning,
    BackingUnreadable,
    BackingChanged,
)
# The splitter goes on serving guests without a streamer.
STREAMER_FINAL: tuple[type[CdpError], ...] = (UsageError, ConfigInvalid, Fenced)


@dataclass(frozen=True, slots=True)
class Wanted:
    """What an operator asked for, once: how to mend what is not clear at the start."""

    redo: bool = False
    full_copy: bool = False
    keep_disk: bool = False

    @property
    def copies(self) -> bool:
        """Whether the volumes are copied again: a disk that is kept differs from the container."""
        return self.full_copy or self.keep_disk

    def flags(self) -> tuple[str, ...]:
        """As options of the splitter's process."""
        named = {"--redo": self.redo, "--full-copy": self.copies, "--keep-disk": self.keep_disk}
        return tuple(flag for flag, wanted in named.items() if wanted)


def run_agent(config: Path, wanted: Wanted) -> int:
    """Run until told to stop; gives the exit code. Raises AlreadyRunning, ConfigInvalid, UsageError."""
    if wanted.redo and wanted.keep_disk:
        raise UsageError("cannot start", "--redo and --keep-disk contradict each other", "choose one of them")
    settings, identity = load_agent(config)
    directory = Path(settings.journal.directory)
    lock = take_lock(directory / "lock")
    try:
        pages = SharedPages(directory / "shared")
        try:
            if wanted.copies:
                # Durable before anything starts: whatever comes, no export opens before the copy is done.
                save_notes(directory, replace(load_notes(directory), whole=frozenset()))
            elif pages.splitter.read() is None:
                _note_empty_volumes(directory, volumes_of(settings, identity))
            return _supervise(config, pages, wanted)
        finally:
            pages.close()
    finally:
        os.close(lock)


def _note_empty_volumes(directory: Path, volumes: Sequence[VolumeSettings]) -> None:
    """At the first run of all: a volume that holds nothing is whole at once, and needs no store to open.

    Nothing was captured yet, so the journal will hold every write that it ever gets.
    """
    empty = [
        volume.space
        for volume in volumes
        if is_empty(Volume(volume.index, volume.backing, volume.size_bytes))
    ]
    notes = load_notes(directory)
    save_notes(directory, replace(notes, whole=notes.whole | frozenset(empty)))


def _supervise(config: Path, pages: SharedPages, wanted: Wanted) -> int:
    def argv(process: str, *flags: str) -> tuple[str, ...]:
        return (sys.executable, "-m", "cdp_agent.cli.app", process, "--config", str(config), *flags)

    children = [
        ChildSpec(
            "splitter",
            argv("splitter-process"),
            frozenset(kind.exit_code for kind in SPLITTER_FINAL),
            ends_everything=True,
            first_argv=argv("splitter-process", *wanted.flags()),
        ),
        ChildSpec(
            "streamer",
            argv("streamer-process"),
            frozenset(kind.exit_code for kind in STREAMER_FINAL),
            ends_everything=False,
        ),
    ]

    def exports_open() -> bool:
        page = pages.splitter.read()
        return page is not None and page.running and page.exports_open

    return Supervisor(children, SystemClock(), exports_open, say).run()


def die_with_parent() -> None:
    """Ask the kernel for SIGTERM when the supervisor dies, so that no child outlives the lock.

    A child that is told to stop drains its guests first; the next `run` finds the exports closed.
    """
    parent = os.getppid()
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    if os.getppid() != parent:
        raise AlreadyRunning("cannot start", "the supervisor ended meanwhile", "run `cdp-agent run` again")
