"""`cdp-agent verify`: a verification by the index key, now or by schedule; what it says of it."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from types import FrameType
from typing import Final

from cdp_agent.cli.accepted import load_running
from cdp_agent.cli.children import load_agent, operator, software
from cdp_agent.verifier.process import Verification, Verified, verify_once
from cdp_container.clock import SystemClock
from cdp_container.console import answer, printable, say
from cdp_container.domain.budget import budget_of
from cdp_container.domain.durable import replace_file
from cdp_container.errors import UsageError, counted

NICENESS: Final = 10
"""Of a scheduled run: the streamer and guests come first."""


def verify_now(config: Path, budget: str | None, file: Path | None, *, as_json: bool) -> int:
    """What `cdp-agent verify` does.

    Raises PointsDamaged, Incomplete (what was found comes to that), AlreadyRunning, UsageError, CdpError.
    """
    try:
        wanted = None if budget is None else budget_of(budget)
    except ValueError as error:
        raise UsageError("read --budget", f"{budget!r} {error}") from None
    agent = load_running(config)
    tell = (lambda _: None) if as_json else say
    what = Verification(agent.settings, agent.identity, operator(), software(), wanted, tell)
    done = verify_once(what, SystemClock())
    text = json.dumps(done.members, indent=2)
    if file is not None:
        replace_file(file, text.encode() + b"\n")
    answer(text if as_json else "\n".join(verified_text(done)))
    if done.report.error is not None:
        raise done.report.error
    return 0


def scheduled_run(config: Path) -> int:
    """A run that the supervisor started: quietly, and after everything else on this machine.

    What it found is told by `status` and the alerts, and fails nothing.
    """
    os.nice(NICENESS)
    signal.signal(signal.SIGTERM, _interrupt)
    settings, identity = load_agent(config, other_volumes=True)
    wanted = settings.verification
    budget = None if wanted is None or wanted.budget is None else budget_of(wanted.budget)
    what = Verification(settings, identity, operator(), software(), budget, lambda _: None)
    verify_once(what, SystemClock())
    return 0


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    """To be ended is to be interrupted: the hold is dropped, or nothing were collected for its term."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise KeyboardInterrupt


def verified_text(done: Verified) -> list[str]:
    """What was found, for people: every finding by name, then what was looked at."""
    report, members = done.report, done.members
    lines = []
    for found in report.findings:
        rest = "" if found.needed else " (no point needs it)"
        lines.append(printable(f"{found.kind}: {found.key}: {found.error.why}{rest}"))
    lines.append(
        f"{counted(report.objects, 'object')}, {report.stored_bytes / 2**20:.1f} MiB; "
        f"{report.sound_points} of {counted(report.points, 'point')} sound"
    )
    coverage = report.coverage
    if coverage is not None:
        whole = f"{coverage.stored_bytes / 2**20:.1f} MiB"
        lines.append(f"a sample of {whole}; round {coverage.round} has come by "
                     f"{coverage.round_objects} of {counted(coverage.objects, 'object')}")  # fmt: skip
    if not report.opened:
        lines.append("frames: their CRC-32; their seals can be checked with a key alone: `rehydrate verify`")
    return [*lines, str(members["verdict"])]
