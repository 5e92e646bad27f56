"""A pass of collection as a process: its lock, its store, how it asks the streamer, and what it leaves noted.

What a pass does is in `collect`; the command's words are in cdp_agent.cli.gc.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from cdp_agent.collector import replicas
from cdp_agent.collector.collect import look_only, run_pass
from cdp_agent.collector.last import LastPass, load_last, save_last
from cdp_agent.collector.lock_note import LockNote, load_note, save_note, still_locked
from cdp_agent.collector.locks import ExtendsLocks, Lock, extend_locks, lock_of, needed_of, refused_by
from cdp_agent.collector.pass_types import Around, Found, Passed, Wishes
from cdp_agent.streamer.control import Answer, call
from cdp_agent.streamer.limited import LimitedStore, Limiter
from cdp_agent.streamer.local import BOOT_ID
from cdp_agent.streamer.planning import change_request
from cdp_agent.supervisor import take_lock
from cdp_container.clock import Clock
from cdp_container.domain.collecting import Collector
from cdp_container.domain.held_look import look_at_holds
from cdp_container.domain.history import read_domain
from cdp_container.domain.identity import AgentIdentity
from cdp_container.domain.owner_types import ChangePlan
from cdp_container.domain.replica_places import read_as
from cdp_container.domain.retention_policy import COLLECT_AGE_SECONDS_MIN
from cdp_container.domain.settings import AgentSettings, LimitsSettings
from cdp_container.errors import CdpError, CollectionStopped
from cdp_container.format.holds import Hold
from cdp_container.store.address import DirectoryPlace, Place, data_place, open_store, parse_address
from cdp_container.store.api import Store
from cdp_container.store.retry import with_retries

LOCK_NAME: Final = "collector.lock"
ASK_SECONDS: Final = 30.0
ASKS_MAX: Final = 4
"""Times that the streamer is asked for one change; asked again, one that is made already is made."""
ASK_PAUSE_SECONDS: Final = 5.0
PLANS_MAX: Final = 64
"""Passes of one run: what one leaves over the next one takes."""
_HINT: Final = "is the agent running, and does it own the domain? `cdp-agent status` tells"


@dataclass(frozen=True, slots=True)
class Site:
    """Whose container is collected."""

    settings: AgentSettings
    identity: AgentIdentity

    @property
    def journal(self) -> Path:
        """The journal directory."""
        return Path(self.settings.journal.directory)


def wishes_of(settings: AgentSettings, private_key: bytes | None, software: str) -> Wishes:
    """How a pass goes about it, by the configuration."""
    collection = settings.collection
    return Wishes(collection.grace, collection.space_target, private_key=private_key, software=software)


def collect_all(site: Site, wishes: Wishes, clock: Clock, report: Callable[[str], None]) -> list[Passed]:
    """Passes, one after another, until one leaves nothing for the next, or deletes nothing.

    `status` tells of them afterwards.

    Raises AlreadyRunning where another is under way, and CdpError wherever one ended.
    """
    lock_fd = take_lock(site.journal / LOCK_NAME, clock)
    try:
        passes: list[Passed] = []
        before = load_last(site.journal)
        while len(passes) < PLANS_MAX:
            store_ns = load_last(site.journal).store_ns
            try:
                lock, note = lock_of(_address(site)), load_note(site.journal)
                wanted = _within(wishes, lock, note, store_ns)
                around = around_of(site, clock, report, store_ns)
                passed = run_pass(around, wanted)
                seen = passed
                if lock is not None and passed.found is None and passed.store_ns:
                    # No plan may be made, for however long: what is needed stays locked.
                    seen = replace(passed, found=look_only(around, wanted))
                _extend(site, lock, seen, note, clock, report)
                told = _look_at_replicas(site, around, passed)
                if passed.stopped is not None:
                    raise passed.stopped
            except CdpError as error:
                stopped = replace(before, ended_ns=clock.wall_ns(), stopped=str(error), note="")
                save_last(site.journal, replace(stopped, failures=before.failures + 1))
                raise
            passes.append(passed)
            save_last(site.journal, replace(_last(passes, before, clock.wall_ns()), notes=told))
            if passed.finished is None or passed.found is None or passed.found.chosen.is_all:
                break
            if not passed.finished.gone:
                # It waited for no replica to hear of it, so the next plan might find one behind.
                report("nothing of the plan could be deleted yet; what is left is for the next pass")
                break
        return passes
    finally:
        os.close(lock_fd)


def look_once(site: Site, wishes: Wishes, clock: Clock, report: Callable[[str], None]) -> Found:
    """What a pass would do. Changes nothing in the container. Raises AlreadyRunning, CdpError."""
    lock_fd = take_lock(site.journal / LOCK_NAME, clock)
    try:
        lock, store_ns = lock_of(_address(site)), load_last(site.journal).store_ns
        wishes = _within(wishes, lock, load_note(site.journal), store_ns)
        return look_only(around_of(site, clock, report, store_ns), wishes)
    finally:
        os.close(lock_fd)


def _address(site: Site) -> str:
    return site.settings.collection.store or site.settings.store


def _within(wishes: Wishes, lock: Lock | None, note: LockNote, store_ns: int) -> Wishes:
    """Nothing is a victim that the store would not delete, as far as that is known before.

    Objects stay locked where the bucket's default (`lock`) was taken away since.
    """
    if lock is None:
        return replace(wishes, locked=still_locked(note, store_ns))
    age_seconds = max(wishes.age_seconds, lock.seconds + COLLECT_AGE_SECONDS_MIN)
    return replace(wishes, age_seconds=age_seconds, locked=still_locked(note, store_ns))


def _extend(
    site: Site,
    lock: Lock | None,
    passed: Passed,
    before: LockNote,
    clock: Clock,
    report: Callable[[str], None],
) -> None:
    """After a pass: lock what is needed for long enough, and note what could not be deleted."""
    now_ns, note = passed.store_ns, before
    if not now_ns:
        return  # another site's to do
    for finished in (passed.finished_before, passed.finished):
        if finished is not None and finished.locked:
            note = refused_by(note, finished.locked, now_ns, lock)
            soonest = datetime.fromtimestamp(min(note.refused.values(), default=0) // 10**9, UTC)
            count = len(finished.locked)
            report(f"{count} objects stay until their locks end, the first at {soonest:%Y-%m-%d %H:%M} UTC")
    if lock is not None and passed.found is not None:
        place = parse_address(_address(site))
        data = None if isinstance(place, DirectoryPlace) else data_place(place)
        assert data is not None, "it has a lock"
        with closing(open_store(data, clock)) as store:
            assert isinstance(store, ExtendsLocks), data
            pace = _pace(site, clock)
            needed = needed_of(passed.found, passed.finished is not None)
            note = extend_locks(store, needed, note, lock, now_ns, lambda: pace.wait(0))
    if note != before:
        save_note(site.journal, note)


def _look_at_replicas(site: Site, around: Around, passed: Passed) -> tuple[str, ...]:
    """After a pass: what should be known of its holds, and of what replicas still have of what it deleted."""
    doubts = () if passed.found is None else passed.found.doubts
    if not passed.store_ns:
        return doubts  # another site's to do
    finished = (passed.finished_before, passed.finished)
    gone = [key for one in finished if one is not None for key in one.gone]
    before = replicas.load_note(site.journal)
    note = replicas.look_at_replicas(before, around.collector.replicas, gone, passed.store_ns)
    if note != before:
        replicas.save_note(site.journal, note)
    left = replicas.words_of(note)
    for line in left:
        around.report(line)
    return (*doubts, *left)


def _pace(site: Site, clock: Clock) -> Limiter:
    collection = site.settings.collection
    limits = LimitsSettings().model_copy(
        update={
            "bytes_per_second": collection.bytes_per_second,
            "requests_per_second": collection.requests_per_second,
        }
    )
    return Limiter(limits, clock)


def _last(passes: Sequence[Passed], before: LastPass, wall_ns: int) -> LastPass:
    carried_out = [
        (passed.finished, passed.found)
        for passed in passes
        if passed.finished is not None and passed.found is not None
    ]
    return LastPass(
        ended_ns=wall_ns,
        note=passes[-1].why_not if not carried_out else "",
        deleted=sum(finished.deleted for finished, _ in carried_out),
        kept=sum(finished.kept for finished, _ in carried_out),
        freed_bytes=sum(found.chosen.freed_bytes for _, found in carried_out),
        packed_bytes=sum(passed.packing.packed_bytes for passed in passes),
        retired=sum(len(found.retired) for _, found in carried_out),
        store_ns=max(before.store_ns, *(passed.store_ns for passed in passes)),
    )


def around_of(site: Site, clock: Clock, report: Callable[[str], None], seen_ns: int) -> Around:
    """What a pass over the container of a site runs in. `seen_ns`: see `Around.store_seen_ns`."""
    settings, domain = site.settings, site.identity.domain
    limiter = _pace(site, clock)

    def opened(address: str | Place) -> Store:
        store = LimitedStore(open_store(address, clock), limiter, patient=True)
        return with_retries(store, clock, lambda: int.from_bytes(os.urandom(4), "little") / 2.0**32)

    store = opened(_address(site))
    config = read_domain(store).config
    places = read_as(() if config is None else config.replicas, settings.replicas or (), _address(site))
    directory = site.journal / "collector"
    directory.mkdir(mode=0o700, exist_ok=True)
    boot = bytes.fromhex(BOOT_ID.read_text().strip().replace("-", ""))

    def holds() -> Mapping[str, Hold]:
        # An operator's hold is dead by the store's clock: by one that it showed before, at the earliest.
        store_ns = load_last(site.journal).store_ns or None
        return look_at_holds(store, domain, directory, boot, clock, os.urandom, store_ns).holds

    collector = Collector(
        store,
        [opened(place) for place in places],
        domain,
        settings.site,
        holds,
        asking(site.journal, clock),
        clock.sleep,
    )
    return Around(site.identity, directory, collector, store, clock, os.urandom, report, seen_ns)


def asking(journal: Path, clock: Clock) -> Callable[[ChangePlan], None]:
    """Asks the streamer of a journal directory for changes."""

    def change(wanted: ChangePlan) -> None:
        answer: Answer = {}
        for _ in range(ASKS_MAX):
            try:
                answer = call(journal, change_request(wanted), ASK_SECONDS)
            except OSError as error:
                answer = {"error": f"the streamer does not answer: {error.strerror or error}", "again": True}
            if answer.get("ok"):
                return
            if not (answer.get("again") or answer.get("timeout")):
                break
            clock.sleep(ASK_PAUSE_SECONDS)
        why = str(answer.get("error", "the streamer does not answer"))
        raise CollectionStopped("the pass ended", why, _HINT)

    return change
