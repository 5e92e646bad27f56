"""The watcher as its socket sees it: what only trees are asked for, beside what all who give batches are."""

from __future__ import annotations

from typing import Any

from cdp_agent.watcher.asked import accept, ask_scan
from cdp_agent.watcher.client import Taken
from cdp_agent.watcher.core import Watcher
from cdp_container.format.place import Place


class ServedWatcher:
    """See `server.Served`."""

    def __init__(self, watcher: Watcher) -> None:
        self._watcher = watcher
        self.status = watcher.status
        self.idle = watcher.idle
        self.sweep = watcher.sweep
        self.place = watcher.place
        self.protected = watcher.protected

    def begin(self, epoch: int, base: Place) -> None:
        """See `Served.begin`."""
        self._watcher.begin(epoch, base)

    def take(self, epoch: int, cut: int, hold: bool, since_ns: int) -> Taken:
        """See `Served.take`. Trees are of now, whenever that is."""
        return self._watcher.take(epoch, cut, hold)

    def asked(self, request: dict[str, Any]) -> dict[str, Any] | None:
        """See `Served.asked`."""
        trees = self._watcher.trees
        if request["command"] == "accept":
            mounts = {bytes.fromhex(path): bytes.fromhex(found) for path, found in request["mounts"]}
            accept(trees, bytes.fromhex(request["tree"]), bytes.fromhex(request["root"]), mounts)
            return {"ok": True}
        if request["command"] == "scan":
            tree, read_all = bytes.fromhex(request["tree"]), bool(request["read_all"])
            return {"ok": True, "scan": ask_scan(trees, tree, read_all)}
        return None
