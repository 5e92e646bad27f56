"""The exit codes are a promise to scripts: unique, and docs/exit-codes.md lists what the classes say."""

from __future__ import annotations

from pathlib import Path

from deploy.exit_codes import RESERVED, error_classes, table

DOCUMENT = Path(__file__).parents[2] / "docs" / "exit-codes.md"


def test_every_class_has_its_own_exit_code() -> None:
    codes = [error.exit_code for error in error_classes()]
    assert sorted(set(codes)) == sorted(codes)
    assert not set(codes) & set(RESERVED)
    assert all(1 <= code <= 125 for code in codes), "126 and up are the shell's"


def test_every_class_says_what_to_do() -> None:
    assert [error.__name__ for error in error_classes() if not error.default_hint] == []


def test_the_document_lists_what_the_classes_say() -> None:
    assert table() in DOCUMENT.read_text(), "run: make docs"
