"""A QEMU in a few lines: nodes, jobs and devices as adopting needs them, and faults wherever they are wanted.

It shares no code with what it checks. A job copies a little at each look at it. What a node needs cannot be
taken away; a command that makes no sense is refused as QEMU 7.2 refuses it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from cdp_agent.adopting.link import LinkLost, Refused

SIZE = 1000
STEP = 250
"""Copied at each look."""
ASKING = ("query-block", "query-named-block-nodes", "query-jobs", "query-block-jobs")


class StepClock:
    """Time passes only while somebody waits."""

    def __init__(self) -> None:
        self.ns = 1_000_000_000

    def wall_ns(self) -> int:
        return self.ns

    def boottime_ns(self) -> int:
        return self.ns

    def sleep(self, seconds: float) -> None:
        self.ns += int(seconds * 1e9)


@dataclass(slots=True)
class ModelJob:
    source: str
    target: str
    status: str = "running"
    well: bool = True
    offset: int = 0
    error: str = ""
    completes: bool = False


@dataclass(slots=True)
class ModelQemu:
    """`refuse`, `lose`: asked with a command's number and its words, before it is done; `lose_after` then.

    `silent`: a target that hangs: nothing is copied, nothing ends, until its connection is cut.
    """

    devices: dict[str, str] = field(default_factory=lambda: {"vda": "old-vda", "vdb": "old-vdb"})
    nodes: dict[str, str] = field(default_factory=lambda: {"old-vda": "", "old-vdb": ""})
    jobs: dict[str, ModelJob] = field(default_factory=dict)
    refuse: Callable[[int, str], bool] = lambda number, command: False
    lose: Callable[[int, str], bool] = lambda number, command: False
    lose_after: Callable[[int, str], bool] = lambda number, command: False
    can_connect_again: bool = True
    silent: bool = False
    said: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    is_connected: bool = True

    # --- what `Qemu` is --------------------------------------------------------------------------

    def do(self, command: str, arguments: Mapping[str, object] | None = None) -> Any:  # noqa: ANN401
        number = len(self.said)
        if not self.is_connected:
            raise LinkLost("the model", "it is not connected")
        self.said.append((command, dict(arguments or {})))
        if self.lose(number, command):
            self.is_connected = False
            raise LinkLost("the model", "lost before")
        if self.refuse(number, command):
            raise Refused("the model", "no, and not why")
        found = self._done(command, dict(arguments or {}))
        if self.lose_after(number, command):
            self.is_connected = False
            raise LinkLost("the model", "lost after")
        return found

    def do_together(self, commands: Sequence[tuple[str, Mapping[str, object]]]) -> list[Refused | None]:
        found: list[Refused | None] = []
        for command, arguments in commands:
            try:
                self.do(command, arguments)
                found.append(None)
            except Refused as error:
                found.append(error)
        return found

    def do_past_all(self, command: str, arguments: Mapping[str, object]) -> None:
        self.do(command, arguments)

    def connect_again(self) -> None:
        if not self.can_connect_again:
            raise LinkLost("the model", "it is gone")
        self.is_connected = True

    # --- what it does ----------------------------------------------------------------------------

    def _done(self, command: str, given: dict[str, Any]) -> Any:  # noqa: ANN401
        name = command.replace("-", "_")
        if name == "query_block_jobs":
            self._copy()
        return getattr(self, f"_{name}")(given)

    def _query_block(self, _: dict[str, Any]) -> Any:  # noqa: ANN401
        return [
            {
                "device": "", "qdev": f"/machine/peripheral/{disk}/virtio-backend", "removable": False,
                "inserted": {
                    "node-name": node, "drv": "raw", "file": self._file(node), "ro": False,
                    "detect_zeroes": "off", "image": {"virtual-size": SIZE, "actual-size": SIZE},
                },
            }
            for disk, node in self.devices.items()
        ]  # fmt: skip

    def _file(self, node: str) -> str:
        below = self.nodes.get(node, "")
        return below if below.startswith("nbd+") or not below else self._file(below)

    def _query_named_block_nodes(self, _: dict[str, Any]) -> Any:  # noqa: ANN401
        return [{"node-name": name, "drv": "raw", "file": self._file(name)} for name in self.nodes]

    def _query_jobs(self, _: dict[str, Any]) -> Any:  # noqa: ANN401
        return [
            {
                "id": name,
                "type": "mirror",
                "status": job.status,
                **({"error": job.error} if job.error else {}),
            }
            for name, job in self.jobs.items()
        ]

    def _query_block_jobs(self, _: dict[str, Any]) -> Any:  # noqa: ANN401
        return [
            {"device": name, "io-status": "ok" if job.well else "failed", "offset": job.offset, "len": SIZE,
             "speed": 0}
            for name, job in self.jobs.items()
        ]  # fmt: skip

    def _blockdev_add(self, given: dict[str, Any]) -> None:
        name = given["node-name"]
        if name in self.nodes:
            raise Refused("the model", f"Duplicate nodes with node-name='{name}'")
        if given["driver"] == "raw":
            assert given["file"] in self.nodes
            self.nodes[name] = given["file"]
        else:
            self.nodes[name] = f"nbd+unix:///{given['export']}?socket={given['server']['path']}"

    def _blockdev_del(self, given: dict[str, Any]) -> None:
        name = given["node-name"]
        if name not in self.nodes:
            raise Refused("the model", f"Failed to find node with node-name='{name}'")
        live = [job for job in self.jobs.values() if job.status != "concluded"]
        used = {*self.nodes.values(), *self.devices.values(), *(job.target for job in live)}
        if name in used:
            raise Refused("the model", f"Node {name} is in use")
        del self.nodes[name]

    def _blockdev_reopen(self, given: dict[str, Any]) -> None:
        (options,) = given["options"]
        assert options["file"] in self.nodes
        self.nodes[options["node-name"]] = options["file"]

    def _blockdev_mirror(self, given: dict[str, Any]) -> None:
        assert given["copy-mode"] == "write-blocking"
        assert given["on-target-error"] == "stop"
        assert given["device"] in self.devices.values(), "an image that no guest has is put over what it has"
        if given["job-id"] in self.jobs:
            raise Refused("the model", f"Job ID '{given['job-id']}' already in use")
        self.jobs[given["job-id"]] = ModelJob(given["device"], given["target"])

    def _job(self, name: str, ended: bool = False) -> ModelJob:
        job = self.jobs.get(name)
        if job is None:
            raise Refused("the model", f"Job '{name}' not found")
        if (job.status == "concluded") is not ended:
            raise Refused("the model", f"Job '{name}' in state '{job.status}' cannot accept command verb")
        return job

    def _block_job_resume(self, given: dict[str, Any]) -> None:
        job = self._job(given["device"])
        if not self.silent:
            job.well = True
            job.status = "ready" if job.offset >= SIZE else "running"

    def _block_job_pause(self, given: dict[str, Any]) -> None:
        self._job(given["device"]).status = "paused"

    def _block_job_set_speed(self, given: dict[str, Any]) -> None:
        self._job(given["device"])

    def _block_job_complete(self, given: dict[str, Any]) -> None:
        job = self._job(given["device"])
        if job.offset < SIZE:
            raise Refused("the model", "The active block job cannot be completed")
        job.completes = True

    def _block_job_cancel(self, given: dict[str, Any]) -> None:
        job = self._job(given["device"])
        assert given["force"] is True
        job.error, job.completes = "Operation canceled", False
        if not self.silent:
            job.status = "concluded"

    def _job_dismiss(self, given: dict[str, Any]) -> None:
        self._job(given["id"], ended=True)
        del self.jobs[given["id"]]

    def _yank(self, given: dict[str, Any]) -> None:
        """All requests of these connections fail; a guest that has one by now has no disk any more."""
        for one in given["instances"]:
            top = next((name for name, below in self.nodes.items() if below == one["node-name"]), None)
            assert top not in self.devices.values(), "a guest's disk was cut"
            for job in self.jobs.values():
                if job.target == top and job.error:
                    job.status = "concluded"

    def _copy(self) -> None:
        for job in self.jobs.values():
            if self.silent:
                continue
            if job.status == "running":
                job.offset = min(SIZE, job.offset + STEP)
                job.status = "ready" if job.offset == SIZE else "running"
            elif job.completes and job.status == "ready":
                job.status, job.completes = "concluded", False
                disk = next(disk for disk, node in self.devices.items() if node == job.source)
                self.devices[disk] = job.target

    def ours(self) -> list[str]:
        """Whatever begins as ours does."""
        return [name for name in (*self.nodes, *self.jobs) if name.startswith("cdp-adopt-")]
