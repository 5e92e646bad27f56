"""The agent onto whose exports a VM goes: whether it serves, and what is known of its volumes.

What of that stands against an adoption does not belong here (`checks`).
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

from cdp_agent.adopting.checks import Volume
from cdp_agent.adopting.turn import Agent
from cdp_agent.splitter.settings import LOCK_NAME as SPLITTER_LOCK
from cdp_agent.streamer.copy import Volume as Copied
from cdp_agent.streamer.copy import is_empty
from cdp_agent.supervisor import is_locked
from cdp_agent.vms.qmp_answers import source_of
from cdp_container.domain.identity import AgentIdentity, SourceIdentity, VmIdentity
from cdp_container.domain.notes import load_notes
from cdp_container.errors import BackingUnreadable
from cdp_container.journal.record import JOURNAL_FILE_BYTES
from cdp_container.journal.shared import SharedPages, SplitterPage

_PROGRAMS: Final = ("qemu", "kvm")
"""What a QEMU's process is called, or a part of it."""


def agent_now(directory: Path) -> Agent:
    """How the agent of a journal directory is just now."""
    if not is_locked(directory / "lock") or not is_locked(directory / SPLITTER_LOCK):
        return Agent("the agent is not running")
    if not (directory / "shared").exists():
        return Agent("the agent never ran")
    pages = SharedPages(directory / "shared")
    try:
        page = pages.splitter.read() or SplitterPage()
    finally:
        pages.close()
    notes = load_notes(directory)
    if notes.fenced or notes.released_to or notes.releasing_to:
        return Agent("the domain is another site's, or about to be")
    if not page.running or not page.exports_open:
        return Agent("the agent's exports are not open")
    # What is in its newest file stays in use, whether it was sent or not.
    is_much = page.limit_bytes and page.used_bytes > JOURNAL_FILE_BYTES
    part = page.used_bytes / page.limit_bytes if is_much else 0.0
    return Agent("", part, page.overflowed)


def volumes_of(identity: AgentIdentity, vm: VmIdentity, pid: int) -> dict[str, Volume]:
    """All volumes of the domain, as `pid`, the VM's QEMU, has them or not. Raises BackingUnreadable."""
    opened = _files_of(pid)
    others: dict[str, list[str]] = {}
    for other in identity.active_vms:
        for name in (volume for _, volume in other.disks if volume is not None and other.vm != vm.vm):
            others.setdefault(name, []).append(other.name)
    return {
        source.name: _volume(source, tuple(others.get(source.name, ())), opened)
        for source in identity.active.values()
    }


def holds_something(identity: AgentIdentity, name: str) -> bool:
    """Whether a volume is not empty; reads until it knows. Raises BackingUnreadable, DeviceError."""
    index, source = next((i, one) for i, one in identity.active.items() if one.name == name)
    return not is_empty(Copied(index, Path(source.path), source.size_bytes))


def volume_of(file: str, sockets: Iterable[str], names: Mapping[str, bytes]) -> str | None:
    """The volume whose export QEMU's name of a file leads to, None where it leads elsewhere.

    `sockets`: where the exports are; `names`: the exports that there are.
    """
    source = source_of(file)
    if source.export is None or source.server is None or source.export not in names:
        return None
    ours = {os.path.realpath(one) if one.startswith("/") else one for one in sockets}
    server = os.path.realpath(source.server) if source.server.startswith("/") else source.server
    return source.export if server in ours else None


def _volume(
    source: SourceIdentity, of_vms: tuple[str, ...], opened: frozenset[tuple[int, int]] | None
) -> Volume:
    try:
        found = os.stat(source.path)
        is_file = stat.S_ISREG(found.st_mode)
        free = os.statvfs(source.path) if is_file else None
    except OSError as error:
        raise BackingUnreadable(f"cannot look at {source.path}", error.strerror or "unreadable") from error
    return Volume(
        name=source.name,
        space=source.space,
        size_bytes=source.size_bytes,
        allocated_bytes=found.st_blocks * 512,
        free_bytes=None if free is None else free.f_bavail * free.f_frsize,
        place=found.st_dev,
        of_vms=of_vms,
        is_open_in_vm=None if opened is None else _which(found) in opened,
    )


def _which(found: os.stat_result) -> tuple[int, int]:
    """What a file is, by whatever name: a device is the same through every node of it."""
    return (-1, found.st_rdev) if stat.S_ISBLK(found.st_mode) else (found.st_dev, found.st_ino)


def _files_of(pid: int) -> frozenset[tuple[int, int]] | None:
    """What a process has open; None where we may not look."""
    folder = Path(f"/proc/{pid}/fd")
    found = set()
    try:
        name = Path(f"/proc/{pid}/comm").read_text()
        if not any(word in name for word in _PROGRAMS):
            return None  # who made the socket handed it over: which process it is now cannot be told
        for path in list(folder.iterdir()):
            try:
                found.add(_which(path.stat()))
            except FileNotFoundError:
                continue  # closed meanwhile
    except OSError:
        return None
    return frozenset(found)
