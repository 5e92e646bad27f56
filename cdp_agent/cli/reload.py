"""`cdp-agent reload`: take over other volumes from the configuration, while the agent serves the rest.

What is decided is written to agent.json, durably, before anybody acts on it: whoever starts from there on
opens just that. Then the splitter is told (SIGHUP); when its exports are as wished for, the streamer begins
anew. Everything else that the configuration says is read at the next start.
"""

from __future__ import annotations

import fcntl
import os
import signal
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, TypeAlias

import orjson

from cdp_agent.backing import inspect_backing
from cdp_agent.cli.children import load_agent
from cdp_agent.identity import IDENTITY_NAME, AgentIdentity, SourceIdentity, encode_identity
from cdp_agent.splitter.process import FACTS as SPLITTER_FACTS
from cdp_agent.splitter.process import LOCK as SPLITTER_LOCK
from cdp_agent.supervisor import STREAMER_LOCK, take_lock
from cdp_container.clock import Clock
from cdp_container.console import say
from cdp_container.domain.durable import replace_file
from cdp_container.errors import BackingUnreadable, CdpError, ReloadRefused

APPLIED_SECONDS_MAX: Final = 60.0
"""How long the splitter may take: writes that are under way, and a sync."""
POLL_SECONDS: Final = 0.1
SizeAndPath: TypeAlias = tuple[int, str]


def reload_agent(config: Path, clock: Clock, entropy: Callable[[int], bytes]) -> int:
    """Make the volumes what the configuration says; returns 0.

    Raises:
        ConfigInvalid, BackingUnreadable: the configuration or a disk is not fit; nothing was changed.
        ReloadRefused: the splitter could not do it; then nothing is changed.
    """
    settings, before = load_agent(config, other_volumes=True)
    directory = Path(settings.journal.directory)
    lock = take_lock(directory / "reload.lock", clock)
    try:
        wanted = {
            volume.name: (inspect_backing(volume.path).size_bytes, volume.path) for volume in settings.volumes
        }
        after = changed_identity(before, wanted, entropy)
        if after == before:
            say("nothing to do: the volumes are as they were")
            return 0
        for path in _added_paths(before, after):
            _refuse_locked(path)
        replace_file(directory / IDENTITY_NAME, encode_identity(after))
        _apply(directory, before, after, clock)
        for line in _changes(before, after):
            say(line)
    finally:
        os.close(lock)
    return 0


def changed_identity(
    identity: AgentIdentity, wanted: Mapping[str, SizeAndPath], entropy: Callable[[int], bytes]
) -> AgentIdentity:
    """agent.json with these volumes, given as size in bytes and path by their names.

    A source keeps its place for ever: what goes is marked, what comes is put behind all others.

    Raises BackingUnreadable where one would shrink or is another disk now.
    """
    sources = [
        source if source.removed else _changed(source, wanted.get(source.name)) for source in identity.sources
    ]
    known = {source.name for source in sources if not source.removed}
    for name, (size_bytes, path) in wanted.items():
        if name not in known:
            sources.append(SourceIdentity(name, path, entropy(16), size_bytes))
    return replace(identity, sources=tuple(sources))


def _changed(source: SourceIdentity, wanted: SizeAndPath | None) -> SourceIdentity:
    if wanted is None:
        return replace(source, removed=True)
    size_bytes, path = wanted
    what = f"cannot take over volume {source.name}"
    if size_bytes < source.size_bytes:
        raise BackingUnreadable(
            what,
            f"{path} has {size_bytes} bytes, but had {source.size_bytes}: a protected volume cannot shrink",
            "put it back to its size, or protect a smaller disk under another name",
        )
    if size_bytes == source.size_bytes:
        return source
    return replace(source, size_bytes=size_bytes, resized=source.resized + 1)


def _apply(directory: Path, before: AgentIdentity, after: AgentIdentity, clock: Clock) -> None:
    """Have a running agent do it; agent.json is put back if it cannot."""
    facts = _read_facts(directory / SPLITTER_FACTS)
    count = facts.get("reloads", 0)
    pid = holder_of(directory / SPLITTER_LOCK)
    if pid is None:
        say("the agent does not run: it is done at its next start")
        return
    os.kill(pid, signal.SIGHUP)
    until_ns = clock.boottime_ns() + int(APPLIED_SECONDS_MAX * 1e9)
    while clock.boottime_ns() < until_ns:
        facts = _read_facts(directory / SPLITTER_FACTS)
        if facts.get("reloads", 0) > count and facts.get("reload_error"):
            replace_file(directory / IDENTITY_NAME, encode_identity(before))
            raise ReloadRefused("the splitter goes on with the volumes that it had", facts["reload_error"])
        if _shown(facts) == {source.name: source.size_bytes for source in after.active.values()}:
            streamer = holder_of(directory / STREAMER_LOCK)
            if streamer is not None:
                os.kill(streamer, signal.SIGTERM)  # the supervisor starts it again
            return
        clock.sleep(POLL_SECONDS)
    raise ReloadRefused(
        "the volumes are not what they should be yet",
        f"the splitter did not say so within {APPLIED_SECONDS_MAX:g} s",
        "look at `cdp-agent status` and its log; agent.json holds what is wished for, the next start does it",
    )


def _read_facts(path: Path) -> dict[str, Any]:
    """What the splitter shows; nothing while it has shown nothing."""
    try:
        found = orjson.loads(path.read_bytes())
    except (FileNotFoundError, orjson.JSONDecodeError):
        return {}
    return found if isinstance(found, dict) else {}


def _shown(facts: Mapping[str, Any]) -> dict[str, int]:
    return {volume["name"]: volume.get("size_bytes", -1) for volume in facts.get("volumes", ())}


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
    lines += [f"{new.name}: protected from now on" for new in after.sources[len(before.sources) :]]
    return lines
