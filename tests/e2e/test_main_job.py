"""The main job with real processes: what clients write comes back at every cut, byte for byte, elsewhere.

Copies are taken through the exports while the agent runs; images are restored by `rehydrate`, which sees
nothing of the protected site, and by the independent reader.
"""

from __future__ import annotations

import json
import os
import random
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.processes import Done, command_line, processes, run
from tests.e2e.site import MIB, Site, new_site
from tests.servers.bucket import Bucket, fresh_bucket
from tests.servers.s3 import S3Server
from tests.waiting import wait_until

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.needs("qemu-io"),
    pytest.mark.needs("nbdcopy"),
    pytest.mark.needs("fio"),
]

DB_BYTES = 24 * MIB
LOG_BYTES = 4 * MIB + 512
"""No power of two and no 4 KiB divides it."""
VOLUMES = {"db": DB_BYTES, "log": LOG_BYTES}
NOTICE_SECONDS_MAX = 30.0
LEASE_SECONDS = 5
COUNTERS = 400
COUNTER_EVERY_BYTES = 4096


# --- clients --------------------------------------------------------------------------------------


def tool(site: Site, *words: str | Path) -> None:
    run([str(word) for word in words], site.environment(site.base / "client")).must()


def qemu_io(site: Site, volume: str, *commands: str) -> None:
    tool(
        site, "qemu-io", "-f", "raw", *(word for text in commands for word in ("-c", text)), site.uri(volume)
    )


def copies(site: Site, name: str) -> dict[str, bytes]:
    """What every export shows now."""
    found = {}
    for volume, size_bytes in site.volumes.items():
        path = site.base / f"{name}-{volume}.copy"
        tool(site, "nbdcopy", site.uri(volume), path)
        found[volume] = path.read_bytes()
        assert len(found[volume]) == size_bytes
    return found


def write_with_qemu(site: Site) -> None:
    """Aligned and not, with FUA, zeroes, discards, and overwriting within one cut."""
    qemu_io(
        site, "db",
        "write -P 0xa1 0 1M", "write -P 0xa2 -f 1000 3001", "aio_write -P 0xa3 8M 3M",
        "aio_write -P 0xa4 12M 512", "aio_flush", "write -z 4M 1M", "write -P 0xa5 256k 4k",
        "write -z -u 300k 64k", "discard 512k 128k", "flush",
    )  # fmt: skip
    qemu_io(site, "log", "write -P 0xb1 0 4M", f"write -P 0xb2 {4 * MIB} 512", "flush")


def write_directly(site: Site, rng: random.Random) -> None:
    """Requests of every kind at random places, many over what was there."""
    with site.client("db") as db, site.client("log") as log:
        for client in (db, log):
            for _ in range(60):
                offset = rng.randrange(client.size_bytes - 1)
                length = min(rng.choice((1, 512, 4096, 70_000, 300_000)), client.size_bytes - offset)
                client.write(offset, rng.randbytes(length), fua=rng.random() < 0.2)
                if rng.random() < 0.3:
                    client.trim(rng.randrange(client.size_bytes // 2), 50_000, fua=rng.random() < 0.2)
                if rng.random() < 0.3:
                    client.write_zeroes(rng.randrange(client.size_bytes // 2), 99_000)
            client.flush()


def write_with_tools(site: Site) -> None:
    """A whole image over the smaller volume, and fio over the larger."""
    image = site.base / "image.raw"
    image.write_bytes(os.urandom(1 * MIB) + bytes(2 * MIB) + os.urandom(LOG_BYTES - 3 * MIB))
    tool(site, "nbdcopy", "--connections=4", "--requests=32", "--flush", image, site.uri("log"))
    tool(
        site, "fio", "--name=job", "--ioengine=nbd", f"--uri={site.uri('db')}", "--rw=randwrite", "--bs=4k",
        "--iodepth=16", "--size=8m", "--fsync=64", "--verify=crc32c", "--do_verify=1", "--verify_fatal=1",
        "--randseed=7", f"--aux-path={site.base}",
    )  # fmt: skip


# --- checks ---------------------------------------------------------------------------------------


def assert_restored(site: Site, expected: dict[str, bytes], name: str, *choice: str) -> dict[str, Any]:
    folder = site.base / "b" / name
    report = site.restore_all(folder, *choice)
    for volume, content in expected.items():
        assert (folder / f"{volume}.raw").read_bytes() == content, (
            f"{volume} at {name} is not what was written"
        )
    return report


def assert_read_independently(
    site: Site, expected: dict[str, bytes], container: Path, name: str, *choice: str
) -> None:
    for volume, content in expected.items():
        target = site.base / "b" / f"{name}-{volume}.reader"
        site.read_independently(volume, target, container, *choice)
        assert target.read_bytes() == content, f"{volume} at {name}, read independently, is different"


def epoch_records(site: Site) -> list[Any]:
    """The epochs' records as they lie in a directory, oldest first."""
    return [json.loads(path.read_bytes()) for path in sorted((site.container / "domain/epochs").iterdir())]


def do_the_main_job(site: Site, container: Iterator[Path]) -> None:
    """Write in three stages, keep a copy of each, lose the site, get all three back."""
    site.init().must()
    agent = site.start()
    write_with_qemu(site)
    first = copies(site, "first")
    site.flush_when_ready()
    site.marker("first").must()
    write_directly(site, random.Random(1))
    second = copies(site, "second")
    site.flush_when_ready()
    middle = site.points()[-1]
    write_with_tools(site)
    latest = copies(site, "latest")
    site.flush_when_ready()
    agent.kill_group()
    site.root.rename(site.base / "lost")  # nothing of it is where it was
    site.root.mkdir()
    here = next(container)
    for expected, name, choice in (
        (latest, "latest", ()),
        (second, "at", ("--at", middle["point"])),
        (second, "time", ("--time", middle["time"].replace("Z", "999Z"))),
        (first, "marker", ("--marker", "first")),
    ):
        assert_restored(site, expected, name, *choice)
    assert_read_independently(site, latest, here, "latest")
    assert_read_independently(site, second, here, "at", "--cut", middle["point"])
    assert_read_independently(site, first, here, "marker", "--marker", "first")


# --- tests ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("encrypted", [True, False], ids=["encrypted", "plain"])
def test_what_clients_wrote_comes_back_from_a_directory(encrypted: bool) -> None:
    with new_site(VOLUMES, encrypted=encrypted) as site:
        do_the_main_job(site, iter([site.container]))


@pytest.mark.ceph
def test_what_clients_wrote_comes_back_from_ceph(ceph: S3Server) -> None:
    with (
        fresh_bucket(ceph) as bucket,
        new_site(VOLUMES, store=address_in(bucket), secrets=ceph.environment()) as site,
    ):
        do_the_main_job(site, brought_home(bucket, site))


def address_in(bucket: Bucket) -> str:
    return f"s3://{bucket.name}/shop?endpoint={bucket.server.endpoint}"


def brought_home(bucket: Bucket, site: Site) -> Iterator[Path]:
    """A copy of the container, made with an S3 client that is not ours."""
    folder = site.base / "brought-home"
    for page in bucket.admin.get_paginator("list_objects_v2").paginate(Bucket=bucket.name):
        for item in page["Contents"]:
            path = folder / item["Key"]
            path.parent.mkdir(parents=True, exist_ok=True)
            bucket.admin.download_file(bucket.name, item["Key"], str(path))
    yield folder / "shop"


def test_two_volumes_share_one_order_at_every_cut() -> None:
    """Counters go to one volume first, then to the other: no cut may show the second without the first."""
    with new_site({"first": 2 * MIB, "second": 2 * MIB}) as site:
        site.init().must()
        site.start()
        site.flush_when_ready()
        with site.client("first") as first, site.client("second") as second:
            for number in range(1, COUNTERS + 1):
                for client in (first, second):
                    client.write(number * COUNTER_EVERY_BYTES, number.to_bytes(8, "little"))
                if number % 100 == 0:
                    site.marker(f"at-{number}").must()
        points = site.points()
        assert len(points) >= 6, "the cuts are too few to say anything"
        for point in random.Random(2).sample(points, 4):
            counts = shown_counters(site, point["point"])
            assert counts["second"] <= counts["first"] <= counts["second"] + 1
        counts = shown_counters(site, "300", "--marker", "at-300")
        assert counts == {"first": 300, "second": 300}


def shown_counters(site: Site, name: str, *choice: str) -> dict[str, int]:
    """How many counters each volume shows; they must be all up to that one."""
    folder = site.base / "b" / name
    site.restore_all(folder, *(choice or ("--at", name)))
    counts = {}
    for volume in site.volumes:
        image = (folder / f"{volume}.raw").read_bytes()
        places = range(COUNTER_EVERY_BYTES, len(image), COUNTER_EVERY_BYTES)
        numbers = [int.from_bytes(image[at : at + 8], "little") for at in places]
        counts[volume] = max(numbers)
        assert numbers[: counts[volume]] == list(range(1, counts[volume] + 1)), f"{volume} has gaps at {name}"
        assert not any(numbers[counts[volume] :])
    return counts


def test_content_from_before_init_is_copied_while_the_exports_are_open() -> None:
    with new_site({"full": 8 * MIB, "empty": 2 * MIB}) as site:
        content = os.urandom(3 * MIB) + bytes(2 * MIB) + os.urandom(3 * MIB)
        site.backing("full").write_bytes(content)
        site.init().must()
        agent = site.start()
        site.wait_until_whole()  # without any write
        assert_restored(site, {"full": content, "empty": bytes(2 * MIB)}, "untouched")
        with site.client("full") as client:
            client.write(1 * MIB, b"new")
        assert agent.stop() == 0
        changed = content[:MIB] + b"new" + content[MIB + 3 :]
        site.start()
        site.flush_when_ready()
        assert_restored(site, {"full": changed, "empty": bytes(2 * MIB)}, "changed")


def test_an_empty_volume_is_whole_at_once() -> None:
    with new_site({"db": 2 * MIB}) as site:
        site.init().must()
        site.start()
        site.flush_when_ready()
        points = site.points()
        assert points
        assert all(point["whole"] for point in points)
        assert_restored(site, {"db": bytes(2 * MIB)}, "latest")


def test_a_restart_goes_on_without_a_gap() -> None:
    with new_site({"db": 2 * MIB}) as site:
        site.init().must()
        agent = site.start()
        site.flush_when_ready()
        with site.client("db") as client:
            client.write(0, b"a" * 4096)
        assert agent.stop() == 0
        # What was acknowledged, but perhaps not yet sent, is sent by the next run.
        agent = site.start()
        with site.client("db") as client:
            assert client.read(0, 4096) == b"a" * 4096
            client.write(8192, b"b" * 4096)
        site.flush_when_ready()
        first, second = epoch_records(site)[-2:]
        assert second["previous"] == first["epoch"] < second["epoch"]
        assert second["base"] == second["end"], "an ended epoch's last cut is what its successor stands on"
        assert_restored(
            site,
            {"db": (b"a" * 4096).ljust(8192, b"\0") + (b"b" * 4096).ljust(2 * MIB - 8192, b"\0")},
            "both",
        )


@pytest.mark.parametrize("how", ["stop", "interrupt"])
def test_a_planned_stop_leaves_nothing_behind(how: str) -> None:
    """What was acknowledged is in the container when `run` has ended, by SIGTERM and by Ctrl-C."""
    with new_site({"db": 2 * MIB}) as site:
        site.init().must()
        agent = site.start()
        site.flush_when_ready()
        with site.client("db") as client:
            client.write(0, b"z" * 65536)
            client.write(1 << 20, b"y" * 4096)
        assert (agent.stop() if how == "stop" else agent.interrupt()) == 0
        expected = (b"z" * 65536).ljust(1 << 20, b"\0") + (b"y" * 4096).ljust(1 << 20, b"\0")
        assert_restored(site, {"db": expected}, how)


def test_status_says_whether_protection_is_on_target() -> None:
    with new_site({"db": 2 * MIB}, extra=("rpo_target: 1s",)) as site:
        site.init().must()
        assert site.status().code == 3, "no agent runs"
        agent = site.start()
        wait_until(lambda: site.status().code == 0, "protection is on target", NOTICE_SECONDS_MAX)
        assert agent.stop() == 0
        assert site.status().code == 3


@contextmanager
def directory_away(site: Site) -> Iterator[None]:
    """The directory store is gone for a while."""
    aside = site.base / "aside"
    site.container.rename(aside)
    try:
        yield
    finally:
        aside.rename(site.container)


def test_guests_go_on_while_the_store_is_away() -> None:
    with new_site(VOLUMES, extra=("rpo_target: 1s",)) as site:
        site.init().must()
        agent = site.start()
        with directory_away(site):
            expected = work_through_an_outage(site)
            assert agent.stop() == 0
            # A new run opens its exports without the store.
            agent = site.start()
            with site.client("log") as client:
                client.write(99, b"written while the store is away")
            expected["log"] = (
                expected["log"][:99] + b"written while the store is away" + expected["log"][130:]
            )
            assert copies(site, "away")["log"] == expected["log"]
        site.flush_when_ready()
        agent.kill_group()
        assert_restored(site, expected, "after")


def work_through_an_outage(site: Site) -> dict[str, bytes]:
    """Write while nothing can be sent; status says so; gives what the volumes hold."""
    write_with_qemu(site)
    write_directly(site, random.Random(3))
    wait_until(lambda: site.status().code == 3, "status tells of the outage", NOTICE_SECONDS_MAX)
    assert site.flush(timeout_seconds=1).code != 0, "nothing can be protected now"
    return copies(site, "outage")


@pytest.mark.ceph
def test_guests_go_on_while_the_gateway_stands_still(ceph: S3Server) -> None:
    with (
        fresh_bucket(ceph) as bucket,
        new_site(
            VOLUMES, store=address_in(bucket), secrets=ceph.environment(), extra=("rpo_target: 1s",)
        ) as site,
    ):
        site.init().must()
        agent = site.start()
        with gateway_stopped(ceph):
            expected = work_through_an_outage(site)
        site.flush_when_ready()
        agent.kill_group()
        assert_restored(site, expected, "after")


@contextmanager
def gateway_stopped(server: S3Server) -> Iterator[None]:
    """The gateway accepts nothing and answers nothing for a while."""
    pid = gateway_pid(server)
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def gateway_pid(server: S3Server) -> int:
    """The radosgw that serves this endpoint."""
    port = server.endpoint.rpartition(":")[2]
    for pid, _, _ in processes():
        words = command_line(pid)
        if words[0].endswith("radosgw"):
            (pid_file,) = [word.partition("=")[2] for word in words if word.startswith("--pid-file=")]
            configuration = (Path(pid_file).parents[1] / "ceph.conf").read_text()
            if f"127.0.0.1:{port} " in configuration:
                return pid
    raise AssertionError("no gateway runs at " + server.endpoint)


def far_behind(site: Site) -> Done | None:
    """The status, once it tells of writes that waited longer than a lease."""
    done = site.status()
    return done if (done.json["lag_seconds"] or 0) > LEASE_SECONDS else None


def test_guests_go_on_while_the_streamer_stands_still_past_its_lease() -> None:
    with new_site({"db": 2 * MIB}, extra=("rpo_target: 1s",)) as site:
        site.init().must()
        agent = site.start()
        site.flush_when_ready()
        streamer = agent.child("streamer")
        assert streamer is not None
        os.kill(streamer, signal.SIGSTOP)
        try:
            with site.client("db") as client:
                client.write(0, b"x" * MIB, fua=True)
                behind = wait_until(lambda: far_behind(site), "the lease has passed", NOTICE_SECONDS_MAX)
                assert behind is not None
                assert behind.code == 3
                client.write(MIB, b"y" * 4096, fua=True)
        finally:
            os.kill(streamer, signal.SIGCONT)
        site.flush_when_ready()
        assert agent.child("streamer") == streamer, "a run whose lease passed goes on where nobody else came"
        assert_restored(site, {"db": (b"x" * MIB + b"y" * 4096).ljust(2 * MIB, b"\0")}, "latest")


def test_the_first_writes_count_where_the_streamer_was_up_before_the_journal() -> None:
    with new_site({"db": 2 * MIB}) as site:
        site.init().must()
        agent = site.launch()
        splitter = wait_until(lambda: agent.child("splitter"), "the splitter was started", NOTICE_SECONDS_MAX)
        assert splitter is not None
        os.kill(splitter, signal.SIGSTOP)
        wait_until(lambda: bool(site.facts()), "the streamer is up", NOTICE_SECONDS_MAX)
        assert not list((site.journal / "journal").iterdir())
        os.kill(splitter, signal.SIGCONT)
        wait_until(lambda: site.is_open(agent), "the exports are open", NOTICE_SECONDS_MAX)
        with site.client("db") as client:
            client.write(4096, b"the first write of all")
        site.flush_when_ready()
        expected = bytes(4096) + b"the first write of all"
        assert_restored(site, {"db": expected.ljust(2 * MIB, b"\0")}, "latest")
