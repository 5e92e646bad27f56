"""Waiting returns what it waited for, and says what it waited for in vain."""

from __future__ import annotations

import asyncio

import pytest

from tests.waiting import until, wait_until


def test_waiting_returns_the_first_true_answer() -> None:
    answers = iter([0, None, "here", "later"])
    assert wait_until(lambda: next(answers), "an answer comes", deadline_seconds=30) == "here"


def test_waiting_in_vain_names_what_did_not_come() -> None:
    with pytest.raises(AssertionError, match="until the moon is blue"):
        wait_until(lambda: False, "the moon is blue", deadline_seconds=0)


def test_an_error_of_the_condition_ends_the_waiting() -> None:
    with pytest.raises(ZeroDivisionError):
        wait_until(lambda: 1 / 0, "this is well defined", deadline_seconds=30)


def test_a_condition_of_the_loop_is_waited_for_with_a_deadline() -> None:
    async def main() -> None:
        done = asyncio.get_running_loop().create_future()
        asyncio.get_running_loop().call_soon(done.set_result, None)
        await until(done.done, "it is done")
        with pytest.raises(AssertionError, match="in vain until it never is"):
            await until(lambda: False, "it never is", 0.0)

    asyncio.run(main())
