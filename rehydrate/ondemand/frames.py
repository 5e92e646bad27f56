"""Frames when they are asked for: fetched many at once, each once, verified, and kept within a limit.

Which frames a byte range needs does not belong here (reader).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final, TypeAlias

import numpy as np

from cdp_container.errors import CdpError, DamagedObject, Incomplete, MissingObject, NotFound
from cdp_container.extents.tables import PIECES, Table
from cdp_container.format.frames import FrameReader
from rehydrate.ondemand.kept import Kept
from rehydrate.plan import GAP_SHARE, fetches_of
from rehydrate.restore import Source

REQUESTS_AT_ONCE: Final = 32
"""Unless somebody says otherwise: enough to read on over a long way, and no burden on a store."""

CACHE_BYTES: Final = 256 << 20
"""Unless somebody says otherwise. Above it the kernel keeps what it was given, as long as memory is free."""

AHEAD_FRAMES_MAX: Final = 512
"""Frames that are on their way before anybody waits for them: 128 MiB at the most."""

TOLD_MAX: Final = 1000
"""Objects of which it is told that they cannot be read; of more nothing is said."""

FrameKey: TypeAlias = tuple[int, int]
"""The number of an object among `Contents.objects`, and of a frame in it."""

Told = Callable[[CdpError], None]
"""Told of what could not be read: once of each object, from any thread."""


class Frames:
    """Gives raw frames. Any thread may ask; several that ask for one frame have it fetched once.

    Args:
        source: the container; its pace is not used: what is asked for when is the reader's.
        cache_bytes: raw bytes that are kept, never more.
        at_once: requests that are in flight, at most.
        told: see `Told`.
    """

    def __init__(self, source: Source, cache_bytes: int, at_once: int, told: Told) -> None:
        self._source = source
        self._told = told
        self._said: set[str] = set()
        self._lock = threading.Lock()
        self._kept: Kept[FrameKey, bytes] = Kept(cache_bytes)
        self._coming: dict[FrameKey, Future[bytes]] = {}
        self._ahead = 0
        self._is_closed = False
        self._pool = ThreadPoolExecutor(max_workers=at_once, thread_name_prefix="demand")

    @property
    def kept_bytes(self) -> int:
        """Raw bytes that are kept now."""
        return self._kept.total_bytes

    @property
    def limit_bytes(self) -> int:
        """Raw bytes that may be kept."""
        return self._kept.limit_bytes

    def get(self, keys: Iterable[FrameKey]) -> dict[FrameKey, bytes]:
        """These frames, fetched where they are not kept.

        Raises:
            DamagedObject, MissingObject: one is not what was written, or gone.
            StoreUnavailable and its kin: the store did not answer, for as long as requests are repeated.
            Incomplete: this was closed.
        """
        found: dict[FrameKey, bytes] = {}
        waits: dict[FrameKey, Future[bytes]] = {}
        with self._lock:
            mine = self._begun(keys, found, waits)
        self._fetch(mine)
        for key, future in waits.items():
            found[key] = future.result()
        return found

    def ahead(self, keys: Iterable[FrameKey]) -> None:
        """Fetch what will be asked for soon, without waiting; nothing where much is on its way already."""
        wanted = list(keys)
        with self._lock:
            if self._is_closed or self._ahead + len(wanted) > AHEAD_FRAMES_MAX:
                return
            mine = self._begun(wanted, {}, {})
            self._ahead += len(mine)
            for key in mine:
                self._coming[key].add_done_callback(self._came)
        self._fetch(mine)

    def stop(self) -> None:
        """Nothing is fetched any more, and whoever waits is told so."""
        with self._lock:
            self._is_closed = True
            coming, self._coming = self._coming, {}
            self._kept.clear()
        for future in coming.values():
            _fail(future, _closed())
        self._pool.shutdown(wait=False, cancel_futures=True)

    def close(self) -> None:
        """The same, and requests in flight are waited for: nothing of the store is used after it."""
        self.stop()
        self._pool.shutdown(wait=True)

    # --- inside ----------------------------------------------------------------------------------

    def _begun(
        self,
        keys: Iterable[FrameKey],
        found: dict[FrameKey, bytes],
        waits: dict[FrameKey, Future[bytes]],
    ) -> list[FrameKey]:
        """Sort keys into what is kept and what is waited for; gives those that the caller has to fetch."""
        if self._is_closed:
            raise _closed()
        mine = []
        for key in keys:
            if key in found or key in waits:
                continue
            raw = self._kept.get(key)
            if raw is not None:
                found[key] = raw
                continue
            if key not in self._coming:
                self._coming[key] = Future()
                mine.append(key)
            waits[key] = self._coming[key]
        return mine

    def _came(self, _: Future[bytes]) -> None:
        self._ahead -= 1

    def _fetch(self, keys: Sequence[FrameKey]) -> None:
        """Begin the requests for frames, neighbours together."""
        if not keys:
            return
        wanted = np.zeros(len(keys), dtype=PIECES)
        wanted["object"], wanted["frame"] = zip(*sorted(keys), strict=True)
        for fetch in fetches_of(wanted, self._source.contents.objects, GAP_SHARE):
            frames = wanted["frame"][int(fetch["first_piece"]) : int(fetch["beyond_piece"])].tolist()
            try:
                self._pool.submit(self._answer, fetch, frames)
            except RuntimeError:  # it was closed meanwhile, and everybody was told
                return

    def _answer(self, fetch: Table, frames: Sequence[int]) -> None:
        """One request, after which nobody waits for its frames any more, whatever became of it."""
        try:
            self._answer_each(fetch, frames)
        except Exception as error:
            for frame in frames:
                with self._lock:
                    future = self._coming.pop((int(fetch["object"]), frame), None)
                    if future is not None:
                        _fail(future, error)
            raise

    def _answer_each(self, fetch: Table, frames: Sequence[int]) -> None:
        """Every frame is given to whoever waits for it, or why it cannot be."""
        number = int(fetch["object"])
        try:
            data = self._got(number, int(fetch["start"]), int(fetch["length"]))
        except CdpError as error:
            for frame in frames:
                self._failed((number, frame), error)
            return
        head = self._source.contents.objects[number]
        reader = FrameReader(head, self._source.keys)
        start = int(fetch["start"])
        for frame in frames:
            low, high = head.frame_range(frame)
            try:
                raw = reader.open(frame, data[low - start : high - start])
            except CdpError as error:
                self._failed((number, frame), error)
            else:
                self._arrived((number, frame), raw)

    def _got(self, number: int, start: int, length: int) -> memoryview:
        key = self._source.contents.objects[number].key
        try:
            data = self._source.store.get_range(key, start, length)
        except NotFound as error:
            raise MissingObject(key, "it was there when this point was opened, and is gone") from error
        if len(data) != length:
            raise DamagedObject(key, f"it ends {length - len(data)} bytes before its frames do")
        return memoryview(data)

    def _arrived(self, key: FrameKey, raw: bytes) -> None:
        with self._lock:
            if self._is_closed:
                return
            self._kept.put(key, raw, len(raw))
            self._said.discard("")
            self._coming.pop(key).set_result(raw)

    def _failed(self, key: FrameKey, error: CdpError) -> None:
        with self._lock:
            if self._is_closed:
                return
            future = self._coming.pop(key)
            is_object = isinstance(error, DamagedObject | MissingObject)
            # What ails the store ails every object: it is told once until the store answers again.
            subject = self._source.contents.objects[key[0]].key if is_object else ""
            is_new = subject not in self._said and len(self._said) < TOLD_MAX
            self._said.add(subject)
        if is_new:
            self._told(error)
        with self._lock:  # as all that counts what is ahead
            _fail(future, error)


def _closed() -> Incomplete:
    return Incomplete("read on demand", "it was ended meanwhile", "begin again")


def _fail(future: Future[bytes], error: Exception) -> None:
    if not future.done():
        future.set_exception(error)
