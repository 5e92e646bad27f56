"""`make demo` and `make demo-failover` do what they say."""

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

DEMO_SECONDS_MAX = 180.0
ROOT = Path(__file__).parents[2]


def demo(script: str, home: Path) -> str:
    """What it prints; fails where it does."""
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(home),
        "TMPDIR": "/tmp",
        "PYTHONPATH": str(ROOT),
    }
    done = run([sys.executable, str(ROOT / "deploy" / script)], environment, DEMO_SECONDS_MAX)
    print(done.out)
    done.must()
    return done.out


def test_the_demo_brings_the_disk_back(tmp_path: Path) -> None:
    said = demo("demo.py", tmp_path)
    for line in ("e2fsck clean", "RPO", "RTO", "The disk is back, byte for byte, at both points."):
        assert line in said


@pytest.mark.timeout(240)
def test_over_to_another_site_and_back(tmp_path: Path) -> None:
    said = demo("demo_failover.py", tmp_path)
    for line in (
        "site-b: all 16384 blocks are right",
        "site-a: all 16384 blocks are right",
        "files of the tree are right",
        "Over to B and back to A, byte for byte at every step.",
    ):
        assert line in said
