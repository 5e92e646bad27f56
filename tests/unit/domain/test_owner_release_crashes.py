"""A crash before and after every effect of a release: no site writes to a domain that it gave up."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import pytest

from cdp_container.domain import owner
from cdp_container.domain.owner_types import (
    Claim,
    Claimant,
    CountEpochs,
    Effect,
    EndFound,
    EpochsCounted,
    EpochWritten,
    Event,
    Failure,
    FindEnd,
    Moment,
    NoteFenced,
    NoteNonces,
    NoteReleased,
    NoteReleasing,
    OwnerFailed,
    OwnerRead,
    Phase,
    ReadOwner,
    Release,
    RunState,
    SwapOwner,
    Swapped,
    Tick,
    WriteEpoch,
)
from cdp_container.format.domain import Owner, OwnerState
from tests.unit.domain.owner_play import DOMAIN, END, LEASE_SECONDS, NOTED, SECOND, foreign, shown

STEPS_MAX = 60
EFFECTS_MAX = 20
"""More than there are from the release to its end: so many crashes are tried."""


class Crashed(Exception):
    """The process is gone."""


@dataclass
class Host:
    """A site's notes, and the container; effects are carried out one by one until `crash_at`."""

    late_note: bool = False
    store: Owner = field(default_factory=shown)
    nonces: tuple[bytes, ...] = (NOTED,)
    releasing_to: str = ""
    released_to: str = ""
    fenced: bool = False
    moments: int = 0
    now_ns: int = 1000 * SECOND
    done: int = 0
    crash_at: int | None = None
    claims: int = 0

    @property
    def serves(self) -> bool:
        """Whether guests may write after a restart: by the notes alone, as no store is asked."""
        return not (self.releasing_to or self.released_to or self.fenced)

    def begin(self) -> RunState:
        claimant = Claimant(DOMAIN, "site-a", b"i" * 16, LEASE_SECONDS, "root", "run", "tests")
        released = bool(self.released_to)
        return owner.begin(claimant, self.nonces, self.fenced, released, self.releasing_to)

    def play(self, state: RunState, *events: Event, until: Phase) -> RunState:
        """Until the phase is reached."""
        queue = list(events)
        for _ in range(STEPS_MAX):
            if state.phase is until:
                return state
            self.moments += 1
            self.now_ns += SECOND
            moment = Moment(self.now_ns, 7, self.moments.to_bytes(16, "big"))
            state, effects = owner.step(state, queue.pop(0) if queue else Tick(), moment)
            for effect in self._in_order(effects):
                queue += self._carry_out(effect)
        raise AssertionError(f"{until} was not reached but {state.phase}")

    def _in_order(self, effects: tuple[Effect, ...]) -> tuple[Effect, ...]:
        """The negative control notes last what is to be noted first."""
        if not self.late_note:
            return effects
        late = tuple(effect for effect in effects if isinstance(effect, NoteReleasing))
        return (*(effect for effect in effects if effect not in late), *late)

    def _carry_out(self, effect: Effect) -> Iterator[Event]:
        self._crash()
        match effect:
            case NoteNonces(nonces):
                self.nonces = nonces
            case NoteReleasing(site):
                self.releasing_to = site
            case NoteReleased(site):
                self.releasing_to, self.released_to = "", site
            case NoteFenced():
                self.fenced = True
            case ReadOwner():
                yield OwnerRead(self.store, str(self.store.version))
            case SwapOwner(wanted, tag):
                if tag == str(self.store.version):
                    self.claims += wanted.state is OwnerState.CLAIMING
                    self.store = wanted
                    self._crash()  # it landed, and nobody heard of it
                    yield Swapped(str(wanted.version))
                else:
                    yield OwnerFailed(Failure.PRECONDITION, "412")
            case FindEnd():
                yield EndFound(END)
            case WriteEpoch():
                yield EpochWritten()
            case CountEpochs():
                yield EpochsCounted(0)

    def _crash(self) -> None:
        if self.crash_at == self.done:
            raise Crashed
        self.done += self.crash_at is not None


def crashed_while_releasing(late_note: bool, crash_at: int) -> Host | None:
    """A host that died at this point of its release; None where it was done before."""
    host = Host(late_note)
    state = host.play(host.begin(), Claim(), until=Phase.ACTIVE)
    host.crash_at = crash_at
    try:
        host.play(state, Release("site-b"), until=Phase.RELEASED)
    except Crashed:
        host.crash_at = None
        return host
    return None


def crashes(late_note: bool = False) -> list[Host]:
    found = [crashed_while_releasing(late_note, crash_at) for crash_at in range(EFFECTS_MAX)]
    assert found[-1] is None, "more effects than are tried"
    return [host for host in found if host is not None]


def violations(host: Host, taken: bool) -> list[str]:
    """What goes wrong after this crash; `taken`: another site claims it before the restart, if it can."""
    landed = host.store.state is OwnerState.RELEASED
    found = ["guests write to a domain that was given up"] if landed and host.serves else []
    if landed and taken:
        host.store = foreign(
            version=host.store.version + 1, epoch=host.store.epoch + 1, previous=host.store.epoch
        )
    before = host.claims
    if landed:
        try:
            host.play(host.begin(), Claim(), until=Phase.RELEASED)
        except AssertionError as error:
            found.append(str(error))
        if host.claims != before or not host.released_to or host.fenced:
            found.append("the domain was claimed back, or is not known to be released")
    else:
        state = host.play(host.begin(), Claim(), until=Phase.ACTIVE)
        host.play(state, Release("site-b"), until=Phase.RELEASED)
        if (host.store.state, host.released_to) != (OwnerState.RELEASED, "site-b"):
            found.append("it does not go on")
    return found


@pytest.mark.parametrize("taken", [False, True])
def test_no_crash_amid_a_release_lets_a_site_write_what_it_gave_up(taken: bool) -> None:
    hosts = crashes()
    assert any(host.store.state is OwnerState.RELEASED for host in hosts), "one after it landed"
    assert any(host.store.state is OwnerState.ACTIVE for host in hosts), "and one before"
    assert [violations(host, taken) for host in hosts] == [[]] * len(hosts)


@pytest.mark.parametrize("taken", [False, True])
def test_a_release_that_is_noted_only_after_the_swap_is_caught(taken: bool) -> None:
    """Negative control."""
    found = [why for host in crashes(late_note=True) for why in violations(host, taken)]
    assert "guests write to a domain that was given up" in found


def test_without_the_note_a_release_that_was_taken_is_not_known() -> None:
    """Negative control: whoever takes it makes our nonces worthless."""
    host = next(host for host in crashes() if host.store.state is OwnerState.RELEASED)
    assert violations(replace(host, releasing_to=""), taken=True)
