"""`rehydrate restore --tree` as an administrator runs it."""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from cdp_container.errors import AccessDenied
from cdp_container.format import limits
from cdp_container.format.index import Record
from cdp_container.format.keys import segment_key
from cdp_container.format.names import Name, NameType, SkewedFile, name_added
from cdp_container.store.directory import DirectoryStore
from tests.containers import PASSPHRASE, Site, write
from tests.trees import MTIME_NS, Tree, directory, file
from tests.unit.rehydrate.conftest import Run, answer
from tests.unit.rehydrate.trees import assert_same

NOBODY = 65534


@pytest.fixture
def site(place: Path) -> Site:
    site = Site(DirectoryStore(place), seed=8)
    site.begin_epoch()
    return site


def small_tree(site: Site) -> Tree:
    home = Tree(site, "home")
    home.add(b"docs", directory())
    home.file(b"docs/a", b"hello" * 2000)
    home.file(b"b", b"world")
    return home


# --- what is refused -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        ["--tree", "home"],
        ["--tree", "=x"],
        ["--tree", "home="],
        ["--tree", "home=x", "--tree", "home=y"],
        ["--path", "x"],
        ["--tree", "home=x", "--path", "/"],
        ["--tree", "home=x", "--on-damage", "map", "--delete"],
        ["--tree", "home=x", "--volume", "disk"],
    ],
    ids=" ".join,
)
def test_options_that_make_no_sense(run: Run, site: Site, place: Path, options: list[str]) -> None:
    small_tree(site).cut()
    assert run("restore", place, *options)[0] == 2


def test_a_plan_says_what_a_tree_takes(run: Run, site: Site, place: Path) -> None:
    disk = site.add_volume("disk", 1 << 20)
    site.cut([write(disk, 0, b"x" * 4096)])
    small_tree(site).cut()
    planned = answer(run, "plan", place, "--tree", "home")
    (tree,) = planned["trees"]
    assert planned["volumes"] == []
    assert (tree["name"], tree["names"], tree["files_with_content"], tree["content_bytes"]) == (
        "home", 4, 2, 10_005,
    )  # fmt: skip
    target = place.parent / "there"
    done = answer(run, "restore", place, "--tree", f"home={target}")
    for member, did in (("gets", "gets"), ("fetch_bytes", "fetched_bytes")):
        assert tree[member] == done["trees"][0][did] == planned[member]
    both = answer(run, "plan", place, "--tree", "home", "--volume", "disk")
    assert both["fetch_bytes"] > tree["fetch_bytes"]
    assert "tree home: 4 names" in run("plan", place, "--tree", "home")[1]
    assert run("plan", place, "--tree", "photos")[0] == 14


@pytest.mark.parametrize("words", [["plan"], ["restore", "--target", "x.raw"]], ids=" ".join)
def test_a_volume_of_a_domain_of_trees_alone(run: Run, site: Site, place: Path, words: list[str]) -> None:
    small_tree(site).cut()
    code, _, stderr = run(words[0], place, *words[1:])
    assert code == 14
    assert "there are trees: home" in stderr
    assert "--tree NAME=DIRECTORY" in stderr


def test_a_tree_that_is_not_there(run: Run, site: Site, place: Path, tmp_path: Path) -> None:
    small_tree(site).cut()
    code, _, stderr = run("restore", place, "--tree", f"house={tmp_path / 'to'}")
    assert code == 14
    assert "there are: home" in stderr
    assert not (tmp_path / "to").exists()


@pytest.mark.parametrize("pattern", ["doc", "./b", "/docs/a/", "docs//a", "[b", "B", "x\x1b\n"], ids=ascii)
def test_a_path_that_fits_nothing(run: Run, site: Site, place: Path, tmp_path: Path, pattern: str) -> None:
    """Nothing restored must not look like done; neither where another pattern fits."""
    small_tree(site).cut()
    target = tmp_path / "to"
    words = ["--tree", f"home={target}", "--path", pattern, "--path", "docs"]
    met = pattern == "/docs/a/"
    code, _, stderr = run("restore", place, *words)
    assert code == (0 if met else 2)
    assert ("nothing there fits" in stderr) == (not met)
    assert target.exists() == met
    assert "\x1b" not in stderr


def test_a_path_that_one_of_two_trees_has(run: Run, site: Site, place: Path, tmp_path: Path) -> None:
    small_tree(site)
    photos = Tree(site, "photos")
    photos.file(b"c", b"photo")
    photos.cut()
    words = ["--tree", f"home={tmp_path / 'h'}", "--tree", f"photos={tmp_path / 'p'}", "--path", "c"]
    assert run("restore", place, *words)[0] == 0
    assert (tmp_path / "p/c").read_bytes() == b"photo"
    assert list((tmp_path / "h").iterdir()) == []


HOSTILE = [
    b"..",
    b"../outside",
    b"/etc/passwd",
    b"docs/../../outside",
    b"a\0b",
    b"b/below a file",
    b"x" * 256,
]


@pytest.mark.parametrize("path", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_names_end_it_before_anything_is_written(
    run: Run, site: Site, place: Path, tmp_path: Path, path: bytes
) -> None:
    home = small_tree(site)
    sound = name_added(home.tree, b"sound", file())
    site.say(Record("name+", home.tree + path, sound.value, critical=True))
    home.cut()
    (tmp_path / "within").mkdir()
    code, stdout, stderr = run("restore", place, "--tree", f"home={tmp_path / 'within' / 'to'}")
    assert (code, stdout) == (20, "")
    assert "the path" in stderr
    assert list((tmp_path / "within").iterdir()) == []


def test_a_verification_finds_names_that_no_restore_takes(run: Run, site: Site, place: Path) -> None:
    home = small_tree(site)
    home.cut()
    assert run("verify", place)[0] == 0
    home.add(b"b/below a file", file())
    home.cut(not_whole=[home.tree])
    assert run("verify", place)[0] == 0  # no restore takes it from there
    home.cut()
    code, stdout, _ = run("verify", place)
    assert code == 27
    assert "tree 'home' at 1.3" in stdout
    assert "it has names below it, and is no directory" in stdout


def test_more_names_in_one_object_than_the_limit(
    run: Run, site: Site, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = small_tree(site)
    home.cut()
    with monkeypatch.context() as patched:
        patched.setattr(limits, "INDEX_BYTES_MAX", 1 << 24)
        for number in range(20_000):
            home.add(b"f%d" % number, file())
        site.protect(home.cut())
    code, _, stderr = run("restore", place, "--tree", f"home={tmp_path / 'to'}")
    assert code != 0
    assert "index_raw has 2208946 bytes, and 1048576 are the most" in stderr
    assert not (tmp_path / "to").exists()


def test_a_link_and_a_name_through_it(run: Run, site: Site, place: Path, tmp_path: Path) -> None:
    home = small_tree(site)
    outside = tmp_path / "outside"
    outside.mkdir()
    home.add(b"way", Name(NameType.SYMLINK, target=os.fsencode(outside)))
    home.add(b"way/in", file())
    home.cut()
    assert run("restore", place, "--tree", f"home={tmp_path / 'to'}")[0] == 20
    assert not (tmp_path / "to").exists()
    assert list(outside.iterdir()) == []


def test_a_link_that_became_a_directory_is_not_followed(
    run: Run, site: Site, place: Path, tmp_path: Path
) -> None:
    """A restore over an older one, where the container itself laid the link."""
    home = Tree(site, "home")
    outside = tmp_path / "outside"
    outside.mkdir()
    home.add(b"way", Name(NameType.SYMLINK, 0o777, *home.names[b""][2:4], target=os.fsencode(outside)))
    home.cut()
    answer(run, "restore", place, "--tree", f"home={tmp_path / 'to'}")
    assert (tmp_path / "to" / "way").is_symlink()
    home.remove(b"way")
    home.add(b"way", directory())
    home.file(b"way/in", b"hello")
    second = home.cut()
    answer(run, "restore", place, "--tree", f"home={tmp_path / 'to'}")
    assert_same(tmp_path / "to", home.at[second])
    assert list(outside.iterdir()) == []


def test_a_disk_without_room(
    run: Run, site: Site, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_tree(site).cut()
    real = os.statvfs

    def small(path: os.PathLike[str] | str | int) -> os.statvfs_result:
        return os.statvfs_result((1, 1, *list(real(path))[2:4], 10_004, *list(real(path))[5:]))

    monkeypatch.setattr(os, "statvfs", small)
    code, _, stderr = run("restore", place, "--tree", f"home={tmp_path / 'to'}")
    assert code == 62
    assert "10005 bytes will be written and 10004 are free" in stderr


def test_a_tree_that_is_not_whole_yet(run: Run, site: Site, place: Path, tmp_path: Path) -> None:
    home = small_tree(site)
    first = home.cut()
    home.file(b"half", b"of it")
    home.cut(not_whole=[home.tree])
    made = answer(run, "restore", place, "--tree", f"home={tmp_path / 'to'}")
    assert made["point"] == "1.1"
    assert "passed over: home is not whole there" in made["notes"][0]
    assert_same(tmp_path / "to", home.at[first])
    assert run("restore", place, "--tree", f"home={tmp_path / 'to'}", "--at", "1.2")[0] == 13


# --- what is done ----------------------------------------------------------------------------------


def test_a_tree_beside_a_volume(run: Run, site: Site, place: Path, tmp_path: Path) -> None:
    disk = site.add_volume("disk", 1 << 20)
    home = small_tree(site)
    home._writes.append(write(disk, 4096, b"on disk"))
    cut = home.cut(marker="both")
    target = tmp_path / "disk.raw"
    options = [
        "--volume",
        "disk",
        "--target",
        target,
        "--tree",
        f"home={tmp_path / 'to'}",
        "--marker",
        "both",
    ]
    made = answer(run, "restore", place, *options)
    assert_same(tmp_path / "to", home.at[cut])
    assert target.read_bytes() == site.images[cut][disk]
    (tree,) = made["trees"]
    assert (tree["name"], tree["names"], tree["not_set"]) == ("home", 4, {})
    assert made["written_bytes"] == tree["written_bytes"] + 7


def test_stages_are_told(run: Run, site: Site, place: Path, tmp_path: Path) -> None:
    small_tree(site).cut()
    code, _, stderr = run("restore", place, "--json", "--tree", f"home={tmp_path / 'to'}")
    assert code == 0
    events = [json.loads(line) for line in stderr.splitlines() if line.startswith("{")]
    ended = [event for event in events if event["event"] == "stage-end"]
    assert [(event["name"], event["unit"], event["done"], event["total"]) for event in ended] == [
        ("metadata", "objects", 1, 1),
        ("metadata", "trees", 1, 1),
        ("namespace", "names", 4, 4),
        ("content", "requests", 1, 1),
    ]
    text = run("restore", place, "--tree", f"home={tmp_path / 'again'}")
    assert "stage 2 of 3, namespace: done, 4 of 4 names" in text[2]
    assert "restored home to" in text[1]


def test_a_part_and_nothing_more(run: Run, site: Site, place: Path, tmp_path: Path) -> None:
    small_tree(site).cut()
    options = ["--tree", f"home={tmp_path / 'to'}", "--path", "docs/*"]
    assert answer(run, "restore", place, *options)["trees"][0]["names"] == 3
    assert not (tmp_path / "to" / "b").exists()
    (tmp_path / "to" / "stranger").write_bytes(b"")
    made = answer(run, "restore", place, "--tree", f"home={tmp_path / 'to'}", "--delete", "--checksum")
    assert made["trees"][0]["removed"] == 1
    assert sorted(os.listdir(tmp_path / "to")) == ["b", "docs"]


def test_points_tell_of_trees(run: Run, site: Site, place: Path) -> None:
    home = small_tree(site)
    home.cut(not_whole=[home.tree])
    home.cut(skew=[SkewedFile(home.tree, b"b", 1, 2)])
    first, second = answer(run, "points", place)["points"]
    assert (first["trees"], first["skewed"]) == ([{"name": "home", "whole": False}], False)
    assert (second["trees"], second["skewed"], second["skewed_files"]) == (
        [{"name": "home", "whole": True}],
        True,
        1,
    )
    text = run("points", place)[1]
    assert "(home/)" in text
    assert "sent, skewed" in text


def test_a_skewed_point_says_so(run: Run, site: Site, place: Path, tmp_path: Path) -> None:
    home = small_tree(site)
    home.cut(skew=[SkewedFile(home.tree, b"b", 1, 2)])
    made = answer(run, "restore", place, "--tree", f"home={tmp_path / 'to'}")
    assert made["notes"] == ["skewed: 1 file changed while this cut was taken: 'b'"]


def test_names_in_objects_are_shown(run: Run, site: Site, place: Path) -> None:
    home = small_tree(site)
    home.cut()
    records = answer(run, "show", place, segment_key(1, 1))["index"]["records"]
    paths = [record["path"] for record in records if record["name"] == "name+"]
    assert paths == ["''", "'docs'", "'docs/a'", "'b'"]


def test_a_tree_is_rescued(run: Run, site: Site, place: Path, tmp_path: Path) -> None:
    home = small_tree(site)
    cut = home.cut()
    shutil.rmtree(place / "domain")
    made = answer(run, "rescue", place, "--tree", f"home={tmp_path / 'to'}")
    assert_same(tmp_path / "to", home.at[cut])
    assert made["trees"][0]["not_set"] == {}
    assert "home/" in run("rescue", place)[1]
    wrong = ["--tree", f"home={tmp_path / 'no'}", "--on-damage", "map", "--delete"]
    assert run("rescue", place, *wrong)[0] == 2


@pytest.fixture
def open_place() -> Iterator[Path]:
    """A directory that anybody can reach, unlike those of pytest."""
    with tempfile.TemporaryDirectory() as path:
        os.chmod(path, 0o755)
        yield Path(path)


def test_somebody_without_rights_is_told_what_could_not_be_set(open_place: Path) -> None:
    place, target = open_place / "store", open_place / "target"
    place.mkdir()
    target.mkdir()
    site = Site(DirectoryStore(place), seed=8)
    site.begin_epoch()
    roots = {"uid": 0, "gid": 0}
    home = Tree(site, "home", root=directory(**roots))
    home.add(b"docs", directory(**roots))
    home.file(b"docs/a", b"hello", **roots)
    home.add(b"null", file(device=(1, 3), **roots)._replace(type=NameType.CHAR))
    home.file(b"root's", b"x", mode=0o4755, **roots)
    home.cut()
    for path in (target, place, *place.rglob("*")):
        path.chmod(0o777)
    failed = as_nobody(place, target / "to")
    assert failed.returncode == 3, failed.stderr
    told = json.loads(failed.stdout)["trees"][0]
    assert told["not_set"] == {"node": 1, "owner": 4, "mode": 1}
    assert {(entry["shown"], entry["what"]) for entry in told["not_set_first"]} >= {
        ("'null'", "node"),
        ('"root\'s"', "owner"),
        ('"root\'s"', "mode"),
    }
    status = os.stat(target / "to" / "root's")
    assert (status.st_mode & 0o7777, status.st_mtime_ns) == (0o755, MTIME_NS)
    assert status.st_uid != 0
    assert as_nobody(place, target / "again", "--best-effort").returncode == 0


def test_somebody_without_rights_restores_again_what_is_closed_to_himself(open_place: Path) -> None:
    place, target = open_place / "store", open_place / "target"
    place.mkdir()
    target.mkdir()
    site = Site(DirectoryStore(place), seed=8)
    site.begin_epoch()
    ids = {"uid": NOBODY, "gid": NOBODY} if os.geteuid() == 0 else {}
    home = Tree(site, "home", root=directory(mode=0o500, **ids))
    for name, mode in ((b"none", 0), (b"none/in", 0o111), (b"read", 0o400), (b"both", 0o2500)):
        home.add(name, directory(mode=mode, **ids))
        home.file(name + b"/file", b"content" * 900, mode=0, **ids)
    home.cut()
    for path in (target, place, *place.rglob("*")):
        path.chmod(0o777)
    to = target / "to"
    for options in ((), (), ("--checksum",), ("--delete",), ("--delete", "--checksum")):
        done = as_nobody(place, to, *options)
        assert done.returncode == 0, (options, done.stderr)
        assert stat.S_IMODE(to.stat().st_mode) == 0o500
    home.write(b"none/in/file", b"other" * 2000, mtime_ns=7)
    home.remove(b"both/file")
    home.remove(b"both")
    home.rename(b"read", b"none/new")
    place_now = home.cut()
    for path in place.rglob("*"):
        path.chmod(0o777)
    done = as_nobody(place, to, "--delete")
    assert done.returncode == 0, done.stderr
    if os.geteuid() == 0:
        assert_same(to, home.at[place_now])


@pytest.mark.needs(*(() if os.geteuid() == 0 else ("root, who alone can be somebody else",)))
def test_what_is_another_users_is_named(open_place: Path) -> None:
    place, target = open_place / "store", open_place / "target"
    place.mkdir()
    (target / "to" / "theirs").mkdir(parents=True, mode=0o755)
    site = Site(DirectoryStore(place), seed=8)
    site.begin_epoch()
    home = Tree(site, "home")
    home.add(b"theirs", directory())
    home.file(b"theirs/a", b"hello")
    home.cut()
    for path in (target, target / "to", place, *place.rglob("*")):
        path.chmod(0o777)
    done = as_nobody(place, target / "to")
    assert done.returncode == AccessDenied.exit_code
    assert "Permission denied: 'a'" in done.stderr


AS_NOBODY = f"""
import contextlib, io, os, sys
from rehydrate.cli.main import main
arguments, sys.argv[1:] = sys.argv[1:], ["restore", sys.argv[2], "--tree", "home=/proc/nowhere"]
with contextlib.redirect_stderr(io.StringIO()):
    main()  # what is needed is read while we still may
if os.geteuid() == 0:
    os.setgroups([])
    os.setgid({NOBODY})
    os.setuid({NOBODY})
sys.argv[1:] = arguments
sys.exit(main())
"""


def as_nobody(place: Path, target: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """The command as a user without rights runs it."""
    arguments = ["restore", str(place), "--json", "--tree", f"home={target}", *options]
    return subprocess.run(
        [sys.executable, "-c", AS_NOBODY, *arguments],
        env={"CDP_PASSPHRASE": PASSPHRASE, "PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        check=False,
    )
