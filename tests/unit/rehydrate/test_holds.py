"""`rehydrate holds`, `hold`, `unhold`: what is kept from collection, and by whom."""

from __future__ import annotations

import time as wall
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from cdp_container.clock import SystemClock
from cdp_container.format.domain import PlanName, PlanState
from cdp_container.format.gc import Plan, build_plan, plan_digest
from cdp_container.format.holds import Hold
from cdp_container.format.index import Run as LedgerRun
from cdp_container.format.keys import HOLDS_KEY, gc_key, segment_key
from cdp_container.format.layout import RunKind
from cdp_container.format.place import Place
from cdp_container.store.directory import DirectoryStore
from rehydrate.cli.hold_views import hold_members, holds_text, is_late, state_of
from tests.containers import Site, busy_container
from tests.rosters import give_roster, holds_in
from tests.unit.rehydrate.conftest import Run, answer

READER, KEPT = "aa11" + "0" * 28, "aa22" + "0" * 28
TERM_NS = 900 * 1_000_000_000
FUTURE = "2200-01-01T00:00:00Z"


def living() -> Hold:
    return Hold("munich", "Sepp", "restore", Place(1, 2, 4), 1, 900, SystemClock().wall_ns())


@pytest.fixture
def site(place: Path) -> Site:
    site = busy_container(DirectoryStore(place))
    write(site, {})
    return site


def write(site: Site, holds: Mapping[str, Hold]) -> None:
    give_roster(site.store, site.domain, holds)


def in_roster(site: Site) -> dict[str, Hold]:
    return holds_in(site.store, site.domain)


# --- bad input ---------------------------------------------------------------------------------


def test_no_container_and_no_roster(run: Run, place: Path) -> None:
    assert run("holds", place)[0] == 12
    assert run("hold", place, "--until", FUTURE)[0] == 12
    assert run("unhold", place, "aa11")[0] == 12
    busy_container(DirectoryStore(place))
    for arguments in (("holds", place), ("hold", place, "--until", FUTURE), ("unhold", place, "aa11")):
        code, stdout, stderr = run(*arguments)
        assert (code, stdout) == (21, "")
        assert "no roster" in stderr
        assert "unhold" in stderr


def test_a_damaged_roster_is_named_and_written_anew_by_force_alone(run: Run, site: Site, place: Path) -> None:
    (place / HOLDS_KEY).unlink()
    (place / HOLDS_KEY).write_bytes(b"{}")
    assert run("holds", place)[0] == 20
    assert run("unhold", place, "all")[0] == 2
    assert run("unhold", place, "all", "--force")[0] == 0
    assert in_roster(site) == {}


@pytest.mark.parametrize(
    "until", ["soon", "2200-01-01T00:00:00", "1999-01-01T00:00:00Z", "2999-01-01T00:00:00Z"]
)
def test_a_time_that_is_none_or_over(run: Run, site: Site, place: Path, until: str) -> None:
    code, _, stderr = run("hold", place, "--until", until)
    assert code == 2
    assert "--until" in stderr
    assert in_roster(site) == {}


def test_a_point_that_is_not_there_is_not_held(run: Run, site: Site, place: Path) -> None:
    for option in ("--at=9.9", "--marker=never"):
        assert run("hold", place, "--until", FUTURE, option)[0] == 13
    assert in_roster(site) == {}


def test_too_many_words(run: Run, site: Site, place: Path) -> None:
    assert run("hold", place, "--until", FUTURE, "--reason", "x" * 2000)[0] == 24
    assert in_roster(site) == {}


@pytest.mark.parametrize(("named", "code"), [("aa1", 2), ("aa11f", 10), ("x" * 50, 10), ("aaaa", 10)])
def test_an_id_that_is_none(run: Run, site: Site, place: Path, named: str, code: int) -> None:
    write(site, {READER: living()})
    assert run("unhold", place, named, "--force")[0] == code
    assert list(in_roster(site)) == [READER]


def test_an_id_that_is_two(run: Run, site: Site, place: Path) -> None:
    twins = {f"abcd{number}" + "0" * 27: living() for number in range(2)}
    write(site, twins)
    code, _, stderr = run("unhold", place, "abcd")
    assert code == 2
    assert "2 ids begin so" in stderr


def test_a_living_reader_keeps_its_hold(run: Run, site: Site, place: Path) -> None:
    write(site, {READER: living()})
    code, _, stderr = run("unhold", place, READER[:4])
    assert code == 2
    assert "restore at munich by Sepp" in stderr
    assert "--force" in stderr
    assert list(in_roster(site)) == [READER]
    assert run("unhold", place, READER[:4], "--force")[0] == 0
    assert in_roster(site) == {}


# --- what is held ------------------------------------------------------------------------------


def test_everything_is_held_until_a_time(run: Run, site: Site, place: Path) -> None:
    code, stdout, stderr = run("hold", place, "--until", FUTURE, "--reason", "audit")
    assert code == 0
    assert "nothing at all is collected" in stderr
    ((hold_id, hold),) = in_roster(site).items()
    assert (stdout.strip(), hold.cut, hold.counter, hold.purpose) == (hold_id, None, 0, "audit")
    assert hold.until_ns == 7_258_118_400 * 10**9
    assert "kept, until 2200-01-01" in run("holds", place)[1]
    assert run("unhold", place, hold_id[:6])[0] == 0
    assert in_roster(site) == {}


@pytest.mark.parametrize("option", ["--at=1.2", "--marker=installed", "--marker=grown"])
def test_a_point_is_held_until_a_time(run: Run, site: Site, place: Path, option: str) -> None:
    meant = answer(run, "plan", place, option, "--volume", "disk")["point"]
    held = answer(run, "hold", place, "--until", FUTURE, option)
    assert held["point"] == meant
    ((hold_id, hold),) = in_roster(site).items()
    assert hold_id == held["id"]
    assert hold.cut in site.images
    assert hold.ledger == site.owner.ledger
    (listed,) = answer(run, "holds", place)["holds"]
    assert (listed["id"], listed["point"], listed["state"]) == (hold_id, meant, "kept")


def test_a_point_of_a_collected_container_is_held_with_its_ledger(run: Run, site: Site, place: Path) -> None:
    site.collect(1, 1, 3)
    assert run("hold", place, "--until", FUTURE, "--at", "1.2")[0] == 0
    ((_, hold),) = in_roster(site).items()
    assert hold.ledger == site.owner.ledger is not None


@pytest.mark.parametrize("retired", [True, False])
def test_a_point_that_a_named_plan_is_about_to_retire_is_not_held(
    run: Run, site: Site, place: Path, retired: bool
) -> None:
    seq = min(cut.seq for cut in site.images if (cut.epoch, cut.cut) == (1, 2))
    site.write_ledger([LedgerRun(RunKind.CUTS_RETIRED, 1, seq, seq, bytes(32))] if retired else [], 9)
    assert site.owner.ledger is not None
    plan = Plan(
        site.domain, site.owner.epoch, 9, 1, "site-a", None, site.owner.ledger, (), (segment_key(1, 1),), (),
        site.owner.protected,
    )  # fmt: skip
    data = build_plan(plan)
    site.store.put_new(gc_key(plan.epoch, plan.n), data)
    named = PlanName(plan.epoch, plan.n, plan_digest(data), PlanState.NAMED)
    site.write_owner(ledger=None, plan=named)
    code, _, stderr = run("hold", place, "--until", FUTURE, "--at", "1.2")
    assert (code == 0) == (not retired)
    assert len(in_roster(site)) == (not retired)
    if retired:
        assert "taking it away" in stderr
        assert run("hold", place, "--until", FUTURE, "--marker", "grown")[0] == 0


def test_the_table(run: Run, site: Site, place: Path) -> None:
    assert run("holds", place)[1].strip() == "nothing is held"
    evil = replace(living(), site="\x1b[31mred", operator="", since_ns=2**63 - 1)
    ancient = replace(living(), since_ns=-(2**63))
    write(site, {READER: living(), KEPT: replace(evil, until_ns=2**63 - 1), "f" * 32: ancient})
    code, stdout, _ = run("holds", place)
    assert code == 0
    assert "\x1b" not in stdout
    lines = {line.split()[0]: line for line in stdout.splitlines()}
    assert "1.2" in lines[READER[:8]]
    assert lines[READER[:8]].endswith("alive")
    assert lines["f" * 8].endswith("late")
    assert "2262-04-11" in lines[KEPT[:8]]


def test_what_a_short_look_can_tell() -> None:
    now_ns = wall.time_ns()
    hold = replace(living(), since_ns=now_ns, counter=1)
    assert not is_late(hold, now_ns, now_ns)
    assert not is_late(hold, now_ns, now_ns + TERM_NS)
    assert is_late(hold, now_ns + 5 * TERM_NS, now_ns + 5 * TERM_NS), "others write the roster, it does not"
    grown = replace(hold, counter=16)
    assert not is_late(grown, now_ns + 5 * TERM_NS, now_ns + 5 * TERM_NS)
    assert is_late(grown, now_ns, now_ns + TERM_NS + 1), "nobody wrote the roster for a term"
    assert state_of(replace(hold, until_ns=now_ns), now_ns, now_ns + 1) == "over"
    assert state_of(replace(hold, until_ns=now_ns), now_ns, now_ns) == "kept"
    assert "everything" in holds_text([hold_members(READER, replace(hold, cut=None), now_ns, now_ns)])


def test_a_failed_hold_leaves_the_reader_s_own_behind_nowhere(
    run: Run, site: Site, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CDP_PASSPHRASE", "wrong")
    assert run("hold", place, "--until", FUTURE, "--at", "1.2")[0] == 30
    assert in_roster(site) == {}
