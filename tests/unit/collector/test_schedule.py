"""Passes by the schedule: one at a time, counted from the end of the one before, ended with the agent."""

from __future__ import annotations

import sys
from pathlib import Path

from cdp_agent.cli.status import _collection
from cdp_agent.collector.last import LastPass, load_last, members_of, save_last
from cdp_agent.collector.schedule import FIRST_SECONDS_MAX, Schedule
from tests.unit.collector.collecting_site import Time
from tests.waiting import wait_until


def is_running(schedule: Schedule) -> bool:
    return schedule._process is not None


def test_one_at_a_time_and_an_hour_after_the_last(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.touch()
    argv = (sys.executable, "-c", f"open({str(log)!r}, 'a').write('x')")
    time = Time()
    schedule = Schedule(argv, 3600.0, time)
    schedule.poll()
    time.sleep(FIRST_SECONDS_MAX - 1)
    schedule.poll()
    assert not is_running(schedule)
    time.sleep(2)
    schedule.poll()
    first = schedule._process
    assert first is not None
    wait_until(lambda: first.poll() is not None, "the pass ended", 30.0)
    schedule.poll()
    assert log.read_text() == "x"
    time.sleep(3599)
    schedule.poll()
    assert not is_running(schedule)
    time.sleep(2)
    schedule.poll()
    assert is_running(schedule)
    schedule.stop()


def test_the_end_of_the_agent_ends_the_pass() -> None:
    time = Time()
    schedule = Schedule((sys.executable, "-c", "import signal; signal.pause()"), 10.0, time)
    schedule.poll()
    time.sleep(11)
    schedule.poll()
    process = schedule._process
    assert process is not None
    schedule.poll()
    assert schedule._process is process
    schedule.stop()
    schedule.stop()
    assert process.poll() is not None


def test_what_status_says(tmp_path: Path) -> None:
    assert _collection(members_of(load_last(tmp_path))) == "none yet"
    for last, said in (
        (LastPass(1, stopped="the store"), "stopped: the store"),
        (LastPass(1, note="a hold"), "a hold"),
        (
            LastPass(1, note="nothing", notes=("/b still has 3 objects", "x")),
            "nothing; /b still has 3 objects; x",
        ),
        (LastPass(1, deleted=3, freed_bytes=1 << 20), "3 objects deleted, 1.0 MiB freed, 0 B written anew"),
    ):
        save_last(tmp_path, last)
        assert load_last(tmp_path) == last
        assert _collection(members_of(load_last(tmp_path))) == f"1970-01-01 00:00 UTC: {said}"
