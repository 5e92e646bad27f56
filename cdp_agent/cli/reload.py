"""`cdp-agent reload`: take over other volumes and trees from the configuration, while the agent goes on.

What is decided here is left for the splitter (`volume_set`), which does all of it or nothing; the streamer
sees that other sources are protected, and begins anew, and the supervisor starts the watcher anew.
`retention` and `replicas` are taken over, too. All else that the configuration says is read at the next
start.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import orjson

from cdp_agent.backing import inspect_backing
from cdp_agent.cli.accepted import take_policy
from cdp_agent.cli.children import load_agent
from cdp_agent.imager.sizes import disk_sizes
from cdp_agent.releases import released
from cdp_agent.splitter.settings import FACTS_NAME as SPLITTER_FACTS
from cdp_agent.splitter.settings import LOCK_NAME as SPLITTER_LOCK
from cdp_agent.streamer.control import CONFIGURE_COMMAND, call
from cdp_agent.supervisor import take_lock
from cdp_agent.tree_paths import refuse_trees
from cdp_agent.volume_set import Decision, changed_identity, changed_trees, withdraw_all
from cdp_container.clock import Clock
from cdp_container.console import say
from cdp_container.domain.disk_settings import changed_disks
from cdp_container.domain.identity import AgentIdentity, load_identity
from cdp_container.domain.notes import load_notes
from cdp_container.domain.vm_settings import changed_vms
from cdp_container.errors import AlreadyRunning, BackingUnreadable, CdpError, ReloadRefused

APPLIED_SECONDS_MAX: Final = 60.0
"""How long the splitter may take: writes that are under way, and a sync."""
POLL_SECONDS: Final = 0.1
CONFIGURE_SECONDS_MAX: Final = 5.0
"""The streamer's answer says that it looks, and not that it is done."""


def reload_agent(config: Path, clock: Clock, entropy: Callable[[int], bytes]) -> int:
    """Make the volumes what the configuration says; returns 0.

    Raises:
        ConfigInvalid, BackingUnreadable: the configuration or a disk is not fit; nothing was changed.
        DomainReleased: the volumes stay as they are handed over; likewise.
        ReloadRefused: the splitter could not do it; likewise.
    """
    settings, before = load_agent(config, other_volumes=True)
    directory = Path(settings.journal.directory)
    lock = take_lock(directory / "reload.lock", clock)
    try:
        withdraw_all(directory)  # of a reload that was killed: from here on nobody does it
        before = load_identity(directory)
        given_up = released("cannot take over other volumes", before.site, load_notes(directory))
        if given_up:
            raise given_up
        wanted = {
            volume.name: (inspect_backing(volume.path).size_bytes, volume.path) for volume in settings.volumes
        }
        refuse_trees(settings)
        after = changed_trees(changed_identity(before, wanted, entropy), settings.trees, entropy)
        after = changed_vms(after, settings.vms, entropy)
        after = changed_disks(after, settings.disks, disk_sizes(settings, clock, before), entropy)
        if take_policy(config, settings):
            _have_policy_seen(directory)
        elif after == before:
            say("nothing to do: volumes, trees and VMs are as they were")
        if after == before:
            return 0
        for path in _added_paths(before, after):
            _refuse_locked(path)
        decision = Decision(directory, entropy(8).hex(), before, after)
        splitter = holder_of(directory / SPLITTER_LOCK)
        if splitter is None:
            _do_it(decision, clock)
        else:
            _have_it_done(decision, splitter, clock)
        for line in _changes(before, after):
            say(line)
    finally:
        os.close(lock)
    return 0


def _have_policy_seen(directory: Path) -> None:
    """The streamer that runs looks at once; another one does when it owns the domain."""
    with contextlib.suppress(OSError):
        call(directory, {"command": CONFIGURE_COMMAND}, CONFIGURE_SECONDS_MAX)
    say("retention, replicas: the owner puts them into the container; collection goes by them from then on")


def _do_it(decision: Decision, clock: Clock) -> None:
    """No agent runs, and none may start before it is done."""
    try:
        lock = take_lock(decision.directory / "lock", clock, wait_seconds=0)
    except AlreadyRunning as error:
        why = f"the agent runs without its splitter now ({error.why})"
        raise ReloadRefused("cannot take over other volumes", why, "try again in a moment") from error
    try:
        decision.leave()
        decision.commit()
    finally:
        os.close(lock)
    say("the agent does not run: it is done at its next start")


def _have_it_done(decision: Decision, splitter: int, clock: Clock) -> None:
    """By the splitter that runs. Raises ReloadRefused: it did not do it, and will not."""
    decision.leave()
    os.kill(splitter, signal.SIGHUP)
    until_ns = clock.boottime_ns() + int(APPLIED_SECONDS_MAX * 1e9)
    while clock.boottime_ns() < until_ns:
        found = _read_facts(decision.directory / SPLITTER_FACTS).get("reload", {})
        if found.get("name") == decision.name and not found.get("error"):
            return
        if found.get("name") == decision.name:
            raise ReloadRefused("the splitter goes on with the volumes that it had", found["error"])
        clock.sleep(POLL_SECONDS)
    if decision.withdraw():
        why = f"the splitter did not come to it within {APPLIED_SECONDS_MAX:g} s"
        raise ReloadRefused("the volumes are as they were", why, "look at `cdp-agent status` and its log")
    raise ReloadRefused(
        "nobody knows yet what came of it",
        "the splitter began with it, and says nothing any more",
        "look at `cdp-agent status`; `cdp-agent reload` says whether there is something to do yet",
    )


def _read_facts(path: Path) -> dict[str, Any]:
    """What the splitter shows; nothing while it has shown nothing."""
    try:
        found = orjson.loads(path.read_bytes())
    except (FileNotFoundError, orjson.JSONDecodeError):
        return {}
    return found if isinstance(found, dict) else {}


def holder_of(path: Path) -> int | None:
    """The process that holds a lock, None where nobody does. Raises CdpError where it cannot be looked at."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    except OSError as error:
        why = error.strerror or "refused"
        raise CdpError(f"cannot look at {path}", why, "run as the agent's user") from error
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        written = os.pread(fd, 32, 0).strip()
        return int(written) if written.isdigit() else None
    finally:
        os.close(fd)
    return None


def _added_paths(before: AgentIdentity, after: AgentIdentity) -> list[str]:
    return [source.path for source in after.sources[len(before.sources) :]]


def _refuse_locked(path: str) -> None:
    """Better now than by a splitter that was told to open it."""
    try:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        raise BackingUnreadable(f"cannot protect {path}", error.strerror or "it cannot be opened") from error
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise BackingUnreadable(f"cannot protect {path}", "another process has locked it") from None
    finally:
        os.close(fd)


def _changes(before: AgentIdentity, after: AgentIdentity) -> list[str]:
    """What was done, for the administrator."""
    lines = []
    for old, new in zip(before.sources, after.sources, strict=False):
        if new.removed and not old.removed:
            lines.append(f"{new.name}: not protected any more; earlier recovery points keep it")
        elif new.size_bytes != old.size_bytes:
            lines.append(f"{new.name}: {new.size_bytes} bytes now; clients see it when they connect anew")
    lines += [
        f"{new.name}: captured from now on, and being copied" for new in after.sources[len(before.sources) :]
    ]
    return lines + _disk_changes(before, after) + _tree_changes(before, after) + _vm_changes(before, after)


def _disk_changes(before: AgentIdentity, after: AgentIdentity) -> list[str]:
    lines = []
    for old, new in zip(before.disks, after.disks, strict=False):
        if new.removed and not old.removed:
            lines.append(f"{new.name}: not protected any more; earlier recovery points keep it")
        elif new != old:
            where = f"disk {new.disk} of VM {new.vm}, {new.size_bytes} bytes"
            lines.append(f"{new.name}: {where} from now on; all of it is compared")
    added = after.disks[len(before.disks) :]
    return lines + [f"{new.name}: captured from VM {new.vm} from now on, and being read" for new in added]


def _vm_changes(before: AgentIdentity, after: AgentIdentity) -> list[str]:
    lines = []
    for old, new in zip(before.vms, after.vms, strict=False):
        if new.removed and not old.removed:
            lines.append(f"VM {new.name}: not in the domain any more; earlier recovery points keep it")
        elif new != old:
            lines.append(f"VM {new.name}: asked at {new.at} from now on")
    lines += [f"VM {new.name}: its configuration is protected" for new in after.vms[len(before.vms) :]]
    return lines


def _tree_changes(before: AgentIdentity, after: AgentIdentity) -> list[str]:
    lines = []
    for old, new in zip(before.trees, after.trees, strict=False):
        if new.removed and not old.removed:
            lines.append(f"{new.name}: not protected any more; earlier recovery points keep it")
        elif new != old:
            lines.append(f"{new.name}: {new.path} from now on, with the options of the configuration")
    return lines + [f"{new.name}: watched from now on, and read" for new in after.trees[len(before.trees) :]]
