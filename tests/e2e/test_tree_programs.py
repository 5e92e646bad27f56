"""Real programs work in a tree while the agent is killed; copies at many cuts satisfy their own tools.

A cut at which the tree is whole and nothing is skewed is one instant: what a power loss would leave of a file
system that loses nothing. A database recovers from it, a repository is sound, a build goes on from there.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import sqlite3
import subprocess
import threading
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import pytest

from tests.e2e.processes import group_members, processes
from tests.e2e.tree_storm import NAME, PATIENCE_SECONDS, VICTIMS, Storm, Working, protected
from tests.tree_history import State
from tests.waiting import wait_until

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(0)]

SEED = 20263
ROUNDS_PER_KILL = 25
"""Of `--rounds`: one kill of each test; at least two."""
CHECKED_MAX = 40
"""Cuts of one test that are checked, spread evenly."""

KEYS = 7
CHECKPOINT_PAGES = 60
PAUSE_SECONDS_MAX = 0.03
MOMENT_SECONDS_MAX = 3.0

SOURCE = "pool/main/h/hello/hello_2.10.orig.tar.gz"
SOURCE_SHA256 = "31e066137a962676e89f69d1b65382de95a7ef7d914b8cb956f41ea72e0f516b"
"""The same file in every release of Debian and Ubuntu since 2014."""
HELPER = Path("/usr/lib/apt/apt-helper")
BUILD = "tar -xzf '{}' && cd hello-2.10 && ./configure -q --disable-nls && make -s"
GREETING = "Hello, world!\n"


def kills_of(rounds: int) -> int:
    """How often something is killed in each test."""
    return max(2, rounds // ROUNDS_PER_KILL)


def chosen(storm: Storm, base: Path) -> Iterator[tuple[State, Path]]:
    """Exact cuts, written out into directories that are removed again."""
    exact = [state.place for state in storm.states() if state.is_exact and len(state.names) > 1]
    every = -(-len(exact) // CHECKED_MAX)
    wanted = {*exact[::every], *exact[-1:]}
    for state in storm.states():
        if state.place in wanted or (state.markers and state.is_exact):
            copy = base / "copy"
            state.write_out(copy)
            yield state, copy
            shutil.rmtree(copy)


@contextmanager
def killed(
    rounds: int, victims: Sequence[str], tree: Path, working: Working, steps: int
) -> Iterator[tuple[Storm, dict[str, int]]]:
    """Let a workload and the agent's killer run; gives what came of it, and the step behind each marker."""
    print(f"seed {SEED}")
    said: dict[str, int] = {}
    with protected(tree) as storm:
        with working:
            for number in range(kills_of(rounds)):
                working.advance(steps)
                storm.hit(victims[number % len(victims)])
                working.advance(steps)
                storm.until_whole()
                said[f"marker-{number}"] = storm.marker(f"marker-{number}", lambda: working.number)
            working.advance(steps)
        yield storm, said


# --- a database --------------------------------------------------------------------------------


class Database:
    """SQLite with a write-ahead log; transaction n says so in `log`, and overwrites one row of `data`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._db: sqlite3.Connection | None = None
        with closing(sqlite3.connect(path)) as made:
            made.execute("PRAGMA journal_mode=WAL")
            made.executescript("CREATE TABLE log (n INTEGER PRIMARY KEY); CREATE TABLE data (k, n, content)")

    def commit(self, number: int) -> None:
        """One transaction; sometimes what databases do beside."""
        db = self._db
        if db is None:
            db = self._db = sqlite3.connect(self.path, isolation_level=None, check_same_thread=False)
            db.execute(f"PRAGMA wal_autocheckpoint={CHECKPOINT_PAGES}")
        db.execute("BEGIN")
        db.execute("INSERT INTO log VALUES (?)", (number,))
        db.execute("DELETE FROM data WHERE k=?", (number % KEYS,))
        db.execute("INSERT INTO data VALUES (?, ?, ?)", (number % KEYS, number, content_of(number)))
        db.execute("COMMIT")
        if number % 53 == 0:
            db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        if number % 89 == 0:
            db.execute("VACUUM")
        if number % 31 == 0:
            self.close()

    def close(self) -> None:
        """As a program that ends: the log is worked in and removed."""
        if self._db is not None:
            self._db.close()
        self._db = None


def content_of(number: int) -> bytes:
    return random.Random(number).randbytes(number * 997 % 30_000)


def read_database(path: Path) -> int:
    """Open a copy as after a crash: it is sound, and shows the first transactions whole; gives how many."""
    with closing(sqlite3.connect(path)) as db:
        assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        numbers = [number for (number,) in db.execute("SELECT n FROM log ORDER BY n")]
        last = len(numbers)
        assert numbers == list(range(1, last + 1)), "transactions are missing"
        rows = db.execute("SELECT k, n, content FROM data ORDER BY n").fetchall()
    first = max(1, last - KEYS + 1)
    assert rows == [(n % KEYS, n, content_of(n)) for n in range(first, last + 1)]
    return last


def test_a_database_recovers_from_every_exact_cut(rounds: int, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    rng, database = random.Random(SEED), Database(tree / "db")
    working = Working(database.commit, lambda: rng.random() * PAUSE_SECONDS_MAX)
    with killed(rounds, ("watcher", "group"), tree, working, 50) as (storm, said):
        database.close()
        restored = storm.finish(tree)
        assert read_database(restored / "db") == working.number
        shown = {}
        for state, copy in chosen(storm, tmp_path):
            shown[state.place] = count = read_database(copy / "db")
            assert all(count >= said[name] for name in state.markers), (state.markers, count, said)
        assert list(shown.values()) == sorted(shown.values())
        print(
            f"{len(shown)} exact cuts of a database were checked, {len(set(shown.values()))} different ones"
        )
        assert len(set(shown.values())) > kills_of(rounds)


# --- a repository ------------------------------------------------------------------------------


class Repository:
    """What people do with git, one command or two in each step."""

    def __init__(self, path: Path, rng: random.Random) -> None:
        self.path = path
        self._rng = rng
        self._branches = 0
        path.mkdir()
        self.git("init", "--quiet", "--initial-branch=main")
        self._commit("first")

    def git(self, *words: str) -> None:
        """Run a command that must succeed."""
        done = git(self.path, *words)
        assert done.returncode == 0, (words, done.stdout, done.stderr)

    def step(self, number: int) -> None:
        """Something by chance."""
        match self._rng.randrange(12):
            case 0:
                self._branches += 1
                self.git("checkout", "--quiet", "-b", f"branch-{self._branches}")
                self._commit(f"{number}")
                self.git("checkout", "--quiet", "main")
            case 1 if self._branches:
                self._rebase()
            case 2:
                self.git("gc", "--quiet", *self._rng.choice(((), ("--prune=now",), ("--aggressive",))))
            case 3:
                self.git("tag", "--force", "-m", "here", f"tag-{number % 5}")
            case 4:
                self.git("commit", "--quiet", "--amend", "-m", f"{number} amended")
            case 5:
                self.git("repack", "-a", "-d", "--quiet")
            case 6:
                self.git("reflog", "expire", "--expire=now", "--all")
                self.git("prune")
            case _:
                self._commit(f"{number}")

    def _rebase(self) -> None:
        """The newest branch goes on top, and becomes part of main; its one commit has a file of its own."""
        name = f"branch-{self._branches}"
        self._branches -= 1
        self.git("rebase", "--quiet", "main", name)
        self.git("checkout", "--quiet", "main")
        self.git("merge", "--quiet", "--ff-only", name)
        self.git("branch", "--quiet", "-D", name)

    def _commit(self, title: str) -> None:
        folder = self.path / f"folder {self._rng.randrange(3)}"
        folder.mkdir(exist_ok=True)
        (folder / f"file {title}").write_bytes(self._rng.randbytes(self._rng.choice((10, 3000, 60_000))))
        self.git("add", "--all")
        self.git("commit", "--quiet", "-m", title)


def git(path: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run git in a directory, with no configuration but ours."""
    who = {f"GIT_{role}_{what}": f"{what}@example.org".lower() for role in ("AUTHOR", "COMMITTER")
           for what in ("NAME", "EMAIL")}  # fmt: skip
    plain = {"GIT_CONFIG_NOSYSTEM": "1", "GIT_CONFIG_GLOBAL": os.devnull, "HOME": str(path.parent)}
    # A commit-graph names commits that `prune` removed, and `fsck` minds: no matter of ours.
    settings = ("gc.auto=0", "gc.writeCommitGraph=false", "core.commitGraph=false", "safe.directory=*")
    words = ("git", *(word for setting in settings for word in ("-c", setting)), *words)
    environment = {"PATH": os.environ["PATH"], **plain, **who}
    return subprocess.run(words, cwd=path, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.needs("git")
def test_a_repository_is_sound_at_every_exact_cut(rounds: int, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    rng = random.Random(SEED)
    repository = Repository(tree, rng)
    working = Working(repository.step, lambda: rng.random() * PAUSE_SECONDS_MAX)
    with killed(rounds, ("both", "streamer"), tree, working, 12) as (storm, _):
        check_repository(storm.finish(tree))
        heads = []
        for _, copy in chosen(storm, tmp_path):
            check_repository(copy)
            heads.append(git(copy, "rev-parse", "HEAD").stdout)
        print(f"{len(heads)} exact cuts of a repository were checked, {len(set(heads))} heads")
        assert len(set(heads)) > kills_of(rounds)


def check_repository(path: Path) -> None:
    """Every object and reference is there and right; what nothing refers to may be."""
    done = git(path, "fsck", "--strict", "--full", "--no-dangling", "--no-progress")
    assert (done.returncode, done.stderr) == (0, ""), (done.stdout, done.stderr)


# --- a build -----------------------------------------------------------------------------------


class Build:
    """A package that is unpacked, configured and built, in a process group that can be held still."""

    def __init__(self, tree: Path, archive: Path) -> None:
        self.path = tree
        self._process = subprocess.Popen(
            ["sh", "-c", BUILD.format(archive)],
            cwd=tree,
            env={"PATH": os.environ["PATH"], "HOME": str(tree.parent), "LANG": "C"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            start_new_session=True,
        )

    @property
    def is_running(self) -> bool:
        """Whether it is not done yet."""
        return self._process.poll() is None

    @contextmanager
    def still(self) -> Iterator[None]:
        """Nothing of it runs meanwhile."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGSTOP)
        wait_until(lambda: not runs_in_group(self._process.pid), "the build is held", PATIENCE_SECONDS)
        yield
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGCONT)

    def finish(self) -> None:
        """Wait for its end, which must be a good one."""
        assert self._process.wait(PATIENCE_SECONDS * 3) == 0

    def kill(self) -> None:
        """End it, where a test failed."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()


def runs_in_group(group: int) -> bool:
    """Whether a process of a group is neither held nor dead."""
    members = set(group_members(group))
    return any(state not in "TtZX" for pid, _, state in processes() if pid in members)


def to_be_made(folder: Path) -> tuple[int, str, str]:
    """What `make -n` says in a copy: where its rules make the makefile anew, that happens even so."""
    copy = folder.parent / "tried"
    subprocess.run(["cp", "-a", f"{folder}/.", copy], check=True)
    done = subprocess.run(["make", "-n"], cwd=copy, capture_output=True, text=True, check=False)
    shutil.rmtree(copy)
    return done.returncode, done.stdout.replace(str(copy), ""), done.stderr.replace(str(copy), "")


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """A Debian source package's archive, from where this machine gets its packages."""
    target = tmp_path / "package.tar.gz"
    shown = subprocess.run(
        ["apt-get", "indextargets", "--format", "$(REPO_URI)"], capture_output=True, text=True, check=False
    )
    for address in dict.fromkeys(shown.stdout.split()):
        words = [str(HELPER), "download-file", address + SOURCE, str(target), f"SHA256:{SOURCE_SHA256}"]
        if subprocess.run(words, capture_output=True, check=False).returncode == 0:
            return target
    pytest.skip("no archive of Debian or Ubuntu can be reached: the build of a package is left out")


@pytest.mark.needs("apt-get", "gcc", "make")
def test_a_build_goes_on_in_a_copy(rounds: int, tmp_path: Path, archive: Path) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    print(f"seed {SEED}")
    rng = random.Random(SEED)
    said: dict[str, tuple[int, str, str]] = {}
    with protected(tree) as storm:
        build = Build(tree, archive)
        try:
            for number in range(kills_of(rounds)):
                wait_until((tree / "hello-2.10" / "configure").exists, "it is unpacked", PATIENCE_SECONDS)
                # The random moment: not to wait for anything is the point of it.
                threading.Event().wait(rng.random() * MOMENT_SECONDS_MAX)
                storm.hit(VICTIMS[number % len(VICTIMS)])
                if number == 1:
                    made = (tree / "hello-2.10" / "Makefile").exists
                    wait_until(made, "it is configured", PATIENCE_SECONDS)
                with build.still():
                    storm.marker(f"marker-{number}", lambda: 0)
                    said[f"marker-{number}"] = to_be_made(tree / "hello-2.10")
                if not build.is_running:
                    break
            build.finish()
        finally:
            build.kill()
        restored = storm.finish(tree)
        assert to_be_made(restored / "hello-2.10") == to_be_made(tree / "hello-2.10")
        for name, expected in said.items():
            copy = storm.site.base / "b" / name
            storm.site.rehydrate("restore", "--tree", f"{NAME}={copy}", "--marker", name).must()
            assert to_be_made(copy / "hello-2.10") == expected, name
        assert len(set(said.values())) > 1
        for program in (restored, tree):
            shown = subprocess.run([program / "hello-2.10" / "hello"], capture_output=True, check=True)
            assert shown.stdout.decode() == GREETING
        exact = sum(state.is_exact for state in storm.states())
        print(
            f"{len(said)} copies of a build were checked, {len(set(said.values()))} different ones; "
            f"{exact} exact cuts"
        )
