"""Volumes that something fills from outside (`cdp-agent adopt`): what is asked for, and noted.

Over control.sock:

    {"command": "filling", "vm": "shop-db", "volumes": ["db-root"]}   before the first byte
    {"command": "filled", "volumes": ["db-root"]}                     the volume is what it is meant to be

Answered when it is noted durably: `{"ok": true, "changed": ["db-root"]}`, the volumes of which it was not
known before. What cuts make of it does not belong here (`step_events`, docs/decisions/0028).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any, Final, Protocol

from cdp_agent.streamer import step_types as st
from cdp_agent.streamer.engine_types import Answered
from cdp_agent.streamer.fill_step_types import FillingLooked, Lacking, is_whole, lacking_at, marked
from cdp_agent.streamer.filling_words import FILLING_COMMAND
from cdp_agent.streamer.noted import Noted
from cdp_agent.streamer.step_events import FILLED
from cdp_container.clock import Clock
from cdp_container.domain.identity import AgentIdentity
from cdp_container.domain.notes import Filling, Notes
from cdp_container.domain.owner_types import End
from cdp_container.journal.shared import SplitterPage

Answer = dict[str, Any]
HINT: Final = (
    "wait until its `cdp-agent adopt` is over, or run that again; `cdp-agent adopt VM --accept VOLUME` takes "
    "a volume as it is"
)


class Machines(Protocol):
    """The engine, as this sees it."""

    @property
    def stream(self) -> st.StreamState:
        """The stream's machine."""
        ...

    def tell(self, event: st.Event) -> None:
        """An event for it."""
        ...

    def look_again(self) -> None:
        """Tell it the tail as it is published now, and what is noted (`FillingNotes.look`)."""
        ...


class FillingNotes:
    """See the module."""

    def __init__(self, identity: AgentIdentity, noted: Noted, clock: Clock, machines: Machines) -> None:
        self._identity = identity
        self._noted = noted
        self._clock = clock
        self._machines = machines
        self._is_known = False  # whether what came lies below the tail that was told last

    @property
    def lacking(self) -> tuple[bytes, ...]:
        """The spaces that a cut now would list for it."""
        stream, sources = self._machines.stream, self._identity.active
        return tuple(sources[index].space for index in lacking_at(stream.filling, stream.tail))

    @property
    def refusal(self) -> Answered | None:
        """Why no marker can be taken now."""
        return Answered(None, FILLED, HINT) if self.lacking else None

    @property
    def spaces(self) -> frozenset[bytes]:
        """Of the volumes that are filled, or were and are in no whole cut yet."""
        return frozenset(one.space for one in self._noted.notes.filling)

    def ask(self, request: dict[str, Any]) -> Answer:
        """Note what a request says. From the answer on no cut calls a volume whole that is filled."""
        before = self._noted.notes
        notes, answer = noted_anew(request, before, self._identity, self._clock.wall_ns())
        if notes != before and not self._noted.save(notes):
            return _refused(f"it cannot be noted: {self._noted.shown.last_error}", again=True)
        # What came until now may lie beyond the tail that was told last, and is no part of a cut there.
        self._machines.look_again()
        return answer

    def look(self, page: SplitterPage | None) -> None:
        """Tell the stream's machine, where there is something to tell; of `page` it knows the tail."""
        # Amid an overflow what came may have gone past the journal: no tail is behind it.
        self._is_known = page is not None and not page.overflowed
        self._tell()

    def _tell(self) -> None:
        if self._noted.notes.filling or self._machines.stream.filling:
            self._machines.tell(self._looked())

    def began(self, end: End, page: SplitterPage) -> tuple[tuple[Lacking, ...], tuple[int, ...]]:
        """What an epoch begins with: which sources are filled, and which of them its base cut lists.

        `page`: that of the last look.
        """
        filling = marked((), self._looked(), page.tail)
        listed = end.preamble.not_whole if end.preamble is not None else ()
        noted = {*listed} & self.spaces
        return filling, tuple(i for i, one in self._identity.active.items() if one.space in noted)

    def protected(self, effect: st.Protected) -> None:
        """What ended and is whole in a protected cut need not be known any more."""
        active = self._identity.active
        whole = {
            active[one.source].space
            for one in self._machines.stream.filling
            if one.source not in effect.filled and is_whole(one, effect.position)
        }
        notes = self._noted.notes
        left = tuple(one for one in notes.filling if not (one.ended and one.space in whole))
        if left != notes.filling and self._noted.save(replace(notes, filling=left)):
            self._tell()

    def _looked(self) -> FillingLooked:
        ended = {one.space: one.ended and self._is_known for one in self._noted.notes.filling}
        sources = [(index, ended[s.space]) for index, s in self._identity.active.items() if s.space in ended]
        return FillingLooked(
            tuple(index for index, is_over in sources if not is_over),
            tuple(index for index, is_over in sources if is_over),
        )


def noted_anew(
    request: dict[str, Any], notes: Notes, identity: AgentIdentity, now_ns: int
) -> tuple[Notes, Answer]:
    """The notes after a request, and what it is answered once they are durable. PURE."""
    active = {source.name: source.space for source in identity.active.values()}
    names = request.get("volumes")
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        return notes, _refused("the request is not understood")
    if unknown := [name for name in names if name not in active]:
        return notes, _refused(f"there is no volume {', '.join(unknown)[:200]}")
    begins = request.get("command") == FILLING_COMMAND
    if begins and (notes.fenced or notes.releasing_to or notes.released_to):
        return notes, _refused("the domain is another site's, or about to be")
    # What is said of volumes that are none any more is forgotten: there is at most one note for each.
    known = {one.space: one for one in notes.filling if one.space in active.values()}
    vm = str(request.get("vm", ""))[:200]
    changed = []
    for name in names:
        space, before = active[name], known.get(active[name])
        if begins and (before is None or before.ended):
            known[space] = Filling(space, vm, now_ns)
            changed.append(name)
        elif not begins and before is not None and not before.ended:
            known[space] = replace(before, ended=True)
            changed.append(name)
    return replace(notes, filling=tuple(known.values())), {"ok": True, "changed": changed}


def in_order(spaces: Iterable[bytes], identity: AgentIdentity) -> tuple[bytes, ...]:
    """Spaces of volumes in the order of agent.json, each once."""
    wanted = {*spaces}
    return tuple(one.space for one in identity.active.values() if one.space in wanted)


def _refused(why: str, again: bool = False) -> Answer:
    return {"ok": False, "error": why, "again": again}
