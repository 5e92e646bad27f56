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

MODULES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_module_is_tidy(path: Path) -> None:
    text = path.read_text()
    tree = ast.parse(text)
    if tree.body:
        assert ast.get_docstring(tree), "say in the first lines what the module is for"
    assert len(text.splitlines()) <= FILE_LINES_MAX, "split it by meaning"
    assert [word for word in LEFTOVERS if word in text] == []
    assert list(long_functions(tree)) == []


def long_functions(tree: ast.Module) -> Iterator[str]:
    """The names of functions that are past the limit, with their lines."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno is not None
            lines = node.end_lineno - node.lineno + 1
            if lines > FUNCTION_LINES_MAX:
                yield f"{node.name}: {lines} lines"


def test_the_limits_bite() -> None:
    body = "\n".join("    pass" for _ in range(FUNCTION_LINES_MAX))
    assert list(long_functions(ast.parse(f"def f() -> None:\n{body}"))) == ["f: 71 lines"]
