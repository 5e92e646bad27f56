"""What the groups stand on: a Ceph gateway, an agent that can be held, backlogs, commands that are weighed.

What is compared with what does not belong here.
"""

from __future__ import annotations

import contextlib
import json
import mmap
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.data import shuffled
from bench.table import Figure, ratios
from cdp_agent.streamer.control import call
from tests.e2e.site import BIN, MIB, Agent, Site, check_logs, new_site
from tests.nbd_client import NbdClient
from tests.servers.bucket import fresh_bucket
from tests.servers.ceph import missing_programs, running_ceph
from tests.servers.s3 import S3Server

OSD_BYTES = 64 << 30
"""Sparse; nine pairs of 2 GiB and their comparators fit."""
FLUSH_SECONDS_MAX = 1800.0
READY_SECONDS_MAX = 60.0
LEASE_SECONDS = 3600
"""The streamer is held for as long as a backlog takes to be written; its lease must not pass meanwhile."""
QUEUE = 4


@dataclass(frozen=True, slots=True)
class Spent:
    """What a command or a phase took."""

    seconds: float
    cpu_seconds: float

    def __str__(self) -> str:
        return f"{self.seconds:.2f} s ({self.cpu_seconds:.2f} s of CPU)"


def against(
    group: str, name: str, program: str, pairs: Sequence[tuple[Spent, Spent]], mib: int, note: str
) -> list[Figure]:
    """Rate and CPU of ours (first of each pair) to those of a small program that did as much, in MiB."""
    rates = ratios((theirs.seconds, ours.seconds) for ours, theirs in pairs)
    cpus = ratios((ours.cpu_seconds, theirs.cpu_seconds) for ours, theirs in pairs)
    ours_rate = tuple(mib / ours.seconds for ours, _ in pairs)
    ours_cpu = tuple(ours.cpu_seconds / (mib / 1024) for ours, _ in pairs)
    return [
        Figure(group, f"{name}: rate to {program}", "ratio", rates, at_least=0.8, note=note),
        Figure(group, f"{name}: CPU to the same", "ratio", cpus, at_most=1.4),
        Figure(group, f"{name}: rate", "MiB/s", ours_rate),
        Figure(group, f"{name}: CPU", "s/GiB", ours_cpu),
    ]


@contextmanager
def scratch() -> Iterator[Path]:
    """A directory for as long as it is needed; its name is short, because unix sockets lie in it."""
    with tempfile.TemporaryDirectory(prefix="bench-", ignore_cleanup_errors=True) as folder:
        yield Path(folder)


@contextmanager
def ceph() -> Iterator[S3Server]:
    """A gateway for one group; it ends with the group, and with us."""
    if missing := missing_programs():
        raise SystemExit(f"no Ceph without {', '.join(missing)}: deploy/system-packages.sh test")
    os.environ["CEPH_OSD_BYTES"] = str(OSD_BYTES)
    with scratch() as folder, running_ceph(folder / "c") as server:
        os.environ.update(server.environment())  # for what looks into the container by itself
        yield server


def new_address(server: S3Server) -> str:
    """A place in a fresh bucket."""
    with fresh_bucket(server) as bucket:
        return f"s3://{bucket.name}/x?endpoint={server.endpoint}&region={server.region}"


@contextmanager
def bench_site(
    volumes: Mapping[str, int], server: S3Server | None, journal_mib: int, lease_seconds: int = LEASE_SECONDS
) -> Iterator[Site]:
    """A site in a Ceph gateway, or (None) in a directory; initialised, its agent not started."""
    store = None if server is None else new_address(server)
    secrets = {} if server is None else server.environment()
    with new_site(volumes, store=store, secrets=secrets, with_key=True) as site:
        key = next(line for line in site.config.read_text().splitlines() if line.startswith("recipients"))
        lines = [
            f"domain: shop\nsite: a\nstore: {json.dumps(site.store)}",
            f"journal: {{directory: {site.journal}, limit: {max(256, journal_mib)}MiB}}",
            f"cut_every: 1s\nlease: {lease_seconds}s\n{key}\nvolumes:",
            *(f"  - {{name: {name}, path: {site.backing(name)}}}" for name in volumes),
        ]
        site.config.write_text("\n".join(lines) + "\n")
        site.init().must()
        yield site
        check_logs(site)
        for agent in site.agents:
            agent.kill_group()
        site.agents.clear()  # the logs of a run that went well are not shown


def started(site: Site) -> Agent:
    """The running agent, once all that there is is protected."""
    agent = site.start()
    protect(site, agent)
    return agent


def protect(site: Site, agent: Agent) -> None:
    """Wait until everything is protected, first copies included, from the agent's start on."""
    deadline = time.monotonic() + READY_SECONDS_MAX
    while True:
        assert agent.alive, agent.log()
        with contextlib.suppress(OSError):  # nobody listens yet
            answer = call(site.journal, {"command": "flush"}, FLUSH_SECONDS_MAX)
            if answer.get("ok"):
                return
            assert time.monotonic() < deadline, answer
        assert time.monotonic() < deadline, "the agent does not answer"
        time.sleep(0.05)


def flush(site: Site) -> None:
    """Wait until everything acknowledged is protected."""
    answer = call(site.journal, {"command": "flush"}, FLUSH_SECONDS_MAX)
    assert answer.get("ok"), answer


@contextmanager
def held(agent: Agent) -> Iterator[None]:
    """The streamer stands still; the splitter goes on."""
    pid = streamer_of(agent)
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def streamer_of(agent: Agent) -> int:
    """Its pid."""
    pid = agent.child("streamer")
    assert pid is not None, agent.log()
    return pid


def write_backlog(site: Site, volume: str, source: Path) -> None:
    """Write what `source` holds to the volume, in pieces of 1 MiB in some order, QUEUE of them in flight."""
    mib = source.stat().st_size // MIB
    with (
        source.open("rb") as file,
        mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as data,
        NbdClient(site.socket, volume) as client,
    ):
        write_all(client, ((at * MIB, data[at * MIB : (at + 1) * MIB]) for at in shuffled(mib, mib)))


def write_all(client: NbdClient, writes: Iterator[tuple[int, bytes]]) -> None:
    """Offsets and bytes, QUEUE of them in flight; durable at the end."""
    in_flight = 0
    try:
        for offset, data in writes:
            client.submit_write(offset, data)
            in_flight += 1
            if in_flight == QUEUE:
                assert client.wait_any().error == 0
                in_flight -= 1
        for _ in range(in_flight):
            assert client.wait_any().error == 0
        client.flush()
    except BaseException:
        client.abort()  # a goodbye would wait for what is under way
        raise


def cpu_seconds(pid: int) -> float:
    """What a running process used so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def weighed(argv: list[str], environment: Mapping[str, str], log: Path) -> Spent:
    """A whole command, its start and its children included. What it answers goes to `log`."""
    began = time.monotonic()
    errors = log.with_suffix(".err")
    with log.open("wb") as output, errors.open("wb") as complaints:
        process = subprocess.Popen(argv, env=dict(environment), stdout=output, stderr=complaints)
    try:
        _, status, usage = os.wait4(process.pid, 0)
    except BaseException:
        process.kill()
        process.wait()
        raise
    seconds = time.monotonic() - began
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0, f"{argv[:3]}: {process.returncode}\n{errors.read_text()[-2000:]}"
    return Spent(seconds, usage.ru_utime + usage.ru_stime)


def environment(site: Site) -> dict[str, str]:
    """That of commands which are measured: the store's credentials, and our packages."""
    return {**os.environ, **site.secrets, "PYTHONPATH": str(Path(__file__).parents[1])}


def restore_argv(site: Site, volume: str, target: Path) -> list[str]:
    """`rehydrate restore`."""
    argv = [str(BIN / "rehydrate"), "restore", site.store, "--volume", volume, "--target", str(target)]
    return [*argv, "--json", "--key-file", str(site.private_key)]


def baseline_argv(verb: str, file: Path, address: str, manifest: Path, threads: int) -> list[str]:
    """See bench/baseline.py."""
    words = [verb, str(file), address, str(manifest), str(threads)]
    return [sys.executable, "-m", "bench.baseline", *words]


def must_equal(one: Path, other: Path) -> None:
    """Byte for byte, holes read as zeros."""
    with one.open("rb") as first, other.open("rb") as second:
        while True:
            left, right = first.read(MIB), second.read(MIB)
            assert left == right, "what came back is not what was written"
            if not left:
                return


def sync_below(folder: Path) -> None:
    """Make every file below durable, so that its pages are clean: each run begins with none to be written."""
    for path in folder.rglob("*"):
        with contextlib.suppress(FileNotFoundError):  # a journal file that was recycled just now
            if path.is_file():
                fd = os.open(path, os.O_RDONLY)
                try:
                    os.fsync(fd)
                finally:
                    os.close(fd)
