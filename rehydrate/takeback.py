"""Getting a domain back at a site that was overtaken: who may claim it when, and what is claimed.

The disks follow the other site's cuts while it still owns (failback). Only when they are its last one, and it
gave the domain up to this site (or an operator forces it), it is claimed. What disks and files are written
does not belong here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol

from cdp_container.clock import Clock
from cdp_container.domain.owner_runner import OwnerRunner, force_word, owner_line
from cdp_container.domain.owner_types import TakeOver
from cdp_container.errors import NoSuchPoint, OwnedElsewhere, StoreUnavailable, UsageError
from cdp_container.format.domain import Owner, OwnerState, parse_owner
from cdp_container.format.keys import OWNER_KEY
from cdp_container.format.place import Place
from cdp_container.store.api import Store
from rehydrate.failover import Asked
from rehydrate.plan import Choice

POLL_SECONDS: Final = 2.0
"""How often `domain/owner` is looked at while another site owns: so late a release may be seen."""


class Disks(Protocol):
    """What brings the disks to a cut; see `failback.Failback`."""

    newest: Place
    """The newest cut that the last pass saw, be it whole or not."""

    def pass_to(self, choice: Choice) -> Place:
        """Make the disks the chosen cut, durably; gives which one it is."""
        ...


@dataclass(frozen=True, slots=True)
class Taken:
    """What it came to: the epoch that was claimed, the cut that the disks are, and seconds without an owner.

    By the store's clock, from when the other site last said that it lives to when this one owned.
    """

    epoch: int
    place: Place
    without_owner_seconds: float


class TakeBack:
    """One run of the command, once everything was checked and locked.

    Args:
        disks: of this site.
        store: repeats requests where that is safe.
        domain: its id, 16 bytes.
        asked: by the operator.
        jump: see `TakeOver`: above 0 in a zone that is not the domain's home.
        known: the nonces that this site's notes know, read anew by each call.
        clock: of this machine.
        report: is given lines for people.
    """

    def __init__(
        self,
        disks: Disks,
        store: Store,
        domain: bytes,
        asked: Asked,
        jump: int,
        known: Callable[[], tuple[bytes, ...]],
        clock: Clock,
        report: Callable[[str], None],
    ) -> None:
        self._disks = disks
        self._store = store
        self._domain = domain
        self._asked = asked
        self._jump = jump
        self._known = known
        self._clock = clock
        self._report = report
        self._said = ""
        self._passed = ""

    def look(self) -> Owner:
        """`domain/owner` as it is now."""
        return parse_owner(self._store.get(OWNER_KEY).data, OWNER_KEY, self._domain)

    def check(self, began: bool) -> None:
        """Refuse what can be known before anything is touched; `began`: an earlier run was interrupted.

        Raises:
            UsageError: this site has the domain, and nothing is forced; or it is about to give it away.
            OwnedElsewhere: it is not as it was when `--force` was decided.
        """
        owner, forced = self.look(), self._asked.forced
        if owner.site == self._asked.site and not began:
            what = "there is nothing to fail back"
            if owner.state is OwnerState.RELEASED:
                hint = f"wait until site {owner.released_to!r} has it, or `cdp-agent release --cancel`"
                raise UsageError(
                    what, f"this site is about to give the domain away: {owner_line(owner)}", hint
                )
            if forced != (owner.epoch, owner.nonce):  # an old word, said again, would revert what came since
                raise UsageError(what, *self._why_not(owner))
        if forced is not None and forced != (owner.epoch, owner.nonce) and not self._is_ours(owner):
            raise OwnedElsewhere(
                "the takeover was refused",
                f"it changed since it was looked at; {owner_line(owner)}",
                f"look whether that site lives; if it may be left behind: --force {force_word(owner)}",
            )

    def _why_not(self, owner: Owner) -> tuple[str, str]:
        """Why a site that has the domain does not fail back unless it is forced, and what can be done."""
        force = f"--force {force_word(owner)} makes these disks the newest cut (what was not sent is lost)"
        if self._is_ours(owner):
            hint = f"`cdp-agent run` serves its volumes; where it refuses as they are of another cut, {force}"
            return f"this site owns the domain: {owner_line(owner)}", hint
        why = f"a run that this directory knows nothing of owns the domain: {owner_line(owner)}"
        hint = "was it brought back from a backup, reverted or cloned? Where nothing of that run lives, "
        return why, hint + force

    def once(self) -> Place:
        """One pass; nothing is claimed."""
        return self._pass(self.look())

    def follow(self) -> Place:
        """Bring the disks to each newer cut until this site may claim the domain; gives which they are."""
        owner = self.look()
        place = self._pass(owner)
        while not self._may_claim(owner):
            try:
                place, owner = self._step(place, owner)
            except (
                StoreUnavailable
            ) as error:  # this may go on for days, and what was begun can be gone on with
                self._say_once(str(error), f"still trying: {error}")
                self._clock.sleep(POLL_SECONDS)
        return self._pass(owner)

    def _step(self, place: Place, owner: Owner) -> tuple[Place, Owner]:
        """One look: what is newer is fetched, else it is waited a moment."""
        now = self.look()
        if now.protected > place or now.epoch_in_force != owner.epoch_in_force:
            before, place = place, self._pass(now)
            if place == before:  # what is newer is not whole, and may not be for hours
                self._clock.sleep(POLL_SECONDS)
        elif now.state is owner.state and now.released_to == owner.released_to:
            self._say_what_to_do(now)
            self._clock.sleep(POLL_SECONDS)
        return place, now

    def take(self, place: Place, runner: OwnerRunner) -> Taken:
        """Claim the domain and make sure that the disks are the cut that its epoch goes on from.

        Raises:
            NoSuchPoint: the other site's last cut is not whole, and nobody forces an older one.
            OwnedElsewhere, Fenced, MissingObject: see `OwnerRunner.take_over`.
        """
        owner = self.look()
        left_ns = 0 if self._is_ours(owner) else self._store.head(OWNER_KEY).modified_ns
        base = self._base(place, owner)
        activated = runner.take_over(
            TakeOver(self._asked.forced, self._jump, base, owner.ledger, self._asked.accept_loss)
        )
        owned_ns = self._store.head(OWNER_KEY).modified_ns
        record = activated.record
        if record.base != place:  # its owner had put more than we saw when we looked
            place = self._disks.pass_to(Choice(at=(record.base.epoch, record.base.cut)))
        assert place == record.base, (place, record.base)
        runner.prove()
        gap_seconds = max(0, owned_ns - left_ns) / 1e9 if left_ns else 0.0
        return Taken(record.epoch, place, gap_seconds)

    def _base(self, place: Place, owner: Owner) -> Place | None:
        """What to go on from where the newest cut is none that disks could be."""
        newest = self._disks.newest
        if place == newest:  # in another zone there may be more, behind a gap: force leaves that behind
            return place if self._jump and self._asked.forced is not None else None
        if self._asked.forced is not None:
            self._report(f"the newest cut {newest.epoch}.{newest.cut} is not whole: it is left behind")
            return place
        point = f"{place.epoch}.{place.cut}"
        force = f"--force {force_word(owner)} goes on from {point} and leaves it on a side branch"
        there = "`cdp-agent release --cancel` there, wait until all is whole, and release it again; or "
        raise NoSuchPoint(
            "take the domain back",
            f"its last cut {newest.epoch}.{newest.cut} is not whole; {owner_line(owner)}",
            force if self._is_ours(owner) else there + force,  # who was overtaken can finish nothing any more
        )

    def _say_what_to_do(self, owner: Owner) -> None:
        """Once for each state in which somebody else has to act."""
        line = owner_line(owner)
        if owner.state is OwnerState.ACTIVE:
            line += (
                f": for the last step run `cdp-agent release --to {self._asked.site}` there; this one waits"
            )
        line += f" (if that site is gone for good: --force {force_word(owner)})"
        self._say_once(f"{owner.epoch} {owner.state.value} {owner.released_to}", line)

    def _say_once(self, key: str, line: str) -> None:
        if key != self._said:
            self._said = key
            self._report(line)

    def _pass(self, owner: Owner) -> Place:
        place = self._disks.pass_to(Choice())
        line = f"the disks are the cut {place.epoch}.{place.cut}; {owner_line(owner)}"
        if line != self._passed:
            self._passed = line
            self._report(line)
        return place

    def _may_claim(self, owner: Owner) -> bool:
        given = owner.state is OwnerState.RELEASED and owner.released_to == self._asked.site
        # In another zone the release may be there before the last of what it released.
        given = given and self._disks.newest >= owner.protected
        return given or self._asked.forced is not None or self._is_ours(owner)

    def _is_ours(self, owner: Owner) -> bool:
        return owner.nonce in self._known()
