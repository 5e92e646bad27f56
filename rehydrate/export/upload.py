"""Sending the parts of an object that the store does not have yet, several at once, each noted once it has.

Where the bytes of parts come from is the `PartSource`'s: a file, or the container. What is done before and
after it does not belong here (delivery).
"""

from __future__ import annotations

import hashlib
import tempfile
import threading
from base64 import b64encode
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final, Protocol, cast

from s3transfer.utils import ReadFileChunk

from cdp_container.errors import TargetUnsuitable
from rehydrate.export.bucket import Bucket
from rehydrate.export.content import Bytes
from rehydrate.export.parts import Part, Sent
from rehydrate.export.workspace import Notes
from rehydrate.localio import os_errors

STEP_BYTES: Final = 4 << 20
"""Read and hashed at once."""
LOOK_SECONDS: Final = 0.2


@dataclass(frozen=True, slots=True)
class Body:
    """A part's bytes, to be read from the beginning again and again; their MD5 in base64, their SHA-256."""

    file: IO[bytes]
    md5: str
    sha256: str


class PartSource(Protocol):
    """Where the bytes of parts come from. Any thread may ask."""

    def body(self, part: Part) -> AbstractContextManager[Body]:
        """A part, for the time of the block."""
        ...


class FileParts:
    """Parts of a file that nobody changes."""

    def __init__(self, path: Path) -> None:
        self._path = path

    @contextmanager
    def body(self, part: Part) -> Iterator[Body]:
        """See `PartSource`. Raises TargetUnsuitable: the file has become shorter."""
        with os_errors(f"read {self._path}"):
            window = ReadFileChunk.from_filename(str(self._path), part.offset, part.length)
        with window:
            md5, sha256 = hashlib.md5(usedforsecurity=False), hashlib.sha256()
            count = 0
            while data := window.read(STEP_BYTES):
                count += len(data)
                md5.update(data)
                sha256.update(data)
            if count != part.length:
                raise TargetUnsuitable(f"read {self._path}", "it was changed while it was sent")
            window.seek(0)
            yield Body(cast("IO[bytes]", window), b64encode(md5.digest()).decode(), sha256.hexdigest())


class VolumeParts:
    """Parts of a volume, each read from the container into a file without a name while it is sent."""

    def __init__(self, source: Bytes, workspace: Path) -> None:
        self._source = source
        self._workspace = workspace

    @contextmanager
    def body(self, part: Part) -> Iterator[Body]:
        """See `PartSource`. Raises as `Bytes.read`; LocalDiskFull."""
        md5, sha256 = hashlib.md5(usedforsecurity=False), hashlib.sha256()
        with os_errors(f"write into {self._workspace}"):
            opened = tempfile.TemporaryFile(dir=self._workspace)  # noqa: SIM115 (closed below)
        with opened as file:
            end = part.offset + part.length
            for at in range(part.offset, end, STEP_BYTES):
                data = self._source.read(at, min(STEP_BYTES, end - at))
                md5.update(data)
                sha256.update(data)
                with os_errors(f"write into {self._workspace}"):
                    file.write(data)
            with os_errors(f"write into {self._workspace}"):
                file.flush()
            file.seek(0)
            yield Body(file, b64encode(md5.digest()).decode(), sha256.hexdigest())


def send_parts(
    bucket: Bucket,
    key: str,
    upload: str,
    parts: Sequence[Part],
    source: PartSource,
    notes: Notes,
    at_once: int,
    ended: threading.Event,
    report: Callable[[int], None],
    check: Callable[[], None],
) -> list[Sent]:
    """Send these parts; gives what was acknowledged, by their numbers.

    Args:
        bucket: where to.
        key: of the object there.
        upload: the id of its upload.
        parts: those that the store does not have.
        source: of their bytes.
        notes: gets each that the store has acknowledged.
        at_once: how many are sent at once.
        ended: is set when this ends early: then nothing more is begun.
        report: told of bytes that were acknowledged, from any thread.
        check: called all the time; what it raises ends this.

    Raises as `Bucket.put_part`, `PartSource.body` and `check`. What was sent till then is noted.
    """
    waiting = iter(parts)
    lock = threading.Lock()
    done: list[Sent] = []

    def work() -> None:
        while not ended.is_set():
            with lock:
                part = next(waiting, None)
            if part is None:
                return
            with source.body(part) as body:
                sent = Sent(part.number, bucket.put_part(key, upload, part, body.file, body.md5), body.sha256)
            notes.add(sent)
            with lock:
                done.append(sent)
            report(part.length)

    with ThreadPoolExecutor(at_once, thread_name_prefix="upload") as pool:
        futures = [pool.submit(work) for _ in range(min(at_once, len(parts)))]
        try:
            _wait_for(futures, check)
        except BaseException:
            ended.set()
            raise
    return sorted(done, key=lambda sent: sent.number)


def _wait_for(futures: Sequence[Future[None]], check: Callable[[], None]) -> None:
    """Until all are done. Raises what the first that failed raised."""
    left = set(futures)
    while left:
        ready, left = wait(left, LOOK_SECONDS, FIRST_EXCEPTION)
        for future in ready:
            future.result()
        check()
