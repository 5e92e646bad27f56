"""The independent reader over what the tiny writer makes: both come from the page of the format alone."""

from __future__ import annotations

import hashlib
import json
import random
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.reader import Container, ReaderError, main
from tests.tiny_writer import DISCARD, GRAIN, NOWHERE, ZERO, Extent, Place, TinyWriter

SIZE, SIZE_SMALL = 192 * 1024, 1024
DISK, OTHER = b"disk-disk-disk-1", b"other-other-othr"
SEALED = [None, "correct horse"]


def container(writer: TinyWriter, passphrase: str | None = None) -> Container:
    return Container(writer.store.__getitem__, lambda: list(writer.store), passphrase or writer.passphrase)


def restored(writer: TinyWriter, path: Path, place: Place | None = None, name: str = "disk") -> bytes:
    """What the reader restores, at the newest cut where none is given."""
    reader = container(writer)
    target = path / "image"
    with target.open("w+b") as file:
        reader.restore(name, file, reader.cut(*place[:2]) if place else reader.newest_cut())
    return target.read_bytes()


def exists(space: bytes, name: str, size_bytes: int = SIZE) -> tuple[str, bytes, dict[str, object]]:
    value = {"kind": "volume", "name": name, "size_bytes": size_bytes, "block_bytes": 512}
    return ("space+", space, value)


@dataclass
class Model:
    """A disk as plain bytes, beside the writer that protects it; remembers its image at every cut."""

    writer: TinyWriter
    rng: random.Random
    image: bytearray = field(default_factory=lambda: bytearray(SIZE))
    images: dict[Place, bytes] = field(default_factory=dict)

    def change(self, count: int = 8) -> list[Extent]:
        """Some changes that do not overlap, each applied to the image."""
        grains = len(self.image) // GRAIN
        edges = sorted(self.rng.sample(range(grains), min(count, grains // 2) * 2))
        extents = []
        for start, end in zip(edges[::2], edges[1::2], strict=True):
            offset, length = start * GRAIN, min((end - start) * GRAIN, 65536)
            kind = self.rng.choice([1, 1, 1, ZERO, DISCARD])
            data = self.rng.randbytes(length) if kind == 1 else b""
            extents.append(Extent(DISK, offset, data, kind, length))
            self.image[offset : offset + length] = data or bytes(length)
        return extents

    def cut(self, number: int, parts: int = 1, *, first: bool = False) -> Place:
        """Write a cut of so many segments."""
        extents = self.change()
        place = NOWHERE
        for part in range(parts):
            records = [exists(DISK, "disk")] if first and part == 0 else []
            place = self.writer.write(number, extents[part::parts], records, complete=part == parts - 1)
        self.images[place] = bytes(self.image)
        return place


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


def flip(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 0x10]) + data[at + 1 :]


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


def rehashed(change: Callable[[bytearray], None]) -> Callable[[bytes], bytes]:
    """A change to the fixed part of a preamble that keeps all digests right."""

    def apply(data: bytes) -> bytes:
        new, end = bytearray(data), int.from_bytes(data[12:16], "little")
        change(new)
        new[end - 32 : end] = hashlib.sha256(new[: end - 32]).digest()
        return bytes(new[:-32]) + hashlib.sha256(new[:-32]).digest()

    return apply


def put(at: int, value: bytes) -> Callable[[bytearray], None]:
    return lambda data: data.__setitem__(slice(at, at + len(value)), value)


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


def test_what_may_be_ignored_is(model: Model, tmp_path: Path) -> None:
    model.writer.write(
        1, [Extent(DISK, 0, b"a" * SIZE_SMALL)], [exists(DISK, "disk", SIZE_SMALL), ("newer", b"", {})]
    )
    model.writer.store["domain/newer"] = model.writer.store["log/newer"] = b"?"
    assert restored(model.writer, tmp_path) == b"a" * SIZE_SMALL


@pytest.mark.parametrize("limit", [{"n": 2**21}, {"r": 9}, {"p": 5}, {"n": 0}, {"kdf": "argon2"}])
def test_a_kdf_that_costs_too_much_is_refused(limit: dict[str, object]) -> None:
    writer = TinyWriter(0, "right")
    assert writer.key_block is not None
    writer.key_block["wraps"][1].update(limit)
    writer.begin(1)
    with pytest.raises(ReaderError) as caught:
        container(writer)
    assert caught.value.key.startswith("domain/config/")


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


def test_unknown_flags_that_may_be_ignored_are(tmp_path: Path) -> None:
    model = Model(TinyWriter(), random.Random(1))
    model.writer.begin(1)
    place = model.cut(1, first=True)
    key = "log/0000000001/000000000001"
    model.writer.store[key] = rehashed(put(121, b"\x80"))(model.writer.store[key])
    assert restored(model.writer, tmp_path) == model.images[place]


def test_wrong_and_missing_passphrases_are_refused(tmp_path: Path) -> None:
    model = Model(TinyWriter(0, "right"), random.Random(1))
    model.writer.begin(1)
    model.cut(1, first=True)
    with pytest.raises(ReaderError, match="wrong or no passphrase"):
        container(model.writer, "wrong").newest_cut()
    with pytest.raises(ReaderError, match="wrong or no passphrase"):
        Container(model.writer.store.__getitem__, lambda: list(model.writer.store)).newest_cut()


def test_what_is_not_sealed_in_a_sealed_domain_is_refused(tmp_path: Path) -> None:
    model = Model(TinyWriter(0, "right"), random.Random(1))
    model.writer.begin(1)
    model.cut(1, first=True)
    model.writer.cipher = 0  # a forger, who has no key
    model.cut(2)
    with pytest.raises(ReaderError, match="forged"):
        restored(model.writer, tmp_path)


def test_any_of_several_passphrases_opens() -> None:
    model = Model(TinyWriter(0, "first"), random.Random(1))
    assert model.writer.key_block is not None
    wraps, model.writer.passphrase = model.writer.key_block["wraps"], "second"
    model.writer.key_block["wraps"] = wraps + model.writer.make_key_block()["wraps"]
    model.writer.begin(1)
    place = model.cut(1, first=True)
    assert container(model.writer, "first").newest_cut().place == place
    assert container(model.writer, "second").newest_cut().place == place


def test_a_recipient_opens_the_domain() -> None:
    private = bytes(range(32))
    model = Model(TinyWriter(0, None, private), random.Random(1))
    model.writer.begin(1)
    place = model.cut(1, first=True)
    reader = Container(model.writer.store.__getitem__, lambda: list(model.writer.store), None, private)
    assert reader.newest_cut().place == place


def test_the_program_lists_and_restores_a_directory(
    model: Model, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model.cut(1, first=True)
    place = model.writer.write(2, model.change(), [("marker", b"here", {})])
    image = bytes(model.image)
    model.cut(3)
    root, secret, target = tmp_path / "container", tmp_path / "secret", tmp_path / "disk.img"
    for key, data in model.writer.store.items():
        (root / key).parent.mkdir(parents=True, exist_ok=True)
        (root / key).write_bytes(data)
    secret.write_text(f"{model.writer.passphrase}\n")
    common = ["--passphrase-file", str(secret)] if model.writer.passphrase else []
    assert main([str(root), "list", *common]) == 0
    listed = capsys.readouterr().out
    assert "cut 1.2  2023-11-14T22:13:20.000+00:00  whole  here" in listed
    assert f"volume 'disk' has {SIZE} bytes" in listed
    alone = [sys.executable, str(Path(__file__).parents[1] / "reader.py"), str(root), "list", *common]
    assert subprocess.run(alone, capture_output=True, check=True, cwd=tmp_path).stdout.decode() == listed
    assert main([str(root), "restore", *common, "disk", str(target), "--marker", "here"]) == 0
    assert target.read_bytes() == image
    assert main([str(root), "restore", *common, "disk", str(target), "--cut", f"1.{place[1]}"]) == 0
    assert target.read_bytes() == image
    assert main([str(root), "restore", *common, "disk", str(target), "--cut", "1.9"]) == 1
    assert "REFUSED log: no cut 9" in capsys.readouterr().err
