"""Streaming everything in that nobody asked for: near what guests touched first, then the rest, in its order.

Guests go first: while one of them waits for the store no new step is begun, but one from time to time. How a
range is fetched and kept does not belong here (image).
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from typing import Final

from nbd_export.errors import BackendError
from rehydrate.serve.image import TOUCH_BYTES, Image

STEP_BYTES: Final = 4 << 20
"""Fetched as one; a multiple of TOUCH_BYTES."""

STEPS_AT_ONCE: Final = 8
"""Steps on their way: 32 MiB."""

GIVE_WAY_SECONDS: Final = 0.5
"""A step is put off so long at the most while guests wait: one who reads all the time does not end it."""

LOOK_SECONDS: Final = 0.01
"""Between two looks at whether guests wait."""


class Filling:
    """One pass over what is missing; `run` it once.

    Args:
        images: all volumes.
        bytes_per_second: of content, at the most; None: as fast as it goes.
    """

    def __init__(self, images: Sequence[Image], bytes_per_second: int | None = None) -> None:
        self._images = images
        self._bytes_per_second = bytes_per_second
        self._at_once = STEPS_AT_ONCE if bytes_per_second is None else 1  # what a step takes, it tells after
        self._ready_seconds = 0.0
        self._looked: list[int] = [0] * len(images)
        self._failure: OSError | None = None

    async def run(self) -> bool:
        """Returns once everything was tried: whether all is here. Raises OSError: the overlay failed."""
        running: set[asyncio.Task[None]] = set()
        try:
            for image, start, end in self._steps():
                if len(running) >= self._at_once:
                    done, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
                    for task in done:
                        task.result()
                await self._give_way()
                if self._failure is not None:
                    break
                running.add(asyncio.create_task(self._step(image, start, end)))
            await asyncio.gather(*running)
        except asyncio.CancelledError:
            for task in running:
                task.cancel()
            if running:
                await asyncio.wait(running)
            raise
        if self._failure is not None:
            raise self._failure
        return all(image.overlay.is_whole for image in self._images)

    def _steps(self) -> Iterator[tuple[Image, int, int]]:
        """Looked at anew before each step: guests go on touching."""
        for image in self._images:
            for start in range(0, image.size_bytes, STEP_BYTES):
                yield from self._touched_steps()
                end = min(start + STEP_BYTES, image.size_bytes)
                if not image.overlay.has(start, end - start):
                    yield image, start, end

    def _touched_steps(self) -> Iterator[tuple[Image, int, int]]:
        for number, image in enumerate(self._images):
            while self._looked[number] < len(image.touched_order):
                start = image.touched_order[self._looked[number]] * TOUCH_BYTES
                self._looked[number] += 1
                end = min(start + TOUCH_BYTES, image.size_bytes)
                if not image.overlay.has(start, end - start):
                    yield image, start, end

    async def _give_way(self) -> None:
        loop = asyncio.get_running_loop()
        until = loop.time() + GIVE_WAY_SECONDS
        while loop.time() < self._ready_seconds or (
            loop.time() < until and any(image.waiting for image in self._images)
        ):
            await asyncio.sleep(LOOK_SECONDS)

    async def _step(self, image: Image, start: int, end: int) -> None:
        try:
            fetched_bytes = await image.fill(start, end)
        except BackendError:
            return  # the image noted what is damaged, or it is ended
        except OSError as error:
            self._failure = error
        else:
            if self._bytes_per_second is not None:
                now = asyncio.get_running_loop().time()
                seconds = fetched_bytes / self._bytes_per_second
                self._ready_seconds = max(self._ready_seconds, now) + seconds
