"""Volumes captured from a real QEMU, beside one of the splitter: what comes back is what was written.

Disks are written through the QEMU itself, so that every write and the time of it are known. A flush answers
when an image that began after it is protected: what is restored then is exactly what the model holds.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.imaged import BLOCK, Written, written_vm
from tests.e2e.site import MIB, Site, new_site
from tests.waiting import wait_until

pytestmark = pytest.mark.needs("qemu-system-x86_64")

SIZES = (8 * MIB, 4 * MIB)
NAMES = ("db-data", "db-log")


@contextlib.contextmanager
def site_with_vm(*extra: str) -> Iterator[tuple[Site, Written]]:
    """A site with volume `v1` of the splitter and a VM of two disks; initialised."""
    with new_site({"v1": 4 * MIB}) as site:
        folder = site.root / "vm"
        folder.mkdir()
        dice = random.Random(5)
        for number, size in enumerate(SIZES):
            content = dice.randbytes(size // 2) + bytes(size // 2)
            (folder / f"{number}.raw").write_bytes(content)
        with written_vm(folder, SIZES) as vm:
            configure(site, vm, *extra)
            site.init().must()
            yield site, vm


def configure(site: Site, vm: Written, *extra: str) -> None:
    """The VM's disks as volumes of the domain."""
    site.write_config("capture_every: 300ms", f"vms: [{{name: db, qmp: {vm.qmp}}}]", *extra)
    with site.config.open("a") as file:
        for number, name in enumerate(NAMES):
            file.write(f"  - {{name: {name}, vm: db, disk: d{number}}}\n")


def restored(site: Site, folder: Path, *choice: str) -> dict[str, bytes]:
    """What comes back of every volume."""
    site.restore_all(folder, *choice)
    return {name: (folder / f"{name}.raw").read_bytes() for name in ("v1", *NAMES)}


def expected(vm: Written, v1: bytes) -> dict[str, bytes]:
    return {"v1": v1, **{name: bytes(data) for name, data in zip(NAMES, vm.disks, strict=True)}}


def test_a_flush_has_what_a_vm_wrote_before_it(tmp_path: Path) -> None:
    dice = random.Random(11)
    with site_with_vm() as (site, vm):
        agent = site.start()
        site.flush_when_ready()
        v1 = bytearray(4 * MIB)
        for turn in range(3):
            vm.write_some(dice, 20)
            data = dice.randbytes(BLOCK)
            with site.client("v1") as client:
                client.write(turn * BLOCK, data)
            v1[turn * BLOCK : (turn + 1) * BLOCK] = data
            site.flush().must()
            assert restored(site, tmp_path / str(turn)) == expected(vm, bytes(v1))
        status = site.status()
        assert status.code == 0, status
        assert not vm.left_over() or agent.alive
        cycle = status.json["images"]["last_cycle"]
        print(f"last cycle: {cycle}")
        assert agent.stop() == 0
        assert vm.left_over() == []
        assert vm.bitmaps() == []


def test_after_a_restart_all_is_compared_and_only_what_differs_is_sent(tmp_path: Path) -> None:
    with site_with_vm() as (site, vm):
        agent = site.start()
        site.flush_when_ready()
        assert agent.stop() == 0
        before_bytes = stored_bytes(site)
        assert before_bytes > sum(SIZES) // 2, "half of the disks does not compress"
        vm.write(0, 5 * BLOCK, BLOCK, 77)
        vm.write(1, 0, 16 * BLOCK, 0)
        site.start()
        site.flush_when_ready()
        assert restored(site, tmp_path / "restored") == expected(vm, bytes(4 * MIB))
        assert stored_bytes(site) - before_bytes < MIB // 4


def stored_bytes(site: Site) -> int:
    return sum(path.stat().st_size for path in site.container.rglob("*") if path.is_file())


def test_trees_and_images_and_exports_are_in_the_same_cuts(tmp_path: Path) -> None:
    """And each goes on where another one's process is killed."""
    dice = random.Random(7)
    with site_with_vm() as (site, vm):
        tree = site.root / "tree"
        tree.mkdir()
        configure(site, vm, f"trees: [{{name: home, path: {tree}}}]")
        site.agent_command("reload").must()
        agent = site.start()
        site.flush_when_ready()
        for turn, victim in enumerate(("watcher", "imager", "")):
            (tree / f"f{turn}").write_bytes(dice.randbytes(1000))
            vm.write_some(dice, 10)
            if victim:
                agent.kill(victim)
            site.flush_when_ready()
        folder = tmp_path / "all"
        assert restored(site, folder) == expected(vm, bytes(4 * MIB))
        site.rehydrate("restore", "--tree", f"home={tmp_path / 'home'}").must()
        assert {path.name for path in (tmp_path / "home").iterdir()} == {"f0", "f1", "f2"}
        assert site.points()[-1]["whole"] is True


def test_a_release_waits_for_vms_to_be_stopped(tmp_path: Path) -> None:
    with site_with_vm() as (site, vm):
        site.start()
        site.flush_when_ready()
        vm.ask("cont")
        vm.write(0, 0, BLOCK, 9)
        site.flush().must()
        vm.ask("stop")
        vm.write(0, BLOCK, BLOCK, 8)
        site.agent_command("release", "--to", "b").must()
        assert restored(site, tmp_path / "final") == expected(vm, bytes(4 * MIB))


def test_killed_imagers_streamers_and_vms_lose_nothing(tmp_path: Path) -> None:
    dice = random.Random(23)
    with contextlib.ExitStack() as stack:
        site, vm = stack.enter_context(site_with_vm())
        agent = site.start()
        site.flush_when_ready()
        for turn, victim in enumerate(("imager", "streamer", "imager", "vm", "agent")):
            vm.write_some(dice, 15)
            if victim == "vm":
                os.kill(vm.pid, signal.SIGKILL)
                vm.close()
                # Its disks are locked until the last of its threads is gone.
                os.waitid(os.P_PID, vm.pid, os.WEXITED | os.WNOWAIT)
                vm = stack.enter_context(written_vm(site.root / "vm", SIZES))
            elif victim == "agent":
                agent.kill_group()
                agent = site.start()
            else:
                agent.kill(victim)
            vm.write_some(dice, 15)
            site.flush_when_ready()
            assert restored(site, tmp_path / str(turn))["db-data"] == bytes(vm.disks[0]), victim
            assert restored(site, tmp_path / f"again-{turn}") == expected(vm, bytes(4 * MIB)), victim


def test_a_vm_that_hangs_costs_nobody_else_anything(tmp_path: Path) -> None:
    dice = random.Random(31)
    with site_with_vm() as (site, vm):
        site.start()
        site.flush_when_ready()
        os.kill(vm.pid, signal.SIGSTOP)
        try:
            with site.client("v1") as client:
                client.write(0, b"x" * BLOCK)

            def told() -> bool:
                problems = site.status().json["problems"]
                return any("db-data" in problem for problem in problems)

            wait_until(told, "status tells of the VM", 60.0)
            wait_until(lambda: "db-data" in str(not_whole(site)), "alerts are told of it, too", 60.0)
            points = site.points()
            wait_until(lambda: len(site.points()) > len(points) or written_point(site), "other cuts", 60.0)
        finally:
            os.kill(vm.pid, signal.SIGCONT)
        vm.write_some(dice, 5)
        site.flush_when_ready()
        wait_until(lambda: not_whole(site) == [], "and that it is over", 60.0)
        after = restored(site, tmp_path / "after")
        assert after == expected(vm, b"x" * BLOCK + bytes(4 * MIB - BLOCK))


def not_whole(site: Site) -> object:
    """VMs that are not whole in the newest cut, as the alerts' watch reads it."""
    return json.loads((site.journal / "streamer.json").read_bytes())["images"]["not_whole"]


def written_point(site: Site) -> bool:
    """Whether a point is there at which the VM's volumes are not whole, and the others are."""
    return any(point["whole"] is False for point in site.points())
