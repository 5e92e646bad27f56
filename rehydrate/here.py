"""The site that gets its domain back: its directory, who it is, and where its volumes lie."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from cdp_container.domain.identity import AgentIdentity, SourceIdentity
from cdp_container.domain.image import Volume


@dataclass(frozen=True, slots=True)
class Here:
    """This site.

    Attributes:
        directory: the journal directory.
        identity: its agent.json.
        paths: where each volume lies, by its name.
        boot: the boot id of this machine, 16 bytes.
        configured: the names in the configuration of the agent that will be started, None if none will.
    """

    directory: Path
    identity: AgentIdentity
    paths: Mapping[str, str]
    boot: bytes
    configured: frozenset[str] | None = None

    def index_of(self, volume: Volume) -> int | None:
        """The source that is this volume, be it protected still or not; None for a new one."""
        found = (index for index, source in enumerate(self.identity.sources) if source.space == volume.space)
        return next(found, None)

    def sources(self, volumes: Sequence[Volume]) -> tuple[SourceIdentity, ...]:
        """The sources of agent.json with these volumes; each keeps its index, as old journals name it so."""
        left = {volume.space: volume for volume in volumes}
        found = []
        for source in self.identity.sources:
            volume = left.pop(source.space, None)
            if volume is None:
                found.append(replace(source, removed=True))
            else:
                mine = self._source(volume)
                found.append(replace(mine, resized=source.resized))
        return (*found, *(self._source(volume) for volume in left.values()))

    def _source(self, volume: Volume) -> SourceIdentity:
        return SourceIdentity(volume.name, self.paths[volume.name], volume.space, volume.size_bytes)
