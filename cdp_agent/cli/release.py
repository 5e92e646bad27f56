"""`cdp-agent release`: give the domain to another site in good order, or take it back.

The agent does it, and goes on whatever becomes of this command: here it is asked to, and waited for, and told
what it waits for. What does not belong here: the steps of a release (`streamer.releasing`).
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from cdp_agent.cli.accepted import load_running
from cdp_agent.cli.vm_status import ask_hypervisors
from cdp_agent.releases import release_members
from cdp_agent.streamer.control import call
from cdp_agent.supervisor import is_locked
from cdp_container.clock import Clock
from cdp_container.console import answer, say
from cdp_container.domain.notes import Notes, load_notes
from cdp_container.domain.settings import is_name
from cdp_container.errors import AgentNotRunning, Fenced, OwnedElsewhere, ReleaseRefused, UsageError

POLL_SECONDS: Final = 0.2
ASK_SECONDS: Final = 5.0
BEGIN_SECONDS_MAX: Final = 60.0
"""How long an agent that just started may take before it can begin."""
SITE_HINT: Final = "name it as `site` in the configuration of the agent there does"
GOES_ON: Final = "once it runs, the agent goes on where it was: `cdp-agent run`"
TAKEN_HINT: Final = (
    "`cdp-agent owner` tells who owns it; `rehydrate failback` brings the domain back once it is given back"
)


def release_or_cancel(config: Path, site: str | None, clock: Clock, *, cancel: bool, as_json: bool) -> int:
    """What `cdp-agent release` does. Raises UsageError, and what the two below raise."""
    if cancel == (site is not None):
        raise UsageError("release the domain", "either --to SITE or --cancel is needed")
    if site is None:
        cancel_release(config, clock)
        answer(json.dumps({"owner": True}) if as_json else "the domain is this site's again")
        return 0
    release_site(config, site, clock)
    members = release_members(load_notes(_directory(config)), clock.wall_ns())
    if members is None:
        return 0  # cancelled meanwhile, by somebody else
    final = members["final"]
    cut = f"{final['epoch']}.{final['cut']}" if final else "none"
    text = f"released to {members['to']}; final cut {cut}; it took {members['seconds']:.1f} s"
    answer(json.dumps(members) if as_json else text)
    return 0


def release_site(config: Path, site: str, clock: Clock) -> None:
    """Release the domain to this site; returns when that is in `domain/owner` and noted.

    Raises:
        UsageError: no site can be called so.
        ReleaseRefused: nothing was changed.
        AgentNotRunning: it does not run, or ended meanwhile; then it goes on with its next start.
        Fenced: another site took the domain.
    """
    if not is_name(site):
        raise UsageError("release the domain", f"{site[:80]!r} is no name of a site", SITE_HINT)
    running = load_running(config)
    directory = Path(running.settings.journal.directory)
    ask_hypervisors(directory, running.identity)
    waiting = _Waiting(directory, clock, f"release the domain to {site}")
    waiting.begin({"command": "release", "site": site})
    waiting.until(lambda notes: notes.released_to == site or not notes.releasing_to)


def cancel_release(config: Path, clock: Clock) -> None:
    """Take the domain back; returns when it is ours, durably. Raises OwnedElsewhere too."""
    waiting = _Waiting(_directory(config), clock, "take the domain back")
    waiting.begin({"command": "cancel-release"})
    waiting.until(lambda notes: not notes.released_to and not notes.releasing_to)


def _directory(config: Path) -> Path:
    return Path(load_running(config).settings.journal.directory)


@dataclass(slots=True)
class _Waiting:
    """One release or cancel, asked of the running agent."""

    directory: Path
    clock: Clock
    what: str
    told: str = ""

    def begin(self, request: dict[str, Any]) -> None:
        until_ns = self.clock.boottime_ns() + int(BEGIN_SECONDS_MAX * 1e9)
        while True:
            told = self._ask(request)
            if told is None:
                self._refuse_fenced(load_notes(self.directory))
            elif told.get("ok"):
                return
            elif not told.get("again") or self.clock.boottime_ns() >= until_ns:
                raise ReleaseRefused(self.what, str(told.get("error", "")), str(told.get("hint", "")))
            if told is None and self.clock.boottime_ns() >= until_ns:
                raise AgentNotRunning(self.what, f"no streamer answers in {self.directory}")
            self._tell("the streamer" if told is None else str(told["error"]))
            self.clock.sleep(POLL_SECONDS)

    def until(self, is_done: Callable[[Notes], bool]) -> None:
        while not is_done(notes := load_notes(self.directory)):
            self._refuse_fenced(notes)
            told = self._ask({"command": "status"}) or {}
            facts = told.get("facts", {})
            release = facts.get("release") or {}
            if release.get("cancel_refused"):
                raise OwnedElsewhere(self.what, release["cancel_refused"], TAKEN_HINT)
            waits_for = release.get("waits_for") or facts.get("state") or "the streamer"
            troubles = [f"{topic}: {why}" for topic, why in facts.get("troubles", {}).items()]
            self._tell("; ".join([str(waits_for), *troubles]))
            self.clock.sleep(POLL_SECONDS)

    def _tell(self, waits_for: str) -> None:
        """A line for each new thing that is waited for."""
        if waits_for != self.told:
            self.told = waits_for
            say(f"waiting for {waits_for}")

    def _ask(self, request: dict[str, Any]) -> dict[str, Any] | None:
        """None where the streamer does not answer, as it begins anew."""
        if not is_locked(self.directory / "lock"):
            raise AgentNotRunning(self.what, f"no agent runs in {self.directory}", GOES_ON)
        try:
            return call(self.directory, request, ASK_SECONDS)
        except OSError:
            return None

    def _refuse_fenced(self, notes: Notes) -> None:
        if notes.fenced:
            raise Fenced(self.what, notes.fenced)
