"""The machine's libvirtd, as root, in a mount namespace that hides it; its machines run as root too.

One that any user may start is in hypervisors; what it is asked for does not belong here.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from tests.waiting import wait_until

UP_SECONDS_MAX = 60.0
QEMU_USER: Final = 64055
"""Of libvirt-qemu, user and group, as Debian has it."""
SYSTEM_LIBVIRT: Final = ("libvirtd", "virtlogd", "virsh", "unshare", "qemu-system-x86_64", "qemu-img") + (
    () if os.geteuid() == 0 else ("root",)
)
_SCRIPT: Final = """
set -e
base=$1
for name in passwd group; do cp /etc/$name "$base/$name"; done
grep -q '^libvirt-qemu:' "$base/passwd" ||
    echo 'libvirt-qemu:x:64055:64055::/var/lib/libvirt:/bin/false' >> "$base/passwd"
for name in libvirt-qemu kvm; do
    grep -q "^$name:" "$base/group" || echo "$name:x:64055:" >> "$base/group"
done
for name in passwd group; do mount --bind "$base/$name" "/etc/$name"; done
for folder in /run /var/lib/libvirt /var/cache/libvirt /var/log/libvirt /etc/libvirt; do
    mkdir -p "$folder"
    mount -t tmpfs none "$folder"
done
mkdir -p /var/lib/libvirt/qemu /run/libvirt
# As udev has it: where QEMU can open it and its user may not, libvirt forgets at once what it learnt of QEMU.
[ ! -c /dev/kvm ] || { mknod -m 0666 /run/kvm c 10 232; mount --bind /run/kvm /dev/kvm; }
chown "$2" /var/lib/libvirt/qemu
for line in "user = \\"$2\\"" "group = \\"$2\\"" 'security_driver = "none"' 'cgroup_controllers = []' \\
    'namespaces = []'; do echo "$line"; done > /etc/libvirt/qemu.conf
printf '%s\\n' "unix_sock_dir = \\"$base/sock\\"" 'auth_unix_rw = "none"' > "$base/libvirtd.conf"
virtlogd &
exec libvirtd -f "$base/libvirtd.conf"
"""


@contextmanager
def system_libvirtd(
    behind: Sequence[str] = (), user: str = "root"
) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """A libvirtd of the system, and the address at which it is; its machines are for the caller to end.

    `behind`: words that put it into a network of its own. `user`: as whom its machines run: `root`, or
    `libvirt-qemu`, whose number is QEMU_USER.
    """
    with tempfile.TemporaryDirectory(prefix="ls-", ignore_cleanup_errors=True) as folder:
        base = Path(folder)
        (base / "sock").mkdir()
        socket = base / "sock" / "libvirt-sock"
        with (base / "log").open("wb") as log:
            process = subprocess.Popen(
                [
                    *behind,
                    "unshare",
                    "--mount",
                    "--propagation",
                    "private",
                    "sh",
                    "-c",
                    _SCRIPT,
                    "sh",
                    str(base),
                    user,
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        try:
            wait_until(
                lambda: socket.exists() or process.poll() is not None, "libvirtd is up", UP_SECONDS_MAX
            )
            assert process.poll() is None, (base / "log").read_text()
            yield f"qemu+unix:///system?socket={socket}", process
        finally:
            print((base / "log").read_text())
            with suppress(ProcessLookupError):
                os.killpg(process.pid, 9)
            process.wait()


def virsh(uri: str, *words: str) -> str:
    """What it answers."""
    done = subprocess.run(["virsh", "-q", "-c", uri, *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()
