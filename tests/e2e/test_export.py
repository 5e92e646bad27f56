"""`rehydrate export` of what an agent protected: programs that are not ours find the point in every image."""

from __future__ import annotations

import filecmp
import os
import random
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from cdp_container.errors import DamagedObject, ExportFailed, LocalDiskFull, TargetUnsuitable
from rehydrate.export.formats import shape_of
from tests.e2e.processes import Done, run
from tests.e2e.site import BIN, MIB, Site, new_site
from tests.waiting import wait_until

pytestmark = [pytest.mark.e2e, pytest.mark.needs("qemu-img")]

SIZES = {"db": 24 * MIB, "log": 5 * MIB + 512}
SHAPES = (
    ("raw", None), ("qcow2", "plain"), ("qcow2", "compressed"), ("vmdk", "monolithicSparse"),
    ("vmdk", "streamOptimized"), ("vhd", "dynamic"), ("vhd", "fixed"), ("vhdx", "dynamic"), ("vhdx", "fixed"),
)  # fmt: skip
CHECKED = {"qcow2", "vhdx", "vmdk"}
"""The formats that `qemu-img check` knows."""
SECONDS_MAX = 60.0


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    """What an agent protected, with a marker in its midst; it does no more."""
    with new_site(SIZES, with_key=True) as site:
        rng = random.Random(3)
        for name, size_bytes in SIZES.items():
            with site.backing(name).open("r+b") as file:
                file.write(rng.randbytes(size_bytes // 2))
        site.init().must()
        agent = site.start()
        site.wait_until_whole()
        wait_until(lambda: site.marker("before").code == 0, "the marker is protected", SECONDS_MAX)
        with site.client("db") as client:
            for _ in range(100):
                client.write(rng.randrange(SIZES["db"] - 9000), rng.randbytes(rng.randrange(1, 9000)))
            client.write_zeroes(3 * MIB + 100, MIB)
        site.flush_when_ready()
        assert agent.stop() == 0
        yield site


def words(site: Site, to: Path, *options: str) -> list[str]:
    base = [str(BIN / "rehydrate"), "export", site.store, "--to", str(to)]
    return [*base, *options, *site.secret_options()]


def environment(site: Site) -> dict[str, str]:
    return site.environment(site.base / "b" / "home")


def exported(site: Site, to: Path, *options: str) -> Done:
    return run(words(site, to, *options), environment(site))


def checked(*command: str) -> Done:
    return run(list(command), {"PATH": os.environ["PATH"]}).must()


@pytest.fixture(scope="module")
def model(site: Site) -> Path:
    """What a restore makes of the marker's point."""
    folder = site.base / "model"
    site.restore_all(folder, "--marker", "before")
    return folder


@pytest.mark.parametrize(("image_format", "subformat"), SHAPES)
def test_each_image_is_sound_and_holds_the_point(
    site: Site, model: Path, tmp_path: Path, image_format: str, subformat: str | None
) -> None:
    options = ["--marker", "before", "--format", image_format]
    options += [] if subformat is None else ["--subformat", subformat]
    exported(site, tmp_path, "--all", *options).must()
    driver = shape_of(image_format, subformat).driver
    for name, size_bytes in SIZES.items():
        image, raw = tmp_path / f"{name}.{image_format}", tmp_path / f"{name}.back"
        if image_format in CHECKED:
            checked("qemu-img", "check", "-f", driver, str(image))
        checked("qemu-img", "convert", "-f", driver, "-O", "raw", str(image), str(raw))
        assert raw.stat().st_size == size_bytes
        assert filecmp.cmp(raw, model / f"{name}.raw", shallow=False)
    assert sorted(path.suffix for path in tmp_path.iterdir()) == sorted([f".{image_format}", ".back"] * 2)


def test_what_has_no_data_takes_no_space_and_odd_writes_are_there(site: Site, tmp_path: Path) -> None:
    """A half of the disk was never written; one MiB was zeroed since, beginning and ending amid sectors."""
    newest = tmp_path / "newest.raw"
    site.restore("db", newest)
    for image_format in ("raw", "qcow2"):
        target = tmp_path / f"db.{image_format}"
        exported(site, target, "--volume", "db", "--format", image_format).must()
        assert target.stat().st_blocks * 512 < SIZES["db"] * 2 // 3
        checked("qemu-img", "compare", "-f", image_format, "-F", "raw", str(target), str(newest))


def test_damage_names_the_object_and_leaves_nothing(site: Site, tmp_path: Path) -> None:
    segments = [path for path in (site.container / "log").rglob("*") if path.is_file()]
    largest = max(segments, key=lambda path: path.stat().st_size)
    content = largest.read_bytes()
    largest.write_bytes(content[: len(content) // 2] + bytes(len(content) - len(content) // 2))
    try:
        done = exported(site, tmp_path / "db.vmdk", "--volume", "db", "--format", "vmdk")
        assert str(largest.relative_to(site.container)) in done.must(DamagedObject.exit_code).err
    finally:
        largest.write_bytes(content)
    assert list(tmp_path.iterdir()) == []


@contextmanager
def small_disk(directory: Path) -> Iterator[None]:
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "none", str(directory)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", str(directory)], check=True)


@pytest.mark.needs(*(() if os.geteuid() == 0 else ("root, who alone may mount",)))
def test_a_full_disk_is_told_before_and_amid_and_leaves_nothing(site: Site, tmp_path: Path) -> None:
    with small_disk(tmp_path):
        for subformat in ("plain", "compressed"):  # of one it is known what it takes
            options = ("--volume", "db", "--format", "qcow2", "--subformat", subformat)
            exported(site, tmp_path / "db.qcow2", *options).must(LocalDiskFull.exit_code)
            assert list(tmp_path.iterdir()) == []


@pytest.mark.needs("prlimit")
def test_a_limit_of_file_sizes_is_told(site: Site, tmp_path: Path) -> None:
    command = words(site, tmp_path / "db.raw", "--volume", "db", "--format", "raw")
    done = run(["prlimit", "--fsize=4194304", *command], environment(site))
    assert "no file of this size" in done.must(TargetUnsuitable.exit_code).err
    assert list(tmp_path.iterdir()) == []


def test_without_qemu_img_nothing_is_begun(site: Site, tmp_path: Path) -> None:
    nowhere = {**environment(site), "PATH": str(tmp_path)}
    done = run(words(site, tmp_path, "--all", "--format", "raw"), nowhere)
    assert "qemu-utils" in done.must(ExportFailed.exit_code).err


def _while_converting(site: Site, to: Path, number: int) -> subprocess.Popen[bytes]:
    """An export whose qemu-img is held still, and which then gets a signal."""
    held = to.parent / "bin"
    held.mkdir()
    (held / "qemu-img").write_text("#!/bin/sh\necho $$ > " + str(held / "pid") + "\nexec sleep 600\n")
    (held / "qemu-img").chmod(0o755)
    path = {**environment(site), "PATH": f"{held}:{os.environ['PATH']}"}
    command = words(site, to, "--volume", "db", "--format", "qcow2")
    # What was started in the background may ignore Ctrl-C, and so would this.
    process = subprocess.Popen(["env", "--default-signal=INT", *command], env=path, stderr=subprocess.DEVNULL)
    try:
        wait_until(lambda: (held / "pid").exists() and (held / "pid").read_text(), "it converts", SECONDS_MAX)
        process.send_signal(number)
        process.wait(SECONDS_MAX)
    finally:
        process.kill()
        process.wait()
    return process


def test_interrupted_it_leaves_nothing_and_ends_what_it_started(site: Site, tmp_path: Path) -> None:
    to = tmp_path / "db.qcow2"
    assert _while_converting(site, to, signal.SIGINT).returncode == 130
    pid = int((tmp_path / "bin" / "pid").read_text())
    assert not Path(f"/proc/{pid}").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["bin"]


def test_what_a_killed_export_left_is_taken_away_by_the_next(site: Site, tmp_path: Path) -> None:
    to = tmp_path / "db.qcow2"
    _while_converting(site, to, signal.SIGKILL)
    os.kill(int((tmp_path / "bin" / "pid").read_text()), signal.SIGKILL)
    assert (tmp_path / "db.qcow2.partial").is_dir()
    exported(site, to, "--volume", "db", "--format", "qcow2").must()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bin", "db.qcow2"]
