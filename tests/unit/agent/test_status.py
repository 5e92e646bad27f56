"""`status` answers what would be lost, also where no agent runs; its exit code is its word."""

from __future__ import annotations

import os
from pathlib import Path

import orjson
import pytest

from cdp_agent.cli.init import initialise
from cdp_agent.cli.status import NEVER_RAN, _is_well, gather, show_status
from cdp_agent.splitter.settings import LOCK_NAME as SPLITTER_LOCK
from cdp_agent.supervisor import take_lock
from cdp_agent.wish import Wish, save_wish
from cdp_container.clock import SystemClock
from cdp_container.domain.identity import load_identity
from cdp_container.domain.notes import Notes, save_notes
from cdp_container.domain.settings import AgentSettings, load_settings
from cdp_container.format.keyblock import ScryptCost
from cdp_container.journal.position import Position
from cdp_container.journal.shared import SharedPages, SplitterPage, StreamerPage
from cdp_container.store.memory import MemoryStore

HEALTHY = SplitterPage(generation=7, running=True, exports_open=True, used_bytes=5, limit_bytes=1 << 30)


@pytest.fixture
def config(tmp_path: Path) -> Path:
    (tmp_path / "db01.raw").write_bytes(bytes(1 << 20))
    path = tmp_path / "agent.yaml"
    path.write_text(
        f"domain: shop\nsite: hamburg\nstore: {tmp_path}/container\nencryption: none\n"
        f"journal:\n  directory: {tmp_path}/journal\n"
        f"volumes:\n  - name: db01\n    path: {tmp_path}/db01.raw\n"
    )
    clock = SystemClock()
    cost = ScryptCost(n=16)
    initialise(load_settings(path), MemoryStore(clock), lambda: "", clock, os.urandom, cost)
    return path


def problems(config: Path, page: SplitterPage | None = None, *, locked: bool = True) -> list[str]:
    settings: AgentSettings = load_settings(config)
    directory = Path(settings.journal.directory)
    if page is not None:
        pages = SharedPages(directory / "shared")
        pages.splitter.publish(page)
        pages.streamer.publish(StreamerPage())
        pages.close()
    lock = take_lock(directory / "lock", SystemClock()) if locked else None
    try:
        return gather(settings, load_identity(directory), SystemClock()).problems
    finally:
        if lock is not None:
            os.close(lock)


def test_before_the_first_run(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert problems(config, locked=False)[0] == NEVER_RAN
    assert show_status(config, as_json=False) == 3
    assert "NOT ON TARGET; lost if the site died now: not known" in capsys.readouterr().out


def test_json_has_base_units_and_a_schema(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert show_status(config, as_json=True) == 3
    document = orjson.loads(capsys.readouterr().out)
    assert document["schema"] == 1
    assert document["on_target"] is False
    assert document["lag_seconds"] is None
    assert document["journal_limit_bytes"] == 8 << 30


def test_an_agent_that_does_not_run(config: Path) -> None:
    assert "the agent does not run" in problems(config, HEALTHY, locked=False)[0]


def test_a_streamer_that_does_not_answer(config: Path) -> None:
    assert any("streamer does not answer" in line for line in problems(config, HEALTHY))


@pytest.mark.parametrize("lives", [False, True])
def test_a_splitter_that_was_killed_is_known_by_its_lock(config: Path, lives: bool) -> None:
    """What it published says that it runs: it had no time to say otherwise."""
    directory = config.parent / "journal"
    lock = take_lock(directory / SPLITTER_LOCK, SystemClock()) if lives else None
    found = problems(config, HEALTHY)
    if lock is not None:
        os.close(lock)
    assert any("the splitter ended and is started again" in line for line in found) is not lives


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (SplitterPage(generation=7, running=True, overflow_at=Position(7, 9)), "the journal is full"),
        (SplitterPage(generation=7, running=True, sync_failed=True), "the disk failed"),
        (SplitterPage(generation=7, running=True), "exports are not open"),
    ],
)
def test_what_the_splitter_says_is_shown(config: Path, change: SplitterPage, expected: str) -> None:
    assert any(expected in line for line in problems(config, change))


def test_what_is_wrong_with_the_exports_over_tcp_is_shown(config: Path) -> None:
    shown = {"state": "serving", "tcp": {"listen": "0.0.0.0:1", "error": "the certificates cannot be used"}}
    (config.parent / "journal" / "splitter.json").write_bytes(orjson.dumps(shown))
    assert "NBD over TCP: the certificates cannot be used" in problems(config, HEALTHY)


def test_fenced_is_shown_from_the_durable_note(config: Path) -> None:
    directory = config.parent / "journal"
    save_notes(directory, Notes(fenced="site 'bremen' took the domain"))
    assert any("bremen" in line for line in problems(config, HEALTHY))


def test_a_refusal_of_the_splitter_is_shown_with_its_hint(config: Path) -> None:
    fault = {"what": "opening volume db01", "why": "it was changed", "hint": "say --redo"}
    shown = {"state": "refused", "error": fault}
    (config.parent / "journal" / "splitter.json").write_bytes(orjson.dumps(shown))
    lines = problems(config, SplitterPage(generation=7), locked=False)
    assert "the exports stay closed: opening volume db01: it was changed" in lines
    assert "hint: say --redo" in lines


@pytest.mark.parametrize("junk", [b"", b"{", b"[]", b"\xff" * 10])
def test_torn_facts_are_no_facts(config: Path, junk: bytes) -> None:
    for name in ("splitter.json", "streamer.json"):
        (config.parent / "journal" / name).write_bytes(junk)
    assert problems(config, HEALTHY)


def test_writes_that_wait_are_a_problem_and_not_over(config: Path) -> None:
    """Whoever waits does not fail again: without a word of its own that would look as if it were over."""
    directory = config.parent / "journal"
    facts = {"state": "serving", "writes_wait": "it is at its limit", "last_error": "x", "last_error_ns": 1}
    (directory / "splitter.json").write_bytes(orjson.dumps(facts))
    lock = take_lock(directory / SPLITTER_LOCK, SystemClock())
    assert "guests' writes wait until the journal has room: it is at its limit" in problems(config, HEALTHY)
    os.close(lock)
    streamer = {"state": "streaming"}
    assert _is_well(streamer, {}, HEALTHY, running=True)
    assert not _is_well(streamer, facts, HEALTHY, running=True)


def test_a_wish_that_is_not_done_is_shown(config: Path) -> None:
    save_wish(config.parent / "journal", Wish(keep_disk=True))
    assert "asked for and not done yet: --keep-disk" in problems(config, HEALTHY)


def test_the_last_error_has_an_age(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    problems(config, HEALTHY)
    facts = {"last_error": "overflow: no room", "last_error_ns": SystemClock().wall_ns() - 600 * 10**9}
    (config.parent / "journal" / "splitter.json").write_bytes(orjson.dumps(facts))
    show_status(config, as_json=True)
    document = orjson.loads(capsys.readouterr().out)
    assert document["last_error"] == "overflow: no room"
    assert document["last_error_age_seconds"] >= 600
    assert document["last_error_over"] is False, "nothing runs, so nobody knows"
    show_status(config, as_json=False)
    assert "overflow: no room (10 min ago)" in capsys.readouterr().out
