"""Collection beside a real agent, while guests write and it is killed: what is kept restores exactly."""

from __future__ import annotations

import json
import os
import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.e2e.site import MIB, Site, new_site
from tests.waiting import wait_until

pytestmark = pytest.mark.e2e

HOUR = 3600
BLOCK = 4096
BLOCKS = 4 * MIB // BLOCK
WAIT_SECONDS_MAX = 120.0
PAUSE_SECONDS = 0.002
"""Between two writes of who only disturbs: a flood would be packed and verified, and tell no more."""
SETTINGS = (
    "retention: {every: 2h, markers: 2h}",
    "collection: {every: 1d, grace: 1s}",
)


class Kept:
    """A guest whose half of the disk, the upper one, is known at every marker."""

    def __init__(self, site: Site, seed: int) -> None:
        self.site = site
        self.random = random.Random(seed)
        self.image = bytearray(BLOCKS // 2 * BLOCK)
        self.images: dict[str, bytes] = {}

    def mark(self, name: str, *options: str) -> None:
        with self.site.client("db") as guest:
            for _ in range(8):
                at = self.random.randrange(BLOCKS // 2 - 8) * BLOCK
                data = self.random.randbytes(self.random.choice([1, 2, 8]) * BLOCK)
                if self.random.random() < 0.2:
                    guest.write_zeroes(len(self.image) + at, len(data))
                    data = bytes(len(data))
                else:
                    guest.write(len(self.image) + at, data)
                self.image[at : at + len(data)] = data
            guest.flush()
        self.site.marker(name, *options).must()
        self.images[name] = bytes(self.image)

    def check(self, name: str) -> None:
        target = self.site.base / f"{name}.raw"
        self.site.restore("db", target, "--marker", name)
        assert target.read_bytes()[len(self.image) :] == self.images[name], name
        target.unlink()


def age(site: Site, hours: float) -> None:
    """Everything that is data was written so long ago, as the store tells it."""
    for path in site.container.rglob("*"):
        if path.is_file() and "domain" not in path.relative_to(site.container).parts:
            then = path.stat().st_mtime - hours * HOUR
            os.utime(path, (then, then))


@contextmanager
def bystander(site: Site) -> Iterator[None]:
    """Writes all the time to the lower half."""
    stop = threading.Event()

    def write() -> None:
        rng = random.Random(7)
        with site.client("db") as guest:
            while not stop.wait(PAUSE_SECONDS):
                guest.write(rng.randrange(BLOCKS // 2) * BLOCK, rng.randbytes(BLOCK))

    thread = threading.Thread(target=write)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(WAIT_SECONDS_MAX)
        assert not thread.is_alive()


def gc(site: Site, *options: str) -> dict[str, Any]:
    done = site.agent_command("gc", "--json", *options).must()
    found: dict[str, Any] = json.loads(done.out)
    return found["passes"][0] if "passes" in found else found


def last_pass(site: Site) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(site.agent_command("status", "--json").out)
    return found["collection"] or {}


@pytest.mark.parametrize("encrypted", [False, True])
def test_collected_while_guests_write(encrypted: bool) -> None:
    with new_site({"db": 4 * MIB}, encrypted=encrypted, with_key=encrypted, extra=SETTINGS) as site:
        site.init().must()
        site.start()
        kept = Kept(site, seed=3)
        with bystander(site):
            for number in range(8):
                kept.mark(f"old-{number}")
            kept.mark("for-ever", "--keep", "forever")
            age(site, 5)
            kept.mark("young")
            planned = gc(site, "--plan")
            assert planned["victims"]
            assert len(planned["retired"]) > 8
            passed = gc(site)
            assert passed["deleted"]
            kept.mark("newest")
        site.flush_when_ready()
        assert "deleted" in site.status().out
        for name in ("for-ever", "young", "newest"):
            kept.check(name)
        gone = site.rehydrate("plan", *site.secret_options(), "--marker", "old-3")
        assert gone.code == 13, gone
        site.rehydrate("verify", *site.secret_options()).must()


def test_killed_amid_passes_and_started_again() -> None:
    with new_site({"db": 4 * MIB}, encrypted=False, extra=SETTINGS) as site:
        site.init().must()
        agent = site.start()
        kept = Kept(site, seed=4)
        for number in range(4):
            for part in range(3):
                kept.mark(f"m-{number}-{part}", *(("--keep", "forever") if part == 1 else ()))
            age(site, 5)
            kept.mark(f"y-{number}", "--keep", "forever")
            if number % 2:
                agent.kill("streamer")
                site.agent_command("gc")  # whatever becomes of it
                site.flush_when_ready()
        gc(site)
        for name in ("m-0-1", "m-2-1", "m-3-1", "y-0", "y-3"):
            kept.check(name)
        assert len(list((site.container / "packs").rglob("*"))) > 1
        site.rehydrate("verify", *site.secret_options()).must()


def test_the_supervisor_starts_a_pass_by_itself() -> None:
    extra = (SETTINGS[0], "collection: {every: 10s, grace: 1s}")
    with new_site({"db": 4 * MIB}, encrypted=False, extra=extra) as site:
        site.init().must()
        site.start()
        kept = Kept(site, seed=5)
        for number in range(20):  # small neighbours, worth a merge
            kept.mark(f"m-{number}")
        age(site, 5)
        kept.mark("young")
        old = set((site.container / "log").rglob("0*"))
        wait_until(lambda: not all(path.exists() for path in old), "a pass deleted", WAIT_SECONDS_MAX)
        wait_until(lambda: last_pass(site), "it is told of", WAIT_SECONDS_MAX)
        kept.check("young")
