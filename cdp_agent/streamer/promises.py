"""Markers and flushes from when they are asked for until they are answered.

What does not belong here: when a cut is protected (`steps`), and when that is recorded (the owner's machine).
"""

from __future__ import annotations

from collections.abc import Callable

from cdp_agent.streamer.engine_types import Answered
from cdp_container.format.place import Place


class Promises:
    """Who waits for an answer, by ticket, and what may be answered once it is recorded."""

    def __init__(self) -> None:
        self._when_fixed: dict[int, Callable[[], None]] = {}
        self._replies: dict[int, Callable[[Answered], None]] = {}
        self._places: dict[int, Place] = {}
        self._tickets = 0

    @property
    def count(self) -> int:
        """So many wait for an answer."""
        return len(self._replies)

    def take(self, reply: Callable[[Answered], None]) -> int:
        """The ticket of one who waits: `reply` is called once."""
        self._tickets += 1
        self._replies[self._tickets] = reply
        return self._tickets

    def when_fixed(self, ticket: int, call: Callable[[], None]) -> None:
        """Whom to tell when the instant of this one's marker is over."""
        self._when_fixed[ticket] = call

    def fixed(self, ticket: int) -> None:
        """It is over."""
        self._when_fixed.pop(ticket, _nobody)()

    def promise(self, ticket: int, place: Place) -> None:
        """Its cut is protected: it is answered by `keep`."""
        self._places[ticket] = place

    def refuse(self, ticket: int, why: str, hint: str = "") -> None:
        """It will never be."""
        self._when_fixed.pop(ticket, None)
        self._replies.pop(ticket)(Answered(None, why, hint))

    def keep(self, is_recorded: Callable[[Place], bool]) -> None:
        """Answer those whose cut is recorded."""
        for ticket, place in list(self._places.items()):
            if is_recorded(place):
                del self._places[ticket]
                self._when_fixed.pop(ticket, None)
                self._replies.pop(ticket)(Answered(place))

    def refuse_all(self, why: str) -> None:
        """None of them will ever be."""
        for reply in self._replies.values():
            reply(Answered(None, why))
        self._replies.clear()
        self._when_fixed.clear()
        self._places.clear()


def _nobody() -> None:
    """Nobody waits for it."""
