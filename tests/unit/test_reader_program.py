"""The independent reader as a program: what it prints, and how passphrases and keys get into it."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

import pytest

from tests.reader import Container, ReaderError, main
from tests.tiny_writer import NOWHERE, Extent, TinyWriter
from tests.unit.reader_model import (
    DISK,
    SEALED,
    SIZE,
    Model,
    container,
    exists,
    written,
)


@pytest.fixture(params=SEALED, ids=["clear", "sealed"])
def model(request: pytest.FixtureRequest) -> Model:
    writer = TinyWriter(7, request.param)
    writer.begin(1)
    return Model(writer, random.Random(11))


def test_the_program_lists_and_restores_a_directory(
    model: Model, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model.cut(1, first=True)
    place = model.writer.write(2, model.change(), [("marker", b"here", {})])
    image = bytes(model.image)
    model.cut(3)
    root, secret = written(model.writer, tmp_path / "container"), tmp_path / "secret"
    target = tmp_path / "disk.img"
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


@pytest.mark.parametrize("damaged", ["log/0000000001/000000000002", "domain/epochs/0000000001"])
def test_list_reports_damage_and_lists_the_rest(
    damaged: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = Model(TinyWriter(), random.Random(1))
    model.writer.begin(1)
    first = model.cut(1, first=True)
    second = model.cut(2)
    model.writer.begin(2, base=first if damaged.startswith("log/") else NOWHERE, end=second)
    model.writer.write(1, [Extent(DISK, 0, b"a" * 512)], [exists(DISK, "disk")])
    root = written(model.writer, tmp_path / "container")
    (root / damaged).write_bytes(b"{}")
    assert main([str(root), "list"]) == 1
    said = capsys.readouterr()
    assert f"REFUSED {damaged}: " in said.err
    assert "  cut 2.1 " in said.out
    assert "  cut 1.2 " not in said.out
    assert f"volume 'disk' has {SIZE} bytes" in said.out
    assert main([str(root), "restore", "disk", str(tmp_path / "image")]) == 0


def test_a_private_key_opens_the_domain(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipient = bytes(range(32))
    model = Model(TinyWriter(0, "right", recipient), random.Random(1))
    model.writer.begin(1)
    model.cut(1, first=True)
    root, secret, image = written(model.writer, tmp_path / "container"), tmp_path / "key", tmp_path / "image"
    restore = [str(root), "restore", "disk", str(image), "--private-key-file", str(secret)]
    for key in (model.writer.private, recipient):
        secret.write_text(key.hex() + "\n")
        assert main(restore) == 0
        assert image.read_bytes() == bytes(model.image)
    for wrong in ("00" * 32, "00" * 31, "secret"):
        secret.write_text(wrong)
        assert main(restore) == 1
        assert "REFUSED" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "passphrase"),
    [
        (b"two words", "two words"),
        (b" edges \n", " edges "),
        (b"windows\r\n", "windows"),
        (b"ends so\n\n", "ends so\n"),
        (b"ends so\r\n\r\n", "ends so\r\n"),
        (b"ends so\r", "ends so\r"),
        ("schlüssel\n".encode(), "schlüssel"),
    ],
)
def test_one_line_end_does_not_belong_to_a_passphrase(text: bytes, passphrase: str, tmp_path: Path) -> None:
    model = Model(TinyWriter(0, passphrase), random.Random(1))
    model.writer.begin(1)
    model.cut(1, first=True)
    root, secret = written(model.writer, tmp_path / "container"), tmp_path / "secret"
    secret.write_bytes(text)
    assert main([str(root), "list", "--passphrase-file", str(secret)]) == 0


def test_wrong_and_missing_passphrases_are_refused(tmp_path: Path) -> None:
    model = Model(TinyWriter(0, "right"), random.Random(1))
    model.writer.begin(1)
    model.cut(1, first=True)
    with pytest.raises(ReaderError, match="wrong or no passphrase"):
        container(model.writer, "wrong").newest_cut()
    with pytest.raises(ReaderError, match="wrong or no passphrase"):
        Container(model.writer.store.__getitem__, lambda: list(model.writer.store)).newest_cut()


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


@pytest.mark.parametrize("limit", [{"n": 2**21}, {"r": 9}, {"p": 5}, {"n": 0}, {"kdf": "argon2"}])
def test_a_kdf_that_costs_too_much_is_refused(limit: dict[str, object]) -> None:
    writer = TinyWriter(0, "right")
    assert writer.key_block is not None
    writer.key_block["wraps"][1].update(limit)
    writer.begin(1)
    with pytest.raises(ReaderError) as caught:
        container(writer)
    assert caught.value.key.startswith("domain/config/")


def test_wraps_that_cost_too_much_together_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each within its limit: a wrong passphrase would be tried on all of them."""
    writer = TinyWriter(0, "right")
    assert writer.key_block is not None
    wrap = writer.key_block["wraps"][1] | {"check": "00" * 8}
    writer.key_block["wraps"][:] = [wrap] * 3
    writer.begin(1)
    monkeypatch.setattr("tests.reader.SCRYPT_WORK_MAX", 2 * wrap["n"] * wrap["r"] * wrap["p"])
    with pytest.raises(ReaderError, match="too costly"):
        container(writer)
