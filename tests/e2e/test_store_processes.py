"""The directory store between processes: one winner of many, and nothing half-written after kill -9."""

from __future__ import annotations

import hashlib
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from cdp_container.clock import SystemClock
from cdp_container.store.directory import DirectoryStore
from tests.waiting import wait_until

pytestmark = pytest.mark.e2e

ROOT = Path(__file__).parents[2]
OBJECT_BYTES = 4 * 1024 * 1024
DEADLINE_SECONDS = 60

# Each writes "go" to its output when it is ready and begins when its input is closed.
CREATE = """
import sys
from cdp_container.errors import PreconditionFailed
from cdp_container.store.directory import DirectoryStore
store, name = DirectoryStore(sys.argv[1]), sys.argv[2]
print("go", flush=True); sys.stdin.read()
for number in range(50):
    try:
        store.put_new(f"domain/epochs/{number:04}", name.encode())
        print(number, flush=True)
    except PreconditionFailed:
        pass
"""

SWAP = """
import sys
from cdp_container.errors import PreconditionFailed
from cdp_container.store.directory import DirectoryStore
store = DirectoryStore(sys.argv[1])
print("go", flush=True); sys.stdin.read()
done = 0
while done < 50:
    blob = store.get("domain/owner")
    try:
        store.put_if("domain/owner", b"%d" % (int(blob.data) + 1), blob.found.tag)
        done += 1
    except PreconditionFailed:
        pass
"""

WRITE_FOR_EVER = """
import hashlib, os, sys
from cdp_container.store.directory import DirectoryStore
store, round_ = DirectoryStore(sys.argv[1]), sys.argv[2]
print("go", flush=True); sys.stdin.read()
tag, number = store.put_new(f"owner/{round_}", b"0" * 64), 0
while True:
    data = os.urandom(int(sys.argv[3]))
    data += hashlib.sha256(data).digest()
    store.put_new(f"log/{round_}/{number:06}", data)
    tag = store.put_if(f"owner/{round_}", hashlib.sha256(data).hexdigest().encode(), tag)
    print(number, flush=True)
    number += 1
"""


def start(code: str, *arguments: str) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "go\n"
    return process


def begin(processes: list[subprocess.Popen[str]]) -> None:
    for process in processes:
        assert process.stdin is not None
        process.stdin.close()


def end(process: subprocess.Popen[str]) -> list[str]:
    assert process.stdout is not None
    with process.stdout:
        lines = process.stdout.read().splitlines()
    process.wait(DEADLINE_SECONDS)
    return lines


def test_of_many_processes_one_creates(tmp_path: Path) -> None:
    processes = [start(CREATE, str(tmp_path), f"p{number}") for number in range(4)]
    begin(processes)
    won = {name: end(process) for name, process in zip(("p0", "p1", "p2", "p3"), processes, strict=True)}
    assert sorted(int(number) for numbers in won.values() for number in numbers) == list(range(50))
    store = DirectoryStore(tmp_path)
    for name, numbers in won.items():
        for number in numbers:
            assert store.get(f"domain/epochs/{int(number):04}").data == name.encode()


def test_no_processs_swap_is_lost(tmp_path: Path) -> None:
    DirectoryStore(tmp_path).put_new("domain/owner", b"0")
    processes = [start(SWAP, str(tmp_path)) for _ in range(4)]
    begin(processes)
    for process in processes:
        end(process)
        assert process.returncode == 0
    assert DirectoryStore(tmp_path).get("domain/owner").data == b"200"


def test_kill_9_leaves_no_half_object(tmp_path: Path) -> None:
    """At any moment: what was acknowledged is there and whole, what shows is whole, leftovers go away."""
    leftovers_seen = 0
    for round_ in range(8):
        process = start(WRITE_FOR_EVER, str(tmp_path), f"{round_:04}", str(OBJECT_BYTES))
        begin([process])
        objects = tmp_path / "log" / f"{round_:04}" / f"{round_:06}"
        wait_until(objects.exists, f"{round_ + 1} objects are there", DEADLINE_SECONDS)
        wait_until(lambda: any((tmp_path / ".tmp").iterdir()), "a write is under way", DEADLINE_SECONDS)
        process.send_signal(signal.SIGKILL)
        acknowledged = [int(line) for line in end(process)]
        leftovers_seen += len(list((tmp_path / ".tmp").iterdir()))
        _check_whole(tmp_path, f"{round_:04}", acknowledged)
    assert leftovers_seen > 0, "no kill met a write: the test has lost its bite"
    DirectoryStore(tmp_path, SystemClock()).put_new("last", b"x")
    assert list((tmp_path / ".tmp").iterdir()) == []


def _check_whole(root: Path, round_: str, acknowledged: list[int]) -> None:
    store = DirectoryStore(root)
    keys = [found.key for found in store.list(f"log/{round_}/")]
    assert keys[: len(acknowledged)] == [f"log/{round_}/{number:06}" for number in acknowledged]
    assert len(keys) <= len(acknowledged) + 1
    digests = ["0" * 64]
    for key in keys:
        data = store.get(key).data
        assert len(data) == OBJECT_BYTES + 32
        assert hashlib.sha256(data[:-32]).digest() == data[-32:]
        digests.append(hashlib.sha256(data).hexdigest())
        store.delete(key)
    assert store.get(f"owner/{round_}").data.decode() in digests[len(acknowledged) :]
