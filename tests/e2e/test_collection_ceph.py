"""A day of history in a minute on a real Ceph gateway, collected while it is written, restored and killed.

Guests write a hot and a cold region without pause; agent and collector are killed at random; readers restore
under holds meanwhile. What is judged: every retained cut against a copy of the container of which nothing
was ever collected, byte for byte, and the newest against the guests' own disk. The seed is printed.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from cdp_container.clock import SystemClock
from cdp_container.errors import NoSuchPoint, NotFound
from cdp_container.format.domain import build_owner, parse_owner
from cdp_container.format.keys import OWNER_KEY, KeyKind, parse_key
from cdp_container.format.place import Place
from cdp_container.format.preamble import parse_preamble
from cdp_container.store.address import open_store
from cdp_container.store.api import Store
from cdp_container.store.memory import MemoryStore
from rehydrate.container import Container, Secret, open_container
from rehydrate.plan import Choice
from rehydrate.points import plan_restore
from rehydrate.restore import Source
from tests.e2e.processes import Done
from tests.e2e.site import BIN, END_SECONDS_MAX, MIB, PRIVATE_KEY, Site, new_site
from tests.servers.bucket import fresh_bucket, s3_environment
from tests.servers.s3 import S3Server
from tests.unit.rehydrate.test_restore import run as run_restore
from tests.waiting import wait_until

pytestmark = [pytest.mark.e2e, pytest.mark.ceph, pytest.mark.timeout(0)]

SEED = 20265
SIZE = 4 * MIB
BLOCK = 4096
HOT_BLOCKS = SIZE // BLOCK // 5
FACTOR = 1440
"""A minute is a day."""
ROUNDS_MIN = 4
CUTS_PER_ROUND = 40
PAUSE_SECONDS = 0.004
MOMENT_SECONDS_MAX = 3.0
FOLLOW_SECONDS = 0.5
VICTIMS = ("collector", "streamer", "agent", "")
"""Who is killed in a round, in turn."""
ROOT = Path(__file__).resolve().parents[2]
SETTINGS = (
    "retention: {every: 2h, hourly: 12h, daily: 3d, markers: 5h}",
    "collection: {every: 30d, grace: 1s, requests_per_second: 1000}",
)


@contextmanager
def guests(site: Site, seed: int) -> Iterator[None]:
    """Four of five writes go to a fifth of the disk; a server that died is found again."""
    halt = threading.Event()

    def write(rng: random.Random) -> None:
        with site.client("db") as client:
            while not halt.wait(PAUSE_SECONDS):
                block = rng.randrange(HOT_BLOCKS if rng.random() < 0.8 else SIZE // BLOCK)
                if rng.random() < 0.1:
                    client.write_zeroes(block * BLOCK, BLOCK)
                else:
                    client.write(block * BLOCK, rng.randbytes(BLOCK))

    def go_on() -> None:
        rng = random.Random(seed)
        while not halt.is_set():
            with contextlib.suppress(OSError, EOFError):
                write(rng)
            halt.wait(0.05)

    thread = threading.Thread(target=go_on, name="guest")
    thread.start()
    try:
        yield
    finally:
        halt.set()
        thread.join(END_SECONDS_MAX)
        assert not thread.is_alive()


@dataclass
class Shadow:
    """A copy of a container of which nothing is ever deleted."""

    store: Store
    copy: MemoryStore = field(default_factory=lambda: MemoryStore(SystemClock()))
    cuts: set[Place] = field(default_factory=set)
    lock: threading.Lock = field(default_factory=threading.Lock)

    @contextmanager
    def following(self) -> Iterator[None]:
        """Copy all the time: on a slow machine a pass takes what was written after it was started."""
        halt = threading.Event()
        with ThreadPoolExecutor(max_workers=1) as pool:
            ended = pool.submit(self._follow_until, halt)
            try:
                yield
            finally:
                halt.set()
            ended.result()

    def _follow_until(self, halt: threading.Event) -> None:
        while not halt.wait(FOLLOW_SECONDS):
            self.follow()

    def follow(self) -> None:
        """Copy what is new; often enough, as a pass takes nothing that is younger than some seconds."""
        with self.lock:
            self._follow()

    def _follow(self) -> None:
        known = {found.key for found in self.copy.list("")}
        for prefix in ("log/", "domain/epochs/", "domain/config/"):
            for found in list(self.store.list(prefix)):
                if found.key in known:
                    continue
                try:
                    data = self.store.get(found.key).data
                except NotFound:
                    raise AssertionError(f"{found.key} was deleted a moment after it was made") from None
                self.copy.put_new(found.key, data)
                self._note(found.key, data)
        owner = parse_owner(self.store.get(OWNER_KEY).data, OWNER_KEY, None)
        data = build_owner(replace(owner, plan=None, ledger=None))
        if OWNER_KEY in known:
            self.copy.put_if(OWNER_KEY, data, self.copy.head(OWNER_KEY).tag)
        else:
            self.copy.put_new(OWNER_KEY, data)

    def _note(self, key: str, data: bytes) -> None:
        parsed = parse_key(key)
        if parsed is not None and parsed.kind is KeyKind.SEGMENT:
            preamble = parse_preamble(data, key)
            if preamble.complete:
                self.cuts.add(preamble.place)


@contextmanager
def images_of(container: Container) -> Iterator[Callable[[Place], bytes]]:
    """Gives the disk at any cut, or raises NoSuchPoint."""
    with closing(container.gather(container.history.everything())) as contents:

        def image(place: Place) -> bytes:
            choice = Choice(at=(place.epoch, place.cut))
            (volume,) = plan_restore(container, contents, choice, []).volumes
            with tempfile.TemporaryDirectory() as folder:
                return run_restore(Source(container.store, container.keys, contents), volume, Path(folder))

        yield image


@dataclass
class Day:
    """One container's story."""

    site: Site
    shadow: Shadow
    rng: random.Random
    began_ns: int
    collected: int = 0
    killed: int = 0
    restored: int = 0

    def collector(self) -> subprocess.Popen[str]:
        """A pass, in a process that may be killed."""
        self.shadow.follow()
        words = [str(self.began_ns), str(FACTOR), "gc", "--json", "--config", str(self.site.config)]
        return self._started([sys.executable, "-m", "tests.e2e.compressed_gc", *words])

    def reader(self, place: Place, target: Path) -> subprocess.Popen[str]:
        """Somebody restores, under a hold."""
        words = [str(BIN / "rehydrate"), "restore", self.site.store, "--at", f"{place.epoch}.{place.cut}"]
        words += ["--volume", "db", "--target", str(target), "--force", *self.site.secret_options()]
        return self._started(words)

    def _started(self, words: list[str]) -> subprocess.Popen[str]:
        environment = {**self.site.environment(self.site.base / "b" / "home"), "PYTHONPATH": str(ROOT)}
        return subprocess.Popen(
            words, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            start_new_session=True,
        )  # fmt: skip

    def play(self, number: int) -> None:
        """Cuts are taken; a pass and a restore begin; something dies; they end, however they do."""
        before = len(self.shadow.cuts)
        wait_until(lambda: self._cuts() >= before + CUTS_PER_ROUND, "cuts are taken", END_SECONDS_MAX)
        target = self.site.base / f"round-{number}.raw"
        with self.shadow.lock:
            place = self.rng.choice(sorted(self.shadow.cuts)[-2 * CUTS_PER_ROUND :])
        reader = self.reader(place, target) if self.rng.random() < 0.7 else None
        collector = self.collector()
        # The random moment: not to wait for anything is the point of it.
        threading.Event().wait(self.rng.random() * MOMENT_SECONDS_MAX)
        match VICTIMS[number % len(VICTIMS)]:
            case "collector":
                self.killed += collector.poll() is None
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(collector.pid, signal.SIGKILL)
            case "streamer":
                self.site.agents[-1].kill("streamer")
            case "agent":
                self.site.agents[-1].kill_group()
                self.site.start()
        self._end(ended(collector))
        if reader is not None:
            self._compare(ended(reader), place, target)

    def _cuts(self) -> int:
        self.shadow.follow()
        return len(self.shadow.cuts)

    def _end(self, done: Done) -> None:
        """A pass that was let live either did its work or said why not."""
        assert "Traceback" not in done.err, done.err
        if done.code == 0:
            self.collected += sum(one.get("deleted", 0) for one in done.json["passes"])

    def _compare(self, done: Done, place: Place, target: Path) -> None:
        if done.code == NoSuchPoint.exit_code:
            return  # retired before it looked
        done.must()
        shadow = open_container(self.shadow.copy, Secret(private_key=PRIVATE_KEY))
        with images_of(shadow) as image:
            assert target.read_bytes() == image(place), f"{place} was restored under a hold"
        target.unlink()
        self.restored += 1

    def judge(self) -> tuple[int, int]:
        """All retained cuts are what they were; how many, and how many are not offered any more."""
        secret = Secret(private_key=PRIVATE_KEY)
        real, shadow = open_container(self.shadow.store, secret), open_container(self.shadow.copy, secret)
        kept, gone = 0, 0
        with images_of(real) as found, images_of(shadow) as meant:
            for place in sorted(self.shadow.cuts):
                try:
                    image = found(place)
                except NoSuchPoint:
                    gone += 1
                    continue
                assert image == meant(place), f"{place} is not what it was"
                kept += 1
            disk = self.site.backing("db").read_bytes()
            assert found(real.history.newest) == disk, "the newest is the disk"
        return kept, gone


def ended(process: subprocess.Popen[str]) -> Done:
    out, err = process.communicate(timeout=END_SECONDS_MAX)
    return Done(process.returncode, out, err)


def test_a_day_in_a_minute(
    rounds: int, ceph: S3Server, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    count = max(ROUNDS_MIN, rounds // 12)
    s3_environment(ceph, monkeypatch)
    with fresh_bucket(ceph) as bucket:
        address = f"s3://{bucket.name}/shop?endpoint={ceph.endpoint}"
        secrets = ceph.environment()
        with new_site({"db": SIZE}, store=address, secrets=secrets, with_key=True, extra=SETTINGS) as site:
            site.settings = site.settings.replace("cut_every: 200ms", "cut_every: 100ms")
            site.write_config(*SETTINGS)
            site.init().must()
            site.start()
            with closing(open_store(address, SystemClock())) as store:
                day = Day(site, Shadow(store), random.Random(SEED), time.time_ns())
                print(f"seed {SEED}, {count} rounds")
                with guests(site, SEED), day.shadow.following():
                    for number in range(count):
                        day.play(number)
                site.flush_when_ready()
                day._end(ended(day.collector()))
                day.shadow.follow()
                kept, gone = day.judge()
            site.rehydrate("verify", *site.secret_options()).must()
    with capsys.disabled():
        told = f"{kept} of {kept + gone} cuts kept and compared, {day.restored} more under holds"
        print(f"\n  a day: {told}; {day.collected} objects deleted, {day.killed} collectors killed", end="")
    assert kept > 10
    assert gone > 20
    assert day.collected > 100
