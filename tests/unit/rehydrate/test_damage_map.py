"""`--on-damage map`: everything that is left is restored, and the map lists exactly what is not."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, Final

import pytest

from cdp_container.clock import SystemClock
from cdp_container.errors import DamagedObject, MissingObject, NotFound, RestoredWithDamage, TargetNotEmpty
from cdp_container.format.keys import segment_key
from cdp_container.format.place import Place
from cdp_container.store.directory import DirectoryStore
from rehydrate import keeper as keeping
from rehydrate import plan as planning
from rehydrate.cli import targets
from rehydrate.container import Secret, open_container
from rehydrate.damage import MAP_HINT, remove_map
from rehydrate.plan import Choice
from rehydrate.points import plan_restore
from rehydrate.restore import Source, restore_volume
from rehydrate.resume import Lost, read_progress
from rehydrate.target import open_target
from tests.containers import PASSPHRASE, Site, discard, write
from tests.unit.rehydrate.conftest import CountingStore, Run, damage

pytestmark = pytest.mark.slow

BLOCK: Final = 512
BLOCKS: Final = 64
SIZE: Final = BLOCK * BLOCKS
CUTS: Final = 10
NOBODY: Final = 0


class Model:
    """A container of one volume, and of which cut each block is at the end; NOBODY: never written."""

    def __init__(self, site: Site, seed: int) -> None:
        self.site = site
        rng = random.Random(seed)
        self.disk = site.add_volume("disk", SIZE)
        self.owners = [[NOBODY] * BLOCKS]
        site.begin_epoch()
        for number in range(1, CUTS + 1):
            owner, writes = list(self.owners[-1]), []
            for _ in range(rng.randrange(1, 4)):
                first = rng.randrange(BLOCKS)
                count = rng.randrange(1, min(BLOCKS - first, 12) + 1)
                is_data = rng.random() < 0.8
                data = site.rng.randbytes(count * BLOCK)
                at = first * BLOCK
                writes.append(
                    write(self.disk, at, data) if is_data else discard(self.disk, at, count * BLOCK)
                )
                owner[first : first + count] = [number if is_data else -number] * count
            site.cut(writes)
            self.owners.append(owner)
        site.protect(max(site.images))

    def content(self, cut: int = CUTS) -> bytes:
        return self.site.images[Place(1, cut, cut)][self.disk]

    def written_by(self, cut: int) -> set[int]:
        """The blocks whose data is of this cut at the end."""
        return {block for block, owner in enumerate(self.owners[-1]) if owner == cut}

    def newer_than(self, cut: int) -> set[int]:
        return {block for block, owner in enumerate(self.owners[-1]) if abs(owner) > cut}

    def without(self, cut: int, block: int) -> bytes:
        """What a block would hold, had there been no such cut; only for blocks that nothing newer wrote."""
        return self.content(cut - 1)[block * BLOCK : (block + 1) * BLOCK] if cut > 1 else bytes(BLOCK)


@pytest.fixture(params=range(4))
def model(request: pytest.FixtureRequest, place: Path) -> Model:
    return Model(Site(DirectoryStore(place), seed=request.param), seed=request.param)


def blocks_in(offset: int, length: int) -> range:
    return range(offset // BLOCK, (offset + length) // BLOCK)


def blocks_of(members: dict[str, Any], kind: str) -> set[int]:
    """The blocks that a map lists, each once."""
    found = [
        block
        for part in members["damage"]
        if part["kind"] == kind
        for block in blocks_in(part["offset"], part["length"])
    ]
    assert len(found) == len(set(found))
    assert len(found) * BLOCK == members[f"{kind}_bytes"]
    return set(found)


def mapped(run: Run, place: Path, out: Path) -> tuple[bytes, dict[str, Any]]:
    """What was restored despite damage, and the map."""
    target = out / "disk.raw"
    code, stdout, stderr = run("restore", place, "--target", target, "--on-damage", "map", "--json")
    assert code == RestoredWithDamage.exit_code, stderr
    assert json.loads(stdout)["damage_maps"] == [f"{target}.damage.json"]
    assert f"{target}.damage.json" in stderr
    members = json.loads((out / "disk.raw.damage.json").read_bytes())
    assert (members["volume"], members["point"]) == ("disk", f"1.{CUTS}")
    assert sorted(path.name for path in out.iterdir()) == ["disk.raw", "disk.raw.damage.json"]
    return target.read_bytes(), members


def each_block(content: bytes) -> Iterator[tuple[int, bytes]]:
    assert len(content) == SIZE
    for block in range(BLOCKS):
        yield block, content[block * BLOCK : (block + 1) * BLOCK]


@pytest.mark.parametrize("how", ["flipped", "cut short"])
def test_exactly_what_a_damaged_frame_held_is_lost(
    how: str, run: Run, model: Model, place: Path, out: Path
) -> None:
    cut = next(cut for cut in range(1, CUTS + 1) if model.written_by(cut))
    key = segment_key(1, cut)
    if how == "flipped":
        damage(place, key, -200)
    else:
        data = (place / key).read_bytes()
        (place / key).write_bytes(data[:-200])
    code, _, stderr = run("restore", place, "--target", out / "disk.raw")
    assert code == DamagedObject.exit_code
    assert MAP_HINT in stderr.splitlines()[-1]
    content, members = mapped(run, place, out)
    assert blocks_of(members, "lost") == model.written_by(cut)
    assert blocks_of(members, "doubtful") == set()
    assert {part["object"] for part in members["damage"]} == {key}
    assert all("frame" in part["why"] for part in members["damage"])
    for (block, found), (_, expected) in zip(each_block(content), each_block(model.content()), strict=True):
        assert found == (bytes(BLOCK) if block in model.written_by(cut) else expected), block


@pytest.mark.parametrize("cut", [1, 4, CUTS - 1])
@pytest.mark.parametrize("how", ["deleted", "cut in its head", "not an object"])
def test_what_a_lost_segment_may_have_written_is_doubtful(
    cut: int, how: str, run: Run, model: Model, place: Path, out: Path
) -> None:
    path = place / segment_key(1, cut)
    data = path.read_bytes()
    path.unlink()
    if how != "deleted":
        path.write_bytes(data[:400] if how == "cut in its head" else b"nothing that we know")
    code, _, stderr = run("restore", place, "--target", out / "disk.raw")
    assert code == (MissingObject if how == "deleted" else DamagedObject).exit_code
    assert (MAP_HINT in stderr.splitlines()[-1]) == (cut > 1)
    if cut == 1:  # it names the volume
        assert run("restore", place, "--target", out / "disk.raw", "--on-damage", "map")[0] != 0
        assert list(out.iterdir()) == []
        return
    content, members = mapped(run, place, out)
    sure = model.newer_than(cut)
    assert blocks_of(members, "doubtful") == set(range(BLOCKS)) - sure
    assert {part["object"] for part in members["damage"]} == {segment_key(1, cut)}
    for (block, found), (_, expected) in zip(each_block(content), each_block(model.content()), strict=True):
        assert found == (expected if block in sure else model.without(cut, block)), block


def test_without_damage_there_is_no_map(run: Run, model: Model, place: Path, out: Path) -> None:
    assert run("restore", place, "--target", out / "disk.raw", "--on-damage", "map")[0] == 0
    assert (out / "disk.raw").read_bytes() == model.content()
    assert [path.name for path in out.iterdir()] == ["disk.raw"]


def test_a_broken_chain_is_refused_even_so(run: Run, model: Model, place: Path, out: Path) -> None:
    """What was put in the place of a segment may say anything."""
    other = Model(Site(DirectoryStore(out), seed=17), seed=17)
    other.site.domain = model.site.domain
    record = next((place / "domain" / "epochs").iterdir())
    record.write_bytes(next((out / "domain" / "epochs").iterdir()).read_bytes())
    target = place.parent / "disk.raw"
    assert run("restore", place, "--target", target, "--on-damage", "map")[0] >= 20
    assert MAP_HINT not in run("restore", place, "--target", target)[2]
    assert not target.exists()


@pytest.mark.parametrize("options", [(), ("--on-damage", "map")])
def test_a_whole_restore_removes_the_map_of_an_earlier_one(
    options: tuple[str, ...], run: Run, model: Model, place: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key, target = segment_key(1, CUTS - 1), out / "disk.raw"
    data = (place / key).read_bytes()
    (place / key).unlink()
    mapped(run, place, out)
    stale = out / "disk.raw.damage.json"
    again = ("restore", place, "--target", target, "--force")
    assert run(*again)[0] == MissingObject.exit_code
    assert stale.exists(), "what stands there is still what the map tells of"
    (place / key).write_bytes(data)

    def after_finish(path: Path) -> Path | None:
        assert target.read_bytes() == model.content(), "the map goes only when the target is whole"
        assert (out / "disk.raw.partial.progress").exists(), "else nobody comes here again after a crash"
        return remove_map(path)

    monkeypatch.setattr(targets, "remove_map", after_finish)
    code, _, stderr = run(*again, *options)
    assert code == 0, stderr
    assert f"removed {stale}" in stderr
    assert [path.name for path in out.iterdir()] == ["disk.raw"]


@pytest.mark.parametrize("content", [b"", b"my notes", b"[]", b'{"damage": []}', b'{"target": "x"}', None])
def test_what_is_no_map_is_left(
    content: bytes | None, run: Run, model: Model, place: Path, out: Path
) -> None:
    beside = out / "disk.raw.damage.json"
    if content is None:
        beside.mkdir()
    else:
        beside.write_bytes(content)
    assert run("restore", place, "--target", out / "disk.raw")[0] == 0
    assert beside.exists()
    assert content is None or beside.read_bytes() == content


class Torn(CountingStore):
    """A store in which objects end early, or are gone, once the plan is made."""

    ends_at: dict[str, int] | None = None

    def get_range(self, key: str, start: int, length: int) -> bytes:
        data = super().get_range(key, start, length)
        end = (self.ends_at or {}).get(key)
        if end is None:
            return data
        if end == 0:
            raise NotFound(f"read {key}", "it is gone")
        return data[: max(0, end - start)]


@pytest.mark.parametrize("gone", [True, False])
def test_an_object_that_goes_meanwhile_is_lost_as_far_as_it_went(
    gone: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keeping, "KEEP_BYTES", 1)
    monkeypatch.setattr(planning, "GAP_BYTES_MAX", 1 << 30)
    store = Torn(SystemClock())
    site = Site(store)
    disk = site.add_volume("disk", 1 << 20)
    site.begin_epoch()
    place = site.cut([write(disk, 0, site.rng.randbytes(1 << 20))])
    container = open_container(store, Secret(PASSPHRASE))
    with closing(container.gather(container.history.everything())) as contents:
        (plan,) = plan_restore(container, contents, Choice(), []).volumes
        (head,) = contents.objects
        store.ends_at = {head.key: 0 if gone else head.frame_range(2)[0] + 100}
        source, path = Source(store, container.keys, contents), tmp_path / "disk.raw"
        told: list[tuple[Lost, ...]] = []
        with open_target(path, 1 << 20, 0, False) as target:
            done = restore_volume(source, plan, target, lambda _: None, told.append)
    (lost,) = told
    sound = 0 if gone else 2 * (256 << 10)
    assert path.read_bytes() == site.images[place][disk][:sound] + bytes((1 << 20) - sound)
    assert sum(part.length for part in lost) == done.lost_bytes == (1 << 20) - sound
    assert done.write_bytes == sound
    assert lost[0].offset == sound


@pytest.mark.parametrize("repaired", [True, False])
def test_an_interrupted_one_remembers_what_was_lost(
    repaired: bool, run: Run, model: Model, place: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(planning, "FETCH_BYTES_MAX", 1)
    monkeypatch.setattr(keeping, "KEEP_BYTES", 1)
    cuts = [cut for cut in range(1, CUTS + 1) if model.written_by(cut)][:2]
    damaged = {place / segment_key(1, cut): (place / segment_key(1, cut)).read_bytes() for cut in cuts}
    for path in damaged:
        damage(path.parent, path.name, -200)
    real = DirectoryStore.get_range

    def dies_at_the_last(self: DirectoryStore, key: str, start: int, length: int) -> bytes:
        if key == segment_key(1, cuts[1]) and start > 0:  # damaged objects come last
            raise KeyboardInterrupt
        return real(self, key, start, length)

    arguments = ("restore", place, "--target", out / "disk.raw")
    with monkeypatch.context() as patched:
        patched.setattr(DirectoryStore, "get_range", dies_at_the_last)
        assert run(*arguments, "--on-damage", "map")[0] == 130
    kept = read_progress(out / "disk.raw")
    assert kept is not None
    assert {block for part in kept.done.lost for block in blocks_in(part.offset, part.length)} <= (
        model.written_by(cuts[0])
    )
    if repaired:
        for path, data in damaged.items():
            path.write_bytes(data)
        if kept.done.lost:
            code, _, stderr = run(*arguments)
            assert code == TargetNotEmpty.exit_code
            assert "--on-damage map goes on with it" in stderr
        assert run(*arguments, "--on-damage", "map")[0] == 0
        assert (out / "disk.raw").read_bytes() == model.content()
    else:
        content, members = mapped(run, place, out)
        lost = model.written_by(cuts[0]) | model.written_by(cuts[1])
        assert blocks_of(members, "lost") == lost
        for (block, found), (_, expected) in zip(
            each_block(content), each_block(model.content()), strict=True
        ):
            assert found == (bytes(BLOCK) if block in lost else expected), block


def test_damage_behind_the_head_of_what_names_the_volume_can_be_mapped(
    run: Run, model: Model, place: Path, out: Path
) -> None:
    key = segment_key(1, 1)
    data = (place / key).read_bytes()
    (place / key).write_bytes(data[:-1])
    target = ("--target", out / "disk.raw")
    code, _, stderr = run("restore", place, *target)
    assert code == DamagedObject.exit_code
    assert MAP_HINT in stderr.splitlines()[-1]
    assert run("restore", place, *target, "--on-damage", "map")[0] == 0  # no frame of it is damaged
