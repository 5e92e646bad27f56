"""A guest that must notice nothing: fio, on a disk whose connection to the agent comes back by itself.

fio's own NBD client does not reconnect, and a VM's does: so fio talks to a qemu-storage-daemon that passes an
export of the agent on, as QEMU attaches it to a VM (`reconnect-delay`). When the agent is killed, requests
wait and are sent again; fio, which reads back and verifies what it wrote all the time, must see no error. The
oracle's workload (tests/oracle) sees every disconnection, and is told of every one; here nobody is.
"""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.nbd_client import NbdClient
from tests.waiting import wait_until

PROGRAMS = ("fio", "qemu-storage-daemon")

RECONNECT_SECONDS = 120
"""Requests wait so long for the agent before the guest would see an error."""
WRITES_PER_SECOND = 500
"""As much as proves something and leaves the machine to the others."""
PASS_SECONDS_MAX = 180.0
BRIDGE_SECONDS_MAX = 20.0


@contextmanager
def bridge(
    agent_socket: Path, export: str, own_socket: Path, reconnect_seconds: int = RECONNECT_SECONDS
) -> Iterator[None]:
    """What stands between a VM and the agent: `export` once more, at a socket that never goes away."""
    upstream = f"server.type=unix,server.path={agent_socket},export={export}"
    process = subprocess.Popen(
        [
            "qemu-storage-daemon",
            "--blockdev", f"driver=nbd,node-name=disk,{upstream},reconnect-delay={reconnect_seconds}",
            "--nbd-server", f"addr.type=unix,addr.path={own_socket}",
            "--export", f"type=nbd,id=export,node-name=disk,name={export},writable=on",
        ],
        stdin=subprocess.DEVNULL,
    )  # fmt: skip

    def is_open() -> bool:
        assert process.poll() is None, "the bridge ended"
        try:
            NbdClient(own_socket, export).close()
        except OSError:
            return False
        return True

    try:
        wait_until(is_open, "the bridge answers", BRIDGE_SECONDS_MAX)
        yield
        assert process.poll() is None, "the bridge ended"
    finally:
        process.kill()
        process.wait()


@dataclass(slots=True)
class Guest:
    """Passes of fio, each over the whole disk; the last one is verified on its own once more.

    `errors` is what fio complained of, to be read after `stop`.
    """

    socket: Path
    export: str
    size_bytes: int
    seed: int
    folder: Path
    errors: list[str] = field(default_factory=list)
    passes: int = 0
    _halt: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin to write."""
        self._thread = threading.Thread(target=self._run, name=f"guest-{self.export}", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Finish the pass, so that all of it is written and verified."""
        self._halt.set()
        assert self._thread is not None
        self._thread.join(PASS_SECONDS_MAX)
        assert not self._thread.is_alive(), "the guest hangs: a request was never answered"

    def verify(self, image: Path) -> None:
        """In a file is what the last pass wrote."""
        done = self._fio("--ioengine=psync", f"--filename={image}", "--verify_only")
        assert done.returncode == 0, done.stdout

    def _run(self) -> None:
        target = f"--uri=nbd+unix:///{self.export}?socket={self.socket}"
        paced = (f"--rate_iops={WRITES_PER_SECOND},{WRITES_PER_SECOND}", "--verify_backlog=64", "--fsync=32")
        while not self._halt.is_set() and not self.errors:
            self.passes += 1
            done = self._fio("--ioengine=nbd", target, "--iodepth=8", *paced)
            if done.returncode:
                self.errors.append(f"pass {self.passes}: {done.stdout}")

    def _fio(self, *options: str) -> subprocess.CompletedProcess[str]:
        """The pass that is due; with the same seed it writes, or expects, the same."""
        return subprocess.run(
            [
                "fio", "--name=guest", *options, "--rw=randwrite", "--bs=4k", f"--size={self.size_bytes}",
                "--verify=crc32c", "--verify_fatal=1", f"--randseed={self.seed + self.passes}",
                "--output-format=terse",
            ],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            timeout=PASS_SECONDS_MAX, cwd=self.folder, text=True, check=False,
        )  # fmt: skip
