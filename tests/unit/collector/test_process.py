"""The collector beside a real streamer and a directory: asked by the command, noted for `status`."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from cdp_agent.cli.gc import passed_members, passed_text, planned_members, planned_text
from cdp_agent.cli.status import _collection
from cdp_agent.collector import collect, process
from cdp_agent.collector.last import LAST_NAME, LastPass, load_last, members_of, save_last, trouble_of
from cdp_agent.collector.lock_note import LockNote, save_note
from cdp_agent.collector.locks import Lock, needed_of
from cdp_agent.collector.pass_types import Passed, Wishes
from cdp_agent.collector.process import LOCK_NAME, Site, collect_all, look_once
from cdp_agent.supervisor import take_lock
from cdp_container.clock import SystemClock
from cdp_container.domain import collecting
from cdp_container.domain.collecting import Finished
from cdp_container.domain.retention_policy import Retention, build_retention
from cdp_container.domain.settings import AgentSettings
from cdp_container.errors import AlreadyRunning, CollectionStopped, MissingObject
from cdp_container.format.domain import build_config, build_owner, config_digest, parse_config, parse_owner
from cdp_container.format.holds import Hold
from cdp_container.format.keys import OWNER_KEY, config_key, segment_key
from cdp_container.format.place import Place
from cdp_container.store.directory import DirectoryStore
from rehydrate.container import Secret, open_container
from tests.rosters import give_roster
from tests.unit.streamer.site import AgentSite

pytestmark = pytest.mark.slow

HOUR = 3600
WISHES = Wishes(grace_seconds=0.0, space_target=1.0)


class Collected:
    """A site of which two hours are kept; `images`: of the disk, by cut."""

    def __init__(
        self, root: Path, encrypted: bool = False, roster: bool = True, replicas: Sequence[Path] = ()
    ) -> None:
        self.root = root
        self.agent = AgentSite(root, size_bytes=64 * 4096, encrypted=encrypted)
        store = self.agent.store
        if roster:
            give_roster(store, self.agent.identity.domain)
        blob = store.get(OWNER_KEY)
        owner = parse_owner(blob.data, OWNER_KEY, None)
        config = parse_config(store.get(config_key(owner.config)).data, "config", None)
        retention = build_retention(Retention(2 * HOUR))
        data = build_config(replace(config, retention=retention, replicas=tuple(map(str, replicas))))
        store.put_new(config_key(config_digest(data)), data)
        store.put_if(OWNER_KEY, build_owner(replace(owner, config=config_digest(data))), blob.found.tag)
        self.images: dict[Place, bytes] = {}
        settings = AgentSettings.model_validate({
            "domain": "shop",
            "site": "site-a",
            "store": str(root / "container"),
            "journal": {"directory": str(self.agent.directory)},
            "volumes": [{"name": "disk", "path": str(root / "disk.img")}],
        })  # fmt: skip
        self.site = Site(settings, self.agent.identity)

    @contextmanager
    def streaming(self) -> Iterator[None]:
        with self.agent.streaming():
            yield

    def cut(self, number: int) -> Place:
        self.agent.write(0, number % 16 * 4096, os.urandom(8192))
        answer = self.agent.ask("flush")
        members = answer["place"]
        place = Place(members["epoch"], members["cut"], members["seq"])
        self.images[place] = bytes(self.agent.images[0])
        return place

    def age(self, hours: float) -> None:
        """Everything that is there was written so long ago."""
        for path in (self.root / "container").rglob("*"):
            if path.is_file() and "domain" not in path.parts:
                then = path.stat().st_mtime - hours * HOUR
                os.utime(path, (then, then))

    def keys(self) -> set[str]:
        return {found.key for found in self.agent.store.list("log/")}

    def collect(self, wishes: Wishes = WISHES, clock: SystemClock | None = None) -> list[Passed]:
        return collect_all(self.site, wishes, clock or SystemClock(), lambda _: None)


class Mirroring(SystemClock):
    """While somebody waits a directory gets what another has, and keeps what it loses; `owner`: that, too."""

    def __init__(self, source: Path, copy: Path, owner: bool = True) -> None:
        self.source, self.copy = DirectoryStore(source, self), DirectoryStore(copy, self)
        self.owner = owner

    def sleep(self, seconds: float) -> None:
        there = {found.key: found for found in self.copy.list("")}
        for key in [found.key for found in self.source.list("")]:
            if key == OWNER_KEY and key in there and self.owner:
                self.copy.put_if(key, self.source.get(key).data, there[key].tag)
            elif key not in there:
                self.copy.put_new(key, self.source.get(key).data)

    def follow(self) -> None:
        """Delete what is gone."""
        here = {found.key for found in self.source.list("")}
        for key in {found.key for found in self.copy.list("")} - here:
            self.copy.delete(key)


@pytest.mark.parametrize("encrypted", [False, True])
def test_a_pass_beside_a_streamer_and_what_is_told_of_it(tmp_path: Path, encrypted: bool) -> None:
    site = Collected(tmp_path, encrypted)
    with site.streaming():
        old = [site.cut(number) for number in range(20)]
        site.age(5)
        new = [site.cut(number) for number in range(3)]
        found = look_once(site.site, WISHES, SystemClock(), lambda _: None)
        assert {cut.place for cut in found.retired} == set(old)
        said = "\n".join(planned_text(found))
        assert "would go" in said
        assert "not be offered" in said
        assert planned_members(found)["victims"] == len(found.chosen.victims) > 4
        assert not list(site.agent.store.list("packs/")), "a look writes nothing"
        [passed] = site.collect()
        assert "deleted" in "\n".join(passed_text(passed))
        assert passed_members(passed)["deleted"] == len(found.chosen.victims)
        assert json.dumps(passed_members(passed))
    last = load_last(site.site.journal)
    assert (last.deleted, last.stopped, last.failures) == (len(found.chosen.victims), "", 0)
    assert last.freed_bytes > last.packed_bytes > 0
    retired = {cut.place for cut in found.retired}
    recovery = site.agent.recovery()
    for place in new:
        assert recovery.restored("disk", place) == site.images[place]
    assert not retired & set(recovery.cuts)


def test_replicas_are_waited_for_and_what_they_keep_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = tmp_path / "copy"
    copy.mkdir()
    site = Collected(tmp_path, replicas=[copy])
    monkeypatch.setattr(collecting, "REPLICA_ROUNDS", 3)
    monkeypatch.setattr(collecting, "REPLICA_PAUSE_SECONDS", 0.0)
    with site.streaming():
        for number in range(20):
            site.cut(number)
        site.age(5)
        newest = site.cut(1)
        before = site.keys()
        with pytest.raises(CollectionStopped, match="does not name the ledger in force"):
            site.collect()
        late = Mirroring(tmp_path / "container", copy, owner=False)
        late.sleep(0)
        with pytest.raises(CollectionStopped, match="does not name"):
            site.collect(clock=late)
        assert before <= site.keys(), "nothing goes before who reads there is told"
        mirror = Mirroring(tmp_path / "container", copy)
        befores = [passed.finished_before for passed in site.collect(clock=mirror)]
        gone = sum(finished.deleted for finished in befores if finished is not None)
        assert gone > 5
        assert before - site.keys()
        [note] = load_last(site.site.journal).notes
        assert f"{copy} still has {gone} objects that were deleted here" in note
        assert note in _collection(members_of(load_last(site.site.journal)))
        recovered = open_container(mirror.copy, Secret(), replica=True)
        assert recovered.history.newest >= newest
        mirror.follow()
        site.collect(clock=mirror)
        mirror.follow()
        site.collect(clock=mirror)
        assert load_last(site.site.journal).notes == ()


def test_without_a_streamer_the_pass_ends_and_nothing_goes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = Collected(tmp_path)
    with site.streaming():
        for number in range(20):
            site.cut(number)
    site.age(5)
    before = {found.key for found in site.agent.store.list("log/")}
    monkeypatch.setattr(process, "ASK_PAUSE_SECONDS", 0.0)
    with pytest.raises(CollectionStopped, match="does not answer") as raised:
        site.collect()
    assert raised.value.hint
    assert {found.key for found in site.agent.store.list("log/")} == before
    last = load_last(site.site.journal)
    assert (last.failures, last.deleted) == (1, 0)
    assert "does not answer" in last.stopped
    assert not trouble_of(last)
    assert trouble_of(replace(last, failures=3))
    assert (members_of(last) or {})["failures"] == 1


def test_no_roster_no_collection(tmp_path: Path) -> None:
    site = Collected(tmp_path, roster=False)
    with site.streaming():
        site.cut(1)
        with pytest.raises(MissingObject, match="roster"):
            site.collect()


def test_one_at_a_time(tmp_path: Path) -> None:
    site = Collected(tmp_path)
    lock = take_lock(site.site.journal / LOCK_NAME, SystemClock())
    try:
        with pytest.raises(AlreadyRunning):
            site.collect()
    finally:
        os.close(lock)
    assert load_last(site.site.journal).ended_ns == 0, "it says nothing of the pass that is under way"


def test_what_a_last_pass_says_that_makes_no_sense_is_nothing(tmp_path: Path) -> None:
    (tmp_path / "collector").mkdir()
    for data in (b"", b"{", b"[]", b'{"ended_ns": "x"}'):
        (tmp_path / "collector" / LAST_NAME).write_bytes(data)
        assert members_of(load_last(tmp_path)) is None


def test_what_one_plan_leaves_the_next_one_takes(tmp_path: Path) -> None:
    site = Collected(tmp_path)
    with site.streaming():
        for number in range(20):
            site.cut(number)
        site.age(5)
        site.cut(1)
        passes = site.collect(replace(WISHES, copy_bytes_max=12_000))
    assert len(passes) > 1
    last = load_last(site.site.journal)
    assert last.deleted == sum(passed.finished.deleted for passed in passes if passed.finished is not None)
    newest = max(site.images)
    assert site.agent.recovery().restored("disk", newest) == site.images[newest]


def test_after_a_plan_of_which_all_was_kept_the_run_ends_without_a_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A replica that has not heard of that plan yet would fail the next one at once."""
    site = Collected(tmp_path)

    def all_kept(*of_pass: object) -> Passed:
        passed = collect.run_pass(*of_pass)  # type: ignore[arg-type]  # as it was called
        assert passed.finished is not None, "and there was no next pass"
        return replace(passed, finished=Finished((), 7))

    monkeypatch.setattr(process, "run_pass", all_kept)
    with site.streaming():
        for number in range(20):
            site.cut(number)
        site.age(5)
        site.cut(1)
        [passed] = site.collect(replace(WISHES, copy_bytes_max=12_000))
    assert passed.found is not None
    assert not passed.found.chosen.is_all
    last = load_last(site.site.journal)
    assert (last.kept, last.failures, last.stopped) == (7, 0, "")


@pytest.mark.parametrize("is_held", [True, False], ids=["held", "away"])
def test_where_no_plan_may_be_made_locks_are_extended_by_a_look(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_held: bool
) -> None:
    copy = tmp_path / "copy"
    copy.mkdir()
    site = Collected(tmp_path, replicas=[] if is_held else [copy])
    needed: list[set[str]] = []

    def extend(at: Site, lock: Lock, passed: Passed, *others: object) -> None:
        assert passed.found is not None
        needed.append(set(needed_of(passed.found, passed.finished is not None)))

    monkeypatch.setattr(process, "lock_of", lambda address: Lock("COMPLIANCE", HOUR))
    monkeypatch.setattr(process, "_extend", extend)
    with site.streaming():
        for number in range(20):
            site.cut(number)
        site.age(5)
        newest = site.cut(1)
        if is_held:
            until_ns = SystemClock().wall_ns() + 24 * HOUR * 10**9
            hold = Hold("site-b", "", "restore", None, 0, 0, 1, until_ns, None)
            give_roster(site.agent.store, site.agent.identity.domain, {"ab" * 16: hold})
            [passed] = site.collect()
            assert passed.why_not == "a hold on everything stands"
        else:
            with pytest.raises(CollectionStopped, match="does not name the ledger"):
                site.collect()
            assert load_last(site.site.journal).failures == 1
        assert segment_key(newest.epoch, newest.seq) in needed[0]
        assert needed[0] <= site.keys()


def test_what_is_still_locked_is_no_victim_though_the_bucket_locks_nothing_any_more(tmp_path: Path) -> None:
    """Else each pass made a plan for it, which deleted nothing."""
    site = Collected(tmp_path)
    with site.streaming():
        for number in range(20):
            site.cut(number)
        site.age(5)
        site.cut(1)
        kept = {found.key for found in site.agent.store.list("log/")}
        now_ns = SystemClock().wall_ns()
        (site.site.journal / "collector").mkdir(exist_ok=True)
        refused = dict.fromkeys(kept, now_ns + 24 * HOUR * 10**9)
        save_note(site.site.journal, LockNote(lock_seconds=86_400, refused=refused))
        save_last(site.site.journal, LastPass(store_ns=now_ns - 10**9))
        [passed] = site.collect()
        assert passed.why_not == "there is nothing to collect"
        save_note(site.site.journal, LockNote(lock_seconds=86_400, refused=dict.fromkeys(kept, now_ns - 1)))
        [*_, passed] = site.collect()
        assert not kept <= {found.key for found in site.agent.store.list("log/")}, "once their locks ended"
