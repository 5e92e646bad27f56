"""Which volumes agent.json names after a reload, and who holds a lock."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from cdp_agent.cli.reload import changed_identity, holder_of
from cdp_agent.identity import AgentIdentity, SourceIdentity, decode_identity, encode_identity
from cdp_agent.supervisor import take_lock
from cdp_container.clock import SystemClock
from cdp_container.errors import BackingUnreadable

DB, LOG = SourceIdentity("db", "/db", b"d" * 16, 100), SourceIdentity("log", "/log", b"l" * 16, 200)
IDENTITY = AgentIdentity(bytes(16), "shop", "a", "none", b"", b"", b"", bytes(32), (DB, LOG))
SAME = {"db": (100, "/db"), "log": (200, "/log")}


def entropy(count: int) -> bytes:
    return b"n" * count


def test_the_same_volumes_change_nothing() -> None:
    assert changed_identity(IDENTITY, SAME, entropy) == IDENTITY


def test_what_comes_is_put_behind_all_others() -> None:
    after = changed_identity(IDENTITY, {**SAME, "new": (300, "/new")}, entropy)
    assert after.sources == (DB, LOG, SourceIdentity("new", "/new", b"n" * 16, 300))


def test_what_goes_keeps_its_place() -> None:
    after = changed_identity(IDENTITY, {"log": (200, "/log")}, entropy)
    assert after.sources[0].removed
    assert list(after.active) == [1]
    back = changed_identity(after, SAME, entropy)
    assert back.sources[0].removed, "what comes again is another source: nobody knows what was written to it"
    assert (back.sources[2].name, back.sources[2].space) == ("db", b"n" * 16)


def test_what_grew_is_not_whole_any_more() -> None:
    after = changed_identity(IDENTITY, {**SAME, "db": (150, "/db")}, entropy)
    grown = after.sources[0]
    assert (grown.size_bytes, grown.space) == (150, DB.space)
    assert grown.whole_id not in (DB.whole_id, LOG.whole_id)
    again = changed_identity(after, {**SAME, "db": (160, "/db")}, entropy).sources[0]
    assert again.whole_id not in (DB.whole_id, grown.whole_id)


def test_a_volume_cannot_shrink() -> None:
    with pytest.raises(BackingUnreadable, match="cannot shrink"):
        changed_identity(IDENTITY, {**SAME, "db": (99, "/db")}, entropy)


def test_it_comes_back_from_its_file() -> None:
    after = changed_identity(IDENTITY, {"db": (150, "/db"), "new": (1, "/new")}, entropy)
    assert decode_identity(encode_identity(after), "agent.json") == after


def test_who_holds_a_lock_is_known_while_it_is_held(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    assert holder_of(path) is None
    held = take_lock(path, SystemClock())
    assert holder_of(path) == os.getpid()
    os.close(held)
    assert holder_of(path) is None
