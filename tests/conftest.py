"""What every test may ask for: servers, seeds, rounds; and what a machine cannot run, said plainly.

A test that needs a program names it with `@pytest.mark.needs("qemu-io")`; `ceph` needs Ceph's own, and
"tiny guest" is the real guest of tests/tiny_vm.py. Where one is missing, which only happens where
`make test` may not install it, the test is left out and the summary says so.
"""

from __future__ import annotations

import functools
import gc
import os
import shutil
import tempfile
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Protocol

import pytest
from hypothesis import settings

from tests import sharing
from tests.servers.ceph import missing_programs, running_ceph
from tests.servers.s3 import S3Server, forget_everything, running_moto
from tests.tiny_guest import make as tiny_guest

# The lowest layer first, so that the first failure is the nearest to its cause.
_ORDER = ("ceph", "e2e", "sim", "slow")

GARBAGE_BYTES_MAX = 64 << 20
"""What memory may grow by before garbage is looked for. Python looks by the number of objects that were made,
and a few hundred in a circle may hold every image of a test's disks: such tests left gigabytes behind."""

LEFT_OUT = "left_out"
NEED_CEPH = "need_ceph"
_left_out_key = pytest.StashKey[dict[str, int]]()
_crashed_key = pytest.StashKey[list[str]]()
_memory_key = pytest.StashKey[int]()
_folder_key = pytest.StashKey[tempfile.TemporaryDirectory[str]]()


class Worker(Protocol):
    """A worker of pytest-xdist, as who gives it tests sees it."""

    config: pytest.Config
    workerinput: dict[str, str]


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("cdp")
    group.addoption("--seeds", type=int, default=200, help="how many seeds the simulator runs (200)")
    group.addoption("--first-seed", type=int, default=0, help="the simulator's first seed (0)")
    group.addoption("--deep", action="store_true", help="enumerate all crash states of all short stories")
    group.addoption("--rounds", type=int, default=24, help="how many rounds the kill tests run (24)")


def pytest_configure(config: pytest.Config) -> None:
    # No test is about time: an example may take as long as a busy machine needs.
    settings.register_profile("untimed", deadline=None)
    settings.load_profile("untimed")
    config.stash[_left_out_key] = {}
    config.stash[_crashed_key] = []


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test with an argument `sim_seed` runs once for every seed that was asked for."""
    if "sim_seed" in metafunc.fixturenames:
        first: int = metafunc.config.getoption("--first-seed")
        metafunc.parametrize("sim_seed", range(first, first + metafunc.config.getoption("--seeds")))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what lacks a program, and put what is quick and low first."""
    runnable: list[pytest.Item] = []
    left_out: list[pytest.Item] = []
    for item in items:
        missing = _missing(item)
        (left_out if missing else runnable).append(item)
        for name in missing:
            counts = config.stash[_left_out_key]
            counts[name] = counts.get(name, 0) + 1
    if left_out:
        config.hook.pytest_deselected(items=left_out)
    items[:] = sorted(runnable, key=_rank)
    if _told_path(config):
        items.sort(key=lambda item: sharing.turn_of(_group(item)))


# Before pytest-xdist, which then tells that all is collected.
@pytest.hookimpl(tryfirst=True)
def pytest_collection_finish(session: pytest.Session) -> None:
    """What is imported and collected by now stays: no search for garbage need look at it again."""
    if path := _told_path(session.config):
        sharing.write_down(
            Path(path), (item.nodeid for item in session.items if _group(item) == sharing.CEPH)
        )
    gc.collect()
    gc.freeze()
    session.config.stash[_memory_key] = _memory_bytes()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Let go of what a test left behind, where that is much."""
    done = yield
    if _memory_bytes() > item.config.stash[_memory_key] + GARBAGE_BYTES_MAX:
        gc.collect()
        item.config.stash[_memory_key] = _memory_bytes()
    return done


def _memory_bytes() -> int:
    resident_pages = int(Path("/proc/self/statm").read_text().split()[1])
    return resident_pages * os.sysconf("SC_PAGE_SIZE")


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Worker) -> None:
    """Say to a worker where to write down what needs Ceph."""
    node.workerinput[NEED_CEPH] = str(_need_ceph_path(node.config)) if _has_groups(node.config) else ""


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> sharing.Groups | None:
    """Ours, for `--dist loadgroup`."""
    return sharing.Groups(config, log, _need_ceph_path(config)) if _has_groups(config) else None


def _has_groups(config: pytest.Config) -> bool:
    return bool(config.getvalue("dist") == "loadgroup")


def _told_path(config: pytest.Config) -> str:
    """Where a worker of such a run writes; "" in any other process."""
    told: dict[str, str] = getattr(config, "workerinput", {})
    return told.get(NEED_CEPH, "")


def _need_ceph_path(config: pytest.Config) -> Path:
    if _folder_key not in config.stash:
        folder = tempfile.TemporaryDirectory(prefix="cdp-groups-")
        config.add_cleanup(folder.cleanup)
        config.stash[_folder_key] = folder
    return Path(config.stash[_folder_key].name) / NEED_CEPH


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """Having left out everything that was asked for is no failure; having found nothing is one."""
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput[LEFT_OUT] = session.config.stash[_left_out_key]
    if exitstatus == pytest.ExitCode.NO_TESTS_COLLECTED and session.config.stash[_left_out_key]:
        session.exitstatus = pytest.ExitCode.OK
    nothing_failed = (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED)
    if session.config.stash[_crashed_key] and session.exitstatus in nothing_failed:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED  # it may have crashed before it ran any


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Worker, error: object) -> None:
    """What a worker left out, all left out: each collects everything. And whether it crashed."""
    if error:
        node.config.stash[_crashed_key].append(f"{node.workerinput['workerid']}: {error}")
    node.config.stash[_left_out_key].update(getattr(node, "workeroutput", {}).get(LEFT_OUT, {}))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    for crashed in config.stash[_crashed_key]:
        terminalreporter.line(f"a worker crashed, so this run has failed: {crashed}")
    counts = config.stash[_left_out_key]
    if not counts:
        return
    terminalreporter.section("left out on this machine")
    for name, count in sorted(counts.items()):
        terminalreporter.line(f"{count} for want of {name}")
    terminalreporter.line("As root on Debian or Ubuntu, `make test` installs it: deploy/system-packages.sh")


def _missing(item: pytest.Item) -> list[str]:
    missing = [name for mark in item.iter_markers("needs") for name in mark.args if not _is_here(name)]
    if item.get_closest_marker("ceph") and (programs := missing_programs()):
        missing.append(f"Ceph ({', '.join(programs)})")
    return missing


@functools.cache
def _is_here(name: str) -> bool:
    return tiny_guest.is_ready() if name == "tiny guest" else shutil.which(name) is not None


def _group(item: pytest.Item) -> str:
    if item.get_closest_marker("ceph"):
        return sharing.CEPH
    if "ceph" in getattr(item, "fixturenames", ()):
        raise pytest.UsageError(f"{item.nodeid} needs Ceph: mark it, or each worker starts one of its own")
    return item.path.stem


def _rank(item: pytest.Item) -> int:
    marks = [index for index, name in enumerate(reversed(_ORDER), 1) if item.get_closest_marker(name)]
    return max(marks, default=0)


@pytest.fixture
def rounds(request: pytest.FixtureRequest) -> int:
    """How many rounds the kill tests run, all together."""
    count: int = request.config.getoption("--rounds")
    return count


@pytest.fixture(scope="session")
def _moto() -> Iterator[S3Server]:
    with running_moto() as server:
        yield server


@pytest.fixture
def moto_server(_moto: S3Server) -> S3Server:
    """An S3 server that holds nothing yet (moto, in this process)."""
    forget_everything(_moto)
    return _moto


@pytest.fixture(scope="session")
def ceph(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """The real Ceph RADOS gateway, one for the whole run: make a bucket of your own in it."""
    directory: Path = tmp_path_factory.mktemp("ceph") / "cluster"
    with running_ceph(directory) as server:
        yield server
