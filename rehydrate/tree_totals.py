"""What restoring a tree takes, before anything is written: names, files, requests and bytes.

What is there already is not looked at: of an existing directory a restore takes less.
"""

from __future__ import annotations

from dataclasses import dataclass

from cdp_container.domain.image import Branch
from cdp_container.domain.namespace import Tree
from rehydrate.plan import Totals
from rehydrate.restore import Source
from rehydrate.tree_restore import plan_content, plan_tree
from rehydrate.tree_target import NEW, Laid


@dataclass(frozen=True, slots=True)
class TreeTotals:
    """What a tree takes. `names` with its own directory; `content_bytes`: of all files, each content once."""

    tree: Tree
    names: int
    files: int
    content_bytes: int
    totals: Totals


def totals_of(source: Source, branch: Branch, tree: Tree) -> TreeTotals:
    """The exact totals of a restore into an empty directory; all names are checked whole.

    Raises as `plan_tree` does. `source` was gathered with names.
    """
    with plan_tree(source.contents, branch, tree) as plan:
        laid = Laid()
        for entry in plan.files():
            laid.add(entry.what, NEW)
        totals = plan_content(source, plan, laid).totals
        return TreeTotals(tree, plan.names, len(laid.sizes), sum(laid.sizes), totals)
