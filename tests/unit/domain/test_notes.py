"""notes.json: whole or the one before, never half."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from cdp_container.domain.notes import NOTES_NAME, Notes, load_notes, save_notes
from cdp_container.errors import CdpError, ConfigInvalid, LocalDiskFull
from cdp_container.format.place import Place
from cdp_container.journal.shared import GateLevel

NOTES = Notes(
    (b"n" * 16, b"m" * 16), frozenset({b"s" * 16}), 7, "overtaken", "site-b", "site-c", Place(4, 5, 6), 8, 9
)


def test_notes_come_back(tmp_path: Path) -> None:
    assert load_notes(tmp_path) == Notes()
    save_notes(tmp_path, NOTES)
    assert load_notes(tmp_path) == NOTES
    save_notes(tmp_path, Notes())
    assert load_notes(tmp_path) == Notes()
    assert [path.name for path in tmp_path.iterdir()] == [NOTES_NAME]


def test_notes_of_before_there_were_releases_are_read(tmp_path: Path) -> None:
    older = {"format": 1, "nonces": [], "whole": [], "episode": "0", "fenced": "", "released_to": "site-b"}
    (tmp_path / NOTES_NAME).write_text(json.dumps(older))
    assert load_notes(tmp_path) == Notes(released_to="site-b")


@pytest.mark.parametrize(
    ("notes", "gate"),
    [
        (Notes(), GateLevel.OPEN),
        (Notes(releasing_to="site-b"), GateLevel.NO_WRITES),
        (Notes(releasing_to="site-b", final=Place(1, 1, 1)), GateLevel.NO_WRITES),
        (Notes(released_to="site-b"), GateLevel.CLOSED),
    ],
)
def test_what_guests_may_do_is_in_the_notes(notes: Notes, gate: GateLevel) -> None:
    assert notes.gate is gate


def test_a_full_disk_keeps_the_old_notes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_notes(tmp_path, NOTES)

    def full(fd: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(LocalDiskFull):
        save_notes(tmp_path, Notes())
    assert load_notes(tmp_path) == NOTES


def test_a_directory_that_is_gone_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(CdpError):
        save_notes(tmp_path / "gone", NOTES)


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"{}", b'{"format": 2}', b'{"format": 1, "nonces": [7]}'])
def test_damaged_notes_are_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / NOTES_NAME).write_bytes(data)
    with pytest.raises(ConfigInvalid):
        load_notes(tmp_path)


def test_notes_cut_at_every_byte_are_refused(tmp_path: Path) -> None:
    save_notes(tmp_path, NOTES)
    data = (tmp_path / NOTES_NAME).read_bytes().rstrip()
    for length in range(len(data)):
        (tmp_path / NOTES_NAME).write_bytes(data[:length])
        with pytest.raises(ConfigInvalid):
            load_notes(tmp_path)
