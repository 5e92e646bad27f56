"""The report of a rehearsal with machines, read as an auditor reads it: what failed, and what is true."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cdp_container.errors import ChecksFailed
from rehydrate.boot.run import FAILED, NOT_STARTED, RUNNING, CheckResult, Result
from rehydrate.cli.rehearsal_views import outcome_text
from rehydrate.container import Secret
from rehydrate.plan import Choice
from rehydrate.rehearsal import parts
from rehydrate.rehearsal.fleet import Booting, verdict_of
from rehydrate.rehearsal.page import html_of
from rehydrate.rehearsal.parts import Verdict
from rehydrate.rehearsal.programs import EXCERPT_BYTES_MAX, Redaction
from rehydrate.rehearsal.report import About, members_of
from rehydrate.rehearsal.run import Asked, Found
from rehydrate.runbook.model import RunbookSettings

SECRET = "a-secret-of-the-store"
HIDE = Redaction([SECRET])
RUNBOOK = RunbookSettings.model_validate({"target": "qemu", "directory": "/srv/v"})
ABOUT = About("/c", "rehydrate 1", "host", "Linux 6", "3.11", "ada", 1, 2)
WHY = "the console has not said it within 300 s"


def result(name: str, state: str, console: str = "/nowhere", *checks: CheckResult) -> Result:
    begun = None if state == NOT_STARTED else 41.0
    running = 61.5 if state == RUNNING else None
    why = {RUNNING: "", FAILED: WHY, NOT_STARTED: "web did not come up"}[state]
    return Result(name, f"{name}-dr-test", state, why, begun, begun, running, False, checks, console)


def report(*results: Result, error: Exception | None = None) -> dict[str, Any]:
    asked = Asked(Choice(), (), Path("/srv/dr"), boot=Booting(RUNBOOK, lambda _: None, "/c", Secret))
    found = Found(restored_seconds=40.0, checked_seconds=400.0, machines=list(results))
    found.verdicts = [
        Verdict("checksums", "db01", parts.PASSED, "64 blocks agree", 1.0),
        *(verdict_of(one, HIDE) for one in results),
    ]
    return members_of(ABOUT, asked, found, [], [], error, HIDE)


@pytest.fixture
def failed(tmp_path: Path) -> dict[str, Any]:
    """One VM runs, one did not come up and had much to say, and one waited for that."""
    console = tmp_path / "web.console"
    console.write_bytes(b"x" * EXCERPT_BYTES_MAX * 2 + f"<b>{SECRET}\nKernel panic \x1b[2J".encode())
    web = result("web", FAILED, str(console), CheckResult("console 'login:'", None, 600, "not seen yet"))
    app = result("app", NOT_STARTED, "/nowhere", CheckResult("console 'ready'", None, 0, ""))
    db = result("db", RUNNING, "/nowhere", CheckResult("console 'up'", 61.5, 9, ""))
    error = ChecksFailed("restored, but 2 checks failed", f"VM web: {WHY}; VM app: not started")
    return report(db, web, app, error=error)


def test_a_vm_that_did_not_come_up_is_told_with_the_end_of_its_console(failed: dict[str, Any]) -> None:
    checks = {one["subject"]: one for one in failed["checks"]}
    assert (checks["web"]["state"], checks["web"]["why"]) == ("failed", WHY)
    assert checks["web"]["excerpt"].endswith("<b>[secret]\nKernel panic \x1b[2J")
    assert len(checks["web"]["excerpt"]) == EXCERPT_BYTES_MAX
    assert checks["app"]["why"] == "not started: web did not come up"
    assert checks["app"]["excerpt"] == checks["db"]["excerpt"] == ""
    page = html_of(failed)
    assert "VM web, the end of what it printed" in page
    assert "&lt;b&gt;[secret]\nKernel panic \\x1b[2J" in page


def test_how_long_a_vm_took_counts_from_its_own_beginning(failed: dict[str, Any]) -> None:
    took = {one["subject"]: one["seconds"] for one in failed["checks"]}
    assert took == {"db01": 1.0, "db": 20.5, "web": 0.0, "app": 0.0}
    assert ">0.0 s<" not in html_of(failed), "nobody measured it"


def test_what_failed_stands_at_the_top_of_the_page_and_first_among_the_checks(failed: dict[str, Any]) -> None:
    page = html_of(failed)
    top, _, rest = page.partition("<table>")
    assert "restored, but 2 checks failed (exit code 28)" in top
    assert f"<li>VM web: {WHY}</li><li>VM app: not started: web did not come up</li>" in top
    checks = rest.partition("<h2>Checks</h2>")[2]
    assert checks.index(">web<") < checks.index(">app<") < checks.index(">db01<")
    assert "not all VMs came up" in page


def test_a_check_that_was_never_made_is_not_called_failed(failed: dict[str, Any]) -> None:
    machines = html_of(failed).partition("<h2>Machines</h2>")[2].partition("<h2>Checks</h2>")[0]
    row = machines.partition("console &#x27;ready&#x27;")[2].partition("</tr>")[0]
    assert ">not checked<" in row
    row = machines.partition("console &#x27;login:&#x27;")[2].partition("</tr>")[0]
    assert ">failed<" in row


def test_people_are_told_each_vm_once_and_failures_first(failed: dict[str, Any]) -> None:
    lines = outcome_text(failed).splitlines()
    assert lines[0] == "DR-test: checks failed"
    assert lines[2:] == [
        "VM db: running after 1 min 02 s",
        f"failed: VM web: {WHY}",
        "failed: VM app: not started: web did not come up",
        "passed: checksums of db01: 64 blocks agree",
        "passed: VM db: 1 check passed",
    ]


def test_an_error_that_is_no_check_is_told_with_its_reason() -> None:
    page = html_of(report(error=ValueError("<odd>")))
    assert "unexpected: &lt;odd&gt; (exit code 1)" in page
    assert "<li>" not in page
