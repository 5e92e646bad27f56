"""A volume and a tree protected at a, over to b, back to a: one history, whatever is lost or killed."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from cdp_container.errors import ConfigInvalid
from tests.e2e.processes import group_members, run
from tests.e2e.site import BIN, END_SECONDS_MAX, MIB, Site, new_site
from tests.e2e.test_failback import words_of as failback_words
from tests.e2e.test_failover import force_word, pids_in
from tests.e2e.test_failover import words_of as failover_words
from tests.waiting import wait_until

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.timeout(600),
    pytest.mark.needs("rsync"),
]

VOLUMES = {"db": MIB}
BIG_BYTES = 6 * MIB
BIG_FILES = 4
SEED = 771


class Sites:
    """Both, each with a directory that is its tree; `a` has the tree first."""

    def __init__(self, a: Site, b: Site) -> None:
        self.a, self.b = a, b
        self.marked: dict[str, Path] = {}

    def tree(self, site: Site) -> Path:
        return site.root / ("home" if site is self.a else "elsewhere")

    def configure(self, site: Site) -> None:
        site.write_config(f"trees: [{{name: home, path: {self.tree(site)}, exclude: ['*.tmp']}}]")
        text = site.config.read_text()
        site.config.write_text(text.replace("site: a\n", f"site: {'a' if site is self.a else 'b'}\n"))

    def mark(self, site: Site, name: str) -> None:
        """A marker at which the tree is whole, and a copy of the tree as it is."""
        wait_until(lambda: site.marker(name).code == 0, f"the marker {name}", END_SECONDS_MAX)
        self.marked[name] = site.base / f"as-{name}"
        subprocess.run(["cp", "-a", str(self.tree(site)), str(self.marked[name])], check=True)

    def assert_marked(self, site: Site) -> None:
        """Every marker's point, older owners' too, is the tree as it was then."""
        for name, wanted in self.marked.items():
            target = site.base / f"of-{name}-{len(list(site.base.iterdir()))}"
            words = [str(BIN / "rehydrate"), "restore", site.store, "--tree", f"home={target}"]
            words += ["--marker", name, *site.secret_options()]
            run(words, site.environment(site.base / "home")).must()
            assert differences(wanted, target) == [], name


def differences(one: Path, other: Path) -> list[str]:
    """What rsync would do to make the other one equal: contents, links, attributes, and what is extra."""
    words = ["rsync", "-aHAXni", "--checksum", "--delete", "--exclude=*.tmp", f"{one}/", f"{other}/"]
    return subprocess.run(words, check=True, capture_output=True, text=True).stdout.splitlines()


def populate(tree: Path, rng: random.Random) -> None:
    (tree / "big").mkdir(parents=True)
    for number in range(BIG_FILES):
        (tree / "big" / f"{number}").write_bytes(rng.randbytes(BIG_BYTES))
    for number in range(60):
        folder = tree / f"d{number % 6}"
        folder.mkdir(exist_ok=True)
        (folder / f"f{number}").write_bytes(rng.randbytes(rng.randrange(1, 30_000)))
    os.link(tree / "d1" / "f1", tree / "hard")
    (tree / "link").symlink_to("d1/f1")
    os.setxattr(tree / "d2" / "f2", "user.colour", b"green")
    (tree / "d3").chmod(0o2750)


def work(tree: Path, rng: random.Random) -> None:
    """What users do: in place, by rename, links, attributes, removals."""
    with (tree / "big" / "0").open("r+b") as file:
        file.seek(rng.randrange(BIG_BYTES - 4096))
        file.write(rng.randbytes(4096))
    (tree / "d4").rename(tree / f"moved-{rng.randrange(10**9)}")
    (tree / "d4").mkdir()
    (tree / "d4" / "new").write_bytes(rng.randbytes(9000))
    (tree / "hard").unlink()
    os.link(tree / "d1" / "f7", tree / "hard")
    (tree / "d5" / "f5").unlink(missing_ok=True)
    os.setxattr(tree / "d2" / "f2", "user.colour", rng.randbytes(4))
    (tree / "d2" / "f8").chmod(rng.choice((0o600, 0o640, 0o755)))


@contextmanager
def two_sites() -> Iterator[Sites]:
    with new_site(VOLUMES, with_key=True) as a:
        settings = a.settings.replace(f"{a.base}/a/j", f"{a.base}/r/a/j")
        b = Site(a.base / "r", a.store, VOLUMES, a.secrets, settings, with_key=True)
        b.root.mkdir(parents=True)
        shutil.copy(a.private_key, b.private_key)
        sites = Sites(a, b)
        populate(sites.tree(a), random.Random(SEED))
        sites.configure(a)
        sites.configure(b)
        a.init().must()
        try:
            yield sites
        finally:
            for site in (a, b):
                for pid in pids_in(site.journal):
                    with contextlib.suppress(ProcessLookupError):
                        os.killpg(pid, signal.SIGKILL)
                log = site.journal / "agent.log"
                print(f"--- {site.root}\n{log.read_text() if log.exists() else 'no log'}")


def lose(site: Site) -> None:
    for pid in pids_in(site.journal):
        os.killpg(pid, signal.SIGKILL)
        wait_until(lambda pid=pid: not group_members(pid), "the agent is dead", END_SECONDS_MAX)  # type: ignore[misc]


def begin(words: list[str], site: Site) -> subprocess.Popen[str]:
    return subprocess.Popen(
        words,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=site.environment(site.base / "home"),
        text=True,
        start_new_session=True,
    )


def killed_amid(words: list[str], site: Site, tree: Path, seen: str) -> None:
    """Begin a command, and kill it once a path of the tree is there."""
    process = begin(words, site)
    try:
        wait_until(
            lambda: (tree / seen).exists() or process.poll() is not None, f"{seen} is there", END_SECONDS_MAX
        )
        assert process.poll() is None, f"it ended before it could be killed: {process.communicate()}"
    finally:
        process.kill()
        process.communicate()


def stored_bytes(site: Site) -> int:
    return sum(path.stat().st_size for path in (site.container / "log").rglob("*") if path.is_file())


def write_volume(site: Site, image: bytearray, rng: random.Random) -> None:
    data, offset = rng.randbytes(8192), rng.randrange(200) * 4096
    with site.client("db") as client:
        client.write(offset, data)
    image[offset : offset + len(data)] = data


def test_a_tree_goes_over_and_comes_back_with_one_history() -> None:
    with two_sites() as sites:
        story = Story(sites, random.Random(SEED + 1))
        story.lost_at_a()
        story.over_to_b()
        story.back_to_a()
        story.by_plan_to_b()


class Story:
    """The steps, each on from the one before. `image`: of the volume."""

    def __init__(self, sites: Sites, rng: random.Random) -> None:
        self.sites, self.rng = sites, rng
        self.image = bytearray(VOLUMES["db"])
        self.before_bytes = 0

    def change(self, site: Site) -> None:
        """Something new in tree and volume."""
        work(self.sites.tree(site), self.rng)
        write_volume(site, self.image, self.rng)

    def sent_bytes(self) -> int:
        """Since the first site was lost."""
        return stored_bytes(self.sites.a) - self.before_bytes

    def lost_at_a(self) -> None:
        """What follows the marker was never sent."""
        sites, a = self.sites, self.sites.a
        agent = a.start()
        write_volume(a, self.image, self.rng)
        sites.mark(a, "at-a")
        agent.kill_group()
        tree = sites.tree(a)
        (tree / "never sent").write_bytes(b"only at a")
        (tree / "d0" / "f0").write_bytes(b"diverged")
        (tree / "cache.tmp").write_bytes(b"left out")
        with (tree / "big" / "1").open("r+b") as file:
            file.write(b"diverged in place")
        self.before_bytes = stored_bytes(a)

    def over_to_b(self) -> None:
        """Killed once in the middle of the tree; then it goes on as the same tree, and little is sent."""
        sites, b, tree = self.sites, self.sites.b, self.sites.tree(self.sites.b)
        place = ("--tree", f"home={tree}", "--force")
        killed_amid(failover_words(b, *place, force_word(b)), b, tree, "big/0")
        assert not (b.journal / "agent.json").exists()
        done = run(failover_words(b, *place, force_word(b)), b.environment(b.base / "home")).must()
        assert done.json["trees"] == [{"name": "home", "path": str(tree), "exclude": ["*.tmp"]}]
        assert differences(sites.marked["at-a"], tree) == []
        assert b.backing("db").read_bytes() == self.image
        sites.mark(b, "first-at-b")
        assert self.sent_bytes() < BIG_BYTES // 4
        self.change(b)
        sites.mark(b, "at-b")
        assert self.sent_bytes() < BIG_BYTES // 2
        sites.assert_marked(b)

    def back_to_a(self) -> None:
        """Its tree has diverged; killed once, while b goes on."""
        sites, a, b = self.sites, self.sites.a, self.sites.b
        tree = sites.tree(a)
        killed_amid(failback_words(a, "--once"), a, tree, moved_in(sites.tree(b)))
        assert "failback" in a.agent_command("run").must(ConfigInvalid.exit_code).err
        self.change(b)
        sites.mark(b, "last-at-b")
        lose(b)
        back = run(failback_words(a, "--force", force_word(a)), a.environment(a.base / "home")).must()
        assert [told["name"] for told in back.json["trees"]] == ["home"]
        assert differences(sites.marked["last-at-b"], tree) == []
        assert (tree / "cache.tmp").read_bytes() == b"left out"
        kept = {path.name: path for path in a.journal.glob("diverged-1/trees/*/**/*") if path.is_file()}
        assert kept["never sent"].read_bytes() == b"only at a"
        assert kept["f0"].read_bytes() == b"diverged"
        assert kept["1"].read_bytes().startswith(b"diverged in place")
        assert a.backing("db").read_bytes() == self.image
        self.change(a)
        sites.mark(a, "again-at-a")
        assert self.sent_bytes() < BIG_BYTES

    def by_plan_to_b(self) -> None:
        """It follows meanwhile; what is written before the release is there."""
        sites, a, b = self.sites, self.sites.a, self.sites.b
        following = begin(failback_words(b), b)
        self.change(a)
        (sites.tree(a) / "just before").write_bytes(b"the release")
        a.agent_command("release", "--to", "b").must()
        told, _ = following.communicate(timeout=END_SECONDS_MAX)
        assert following.returncode == 0, told
        assert differences(sites.tree(a), sites.tree(b)) == []
        (sites.tree(a) / "too late").write_bytes(b"x")
        said = " ".join(a.status().json["problems"])
        assert "file trees are not protected, as the domain is released to site 'b'" in said
        sites.mark(b, "again-at-b")
        sites.assert_marked(b)


def moved_in(tree: Path) -> str:
    """The name of a directory that was renamed."""
    (found,) = tree.glob("moved-*")
    return found.name
