"""`make demo-failover`: a disk and a tree are protected at A, failed over to B, written there, and come back.

Both are compared each time. The store is a directory, the sites are folders that share nothing else, all
processes are the real ones. What is printed was measured in this run; the first block that differs from
what was acknowledged ends it.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from deploy.demo import BIN, COMMAND_SECONDS_MAX, OPEN_SECONDS_MAX, run, say, title, wait_for
from deploy.demo_tree import Files
from tests.nbd_client import NbdClient

DISK_BYTES = 64 << 20
BLOCK_BYTES = 4096
READ_BYTES = 1 << 20
WRITES = 400
LATE_WRITES = 40
FILE_CHANGES = 150
LEASE_SECONDS = 5
VOLUME = "db01"
TREE = "files"


@dataclass(slots=True)
class Disk:
    """What guests may expect of the disk: each block's newest flushed content, and what came behind it.

    `files`: what the tree beside it is to hold; nothing of that is ever behind the last flush.
    """

    flushed: dict[int, bytes] = field(default_factory=dict)
    late: dict[int, bytes] = field(default_factory=dict)
    files: Files = field(default_factory=Files)

    def flush(self) -> None:
        """Everything that was written is due from now on."""
        self.flushed.update(self.late)
        self.late.clear()

    def check(self, number: int, found: bytes) -> None:
        """Stops the demo where a block holds neither what was flushed nor what was written after it."""
        due = self.flushed.get(number, bytes(BLOCK_BYTES))
        if found not in (due, self.late.get(number, due)):
            raise SystemExit(f"FAILED: block {number} is not what was acknowledged")


@dataclass(frozen=True, slots=True)
class Site:
    """A folder with everything of one site; the container and the passphrase are all that both have."""

    name: str
    root: Path

    @property
    def journal(self) -> Path:
        """The agent's journal directory."""
        return self.root / "journal"

    @property
    def socket(self) -> Path:
        """Where its exports listen."""
        return self.journal / "nbd.sock"

    @property
    def tree(self) -> Path:
        """The directory tree that is protected beside the disk."""
        return self.root / TREE

    @property
    def config(self) -> Path:
        """The agent's configuration."""
        return self.root / "agent.yaml"


def make_site_a(base: Path, container: Path, passphrase: Path) -> Site:
    """An empty disk, an empty tree, a configuration, an initialised domain."""
    site = Site("site-a", base / "site-a")
    site.tree.mkdir(parents=True)
    with (site.root / "db01.raw").open("wb") as file:
        file.truncate(DISK_BYTES)
    site.config.write_text(
        f"domain: shop\nsite: {site.name}\nstore: {container}\nlease: {LEASE_SECONDS}s\n"
        f"journal:\n  directory: {site.journal}\n  limit: 1GiB\n"
        f"volumes:\n  - name: {VOLUME}\n    path: {site.root}/db01.raw\n"
        f"trees:\n  - name: {TREE}\n    path: {site.tree}\n"
    )
    run(
        BIN / "cdp-agent", "init", "--config", site.config, "--passphrase-file", passphrase,
        "--kit", base / "kit.txt", quiet=False,
    )  # fmt: skip
    return site


def start_agent(site: Site) -> None:
    """As a service would: a session of its own, its log beside the journal."""
    log = (site.root / "agent.log").open("wb")
    subprocess.Popen(
        [BIN / "cdp-agent", "run", "--config", site.config], stdout=log, stderr=log, start_new_session=True
    )
    log.close()
    wait_for(lambda: serves(site), f"the exports of {site.name}", OPEN_SECONDS_MAX)


def serves(site: Site) -> bool:
    """Whether a client finds the export."""
    try:
        NbdClient(site.socket, VOLUME).close()
    except OSError:
        return False
    return True


def kill_agent(site: Site) -> None:
    """SIGKILL to the whole group of the agent that holds the journal directory's lock."""
    with contextlib.suppress(OSError, ValueError):
        os.killpg(int((site.journal / "lock").read_text()), signal.SIGKILL)
    wait_for(lambda: not serves(site), f"the end of {site.name}", OPEN_SECONDS_MAX)


def write(site: Site, disk: Disk, rng: random.Random, count: int) -> None:
    """Random blocks through the export, each acknowledged."""
    with NbdClient(site.socket, VOLUME) as client:
        for _ in range(count):
            number, data = rng.randrange(DISK_BYTES // BLOCK_BYTES), rng.randbytes(BLOCK_BYTES)
            disk.late[number] = data
            client.write(number * BLOCK_BYTES, data)


def write_all(site: Site, disk: Disk, rng: random.Random) -> None:
    """Into the disk and the tree; protected when this returns."""
    write(site, disk, rng, WRITES)
    disk.files.change(site.tree, rng, FILE_CHANGES)
    flush(site, disk)


def flush(site: Site, disk: Disk) -> None:
    """Everything written is protected when this returns."""
    run(BIN / "cdp-agent", "flush", "--config", site.config, quiet=False)
    disk.flush()


def compare(site: Site, disk: Disk) -> None:
    """Every block of the export, every file of the tree; what the disk holds of late writes is due now."""
    with NbdClient(site.socket, VOLUME) as client:
        held = b"".join(client.read(start, READ_BYTES) for start in range(0, DISK_BYTES, READ_BYTES))
        for number in range(DISK_BYTES // BLOCK_BYTES):
            found = held[number * BLOCK_BYTES : (number + 1) * BLOCK_BYTES]
            disk.check(number, found)
            if number in disk.late and found == disk.late[number]:
                disk.flushed[number] = found
    kept = sum(disk.flushed.get(number) == data for number, data in disk.late.items())
    late, disk.late = len(disk.late), {}
    say(
        f"{site.name}: all {DISK_BYTES // BLOCK_BYTES} blocks are right"
        + (f"; of {late} blocks written behind the last flush {kept} came along" if late else "")
    )
    say(f"{site.name}: {disk.files.check(site.tree)}")


def fail_over(container: Path, passphrase: Path, b: Site) -> None:
    """The disaster: take the domain over, restore it, protect from here."""
    began = time.monotonic()
    report = json.loads(
        run(
            BIN / "rehydrate", "failover", container, "--site", b.name, "--journal", b.journal,
            "--to", b.root, "--config", b.config, "--passphrase-file", passphrase, "--reason", "demo",
            "--json", quiet=False,
        )
    )  # fmt: skip
    say(f"{time.monotonic() - began:.1f} s from the command to open exports; the lease is {LEASE_SECONDS} s")
    show(report)


def fail_back(container: Path, passphrase: Path, a: Site, b: Site) -> None:
    """Site A is back: it catches up beside the running site B, then B hands over."""
    words: list[str | Path] = [
        BIN / "rehydrate", "failback", container, "--journal", a.journal, "--config", a.config,
        "--passphrase-file", passphrase, "--json",
    ]  # fmt: skip
    say("$ rehydrate " + " ".join(str(word) for word in words[1:]) + " &")
    returning = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
    try:
        run(BIN / "cdp-agent", "release", "--to", a.name, "--config", b.config, quiet=False)
        out, _ = returning.communicate(timeout=COMMAND_SECONDS_MAX)
    finally:
        returning.kill()
        returning.wait()
    if returning.returncode != 0:
        raise SystemExit(f"rehydrate failback: exit code {returning.returncode}\n{out}")
    show(json.loads(out))


def show(report: dict[str, object]) -> None:
    """What a command measured."""
    for name, value in report.items():
        if isinstance(value, int | float | str) and name.endswith(("_seconds", "_bytes", "epoch", "ratio")):
            say(f"{name}: {value}")


def check_container(container: Path, passphrase: Path, disk: Disk, target: Path) -> None:
    """The newest point of the container, restored once more and compared."""
    run(
        BIN / "rehydrate", "restore", container, "--passphrase-file", passphrase, "--volume", VOLUME,
        "--target", target, quiet=False,
    )  # fmt: skip
    tree = target.with_suffix(".tree")
    run(
        BIN / "rehydrate", "restore", container, "--passphrase-file", passphrase, "--tree", f"{TREE}={tree}",
        quiet=False,
    )  # fmt: skip
    with target.open("rb") as file:
        for number in range(DISK_BYTES // BLOCK_BYTES):
            disk.check(number, file.read(BLOCK_BYTES))
    say(f"restored from the container alone: byte for byte; {disk.files.check(tree)}")


@contextlib.contextmanager
def cleaning_up(*sites: Site) -> Iterator[None]:
    """No agent outlives the demo."""
    try:
        yield
    finally:
        for site in sites:
            kill_agent(site)


def main() -> None:
    """The whole story, in a temporary folder that is removed afterwards."""
    rng, disk = random.Random(2026), Disk()
    with tempfile.TemporaryDirectory(prefix="cdp-demo-") as folder:
        base = Path(folder)
        container, passphrase = base / "container", base / "passphrase"
        container.mkdir()
        passphrase.write_text("correct horse battery staple\n")
        passphrase.chmod(0o600)
        title("Site A protects a disk and a directory tree")
        a, b = make_site_a(base, container, passphrase), Site("site-b", base / "site-b")
        b.root.mkdir()
        with cleaning_up(a, b):
            story(a, b, container, passphrase, disk, rng)
            check_container(container, passphrase, disk, base / "check.raw")
            print(run(BIN / "rehydrate", "history", container, "--passphrase-file", passphrase, quiet=False))
    print("Over to B and back to A, byte for byte at every step.", flush=True)


def story(a: Site, b: Site, container: Path, passphrase: Path, disk: Disk, rng: random.Random) -> None:
    """Protect, lose A, go on at B, come back to A."""
    start_agent(a)
    write_all(a, disk, rng)
    write(a, disk, rng, LATE_WRITES)
    kill_agent(a)
    say(f"site A is down; {LATE_WRITES} blocks were written behind its last flush")
    title("Site B takes over")
    fail_over(container, passphrase, b)
    compare(b, disk)
    write_all(b, disk, rng)
    title("Site A is back: it catches up, B hands over")
    fail_back(container, passphrase, a, b)
    compare(a, disk)
    write_all(a, disk, rng)


if __name__ == "__main__":
    main()
