"""The site that gets its domain back: its directory, who it is, and where its volumes and trees lie."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from cdp_container.domain.identity import AgentIdentity, SourceIdentity, TreeIdentity
from cdp_container.domain.image import Volume
from cdp_container.domain.namespace import Tree


@dataclass(frozen=True, slots=True)
class Here:
    """This site.

    Attributes:
        directory: the journal directory.
        identity: its agent.json.
        paths: where each volume lies, by its name.
        boot: the boot id of this machine, 16 bytes.
        configured: the names in the configuration of the agent that will be started, None if none will.
        trees: where each tree lies, and which of its paths are protected, by its name; the ids do not count.
        configured_trees: as `configured`.
    """

    directory: Path
    identity: AgentIdentity
    paths: Mapping[str, str]
    boot: bytes
    configured: frozenset[str] | None = None
    trees: Mapping[str, TreeIdentity] = field(default_factory=dict)
    configured_trees: frozenset[str] | None = None

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

    def tree_identities(self, trees: Sequence[Tree]) -> tuple[TreeIdentity, ...]:
        """The trees of agent.json with these; those that are there keep their places."""
        left = {tree.tree: tree for tree in trees}
        found = []
        for known in self.identity.trees:
            tree = left.pop(known.tree, None)
            found.append(replace(known, removed=True) if tree is None else self._tree(tree))
        return (*found, *(self._tree(tree) for tree in left.values()))

    def _tree(self, tree: Tree) -> TreeIdentity:
        return replace(self.trees[tree.name], tree=tree.tree, name=tree.name, removed=False)

    def _source(self, volume: Volume) -> SourceIdentity:
        return SourceIdentity(volume.name, self.paths[volume.name], volume.space, volume.size_bytes)
