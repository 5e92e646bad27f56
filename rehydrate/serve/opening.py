"""The container of an overlay that goes on, opened by a thread beside its exports, which serve what is here.

Who asks for what is not here waits until it is open, or until all is ended. What opening takes does not
belong here (cli), nor what is done with the container then (process).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Protocol

from cdp_container.errors import Incomplete
from rehydrate.serve.kept import KeptVolume
from rehydrate.serve.origin import Fetched, Source
from rehydrate.serve.process import Container

END_SECONDS: Final = 5.0
"""So long the end waits for a thread that still opens: nothing is lost with it, its hold has a term."""


class Held(Container, Protocol):
    """A container that gives what volumes held."""

    def origin(self, volume: KeptVolume) -> Source:
        """Where what is not here of a volume is."""
        ...


class Opening:
    """See `Held`; to be begun once, and ended with `end`.

    Args:
        work: runs in the thread: opens the container, hands it to `give`, and has it open until
            `wait_for_end` returns. What it raises before it gave anything, `opened` raises; after it, `end`.
    """

    def __init__(self, work: Callable[[Opening], None]) -> None:
        self._work = work
        self._changed = threading.Condition()
        self._given: Held | None = None
        self._failure: BaseException | None = None
        self._is_stopped = self._is_ended = False
        self._thread = threading.Thread(target=self._run, name="opening", daemon=True)

    def begin(self) -> None:
        """Let the thread work."""
        self._thread.start()

    def end(self) -> None:
        """Nobody needs it any more; waits for the thread, END_SECONDS at the most."""
        self.stop()
        with self._changed:
            self._is_ended = True
            self._changed.notify_all()
        self._thread.join(END_SECONDS)
        if self._failure is not None:
            raise self._failure

    # --- for the thread --------------------------------------------------------------------------

    def give(self, held: Held) -> None:
        """It is open."""
        with self._changed:
            self._given = held
            self._changed.notify_all()

    def wait_for_end(self, seconds: float | None = None) -> bool:
        """Whether it is ended, which it is once nobody asks any more; at the latest after so many seconds."""
        with self._changed:
            return self._changed.wait_for(lambda: self._is_ended, seconds)

    @property
    def given(self) -> Held | None:
        """What was opened; None before that."""
        return self._given

    # --- `Held` ----------------------------------------------------------------------------------

    def opened(self) -> None:
        """See `Container.opened`."""
        with self._changed:
            self._changed.wait_for(self._is_decided)
        if self._given is None and self._failure is not None:
            raise self._failure

    def facts(self) -> Mapping[str, Any]:
        """See `Container.facts`."""
        return {"opened": False} if self._given is None else self._given.facts()

    def look(self) -> None:
        """See `Container.look`."""
        if self._given is not None:
            self._given.look()

    def let_go(self) -> None:
        """See `Container.let_go`."""
        self.wait().let_go()

    def stop(self) -> None:
        """See `Container.stop`."""
        with self._changed:
            self._is_stopped = True
            self._changed.notify_all()
        if self._given is not None:
            self._given.stop()

    def origin(self, volume: KeptVolume) -> Source:
        """See `Held.origin`."""
        return _LateSource(self, volume)

    def wait(self) -> Held:
        """What was opened, as soon as it is. Raises Incomplete: it is ended before."""
        with self._changed:
            self._changed.wait_for(self._is_decided)
        if self._given is None:
            raise Incomplete("wait for the container", "it was ended before it was open", "begin again")
        return self._given

    def _is_decided(self) -> bool:
        return self._given is not None or self._failure is not None or self._is_stopped

    def _run(self) -> None:
        try:
            self._work(self)
        except BaseException as error:  # noqa: BLE001 - raised where it is heard: by `opened`, or `end`
            with self._changed:
                self._failure = error
                self._changed.notify_all()


class _LateSource:
    """See `Source`; each fetch waits."""

    def __init__(self, opening: Opening, volume: KeptVolume) -> None:
        self._opening = opening
        self._volume = volume

    def fetch(self, start: int, end: int) -> Fetched:
        """See `Source.fetch`."""
        return self._opening.wait().origin(self._volume).fetch(start, end)

    def data(self, start: int, end: int) -> Sequence[tuple[int, int]] | None:
        """See `Source.data`."""
        given = self._opening.given
        return None if given is None else given.origin(self._volume).data(start, end)
