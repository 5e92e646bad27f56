"""The store away, denied, slow or unreliable: guests notice nothing, the backlog drains, no request storm.

Real agent processes, a real Ceph gateway, the fault proxy between. Every test ends with a restore, past
the proxy, compared byte for byte. The hour of an outage is some seconds here: what a longer one adds is
only the backlog, and the pauses between requests that have by then grown to their longest.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import pytest

from tests.e2e.site import MIB, PROTECTED_SECONDS_MAX, Agent, Site, new_site
from tests.servers import faults
from tests.servers.bucket import fresh_bucket
from tests.servers.faults import Fate, FaultProxy, Faults, running_faults
from tests.servers.s3 import S3Server
from tests.waiting import wait_until

pytestmark = [pytest.mark.e2e, pytest.mark.ceph, pytest.mark.timeout(300)]

VOLUMES: Final = {"db": 16 * MIB}
WRITE_BYTES: Final = 16 * 1024
NOTICE_SECONDS_MAX: Final = 60.0
AWAY_REQUESTS: Final = 40
"""What an outage may begin with: eight puts, renewals and a proof under way, each repeated a few times."""
AWAY_REQUESTS_PER_SECOND: Final = 4
"""And then: every pause grows to seconds, the owner's to 10 s at most."""


@dataclass(slots=True)
class Guest:
    """Writes without a pause over the volume, and knows what must be there; an error ends it."""

    site: Site
    image: bytearray
    writes: int = 0
    _ended: threading.Event = field(default_factory=threading.Event)
    _failed: list[Exception] = field(default_factory=list)

    def work(self) -> None:
        """The thread."""
        rng = random.Random(7)
        try:
            with self.site.client("db") as client:
                while not self._ended.is_set():
                    offset = rng.randrange(len(self.image) - WRITE_BYTES)
                    data = rng.randbytes(WRITE_BYTES)
                    client.write(offset, data, fua=self.writes % 16 == 0)
                    self.image[offset : offset + WRITE_BYTES] = data
                    self.writes += 1
                    self._ended.wait(0.02)
        except Exception as error:  # noqa: BLE001  it is the test that judges it
            self._failed.append(error)

    def must_write(self, count: int) -> None:
        """Wait until it has written so often again, without any error."""
        aim = self.writes + count
        wait_until(lambda: self.writes >= aim or self._failed, "the guest writes", NOTICE_SECONDS_MAX)
        assert self._failed == []

    def end(self) -> None:
        """No more writes."""
        self._ended.set()


@dataclass(frozen=True, slots=True)
class Scene:
    """A running agent whose guest writes, before a proxy."""

    site: Site
    agent: Agent
    guest: Guest
    proxy: FaultProxy
    recovery: Site

    def waiting_bytes(self) -> int:
        """What the journal holds that is not protected yet, as `status` shows it."""
        waiting: int = self.site.facts().get("lag_bytes") or 0
        return waiting

    def backlog_must_grow(self, above_bytes: int) -> None:
        """Wait until more waits than that, while the guest writes on."""
        wait_until(lambda: self.waiting_bytes() > above_bytes, "the backlog grows", NOTICE_SECONDS_MAX)
        self.guest.must_write(1)

    def protected_cut(self) -> tuple[int, int]:
        """(epoch, cut) of the newest protected cut."""
        place = self.site.facts().get("protected") or {}
        return place.get("epoch", 0), place.get("cut", 0)

    def must_go_on(self) -> None:
        """Wait until a newer cut is protected."""
        before = self.protected_cut()
        wait_until(lambda: self.protected_cut() > before, "a newer cut is protected", PROTECTED_SECONDS_MAX)


def restored_is_whole(scene: Scene) -> None:
    """Everything drains without a hand, and what comes back past the proxy is what the guest wrote."""
    scene.guest.end()
    scene.site.flush_when_ready()
    assert scene.agent.alive
    target = scene.site.base / "b" / "db.raw"
    scene.recovery.restore("db", target)
    assert target.read_bytes() == bytes(scene.guest.image)
    assert scene.agent.stop() == 0


@contextmanager
def running(ceph: S3Server, seed: int, secrets: dict[str, str] | None = None) -> Iterator[Scene]:
    with fresh_bucket(ceph) as bucket, running_faults(ceph.endpoint, random.Random(seed)) as proxy:
        place = f"s3://{bucket.name}/shop?endpoint="
        with (
            new_site(
                VOLUMES, store=place + proxy.endpoint, secrets=secrets or ceph.environment(), with_key=True
            ) as site,
        ):
            site.init().must()
            agent = site.start()
            guest = Guest(site, bytearray(VOLUMES["db"]))
            recovery = Site(
                site.base, place + ceph.endpoint, VOLUMES, ceph.environment(), site.settings, with_key=True
            )
            thread = threading.Thread(target=guest.work)
            thread.start()
            try:
                scene = Scene(site, agent, guest, proxy, recovery)
                guest.must_write(5)
                scene.must_go_on()
                yield scene
            finally:
                guest.end()
                thread.join()


@contextmanager
def no_storm(proxy: FaultProxy) -> Iterator[None]:
    """While this lasts requests are few, those that are repeated counted too."""
    first, began_seconds = len(proxy.seen), proxy.elapsed_seconds()
    yield
    lasted_seconds = proxy.elapsed_seconds() - began_seconds
    asked = len(proxy.seen) - first
    assert asked <= AWAY_REQUESTS + AWAY_REQUESTS_PER_SECOND * lasted_seconds, proxy.seen[first:][:200]


def test_the_store_is_away(ceph: S3Server) -> None:
    """Connections are reset, then refused, then nothing is answered at all, for longer than a lease."""
    with running(ceph, 1) as scene:
        scene.proxy.set(faults.AWAY)
        with no_storm(scene.proxy):
            scene.backlog_must_grow(2 * MIB)
            wait_until(
                lambda: "lease passed" in str(scene.site.facts().get("state")),
                "the lease passed",
                NOTICE_SECONDS_MAX,
            )
            before = scene.protected_cut()
            with scene.proxy.refusing():
                scene.backlog_must_grow(scene.waiting_bytes() + MIB)
            scene.proxy.set(faults.SILENT)
            scene.backlog_must_grow(scene.waiting_bytes() + 2 * MIB)
            assert scene.protected_cut() == before
        assert scene.site.status().code == 3, "status says that protection is behind"
        scene.proxy.set(faults.NONE)
        scene.must_go_on()
        restored_is_whole(scene)


def test_credentials_expire_and_are_renewed(ceph: S3Server, tmp_path: Path) -> None:
    """What an operator puts into the file is found without a restart."""
    file = tmp_path / "credentials"
    _fill(file, ceph.access_key, ceph.secret_key)
    without = {name: value for name, value in ceph.environment().items() if "ACCESS" not in name}
    with running(ceph, 2, without | {"AWS_SHARED_CREDENTIALS_FILE": str(file)}) as scene:
        scene.proxy.set(Faults(refused=1.0, refusal=faults.EXPIRED_TOKEN))
        with no_storm(scene.proxy):
            scene.backlog_must_grow(2 * MIB)
            wait_until(
                lambda: "have expired" in str(scene.site.facts()), "status says why", NOTICE_SECONDS_MAX
            )
            # An operator errs; then it is the gateway itself that denies.
            _fill(file, "nobody", "wrong")
            first = len(scene.proxy.seen)
            wait_until(lambda: len(scene.proxy.seen) > first + 2, "they were looked for", NOTICE_SECONDS_MAX)
            scene.proxy.set(faults.NONE)
            scene.backlog_must_grow(scene.waiting_bytes() + 2 * MIB)
        _fill(file, ceph.access_key, ceph.secret_key)
        scene.must_go_on()
        restored_is_whole(scene)


def _fill(file: Path, access: str, secret: str) -> None:
    fresh = file.with_suffix(".new")
    fresh.write_text(f"[default]\naws_access_key_id={access}\naws_secret_access_key={secret}\n")
    fresh.replace(file)


@pytest.mark.parametrize(
    ("seed", "wrong"),
    [
        pytest.param(3, Faults(bytes_per_second=400_000), id="a trickle"),
        pytest.param(4, Faults(lost=0.3), id="replies are lost"),
        pytest.param(5, Faults(refused=0.5), id="half the requests fail"),
        pytest.param(
            7, Faults(reset=0.05, broken=0.05, stalled=0.02, delay_seconds=0.1), id="delay, resets and stalls"
        ),
    ],
)
def test_a_bad_line_is_slow_but_right(ceph: S3Server, seed: int, wrong: Faults) -> None:
    """Cuts go on being protected under the fault, and everything drains after it."""
    with running(ceph, seed) as scene:
        scene.proxy.set(wrong)
        scene.guest.must_write(100)
        scene.must_go_on()
        scene.proxy.set(faults.NONE)
        restored_is_whole(scene)


def test_half_the_requests_are_throttled(ceph: S3Server) -> None:
    """Each refusal makes us wait longer; what waited is sent when the store is well again."""
    with running(ceph, 6) as scene:
        scene.proxy.set(Faults(refused=0.5, refusal=faults.SLOW_DOWN))
        first = len(scene.proxy.seen)
        with no_storm(scene.proxy):
            scene.backlog_must_grow(2 * MIB)
        assert set(scene.proxy.counts(first)) == {Fate.ANSWERED, Fate.PASSED}
        scene.proxy.set(faults.NONE)
        restored_is_whole(scene)


def test_a_store_that_asks_for_patience_gets_it(ceph: S3Server) -> None:
    """All is throttled: few requests, and everything is sent afterwards."""
    with running(ceph, 8) as scene:
        scene.proxy.set(Faults(refused=1.0, refusal=faults.SLOW_DOWN))
        with no_storm(scene.proxy):
            scene.backlog_must_grow(4 * MIB)
        scene.proxy.set(faults.NONE)
        scene.must_go_on()
        restored_is_whole(scene)


def test_a_restore_over_a_bad_line(ceph: S3Server) -> None:
    """Reads are repeated; nothing wrong is ever written to the target."""
    with running(ceph, 9) as scene:
        scene.guest.must_write(100)
        scene.guest.end()
        scene.site.flush_when_ready()
        assert scene.agent.stop() == 0
        scene.proxy.set(Faults(reset=0.1, refused=0.1, broken=0.1, delay_seconds=0.02))
        first = len(scene.proxy.seen)
        target = scene.site.base / "b" / "db.raw"
        scene.site.restore("db", target)
        assert target.read_bytes() == bytes(scene.guest.image)
        assert set(scene.proxy.counts(first)) == {Fate.RESET, Fate.ANSWERED, Fate.BROKEN, Fate.PASSED}
