"""`cdp-agent adopt` before QEMU is asked: its words, the agent, the volumes; and what it tells."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from cdp_agent.adopting import target
from cdp_agent.adopting.seen import Job
from cdp_agent.adopting.turn import Memory, Standing, Turn
from cdp_agent.cli.adopt_lines import AdoptLines, copying_line
from cdp_agent.cli.adopt_vm import Asked, adopt_vm
from cdp_container.clock import SystemClock
from cdp_container.domain.identity import (
    IDENTITY_NAME,
    AgentIdentity,
    SourceIdentity,
    VmIdentity,
    encode_identity,
)
from cdp_container.errors import AgentNotRunning, BackingUnreadable, HypervisorFailed, UsageError
from cdp_container.machine_errors import AdoptionUndone

SIZE = 1 << 20


def agent(folder: Path, vm: str) -> tuple[Path, AgentIdentity]:
    """A configuration, and what `init` made of it. `vm`: who knows of the VM."""
    config, backing = folder / "agent.yaml", folder / "a.raw"
    with backing.open("wb") as file:
        file.truncate(SIZE)
    config.write_text(
        f"domain: shop\nsite: a\nstore: {folder}/store\nencryption: none\njournal: {{directory: {folder}}}\n"
        f"volumes: [{{name: a, path: {backing}}}]\nvms: [{{name: web, {vm}}}]\n"
    )
    kind = vm.partition(":")[0]
    at, domain = ("qemu:///system", "web") if kind == "libvirt" else (f"{folder}/qmp", "")
    vms = (VmIdentity("web", b"w" * 16, kind, at, domain, (("vdb", "a"), ("vdc", None))),)
    found = AgentIdentity(
        b"d" * 16, "shop", "a", "none", b"", b"", b"", bytes(32),
        (SourceIdentity("a", str(backing), b"a" * 16, SIZE),), vms=vms,
    )  # fmt: skip
    (folder / IDENTITY_NAME).write_bytes(encode_identity(found))
    return config, found


def asked(vm: str = "web", *disks: str, after: str = "1m") -> Asked:
    return Asked(vm, list(disks), [], None, after)


@pytest.mark.parametrize(
    ("wanted", "why"),
    [
        (asked("web", "vda"), "is not DISK=VOLUME"),
        (asked("web", "vda=a", "vda=b"), "each disk once"),
        (asked("web", "=a"), "is not DISK=VOLUME"),
        (asked("web", after="soon"), "read --give-up-after"),
        (asked("none"), "there is no VM 'none'; there is web"),
    ],
)
def test_words_that_make_no_sense(tmp_path: Path, wanted: Asked, why: str) -> None:
    config, _ = agent(tmp_path, f"qmp: {tmp_path}/qmp")
    with pytest.raises(UsageError) as caught:
        adopt_vm(config, wanted, SystemClock())
    assert why in str(caught.value)


def test_a_vm_that_was_not_taken_over_yet(tmp_path: Path) -> None:
    config, _ = agent(tmp_path, f"qmp: {tmp_path}/qmp")
    text = config.read_text()
    config.write_text(text.replace("vms: [", "vms: [{name: new, qmp: /run/new.sock}, "))
    with pytest.raises(UsageError, match="VM new stands in the configuration") as caught:
        adopt_vm(config, asked("new", "vda=a"), SystemClock())
    assert caught.value.hint.startswith("`cdp-agent reload` takes it over")


def test_a_vm_of_libvirt_is_left_to_libvirt(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config, _ = agent(tmp_path, "libvirt: {domain: web}")
    with pytest.raises(UsageError, match="nothing was done"):
        adopt_vm(config, asked("web", "vda=a"), SystemClock())
    said = capsys.readouterr().out
    assert f'<host transport="unix" socket="{tmp_path}/nbd.sock" />' in said
    assert "virsh -c qemu:///system blockcopy web vda --xml vda.xml" in said
    assert "vdc" not in said, "which is meant to stay as it is"


def test_others_cannot_be_adopted(tmp_path: Path) -> None:
    config, _ = agent(tmp_path, "proxmox: /etc/x.conf")
    with pytest.raises(UsageError, match="by proxmox, and not by qmp"):
        adopt_vm(config, asked("web", "vda=a"), SystemClock())


def test_a_qemu_or_an_agent_that_is_not_there(tmp_path: Path) -> None:
    config, _ = agent(tmp_path, f"qmp: {tmp_path}/qmp")
    with pytest.raises(HypervisorFailed) as caught:
        adopt_vm(config, asked("web", "vda=a"), SystemClock())
    for part in ("adopt VM web (vda to volume a)", f"{tmp_path}/qmp: No such file", "nothing was done"):
        assert part in str(caught.value)
    assert "the VM must run, with a QMP socket" in caught.value.hint
    assert target.agent_now(tmp_path).trouble == "the agent is not running"
    assert AgentNotRunning.exit_code == 70


# --- the volumes -------------------------------------------------------------------------------------


def test_what_is_known_of_a_volume(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, identity = agent(tmp_path, f"qmp: {tmp_path}/qmp")
    other = VmIdentity("db", b"x" * 16, "qmp", "/x", "", (("vda", "a"),))
    identity = replace(identity, vms=(*identity.vms, other))
    web = identity.vms[0]
    assert target.volumes_of(identity, web, os.getpid())["a"].is_open_in_vm is None, "we are no QEMU"
    monkeypatch.setattr(target, "_PROGRAMS", ("",))
    found = target.volumes_of(identity, web, os.getpid())["a"]
    assert (found.size_bytes, found.of_vms, found.is_open_in_vm) == (SIZE, ("db",), False)
    assert found.free_bytes
    with (tmp_path / "a.raw").open("rb"):
        link = tmp_path / "link"
        link.symlink_to(tmp_path / "a.raw")
        sources = (replace(identity.sources[0], path=str(link)),)
        assert target.volumes_of(replace(identity, sources=sources), web, os.getpid())["a"].is_open_in_vm
    assert target.volumes_of(identity, web, 0)["a"].is_open_in_vm is None
    assert not target.holds_something(identity, "a")
    (tmp_path / "a.raw").write_bytes(bytes(SIZE - 1) + b"x")
    assert target.holds_something(identity, "a")
    (tmp_path / "a.raw").unlink()
    with pytest.raises(BackingUnreadable, match="No such file"):
        target.volumes_of(identity, web, os.getpid())


@pytest.mark.parametrize(
    ("file", "volume"),
    [
        ("nbd+unix:///a?socket={}/nbd.sock", "a"),
        ("nbd+unix:///a?socket={}/../{}/nbd.sock", "a"),
        ("nbd+unix:///b?socket={}/nbd.sock", None),
        ("nbd+unix:///a?socket=/other", None),
        ("nbd://127.0.0.1:10809/a", "a"),
        ("nbd://127.0.0.1:10810/a", None),
        ("/a.raw", None),
        ("relative.raw", None),
    ],
)
def test_which_volume_a_disk_is(tmp_path: Path, file: str, volume: str | None) -> None:
    file = file.replace("/../{}", f"/../{tmp_path.name}").replace("{}", str(tmp_path))
    sockets = [f"{tmp_path}/nbd.sock", "127.0.0.1:10809"]
    assert target.volume_of(file, sockets, {"a": b"a" * 16}) == volume


# --- what is told ------------------------------------------------------------------------------------


class Ticks(SystemClock):
    """A second with each look."""

    def __init__(self) -> None:
        self.now_ns = 0

    def boottime_ns(self) -> int:
        self.now_ns += 1_000_000_000
        return self.now_ns


def job(offset: int, status: str = "running") -> Job:
    return Job("j", "mirror", status, offset=offset, length=100 << 20)


def test_progress_for_people_and_for_programs(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: False, raising=False)
    said: dict[bool, list[str]] = {}
    troubles: list[str] = []
    for as_json in (False, True):
        troubles.clear()
        lines = AdoptLines(Ticks(), as_json, lambda: "".join(troubles))
        for second in range(30):
            if second == 5:
                troubles.append("it hangs")
            why = "waits" if 8 <= second < 12 else ""
            standing = Standing.STOPPED if why else Standing.COPYING
            lines.progress({"vda": job(second << 20)}, Turn(standing, Memory(0), why=why))
        said[as_json] = capsys.readouterr().err.splitlines()
    assert "it hangs" in said[False]
    assert sum(line.startswith("copying: vda") for line in said[False]) == 3, "every ten seconds"
    found = [json.loads(line) for line in said[True]]
    notes = [one["text"] for one in found if one["event"] == "note"]
    assert notes == ["it hangs", "waits", "copying goes on"]
    last = found[-1]
    assert last["disks"]["vda"] == {"status": "running", "done_bytes": 29 << 20, "total_bytes": 100 << 20}
    assert last["bytes_per_second"] == 1 << 20
    assert last["left_seconds"] == 71


def test_one_line_of_progress() -> None:
    jobs = {"vda": job(100 << 20, "ready"), "vdb": replace(job(0), length=0)}
    assert copying_line(jobs, 5 << 20, 100 << 20, 1 << 20, 95.0) == (
        "copying: vda ready, vdb 0 %, 5.0 MiB of 100.0 MiB, 1.0 MiB/s, 95 s left"
    )
    assert AdoptionUndone.exit_code == 91
