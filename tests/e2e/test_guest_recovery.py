"""A real guest is lost with its site at a random moment, and boots elsewhere with all that was protected.

It runs from the agent's exports and says on its console what it knows to be safe, and when we saw that is
later than when it was so. What it said before a cut was taken has to be in the cut. What is booted in the end
is what `rehydrate render` wrote, with nothing but the container.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from cdp_container.store.directory import DirectoryStore
from tests.e2e.guests import (
    acknowledged,
    assert_no_error,
    booted,
    check_file_system,
    guest_folder,
    let_write,
    longest_stall_seconds,
    lose,
    member_lines,
    pause,
)
from tests.e2e.site import MIB, PASSPHRASE, Site, new_site
from tests.e2e.test_main_job import address_in
from tests.recovery import Recovery
from tests.servers.bucket import fresh_bucket
from tests.servers.s3 import S3Server
from tests.tiny_vm import NEEDS, Job, Mark, formatted, initrd_expecting, tiny_guest

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(0), pytest.mark.needs(*NEEDS, "e2fsck")]

SEED = 20_267
DISK_BYTES = 96 * MIB
WRITES_FOR_EVER = 1_000_000
"""No guest comes to its end: it is killed before."""
FILE_BYTES = 16 << 10
MOMENT_SECONDS_MAX = 1.5
NS = 1_000_000_000
ROUNDS_EACH = 25
"""One seed for so many rounds of the kill tests; at least two."""


# --- one disk -------------------------------------------------------------------------------------


@dataclass(slots=True)
class Known:
    """What a guest had been promised by the time at which it died."""

    files: dict[int, Mark]
    flushed: frozenset[int]

    def due(self, cut_time_ns: int) -> dict[int, str]:
        """What has to be in a cut: acknowledged before it was taken, or before a flush that came back."""
        return {
            number: mark.words[1]
            for number, mark in self.files.items()
            if number in self.flushed or mark.seen_at_seconds * NS < cut_time_ns
        }


def live_and_die(site: Site, rng: random.Random) -> Known:
    """The guest writes; the splitter dies once and comes back; then all dies at once."""
    formatted(site.backing("root"), DISK_BYTES)
    site.write_config(*member_lines(site))
    site.init().must()
    agent = site.start()
    job = Job(n=WRITES_FOR_EVER, size_bytes=FILE_BYTES)
    with tiny_guest(guest_folder(site), [site.uri("root")], job) as guest:
        guest.wait_for("MARK fsync 15 ")
        flushed = frozenset(acknowledged(guest))
        site.flush_when_ready()
        agent.kill("splitter", *(("streamer",) if rng.random() < 0.5 else ()))
        if rng.random() < 0.7:  # else it dies while the splitter is away, or has just come back
            let_write(guest, "fsync", 15)
        pause(rng.random() * MOMENT_SECONDS_MAX)
        first, second = (
            (guest.kill, agent.kill_group) if rng.random() < 0.5 else (agent.kill_group, guest.kill)
        )
        first()
        second()
    assert_no_error(guest.console)
    files = acknowledged(guest)
    stall_seconds = longest_stall_seconds(guest.marks("fsync"))
    print(f"{len(files)} files were acknowledged; longest stall of the guest {stall_seconds:.2f} s")
    return Known(files, flushed)


def test_what_a_guest_was_promised_is_there_when_it_boots_elsewhere(rounds: int) -> None:
    for seed in range(max(2, rounds // ROUNDS_EACH)):
        print(f"seed {seed}")
        lost_and_booted(seed)


@pytest.mark.ceph
def test_the_same_from_ceph(ceph: S3Server) -> None:
    with fresh_bucket(ceph) as bucket:
        lost_and_booted(0, address_in(bucket), ceph.environment())


def lost_and_booted(seed: int, store: str | None = None, secrets: Mapping[str, str] | None = None) -> None:
    rng = random.Random(SEED + seed)
    with new_site({"root": DISK_BYTES}, store=store, secrets=secrets, with_key=True) as site:
        known = live_and_die(site, rng)
        lose(site)
        image = site.base / "b" / "root.raw"
        report = site.restore("root", image)
        due = known.due(int(report["cut_time_ns"]))
        print(
            f"{len(due)} of {len(known.files)} were acknowledged before the cut, {len(known.flushed)} flushed"
        )
        assert due.keys() >= known.flushed
        initrd = initrd_expecting(site.base / "b" / "initrd", due)
        with booted(site, site.base / "b" / "vm", {"vda": image}, Job("verify"), initrd) as vm:
            vm.wait_for_end()
        assert_no_error(vm.console)
        assert vm.words("verified") == (str(len(due)), "0")
        judge(vm.files(), known)
        check_file_system(image)
        if seed == 0:
            goes_on(site, image, len(vm.files()))


def judge(found: dict[int, str], known: Known) -> None:
    """A cut is an instant: whatever it shows, all before that is there and whole."""
    assert sorted(found) == list(range(len(found)))
    for number in range(len(found) - 1):  # the last one may be amid its writing
        if number in known.files:
            assert found[number] == known.files[number].words[1], number


def goes_on(site: Site, image: Path, first: int) -> None:
    """The recovered VM is a VM: it writes, and what it wrote is there after another boot."""
    with booted(site, site.base / "b" / "on", {"vda": image}, Job(first=first, n=5)) as vm:
        vm.wait_for_end()
        sums = {int(mark.words[0]): mark.words[1] for mark in vm.console.marks("fsync")}
    initrd = initrd_expecting(site.base / "b" / "initrd-on", sums)
    with booted(site, site.base / "b" / "again", {"vda": image}, Job("verify"), initrd) as vm:
        vm.wait_for_end()
    assert vm.words("verified") == ("5", "0")


# --- two disks ------------------------------------------------------------------------------------

BLOCK_BYTES = 4096
PAIR_BYTES = 8 * MIB
RESTORED = 4
BOOTED = 1


def test_two_disks_of_a_guest_agree_at_every_cut() -> None:
    rng = random.Random(SEED)
    with new_site({"data": PAIR_BYTES, "log": PAIR_BYTES}) as site:
        site.write_config(*member_lines(site))
        site.init().must()
        agent = site.start()
        disks = [site.uri("data"), site.uri("log")]
        job = Job("write-pairs", n=PAIR_BYTES // BLOCK_BYTES)
        with tiny_guest(guest_folder(site), disks, job) as guest:
            guest.wait_for("MARK pair 100 ")
            flushed = int(guest.marks("pair")[-1].words[0])
            site.flush_when_ready()
            agent.kill("splitter")
            let_write(guest, "pair", 100)
            agent.kill("streamer")
            let_write(guest, "pair", 100)
            pause(rng.random() * MOMENT_SECONDS_MAX)
            agent.kill_group()
            guest.kill()
        assert_no_error(guest.console)
        lose(site)
        print(f"longest stall of the guest {longest_stall_seconds(guest.marks('pair')):.2f} s")
        newest = judge_every_cut(site, guest.marks("pair"))
        assert newest > flushed
        restored_and_booted(site, rng)


def agree(data: int, log: int) -> bool:
    """Whether both are of one instant: the guest writes a number to the log first."""
    return data <= log <= data + 1


def judge_every_cut(site: Site, marks: list[Mark]) -> int:
    """By the independent reader; gives the last number in the data at the newest cut."""
    recovery = Recovery(DirectoryStore(site.container), PASSPHRASE)
    whole = {(point["epoch"], point["cut"]) for point in site.points() if point["whole"]}
    cuts = [place for place in recovery.cuts if (place.epoch, place.cut) in whole]
    assert len(cuts) == len(whole)
    numbers, logged = [], []
    for place in cuts:
        data, log = (numbers_in(recovery.restored(name, place)) for name in ("data", "log"))
        assert agree(data, log), f"cut {place}: {data} in the data, {log} in the log"
        numbers.append(data)
        logged.append(log)
    assert not agree(numbers[-1], logged[0]), "two disks of different cuts would not be noticed"
    assert numbers == sorted(numbers)
    assert len(set(numbers)) > 10, f"the cuts are of {numbers}"
    print(
        f"{len(numbers)} cuts, {len(set(numbers))} of them different; {numbers[-1]} of {len(marks)} numbers"
    )
    return numbers[-1]


def numbers_in(image: bytes) -> int:
    """How many numbers are there; each is where it belongs, and there is nothing else."""
    count = 0
    while any(image[count * BLOCK_BYTES : count * BLOCK_BYTES + 1]):
        assert image.startswith(b"%016d\n" % count, count * BLOCK_BYTES), count
        count += 1
    assert not image[count * BLOCK_BYTES :].strip(b"\0"), f"there is something after {count} numbers"
    return count


def restored_and_booted(site: Site, rng: random.Random) -> None:
    """The same by our own restore, and by the guest itself, which looks at some."""
    points = [point for point in site.points() if point["whole"]]
    for number, point in enumerate([points[-1], *rng.sample(points[:-1], RESTORED - 1)]):
        folder = site.base / "b" / point["point"]
        site.restore_all(folder, "--at", point["point"])
        data, log = (numbers_in((folder / f"{name}.raw").read_bytes()) for name in ("data", "log"))
        assert agree(data, log), point
        if number < BOOTED:
            job = Job("count-pairs", n=PAIR_BYTES // BLOCK_BYTES)
            disks = {"vda": folder / "data.raw", "vdb": folder / "log.raw"}
            with booted(site, folder / "vm", disks, job) as vm:
                vm.wait_for_end()
            assert vm.words("pairs") == (str(data), str(log))
