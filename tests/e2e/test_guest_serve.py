"""A real guest runs from `rehydrate serve`, over its kill and the loss of the container, and notices nothing.

Its root file system is on the disk that is served. It writes all the time, and in the end another guest finds
what the first one wrote, and what was protected, with nothing but the overlay.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from contextlib import ExitStack

import pytest

from tests.e2e.guests import (
    acknowledged,
    assert_no_error,
    check_file_system,
    let_write,
    longest_stall_seconds,
    pause,
)
from tests.e2e.served import SECONDS_MAX, Served, serving, status
from tests.e2e.site import MIB, Site, new_site
from tests.tiny_vm import NEEDS, Job, initrd_expecting, root_disk, tiny_guest
from tests.waiting import wait_until

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(400), pytest.mark.needs(*NEEDS, "e2fsck")]

SEED = 20_268
DISK_BYTES = 1024 * MIB
TOUCHED = 12
MOMENT_SECONDS_MAX = 1.0
SLOWLY = ("--finish", "--bytes-per-second", "1000000")
"""24 MB take longer than the guest's next files, also on a busy machine."""
FOR_EVER = 1_000_000


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    """A root file system that an agent protected, which does no more. Tests leave the container as it was."""
    with new_site({"root": DISK_BYTES}, with_key=True) as site:
        protected_root(site)
        yield site


def protected_root(site: Site) -> None:
    """All of it is in the container, and nobody else has it."""
    root_disk(site.backing("root"), DISK_BYTES, touched=TOUCHED, other_bytes=24 * MIB)
    site.init().must()
    agent = site.start()
    site.flush_when_ready()
    site.wait_until_whole()
    assert agent.stop() == 0
    site.backing("root").unlink()


def test_a_guest_boots_while_the_store_is_away(site: Site) -> None:
    """A first read waits; what came is here for the next guest, whose others wait. Neither sees an error."""
    away, folder = site.container.with_name("away"), site.base / "b"
    with serving(site, site.base / "p") as served:
        disks = [served.uri("root")]
        site.container.rename(away)
        with tiny_guest(folder / "first", disks, Job("wait", root=True)) as guest:
            wait_until(lambda: "wait: " in served.said(), "its first read waits", SECONDS_MAX)
            assert not guest.marks("mounted")
            away.rename(site.container)
            guest.wait_for_end()
            assert_no_error(guest.console)
        site.container.rename(away)
        with tiny_guest(folder / "next", disks, Job("touch", root=True)) as guest:
            guest.wait_for("MARK root")
            wait_until(lambda: waits(site, served), "a read waits", SECONDS_MAX)
            assert not guest.marks("touched")
            away.rename(site.container)
            guest.wait_for_end()
            assert guest.marks("touched")[0].words == (str(TOUCHED), "0")
            assert_no_error(guest.console)
        served.stop()


def waits(site: Site, served: Served) -> bool:
    """Whether reads wait for the store just now."""
    found: int = status(served, site)["volumes"][0]["waiting"]
    return found > 0


def test_a_guest_runs_while_its_disk_comes_and_the_server_dies(site: Site) -> None:
    rng = random.Random(SEED)
    with ExitStack() as stack:
        overlay, away = site.base / "o", site.container.with_name("away")
        served = stack.enter_context(serving(site, overlay))
        job = Job(n=FOR_EVER, size_bytes=16 << 10, root=True)
        guest = stack.enter_context(tiny_guest(site.base / "b" / "g", [served.uri("root")], job))
        guest.wait_for("MARK fsync 10 ")
        print(f"once it wrote: {status(served, site)}")
        for options in ((), SLOWLY, ("--finish",)):
            pause(rng.random() * MOMENT_SECONDS_MAX)
            served.kill()
            served = stack.enter_context(serving(site, overlay, *options))
            let_write(guest, "fsync", 10)
            assert options != SLOWLY or not status(served, site)["finished"]
        wait_until(lambda: status(served, site)["finished"], "all is here", SECONDS_MAX)
        site.container.rename(away)
        let_write(guest, "fsync", 10)
        guest.kill()
        sums = {number: mark.words[1] for number, mark in acknowledged(guest).items()}
        stall_seconds = longest_stall_seconds(guest.marks("fsync"))
        print(f"{len(sums)} files over three kills of the server; longest stall {stall_seconds:.2f} s")
        assert looks(site, served, "touch", {}) == (str(TOUCHED), "0")
        assert looks(site, served, "verify", sums) == (str(len(sums)), "0")
        served.stop()
        check_file_system(overlay / "root.raw")
        away.rename(site.container)


def looks(site: Site, served: Served, what: str, sums: Mapping[int, str]) -> tuple[str, ...]:
    """What another guest finds on the disk."""
    folder = site.base / "b" / what
    initrd = initrd_expecting(site.base / "b" / f"initrd-{what}", sums)
    with tiny_guest(folder, [served.uri("root")], Job(what, root=True), initrd=initrd) as guest:
        guest.wait_for_end()
        assert_no_error(guest.console)
        (mark,) = guest.marks({"touch": "touched", "verify": "verified"}[what])
        return mark.words
