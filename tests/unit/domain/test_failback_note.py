"""failback.json: what is saved is loaded, and what makes no sense is refused."""

from __future__ import annotations

from pathlib import Path

import orjson
import pytest

from cdp_container.domain.carried import CarriedVolume
from cdp_container.domain.failback_note import (
    FAILBACK_NAME,
    FailbackNote,
    drop_failback,
    load_failback,
    save_failback,
)
from cdp_container.domain.half_done import refuse_half_done
from cdp_container.errors import ConfigInvalid
from cdp_container.format.place import Place

NOTE = FailbackNote(
    evidence="diverged-3",
    fork=Place(3, 9, 12),
    doubts=((b"s" * 16, "it was changed"),),
    at=Place(4, 1, 1),
    volumes=(CarriedVolume(b"s" * 16, "/disk", 4096, 7, 8),),
    towards=Place(4, 2, 3),
    touched_ns=5,
)


@pytest.mark.parametrize("note", [NOTE, FailbackNote("diverged-0")], ids=["full", "empty"])
def test_what_is_saved_is_loaded(note: FailbackNote, tmp_path: Path) -> None:
    save_failback(tmp_path, note)
    assert load_failback(tmp_path) == note
    with pytest.raises(ConfigInvalid):
        refuse_half_done(tmp_path)
    drop_failback(tmp_path)
    assert load_failback(tmp_path) is None
    refuse_half_done(tmp_path)


@pytest.mark.parametrize(
    "changes",
    [
        {"format": 2},
        {"evidence": "../elsewhere"},
        {"evidence": ""},
        {"at": [1, 0, 3]},
        {"towards": [1, 2]},
        {"doubts": [{"space": "zz", "why": ""}]},
        {"volumes": None},
        {"touched_ns": "later"},
    ],
)
def test_what_makes_no_sense_is_refused(changes: dict[str, object], tmp_path: Path) -> None:
    save_failback(tmp_path, NOTE)
    path = tmp_path / FAILBACK_NAME
    path.write_bytes(orjson.dumps({**orjson.loads(path.read_bytes()), **changes}))
    with pytest.raises(ConfigInvalid):
        load_failback(tmp_path)
