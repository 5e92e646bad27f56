"""What reaches the terminal: no control characters of a container, no traceback for a full disk."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from cdp_container.console import printable
from cdp_container.errors import KeyMissing, LocalDiskFull
from cdp_container.format.keyblock import key_check
from cdp_container.format.seal import public_of
from cdp_container.telling import table
from rehydrate.cli import targets
from rehydrate.cli.text import tree
from rehydrate.restore import restore_volume
from rehydrate.target import Target
from tests.containers import PASSPHRASE, Site, write
from tests.unit.rehydrate.conftest import Run

EVIL = "x\x1b]0;pwn\x07\x1b[2J\nerror: boo\u202e"


@pytest.fixture
def evil(empty: Site) -> Site:
    """Names that would drive a terminal, and forge lines."""
    disk = empty.add_volume(EVIL, 1 << 20)
    empty.begin_epoch()
    empty.protect(empty.cut([write(disk, 0, b"a" * 4096)], marker=EVIL))
    empty.write_owner(name=EVIL, site=EVIL)
    return empty


def test_what_is_not_printable_is_escaped() -> None:
    assert printable("plain Ünïcode €") == "plain Ünïcode €"
    assert printable(EVIL) == "x\\x1b]0;pwn\\x07\\x1b[2J\\nerror: boo\\u202e"
    assert printable("a\nb\x1b", lines=True) == "a\nb\\x1b"
    assert printable("\udcff\x9b") == "\\udcff\\x9b"
    for text in (table((EVIL,), [[EVIL]]), tree({EVIL: [EVIL, {"a": EVIL}]})):
        assert "\x1b" not in text
        assert "\nerror" not in text


def test_no_command_lets_a_container_drive_the_terminal(run: Run, evil: Site, place: Path, out: Path) -> None:
    (place / "log" / EVIL.replace("/", "")).write_text("no object")
    for arguments in (
        ("domains", place),
        ("points", place),
        ("plan", place),
        ("plan", place, "--volume", "none such"),
        ("restore", place, "--target", out / "disk.raw"),
        ("restore", place, "--all", "--target-dir", out),
        ("verify", place),
        ("show", place, "owner"),
        ("show", place, "log/0000000001/000000000001"),
    ):
        _, stdout, stderr = run(*arguments)
        for text in (stdout, stderr):
            assert not set(text) & set("\x1b\x07\u202e"), arguments
            assert "\nerror: boo" not in text, arguments


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_to_end_leaves_nothing_half_done(
    number: signal.Signals, run: Run, evil: Site, place: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(_: object, __: object, target: Target, *___: object) -> None:
        target.write(0, memoryview(b"half"))
        assert [path.name for path in out.iterdir()] == ["disk.raw.partial"]
        os.kill(os.getpid(), number)

    monkeypatch.setattr(targets, "restore_volume", killed)
    inherited = signal.signal(number, signal.SIG_DFL)  # under nohup SIGHUP is ignored, and stays so
    try:
        code, _, stderr = run("restore", place, "--target", out / "disk.raw")
    finally:
        after = signal.signal(number, inherited)
    assert code == 128 + number
    assert "interrupted" in stderr
    assert list(out.iterdir()) == []
    assert after is signal.SIG_DFL


def test_nohup_is_respected(
    run: Run, evil: Site, place: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:

    def hung_up(*arguments: object) -> object:
        os.kill(os.getpid(), signal.SIGHUP)
        return restore_volume(*arguments)  # type: ignore[arg-type] # passed on as they came

    monkeypatch.setattr(targets, "restore_volume", hung_up)
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        assert run("restore", place, "--target", out / "disk.raw")[0] == 0
    finally:
        signal.signal(signal.SIGHUP, before)


def command(*arguments: object, stdout: int, **environment: str) -> subprocess.CompletedProcess[bytes]:
    """The real command, as a process of its own."""
    line = "import sys; from rehydrate.cli.main import main; sys.exit(main())"
    return subprocess.run(
        [sys.executable, "-c", line, *map(str, arguments)],
        stdout=stdout,
        stderr=subprocess.PIPE,
        env={**os.environ, "CDP_PASSPHRASE": PASSPHRASE, **environment},
        check=False,
        timeout=60,
    )


def test_an_answer_that_finds_no_room_is_one_line(evil: Site, place: Path) -> None:
    full = os.open("/dev/full", os.O_WRONLY)
    try:
        for arguments in (("points", place), ("version",)):
            done = command(*arguments, stdout=full)
            assert done.returncode == LocalDiskFull.exit_code
            assert [line.split(b":")[0] for line in done.stderr.splitlines()] == [b"error", b"hint"]
    finally:
        os.close(full)


def test_a_terminal_of_ascii_gets_escapes(run: Run, empty: Site, place: Path) -> None:
    empty.add_volume("dïsk", 1 << 20)
    empty.begin_epoch()
    empty.protect(empty.cut([]))
    done = command("points", place, stdout=subprocess.PIPE, PYTHONIOENCODING="ascii")
    assert done.returncode == 0
    assert b"d\\xefsk" in done.stdout


def test_without_a_command_the_help_is_all(run: Run) -> None:
    code, stdout, stderr = run()
    assert code == 2
    assert "Usage" in stdout + stderr
    assert "error" not in stderr


def test_a_stranger_s_key_is_told_by_the_key_checks(run: Run, empty: Site, place: Path, out: Path) -> None:
    empty.add_volume("disk", 1 << 20)
    empty.begin_epoch()
    empty.protect(empty.cut([]))
    stranger = bytes(range(32))
    (out / "key").write_text(stranger.hex())
    code, _, stderr = run("plan", place, "--key-file", out / "key")
    assert code == KeyMissing.exit_code
    for private in (empty.private_key, stranger):
        assert key_check(public_of(private)) in stderr


def test_without_a_key_verify_says_that_nothing_was_decrypted(
    run: Run, empty: Site, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = empty.add_volume("disk", 1 << 20)
    empty.begin_epoch()
    empty.protect(empty.cut([write(disk, 0, b"a" * 4096)]))
    monkeypatch.delenv("CDP_PASSPHRASE")
    for choice in ((), ("--time", "2033-01-01T00:00:00Z")):
        code, stdout, _ = run("verify", place, *choice)
        assert code == 0
        assert "by digest only, nothing was decrypted" in stdout


def test_a_relative_address_is_called_so(run: Run) -> None:
    code, _, stderr = run("points", "store/shop")
    assert code == 2
    assert "relative" in stderr
    assert "write an absolute path" in stderr
