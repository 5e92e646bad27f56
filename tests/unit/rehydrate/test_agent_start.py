"""Hooks and the agent that a failover starts: what fails is said in words that tell what to do."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

from cdp_container.clock import SystemClock
from cdp_container.console import PASSPHRASE_VARIABLE
from cdp_container.errors import AgentNotRunning, HookFailed, UsageError
from cdp_container.journal.shared import SharedPages, SplitterPage
from rehydrate import agent_start
from rehydrate.agent_files import journal_lock


def program(path: Path, text: str) -> Path:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


@pytest.mark.parametrize(
    "command", ["", "   ", "'unbalanced", "/none/such --option", "no-such-program-anywhere"]
)
def test_what_is_no_command_is_refused_before_anything(command: str) -> None:
    with pytest.raises(UsageError, match="--before"):
        agent_start.check_hook(command, "--before")


def test_a_hook_is_told_and_gets_no_passphrase(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PASSPHRASE_VARIABLE, "secret words")
    hook = program(tmp_path / "hook", f'env > {tmp_path}/told; echo "$1" >> {tmp_path}/told')
    words = agent_start.check_hook(f"{hook} 'two words'", "--after")
    agent_start.run_hook(words, "--after", {"CDP_SITE": "vienna"}, "hint")
    told = (tmp_path / "told").read_text()
    assert "CDP_SITE=vienna\n" in told
    assert told.endswith("two words\n")
    assert "secret words" not in told


@pytest.mark.parametrize(
    ("text", "why"),
    [("exit 7", "exit code 7"), ("kill -9 $$", "signal 9"), ("exec sleep 60", "within 0.1 s")],
)
def test_a_hook_that_fails_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, why: str
) -> None:
    monkeypatch.setattr(agent_start, "HOOK_SECONDS_MAX", 0.1 if "sleep" in text else 60)
    with pytest.raises(HookFailed, match=why) as caught:
        agent_start.run_hook([str(program(tmp_path / "hook", text))], "--before", {}, "what to do")
    assert caught.value.hint == "what to do"


def test_a_hook_that_cannot_be_run_is_named(tmp_path: Path) -> None:
    with pytest.raises(HookFailed, match="hook"):
        agent_start.run_hook([str(tmp_path / "hook")], "--before", {}, "hint")


def test_an_agent_that_is_not_installed_is_missed_early(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(AgentNotRunning, match="no cdp-agent"):
        agent_start.find_agent()
    installed = program(tmp_path / "cdp-agent", "true")
    assert agent_start.find_agent() == installed


def test_an_agent_that_ends_is_said_with_its_last_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = program(tmp_path / "cdp-agent", "echo starting; echo 'error: the disk is gone' >&2; exit 61")
    monkeypatch.setattr(agent_start, "find_agent", lambda: fake)
    with pytest.raises(AgentNotRunning, match="exit code 61: error: the disk is gone") as caught:
        agent_start.start_agent(tmp_path / "agent.yaml", tmp_path, SystemClock())
    assert "agent.log" in caught.value.hint


def test_one_that_runs_already_is_only_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def never() -> Path:
        raise AssertionError("a second one was started")

    monkeypatch.setattr(agent_start, "find_agent", never)
    pages = SharedPages(tmp_path / "shared")
    pages.splitter.publish(SplitterPage(generation=5, running=True, exports_open=True))
    pages.close()
    with journal_lock(tmp_path):
        assert agent_start.start_agent(tmp_path / "agent.yaml", tmp_path, SystemClock()) is None


def test_one_that_was_started_a_moment_before_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A failover was killed as it started the agent, which has not taken its lock when the next one looks."""
    with ExitStack() as stack:

        def ours() -> Path:
            stack.enter_context(journal_lock(tmp_path))
            return program(tmp_path / "cdp-agent", f"touch {tmp_path}/ended; exit 60")

        class Opening(SystemClock):
            def sleep(self, seconds: float) -> None:
                super().sleep(seconds)
                polls.append(seconds)
                if (tmp_path / "ended").exists() and len(polls) > 10:
                    pages = SharedPages(tmp_path / "shared")
                    pages.splitter.publish(SplitterPage(generation=5, running=True, exports_open=True))
                    pages.close()

        polls: list[float] = []
        monkeypatch.setattr(agent_start, "find_agent", ours)
        assert agent_start.start_agent(tmp_path / "agent.yaml", tmp_path, Opening()) is None


@pytest.mark.parametrize("is_ours", [True, False])
def test_nobody_is_waited_for_who_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_ours: bool
) -> None:
    """Another's lock of an image, say, ends the agent by the same code; nobody runs in the directory then."""
    (tmp_path / "agent.log").write_text("error: the last words\n")
    fake = program(tmp_path / "cdp-agent", "echo 'error: the last words'; exit 60")
    monkeypatch.setattr(agent_start, "find_agent", lambda: fake)
    looks = iter([not is_ours])
    monkeypatch.setattr(agent_start, "is_locked", lambda _: next(looks, False))
    with pytest.raises(AgentNotRunning, match="the last words"):
        agent_start.start_agent(tmp_path / "agent.yaml", tmp_path, SystemClock())
