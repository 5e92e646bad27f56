"""Workers share tests by groups: pytest-xdist gives each group to one of them, whatever version it is."""

from __future__ import annotations

import re
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest

from tests.sharing import CEPH, LONGEST_FIRST, group_of, turn_of

ROOT = Path(__file__).parents[2]
TWO_MODULES = ("tests/unit/oracle/test_above.py", "tests/unit/oracle/test_history.py")
SECONDS_MAX = 100.0


def test_what_needs_ceph_is_one_group_and_each_other_module_another() -> None:
    need_ceph = frozenset(("tests/e2e/test_a.py::test_x", "tests/e2e/test_b.py::test_y[1]"))
    assert group_of("tests/e2e/test_a.py::test_x", need_ceph) == CEPH
    assert group_of("tests/e2e/test_b.py::test_y[1]", need_ceph) == CEPH
    assert group_of("tests/e2e/test_a.py::test_z", need_ceph) == "tests/e2e/test_a.py"
    assert group_of("tests/e2e/test_b.py::test_y[2::]", need_ceph) == "tests/e2e/test_b.py"


def test_the_longest_come_first_and_are_there() -> None:
    assert turn_of(CEPH) == 0
    assert turn_of("test_a") > max(map(turn_of, LONGEST_FIRST))
    missing = [name for name in LONGEST_FIRST[1:] if not (ROOT / "tests/e2e" / f"{name}.py").is_file()]
    assert missing == []


def test_a_module_is_run_by_one_worker_and_two_by_two(tmp_path: Path) -> None:
    """Asked of pytest-xdist itself: its own groups once stopped to be ones, and it said nothing."""
    words = ("--numprocesses", "2", "--dist", "loadgroup", "--verbose", "-p", "no:cacheprovider")
    own = ("--basetemp", str(tmp_path / "base"))  # not beside ours, which it would clear away in time
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *words, *own, *TWO_MODULES],
        cwd=ROOT, capture_output=True, text=True, timeout=SECONDS_MAX,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    workers = defaultdict(set)
    for worker, module in re.findall(r"^\[(gw\d)\].* PASSED ([^:]+)::", done.stdout, re.MULTILINE):
        workers[module].add(worker)
    assert set(workers) == set(TWO_MODULES), done.stdout
    assert all(len(by) == 1 for by in workers.values()), workers
    assert len(set.union(*workers.values())) == 2, workers


def test_a_worker_that_crashes_fails_its_test_alone_and_leaves_nobody_waiting(tmp_path: Path) -> None:
    """It was given groups that were done again, waited for another one for ever, and all waited for it."""
    done = _shared(
        tmp_path,
        "1",
        test_a="def test_one(): pass\ndef test_two(): pass",
        test_b="import os\ndef test_before(): pass\ndef test_dies(): os._exit(3)\ndef test_after(): pass",
        test_c="def test_one(): pass",
        test_d="def test_one(): pass",
    )
    assert done.returncode == pytest.ExitCode.TESTS_FAILED, done.stdout
    ran = sorted(re.findall(r"^\[gw\d\].* (PASSED|FAILED) (?:\S*/)?(\S+)", done.stdout, re.MULTILINE))
    passed = ["test_a.py::test_one", "test_a.py::test_two", "test_b.py::test_after", "test_b.py::test_before"]
    passed += ["test_c.py::test_one", "test_d.py::test_one"]
    assert ran == [("FAILED", "test_b.py::test_dies"), *(("PASSED", name) for name in passed)], done.stdout


def test_a_worker_that_crashes_before_its_first_test_fails_the_run(tmp_path: Path) -> None:
    """Where as many crashed as may, no test was run, and nothing was said to have failed."""
    crash = (
        "import os\ndef pytest_collection_modifyitems():\n    os.environ['PYTEST_XDIST_WORKER'] == 'gw0' or "
    )
    done = _shared(
        tmp_path,
        "2",
        "--max-worker-restart",
        "0",
        conftest=crash + "os._exit(3)",
        test_a="def test_one(): pass",
    )
    assert done.returncode == pytest.ExitCode.TESTS_FAILED, done.stdout
    assert "a worker crashed, so this run has failed: gw1" in done.stdout


def _shared(directory: Path, workers: str, *options: str, **modules: str) -> subprocess.CompletedProcess[str]:
    """How workers share these modules, by the very hooks that share the tests here."""
    (directory / "own").mkdir()
    for name, text in modules.items():
        (directory / "own" / f"{name}.py").write_text(text)
    ours = ("-c", str(ROOT / "pyproject.toml"), "-p", "tests.conftest", "-p", "no:cacheprovider", "--verbose")
    given = ("--numprocesses", workers, "--dist", "loadgroup", "--no-loadscope-reorder", *options)
    places = ("--rootdir", str(directory / "own"), "--basetemp", str(directory / "base"))
    return subprocess.run(
        [sys.executable, "-m", "pytest", *ours, *given, *places, str(directory / "own")],
        cwd=ROOT, capture_output=True, text=True, timeout=SECONDS_MAX,
    )  # fmt: skip
