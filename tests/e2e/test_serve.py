"""`rehydrate serve` of what an agent protected: programs that are not ours use it, whatever happens."""

from __future__ import annotations

import filecmp
import json
import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from cdp_container.errors import AlreadyRunning, TargetNotEmpty, TargetUnsuitable
from tests.e2e.processes import Done, run
from tests.e2e.served import SECONDS_MAX, Served, environment, serving, status, words
from tests.e2e.site import BIN, MIB, Site, new_site
from tests.nbd_client import NbdClient, NbdError
from tests.waiting import wait_until

pytestmark = [pytest.mark.e2e, pytest.mark.needs("nbdcopy", "nbdinfo", "qemu-img", "qemu-io")]

SIZES = {"db": 24 * MIB, "log": 5 * MIB + 512}


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    """What an agent protected in several cuts, which does no more. Tests leave the container as it was."""
    with new_site(SIZES, with_key=True) as site:
        rng = random.Random(3)
        for name, size_bytes in SIZES.items():
            with site.backing(name).open("r+b") as file:
                file.write(rng.randbytes(size_bytes // 2))
        site.init().must()
        agent = site.start()
        site.flush_when_ready()
        with site.client("db") as client:
            for _ in range(200):
                client.write(rng.randrange(SIZES["db"] - 9000), rng.randbytes(rng.randrange(1, 9000)))
            client.write_zeroes(3 * MIB + 100, MIB)
        with site.client("log") as client:
            client.write(SIZES["log"] - 700, rng.randbytes(700))
        site.flush_when_ready()
        assert agent.stop() == 0
        yield site


def checked(*command: str) -> Done:
    return run(list(command), {"PATH": os.environ["PATH"]}).must()


def purposes(site: Site) -> list[str]:
    done = run([str(BIN / "rehydrate"), "holds", site.store, "--json"], environment(site)).must()
    return [hold["purpose"] for hold in json.loads(done.out)["holds"]]


def refused(site: Site, overlay: Path, code: int, *options: str) -> str:
    return run(words(site, overlay, *options), environment(site)).must(code).err


def compare(served: Served, name: str, expected: Path) -> None:
    checked("qemu-img", "compare", "-f", "raw", "-F", "raw", served.uri(name), str(expected))


def test_clients_find_what_a_restore_gives_and_keep_what_they_write_over_kills(
    site: Site, tmp_path: Path
) -> None:
    overlay, model = site.base / "o", site.base / "model"
    site.restore_all(model)
    with serving(site, overlay) as served:
        assert int(checked("nbdinfo", "--size", served.uri("log")).out) == SIZES["log"]
        checked("nbdcopy", served.uri("db"), str(tmp_path / "db"))
        assert filecmp.cmp(tmp_path / "db", model / "db.raw", shallow=False)
        assert purposes(site) == ["serve"]
        assert "another process" in refused(site, overlay, AlreadyRunning.exit_code)
        # Of the log nothing was fetched yet: parts of blocks, and the last, short one.
        qemu_io = ("qemu-io", "-f", "raw", served.uri("log"))
        checked(*qemu_io, "-c", "write -P 7 1000 5000", "-c", f"write -P 9 {SIZES['log'] - 512} 512")
        checked(*qemu_io, "-c", f"write -z {MIB + 512} 100k", "-c", "discard 3M 64k")
        with (model / "log.raw").open("r+b") as file:
            for at, data in (
                (1000, b"\7" * 5000), (SIZES["log"] - 512, b"\11" * 512), (MIB + 512, bytes(100 << 10)),
                (3 * MIB, bytes(64 << 10)),
            ):  # fmt: skip
                file.seek(at)
                file.write(data)
        served.kill()
    with serving(site, overlay) as served:
        assert purposes(site) == ["serve"]  # the one of the run that was killed
        compare(served, "log", model / "log.raw")
        compare(served, "db", model / "db.raw")
        with served.client("db") as client:
            client.write(5, b"once more", fua=True)
        served.stop()
    assert purposes(site) == ["serve"]  # until it is finished
    with (model / "db.raw").open("r+b") as file:
        file.seek(5)
        file.write(b"once more")
    assert "empty" in refused(site, model, TargetNotEmpty.exit_code)
    assert "volumes" in refused(site, overlay, TargetUnsuitable.exit_code, "--volume", "db")
    _finishes_without_a_stop(site, overlay, model)


def _finishes_without_a_stop(site: Site, overlay: Path, model: Path) -> None:
    away = site.container.with_name("away")
    with serving(site, overlay) as served, served.client("log") as client:
        assert client.read(1000, 5000) == b"\7" * 5000
        assert not status(served, site)["finished"]
        status(served, site, "--finish")
        wait_until(lambda: status(served, site)["finished"], "all is here", SECONDS_MAX)
        assert purposes(site) == []
        site.container.rename(away)
        try:
            told = checked("nbdinfo", "--map", served.uri("db")).out.splitlines()
            assert any("hole,zero" in line and int(line.split()[1]) > MIB // 2 for line in told), told
            for name in SIZES:
                compare(served, name, model / f"{name}.raw")
            client.write(0, b"after it")
            served.kill()
            with serving(site, overlay) as again, again.client("log") as other:
                assert other.read(0, 8) == b"after it"
                compare(again, "db", model / "db.raw")
                again.stop()
        finally:
            away.rename(site.container)
    assert filecmp.cmp(overlay / "db.raw", model / "db.raw", shallow=False)


def test_reads_wait_while_the_store_is_away_and_damage_is_an_error_where_it_is(site: Site) -> None:
    overlay, model, away = site.base / "p", site.base / "model-p", site.container.with_name("away")
    site.restore_all(model)
    expected = (model / "db.raw").read_bytes()
    with serving(site, overlay, "--volume", "db") as served, served.client("db") as client:
        assert client.read(0, 4096) == expected[:4096]
        site.container.rename(away)
        try:
            waits = client.submit_read(8 * MIB, 200_000)
            wait_until(lambda: "wait: " in served.said(), "a read waits", SECONDS_MAX)
            assert client.read(0, 4096) == expected[:4096]  # what is here is served
            client.write(4096 * 3, b"w" * 4096, fua=True)
        finally:
            away.rename(site.container)
        reply = client.wait(waits)
        assert (reply.error, reply.data) == (0, expected[8 * MIB : 8 * MIB + 200_000])
        _damage(site, served, client, expected)
        served.stop()


def _damage(site: Site, served: Served, client: NbdClient, expected: bytes) -> None:
    """The beginning of the large segment's content is kept, its end is not what was written."""
    segments = [path for path in (site.container / "log").rglob("*") if path.is_file()]
    largest = max(segments, key=lambda path: path.stat().st_size)
    content = largest.read_bytes()
    cut = len(content) * 3 // 4
    largest.write_bytes(content[:cut] + bytes(len(content) - cut))
    try:
        status(served, site, "--finish")
        wait_until(lambda: status(served, site)["filling"] == "damaged", "it ended", SECONDS_MAX)
        damages = status(served, site)["volumes"][0]["damages"]
        assert damages
        assert all(f"from {one['offset']} to" in served.said() for one in damages)
        for one in damages:
            with pytest.raises(NbdError, match="NBD error 5"):
                client.read(one["offset"], 1)
        bad = {
            at // 4096 for one in damages for at in range(one["offset"], one["offset"] + one["length"], 4096)
        }
        for block in set(range(len(expected) // 4096)) - bad - {3}:
            assert client.read(block * 4096, 4096) == expected[block * 4096 : (block + 1) * 4096]
    finally:
        largest.write_bytes(content)
    status(served, site, "--finish")
    wait_until(lambda: status(served, site)["finished"], "it was healed", SECONDS_MAX)
    assert status(served, site)["volumes"][0]["damages"] == []


def test_a_start_serves_what_is_here_before_the_store_is_back(site: Site) -> None:
    overlay, model, away = site.base / "q", site.base / "model-q", site.container.with_name("away")
    site.restore_all(model)
    expected = (model / "db.raw").read_bytes()
    with serving(site, overlay) as served, served.client("db") as client:
        assert client.read(0, 4096) == expected[:4096]
        client.write(8192, b"w" * 4096)
        served.kill()
    site.container.rename(away)
    try:
        with serving(site, overlay) as served, served.client("db") as client:
            assert client.read(0, 4096) == expected[:4096]
            assert client.read(8192, 4096) == b"w" * 4096
            client.write(12288, b"v" * 4096, fua=True)
            waits = client.submit_read(8 * MIB, 4096)
            wait_until(lambda: "it is waited for" in served.said(), "the store is missed", SECONDS_MAX)
            assert not status(served, site)["opened"]
            said = run([str(BIN / "rehydrate"), "serving", str(overlay)], environment(site)).must().out
            assert "the container is not open yet" in said
            away.rename(site.container)
            reply = client.wait(waits)
            assert (reply.error, reply.data) == (0, expected[8 * MIB : 8 * MIB + 4096])
            assert status(served, site)["opened"]
            served.stop()
        site.container.rename(away)
        with serving(site, overlay) as served:
            served.stop()  # it need not be open for that
        with new_site({"db": MIB}, with_key=True) as other:
            other.init().must()
            other.container.rename(site.container)
            try:
                assert "of the domain" in refused(site, overlay, TargetUnsuitable.exit_code)
            finally:
                site.container.rename(other.container)
    finally:
        if away.exists():
            away.rename(site.container)
    with serving(site, overlay) as served, served.client("db") as client:
        assert client.read(8192, 8192) == b"w" * 4096 + b"v" * 4096
