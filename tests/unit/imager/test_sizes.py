"""How large disks are is asked of VMs that run; of one that does not it is said which, and who needs it."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cdp_agent.imager.sizes import disk_sizes
from cdp_container.clock import SystemClock
from cdp_container.domain.identity import AgentIdentity, DiskIdentity, VmIdentity
from cdp_container.domain.settings import AgentSettings, parse_settings
from cdp_container.errors import HypervisorFailed
from tests.unit.imager.test_qmp import answering, own

Peer = Callable[[dict[str, Any]], list[dict[str, Any] | bytes]]


def settings(folder: Path, disk: str = "vdb") -> AgentSettings:
    return parse_settings(
        f"domain: shop\nsite: a\nstore: {folder}/store\nencryption: none\njournal: {{directory: {folder}}}\n"
        f"vms: [{{name: web, qmp: {folder}/q}}]\n"
        f"volumes: [{{name: db-log, vm: web, disk: {disk}}}]\n".encode(),
        "agent.yaml",
    )


def having(size_bytes: int) -> Peer:
    """A VM with one disk, vdb."""
    inserted = {"node-name": "n", "image": {"virtual-size": size_bytes}, "ro": False}
    disk = {"qdev": "vdb", "device": "", "inserted": inserted}

    def answers(request: dict[str, Any]) -> list[dict[str, Any] | bytes]:
        return [own(request, [disk] if request["execute"] == "query-block" else [])]

    return answers


def refusal(folder: Path, disk: str = "vdb") -> HypervisorFailed:
    with pytest.raises(HypervisorFailed) as caught:
        disk_sizes(settings(folder, disk), SystemClock())
    return caught.value


def test_a_vm_that_does_not_run(tmp_path: Path) -> None:
    error = refusal(tmp_path)
    for part in ("VM web, which has db-log (disk vdb)", f"the QEMU at {tmp_path}/q", "No such file"):
        assert part in str(error)
    assert error.hint.startswith("the VM must run, with a QMP socket"), "nothing was known of it"
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(tmp_path / "q"))
    assert "Connection refused" in str(refusal(tmp_path))


def test_what_speaks_no_qmp(tmp_path: Path) -> None:
    with answering(tmp_path / "q", lambda _: [b"nonsense"]):
        error = refusal(tmp_path)
    assert "it does not speak QMP" in str(error)
    assert error.hint.startswith("the VM must run, with a QMP socket")


def test_a_vm_without_the_disk(tmp_path: Path) -> None:
    with answering(tmp_path / "q", having(4096)):
        error = refusal(tmp_path, "vdz")
    assert "volume db-log: VM web: it has no disk vdz (it has: vdb)" in str(error)
    assert "one that it has" in error.hint


@pytest.mark.parametrize("size_bytes", [0, 4097])
def test_a_size_that_none_may_have(tmp_path: Path, size_bytes: int) -> None:
    with answering(tmp_path / "q", having(size_bytes)):
        error = refusal(tmp_path)
    assert f"disk vdb of VM web has {size_bytes} bytes" in str(error)
    assert "qemu-img resize" in error.hint


def test_sizes_as_they_are_and_as_they_were(tmp_path: Path) -> None:
    with answering(tmp_path / "q", having(8192)):
        assert disk_sizes(settings(tmp_path), SystemClock()) == {"db-log": 8192}
    (tmp_path / "q").unlink()
    vm = VmIdentity("web", b"w" * 16, "qmp", f"{tmp_path}/q", "")
    disk = DiskIdentity("db-log", "web", "vdb", b"l" * 16, 4096)
    known = AgentIdentity(
        b"d" * 16, "shop", "a", "none", b"", b"", b"", bytes(32), (), vms=(vm,), disks=(disk,)
    )
    assert disk_sizes(settings(tmp_path), SystemClock(), known) == {"db-log": 4096}
    with pytest.raises(HypervisorFailed, match="VM web, which has db-log"):
        disk_sizes(settings(tmp_path, "vdc"), SystemClock(), known)
