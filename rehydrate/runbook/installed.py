"""What the hypervisor of this machine has: asked of it, within a time limit. The edge of `check_installed`.

What files, programs and bridges there are is `here`'s.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

from rehydrate.rehearsal.programs import without_secrets

VIRSH: Final = "virsh"
PROBE_SECONDS_MAX: Final = 10.0
"""Of one program that is asked."""
DESCRIPTOR_BYTES_MAX: Final = 64 << 10
DESCRIPTORS_MAX: Final = 200
_DESCRIPTORS: Final = ("/usr/share/qemu/firmware", "/etc/qemu/firmware")
_SECURE: Final = "secure-boot"


@dataclass(frozen=True, slots=True)
class Firmware:
    """A UEFI that libvirt can choose: for which architectures, and whether with secure boot."""

    architectures: frozenset[str]
    secure_boot: bool


class Installed(Protocol):
    """A machine's hypervisor. None: it could not be asked."""

    def machine_types(self, program: str) -> Collection[str] | None:
        """The types of machines that a QEMU knows, their other names included."""

    def silence(self, uri: str) -> str:
        """Why a libvirt does not tell its machines; empty where it does."""

    def networks(self, uri: str) -> Mapping[str, bool] | None:
        """The networks of a libvirt by name, and whether each is started."""

    def firmware(self) -> Sequence[Firmware]:
        """The UEFIs that are described for libvirt."""

    def has_any(self, paths: Iterable[str]) -> bool:
        """Whether one of these files can be read."""

    def free_bytes(self, directory: str) -> int | None:
        """The room where a directory is, or would be made."""


class ThisInstallation:
    """See `Installed`, of the machine that we run on."""

    def machine_types(self, program: str) -> Collection[str] | None:
        """See `Installed`."""
        said = _said([program, "-machine", "help"])
        return None if said is None else machine_types_in(said)

    def silence(self, uri: str) -> str:
        """See `Installed`."""
        if shutil.which(VIRSH) is None:
            return f"there is no program {VIRSH} here"
        done = _ended([VIRSH, "-c", uri, "list", "--all", "--name"])
        if done is None:
            return f"no answer within {PROBE_SECONDS_MAX:g} s"
        return "" if done.returncode == 0 else last_line_in(done.stderr) or f"exit code {done.returncode}"

    def networks(self, uri: str) -> Mapping[str, bool] | None:
        """See `Installed`."""
        command = [VIRSH, "-c", uri, "net-list", "--name"]
        every, started = _said([*command, "--all"]), _said(command)
        if every is None or started is None:
            return None
        return {name: name in names_in(started) for name in names_in(every)}

    def firmware(self) -> Sequence[Firmware]:
        """See `Installed`."""
        paths = [path for folder in _DESCRIPTORS for path in sorted(Path(folder).glob("*.json"))]
        found = (_described(path) for path in paths[:DESCRIPTORS_MAX])
        return [one for one in found if one is not None]

    def has_any(self, paths: Iterable[str]) -> bool:
        """See `Installed`."""
        return any(os.access(path, os.R_OK) for path in paths)

    def free_bytes(self, directory: str) -> int | None:
        """See `Installed`."""
        path = Path(directory)
        while not path.exists() and path != path.parent:
            path = path.parent
        try:
            room = os.statvfs(path)
        except OSError:
            return None
        return room.f_bavail * room.f_frsize


def machine_types_in(text: str) -> frozenset[str]:
    """What `-machine help` lists: the first word of each line below its title. PURE."""
    return frozenset(line.split()[0] for line in text.splitlines()[1:] if line.split())


def names_in(text: str) -> list[str]:
    """What `virsh … --name` lists: one a line. PURE."""
    return [line.strip() for line in text.splitlines() if line.strip()]


def last_line_in(output: bytes) -> str:
    """What a program that failed said last, without virsh's `error: `. PURE."""
    lines = names_in(output.decode(errors="replace"))
    return lines[-1].removeprefix("error: ") if lines else ""


def firmware_in(members: Mapping[str, Any]) -> Firmware | None:
    """What a descriptor of QEMU's interop/firmware.json says; None where it is no UEFI. PURE."""
    if "uefi" not in members.get("interface-types", ()):
        return None
    targets = members.get("targets", ())
    architectures = frozenset(one["architecture"] for one in targets if isinstance(one, Mapping))
    return Firmware(architectures, _SECURE in members.get("features", ()))


def _described(path: Path) -> Firmware | None:
    """One that makes no sense is none: libvirt would pass it over, too."""
    try:
        with path.open("rb") as file:
            return firmware_in(json.loads(file.read(DESCRIPTOR_BYTES_MAX)))
    except (OSError, ValueError, AttributeError, TypeError, KeyError):
        return None


def _said(command: list[str]) -> str | None:
    """What a program prints; None where it is not here, fails or takes too long."""
    done = None if shutil.which(command[0]) is None else _ended(command)
    return done.stdout.decode(errors="replace") if done is not None and done.returncode == 0 else None


def _ended(command: list[str]) -> subprocess.CompletedProcess[bytes] | None:
    """A program that was run to its end, None where it cannot be or takes too long.

    Asked as machines are started later (libvirt finds a user's own by XDG_RUNTIME_DIR), and in a session
    of its own: what asks for a password at the terminal gets none.
    """
    try:
        return subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            env={**without_secrets(os.environ), "LC_ALL": "C"},
            timeout=PROBE_SECONDS_MAX,
            check=False,
            start_new_session=True,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
