"""What other places still have of what was deleted is told, with since when; it is never an error."""

from __future__ import annotations

from pathlib import Path

import pytest

from cdp_agent.collector import replicas
from cdp_agent.collector.replicas import (
    NOTE_NAME,
    Left,
    load_note,
    look_at_replicas,
    save_note,
    words_of,
)
from cdp_container.clock import SystemClock
from cdp_container.errors import StoreUnavailable
from cdp_container.store.api import Found
from cdp_container.store.memory import MemoryStore

HOUR_NS = 3600 * 10**9
ADDRESS = MemoryStore(SystemClock()).address


def a_replica(*keys: str) -> MemoryStore:
    store = MemoryStore(SystemClock())
    for key in keys:
        store.put_new(key, b"x")
    return store


def test_what_is_left_is_told_with_since_when_until_it_is_gone() -> None:
    store = a_replica("log/a", "log/b", "log/c")
    first = look_at_replicas({}, [store], ["log/a", "log/b", "log/gone"], HOUR_NS)
    assert first == {ADDRESS: Left({"log/a": HOUR_NS, "log/b": HOUR_NS})}
    assert words_of(first) == (
        f"{ADDRESS} still has 2 objects that were deleted here, the first at 1970-01-01 01:00 UTC",
    )
    store.delete("log/a")
    second = look_at_replicas(first, [store], ["log/c"], 2 * HOUR_NS)
    assert second == {ADDRESS: Left({"log/b": HOUR_NS, "log/c": 2 * HOUR_NS})}
    store.delete("log/b")
    store.delete("log/c")
    third = look_at_replicas(second, [store], [], 3 * HOUR_NS)
    assert words_of(third) == ()
    assert look_at_replicas(second, [], [], 3 * HOUR_NS) == {}, "it is no replica any more"


def test_one_that_cannot_be_asked_ends_nothing() -> None:
    class Away(MemoryStore):
        def head(self, key: str) -> Found:
            raise StoreUnavailable(f"head {key}", "no route to host")

    before = {ADDRESS: Left({"log/a": HOUR_NS})}
    after = look_at_replicas(before, [Away(SystemClock())], ["log/b"], 2 * HOUR_NS)
    assert after[ADDRESS].since_ns == {"log/a": HOUR_NS, "log/b": 2 * HOUR_NS}
    [said] = words_of(after)
    assert "2 objects" in said
    assert "no route to host" in said
    [said] = words_of(look_at_replicas({}, [Away(SystemClock())], [], HOUR_NS)) or [""]
    assert said == "", "nothing was asked"


def test_looks_and_notes_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replicas, "LOOKS_MAX", 3)
    monkeypatch.setattr(replicas, "NOTED_MAX", 5)
    store = a_replica(*(f"log/{number}" for number in range(9)))
    note = look_at_replicas({}, [store], [f"log/{number}" for number in range(4)], HOUR_NS)
    note = look_at_replicas(note, [store], [f"log/{number}" for number in range(4, 9)], 2 * HOUR_NS)
    assert list(note[ADDRESS].since_ns) == [f"log/{number}" for number in range(5)]
    assert "at least 5 objects" in words_of(note)[0]
    for number in range(9):
        store.delete(f"log/{number}")
    note = look_at_replicas(note, [store], [], 3 * HOUR_NS)
    assert list(note[ADDRESS].since_ns) == ["log/3", "log/4"]
    assert not look_at_replicas(note, [store], [], 4 * HOUR_NS)[ADDRESS].since_ns


def test_the_note_is_kept_and_one_that_makes_no_sense_is_none(tmp_path: Path) -> None:
    assert load_note(tmp_path) == {}
    (tmp_path / "collector").mkdir()
    note = {"/there": Left({"log/a": 5}), "s3://b": Left({}, "it is away")}
    save_note(tmp_path, note)
    assert load_note(tmp_path) == note
    for data in (b"", b"{", b"[]", b'{"/there": 5}', b'{"/there": {"since_ns": {"a": "x"}, "why": ""}}'):
        (tmp_path / "collector" / NOTE_NAME).write_bytes(data)
        assert load_note(tmp_path) == {}
