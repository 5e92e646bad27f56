"""`restore --tree --on-damage map`: what is left is restored, the rest is listed and does not look whole."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any, Final

import pytest

from cdp_container.errors import (
    AccessDenied,
    DamagedObject,
    LimitExceeded,
    MissingObject,
    NoSuchVolume,
    RestoredWithDamage,
    TargetUnsuitable,
    UsageError,
)
from cdp_container.format.keys import segment_key
from cdp_container.format.names import ROOT
from cdp_container.format.place import Place
from cdp_container.store.directory import DirectoryStore
from rehydrate import tree_damage, tree_plan
from rehydrate.damage import MAP_HINT
from tests.containers import Site
from tests.trees import MTIME_NS, Tree, directory, found_in
from tests.unit.rehydrate.conftest import Run, answer, damage
from tests.unit.rehydrate.trees import assert_same
from tests.writes import write

BLOCK: Final = 4096
FIRST: Final = segment_key(1, 1)


@pytest.fixture
def site(place: Path) -> Site:
    site = Site(DirectoryStore(place), seed=9)
    site.begin_epoch()
    return site


def content(site: Site, blocks: float) -> bytes:
    return site.rng.randbytes(int(blocks * BLOCK))


class Story:
    """Three cuts, one new file each, so that no frame holds content of two; `docs/b` is `hard` too.

    Its segment is too large to be read whole for its head: damage of a frame is found when that is fetched.
    """

    def __init__(self, site: Site) -> None:
        self.site = site
        self.home = Tree(site, "home")
        self.home.add(b"docs", directory())
        self.home.file(b"docs/a", content(site, 2.5))
        self.home.cut()
        self.home.file(b"docs/b", content(site, 30.1))
        self.home.link(b"docs/b", b"hard")
        self.home.cut()
        self.home.file(b"c", content(site, 20))
        self.last = self.home.cut()
        site.protect(self.last)

    def holds(self, path: bytes) -> bytes:
        return self.home.at[self.last].content(path)


@pytest.fixture
def story(site: Site) -> Story:
    return Story(site)


def mapped(run: Run, verb: str, place: Path, target: Path, *options: object) -> dict[str, Any]:
    """What the map says after a restore despite damage."""
    code, stdout, stderr = run(
        verb, place, "--tree", f"home={target}", "--on-damage", "map", "--json", *options
    )
    assert code == RestoredWithDamage.exit_code, stderr
    beside = target.with_name("to.damage.json")
    assert json.loads(stdout)["damage_maps"] == [str(beside)]
    assert str(beside) in stderr
    members: dict[str, Any] = json.loads(beside.read_bytes())
    assert (members["tree"], members["target"]) == ("home", str(target))
    for kind in ("lost", "doubtful", "beyond"):
        listed = sum(part["length"] for part in members["damage"] if part["kind"] == kind)
        assert listed + members["unlisted_bytes"] * (kind == "doubtful") == members[f"{kind}_bytes"]
    assert {part["path"] for part in members["damage"]} == {file["path"] for file in members["files"]}
    return members


def parts(members: dict[str, Any], kind: str) -> list[tuple[bytes, int, int]]:
    return [
        (bytes.fromhex(part["path"]), part["offset"], part["length"])
        for part in members["damage"]
        if part["kind"] == kind
    ]


def times(target: Path) -> dict[bytes, int]:
    return {path: name.mtime_ns for path, name in found_in(target)[0].items()}


# --- frames ----------------------------------------------------------------------------------------


def test_a_restore_that_stops_names_files_and_the_way_on(
    run: Run, story: Story, place: Path, tmp_path: Path
) -> None:
    damage(place, segment_key(1, 2))
    code, _, stderr = run("restore", place, "--tree", f"home={tmp_path / 'to'}")
    assert code == DamagedObject.exit_code
    assert "content of 'hard' is in what was asked for" in stderr
    assert MAP_HINT in stderr.splitlines()[-1]


@pytest.mark.parametrize(
    ("verb", "how"), [("restore", "flipped"), ("restore", "cut short"), ("rescue", "flipped")]
)
def test_what_a_damaged_frame_held_is_zeros_and_has_no_time(
    run: Run, story: Story, place: Path, tmp_path: Path, verb: str, how: str
) -> None:
    path, target = place / segment_key(1, 2), tmp_path / "to"
    sound = path.read_bytes()
    if how == "flipped":
        damage(place, segment_key(1, 2))
    else:
        path.write_bytes(sound[:-200])
    if verb == "rescue":
        shutil.rmtree(place / "domain")
    members = mapped(run, verb, place, target)
    length = len(story.holds(b"docs/b"))
    assert parts(members, "lost") == [(b"hard", 0, length)]
    assert members["files"] == [
        {
            "path": b"hard".hex(),
            "shown": "'hard'",
            "links": [b"docs/b".hex()],
            "size_bytes": length,
            "mtime_ns": MTIME_NS,
        }
    ]
    assert members["damage"][0]["object"] == segment_key(1, 2)
    assert "frame" in members["damage"][0]["why"]
    assert (target / "hard").read_bytes() == bytes(length)
    assert (target / "docs" / "b").samefile(target / "hard")
    for name in (b"docs/a", b"c"):
        assert (target / os.fsdecode(name)).read_bytes() == story.holds(name)
    told = times(target)
    assert {path for path, at in told.items() if at != MTIME_NS} == {b"docs/b", b"hard"}
    assert (target / "hard").stat().st_mode & 0o7777 == 0o644

    again = mapped(run, verb, place, target)  # which believes no time
    assert parts(again, "lost") == parts(members, "lost")
    path.unlink()
    path.write_bytes(sound)
    code, _, stderr = run(verb, place, "--tree", f"home={target}", "--on-damage", "map")
    if verb == "rescue":  # nobody can prove that there was nothing newer
        assert code == RestoredWithDamage.exit_code
        assert json.loads((tmp_path / "to.damage.json").read_bytes())["damage"] == []
    else:
        assert code == 0, stderr
        assert f"removed {tmp_path / 'to.damage.json'}" in stderr
        assert not (tmp_path / "to.damage.json").exists()
    assert_same(target, story.home.at[story.last])


def test_over_what_is_there_lost_bytes_become_zeros(
    run: Run, story: Story, place: Path, tmp_path: Path
) -> None:
    target = tmp_path / "to"
    answer(run, "restore", place, "--tree", f"home={target}")
    for name in ("docs/b", "c"):
        os.utime(target / name, ns=(0, 0))
    altered = bytearray(story.holds(b"docs/b"))
    altered[BLOCK + 7] ^= 1
    (target / "docs" / "b").write_bytes(altered)
    damage(place, segment_key(1, 2))
    members = mapped(run, "restore", place, target)
    length = len(altered)
    assert parts(members, "lost") == [(b"hard", BLOCK, BLOCK), (b"hard", 30 * BLOCK, length - 30 * BLOCK)]
    expected = bytearray(story.holds(b"docs/b"))
    expected[BLOCK : 2 * BLOCK] = bytes(BLOCK)
    expected[30 * BLOCK :] = bytes(length - 30 * BLOCK)  # no checksum tells whether it was right
    assert (target / "hard").read_bytes() == expected
    assert (target / "c").stat().st_mtime_ns == MTIME_NS


def test_a_large_file_remembers_what_its_first_window_lost(
    run: Run, site: Site, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = Tree(site, "home")
    home.file(b"large", bytes(64 * BLOCK))
    space = home.names[b"large"].space
    assert space is not None
    home.cut()
    pieces = [content(site, 1) for _ in range(4)]
    for number, data in enumerate(pieces):
        site.cut([write(space, number * 16 * BLOCK, data)])
    monkeypatch.setattr(tree_plan, "TOGETHER_EXTENTS_MAX", 0)
    monkeypatch.setattr(
        tree_plan, "windows", lambda *_: ((at * BLOCK, (at + 16) * BLOCK) for at in range(0, 64, 16))
    )
    damage(place, segment_key(1, 2))
    members = mapped(run, "restore", place, tmp_path / "to")
    assert parts(members, "lost") == [(b"large", 0, BLOCK)]
    expected = b"".join([bytes(16 * BLOCK), *(data + bytes(15 * BLOCK) for data in pieces[1:])])
    assert (tmp_path / "to" / "large").read_bytes() == expected
    assert times(tmp_path / "to")[b"large"] != MTIME_NS


def test_beside_a_volume_both_are_mapped(run: Run, site: Site, place: Path, tmp_path: Path) -> None:
    disk = site.add_volume("disk", 64 * BLOCK)
    home = Tree(site, "home")
    home.file(b"a", content(site, 1))
    home._writes.append(write(disk, 0, content(site, 1)))
    home.cut()
    damage(place, FIRST)
    options = ["--volume", "disk", "--target", tmp_path / "disk.raw", "--tree", f"home={tmp_path / 'to'}"]
    code, stdout, stderr = run("restore", place, *options, "--on-damage", "map", "--json")
    assert code == RestoredWithDamage.exit_code
    assert json.loads(stdout)["damage_maps"] == [
        str(tmp_path / "disk.raw.damage.json"),
        str(tmp_path / "to.damage.json"),
    ]
    assert f"bytes lost: {2 * BLOCK}, doubtful: 0" in stderr


# --- segments that are gone ------------------------------------------------------------------------


def test_what_a_lost_segment_may_have_written_is_doubtful(
    run: Run, site: Site, place: Path, tmp_path: Path
) -> None:
    home = Tree(site, "home")
    home.file(b"old", content(site, 3))
    home.file(b"rewritten", content(site, 2))
    home.file(b"part", content(site, 4.5))
    home.cut()
    old, lost = home.at[max(home.at)], home.file(b"lost", content(site, 1))
    home.write(b"old", content(site, 3))
    home.cut()
    home.write(b"rewritten", content(site, 2))
    space = home.names[b"part"].space
    assert space is not None
    home._writes.append(write(space, BLOCK, content(site, 1)))
    last = home.cut()
    site.protect(last)
    (place / segment_key(1, 2)).unlink()
    target = tmp_path / "to"
    assert run("restore", place, "--tree", f"home={target}")[0] == MissingObject.exit_code
    members = mapped(run, "restore", place, target)
    assert parts(members, "doubtful") == [
        (b"old", 0, 3 * BLOCK),
        (b"part", 0, BLOCK),
        (b"part", 2 * BLOCK, int(2.5 * BLOCK)),
    ]
    assert parts(members, "lost") == parts(members, "beyond") == []
    assert any("names of trees may have been added" in doubt for doubt in members["doubts"])
    assert (target / "old").read_bytes() == old.content(b"old")
    assert (target / "rewritten").read_bytes() == home.at[last].content(b"rewritten")
    assert not (target / "lost").exists(), lost
    assert {path for path, at in times(target).items() if at != MTIME_NS} == {b"old", b"part"}


def test_a_directory_that_only_a_lost_segment_named_is_made_up(
    run: Run, site: Site, place: Path, tmp_path: Path
) -> None:
    home = Tree(site, "home")
    home.file(b"was", b"a file")
    home.cut()
    home.remove(b"was")
    for name in (b"was", b"new", b"new/deep"):
        home.add(name, directory())
    home.cut()
    home.file(b"new/deep/in", b"deep content")
    home.file(b"was/in", b"other content")
    site.protect(home.cut())
    (place / segment_key(1, 2)).unlink()
    members = mapped(run, "restore", place, tmp_path / "to")
    assert (tmp_path / "to" / "new" / "deep" / "in").read_bytes() == b"deep content"
    assert (tmp_path / "to" / "was" / "in").read_bytes() == b"other content"
    assert (tmp_path / "to" / "new").stat().st_mode & 0o7777 == 0o700
    assert any("made up: 3, the first: 'new', 'new/deep', 'was'" in doubt for doubt in members["doubts"])


def test_links_that_disagree_behind_a_lost_segment(run: Run, site: Site, place: Path, tmp_path: Path) -> None:
    home = Tree(site, "home")
    name = home.file(b"one", content(site, 1))
    home.link(b"one", b"two")
    home.cut()
    site.cut()
    home.add(b"two", name._replace(mtime_ns=MTIME_NS + 5, mode=0o600))
    site.protect(home.cut())
    (place / segment_key(1, 2)).unlink()
    mapped(run, "restore", place, tmp_path / "to")
    assert (tmp_path / "to" / "one").samefile(tmp_path / "to" / "two")
    assert (tmp_path / "to" / "one").stat().st_mode & 0o7777 == 0o600


def test_a_tree_whose_root_is_lost_gets_one(run: Run, site: Site, place: Path, tmp_path: Path) -> None:
    home = Tree(site, "home")
    home.cut()
    root = home.names.pop(ROOT)
    home.file(b"a", b"content")
    site.protect(home.cut())
    site.cut()
    home.names[ROOT] = root
    path = place / FIRST
    path.unlink()
    code, _, stderr = run("restore", place, "--tree", f"home={tmp_path / 'to'}", "--on-damage", "map")
    assert code == NoSuchVolume.exit_code, stderr  # nothing names the tree any more
    assert not (tmp_path / "to").exists()


def test_what_lies_past_the_last_known_size_is_told(
    run: Run, site: Site, place: Path, tmp_path: Path
) -> None:
    home = Tree(site, "home")
    home.file(b"grew", content(site, 1))
    home.cut()
    home.write(b"grew", content(site, 4))
    home.cut()
    space = home.names[b"grew"].space
    assert space is not None
    site.cut([write(space, 2 * BLOCK, content(site, 1))])
    site.protect(Place(1, 3, 3))
    (place / segment_key(1, 2)).unlink()
    members = mapped(run, "restore", place, tmp_path / "to")
    assert parts(members, "beyond") == [(b"grew", 2 * BLOCK, BLOCK)]
    assert (tmp_path / "to" / "grew").stat().st_size == BLOCK


def test_more_doubtful_files_than_are_listed_are_counted(
    run: Run, site: Site, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = Tree(site, "home")
    for number in range(7):
        home.file(b"f%d" % number, content(site, 1))
    home.cut()
    site.cut()
    site.protect(site.cut())
    (place / segment_key(1, 2)).unlink()
    monkeypatch.setattr(tree_damage, "PARTS_MAX", 3)
    members = mapped(run, "restore", place, tmp_path / "to")
    assert members["doubtful_bytes"] == 7 * BLOCK
    assert (len(members["damage"]), members["unlisted_files"], members["unlisted_bytes"]) == (3, 4, 4 * BLOCK)
    assert all(at != MTIME_NS for path, at in times(tmp_path / "to").items() if path)


def test_more_lost_parts_than_a_map_takes_end_it(
    run: Run, site: Site, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = Tree(site, "home")
    for number in range(3):
        home.file(b"f%d" % number, content(site, 1))
    home.cut()
    damage(place, FIRST)
    monkeypatch.setattr(tree_damage, "PARTS_MAX", 2)
    code, _, stderr = run("restore", place, "--tree", f"home={tmp_path / 'to'}", "--on-damage", "map")
    assert code == LimitExceeded.exit_code
    assert "--path" in stderr
    assert all(at != MTIME_NS for path, at in times(tmp_path / "to").items() if path)


# --- what is refused, and what stays ---------------------------------------------------------------


def test_nothing_is_deleted_that_damage_may_only_hide(
    run: Run, story: Story, place: Path, tmp_path: Path
) -> None:
    options = ["--tree", f"home={tmp_path / 'to'}", "--on-damage", "map", "--delete"]
    code, _, stderr = run("restore", place, *options)
    assert code == UsageError.exit_code
    assert "damage may hide names" in stderr


def test_a_part_never_replaces_a_map_of_more(run: Run, story: Story, place: Path, tmp_path: Path) -> None:
    target = tmp_path / "to"
    damage(place, segment_key(1, 2))
    mapped(run, "restore", place, target)
    before = (tmp_path / "to.damage.json").read_bytes()
    part = ["--tree", f"home={target}", "--path", "c"]
    assert run("restore", place, *part, "--on-damage", "map")[0] == TargetUnsuitable.exit_code
    assert run("restore", place, *part)[0] == 0
    assert (tmp_path / "to.damage.json").read_bytes() == before


def test_a_sound_part_of_a_damaged_tree_is_no_damage(
    run: Run, story: Story, place: Path, tmp_path: Path
) -> None:
    damage(place, segment_key(1, 2))
    options = ["--tree", f"home={tmp_path / 'to'}", "--path", "docs/a", "--on-damage", "map"]
    assert run("restore", place, *options)[0] == 0
    assert (tmp_path / "to" / "docs" / "a").read_bytes() == story.holds(b"docs/a")
    assert not (tmp_path / "to.damage.json").exists()


def test_a_target_beside_which_no_map_can_stand(
    run: Run, story: Story, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ["--on-damage", "map", "--tree"]
    assert run("restore", place, *options, "home=/")[0] == TargetUnsuitable.exit_code
    monkeypatch.setattr(os, "access", lambda *_: False)
    code, _, stderr = run("restore", place, *options, f"home={tmp_path / 'to'}")
    assert code == AccessDenied.exit_code, stderr
    assert "to.damage.json" in stderr
