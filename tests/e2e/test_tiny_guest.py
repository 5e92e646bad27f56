"""The tiny guest itself: it does what it is told, and notices what is wrong, so that tests may rest on it."""

from __future__ import annotations

import tempfile
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.tiny_vm import NEEDS, Job, formatted, initrd_expecting, root_disk, tiny_guest

pytestmark = [pytest.mark.e2e, pytest.mark.needs(*NEEDS)]

MIB = 1 << 20


@pytest.fixture
def folder() -> Iterator[Path]:
    """With a short name, because sockets lie in it."""
    with tempfile.TemporaryDirectory(prefix="tg-") as made:
        yield Path(made)


def test_it_writes_answers_and_finds_what_is_not_as_it_was(folder: Path) -> None:
    disk = formatted(folder / "disk", 64 * MIB)
    with tiny_guest(folder / "1", [disk], Job(n=12, hold=True, net=True)) as guest:
        guest.wait_for("MARK done")
        with urllib.request.urlopen(f"http://127.0.0.1:{guest.port}/", timeout=60) as answer:
            assert answer.read() == b"tiny: ok\n"
        assert guest.qmp("query-status")["running"]
        sums = {int(mark.words[0]): mark.words[1] for mark in guest.marks("fsync")}
    assert len(sums) == 12
    expected = initrd_expecting(folder / "initrd", {**sums, 3: "0" * 64, 99: sums[0]})
    with tiny_guest(folder / "2", [disk], Job("verify"), initrd=expected) as guest:
        guest.wait_for_end()
        assert {int(mark.words[0]): mark.words[1] for mark in guest.marks("file")} == sums
        assert guest.marks("verified")[0].words == ("11", "2")


def test_it_fails_aloud(folder: Path) -> None:
    blank = folder / "disk"
    blank.write_bytes(bytes(MIB))
    with (
        tiny_guest(folder / "1", [blank], Job()) as guest,
        pytest.raises(AssertionError, match="MARK failed mount /dev/vda"),
    ):
        guest.wait_for("MARK done")


def test_it_runs_from_a_disk_and_counts_on_two(folder: Path) -> None:
    root, log = root_disk(folder / "root", touched=2), folder / "log"
    with tiny_guest(folder / "1", [root], Job("touch", root=True)) as guest:
        guest.wait_for_end()
        assert guest.marks("touched")[0].words == ("2", "0")
    for disk in (root, log):
        disk.write_bytes(bytes(MIB))
    with tiny_guest(folder / "2", [root, log], Job("write-pairs", n=30, hold=True)) as guest:
        guest.wait_for("MARK pair 29")
        guest.kill()
    with log.open("r+b") as file:
        file.seek(20 * 4096)
        file.write(bytes(4096))
    with tiny_guest(folder / "3", [root, log], Job("count-pairs", n=60)) as guest:
        guest.wait_for_end()
        assert guest.marks("pairs")[0].words == ("30", "20")
