"""Volumes on real block devices (of the loop driver): protected, taken over, brought back, and doubted.

Nothing tells when a device was written, so whatever rests on a file's times elsewhere is compared here.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from cdp_container.errors import (
    AlreadyRunning,
    BackingChanged,
    BackingUnreadable,
    TargetNotEmpty,
    TargetUnsuitable,
)
from tests.e2e.processes import Done, run
from tests.e2e.site import BIN, END_SECONDS_MAX, MIB, Site
from tests.e2e.test_failback import assert_disks, diverge, failback, lose, two_ways, words_of
from tests.e2e.test_failover import (
    SMALL_BYTES,
    VOLUMES,
    assert_restores,
    fill,
    fill_small,
    force_word,
    shown_counters,
)
from tests.loops import grow, loop_device, missing_for_loops
from tests.waiting import wait_until

pytestmark = [pytest.mark.e2e, pytest.mark.needs(*missing_for_loops())]

Images = dict[str, bytearray]
DB_BYTES = VOLUMES["db"]
PARTIAL_BYTES = 3 * 4096
"""Of blocks that `write_zeros` writes in part: no sum is known of them, and they are sent."""
STRANGER = b"a stranger".ljust(4096)


@dataclass(frozen=True, slots=True)
class Device:
    """A device, and the file that it lies in."""

    path: Path
    file: Path

    def scribble(self, offset: int) -> None:
        """Write to it past the agent, and let go of it."""
        with self.path.open("r+b") as disk:
            disk.seek(offset)
            disk.write(STRANGER)
            disk.flush()
            os.fsync(disk.fileno())


@contextmanager
def two_sites_on_devices() -> Iterator[tuple[Site, Site, Device, Device]]:
    """As `two_ways`; the volume db lies on a device at either site, log in a file.

    At a the configuration names a link to the device, as LVM makes them, at b the device itself.
    """
    with ExitStack() as stack:
        a, b = stack.enter_context(two_ways())
        at_a, at_b = (give_device(stack, site) for site in (a, b))
        b.config.write_text(b.config.read_text().replace(str(b.backing("db")), str(at_b.path)))
        yield a, b, at_a, at_b


def give_device(stack: ExitStack, site: Site) -> Device:
    """Put the volume db of a site on a new device."""
    file = site.base / "db.loop"
    device = stack.enter_context(loop_device(file, DB_BYTES))
    stack.callback(end_agents, site)  # whoever has it open has to end before it is detached
    site.backing("db").unlink(missing_ok=True)
    site.backing("db").symlink_to(device)
    return Device(device, file)


def end_agents(site: Site) -> None:
    with contextlib.suppress(ProcessLookupError):
        lose(site)
    for agent in site.agents:
        agent.kill_group()


def take_over(b: Site, device: Device, *words: str) -> None:
    failover_to(b, device, *words).must()


def failover_to(b: Site, device: Device, *words: str) -> Done:
    places = ["--journal", str(b.journal), "--config", str(b.config), "--volume", f"db={device.path}"]
    command = [str(BIN / "rehydrate"), "failover", b.store, "--site", "b", *places, "--json"]
    log = ["--volume", f"log={b.backing('log')}"]
    return run([*command, *log, *words, *b.secret_options()], b.environment(b.base / "home"))


def assert_compared_and_nothing_sent(site: Site) -> None:
    """The device was read once, and found to be what the container says."""
    wait_until(lambda: site.facts().get("not_whole") == [], "everything is compared", END_SECONDS_MAX)
    counters = shown_counters(site)
    assert counters["copy_compared_bytes"] == DB_BYTES, "the device, and not the file"
    assert counters["copy_different_bytes"] <= PARTIAL_BYTES
    assert counters["stored_bytes"] < SMALL_BYTES


def write_zeros(site: Site, images: Images) -> None:
    """Discards and zeros, which a device takes through other calls of the kernel than a file."""
    with site.client("db") as client:
        for offset, length in ((0, 512), (MIB, MIB), (3 * MIB + 512, 10_240)):
            client.write(offset, b"x" * length)
            client.write_zeroes(offset, length)
            images["db"][offset : offset + length] = bytes(length)
        client.write(5 * MIB, b"y" * 65_536)
        client.trim(5 * MIB, 65_536)
        images["db"][5 * MIB : 5 * MIB + 65_536] = bytes(65_536)
        client.flush()
        assert client.read(0, 6 * MIB) == images["db"][: 6 * MIB]


def test_there_and_back_again() -> None:
    images: Images = {}
    with two_sites_on_devices() as (a, b, at_a, at_b):
        a.start()
        fill(a, 1, images)
        write_zeros(a, images)
        a.flush_when_ready()
        assert_restores(a, images)
        diverge(a)
        take_over(b, at_b, "--force", force_word(b))
        assert at_b.path.read_bytes() == images["db"]
        assert_compared_and_nothing_sent(b)
        fill_small(b, images)
        write_zeros(b, images)
        fill(b, 2, images)
        assert_restores(b, images)
        at_a.scribble(6 * MIB)  # where no record of the journal tells
        first = failback(a, "--once").must()
        assert_disks(a, images)
        assert DB_BYTES <= first.json["compared_bytes"] < sum(VOLUMES.values()), "not of the file"
        fill(b, 3, images)
        b.agent_command("release", "--to", "a").must()
        done = failback(a).must()
        assert_disks(a, images)
        assert done.json["compared_bytes"] >= DB_BYTES, "nobody knows who wrote to it in between"
        assert_compared_and_nothing_sent(a)
        fill_small(a, images)
        assert_restores(a, images)


def test_an_interrupted_failback_compares_the_device_wholly() -> None:
    images: Images = {}
    with two_sites_on_devices() as (a, b, at_a, at_b):
        a.start()
        fill(a, 4, images)
        diverge(a)
        take_over(b, at_b, "--force", force_word(b))
        fill(b, 5, images)
        log = a.base / "failback.log"
        with log.open("wb") as file:
            process = subprocess.Popen(words_of(a), env=a.environment(a.base / "home"), stderr=file)
        try:
            wait_until(lambda: "the disks are the cut" in log.read_text(), "a first pass", END_SECONDS_MAX)
        finally:
            process.kill()
            process.wait(END_SECONDS_MAX)
        assert_disks(a, images)
        at_a.scribble(2 * MIB)
        done = failback(a, "--once").must()
        assert_disks(a, images)
        assert DB_BYTES <= done.json["compared_bytes"] < sum(VOLUMES.values())


@pytest.mark.parametrize("choice", ["--redo", "--keep-disk"])
def test_a_stranger_who_wrote_while_the_agent_was_dead_is_noticed(choice: str) -> None:
    """By what does not read back; of what was synced before, the disk's word counts either way."""
    images: Images = {}
    with two_sites_on_devices() as (a, _, at_a, _):
        agent = a.start()
        fill(a, 6, images)
        with a.client("db") as client:
            client.write(MIB, b"the last".ljust(4096))
            client.flush()
        agent.kill_group()
        at_a.scribble(MIB)
        images["db"][MIB : MIB + 4096] = STRANGER
        refusing = a.launch()
        assert refusing.process.wait(END_SECONDS_MAX) == BackingChanged.exit_code
        assert "does not hold what was written at byte 1048576" in refusing.log()
        assert "--keep-disk" in a.status().out
        a.start(choice)
        fill_small(a, images)
        wait_until(lambda: a.facts().get("not_whole") == [], "everything is compared", END_SECONDS_MAX)
        a.flush_when_ready()
        assert_disks(a, images)
        assert_restores(a, images)


def test_a_device_that_grows_is_served_larger() -> None:
    images: Images = {}
    with two_sites_on_devices() as (a, b, at_a, at_b):
        agent = a.start()
        fill(a, 7, images)
        grow(at_a.path, at_a.file, DB_BYTES + MIB)
        a.agent_command("reload").must()
        wait_until(lambda: a.facts().get("not_whole") == [], "what is new is copied", END_SECONDS_MAX)
        with a.client("db") as client:
            assert client.size_bytes == DB_BYTES + MIB
            client.write(DB_BYTES, b"where there was nothing".ljust(4096))
            client.flush()
        images["db"] += b"where there was nothing".ljust(4096).ljust(MIB, b"\0")
        a.flush_when_ready()
        assert_restores(a, images)
        agent.kill_group()
        word = force_word(b)
        small = failover_to(b, at_b, "--force", word).must(TargetUnsuitable.exit_code)
        assert str(DB_BYTES) in small.err
        assert force_word(b) == word, "nothing was claimed"
        grow(at_b.path, at_b.file, DB_BYTES + 2 * MIB)
        failover_to(b, at_b, "--force", word).must(TargetUnsuitable.exit_code)
        assert force_word(b) == word, "nor for one that is too large, which no guest could be shown"


def test_a_device_that_holds_something_is_overwritten_only_by_force() -> None:
    images: Images = {}
    with two_sites_on_devices() as (a, _, _, at_b):
        a.start()
        fill(a, 8, images)
        at_b.scribble(DB_BYTES - 4096)
        words = ["restore", "--volume", "db", "--target", str(at_b.path)]
        a.rehydrate(*words).must(TargetNotEmpty.exit_code)
        assert at_b.path.read_bytes()[-4096:] == STRANGER
        a.rehydrate(*words, "--force").must()
        assert at_b.path.read_bytes() == images["db"]
        used = run(
            [str(BIN / "rehydrate"), *words[:1], a.store, *words[1:3], "--target", str(a.backing("db")),
             "--force", *a.secret_options()],
            a.environment(a.base / "home"),
        )  # fmt: skip
        assert used.code == AlreadyRunning.exit_code, used
        assert_disks(a, images)


@pytest.mark.needs("mke2fs")
def test_a_mounted_device_is_not_served_and_a_served_one_not_mounted() -> None:
    with two_sites_on_devices() as (a, _, at_a, _):
        folder = a.base / "mounted"
        folder.mkdir()
        here = a.environment(a.base / "home")
        mount = ["mount", "-t", "ext2", str(at_a.path), str(folder)]
        run(["mke2fs", "-q", str(at_a.path)], here).must()
        run(mount, here).must()
        try:
            refusing = a.launch()
            assert refusing.process.wait(END_SECONDS_MAX) == BackingUnreadable.exit_code
        finally:
            run(["umount", str(folder)], here).must()
        assert "it is mounted" in refusing.log()
        a.start()
        assert run(mount, here).code
        a.flush_when_ready()
        assert_restores(a, {"db": bytearray(at_a.path.read_bytes())})
