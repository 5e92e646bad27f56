"""A real Ceph RADOS gateway for tests: started by `ceph-rgw.sh`, stopped when the caller is done or dead."""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Final

from tests.servers.s3 import S3Server

PROGRAMS: Final = (
    "ceph", "ceph-authtool", "ceph-mgr", "ceph-mon", "ceph-osd", "monmaptool", "radosgw", "radosgw-admin",
)  # fmt: skip

_SCRIPT: Final = Path(__file__).with_name("ceph-rgw.sh")
_PORTS: Final = 41
_FIRST_PORTS: Final = range(20_000, 30_000, 50)  # below Linux' range for outgoing connections
_STOP_SECONDS: Final = 60
_ADMIN_SECONDS: Final = 120


def missing_programs() -> list[str]:
    """Which of Ceph's programs this machine lacks."""
    return [name for name in PROGRAMS if shutil.which(name) is None]


@contextmanager
def running_ceph(directory: Path, gateway: bool = True) -> Iterator[S3Server]:
    """A gateway that keeps everything in `directory`, which it removes at the end.

    Without `gateway` only the cluster behind it; the server's endpoint is where one may listen.

    Raises:
        RuntimeError: Ceph did not start; the message holds the end of its log.
    """
    port = _free_port_range()
    server = S3Server(
        f"http://127.0.0.1:{port}", "test-access", secrets.token_hex(16), conf=directory / "ceph.conf"
    )
    keys = {"CEPH_ACCESS_KEY": server.access_key, "CEPH_SECRET_KEY": server.secret_key}
    if not gateway:
        keys["CEPH_NO_GATEWAY"] = "1"
    errors = directory.with_name(directory.name + ".err")
    with errors.open("w") as error_stream:
        process = subprocess.Popen(
            [str(_SCRIPT), str(directory), str(port)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=error_stream,
            env=os.environ | keys,
            start_new_session=True,  # Ctrl-C reaches us, and we close the pipe when the last test is done
        )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        if process.stdout.readline() != b"ready\n":
            raise RuntimeError(f"Ceph did not start: {errors.read_text()}")
        yield server
    finally:
        process.stdin.close()
        process.stdout.close()
        process.wait(_STOP_SECONDS)


def another_user(server: S3Server, name: str) -> S3Server:
    """The same gateway, with the credentials of a new user who owns nothing."""
    access_key, secret_key = f"key-{name}", secrets.token_hex(16)
    keys = (f"--access-key={access_key}", f"--secret-key={secret_key}")
    subprocess.run(
        ["radosgw-admin", "user", "create", f"--uid={name}", f"--display-name={name}", *keys],
        env=os.environ | {"CEPH_CONF": str(server.conf)},
        check=True,
        capture_output=True,
        timeout=_ADMIN_SECONDS,
    )
    return replace(server, access_key=access_key, secret_key=secret_key)


def _free_port_range() -> int:
    """The first of `_PORTS` ports in a row that nobody listens on."""
    start = os.getpid() % len(_FIRST_PORTS)  # runs side by side begin their search at different places
    for first in chain(_FIRST_PORTS[start:], _FIRST_PORTS[:start]):
        if _all_free(range(first, first + _PORTS)):
            return first
    raise RuntimeError("no free range of ports on loopback")


def _all_free(ports: range) -> bool:
    with ExitStack() as stack:
        for port in ports:
            probe = stack.enter_context(socket.socket())
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                return False
    return True
