"""The names of a tree, from a container's heads to a directory that can be browsed: a process of its own.

    python -m bench.names_alone STORE PRIVATE_KEY_FILE TARGET

Heads are gathered first, which does not count. What counts begins with them: the table of names is filled and
checked whole, all names are laid out, and everything gets its attributes, directories last. Then the file
system is synced, which does not count either. Prints seconds, CPU seconds and names, as JSON.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from contextlib import closing
from pathlib import Path

from cdp_container.domain.image import cuts_of
from cdp_container.domain.namespace import trees_of
from cdp_container.store.address import open_store
from rehydrate.container import Secret, open_container
from rehydrate.tree_restore import lay_out, plan_tree
from rehydrate.tree_target import Ways, open_tree_target


def main() -> None:
    """See the module."""
    address, key, target = sys.argv[1:]
    with closing(open_store(address)) as store:
        container = open_container(store, Secret(private_key=bytes.fromhex(Path(key).read_text())))
        branch = container.history.branch_of(container.history.newest)
        with closing(container.gather(branch, keeps_names=True)) as contents:
            cut = max(cuts_of(contents, branch), key=lambda cut: cut.place)
            (tree,) = trees_of(contents, branch, cut)
            began, cpu_began = time.monotonic(), _cpu_seconds()
            with plan_tree(contents, branch, tree) as plan, open_tree_target(Path(target), Ways()) as opened:
                laid = lay_out(plan, opened)
                opened.settle(plan.namespace.directories(tree), lambda names: None)
                seconds, cpu_seconds = time.monotonic() - began, _cpu_seconds() - cpu_began
    print(json.dumps({"seconds": seconds, "cpu_seconds": cpu_seconds, "names": laid.names}))


def _cpu_seconds() -> float:
    """Ours, and that of the processes that made files and have ended."""
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


if __name__ == "__main__":
    main()
