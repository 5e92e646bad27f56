"""The history of rehearsals: added to, thinned by count, and never wrong for one bad file."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from cdp_container.errors import LocalDiskFull, TargetUnsuitable, UsageError
from rehydrate.rehearsal import past
from tests.unit.domain.holding_play import Entropy


def report(number: int) -> dict[str, object]:
    return {"what": "dr-test", "outcome": "passed", "began_ns": number}


def test_none_yet(tmp_path: Path) -> None:
    assert past.read_all(tmp_path / "none") == []


def test_what_is_added_is_read_the_oldest_first(tmp_path: Path) -> None:
    entropy = Entropy()
    for number in (30, 4, 200):
        past.add(tmp_path, report(number), entropy)
    assert [one.members and one.members["began_ns"] for one in past.read_all(tmp_path)] == [4, 30, 200]
    assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {0o600}


def test_beyond_the_limit_the_oldest_go_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(past, "REHEARSALS_MAX", 3)
    (tmp_path / "notes.txt").touch()
    entropy = Entropy()
    for number in range(5):
        past.add(tmp_path, report(number), entropy)
    assert [one.members and one.members["began_ns"] for one in past.read_all(tmp_path)] == [2, 3, 4]
    assert (tmp_path / "notes.txt").exists()


def test_nothing_is_ever_replaced(tmp_path: Path) -> None:
    same = itertools.repeat(b"\1\2\3\4")
    past.add(tmp_path, report(1), lambda _: next(same))
    before = next(iter(tmp_path.iterdir())).read_bytes()
    with pytest.raises(Exception, match="something else has this name"):
        past.add(tmp_path, {**report(1), "outcome": "failed"}, lambda _: next(same))
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [before]


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"what": "x"}', b"\xff"])
def test_a_file_that_is_no_report_is_told_as_such(tmp_path: Path, content: bytes) -> None:
    past.add(tmp_path, report(1), Entropy())
    (tmp_path / f"{2:020}-00000000.json").write_bytes(content)
    good, bad = past.read_all(tmp_path)
    assert good.members is not None
    assert bad.members is None
    assert bad.why


def test_a_full_disk_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(LocalDiskFull):
        past.add(tmp_path, report(1), Entropy())
    assert list(tmp_path.iterdir()) == []


def test_where_it_is() -> None:
    home = {"HOME": "/home/u"}
    assert past.default_directory(home) == Path("/home/u/.local/state/cdp/rehearsals")
    assert past.default_directory({**home, "XDG_STATE_HOME": "/s"}) == Path("/s/cdp/rehearsals")
    assert past.default_directory({**home, "XDG_STATE_HOME": "s"}) == past.default_directory(home)
    with pytest.raises(UsageError):
        past.default_directory({})


def test_a_directory_that_cannot_be_made_is_told_at_once(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(TargetUnsuitable):
        past.prepare(tmp_path / "file" / "history")
    past.prepare(tmp_path / "a" / "b")
    assert (tmp_path / "a" / "b").is_dir()
