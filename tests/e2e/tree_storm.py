"""A real agent that protects one tree which a workload changes, and that is killed meanwhile.

    with protected(tree) as storm, Working(steps) as working:
        storm.round("watcher", working)
    storm.finish(tree)

What a workload does, and what its tree may look like at a cut, belongs to the tests.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.e2e.site import Agent, Site, new_site
from tests.reader import Container
from tests.tree_history import State, container_at, states
from tests.waiting import wait_until

NAME = "files"
PATIENCE_SECONDS = 120.0
VICTIMS = ("watcher", "streamer", "group", "both")
DEATHS_MAX = 2
"""Deaths in a row that the supervisor mends quickly; then its pauses grow, and a new `run` is quicker."""


class Working:
    """Takes one step after another in a thread, with a short pause between two, until it is ended.

    Args:
        step: called with 1, 2, 3 ...; what it raises, whoever uses this raises.
        pause: seconds before the next step: a tree that is written without a pause has no exact cut.
    """

    def __init__(self, step: Callable[[int], None], pause: Callable[[], float]) -> None:
        self._step = step
        self._pause = pause
        self._ends = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.number = 0
        """The last step that was done whole."""
        self.error: BaseException | None = None

    def __enter__(self) -> Working:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ends.set()
        self._thread.join(PATIENCE_SECONDS)
        assert not self._thread.is_alive()
        if self.error is not None:
            raise self.error

    def advance(self, steps: int) -> None:
        """Return when it has come some steps further."""
        goal = self.number + steps
        wait_until(lambda: self.number >= goal or self.error, "the workload goes on", PATIENCE_SECONDS)
        assert self.error is None, self.error

    def _run(self) -> None:
        try:
            while not self._ends.wait(self._pause()):
                self._step(self.number + 1)
                self.number += 1
        except BaseException as error:  # noqa: BLE001  raised again by whoever uses it
            self.error = error


@dataclass
class Storm:
    """See the module."""

    site: Site
    agent: Agent
    deaths: int = 0

    @property
    def tree_id(self) -> bytes:
        """The tree's id."""
        identity = json.loads((self.site.journal / "agent.json").read_bytes())
        return bytes.fromhex(identity["trees"][0]["tree"])

    def hit(self, victim: str) -> None:
        """Kill a part of the agent, or all of it; what was not killed or is started by others goes on."""
        print(f"killed: {victim}")
        self.deaths += 1
        if victim == "group" or self.deaths > DEATHS_MAX:
            self.agent.kill_group()
            self.agent, self.deaths = self.site.start(), 0
        else:
            self.agent.kill(*(("watcher", "streamer") if victim == "both" else (victim,)))

    def is_whole(self) -> bool:
        """Whether the streamer says that the tree is whole at the newest cut."""
        found = self.site.facts().get("trees")
        return found is not None and found["not_whole"] == []

    def until_whole(self) -> None:
        """Wait until the tree is whole at a cut."""
        wait_until(self.is_whole, "the tree is whole", PATIENCE_SECONDS)

    def marker(self, name: str, number: Callable[[], int]) -> int:
        """Set a marker, trying again where the tree is not whole; gives what `number` was just before."""
        for _ in range(10):
            said = number()
            if self.site.marker(name).code == 0:
                return said
            self.until_whole()
        raise AssertionError(f"the tree is never whole: {self.site.facts()}")

    def finish(self, tree: Path) -> Path:
        """Flush what was written last and stop; the newest point is restored, and is what there is."""
        self.site.flush_when_ready()
        assert self.agent.stop() == 0, self.agent.log()
        target = self.site.base / "b" / "restored"
        self.site.rehydrate("restore", "--tree", f"{NAME}={target}").must()
        assert_same(tree, target)
        return target

    def container(self) -> Container:
        """The container, by the independent reader."""
        return container_at(self.site.container)

    def states(self) -> Iterator[State]:
        """The tree at every complete cut, oldest first."""
        return states(self.container(), self.tree_id)


@contextlib.contextmanager
def protected(tree: Path) -> Iterator[Storm]:
    """A site with this tree alone, which is whole already."""
    with new_site({}, encrypted=False, extra=(f"trees: [{{name: {NAME}, path: {tree}}}]",)) as site:
        site.init().must()
        storm = Storm(site, site.start())
        storm.until_whole()
        yield storm


def assert_same(one: Path, other: Path, options: str = "-aHAXni") -> None:
    """Two directories are the same to rsync, both ways: content, owners, modes, times, links, attributes."""
    for source, target in ((one, other), (other, one)):
        command = ["rsync", options, "--checksum", "--delete", f"{source}/", f"{target}/"]
        done = subprocess.run(command, capture_output=True, check=True, text=True, errors="replace")
        assert done.stdout == ""
