"""File trees of a rehearsal: restored beside volumes, and every name and byte that is not right is found."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from cdp_container.clock import SystemClock
from cdp_container.errors import ChecksFailed, NoSuchVolume
from cdp_container.format.names import NameType
from cdp_container.store.directory import DirectoryStore
from rehydrate import tree_restore
from rehydrate.container import Secret, open_container
from rehydrate.plan import Choice, Totals
from rehydrate.points import plan_restore
from rehydrate.rehearsal import trees as rehearsing
from rehydrate.rehearsal.parts import FAILED, NOT_CHECKED, PASSED, Sampling, Verdict
from rehydrate.rehearsal.trees import TreesPart
from rehydrate.restore import Source
from tests.containers import PASSPHRASE, Site, write
from tests.trees import Tree, directory, file
from tests.unit.rehydrate.conftest import Run
from tests.unit.rehydrate.trees import assert_same

PAGE = 4096


@pytest.fixture
def site(place: Path) -> Site:
    site = Site(DirectoryStore(place))
    site.begin_epoch()
    return site


@pytest.fixture
def home(site: Site) -> Tree:
    rng = random.Random(5)
    home = Tree(site)
    home.add(b"docs", directory(mode=0o500))
    home.file(b"docs/large", rng.randbytes(40 * PAGE + 100))
    home.file(b"docs/even", rng.randbytes(3 * PAGE), mode=0o000)
    home.file(b"small", b"hello")
    home.file(b"sparse", bytes(16 * PAGE) + rng.randbytes(PAGE))
    home.file(b"empty")
    home.link(b"docs/large", b"twin")
    home.add(b"link", file()._replace(type=NameType.SYMLINK, target=b"../../outside"))
    for number in range(30):
        home.file(b"many %d" % number, rng.randbytes(PAGE))
    return home


@contextmanager
def part_of(site: Site, where: Path) -> Iterator[TreesPart]:
    container = open_container(site.store, Secret(passphrase=PASSPHRASE))
    scope = container.history.branch_of(container.history.newest)
    with closing(container.gather(scope, keeps_sums=True, keeps_names=True)) as contents:
        plan = plan_restore(container, contents, Choice(), trees=["home"], volumes=False)
        source = Source(container.store, container.keys, contents)
        with TreesPart(source, plan.branch, plan.trees, where, SystemClock()) as part:
            yield part


def fetched(part: TreesPart, sampling: Sampling) -> Totals:
    names: list[int] = []
    part.make_names(names.append)
    assert sum(names) == part.names
    promised, done = part.totals(sampling), list[Totals]()
    part.fetch(sampling, done.append)
    total = sum(done, Totals())
    assert (total.gets, total.fetch_bytes, total.write_bytes) == (
        promised.gets,
        promised.fetch_bytes,
        promised.write_bytes,
    )
    return total


def compared(part: TreesPart) -> dict[str, Verdict]:
    return {verdict.kind: verdict for verdict in part.compared(lambda _: None)}


def test_all_of_it(site: Site, home: Tree, tmp_path: Path) -> None:
    place = home.cut()
    site.protect(place)
    with part_of(site, tmp_path) as part:
        fetched(part, Sampling())
        verdicts = compared(part)
        assert {kind: one.state for kind, one in verdicts.items()} == {"names": PASSED, "checksums": PASSED}
        assert verdicts["checksums"].why.endswith("; 105 bytes not comparable")
        (source,) = part.sources
    assert (source.kind, source.name, source.path) == ("tree", "home", tmp_path / "home.tree")
    assert source.size_bytes > 70 * PAGE
    assert_same(tmp_path / "home.tree", home.at[place])


@pytest.mark.parametrize("at", [0, 39 * PAGE + 7])
def test_a_changed_byte_is_found(site: Site, home: Tree, tmp_path: Path, at: int) -> None:
    site.protect(home.cut())
    with part_of(site, tmp_path) as part:
        fetched(part, Sampling())
        with (tmp_path / "home.tree" / "docs" / "large").open("r+b") as changed:
            changed.seek(at)
            old = changed.read(1)
            changed.seek(at)
            changed.write(bytes([old[0] ^ 1]))
        verdict = compared(part)["checksums"]
    assert verdict.state == FAILED
    assert f"the first: {at // PAGE * PAGE} to {at // PAGE * PAGE + PAGE} of 'twin'" in verdict.why


@pytest.mark.parametrize("name", ["small", "empty", "link"])
def test_a_name_that_is_not_there_is_found(site: Site, home: Tree, tmp_path: Path, name: str) -> None:
    site.protect(home.cut())
    with part_of(site, tmp_path) as part:
        fetched(part, Sampling())
        (tmp_path / "home.tree" / name).rename(tmp_path / "home.tree" / "elsewhere")
        verdict = next(part.compared(lambda _: None))
    assert (verdict.kind, verdict.state) == ("names", FAILED)
    assert verdict.why == f"1 name missing, of another type or size, the first: {name!r}"


def test_another_type_or_size_is_found(site: Site, home: Tree, tmp_path: Path) -> None:
    site.protect(home.cut())
    with part_of(site, tmp_path) as part:
        fetched(part, Sampling())
        (tmp_path / "home.tree" / "empty").unlink()
        (tmp_path / "home.tree" / "empty").symlink_to("small")
        os.truncate(tmp_path / "home.tree" / "small", 4)
        assert next(part.compared(lambda _: None)).why.startswith("2 names missing")


def test_what_could_not_be_set_is_told(site: Site, home: Tree, tmp_path: Path) -> None:
    site.protect(home.cut())
    with part_of(site, tmp_path) as part:
        fetched(part, Sampling())
        part._under[0].target.not_set.add(b"small", "owner", "no")  # type: ignore[union-attr]
        verdict = compared(part)["attributes"]
    assert (verdict.state, verdict.why) == (NOT_CHECKED, "what could not be set here: owner 1")


@pytest.mark.parametrize("seed", range(3))
def test_a_sample_is_of_files(site: Site, home: Tree, tmp_path: Path, seed: int) -> None:
    site.protect(home.cut())
    with part_of(site, tmp_path) as part:
        part.make_names(lambda _: None)
        whole = part.totals(Sampling())
    with part_of(site, tmp_path / "again") as part:
        (tmp_path / "again").mkdir()
        done = fetched(part, Sampling(0.5, seed))
        assert 0 < done.write_bytes < whole.write_bytes
        assert {one.state for one in compared(part).values()} == {PASSED}


def test_no_content(site: Site, home: Tree, tmp_path: Path) -> None:
    site.protect(home.cut())
    with part_of(site, tmp_path) as part:
        assert fetched(part, Sampling(0.0)) == Totals()
        states = {kind: one.state for kind, one in compared(part).items()}
    assert states == {"names": PASSED, "checksums": NOT_CHECKED}


# --- the command ------------------------------------------------------------------------------------


@pytest.fixture
def rehearse(run: Run, place: Path, tmp_path: Path) -> Callable[..., tuple[int, dict[str, object], str]]:
    def command(*options: object) -> tuple[int, dict[str, object], str]:
        history = tmp_path / "history"
        words = ("dr-test", place, "--into", tmp_path / "into", "--history", history, "--json", *options)
        code, stdout, stderr = run(*words)
        return code, json.loads(stdout) if stdout else {}, stderr

    return command


def test_a_domain_of_volumes_and_trees(
    rehearse: Callable[..., tuple[int, dict[str, object], str]], site: Site, home: Tree, tmp_path: Path
) -> None:
    disk = site.add_volume("db", 1 << 20)
    place = site.cut([write(disk, 0, site.rng.randbytes(PAGE))])
    site.protect(home.cut())
    script = "test -s $CDP_DR_VOLUME_DB && test $(cat $CDP_DR_TREE_HOME/small) = hello"
    code, report, stderr = rehearse("--check", f"sh -c '{script}'")
    assert code == 0, stderr
    checks = [(one["kind"], one["subject"], one["state"]) for one in report["checks"]]  # type: ignore[attr-defined]
    assert checks[:4] == [
        ("checksums", "db", PASSED),
        ("names", "home", PASSED),
        ("checksums", "home", PASSED),
        ("fsck", "db", NOT_CHECKED),
    ]
    assert not (tmp_path / "into").exists()
    assert place.cut == 1


def test_a_domain_of_a_tree_alone(
    rehearse: Callable[..., tuple[int, dict[str, object], str]], site: Site, home: Tree, tmp_path: Path
) -> None:
    place = home.cut()
    site.protect(place)
    code, report, stderr = rehearse("--keep")
    assert code == 0, stderr
    assert report["left"] == [str(tmp_path / "into" / "home.tree")]
    assert_same(tmp_path / "into" / "home.tree", home.at[place])


def test_only_what_was_named(
    rehearse: Callable[..., tuple[int, dict[str, object], str]], site: Site, home: Tree
) -> None:
    disk = site.add_volume("db", 1 << 20)
    site.cut([write(disk, 0, site.rng.randbytes(PAGE))])
    site.protect(home.cut())
    for options, names in ((("--volume", "db"), ["db"]), (("--tree", "home"), ["home"])):
        code, report, stderr = rehearse(*options)
        assert code == 0, stderr
        assert [one["name"] for one in report["sources"]] == names  # type: ignore[attr-defined]
    assert rehearse("--tree", "none")[0] == NoSuchVolume.exit_code


def test_a_tree_that_is_not_what_it_was_fails_the_test(
    rehearse: Callable[..., tuple[int, dict[str, object], str]],
    site: Site,
    home: Tree,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    site.protect(home.cut())
    real = tree_restore.finish

    def finish(*arguments: object) -> None:
        real(*arguments)  # type: ignore[arg-type]
        (tmp_path / "into" / "home.tree" / "small").unlink()

    monkeypatch.setattr(rehearsing, "finish", finish)
    code, report, _ = rehearse()
    assert (code, report["outcome"]) == (ChecksFailed.exit_code, "checks failed")
    assert not (tmp_path / "into").exists()
