"""The process that asks hypervisors, as the streamer meets it: it may hang, lie, babble or be gone."""

from __future__ import annotations

import os
import sys
import time
from functools import partial
from pathlib import Path

import pytest

from cdp_agent.streamer import describer
from cdp_agent.streamer.describer import NOTE_NAME, Describer
from cdp_agent.streamer.engine_types import Round
from cdp_agent.streamer.vms import Noted
from cdp_agent.vms.answer import LINE_BYTES_MAX, decode_line, encode_line
from cdp_container.clock import SystemClock
from cdp_container.domain.machine import Description
from cdp_container.domain.machine_records import Configuration, Native
from cdp_container.errors import HypervisorFailed
from tests.waiting import wait_until

VM, OTHER = b"v" * 16, b"w" * 16
WEB = Configuration("web", Description("web", cpus=2), Native("qmp", "{}"))
GOOD = encode_line(VM, WEB, "", ("vdb",), ())
BAD = encode_line(OTHER, None, "no such socket", (), ())


def asking(tmp_path: Path, code: str, seconds_max: float = 30.0) -> Describer:
    (tmp_path / "good").write_bytes(GOOD)
    program = f"import os, sys, time\ngood = open({str(tmp_path / 'good')!r}, 'rb').read()\n{code}"
    return Describer((sys.executable, "-c", program), tmp_path, SystemClock(), seconds_max)


def ask(tmp_path: Path, code: str, seconds_max: float = 30.0) -> Round:
    return asking(tmp_path, code, seconds_max).ask()


def test_lines_come_back() -> None:
    line = decode_line(GOOD)
    assert (line.vm, line.problem, line.unprotected) == (VM, "", ("vdb",))
    assert line.value is not None
    assert b'"cpus":2' in line.value
    assert decode_line(BAD).problem == "no such socket"


@pytest.mark.parametrize(
    "line",
    [
        b"", b"{}", b"[]", b"\xff", b'{"vm":"00","value":null,"problem":"","unprotected":[],"odd":[]}',
        GOOD.replace(b'"cpus":2', b'"cpus":0'), GOOD.replace(b'"name":"web"', b'"name":""'),
        GOOD.replace(b'"value":{', b'"value":{},"x":{'), b" " * (LINE_BYTES_MAX + 1),
        GOOD.replace(b'"version":1', b'"version":2'),
    ],
    ids=lambda line: line[:30],
)  # fmt: skip
def test_lines_that_make_no_sense(line: bytes) -> None:
    with pytest.raises(HypervisorFailed):
        decode_line(line)


def test_a_round(tmp_path: Path) -> None:
    found = ask(tmp_path, "sys.stdout.buffer.write(good)")
    assert [line.vm for line in found.lines] == [VM]
    assert found.failure == ""


def test_one_that_hangs_is_killed_and_what_it_told_counts(tmp_path: Path) -> None:
    code = """
child = os.fork()
if child == 0:
    time.sleep(1000)
open('PIDS', 'w').write(f'{os.getpid()} {child}')
sys.stdout.buffer.write(good + good[:20])
sys.stdout.flush()
time.sleep(1000)
""".replace("PIDS", str(tmp_path / "pids"))
    found = ask(tmp_path, code, seconds_max=3.0)
    assert [line.vm for line in found.lines] == [VM]
    assert "not answered within 3 s" in found.failure
    for pid in (tmp_path / "pids").read_text().split():
        wait_until(partial(_is_gone, int(pid)), "what it started is ended, too", 10.0)


def _is_gone(pid: int) -> bool:
    """Gone, or dead and not yet taken by whoever is its parent now."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


@pytest.mark.parametrize(
    ("code", "why"),
    [
        ("sys.exit('no such module')", "ended with 1: no such module"),
        ("os.abort()", "signal 6"),
        ("print('hello')", "not JSON"),
        ("sys.stdout.buffer.write(good); print('{}')", "'vm' is missing"),
    ],
)
def test_one_that_fails_says_why(tmp_path: Path, code: str, why: str) -> None:
    assert why in ask(tmp_path, code).failure


def test_a_line_without_its_end_does_not_count(tmp_path: Path) -> None:
    assert ask(tmp_path, "sys.stdout.buffer.write(good[:-1])").lines == ()


def test_one_that_babbles_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(describer, "OUTPUT_BYTES_MAX", 1 << 20)
    code = "sys.stdout.buffer.write(good)\nwhile True: sys.stdout.buffer.write(b'x' * 65536)"
    found = ask(tmp_path, code)
    assert "more was answered" in found.failure
    assert [line.vm for line in found.lines] == [VM]


def test_errors_without_end_are_no_harm(tmp_path: Path) -> None:
    found = ask(tmp_path, "sys.stderr.write('e' * 10_000_000); sys.stdout.buffer.write(good)")
    assert found.failure == ""
    assert len(found.lines) == 1


def test_a_program_that_is_not_there(tmp_path: Path) -> None:
    found = Describer((str(tmp_path / "none"),), tmp_path, SystemClock()).ask()
    assert "no process can be started" in found.failure


def test_no_second_process_while_the_last_one_cannot_be_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asker = asking(tmp_path, "time.sleep(1000)", seconds_max=0.2)
    with monkeypatch.context() as patched:
        patched.setattr(describer, "_end", lambda process: None)
        asker.ask()
    assert asker._last is not None
    try:
        assert "cannot be ended" in asker.ask().failure
    finally:
        describer._end(asker._last)
        os.sched_yield()


def test_the_note_comes_back_and_a_damaged_one_is_none(tmp_path: Path) -> None:
    asker = asking(tmp_path, "")
    assert asker.load_noted() == Noted()
    noted = Noted(7, {VM: b"d" * 16})
    asker.save_noted(noted)
    assert asker.load_noted() == noted
    text = (tmp_path / NOTE_NAME).read_text()
    for damaged in ("", "{}", "[]", text[:-3], text.replace("7676", "76", 1), text.replace("7,", "null,")):
        (tmp_path / NOTE_NAME).write_text(damaged)
        assert asker.load_noted() == Noted()


def test_it_takes_no_longer_than_it_may(tmp_path: Path) -> None:
    """A bound far above: that it is bounded at all."""
    began = time.monotonic()
    ask(tmp_path, "os.closerange(0, 3); time.sleep(1000)", seconds_max=1.0)
    assert time.monotonic() - began < 60
