"""Looks at what splitter and streamer show, and has the hook say what is worth an alert.

The supervisor calls `poll` in its loop, which also feeds the watchdog: everything here returns at once. Its
own record, alerts.json, is not durable; it keeps a run that is started again and again from saying the same
each time. What does not belong here: what an alert is (`rules`).
"""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import orjson

from cdp_agent.alerts.hook import EVENT_BYTES_MAX, Hook
from cdp_agent.alerts.machines import still_wrong, vm_faults, vm_trouble
from cdp_agent.alerts.rules import Kind, Look, News, Said, after_saying, news, troubles
from cdp_agent.alerts.shown import ALERTS_NAME, read_shown
from cdp_agent.collector.last import load_last, trouble_of
from cdp_agent.splitter.settings import FACTS_NAME as SPLITTER_FACTS_NAME
from cdp_agent.splitter.settings import LOCK_NAME as SPLITTER_LOCK_NAME
from cdp_agent.streamer.settings import FACTS_NAME
from cdp_agent.supervisor import is_locked
from cdp_agent.verifier.last import load_last as load_verification
from cdp_agent.verifier.last import problem_of
from cdp_container.clock import Clock
from cdp_container.domain.notes import load_notes
from cdp_container.domain.settings import AgentSettings
from cdp_container.errors import CdpError, JournalDamaged
from cdp_container.journal.shared import SharedPages, SplitterPage

SCHEMA: Final = 1
TRYING_STATES: Final = ("opening", "redo")
"""Of a splitter that may come to what kept the one before from serving."""
LOOK_SECONDS: Final = 1.0
"""The facts are replaced once a second."""
MESSAGE_CHARACTERS_MAX: Final = 500
FINISH_SECONDS_MAX: Final = 30
"""How long the end of a run waits for its last alerts."""
POLL_SECONDS: Final = 0.05


@dataclass(slots=True)
class _Shown:
    """One process's facts. What an earlier run left is none of ours."""

    path: Path
    left: bytes = b""
    members: dict[str, Any] = field(default_factory=dict)
    changed_ns: int = 0

    def look(self, now_ns: int) -> None:
        """Read them again."""
        raw = read_shown(self.path)
        if raw == self.left:
            return
        self.left = raw
        try:
            members = orjson.loads(raw)
        except orjson.JSONDecodeError:
            return  # it is being replaced, or the disk is full
        if isinstance(members, dict):
            self.members, self.changed_ns = members, now_ns


@dataclass(slots=True)
class Watch:
    """Call `poll` often, and `finish` when the run ends for good."""

    settings: AgentSettings
    pages: SharedPages
    clock: Clock
    hook: Hook
    _streamer: _Shown
    _splitter: _Shown
    served_ns: int
    """When a splitter was last seen to serve, by the boot-time clock; before that, when the watch began."""
    said: dict[Kind, Said] = field(default_factory=dict)
    _waiting: list[News] = field(default_factory=list)
    _look_at_ns: int = 0
    _error: str | None = None
    _ending: bool = False
    _served: bool = False
    _fault: dict[str, Any] = field(default_factory=dict)
    _wrong_since_ns: dict[str, int] = field(default_factory=dict)
    """What is wrong with VMs, by the boot-time clock."""

    def poll(self) -> None:
        """Look once a second, start the hook where there is news. Returns at once."""
        now_ns = self.clock.boottime_ns()
        self.hook.poll()
        if now_ns >= self._look_at_ns:
            self._look_at_ns = now_ns + int(LOOK_SECONDS * 1e9)
            told = news(self.said, troubles(self._look(now_ns)), now_ns)
            self._waiting = [one for one in told if one.on or self._knows(one.kind)]
        self._run_next(now_ns)

    def _knows(self, kind: Kind) -> bool:
        """Whether this run has seen enough to say that what an earlier one said is over."""
        if kind is Kind.DOWN:
            return self._served
        tries = self._splitter.members.get("state") in TRYING_STATES
        return bool(self._streamer.members and self._splitter.members) and not tries

    def finish(self) -> None:
        """Look once more and say everything, for FINISH_SECONDS_MAX at most."""
        until_ns = self.clock.boottime_ns() + FINISH_SECONDS_MAX * 1_000_000_000
        self._look_at_ns = 0
        self._ending = True
        self.poll()
        while (self.hook.busy or self._waiting) and self.clock.boottime_ns() < until_ns:
            self.clock.sleep(POLL_SECONDS)
            self.hook.poll()
            self._run_next(self.clock.boottime_ns())
        self.hook.end()
        self._save()

    def _run_next(self, now_ns: int) -> None:
        if self.hook.busy:
            return
        if self._error != self.hook.error:
            self._save()
        if self._waiting:
            one = self._waiting.pop(0)
            self.said = after_saying(self.said, one, now_ns)
            self.hook.start(self._event(one))
            self._save()

    def _look(self, now_ns: int) -> Look:
        self._streamer.look(now_ns)
        self._splitter.look(now_ns)
        page, unreadable = self._page()
        facts, shown = self._streamer.members, self._splitter.members
        lag_seconds = facts.get("lag_seconds")
        if lag_seconds is not None and (lag_seconds > 0 or not self._is_proven(page)):
            # A streamer that died or hangs shows nothing new, and what would be lost grows all the while.
            lag_seconds += (now_ns - self._streamer.changed_ns) / 1e9
        if shown.get("state") not in TRYING_STATES:
            error = shown.get("error") if shown.get("state") == "refused" else None
            self._fault = error if isinstance(error, dict) else {}
        fault = self._fault
        why = f"the exports stay closed: {fault.get('what')}: {fault.get('why')}" if fault else ""
        is_damage = fault.get("type") == JournalDamaged.__name__
        disk = "the disk failed, flushes fail" if page is not None and page.sync_failed else unreadable
        index = facts.get("troubles", {}).get("index", "")
        return Look(
            rpo_target_seconds=self.settings.rpo_target,
            lag_seconds=lag_seconds,
            used_bytes=page.used_bytes if page is not None else 0,
            limit_bytes=page.limit_bytes if page is not None else 0,
            overflowed=page is not None and page.overflowed,
            down_seconds=self._down_seconds(page, now_ns),
            fenced=self._fenced(),
            refused=_refused(facts) or ("" if is_damage else why),
            damage=(why if is_damage else "") or disk or str(index),
            collection=self._collection(),
            verification=self._verification(),
            vms=self._vms(facts, now_ns),
        )

    def _vms(self, facts: dict[str, Any], now_ns: int) -> str:
        faults = vm_faults(facts)
        self._wrong_since_ns = still_wrong(self._wrong_since_ns, faults, now_ns)
        return vm_trouble(self._wrong_since_ns, faults, now_ns)

    def _collection(self) -> str:
        try:
            return trouble_of(load_last(Path(self.settings.journal.directory)))
        except CdpError:
            return ""  # the disk's fault is told of elsewhere

    def _verification(self) -> str:
        try:
            return problem_of(load_verification(Path(self.settings.journal.directory)))
        except CdpError:
            return ""  # the disk's fault is told of elsewhere

    def _page(self) -> tuple[SplitterPage | None, str]:
        """The splitter's page, and why it cannot be read: no fault of the disk may end the supervisor."""
        try:
            return self.pages.splitter.read(), ""
        except (CdpError, OSError):
            return None, "the journal directory cannot be read"

    def _down_seconds(self, page: SplitterPage | None, now_ns: int) -> float:
        """How long guests were not served; a splitter that was killed could not say so on its page."""
        # A page that is torn tells nothing, and exports that were closed on purpose are no trouble.
        is_open = page is None or (page.running and (page.exports_open or page.writes_closed))
        lock = Path(self.settings.journal.directory) / SPLITTER_LOCK_NAME
        # Of a run that ends nothing new is said: it may have been told to, and what was said stands.
        stood = self._ending and not (Kind.DOWN in self.said and self.said[Kind.DOWN].on)
        serves = not self._ending and is_open and _is_held(lock)
        if serves or stood:
            self.served_ns = now_ns
        self._served |= serves
        return (now_ns - self.served_ns) / 1e9

    def _is_proven(self, page: SplitterPage | None) -> bool:
        try:
            streamer = self.pages.streamer.read()
        except (CdpError, OSError):
            return False
        return page is None or (streamer is not None and streamer.proven == page.tail)

    def _fenced(self) -> str:
        try:
            return load_notes(Path(self.settings.journal.directory)).fenced
        except (CdpError, OSError):
            return ""  # whoever needs the notes says that they cannot be read

    def _event(self, one: News) -> bytes:
        page, _ = self._page()
        members = {
            "schema": SCHEMA,
            "kind": one.kind.value,
            "state": "on" if one.on else "over",
            "message": one.message[:MESSAGE_CHARACTERS_MAX],
            "domain": self.settings.domain,
            "site": self.settings.site,
            "time": datetime.fromtimestamp(self.clock.wall_ns() // 10**9, tz=UTC).isoformat(),
            "lag_seconds": self._streamer.members.get("lag_seconds"),
            "journal_used_bytes": page.used_bytes if page is not None else None,
            "journal_limit_bytes": page.limit_bytes if page is not None else None,
        }
        event = orjson.dumps(members, option=orjson.OPT_APPEND_NEWLINE)
        assert len(event) <= EVENT_BYTES_MAX, len(event)
        return event

    def _save(self) -> None:
        self._error = self.hook.error
        path = Path(self.settings.journal.directory) / ALERTS_NAME
        fresh = path.with_name(f"{ALERTS_NAME}.new")
        record = {
            "said": {kind.value: asdict(said) for kind, said in self.said.items()},
            "error": self.hook.error,
            "time_ns": self.clock.wall_ns(),
        }
        try:
            fresh.write_bytes(orjson.dumps(record))
            fresh.replace(path)
        except OSError:
            return  # not durable anyway: an alert may come twice


def open_watch(settings: AgentSettings, pages: SharedPages, clock: Clock) -> Watch | None:
    """What watches, None where no alerts are configured."""
    if settings.alerts is None:
        return None
    directory = Path(settings.journal.directory)
    now_ns = clock.boottime_ns()
    streamer, splitter = (
        _Shown(directory / name, read_shown(directory / name), changed_ns=now_ns)
        for name in (FACTS_NAME, SPLITTER_FACTS_NAME)
    )
    hook = Hook(settings.alerts, clock, os.environ)
    return Watch(settings, pages, clock, hook, streamer, splitter, now_ns, _load_said(directory))


def _load_said(directory: Path) -> dict[Kind, Said]:
    """What earlier runs said; nothing where that cannot be read: then it is said again."""
    try:
        record = orjson.loads(read_shown(directory / ALERTS_NAME))["said"]
        return {Kind(kind): Said(int(said["at_ns"]), bool(said["on"])) for kind, said in record.items()}
    except (orjson.JSONDecodeError, KeyError, TypeError, ValueError, AttributeError):
        return {}


def _is_held(lock: Path) -> bool:
    """Whether somebody holds it; yes where that cannot be found out, as the disk's fault is told anyway."""
    try:
        return is_locked(lock)
    except OSError:
        return True


def _refused(facts: dict[str, Any]) -> str:
    """Why the streamer does not write to the store, where only an operator can mend it."""
    if facts.get("store_refused"):
        return str(facts["store_refused"])
    state = str(facts.get("state", ""))
    return state if state.startswith(("refused:", "owned elsewhere:")) else ""
