"""The agent's own verification: by the index key, noted for `status` and the alerts, by the calendar."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from cdp_agent.cli.verify import verified_text
from cdp_agent.supervisor import take_lock
from cdp_agent.verifier import process
from cdp_agent.verifier import schedule as scheduling
from cdp_agent.verifier.last import (
    DIRECTORY_NAME,
    LAST_NAME,
    TURN_NAME,
    Last,
    damage_of,
    load_last,
    members_of,
    problem_of,
    save_last,
)
from cdp_agent.verifier.process import LOCK_NAME, Verification, Verified, verify_once
from cdp_agent.verifier.schedule import Schedule
from cdp_container.clock import SystemClock
from cdp_container.domain.budget import Budget
from cdp_container.domain.opening import ByIndex
from cdp_container.domain.schedule import CalendarTimes
from cdp_container.domain.settings import AgentSettings
from cdp_container.domain.verify_run import Progress, verify_all
from cdp_container.domain.verify_types import Report
from cdp_container.errors import AlreadyRunning, CdpError, DamagedObject
from cdp_container.format.holds import parse_holds
from cdp_container.format.keys import HOLDS_KEY, OWNER_KEY
from tests.rosters import give_roster
from tests.unit.streamer.site import AgentSite
from tests.waiting import wait_until

pytestmark = pytest.mark.slow

SMALL = Budget(size_bytes=1)


class Verifying:
    """A site with some cuts in its container."""

    def __init__(self, root: Path, encrypted: bool = True) -> None:
        self.agent = AgentSite(root, size_bytes=64 * 4096, encrypted=encrypted)
        give_roster(self.agent.store, self.agent.identity.domain)
        self.container = root / "container"
        self.settings = AgentSettings.model_validate({
            "domain": "shop",
            "site": "site-a",
            "store": str(self.container),
            "journal": {"directory": str(self.agent.directory)},
            "volumes": [{"name": "disk", "path": str(root / "disk.img")}],
        })  # fmt: skip
        with self.agent.streaming():
            for number in range(8):
                self.agent.write(0, number * 4096, os.urandom(8192))
                self.agent.ask("flush")

    @property
    def journal(self) -> Path:
        return self.agent.directory

    def verify(self, budget: Budget | None = None, identity: bytes = b"") -> Verified:
        pinned = self.agent.identity
        if identity:
            pinned = replace(pinned, domain=identity)
        what = Verification(self.settings, pinned, "ann", "cdp-agent 1", budget, lambda _: None)
        return verify_once(what, SystemClock())

    def segments(self) -> list[str]:
        return [found.key for found in self.agent.store.list("log/")]

    def flip(self, key: str, at: int = -60) -> None:
        path = self.container / key
        data = bytearray(path.read_bytes())
        data[at] ^= 1
        path.chmod(0o600)
        path.write_bytes(data)


@pytest.fixture(scope="module", params=[True, False], ids=["sealed", "plain"])
def sound(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Verifying:
    return Verifying(tmp_path_factory.mktemp("site"), bool(request.param))


@pytest.fixture
def site(tmp_path: Path) -> Verifying:
    return Verifying(tmp_path)


def test_all_is_sound_and_what_was_not_opened_is_said(sound: Verifying) -> None:
    done = sound.verify()
    is_sealed = bool(sound.agent.identity.key_block)
    assert (done.members["verdict"], done.members["mode"]) == ("sound", "all")
    assert done.members["frames"] > 0
    assert done.members["points"] == done.members["sound_points"] > 5
    assert done.members["frames_opened"] is not is_sealed
    assert ("their CRC-32" in "\n".join(verified_text(done))) is is_sealed
    assert done.members["hold"]
    roster = parse_holds(sound.agent.store.get(HOLDS_KEY).data, HOLDS_KEY, None)
    assert roster.holds == {}
    assert json.loads(json.dumps(members_of(load_last(sound.journal))))["verdict"] == "sound"
    assert problem_of(load_last(sound.journal)) == ""


def test_damage_is_a_problem_until_it_is_mended(site: Verifying) -> None:
    key = site.segments()[0]
    before = (site.container / key).read_bytes()
    site.flip(key)
    done = site.verify()
    assert [finding["key"] for finding in done.members["findings"]] == [key]
    assert key in "\n".join(verified_text(done))
    assert key in damage_of(load_last(site.journal))
    for _ in range(3):  # a sample that would not come by it looks at it all the same
        assert site.verify(SMALL).members["findings"][0]["key"] == key
        assert key in problem_of(load_last(site.journal))
    (site.container / key).write_bytes(before)
    assert site.verify(SMALL).members["findings"] == []
    assert problem_of(load_last(site.journal)) == ""


def test_samples_go_on_where_the_last_one_ended(site: Verifying) -> None:
    rounds = [site.verify(SMALL).members["coverage"]["round_objects"] for _ in range(4)]
    assert rounds == sorted(rounds)
    assert len(set(rounds)) == 4
    (site.journal / DIRECTORY_NAME / TURN_NAME).write_text("damaged")
    assert site.verify(SMALL).members["coverage"]["round"] == 1


def test_what_did_not_come_to_its_end_is_told_and_hides_no_damage(site: Verifying) -> None:
    key = site.segments()[0]
    site.flip(key)
    site.verify()
    owner = (site.container / OWNER_KEY).read_bytes()
    (site.container / OWNER_KEY).write_bytes(owner[:-1])
    for _ in range(3):
        with pytest.raises(CdpError):
            site.verify()
    last = load_last(site.journal)
    assert last.failures == 3
    assert key in damage_of(last)
    assert "3 verifications in a row" in problem_of(Last({}, last.stopped, last.failures))


def test_another_domain_is_refused(site: Verifying) -> None:
    with pytest.raises(DamagedObject):
        site.verify(identity=bytes(16))


def test_two_at_once_are_refused(site: Verifying, monkeypatch: pytest.MonkeyPatch) -> None:
    lock = take_lock(site.journal / LOCK_NAME, SystemClock())
    try:
        with pytest.raises(AlreadyRunning):
            site.verify()
    finally:
        os.close(lock)


def test_what_was_collected_meanwhile_is_looked_for_anew(
    site: Verifying, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first reading misses a segment, and the ledger moved: the second one counts."""
    real, looks = verify_all, list[int]()
    path = site.container / site.segments()[0]
    data = path.read_bytes()

    def once_missing(opened: ByIndex, planned: Callable[[int, int], Progress]) -> Report:
        looks.append(1)
        if len(looks) == 1:
            path.unlink()
            try:
                return real(opened, planned)
            finally:
                path.write_bytes(data)
        return real(opened, planned)

    monkeypatch.setattr(process, "verify_all", once_missing)
    monkeypatch.setattr(process, "_is_superseded", lambda _: True)
    assert site.verify().members["findings"] == []
    assert len(looks) == 2


@pytest.mark.parametrize("text", ["", "{}", '{"report": 5}', '{"report": {"findings": [1]}, "stopped": ""}'])
def test_a_last_report_that_is_none(tmp_path: Path, text: str) -> None:
    (tmp_path / DIRECTORY_NAME).mkdir()
    (tmp_path / DIRECTORY_NAME / LAST_NAME).write_text(text)
    assert load_last(tmp_path) == Last()
    assert members_of(load_last(tmp_path)) is None


def test_what_failed_at_once_is_told(tmp_path: Path) -> None:
    save_last(tmp_path, Last({}, "the store is away", 1))
    assert load_last(tmp_path).stopped == "the store is away"
    found = members_of(load_last(tmp_path))
    assert found is not None
    assert found["verdict"] is None


# --- the calendar ------------------------------------------------------------------------------------


@dataclass
class Wall:
    """A wall clock that is set by hand: seconds since 1970."""

    seconds: float = 1_700_000_000.0
    real: SystemClock = field(default_factory=SystemClock)

    def wall_ns(self) -> int:
        return int(self.seconds * 1e9)

    def boottime_ns(self) -> int:
        return self.real.boottime_ns()

    def sleep(self, seconds: float) -> None:
        self.seconds += seconds


def is_over(schedule: Schedule) -> bool:
    schedule.poll()
    return schedule._process is None


def ran(file: Path) -> int:
    return len(file.read_text()) if file.exists() else 0


def test_a_run_starts_at_its_times_and_never_twice_at_once(tmp_path: Path) -> None:
    file, wall = tmp_path / "ran", Wall()
    program = f"open({str(file)!r}, 'a').write('x')"
    schedule = Schedule((sys.executable, "-c", program), CalendarTimes("0 * * * *", "UTC"), wall)
    schedule.poll()
    assert ran(file) == 0
    for hours in (1, 2):
        wall.sleep(3600)
        schedule.poll()
        schedule.poll()
        wait_until(lambda hours=hours: ran(file) == hours, "the run", 30)  # type: ignore[misc]
        wait_until(lambda: is_over(schedule), "the end of the run", 30)
    wall.seconds -= 5 * 3600  # the clock was set back: its times come again
    schedule.poll()
    wall.sleep(3600)
    schedule.poll()
    wait_until(lambda: ran(file) == 3, "the run", 30)
    schedule.stop()


def test_a_run_that_does_not_end_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scheduling, "STOP_SECONDS", 0.1)
    wall, ready = Wall(), tmp_path / "ready"
    program = f"import signal; signal.signal(15, signal.SIG_IGN); open({str(ready)!r}, 'w'); signal.pause()"
    schedule = Schedule((sys.executable, "-c", program), CalendarTimes("* * * * *", "UTC"), wall)
    schedule.poll()
    wall.sleep(61)
    schedule.poll()
    process = schedule._process
    assert process is not None
    wait_until(ready.exists, "the run", 30)
    schedule.stop()
    assert process.returncode == -9


def test_a_run_that_is_under_way_is_ended_with_the_agent(tmp_path: Path) -> None:
    wall = Wall()
    schedule = Schedule((sys.executable, "-c", "input()"), CalendarTimes("* * * * *", "UTC"), wall)
    schedule.poll()
    wall.sleep(61)
    schedule.poll()
    process = schedule._process
    assert process is not None
    schedule.stop()
    assert process.returncode is not None
