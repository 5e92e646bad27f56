"""The independent reader over what the tiny writer makes: both come from the page of the format alone."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from tests.reader import ReaderError
from tests.tiny_writer import Extent, TinyWriter
from tests.unit.reader_model import (
    DISK,
    OTHER,
    SEALED,
    SIZE_SMALL,
    Model,
    container,
    exists,
    restored,
)


@pytest.fixture(params=SEALED, ids=["clear", "sealed"])
def model(request: pytest.FixtureRequest) -> Model:
    writer = TinyWriter(7, request.param)
    writer.begin(1)
    return Model(writer, random.Random(11))


def test_every_cut_restores_byte_for_byte(model: Model, tmp_path: Path) -> None:
    for number in range(1, 7):
        model.cut(number, parts=1 + number % 3, first=number == 1)
    for place, image in model.images.items():
        assert restored(model.writer, tmp_path, place) == image
    reader = container(model.writer)
    assert [cut.place for cut in reader.cuts] == list(model.images)


def test_epochs_follow_their_bases_and_zombies_do_not_count(model: Model, tmp_path: Path) -> None:
    writer = model.writer
    first = model.cut(1, first=True)
    second = model.cut(2)
    third = model.cut(3)
    zombie = Model(writer, random.Random(1), bytearray(model.image))
    zombie.cut(4)  # written after the next epoch had stated the end: must be ignored
    writer.begin(2, base=third, end=third)
    fourth = model.cut(1, parts=2)
    writer.begin(5, base=second, end=fourth)  # a side branch, and numbers left out
    model.image = bytearray(model.images[second])
    fifth = model.cut(1)
    assert [cut.place for cut in container(writer).cuts][:3] == [first, second, third]
    for place in (first, second, third, fourth, fifth):
        assert restored(writer, tmp_path, place) == model.images[place]
    with pytest.raises(ReaderError, match="no cut 4"):
        restored(writer, tmp_path, (1, 4, 4))


def test_an_agent_that_was_restarted_two_thousand_times(tmp_path: Path) -> None:
    model = Model(TinyWriter(7), random.Random(11))
    model.writer.begin(1)
    place = model.cut(1, first=True)
    for epoch in range(2, 2001):
        model.writer.begin(epoch, base=place, end=place)
        place = model.writer.write(1, model.change(1))
    assert restored(model.writer, tmp_path) == model.image


def test_an_epoch_without_a_complete_cut_ends_at_its_base(model: Model, tmp_path: Path) -> None:
    writer = model.writer
    first = model.cut(1, first=True)
    second = model.cut(2)
    writer.begin(2, base=first, end=second)
    writer.write(1, [Extent(DISK, 0, b"lost" * 128)], complete=False)
    assert restored(writer, tmp_path) == model.images[first]
    writer.begin(3, base=first, end=first)
    model.image = bytearray(model.images[first])
    third = model.cut(1)
    assert restored(writer, tmp_path) == model.images[third]
    assert restored(writer, tmp_path, second) == model.images[second]
    assert [cut.place for cut in container(writer).cuts] == [first, second, third]


def test_claiming_leaves_the_previous_epoch_in_force(model: Model, tmp_path: Path) -> None:
    place = model.cut(1, first=True)
    owner = json.loads(model.writer.store["domain/owner"])
    model.writer.store["domain/owner"] = json.dumps(
        {**owner, "state": "claiming", "epoch": 2, "previous": 1}
    ).encode()
    assert restored(model.writer, tmp_path) == model.images[place]


def test_a_copy_that_lacks_protected_segments_is_not_taken_for_the_newest(
    model: Model, tmp_path: Path
) -> None:
    first = model.cut(1, first=True)
    model.writer.protected = model.cut(2)
    model.writer.write_owner()
    assert restored(model.writer, tmp_path) == bytes(model.image)
    del model.writer.store["log/0000000001/000000000002"]
    with pytest.raises(ReaderError, match=r"protected is .*cut=2.* segments are missing"):
        restored(model.writer, tmp_path)
    assert restored(model.writer, tmp_path, first) == model.images[first]


def test_what_follows_the_newest_complete_cut_is_ignored(model: Model, tmp_path: Path) -> None:
    place = model.cut(1, first=True)
    model.writer.write(2, [Extent(DISK, 0, b"x" * 512)], complete=False)
    lost = model.writer.write(2, [Extent(DISK, 512, b"x" * 512)], complete=False)
    del model.writer.store[f"log/{1:010}/{lost[2]:012}"]
    model.writer.write(2, [Extent(DISK, 1024, b"x" * 512)])
    assert restored(model.writer, tmp_path) == model.images[place]


def test_resizing_and_removal(model: Model, tmp_path: Path) -> None:
    writer = model.writer
    writer.write(1, [Extent(DISK, 0, b"a" * 4096), Extent(OTHER, 0, b"o" * 512)], [
        exists(DISK, "disk", 4096), exists(OTHER, "other", 512)])  # fmt: skip
    writer.write(2, [Extent(DISK, 0, b"b" * 512)], [("space=", DISK, {"size_bytes": 1024})])
    writer.write(3, [], [("space=", DISK, {"size_bytes": 2048})])
    grown = writer.write(4, [Extent(DISK, 1536, b"c" * 512)])
    assert restored(writer, tmp_path, (1, 1, 1)) == b"a" * 4096
    assert restored(writer, tmp_path, (1, 2, 2)) == b"b" * 512 + b"a" * 512
    assert restored(writer, tmp_path, grown) == b"b" * 512 + b"a" * 512 + bytes(512) + b"c" * 512
    writer.write(5, [Extent(DISK, 0, b"d" * 512)], [("space-", DISK, {})])
    assert restored(writer, tmp_path, name="other") == b"o" * 512
    with pytest.raises(ReaderError, match="has 0 volumes called"):
        restored(writer, tmp_path)
    again = writer.write(6, [Extent(DISK, 512, b"e" * 512)], [exists(DISK, "disk", 2048)])
    assert restored(writer, tmp_path, again) == bytes(512) + b"e" * 512 + bytes(1024)


def test_a_source_that_is_not_whole_is_refused(model: Model, tmp_path: Path) -> None:
    place = model.cut(1, first=True)
    model.writer.write(2, model.change(), not_whole=[DISK])
    with pytest.raises(ReaderError, match="not whole"):
        restored(model.writer, tmp_path)
    assert restored(model.writer, tmp_path, place) == model.images[place]


def test_packs_give_what_was_collected(model: Model, tmp_path: Path) -> None:
    writer = model.writer
    places = [model.cut(number, parts=1 + number % 2, first=number == 1) for number in range(1, 9)]
    kept = [places[2], places[5], places[7]]
    writer.collect(1, 1, places[2][2], [3], pack=1)
    writer.collect(1, places[2][2] + 1, places[5][2], [6], pack=2)
    for place in kept:
        assert restored(writer, tmp_path, place) == model.images[place]
    with pytest.raises(ReaderError, match="no cut 4"):
        restored(writer, tmp_path, places[3])
    writer.begin(2, base=places[5], end=places[7])
    model.image = bytearray(model.images[places[5]])
    newest = model.cut(1)
    assert restored(writer, tmp_path) == model.images[newest]
    assert restored(writer, tmp_path, places[7]) == model.images[places[7]]


def test_markers_name_cuts(model: Model, tmp_path: Path) -> None:
    writer = model.writer
    model.cut(1, first=True)
    named = writer.write(2, model.change(), [("marker", b"before", {"kind": "bookmark"})])
    model.images[named] = bytes(model.image)
    model.cut(3)
    assert container(writer).cut(0, 0, "before").place == named
    writer.collect(1, 1, 2, [2])
    assert container(writer).cut(0, 0, "before").place == named
    assert restored(writer, tmp_path, named) == model.images[named]


def test_the_marker_of_a_cut_that_is_gone_names_no_other(model: Model) -> None:
    model.cut(1, first=True)
    model.writer.write(2, model.change(), [("marker", b"gone", {"kind": "bookmark"})])
    model.cut(3)
    model.writer.collect(1, 1, 3, [1, 3])
    reader = container(model.writer)
    assert [(cut.place.cut, cut.names) for cut in reader.cuts] == [(1, []), (3, [])]
    with pytest.raises(ReaderError, match="no cut gone"):
        reader.cut(0, 0, "gone")


def test_what_may_be_ignored_is(model: Model, tmp_path: Path) -> None:
    model.writer.write(
        1, [Extent(DISK, 0, b"a" * SIZE_SMALL)], [exists(DISK, "disk", SIZE_SMALL), ("newer", b"", {})]
    )
    model.writer.store["domain/newer"] = model.writer.store["log/newer"] = b"?"
    assert restored(model.writer, tmp_path) == b"a" * SIZE_SMALL


@pytest.mark.parametrize("seed", range(6))
def test_random_histories(seed: int, tmp_path: Path) -> None:
    rng = random.Random(seed)
    model = Model(TinyWriter(seed, "secret" if seed % 2 else None), rng)
    model.writer.begin(1)
    place = model.cut(1, first=True)
    for number in range(2, 12):
        if rng.randrange(4) == 0:
            base = rng.choice(list(model.images))
            model.writer.begin(model.writer.epoch + rng.randrange(1, 3), base=base, end=place)
            model.image = bytearray(model.images[base])
            number = 1
        else:
            number = place[1] + 1
        place = model.cut(number, parts=rng.randrange(1, 4))
    for other, image in model.images.items():
        assert restored(model.writer, tmp_path, other) == image


def test_packs_that_are_not_in_force_do_not_count(model: Model) -> None:
    writer = model.writer
    places = [model.cut(number, first=number == 1) for number in range(1, 6)]
    writer.collect(1, 1, 2, [2], pack=1)
    assert [cut.place for cut in container(writer).cuts] == places[1:]
    writer.in_force.clear()
    writer.collect(
        1, 3, 4, [4], pack=2
    )  # its ledger lists the first pack no more, though that still lies there
    assert "packs/0000000001/000000000001" in writer.store
    assert [cut.place for cut in container(writer).cuts] == places[3:]


def test_names_trees_and_machines_are_known_and_left_alone(model: Model, tmp_path: Path) -> None:
    others: list[tuple[str, bytes, dict[str, object]]] = [
        ("tree+", OTHER, {"name": "home"}),
        ("name+", OTHER + b"a", {"type": "file"}),
        ("name-", OTHER + b"a", {}),
        ("tree-", OTHER, {}),
        ("vm", OTHER, {}),
    ]
    records = [exists(DISK, "disk", SIZE_SMALL), *others]
    model.writer.write(1, [Extent(DISK, 0, b"a" * SIZE_SMALL)], records)
    assert restored(model.writer, tmp_path) == b"a" * SIZE_SMALL
