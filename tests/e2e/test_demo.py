"""`make demo` does what it says."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from tests.e2e.processes import run

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.needs("mke2fs"),
    pytest.mark.needs("e2fsck"),
    pytest.mark.needs("debugfs"),
]

ROOT = Path(__file__).parents[2]


def test_the_demo_brings_the_disk_back(tmp_path: Path) -> None:
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path),
        "TMPDIR": "/tmp",
        "PYTHONPATH": str(ROOT),
    }
    done = run([sys.executable, str(ROOT / "deploy/demo.py")], environment)
    print(done.out)
    done.must()
    for line in ("e2fsck clean", "RPO", "RTO", "The disk is back, byte for byte, at both points."):
        assert line in done.out
