"""Which parts an object has, which need not be sent again, and what is noted of them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from cdp_container.errors import AlreadyRunning, TargetUnsuitable, UsageError
from rehydrate.export.parts import (
    OBJECT_BYTES_MAX,
    PART_BYTES,
    Listed,
    Sent,
    part_bytes_for,
    parts_of,
    parts_there,
)
from rehydrate.export.workspace import (
    Identity,
    Made,
    Notes,
    State,
    forget,
    is_whole,
    locked,
    read_state,
    write_state,
)

IDENTITY = Identity("d0", "3.17", "aa", "r", "vmdk streamOptimized", 4096, "s3://b/p", "p/db.vmdk")


def test_parts_cover_an_object_and_stay_within_the_limits_of_stores() -> None:
    for size in (0, 1, PART_BYTES, PART_BYTES + 1, 170_000 << 20, OBJECT_BYTES_MAX):
        part_bytes = part_bytes_for(size)
        count = max(-(-size // part_bytes), 1)
        assert count <= 10_000
        if count < 100:
            parts = parts_of(size, part_bytes)
            assert [one.number for one in parts] == list(range(1, count + 1))
            assert sum(one.length for one in parts) == size
            assert all(one.offset == (one.number - 1) * part_bytes for one in parts)
    with pytest.raises(UsageError, match="5 TiB at the most"):
        part_bytes_for(OBJECT_BYTES_MAX + 1)


def test_a_part_is_there_if_it_was_acknowledged_and_is_listed_just_so() -> None:
    parts = parts_of(100, 30)
    sent = {number: Sent(number, f'"e{number}"', "s") for number in (1, 2, 3)}
    listed = [Listed(1, '"e1"', 30), Listed(2, '"other"', 30), Listed(3, '"e3"', 29), Listed(4, '"e4"', 10)]
    assert list(parts_there(parts, listed, sent)) == [1]  # of 4 nobody knows what was sent
    assert parts_there(parts, [], sent) == {}


def test_notes_survive_torn_lines(tmp_path: Path) -> None:
    notes = Notes(tmp_path, "db.vmdk")
    assert notes.read() == {}
    first, again, other = (
        Sent(number, etag, etag[1] * 64) for number, etag in ((1, '"a"'), (1, '"b"'), (7, '"c"'))
    )
    for one in (first, other, again):
        notes.add(one)
    with notes.path.open("ab") as file:
        # The last but one is whole but for its digest, which would stand in the list of them.
        file.write(b'8 "d"\nx y z\n9 "e" ' + b"e" * 63 + b'\n10 "f" ' + b"f" * 64)
    assert notes.read() == {1: again, 7: other}
    notes.clear()
    assert notes.read() == {}


def test_a_state_comes_back_as_it_was_and_nonsense_is_refused(tmp_path: Path) -> None:
    assert read_state(tmp_path, "db") is None
    state = State(IDENTITY, "00ff", Made(9, "sha", 3, 4), "upload", 5)
    for one in (state, replace(state, made=None, upload="")):
        write_state(tmp_path, "db", one)
        assert read_state(tmp_path, "db") == one
    for text in ("", "[]", '{"version": 2}', '{"version": 1, "identity": {}}', '{"version": 1, "odd": 1}'):
        (tmp_path / "db.upload.json").write_text(text)
        with pytest.raises(TargetUnsuitable, match="not what an export"):
            read_state(tmp_path, "db")
    (tmp_path / "db").write_text("image")
    forget(tmp_path, "db", has_image=False)
    assert [one.name for one in tmp_path.iterdir()] == ["db"]
    forget(tmp_path, "db", has_image=True)
    assert list(tmp_path.iterdir()) == []


def test_an_image_that_was_touched_is_not_the_one_that_was_noted(tmp_path: Path) -> None:
    image = tmp_path / "db"
    image.write_bytes(b"12345")
    status = image.stat()
    made = Made(5, "sha", status.st_ino, status.st_mtime_ns)
    assert is_whole(image, made)
    assert not is_whole(image, None)
    assert not is_whole(image, replace(made, modified_ns=1))
    image.write_bytes(b"1234")
    assert not is_whole(image, made)
    assert not is_whole(tmp_path / "gone", made)


def test_a_workspace_is_for_one_export_at_a_time(tmp_path: Path) -> None:
    with locked(tmp_path), pytest.raises(AlreadyRunning), locked(tmp_path):
        raise AssertionError("two at once")
    with pytest.raises(TargetUnsuitable, match="no such directory"), locked(tmp_path / "gone"):
        raise AssertionError("nowhere")
