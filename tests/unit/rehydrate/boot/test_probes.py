"""Checks of a runbook: servers that hang, lie, and never end, consoles that grow, commands that stay."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import sys
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from cdp_container.console import PASSPHRASE_VARIABLE
from rehydrate.boot import patterns, probes, programs
from rehydrate.boot.probes import Console, NotYet, answer_of, check_text, make_check
from rehydrate.boot.programs import run_words
from rehydrate.runbook.model import CheckSettings
from tests.unit.rehydrate.boot.vms import ready
from tests.waiting import until

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
SECONDS_MAX = 60.0


def check(tmp_path: Path, seen: Console | None = None, **members: object) -> None:
    """Make a check once. Raises NotYet."""
    one = CheckSettings(**members)  # type: ignore[arg-type]
    asyncio.run(asyncio.wait_for(make_check(one, ready(tmp_path), seen or Console()), SECONDS_MAX))


def against(serve: Serve, **members: object) -> None:
    """Make a check of a server, whose port stands for {port}. Raises NotYet."""

    async def both() -> None:
        async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            named = {name: str(value).replace("{port}", str(port)) for name, value in members.items()}
            status = {"status": members["status"]} if "status" in members else {}
            one = CheckSettings(**{**named, **status})  # type: ignore[arg-type]
            await asyncio.wait_for(make_check(one, ready(Path("/nowhere")), Console()), SECONDS_MAX)

    asyncio.run(both())


def answering(data: bytes, ends: bool = True) -> Serve:
    """A server that says one thing."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(data)
        await writer.drain()
        if not ends:
            await reader.read()
        writer.close()

    return serve


# --- http, tcp -------------------------------------------------------------------------------------


URL = "http://127.0.0.1:{port}/health"


def test_a_page_that_never_ends_is_read_so_far_and_no_farther() -> None:
    sent = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        try:
            while True:
                writer.write(b"never " * 10_000)
                sent += 60_000
                await writer.drain()
        except OSError:
            writer.close()

    with pytest.raises(NotYet, match="no 'sound'"):
        against(serve, http=URL, body="sound")
    assert sent >= probes.HTTP_BYTES_MAX


def test_a_server_that_says_nothing_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probes, "ATTEMPT_SECONDS_MAX", 0.2)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    with pytest.raises(NotYet, match=r"no answer within 0\.2 s"):
        against(serve, http=URL)


def test_a_page_without_an_end_is_enough_where_its_head_is() -> None:
    against(answering(b"HTTP/1.1 204 Nothing\r\nA: b\r\n\r\nhalf", ends=False), http=URL)


@pytest.mark.parametrize(
    ("data", "members", "why"),
    [
        (b"HTTP/1.1 503 Later\r\n\r\n", {}, "status 503"),
        (b"HTTP/1.1 200 OK\r\n\r\n", {"status": 204}, "status 200"),
        (b"HTTP/1.1 302 There\r\nLocation: http://127.0.0.1:1/\r\n\r\n", {}, "status 302"),
        (b"SSH-2.0-OpenSSH_9\r\n\r\n", {}, "no HTTP"),
        (b"", {}, "no HTTP"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nbad", {"body": "go+d"}, "no 'go"),
        (b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 1000 + b"\r\n", {"body": "x"}, "no HTTP"),
    ],
)
def test_what_is_no_good_answer(data: bytes, members: dict[str, object], why: str) -> None:
    with pytest.raises(NotYet, match=why):
        against(answering(data), http=URL, **members)


def test_a_good_answer_in_chunks_and_with_its_connection_left_open() -> None:
    chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\ngood\r\n0\r\n\r\n"
    against(answering(chunked), http=URL, body="^good$", status=200)
    open_still = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ngood"
    against(answering(open_still, ends=False), http=URL, body="^good$")
    assert answer_of(chunked[:-7]) == (200, "good")


def test_a_port_that_is_closed_and_one_that_is_open(tmp_path: Path) -> None:
    with pytest.raises(NotYet, match="refused"):
        check(tmp_path, tcp="127.0.0.1:1")
    with pytest.raises(NotYet, match="no such host"):
        check(tmp_path, tcp="no-such-host.invalid:1")
    for host in ("a" * 70 + ".example", "a..b", "a\0b", "\ud800"):
        with pytest.raises(NotYet, match="no such host"):
            check(tmp_path, tcp=f"{host}:1")
        with pytest.raises(NotYet, match="no such host"):
            check(tmp_path, http=f"http://{host}/")
    against(answering(b""), tcp="127.0.0.1:{port}")


# --- console ---------------------------------------------------------------------------------------


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probes, "CONSOLE_SECONDS", 0.3)


@pytest.mark.usefixtures("quick")
def test_a_console_that_grows_without_end_is_read_in_steps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probes, "CONSOLE_STEP_BYTES", 4096)
    monkeypatch.setattr(probes, "CONSOLE_WINDOW_BYTES", 1024)
    console, path = Console(), tmp_path / "web-dr-test.console"
    path.write_bytes(b"noise\n" * 100_000)
    before = os.pread

    def growing(fd: int, length: int, offset: int) -> bytes:
        with path.open("ab") as file:
            file.write(b"noise\n" * 1000)
        return before(fd, length, offset)

    monkeypatch.setattr(os, "pread", growing)
    with pytest.raises(NotYet, match="did not say 'login:'"):
        check(tmp_path, console, console="login:")
    assert console.at < path.stat().st_size
    assert len(console.window) <= 4096 + 1024


@pytest.mark.usefixtures("quick")
def test_a_console_is_gone_on_with_and_a_pattern_may_come_in_halves(tmp_path: Path) -> None:
    console, path = Console(), tmp_path / "web-dr-test.console"
    with pytest.raises(NotYet, match="it said nothing"):
        check(tmp_path, console, console="login:")
    path.write_bytes(b"\xff\x1b[2Jstarting\nlog")
    with pytest.raises(NotYet, match="it said last: 'log'"):
        check(tmp_path, console, console="login:")
    with path.open("ab") as file:
        file.write(b"in: ")
    check(tmp_path, console, console="(?m)^login:")
    assert console.at == path.stat().st_size


@pytest.mark.usefixtures("quick")
def test_a_pattern_that_takes_for_ever_stops_no_other_check(tmp_path: Path) -> None:
    (tmp_path / "web-dr-test.console").write_bytes(b"a" * 100 + b"\nlogin: ")
    asked = {name: CheckSettings(console=name) for name in ("(a+)+$!", "log.n:")}
    done: list[str] = []

    async def one(name: str) -> None:
        console = Console()
        if name == "log.n:":
            await make_check(asked[name], ready(tmp_path), console)
        else:
            with pytest.raises(NotYet, match="write it more simply"):
                await make_check(asked[name], ready(tmp_path), console)
            assert console.is_new, "it is looked for again, whether more comes or not"
        done.append(name)

    async def both() -> None:
        await asyncio.wait_for(asyncio.gather(*map(one, asked)), SECONDS_MAX)

    asyncio.run(both())
    assert done == ["log.n:", "(a+)+$!"]
    with pytest.raises(NotYet, match="more simply"):
        against(answering(b"HTTP/1.1 200 OK\r\n\r\n" + b"a" * 100), http=URL, body="(a+)+!")


def test_a_search_that_is_let_go_of_ends_at_once() -> None:
    async def let_go() -> None:
        task = asyncio.create_task(patterns.is_in("(a+)+$", "a" * 100 + "!"))
        await until(lambda: bool(children()), "it looks", SECONDS_MAX)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    def children() -> list[str]:
        return Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()

    asyncio.run(let_go())
    assert children() == []


@pytest.mark.usefixtures("quick")
def test_a_search_that_gets_no_file_to_read_from_has_not_passed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Descriptors or memory are scarce for a moment: no reason to end the whole command."""

    def scarce(name: str) -> int:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    (tmp_path / "web-dr-test.console").write_bytes(b"login: ")
    monkeypatch.setattr(os, "memfd_create", scarce)
    with pytest.raises(NotYet, match="Too many open files"):
        check(tmp_path, console="log.n:")


def test_what_is_looked_for_is_text_wherever_it_stands() -> None:
    async def found(pattern: str, text: str) -> bool:
        return await patterns.is_in(pattern, text)

    assert asyncio.run(found("(?m)^.lög.n", "\n\0\n\ufffdlögin"))
    assert not asyncio.run(found("-c|import os", "nothing"))
    assert asyncio.run(found("a-b", "xa-b"))
    assert not asyncio.run(found("a-b", "x"))
    with pytest.raises(patterns.TooLong, match="failed"):
        asyncio.run(found("(((", "what a runbook's own check refuses"))


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("kind", ["link", "fifo", "directory"])
def test_a_console_that_is_no_file_is_never_read(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "web-dr-test.console"
    (tmp_path / "secret").write_text("login:")
    if kind == "link":
        path.symlink_to(tmp_path / "secret")
    elif kind == "fifo":
        os.mkfifo(path)
    else:
        path.mkdir()
    with pytest.raises(NotYet, match=r"web-dr-test\.console"):
        check(tmp_path, console="login:")


# --- command ---------------------------------------------------------------------------------------


def test_a_command_gets_no_shell_and_no_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PASSPHRASE_VARIABLE, "hush")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hush")
    script = (
        "import os, sys; print(sys.argv[1]); "
        "sys.exit(sorted(n for n in os.environ if n.startswith(('CDP', 'AWS'))) != "
        "['CDP_VM', 'CDP_VM_CONSOLE', 'CDP_VM_REHEARSAL', 'CDP_VM_UUID'] or os.environ['CDP_VM'] != 'web')"
    )
    check(tmp_path, command=[sys.executable, "-c", script, "$(id) `id`"])


def test_a_command_that_fails_says_its_last_line(tmp_path: Path) -> None:
    with pytest.raises(NotYet, match="exit code 3: no base"):
        check(tmp_path, command=["/bin/sh", "-c", "echo no base; exit 3"])
    with pytest.raises(NotYet, match="cannot be started"):
        check(tmp_path, command=["/no/such/program"])
    with pytest.raises(NotYet, match="no text"):
        check(tmp_path, command=["/bin/true", "\ud800"])


def test_a_command_that_not_even_a_kill_ends_is_let_go_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It waits for a disk, or for a mount whose server is gone: nobody else must wait with it."""
    monkeypatch.setattr(programs, "KILL_SECONDS", 0.1)
    killed: list[int] = []
    monkeypatch.setattr(programs, "_kill", lambda group, number: killed.append(group))

    async def let_go() -> None:
        words = ["/bin/sh", "-c", f"echo > {tmp_path}/began; exec sleep 600"]
        task = asyncio.create_task(run_words(words, {"PATH": os.environ["PATH"]}, 100))
        try:
            await until((tmp_path / "began").exists, "it runs", SECONDS_MAX)
            task.cancel()
            done, _ = await asyncio.wait({task}, timeout=SECONDS_MAX)
            assert done
        finally:
            os.kill(killed[0], signal.SIGKILL)
            await asyncio.wait({task}, timeout=SECONDS_MAX)
            # The loop is told by a thread that waits for the process.
            waits = [one for one in threading.enumerate() if "waitpid" in one.name]
            await until(lambda: not any(one.is_alive() for one in waits), "it is dead", SECONDS_MAX)
            for _ in range(10):
                await asyncio.sleep(0)
        assert task.cancelled()

    asyncio.run(let_go())


def test_a_command_that_hangs_dies_with_all_that_it_started(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    script = f"trap '' TERM; sleep 600 & echo $$ $! > {pids}; wait"

    async def let_go() -> None:
        task = asyncio.create_task(run_words(["/bin/sh", "-c", script], {"PATH": os.environ["PATH"]}, 100))
        await until(lambda: pids.exists() and pids.read_text().endswith("\n"), "it runs", SECONDS_MAX)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        for pid in pids.read_text().split():
            await until(lambda pid=pid: is_dead(int(pid)), "it is dead", SECONDS_MAX)  # type: ignore[misc]

    asyncio.run(let_go())


def is_dead(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except OSError:
        return True


def test_a_check_is_named_as_it_is_written() -> None:
    assert check_text(CheckSettings(tcp="a:1")) == "tcp a:1"
    assert check_text(CheckSettings(command=["/bin/x", "a b"])) == "command /bin/x 'a b'"
