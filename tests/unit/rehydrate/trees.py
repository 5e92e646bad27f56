"""Restoring a tree of a test's container, for the tests of the reading side."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from cdp_container.clock import SystemClock
from cdp_container.domain.gathering import gather
from cdp_container.domain.image import cuts_of
from cdp_container.domain.ledgers import read_ledger
from cdp_container.domain.namespace import trees_of
from cdp_container.errors import NotFound
from cdp_container.format.place import Place
from cdp_container.store.memory import MemoryStore
from rehydrate.plan import Totals
from rehydrate.restore import Source
from rehydrate.tree_attributes import NotSet
from rehydrate.tree_restore import fill, finish, lay_out, plan_content, plan_tree
from rehydrate.tree_select import Selection
from rehydrate.tree_target import Ways, open_tree_target
from tests.containers import Site
from tests.trees import State, expected_of, found_in


class CountingStore(MemoryStore):
    """Notes what ranges are asked for; `hides_content`: what does not begin an object is gone."""

    def __init__(self) -> None:
        super().__init__(SystemClock())
        self.asked: list[tuple[str, int, int]] = []
        self.hides_content = False

    def get_range(self, key: str, start: int, length: int) -> bytes:
        self.asked.append((key, start, length))
        if start and self.hides_content:
            raise NotFound(key, "it is gone")
        return super().get_range(key, start, length)


@dataclass
class Done:
    """What a restore did. `told`: names that it was told of; `reported`: content."""

    totals: Totals
    planned: Totals
    not_set: NotSet
    removed: int
    told: int
    reported: Totals


@contextmanager
def source_of(site: Site, place: Place, sums: bool = False) -> Iterator[Source]:
    scope = {place.epoch: place.seq}
    ledger = read_ledger(site.store, site.owner, site.reader_keys())
    with closing(
        gather(site.store, site.domain, site.reader_keys(), scope, ledger, sums, keeps_names=True)
    ) as contents:
        assert not contents.broken, contents.broken
        yield Source(site.store, site.reader_keys(), contents)


def restore(
    site: Site,
    place: Place,
    target: Path,
    name: str = "home",
    ways: Ways | None = None,
    patterns: Sequence[str] = (),
    sums: bool = False,
) -> Done:
    """The three stages, as `rehydrate restore --tree` does them."""
    branch = {place.epoch: place.seq}
    reported: list[Totals] = []
    told: list[int] = []
    with source_of(site, place, sums) as source:
        (cut,) = [cut for cut in cuts_of(source.contents, branch) if cut.place == place]
        (tree,) = [tree for tree in trees_of(source.contents, branch, cut) if tree.name == name]
        with (
            plan_tree(source.contents, branch, tree, Selection(patterns)) as plan,
            open_tree_target(target, ways or Ways()) as opened,
        ):
            laid = lay_out(plan, opened, told.append)
            filling = plan_content(source, plan, laid)
            totals = fill(source, plan, opened, laid, filling, reported.append)
            finish(plan, opened)
            assert plan.names == laid.names + 1
            return Done(
                totals, filling.totals, opened.not_set, laid.removed, sum(told), sum(reported, Totals())
            )


def assert_same(target: Path, state: State) -> None:
    """The directory holds just what the model does."""
    names, contents, links = found_in(target)
    wanted_names, wanted_contents, wanted_links = expected_of(state)
    assert names == wanted_names
    assert contents == wanted_contents
    assert links == wanted_links
