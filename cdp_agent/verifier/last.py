"""What `status` and the alerts tell of verification: the last report, and what is known to be damaged.

It stands in `<journal>/verifier/`: `last.json` and `turn.json`. Nothing is decided by it but which objects
the next run looks at first: those with a finding, until they are found sound, or gone and not needed.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from cdp_container.domain.durable import read_file, replace_file
from cdp_container.errors import DamagedObject, LimitExceeded, counted
from cdp_container.format.jsontext import dump_object, load_object
from cdp_container.format.members import Members

DIRECTORY_NAME: Final = "verifier"
LAST_NAME: Final = "last.json"
TURN_NAME: Final = "turn.json"
LAST_BYTES_MAX: Final = 16 << 20
FINDINGS_MAX: Final = 1_000
"""Findings that are kept by name; a container with more is beyond one look at each."""
FAILURES_WORTH: Final = 3
"""Runs that did not come to their end in a row, before it is called trouble: a store is away at times."""


@dataclass(frozen=True, slots=True)
class Last:
    """The last verification.

    Attributes:
        report: the document of the last run that came to its end; {} where there was none.
        stopped: why a run since then did not come to its end, "" where all did.
        failures: such runs in a row.
    """

    report: Mapping[str, Any] = field(default_factory=dict)
    stopped: str = ""
    failures: int = 0

    @property
    def known(self) -> list[str]:
        """The keys of what was found to be wrong."""
        return sorted({str(finding["key"]) for finding in self.findings})

    @property
    def findings(self) -> Sequence[Mapping[str, Any]]:
        """As they stand in the document."""
        found = self.report.get("findings")
        return found if isinstance(found, list) else []


def load_last(journal: Path) -> Last:
    """Of a journal directory; one of which nothing can be read is none. Raises ConfigInvalid."""
    path = journal / DIRECTORY_NAME / LAST_NAME
    data = read_file(path, LAST_BYTES_MAX)
    if data is None:
        return Last()
    try:
        members = Members(load_object(data, LAST_BYTES_MAX, str(path)), str(path))
        report = members.object("report").members
        if not all(isinstance(finding.text("key"), str) for finding in _findings(report, str(path))):
            return Last()
        return Last(report, members.text("stopped"), members.number("failures"))
    except (DamagedObject, LimitExceeded):
        return Last()


def _findings(report: Mapping[str, Any], what: str) -> list[Members]:
    return Members(report, what).objects("findings") if report else []


def save_last(journal: Path, last: Last) -> None:
    """Keep it. Raises LocalDiskFull, CdpError."""
    directory = journal / DIRECTORY_NAME
    directory.mkdir(mode=0o700, exist_ok=True)
    report = dict(last.report)
    if report:
        report["findings"] = list(last.findings[:FINDINGS_MAX])
    members = {"report": report, "stopped": last.stopped, "failures": last.failures}
    replace_file(directory / LAST_NAME, dump_object(members))


def members_of(last: Last) -> dict[str, Any] | None:
    """For `status --json`; None where there was no run."""
    if not last.report and not last.stopped:
        return None
    return {
        "ended_ns": last.report.get("ended_ns"),
        "verdict": last.report.get("verdict"),
        "mode": last.report.get("mode"),
        "coverage": last.report.get("coverage"),
        "findings": len(last.findings),
        "stopped": last.stopped,
        "failures": last.failures,
    }


def damage_of(last: Last) -> str:
    """What was found that recovery points need, "" where nothing was."""
    keys = [str(finding["key"]) for finding in last.findings if finding.get("needed")]
    if not keys:
        return ""
    named = f"{keys[0]} and {len(keys) - 1} more" if len(keys) > 1 else keys[0]
    many = counted(len(keys), "damaged or missing object")
    return f"verification found {many} that recovery points need: {named}"


def without_need(last: Last, keys: Collection[str]) -> Last:
    """The same once these objects were healed: they are looked at further, and nothing needs them."""
    findings = [
        {**finding, "needed": False} if finding["key"] in keys else dict(finding) for finding in last.findings
    ]
    return replace(last, report={**last.report, "findings": findings}) if last.report else last


def problem_of(last: Last) -> str:
    """What is worth an alert, and a problem of `status`; "" where nothing is."""
    return damage_of(last) or trouble_of(last)


def trouble_of(last: Last) -> str:
    """What is to be said where verification keeps failing, "" where it does not."""
    if last.failures < FAILURES_WORTH:
        return ""
    return f"{last.failures} verifications in a row did not come to their end: {last.stopped}"
