"""Writes the table of docs/exit-codes.md from the error classes: `python -m deploy.exit_codes`.

The classes in cdp_container/errors.py and machine_errors.py are the truth; the page
is never edited by hand between its two marks.
"""

from __future__ import annotations

import inspect
from pathlib import Path

from cdp_container import errors, machine_errors
from cdp_container.errors import CdpError

DOCUMENT = Path(__file__).parents[1] / "docs" / "exit-codes.md"
BEGIN, END = "<!-- generated: begin -->", "<!-- generated: end -->"

# Codes that no class has: they are not errors of ours.
RESERVED = {
    0: "Done.",
    129: "`rehydrate`: ended by SIGHUP; nothing half-done was left that looks done.",
    130: "Interrupted by the user (Ctrl-C); the last line says what to do next.",
    143: "`rehydrate`: ended by SIGTERM; nothing half-done was left that looks done.",
}


def error_classes() -> list[type[CdpError]]:
    """Every class of errors, by exit code."""
    found = [
        member
        for module in (errors, machine_errors)
        for _, member in inspect.getmembers(module, inspect.isclass)
        if issubclass(member, CdpError) and member.__module__ == module.__name__
    ]
    return sorted(found, key=lambda error: error.exit_code)


def table() -> str:
    """The table in Markdown: code, name, meaning, and the hint that is given where no better one is known."""
    rows = {code: f"| {code} | | {meaning} | |" for code, meaning in RESERVED.items()}
    for error in error_classes():
        meaning = " ".join((error.__doc__ or "").split("\n\n")[0].split())
        hint = error.default_hint[0].upper() + error.default_hint[1:]
        rows[error.exit_code] = f"| {error.exit_code} | `{error.__name__}` | {meaning} | {hint} |"
    head = "| code | name | meaning | what to do |\n| ---: | --- | --- | --- |\n"
    return head + "\n".join(row for _, row in sorted(rows.items())) + "\n"


def main() -> None:
    """Put the table between the marks of the page."""
    text = DOCUMENT.read_text()
    before, rest = text.split(BEGIN)
    _, after = rest.split(END)
    DOCUMENT.write_text(f"{before}{BEGIN}\n{table()}{END}{after}")


if __name__ == "__main__":
    main()
