"""Takeovers in a real Ceph gateway: of an owner that was killed amid a cut, and by two sites at once."""

from __future__ import annotations

import os
import random
import shutil
import signal
from collections.abc import Iterator
from contextlib import closing, contextmanager

import pytest

from cdp_container.domain.notes import load_notes
from cdp_container.errors import Fenced, OwnedElsewhere
from cdp_container.store.address import open_store
from cdp_container.store.api import Store
from tests.e2e.processes import Done
from tests.e2e.recovery import Sites, ask, ended, force_word, history, preambles, several_sites
from tests.e2e.site import END_SECONDS_MAX, MIB, Agent, Site
from tests.servers import faults
from tests.servers.bucket import Bucket, fresh_bucket, s3_environment
from tests.servers.faults import FaultProxy, Faults, running_faults
from tests.servers.s3 import S3Server
from tests.waiting import wait_until

pytestmark = [pytest.mark.e2e, pytest.mark.ceph]

SIZE = 64 * MIB
VOLUMES = {"db": SIZE}
BIG_BYTES = 48 * MIB
"""Several segments: no object is larger than 16 MiB."""
FLAKY = Faults(reset=0.8)
"""Of the segments of a cut, which are put side by side, some get through at once and others wait."""
WRITE_BYTES = MIB


@pytest.fixture(scope="module")
def bucket(ceph: S3Server) -> Iterator[Bucket]:
    with pytest.MonkeyPatch.context() as patch, fresh_bucket(ceph) as bucket:
        s3_environment(ceph, patch)
        yield bucket


@contextmanager
def domain(bucket: Bucket, name: str, endpoint: str) -> Iterator[Sites]:
    """One of its own, in a directory of the bucket."""
    store = f"s3://{bucket.name}/{name}?endpoint={endpoint}"
    with several_sites(VOLUMES, store, bucket.server.environment()) as sites:
        yield sites


def write(site: Site, image: bytearray, offset: int, size_bytes: int, seed: int) -> None:
    """Random data, acknowledged when this returns."""
    data = random.Random(seed).randbytes(size_bytes)
    with site.client("db") as client:
        for at in range(0, size_bytes, WRITE_BYTES):
            client.write(offset + at, data[at : at + WRITE_BYTES])
    image[offset : offset + size_bytes] = data


def must_protect(site: Site, image: bytearray, seed: int) -> None:
    """What is written there comes back, on top of what there was."""
    write(site, image, SIZE - MIB, MIB, seed)
    site.flush_when_ready()
    folder = site.base / f"restored-{seed}"
    folder.mkdir()
    ask(site, "restore", "--all", "--target-dir", str(folder))
    assert (folder / "db.raw").read_bytes() == image


# --- an owner that is killed amid a cut -----------------------------------------------------------


def test_a_cut_that_an_owner_was_killed_in_is_never_seen(ceph: S3Server, bucket: Bucket) -> None:
    image = bytearray(SIZE)
    with (
        running_faults(ceph.endpoint, random.Random(1)) as proxy,
        domain(bucket, "killed", proxy.endpoint) as sites,
        closing(open_store(f"s3://{bucket.name}/killed?endpoint={ceph.endpoint}")) as store,
    ):
        first = sites.first
        agent = first.start()
        write(first, image, 0, MIB, 1)
        first.flush_when_ready()
        _kill_amid_a_cut(first, agent, proxy, store)
        taker = sites.add("b")
        done = ended(sites.begin(taker, "--force", force_word(taker), "--no-start")).must().json
        parts = preambles(store)  # what was under way at the kill has landed by now, or never will
        newest = max(part.cut for part in parts if part.complete and part.epoch == 1)
        begun = sorted(part.seq for part in parts if part.cut > newest)
        print(f"cut 1.{newest} is complete; of the one after it there are the segments {begun}")
        assert begun, "the kill came too late: no cut was under way"
        assert done["point"] == f"1.{newest}"
        assert done["side_branch"] is None
        taker.start()
        assert taker.backing("db").read_bytes() == image
        must_protect(taker, image, 3)
        points = ask(taker, "points", "--last", "0")["points"]
        assert max(one["cut"] for one in points if one["epoch"] == 1) == newest
        assert not any(one["broken"] for one in points)


def _kill_amid_a_cut(site: Site, agent: Agent, proxy: FaultProxy, store: Store) -> None:
    """SIGKILL to all of it, when part of a cut of several segments is in the container."""
    complete = max(part.cut for part in preambles(store))
    streamer = agent.child("streamer")
    assert streamer is not None
    proxy.set(FLAKY)
    os.kill(streamer, signal.SIGSTOP)  # or every 200 ms of writing were a cut of its own
    try:
        write(site, bytearray(SIZE), 0, BIG_BYTES, 2)
    finally:
        os.kill(streamer, signal.SIGCONT)
    wait_until(
        lambda: any(part.cut > complete for part in preambles(store)),
        "part of the cut is there",
        END_SECONDS_MAX,
    )
    agent.kill_group()
    proxy.set(faults.NONE)


# --- two that want the same domain at once --------------------------------------------------------


@contextmanager
def left_behind(bucket: Bucket, ceph: S3Server, name: str) -> Iterator[tuple[Sites, bytearray]]:
    """A domain whose owner was killed, and what was protected of it."""
    image = bytearray(SIZE)
    with domain(bucket, name, ceph.endpoint) as sites:
        agent = sites.first.start()
        write(sites.first, image, 0, MIB, 1)
        sites.first.flush_when_ready()
        agent.kill_group()
        yield sites, image


def race(sites: Sites, *options: str) -> tuple[Site, Site, Done]:
    """Sites b and c begin at once; gives who won, who did not, and what that one was told."""
    racers = [sites.add("b"), sites.add("c")]
    processes = [sites.begin(site, *options) for site in racers]
    results = [ended(process) for process in processes]
    print([(done.code, done.err) for done in results])
    won = [number for number, done in enumerate(results) if done.code == 0]
    assert len(won) == 1, "exactly one wins"
    return racers[won[0]], racers[1 - won[0]], results[1 - won[0]]


def must_have_lost(loser: Site, winner: Site, told: Done) -> None:
    """A clear word, and nothing left that anybody would serve."""
    assert told.code in (OwnedElsewhere.exit_code, Fenced.exit_code), told
    assert "Traceback" not in told.err
    assert winner.base.name in {epoch["site"] for epoch in history(winner)[1:]}
    assert f"site '{winner.base.name}'" in told.err, told.err
    assert "hint: " in told.err
    assert not (loser.journal / "agent.json").exists()
    assert not loser.socket.exists()
    assert not loser.backing("db").exists()


def begin_anew(sites: Sites, loser: Site) -> None:
    """What the loser has can be thrown away, and the site takes over by the rules."""
    shutil.rmtree(loser.base)
    again = sites.add(loser.base.name)
    ended(sites.begin(again)).must(OwnedElsewhere.exit_code)


def test_two_that_force_the_same_version(ceph: S3Server, bucket: Bucket) -> None:
    with left_behind(bucket, ceph, "forced") as (sites, image):
        word = force_word(sites.first)
        winner, loser, told = race(sites, "--force", word)
        must_have_lost(loser, winner, told)
        must_protect(winner, image, 4)
        begin_anew(sites, loser)
        assert {epoch["site"] for epoch in history(winner)} == {"a", winner.base.name}


def test_two_that_wait_for_the_same_lease(ceph: S3Server, bucket: Bucket) -> None:
    with left_behind(bucket, ceph, "waited") as (sites, image):
        winner, loser, told = race(sites)
        must_have_lost(loser, winner, told)
        assert "waiting for the lease" in told.err
        must_protect(winner, image, 5)
        begin_anew(sites, loser)
        assert {epoch["site"] for epoch in history(winner)} == {"a", winner.base.name}


# --- an owner whose look at domain/owner hangs ------------------------------------------------------


HANGS_SECONDS = 90.0
"""Longer than any answer is waited for."""
FENCED_SECONDS_MAX = 12.0
"""The limit is 2 s with this lease; without one it would be 30 s."""


def test_an_owner_whose_look_hangs_in_the_network_is_fenced_all_the_same(
    ceph: S3Server, bucket: Bucket
) -> None:
    """It stands still with that request under way, is overtaken, and goes on: it gives up and asks again."""
    with (
        running_faults(ceph.endpoint, random.Random(1)) as proxy,
        domain(bucket, "hangs", proxy.endpoint) as sites,
    ):
        first = sites.first
        agent = first.start()
        write(first, bytearray(SIZE), 0, MIB, 1)
        first.flush_when_ready()
        streamer = agent.child("streamer")
        assert streamer is not None
        since = len(proxy.seen)
        proxy.set(Faults(delay_seconds=HANGS_SECONDS, only="/domain/owner"))
        wait_until(
            lambda: any(one.path.endswith("/domain/owner") for one in proxy.seen[since:]),
            "a look at the owner is under way",
            END_SECONDS_MAX,
        )
        os.kill(streamer, signal.SIGSTOP)
        proxy.set(faults.NONE)
        try:
            taker = sites.add("b")
            ended(sites.begin(taker, "--force", force_word(taker), "--no-start")).must()
        finally:
            os.kill(streamer, signal.SIGCONT)
        wait_until(lambda: load_notes(first.journal).fenced, "it is fenced", FENCED_SECONDS_MAX)
