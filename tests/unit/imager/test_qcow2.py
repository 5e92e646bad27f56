"""The empty image: QEMU's own tool takes it for whole, of whatever size."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from cdp_agent.imager.qcow2 import CLUSTER_BYTES, empty_image

SIZES = (512, 1 << 20, (1 << 40) + 512, 60 << 40)


@pytest.mark.parametrize("size_bytes", SIZES)
def test_it_is_small_and_whole_clusters(size_bytes: int) -> None:
    data = empty_image(size_bytes)
    assert len(data) % CLUSTER_BYTES == 0
    assert len(data) <= 32 * CLUSTER_BYTES


@pytest.mark.needs("qemu-img")
@pytest.mark.parametrize("size_bytes", SIZES)
def test_qemu_finds_nothing_wrong_with_it(tmp_path: Path, size_bytes: int) -> None:
    path = tmp_path / "image"
    path.write_bytes(empty_image(size_bytes))
    said = subprocess.run(
        ["qemu-img", "check", "-f", "qcow2", "--output", "json", path], capture_output=True, check=True
    )
    found = json.loads(said.stdout)
    assert (found["check-errors"], found.get("leaks", 0), found.get("corruptions", 0)) == (0, 0, 0)
    info = subprocess.run(["qemu-img", "info", "--output", "json", path], capture_output=True, check=True)
    assert json.loads(info.stdout)["virtual-size"] == size_bytes
