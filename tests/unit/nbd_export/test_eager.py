"""A coroutine that is begun outside a task and ended inside one."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from nbd_export.eager import rest_of
from tests.waiting import turn


def begin(coroutine: Coroutine[Any, Any, str]) -> asyncio.Task[str]:
    """Run up to the first suspension; the rest as a task."""
    rest = rest_of(coroutine, coroutine.send(None))

    async def awaiting() -> str:
        return await rest

    return asyncio.get_running_loop().create_task(awaiting())


async def waiting(future: asyncio.Future[str]) -> str:
    return await future + await future


async def stubborn(future: asyncio.Future[str]) -> str:
    """Hears of every failure, waits once more, and ends well."""
    try:
        return await future
    except (asyncio.CancelledError, OSError):
        await turn()
        return "mended"


def test_one_future_may_hold_many() -> None:
    async def main() -> list[str]:
        future: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        tasks = [begin(waiting(future)) for _ in range(3)]
        await turn()
        tasks.append(begin(waiting(future)))
        future.set_result("x")
        return await asyncio.gather(*tasks)

    assert asyncio.run(main()) == ["xx"] * 4


def test_a_future_done_before_the_task_runs_is_no_trouble() -> None:
    async def main() -> str:
        future: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        task = begin(waiting(future))
        future.set_result("y")
        return await task

    assert asyncio.run(main()) == "yy"


def test_a_bare_yield_waits_for_the_next_iteration() -> None:
    async def napping() -> str:
        await turn()
        await turn()
        return "rested"

    async def main() -> str:
        return await begin(napping())

    assert asyncio.run(main()) == "rested"


def test_a_failed_future_fails_the_coroutine() -> None:
    async def main() -> str:
        future: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        task = begin(waiting(future))
        future.set_exception(OSError("disk"))
        return await task

    with pytest.raises(OSError, match="disk"):
        asyncio.run(main())


def test_a_coroutine_may_mend_a_failure_and_wait_again() -> None:
    async def main() -> str:
        future: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        task = begin(stubborn(future))
        future.set_exception(OSError("disk"))
        return await task

    assert asyncio.run(main()) == "mended"


def test_a_cancelled_task_cancels_the_coroutine() -> None:
    async def main(kind: Callable[[asyncio.Future[str]], Coroutine[Any, Any, str]]) -> tuple[bool, str]:
        future: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        task = begin(kind(future))
        await turn()
        task.cancel()
        done, _ = await asyncio.wait([task])
        assert done == {task}
        return task.cancelled(), "" if task.cancelled() else task.result()

    assert asyncio.run(main(waiting)) == (True, "")
    assert asyncio.run(main(stubborn)) == (False, "mended")


def test_a_coroutine_may_end_on_cancellation_without_waiting_again() -> None:
    async def yielding(future: asyncio.Future[str]) -> str:
        try:
            return await future
        except asyncio.CancelledError:
            return "gave way"

    async def main() -> str:
        future: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        task = begin(yielding(future))
        await turn()
        task.cancel()
        return await task

    assert asyncio.run(main()) == "gave way"
