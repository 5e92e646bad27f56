"""Commanding a QEMU: a late answer is never taken for another's; one that makes no sense is an error."""

from __future__ import annotations

import json
import math
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import pytest

from cdp_agent.imager.hypervisor import Hypervisor, disks_of
from cdp_agent.imager.qmp import Commanding, QmpRefused
from cdp_container.errors import HypervisorFailed


@contextmanager
def answering(
    path: Path, answers: Callable[[dict[str, Any]], Sequence[dict[str, Any] | bytes]]
) -> Iterator[None]:
    """A QEMU that is none: what it says to each command."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen(4)

        def serve() -> None:
            try:
                while True:
                    peer, _ = listener.accept()
                    with peer, peer.makefile("rb") as lines:
                        peer.sendall(b'{"QMP": {}}\n')
                        for line in lines:
                            for answer in answers(json.loads(line)):
                                said = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
                                peer.sendall(said + b"\n")
            except OSError:
                return  # it was told to end

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        try:
            yield
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join(10)


ENDLESS: Final = [{"qdev": "x", "inserted": {"node-name": "n", "image": {"virtual-size": math.inf}}}]


def usable(qmp: Commanding) -> bool:
    """As it is now."""
    return qmp.is_usable


def own(request: dict[str, Any], found: object) -> dict[str, Any]:
    return {"return": found, **({"id": request["id"]} if "id" in request else {})}


def test_a_late_answer_is_not_taken_for_the_next(tmp_path: Path) -> None:
    kept: list[dict[str, Any]] = []

    def answers(request: dict[str, Any]) -> list[dict[str, Any]]:
        if request["execute"] == "qmp_capabilities":
            return [own(request, {})]
        stale = {"return": "another's", "id": request["id"] - 1}
        refused = {"error": {"desc": "another's"}, "id": "not ours"}
        kept.append(request)
        return [{"event": "X"}, stale, refused, own(request, request["execute"])]

    with answering(tmp_path / "q", answers):
        qmp = Commanding(str(tmp_path / "q"), lambda: 5.0)
        assert [qmp.do("one"), qmp.do("two")] == ["one", "two"]
        qmp.close()
    assert kept[0]["id"] != kept[1]["id"]


def test_a_connection_that_failed_is_not_used_again(tmp_path: Path) -> None:
    def answers(request: dict[str, Any]) -> list[dict[str, Any]]:
        if request["execute"] == "slow":
            time.sleep(0.3)
        if request["execute"] == "no":
            return [{"error": {"desc": "never"}, "id": request["id"]}]
        return [own(request, request["execute"])]

    with answering(tmp_path / "q", answers):
        qmp = Commanding(str(tmp_path / "q"), lambda: 0.1)
        with pytest.raises(QmpRefused, match="never"):
            qmp.do("no")
        assert usable(qmp)
        with pytest.raises(HypervisorFailed, match="in time"):
            qmp.do("slow")
        assert not usable(qmp)
        with pytest.raises(HypervisorFailed, match="lost"):
            qmp.do("next")
        qmp.close()


def test_a_time_that_is_over_makes_it_useless(tmp_path: Path) -> None:
    left = [5.0]
    with answering(tmp_path / "q", lambda request: [own(request, {})]):
        qmp = Commanding(str(tmp_path / "q"), lambda: left[0])
        assert usable(qmp)
        left[0] = 0.0
        assert not usable(qmp)
        qmp.close()


@pytest.mark.parametrize("found", [{}, [{}], [{"qdev": "x", "inserted": {}}], ["x"], 7, None, ENDLESS])
def test_answers_that_make_no_sense_are_errors_of_ours(tmp_path: Path, found: object) -> None:
    with answering(tmp_path / "q", lambda request: [own(request, found)]):
        qmp = Commanding(str(tmp_path / "q"), lambda: 5.0)
        hypervisor = Hypervisor(qmp, "r", tmp_path, "s", lambda: 5.0, time.sleep)
        for call in (hypervisor.is_running, hypervisor.clean, lambda: disks_of(qmp)):
            try:
                call()
            except HypervisorFailed:
                continue
        if found != {}:  # which is what it says where nothing is to be told
            with pytest.raises(HypervisorFailed):
                hypervisor.instant({"n": 4096}, "a", "b")
        hypervisor.close()


def test_an_answer_that_is_nested_without_end_is_an_error_of_ours(tmp_path: Path) -> None:
    """Not one that ends the imager, and with it what is captured of all other VMs."""
    deep = b'{"return": ' + b"[" * 200_000 + b"]" * 200_000 + b"}"

    def answers(request: dict[str, Any]) -> list[dict[str, Any] | bytes]:
        return [own(request, {}) if request["execute"] == "qmp_capabilities" else deep]

    with answering(tmp_path / "q", answers):
        qmp = Commanding(str(tmp_path / "q"), lambda: 5.0)
        with pytest.raises(HypervisorFailed, match="does not speak QMP"):
            qmp.do("x")
        assert not usable(qmp)
        qmp.close()


def test_an_error_that_names_no_command_ends_the_connection(tmp_path: Path) -> None:
    def answers(request: dict[str, Any]) -> list[dict[str, Any]]:
        return [{"error": {"desc": "what?"}} if request["execute"] == "x" else own(request, {})]

    with answering(tmp_path / "q", answers):
        qmp = Commanding(str(tmp_path / "q"), lambda: 5.0)
        with pytest.raises(HypervisorFailed, match="what"):
            qmp.do("x")
        assert not usable(qmp)
        qmp.close()
