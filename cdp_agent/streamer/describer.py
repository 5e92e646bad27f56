"""The process that asks hypervisors, as the streamer runs it; and the note of what was protected.

It has DESCRIBE_SECONDS_MAX, and is killed then, with all that it started; so much as it told until then
counts. What its lines say does not belong here (`cdp_agent.vms.answer`).
"""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import orjson

from cdp_agent.streamer.engine_types import Round
from cdp_agent.streamer.vms import DIGEST_BYTES, Noted
from cdp_agent.vms.answer import Line, decode_line
from cdp_agent.vms.asking import DESCRIBE_SECONDS_MAX
from cdp_container.clock import Clock
from cdp_container.domain.durable import replace_file
from cdp_container.errors import CdpError
from cdp_container.format.layout import ID_BYTES

NOTE_NAME: Final = "vms.json"
NOTE_BYTES_MAX: Final = 1 << 20
OUTPUT_BYTES_MAX: Final = 64 << 20
"""Of one round: as many VMs as a domain may have, with documents of 256 KiB each."""
ERROR_BYTES_MAX: Final = 4 << 10
"""What is kept of what it says on its standard error; the end of that."""
REAP_SECONDS: Final = 1.0
"""After a kill. One that waits in the kernel is left to it."""


class Describer:
    """See `engine_types.VmSource`.

    Args:
        argv: of the process.
        directory: the journal directory.
        clock: tells when its time is up.
        seconds_max: its time.
    """

    def __init__(
        self,
        argv: Sequence[str],
        directory: Path,
        clock: Clock,
        seconds_max: float = DESCRIBE_SECONDS_MAX,
    ) -> None:
        self._argv = tuple(argv)
        self._note = directory / NOTE_NAME
        self._clock = clock
        self._seconds_max = seconds_max
        self._last: subprocess.Popen[bytes] | None = None

    def ask(self) -> Round:
        """See `VmSource.ask`."""
        if self._last is not None and self._last.poll() is None:
            return Round((), "the last round cannot be ended: it waits in the kernel")
        try:
            process = subprocess.Popen(
                self._argv,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                start_new_session=True,
            )
        except OSError as error:
            return Round((), f"no process can be started to ask: {error.strerror or error}")
        self._last = process
        try:
            output, errors, why = self._read(process)
        finally:
            _end(process)
        return _round(output, errors, why or _ended_by(process.returncode))

    def _read(self, process: subprocess.Popen[bytes]) -> tuple[bytes, bytes, str]:
        """What it wrote to both of its outputs, and why no more was read."""
        assert process.stdout is not None
        assert process.stderr is not None
        until_ns = self._clock.boottime_ns() + int(self._seconds_max * 1e9)
        kept = {process.stdout.fileno(): bytearray(), process.stderr.fileno(): bytearray()}
        output, errors = kept.values()
        with selectors.DefaultSelector() as selector:
            for fd in kept:
                os.set_blocking(fd, False)
                selector.register(fd, selectors.EVENT_READ)
            while selector.get_map():
                left_seconds = (until_ns - self._clock.boottime_ns()) / 1e9
                if left_seconds <= 0:
                    why = f"it was not answered within {self._seconds_max:g} s"
                    return bytes(output), bytes(errors), why
                for key, _ in selector.select(left_seconds):
                    part = os.read(key.fd, 65_536)
                    kept[key.fd] += part
                    if not part:
                        selector.unregister(key.fd)
                del errors[:-ERROR_BYTES_MAX]
                if len(output) > OUTPUT_BYTES_MAX:
                    return bytes(output), bytes(errors), "more was answered than may be (OUTPUT_BYTES_MAX)"
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(REAP_SECONDS)
        return bytes(output), bytes(errors), ""

    # --- the note ----------------------------------------------------------------------------------

    def load_noted(self) -> Noted:
        """See `VmSource.load_noted`. One that cannot be read is none: all is sent again."""
        try:
            with self._note.open("rb") as file:
                members = orjson.loads(file.read(NOTE_BYTES_MAX))
            digests = {bytes.fromhex(vm): bytes.fromhex(digest) for vm, digest in members["vms"].items()}
            if any(len(vm) != ID_BYTES or len(digest) != DIGEST_BYTES for vm, digest in digests.items()):
                return Noted()
            return Noted(int(members["epoch"]), digests)
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return Noted()

    def save_noted(self, noted: Noted) -> None:
        """See `VmSource.save_noted`. Raises CdpError."""
        digests = {vm.hex(): digest.hex() for vm, digest in sorted(noted.digests.items())}
        replace_file(self._note, orjson.dumps({"format": 1, "epoch": noted.epoch, "vms": digests}))


def _end(process: subprocess.Popen[bytes]) -> None:
    """Nothing of it is left, as far as the kernel lets go of it."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(REAP_SECONDS)
    for pipe in (process.stdout, process.stderr):
        if pipe is not None:
            pipe.close()


def _ended_by(code: int | None) -> str:
    if code in (0, None):
        return ""
    return f"the process that asks ended with {code}" if code > 0 else f"signal {-code} ended who asks"


def _round(output: bytes, errors: bytes, why: str) -> Round:
    """Whole lines count, whatever came of the rest."""
    lines: list[Line] = []
    for line in output.split(b"\n")[:-1]:
        try:
            lines.append(decode_line(line))
        except CdpError as error:
            why = why or str(error)
    if why and errors:
        last = errors.decode("utf-8", "replace").strip().splitlines()
        why += f": {last[0][:500]}" if last else ""
    return Round(tuple(lines), why)
