"""How the streamer asks the watcher for what trees have for a cut. Every failure is `WatcherFailed`.

The rules between the two, for who calls:

- At the beginning of an epoch: `begin`, with the base cut. When the page says `ready` for that epoch, takes
  and sweeps are answered; making an index anew may take long.
- `sweep` reads what is dirty at leisure, at no instant: its batch may go into any cut, and all trees are not
  whole there. `take` is for an instant, and short, as a cut waits for it: it gives up soon, says that there
  is `more`, and is asked again after a sweep. One of them at a time.
- Before `take` the journal's published tail is read. If the answer has no `position`, the cut is of that
  tail: nothing of the trees changed between the cut before and the take. Otherwise it is of `position`.
- The batch of an answer goes into the cut that was named, unless `place` says another one first. The streamer
  names one that never comes to be (`trees.NO_CUT`), and places the batch just before a cut takes it. One
  batch has one cut, and a cut one batch; a batch that never goes into a cut is undone by the next `begin`.
- After any error, and when the page shows another generation: `begin` again with the same epoch, and as the
  base the newest cut of the epoch whose batch (or lack of one) was accepted; the epoch's own if none was.
- `protected` lets the watcher forget what it would have to undo.

An answer that never came, or an error, means: trees are not whole at this cut. It never ends the stream.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from cdp_agent.watcher.wire import SOCKET_NAME, connect_to, read_line, send_line
from cdp_container.errors import WatcherFailed
from cdp_container.format.names import SkewedFile
from cdp_container.format.place import Place
from cdp_container.journal.position import Position

SWEEP_SECONDS_MAX: Final = 5.0
"""For how long one sweep looks and reads; what is left goes into the next one."""
SWEEP_TIMEOUT_SECONDS: Final = 30.0
"""An answer to a sweep comes soon after SWEEP_SECONDS_MAX, also where the disk of the index is slow."""
TAKE_SECONDS_MAX: Final = 0.5
"""For how long one take looks and reads: a cut of the volumes waits for it."""
TAKE_TIMEOUT_SECONDS: Final = 2.0
"""A cut of the volumes waits no longer for a take, and for a batch to be placed, each."""
STATUS_TIMEOUT_SECONDS: Final = 1.0
"""The watcher answers this one whatever else it does; whoever looks waits no longer."""
ASK_TIMEOUT_SECONDS: Final = 15.0
"""Any other request may have to wait for a sweep, or a step of a scan."""


@dataclass(frozen=True, slots=True)
class Taken:
    """What the trees have for one cut.

    Attributes:
        batch: its number, for `place`; 0 where there is nothing for the container.
        fd: of the batch's file (see batch.py), to be closed by who gets it; None where `batch` is 0.
        position: the tail of the journal under the hold; None where no hold was needed or asked for.
        seen_ns: the instant that the trees are of, by the wall clock.
        not_whole: ids of the trees that are not whole at this cut.
        skewed: the files that changed while they were read, at most SKEWED_FILES_MAX.
        skewed_more: how many others.
        records: in the batch.
        content_bytes: in the batch.
        more: a limit ended it: there is more to be read.
        instants: of volumes that are of an instant of their own: (space, wall clock).
        compare: what of it differs from the base cut is not known: it is to be compared.
    """

    batch: int
    fd: int | None
    position: Position | None
    seen_ns: int
    not_whole: tuple[bytes, ...]
    skewed: tuple[SkewedFile, ...]
    skewed_more: int
    records: int
    content_bytes: int
    more: bool = False
    instants: tuple[tuple[bytes, int], ...] = ()
    compare: bool = False


class WatcherClient:
    """Asks the watcher of one journal directory; each request has a connection of its own.

    `socket_name`: the watcher's; or the imager's, which is asked for the same.
    """

    def __init__(self, directory: Path, socket_name: str = SOCKET_NAME) -> None:
        self._directory = directory
        self._socket_name = socket_name

    def begin(self, epoch: int, base: Place) -> None:
        """Say which epoch the next takes are for, and what of all batches is in the container."""
        self._ask({"command": "begin", "epoch": epoch, "base": [base.epoch, base.cut, base.seq]})

    def take(self, epoch: int, cut: int, hold: bool, since_ns: int = 0) -> Taken:
        """What there is now, for this cut. `hold`: the guests' writes may be held for it.

        `since_ns`: of the boot-time clock; what is of an earlier instant is not whole.
        """
        request = {"command": "take", "epoch": epoch, "cut": cut, "hold": hold}
        if since_ns:
            request["since_ns"] = since_ns
        return self._batch(request, TAKE_TIMEOUT_SECONDS)

    def sweep(self, epoch: int, cut: int) -> Taken:
        """What is dirty, at no instant, for this cut; what is left to the next `take` is little then."""
        return self._batch({"command": "sweep", "epoch": epoch, "cut": cut}, SWEEP_TIMEOUT_SECONDS)

    def _batch(self, request: dict[str, Any], timeout_seconds: float) -> Taken:
        members, fd = self._exchange(request, timeout_seconds)
        try:
            taken = _taken(members, fd)
        except (KeyError, TypeError, ValueError) as error:
            if fd is not None:
                os.close(fd)
            raise _failed(
                str(request["command"]), f"its answer makes no sense ({type(error).__name__})"
            ) from error
        return taken

    def place(self, batch: int, epoch: int, cut: int) -> None:
        """A batch goes into another cut than was said; the watcher has noted it durably when this returns."""
        request = {"command": "place", "batch": batch, "epoch": epoch, "cut": cut}
        self._ask(request, TAKE_TIMEOUT_SECONDS)

    def protected(self, epoch: int, cut: int) -> None:
        """All batches up to this cut are in the container for good."""
        self._ask({"command": "protected", "epoch": epoch, "cut": cut})

    def accept(self, tree: bytes, root: bytes, mounts: Mapping[bytes, bytes]) -> None:
        """An operator's word that what is there now is right: a tree's directory, and mount points.

        `root`: what was found there, as `status` said, empty where it is not about that; `mounts`: their
        paths, and what was found at each.
        """
        said = [[path.hex(), found.hex()] for path, found in mounts.items()]
        self._ask({"command": "accept", "tree": tree.hex(), "root": root.hex(), "mounts": said})

    def scan(self, tree: bytes, read_all: bool) -> int:
        """Have all of a tree looked at, `read_all`: and compared; gives the number of the scan."""
        return int(self._ask({"command": "scan", "tree": tree.hex(), "read_all": read_all})["scan"])

    def status(self) -> dict[str, Any]:
        """What the watcher has to say of itself and of each tree, as of its last step."""
        return self._ask({"command": "status"}, STATUS_TIMEOUT_SECONDS)

    def _ask(self, request: dict[str, Any], timeout_seconds: float = ASK_TIMEOUT_SECONDS) -> dict[str, Any]:
        members, fd = self._exchange(request, timeout_seconds)
        if fd is not None:
            os.close(fd)
        return members

    def _exchange(self, request: dict[str, Any], timeout_seconds: float) -> tuple[dict[str, Any], int | None]:
        what = str(request["command"])
        try:
            with connect_to(self._directory, self._socket_name, timeout_seconds) as peer:
                send_line(peer, request)
                members, fd = read_line(peer)
        except TimeoutError as error:
            raise _failed(what, f"it does not answer ({timeout_seconds:g} s)") from error
        except (OSError, ValueError) as error:
            raise _failed(what, str(error) or type(error).__name__) from error
        if members.get("ok") is not True:
            if fd is not None:
                os.close(fd)
            raise _failed(what, str(members.get("error", "it does not say why")))
        return members, fd


def taken_members(taken: Taken) -> dict[str, Any]:
    """The answer to a take, without its descriptor."""
    position = taken.position
    return {
        "ok": True,
        "batch": taken.batch,
        "position": None if position is None else [position.generation, position.offset],
        "seen_ns": taken.seen_ns,
        "not_whole": [tree.hex() for tree in taken.not_whole],
        "skewed": [[file.tree.hex(), file.path.hex(), file.from_ns, file.to_ns] for file in taken.skewed],
        "skewed_more": taken.skewed_more,
        "records": taken.records,
        "content_bytes": taken.content_bytes,
        "more": taken.more,
        "instants": [[space.hex(), wall_ns] for space, wall_ns in taken.instants],
        "compare": taken.compare,
    }


def _taken(members: dict[str, Any], fd: int | None) -> Taken:
    if bool(members["batch"]) != (fd is not None):
        raise ValueError("a batch without its file, or a file without a batch")
    position = members["position"]
    return Taken(
        batch=int(members["batch"]),
        fd=fd,
        position=None if position is None else Position(int(position[0]), int(position[1])),
        seen_ns=int(members["seen_ns"]),
        not_whole=tuple(bytes.fromhex(tree) for tree in members["not_whole"]),
        skewed=tuple(
            SkewedFile(bytes.fromhex(tree), bytes.fromhex(path), int(from_ns), int(to_ns))
            for tree, path, from_ns, to_ns in members["skewed"]
        ),
        skewed_more=int(members["skewed_more"]),
        records=int(members["records"]),
        content_bytes=int(members["content_bytes"]),
        more=bool(members["more"]),
        instants=tuple((bytes.fromhex(space), int(wall_ns)) for space, wall_ns in members["instants"]),
        compare=bool(members["compare"]),
    )


def _failed(what: str, why: str) -> WatcherFailed:
    return WatcherFailed(f"the watcher of file trees did not do what it was asked for ({what})", why)
