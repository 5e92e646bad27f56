"""Real guests that are captured by images, without a new I/O path, and die with their site at any moment.

What they had acknowledged before a protected image is there afterwards, checked by a guest that boots from
it; and of two disks no point has more in the one that is written second.
"""

from __future__ import annotations

import contextlib
import random
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.site import MIB, Agent, Site, new_site
from tests.tiny_vm import NEEDS, Guest, Job, formatted, initrd_expecting, tiny_guest

pytestmark = pytest.mark.needs(*NEEDS)

BLOCK = 4096
POINTS_MAX = 12


@contextlib.contextmanager
def captured(disks: Sequence[Path], job: Job, base: Path) -> Iterator[tuple[Site, Agent, Guest]]:
    """A guest that has not begun, and a site that has nothing but its disks."""
    words = ["-S", "-qmp", f"unix:{base}/vm/agent.sock,server=on,wait=off"]
    with new_site({}) as site, tiny_guest(base / "vm", disks, job, extra=words) as guest:
        site.write_config("capture_every: 300ms", f"vms: [{{name: db, qmp: {base}/vm/agent.sock}}]")
        with site.config.open("a") as file:
            file.write("volumes:\n")
            for number in range(len(disks)):
                file.write(f"  - {{name: {name_of(number)}, vm: db, disk: vd{'ab'[number]}}}\n")
        site.init().must()
        agent = site.start()
        site.flush_when_ready()
        guest.qmp("cont")
        yield site, agent, guest


def name_of(disk: int) -> str:
    return ("data", "log")[disk]


@pytest.fixture
def base() -> Iterator[Path]:
    """With a short name, because sockets lie in it."""
    with tempfile.TemporaryDirectory(prefix="ig-") as made:
        yield Path(made)


def test_what_a_guest_synced_before_a_protected_image_comes_back(base: Path) -> None:
    disk = formatted(base / "disk", 64 * MIB)
    job = Job("write", n=4000, delay_microseconds=20_000)
    with captured([disk], job, base) as (site, agent, guest):
        guest.wait_for("MARK fsync 12 ")
        sums = {int(mark.words[0]): mark.words[1] for mark in guest.marks("fsync")}
        site.flush().must()
        cycle = site.status().json["images"]["last_cycle"]
        guest.wait_for(f"MARK fsync {random.Random(str(sums)).randint(25, 45)} ")
        agent.kill_group()
        guest.kill()
        site.restore("data", base / "restored")
    print(f"{len(sums)} files were acknowledged before the flush; last cycle: {cycle}")
    expected = initrd_expecting(base / "initrd", sums)
    with tiny_guest(base / "after", [base / "restored"], Job("verify"), initrd=expected) as after:
        after.wait_for_end()
        found = {int(mark.words[0]): mark.words[1] for mark in after.marks("file")}
        assert {number: found.get(number) for number in sums} == sums
        assert after.marks("verified")[0].words[1] == "0"


def test_two_disks_of_a_guest_agree_at_every_point(base: Path) -> None:
    disks = [base / "data.raw", base / "log.raw"]
    for disk in disks:
        disk.write_bytes(bytes(16 * MIB))
    counts = []
    with captured(disks, Job("write-pairs", n=4000), base) as (site, agent, guest):
        for number in (20, 60, 100):
            guest.wait_for(f"MARK pair {number} ")
            site.flush().must()
        agent.kill_group()
        guest.kill()
        points = [point for point in site.points() if point["whole"]][-POINTS_MAX:]
        assert_of_one_instant(points)
        for number, point in enumerate(points):
            folder = base / f"point-{number}"
            site.restore_all(folder, "--at", f"{point['epoch']}.{point['cut']}")
            counts.append(tuple(count((folder / f"{name_of(disk)}.raw").read_bytes()) for disk in range(2)))
    print(f"pairs at {len(points)} points: {counts}")
    for data, log in counts:
        assert data <= log <= data + 1, counts
    assert counts == sorted(counts)
    assert counts[-1][0] >= 100
    assert len({*counts}) > 2


def assert_of_one_instant(points: list[dict[str, Any]]) -> None:
    """Each point tells when both disks of the VM were imaged: at once, and ever later."""
    times = []
    for point in points:
        assert sorted(one["volume"] for one in point["instants"]) == ["data", "log"]
        (at_ns,) = {one["at_ns"] for one in point["instants"]}
        assert point["instants_apart_ns"] == 0
        assert not point["skewed"]
        times.append(at_ns)
    assert times == sorted(times)


def count(disk: bytes) -> int:
    """How many numbers follow each other from 0."""
    number = 0
    while disk[number * BLOCK :][:16] == b"%016d" % number:
        number += 1
    return number
