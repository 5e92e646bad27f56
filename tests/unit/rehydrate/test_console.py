"""Where secrets come from."""

from __future__ import annotations

from pathlib import Path

import pytest

from cdp_container.console import text_of_file
from rehydrate.cli.console import read_secret


def test_a_passphrase_file_ends_with_one_line_end_that_is_not_of_it(tmp_path: Path) -> None:
    file = tmp_path / "passphrase"
    for content, passphrase in ((b"text\r\n", "text"), (b"text\n\n", "text\n"), (b"text\r", "text\r")):
        file.write_bytes(content)
        assert read_secret(file, None).passphrase == passphrase


@pytest.mark.parametrize(
    ("content", "passphrase"),
    [
        ("text", "text"),
        ("text\n", "text"),
        ("text\r\n", "text"),
        ("text\n\n", "text\n"),
        ("text\r\n\r\n", "text\r\n"),
        ("text\r", "text\r"),
        ("text \n", "text "),
        ("\n", ""),
    ],
)
def test_one_line_end_of_a_passphrase_file_is_not_of_the_passphrase(content: str, passphrase: str) -> None:
    assert text_of_file(content) == passphrase
