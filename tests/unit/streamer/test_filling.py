"""Volumes that are filled from outside: what is noted, and what a real streamer's cuts say of them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pytest

from cdp_agent.streamer import filling, local
from cdp_agent.streamer.filling import noted_anew
from cdp_agent.streamer.filling_words import FILLED_COMMAND, filling_members
from cdp_container.domain.identity import AgentIdentity
from cdp_container.domain.notes import Filling, Notes, decode_notes, encode_notes, save_notes
from cdp_container.errors import ConfigInvalid, LocalDiskFull
from cdp_container.format.place import Place
from tests.unit.streamer.site import DEADLINE_SECONDS, AgentSite
from tests.waiting import wait_until

DISK, LOG = 0, 1


def two_volumes(tmp_path: Path) -> AgentSite:
    return AgentSite(tmp_path, volumes=("disk", "log"))


def begin(site: AgentSite, *names: str) -> dict[str, Any]:
    answer = site.ask("filling", vm="shop", volumes=[*names])
    assert answer["ok"], answer
    return answer


def end(site: AgentSite, *names: str) -> dict[str, Any]:
    answer = site.ask("filled", volumes=[*names])
    assert answer["ok"], answer
    return answer


def whole_at(site: AgentSite, source: int) -> list[tuple[Place, bool]]:
    """Every cut, and whether a volume is whole there, as the independent reader sees it."""
    recovery = site.recovery()
    space = site.identity.sources[source].space
    return [(place, recovery.is_whole(space, place)) for place in recovery.cuts]


def sent(site: AgentSite) -> None:
    """Until a cut has all that was written; a flush would wait for what is filled."""
    site.facts_once(lambda facts: facts["lag_bytes"] == 0 and facts["protected"], "it is sent")


# --- the notes -----------------------------------------------------------------------------------


def test_notes_outlast_a_run_and_older_ones_have_none() -> None:
    notes = Notes(filling=(Filling(b"s" * 16, "shop", 5), Filling(b"t" * 16, "db", 7, ended=True)))
    assert decode_notes(encode_notes(notes), "notes") == notes
    older = orjson.loads(encode_notes(notes))
    del older["filling"]
    assert decode_notes(orjson.dumps(older), "notes") == replace(notes, filling=())
    damaged = orjson.loads(encode_notes(notes)) | {"filling": [{"space": "00"}]}
    with pytest.raises(ConfigInvalid):
        decode_notes(orjson.dumps(damaged), "notes")


@pytest.mark.parametrize("volumes", [None, "disk", [7], ["nothing"], ["disk", "nothing"]])
def test_nonsense_changes_nothing(tmp_path: Path, volumes: object) -> None:
    site = two_volumes(tmp_path)
    request = {"command": "filling", "vm": "shop", "volumes": volumes}
    notes, answer = noted_anew(request, site.notes(), site.identity, 5)
    assert notes == site.notes()
    assert not answer["ok"]


@pytest.mark.parametrize("given", [{"fenced": "x"}, {"releasing_to": "b"}, {"released_to": "b"}])
def test_nothing_is_filled_of_a_domain_that_is_given_away(tmp_path: Path, given: dict[str, str]) -> None:
    site = two_volumes(tmp_path)
    notes = replace(site.notes(), **given)  # type: ignore[arg-type]  # members of the notes
    request = {"command": "filling", "vm": "shop", "volumes": ["disk"]}
    assert "another site's" in noted_anew(request, notes, site.identity, 5)[1]["error"]
    filled = {"command": "filled", "volumes": ["disk"]}
    assert noted_anew(filled, notes, site.identity, 5)[1] == {"ok": True, "changed": []}


def test_what_changed_is_told_and_volumes_that_are_gone_are_forgotten(tmp_path: Path) -> None:
    site = two_volumes(tmp_path)
    disk = site.identity.sources[DISK].space
    notes = replace(site.notes(), filling=(Filling(b"gone" * 4, "old", 1),))
    both = {"command": "filling", "vm": "shop", "volumes": ["disk", "log"]}
    notes, answer = noted_anew({**both, "volumes": ["disk"]}, notes, site.identity, 5)
    assert answer["changed"] == ["disk"]
    assert notes.filling == (Filling(disk, "shop", 5),)
    notes, answer = noted_anew(both, notes, site.identity, 6)
    assert answer["changed"] == ["log"]
    notes, answer = noted_anew({"command": "filled", "volumes": ["disk"]}, notes, site.identity, 7)
    assert answer["changed"] == ["disk"]
    told = filling_members(notes, site.identity)
    assert [(one["volume"], one["began_ns"], one["ended"]) for one in told] == [
        ("disk", 5, True), ("log", 6, False),
    ]  # fmt: skip
    notes, answer = noted_anew(both, notes, site.identity, 8)
    assert answer["changed"] == ["disk"], "it begins again before it was whole"
    assert notes.filling[0] == Filling(disk, "shop", 8)


# --- a real streamer -----------------------------------------------------------------------------


@pytest.mark.slow
def test_cuts_list_it_until_it_is_filled_and_then_the_note_goes(tmp_path: Path) -> None:
    site = two_volumes(tmp_path)
    with site.streaming():
        site.write(DISK, 0, b"before")
        site.flush()
        before = site.recovery().cuts[-1]
        assert begin(site, "disk")["changed"] == ["disk"]
        site.write(DISK, 4096, b"a part of a copy")
        site.write(LOG, 0, b"of another VM")
        sent(site)
        facts = site.facts()
        assert facts["not_whole"] == facts["filled"] == ["disk"]
        assert facts["filling"][0]["vm"] == "shop"
        refused = site.ask("marker", name="now")
        assert "half filled" in refused["error"]
        assert "--accept" in refused["hint"]
        assert "not every volume" in site.ask("release", site="b")["error"]
        assert site.ask("flush", timeout_seconds=0.2).get("timeout")
        amid = site.recovery().cuts[-1]
        site.write(DISK, 8192, b"the rest")
        end(site, "disk")
        site.flush()
        wait_until(lambda: site.notes().filling == (), "the note goes", DEADLINE_SECONDS)
        assert site.ask("marker", name="then")["ok"]
    found = dict(whole_at(site, DISK))
    assert found[before]
    assert not found[amid]
    assert site.recovery().is_whole(site.identity.sources[LOG].space, amid)
    assert not any(whole for place, whole in found.items() if before < place <= amid)
    assert found[site.recovery().newest]
    assert site.restored("disk") == site.images[DISK]


@pytest.mark.slow
def test_it_is_known_to_the_next_run_which_compares_nothing_for_it(tmp_path: Path) -> None:
    site = two_volumes(tmp_path)
    with site.streaming():
        begin(site, "disk")
        site.write(DISK, 0, b"a part")
        sent(site)
        site.write(DISK, 4096, b"more, which a planned stop sends")
    assert site.recovery().restored("log") == site.images[LOG]
    assert [whole for _, whole in whole_at(site, DISK)][-1] is False
    site.begin_generation()
    with site.streaming():
        site.write(DISK, 8192, b"the next run")
        sent(site)
        facts = site.facts_once(lambda facts: facts["state"] == "streaming", "nothing is copied")
        assert facts["counters"]["copy_compared_bytes"] == 0
        assert whole_at(site, DISK)[-1][1] is False
        assert begin(site, "disk")["changed"] == []
    with site.streaming():
        end(site, "disk")
    assert site.notes().filling in ((), (replace(site.notes().filling[0], ended=True),))
    with site.streaming():
        site.flush()
        assert site.facts()["counters"]["copy_compared_bytes"] == 0
        wait_until(lambda: site.notes().filling == (), "the note goes", DEADLINE_SECONDS)
    assert whole_at(site, DISK)[-1][1]
    assert site.restored("disk") == site.images[DISK]


@pytest.mark.slow
def test_what_ended_while_nobody_cut_is_whole_from_the_next_tail_on(tmp_path: Path) -> None:
    """The run was killed after it was noted, and before any cut."""
    site = two_volumes(tmp_path)
    with site.streaming():
        begin(site, "disk")
        site.write(DISK, 0, b"a part")
        sent(site)
    notes = site.notes()
    save_notes(site.directory, replace(notes, filling=(replace(notes.filling[0], ended=True),)))
    with site.streaming():
        site.facts_once(lambda facts: facts.get("not_whole") == [], "it is whole")
        wait_until(lambda: site.notes().filling == (), "the note goes", DEADLINE_SECONDS)
    assert [whole for _, whole in whole_at(site, DISK)] == [
        *(False for _ in whole_at(site, DISK)[:-1]), True,
    ], "without a write, by a cut of its own"  # fmt: skip


@pytest.mark.slow
def test_the_first_whole_cut_has_what_came_since_the_journal_was_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last of a copy comes after a look, and that the copy is over is told before the next one."""
    site = two_volumes(tmp_path)

    def written_before(
        request: dict[str, Any], notes: Notes, identity: AgentIdentity, now_ns: int
    ) -> tuple[Notes, dict[str, Any]]:
        if request["command"] == FILLED_COMMAND:
            site.write(DISK, 4096, b"the rest")
        return noted_anew(request, notes, identity, now_ns)

    with site.streaming():
        begin(site, "disk")
        site.write(DISK, 0, b"a part")
        sent(site)
        monkeypatch.setattr(filling, "noted_anew", written_before)
        end(site, "disk")
        site.flush()
    first = next(place for place, is_whole in whole_at(site, DISK) if is_whole)
    assert site.recovery().restored("disk", first) == site.images[DISK]


@pytest.mark.slow
def test_amid_an_overflow_it_is_not_whole_although_it_ended(tmp_path: Path) -> None:
    site = two_volumes(tmp_path)
    with site.streaming():
        begin(site, "disk")
        site.write(DISK, 0, b"a part")
        sent(site)
        site.publish(overflow_at=site.page.tail, overflow_ns=1)
        site.fill(DISK, 4096, b"past the journal")
        end(site, "disk")
        site.facts_once(lambda facts: facts["overflowed"], "it is seen")
        assert site.facts()["filled"] == ["disk"]
    assert not any(whole for place, whole in whole_at(site, DISK) if place.cut > 1)


@pytest.mark.slow
def test_what_cannot_be_noted_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    site = two_volumes(tmp_path)

    def full(directory: Path, notes: Notes) -> None:
        raise LocalDiskFull("write notes.json", "no space left on device")

    with site.streaming():
        site.write(DISK, 0, b"x")
        site.flush()
        with monkeypatch.context() as patched:
            patched.setattr(local, "save_notes", full)
            answer = site.ask("filling", vm="shop", volumes=["disk"])
        assert (answer["ok"], answer["again"]) == (False, True)
        assert "no space left" in answer["error"]
        assert site.facts()["filled"] == []
    assert site.notes().filling == ()


@pytest.mark.slow
def test_it_is_noted_before_the_store_was_ever_reached(tmp_path: Path) -> None:
    site = two_volumes(tmp_path)
    away = site.root / "away"
    (site.root / "container").rename(away)
    with site.streaming():
        assert begin(site, "disk")["changed"] == ["disk"]
        assert [one.vm for one in site.notes().filling] == ["shop"]
        site.write(DISK, 0, b"a part")
        away.rename(site.root / "container")
        sent(site)
    assert [whole for _, whole in whole_at(site, DISK)] == [False] * len(whole_at(site, DISK))
