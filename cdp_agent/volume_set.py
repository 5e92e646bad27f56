"""Which volumes agent.json names next, and how `reload` and a running splitter agree on it.

`reload` decides and leaves the decision in agent.wanted.json. A splitter that runs takes it from there, and
it alone writes agent.json then, in a time without writes, when nothing can fail any more: so agent.json
always names what is served, or what the next start serves. What does not belong here: opening disks
(`splitter`), what the administrator sees (`cli.reload`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, TypeAlias

from cdp_agent.identity import (
    IDENTITY_NAME,
    AgentIdentity,
    SourceIdentity,
    encode_identity,
    load_identity,
)
from cdp_agent.splitter.settings import VolumeSettings
from cdp_container.domain.durable import replace_file
from cdp_container.errors import BackingUnreadable, ReloadRefused

WANTED_NAME: Final = "agent.wanted.json"
SizeAndPath: TypeAlias = tuple[int, str]


def volumes_of(identity: AgentIdentity) -> tuple[VolumeSettings, ...]:
    """What the splitter serves by agent.json, in the order that journal records count by."""
    return tuple(
        VolumeSettings(source.name, Path(source.path), source.size_bytes, index, source.space)
        for index, source in identity.active.items()
    )


def removed_of(identity: AgentIdentity) -> frozenset[int]:
    """Indexes of the sources that are not protected any more."""
    return frozenset(range(len(identity.sources))) - frozenset(identity.active)


def changed_identity(
    identity: AgentIdentity, wanted: Mapping[str, SizeAndPath], entropy: Callable[[int], bytes]
) -> AgentIdentity:
    """agent.json with these volumes, given as size in bytes and path by their names.

    A source keeps its place for ever: what goes is marked, what comes is put behind all others.

    Raises BackingUnreadable where one would shrink, ReloadRefused where one is elsewhere now.
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
    if path != source.path:
        raise ReloadRefused(
            what,
            f"it is {source.path} now, and the configuration says {path}",
            "stop guests and agent, move the disk, and start them again; or put the path back",
        )
    if size_bytes < source.size_bytes:
        raise BackingUnreadable(
            what,
            f"{path} has {size_bytes} bytes, but had {source.size_bytes}: a protected volume cannot shrink",
            "put it back to its size, or protect a smaller disk under another name",
        )
    if size_bytes == source.size_bytes:
        return source
    return replace(source, size_bytes=size_bytes, resized=source.resized + 1)


@dataclass(frozen=True, slots=True)
class Decision:
    """Other volumes, as `reload` decided them. See `splitter.reloading.Decision`."""

    directory: Path
    before: AgentIdentity
    after: AgentIdentity

    @property
    def volumes(self) -> tuple[VolumeSettings, ...]:
        """All that are served from then on."""
        return volumes_of(self.after)

    @property
    def removed(self) -> frozenset[int]:
        """Indexes of the sources that are not."""
        return removed_of(self.after)

    def commit(self) -> None:
        """Make it what every start serves from here on, durably. Raises OSError: it is as it was before."""
        path = self.directory / IDENTITY_NAME
        try:
            replace_file(path, encode_identity(self.after))
        except OSError:
            replace_file(path, encode_identity(self.before))  # it may have the new name already
            raise

    def forget(self) -> None:
        """It was done or refused: nobody shall find it again."""
        (self.directory / WANTED_NAME).unlink(missing_ok=True)


def leave_decision(directory: Path, after: AgentIdentity) -> None:
    """For the splitter that runs."""
    replace_file(directory / WANTED_NAME, encode_identity(after))


def find_decision(directory: Path) -> Decision | None:
    """What was decided and is not done yet. Raises ConfigInvalid, ReloadRefused: it fits no more."""
    before = load_identity(directory)
    if not (directory / WANTED_NAME).exists():
        return None
    after = load_identity(directory, WANTED_NAME)
    if replace(after, sources=before.sources) != before or not _follows(before, after):
        raise ReloadRefused("cannot take over other volumes", "they were chosen for an older agent.json")
    return Decision(directory, before, after)


def _follows(before: AgentIdentity, after: AgentIdentity) -> bool:
    """Whether every source has its place yet: an index must never mean another volume."""
    return len(before.sources) <= len(after.sources) and all(
        (old.space, old.path, old.name) == (new.space, new.path, new.name)
        and new.size_bytes >= old.size_bytes
        and new.removed >= old.removed
        for old, new in zip(before.sources, after.sources, strict=False)
    )
