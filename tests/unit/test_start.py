"""A start imports no more than it needs, and reads a command line as typer would."""

from __future__ import annotations

import gc
import subprocess
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import pytest
import typer
import typer.main

from cdp_container.console import run_app
from cdp_container.entry import entered, imported

RESTORE = """
import sys
from rehydrate.cli.main import main
sys.argv = ["rehydrate", "restore", "/no-such/place", "--volume", "a", "--target", "/no-such/disk.raw"]
assert main() not in (0, 2)
print(*sorted({"pydantic", "rich", "boto3", "yaml", "cdp_container.domain.verifying"} & set(sys.modules)))
"""

HELP = """
import sys
from {package}.cli.main import main
sys.argv = ["command", *{words}]
assert main() == 0
heavy = {{
    "apscheduler", "asyncio", "boto3", "botocore", "cryptography", "libvirt", "mfusepy", "numpy", "obstore",
    "orjson", "pycdlib", "pydantic", "watchdog", "yaml", "zstandard",
}}
print(*sorted(heavy & set(sys.modules)), file=sys.stderr)
"""


class Colour(StrEnum):
    RED = "red"
    BLUE = "blue"


@pytest.fixture
def seen() -> list[object]:
    return []


@pytest.fixture
def app(seen: list[object]) -> typer.Typer:
    app = typer.Typer()

    @app.command()
    def paint(
        wall: str,
        paths: Annotated[list[str] | None, typer.Option("--at")] = None,
        file: Path | None = None,
        colour: Colour = Colour.RED,
        coats: Annotated[int, typer.Option(min=1, max=3)] = 1,
        seconds: float = 1.5,
        dry: bool = False,
    ) -> int:
        seen.append((wall, paths, file, colour, coats, seconds, dry))
        return 0

    @app.command()
    def other() -> int:
        return 7

    return app


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["--at", "x"],
        ["--at", "x", "--at", "-"],
        ["--file", "/no-such"],
        ["--file", "/proc/self/status"],
        ["--file", ""],
        ["--colour", "blue"],
        ["--coats", "3", "--seconds", "2", "--dry"],
    ],
)
def test_values_are_those_that_typer_makes_by_itself(
    words: list[str], app: typer.Typer, seen: list[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["tool", "paint", "north", *words])
    assert run_app(app) == 0
    typer.main.get_command(app)(["paint", "north", *words], standalone_mode=False)
    ours, typers = seen
    assert ours == typers
    assert repr(ours) == repr(typers)  # of the same types, too


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--colour", "green"], "'red', 'blue'"),
        (["--coats", "4"], "--coats"),
        (["--coats", "x"], "--coats"),
        (["--seconds", "x"], "--seconds"),
        (["--no-such"], "--no-such"),
    ],
)
def test_what_typer_refuses_is_refused(
    words: list[str],
    says: str,
    app: typer.Typer,
    seen: list[object],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sys, "argv", ["tool", "paint", "north", *words])
    assert run_app(app) == 2
    assert says in capsys.readouterr().err
    assert not seen


def test_a_command_has_its_own_help_and_an_unknown_one_is_refused(
    app: typer.Typer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for words, code, says in (
        (["other"], 7, ""),
        (["other", "--help"], 0, "tool other"),
        (["--help"], 0, "paint"),
        (["othe"], 2, "othe"),
        (["other", "other"], 2, "other"),
    ):
        monkeypatch.setattr(sys, "argv", ["tool", *words])
        assert run_app(app) == code, words
        told = capsys.readouterr()
        assert says in told.out + told.err, words


def test_a_restore_imports_no_more_than_it_needs() -> None:
    done = subprocess.run([sys.executable, "-c", RESTORE], capture_output=True, text=True, check=True)
    assert done.stdout == "\n", done.stdout


@pytest.mark.parametrize(
    ("package", "words"),
    [("rehydrate", ["--help"]), ("rehydrate", ["points", "--help"]), ("rehydrate", ["version"]),
     ("cdp_agent", ["--help"]), ("cdp_agent", ["status", "--help"])],
)  # fmt: skip
def test_who_only_asks_what_there_is_waits_for_no_library(package: str, words: list[str]) -> None:
    program = HELP.format(package=package, words=words)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stderr == "\n", done.stderr


def test_garbage_is_looked_for_when_the_work_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    before: list[bool] = []
    monkeypatch.setattr(gc, "freeze", lambda: before.append(gc.isenabled()))

    def work() -> int:
        before.append(gc.isenabled())
        imported()
        before.append(gc.isenabled())
        imported()
        return 0

    assert entered("tool", {"": ""}, lambda: work) == 0
    assert before == [False, False, True]
    assert gc.isenabled()
