"""Tiny real VMs for tests: emulated, a real kernel, ext4, and a script that says on its console what it did.

    pytestmark = pytest.mark.needs(*tiny_vm.NEEDS)

    with tiny_guest(folder, [image], Job("write", n=20)) as guest:  # formatted(image, bytes) made the disk
        guest.wait_for("MARK fsync 3 ")     # the line; AssertionError with the console's end where it fails
        guest.marks("fsync")                # [Mark(words=("3", SHA256), up_seconds, seen_at_seconds), …]
        guest.qmp("query-block")
        guest.kill()                        # as power that goes; else wait_for_end() for its own poweroff

A disk is a raw file, a block device, or an NBD address (nbd+unix:///NAME?socket=PATH, nbd://HOST:PORT/NAME),
in the order vda, vdb. In QEMU disk vda is the device `vda` (qdev id) with the node `vda-top` (raw) over
`vda-file`. What a guest does and says (`MARK boot` first, `MARK done` last; a failure is `MARK failed …`,
which ends every waiting at once; all but `MARK file` end with the seconds since the kernel started):

    write         on ext4 of vda: files f0, f1, … of random bytes   MARK mounted /dev/vda, MARK fsync N SHA256
    verify        reads them all, and holds them to what the        MARK file N SHA256, MARK verified GOOD BAD
                  initrd expects
    verify-write  one after the other
    write-pairs   number N to log vdb, fsync, to data vda, fsync    MARK pair N
    count-pairs   numbers in a row, from 0                          MARK pairs DATA LOG
    touch         checks /srv/touched of `root_disk`                MARK touched GOOD BAD
    wait          nothing

`Job.words()` are for the kernel's command line, also of a VM that others start: with KERNEL, and INITRD
or `initrd_expecting(path, sums)`; its console is read by `Console`. What does not belong here: judging.
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import json
import random
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qs, urlsplit

from tests.tiny_guest.make import BUSYBOX, archive
from tests.tiny_guest.make import INITRD as INITRD
from tests.tiny_guest.make import KERNEL as KERNEL
from tests.waiting import POLL_SECONDS, wait_until

NEEDS: Final = ("tiny guest", "qemu-system-x86_64", "mke2fs")
"""For `pytest.mark.needs`."""
SECONDS_MAX: Final = 150.0
"""Generous: a boot takes 3 s on a quiet machine, and many times that on a busy one."""
RECONNECT_SECONDS: Final = 3600
MEMORY_MIB: Final = 256
TAIL_LINES: Final = 40
PORT: Final = 7777
"""At which a guest with a network answers, in the guest."""
AGENT: Final = {"bin/qemu-ga": "qemu-ga"}
"""For `programs_archive`: what an initrd needs for `Job.agent`."""


@dataclass(frozen=True, slots=True)
class Job:
    """What a guest is to do.

    Attributes:
        what: see the head of the module.
        n: how many files or numbers; `first`: from which on.
        size_bytes: of each file.
        delay_microseconds: between two of them.
        hold: it stays when it is done, and does not power off.
        root: it goes over to the root file system on vda (`root_disk`) first: `MARK root`; files are in its
            /srv/files.
        net: eth0 is `address` (empty: it is down, for others to set), and port PORT answers TCP and HTTP:
            `MARK answers`.
        agent: it starts the guest agent that its initrd has (AGENT) at its port: `MARK agent PORT`; once it
            has a default route, `MARK address FAMILY ADDRESS` for each address of eth0, and `MARK route …`.
    """

    what: str = "write"
    n: int = 20
    first: int = 0
    size_bytes: int = 65536
    delay_microseconds: int = 0
    hold: bool = False
    root: bool = False
    net: bool = False
    address: str = "10.0.2.15/24"
    agent: bool = False

    def words(self) -> str:
        """The kernel's command line."""
        options = {
            "job": self.what,
            "n": self.n,
            "first": self.first,
            "bytes": self.size_bytes,
            "delay": self.delay_microseconds,
            "hold": int(self.hold),
            "root": int(self.root),
            "net": int(self.net),
            "address": self.address,
            "agent": int(self.agent),
        }
        return " ".join(
            [
                "console=ttyS0 quiet panic=-1 no_timer_check",
                *(f"cdp.{name}={one}" for name, one in options.items()),
            ]
        )


@dataclass(frozen=True, slots=True)
class Mark:
    """What the guest told in a line: its words, when it did by its own clock, and when we saw that."""

    what: str
    words: tuple[str, ...]
    up_seconds: float
    seen_at_seconds: float


def mark_of(line: str, seen_at_seconds: float) -> Mark | None:
    """What a line tells, None where it is no mark. PURE."""
    words = line.split()
    if len(words) < 2 or words[0] != "MARK":
        return None
    with contextlib.suppress(ValueError):
        return Mark(words[1], tuple(words[2:-1]), float(words[-1]), seen_at_seconds)
    return Mark(words[1], tuple(words[2:]), -1.0, seen_at_seconds)


@dataclass(slots=True)
class Console:
    """A console that is kept in a file, followed by a thread of its own: every line, and when it was seen."""

    path: Path
    lines: list[tuple[str, float]] = field(default_factory=list)
    _marks: dict[str, list[Mark]] = field(default_factory=dict)
    _halt: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def __enter__(self) -> Console:
        self._thread = threading.Thread(target=self._follow, name=f"console-{self.path.name}", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._halt.set()
        assert self._thread is not None
        self._thread.join()

    def text(self) -> str:
        """All of it."""
        return self.path.read_text(errors="replace") if self.path.exists() else ""

    def tail(self) -> str:
        """Its end, for people."""
        return "\n".join(self.text().splitlines()[-TAIL_LINES:])

    def marks(self, what: str) -> list[Mark]:
        """What the guest told of one thing so far, oldest first."""
        return list(self._marks.get(what, ()))

    def wait_for(
        self, text: str, alive: Callable[[], bool] = lambda: True, seconds_max: float = SECONDS_MAX
    ) -> str:
        """Wait for a line that holds `text`, and return it: the newest.

        Raises:
            AssertionError: it never came, the guest failed, or it ended; with the end of the console.
        """

        def came() -> str | None:
            was_alive = alive()
            for line, _ in reversed(list(self.lines)):
                if text in line:
                    return line
            failed = next((line for line, _ in list(self.lines) if line.startswith("MARK failed")), None)
            assert failed is None, f"{failed}\n{self.tail()}"
            assert was_alive or self._behind(), f"the guest ended before it said {text!r}\n{self.tail()}"
            return None

        try:
            line = wait_until(came, f"the guest says {text!r}", seconds_max)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.tail()}") from None
        assert line is not None
        return line

    def _behind(self) -> bool:
        """Whether the file has lines that the thread has yet to see."""
        return self.text().count("\n") > len(self.lines)

    def _note(self, line: str, seen_at_seconds: float) -> None:
        """The mark first: who found the line looks for it."""
        mark = mark_of(line, seen_at_seconds)
        if mark is not None:
            self._marks.setdefault(mark.what, []).append(mark)
        self.lines.append((line, seen_at_seconds))

    def _follow(self) -> None:
        at, rest = 0, b""
        while True:
            last = self._halt.is_set()
            with contextlib.suppress(FileNotFoundError), self.path.open("rb") as file:
                file.seek(at)
                data = file.read()
                at += len(data)
                *whole, rest = (rest + data).split(b"\n")
                seen_at_seconds = time.time()
                for line in whole:
                    self._note(line.decode(errors="replace").strip(), seen_at_seconds)
            if last:
                return
            self._halt.wait(POLL_SECONDS)


@dataclass(slots=True)
class Guest:
    """A VM that runs. Everything of it lies in `folder`."""

    process: subprocess.Popen[bytes]
    folder: Path
    console: Console
    port: int | None

    @property
    def qmp_path(self) -> Path:
        """Where others may speak QMP with it: one at a time."""
        return self.folder / "qmp.sock"

    @property
    def alive(self) -> bool:
        """Whether QEMU runs."""
        return self.process.poll() is None

    def wait_for(self, text: str, seconds_max: float = SECONDS_MAX) -> str:
        """`Console.wait_for`."""
        return self.console.wait_for(text, lambda: self.alive, seconds_max)

    def wait_for_end(self, seconds_max: float = SECONDS_MAX) -> None:
        """Wait until it has powered off, having done all."""
        self.wait_for("MARK done", seconds_max)
        wait_until(lambda: not self.alive, "the guest is off", seconds_max)

    def marks(self, what: str) -> list[Mark]:
        """`Console.marks`."""
        return self.console.marks(what)

    def qmp(self, command: str, **arguments: object) -> Any:  # noqa: ANN401
        """Ask QEMU; gives what it returns. AssertionError where that is an error."""
        return ask(self.qmp_path, command, **arguments)

    def kill(self) -> None:
        """SIGKILL: power that goes."""
        self.process.kill()
        self.process.wait()


def ask(path: Path, command: str, **arguments: object) -> Any:  # noqa: ANN401
    """One command by QMP, over a connection of its own; gives what it returns."""
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(SECONDS_MAX)
        client.connect(str(path))
        answers = client.makefile("r")
        answers.readline()
        result: Any = None
        for name, given in (("qmp_capabilities", {}), (command, arguments)):
            client.sendall(json.dumps({"execute": name, "arguments": given}).encode() + b"\n")
            while "return" not in (answer := json.loads(answers.readline())):
                assert "error" not in answer, answer
            result = answer["return"]
        return result


def words_of(
    folder: Path, disks: Sequence[Path | str], job: Job, initrd: Path = INITRD, port: int | None = None
) -> list[str]:
    """QEMU's command line. PURE."""
    words = [
        "qemu-system-x86_64", "-accel", "tcg", "-machine", "pc", "-cpu", "max", "-m", str(MEMORY_MIB),
        "-smp", "1", "-nodefaults", "-display", "none", "-no-reboot", "-no-user-config", "-name", "tiny",
        "-kernel", str(KERNEL), "-initrd", str(initrd), "-append", job.words(),
        "-serial", f"file:{folder}/console", "-qmp", f"unix:{folder}/qmp.sock,server=on,wait=off",
    ]  # fmt: skip
    for number, disk in enumerate(disks):
        name = f"vd{chr(ord('a') + number)}"
        words += ["-blockdev", json.dumps({"node-name": f"{name}-file", **place_of(disk)})]
        words += [
            "-blockdev",
            json.dumps({"driver": "raw", "node-name": f"{name}-top", "file": f"{name}-file"}),
        ]
        words += ["-device", f"virtio-blk-pci,drive={name}-top,id={name},serial={name}"]
    if job.net:
        forwarded = "" if port is None else f",hostfwd=tcp:127.0.0.1:{port}-:{PORT}"
        words += ["-netdev", f"user,id=net0{forwarded}", "-device", "virtio-net-pci,netdev=net0,romfile="]
    return words


def place_of(disk: Path | str) -> dict[str, object]:
    """A disk as QEMU's block layer is told of it. PURE, but that it looks whether a file is a device."""
    if isinstance(disk, Path):
        kind = "host_device" if disk.is_block_device() else "file"
        return {"driver": kind, "filename": str(disk), "discard": "unmap"}
    parts = urlsplit(disk)
    server: dict[str, object]
    if parts.scheme == "nbd+unix":
        server = {"type": "unix", "path": parse_qs(parts.query)["socket"][0]}
    else:
        assert parts.scheme == "nbd", disk
        server = {"type": "inet", "host": parts.hostname, "port": str(parts.port or 10809)}
    found = {"driver": "nbd", "server": server, "export": parts.path.removeprefix("/"), "discard": "unmap"}
    return {**found, "reconnect-delay": RECONNECT_SECONDS}


@contextmanager
def tiny_guest(
    folder: Path,
    disks: Sequence[Path | str],
    job: Job,
    *,
    initrd: Path = INITRD,
    extra: Sequence[str] = (),
) -> Iterator[Guest]:
    """Start a guest, and kill it in the end.

    Args:
        folder: of its own, with a short path as sockets lie in it; made where it is not there.
        disks: vda, vdb, …
        job: what it does.
        initrd: another than INITRD, of `initrd_expecting`.
        extra: further words for QEMU; later ones win (`-machine`, `-m`).
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "console").unlink(missing_ok=True)
    port = free_port() if job.net else None
    with (folder / "qemu.log").open("wb") as log:
        process = subprocess.Popen(
            [*words_of(folder, disks, job, initrd, port), *extra],
            stdin=subprocess.DEVNULL, stdout=log, stderr=log,
        )  # fmt: skip
    try:
        with Console(folder / "console") as console:
            guest = Guest(process, folder, console, port)
            wait_until(lambda: guest.qmp_path.exists() or not guest.alive, "QEMU is there", SECONDS_MAX)
            assert guest.alive, (folder / "qemu.log").read_text()
            yield guest
    finally:
        process.kill()
        process.wait()
        # pytest shows it where the test failed.
        print(f"--- console of {folder}\n{console_tail(folder)}\n{(folder / 'qemu.log').read_text()}")


def console_tail(folder: Path) -> str:
    """The end of a guest's console."""
    return Console(folder / "console").tail()


def free_port() -> int:
    """One at which nobody listens just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


# --- disks and initrds ----------------------------------------------------------------------------


def formatted(path: Path, size_bytes: int) -> Path:
    """A raw image with an empty ext4; without root. A file system that is there is made anew."""
    return _made(path, size_bytes)


def root_disk(
    path: Path,
    size_bytes: int = 20 << 30,
    touched: int = 16,
    touched_bytes: int = 1 << 20,
    other_bytes: int = 0,
) -> Path:
    """A sparse raw image from whose root file system a guest runs (`Job(root=True)`); without root.

    In /srv/touched are `touched` files of `touched_bytes` that the job `touch` reads; in /srv/other one of
    `other_bytes` that nobody does. All are random, and the same each time.
    """
    with tempfile.TemporaryDirectory(prefix="root-") as folder:
        root = Path(folder)
        for name in ("bin", "sbin", "proc", "sys", "dev", "tmp", "mnt", "log", "srv/touched", "srv/files"):
            (root / name).mkdir(parents=True)
        (root / "bin/busybox").write_bytes(BUSYBOX.read_bytes())
        (root / "bin/busybox").chmod(0o755)
        listed = subprocess.run([BUSYBOX, "--list"], capture_output=True, text=True, check=True).stdout
        for name in set(listed.split()) - {"busybox"}:
            (root / "bin" / name).symlink_to("busybox")
        init = root / "sbin/init"
        init.write_bytes(Path(__file__).with_name("tiny_guest").joinpath("init.sh").read_bytes())
        init.chmod(0o755)
        rng = random.Random(20)
        sums = []
        for number in range(touched):
            content = rng.randbytes(touched_bytes)
            (root / f"srv/touched/{number}").write_bytes(content)
            sums.append(f"{hashlib.sha256(content).hexdigest()}  {number}\n")
        (root / "srv/touched.sums").write_text("".join(sums))
        with (root / "srv/other").open("wb") as file:
            for at in range(0, other_bytes, 1 << 20):
                file.write(rng.randbytes(min(1 << 20, other_bytes - at)))
        return _made(
            path,
            size_bytes,
            "-d",
            str(root),
            "-N",
            "16384",
            "-J",
            "size=16",
            "-E",
            "root_owner=0:0,lazy_itable_init=0",
        )


def _made(path: Path, size_bytes: int, *options: str) -> Path:
    with path.open("wb") as file:
        file.truncate(size_bytes)
    subprocess.run(
        ["mke2fs", "-q", "-F", "-t", "ext4", "-b", "4096", *options, str(path)],
        check=True, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    return path


def initrd_expecting(path: Path, sums: Mapping[int, str], more: bytes = b"") -> Path:
    """An initrd whose guest, at the job `verify`, knows what SHA-256 the files by number must have.

    more: what it has besides, of `programs_archive`.
    """
    page = "".join(f"{one}  f{number}\n" for number, one in sums.items())
    files = {"expected": page.encode()}
    path.write_bytes(INITRD.read_bytes() + gzip.compress(archive((), files), mtime=0) + more)
    return path
