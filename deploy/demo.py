"""`make demo`: the main job on the embedded default store, on the screen.

An ext4 disk is protected into a directory, real files are written through the agent, the site is killed
with SIGKILL and deleted, and the disk is rebuilt elsewhere from the container alone: at the latest
protected cut and at an earlier, named one. Both are checked with e2fsck and compared file by file. What is
printed was measured in this run.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tests.nbd_client import NbdClient

DISK_BYTES = 192 << 20
BLOCK_BYTES = 4096
COMMAND_SECONDS_MAX = 120.0
OPEN_SECONDS_MAX = 30.0
COPY_SECONDS_MAX = 120.0
FIRST_FILES = 60
SECOND_FILES = 60
WRITE_ON_SECONDS = 3.0
VOLUME = "db01"
BIN = Path(sys.executable).parent


@dataclass(frozen=True, slots=True)
class Acknowledged:
    """One file whose fsync returned: its content's SHA-256 and when."""

    digest: str
    at_ns: int


@dataclass(slots=True)
class Site:
    """Everything of the protected site lies below `root`, so that it can be lost at once."""

    root: Path
    container: Path
    passphrase: Path
    files: dict[str, Acknowledged] = field(default_factory=dict)
    marked: dict[str, Acknowledged] = field(default_factory=dict)

    @property
    def config(self) -> Path:
        """The agent's configuration."""
        return self.root / "agent.yaml"

    @property
    def socket(self) -> Path:
        """Where the exports listen."""
        return self.root / "journal" / "nbd.sock"


def title(text: str) -> None:
    """A step of the story."""
    print(f"\n\033[1m== {text}\033[0m" if sys.stdout.isatty() else f"\n== {text}", flush=True)


def say(text: str) -> None:
    """A fact of the story."""
    print(f"   {text}", flush=True)


def run(*argv: str | Path, ok: tuple[int, ...] = (0,), quiet: bool = True) -> str:
    """Run a command to its end; show it, and stop the demo with all it printed where it fails."""
    words = [str(word) for word in argv]
    if not quiet:
        say("$ " + " ".join(Path(words[0]).name if word is words[0] else word for word in words))
    done = subprocess.run(words, capture_output=True, text=True, timeout=COMMAND_SECONDS_MAX, check=False)
    if done.returncode not in ok:
        raise SystemExit(f"{' '.join(words)}: exit code {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout


def wait_for(condition: Callable[[], bool], what: str, seconds: float) -> None:
    """Look until it is so; stop the demo where it does not come."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise SystemExit(f"waited {seconds:g} s in vain for {what}")
        time.sleep(0.05)


def make_site(base: Path) -> Site:
    """A disk with an empty ext4, a configuration, a passphrase, and an initialised domain."""
    site = Site(base / "site-a", base / "container", base / "passphrase")
    site.root.mkdir()
    site.container.mkdir()
    site.passphrase.write_text("correct horse battery staple\n")
    site.passphrase.chmod(0o600)
    disk = site.root / "db01.raw"
    with disk.open("wb") as file:
        file.truncate(DISK_BYTES)
    run("mke2fs", "-q", "-F", "-t", "ext4", "-b", str(BLOCK_BYTES), disk)
    site.config.write_text(
        f"domain: shop\nsite: site-a\nstore: {site.container}\n"
        f"journal:\n  directory: {site.root}/journal\n  limit: 1GiB\n"
        f"volumes:\n  - name: {VOLUME}\n    path: {disk}\n"
    )
    run(
        BIN / "cdp-agent", "init", "--config", site.config, "--passphrase-file", site.passphrase,
        "--kit", base / "kit.txt", quiet=False,
    )  # fmt: skip
    return site


@contextlib.contextmanager
def running_agent(site: Site) -> Iterator[subprocess.Popen[bytes]]:
    """The agent in a process group of its own; whatever is left of it dies with the block."""
    log = (site.root / "agent.log").open("wb")
    agent = subprocess.Popen(
        [BIN / "cdp-agent", "run", "--config", site.config], stdout=log, stderr=log, start_new_session=True
    )
    try:
        wait_for(lambda: exports_open(site, agent), "the exports to open", OPEN_SECONDS_MAX)
        yield agent
    finally:
        kill_site(agent)
        log.close()


def exports_open(site: Site, agent: subprocess.Popen[bytes]) -> bool:
    """Whether a client would find the export; stops the demo where the agent ended."""
    if agent.poll() is not None:
        raise SystemExit("the agent ended:\n" + (site.root / "agent.log").read_text())
    try:
        NbdClient(site.socket, VOLUME).close()
    except OSError:
        return False
    return True


def kill_site(agent: subprocess.Popen[bytes]) -> None:
    """SIGKILL to supervisor, splitter and streamer at once: no chance to tidy up."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(agent.pid, signal.SIGKILL)
    agent.wait()


# --- writing: through a mounted file system, or through an NBD client where nothing can be mounted ----------


def content_of(name: str, rng: random.Random) -> bytes:
    """Half text, half noise, 1 to 200 KiB."""
    text = f"{name}: every write counts\n".encode() * rng.randint(20, 4000)
    return text + rng.randbytes(rng.randint(500, 100_000))


def write_files(site: Site, top: Path, prefix: str, count: int, rng: random.Random) -> None:
    """Write files and fsync each; only then does it count."""
    for number in range(count):
        name = f"{prefix}/{number % 7}/file-{number:04}"
        data = content_of(name, rng)
        path = top / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        site.files[name] = Acknowledged(hashlib.sha256(data).hexdigest(), time.time_ns())


@contextlib.contextmanager
def mounted(site: Site, base: Path) -> Iterator[Path]:
    """The export as a mounted ext4: NBD -> FUSE -> loop device -> kernel."""
    fuse, top = base / "nbd", base / "mnt"
    fuse.mkdir()
    top.mkdir()
    bridge = subprocess.Popen(
        ["nbdfuse", str(fuse), f"nbd+unix:///{VOLUME}?socket={site.socket}"], stderr=subprocess.DEVNULL
    )
    try:
        wait_for((fuse / "nbd").exists, "nbdfuse", OPEN_SECONDS_MAX)
        run("mount", "-o", "loop", fuse / "nbd", top)
        try:
            yield top
        finally:
            subprocess.run(["umount", "-l", top], capture_output=True, check=False)
    finally:
        subprocess.run(["fusermount3", "-uz", fuse], capture_output=True, check=False)
        bridge.kill()
        bridge.wait()


def story_mounted(site: Site, base: Path, agent: subprocess.Popen[bytes], rng: random.Random) -> int:
    """Write, mark, write on, and be killed in the middle of it; gives the time of death."""
    with mounted(site, base) as top:
        write_files(site, top, "first", FIRST_FILES, rng)
        run("sync", "-f", top)
        mark(site)
        for name in [name for name in site.files if name.endswith("3")]:
            (top / name).unlink()
            del site.files[name]
        write_files(site, top, "second", SECOND_FILES, rng)
        say(f"writing on, each file with fsync, until the site dies {WRITE_ON_SECONDS:g} s from now ...")
        stop = threading.Event()
        writer = threading.Thread(target=write_until, args=(site, top, rng, stop))
        writer.start()
        time.sleep(WRITE_ON_SECONDS)
        kill_site(agent)
        died_ns = time.time_ns()
        stop.set()
        writer.join(COMMAND_SECONDS_MAX)
        return died_ns


def write_until(site: Site, top: Path, rng: random.Random, stop: threading.Event) -> None:
    """Go on writing; the first error is the site's death."""
    number = 0
    while not stop.is_set():
        try:
            write_files(site, top, f"third-{number:04}", 1, rng)
        except OSError:
            return
        number += 1


def story_unmounted(site: Site, base: Path, agent: subprocess.Popen[bytes], rng: random.Random) -> int:
    """The same story without root or FUSE: images made aside are written through an NBD client."""
    tree = base / "tree"
    tree.mkdir()
    with NbdClient(site.socket, VOLUME) as client:
        write_files(site, tree, "first", FIRST_FILES, rng)
        push_image(client, image_of(tree, base))
        mark(site)
        for name in [name for name in site.files if name.endswith("3")]:
            (tree / name).unlink()
            del site.files[name]
        write_files(site, tree, "second", SECOND_FILES, rng)
        push_image(client, image_of(tree, base))
    run(BIN / "cdp-agent", "flush", "--config", site.config, quiet=False)
    # What a flush answered for is due at every later cut, whenever that was taken.
    site.files = {name: Acknowledged(seen.digest, 0) for name, seen in site.files.items()}
    kill_site(agent)
    return time.time_ns()


def image_of(tree: Path, base: Path) -> Path:
    """An ext4 image with the tree in it, made without mounting anything."""
    image = base / "tree.raw"
    with image.open("wb") as file:
        file.truncate(DISK_BYTES)
    run("mke2fs", "-q", "-F", "-t", "ext4", "-b", str(BLOCK_BYTES), "-d", tree, image)
    return image


def push_image(client: NbdClient, image: Path) -> None:
    """Write every block that differs, as a file system would."""
    with image.open("rb") as file:
        for offset in range(0, DISK_BYTES, BLOCK_BYTES):
            block = file.read(BLOCK_BYTES)
            if block != client.read(offset, BLOCK_BYTES):
                client.write(offset, block)
    client.flush()


def is_on_target(site: Site) -> bool:
    """Whether `status` has nothing to complain of; before the first copy is whole no point can be marked."""
    status = [str(BIN / "cdp-agent"), "status", "--config", str(site.config)]
    return (
        subprocess.run(status, capture_output=True, timeout=COMMAND_SECONDS_MAX, check=False).returncode == 0
    )


def mark(site: Site) -> None:
    """Name this instant, remember what it holds."""
    wait_for(
        lambda: is_on_target(site), "the first copy of the disk to be in the container", COPY_SECONDS_MAX
    )
    run(BIN / "cdp-agent", "marker", "before-the-upgrade", "--config", site.config, quiet=False)
    site.marked = dict(site.files)


# --- at the other site --------------------------------------------------------------------------------------


def rehydrate_disk(site: Site, target: Path, *choice: str) -> dict[str, object]:
    """Restore one volume; gives what the command reports."""
    text = run(
        BIN / "rehydrate", "restore", site.container, "--passphrase-file", site.passphrase,
        "--volume", VOLUME, "--target", target, "--json", *choice, quiet=False,
    )  # fmt: skip
    report: dict[str, object] = json.loads(text)
    return report


def check_disk(disk: Path, expected: dict[str, Acknowledged], work: Path) -> int:
    """e2fsck, then every expected file compared; gives how many of them are there and equal."""
    run("e2fsck", "-fp", disk, ok=(0, 1))
    run("e2fsck", "-fn", disk)
    out = work / f"{disk.stem}-files"
    out.mkdir()
    run("debugfs", "-R", f"rdump / {out}", disk)
    good = 0
    for name, seen in expected.items():
        path = out / name
        if path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() == seen.digest:
            good += 1
    return good


def can_mount() -> bool:
    """Whether a disk can be mounted here without /dev/nbd."""
    return os.geteuid() == 0 and Path("/dev/fuse").exists() and shutil.which("nbdfuse") is not None


def recover(site: Site, base: Path, died_ns: int) -> None:
    """The worst day: another path, nothing but container and passphrase."""
    title("Site B: rehydrate from the container alone")
    recovery = base / "site-b"
    recovery.mkdir()
    began = time.monotonic()
    report = rehydrate_disk(site, recovery / "latest.raw")
    rto_seconds = time.monotonic() - began
    cut_ns = int(str(report["cut_time_ns"]))
    due = {name: seen for name, seen in site.files.items() if seen.at_ns < cut_ns}
    good = check_disk(recovery / "latest.raw", due, recovery)
    say(f"latest cut {report['point']}: e2fsck clean, {good} of {len(due)} files due at it compare equal")
    rehydrate_disk(site, recovery / "marked.raw", "--marker", "before-the-upgrade")
    marked = check_disk(recovery / "marked.raw", site.marked, recovery)
    say(f"marker before-the-upgrade: e2fsck clean, {marked} of {len(site.marked)} files compare equal")
    lost = sum(1 for seen in site.files.values() if seen.at_ns >= cut_ns)
    title("Measured")
    say(f"RPO  {max(0, died_ns - cut_ns) / 1e9:6.2f} s   from the restored cut to the site's death; "
        f"files fsynced in between: {lost}")  # fmt: skip
    say(
        f"RTO  {rto_seconds:6.2f} s   for a disk of {DISK_BYTES >> 20} MiB, "
        f"{report['fetched_bytes']} bytes fetched"
    )
    if not due or good != len(due) or marked != len(site.marked):
        raise SystemExit("FAILED: what came back is not what was protected")
    print("\nThe disk is back, byte for byte, at both points.", flush=True)


def main() -> None:
    """The whole story, in a temporary folder that is removed afterwards."""
    rng = random.Random(2026)
    with tempfile.TemporaryDirectory(prefix="cdp-demo-") as folder:
        base = Path(folder)
        title("Site A: an ext4 disk, a domain, a container in a directory")
        site = make_site(base)
        with running_agent(site) as agent:
            if can_mount():
                title("A workload of real files on the mounted disk (ext4 on loop on nbdfuse on the agent)")
                died_ns = story_mounted(site, base, agent, rng)
            else:
                title("A workload of real files; no root or FUSE here, so an NBD client writes the blocks")
                died_ns = story_unmounted(site, base, agent, rng)
            say(f"site A killed with SIGKILL; {len(site.files)} files had been fsynced by then")
        shutil.rmtree(site.root)
        say("everything of site A deleted")
        recover(site, base, died_ns)


if __name__ == "__main__":
    main()
