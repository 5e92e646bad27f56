"""Programs that a failover starts: hooks, which it waits for, and the agent, which outlives it.

The agent is another program, found beside this one: nothing of it is imported. Neither gets the passphrase.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from cdp_container.clock import Clock
from cdp_container.console import PASSPHRASE_VARIABLE
from cdp_container.errors import AgentNotRunning, AlreadyRunning, HookFailed, UsageError
from cdp_container.journal.shared import SharedPages
from rehydrate.agent_files import is_locked

AGENT: Final = "cdp-agent"
LOG_NAME: Final = "agent.log"
HOOK_SECONDS_MAX: Final = 600
"""A hook that takes longer is taken for one that hangs: the machines wait for what comes after it."""
START_SECONDS_MAX: Final = 300.0
"""From the start of an agent until its exports are open; a large journal is none after a failover."""
POLL_SECONDS: Final = 0.1
LOG_BYTES_SHOWN: Final = 2000


def find_agent() -> Path:
    """The `cdp-agent` that was installed with us, else the one on PATH. Raises AgentNotRunning."""
    beside = Path(sys.executable).with_name(AGENT)
    found = str(beside) if os.access(beside, os.X_OK) else shutil.which(AGENT)
    if found is None:
        why = f"there is no {AGENT} beside {sys.executable} or on PATH"
        raise AgentNotRunning("cannot start the agent", why, "install it, or say --no-start")
    return Path(found)


def check_hook(command: str, option: str) -> list[str]:
    """The words of a hook's command. Raises UsageError where it cannot be one."""
    try:
        words = shlex.split(command)
    except ValueError as error:
        raise UsageError(f"read {option}", f"{command!r}: {error}") from None
    if not words or shutil.which(words[0]) is None:
        raise UsageError(f"read {option}", f"there is no such program: {command!r}", "give its absolute path")
    return words


def run_hook(words: list[str], option: str, told: Mapping[str, str], hint: str) -> None:
    """Run a hook and wait for it; its output is the caller's. Raises HookFailed."""
    what = f"the command of {option} failed"
    try:
        done = subprocess.run(
            words,
            stdin=subprocess.DEVNULL,
            stdout=sys.stderr.fileno(),
            env={**_environment(), **told},
            timeout=HOOK_SECONDS_MAX,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise HookFailed(what, f"{words[0]} did not end within {HOOK_SECONDS_MAX} s", hint) from None
    except OSError as error:
        raise HookFailed(what, f"{words[0]}: {error.strerror or 'it cannot be started'}", hint) from error
    if done.returncode:
        ended = f"exit code {done.returncode}" if done.returncode > 0 else f"signal {-done.returncode}"
        raise HookFailed(what, f"{words[0]} ended with {ended}", hint)


def start_agent(config: Path, directory: Path, clock: Clock) -> int | None:
    """Start `cdp-agent run` in a session of its own, and wait until its exports are open; gives its pid.

    None where one runs there already, or was quicker than ours: then only that is waited for.

    Raises AgentNotRunning: it ended, or they are not open after START_SECONDS_MAX; it then goes on starting.
    """
    pages = SharedPages(directory / "shared")
    try:
        runs = is_locked(directory)
        before = 0 if runs else _generation(pages)
        process = None if runs else _spawn(config, directory / LOG_NAME)
        until_ns = clock.boottime_ns() + int(START_SECONDS_MAX * 1e9)
        while _generation(pages) in (0, before):
            code = None if process is None else process.poll()
            if code == AlreadyRunning.exit_code and is_locked(directory):
                process = None  # one that was started a moment before took the lock first: that one, then
            elif code is not None:
                raise _not_running(directory, f"it ended with exit code {code}")
            elif process is None and not is_locked(directory):
                raise _not_running(directory, "the one that ran there ended")
            if clock.boottime_ns() >= until_ns:
                raise _not_running(directory, f"its exports are not open after {START_SECONDS_MAX:.0f} s")
            clock.sleep(POLL_SECONDS)
    finally:
        pages.close()
    return None if process is None else process.pid


def _spawn(config: Path, log: Path) -> subprocess.Popen[bytes]:
    command = [str(find_agent()), "run", "--config", str(config)]
    with log.open("ab") as file:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            env=_environment(),
            start_new_session=True,
        )


def _generation(pages: SharedPages) -> int:
    """Of the splitter whose exports are open; 0 where there is none. An older one has another number."""
    page = pages.splitter.read()
    return page.generation if page is not None and page.running and page.exports_open else 0


def _not_running(directory: Path, why: str) -> AgentNotRunning:
    log = directory / LOG_NAME
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - LOG_BYTES_SHOWN))
        shown = file.read(LOG_BYTES_SHOWN).decode(errors="replace").strip()
    last = shown.splitlines()[-1] if shown else "it said nothing"
    hint = f"read {log}, mend what it names, and run this command again: it goes on where it was"
    return AgentNotRunning("the agent did not start", f"{why}: {last}", hint)


def _environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name != PASSPHRASE_VARIABLE}
