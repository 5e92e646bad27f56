"""Real hypervisors for tests: a plain QEMU that stands still, and a libvirtd of our own, without a network.

    with stopped_qemu(base / "qmp", ["-m", "128", ...]):
        ...                                     # it answers QMP, and its guest never ran
    with own_libvirtd(base) as uri:
        define(uri, xml)

As root libvirtd runs as nobody: as root it would be the machine's.
"""

from __future__ import annotations

import importlib.util
import os
import pwd
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.waiting import wait_until

UP_SECONDS_MAX = 60.0
LIBVIRT = ("libvirtd", "virsh", "qemu-system-x86_64") + (
    () if importlib.util.find_spec("libvirt") else ("libvirt-python",)
)
"""What a test of libvirt needs; what is not there stands in the summary."""


@contextmanager
def stopped_qemu(qmp: Path, arguments: Sequence[str]) -> Iterator[subprocess.Popen[bytes]]:
    """A VM before its first instruction, which answers QMP at a socket of its own."""
    qmp.unlink(missing_ok=True)
    process = subprocess.Popen(
        [
            "qemu-system-x86_64", "-S", "-nodefaults", "-display", "none", "-accel", "tcg",
            "-qmp", f"unix:{qmp},server=on,wait=off", *arguments,
        ],
        stdin=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        wait_until(lambda: qmp.exists() or process.poll() is not None, "QEMU is there", UP_SECONDS_MAX)
        assert process.poll() is None, "QEMU ended"
        yield process
    finally:
        process.kill()
        process.wait()


@contextmanager
def own_libvirtd() -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """A libvirtd of a session, and the address at which it is."""
    with tempfile.TemporaryDirectory(prefix="lv-", ignore_cleanup_errors=True) as folder:
        base = Path(folder)
        user = "nobody" if os.geteuid() == 0 else None
        base.chmod(0o755)
        for name in ("run", "home"):
            (base / name).mkdir()
            if user is not None:
                os.chown(base / name, pwd.getpwnam(user).pw_uid, pwd.getpwnam(user).pw_gid)
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(base / "home"),
            "XDG_RUNTIME_DIR": str(base / "run"),
            "XDG_CONFIG_HOME": str(base / "home" / "config"),
            "XDG_CACHE_HOME": str(base / "home" / "cache"),
        }
        socket = base / "run" / "libvirt" / "libvirt-sock"
        with (base / "log").open("wb") as log:
            process = subprocess.Popen(
                ["libvirtd", "--timeout", "120"],
                env=environment,
                cwd=base,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                user=user,
                group=None if user is None else pwd.getpwnam(user).pw_gid,
                extra_groups=None if user is None else [],
            )
        try:
            wait_until(
                lambda: socket.exists() or process.poll() is not None, "libvirtd is up", UP_SECONDS_MAX
            )
            assert process.poll() is None, (base / "log").read_text()
            yield f"qemu+unix:///session?socket={socket}", process
        finally:
            process.kill()
            process.wait()


def define(uri: str, xml: str) -> None:
    """Define a domain, or define it anew."""
    with tempfile.NamedTemporaryFile("w", suffix=".xml") as file:
        file.write(xml)
        file.flush()
        done = subprocess.run(["virsh", "-c", uri, "define", file.name], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
