"""A rehearsal beside a production that writes and collects: it succeeds from its cut, and leaves nothing."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import pytest

from cdp_container.errors import NoSuchPoint
from tests.e2e.processes import Done, run
from tests.e2e.site import BIN, MIB, Site, new_site
from tests.e2e.test_collection import SETTINGS, age, bystander, gc
from tests.servers.bucket import fresh_bucket
from tests.servers.s3 import S3Server
from tests.waiting import wait_until

pytestmark = pytest.mark.e2e

VOLUME_BYTES = 32 * MIB
END_SECONDS_MAX = 110.0


def words(site: Site, *options: str) -> list[str]:
    """The command, with a right to write the roster of holds."""
    base = [str(BIN / "rehydrate"), "dr-test", site.store, "--into", str(site.base / "dr")]
    return [*base, "--history", str(site.base / "history"), "--json", *options, *site.secret_options()]


def rehearse(site: Site, *options: str) -> Done:
    return run(words(site, *options), site.environment(site.base / "b" / "home"))


@contextmanager
def stopped_after_metadata(site: Site, *options: str) -> Iterator[subprocess.Popen[bytes]]:
    """A rehearsal that stands still once its first stage has ended; it goes on when the block ends."""
    with tempfile.TemporaryFile() as report:
        process = subprocess.Popen(
            words(site, *options),
            stdin=subprocess.DEVNULL,
            stdout=report,
            stderr=subprocess.PIPE,
            env=site.environment(site.base / "b" / "home"),
        )
        try:
            assert process.stderr is not None
            seen = _until_metadata_ended(process.stderr)
            process.send_signal(signal.SIGSTOP)
            yield process
            process.send_signal(signal.SIGCONT)
            _, rest = process.communicate(timeout=END_SECONDS_MAX)
            assert process.returncode == 0, seen + rest.decode()
        finally:
            process.kill()
            process.communicate()


def _until_metadata_ended(stderr: IO[bytes]) -> str:
    seen = ""
    while line := stderr.readline().decode():
        seen += line
        if line.startswith("{") and json.loads(line)["event"] == "stage-end":
            assert json.loads(line)["name"] == "metadata"
            return seen
    raise AssertionError(seen)


def holds(site: Site) -> list[dict[str, Any]]:
    done = run(
        [str(BIN / "rehydrate"), "holds", site.store, "--json"], site.environment(site.base / "b" / "home")
    )
    found: list[dict[str, Any]] = json.loads(done.must().out)["holds"]
    return found


def write_all(site: Site, seed: int) -> bytes:
    """The upper half of the disk anew; gives it."""
    half = VOLUME_BYTES // 2
    data = random.Random(seed).randbytes(half)
    with site.client("db") as guest:
        for at in range(0, half, MIB):
            guest.write(half + at, data[at : at + MIB])
        guest.flush()
    return data


def test_it_succeeds_from_its_cut_while_that_would_be_collected() -> None:
    with new_site({"db": VOLUME_BYTES}, with_key=True, extra=SETTINGS) as site:
        site.init().must()
        site.start()
        with bystander(site):
            old = write_all(site, 1)
            site.marker("old").must()
            write_all(site, 2)
            site.marker("young").must()
            age(site, 5)
            with stopped_after_metadata(site, "--marker", "old", "--keep"):
                (hold,) = holds(site)
                assert hold["purpose"] == "dr-test"
                write_all(site, 3)
                site.marker("newest").must()
                gc(site)
        image = (site.base / "dr" / "db.raw").read_bytes()
        assert image[VOLUME_BYTES // 2 :] == old
        assert holds(site) == []
        (report,) = [json.loads(path.read_text()) for path in (site.base / "history").iterdir()]
        assert (report["outcome"], report["readings"]) == ("passed", 1)
        assert report["cut"]["markers"] == ["old"]
        (site.base / "dr" / "db.raw").unlink()
        # And without its hold nothing had kept the cut.
        gc(site)
        done = rehearse(site, "--marker", "old")
        assert done.code == NoSuchPoint.exit_code
        assert list((site.base / "dr").iterdir()) == []


@pytest.mark.needs("mkfs.ext4", "e2fsck")
def test_a_file_system_of_a_guest_is_sound_after_its_journal() -> None:
    with new_site({"db": VOLUME_BYTES}, with_key=True) as site:
        environment = {
            **site.environment(site.base / "b" / "home"),
            "PATH": os.environ["PATH"] + ":/usr/sbin:/sbin",
        }
        run(["mkfs.ext4", "-q", "-F", str(site.backing("db"))], environment).must()
        site.init().must()
        site.start()
        site.flush_when_ready()
        done = rehearse(site, "--check", "sh -c 'test -s $CDP_DR_VOLUME_DB'").must()
        report = json.loads(done.out)
        assert {one["kind"]: one["state"] for one in report["checks"]} == {
            "checksums": "passed",
            "fsck": "passed",
            "command": "passed",
        }
        assert report["rpo"]["seconds"] < 3600
        assert not (site.base / "dr").exists()


def test_ctrl_c_reaches_a_check_and_leaves_nothing() -> None:
    with new_site({"db": VOLUME_BYTES}, with_key=True) as site:
        site.init().must()
        site.start()
        site.flush_when_ready()
        started = site.base / "b" / "started"
        process = subprocess.Popen(
            # What was started in the background may ignore Ctrl-C, and so would this.
            [
                "env",
                "--default-signal=INT",
                *words(site, "--check", f"sh -c 'echo $$ > {started}; exec sleep 600'"),
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=site.environment(site.base / "b" / "home"),
            start_new_session=True,
        )
        try:
            wait_until(lambda: started.exists() and started.read_text().endswith("\n"), "the check runs", 90)
            os.killpg(process.pid, signal.SIGINT)
            out, err = process.communicate(timeout=END_SECONDS_MAX)
        finally:
            process.kill()
            process.communicate()
        assert process.returncode == 130, err.decode()
        assert json.loads(out)["outcome"] == "interrupted"
        wait_until(lambda: not Path(f"/proc/{started.read_text().strip()}").exists(), "the check is dead", 30)
        assert holds(site) == []
        assert not (site.base / "dr").exists()


def test_a_tree_is_rehearsed_beside_the_volume(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    (tree / "sub").mkdir(parents=True)
    for number in range(50):
        (tree / "sub" / f"file {number}").write_bytes(os.urandom(number * 977))
    (tree / "link").symlink_to("sub/file 3")
    os.link(tree / "sub" / "file 7", tree / "hard")
    extra = f"trees: [{{name: files, path: {tree}}}]"
    with new_site({"db": VOLUME_BYTES}, with_key=True, extra=(extra,)) as site:
        site.init().must()
        site.start()
        site.flush_when_ready()
        done = rehearse(
            site, "--keep", "--check", f"diff -r --no-dereference {tree} {site.base}/dr/files.tree"
        ).must()
        report = json.loads(done.out)
        assert {one["kind"]: one["state"] for one in report["checks"] if one["subject"] != "db"} == {
            "names": "passed",
            "checksums": "passed",
            "command": "passed",
        }
        restored = site.base / "dr" / "files.tree"
        assert (restored / "hard").samefile(restored / "sub" / "file 7")


@pytest.mark.ceph
def test_on_a_real_gateway(ceph: S3Server) -> None:
    with fresh_bucket(ceph) as bucket:
        address = f"s3://{bucket.name}/x?endpoint={ceph.endpoint}&region={ceph.region}"
        with new_site({"db": VOLUME_BYTES}, store=address, secrets=ceph.environment(), with_key=True) as site:
            site.init().must()
            site.start()
            write_all(site, 1)
            site.flush_when_ready()
            page = site.base / "dr.html"
            report = json.loads(rehearse(site, "--report", str(page)).must().out)
            assert report["outcome"] == "passed"
            assert len(report["hold"]) == 32
            assert report["rpo"]["how"].startswith("the store's clock")
            metadata, _, content = report["stages"][:3]
            assert metadata["requests_by_kind"]["LIST"] >= 1
            assert content["requests_by_kind"]["GET"] >= content["total"] > 0
            assert content["received_bytes"] >= content["total_bytes"] > VOLUME_BYTES // 2
            assert holds(site) == []
            secret = ceph.environment()["AWS_SECRET_ACCESS_KEY"]
            assert secret not in page.read_text() + json.dumps(report)
