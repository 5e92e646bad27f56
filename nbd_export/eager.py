"""Running a coroutine up to its first suspension at once, and the rest of it in a task.

Most requests of an export end without suspending, or all wait for one future: they should not
cost a task before it is known that they need one. (`asyncio.eager_task_factory` does this from
Python 3.12 on.) Nothing of NBD belongs here.
"""

from __future__ import annotations

import asyncio
import types
from collections.abc import Awaitable, Coroutine, Generator
from typing import Any, TypeVar

T = TypeVar("T")


def rest_of(coroutine: Coroutine[Any, Any, T], waits_for: asyncio.Future[object] | None) -> Awaitable[T]:
    """What is left of `coroutine`, which was sent None once and then yielded `waits_for`.

    To be awaited by a task. Cancelling that task cancels `coroutine`.
    """
    _unmark(waits_for)
    return _rest_of(coroutine, waits_for)


def _unmark(future: asyncio.Future[object] | None) -> None:
    """Take back the mark that awaiting a future puts on it.

    It says "handed to a task", and the task takes it off on receipt. Here no task receives the
    future, and the mark would break the next coroutine that awaits it.
    """
    if future is not None:
        future._asyncio_future_blocking = False


@types.coroutine
def _rest_of(
    coroutine: Coroutine[Any, Any, T], waits_for: asyncio.Future[object] | None
) -> Generator[Any, Any, T]:
    while True:
        try:
            if waits_for is None:
                yield  # asyncio.sleep(0): the next iteration of the loop
            else:
                yield from waits_for
        except BaseException as error:  # noqa: BLE001 - the coroutine hears of it, and decides
            try:
                waits_for = coroutine.throw(error)
            except StopIteration as returned:
                result: T = returned.value
                return result
            _unmark(waits_for)
        else:
            return (yield from coroutine.__await__())
