"""The real streamer over a real journal into a real directory, read back by the independent reader."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from cdp_agent import supervisor
from cdp_agent.streamer import local, run
from cdp_agent.streamer.copy import whole_of
from cdp_agent.streamer.local import LocalDirectory
from cdp_agent.streamer.run import run_streamer
from cdp_container.domain.notes import Notes, save_notes
from cdp_container.errors import AlreadyRunning, Fenced, LocalDiskFull, VolumesChanged
from cdp_container.format.domain import build_owner, parse_owner
from cdp_container.format.keys import OWNER_KEY
from cdp_container.journal.record import Kind
from tests.unit.streamer.site import DEADLINE_SECONDS, AgentSite
from tests.waiting import wait_until

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("encrypted", [True, False])
def test_writes_zeros_and_discards_come_back(tmp_path: Path, encrypted: bool) -> None:
    site = AgentSite(tmp_path, volumes=("disk", "log"), encrypted=encrypted)
    with site.streaming():
        site.write(0, 0, os.urandom(300_000))
        site.write(1, 512, b"log" * 512)
        site.flush()
        site.void(Kind.ZERO, 0, 4096, 8192)
        site.void(Kind.DISCARD, 0, 65_536, 100_000)
        site.write(0, 70_000, b"again")
        site.flush()
        facts = site.facts()
    assert facts["state"] == "streaming"
    assert facts["lag_bytes"] == 0
    assert site.restored("disk") == site.images[0]
    assert site.restored("log") == site.images[1]


def test_a_new_run_goes_on_where_the_newest_cut_ended(tmp_path: Path) -> None:
    site = AgentSite(tmp_path)
    for number in range(3):
        with site.streaming():
            site.write(0, number * 5000, os.urandom(5000))
            site.flush()
        site.write(0, number * 5000 + 100, b"between two runs")
        site.begin_generation()
    with site.streaming():
        site.flush()
    assert site.restored("disk") == site.images[0]
    assert {place.epoch for place in site.recovery().cuts} == {1, 2, 3, 4}


def test_a_marker_names_exactly_its_instant(tmp_path: Path) -> None:
    site = AgentSite(tmp_path)
    with site.streaming():
        site.flush()
        site.write(0, 0, b"before")
        answer = site.ask("marker", name="release", note="why", application=True)
        assert answer["ok"], answer
        then = bytes(site.images[0])
        site.write(0, 0, b"behind")
        site.flush()
    recovery = site.recovery()
    assert recovery.restored("disk", recovery.markers()["release"]) == then
    assert site.restored("disk") == site.images[0]


@pytest.mark.parametrize("name", ["", "a\nb", "x" * 201, None, 7])
def test_a_marker_without_a_name_is_refused(tmp_path: Path, name: object) -> None:
    site = AgentSite(tmp_path)
    with site.streaming():
        site.flush()
        assert "printable name" in site.ask("marker", name=name)["error"]


def test_a_volume_with_content_is_copied_while_guests_write(tmp_path: Path) -> None:
    site = AgentSite(tmp_path, volumes=("disk", "empty"), whole=False)
    site.fill(0, 10_000, os.urandom(200_000))
    site.fill(0, 900_000, b"end")
    with site.streaming():
        site.write(0, 10_500, b"a guest")
        site.flush()
        whole = {source.space for source in site.identity.sources}
        wait_until(lambda: site.notes().whole == whole, "both are noted", DEADLINE_SECONDS)
    assert site.restored("disk") == site.images[0]
    assert site.restored("empty") == site.images[1]


def test_a_copy_is_noted_as_soon_as_there_is_room_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No cut comes after the last copy while guests do not write: nothing else would note it."""
    full = threading.Event()
    full.set()

    def save(directory: Path, notes: Notes) -> None:
        if full.is_set() and notes.whole:
            raise LocalDiskFull("write notes.json", "no space left on device")
        save_notes(directory, notes)

    monkeypatch.setattr(local, "save_notes", save)
    site = AgentSite(tmp_path, whole=False)
    site.fill(0, 0, b"content")
    with site.streaming():
        site.facts_once(lambda facts: facts.get("protected") and "notes" in facts["troubles"], "it fails")
        assert site.notes().whole == frozenset()
        full.clear()
        wait_until(lambda: site.notes().whole, "it is noted", DEADLINE_SECONDS)
        facts = site.facts_once(lambda facts: facts["state"] == "streaming", "it streams")
    assert "notes" not in facts["troubles"]


def test_a_planned_stop_loses_nothing_and_shows_it_as_protected(tmp_path: Path) -> None:
    site = AgentSite(tmp_path, cut_every_seconds=3600.0)
    with site.streaming():
        site.write(0, 0, b"flushed")
        site.flush()
        site.write(0, 4096, b"not due for an hour")
    assert site.restored("disk") == site.images[0]
    owner = parse_owner(site.store.get(OWNER_KEY).data, OWNER_KEY, None)
    assert owner.protected == site.recovery().cuts[-1]


def test_a_planned_stop_does_not_wait_for_a_store_that_is_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "FINISH_SECONDS", 0.5)
    site = AgentSite(tmp_path)
    with site.streaming():
        site.write(0, 0, b"flushed")
        site.flush()
        (tmp_path / "container").rename(tmp_path / "hidden")
        site.write(0, 4096, b"stays in the journal")
        site.facts_once(lambda facts: facts["troubles"], "the store is away")
    (tmp_path / "hidden").rename(tmp_path / "container")
    with site.streaming():
        site.flush()
    assert site.restored("disk") == site.images[0]


def test_a_streamer_whose_supervisor_was_killed_ends_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next agent waits for it before it opens the guests' disks."""
    monkeypatch.setattr(run, "FINISH_SECONDS", 10 * DEADLINE_SECONDS)
    site = AgentSite(tmp_path, cut_every_seconds=3600.0)
    with site.streaming():
        site.write(0, 0, b"flushed")
        site.flush()
        (tmp_path / "container").rename(tmp_path / "hidden")
        site.write(0, 4096, b"stays in the journal")
        monkeypatch.setattr(os, "getppid", lambda: 1)
    (tmp_path / "hidden").rename(tmp_path / "container")
    monkeypatch.undo()
    with site.streaming():
        site.flush()
    assert site.restored("disk") == site.images[0]


@pytest.mark.parametrize("gap", ["overflow", "copy"])
def test_a_stop_does_not_wait_for_what_cannot_be_sent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gap: str
) -> None:
    """The deadline is past any that a test would wait for."""
    monkeypatch.setattr(run, "FINISH_SECONDS", 10 * DEADLINE_SECONDS)
    site = AgentSite(tmp_path, whole=gap == "overflow")
    with site.streaming():
        if gap == "overflow":
            site.write(0, 0, b"flushed")
            site.flush()
            site.publish(overflow_at=site.page.tail, overflow_ns=1)
        else:
            site.publish(sync_failed=True)  # so that copying waits
            site.facts_once(lambda facts: facts["state"] == "copying", "it waits")


def test_two_streamers_never_share_a_directory(tmp_path: Path) -> None:
    """The one whose supervisor was killed could bring back old notes, or fence the new one."""
    site = AgentSite(tmp_path)
    with site.streaming():
        site.flush()
        with pytest.raises(AlreadyRunning), patient_for_nobody():
            run_streamer(site.settings(), stop=threading.Event())
        site.write(0, 0, b"goes on")
        site.flush()
    assert site.restored("disk") == site.images[0]


@contextmanager
def patient_for_nobody() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(supervisor, "STREAMER_LOCK_SECONDS", 0.0)
        yield


def test_what_the_journal_held_before_it_was_full_is_sent(tmp_path: Path) -> None:
    """The newest whole cut is as new as it can be, and the splitter learns that it may go on."""
    site = AgentSite(tmp_path)
    site.write(0, 0, b"before")
    with site.streaming():
        site.flush()
    site.write(0, 0, b"behind")
    site.publish(overflow_at=site.page.tail, overflow_ns=1)
    held = bytes(site.images[0])
    site.fill(0, 4096, b"past the journal")
    with site.streaming():
        wait_until(
            lambda: (page := site.pages.streamer.read()) and page.proven == site.page.overflow_at,
            "it is drained",
            DEADLINE_SECONDS,
        )
        assert site.facts()["not_whole"] == []
    assert site.restored("disk") == held


def test_a_reverted_journal_is_compared_and_said(tmp_path: Path) -> None:
    site = AgentSite(tmp_path)
    with site.streaming():
        site.write(0, 0, b"before")
        site.flush()
    site.lose_journal()
    site.fill(0, 8192, b"nobody captured this")
    site.write(0, 0, b"behind")
    with site.streaming():
        site.flush()
        facts = site.facts()
    assert "is not in this journal" in facts["last_error"]
    assert site.restored("disk") == site.images[0]


def test_an_overtaken_run_is_fenced_for_good(tmp_path: Path) -> None:
    site = AgentSite(tmp_path)
    with site.streaming() as streaming:
        streaming.may_fail = True
        site.write(0, 0, b"ours")
        site.flush()
        blob = site.store.get(OWNER_KEY)
        owner = parse_owner(blob.data, OWNER_KEY, None)
        stolen = type(owner)(
            **{name: getattr(owner, name) for name in owner.__dataclass_fields__}
            | {"nonce": os.urandom(16), "site": "site-b", "epoch": owner.epoch + 1, "version": 99}
        )
        site.store.put_if(OWNER_KEY, build_owner(stolen), blob.found.tag)
        site.write(0, 0, b"late")
        wait_until(lambda: not streaming.thread.is_alive(), "the streamer ends", DEADLINE_SECONDS)
    assert isinstance(streaming.error, Fenced)
    assert "site-b" in site.notes().fenced
    with site.streaming() as again:
        again.may_fail = True
        wait_until(lambda: not again.thread.is_alive(), "the streamer ends", DEADLINE_SECONDS)
    assert isinstance(again.error, Fenced)


def test_a_store_that_is_away_only_degrades(tmp_path: Path) -> None:
    site = AgentSite(tmp_path)
    hidden = tmp_path / "hidden"
    (tmp_path / "container").rename(hidden)
    with site.streaming():
        site.write(0, 0, b"while the store is away")
        site.facts_once(lambda facts: facts["lag_bytes"], "the lag shows")
        site.facts_once(lambda facts: "no connection" in facts["state"], "so does the reason")
        assert not site.ask("marker", name="now", timeout_seconds=5)["ok"]  # it could not name this instant
        with ThreadPoolExecutor(1) as pool:
            flushed = pool.submit(site.flush)  # which waits until the store is back
            hidden.rename(tmp_path / "container")
            flushed.result(60)
    assert site.restored("disk") == site.images[0]


def test_what_was_published_before_the_machine_started_is_not_believed(tmp_path: Path) -> None:
    """Only a splitter that ran since can tell whether the machine went down cleanly."""
    site = AgentSite(tmp_path)
    site.write(0, 0, b"before the power was lost")
    boot = site.page.boot
    site.publish(boot=bytes(16))
    with site.streaming():
        facts = site.facts_once(lambda facts: facts["state"].startswith("waiting"), "the streamer waits")
        assert facts["epoch"] == 0
        assert site.recovery().cuts == []
        site.publish(boot=boot, episode=77, compare_all=True)
        site.flush()
    assert site.notes().episode == 77


def test_a_splitter_that_serves_other_volumes_ends_the_run_before_any_cut(tmp_path: Path) -> None:
    """Of a volume that came it knows nothing, one that grew it would cut off."""
    site = AgentSite(tmp_path)
    site.write(0, 0, b"known")
    with site.streaming() as running:
        site.flush()
        before = len(site.recovery().cuts)
        running.may_fail = True
        assert site.writer is not None
        site.writer.append_write(1, 0, b"of the new volume")
        site.publish(sources=7)
        wait_until(lambda: not running.thread.is_alive(), "the run ends", DEADLINE_SECONDS)
    assert isinstance(running.error, VolumesChanged)
    assert len(site.recovery().cuts) == before


def test_another_file_of_the_same_name_is_not_copied_and_ends_no_other_protection(tmp_path: Path) -> None:
    site = AgentSite(tmp_path)
    doubt = LocalDirectory(site.settings(), site.pages).doubt(0, None)
    path = Path(site.identity.sources[0].path)
    other = path.with_suffix(".other")
    other.write_bytes(bytes(site.size_bytes))
    page = site.page
    other.rename(path)
    with pytest.raises(VolumesChanged, match="another file"):
        list(whole_of(doubt.volume))
    site.pages.splitter.publish(page)
    with pytest.raises(VolumesChanged, match="was replaced"):
        LocalDirectory(site.settings(), site.pages).doubt(0, None)
    with site.streaming():
        assert site.writer is not None
        site.writer.append_write(0, 0, b"in the journal")
        site.publish(disks=page.disks)
        site.flush()
    assert site.restored("disk").startswith(b"in the journal")
