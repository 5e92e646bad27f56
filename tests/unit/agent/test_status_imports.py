"""`status` is asked often, also by monitoring: it imports nothing slow that it does not need."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from cdp_agent.cli.init import initialise
from cdp_container.clock import SystemClock
from cdp_container.domain.settings import load_settings
from cdp_container.format.keyblock import ScryptCost
from cdp_container.store.address import open_store

HEAVY = frozenset({"numpy", "apscheduler", "asyncio", "http.client", "boto3", "obstore"})
SHOW = """
import sys
from pathlib import Path
from cdp_agent.cli.app import app
from cdp_agent.cli.status import show_status
show_status(Path(sys.argv[1]), as_json=True)
print("imported:", *sorted(sys.modules), file=sys.stderr)
"""


@pytest.mark.parametrize("has_schedule", [False, True])
def test_status_imports_nothing_that_it_does_not_need(tmp_path: Path, has_schedule: bool) -> None:
    (tmp_path / "a.raw").write_bytes(bytes(1 << 20))
    config = tmp_path / "agent.yaml"
    config.write_text(
        f"domain: shop\nsite: a\nstore: {tmp_path}/store\nencryption: none\n"
        f"journal: {{directory: {tmp_path}/journal}}\nvolumes: [{{name: a, path: {tmp_path}/a.raw}}]\n"
        "alerts: {command: [/bin/true]}\nretention: {every: 1d}\n"
        + ("limits: {schedule: [{cron: 0 8 * * mon-fri, bytes_per_second: 5MB}]}\n" if has_schedule else "")
    )
    (tmp_path / "store").mkdir()
    clock, settings = SystemClock(), load_settings(config)
    initialise(settings, open_store(settings.store, clock), lambda: "", clock, os.urandom, ScryptCost(n=16))
    words = [sys.executable, "-c", SHOW, str(config)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    imported = {
        word for line in done.stderr.splitlines() if line.startswith("imported:") for word in line.split()
    }
    assert "cdp_agent.cli.status" in imported, done.stderr
    assert '"domain": "shop"' in done.stdout
    needed = {"apscheduler", "asyncio"} if has_schedule else set()
    assert imported & HEAVY == needed
