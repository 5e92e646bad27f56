"""How far a restore or verification is: text for people, JSON for programs, neither too often."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cdp_container.clock import SystemClock
from cdp_container.store.directory import DirectoryStore
from rehydrate.cli.progress import json_lines, text_lines
from rehydrate.plan import Totals
from tests.containers import Site, busy_container
from tests.unit.rehydrate.conftest import Run


@pytest.fixture
def site(place: Path) -> Site:
    return busy_container(DirectoryStore(place))


def test_progress_is_json_where_it_was_asked_for_and_text_where_not(
    run: Run, site: Site, place: Path, out: Path
) -> None:
    words = ("restore", place, "--all", "--target-dir", out)
    code, _, stderr = run(*words)
    assert (code, "{" in stderr) == (0, False)
    assert stderr.splitlines()[-1].startswith("restore: ")
    code, _, stderr = run(*words, "--force", "--json")
    assert code == 0
    last = json.loads(stderr.splitlines()[-1])
    assert last["fetched_bytes"] == last["fetched_bytes_planned"]
    assert last["written_bytes"] == last["written_bytes_planned"]
    assert "{" not in run("verify", place)[2]
    assert json.loads(run("verify", place, "--json")[2].splitlines()[-1])["what"] == "verify"


def test_progress_is_a_line_a_second_at_most_of_text_one_in_ten(capsys: pytest.CaptureFixture[str]) -> None:
    class Ticks(SystemClock):
        now_ns = 0

        def boottime_ns(self) -> int:
            return self.now_ns

    clock = Ticks()
    lines = json_lines(Totals(gets=4, fetch_bytes=40), "restore", clock)
    for _ in range(4):
        Ticks.now_ns += 600_000_000
        lines(Totals(gets=1, fetch_bytes=10))
    shown = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert [line["fetched_bytes"] for line in shown] == [20, 40]
    assert {line["fetched_bytes_planned"] for line in shown} == {40}
    words = text_lines(Totals(fetch_bytes=4096, write_bytes=8192), "restore", clock)
    for _ in range(4):
        Ticks.now_ns += 6_000_000_000
        words(Totals(fetch_bytes=1024, write_bytes=2048))
    assert capsys.readouterr().err.splitlines() == [
        "restore: 2.0 KiB of 4.0 KiB fetched, 4.0 KiB of 8.0 KiB written in 12 s",
        "restore: 4.0 KiB of 4.0 KiB fetched, 8.0 KiB of 8.0 KiB written in 24 s",
    ]
