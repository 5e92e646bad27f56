"""Two VMs captured by one agent, of which one stalls: the other's recovery points go on, and nothing is lost.

A stalled QEMU (a disk that hangs, a host that swaps) answers nothing and ends nothing. Here it is stopped
from outside: wherever it is, and amid a cycle of the imager, while a backup job of ours is in it.
"""

from __future__ import annotations

import contextlib
import os
import random
import re
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.imaged import BLOCK, Written, written_vm
from tests.e2e.site import MIB, Site, new_site
from tests.waiting import wait_until

pytestmark = pytest.mark.needs("qemu-system-x86_64")

SIZES = (6 * MIB, 2 * MIB)
NAMES = ("slow", "fast")
SECONDS_MAX = 90.0


@contextlib.contextmanager
def site_with_two() -> Iterator[tuple[Site, dict[str, Written]]]:
    """A site that has both VMs' disks as volumes, and none of the splitter; initialised."""
    with new_site({}, with_key=True) as site, contextlib.ExitStack() as stack:
        vms = {name: stack.enter_context(written_vm(site.root / name, SIZES)) for name in NAMES}
        members = ", ".join(f"{{name: {name}, qmp: {vm.qmp}}}" for name, vm in vms.items())
        site.write_config("capture_every: 300ms", f"vms: [{members}]", "volumes:")
        with site.config.open("a") as file:
            for name in NAMES:
                for number in range(len(SIZES)):
                    file.write(f"  - {{name: {name}-{number}, vm: {name}, disk: d{number}}}\n")
        site.init().must()
        yield site, vms


@contextlib.contextmanager
def stopped(vm: Written) -> Iterator[None]:
    """It does nothing at all."""
    os.kill(vm.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(vm.pid, signal.SIGCONT)


def restored(site: Site, folder: Path, vm: str) -> list[bytes]:
    """Its disks, of the newest point at which they are whole."""
    folder.mkdir()
    names = [f"{vm}-{number}" for number in range(len(SIZES))]
    for name in names:
        site.restore(name, folder / name)
    return [(folder / name).read_bytes() for name in names]


def told(site: Site, vm: str) -> dict[str, Any]:
    """What `status` says of one."""
    images = site.status().json["images"]
    found: dict[str, Any] = next(one for one in images["vms"] if one["name"] == vm)
    return found


def newest(site: Site) -> dict[str, bool]:
    """Which volumes are whole at the newest point."""
    return {volume["name"]: volume["whole"] for volume in site.points()[-1]["volumes"]}


def comes_back(site: Site, folder: Path, vm: Written) -> float:
    """Wait until what `fast` holds now can be restored; in how many seconds."""
    began, turns = time.monotonic(), iter(range(10_000))

    def is_there() -> bool:
        return restored(site, folder / str(next(turns)), "fast") == vm.disks

    folder.mkdir(parents=True)
    wait_until(is_there, "what the other VM wrote is restored", SECONDS_MAX)
    return time.monotonic() - began


def amid_a_cycle(vm: Written, dice: random.Random) -> bool:
    """Whether a backup job of the imager is in it now, or was a moment ago."""
    vm.write_some(dice, 20)
    return any("job" in name for _ in range(100) for name in vm.left_over())


@pytest.mark.parametrize("amid", [False, True], ids=["anywhere", "amid a cycle"])
def test_a_vm_that_stalls_costs_the_other_nothing_and_loses_nothing(tmp_path: Path, amid: bool) -> None:
    dice = random.Random(41)
    with site_with_two() as (site, vms):
        slow, fast = vms["slow"], vms["fast"]
        agent = site.start()
        site.flush_when_ready()
        for vm in (slow, fast):
            vm.write_some(dice, 20)
        if amid:
            wait_until(lambda: amid_a_cycle(slow, dice), "a backup job is in the QEMU", SECONDS_MAX)
        with stopped(slow):
            problem = wait_until(lambda: told(site, "slow")["problem"], "status tells of it", SECONDS_MAX)
            assert re.search("did not answer|does not answer in time", problem)
            fast.write_some(dice, 20)
            print(f"restored after {comes_back(site, tmp_path / 'while-it-stalls', fast):.1f} s")
            wait_until(lambda: not newest(site)["slow-0"], "points say that it is not whole", SECONDS_MAX)
            assert newest(site) == {"slow-0": False, "slow-1": False, "fast-0": True, "fast-1": True}
            status = site.status()
            assert status.code == 3
            (line,) = [line for line in status.json["problems"] if "is not whole" in line]
            assert line.startswith("VM slow is not whole (slow-0, slow-1): it ")
            assert re.search("did not answer|does not answer in time", line)
            image_ns = told(site, "fast")["image_ns"]
            wait_until(lambda: told(site, "fast")["image_ns"] > image_ns, "images go on", SECONDS_MAX)
        slow.write_some(dice, 5)
        fast.write(0, 0, BLOCK, 99)
        site.flush_when_ready()
        for name, vm in vms.items():
            assert restored(site, tmp_path / name, name) == vm.disks
            assert [(vm.folder / f"{n}.raw").read_bytes() for n in range(len(SIZES))] == vm.disks
        assert (told(site, "slow")["problem"], site.status().code) == ("", 0)
        assert agent.stop() == 0
        for vm in vms.values():
            assert (vm.left_over(), vm.bitmaps()) == ([], [])
