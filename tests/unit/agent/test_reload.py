"""Which volumes agent.json names after a reload, and who holds a lock."""

from __future__ import annotations

import errno
import os
from dataclasses import replace
from pathlib import Path

import pytest

from cdp_agent.cli.reload import holder_of
from cdp_agent.cli.run import TreesWished
from cdp_agent.supervisor import take_lock
from cdp_agent.volume_set import Decision, changed_identity, changed_trees, find_decision, withdraw_all
from cdp_container.clock import SystemClock
from cdp_container.domain.durable import replace_file
from cdp_container.domain.identity import (
    IDENTITY_NAME,
    AgentIdentity,
    SourceIdentity,
    TreeIdentity,
    decode_identity,
    encode_identity,
    load_identity,
)
from cdp_container.domain.tree_settings import TreeSettings
from cdp_container.errors import BackingUnreadable, CdpError, ReloadRefused

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


def agent(directory: Path, identity: AgentIdentity = IDENTITY) -> Path:
    replace_file(directory / IDENTITY_NAME, encode_identity(identity))
    return directory


def test_a_disk_elsewhere_is_no_reload() -> None:
    with pytest.raises(ReloadRefused, match="the configuration says /elsewhere"):
        changed_identity(IDENTITY, {**SAME, "db": (100, "/elsewhere")}, entropy)


def decided(directory: Path, after: AgentIdentity, name: str = "one") -> Decision:
    decision = Decision(directory, name, load_identity(directory), after)
    decision.leave()
    return decision


def test_a_decision_is_done_by_its_commit_alone(tmp_path: Path) -> None:
    directory = agent(tmp_path)
    assert find_decision(directory) is None
    after = changed_identity(IDENTITY, {"log": (250, "/log"), "new": (1, "/new")}, entropy)
    decided(directory, after)
    decision = find_decision(directory)
    assert decision is not None
    found = [(one.name, one.index, one.size_bytes) for one in decision.volumes]
    assert found == [("log", 1, 250), ("new", 2, 1)]
    assert (decision.name, decision.removed) == ("one", frozenset({0}))
    assert load_identity(directory) == IDENTITY
    decision.commit()
    assert load_identity(directory) == after
    assert find_decision(directory) is None
    assert not decision.withdraw(), "it is done"


def test_what_was_withdrawn_or_decided_anew_is_never_done(tmp_path: Path) -> None:
    directory = agent(tmp_path)
    after = changed_identity(IDENTITY, {"db": (100, "/db")}, entropy)
    first = decided(directory, after)
    assert first.withdraw()
    with pytest.raises(ReloadRefused, match="given up"):
        first.commit()
    first.leave()
    second = decided(directory, after, "two")
    with pytest.raises(ReloadRefused, match="given up"):
        first.commit()
    assert load_identity(directory) == IDENTITY
    found = find_decision(directory)
    assert found is not None
    assert found.name == second.name
    withdraw_all(directory)
    assert find_decision(directory) is None


@pytest.mark.parametrize("also", [False, True])
def test_a_commit_that_fails_leaves_what_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, also: bool
) -> None:
    """If putting it back fails, too, what can be read counts for everybody."""
    directory = agent(tmp_path)
    decision = decided(directory, changed_identity(IDENTITY, {"db": (100, "/db")}, entropy))

    def fails(*given: object) -> None:
        raise OSError(errno.EIO, "the directory was not synced")

    def refuses(*given: object) -> None:
        raise CdpError("cannot write", "input/output error")

    monkeypatch.setattr("cdp_agent.volume_set.sync_directory", fails)
    if also:
        monkeypatch.setattr("cdp_agent.volume_set.replace_file", refuses)
        decision.commit()
        assert load_identity(directory) == decision.after
        return
    with pytest.raises(OSError, match="not synced"):
        decision.commit()
    assert load_identity(directory) == IDENTITY


@pytest.mark.parametrize(
    "after",
    [
        (DB,),
        (LOG, DB),
        (DB, replace(LOG, size_bytes=199)),
        (DB, replace(LOG, path="/elsewhere")),
        (DB, replace(LOG, space=b"x" * 16)),
    ],
    ids=["shorter", "another order", "smaller", "elsewhere", "another space"],
)
def test_a_decision_for_another_agent_json_is_refused(
    tmp_path: Path, after: tuple[SourceIdentity, ...]
) -> None:
    directory = agent(tmp_path)
    decided(directory, replace(IDENTITY, sources=after))
    with pytest.raises(ReloadRefused, match="older"):
        find_decision(directory)
    assert find_decision(directory) is None, "it is not asked for again and again"


def test_what_was_removed_does_not_come_back(tmp_path: Path) -> None:
    directory = agent(tmp_path, replace(IDENTITY, sources=(DB, replace(LOG, removed=True))))
    decided(directory, IDENTITY)
    with pytest.raises(ReloadRefused):
        find_decision(directory)


def test_who_holds_a_lock_is_known_while_it_is_held(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    assert holder_of(path) is None
    held = take_lock(path, SystemClock())
    assert holder_of(path) == os.getpid()
    os.close(held)
    assert holder_of(path) is None


HOME = TreeSettings(name="home", path="/home", exclude=["*.tmp"])
HAS_HOME = replace(IDENTITY, trees=(TreeIdentity("home", "/home", b"t" * 16, exclude=("*.tmp",)),))


def test_trees_come_change_and_go_and_keep_their_places() -> None:
    added = changed_trees(IDENTITY, [HOME], lambda count: b"t" * count)
    assert added == HAS_HOME
    assert changed_trees(added, [HOME], entropy) == added
    moved = changed_trees(added, [HOME.model_copy(update={"path": "/srv/home", "include": ["a"]})], entropy)
    assert moved.trees == (replace(HAS_HOME.trees[0], path="/srv/home", include=("a",)),)
    gone = changed_trees(moved, [], entropy)
    assert gone.active_trees == ()
    again = changed_trees(gone, [HOME], entropy)
    assert [tree.tree for tree in again.trees] == [b"t" * 16, b"n" * 16], "another id: nothing is known of it"


def test_a_decision_about_trees_is_found_unless_it_forgets_one(tmp_path: Path) -> None:
    replace_file(tmp_path / IDENTITY_NAME, encode_identity(HAS_HOME))
    Decision(tmp_path, "one", HAS_HOME, changed_trees(HAS_HOME, [], entropy)).leave()
    found = find_decision(tmp_path)
    assert found is not None
    assert found.after.active_trees == ()
    Decision(tmp_path, "two", HAS_HOME, IDENTITY).leave()
    with pytest.raises(ReloadRefused):
        find_decision(tmp_path)


def test_the_watcher_runs_while_there_are_trees(tmp_path: Path) -> None:
    wished = TreesWished(tmp_path)
    assert wished() == ""
    replace_file(tmp_path / IDENTITY_NAME, encode_identity(IDENTITY))
    assert wished() == ""
    replace_file(tmp_path / IDENTITY_NAME, encode_identity(HAS_HOME))
    first = wished()
    assert first
    other = changed_trees(HAS_HOME, [HOME.model_copy(update={"exclude": []})], entropy)
    replace_file(tmp_path / IDENTITY_NAME, encode_identity(other))
    assert wished() not in ("", first)
    (tmp_path / IDENTITY_NAME).unlink()
    assert wished(), "as it was"
