"""Owners that stand still past their lease, are overtaken, and go on: they fence themselves.

Each round one site of a domain in a real Ceph gateway is stopped in the midst of its guests' writes (its
streamer, or all of it) and goes on at a random moment of the takeover by the next site, or after it. What it
had on the way by then is held up by a proxy, and lands in the midst of that or after it; none of it is ever
visible, and what was called protected is there. The seed is printed. Sites follow one another in one
container, so that epochs pile up; each begins with the disks that the one before protected.
"""

from __future__ import annotations

import random
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from cdp_container.domain.failover_note import load_note
from cdp_container.domain.notes import load_notes
from cdp_container.errors import Fenced, OwnedElsewhere
from cdp_container.store.address import open_store
from tests.e2e.processes import Done, group_members
from tests.e2e.recovery import Sites, ask, ended, force_word, history, preambles, send, several_sites
from tests.e2e.site import END_SECONDS_MAX, MIB, Agent, Site
from tests.oracle.above import history_above, sectors_above
from tests.oracle.history import History, verify_image
from tests.oracle.workload import Workload
from tests.servers.bucket import Bucket, fresh_bucket, s3_environment
from tests.servers.faults import NONE, FaultProxy, Faults, running_faults
from tests.servers.s3 import S3Server
from tests.waiting import wait_until

pytestmark = [pytest.mark.e2e, pytest.mark.ceph, pytest.mark.timeout(0)]

SEED = 20264
VOLUMES = {"db": 2 * MIB, "log": MIB}
LEASE_SECONDS = 5.0
ROUNDS_PER_DOMAIN = 9
ROUNDS_MIN = 3
PAUSE_SECONDS = 0.003
WRITES = 40
MOMENT_SECONDS_MAX = 0.6
FORCED_MAX = 5
PUTS_MAX = 3
LANDING_SECONDS = 1.0
"""Within which a segment is in the container once it is let through. If not: it is seen by a later round."""


@dataclass(slots=True)
class Guests:
    """Those of one site's volumes, and the images that they found there."""

    bases: dict[str, bytes]
    workloads: dict[str, Workload] = field(default_factory=dict)

    def verify(self, folder: Path, due_ns: int) -> None:
        """The images of one cut show one instant, and whatever was acknowledged before `due_ns`."""
        verdicts = []
        for name, workload in self.workloads.items():
            known = workload.history
            snapshot = History(known.space, known.sectors, list(known.writes))
            image = (folder / f"{name}.raw").read_bytes()
            verdicts.append(verify_image(snapshot, sectors_above(self.bases[name], image, snapshot), due_ns))
        shown_ns = max(verdict.newest_submitted_ns for verdict in verdicts)
        assert shown_ns <= min(verdict.oldest_hidden_ns for verdict in verdicts), "not of one instant"

    def let_write(self) -> None:
        """Return when every volume took new writes."""
        due = {name: workload.acknowledged + WRITES for name, workload in self.workloads.items()}
        wait_until(
            lambda: all(workload.acknowledged >= due[name] for name, workload in self.workloads.items()),
            "guests go on writing",
            END_SECONDS_MAX,
        )


@contextmanager
def guests_of(site: Site, rng: random.Random, number: int) -> Iterator[Guests]:
    """They write until the end, to disks that nobody wrote to since the agent started."""
    guests = Guests({name: site.backing(name).read_bytes() for name in VOLUMES})
    for index, name in enumerate(VOLUMES):
        known = history_above(number * len(VOLUMES) + index, guests.bases[name])
        seed = rng.randrange(1 << 30)
        guests.workloads[name] = Workload(site.socket, name, known, seed, pause_seconds=PAUSE_SECONDS)
    for workload in guests.workloads.values():
        workload.start()
    try:
        yield guests
    finally:
        for workload in guests.workloads.values():
            workload.stop()


@dataclass(slots=True)
class Game:
    """One domain, and who owns it now."""

    sites: Sites
    proxy: FaultProxy
    rng: random.Random
    owner: Site
    agent: Agent
    number: int = 0
    went_on_seconds: float = 0.0
    landed_seconds: float = 0.0

    def play(self) -> None:
        """The owner stands still, is overtaken, and goes on; afterwards the next site is the owner."""
        self.number += 1
        whole, forced = self.rng.random() < 0.5, self.number % 2 == 0
        print(f"round {self.number}: {'all' if whole else 'streamer'}, {'forced' if forced else 'lease'}")
        zombie, agent = self.owner, self.agent
        with guests_of(zombie, self.rng, self.number) as guests:
            guests.let_write()
            flushed_ns = time.time_ns()
            zombie.flush_when_ready()
            proven = load_proven(zombie)
            # The random moment: not to wait for anything is the point of it.
            threading.Event().wait(self.rng.random() * MOMENT_SECONDS_MAX)
            taker = self.sites.add(f"s{self.number}")
            point = self._overtake(agent, taker, forced, whole)
            assert proven <= point, f"{proven} was called protected, and {point} was taken over"
            self._must_be_fenced(zombie, agent)
            guests.let_write()  # disks are served on, fenced or not
        self.owner, self.agent = taker, taker.start()
        self._must_be(f"{point[0]}.{point[1]}", guests, flushed_ns)
        for name in VOLUMES:
            image = (self._folder() / f"{name}.raw").read_bytes()
            assert image == taker.backing(name).read_bytes(), name
        shutil.rmtree(self._folder())
        self._nothing_late(point)
        agent.kill_group()

    def finish(self) -> None:
        """Write at the last site; what is the newest then is what its guests wrote."""
        self.number += 1
        with guests_of(self.owner, self.rng, self.number) as guests:
            guests.let_write()
        flushed_ns = time.time_ns()
        self.owner.flush_when_ready()
        self._must_be("", guests, flushed_ns)
        last = [epoch["site"] for epoch in history(self.owner)]
        assert last[-1] == self.owner.base.name or not self.sites.others

    def _overtake(self, agent: Agent, taker: Site, forced: bool, whole: bool) -> tuple[int, int]:
        """Gives the point that was taken over; the owner before goes on at a random moment."""
        streamer = agent.child("streamer")
        assert streamer is not None
        pids = group_members(agent.process.pid) if whole else [streamer]
        # Later than the claim, on most machines: the lease has to pass before.
        soonest_seconds = LEASE_SECONDS if forced else 2 * LEASE_SECONDS
        self._stop_amid_puts(pids, self.rng.uniform(soonest_seconds, soonest_seconds + 2 * LEASE_SECONDS))
        try:
            done = (self._forced if forced else self._waited)(taker, pids)
        finally:
            send(pids, signal.SIGCONT)
        members = done.must().json
        assert members["side_branch"] is None
        epoch, cut = members["point"].split(".")
        return int(epoch), int(cut)

    def _stop_amid_puts(self, pids: Sequence[int], delay_seconds: float) -> None:
        """Segments are on their way from it, and arrive some time later."""
        count, since, seen = self.rng.randint(1, PUTS_MAX), len(self.proxy.seen), self.proxy.seen
        self.proxy.set(Faults(delay_seconds=delay_seconds))
        wait_until(
            lambda: sum(one.method == "PUT" and "/log/" in one.path for one in seen[since:]) >= count,
            "segments are on their way",
            END_SECONDS_MAX,
        )
        send(pids, signal.SIGSTOP)
        self.proxy.set(NONE)
        self.landed_seconds = time.monotonic() + delay_seconds
        if any(one.path.endswith("/domain/owner") for one in seen[since:]):
            # It is fenced once it has the answer, or gave the request up.
            print(f"a look at the owner is held up too, twice {delay_seconds:.1f} s")

    def _waited(self, taker: Site, pids: Sequence[int]) -> Done:
        """By its lease; it goes on only once the domain is another's."""
        process = self.sites.begin(taker, "--no-start")
        await_claim(taker, process)
        with self._going_on(pids):
            return ended(process)

    def _forced(self, taker: Site, pids: Sequence[int]) -> Done:
        """By force; if it goes on too soon, it renews, and that is another version than was seen."""
        for number in range(FORCED_MAX):
            send(pids, signal.SIGSTOP)
            word = force_word(taker)
            with self._going_on(pids, 2 * number * LEASE_SECONDS):
                done = ended(self.sites.begin(taker, "--no-start", "--force", word))
            if done.code != OwnedElsewhere.exit_code:
                return done
            print("it renewed in time")
        raise AssertionError(f"refused {FORCED_MAX} times")

    @contextmanager
    def _going_on(self, pids: Sequence[int], later_seconds: float = 0.0) -> Iterator[None]:
        """What was stopped goes on at a random moment from now."""
        delay_seconds = later_seconds + self.rng.uniform(0.0, LEASE_SECONDS)
        timer = threading.Timer(delay_seconds, self._go_on, (pids,))
        timer.start()
        try:
            yield
        finally:
            timer.join()

    def _go_on(self, pids: Sequence[int]) -> None:
        send(pids, signal.SIGCONT)
        self.went_on_seconds = time.monotonic()

    def _must_be_fenced(self, zombie: Site, agent: Agent) -> None:
        """It says so: in its notes, its status and its log; and the streamer ended for good."""
        wait_until(lambda: load_notes(zombie.journal).fenced, "the old owner is fenced", END_SECONDS_MAX)
        took_seconds = time.monotonic() - self.went_on_seconds
        print(f"known to be fenced {took_seconds:.1f} s after it went on; the lease is {LEASE_SECONDS:g} s")
        wait_until(
            lambda: f"streamer ended for good with exit code {Fenced.exit_code}" in agent.log(),
            "the streamer ended for good",
            END_SECONDS_MAX,
        )
        assert agent.alive, "guests need their disks"
        done = zombie.status()
        assert done.code == 3
        assert any(problem.startswith("fenced: ") for problem in done.json["problems"]), done.out

    def _nothing_late(self, point: tuple[int, int]) -> None:
        """No cut beyond the one that was taken over is offered by any name, whatever has landed of it."""
        threading.Event().wait(max(0.0, self.landed_seconds + LANDING_SECONDS - time.monotonic()))
        points = ask(self.owner, "points", "--last", "0")["points"]
        late = [one for one in points if one["epoch"] == point[0] and one["cut"] > point[1]]
        assert not late, late
        assert {one["branch"] for one in points} == {"main"}
        assert not any(one["broken"] for one in points)
        with closing(open_store(self.owner.store)) as store:
            beyond = [one for one in preambles(store) if one.epoch == point[0] and one.cut > point[1]]
        print(f"{len(beyond)} segments lie beyond the end, and nobody sees them")

    def _must_be(self, point: str, guests: Guests, due_ns: int) -> None:
        """Restore a cut, the newest for "", and let the oracle judge it."""
        folder, site = self._folder(), self.owner
        folder.mkdir()
        choice = ["--at", point] if point else []
        report = ask(site, "restore", "--all", "--target-dir", str(folder), *choice)
        guests.verify(folder, max(due_ns, int(report["cut_time_ns"])))

    def _folder(self) -> Path:
        return self.owner.base / "restored"


def await_claim(taker: Site, process: subprocess.Popen[str]) -> None:
    """Return when the domain is the taker's."""

    def claimed() -> bool:
        assert process.poll() is None, process.communicate()
        note = load_note(taker.journal) if taker.journal.is_dir() else None
        return note is not None and note.epoch > 0

    wait_until(claimed, "the domain is claimed", END_SECONDS_MAX)


def load_proven(site: Site) -> tuple[int, int]:
    """The newest cut that the streamer showed as protected."""
    wait_until(lambda: site.facts().get("protected"), "it shows what is protected", END_SECONDS_MAX)
    place = site.facts()["protected"]
    return int(place["epoch"]), int(place["cut"])


def address(bucket: Bucket, proxy: FaultProxy) -> str:
    """Of a domain there; the proxy is its home."""
    return f"s3://{bucket.name}/shop?endpoint={proxy.endpoint}"


def test_an_owner_that_wakes_up_fences_itself_and_nothing_is_lost(
    rounds: int, ceph: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    s3_environment(ceph, monkeypatch)
    count = max(ROUNDS_MIN, rounds // 20)
    for first in range(0, count, ROUNDS_PER_DOMAIN):
        seed = SEED + first
        print(f"seed {seed}")
        rng = random.Random(seed)
        with (
            fresh_bucket(ceph) as bucket,
            running_faults(ceph.endpoint, random.Random(seed)) as proxy,
            several_sites(VOLUMES, address(bucket, proxy), ceph.environment()) as sites,
        ):
            game = Game(sites, proxy, rng, sites.first, sites.first.start())
            for _ in range(first, min(first + ROUNDS_PER_DOMAIN, count)):
                game.play()
            game.finish()
