"""The NBD server against the clients that people use: QEMU's tools, libnbd's, fio."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from nbd_export.backend import FixedExports
from tests.nbd_server import FileExport, serving

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.needs("qemu-io"),
    pytest.mark.needs("qemu-img"),
    pytest.mark.needs("nbdcopy"),
    pytest.mark.needs("nbdinfo"),
    pytest.mark.needs("fio"),
]

SIZE_BYTES = 24 << 20
CLIENT_SECONDS = 60


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    """A file with content in the middle, holes around it, and a size that no power of two divides."""
    path = tmp_path / "disk.raw"
    with path.open("wb") as file:
        file.truncate(SIZE_BYTES + 512)
        file.seek(3 << 20)
        file.write(os.urandom(5 << 20))
    return path


@pytest.fixture
def uri(tmp_path: Path, disk: Path) -> Iterator[str]:
    """The disk served as "disk", and read-only as "frozen"."""
    exports = [FileExport(disk, "disk"), FileExport(disk, "frozen", read_only=True)]
    try:
        with serving(FixedExports(exports), tmp_path / "nbd.sock"):
            yield f"nbd+unix:///disk?socket={tmp_path}/nbd.sock"
    finally:
        for export in exports:
            export.close()


def run(*command: str | Path) -> str:
    """Run a client that must succeed; what it says."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=CLIENT_SECONDS)
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    return done.stdout


def qemu_io(uri: str, *commands: str) -> str:
    arguments = [argument for command in commands for argument in ("-c", command)]
    return run("qemu-io", "-f", "raw", *arguments, uri)


def test_qemu_io_writes_what_lands_in_the_file(uri: str, disk: Path) -> None:
    expected = bytearray(disk.read_bytes())
    qemu_io(
        uri,
        "write -P 0xa1 0 64k",
        "write -P 0xa2 -f 1000 3001",  # -f: FUA; no alignment at all
        "aio_write -P 0xa3 8M 3M",
        "aio_write -P 0xa4 12M 512",
        "aio_flush",
        "write -z 4M 1M",
        "write -z -u 5M 64k",
        "discard 6M 128k",
        "flush",
        f"write -P 0xa5 {SIZE_BYTES} 512",  # the last sector
    )
    for start, length, byte in [
        (0, 64 << 10, 0xA1), (1000, 3001, 0xA2), (8 << 20, 3 << 20, 0xA3), (12 << 20, 512, 0xA4),
        (4 << 20, 1 << 20, 0), (5 << 20, 64 << 10, 0), (6 << 20, 128 << 10, 0), (SIZE_BYTES, 512, 0xA5),
    ]:  # fmt: skip
        expected[start : start + length] = bytes([byte]) * length
    assert disk.read_bytes() == expected
    qemu_io(uri, "read -P 0xa3 8M 3M", "read -P 0xa2 1000 3001", "read -P 0 4M 1M")


def test_qemu_io_is_refused_what_cannot_be(uri: str, disk: Path) -> None:
    before = disk.read_bytes()
    frozen = uri.replace("/disk?", "/frozen?")
    command = ["qemu-io", "-f", "raw", "-c", "write 0 4k", frozen]
    done = subprocess.run(command, capture_output=True, text=True, timeout=CLIENT_SECONDS)
    assert done.returncode != 0
    run("qemu-io", "-r", "-f", "raw", "-c", "read 0 4k", frozen)
    assert disk.read_bytes() == before


def test_qemu_img_reads_converts_and_compares(uri: str, disk: Path, tmp_path: Path) -> None:
    info = json.loads(run("qemu-img", "info", "--output=json", "-f", "raw", uri))
    assert info["virtual-size"] == SIZE_BYTES + 512
    copy = tmp_path / "copy.qcow2"
    run("qemu-img", "convert", "-f", "raw", "-O", "qcow2", uri, copy)
    run("qemu-img", "compare", "-f", "raw", "-F", "qcow2", uri, copy)
    run("qemu-io", "-f", "qcow2", "-c", "write -P 7 1M 1M", copy)
    run("qemu-img", "convert", "-n", "-f", "qcow2", "-O", "raw", copy, uri)
    run("qemu-img", "compare", "-f", "raw", "-F", "qcow2", disk, copy)


def test_nbdcopy_copies_both_ways_over_several_connections(uri: str, disk: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.raw"
    run("nbdcopy", "--connections=4", "--requests=32", uri, out)
    assert out.read_bytes() == disk.read_bytes()
    content = os.urandom(SIZE_BYTES + 512)
    source = tmp_path / "in.raw"
    source.write_bytes(content)
    run("nbdcopy", "--connections=4", "--requests=64", "--flush", source, uri)
    assert disk.read_bytes() == content


def test_nbdcopy_brings_zeros_over_old_data(uri: str, disk: Path, tmp_path: Path) -> None:
    empty = tmp_path / "empty.raw"
    with empty.open("wb") as file:
        file.truncate(SIZE_BYTES + 512)
    run("nbdcopy", "--flush", empty, uri)
    assert disk.read_bytes() == bytes(SIZE_BYTES + 512)


def test_nbdinfo_tells_what_the_server_offers(uri: str) -> None:
    (export,) = json.loads(run("nbdinfo", "--json", uri))["exports"]
    assert export["export-name"] == "disk"
    assert export["description"] == "a file of the tests"
    assert export["export-size"] == SIZE_BYTES + 512
    sizes = [export[f"block_size_{which}"] for which in ("minimum", "preferred", "maximum")]
    assert sizes == [1, 4096, 32 << 20]
    for ability in ("can_flush", "can_fua", "can_trim", "can_zero", "can_multi_conn", "can_cache", "can_df"):
        assert export[ability] is True, ability
    assert export["is_read_only"] is False


def test_nbdinfo_lists_all_exports(uri: str) -> None:
    listed = json.loads(run("nbdinfo", "--json", "--list", uri.replace("/disk?", "/?")))["exports"]
    assert {export["export-name"]: export["is_read_only"] for export in listed} == {
        "disk": False,
        "frozen": True,
    }


def test_maps_tell_where_the_holes_are(uri: str, disk: Path) -> None:
    expected = [(0, 3 << 20, 3), (3 << 20, 5 << 20, 0), (8 << 20, SIZE_BYTES + 512 - (8 << 20), 3)]
    told = json.loads(run("nbdinfo", "--map", "--json", uri))
    assert [(part["offset"], part["length"], part["type"]) for part in told] == expected
    told = json.loads(run("qemu-img", "map", "--output=json", "-f", "raw", uri))
    # QEMU counts in sectors, and joins what is alike.
    assert [(part["start"], part["length"], part["zero"]) for part in told] == [
        (start, length, state == 3) for start, length, state in expected
    ]


def test_copies_of_a_sparse_disk_are_sparse(uri: str, disk: Path, tmp_path: Path) -> None:
    for number, command in enumerate([
        ("nbdcopy", uri), ("qemu-img", "convert", "-f", "raw", "-O", "raw", uri),
    ]):  # fmt: skip
        copy = tmp_path / f"copy-{number}"
        run(*command, copy)
        assert copy.read_bytes() == disk.read_bytes()
        assert copy.stat().st_blocks * 512 < 6 << 20


def test_what_was_just_written_is_never_told_to_be_a_hole(uri: str, disk: Path) -> None:
    qemu_io(uri, "write -P 1 0 64k", "write -P 2 20M 4k", "write -z -u 4M 1M")
    told = json.loads(run("nbdinfo", "--map", "--json", uri))
    content = disk.read_bytes()
    for part in told:
        if part["type"] == 3:
            assert not any(content[part["offset"] : part["offset"] + part["length"]])
    assert sum(part["length"] for part in told) == len(content)


@pytest.mark.parametrize(("block", "depth"), [("4k", 16), ("3333", 4), ("1m", 8)])
def test_fio_reads_back_what_it_wrote(uri: str, block: str, depth: int, tmp_path: Path) -> None:
    run(
        "fio", "--name=verify", "--ioengine=nbd", f"--uri={uri}", "--rw=randwrite", f"--bs={block}",
        f"--iodepth={depth}", "--size=16m", "--verify=crc32c", "--do_verify=1", "--fsync=64",
        "--verify_fatal=1", "--randseed=7", f"--aux-path={tmp_path}",
    )  # fmt: skip
