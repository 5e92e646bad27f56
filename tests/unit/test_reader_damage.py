"""The independent reader refuses what is damaged, missing, forged or lies, and says which object."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.reader import ReaderError
from tests.tiny_writer import Extent, TinyWriter
from tests.unit.reader_model import (
    DISK,
    SEALED,
    Model,
    exists,
    flip,
    put,
    rehashed,
    restored,
)


@pytest.fixture(params=SEALED, ids=["clear", "sealed"])
def model(request: pytest.FixtureRequest) -> Model:
    writer = TinyWriter(7, request.param)
    writer.begin(1)
    return Model(writer, random.Random(11))


def test_every_damaged_byte_is_found(model: Model, tmp_path: Path) -> None:
    for number in range(1, 5):
        model.cut(number, first=number == 1)
    model.writer.collect(1, 1, 2, [2])
    whole = restored(model.writer, tmp_path)
    rng = random.Random(3)
    for key in [key for key in model.writer.store if key.startswith(("log/", "packs/"))]:
        intact = model.writer.store[key]
        offsets = {*range(0, 344, 5), *rng.sample(range(len(intact)), 60), len(intact) - 1}
        for damaged in [flip(intact, at) for at in sorted(offsets)] + [intact[:-1], intact + b"\0", b""]:
            model.writer.store[key] = damaged
            with pytest.raises(ReaderError) as caught:
                restored(model.writer, tmp_path)
            assert caught.value.key == key
        model.writer.store[key] = intact
    assert restored(model.writer, tmp_path) == whole


def test_whatever_is_missing_is_named(model: Model, tmp_path: Path) -> None:
    first = model.cut(1, first=True)
    model.writer.begin(2, base=first, end=first)
    model.cut(1)
    for key in list(model.writer.store):
        kept = model.writer.store.pop(key)
        if key == "log/0000000002/000000000001":
            assert restored(model.writer, tmp_path) == model.images[first]
        elif not key.startswith("domain/config/"):
            with pytest.raises(ReaderError) as caught:
                restored(model.writer, tmp_path)
            assert caught.value.key == key
        model.writer.store[key] = kept


@pytest.mark.parametrize(
    ("at", "value", "why"),
    [
        (8, b"\2\0", "format 2"),
        (10, b"\2\0", "another object than its key"),
        (16, b"x", "another object than its key"),
        (48, b"\2", "another object than its key"),
        (56, b"\2", "another object than its key"),
        (64, b"\1", "record of its epoch"),
        (112, b"\0", "cut that comes next"),
        (112, b"\2", "cut that comes next"),
        (122, b"\1", "flags"),
        (168, b"x", "does not continue"),
        (204, b"\0\0\0\x7f", "too long"),
        (212, b"\0\0\0\x7f", "too long"),
        (216, b"\0\0\0\x7f", "length that it states"),
        (224, b"\7", "codec"),
        (226, b"\7", "cipher"),
    ],
)  # fmt: skip
def test_a_preamble_that_lies_is_refused(at: int, value: bytes, why: str, tmp_path: Path) -> None:
    model = Model(TinyWriter(), random.Random(1))
    model.writer.begin(1)
    model.cut(1, first=True)
    key = "log/0000000001/000000000001"
    model.writer.store[key] = rehashed(put(at, value))(model.writer.store[key])
    with pytest.raises(ReaderError, match=why):
        restored(model.writer, tmp_path)


def mangled(part: str, at: int, value: bytes) -> Callable[[dict[str, bytes]], None]:
    """Overwrite bytes of a part, from its end where `at` is negative."""

    def apply(parts: dict[str, bytes]) -> None:
        start = at % len(parts[part])
        parts[part] = parts[part][:start] + value + parts[part][start + len(value) :]

    return apply


@pytest.mark.parametrize(
    ("lie", "why"),
    [
        (lambda parts: parts.update(sums=parts["sums"][16:]), "wrong checksum"),
        (lambda parts: parts.update(sums=parts["sums"] + bytes(16)), "checksums of nothing"),
        (lambda parts: parts.update(order=bytes(24)), "must be understood"),
        (lambda parts: parts.update(blob=parts["blob"] + b"x"), "blob of a wrong length"),
        (mangled("sums", 0, b"lie"), "wrong checksum"),
        (mangled("extents", 28, b"\x09"), "unknown kind 9"),
        (mangled("extents", 31, b"\x01"), "wrong bytes"),
        (mangled("extents", 24, bytes(4)), "wrong order row"),
        (mangled("extents", 12, b"\x07"), "index out of range"),
        (mangled("extents", 8, b"\xff\xff\xff\xff"), "too long extent"),
        (mangled("frames", 0, b"\x01"), "frame 0"),
        (mangled("frames", 0, b"\xff\xff\xff"), "impossible frame"),
        (mangled("frames", 8, b"\xff\xff\xff"), "impossible frame"),
        (mangled("frames", 12, b"lie!"), "frame 0"),
        (mangled("frames", 20, b"\x05"), "unknown codec"),
        (mangled("frames", 23, b"\x05"), "wrong bytes"),
        (mangled("records", 0, b"news!!"), "wrong critical bit"),
        (mangled("records", 8, bytes(1)), "wrong critical bit"),
        (mangled("records", 16, b"\x01"), "where it should not be"),
    ],
)
def test_an_index_that_lies_is_refused(
    lie: Callable[[dict[str, bytes]], None],
    why: str,
    model: Model,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    truthful: Callable[..., dict[str, bytes]] = model.writer.make_parts

    def make_parts(*arguments: object) -> dict[str, bytes]:
        parts = truthful(*arguments)
        lie(parts)
        return parts

    monkeypatch.setattr(model.writer, "make_parts", make_parts)
    extents = [Extent(DISK, 8192 * at, random.Random(at).randbytes(8192)) for at in range(3)]
    model.writer.write(1, extents, [exists(DISK, "disk")])
    with pytest.raises(ReaderError, match=why):
        restored(model.writer, tmp_path)


def test_a_pack_in_force_must_be_there_and_be_the_one_that_is_listed(model: Model, tmp_path: Path) -> None:
    writer, key = model.writer, "packs/0000000001/000000000001"
    for number in range(1, 4):
        model.cut(number, first=number == 1)
    writer.collect(1, 1, 2, [2])
    del writer.store[f"log/{1:010}/{3:012}"]  # the newest cut is whole in the pack
    assert restored(writer, tmp_path) == list(model.images.values())[1]
    pack = writer.store.pop(key)
    for wrong in (None, rehashed(put(160, b"\1"))(pack)):  # another time of the last write: another trailer
        if wrong is not None:
            writer.store[key] = wrong
        with pytest.raises(ReaderError, match=r"is missing|other digest|does not open") as caught:
            restored(writer, tmp_path)
        assert caught.value.key == key


def test_a_seal_without_a_key_is_refused(tmp_path: Path) -> None:
    model = Model(TinyWriter(0, "right"), random.Random(1))
    model.writer.begin(1)
    model.cut(1, first=True)
    model.writer.segments[1, 1].sealed = False
    model.writer.collect(1, 1, 1, [1])
    with pytest.raises(ReaderError, match="seal without key"):
        restored(model.writer, tmp_path)


@pytest.mark.parametrize(("complete", "number"), [(True, 4), (True, 2), (False, 3), (False, 1)], ids=str)
def test_cuts_are_numbered_without_gaps(complete: bool, number: int, model: Model, tmp_path: Path) -> None:
    """After a segment of cut 2 that completes it, or does not."""
    first = model.cut(1, first=True)
    model.writer.write(2, [], complete=complete)
    model.writer.write(number, [])
    with pytest.raises(ReaderError, match="not of the cut that comes next"):
        restored(model.writer, tmp_path)
    assert restored(model.writer, tmp_path, first) == model.images[first]


def test_what_is_damaged_later_does_not_forbid_an_earlier_cut(model: Model, tmp_path: Path) -> None:
    places = [model.cut(number, first=number == 1) for number in range(1, 5)]
    key = f"log/{1:010}/{3:012}"
    model.writer.store[key] = flip(model.writer.store[key], 400)
    assert restored(model.writer, tmp_path, places[1]) == model.images[places[1]]
    for place in (None, places[2], places[3]):
        with pytest.raises(ReaderError) as caught:
            restored(model.writer, tmp_path, place)
        assert caught.value.key == key


def test_what_is_not_sealed_in_a_sealed_domain_is_refused(tmp_path: Path) -> None:
    model = Model(TinyWriter(0, "right"), random.Random(1))
    model.writer.begin(1)
    model.cut(1, first=True)
    model.writer.cipher = 0  # a forger, who has no key
    model.cut(2)
    with pytest.raises(ReaderError, match="forged"):
        restored(model.writer, tmp_path)


def test_unknown_flags_that_may_be_ignored_are(tmp_path: Path) -> None:
    model = Model(TinyWriter(), random.Random(1))
    model.writer.begin(1)
    place = model.cut(1, first=True)
    key = "log/0000000001/000000000001"
    model.writer.store[key] = rehashed(put(121, b"\x80"))(model.writer.store[key])
    assert restored(model.writer, tmp_path) == model.images[place]
