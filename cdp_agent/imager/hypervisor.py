"""One QEMU during one cycle: its disks, bitmaps, the instant over all disks, and what is to be read of it.

Everything that is made in the QEMU has a name that begins with PREFIX and the run's own; what a former run
left is taken away at the beginning. QEMU serves one client at a time, so the connection lasts for a cycle.
What is remembered from cycle to cycle does not belong here (`disk`), nor when a cycle is due (`core`).

The instant: in one transaction every disk gets a backup job that copies nothing by itself, but keeps what
the guest overwrites in a file beside (fleecing); a new bitmap; and its old bitmap stops. The jobs come first:
each holds its disk still until the transaction is over, so that with I/O threads, too, nothing is written
between.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from cdp_agent.imager.nbd import ALLOCATION, NbdReader
from cdp_agent.imager.qcow2 import empty_image
from cdp_agent.imager.qmp import Commanding, QmpRefused, sane
from cdp_agent.imager.settings import GRANULARITY_BYTES
from cdp_agent.vms.qmp_answers import disk_name
from cdp_agent.watcher.wire import connect_to, listen_at
from cdp_container.errors import HypervisorFailed
from nbd_export import wire

PREFIX: Final = "cdp-image-"
"""Of the names of all that is ours in a QEMU; never of what others of us make there."""
FLEECE_BYTES_MAX: Final = 256 << 20
"""Of what a guest overwrites of one disk during a cycle. So much room is taken before the cycle begins, as
QEMU tells the guest of an error where there is none; and a cycle is given up before it is used up."""
FLEECE_KEPT_BYTES: Final = 64 << 20
"""Room that is left when a cycle is given up: for what the guest writes until that is done."""
JOB_POLLS_MAX: Final = 2_000
JOB_POLL_SECONDS: Final = 0.001
"""How often, and for how long between, it is asked whether a job is gone."""
NBD_BACKLOG: Final = 16
FDSETS_FROM: Final = 1 << 30
"""Numbers of what we hand over; QEMU reads them as signed words of 32 bits."""
PROBE_SECONDS: Final = 0.5
_KEEP_SIZE: Final = 1
"""Of fallocate(2)."""
_NEVER_FLUSHED: Final = {"no-flush": True}
"""What is kept for a cycle need not outlive a power loss; and QEMU flushes where a node is taken away, during
which its guest would stand still."""
_ON_ERROR: Final = "on-cbw-error"
"""The option of newer QEMUs (10.1) by which copying for us fails instead of the guest's write."""


@dataclass(frozen=True, slots=True)
class Found:
    """A disk as QEMU has it now.

    `node`: the top node. `recording`, `stopped`: bitmaps by their names, with how many bytes are dirty.
    """

    node: str
    size_bytes: int
    recording: Mapping[str, int]
    stopped: Mapping[str, int]


class Disks(dict[str, Found]):
    """Disks by their names. `twice`: names that more than one disk has, which are left out."""

    twice: frozenset[str] = frozenset()

    def without(self, name: str) -> tuple[str, str]:
        """Why this one is not there, and what to do then."""
        if name in self.twice:
            hint = "give their devices an id (`-device …,id=NAME`), or their nodes a name"
            return f"it has more than one disk of the name {name}", hint
        hint = "say in the configuration (`volumes`: `disk`) one that it has, or give the VM that disk again"
        return f"it has no disk {name} (it has: {', '.join(sorted(self)) or 'none'})", hint


@dataclass(frozen=True, slots=True)
class Exported:
    """What is to be read: an export of the QEMU's server, and the bitmap whose dirty ranges count, if one."""

    export: str
    bitmap: str = ""


class Hypervisor:
    """A connection to one QEMU. Every method raises HypervisorFailed; whatever failed, `clean` comes next.

    Args:
        qmp: connected; closed by `close`.
        run: the part of names that is this run's, letters and digits.
        folder: in which the socket for reading is made, and what guests overwrite is kept, without a name.
        socket_name: of the socket.
        left_seconds: how much time is left; asked before each wait.
        pause: waits for so many seconds.
    """

    def __init__(
        self,
        qmp: Commanding,
        run: str,
        folder: Path,
        socket_name: str,
        left_seconds: Callable[[], float],
        pause: Callable[[float], None],
    ) -> None:
        self._qmp = qmp
        self._own = f"{PREFIX}{run}-"
        self._folder = folder
        self._socket_name = socket_name
        self._left_seconds = left_seconds
        self._pause = pause
        self._kept: list[int] = []
        self._knows_on_error = True
        self._serves = False

    def close(self) -> None:
        """Let go of the QEMU, so that others may ask it."""
        for fd in self._kept:
            os.close(fd)
        self._kept.clear()
        self._qmp.close()

    @property
    def is_usable(self) -> bool:
        """Whether it can be asked: else it is to be connected to anew."""
        return self._qmp.is_usable

    # --- looking -------------------------------------------------------------------------------

    @sane
    def is_running(self) -> bool:
        """Whether its guest may write."""
        status = self._qmp.do("query-status")
        return bool(status.get("running")) or status.get("status") not in _STILL

    @sane
    def is_elsewhere(self) -> bool:
        """Whether its guest runs, or will run, in another QEMU, which writes its disks: no bitmap knows."""
        return self._qmp.do("query-status").get("status") in _ELSEWHERE

    def disks(self) -> Disks:
        """Its disks by their names, as descriptions have them."""
        return disks_of(self._qmp)

    # --- clearing away -------------------------------------------------------------------------

    @sane
    def clean(self, keep: Sequence[str] = ()) -> None:
        """Take away all that any run of ours left, but the bitmaps of `keep`."""
        self._end_exports()
        self._end_jobs()  # before what may fail: it is what the guest's writes wait for
        self._stop_server()
        nodes = self._qmp.do("query-named-block-nodes", {"flat": True})
        for node in nodes:
            if str(node["node-name"]).startswith(PREFIX):
                self._qmp.do("blockdev-del", {"node-name": node["node-name"]})
        for node in nodes:
            for bitmap in node.get("dirty-bitmaps", ()):
                name = str(bitmap.get("name", ""))
                if name.startswith(PREFIX) and name not in keep:
                    self._remove_bitmap(str(node["node-name"]), name)
        for fdset in self._qmp.do("query-fdsets"):
            if any(str(fd.get("opaque", "")).startswith(PREFIX) for fd in fdset["fds"]):
                with contextlib.suppress(QmpRefused):  # it went with the node that used it
                    self._qmp.do("remove-fd", {"fdset-id": fdset["fdset-id"]})
        for fd in self._kept:
            os.close(fd)
        self._kept.clear()

    def _end_exports(self) -> None:
        for export in self._qmp.do("query-block-exports"):
            if str(export["id"]).startswith(PREFIX):
                self._qmp.do("block-export-del", {"id": export["id"], "mode": "hard"})

    def _stop_server(self) -> None:
        """Of QEMU's servers there is one; it is ours where it listens at our socket."""
        with contextlib.suppress(QmpRefused):  # there is none but where a cycle ended before its server began
            self._qmp.do("closefd", {"fdname": _LISTENER})
        if self._serves or self._is_ours():
            self._qmp.do("nbd-server-stop")
            self._serves = False
        try:
            (self._folder / self._socket_name).unlink(missing_ok=True)
        except OSError as error:
            why = f"{self._folder / self._socket_name}: {error.strerror or error}"
            raise HypervisorFailed("clearing away the socket for reading", why) from error

    def _is_ours(self) -> bool:
        """Whether a former run's server listens: the socket is in a directory of ours alone.

        Where that cannot be told the socket stays, as it is all that a server is known by.
        """
        try:
            with connect_to(self._folder, self._socket_name, PROBE_SECONDS) as peer:
                peer.recv(wire.GREETING.size)  # else QEMU complains in the VM's log that nobody heard it
        except (FileNotFoundError, ConnectionRefusedError):
            return False
        except ConnectionError:
            return True
        except OSError as error:
            why = f"whether its server is ours cannot be told: {error.strerror or error}"
            raise HypervisorFailed("clearing away in a QEMU", why) from error
        return True

    def _end_jobs(self) -> None:
        for _ in range(JOB_POLLS_MAX):
            jobs = [job for job in self._qmp.do("query-jobs") if str(job["id"]).startswith(PREFIX)]
            if not jobs:
                return
            for job in jobs:
                if job["status"] not in ("aborting", "pending", "concluded", "null"):
                    with contextlib.suppress(QmpRefused):  # it ended meanwhile
                        self._qmp.do("block-job-cancel", {"device": job["id"], "force": True})
                elif job["status"] == "concluded":
                    with contextlib.suppress(QmpRefused):
                        self._qmp.do("job-dismiss", {"id": job["id"]})
            self._pause(JOB_POLL_SECONDS)
        raise HypervisorFailed("clearing away in a QEMU", "a backup job does not end")

    def _remove_bitmap(self, node: str, name: str) -> None:
        with contextlib.suppress(QmpRefused):  # its node went
            self._qmp.do("block-dirty-bitmap-remove", {"node": node, "name": name})

    # --- bitmaps and the instant ---------------------------------------------------------------

    def bitmap(self, number: int) -> str:
        """The name of a bitmap of this run."""
        return f"{self._own}{number}"

    def begin_bitmaps(self, nodes: Sequence[str], bitmap: str) -> None:
        """From here on `bitmap` records what is written, on all of these at once."""
        self._transact([_add(node, bitmap) for node in nodes])

    def swap_bitmaps(self, nodes: Sequence[str], old: str, new: str) -> None:
        """`new` records from here on, and `old` no more; no image is kept."""
        self._transact([action for node in nodes for action in (_add(node, new), _disable(node, old))])

    @sane
    def instant(self, nodes: Mapping[str, int], old: str, new: str) -> None:
        """The same, and what the disks hold at that instant can be read until `clean`.

        `nodes`: with their sizes in bytes.
        """
        for number, (node, size_bytes) in enumerate(nodes.items()):
            self._add_fleece(number, node, size_bytes)
        switch = [action for node in nodes for action in (_add(node, new), _disable(node, old))]
        while True:
            jobs = [self._job(number, node) for number, node in enumerate(nodes)]
            try:
                self._transact([*jobs, *switch])
            except QmpRefused as error:
                if not self._knows_on_error or _ON_ERROR not in str(error):
                    raise
                self._knows_on_error = False
            else:
                return

    def _job(self, number: int, node: str) -> dict[str, object]:
        data: dict[str, object] = {
            "job-id": f"{self._own}job-{number}",
            "device": node,
            "target": self._fleece(number),
            "sync": "none",
        }
        if self._knows_on_error:
            data[_ON_ERROR] = "break-snapshot"
        return {"type": "blockdev-backup", "data": data}

    def _fleece(self, number: int) -> str:
        return f"{self._own}fleece-{number}"

    def _add_fleece(self, number: int, node: str, size_bytes: int) -> None:
        what = "making room for what a guest overwrites during a cycle"
        try:
            fd = os.open(self._folder, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
            self._kept.append(fd)
            reserve(fd, FLEECE_BYTES_MAX)
            os.pwrite(fd, empty_image(size_bytes), 0)
        except OSError as error:
            why = error.strerror or str(error)
            raise HypervisorFailed(what, f"{self._folder}: {why} ({FLEECE_BYTES_MAX >> 20} MiB)") from error
        # libvirt counts from 0, and could neither add nor remove one whose number is taken.
        numbers = [int(fdset["fdset-id"]) for fdset in self._qmp.do("query-fdsets")]
        wanted = {"opaque": self._fleece(number), "fdset-id": max([FDSETS_FROM, *numbers]) + 1}
        given = self._qmp.do("add-fd", wanted, fd=fd)
        filename = f"/dev/fdset/{given['fdset-id']}"
        file = {"driver": "file", "filename": filename, "locking": "off", "cache": _NEVER_FLUSHED}
        overlay = {"driver": "qcow2", "node-name": self._fleece(number), "backing": node, "file": file}
        self._qmp.do("blockdev-add", {**overlay, "cache": _NEVER_FLUSHED})

    @property
    def is_crowded(self) -> bool:
        """Whether guests overwrote so much during this cycle that it must be given up."""
        return any(os.fstat(fd).st_size > FLEECE_BYTES_MAX - FLEECE_KEPT_BYTES for fd in self._kept)

    def _transact(self, actions: Sequence[Mapping[str, object]]) -> None:
        self._qmp.do("transaction", {"actions": list(actions)})

    def merge_bitmaps(self, nodes: Sequence[str], old: str, into: str) -> None:
        """What `old` says is in doubt, too; `old` goes."""
        for node in nodes:
            self._qmp.do("block-dirty-bitmap-merge", {"node": node, "target": into, "bitmaps": [old]})
            self._remove_bitmap(node, old)

    # --- reading -------------------------------------------------------------------------------

    def export(self, nodes: Sequence[str], bitmap: str, live: bool) -> list[Exported]:
        """Make disks readable, as of the instant or (`live`) as they are; in the order of `nodes`."""
        try:
            listener = listen_at(self._folder, self._socket_name, NBD_BACKLOG)
        except OSError as error:
            why = f"{self._folder / self._socket_name}: {error.strerror or error}"
            raise HypervisorFailed("making a socket for reading", why) from error
        with listener:
            self._qmp.do("getfd", {"fdname": _LISTENER}, fd=listener.fileno())
        self._qmp.do("nbd-server-start", {"addr": {"type": "fd", "data": {"str": _LISTENER}}})
        self._serves = True  # not before: where it was refused the server is somebody else's
        made = []
        for number, node in enumerate(nodes):
            name = f"{self._own}export-{number}"
            arguments: dict[str, object] = {
                "type": "nbd",
                "id": name,
                "name": name,
                "node-name": node if live else self._fleece(number),
            }
            if bitmap:
                arguments["bitmaps"] = [{"node": node, "name": bitmap}]
            self._qmp.do("block-export-add", arguments)
            made.append(Exported(name, bitmap))
        return made

    @contextlib.contextmanager
    def reading(self, exported: Exported) -> Iterator[NbdReader]:
        """Connect to an export."""
        contexts = [ALLOCATION, *([dirty_context(exported.bitmap)] if exported.bitmap else [])]
        try:
            peer = connect_to(self._folder, self._socket_name, max(0.001, self._left_seconds()))
        except OSError as error:
            raise HypervisorFailed(f"reading {exported.export}", error.strerror or str(error)) from error
        reader = NbdReader(peer, exported.export, contexts, self._left_seconds)
        try:
            yield reader
        finally:
            reader.close()


_LISTENER: Final = f"{PREFIX}nbd"
"""What QEMU calls the socket for reading until it serves there: whoever comes next knows it by that."""
_STILL: Final = frozenset({"paused", "shutdown", "prelaunch", "guest-panicked", "io-error"})
"""States in which no guest writes until somebody says so."""
_ELSEWHERE: Final = frozenset({"postmigrate", "finish-migrate", "inmigrate"})
"""Of a migration: after it, before its end, and at the side that it comes to."""


@sane
def disks_of(qmp: Commanding) -> Disks:
    """The disks of a QEMU by their names. Raises HypervisorFailed."""
    found = Disks()
    for block in qmp.do("query-block"):
        inserted = block.get("inserted")
        if not inserted or not block.get("qdev"):
            continue
        bitmaps: dict[bool, dict[str, int]] = {True: {}, False: {}}
        for bitmap in inserted.get("dirty-bitmaps", ()):
            if bitmap.get("name") and not bitmap.get("inconsistent"):
                bitmaps[bool(bitmap["recording"])][str(bitmap["name"])] = int(bitmap["count"])
        size_bytes = int(inserted["image"]["virtual-size"])
        node = str(inserted["node-name"])
        # QEMU made up names that begin so: another one each time, and in no description.
        named = {} if node.startswith("#") else {"node-name": node}
        name = disk_name({**block, **named})
        if name in found:
            found.twice |= {name}
        found[name] = Found(node, size_bytes, bitmaps[True], bitmaps[False])
    for name in found.twice:
        del found[name]
    return found


def dirty_context(bitmap: str) -> str:
    """What NBD calls what a bitmap says."""
    return f"qemu:dirty-bitmap:{bitmap}"


def _add(node: str, bitmap: str) -> dict[str, Any]:
    data = {"node": node, "name": bitmap, "granularity": GRANULARITY_BYTES, "persistent": False}
    return {"type": "block-dirty-bitmap-add", "data": data}


def _disable(node: str, bitmap: str) -> dict[str, Any]:
    return {"type": "block-dirty-bitmap-disable", "data": {"node": node, "name": bitmap}}


def reserve(fd: int, length: int) -> None:
    """Take room for a file without making it longer; where that cannot be had, it must be there at least.

    Raises OSError.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.fallocate(fd, _KEEP_SIZE, ctypes.c_int64(0), ctypes.c_int64(length)) == 0:
        return
    number = ctypes.get_errno()
    if number != errno.EOPNOTSUPP:
        raise OSError(number, os.strerror(number))
    found = os.fstatvfs(fd)
    if found.f_bavail * found.f_frsize < length:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
