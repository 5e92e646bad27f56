"""`rehydrate mount` of what an agent protected: programs that are not ours find what was there, at once."""

from __future__ import annotations

import contextlib
import filecmp
import json
import os
import random
import signal
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import boto3
import pytest

from cdp_container.errors import TargetUnsuitable, UsageError
from tests.e2e.processes import Done, run
from tests.e2e.site import BIN, MIB, Site, new_site
from tests.e2e.test_tree_rsync import differences, native_tree
from tests.fuse import Mounted, is_mounted, missing_for_fuse, missing_for_others, mounting, unmount
from tests.loops import missing_for_loops
from tests.servers import faults
from tests.servers.faults import FaultProxy, running_faults
from tests.servers.s3 import S3Server, running_moto
from tests.waiting import wait_until

pytestmark = [pytest.mark.e2e, pytest.mark.needs("rsync", "mkfs.ext4", "e2fsck", *missing_for_fuse())]

VOLUME_BYTES = 32 * MIB
FOLDER_FILES = 200


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every kind of entry."""
    root = tmp_path_factory.mktemp("mount") / "source"
    root.mkdir()
    with contextlib.chdir(root):  # it is left for the tree, to bind a socket by a short name
        native_tree(root)
    return root


@pytest.fixture(scope="module")
def site(tree: Path) -> Iterator[Site]:
    """What an agent protected, which does no more; for all tests, as none changes anything."""
    extra = f"trees: [{{name: home, path: {tree}}}]"
    with new_site({"db": VOLUME_BYTES}, with_key=True, extra=(extra,)) as site:
        _file_system(site)
        site.init().must()
        agent = site.start()
        site.flush_when_ready()
        assert agent.stop() == 0
        yield site


def _file_system(site: Site) -> None:
    folder = site.base / "folder"
    folder.mkdir()
    for number in range(FOLDER_FILES):
        (folder / f"file {number}").write_bytes(os.urandom(number * 300))
    words = ["mkfs.ext4", "-q", "-F", "-d", str(folder), str(site.backing("db"))]
    run(words, {"PATH": os.environ["PATH"] + ":/usr/sbin:/sbin"}).must()


def environment(site: Site) -> dict[str, str]:
    return site.environment(site.base / "b" / "home")


def words(site: Site, directory: Path, *options: str) -> list[str]:
    base = [str(BIN / "rehydrate"), "mount", site.store, str(directory)]
    return [*base, *options, *site.secret_options()]


@contextmanager
def mounted(site: Site, *options: str) -> Iterator[Mounted]:
    directory, log = site.base / "m", site.base / "mount.log"
    directory.mkdir(exist_ok=True)
    with mounting(words(site, directory, *options), environment(site), directory, log) as found:
        yield found


def purposes(site: Site) -> list[str]:
    done = run([str(BIN / "rehydrate"), "holds", site.store, "--json"], environment(site)).must()
    return [hold["purpose"] for hold in json.loads(done.out)["holds"]]


def checked(*command: str) -> Done:
    return run(list(command), {"PATH": os.environ["PATH"] + ":/usr/sbin:/sbin"})


def test_a_point_is_there_as_it_was_and_goes_without_a_trace(site: Site, tree: Path) -> None:
    before = purposes(site)  # of mounts that were killed
    with mounted(site) as shown:
        assert sorted(os.listdir(shown.directory)) == ["db.raw", "home.tree"]
        assert differences(tree, shown.directory / "home.tree") == ""
        assert filecmp.cmp(shown.directory / "db.raw", site.backing("db"), shallow=False)
        checked("e2fsck", "-f", "-n", str(shown.directory / "db.raw")).must()
        assert purposes(site) == ["mount", *before]
        with pytest.raises(OSError, match="Read-only file system"):
            (shown.directory / "home.tree" / "new").write_bytes(b"x")
        if not missing_for_loops():
            _read_by_loop(site, shown)
        with (shown.directory / "db.raw").open("rb") as opened:
            opened.read(100)
            shown.process.send_signal(signal.SIGTERM)  # somebody still has a file open
            assert shown.wait() == 0, shown.said()
        assert not is_mounted(shown.directory)
        assert "Traceback" not in shown.said()
    assert purposes(site) == before


def _read_by_loop(site: Site, shown: Mounted) -> None:
    inner = site.base / "inner"
    inner.mkdir()
    checked("mount", "-o", "ro,loop,noload", str(shown.directory / "db.raw"), str(inner)).must()
    try:
        assert differences(site.base / "folder", inner) in ("", "*deleting   lost+found/\n")
    finally:
        checked("umount", str(inner)).must()


def test_it_ends_with_ctrl_c_when_it_is_unmounted_and_is_left_by_a_kill(site: Site, tree: Path) -> None:
    with mounted(site, "--tree", "home", "--json") as shown:
        assert os.listdir(shown.directory) == ["home.tree"]
        shown.process.send_signal(signal.SIGINT)
        assert shown.wait() == 0, shown.said()
        events = [json.loads(line)["event"] for line in shown.said().splitlines() if line.startswith("{")]
        assert (events[-2:], is_mounted(shown.directory)) == (["mounted", "unmounted"], False)
    with mounted(site, "--volume", "db") as shown:
        unmount(shown.directory)
        assert shown.wait() == 0, shown.said()
    with mounted(site) as shown:
        shown.process.kill()
        shown.wait()
        with pytest.raises(OSError, match="not connected"):
            os.listdir(shown.directory)
        done = run(words(site, shown.directory), environment(site)).must(TargetUnsuitable.exit_code)
        assert "fusermount3 -u" in done.err
        unmount(shown.directory)
        assert os.listdir(shown.directory) == []


def test_what_is_damaged_or_gone_is_an_error_to_who_reads_it(site: Site, tree: Path) -> None:
    with mounted(site, "--cache-bytes", "1MiB") as shown:
        raw = shown.directory / "db.raw"
        segments = [path for path in (site.container / "log").rglob("*") if path.is_file()]
        largest = max(segments, key=lambda path: path.stat().st_size)
        kept = largest.read_bytes()
        largest.write_bytes(kept[: len(kept) // 2] + bytes(len(kept) - len(kept) // 2))
        with pytest.raises(OSError, match="Input/output error"):
            raw.read_bytes()
        assert f"unreadable: {largest.relative_to(site.container)}" in shown.said()
        assert (shown.directory / "home.tree" / "docs").is_dir()
        largest.write_bytes(kept)
        assert filecmp.cmp(raw, site.backing("db"), shallow=False)
        assert shown.said().count("unreadable:") == 1


def test_reads_wait_while_the_store_is_away_and_go_on_when_it_is_back(site: Site, tree: Path) -> None:
    expected = site.backing("db").read_bytes()
    with running_moto() as moto, running_faults(moto.endpoint, random.Random(7)) as proxy:
        place = _uploaded(site, moto, proxy)
        directory, log = site.base / "m", site.base / "mount.log"
        directory.mkdir(exist_ok=True)
        command = [str(BIN / "rehydrate"), "mount", place, str(directory), *site.secret_options()]
        everything = {**environment(site), **moto.environment()}
        with mounting(command, everything, directory, log) as shown, ThreadPoolExecutor(1) as pool:
            raw = shown.directory / "db.raw"
            with raw.open("rb", buffering=0) as opened:
                first = os.pread(opened.fileno(), 4096, 0)
            assert first == expected[:4096]
            proxy.set(faults.AWAY)
            before = len(proxy.seen)
            reading = pool.submit(raw.read_bytes)
            wait_until(lambda: len(proxy.seen) > before + 5, "it is asked again and again", 60)
            assert not reading.done()
            assert sorted(os.listdir(shown.directory)) == ["db.raw", "home.tree"]
            proxy.set(faults.NONE)
            assert reading.result(90) == expected
            assert "unreadable" not in shown.said()
            shown.process.send_signal(signal.SIGTERM)
            assert shown.wait() == 0, shown.said()


def _uploaded(site: Site, moto: S3Server, proxy: FaultProxy) -> str:
    """The same container in a bucket, and its address through the proxy."""
    client = boto3.client(
        "s3", endpoint_url=moto.endpoint, aws_access_key_id=moto.access_key,
        aws_secret_access_key=moto.secret_key, region_name=moto.region,
    )  # fmt: skip
    client.create_bucket(Bucket="copy")
    for path in site.container.rglob("*"):
        if path.is_file():
            key = f"shop/{path.relative_to(site.container)}"
            client.put_object(Bucket="copy", Key=key, Body=path.read_bytes())
    return f"s3://copy/shop?endpoint={proxy.endpoint}"


def test_holes_are_told_to_programs_that_copy(site: Site, tree: Path) -> None:
    with mounted(site) as shown:
        raw, copied = shown.directory / "db.raw", site.base / "copied.raw"
        assert raw.stat().st_blocks * 512 < VOLUME_BYTES
        fd = os.open(raw, os.O_RDONLY)
        try:
            hole = os.lseek(fd, 0, os.SEEK_HOLE)
        finally:
            os.close(fd)
        assert 0 < hole < VOLUME_BYTES
        checked("cp", "--sparse=auto", str(raw), str(copied)).must()
        assert filecmp.cmp(copied, site.backing("db"), shallow=False)
        assert copied.stat().st_blocks * 512 < VOLUME_BYTES // 2


def test_a_rehearsal_shows_it_and_fetches_what_its_checks_ask(site: Site, tree: Path) -> None:
    into, history = site.base / "dr", site.base / "history"
    large = "docs/file 5"
    check = f"cmp '{tree / large}' '{into}/mount/home.tree/{large}'"
    base = [str(BIN / "rehydrate"), "dr-test", site.store, "--into", str(into), "--history", str(history)]
    command = [*base, "--content", "on-demand", "--json", *site.secret_options()]
    holds_open = "sh -c 'exec sleep 600 <$CDP_DR_VOLUME_DB & test -s $CDP_DR_VOLUME_DB'"
    done = run([*command, "--check", check, "--check", holds_open], environment(site)).must()
    report = json.loads(done.out)
    states = {(one["kind"], one["subject"]): one["state"] for one in report["checks"]}
    assert [state for (kind, _), state in states.items() if kind == "command"] == ["passed"] * 2
    assert {state for (kind, _), state in states.items() if kind == "names"} == {"passed"}
    assert {state for (kind, _), state in states.items() if kind == "checksums"} == {"not checked"}
    assert states["fsck", "db"] == "passed"
    assert (report["outcome"], report["content"], report["rto"]) == ("passed", "on-demand", None)
    gets = {stage["name"]: stage["requests_by_kind"].get("GET", 0) for stage in report["stages"]}
    assert gets["content"] == 0
    assert gets["checks"] > 0
    assert not into.exists()
    assert "dr-test" not in purposes(site)
    run([*command, "--keep"], environment(site)).must(UsageError.exit_code)


@pytest.mark.needs(*missing_for_others())
def test_it_needs_no_root(site: Site, tree: Path) -> None:
    nobody = 65534
    directory = site.base / "m"
    directory.mkdir(exist_ok=True)
    for path in (site.base, site.container, directory, site.private_key, *site.container.rglob("*")):
        os.chown(path, nobody, nobody)
    process = ["setpriv", f"--reuid={nobody}", f"--regid={nobody}", "--clear-groups"]
    log = site.base / "mount.log"
    home = site.base / "b" / "home"
    with mounting([*process, *words(site, directory)], site.environment(home), directory, log) as shown:
        copy = subprocess.run(
            [*process, "cmp", str(directory / "home.tree/docs/file 5"), "-"],
            input=(tree / "docs/file 5").read_bytes(),
        )
        assert copy.returncode == 0, shown.said()
        shown.process.send_signal(signal.SIGTERM)
        assert shown.wait() == 0, shown.said()
        assert not is_mounted(directory)
