"""The trees of a domain at a cut as an agent protects them: under which ids, where, and which of their paths.

Both a failover and a failback make agent.json's trees of it, so that the history of a tree goes on. Restoring
them does not belong here (tree_restore, tree_return).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from cdp_container.domain.contents import Contents
from cdp_container.domain.identity import AgentIdentity, TreeIdentity
from cdp_container.domain.image import Branch, on_branch
from cdp_container.domain.namespace import Tree
from cdp_container.domain.settings import AgentSettings
from cdp_container.format.names import TreeRules


@dataclass(frozen=True, slots=True)
class TreePlace:
    """A tree of the domain and its directory on this machine.

    `rules`: which paths were protected, None where the container does not say it.
    """

    tree: Tree
    path: Path
    rules: TreeRules | None = None

    @property
    def identity(self) -> TreeIdentity:
        """As agent.json has it: the same tree, here."""
        rules = self.rules or TreeRules()
        return TreeIdentity(
            self.tree.name,
            str(self.path),
            self.tree.tree,
            rules.include,
            rules.exclude,
            rules.one_file_system,
        )


def rules_of(contents: Contents, branch: Branch) -> Mapping[bytes, TreeRules | None]:
    """Which paths of each tree are protected, by the tree's id, as the newest record on a branch says."""
    newest = sorted(contents.tree_records, key=lambda record: record.place)
    return {record.tree: record.rules for record in newest if on_branch(record.place, branch)}


def places_of(
    contents: Contents, branch: Branch, trees: Sequence[Tree], paths: Sequence[Path]
) -> tuple[TreePlace, ...]:
    """Trees with their directories, in the same order."""
    rules = rules_of(contents, branch)
    return tuple(TreePlace(tree, path, rules.get(tree.tree)) for tree, path in zip(trees, paths, strict=True))


def as_configured(identity: AgentIdentity, settings: AgentSettings) -> AgentIdentity:
    """agent.json with the rules that the administrator's configuration has for each tree."""
    said = {tree.name: tree for tree in settings.trees}
    trees = tuple(
        tree
        if tree.removed or tree.name not in said
        else replace(
            tree,
            include=tuple(said[tree.name].include),
            exclude=tuple(said[tree.name].exclude),
            one_file_system=said[tree.name].one_file_system,
        )
        for tree in identity.trees
    )
    return replace(identity, trees=trees)
