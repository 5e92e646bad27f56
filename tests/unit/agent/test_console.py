"""Where the passphrase comes from; rehydrate must read the same out of the same file."""

from __future__ import annotations

from pathlib import Path

from cdp_agent.cli.console import read_passphrase


def test_a_passphrase_file_ends_with_one_line_end_that_is_not_of_it(tmp_path: Path) -> None:
    file = tmp_path / "passphrase"
    for content, passphrase in ((b"text\r\n", "text"), (b"text\n\n", "text\n"), (b"text\r", "text\r")):
        file.write_bytes(content)
        assert read_passphrase(file, confirm=False) == passphrase
