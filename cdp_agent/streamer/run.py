"""The streamer's process: threads, sockets and clocks around the engine.

One thread owns the engine. It looks at the shared page a few times a second, hands jobs to their threads,
takes what is done, and shows facts once a second. Nothing that the store or the network does ends it.

Renewals are timed by this loop and not by a scheduler: the owner's machine says when it is due, by the
boot-time clock that counts a suspended machine's sleep. APScheduler goes by the wall clock, so that a clock
that is set back would let a lease pass.
"""

from __future__ import annotations

import os
import queue
import signal
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any, Final

from cdp_agent.releases import released
from cdp_agent.site_word import configured_by
from cdp_agent.streamer.control import (
    CONFIGURE_COMMAND,
    DESCRIBE_COMMAND,
    TAKEN,
    Answer,
    ControlServer,
)
from cdp_agent.streamer.describer import Describer
from cdp_agent.streamer.engine import Engine
from cdp_agent.streamer.engine_types import Answered, Done, Job, Lane, Outside, Reply, Wishes
from cdp_agent.streamer.facts import describe, place_of, write_facts
from cdp_agent.streamer.filling import noted_anew
from cdp_agent.streamer.filling_words import COMMANDS as FILLING_COMMANDS
from cdp_agent.streamer.joined import Held, watcher_of
from cdp_agent.streamer.lag import Lag
from cdp_agent.streamer.lanes import Lanes
from cdp_agent.streamer.limited import LimitedStore, Limiter
from cdp_agent.streamer.local import LocalDirectory
from cdp_agent.streamer.marker_request import marker_members, refused_marker
from cdp_agent.streamer.noted import publish_gate
from cdp_agent.streamer.packing import PackingThreads
from cdp_agent.streamer.planning import COMMAND as PLAN_COMMAND
from cdp_agent.streamer.releasing import NOTHING_DONE, Told
from cdp_agent.streamer.settings import StreamerSettings
from cdp_agent.streamer.step_events import ASKED_MAX
from cdp_agent.supervisor import streamer_lock
from cdp_container.clock import Clock, SystemClock
from cdp_container.domain.notes import Notes, load_notes, save_notes
from cdp_container.domain.owner_lease import request_seconds
from cdp_container.domain.places import check_places
from cdp_container.domain.settings import is_name
from cdp_container.errors import CdpError, Fenced, NotHome, StoreRefused
from cdp_container.format.codec import Compressor
from cdp_container.journal.reader import JournalReader
from cdp_container.journal.shared import SharedPages
from cdp_container.store.address import open_store, parse_address
from cdp_container.store.api import Store
from cdp_container.store.attest import probe
from cdp_container.store.prompt import prompt
from cdp_container.store.retry import with_retries

POLL_SECONDS: Final = 0.1
"""How often the shared page is looked at: a tenth of the shortest sensible cadence."""
FACTS_SECONDS: Final = 1.0
CONNECT_FIRST_SECONDS: Final = 1.0
CONNECT_MAX_SECONDS: Final = 30.0
"""Between two attempts to reach a store for the first time."""
FINISH_SECONDS: Final = 10.0
"""How long a run that is told to stop goes on sending; what is left stays in the journal."""
JOURNAL: Final = "journal"
SHARED: Final = "shared"


def run_streamer(
    settings: StreamerSettings,
    clock: Clock | None = None,
    entropy: Callable[[int], bytes] = os.urandom,
    stop: threading.Event | None = None,
) -> int:
    """Stream until told to stop, by SIGTERM or (in a test) `stop`; returns 0.

    What was captured until then is still sent, for FINISH_SECONDS at most; not where the supervisor is gone.

    Raises:
        AlreadyRunning: another streamer runs in this journal directory and does not end.
        Fenced: this site was overtaken; starting again is no use before an operator acted.
        UsageError: the address is none.
        CdpError: the journal or a volume cannot be read; starting again may help.
    """
    parse_address(settings.store)
    clock = clock or SystemClock()
    with streamer_lock(settings.directory, clock):
        pages = SharedPages(settings.directory / SHARED)
        stopping = threading.Event() if stop is None else stop
        runner = _Runner(settings, clock, entropy, pages, stopping, Limiter(settings.limits, clock))
        handlers = _handle_signals(stopping) if stop is None else {}
        try:
            return runner.run()
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)
            pages.close()


def _handle_signals(stop: threading.Event) -> dict[int, Any]:
    def handle(number: int, frame: FrameType | None) -> None:
        stop.set()

    return {signal.SIGTERM: signal.signal(signal.SIGTERM, handle)}


@dataclass(slots=True)
class _Connecting:
    """The store before it was reached for the first time."""

    why: str = "connecting to the store"
    failures: int = 0
    due_ns: int = 0
    busy: bool = False
    refused: str = ""


@dataclass(slots=True)
class _Runner:
    settings: StreamerSettings
    clock: Clock
    entropy: Callable[[int], bytes]
    pages: SharedPages
    stop: threading.Event
    limiter: Limiter
    lanes: Lanes = field(default_factory=Lanes)
    engine: Engine | None = None
    watched: Held | None = None
    make_engine: Callable[[], Engine] = field(init=False)
    connecting: _Connecting = field(default_factory=_Connecting)
    facts: dict[str, Any] = field(default_factory=dict)
    shown_ns: int = 0
    asking: list[Callable[[Answer], None]] = field(default_factory=list)
    early: list[Callable[[], None]] = field(default_factory=list)
    parent: int = field(default_factory=os.getppid)

    def run(self) -> int:
        directory = self.settings.directory
        local = LocalDirectory(self.settings, self.pages)
        identity = self.settings.identity
        self.watched = watcher_of(directory, identity, self.clock)
        (directory / JOURNAL).mkdir(exist_ok=True)
        publish_gate(local, local.load_notes())  # what the last run had to say of it may be lost
        with (
            self._reader(directory) as journal,
            self._reader(directory) as build_journal,
            self._reader(directory) as lag_journal,
        ):
            lag = Lag(lag_journal)
            control = ControlServer(directory, self._requested)
            try:
                while not self.stop.is_set():
                    self._turn(local, journal, build_journal)
                    self._show(local, lag)
                # Whose supervisor was killed holds up the next one, and with it the guests: it ends at once.
                orphaned = os.getppid() != self.parent
                if self.engine is not None and self.engine.may_finish and not orphaned:
                    self._finish(self.engine, local, journal, build_journal)
            except CdpError as error:
                self._show_end(local, lag, error)
                raise
            finally:
                control.close()
                if self.engine is not None:
                    self.engine.close()
                if self.watched is not None:
                    self.watched.close()
        return 0

    def _reader(self, directory: Path) -> JournalReader:
        return JournalReader(directory / JOURNAL, self.settings.identity.domain)

    # --- one turn of the loop ------------------------------------------------------------------

    def _turn(self, local: LocalDirectory, journal: JournalReader, build_journal: JournalReader) -> None:
        if self.engine is None:
            self._connect(local, journal, build_journal)
        else:
            self.engine.poll()
            if self.engine.releasing.begins_anew:
                self.engine.close()
                self.engine = self.make_engine()
        self._submit()
        self._take_done()
        self._submit()

    def _finish(
        self, engine: Engine, local: LocalDirectory, journal: JournalReader, build_journal: JournalReader
    ) -> None:
        """A planned stop loses nothing, and what it protected shows as protected; if the store answers."""
        until_ns = self.clock.boottime_ns() + int(FINISH_SECONDS * 1e9)
        engine.finish()
        while not engine.is_finished and self.clock.boottime_ns() < until_ns:
            self._turn(local, journal, build_journal)

    def _submit(self) -> None:
        if self.engine is not None:
            jobs, self.engine.jobs = self.engine.jobs, []
            for job in jobs:
                self.lanes.submit(job)

    def _take_done(self) -> None:
        """Wait for something to be done, at most until the next poll, and take all that is."""
        try:
            self.lanes.done.get(timeout=self._pause_seconds())()
            while True:
                self.lanes.done.get_nowait()()
        except queue.Empty:
            return

    def _pause_seconds(self) -> float:
        due_ns = None if self.engine is None else self.engine.due_ns()
        if due_ns is None:
            return POLL_SECONDS
        return min(POLL_SECONDS, max(0.001, (due_ns - self.clock.boottime_ns()) / 1e9))

    # --- the first connection ------------------------------------------------------------------

    def _connect(self, local: LocalDirectory, journal: JournalReader, build_journal: JournalReader) -> None:
        """Open and probe the store, again and again, in a lane of its own."""
        connecting = self.connecting
        notes = local.load_notes()
        if notes.fenced:
            raise Fenced("the streamer stopped", notes.fenced)
        if connecting.busy or self.clock.boottime_ns() < connecting.due_ns:
            return
        connecting.busy = True

        def begin(store: Store, quick: Store) -> None:
            self.make_engine = partial(self._engine, store, quick, local, journal, build_journal)
            self.engine = self.make_engine()
            self.connecting.refused = ""
            early, self.early = self.early, []
            for handle in early:
                handle()

        self.lanes.submit(Job(Lane.WORK, partial(self._try_store, begin)))

    def _try_store(self, begin: Callable[[Store, Store], None]) -> Done:
        try:
            store = open_store(self.settings.store, self.clock)
            probe(store, self.entropy)
            settings = self.settings
            check_places(store, settings.store, settings.identity.domain, is_home=settings.store_is_home)
            quick = prompt(store, self.clock, request_seconds(self.settings.lease_seconds))
        except CdpError as error:
            return partial(self._not_connected, error)
        return partial(begin, store, quick)

    def _not_connected(self, error: CdpError) -> None:
        connecting = self.connecting
        delay_seconds = min(CONNECT_MAX_SECONDS, CONNECT_FIRST_SECONDS * 2.0 ** min(connecting.failures, 16))
        connecting.failures += 1
        connecting.due_ns = self.clock.boottime_ns() + int(delay_seconds * 1e9)
        refused = isinstance(error, StoreRefused | NotHome)
        elsewhere = f"{error} ({error.hint})"
        connecting.why = elsewhere if isinstance(error, NotHome) else f"no connection to the store: {error}"
        connecting.refused = str(error) if refused else ""
        connecting.busy = False

    def _engine(
        self,
        store: Store,
        quick: Store,
        local: LocalDirectory,
        journal: JournalReader,
        build_journal: JournalReader,
    ) -> Engine:
        settings = self.settings
        outside = Outside(
            store=LimitedStore(store, self.limiter, patient=False),
            prompt=LimitedStore(quick, self.limiter, patient=False),
            patient=with_retries(LimitedStore(store, self.limiter, patient=True), self.clock, self._jitter),
            local=local,
            journal=journal,
            build_journal=build_journal,
            clock=self.clock,
            entropy=self.entropy,
            compressor=Compressor(level=settings.compression_level),
            start_packing=PackingThreads(settings.compression_level),
            before_put=self.limiter.wait,
            configured=configured_by(settings, store, self.entropy),
            watcher=self.watched,
            vms=Describer(settings.describe, settings.directory, self.clock)
            if settings.identity.vms
            else None,
        )
        wishes = Wishes(
            cadence_ns=int(settings.cut_every_seconds * 1e9),
            lease_seconds=settings.lease_seconds,
            copy_bytes_per_second=settings.copy_bytes_per_second,
            operator=settings.operator,
            software=settings.software,
            vms_every_ns=int(settings.vms_every_seconds * 1e9),
        )
        return Engine(settings.identity, wishes, outside)

    def _jitter(self) -> float:
        return int.from_bytes(self.entropy(4), "little") / 2.0**32

    # --- what others ask -----------------------------------------------------------------------

    def _requested(self, request: dict[str, Any], answer: Callable[[Answer], None]) -> None:
        """Called by the control socket's threads; the engine's own thread does the rest."""
        self.lanes.done.put(lambda: self._handle(request, answer))

    def _handle(self, request: dict[str, Any], answer: Callable[[Answer], None]) -> None:
        def reply(answered: Answered) -> None:
            if answered.place is None:
                answer({"ok": False, "error": answered.why, "hint": answered.hint})
            else:
                answer({"ok": True, "place": place_of(answered.place)})

        command = request.get("command")
        if command == "status":
            self.asking.append(answer)
        elif command in ("release", "cancel-release"):
            answer(self._release(str(request.get("site", "")) if command == "release" else None))
        elif command == CONFIGURE_COMMAND:
            if self.engine is not None:  # else it looks when it begins
                self.engine.configuring.look()
            answer({"ok": True})
        elif command == DESCRIBE_COMMAND and self.engine is not None:
            self.engine.describing.ask_now(lambda: answer({"ok": True}))
        elif command == DESCRIBE_COMMAND:
            answer({"ok": False, "error": self.connecting.why})
        elif command in FILLING_COMMANDS:
            answer(self._fill(request))
        elif command == PLAN_COMMAND and self.engine is not None:
            self.engine.planning.ask(request, answer)
        elif command == PLAN_COMMAND:
            answer({"ok": False, "error": self.connecting.why, "again": True})
        elif command not in ("marker", "flush"):
            answer({"ok": False, "error": f"{str(command)[:40]!r} is no command"})
        elif given_up := released(str(command), self.settings.identity.site, self._notes()):
            # A release has its own flush, and its final cut is to be the last.
            answer({"ok": False, "error": given_up.why, "hint": given_up.hint, "released": True})
        elif self.engine is None and command == "flush" and len(self.early) < ASKED_MAX:
            # Whoever asks for a flush waits anyway; a marker cannot wait, as it names this instant.
            self.early.append(lambda: self._handle(request, answer))
        elif self.engine is None:
            answer({"ok": False, "error": self.connecting.why})
        elif command == "flush":
            self.engine.ask(None, "", application=False, reply=reply)
        elif why := refused_marker(request, self.clock.boottime_ns()):
            answer({"ok": False, "error": why})
        else:
            self._mark(self.engine, request, answer, reply)

    def _mark(
        self, engine: Engine, request: dict[str, Any], answer: Callable[[Answer], None], reply: Reply
    ) -> None:
        """Whoever runs hooks is told as soon as the instant is fixed."""
        replied = False

        def reply_once(answered: Answered) -> None:
            nonlocal replied
            replied = True
            reply(answered)

        def fixed() -> None:
            if "hooks" in request and not replied:
                answer({"ok": True, TAKEN: True})

        note, application = str(request.get("note", "")), bool(request.get("application"))
        until_ns = request.get("take_until_ns") or 0
        name, more = str(request["name"]), marker_members(request)
        engine.ask(name, note, application, reply_once, more, until_ns, fixed)

    def _notes(self) -> Notes:
        return load_notes(self.settings.directory)

    def _fill(self, request: dict[str, Any]) -> Answer:
        """Before there is an engine nothing is cut; the notes are what it begins with."""
        if self.engine is not None:
            return self.engine.filling.ask(request)
        notes, answered = noted_anew(request, self._notes(), self.settings.identity, self.clock.wall_ns())
        try:
            save_notes(self.settings.directory, notes)
        except CdpError as error:
            return {"ok": False, "error": f"it cannot be noted: {error}", "again": True}
        return answered

    def _release(self, site: str | None) -> Answer:
        """Begin a release to this site, or (None) take one back; `status` tells what becomes of it."""
        notes = self._notes()
        if site is not None and not is_name(site):
            return {"ok": False, "error": f"{site[:80]!r} is no name of a site"}
        if self.engine is not None:
            told = self.engine.releasing.cancel() if site is None else self.engine.release(site)
        elif site is not None and site in (notes.releasing_to, notes.released_to):
            told = Told()
        else:
            told = Told(self.connecting.why, "it needs the store; " + NOTHING_DONE, again=True)
        if not told.refused:
            return {"ok": True}
        return {"ok": False, "error": told.refused, "hint": told.hint, "again": told.again}

    # --- what is shown -------------------------------------------------------------------------

    def _show(self, local: LocalDirectory, lag: Lag, state: str | None = None) -> None:
        """Replace streamer.json, once a second, or at once where there is a `state` to show."""
        wall_ns = self.clock.wall_ns()
        fresh = self.shown_ns <= wall_ns < self.shown_ns + FACTS_SECONDS * 1e9
        if state is None and fresh and not self.asking:
            return
        splitter = local.shown()
        measured = lag.measure(splitter, local.streamer(), wall_ns)
        self.facts = describe(
            self.engine,
            self.settings.identity,
            splitter,
            measured,
            wall_ns,
            self.connecting.why,
            local.load_notes(),
        )
        self.facts["rpo_target_seconds"] = self.settings.rpo_target_seconds
        self.facts["store_refused"] = self.connecting.refused
        self.facts["limits"] = self.limiter.facts()
        if state is not None:
            self.facts["state"] = state
        if state is not None or not fresh:
            self.shown_ns = wall_ns
            write_facts(self.settings.directory, self.facts)
        for answer in self.asking:
            answer({"ok": True, "facts": self.facts})
        self.asking.clear()

    def _show_end(self, local: LocalDirectory, lag: Lag, error: CdpError) -> None:
        state = "fenced" if isinstance(error, Fenced) else "stopped"
        self._show(local, lag, f"{state}: {error}")
