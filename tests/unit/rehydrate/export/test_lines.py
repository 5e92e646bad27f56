"""How far an export is, as lines for a log and for programs."""

from __future__ import annotations

import json

import pytest

from rehydrate.cli.export_lines import ExportLines

SECOND = 1_000_000_000


class Ticking:
    """See `Clock`; time is what a test says."""

    def __init__(self) -> None:
        self.now_ns = 7 * SECOND

    def wall_ns(self) -> int:
        return self.now_ns

    def boottime_ns(self) -> int:
        return self.now_ns

    def sleep(self, seconds: float) -> None:
        self.now_ns += int(seconds * SECOND)


def test_a_log_gets_a_line_now_and_then_and_one_at_the_end(capsys: pytest.CaptureFixture[str]) -> None:
    clock = Ticking()
    with ExportLines(clock, as_json=False).step("db\x1b.vmdk", "converting", 4 << 20) as report:
        for _ in range(4):
            clock.sleep(6)
            report(1 << 20)
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(": ")[1].split(",")[0] for line in lines] == [
        "2.0 MiB of 4.0 MiB in 12 s",
        "4.0 MiB of 4.0 MiB in 24 s",
        "done",
    ]
    assert "12 s left" in lines[0]
    assert all("\x1b" not in line for line in lines)


def test_programs_get_members_and_are_told_of_a_failure(capsys: pytest.CaptureFixture[str]) -> None:
    clock = Ticking()

    def fails() -> None:
        with ExportLines(clock, as_json=True).step("db.raw", "uploading", 10) as report:
            clock.sleep(1)
            report(4)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fails()
    events = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert [(one["event"], one["done_bytes"], one["total_bytes"]) for one in events] == [
        ("progress", 4, 10),
        ("failed", 4, 10),
    ]
    assert events[0]["elapsed_seconds"] == 1.0
    assert (events[0]["image"], events[0]["step"]) == ("db.raw", "uploading")
