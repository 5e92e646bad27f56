"""Where secrets come from, and how a word on the command line is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from cdp_container.console import text_of_file
from cdp_container.errors import UsageError
from rehydrate.cli.console import read_secret
from tests.unit.rehydrate.conftest import Run


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


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (
            "render /c --vm a --into - --for xen",
            "read --for: 'xen' is not one of 'qemu', 'libvirt', 'proxmox'",
        ),
        (
            "export /c --all --to /t --format iso",
            "read --format: 'iso' is not one of 'raw', 'qcow2', 'vmdk', 'vhd', 'vhdx'",
        ),
        ("restore /c --on-damage go", "read --on-damage: 'go' is not one of 'stop', 'map'"),
        ("points /c --last x", "read --last: it should be a valid integer"),
        ("points /c --last -1", "read --last: it should be greater than or equal to 0"),
        ("points", "the command line: Missing argument 'address'."),
    ],
)
def test_a_word_that_an_option_does_not_take_is_refused_in_our_form(run: Run, words: str, line: str) -> None:
    code, out, err = run(*words.split())
    assert (code, out) == (UsageError.exit_code, "")
    assert err == f"error: {line}\nhint: {UsageError.default_hint}\n"
