"""Disks of real VMs that run and write go over to the exports: nothing is lost, whatever is killed."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import tiny_vm
from tests.e2e.hypervisors import stopped_qemu
from tests.e2e.processes import Done, run
from tests.e2e.site import BIN, MIB, Site, new_site
from tests.tiny_vm import Guest, Job, Mark, ask, formatted, initrd_expecting, tiny_guest
from tests.waiting import wait_until

pytestmark = [pytest.mark.e2e, pytest.mark.needs(*tiny_vm.NEEDS), pytest.mark.timeout(400)]

SIZE = 64 * MIB
SECONDS_MAX = 150.0
FOR_EVER = 1_000_000
"""Files that a guest would write, if it lived."""
NODES = "cdp-adopt-"


@contextlib.contextmanager
def adopting(site: Site, *options: str) -> Iterator[subprocess.Popen[bytes]]:
    """`cdp-agent adopt`, beside what the test does; what it says is in adopt.out and adopt.err."""
    words = [str(BIN / "cdp-agent"), "adopt", "tiny", "--config", str(site.config), "--json", *options]
    with (site.base / "adopt.out").open("wb") as out, (site.base / "adopt.err").open("ab") as err:
        process = subprocess.Popen(
            words, stdin=subprocess.DEVNULL, stdout=out, stderr=err,
            env=site.environment(site.root / "home"), start_new_session=True,
        )  # fmt: skip
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        print((site.base / "adopt.err").read_text()[-4000:])


def ended(site: Site, process: subprocess.Popen[bytes]) -> dict[str, Any]:
    """What it said when it ended well."""
    process.wait(SECONDS_MAX)
    assert process.returncode == 0, (site.base / "adopt.err").read_text()
    found: dict[str, Any] = json.loads((site.base / "adopt.out").read_text())
    return found


def events(site: Site) -> list[dict[str, Any]]:
    """Its progress so far."""
    lines = (site.base / "adopt.err").read_text().splitlines()
    return [json.loads(line) for line in lines if line.startswith("{")]


def copied_bytes(site: Site) -> int:
    """How much of all disks it said to be done, last."""
    found = [one for one in events(site) if one["event"] == "copying"]
    return sum(disk["done_bytes"] for disk in found[-1]["disks"].values()) if found else 0


def said(site: Site, words: str) -> bool:
    return words in (site.base / "adopt.err").read_text()


def more_files(guest: Guest, count: int = 3) -> int:
    """Wait until the guest wrote so many more; gives how many there are."""
    before = len(guest.marks("fsync"))
    wait_until(lambda: len(guest.marks("fsync")) >= before + count, "the guest goes on", SECONDS_MAX)
    return len(guest.marks("fsync"))


def longest_stall_seconds(marks: list[Mark]) -> float:
    """Between two files of the guest, by its own clock."""
    times = [mark.up_seconds for mark in marks if mark.up_seconds >= 0]
    return max((after - before for before, after in itertools.pairwise(times)), default=0.0)


def check_every_file(site: Site, guest: Guest, old: Path) -> None:
    """The site dies amid writes; what the guest was told to be safe is in a restore of what was protected."""
    acknowledged = {int(mark.words[0]): mark.words[1] for mark in guest.marks("fsync")}
    site.flush_when_ready()
    print(f"{len(acknowledged)} files, longest stall {longest_stall_seconds(guest.marks('fsync')):.3f} s")
    last = more_files(guest, 1)
    site.flush_when_ready()
    guest.kill()
    site.flush_when_ready()
    site.agents[-1].kill_group()
    image = site.base / "b" / "root.raw"
    site.restore("root", image)
    assert image.read_bytes() == site.backing("root").read_bytes()
    assert image.read_bytes() != old.read_bytes(), "the old image stayed behind"
    assert len(acknowledged) < last
    initrd = initrd_expecting(site.base / "initrd", acknowledged)
    with tiny_guest(site.base / "g2", [image], Job("verify"), initrd=initrd) as verifying:
        verifying.wait_for_end()
        verified = verifying.marks("verified")[0]
        assert [int(word) for word in verified.words] == [len(acknowledged), 0]


def ours_in(guest: Guest) -> list[str]:
    """Nodes and jobs of ours."""
    nodes = [one["node-name"] for one in guest.qmp("query-named-block-nodes", flat=True)]
    return [
        name for name in (*nodes, *(one["id"] for one in guest.qmp("query-jobs"))) if name.startswith(NODES)
    ]


def disk_node(guest: Guest, disk: str) -> str:
    """What a disk's device has now."""
    found = {
        one["qdev"].split("/")[3]: one["inserted"] for one in guest.qmp("query-block") if one.get("qdev")
    }
    name: str = found[disk]["node-name"]
    return name


@contextlib.contextmanager
def writing_guest(rate: str = "unlimited") -> Iterator[tuple[Site, Guest, Path]]:
    """A guest that writes to a disk of its own, beside a site with an empty volume for it."""
    with new_site({"root": SIZE}, with_key=True) as site:
        old = formatted(site.base / "old.raw", SIZE)
        with old.open("r+b") as file:  # what a guest deleted takes time to copy, too
            file.seek(SIZE // 2)
            file.write(os.urandom(SIZE // 4))
        site.write_config(f"copy_rate: {rate}", "vms:", f"  - {{name: tiny, qmp: {site.base}/g/qmp.sock}}")
        site.init().must()
        site.start()
        with tiny_guest(
            site.base / "g", [old], Job(n=FOR_EVER, size_bytes=4096, delay_microseconds=20_000)
        ) as guest:
            guest.wait_for("MARK fsync 2 ")
            yield site, guest, old


def test_a_guest_that_writes_goes_over_and_loses_nothing() -> None:
    with writing_guest() as (site, guest, old):
        refused = site.agent_command("adopt", "tiny").must(90)
        assert f"disk vda ({SIZE} bytes) is not named" in refused.err
        site.agent_command("adopt", "tiny", "--disk", "vda=root", "--dry-run").must()
        assert ours_in(guest) == []
        with adopting(site, "--disk", "vda=root") as process:
            found = ended(site, process)
        assert found["disks"][0] | {"was": ""} == {
            "disk": "vda", "volume": "root", "size_bytes": SIZE, "was": "",
        }  # fmt: skip
        node = disk_node(guest, "vda")
        assert node.startswith(NODES)
        assert sorted(ours_in(guest)) == [node, f"{node}-d"]
        again = site.agent_command("adopt", "tiny", "--disk", "vda=root", "--json").must()
        assert again.json["already"] == {"vda": "root"}
        vm = site.rehydrate("show", "vms", "--json").must().json["vms"][0]
        assert vm["volumes"] == {"vda": "root"}, "the first point describes it as it is now"
        # An agent that dies is waited for, and nobody is told of an error.
        site.agents[-1].kill_group()
        site.start()
        more_files(guest)
        check_every_file(site, guest, old)


def test_what_hangs_or_dies_while_it_is_copied_costs_the_guest_a_moment() -> None:
    with writing_guest("2MB") as (site, guest, old):
        with adopting(site, "--disk", "vda=root") as process:
            wait_until(lambda: copied_bytes(site) > MIB, "it copies", SECONDS_MAX)
            splitter = site.agents[-1].child("splitter")
            assert splitter is not None
            before = len(guest.marks("fsync"))
            os.kill(splitter, signal.SIGSTOP)
            try:
                wait_until(lambda: said(site, "was not answered in time"), "it is noticed", SECONDS_MAX)
                more_files(guest)  # which it does although nobody answers there
                assert process.poll() is None
            finally:
                os.kill(splitter, signal.SIGCONT)
            hang = longest_stall_seconds(guest.marks("fsync")[before - 1 :])
            print(f"a hung agent held the guest up for {hang:.3f} s")
            more_files(guest)
            before = len(guest.marks("fsync"))
            site.agents[-1].kill_group()
            more_files(guest, 5)
            death = longest_stall_seconds(guest.marks("fsync")[before - 1 :])
            print(f"a killed agent held the guest up for {death:.3f} s")
            site.start()
            process.wait(SECONDS_MAX)
            ended(site, process)
        assert disk_node(guest, "vda").startswith(NODES)
        check_every_file(site, guest, old)


def test_a_killed_adoption_is_gone_on_with_and_an_ended_one_is_undone() -> None:
    with writing_guest("2MB") as (site, guest, old):
        node = disk_node(guest, "vda")
        with adopting(site, "--disk", "vda=root") as process:
            wait_until(lambda: copied_bytes(site) > MIB, "it copies", SECONDS_MAX)
            process.send_signal(signal.SIGTERM)
            assert process.wait(SECONDS_MAX) == 128 + signal.SIGTERM
        assert ours_in(guest) == []
        assert disk_node(guest, "vda") == node
        more_files(guest)
        refused = site.agent_command("adopt", "tiny", "--disk", "vda=root").must(90)
        assert "holds something" in refused.err
        (site.base / "adopt.err").write_text("")
        with adopting(site, "--disk", "vda=root", "--overwrite") as process:
            wait_until(lambda: copied_bytes(site) > MIB, "it copies again", SECONDS_MAX)
            process.kill()
            process.wait()
        before = len(guest.marks("fsync"))
        more_files(guest, 5)
        print(f"a killed adopt: {longest_stall_seconds(guest.marks('fsync')[before - 1 :]):.3f} s")
        assert disk_node(guest, "vda") == node
        left = ours_in(guest)
        assert left, "the copy stands still, and waits"
        with adopting(site, "--disk", "vda=root") as process:  # nothing is said of --overwrite: it goes on
            ended(site, process)
        assert said(site, "gone on with")
        check_every_file(site, guest, old)


def test_an_agent_that_stays_away_is_given_up() -> None:
    with writing_guest("2MB") as (site, guest, old):
        node = disk_node(guest, "vda")
        with adopting(site, "--disk", "vda=root", "--give-up-after", "3s") as process:
            wait_until(lambda: copied_bytes(site) > MIB, "it copies", SECONDS_MAX)
            assert site.agents[-1].stop() == 0
            assert process.wait(SECONDS_MAX) == 91
        assert ours_in(guest) == []
        assert disk_node(guest, "vda") == node
        more_files(guest)
        site.agent_command("adopt", "tiny", "--disk", "vda=root").must(70)
        guest.kill()
        sums = {int(mark.words[0]): mark.words[1] for mark in guest.marks("fsync")}
        initrd = initrd_expecting(site.base / "initrd", sums)
        with tiny_guest(site.base / "g2", [old], Job("verify"), initrd=initrd) as verifying:
            verifying.wait_for_end()
            assert [int(word) for word in verifying.marks("verified")[0].words] == [len(sums), 0]


def pairs_in(image: Path) -> int:
    """How many numbers in a row a disk of pairs holds."""
    data = image.read_bytes()
    count = 0
    while data[count * 4096 : count * 4096 + 17] == b"%016d\n" % count:
        count += 1
    return count


def test_two_disks_go_over_together_and_agree_at_every_point() -> None:
    with new_site({"data": SIZE, "log": SIZE}, with_key=True) as site:
        disks = [site.base / "data.raw", site.base / "log.raw"]
        for disk in disks:
            with disk.open("wb") as file:
                file.truncate(SIZE)
        site.write_config("vms:", f"  - {{name: tiny, qmp: {site.base}/g/qmp.sock}}")
        site.init().must()
        site.start()
        options = ("--disk", "vda=data", "--disk", "vdb=log")
        job = Job("write-pairs", n=SIZE // 4096, delay_microseconds=5_000)
        with tiny_guest(site.base / "g", disks, job) as guest:
            guest.wait_for("MARK pair 5 ")
            with adopting(site, *options) as process:
                found = ended(site, process)
            first = (found["point"]["epoch"], found["point"]["cut"])
            for _ in range(3):
                before = len(guest.marks("pair"))
                wait_until(lambda before=before: len(guest.marks("pair")) > before, "pairs", SECONDS_MAX)  # type: ignore[misc]
                site.flush_when_ready()
            told = len(guest.marks("pair"))
            guest.kill()
            site.flush_when_ready()
            site.agents[-1].kill_group()
        points = [one for one in site.points() if (one["epoch"], one["cut"]) >= first]
        assert len(points) >= 3
        for one in (points[0], points[len(points) // 2], points[-1]):
            check_pairs(site, f"{one['epoch']}.{one['cut']}")
        folder = site.base / "b" / f"{points[-1]['epoch']}.{points[-1]['cut']}"
        assert pairs_in(folder / "data.raw") >= told
        for name in ("data", "log"):
            assert (folder / f"{name}.raw").read_bytes() == site.backing(name).read_bytes()


def check_pairs(site: Site, at: str) -> None:
    """At a point no number is in the data that is not in the log, and at most one the other way."""
    folder = site.base / "b" / at
    site.restore_all(folder, "--at", at)
    data, log = pairs_in(folder / "data.raw"), pairs_in(folder / "log.raw")
    print(f"{at}: data {data}, log {log}")
    assert data <= log <= data + 1


@pytest.mark.needs("qemu-img")
def test_disks_of_other_kinds() -> None:
    """A qcow2 by `-drive`, in a thread of its own, and a SCSI disk without an id; the guest stands still."""
    with new_site({"root": SIZE, "data": SIZE}, with_key=True) as site:
        old, plain, qmp = site.base / "old.qcow2", site.base / "plain.raw", site.base / "qmp"
        plain.write_bytes(os.urandom(MIB) + bytes(SIZE - MIB))
        run(["qemu-img", "convert", "-O", "qcow2", str(plain), str(old)], dict(os.environ)).must()
        site.write_config("vms:", f"  - {{name: tiny, qmp: {qmp}}}")
        site.init().must()
        site.start()
        words = [
            "-m", "64", "-object", "iothread,id=io0",
            "-drive", f"file={old},format=qcow2,if=none,id=d0",
            "-device", "virtio-blk-pci,drive=d0,id=vda,iothread=io0",
            "-device", "virtio-scsi-pci", "-drive", f"file={plain},format=raw,if=none,id=d1,snapshot=on",
            "-device", "scsi-hd,drive=d1", "-drive", "if=none,id=cd", "-device", "scsi-cd,drive=cd",
        ]  # fmt: skip
        with stopped_qemu(qmp, words):
            site.agent_command("adopt", "tiny", "--disk", "vda=root", "--disk", "d1=data").must()
            for disk, pattern in (("d0", 7), ("d1", 8)):
                ask(
                    qmp,
                    "human-monitor-command",
                    **{"command-line": f'qemu-io {disk} "write -P {pattern} 1M 64k"'},
                )
                ask(qmp, "human-monitor-command", **{"command-line": f'qemu-io {disk} "flush"'})
        site.flush_when_ready()
        site.restore_all(site.base / "b" / "all")
        for name, pattern in (("root", 7), ("data", 8)):
            expected = bytearray(plain.read_bytes())
            expected[MIB : MIB + 65536] = bytes([pattern]) * 65536
            assert (site.base / "b" / "all" / f"{name}.raw").read_bytes() == expected
            assert site.backing(name).read_bytes() == expected
            assert site.backing(name).stat().st_blocks * 512 < 8 * MIB, "zeros are holes"


def must_be_refused(site: Site, *options: str) -> Done:
    return site.agent_command("adopt", "tiny", *options).must(90)


def test_what_stands_against_it_is_told_at_once() -> None:
    with new_site({"root": SIZE, "small": MIB}, with_key=True) as site:
        site.write_config("vms:", f"  - {{name: tiny, qmp: {site.base}/g/qmp.sock}}")
        site.init().must()
        site.start()
        with site.client("root") as client:
            client.write(0, b"x" * 4096)
        other = formatted(site.base / "other.raw", SIZE)
        with tiny_guest(site.base / "g", [other, site.backing("root")], Job("wait", hold=True)) as guest:
            said = must_be_refused(
                site, "--disk", "vda=small", "--disk", "vdb=root", "--disk", "vdc=none"
            ).err
            for words in (
                "it has no disk vdc (it has vda, vdb)",
                f"disk vda has {SIZE} bytes and volume small has {MIB}",
                "volume root lies in a file that QEMU has open itself",
                "volume root holds something",
            ):
                assert words in said
            assert ours_in(guest) == []
            answered = ask(guest.qmp_path, "query-status")
            assert answered["running"], "and the VM runs"
