"""`rehydrate serve` under way, as tests of it and of guests that run from it use it."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.e2e.processes import run
from tests.e2e.site import BIN, Site
from tests.nbd_client import NbdClient
from tests.waiting import wait_until

SECONDS_MAX = 60.0


@dataclass(slots=True)
class Served:
    """A `rehydrate serve` under way."""

    process: subprocess.Popen[bytes]
    overlay: Path
    log: Path

    def said(self) -> str:
        return self.log.read_text()

    def client(self, name: str) -> NbdClient:
        return NbdClient(self.overlay / "nbd.sock", name)

    def uri(self, name: str) -> str:
        return f"nbd+unix:///{name}?socket={self.overlay}/nbd.sock"

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(SECONDS_MAX)

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(SECONDS_MAX) == 0, self.said()


def environment(site: Site) -> dict[str, str]:
    return site.environment(site.base / "b" / "home")


def words(site: Site, overlay: Path, *options: str) -> list[str]:
    base = [str(BIN / "rehydrate"), "serve", site.store, "--overlay", str(overlay)]
    return [*base, *options, *site.secret_options()]


@contextmanager
def serving(site: Site, overlay: Path, *options: str) -> Iterator[Served]:
    log = overlay.with_suffix(f".{len(list(site.base.glob('*.log')))}.log")
    with log.open("wb") as stderr:
        process = subprocess.Popen(
            words(site, overlay, *options),
            stdin=subprocess.DEVNULL, stdout=stderr, stderr=stderr, env=environment(site),
        )  # fmt: skip
    served = Served(process, overlay, log)

    def is_open() -> bool:
        assert process.poll() is None, served.said()
        return any(line.startswith("serving ") for line in served.said().splitlines())

    try:
        wait_until(is_open, "the exports are open", SECONDS_MAX)
        yield served
        assert "Traceback" not in served.said(), served.said()
    finally:
        print(served.said())
        process.kill()
        process.wait(SECONDS_MAX)


def status(served: Served, site: Site, *options: str) -> dict[str, Any]:
    command = [str(BIN / "rehydrate"), "serving", str(served.overlay), "--json", *options]
    members: dict[str, Any] = run(command, environment(site)).must().json
    return members
