"""The QMP connection: refusals are told apart from a connection that is lost, wherever it is lost."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from cdp_agent.adopting import link
from cdp_agent.adopting.link import Link, LinkLost, Refused
from cdp_container.clock import SystemClock
from cdp_container.errors import HypervisorFailed

GREETING = {"QMP": {"version": {}, "capabilities": ["oob"]}}
Answer = Callable[[dict[str, Any]], Sequence[object]]
"""Given a command, what is said; bytes as they are, None hangs up."""


def yes(command: dict[str, Any]) -> Sequence[object]:
    return [{"return": {"did": command.get("execute")}, "id": command["id"]}]


@contextmanager
def peer(
    path: Path, answer: Answer, greeting: Sequence[object] = (GREETING,)
) -> Iterator[list[dict[str, Any]]]:
    """A QEMU that answers so, as often as somebody comes; gives what it was told."""
    told: list[dict[str, Any]] = []
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen(5)

        def serve() -> None:
            while True:
                try:
                    client, _ = listener.accept()
                except OSError:
                    return
                with client, client.makefile("rb") as lines:
                    if not say(client, greeting):
                        continue
                    for line in lines:
                        told.append(json.loads(line))
                        is_first = "qmp_capabilities" in line.decode()
                        if not say(client, yes(told[-1]) if is_first else answer(told[-1])):
                            break

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        try:
            yield told
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join(20)


def say(client: socket.socket, messages: Sequence[object]) -> bool:
    for message in messages:
        if message is None:
            return False
        client.sendall(message if isinstance(message, bytes) else json.dumps(message).encode() + b"\r\n")
    return True


def test_commands_and_what_qemu_tells_meanwhile(tmp_path: Path) -> None:
    def answer(command: dict[str, Any]) -> Sequence[object]:
        return [{"event": "X"}, {"return": 5, "id": "another"}, *yes(command)]

    with peer(tmp_path / "s", answer) as told, closing(Link(str(tmp_path / "s"), SystemClock())) as found:
        assert found.do("query-block") == {"did": "query-block"}
        found.do_past_all("yank", {"instances": []})
        assert found.do_together([("a", {}), ("b", {"x": 1})]) == [None, None]
        assert found.peer_pid() > 0
    assert told[0]["arguments"] == {"enable": ["oob"]}
    assert told[2]["exec-oob"] == "yank"
    assert told[4]["arguments"] == {"x": 1}


def test_a_refusal_changes_nothing_of_the_connection(tmp_path: Path) -> None:
    def answer(command: dict[str, Any]) -> Sequence[object]:
        if command.get("execute") in ("no", "odd"):
            error = {"class": "GenericError", "desc": "no room"} if command["execute"] == "no" else 5
            return [{"error": error, "id": command["id"]}]
        return yes(command)

    greeting: dict[str, object] = {"QMP": {}}
    with peer(tmp_path / "s", answer, [greeting]) as told:
        with closing(Link(str(tmp_path / "s"), SystemClock())) as found:
            with pytest.raises(Refused, match="no room"):
                found.do("no")
            with pytest.raises(Refused, match="not why"):
                found.do("odd")
            said = found.do_together([("yes", {}), ("no", {})])
            assert [one is None for one in said] == [True, False]
            found.do_past_all("yank", {})
        assert told[-1]["execute"] == "yank", "this QEMU does nothing past others"


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ([None], "closed the connection|reset"),
        ([b'{"ret'], "did not answer in time"),
        ([b"nonsense\n"], "does not speak QMP"),
        ([b"[5]\n"], "does not speak QMP"),
        ([b'{"event": 1}\n' * 300], "events without end"),
        ([b"x" * 5000], "more than a QEMU does"),
    ],
)
def test_a_connection_that_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: Sequence[object], why: str
) -> None:
    monkeypatch.setattr(link, "EVENTS_MAX", 200)
    monkeypatch.setattr(link, "MESSAGE_BYTES_MAX", 4000)
    if "in time" in why:
        monkeypatch.setattr(link, "COMMAND_SECONDS_MAX", 0.2)
    with (
        peer(tmp_path / "s", lambda command: said),
        closing(Link(str(tmp_path / "s"), SystemClock())) as found,
    ):
        with pytest.raises(LinkLost, match=why):
            found.do("query-block")
        with pytest.raises(LinkLost, match="not connected"):
            found.do("query-block")
        found.connect_again()
        with pytest.raises(LinkLost, match=why):
            found.do("query-block")


def test_who_is_no_qemu_or_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link, "GREETING_SECONDS_MAX", 0.2)
    monkeypatch.setattr(link, "RECONNECT_SECONDS_MAX", 0.2)
    with pytest.raises(LinkLost, match="No such file") as absent:
        Link(str(tmp_path / "none"), SystemClock())
    assert "the VM must run" in absent.value.hint
    with peer(tmp_path / "busy", yes, []), pytest.raises(LinkLost, match="in time") as caught:
        Link(str(tmp_path / "busy"), SystemClock())
    assert "one client at a time" in caught.value.hint
    with peer(tmp_path / "odd", yes, [{"hello": 1}]), pytest.raises(HypervisorFailed, match="not speak QMP"):
        Link(str(tmp_path / "odd"), SystemClock())
    with peer(tmp_path / "s", yes):
        found = Link(str(tmp_path / "s"), SystemClock())
        (tmp_path / "s").unlink()
        with pytest.raises(LinkLost, match="No such file"):
            found.connect_again()
