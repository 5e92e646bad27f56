"""A volume and a file tree that are written with matching numbers: cuts agree, whoever is killed."""

from __future__ import annotations

import filecmp
import json
import os
import random
import threading
from pathlib import Path

import pytest

from cdp_container.format.place import Place
from cdp_container.store.directory import DirectoryStore
from tests.e2e.site import Agent, Site, new_site
from tests.recovery import Recovery
from tests.waiting import wait_until

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

VOLUME_BYTES = 1 << 20
SEED = 20262
ROUNDS = 6
STEPS = 60
PATIENCE_SECONDS = 90.0


class Counting:
    """Writes 1, 2, 3 ... to a file, then to the volume, then to another file, one behind the other."""

    def __init__(self, site: Site, tree: Path) -> None:
        self._site = site
        self._tree = tree
        self._may_go = threading.Event()
        self._has_stopped = threading.Event()
        self._ends = False
        self._thread = threading.Thread(target=self._run)
        self.number = 0
        self.error: BaseException | None = None

    def __enter__(self) -> Counting:
        self._may_go.set()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ends = True
        self._may_go.set()
        self._thread.join(PATIENCE_SECONDS)
        assert not self._thread.is_alive()
        if self.error is not None:
            raise self.error

    def pause(self) -> int:
        """All three say the same now; gives what."""
        self._may_go.clear()
        wait_until(lambda: self._has_stopped.is_set() or self.error, "the writer pauses", PATIENCE_SECONDS)
        return self.number

    def go_on(self) -> None:
        self._has_stopped.clear()
        self._may_go.set()

    def advance(self) -> None:
        """Return when it has come some steps further."""
        goal = self.number + STEPS
        wait_until(lambda: self.number >= goal or self.error, "numbers are written", PATIENCE_SECONDS)
        assert self.error is None, self.error

    def _run(self) -> None:
        try:
            while not self._ends:
                with self._site.client("db") as client:
                    while self._may_go.is_set() and not self._ends:
                        following = b"%016d" % (self.number + 1)
                        self._write("first", following)
                        client.write(0, following.ljust(512, b"."))
                        self._write("last", following)
                        self.number += 1
                self._has_stopped.set()
                self._may_go.wait()
        except BaseException as error:  # noqa: BLE001  raised again by whoever uses it
            self.error = error

    def _write(self, name: str, number: bytes) -> None:
        """Often in place, sometimes as editors do it."""
        path = self._tree / name
        if self.number % 7 == 0:
            fresh = self._tree / f".{name}.new"
            fresh.write_bytes(number)
            fresh.rename(path)
        else:
            with path.open("r+b" if path.exists() else "wb") as file:
                file.write(number)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """With something in it already, so that the first cuts are a copy."""
    folder = tmp_path / "tree"
    (folder / "sub").mkdir(parents=True)
    for number in range(200):
        (folder / "sub" / f"file {number}").write_bytes(os.urandom(number * 37))
    (folder / "link").symlink_to("sub/file 3")
    os.link(folder / "sub" / "file 7", folder / "hard")
    return folder


def trees_whole(site: Site) -> bool:
    found = site.facts().get("trees")
    return found is not None and found["not_whole"] == []


def holds(site: Site) -> object:
    """What the splitter says of how long guests' writes were held."""
    return json.loads((site.journal / "splitter.json").read_bytes())["holds"]


def started(site: Site) -> Agent:
    agent = site.start()
    wait_until(lambda: trees_whole(site), "the tree is whole", PATIENCE_SECONDS)
    return agent


def test_cuts_of_volume_and_tree_agree_whoever_is_killed(tree: Path) -> None:
    extra = f"trees: [{{name: files, path: {tree}}}]"
    print(f"seed {SEED}")
    rng = random.Random(SEED)
    with new_site({"db": VOLUME_BYTES}, encrypted=False, extra=(extra,)) as site:
        site.init().must()
        agent = started(site)
        markers: dict[str, int] = {}
        with Counting(site, tree) as counting:
            for number in range(ROUNDS):
                counting.advance()
                victims = rng.choice((("watcher",), ("streamer",), ("watcher", "streamer")))
                agent.kill(*victims)
                counting.advance()
                wait_until(lambda: trees_whole(site), "the tree is whole again", PATIENCE_SECONDS)
                said = counting.pause()
                if mark(site, f"quiet-{number}"):
                    markers[f"quiet-{number}"] = said
                if number % 3 == 2:
                    print(holds(site))
                    agent.kill_group()
                    agent = started(site)
                counting.go_on()
            counting.pause()
        site.flush_when_ready()
        print(holds(site))
        assert agent.stop() == 0
        assert len(markers) >= ROUNDS // 2
        check(site, tree, markers, counting.number)


def test_a_domain_of_trees_alone_that_come_and_go(tree: Path, tmp_path: Path) -> None:
    """Encrypted; `reload` while it runs; what is written before a stop is in its last cut."""
    other = tmp_path / "other"
    other.mkdir()
    (other / "file").write_bytes(b"before")
    one, two = (f"{{name: {path.name}, path: {path}}}" for path in (tree, other))
    with new_site({}, extra=(f"trees: [{one}]",)) as site:
        assert "--tree tree=DIRECTORY" in (site.init().must().out + (site.base / "kit.txt").read_text())
        agent = started(site)
        site.write_config(f"trees: [{one}, {two}]")
        assert "other: watched" in site.agent_command("reload").must().err
        wait_until(lambda: newest_trees(site) == {"tree", "other"}, "both are whole", PATIENCE_SECONDS)
        site.marker("both").must()
        site.write_config(f"trees: [{two}]")
        assert "tree: not protected any more" in site.agent_command("reload").must().err
        wait_until(lambda: newest_trees(site) == {"other"}, "one is left", PATIENCE_SECONDS)
        (other / "file").write_bytes(b"written before the end")
        assert agent.stop() == 0
        for name, source, choice in (("tree", tree, ("--marker", "both")), ("other", other, ())):
            target = site.base / "b" / name
            site.rehydrate("restore", "--tree", f"{name}={target}", *choice).must()
            assert differences(source, target) == []


def newest_trees(site: Site) -> set[str]:
    """Names of the trees that are whole and protected now."""
    shown = site.status().json
    return set() if shown["problems"] else {tree["name"] for tree in shown["trees"]["trees"]}


def mark(site: Site, name: str) -> bool:
    """A marker in a time without writes; refused where a tree is being looked at anew."""
    for _ in range(5):
        if site.marker(name).code == 0:
            return True
        wait_until(lambda: trees_whole(site), "the tree is whole again", PATIENCE_SECONDS)
    return False


def check(site: Site, tree: Path, markers: dict[str, int], last: int) -> None:
    recovery = Recovery(DirectoryStore(site.container))
    identity = json.loads((site.journal / "agent.json").read_bytes())
    tree_id, space = (
        bytes.fromhex(identity[kind][0][key]) for kind, key in (("trees", "tree"), ("sources", "space"))
    )
    skewed, exact = recovery.skewed(), 0
    wholes = [
        place
        for place in recovery.cuts
        if recovery.is_whole(tree_id, place) and recovery.is_whole(space, place)
    ]
    for place in wholes:
        first, volume, second = numbers_at(recovery, tree_id, place)
        if (place.epoch, place.cut) not in skewed:
            exact += 1
            assert first - 1 <= second <= volume <= first, (place, first, volume, second)
    print(f"{len(recovery.cuts)} cuts, {len(wholes)} whole, {exact} of these exact")
    assert exact > ROUNDS
    named = recovery.markers()
    for name, said in markers.items():
        assert numbers_at(recovery, tree_id, named[name]) == (said, said, said), name
    restore_and_compare(site, tree, last)


def numbers_at(recovery: Recovery, tree_id: bytes, place: Place) -> tuple[int, int, int]:
    files = recovery.tree(tree_id, place)
    first, second = (int(files[name][1]) if name in files else 0 for name in (b"first", b"last"))
    return first, int(recovery.restored("db", place)[:16].strip(b"\0") or 0), second


def restore_and_compare(site: Site, tree: Path, last: int) -> None:
    """The newest point, as a recovery site has it, is what there was."""
    target = site.base / "b" / "files"
    site.rehydrate("restore", "--tree", f"files={target}").must()
    assert differences(tree, target) == []
    site.restore("db", site.base / "b" / "db.raw")
    assert filecmp.cmp(site.backing("db"), site.base / "b" / "db.raw", shallow=False)
    assert int((target / "first").read_bytes()) == last


def differences(ours: Path, theirs: Path) -> list[str]:
    """Names of which one side has another type, content, mode, time, or number of links."""
    found = []
    names = {path.relative_to(side) for side in (ours, theirs) for path in side.rglob("*")}
    for name in sorted(names):
        one, other = ours / name, theirs / name
        if not (os.path.lexists(one) and os.path.lexists(other)):
            found.append(f"{name} is there once")
            continue
        a, b = one.lstat(), other.lstat()
        if (a.st_mode, a.st_uid, a.st_gid) != (b.st_mode, b.st_uid, b.st_gid):
            found.append(f"{name} differs in mode or owner")
        elif a.st_mtime_ns != b.st_mtime_ns or (not one.is_dir() and a.st_nlink != b.st_nlink):
            found.append(f"{name} differs in time or links")
        elif one.is_symlink():
            found += [] if one.readlink() == other.readlink() else [f"{name} leads elsewhere"]
        elif one.is_file() and one.read_bytes() != other.read_bytes():
            found.append(f"{name} differs in content")
    return found
