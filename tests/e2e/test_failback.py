"""Failback with real processes: protected at a, over to b, back to a, byte for byte after each step."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import pytest

from cdp_container.errors import AlreadyRunning, ConfigInvalid, UsageError
from tests.e2e.processes import Done, run
from tests.e2e.site import BIN, END_SECONDS_MAX, MIB, Site
from tests.e2e.test_failover import (
    VOLUMES,
    assert_nothing_copied,
    assert_restores,
    failover,
    fill,
    fill_small,
    force_word,
    pids_in,
    two_sites,
)
from tests.waiting import wait_until

pytestmark = pytest.mark.e2e

Images = dict[str, bytearray]


@contextmanager
def two_ways(
    store: str | None = None, secrets: Mapping[str, str] | None = None
) -> Iterator[tuple[Site, Site]]:
    """Two sites; also what a failback started at the first one ends with this."""
    with two_sites(store, secrets) as (a, b):
        try:
            yield a, b
        finally:
            for pid in pids_in(a.journal):
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(pid, signal.SIGKILL)


def words_of(a: Site, *options: str) -> list[str]:
    words = [str(BIN / "rehydrate"), "failback", a.store, "--journal", str(a.journal)]
    return [*words, "--config", str(a.config), "--json", *options, *a.secret_options()]


def failback(a: Site, *options: str) -> Done:
    return run(words_of(a, *options), a.environment(a.base / "home"))


def assert_disks(site: Site, images: Images) -> None:
    for name, image in images.items():
        assert site.backing(name).read_bytes() == image, name


def diverge(a: Site) -> None:
    """Writes at a that its streamer never sends, to places of its own and to some that b will write."""
    agent = a.agents[-1]
    streamer = agent.child("streamer")
    assert streamer is not None
    os.kill(streamer, signal.SIGSTOP)
    rng = random.Random(99)
    with a.client("db") as client:
        for offset in (8192, 64 << 10, 5 * MIB, 7 * MIB):
            client.write(offset, rng.randbytes(12 << 10))
        client.flush()
    with a.client("log") as client:
        client.write(MIB, rng.randbytes(4096))
    agent.kill_group()


def overtaken(a: Site, b: Site, images: Images) -> None:
    """A was lost with writes that it never sent; b goes on and has written since."""
    a.start()
    fill(a, 1, images)
    diverge(a)
    failover(b, "--force", force_word(b)).must()
    fill_small(b, images)


def assert_goes_on(site: Site, images: Images) -> None:
    """It is served and protected from the cut that the disks were, and nothing was copied."""
    fill_small(site, images)
    wait_until(lambda: "counters" in site.facts(), "the streamer shows what it did", END_SECONDS_MAX)
    assert_nothing_copied(site)
    assert_restores(site, images)


def lose(site: Site) -> None:
    """The agent there dies, with its machine."""
    for pid in pids_in(site.journal):
        os.killpg(pid, signal.SIGKILL)


def test_the_domain_comes_back_and_only_what_differs_is_fetched() -> None:
    images: Images = {}
    with two_ways() as (a, b):
        overtaken(a, b, images)
        first = failback(a, "--once").must()
        assert_disks(a, images)
        assert first.json["epoch"] is None
        assert 0 < first.json["compared_bytes"] < 20 * (12 << 10)
        assert (a.journal / "diverged-1" / "journal").is_dir()
        refused = a.agent_command("run")
        assert "failback" in refused.must(ConfigInvalid.exit_code).err
        lose(b)
        done = failback(a, "--force", force_word(b)).must()
        assert_disks(a, images)
        assert done.json["agent_pid"]
        failback(a).must(AlreadyRunning.exit_code)
        assert_goes_on(a, images)
        lose(a)
        failback(a).must(UsageError.exit_code)


def test_a_disk_that_was_used_after_a_clean_stop_is_compared_whatever_its_times_say() -> None:
    images: Images = {}
    with two_ways() as (a, b):
        a.start()
        fill(a, 2, images)
        assert a.agents[-1].stop() == 0
        failover(b, "--force", force_word(b)).must()
        fill_small(b, images)
        disk = a.backing("log")
        before = disk.stat()
        with disk.open("r+b") as file:
            file.seek(VOLUMES["log"] - 4096)
            file.write(b"by hand, and by a clock that was behind")
        os.utime(disk, ns=(before.st_atime_ns, before.st_mtime_ns))
        done = failback(a, "--once").must()
        assert_disks(a, images)
        assert "all of log is compared" in done.err
        assert VOLUMES["log"] <= done.json["compared_bytes"] < VOLUMES["log"] + VOLUMES["db"] // 4
        everything = failback(a, "--once", "--compare-all").must()
        assert everything.json["compared_bytes"] == sum(VOLUMES.values())


def test_one_that_is_killed_again_and_again_goes_on() -> None:
    images: Images = {}
    rng = random.Random(7)
    with two_ways() as (a, b):
        overtaken(a, b, images)
        for _ in range(6):
            process = subprocess.Popen(
                words_of(a, "--once"),
                env=a.environment(a.base / "home"),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(rng.uniform(0.2, 3.0))
            process.kill()
            process.wait(END_SECONDS_MAX)
            fill_small(b, images)
        lose(b)
        failback(a, "--force", force_word(b), "--no-start").must()
        assert_disks(a, images)
        a.start()
        assert_goes_on(a, images)


def test_a_planned_round_trip_loses_nothing_and_follows_while_the_other_site_works() -> None:
    images: Images = {}
    with two_ways() as (a, b):
        a.start()
        fill(a, 3, images)
        a.agent_command("release", "--to", "b").must()
        a.agents[-1].stop()
        assert_disks(a, images)
        failover(b).must()
        fill(b, 4, images)
        log = a.base / "failback.log"
        with log.open("wb") as file:
            process = subprocess.Popen(
                words_of(a), env=a.environment(a.base / "home"), stdout=subprocess.PIPE, stderr=file
            )
        try:
            wait_until(lambda: "release --to a" in log.read_text(), "it waits for b", END_SECONDS_MAX)
            fill(b, 5, images)
            with b.client("log") as client:  # not flushed: the release has to bring it over
                client.write(4096, b"the last write at b".ljust(4096))
            images["log"][4096:8192] = b"the last write at b".ljust(4096)
            b.agent_command("release", "--to", "a").must()
            out, _ = process.communicate(timeout=END_SECONDS_MAX)
        finally:
            process.kill()
            print(log.read_text())
        assert process.returncode == 0
        assert_disks(a, images)
        report = json.loads(out)
        assert report["passes"] >= 2
        print({name: value for name, value in report.items() if "bytes" in name or "owner" in name})
        assert_goes_on(a, images)
        lose(b)  # its exports are closed since the release
        a.agent_command("release", "--to", "b").must()
        back = failback(b).must()
        assert_disks(b, images)
        assert back.json["compared_bytes"] < sum(VOLUMES.values()) // 4
        assert_goes_on(b, images)
        assert_restores(a, images)
