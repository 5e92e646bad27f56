"""The relay passes everything on, counts what waits, and cuts what hangs."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from cdp_agent.adopting import conversation, relay
from cdp_agent.adopting.conversation import Conversation, NotFollowed
from cdp_agent.adopting.relay import Relay, check_answers
from cdp_container.clock import SystemClock
from cdp_container.errors import AgentNotRunning, TargetUnsuitable
from nbd_export import wire
from tests.failing_listener import FailingListener
from tests.nbd_client import NbdClient
from tests.nbd_server import MemoryExport, serving
from tests.waiting import wait_until

SIZE = 1 << 20
SECONDS_MAX = 30.0
SECOND = 1_000_000_000


@contextmanager
def relayed(folder: Path) -> Iterator[tuple[Relay, MemoryExport]]:
    export = MemoryExport(SIZE)
    with (
        serving(export, folder / "nbd.sock"),
        closing(Relay(folder, str(folder / "nbd.sock"), SystemClock())) as found,
    ):
        yield found, export


def test_everything_is_passed_on(tmp_path: Path) -> None:
    with relayed(tmp_path) as (found, export):
        with closing(NbdClient(found.path, "disk")) as client:
            data = os.urandom(300_000)
            client.write(4096, data)
            client.flush()
            assert client.read(4096, len(data)) == data
            handles = [client.submit_read(number * 4096, 4096) for number in range(50)]
            for handle in handles:
                assert client.wait(handle).error == 0
            assert found.connections == 1
        assert export.content[4096 : 4096 + len(data)] == data
        wait_until(lambda: found.connections == 0, "it is let go of", SECONDS_MAX)
        assert found.longest_seconds > 0
        assert (found.trouble, found.cuts) == ("", 0)
    assert not Path(found.path).exists()


def test_who_could_not_be_let_in_is_not_the_last_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def listen(path: str, _: str) -> socket.socket:
        listener = FailingListener(socket.AF_UNIX)
        listener.bind(path)
        listener.listen(4)
        return listener

    monkeypatch.setattr(relay, "_listen", listen)
    with relayed(tmp_path) as (found, _):
        with closing(NbdClient(found.path, "disk")) as client:
            client.write(0, b"x" * 512)
        assert "too many open files" in found.trouble


def test_what_was_cut_can_come_again(tmp_path: Path) -> None:
    with relayed(tmp_path) as (found, _):
        with closing(NbdClient(found.path, "disk")) as client:
            found.cut("for a test")
            with pytest.raises(ConnectionError):
                client.read(0, 4096)
        with closing(NbdClient(found.path, "disk")) as client:
            assert client.read(0, 4096) == bytes(4096)
        assert (found.trouble, found.cuts) == ("for a test", 1)


def test_a_server_that_hangs_is_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """First amid the handshake, then amid requests."""
    monkeypatch.setattr(conversation, "HANG_SECONDS", 0.2)
    monkeypatch.setattr(relay, "WATCH_SECONDS", 0.05)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "nbd.sock"))
        listener.listen(5)
        with closing(Relay(tmp_path, str(tmp_path / "nbd.sock"), SystemClock())) as found:
            with pytest.raises(ConnectionError):
                NbdClient(found.path, "disk", timeout_seconds=SECONDS_MAX)
            assert "not answered in time" in found.trouble


def test_a_server_that_is_not_there(tmp_path: Path) -> None:
    with relayed(tmp_path) as (found, _):
        pass
    (tmp_path / "nbd.sock").touch()
    with closing(Relay(tmp_path, str(tmp_path / "nbd.sock"), SystemClock())) as found:
        with pytest.raises(ConnectionError):
            NbdClient(found.path, "disk", timeout_seconds=SECONDS_MAX)
        wait_until(lambda: "do not answer" in found.trouble, "it is told", SECONDS_MAX)
    with pytest.raises(AgentNotRunning, match="Connection refused"):
        check_answers(str(tmp_path / "nbd.sock"))
    with pytest.raises(AgentNotRunning, match="No such file"):
        check_answers(str(tmp_path / "none.sock"))
    (tmp_path / ("d" * 120)).mkdir()
    with pytest.raises(TargetUnsuitable, match="longer than 107"):
        Relay(tmp_path / ("d" * 120), "/none", SystemClock())


def test_who_does_not_greet_or_hangs_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relay, "CONNECT_SECONDS_MAX", 0.2)
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen(5)
        with pytest.raises(AgentNotRunning, match="does not answer within"):
            check_answers(str(path))
        monkeypatch.setattr(relay, "CONNECT_SECONDS_MAX", SECONDS_MAX)
        listener.accept()[0].close()  # the one that gave up

        def hang_up() -> None:
            listener.accept()[0].close()

        closer = threading.Thread(target=hang_up)
        closer.start()
        with pytest.raises(AgentNotRunning, match="closes the connection"):
            check_answers(str(path))
        closer.join()


# --- the streams, without sockets -------------------------------------------------------------------


def request(command: int, cookie: int, length: int, data: bytes = b"") -> bytes:
    return wire.REQUEST.pack(wire.REQUEST_MAGIC, 0, command, cookie, 0, length) + data


def simple(cookie: int, error: int = 0, data: bytes = b"") -> bytes:
    return wire.SIMPLE_REPLY.pack(wire.SIMPLE_REPLY_MAGIC, error, cookie) + data


def chunk(cookie: int, done: bool, data: bytes) -> bytes:
    return wire.CHUNK.pack(wire.STRUCTURED_REPLY_MAGIC, int(done), 1, cookie, len(data)) + data


def option(number: int, data: bytes = b"") -> bytes:
    return wire.OPTION_HEADER.pack(wire.IHAVEOPT, number, len(data)) + data


def option_reply(data: bytes = b"") -> bytes:
    return wire.OPTION_REPLY.pack(wire.OPTION_REPLY_MAGIC, 7, 1, len(data)) + data


CLIENT = bytes(4) + option(8) + option(7, b"x" * 20)
SERVER = bytes(18) + option_reply() + option_reply(b"y" * 12) + option_reply()


@pytest.mark.parametrize("size", [1, 3, 7, 64, 100_000])
def test_streams_in_pieces_of_any_size(size: int) -> None:
    talk = Conversation(0)
    client = (
        CLIENT + request(1, 1, 5000, bytes(5000)) + request(0, 2, 4096) + request(3, 3, 0) + request(2, 4, 0)
    )
    server = SERVER + simple(1) + chunk(2, False, b"d" * 4104) + chunk(2, True, b"") + simple(3, 5)
    for at in range(0, len(client), size):
        talk.said_by_client(memoryview(client)[at : at + size], 0)
    assert talk.is_open
    assert talk.is_late(16 * SECOND)
    for at in range(0, len(server), size):
        talk.said_by_server(memoryview(server)[at : at + size], 2 * SECOND)
    assert not talk.is_late(1000 * SECOND), "nothing waits any more"
    assert talk.longest_ns == 2 * SECOND


def test_a_plain_answer_to_a_read_brings_its_data() -> None:
    talk = Conversation(0)
    talk.said_by_client(memoryview(CLIENT + request(0, 1, 4096) + request(0, 2, 4096)), 0)
    talk.said_by_server(memoryview(SERVER + simple(1, 0, bytes(4096)) + simple(2, 5)), 1)
    assert not talk.is_late(1000 * SECOND)


def test_how_long_something_may_wait() -> None:
    talk = Conversation(5 * SECOND)
    assert not talk.is_late(10 * SECOND)
    assert talk.is_late(11 * SECOND), "a handshake that does not end"
    talk.said_by_client(memoryview(CLIENT + request(6, 1, 1_000_000_000)), 6 * SECOND)
    assert not talk.is_late(40 * SECOND), "a gigabyte of zeros may take longer"
    assert talk.is_late(42 * SECOND)
    talk.said_by_client(memoryview(request(3, 2, 0)), 7 * SECOND)
    assert not talk.is_late(22 * SECOND)
    assert talk.is_late(23 * SECOND)
    assert not talk.is_late(11 * SECOND, in_a_hurry=True)
    assert talk.is_late(13 * SECOND, in_a_hurry=True), "amid the cut-over QEMU waits for a flush"
    talk.said_by_client(memoryview(request(1, 3, 0)), 8 * SECOND)
    assert not talk.is_late(13 * SECOND)
    assert talk.is_late(14 * SECOND), "a write holds a guest up"


@pytest.mark.parametrize(
    ("client", "server", "why"),
    [
        (bytes(4) + b"nonsense", b"", "no request of NBD"),
        (bytes(4) + option(7, b"")[:8] + bytes(4) + b"\xff\xff\xff\xff", b"", "in one piece"),
        (CLIENT + request(1, 1, 1 << 30), b"", "in one piece"),
        (CLIENT, SERVER + simple(9), "what was not asked"),
        (CLIENT, SERVER + b"nonsense", "no reply of NBD"),
        (CLIENT + request(0, 1, 9), SERVER + chunk(1, True, b"")[:-4] + b"\xff\xff\xff\xff", "in one piece"),
        (CLIENT + b"".join(request(3, cookie, 0) for cookie in range(5000)), b"", "WAITING_MAX"),
    ],
)
def test_what_is_no_nbd_is_not_followed(client: bytes, server: bytes, why: str) -> None:
    talk = Conversation(0)
    if server:
        talk.said_by_client(memoryview(client), 0)
        with pytest.raises(NotFollowed, match=why):
            talk.said_by_server(memoryview(server), 0)
    else:
        with pytest.raises(NotFollowed, match=why):
            talk.said_by_client(memoryview(client), 0)
