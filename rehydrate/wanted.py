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
    """Volumes and trees by their names or ids; without names all volumes, unless `volumes` says none."""

    names: tuple[str, ...] = ()
    trees: tuple[str, ...] = ()
    volumes: bool = True


def check_known(contents: Contents, wanted: Wanted) -> None:
    """Raises NoSuchVolume where what is wanted stands in no record at all."""
    named = [record for record in contents.space_records if "name" in record.value]
    volumes = {str(record.value["name"]): record.space.hex() for record in named}
    trees = {record.title: record.tree.hex() for record in contents.tree_records if record.title}
    for noun, names, known in (("volume", wanted.names, volumes), ("tree", wanted.trees, trees)):
        ids = {record.space.hex() for record in named} if noun == "volume" else set(trees.values())
        for name in names:
            if name not in known and name not in ids:
                why = f"no point that could be meant has it; there are: {', '.join(sorted(known)) or 'none'}"
                raise NoSuchVolume(f"find the {noun} {name!r}", why)
    if wanted.volumes and trees and not volumes:
        raise NoSuchVolume(
            "find a volume",
            f"no point that could be meant has one; there are trees: {', '.join(sorted(trees))}",
            "`rehydrate restore ADDRESS --tree NAME=DIRECTORY` restores a tree, and shows its totals",
        )


def unfit(volumes: Sequence[Volume], trees: Sequence[Tree], wanted: Wanted) -> str:
    """Why these are not what is wanted; empty where they are."""
    known = {part for volume in volumes for part in (volume.name, volume.space.hex())}
    known_trees = {part for tree in trees for part in (tree.name, tree.tree.hex())}
    absent = [name for name in wanted.names if name not in known]
    absent += [name for name in wanted.trees if name not in known_trees]
    if absent or (wanted.volumes and not volumes):
        return f"there is no {', '.join(absent) or 'volume'} there"
    names = set(wanted.names)
    meant = [volume for volume in volumes if not names or {volume.name, volume.space.hex()} & names]
    partial = [volume.name for volume in meant if wanted.volumes and not volume.whole]
    mine = set(wanted.trees)
    partial += [tree.name for tree in trees if not tree.whole and {tree.name, tree.tree.hex()} & mine]
    return f"{', '.join(partial)} {'is' if len(partial) == 1 else 'are'} not whole there" if partial else ""


def pick_trees(contents: Contents, branch: Branch, cut: Cut, names: Sequence[str]) -> list[Tree]:
    """The trees of these names or ids. Raises NoSuchVolume; NoSuchPoint where one is not whole."""
    point = f"{cut.place.epoch}.{cut.place.cut}"
    trees = trees_of(contents, branch, cut)
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
            raise NoSuchPoint(f"restore the tree {name!r} at {point}", why, "choose a later point")
        picked.append(found[0])
    return picked
