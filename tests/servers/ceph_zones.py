"""Two real Ceph clusters whose gateways are zones of one realm: what one is given comes to the other.

The gateways are ours to kill and to start again. Compare-and-swap holds in each zone alone.
"""

from __future__ import annotations

import os
import secrets
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from tests.servers.ceph import running_ceph
from tests.servers.s3 import S3Server
from tests.waiting import wait_until

_ADMIN_SECONDS: Final = 120
_START_SECONDS: Final = 120.0
_REALM: Final = ("--rgw-realm=r", "--rgw-zonegroup=zg")
_QUICK: Final = """
rgw md log max shards = 4
rgw data log num shards = 4
rgw data notify interval msec = 200
rgw sync lease period = 30
"""


@dataclass(frozen=True, slots=True)
class Zone:
    """A zone: its server, and the gateway that can be killed and started."""

    name: str
    server: S3Server

    @property
    def directory(self) -> Path:
        """Of its cluster."""
        assert self.server.conf is not None
        return self.server.conf.parent

    def start(self) -> None:
        """Start the gateway; returns when it listens."""
        run = (f"--pid-file={self.directory}/run/rgw.pid", f"--log-file={self.directory}/log/rgw.log")
        self._run("radosgw", "-n", "client.admin", *run, *_REALM, f"--rgw-zone={self.name}")
        wait_until(self._listens, f"the gateway of {self.name} listens", _START_SECONDS)

    def kill(self) -> None:
        """SIGKILL to the gateway."""
        os.kill(int((self.directory / "run" / "rgw.pid").read_text()), signal.SIGKILL)

    def admin(self, *words: str) -> None:
        """A command of radosgw-admin."""
        self._run("radosgw-admin", *words)

    def _run(self, *words: str) -> None:
        environment = os.environ | {"CEPH_CONF": str(self.server.conf)}
        done = subprocess.run(
            words, env=environment, check=False, capture_output=True, text=True, timeout=_ADMIN_SECONDS
        )
        if done.returncode:
            raise RuntimeError(f"{' '.join(words[:4])}: {done.stderr[-2000:]}")

    def _listens(self) -> bool:
        where = urlsplit(self.server.endpoint)
        with suppress(OSError), socket.create_connection((where.hostname or "", where.port or 0), 1):
            return True
        return False


@contextmanager
def running_zones(directory: Path) -> Iterator[tuple[Zone, Zone]]:
    """The home zone and its copy, with one user in both."""
    directory.mkdir()
    with (
        running_ceph(directory / "z1", gateway=False) as first,
        running_ceph(directory / "z2", gateway=False) as second,
    ):
        user = replace(second, access_key=first.access_key, secret_key=first.secret_key)
        home, copy = Zone("z1", first), Zone("z2", user)
        for zone in (home, copy):
            assert zone.server.conf is not None
            with zone.server.conf.open("a") as conf:
                conf.write(f"rgw realm = r\nrgw zonegroup = zg\nrgw zone = {zone.name}\n{_QUICK}")
        _join(home, copy)
        yield home, copy


def _join(home: Zone, copy: Zone) -> None:
    keys = ("--access-key=sync", f"--secret={secrets.token_hex(16)}")
    first, second = f"--endpoints={home.server.endpoint}", f"--endpoints={copy.server.endpoint}"
    home.admin("realm", "create", "--rgw-realm=r", "--default")
    home.admin("zonegroup", "create", *_REALM, first, "--master", "--default")
    home.admin("zone", "create", *_REALM, "--rgw-zone=z1", "--master", "--default", first, *keys)
    home.admin("user", "create", "--uid=sync", "--display-name=sync", *keys, "--system")
    user = (f"--access-key={home.server.access_key}", f"--secret-key={home.server.secret_key}")
    home.admin("user", "create", "--uid=test", "--display-name=test", *user)
    home.admin("period", "update", "--commit")
    home.start()
    copy.admin("realm", "pull", f"--url={home.server.endpoint}", *keys, "--rgw-realm=r")
    copy.admin("realm", "default", "--rgw-realm=r")
    copy.admin("zone", "create", *_REALM, "--rgw-zone=z2", second, *keys, "--default")
    copy.admin("period", "update", "--commit")
    copy.start()
