"""What a machine sees sooner than a reader: every module says its purpose, and none grows too long."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("cdp_container", "nbd_export", "cdp_agent", "rehydrate", "tests", "deploy", "bench")
FILE_LINES_MAX = 500
FUNCTION_LINES_MAX = 70
# Put together here, so that this file does not hold the words that it looks for.
LEFTOVERS = ("TO" + "DO", "FIX" + "ME", "XX" + "X", "NotImplemented" + "Error")


@pytest.mark.parametrize("package", PACKAGES)
def test_modules_are_tidy(package: str) -> None:
    paths = sorted((ROOT / package).rglob("*.py"))
    assert paths
    found = {str(path.relative_to(ROOT)): faults_of(path.read_text()) for path in paths}
    assert {name: faults for name, faults in found.items() if faults} == {}


def faults_of(text: str) -> list[str]:
    """What is not tidy in a module, in words."""
    tree = ast.parse(text)
    faults = [f"{word} is left in it" for word in LEFTOVERS if word in text]
    if tree.body and not ast.get_docstring(tree):
        faults.append("say in the first lines what the module is for")
    if len(text.splitlines()) > FILE_LINES_MAX:
        faults.append(f"it has over {FILE_LINES_MAX} lines: split it by meaning")
    return faults + list(long_functions(tree))


def long_functions(tree: ast.Module) -> Iterator[str]:
    """The names of functions that are past the limit, with their lines."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno is not None
            lines = node.end_lineno - node.lineno + 1
            if lines > FUNCTION_LINES_MAX:
                yield f"{node.name}: {lines} lines"


def test_the_limits_bite() -> None:
    assert len(faults_of("\n" * FILE_LINES_MAX + f"pass  # {LEFTOVERS[0]}")) == 3
    body = "\n".join("    pass" for _ in range(FUNCTION_LINES_MAX))
    assert list(long_functions(ast.parse(f"def f() -> None:\n{body}"))) == ["f: 71 lines"]
