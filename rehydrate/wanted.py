"""What somebody wants restored, volumes and trees, and whether a cut has it whole.

Which cut is taken does not belong here (points, plan), nor where anything is restored to.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cdp_container.domain.contents import Contents
from cdp_container.domain.image import Branch, Cut, Volume
from cdp_container.domain.namespace import Tree, trees_of
from cdp_container.errors import NoSuchPoint, NoSuchVolume


@dataclass(frozen=True, slots=True)
class Wanted:
    """Volumes and trees by their names or ids; without names all volumes, unless `volumes` says none.

    `whole_domain`: every volume and tree that there is at the cut, but for the trees `without`.
    """

    names: tuple[str, ...] = ()
    trees: tuple[str, ...] = ()
    volumes: bool = True
    whole_domain: bool = False
    without: tuple[str, ...] = ()

    def leaves_out(self, tree: Tree) -> bool:
        """Whether a tree of the domain is not wanted."""
        return tree.name in self.without or tree.tree.hex() in self.without


def check_known(contents: Contents, wanted: Wanted) -> None:
    """Raises NoSuchVolume where what is wanted stands in no record at all."""
    named = [record for record in contents.space_records if "name" in record.value]
    volumes = {str(record.value["name"]): record.space.hex() for record in named}
    trees = {record.title: record.tree.hex() for record in contents.tree_records if record.title}
    named_trees = (*wanted.trees, *wanted.without)
    for noun, names, known in (("volume", wanted.names, volumes), ("tree", named_trees, trees)):
        ids = {record.space.hex() for record in named} if noun == "volume" else set(trees.values())
        for name in names:
            if name not in known and name not in ids:
                why = f"no point that could be meant has it; there are: {', '.join(sorted(known)) or 'none'}"
                raise NoSuchVolume(f"find the {noun} {name!r}", why)
    if wanted.volumes and trees and not volumes and not wanted.whole_domain:
        raise NoSuchVolume(
            "find a volume",
            f"no point that could be meant has one; there are trees: {', '.join(sorted(trees))}",
            "`rehydrate restore ADDRESS --tree NAME=DIRECTORY` restores a tree, and shows its totals",
        )


def unfit(volumes: Sequence[Volume], trees: Sequence[Tree], wanted: Wanted) -> str:
    """Why these are not what is wanted; empty where they are."""
    if wanted.whole_domain:
        if not volumes and not trees:
            return "there is no volume and no tree there"
        meant = [tree for tree in trees if not wanted.leaves_out(tree)]
        return _partial([*volumes, *meant])
    known = {part for volume in volumes for part in (volume.name, volume.space.hex())}
    known_trees = {part for tree in trees for part in (tree.name, tree.tree.hex())}
    absent = [name for name in wanted.names if name not in known]
    absent += [name for name in wanted.trees if name not in known_trees]
    if absent or (wanted.volumes and not volumes):
        return f"there is no {', '.join(absent) or 'volume'} there"
    names = set(wanted.names)
    mine = set(wanted.trees)
    chosen = [tree for tree in trees if {tree.name, tree.tree.hex()} & mine]
    if not wanted.volumes:
        return _partial(chosen)
    picked = [volume for volume in volumes if not names or {volume.name, volume.space.hex()} & names]
    return _partial([*picked, *chosen])


def _partial(sources: Sequence[Volume | Tree]) -> str:
    """Which of them are not whole, in words."""
    partial = [source.name for source in sources if not source.whole]
    return f"{', '.join(partial)} {'is' if len(partial) == 1 else 'are'} not whole there" if partial else ""


def pick_trees(contents: Contents, branch: Branch, cut: Cut, wanted: Wanted) -> list[Tree]:
    """The trees that are wanted. Raises NoSuchVolume; NoSuchPoint where one is not whole."""
    point = f"{cut.place.epoch}.{cut.place.cut}"
    trees = trees_of(contents, branch, cut)
    names = wanted.trees
    if wanted.whole_domain:
        names = tuple(tree.tree.hex() for tree in trees if not wanted.leaves_out(tree))
    picked = []
    for name in names:
        found = [tree for tree in trees if name in (tree.name, tree.tree.hex())]
        what = f"find the tree {name!r} at {point}"
        if not found:
            raise NoSuchVolume(what, f"there are: {', '.join(tree.name for tree in trees) or 'none'}")
        if len(found) > 1:
            ids = ", ".join(tree.tree.hex() for tree in found)
            raise NoSuchVolume(what, f"several have this name; their ids are {ids}", "name one by its id")
        if not found[0].whole:
            why = "not everything that it held is in the container at this point"
            raise NoSuchPoint(f"restore the tree {found[0].name!r} at {point}", why, "choose another point")
        picked.append(found[0])
    return picked
