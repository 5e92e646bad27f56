"""`cdp-agent status`: what would be lost now, and is that what was aimed for?

Asks the running streamer; where it does not answer, the journal itself says how much lies beyond
the newest protected cut. What does not belong here: anything that changes something.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson

from cdp_agent.alerts.shown import shown_error
from cdp_agent.cli.accepted import load_running, standing
from cdp_agent.cli.adopt_status import adopting_members, adopting_problems
from cdp_agent.cli.forecast import seconds_until_full, spoken
from cdp_agent.cli.image_status import image_lines, image_members, image_problems
from cdp_agent.cli.last_error import LastError, newest_error
from cdp_agent.cli.tree_status import tree_lines, tree_members, tree_problems
from cdp_agent.cli.vm_status import vm_lines, vm_problems
from cdp_agent.collector.last import LastPass, load_last, members_of, trouble_of
from cdp_agent.collector.lock_note import LockNote, load_note, trouble_of_locks
from cdp_agent.releases import release_hint, release_members, release_text
from cdp_agent.splitter.settings import LOCK_NAME as SPLITTER_LOCK
from cdp_agent.streamer.control import call
from cdp_agent.streamer.lag import Lag
from cdp_agent.streamer.settings import FACTS_NAME
from cdp_agent.supervisor import is_locked
from cdp_agent.verifier.last import Last as Verification
from cdp_agent.verifier.last import load_last as load_verification
from cdp_agent.verifier.last import members_of as verification_members
from cdp_agent.verifier.last import problem_of
from cdp_agent.wish import load_wish
from cdp_container.clock import Clock, SystemClock
from cdp_container.domain.identity import AgentIdentity
from cdp_container.domain.notes import Notes, load_notes
from cdp_container.domain.settings import AgentSettings
from cdp_container.errors import Incomplete
from cdp_container.journal.reader import JournalReader
from cdp_container.journal.shared import GateLevel, SharedPages, SplitterPage, StreamerPage

SCHEMA = 1
ASK_SECONDS = 3.0
NAME_COLUMNS = 17
FACTS_BYTES_MAX = 1024 * 1024
STEADY_STATES = frozenset({"streaming", ""})
MENDS_ITSELF = "what guests write meanwhile is compared and sent later; nothing is to be done"
NEVER_RAN = "the agent never ran: `cdp-agent run`"


@dataclass(frozen=True, slots=True)
class Status:
    """The answer. `problems` is empty where protection is on target; lag None where it is not known.

    `journal_full_in_seconds` is a forecast from the rate of what waits now, None where the store keeps up.
    """

    domain: str
    site: str
    lag_seconds: float | None
    lag_bytes: int | None
    sent: dict[str, Any] | None
    protected: dict[str, Any] | None
    journal_used_bytes: int
    journal_limit_bytes: int
    journal_full_in_seconds: float | None
    exports_open: bool
    state: str
    last_error: LastError
    epoch: int | None
    rpo_target_seconds: float
    problems: list[str]
    volumes: list[dict[str, Any]] = field(default_factory=list)
    limits: dict[str, Any] = field(default_factory=dict)
    counters: dict[str, Any] = field(default_factory=dict)
    alerts: str = ""
    configuration: str = ""
    release: dict[str, Any] | None = None
    collection: dict[str, Any] | None = None
    verification: dict[str, Any] | None = None
    trees: dict[str, Any] | None = None
    images: dict[str, Any] | None = None
    vms: list[dict[str, Any]] | None = None
    adopting: list[dict[str, Any]] = field(default_factory=list)

    @property
    def on_target(self) -> bool:
        """Whether there is nothing to complain of."""
        return not self.problems


def show_status(config: Path, *, as_json: bool) -> int:
    """Print the status; 0 on target, 3 not. Raises ConfigInvalid."""
    agent = load_running(config)
    status = gather(agent.settings, agent.identity, SystemClock())
    if agent.fault:
        kept = f"cannot be used; a running agent goes on with that of its last start: {agent.fault}"
        status = replace(status, configuration=kept, alerts="not known")
    else:
        status = replace(status, configuration=standing(config, agent))
    if as_json:
        document = {"schema": SCHEMA, "on_target": status.on_target, **_members(status)}
        print(orjson.dumps(document, option=orjson.OPT_INDENT_2).decode())
    else:
        _print(status)
    return 0 if status.on_target else Incomplete.exit_code


def gather(settings: AgentSettings, identity: AgentIdentity, clock: Clock) -> Status:
    """Look at everything that can be known here and now."""
    directory = Path(settings.journal.directory)
    splitter, streamer = _pages(directory)
    running = is_locked(directory / "lock")
    if not is_locked(directory / SPLITTER_LOCK):
        splitter = replace(splitter, running=False)  # it was killed, and could not say so
    facts = _ask_streamer(directory)
    answering = facts is not None
    if facts is None:
        facts = _read_json(directory / FACTS_NAME)
        facts |= _measure(directory, identity, splitter, streamer, clock)
    if not splitter.generation:
        facts |= {"lag_seconds": None, "lag_bytes": None, "lag_unknown": "nothing was ever copied"}
    shown = _read_json(directory / "splitter.json")
    trees = tree_members(directory, identity, facts, load_notes(directory))
    images = image_members(directory, identity)
    adopting = adopting_members(directory, identity, load_notes(directory))
    volumes = list(shown.get("volumes", []))
    limit_bytes = splitter.limit_bytes or settings.journal.limit
    return Status(
        domain=settings.domain,
        site=settings.site,
        lag_seconds=facts.get("lag_seconds"),
        lag_bytes=facts.get("lag_bytes"),
        sent=facts.get("sent"),
        protected=facts.get("protected"),
        journal_used_bytes=splitter.used_bytes,
        journal_limit_bytes=limit_bytes,
        journal_full_in_seconds=None
        if splitter.overflowed
        else seconds_until_full(
            facts.get("lag_seconds"), facts.get("lag_bytes"), splitter.used_bytes, limit_bytes
        ),
        exports_open=running and splitter.running and splitter.exports_open,
        state=str(facts.get("state", "")) if answering else "the streamer does not answer",
        last_error=newest_error(
            facts, shown, clock.wall_ns(), well=_is_well(facts, shown, splitter, running and answering)
        ),
        epoch=facts.get("epoch"),
        rpo_target_seconds=settings.rpo_target,
        problems=_released(_release(facts if answering else {}, load_notes(directory), clock))
        + _problems(settings, facts, shown, splitter, load_notes(directory), running, answering)
        + adopting_problems(adopting)
        + tree_problems(trees, running)
        + image_problems(images, running)
        + vm_problems(facts.get("vms"), running and answering)
        + _stopped(load_last(directory), load_note(directory), clock.wall_ns())
        + _verified(load_verification(directory)),
        volumes=volumes,
        limits=dict(facts.get("limits", {})) if answering else {},
        counters=dict(facts.get("counters", {})),
        alerts=_alerts(settings, directory),
        release=_release(facts if answering else {}, load_notes(directory), clock),
        collection=members_of(load_last(directory)),
        verification=verification_members(load_verification(directory)),
        trees=trees,
        images=images,
        vms=facts.get("vms"),
        adopting=adopting,
    )


def _release(facts: dict[str, Any], notes: Notes, clock: Clock) -> dict[str, Any] | None:
    """What the notes say, and what only the streamer knows."""
    members = release_members(notes, clock.wall_ns())
    return None if members is None else {**(facts.get("release") or {}), **members}


def _is_well(facts: dict[str, Any], shown: dict[str, Any], splitter: SplitterPage, running: bool) -> bool:
    """Whether nothing fails just now."""
    serves = (
        splitter.running and splitter.exports_open and not splitter.overflowed and not splitter.sync_failed
    )
    fails = facts.get("troubles") or shown.get("writes_wait")
    return running and serves and not fails and str(facts.get("state")) in STEADY_STATES


def _alerts(settings: AgentSettings, directory: Path) -> str:
    """How the alert hook fares; its faults are none of protection's."""
    if settings.alerts is None:
        return "none"
    error = shown_error(directory)
    return f"the hook fails: {error}" if error else "on"


def _pages(directory: Path) -> tuple[SplitterPage, StreamerPage]:
    path = directory / "shared"
    if not path.exists():
        return SplitterPage(), StreamerPage()
    pages = SharedPages(path)
    try:
        return pages.splitter.read() or SplitterPage(), pages.streamer.read() or StreamerPage()
    finally:
        pages.close()


def _ask_streamer(directory: Path) -> dict[str, Any] | None:
    try:
        answer = call(directory, {"command": "status"}, ASK_SECONDS)
    except OSError:
        return None
    facts = answer.get("facts")
    return dict(facts) if answer.get("ok") and isinstance(facts, dict) else None


def _read_json(path: Path) -> dict[str, Any]:
    """Facts that a process left; none where it never wrote any, or they are not whole."""
    try:
        with path.open("rb") as file:
            members = orjson.loads(file.read(FACTS_BYTES_MAX))
    except (FileNotFoundError, orjson.JSONDecodeError):
        return {}
    return dict(members) if isinstance(members, dict) else {}


def _measure(
    directory: Path, identity: AgentIdentity, splitter: SplitterPage, streamer: StreamerPage, clock: Clock
) -> dict[str, Any]:
    """The lag, from the journal alone."""
    journal = directory / "journal"
    if not journal.is_dir():
        return {"lag_seconds": 0.0, "lag_bytes": 0}
    with JournalReader(journal, identity.domain) as reader:
        return Lag(reader).measure(splitter, streamer, clock.wall_ns())


def _released(release: dict[str, Any] | None) -> list[str]:
    return [] if release is None else [release_text(release), f"hint: {release_hint(release)}"]


def _stopped(last: LastPass, note: LockNote, now_ns: int) -> list[str]:
    """Collection that keeps failing: the container grows, or locks end, and protection goes on."""
    return [trouble for trouble in (trouble_of(last), trouble_of_locks(note, now_ns)) if trouble]


def _problems(
    settings: AgentSettings,
    facts: dict[str, Any],
    shown: dict[str, Any],
    splitter: SplitterPage,
    notes: Notes,
    running: bool,
    answering: bool,
) -> list[str]:
    """Everything that keeps protection from being what was asked for, worst first."""
    problems = []
    if not splitter.generation:
        problems.append(NEVER_RAN)
    elif not running:
        problems.append("the agent does not run; guests have no disks and nothing is captured")
    wish = load_wish(Path(settings.journal.directory))
    if wish:
        problems.append(f"asked for and not done yet: {wish}")
    if notes.fenced:
        problems.append(f"fenced: {notes.fenced}; the journal is kept")
    fault = shown.get("error")
    if isinstance(fault, dict) and shown.get("state") == "refused":
        problems.append(f"the exports stay closed: {fault.get('what')}: {fault.get('why')}")
        problems.append(f"hint: {fault.get('hint')}")
    elif running and splitter.exports_open and not splitter.running:
        problems.append("the exports are closed: the splitter ended and is started again; guests wait")
    elif running and not splitter.exports_open and notes.gate is GateLevel.OPEN:
        problems.append("the exports are not open yet")
    tcp = shown.get("tcp")
    if running and isinstance(tcp, dict) and tcp.get("error"):
        problems.append(f"NBD over TCP: {tcp['error']}")
    if running and splitter.running and shown.get("writes_wait"):
        problems.append(f"guests' writes wait until the journal has room: {shown['writes_wait']}")
    if splitter.overflowed:
        problems.append(f"the journal is full and writes go past it: {MENDS_ITSELF}")
    if splitter.sync_failed:
        problems.append(f"the disk failed, flushes fail: {shown.get('last_error') or 'see the log'}")
    if running and not answering and not notes.fenced:
        problems.append("the streamer does not answer; writes wait in the journal")
    filled = facts.get("filled", [])  # told by themselves
    if lacking := [name for name in facts.get("not_whole", []) if name not in filled]:
        problems.append(f"not wholly in the container yet: {', '.join(lacking)}")
    lag_seconds = facts.get("lag_seconds")
    if lag_seconds is None:
        problems.append(f"how much would be lost is not known: {facts.get('lag_unknown', 'no answer yet')}")
    elif lag_seconds > settings.rpo_target:
        problems.append(f"{lag_seconds:.0f} s behind, the target is {settings.rpo_target:g} s")
    state = str(facts.get("state", ""))
    if answering and state not in STEADY_STATES and notes.gate is GateLevel.OPEN:
        problems.append(state)
    if answering:
        problems += [
            f"{topic} fails and is tried again: {why}" for topic, why in facts.get("troubles", {}).items()
        ]
    if state.startswith("owned elsewhere"):
        problems.append("hint: if that was this host before it was reverted, protect into a new domain")
    return problems


def _members(status: Status) -> dict[str, Any]:
    members = {name: getattr(status, name) for name in Status.__slots__}
    error = status.last_error
    return members | {
        "last_error": error.text,
        "last_error_age_seconds": error.age_seconds,
        "last_error_over": error.over,
    }


def _print(status: Status) -> None:
    lost = "not known, perhaps everything" if status.lag_seconds is None else f"{status.lag_seconds:.1f} s"
    if status.lag_bytes is not None:
        lost += f", {_human(status.lag_bytes)} of journal"
    standing = "on target" if status.on_target else "NOT ON TARGET"
    print(f"{status.domain} at {status.site}: {standing}; lost if the site died now: {lost}")
    for problem in status.problems:
        print(f"  ! {problem}")
    used = f"{_human(status.journal_used_bytes)} of {_human(status.journal_limit_bytes)}"
    if status.journal_full_in_seconds is not None:
        used += f", full in {spoken(status.journal_full_in_seconds)} if nothing is sent meanwhile"
    for name, value in (
        ("state", status.state),
        ("epoch", str(status.epoch or "-")),
        ("sent up to", _point(status.sent)),
        ("protected up to", _point(status.protected)),
        ("journal", used),
        ("limits", _limits(status.limits)),
        ("exports", "open" if status.exports_open else "closed"),
        ("collection", _collection(status.collection)),
        ("verification", _verification(status.verification)),
        ("alerts", status.alerts),
        ("configuration", status.configuration),
        ("last error", str(status.last_error)),
        *tree_lines(status.trees),
        *image_lines(status.images),
        *vm_lines(status.vms),
    ):
        print(f"{name:<{NAME_COLUMNS}}{value}")


def _verified(last: Verification) -> list[str]:
    """Damage in the container, or verifications that keep failing."""
    problem = problem_of(last)
    return [problem] if problem else []


def _verification(last: dict[str, Any] | None) -> str:
    """The last run that came to its end."""
    if last is None:
        return "none yet"
    if last["ended_ns"] is None:
        return f"did not come to its end: {last['stopped']}"
    when = f"{datetime.fromtimestamp(last['ended_ns'] / 1e9, UTC):%Y-%m-%d %H:%M} UTC"
    coverage = last["coverage"]
    read = ""
    if coverage is not None:
        read = f" ({_human(coverage['read_bytes'])} of {_human(coverage['stored_bytes'])})"
    return f"{when}: {last['verdict']}{read}"


def _collection(last: dict[str, Any] | None) -> str:
    """The last pass."""
    if last is None:
        return "none yet"
    when = f"{datetime.fromtimestamp(last['ended_ns'] / 1e9, UTC):%Y-%m-%d %H:%M} UTC"
    notes = "".join(f"; {note}" for note in last["notes"])
    if last["stopped"]:
        return f"{when}: stopped: {last['stopped']}{notes}"
    if last["note"]:
        return f"{when}: {last['note']}{notes}"
    freed = f"{_human(last['freed_bytes'])} freed, {_human(last['packed_bytes'])} written anew"
    return f"{when}: {last['deleted']} objects deleted, {freed}{notes}"


def _limits(limits: dict[str, Any]) -> str:
    """The limit in force."""
    rate, requests = limits.get("bytes_per_second"), limits.get("requests_per_second")
    parts = [] if rate is None else [f"{rate / 1e6:g} MB/s"]
    parts += [] if requests is None else [f"{requests:g} requests/s"]
    since = f" (since {limits['since']})" if limits.get("since") else ""
    return (", ".join(parts) or "none") + since


def _point(place: dict[str, Any] | None) -> str:
    return f"{place['epoch']}.{place['cut']}" if place else "-"


def _human(count: int) -> str:
    size = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"
