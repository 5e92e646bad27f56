"""The agent killed again and again under load: what was called protected is there, every cut is consistent.

A round kills splitter, streamer, both, the supervisor or the whole group at a random moment, or stops it
cleanly as an upgrade does; the supervisor or a new `run` brings it back. The seed is printed. Sites live
long, so that history piles up: epochs upon epochs, catalogs, redo after redo. Beside the oracle's workloads,
which know of every disconnection, a guest (tests/e2e/guest.py) must notice nothing at all.
"""

from __future__ import annotations

import filecmp
import random
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.guest import PROGRAMS, Guest, bridge
from tests.e2e.site import MIB, Agent, Site, new_site
from tests.oracle.history import SECTOR_BYTES, History, verify_image
from tests.oracle.workload import Workload
from tests.servers.bucket import fresh_bucket
from tests.servers.s3 import S3Server
from tests.waiting import wait_until

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(0), pytest.mark.needs(*PROGRAMS)]

SEED = 20261
WORKED = {"db": 8 * MIB, "log": 4 * MIB}
GUEST, GUEST_BYTES = "vm", 8 * MIB
VOLUMES = {**WORKED, GUEST: GUEST_BYTES}
KINDS = ("splitter", "streamer", "both", "group", "supervisor", "upgrade")
ROUNDS_PER_SITE = 25
"""A fresh site after so many, or verifying a log of millions of writes takes longer than the rounds."""
JOURNAL_LIMIT = "4GiB"
"""A busy machine writes faster than it sends: overflowing is another test's matter."""
PAUSE_SECONDS = 0.001
"""After each write: what is not written need not be sent, restored and verified."""
RESTORE_EVERY = 5
DEATHS_MAX = 2
"""Deaths in a row that the supervisor mends quickly; then its pauses grow, and a new `run` is quicker."""
PROGRESS_SECONDS_MAX = 60.0
WRITES_BEFORE_AND_AFTER = 40
MOMENT_SECONDS_MAX = 0.6


@dataclass(slots=True)
class Game:
    """A site under load, and what was ever promised about it."""

    site: Site
    rng: random.Random
    agent: Agent
    guest: Guest
    workloads: list[Workload] = field(default_factory=list)
    due: list[str] = field(default_factory=list)
    deaths: int = 0
    flushed_ns: int = 0
    protected: tuple[int, int] = (0, 0)

    def play(self, number: int) -> None:
        """One round."""
        kind = self._deal()
        print(f"round {number}: {kind}")
        self._let_write()
        if self.rng.random() < 0.5:
            self._ask()
        # The random moment: not to wait for anything is the point of it.
        threading.Event().wait(self.rng.random() * MOMENT_SECONDS_MAX)
        self._hit(kind)
        if number % RESTORE_EVERY == RESTORE_EVERY - 1:
            self.restore(f"round-{number}")
        if self.deaths > DEATHS_MAX:
            self.agent.kill_group()
        if not self.agent.alive:
            self.agent, self.deaths = self.site.start(), 0
        self._let_write()

    def _deal(self) -> str:
        """By chance, but each kind as often as any other: few rounds hold all of them."""
        if not self.due:
            self.due = self.rng.sample(KINDS, len(KINDS))
        return self.due.pop()

    def _let_write(self) -> None:
        """Go on when both volumes took new writes: guests are served."""
        due = [workload.acknowledged + WRITES_BEFORE_AND_AFTER for workload in self.workloads]
        wait_until(
            lambda: all(w.acknowledged >= count for w, count in zip(self.workloads, due, strict=True)),
            "guests go on writing",
            PROGRESS_SECONDS_MAX,
        )
        # The agent serves by now, so what changes the disk is no redo.
        backing = self.site.backing(GUEST)
        since_ns = backing.stat().st_mtime_ns
        wait_until(lambda: backing.stat().st_mtime_ns != since_ns, "the guest goes on", PROGRESS_SECONDS_MAX)
        assert not self.guest.errors

    def _ask(self) -> None:
        """What flush and status promise is kept to the end."""
        began_ns = time.time_ns()
        self.site.flush_when_ready()
        self.flushed_ns = began_ns
        place = self.site.facts().get("protected")
        if place is not None:
            self.protected = max(self.protected, place_of(place))

    def _hit(self, kind: str) -> None:
        if kind == "upgrade":
            assert self.agent.stop() == 0, self.agent.log()
        elif kind == "group":
            self.agent.kill_group()
        elif kind == "supervisor":
            self.agent.process.kill()
            self.agent.process.wait()
        else:
            self.deaths += 1
            self.agent.kill(*(("splitter", "streamer") if kind == "both" else (kind,)))

    def restore(self, name: str) -> None:
        """The newest cut and one at random, each with both volumes."""
        points = [place_of(item) for item in self.site.points() if item["branch"] == "main"]
        assert points[-1] >= self.protected, f"{self.protected} was called protected"
        self._verify(f"{name}-newest", points[-1], self.flushed_ns)
        self._verify(f"{name}-past", self.rng.choice(points), 0)

    def _verify(self, name: str, point: tuple[int, int], must_show_before_ns: int) -> None:
        folder = self.site.base / "b" / name
        report = self.site.restore_all(folder, "--at", f"{point[0]}.{point[1]}")
        # Whatever was acknowledged before a cut was taken is in it.
        due_ns = max(must_show_before_ns, int(report["cut_time_ns"]))
        print(f"verifying {point}: what was acknowledged before {due_ns} shows")
        verdicts = []
        for workload in self.workloads:
            history = workload.history
            snapshot = History(history.space, history.sectors, list(history.writes))
            image = folder / f"{workload.export}.raw"
            verdicts.append(verify_image(snapshot, sectors_of(image), due_ns))
        shown_ns = max(verdict.newest_submitted_ns for verdict in verdicts)
        hidden_ns = min(verdict.oldest_hidden_ns for verdict in verdicts)
        assert shown_ns <= hidden_ns, "the volumes of one cut are not of one instant"
        shutil.rmtree(folder)

    def compare(self) -> None:
        """What was written last comes back byte for byte, now that nobody writes any more."""
        folder = self.site.base / "b" / "last"
        self.site.restore_all(folder)
        for volume in VOLUMES:
            image = folder / f"{volume}.raw"
            assert filecmp.cmp(image, self.site.backing(volume), shallow=False), volume
        self.guest.verify(folder / f"{GUEST}.raw")
        shutil.rmtree(folder)


def sectors_of(image: Path) -> Callable[[int], bytes]:
    """The image, sector by sector."""
    data = memoryview(image.read_bytes())
    return lambda sector: bytes(data[sector * SECTOR_BYTES : (sector + 1) * SECTOR_BYTES])


def place_of(item: Mapping[str, Any]) -> tuple[int, int]:
    """The (epoch, number) of a point in a report."""
    return int(item["epoch"]), int(item["cut"])


@contextmanager
def loaded(site: Site, rng: random.Random) -> Iterator[Game]:
    """A running site with a workload on every volume but one, on which there is the guest."""
    site.init().must()
    agent, socket = site.start(), site.base / "guest.sock"
    game = Game(site, rng, agent, Guest(socket, GUEST, GUEST_BYTES, rng.randrange(1 << 30), site.base))
    for space, (name, size_bytes) in enumerate(WORKED.items(), 1):
        history = History(space, size_bytes // SECTOR_BYTES)
        game.workloads.append(
            Workload(site.socket, name, history, rng.randrange(1 << 30), pause_seconds=PAUSE_SECONDS)
        )
    for workload in game.workloads:
        workload.start()
    try:
        with bridge(site.socket, GUEST, socket):
            game.guest.start()
            yield game
            game.guest.stop()
    finally:
        for workload in game.workloads:
            workload.stop()
    assert not game.guest.errors
    assert [workload.errors for workload in game.workloads] == [[], []]


def play_rounds(rounds: int, store: Callable[[], tuple[str | None, dict[str, str]]]) -> None:
    for first in range(0, rounds, ROUNDS_PER_SITE):
        seed = SEED + first
        print(f"seed {seed}")
        address, secrets = store()
        with new_site(
            VOLUMES, store=address, secrets=secrets, with_key=True, journal_limit=JOURNAL_LIMIT
        ) as site:
            with loaded(site, random.Random(seed)) as game:
                for number in range(first, min(first + ROUNDS_PER_SITE, rounds)):
                    game.play(number)
            site.flush_when_ready()
            game.flushed_ns = time.time_ns()
            game.restore("end")
            game.compare()


def test_a_guest_that_does_not_reconnect_notices() -> None:
    """Negative control: the same guest sees an error where nothing lets its requests wait."""
    with new_site({GUEST: GUEST_BYTES}, with_key=True) as site:
        site.init().must()
        agent, socket = site.start(), site.base / "guest.sock"
        guest = Guest(socket, GUEST, GUEST_BYTES, SEED, site.base)
        with bridge(site.socket, GUEST, socket, reconnect_seconds=0):
            guest.start()
            wait_until(
                lambda: any(site.backing(GUEST).read_bytes()), "the guest writes", PROGRESS_SECONDS_MAX
            )
            agent.kill("splitter")
            wait_until(lambda: bool(guest.errors), "the guest sees an error", PROGRESS_SECONDS_MAX)
            guest.stop()


def test_on_a_directory(rounds: int) -> None:
    play_rounds(rounds // 2, lambda: (None, {}))


@pytest.mark.ceph
def test_on_ceph(rounds: int, ceph: S3Server) -> None:
    def store() -> tuple[str, dict[str, str]]:
        with fresh_bucket(ceph) as bucket:
            return f"s3://{bucket.name}/shop?endpoint={ceph.endpoint}", ceph.environment()

    play_rounds(rounds // 2, store)
