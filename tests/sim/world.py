"""One site, its guests and its store on a virtual clock, with everything that may go wrong drawn from a seed.

The engine, both step machines, coalescing, copying, sealing and the format are the real ones. Only what they
stand on is simulated: time, the store, the journal's file, threads. A seed replays exactly.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random

from cdp_agent.streamer.copy import Volume
from cdp_agent.streamer.engine import Engine
from cdp_agent.streamer.engine_types import Answered, Job, Lane, Outside, Wishes
from cdp_container.domain.identity import AgentIdentity, SourceIdentity
from cdp_container.domain.notes import Notes
from cdp_container.domain.owner import first_owner
from cdp_container.domain.owner_types import Phase
from cdp_container.errors import CdpError, Fenced
from cdp_container.format.codec import Compressor
from cdp_container.format.domain import build_owner
from cdp_container.format.keyblock import ScryptCost, build_key_block, wrap_for_passphrase
from cdp_container.format.keys import OWNER_KEY, segment_key
from cdp_container.format.place import NOWHERE as NO_PLACE
from cdp_container.format.place import Place
from cdp_container.format.preamble import parse_preamble
from cdp_container.format.seal import derive_index_key, public_of
from cdp_container.journal.position import NOWHERE, Position
from tests.recovery import Recovery
from tests.sim.clock import SECOND, VirtualTime
from tests.sim.intruder import Intruder
from tests.sim.journal import UNSYNCED_RECORDS_MAX, VOLUME_BYTES, SimJournal
from tests.sim.local import SimLocal
from tests.sim.sealing import CountingGCM
from tests.sim.store import CALM, STORMY, SimStore

PASSPHRASE = "simulated"
CHEAP = ScryptCost(n=2, r=1, p=1)
SETTLE_SECONDS = 400.0
"""After the storm everything must be protected within so long: all back-offs and late requests."""


class SimFailure(AssertionError):
    """The system broke a promise."""


def must(condition: bool, why: str) -> None:
    if not condition:
        raise SimFailure(why)


@dataclass
class World:
    """See the module. `take_over_odds`: how often, of one, another site takes the domain.

    Attributes:
        reported: every cut that was reported protected, and its journal position.
        asked: how many changes there were when each marker or flush was asked for.
        answered: the place that it was answered with.
    """

    seed: int
    take_over_odds: float = 0.3
    reported: dict[Place, Position] = field(default_factory=dict)
    asked: dict[str, int] = field(default_factory=dict)
    answered: dict[str, Place] = field(default_factory=dict)

    def __post_init__(self) -> None:
        CountingGCM.used.clear()
        self.rng = Random(self.seed)
        self.time = VirtualTime()
        self.store = SimStore(self.time, self.rng)
        self.engine: Engine | None = None
        self.run_number = 0
        self.ended = ""
        self.polls = 0
        self.quiet = False
        self.intruder: Intruder | None = None
        self.free_ns = dict.fromkeys(Lane, 0)
        self.maps_are_complete = False
        self.fds: list[int] = []
        encrypted = self.rng.random() < 0.3
        holding = self.rng.random() < 0.3
        self.has_gaps = self.rng.random() < 0.5
        self.gap_share = 1
        self.has_intent_maps = self.rng.random() < 0.8
        count = self.rng.choice((1, 2))
        initial = [self._initial(holding) for _ in range(count)]
        self.journal = SimJournal(self.time, initial)
        self.volumes = [self._volume(index, image) for index, image in enumerate(initial)]
        self.identity = self._identity(encrypted, count)
        nonce = self.rng.randbytes(16)
        whole = frozenset() if holding else frozenset(source.space for source in self.identity.sources)
        self.local = SimLocal(self.journal, self.volumes, Notes((nonce,), whole))
        owner = first_owner(self.identity.domain, "shop", "site-a", nonce, bytes(32), 30, 1)
        self.store.inner.put_new(OWNER_KEY, build_owner(owner))

    # --- making --------------------------------------------------------------------------------

    def _initial(self, holding: bool) -> bytes:
        image = bytearray(VOLUME_BYTES)
        for _ in range(self.rng.randrange(6) if holding else 0):
            at = self.rng.randrange(0, VOLUME_BYTES - 8192, 512)
            image[at : at + 4096] = self.rng.randbytes(4096)
        return bytes(image)

    def _volume(self, index: int, image: bytes) -> Volume:
        fd = os.memfd_create(f"sim-{index}")
        self.fds.append(fd)
        os.pwrite(fd, image, 0)
        return Volume(index, Path(f"/proc/self/fd/{fd}"), len(image))

    def _identity(self, encrypted: bool, count: int) -> AgentIdentity:
        rng = self.rng
        private_key, domain = rng.randbytes(32), rng.randbytes(16)
        key_block = b""
        if encrypted:
            wrap = wrap_for_passphrase(
                private_key, PASSPHRASE, domain, rng.randbytes(16), rng.randbytes(12), CHEAP
            )
            key_block = build_key_block(public_of(private_key), [wrap])
        return AgentIdentity(
            domain=domain,
            name="shop",
            site="site-a",
            encryption="aes-256-gcm" if encrypted else "none",
            public_key=public_of(private_key) if encrypted else b"",
            index_key=derive_index_key(private_key, domain) if encrypted else b"",
            key_block=key_block,
            config_digest=bytes(32),
            sources=tuple(
                SourceIdentity(f"disk{index}", "", rng.randbytes(16), VOLUME_BYTES) for index in range(count)
            ),
        )

    # --- the agent's life ----------------------------------------------------------------------

    def start_splitter(self, generation: int | None = None) -> None:
        """Every start is a new generation, after a redo of what the disks may lack."""
        generation = generation or self.rng.getrandbits(63) + 1
        before = self.local.splitter_page
        self.maps_are_complete = False
        self.journal.redo(self.rng, self.write_disk)
        if not before.overflowed:
            self.journal.begin_generation(generation)
        self.local.splitter_page = replace(
            before, generation=generation, running=True, exports_open=True, redos=before.redos + 1
        )

    def overflow(self) -> None:
        """The journal is full: what guests write from here on is on their disks alone."""
        page = self.local.splitter_page
        if not page.overflowed and self.journal.changes:
            self.journal.apply_all(self.write_disk)
            is_compared = page.episode in (0, self.local.page.compared_episode)
            self.maps_are_complete = is_compared or not page.compare_all
            if is_compared:
                self.journal.dirty.clear()
            self.local.splitter_page = replace(
                page, overflow_at=self.journal.tail, overflow_ns=self.time.wall_ns()
            )

    def go_on(self) -> None:
        """The journal goes on once the streamer needs nothing of it; see `Capture.go_on`."""
        page = self.local.splitter_page
        if page.overflowed and self.local.page.proven == page.overflow_at:
            generation = self.rng.getrandbits(63) + 1
            self.journal.begin_generation(generation)
            self.local.splitter_page = replace(
                page,
                generation=generation,
                overflow_at=NOWHERE,
                episode=generation,
                compare_all=not self.maps_are_complete,
            )

    def lose_power(self) -> None:
        """Records and disk writes that were not synced are lost, each for itself; another boot.

        Where that was is marked by the write-intent map, unless the journal was given up.
        """
        self.end_engine()
        self.run_number += 1
        page = self.local.splitter_page
        is_compared = page.episode in (0, self.local.page.compared_episode)
        if is_compared:
            self.journal.dirty.clear()
        reverted = self.rng.random() < 0.3
        self.journal.lose_end(
            self.rng, self.write_disk, 0 if page.overflowed else UNSYNCED_RECORDS_MAX, reverted
        )
        is_placed = not page.overflowed and (is_compared or not page.compare_all) and self.has_intent_maps
        episode = self.rng.getrandbits(63) + 1
        self.local.splitter_page = replace(page, episode=episode, compare_all=not is_placed)
        self.start_splitter(episode)
        self.time.after(self.rng.uniform(0.1, 5.0), self.start_streamer)

    def write_disk(self, source: int, offset: int, data: bytes) -> None:
        os.pwrite(self.fds[source], data, offset)

    def apply(self) -> None:
        """The splitter's disk writes come after their records, sometimes much later."""
        if self.rng.random() < 0.8:
            self.journal.apply(self.write_disk, self.rng.choice((1, 2, 5, 50)))
        self.go_on()
        if not self.quiet or self.journal.applied != self.journal.tail or self.local.splitter_page.overflowed:
            self.time.after(self.rng.expovariate(1 / 0.3), self.apply)

    def start_streamer(self) -> None:
        if self.engine is not None or self.ended:
            return
        self.run_number += 1
        self.free_ns = dict.fromkeys(Lane, 0)
        wishes = Wishes(SECOND, self.rng.choice((10, 30)), "sim", "sim", self.rng.choice((math.inf, 9_000)))
        self.engine = Engine(self.identity, wishes, self.outside())
        self.poll(self.run_number)

    def outside(self) -> Outside:
        """What an engine stands on."""
        return Outside(
            store=self.store,
            patient=self.store,
            prompt=self.store,
            local=self.local,
            journal=self.journal,
            build_journal=self.journal,
            clock=self.time,
            entropy=self.rng.randbytes,
            compressor=Compressor(),
        )

    def end_engine(self) -> None:
        if self.engine is not None:
            self.engine.close()
        self.engine = None

    def crash_streamer(self) -> None:
        """Kill -9. What was sent may land yet, what was not may not."""
        self.end_engine()
        self.time.after(self.rng.uniform(0.1, 5.0), self.start_streamer)

    def poll(self, run_number: int) -> None:
        """The runner's loop, as long as that run lives."""
        if run_number != self.run_number or self.engine is None:
            return
        self.polls += 1
        self.drive(self.engine.poll)
        if self.engine is not None:
            self.time.after(self.rng.uniform(0.05, 0.4), lambda: self.poll(run_number))

    def drive(self, call: Callable[[], None]) -> None:
        """Call the engine, and see to the jobs that come of it."""
        engine = self.engine
        assert engine is not None
        try:
            call()
        except Fenced as error:
            self.ended = str(error)
            self.end_engine()
            return
        except CdpError:
            self.crash_streamer()
            return
        self.note_reported(engine)
        if not self.quiet and self.rng.random() < 0.001:
            self.crash_streamer()  # between a decision and what was to come of it
            return
        jobs, engine.jobs = engine.jobs, []
        for job in jobs:
            self.start_job(job)

    def note_reported(self, engine: Engine) -> None:
        stream = engine.stream
        if stream.protected != NO_PLACE:
            self.reported.setdefault(stream.protected, stream.proven_position)

    def start_job(self, job: Job) -> None:
        run_number = self.run_number
        begins_ns = self.time.now_ns + int(self.rng.expovariate(1 / 0.03) * SECOND)
        in_order = job.lane in (Lane.BUILD, Lane.TREES)
        if in_order:
            begins_ns = max(begins_ns, self.free_ns[job.lane])
            self.free_ns[job.lane] = begins_ns + 1
        if job.lane is Lane.BUILD and self.rng.random() < 0.1:
            begins_ns += int(self.rng.uniform(0, 1) * SECOND)
        if self.rng.random() < 0.02:
            begins_ns += int(self.rng.uniform(1, 60) * SECOND) * (not in_order)

        def begin() -> None:
            alive = run_number == self.run_number and self.engine is not None
            # A request that left a dead process may arrive; what it had not computed yet never will.
            if not alive and (in_order or self.rng.random() < 0.5):
                return
            try:
                done = job.work()
            except CdpError:
                if alive:
                    self.crash_streamer()
                return
            busy_seconds = self.busy_seconds()
            self.free_ns[job.lane] += int(busy_seconds * SECOND)
            self.time.after(self.rng.expovariate(1 / 0.03) + busy_seconds, lambda: end(done))

        def end(done: Callable[[], None]) -> None:
            if run_number == self.run_number and self.engine is not None:
                self.drive(done)

        self.time.at(begins_ns, begin)

    def busy_seconds(self) -> float:
        """How long a job took that was just done, beside what every job takes."""
        return 0.0

    # --- what happens --------------------------------------------------------------------------

    def guest(self) -> None:
        if self.quiet:
            return
        if self.local.splitter_page.exports_open:
            for _ in range(self.rng.choice((1, 1, 2, 5, 30))):
                self.journal.random_change(self.rng, captured=not self.local.splitter_page.overflowed)
            if self.local.splitter_page.overflowed:
                self.journal.apply_all(self.write_disk)
        self.time.after(self.rng.expovariate(1 / 0.7), self.guest)

    def ask(self) -> None:
        """A marker or a flush. What is promised when it is answered is noted."""
        if self.quiet:
            return
        if self.engine is not None:
            number = len(self.asked)
            name = f"marker-{number}" if self.rng.random() < 0.5 else None
            target = len(self.journal.changes)
            label = name or f"flush-{number}"
            self.asked[label] = target

            def reply(answered: Answered) -> None:
                if answered.place is not None:
                    self.answered[label] = answered.place

            engine = self.engine
            self.drive(lambda: engine.ask(name, "", application=False, reply=reply))
        self.time.after(self.rng.expovariate(1 / 12), self.ask)

    def trouble(self) -> None:
        """Something goes wrong, for a while."""
        if self.quiet:
            return
        kinds = ("crash", "crash", "crash", "away", "suspend", "splitter", "full", "wall", "calm")
        kind = self.rng.choice((*kinds, *("overflow", "power") * self.gap_share) if self.has_gaps else kinds)
        if kind == "crash" and self.engine is not None:
            self.crash_streamer()
        elif kind == "away":
            self.store.away = True
            self.time.after(self.rng.expovariate(1 / 20), self._back)
        elif kind == "suspend":
            self.time.now_ns += int(self.rng.uniform(1, 120) * SECOND)
        elif kind == "splitter":
            self.start_splitter()
        elif kind == "overflow":
            self.overflow()
        elif kind == "power":
            self.lose_power()
        elif kind == "full":
            self.local.disk_full = True
            self.time.after(self.rng.uniform(1, 30), self._room)
        elif kind == "wall":
            self.time.wall_offset_ns += int(self.rng.uniform(-3600, 3600) * SECOND)
        self.store.odds = STORMY.scaled(self.rng.choice((0.0, 0.5, 1.0, 3.0)))
        self.time.after(self.rng.expovariate(1 / 15), self.trouble)

    def _back(self) -> None:
        self.store.away = False

    def _room(self) -> None:
        self.local.disk_full = False

    def take_over(self) -> None:
        """Another site takes the domain by force."""
        self.intruder = Intruder(self.store.inner, self.identity.domain, self.rng, self.time)
        self.intruder.begin()

    # --- a whole story -------------------------------------------------------------------------

    def play(self, seconds: float) -> None:
        """Everything, then calm, then the proof."""
        self.start_splitter()
        self.start_streamer()
        self.time.after(0.5, self.guest)
        self.time.after(0.5, self.apply)
        self.time.after(5.0, self.ask)
        self.time.after(self.rng.uniform(2, 20), self.trouble)
        if self.rng.random() < self.take_over_odds:
            self.time.after(self.rng.uniform(5, seconds), self.take_over)
        self.time.run_until(self.time.now_ns + int(seconds * SECOND))
        self.settle()
        self.check()

    def settle(self) -> None:
        """The storm ends: what must come to pass now comes to pass."""
        self.quiet = True
        self.store.odds, self.store.away, self.local.disk_full = CALM, False, False
        self.time.run_until(self.time.now_ns + int(SETTLE_SECONDS * SECOND))

    # --- the proof -----------------------------------------------------------------------------

    def check(self) -> None:
        recovery = Recovery(self.store.inner, PASSPHRASE if self.identity.key_block else None)
        cuts = recovery.cuts
        if self.intruder is not None:
            # A run that was overtaken is fenced; one that starts later finds another owner, and waits.
            waits = self.engine is not None and self.engine.run.phase is Phase.ELSEWHERE
            must(bool(self.ended) or waits, "the domain was taken over, and our run goes on")
            self._check_kept()
        else:
            must(not self.ended, f"fenced, and nobody took the domain: {self.ended}")
            self._check_all_protected()
        for place in self.reported:
            must(place in cuts, f"{place} was reported protected, and is not in the container")
        for label, place in self.answered.items():
            must(place in cuts or place == NO_PLACE, f"{label} was answered with {place}, which is not there")
            if place in cuts:
                shown = self.journal.number_of(self._position_of(place))
                must(shown >= self.asked[label], f"{label} at {place} lacks what was written before it")
        markers = recovery.markers()
        for label, target in self.asked.items():
            if label in self.answered and label.startswith("marker"):
                must(label in markers, f"{label} was answered, and is not in the container")
                shown = self.journal.number_of(self._position_of(markers[label]))
                must(self.is_its_instant(shown, target), f"{label} does not name its instant")
        first_whole = [
            later
            for earlier, later in itertools.pairwise(cuts)
            for source in self.identity.sources
            if recovery.is_whole(source.space, later) and not recovery.is_whole(source.space, earlier)
        ]
        for place in {*self.rng.sample(cuts, min(len(cuts), 4)), *cuts[-1:], *first_whole[:4]}:
            self._check_image(recovery, place)

    def is_its_instant(self, shown: int, target: int) -> bool:
        """Whether a marker that was asked for behind `target` changes may name what has `shown` of them."""
        return shown == target

    def _check_all_protected(self) -> None:
        engine = self.engine
        assert engine is not None
        must(engine.stream.epoch > 0, f"no epoch was begun after the storm: {engine.shown}")
        # Of a run that found nothing new, where it began.
        last, count = self.journal.number_of(engine.stream.proven_position), len(self.journal.changes)
        must(last == count, f"{last} of {count} changes are protected after the storm: {engine.shown}")
        must(not engine.not_whole, f"not everything is whole after the storm: {engine.shown}")
        recovery = Recovery(self.store.inner, PASSPHRASE if self.identity.key_block else None)
        for source in self.identity.sources:
            whole = recovery.is_whole(source.space, recovery.cuts[-1]) if recovery.cuts else True
            must(whole, f"{source.name} is not whole in the newest cut")

    def _check_kept(self) -> None:
        """What lies beyond the end must still be in the journal of the site that was overtaken.

        After a gap the journal is given up for a comparison: what it held is on the disks alone.
        """
        assert self.intruder is not None
        base = self.intruder.base
        if not self.local.splitter_page.episode and base != NO_PLACE:
            ends_at = self.journal.number_of(self._position_of(base))
            must(self.journal.trimmed <= ends_at, "what lies beyond the end was trimmed")

    def _position_of(self, place: Place) -> Position:
        preamble = parse_preamble(self.store.inner.get(segment_key(place.epoch, place.seq)).data, "sim")
        return Position(preamble.journal_generation, preamble.journal_offset)

    def _check_image(self, recovery: Recovery, place: Place) -> None:
        images = self.journal.images_at(self.journal.number_of(self._position_of(place)))
        for source, image in zip(self.identity.sources, images, strict=True):
            if recovery.is_whole(source.space, place):
                must(
                    recovery.restored(source.name, place) == image,
                    f"{source.name} at {place} is not what it was",
                )

    def close(self) -> None:
        self.end_engine()
        while self.fds:
            os.close(self.fds.pop())


@contextlib.contextmanager
def world_of(seed: int, take_over_odds: float = 0.3) -> Iterator[World]:
    world = World(seed, take_over_odds)
    try:
        yield world
    finally:
        world.close()
